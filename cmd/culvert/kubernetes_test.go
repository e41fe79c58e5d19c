package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"

	"culvert.example/vpn/gateway/gatewaytest"
)

const sidecarFile = "../../deploy/kubernetes/sidecar.yaml"

// A node is a part of a YAML document: a mapping, a list or a value.
type node struct{ v any }

// at follows keys into mappings. What is not there is a node of nil.
func (n node) at(keys ...string) node {
	for _, k := range keys {
		m, _ := n.v.(map[string]any)
		n = node{m[k]}
	}
	return n
}

func (n node) list() (list []node) {
	items, _ := n.v.([]any)
	for _, v := range items {
		list = append(list, node{v})
	}
	return list
}

func (n node) text() string {
	s, _ := n.v.(string)
	return s
}

func (n node) texts() (list []string) {
	for _, e := range n.list() {
		list = append(list, fmt.Sprint(e.v))
	}
	return list
}

// documents parses a file of YAML documents.
func documents(text string) (list []node, err error) {
	d := yaml.NewDecoder(strings.NewReader(text))
	for {
		var v any
		switch err := d.Decode(&v); {
		case errors.Is(err, io.EOF):
			return list, nil
		case err != nil:
			return nil, err
		}
		list = append(list, node{v})
	}
}

// podOf returns the specification of the pod in the documents.
func podOf(list []node) (pod node, err error) {
	for _, n := range list {
		if n.at("kind").text() == "Deployment" {
			return n.at("spec", "template", "spec"), nil
		}
	}
	return pod, errors.New("there is no Deployment")
}

// restrictedVolumes are the kinds of volumes that the restricted profile knows.
var restrictedVolumes = []string{"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"}

// restricted returns how a pod breaks the restricted profile of the Pod Security Standards of Kubernetes, and that its file systems
// can be written.
func restricted(pod node) (faults []string) {
	fault := func(format string, args ...any) { faults = append(faults, fmt.Sprintf(format, args...)) }
	for _, k := range []string{"hostNetwork", "hostPID", "hostIPC"} {
		if v := pod.at(k).v; v != nil && v != false {
			fault("%s", k)
		}
	}
	common := pod.at("securityContext")
	if common.at("sysctls").v != nil {
		fault("sysctls")
	}
	for _, v := range pod.at("volumes").list() {
		m, _ := v.v.(map[string]any)
		for kind := range m {
			if kind != "name" && !slices.Contains(restrictedVolumes, kind) {
				fault("volume %s is a %s", v.at("name").text(), kind)
			}
		}
	}
	containers := append(pod.at("initContainers").list(), pod.at("containers").list()...)
	if len(containers) < 2 || len(pod.at("containers").list()) == 0 {
		fault("%d containers", len(containers))
	}
	if len(pod.at("ephemeralContainers").list()) > 0 {
		fault("ephemeral containers")
	}
	for _, c := range containers {
		name, own := c.at("name").text(), c.at("securityContext")
		// either is what holds: the container's own, or else that of the pod.
		either := func(keys ...string) any {
			if v := own.at(keys...).v; v != nil {
				return v
			}
			return common.at(keys...).v
		}
		if own.at("privileged").v == true {
			fault("%s: privileged", name)
		}
		if own.at("allowPrivilegeEscalation").v != false {
			fault("%s: allowPrivilegeEscalation", name)
		}
		if either("runAsNonRoot") != true {
			fault("%s: runAsNonRoot", name)
		}
		if u := either("runAsUser"); u == 0 || u == nil {
			fault("%s: runAsUser", name)
		}
		if p := either("seccompProfile", "type"); p != "RuntimeDefault" && p != "Localhost" {
			fault("%s: seccompProfile", name)
		}
		if !slices.Equal(own.at("capabilities", "drop").texts(), []string{"ALL"}) {
			fault("%s: capabilities are not dropped", name)
		}
		for _, a := range own.at("capabilities", "add").texts() {
			if a != "NET_BIND_SERVICE" {
				fault("%s: capability %s", name, a)
			}
		}
		if v := own.at("procMount").v; v != nil && v != "Default" {
			fault("%s: procMount", name)
		}
		if either("seLinuxOptions") != nil || either("windowsOptions", "hostProcess") != nil || either("appArmorProfile") != nil {
			fault("%s: options of other security modules", name)
		}
		if own.at("readOnlyRootFilesystem").v != true {
			fault("%s: readOnlyRootFilesystem", name)
		}
		for _, p := range c.at("ports").list() {
			if p.at("hostPort").v != nil {
				fault("%s: hostPort", name)
			}
		}
	}
	return faults
}

func readSidecar(t *testing.T) (text string, pod, culvert node) {
	t.Helper()
	b, err := os.ReadFile(sidecarFile)
	if err != nil {
		t.Fatal(err)
	}
	list, err := documents(string(b))
	if err != nil {
		t.Fatal(err)
	}
	if pod, err = podOf(list); err != nil {
		t.Fatal(err)
	}
	if len(list) != 3 || list[0].at("metadata", "labels", "pod-security.kubernetes.io/enforce").text() != "restricted" {
		t.Errorf("%d documents, of which the first is no namespace with the restricted profile", len(list))
	}
	for _, c := range pod.at("initContainers").list() {
		if c.at("name").text() == "culvert" {
			culvert = c
		}
	}
	if culvert.v == nil {
		t.Fatal("there is no container culvert")
	}
	return string(b), pod, culvert
}

