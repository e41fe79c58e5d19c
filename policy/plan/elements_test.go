package plan

import (
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"

	"culvert.example/vpn/policy/document"
	"culvert.example/vpn/policy/profile"
)

// samples are what stands in elements that are neither switches nor choices nor numbers with a default, by their paths.
var samples = map[string]string{
	"ClientInitialization/ProxySettings/PublicProxyServerAddress":               "proxy.example:8080",
	"ClientInitialization/AutomaticVPNPolicy/TrustedDNSDomains":                 "*.corp.example",
	"ClientInitialization/AutomaticVPNPolicy/TrustedDNSServers":                 "10.0.0.53",
	"ClientInitialization/AutomaticVPNPolicy/AlwaysOn/AllowedHosts":             "192.0.2.7",
	"ClientInitialization/PPPExclusion/PPPExclusionServerIP":                    "192.0.2.9",
	"ClientInitialization/CertificateEnrollment/CertificateExpirationThreshold": "30",
	"ClientInitialization/BackupServerList/HostAddress":                         "b.example",
	"ClientInitialization/CertificatePinning/CertificatePinList/Pin":            somePin,
	// Without a pin there is nothing to hold a gateway to.
	"ClientInitialization/CertificatePinning":                                             "true<CertificatePinList><Pin>" + somePin + "</Pin></CertificatePinList>",
	"ClientInitialization/CertificateMatch/ExtendedKeyUsage/CustomExtendedMatchKey":       "1.2.3.4",
	"ClientInitialization/CertificateMatch/DistinguishedName/DistinguishedNameDefinition": "<Name>CN</Name><Pattern>anna</Pattern>",
	"ClientInitialization/AutomaticVPNPolicy/TrustedHttpsServerList/TrustedHttpsServer": "<Address>in.corp.example</Address><Port>443</Port><CertificateHash>" +
		somePin[:64] + "</CertificateHash>",
	"ServerList/HostEntry/HostName":                            "Other",
	"ServerList/HostEntry/HostAddress":                         "other.example",
	"ServerList/HostEntry/BackupServerList/HostAddress":        "b.example",
	"ServerList/HostEntry/LoadBalancingServerList/HostAddress": "m.example",
	"ServerList/HostEntry/CertificatePinList/Pin":              somePin,
}

var somePin = strings.Repeat("ab", 64)

// instead is what stands for the default in elements that must not be missing.
var instead = map[string]string{
	"ClientInitialization/PPPExclusion/PPPExclusionServerIP":         "192.0.2.8",
	"ClientInitialization/CertificatePinning/CertificatePinList/Pin": strings.Repeat("cd", 64),
}

// beside are settings without which an element means nothing.
var beside = map[string]string{
	"ServerList/HostEntry/CertificatePinList/Pin": "<CertificatePinning>true<CertificatePinList><Pin>" + strings.Repeat("cd", 64) + "</Pin></CertificatePinList></CertificatePinning>",
}

// sample returns what stands in an element where it does not stand for its default.
func sample(path string, e *document.Element) string {
	if s, ok := samples[path]; ok {
		return s
	}
	switch e.Type.Kind {
	case document.KindBoolean:
		return strconv.FormatBool(e.Default != "true")
	case document.KindEnumeration:
		return e.Type.Values[slices.IndexFunc(e.Type.Values, func(v string) bool { return v != e.Default })]
	case document.KindInteger:
		n, err := strconv.Atoi(e.Default)
		if err != nil {
			return strconv.Itoa(e.Type.Min)
		}
		return strconv.Itoa(n + 1)
	}
	if e.Content == document.Empty {
		return ""
	}
	return "x"
}

// made returns the plan of a profile that has the elements on the way to one, so that it counts, and with inside the element itself.
// What does not say what becomes of a connection is left out of the plan.
func made(t *testing.T, path, inside string, with bool) (bare Plan, ignored []Effect) {
	t.Helper()
	names, root := strings.Split(path, "/"), profile.Schema().Root
	if usual, ok := instead[path]; ok && !with {
		inside, with = usual, true
	}
	first := 1
	if names[0] == "ServerList" {
		first = 2
	}
	// The way ends at the innermost element around it that has a value itself.
	last := len(names) - 1
	if !with {
		for last > first && root.Find(strings.Join(names[:last], "/")).Content != document.Mixed {
			last--
		}
	}
	element := ""
	if with {
		element = "<" + names[last] + ">" + inside + "</" + names[last] + ">"
	}
	for i := last - 1; i >= first; i-- {
		around := root.Find(strings.Join(names[:i+1], "/"))
		element = "<" + around.Name + ">" + around.When + element + "</" + around.Name + ">"
	}
	settings, host := beside[path]+element, "<HostName>Office</HostName><HostAddress>vpn.example</HostAddress>"
	if first == 2 {
		settings = beside[path]
		if old := "<" + names[last] + ">"; with && strings.Contains(host, old) {
			before, after, _ := strings.Cut(host, old)
			_, after, _ = strings.Cut(after, "</"+names[last]+">")
			host = before + element + after
		} else {
			host += element
		}
	}
	p, _ := New("", Documents{Profiles: collection(xmlProfile(t, "corp.xml", settings, "<HostEntry>"+host+"</HostEntry>"))}, machine())
	if p == nil {
		t.Fatal("there is no plan")
	}
	bare, ignored = *p, p.Ignored
	bare.Documents, bare.Environment, bare.Profile, bare.Effective, bare.Host = Documents{}, Environment{}, nil, nil, profile.Host{}
	bare.Features, bare.Local, bare.Ignored = nil, nil, nil
	return bare, ignored
}

