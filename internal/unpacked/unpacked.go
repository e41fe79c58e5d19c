//go:build linux

// Package unpacked fetches packages of Debian for tests and unpacks them without installing them, since what some of them would do to
// the machine is what the tests are about. It also has the D-Bus that they run on.
package unpacked

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// fetchTime bounds each command.
const fetchTime = 2 * time.Minute

// BusConfig is the configuration of a bus at the path that it is formatted with. Everybody may do everything on it, as far as the bus is
// asked: the programs of systemd ask the kernel who calls.
const BusConfig = `<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>system</type>
  <listen>unix:path=%s</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow user="*"/>
    <allow own="*"/>
    <allow send_type="method_call"/>
    <allow send_destination="*" eavesdrop="true"/>
    <allow receive_sender="*"/>
  </policy>
</busconfig>
`

// Has reports whether dir holds the regular file of that relative path.
func Has(dir, file string) bool {
	info, err := os.Stat(filepath.Join(dir, file))
	return err == nil && info.Mode().IsRegular()
}

// Libraries returns where an unpacked package of systemd has libraries of its own, for LD_LIBRARY_PATH, or "".
func Libraries(root string) string {
	found, _ := filepath.Glob(filepath.Join(root, "usr/lib/*/systemd"))
	return strings.Join(found, ":")
}

// Fetch downloads a package of systemd by "apt-get download", with the library that it shares with others unless that is installed,
// and unpacks it by "dpkg -x" into dir, unless the file is there already. Several tests may do so at once.
func Fetch(dir, file, name string) error {
	parent := filepath.Dir(dir)
	if err := os.MkdirAll(parent, 0o755); err != nil {
		return err
	}
	lock, err := os.OpenFile(dir+".lock", os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return err
	}
	defer lock.Close()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		return err
	}
	if Has(dir, file) {
		return nil
	}
	tmp, err := os.MkdirTemp("", "fetch-"+name)
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	packages := []string{name}
	if shared, _ := filepath.Glob("/usr/lib/*/systemd/libsystemd-shared-*.so"); len(shared) == 0 {
		packages = append(packages, "libsystemd-shared")
	}
	if err := run(tmp, "apt-get", append([]string{"-q", "download"}, packages...)...); err != nil {
		return fmt.Errorf("%w (apt-get update may help)", err)
	}
	debs, err := filepath.Glob(filepath.Join(tmp, "*.deb"))
	if err != nil || len(debs) == 0 {
		return fmt.Errorf("apt-get downloaded nothing: %w", fs.ErrNotExist)
	}
	// Only a whole one gets the name under which it is found.
	whole := filepath.Join(parent, filepath.Base(tmp))
	defer os.RemoveAll(whole)
	for _, deb := range debs {
		if err := run(tmp, "dpkg", "-x", deb, whole); err != nil {
			return err
		}
	}
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	return os.Rename(whole, dir)
}

func run(dir, name string, args ...string) error {
	ctx, cancel := context.WithTimeout(context.Background(), fetchTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", strings.Join(cmd.Args, " "), err, out)
	}
	return nil
}
