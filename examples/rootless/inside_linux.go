package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	insideWord = "rootless-inside" // as the first argument: be the child
	visitWord  = "rootless-visit"  // as the first argument: be the command that shows what there is
	tunName    = "tun0"
	socketFD   = 3
)

// inside is the child: it makes the network, hands the device to the parent, gives up its rights, and becomes the command.
func inside(command []string) error {
	// The rights belong to the thread, and are given up by the thread that becomes the command.
	runtime.LockOSThread()
	unix.CloseOnExec(socketFD)
	b := make([]byte, 64<<10)
	n, err := unix.Read(socketFD, b)
	if err != nil {
		return fmt.Errorf("reading from the parent: %w", err)
	}
	var set settings
	if err := json.Unmarshal(b[:n], &set); err != nil {
		return fmt.Errorf("settings from the parent: %w", err)
	}
	fd, err := openTUN()
	if err != nil {
		return err
	}
	if err := configure(&set); err != nil {
		return err
	}
	if err := writeResolvConf(&set); err != nil {
		return err
	}
	if err := unix.Sendmsg(socketFD, []byte{0}, unix.UnixRights(fd), nil, 0); err != nil {
		return fmt.Errorf("handing over the device: %w", err)
	}
	unix.Close(fd)
	if n, err := unix.Read(socketFD, b); err != nil || n == 0 {
		return errors.Join(errors.New("the parent has gone"), err)
	}
	if err := dropRights(); err != nil {
		return fmt.Errorf("giving up rights: %w", err)
	}
	path, err := exec.LookPath(command[0])
	if err != nil {
		return err
	}
	return fmt.Errorf("%s: %w", path, syscall.Exec(path, command, os.Environ()))
}

// openTUN makes a TUN device without offloads.
func openTUN() (int, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0, fmt.Errorf("/dev/net/tun: %w", err)
	}
	ifr, err := unix.NewIfreq(tunName)
	if err != nil {
		return 0, err
	}
	ifr.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr); err != nil {
		return 0, fmt.Errorf("making the device %s: %w", tunName, err)
	}
	return fd, nil
}

// configure gives the device its addresses and all routes. The program ip gets the rights that it needs from this one.
func configure(set *settings) error {
	steps := [][]string{
		{"link", "set", "lo", "up"},
		{"link", "set", tunName, "mtu", strconv.Itoa(set.MTU), "up"},
	}
	for _, a := range set.Addresses {
		family := "-4"
		if a.Addr().Is6() {
			family = "-6"
		}
		add := []string{family, "address", "add", a.String(), "dev", tunName}
		if a.Addr().Is6() {
			add = append(add, "nodad") // nobody else is there who could have the address
		}
		steps = append(steps, add, []string{family, "route", "add", "default", "dev", tunName})
	}
	for _, args := range steps {
		if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
			return fmt.Errorf("ip %s: %w: %s", strings.Join(args, " "), err, out)
		}
	}
	return nil
}

// writeResolvConf puts a file over /etc/resolv.conf, in this mount namespace alone.
func writeResolvConf(set *settings) error {
	var text strings.Builder
	for _, a := range set.DNS {
		fmt.Fprintf(&text, "nameserver %s\n", a)
	}
	if len(set.Search) > 0 {
		fmt.Fprintf(&text, "search %s\n", strings.Join(set.Search, " "))
	}
	f, err := os.CreateTemp("", "resolv.conf")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = io.WriteString(f, text.String())
	if err = errors.Join(err, f.Chmod(0o644), f.Close()); err != nil {
		return err
	}
	// A link is followed first: what it leads to is what programs read.
	target, err := filepath.EvalSymlinks("/etc/resolv.conf")
	if err != nil {
		return fmt.Errorf("resolv.conf: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("making the mounts private: %w", err)
	}
	if err := unix.Mount(f.Name(), target, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("mounting over %s: %w", target, err)
	}
	return nil
}

// dropRights gives up all capabilities for good: for a command that is root inside too, which would get them back otherwise.
func dropRights() error {
	if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0); err != nil {
		return err
	}
	for c := uintptr(0); c <= unix.CAP_LAST_CAP; c++ {
		// The kernel may know fewer than this program. Without the right to drop rights there are none to be got back.
		if err := unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0); err != nil && err != unix.EINVAL && err != unix.EPERM {
			return err
		}
	}
	none := [2]unix.CapUserData{}
	if err := unix.Capset(&unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}, &none[0]); err != nil {
		return err
	}
	return unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
}

// visit is the command of the demonstration: it fetches a page, and shows that there is no other way out.
func visit(url string, outside []string, out io.Writer) error {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	interfaces, err := net.Interfaces()
	if err != nil {
		return err
	}
	for _, i := range interfaces {
		addrs, err := i.Addrs()
		if err != nil {
			return err
		}
		fmt.Fprintf(out, "interface %s: %v\n", i.Name, addrs)
	}
	fmt.Fprintf(out, "user %d\n", os.Getuid())
	for _, addr := range outside {
		conn, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
		if err == nil {
			conn.Close()
			return fmt.Errorf("%s can be reached around the tunnel", addr)
		}
		fmt.Fprintf(out, "the machine's own %s cannot be reached\n", addr)
	}
	if err := exec.Command("ip", "link", "set", tunName, "down").Run(); err == nil {
		return errors.New("the network can be changed from inside")
	}
	fmt.Fprintln(out, "the network cannot be changed")
	req, err := http.NewRequestWithContext(ctx, "GET", url, nil)
	if err != nil {
		return err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	_, err = io.Copy(out, io.LimitReader(res.Body, 1<<20))
	return err
}