// TestEveryElement: each element that a profile can have changes the plan, or is named with the reason why it does not.
func TestEveryElement(t *testing.T) {
	p := &Plan{Environment: machine()}
	named := map[string]string{} // the reason, by the path of the outermost element
	effective, idle := 0, 0
	profile.Schema().Root.Walk(func(path string, e *document.Element) {
		for above := path; above != "."; above = parent(above) {
			if s, ok := samples[above]; ok && above != path && strings.HasPrefix(s, "<") {
				return // it is a part of what has an effect as a whole
			}
		}
		why := named[parent(path)]
		if why == "" {
			why = p.idle(path, e)
		}
		if why != "" {
			named[path] = why
		}
		if _, sampled := samples[path]; e.Content == document.Group && !sampled {
			return // its children have the effects
		}
		t.Run(path, func(t *testing.T) {
			inside := sample(path, e)
			without, before := made(t, path, inside, false)
			with, after := made(t, path, inside, true)
			changes := !reflect.DeepEqual(without, with)
			switch {
			case why == "" && !changes:
				t.Errorf("%s = %s changes nothing, and nothing says why", path, inside)
			case why != "" && changes:
				t.Errorf("%s = %s changes the plan, and is said to have no effect: %s", path, inside, why)
			case why != "" && len(after) <= len(before) && !strings.Contains(fmt.Sprint(before), why):
				t.Errorf("%s is not among the ignored: %+v", path, after)
			}
		})
		if why == "" {
			effective++
		} else {
			idle++
		}
	})
	if effective < 50 || idle < 30 {
		t.Errorf("%d elements with an effect and %d without were looked at", effective, idle)
	}
}

func parent(path string) string {
	i := strings.LastIndexByte(path, '/')
	if i < 0 {
		return "."
	}
	return path[:i]
}

// TestIgnored: what has no effect is named with its value, its place and the reason, of the chosen gateway only.
func TestIgnored(t *testing.T) {
	settings := `<AutoUpdate>false</AutoUpdate>
<MinimizeOnConnect>True</MinimizeOnConnect>
<LocalLanAccess>true</LocalLanAccess>
<DeviceLockRequired>true<DeviceLockMinimumPasswordLength>8</DeviceLockMinimumPasswordLength></DeviceLockRequired>
<EnableScripting>true<TerminateScriptOnNextEvent>true</TerminateScriptOnNextEvent></EnableScripting>
<WindowsLogonEnforcement>SingleLogon</WindowsLogonEnforcement>`
	hosts := `<HostEntry><HostName>Office</HostName><HostAddress>vpn.example</HostAddress><CAURL>http://ca.example/</CAURL></HostEntry>
<HostEntry><HostName>Lab</HostName><HostAddress>lab.example</HostAddress><AutomaticSCEPHost>x</AutomaticSCEPHost></HostEntry>`
	ignored := func(host string, env Environment) string {
		p, err := New(host, Documents{Profiles: collection(xmlProfile(t, "corp.xml", settings, hosts))}, env)
		if err != nil {
			t.Fatal(err)
		}
		var all []string
		for _, e := range p.Ignored {
			if e.Says == "" || e.State != NotApplicable {
				t.Errorf("%+v", e)
			}
			s := fmt.Sprintf("%s=%s:%d", e.Path, e.Value, e.Line)
			if e.Usual {
				s += " usual"
			}
			all = append(all, s)
		}
		return strings.Join(all, ", ")
	}
	const always = "AutoUpdate=false:3, MinimizeOnConnect=True:4 usual, "
	const mobile = "DeviceLockRequired=true:6, DeviceLockRequired/DeviceLockMinimumPasswordLength=8:6, "
	if got, want := ignored("Office", machine()), always+mobile+"WindowsLogonEnforcement=SingleLogon:8, HostEntry/CAURL=http://ca.example/:11"; got != want {
		t.Errorf("Office:\n%s\nwant\n%s", got, want)
	}
	if got, want := ignored("Lab", machine()), always+mobile+"WindowsLogonEnforcement=SingleLogon:8, HostEntry/AutomaticSCEPHost=x:12"; got != want {
		t.Errorf("Lab:\n%s\nwant\n%s", got, want)
	}
	env := Environment{System: "linux", Unavailable: map[string]string{"EnableScripting": "there are no scripts"}}
	if got := ignored("else.example", env); got != "" {
		t.Errorf("of a gateway that no profile lists: %s", got)
	}
	if got, want := ignored("Office", env), always+"LocalLanAccess=true:5, "+mobile+"EnableScripting=true:7, EnableScripting/TerminateScriptOnNextEvent=true:7, WindowsLogonEnforcement=SingleLogon:8, HostEntry/CAURL=http://ca.example/:11"; got != want {
		t.Errorf("of a program:\n%s\nwant\n%s", got, want)
	}
	if p, _ := New("gw.example", Documents{}, machine()); len(p.Ignored) > 0 {
		t.Errorf("without a profile: %+v", p.Ignored)
	}
}
