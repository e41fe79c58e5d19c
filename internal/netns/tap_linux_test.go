package netns

import (
	"net"
	"testing"
	"time"

	"culvert.example/vpn/internal/leak"
)

func TestTap(t *testing.T) {
	leak.Check(t)
	lab := New(t)
	a, b := lab.Host("a"), lab.Host("b")
	_, dev := lab.Join(a, "10.0.0.1/24", b, "10.0.0.2/24")
	tap := b.Tap(dev)
	send := func() {
		t.Helper()
		c, err := a.DialContext(t.Context(), "udp", net.JoinHostPort("10.0.0.2", "4000"))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if _, err := c.Write([]byte("a word")); err != nil {
			t.Fatal(err)
		}
		for deadline := time.Now().Add(10 * time.Second); tap.Count("udp 10.0.0.2 4000") == 0; time.Sleep(time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("the datagram is not among %v", tap.Packets())
			}
		}
	}
	before := time.Now()
	send()
	if tap.Count("arp") == 0 {
		t.Error("no ARP came before the datagram")
	}
	for _, p := range tap.Packets() {
		switch {
		case p.To != "udp 10.0.0.2 4000":
			if !p.Link() {
				t.Errorf("%+v is not needed by the link", p)
			}
		case p.Link(), p.At.Before(before), string(p.Data[28:]) != "a word":
			t.Errorf("the datagram is %+v, after %v; needed by the link: %v", p, before, p.Link())
		}
	}
	// The answer, that the port is closed, leaves the interface.
	if n := tap.Count("icmp 10.0.0.1 3"); n > 0 {
		t.Errorf("%d packets were seen that go the other way", n)
	}
	tap.Forget()
	if n := tap.Count("udp 10.0.0.2 4000"); n > 0 {
		t.Errorf("%d datagrams after Forget", n)
	}
	send()
}

func TestDestination(t *testing.T) {
	tcp := append([]byte{0x45, 9: 6, 16: 192, 17: 0, 18: 2, 19: 1}, 0, 1, 1, 0xbb)
	for _, tt := range []struct {
		ethertype uint16
		packet    []byte
		want      string
	}{
		{0x0806, nil, "arp"},
		{0x0800, tcp, "tcp 192.0.2.1 443"},
		{0x0800, tcp[:19], "ethertype 0x0800"},
		{0x0800, []byte{0x46, 9: 2, 16: 224, 17: 0, 18: 0, 19: 22, 27: 0}, "2 224.0.0.22"},
		{0x86dd, append([]byte{0x60, 6: 58, 24: 0xff, 25: 2, 39: 2}, 133, 0, 0, 0), "icmp6 ff02::2 133"},
		{0x86dd, append([]byte{0x60, 6: 0, 24: 0xff, 25: 2, 39: 22}, 58, 0, 5, 2, 0, 0, 1, 0, 143, 0, 0, 0), "icmp6 ff02::16 143"},
	} {
		if got := destination(tt.ethertype, tt.packet); got != tt.want {
			t.Errorf("%x: %q, want %q", tt.packet, got, tt.want)
		}
	}
}