// TestKubernetesRestricted holds the manifest to the restricted profile, and the check to its rules: each of the changes is found.
func TestKubernetesRestricted(t *testing.T) {
	text, pod, _ := readSidecar(t)
	if faults := restricted(pod); len(faults) > 0 {
		t.Errorf("faults: %q", faults)
	}
	const drop, memory = "capabilities:\n              drop: [ALL]", "emptyDir:\n            medium: Memory\n            sizeLimit: 1Mi"
	for _, change := range [][2]string{
		{"runAsNonRoot: true", "runAsNonRoot: false"}, {"runAsUser: 65532", "runAsUser: 0"}, {"type: RuntimeDefault", "type: Unconfined"},
		{"allowPrivilegeEscalation: false", "allowPrivilegeEscalation: true"}, {"drop: [ALL]", "drop: [NET_RAW]"},
		{drop, "capabilities: {drop: [ALL], add: [NET_ADMIN]}"}, {drop, "privileged: true"}, {drop, drop + "\n            procMount: Unmasked"},
		{"readOnlyRootFilesystem: true", "readOnlyRootFilesystem: false"}, {"automountServiceAccountToken: false", "hostNetwork: true"},
		{memory, "hostPath: {path: /run}"}, {"env:", "ports: [{containerPort: 1, hostPort: 1}]\n          env:"},
	} {
		changed := strings.Replace(text, change[0], change[1], 1)
		if changed == text {
			t.Errorf("%q is not in the manifest", change[0])
			continue
		}
		list, err := documents(changed)
		if err != nil {
			t.Errorf("%q: %v", change[1], err)
			continue
		}
		pod, err := podOf(list)
		if err != nil {
			t.Error(err)
		}
		if len(restricted(pod)) == 0 {
			t.Errorf("nothing is wrong with %q", change[1])
		}
	}
}

// TestKubernetesFlags has the command take the flags of the manifest.
func TestKubernetesFlags(t *testing.T) {
	_, pod, culvert := readSidecar(t)
	args := culvert.at("args").texts()
	a := &app{getenv: func(string) string { return "" }}
	cmd, rest, err := a.command().Find(args)
	if err != nil || cmd.Name() != "proxy" {
		t.Fatalf("%v: %v", args, err)
	}
	if err := cmd.ParseFlags(rest); err != nil {
		t.Errorf("%v: %v", args, err)
	}
	if err := cmd.ValidateArgs(cmd.Flags().Args()); err != nil {
		t.Errorf("%v: %v", args, err)
	}
	// The flag of the process number, the probes and the volume speak of the same file.
	pid := cmd.Flag("pid-file").Value.String()
	for _, probe := range []string{"startupProbe", "readinessProbe"} {
		if got := culvert.at(probe, "exec", "command").texts(); !slices.Equal(got, []string{"test", "-s", pid}) {
			t.Errorf("%s: %q", probe, got)
		}
	}
	mounts := map[string]string{}
	for _, m := range culvert.at("volumeMounts").list() {
		mounts[m.at("mountPath").text()] = m.at("name").text()
	}
	volumes := map[string]node{}
	for _, v := range pod.at("volumes").list() {
		volumes[v.at("name").text()] = v
	}
	if v := volumes[mounts[path.Dir(pid)]]; v.at("emptyDir").v == nil {
		t.Errorf("%s is not in a volume that can be written", pid)
	}
	_, file, _ := strings.Cut(culvert.at("command").texts()[2], "< ")
	if v := volumes[mounts[path.Dir(file)]]; v.at("secret", "secretName").text() != "culvert" {
		t.Errorf("the password %s is not in a volume of the secret", file)
	}
	listen := cmd.Flag("listen").Value.String()
	for _, c := range pod.at("containers").list() {
		for _, e := range c.at("env").list() {
			if v := e.at("value").text(); strings.Contains(v, "://") && !strings.Contains(listen, v[strings.Index(v, "://")+3:]) {
				t.Errorf("%s is %s, but the proxy listens on %s", e.at("name").text(), v, listen)
			}
		}
	}
}

// TestKubernetesRuns runs the container's command with paths and a gateway of the test, until its probe succeeds.
func TestKubernetesRuns(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("there is no /bin/sh")
	}
	_, _, culvert := readSidecar(t)
	gw := gatewaytest.New(t)
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "password"), []byte(gatewaytest.Password+"\n"), 0o400); err != nil {
		t.Fatal(err)
	}
	r := strings.NewReplacer(
		"/ko-app/culvert", self(t), "/run/secrets/culvert", dir, "/run/culvert", dir, "--user=alice", "--user="+gatewaytest.User,
		"vpn.example.com", gw.URL, "127.0.0.1:1080", "127.0.0.1:0", "--non-inter", "--non-inter --servercert="+gw.Pin,
	)
	var line []string
	for _, s := range append(culvert.at("command").texts(), culvert.at("args").texts()...) {
		if s = r.Replace(s); strings.HasPrefix(s, "--non-inter ") {
			line = append(line, strings.Fields(s)...)
			continue
		}
		line = append(line, s)
	}
	startProcess(t, "not the password\n", exec.Command(line[0], line[1:]...))
	probe := culvert.at("readinessProbe", "exec", "command").texts()
	for deadline := time.Now().Add(15 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		err := exec.Command(probe[0], r.Replace(probe[1]), r.Replace(probe[2])).Run()
		if err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("not ready: %v", err)
		}
	}
}
