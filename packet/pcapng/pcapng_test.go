package pcapng

import (
	"bytes"
	"encoding/hex"
	"errors"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// head is the section header and the interface description that every file starts with.
const head = "0a0d0d0a1c0000004d3c2b1a01000000ffffffffffffffff1c000000" +
	"010000002000000065000000000000000900010009000000" + "0000000020000000"

func TestBytes(t *testing.T) {
	var b bytes.Buffer
	w := NewWriter(&b)
	if got := hex.EncodeToString(b.Bytes()); got != head {
		t.Errorf("head is\n%s, want\n%s", got, head)
	}
	b.Reset()
	if err := w.WritePacket(time.Unix(0, 0x1122334455667788), Out, []byte("abcde")); err != nil {
		t.Fatal(err)
	}
	want := "06000000" + "34000000" + "00000000" + "44332211" + "88776655" + "05000000" + "05000000" +
		hex.EncodeToString([]byte("abcde\x00\x00\x00")) + "02000400" + "02000000" + "00000000" + "34000000"
	if got := hex.EncodeToString(b.Bytes()); got != want {
		t.Errorf("packet is\n%s, want\n%s", got, want)
	}
}

func TestPadding(t *testing.T) {
	for n := range 9 {
		b := appendPacket([]byte{1, 2, 3}, 0, In, make([]byte, n))[3:]
		if len(b)%4 != 0 || len(b) != int(b[4]) || b[4] != b[len(b)-4] {
			t.Errorf("a packet of %d bytes makes a block of %d bytes that says %d and %d", n, len(b), b[4], b[len(b)-4])
		}
	}
}

// failing fails every Write but the first.
type failing struct{ writes int }

func (f *failing) Write(p []byte) (int, error) {
	if f.writes++; f.writes > 1 {
		return 0, errors.New("disk full")
	}
	return len(p), nil
}

func TestErrors(t *testing.T) {
	f := new(failing)
	w := NewWriter(f)
	if err := w.WritePacket(time.Now(), In, make([]byte, MaxPacket+1)); !errors.Is(err, ErrTooBig) {
		t.Errorf("a huge packet: %v", err)
	}
	if err := w.Err(); err != nil {
		t.Errorf("a huge packet ended the capture: %v", err)
	}
	if err := w.WritePacket(time.Now(), In, []byte{0x45}); err == nil {
		t.Error("an error was lost")
	}
	if err := w.WritePacket(time.Now(), In, []byte{0x45}); err == nil || f.writes != 2 {
		t.Errorf("after an error: %v, %d writes", err, f.writes)
	}
	if w.Err() == nil {
		t.Error("Err forgot the error")
	}
}

func TestAllocs(t *testing.T) {
	w := NewWriter(discard{})
	p := make([]byte, 1400)
	now := time.Now()
	if n := testing.AllocsPerRun(100, func() { w.WritePacket(now, Out, p) }); n != 0 {
		t.Errorf("WritePacket allocates %v times", n)
	}
}

type discard struct{}

func (discard) Write(p []byte) (int, error) { return len(p), nil }

// TestTcpdump reads a capture with the program that it is for.
func TestTcpdump(t *testing.T) {
	if _, err := exec.LookPath("tcpdump"); err != nil {
		t.Skip("tcpdump is not installed")
	}
	var b bytes.Buffer
	w := NewWriter(&b)
	// ICMP echo request from 192.0.2.1 to 192.0.2.2, sequence number 7.
	ping, err := hex.DecodeString("4500001c0000000040010000c0000201c00002020800f7f700010007")
	if err != nil {
		t.Fatal(err)
	}
	if err := w.WritePacket(time.Unix(1000000000, 123456789), Out, ping); err != nil {
		t.Fatal(err)
	}
	if err := w.WritePacket(time.Unix(1000000001, 0), In, ping[:27]); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "tcpdump", "-nn", "-tt", "--nano", "-r", "-")
	cmd.Stdin = &b
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for _, want := range []string{"1000000000.123456789 ", "192.0.2.1 > 192.0.2.2: ICMP echo request, id 1, seq 7", "1000000001.000000000 "} {
		if !strings.Contains(string(out), want) {
			t.Errorf("tcpdump does not say %q, but:\n%s", want, out)
		}
	}
}
