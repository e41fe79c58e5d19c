package dtls

import (
	"testing"

	"golang.org/x/sys/unix"
)

// TestWithoutOffload makes the kernel refuse to cut messages, as it does for devices that compute no checksums.
func TestWithoutOffload(t *testing.T) {
	g := newGateway(t, &ServerSession{PSK: testPSK()})
	client := mustDial(t, g.addr(), g.config())
	server := g.take(t)
	sock := client.out.(connectedUDP).sock
	sock.gso.Store(true) // a kernel without it refuses as well
	var failed error
	sock.raw.Control(func(fd uintptr) { failed = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_NO_CHECK, 1) })
	if failed != nil {
		t.Fatal(failed)
	}
	exchange(t, client, server)
	if sock.gso.Load() {
		t.Error("the offload is still on after the kernel has refused it")
	}
}

// TestBurst has batches arrive whole however many datagrams go in one piece.
func TestBurst(t *testing.T) {
	for _, burst := range []int{1, 2, 7, 64} {
		g := newGateway(t, &ServerSession{PSK: testPSK()})
		cfg := g.config()
		cfg.Burst = burst
		client := mustDial(t, g.addr(), cfg)
		server := g.take(t)
		b := numbered(0, 150, 700)
		b[10].SetLen(30)
		b[11].SetLen(31)
		b[149].SetLen(testMTU / 2)
		send(t, client, b)
		sameBatch(t, server.pump.wait(t, len(b)), b)
	}
}
