package packet_test

import (
	"bytes"
	"errors"
	"io"
	"testing"

	"culvert.example/vpn/packet"
)

func TestBuf(t *testing.T) {
	b := packet.NewBuf(10)
	if b.Size() != 10 || b.Len() != 0 || len(b.Bytes()) != 0 || len(b.Space()) != 10 {
		t.Errorf("a new Buf has size %d, length %d, space %d", b.Size(), b.Len(), len(b.Space()))
	}
	if !b.Set([]byte("0123456789")) || string(b.Bytes()) != "0123456789" {
		t.Errorf("after Set the packet is %q", b.Bytes())
	}
	if b.Set(make([]byte, 11)) || string(b.Bytes()) != "0123456789" {
		t.Errorf("Set of a packet too large left %q", b.Bytes())
	}
	if !b.Set([]byte("abc")) || string(b.Bytes()) != "abc" || b.Len() != 3 {
		t.Errorf("after a shorter Set the packet is %q", b.Bytes())
	}
	copy(b.WithHeadroom(2), "XY")
	if got := string(b.WithHeadroom(2)); got != "XYabc" {
		t.Errorf("with headroom the packet is %q", got)
	}
	if n := len(b.WithHeadroom(packet.Headroom)); n != packet.Headroom+3 {
		t.Errorf("the whole headroom and the packet are %d bytes", n)
	}
	if n := len(b.SpaceWithHeadroom(packet.Headroom)); n != packet.Headroom+10 {
		t.Errorf("all the memory is %d bytes", n)
	}
	copy(b.Space(), "hello")
	b.SetLen(5)
	if string(b.Bytes()) != "hello" {
		t.Errorf("after SetLen the packet is %q", b.Bytes())
	}
}

func TestZeroBuf(t *testing.T) {
	var b packet.Buf
	if b.Size() != 0 || b.Len() != 0 || b.Space() != nil {
		t.Errorf("the zero Buf has size %d, length %d, space %v", b.Size(), b.Len(), b.Space())
	}
	if b.Set([]byte{1}) {
		t.Error("the zero Buf took a packet")
	}
}

func TestSetLenPanics(t *testing.T) {
	for _, n := range []int{-1, 11} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("SetLen(%d) of 10 did not panic", n)
				}
			}()
			b := packet.NewBuf(10)
			b.SetLen(n)
		}()
	}
}

func TestBatchMemoryIsSeparate(t *testing.T) {
	b := packet.NewBatch(3, 4)
	for i := range b {
		b[i].Set(bytes.Repeat([]byte{byte(i + 1)}, 4))
	}
	for i := range b {
		head := b[i].WithHeadroom(packet.Headroom)
		for j := range packet.Headroom {
			head[j] = 0xff
		}
	}
	for i := range b {
		if !bytes.Equal(b[i].Bytes(), bytes.Repeat([]byte{byte(i + 1)}, 4)) {
			t.Errorf("packet %d is %x", i, b[i].Bytes())
		}
		if n := cap(b[i].Space()); n != 4 {
			t.Errorf("the space of packet %d can grow to %d bytes", i, n)
		}
	}
}

// script is a Reader of given packets, up to two at a time.
type script struct{ packets []string }

func (s *script) ReadBatch(b packet.Batch) (int, error) {
	if len(s.packets) == 0 {
		return 0, io.EOF
	}
	n := 0
	for n < min(2, len(b), len(s.packets)) {
		b[n].Set([]byte(s.packets[n]))
		n++
	}
	s.packets = s.packets[n:]
	return n, nil
}

// sink is a Writer that remembers, refuses packets of more than mtu bytes, and fails on the packet "bad".
type sink struct {
	mtu int
	got []string
}

var errBad = errors.New("bad packet")

func (s *sink) WriteBatch(b packet.Batch) (int, error) {
	for i := range b {
		if b[i].Len() > s.mtu {
			return i, packet.ErrTooBig
		}
		if string(b[i].Bytes()) == "bad" {
			return i, errBad
		}
		s.got = append(s.got, string(b[i].Bytes()))
	}
	return len(b), nil
}

// without drops the packets that equal it.
type without string

func (w without) Filter(b packet.Batch) packet.Batch {
	n := 0
	for i := range b {
		if string(b[i].Bytes()) != string(w) {
			b[n], b[i] = b[i], b[n]
			n++
		}
	}
	return b[:n]
}

func TestCopy(t *testing.T) {
	tests := []struct {
		name    string
		in      []string
		filters []packet.Filter
		want    string
		err     error
	}{
		{"all", []string{"a", "b", "c"}, nil, "a b c", io.EOF},
		{"too big first", []string{"toobig", "b", "c"}, nil, "b c", io.EOF},
		{"too big last", []string{"a", "toobig", "c"}, nil, "a c", io.EOF},
		{"too big both", []string{"toobig", "toobig", "c"}, nil, "c", io.EOF},
		{"filters", []string{"a", "x", "y", "x", "b", "y"}, []packet.Filter{without("x"), without("y")}, "a b", io.EOF},
		{"writer fails", []string{"a", "bad", "c"}, nil, "a", errBad},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dst := &sink{mtu: 5}
			err := packet.Copy(dst, &script{tt.in}, 100, 4, tt.filters...)
			if !errors.Is(err, tt.err) {
				t.Errorf("the error is %v, want %v", err, tt.err)
			}
			var got bytes.Buffer
			for i, p := range dst.got {
				if i > 0 {
					got.WriteByte(' ')
				}
				got.WriteString(p)
			}
			if got.String() != tt.want {
				t.Errorf("got %q, want %q", &got, tt.want)
			}
		})
	}
}

// endless is a Reader that runs dry after some packets. It fills Bufs in place.
type endless struct{ left int }

func (e *endless) ReadBatch(b packet.Batch) (int, error) {
	if e.left <= 0 {
		return 0, io.EOF
	}
	for i := range b {
		b[i].SetLen(b[i].Size())
	}
	e.left -= len(b)
	return len(b), nil
}

type devNull struct{}

func (devNull) WriteBatch(b packet.Batch) (int, error) { return len(b), nil }

// TestCopyAllocs compares two lengths, since Copy does allocate the Bufs that it works with.
func TestCopyAllocs(t *testing.T) {
	src := new(endless)
	run := func(packets int) float64 {
		return testing.AllocsPerRun(10, func() {
			src.left = packets
			packet.Copy(devNull{}, src, 1400, 32, without("x"))
		})
	}
	if short, long := run(32), run(32000); short != long {
		t.Errorf("Copy allocates %v times for 32 packets and %v times for 32000", short, long)
	}
}

func TestBufAllocs(t *testing.T) {
	b := packet.NewBuf(1400)
	p := make([]byte, 1400)
	n := testing.AllocsPerRun(100, func() {
		b.Set(p)
		b.WithHeadroom(8)[0] = 1
		b.SetLen(len(b.Space()))
		p = b.Bytes()
	})
	if n != 0 {
		t.Errorf("the methods of Buf allocate %v times", n)
	}
}
