package netns

import (
	"context"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"culvert.example/vpn/internal/leak"
)

func TestLab(t *testing.T) {
	leak.Check(t)
	var names []string
	t.Run("up", func(t *testing.T) {
		lab := New(t)
		a, b := lab.Host("a"), lab.Host("b")
		names = []string{a.Name, b.Name}
		if again := lab.Host("a"); again != a {
			t.Errorf("Host returned another host for the same name")
		}
		ifA, _ := lab.Join(a, "10.0.0.1/24 fd00::1/64", b, "10.0.0.2/24 fd00::2/64")
		if out := a.Run("ip", "-brief", "address"); !strings.Contains(out, ifA) || !strings.Contains(out, "fd00::1/64") {
			t.Errorf("ip address on the host printed %q", out)
		}
		a.Sysctl("net.ipv4.ip_forward", "1")
		if out := a.Run("cat", "/proc/sys/net/ipv4/ip_forward"); out != "1\n" {
			t.Errorf("ip_forward is %q", out)
		}
		if out := b.Run("cat", "/proc/sys/net/ipv4/ip_forward"); out == "1\n" {
			t.Errorf("ip_forward was set on the other host too")
		}
		for _, addr := range []string{"10.0.0.2:7", "[fd00::2]:7"} {
			exchange(t, a, b, addr)
		}
		// The sleep outlives its shell unless the namespace is emptied.
		b.Start("sh", "-c", "sleep 600 & sleep 601")
	})
	for _, name := range names {
		if _, err := os.Stat(stateDir + "/" + name); !os.IsNotExist(err) {
			t.Errorf("namespace %s is still there: %v", name, err)
		}
	}
}

// exchange sends a word from a to b over TCP.
func exchange(t *testing.T, a, b *Host, addr string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	l, err := b.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := a.DialContext(ctx, "tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	s, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	s.Write([]byte("hello"))
	s.Close()
	c.SetDeadline(time.Now().Add(5 * time.Second))
	if got, err := io.ReadAll(c); err != nil || string(got) != "hello" {
		t.Errorf("read %q, %v from %s", got, err, addr)
	}
}

func TestDialNeedsAddress(t *testing.T) {
	h := New(t).Host("a")
	if c, err := h.DialContext(t.Context(), "tcp", "localhost:80"); err == nil {
		c.Close()
		t.Errorf("DialContext of a name succeeded")
	}
}

func TestSweep(t *testing.T) {
	New(t)
	// No process has a number this large, so this is what a killed test leaves behind.
	name := prefix + "2147483646-x"
	if _, err := ip("netns", "add", name); err != nil {
		t.Fatal(err)
	}
	live := New(t).Host("live")
	if _, err := os.Stat(stateDir + "/" + name); !os.IsNotExist(err) {
		remove(name)
		t.Errorf("the namespace of a dead process is still there: %v", err)
	}
	New(t)
	if _, err := os.Stat(stateDir + "/" + live.Name); err != nil {
		t.Errorf("the namespace of a live process was removed: %v", err)
	}
}
