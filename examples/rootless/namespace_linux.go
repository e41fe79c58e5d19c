package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"culvert.example/vpn/transport"
)

// settings are what the child needs to know of the lease. They are its first message on the socket.
type settings struct {
	Addresses []netip.Prefix
	MTU       int
	DNS       []netip.Addr
	Search    []string
}

// setUpTime is how long the child may take to make its network.
const setUpTime = 10 * time.Second

// A namespace is the child process with its namespaces, as the parent sees them.
type namespace struct {
	cmd    *exec.Cmd
	socket *net.UnixConn
	device *device
	kill   sync.Once
}

// openNamespace starts this program in namespaces of its own and takes the TUN device over from it. The command waits until start.
func openNamespace(lease *transport.Lease, command []string, out io.Writer) (*namespace, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("a pair of sockets: %w", err)
	}
	theirs := os.NewFile(uintptr(fds[1]), "socket")
	defer theirs.Close()
	mine := os.NewFile(uintptr(fds[0]), "socket")
	conn, err := net.FileConn(mine)
	mine.Close()
	if err != nil {
		return nil, err
	}
	s := &namespace{socket: conn.(*net.UnixConn)}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	s.cmd = exec.Command(self, append([]string{insideWord}, command...)...)
	s.cmd.Stdin, s.cmd.Stdout, s.cmd.Stderr = os.Stdin, out, os.Stderr
	s.cmd.ExtraFiles = []*os.File{theirs} // descriptor 3
	s.cmd.WaitDelay = time.Second
	uid, gid := os.Geteuid(), os.Getegid()
	s.cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWUSER | syscall.CLONE_NEWNET | syscall.CLONE_NEWNS,
		// Inside, the user is who he is outside. An unprivileged process may map nobody else.
		UidMappings: []syscall.SysProcIDMap{{ContainerID: uid, HostID: uid, Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: gid, HostID: gid, Size: 1}},
		// What the child needs to make its network, and gives up before the command begins.
		AmbientCaps: []uintptr{unix.CAP_NET_ADMIN, unix.CAP_SYS_ADMIN},
		Pdeathsig:   syscall.SIGKILL,
	}
	if err := s.cmd.Start(); err != nil {
		conn.Close()
		return nil, fmt.Errorf("namespaces (is user.max_user_namespaces 0, or kernel.apparmor_restrict_unprivileged_userns 1?): %w", err)
	}
	if err := s.takeOver(lease); err != nil {
		s.close()
		s.cmd.Wait()
		return nil, err
	}
	return s, nil
}

// takeOver tells the child about the lease and gets the device.
func (s *namespace) takeOver(lease *transport.Lease) error {
	b, err := json.Marshal(settings{lease.Addresses, lease.MTU, lease.DNS, lease.SearchDomains})
	if err != nil {
		return err
	}
	s.socket.SetDeadline(time.Now().Add(setUpTime))
	if _, err := s.socket.Write(b); err != nil {
		return err
	}
	text, control := make([]byte, 1), make([]byte, unix.CmsgSpace(4))
	_, n, _, _, err := s.socket.ReadMsgUnix(text, control)
	if err != nil || n == 0 {
		return errors.Join(errors.New("the child made no TUN device"), err)
	}
	messages, err := unix.ParseSocketControlMessage(control[:n])
	if err != nil || len(messages) != 1 {
		return errors.Join(errors.New("the child sent something else than a descriptor"), err)
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(fds) != 1 {
		return errors.Join(errors.New("the child sent something else than a descriptor"), err)
	}
	unix.CloseOnExec(fds[0])
	s.device, err = newDevice(fds[0], lease.MTU)
	return err
}

// start lets the command begin.
func (s *namespace) start() error {
	if _, err := s.socket.Write([]byte{1}); err != nil {
		return fmt.Errorf("the child: %w", err)
	}
	return nil
}

// wait waits until the command has ended.
func (s *namespace) wait() error { return s.cmd.Wait() }

// close ends the command. The namespaces go with its last process.
func (s *namespace) close() {
	s.kill.Do(func() {
		s.socket.Close()
		s.cmd.Process.Kill() // it may be gone
	})
}
