package hello

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/tls"
	"encoding/binary"
	"encoding/hex"
	"net"
	"testing"
	"time"

	"golang.org/x/net/quic"
)

// The key schedule is that of the examples in RFC 9001 appendix A.1 and RFC 9369 appendix A.1.
func TestInitialKeys(t *testing.T) {
	id, _ := hex.DecodeString("8394c8f03e515708")
	for _, tt := range []struct {
		version     uint32
		key, iv, hp string
	}{
		{version1, "1f369613dd76d5467730efcbe3b1a22d", "fa044b2f42a3fd3b46fb255c", "9f50449e04a0e810283a1e9933adedd2"},
		{version2, "8b1a0bc121284290a29e0971b5cd045d", "91f73e2351d8fa91660e909f", "45b95e15235d6f45a6b19cbcb0294ba9"},
	} {
		key, iv, hp, err := deriveInitial(tt.version, id)
		if err != nil || hex.EncodeToString(key) != tt.key || hex.EncodeToString(iv) != tt.iv || hex.EncodeToString(hp) != tt.hp {
			t.Errorf("version %#x: %x %x %x, %v", tt.version, key, iv, hp, err)
		}
	}
}

func appendVarint(b []byte, v int) []byte {
	if v < 64 {
		return append(b, byte(v))
	}
	return binary.BigEndian.AppendUint32(b, uint32(v)|0x80000000)
}

func cryptoFrame(offset int, data []byte) []byte {
	b := appendVarint([]byte{frameCrypto}, offset)
	return append(appendVarint(b, len(data)), data...)
}

var testConnID = []byte{1, 2, 3, 4, 5, 6, 7, 8}

// initialPacket seals frames as a client does.
func initialPacket(tb testing.TB, version uint32, number uint16, frames ...[]byte) []byte {
	tb.Helper()
	k, err := newInitialKeys(version, testConnID)
	if err != nil {
		tb.Fatal(err)
	}
	plain := bytes.Join(frames, nil)
	for len(plain) < 40 {
		plain = append(plain, framePadding)
	}
	first := byte(0xc1) // a packet number of 2 bytes
	if version == version2 {
		first = 0xd1
	}
	p := binary.BigEndian.AppendUint32([]byte{first}, version)
	p = append(append(p, byte(len(testConnID))), testConnID...)
	p = append(p, 3, 9, 9, 9) // the id of the client
	p = append(p, 2, 7, 7)    // a token
	p = appendVarint(p, 2+len(plain)+16)
	header := len(p)
	p = binary.BigEndian.AppendUint16(p, number)
	nonce := k.iv
	nonce[10] ^= byte(number >> 8)
	nonce[11] ^= byte(number)
	p = k.aead.Seal(p, nonce[:], plain, p)
	var mask [aes.BlockSize]byte
	k.mask.Encrypt(mask[:], p[header+4:header+20])
	p[0] ^= mask[0] & 0x0f
	p[header] ^= mask[1]
	p[header+1] ^= mask[2]
	return p
}

func TestQUIC(t *testing.T) {
	const name = "media.corp.example"
	m := quicMessage(t, name)
	half := len(m) / 2
	packet := func(frames ...[]byte) []byte { return initialPacket(t, version1, 0, frames...) }
	spoilt := packet(cryptoFrame(0, m))
	spoilt[len(spoilt)-1] ^= 1
	foreign := packet(cryptoFrame(0, m))
	foreign[4] = 9
	ack := []byte{frameAckECN, 5, 0, 1, 0, 0, 0, 1, 1, 1}
	for _, tt := range []struct {
		name  string
		in    [][]byte
		want  string
		state State
	}{
		{"one packet", [][]byte{packet(cryptoFrame(0, m))}, name, Done},
		{"version 2", [][]byte{initialPacket(t, version2, 3, cryptoFrame(0, m))}, name, Done},
		{"pieces out of order", [][]byte{packet([]byte{framePing}, cryptoFrame(half, m[half:]), ack, []byte{0, 0}, cryptoFrame(0, m[:half]))}, name, Done},
		{"two datagrams", [][]byte{packet(cryptoFrame(half, m[half:])), initialPacket(t, version1, 1, cryptoFrame(0, m[:half]))}, name, Done},
		{"two packets in a datagram", [][]byte{append(packet(cryptoFrame(0, m[:30])), initialPacket(t, version1, 1, cryptoFrame(30, m[30:]))...)}, name, Done},
		{"overlapping", [][]byte{packet(cryptoFrame(10, m[10:]), cryptoFrame(0, m[:20]))}, name, Done},
		{"a gap", [][]byte{packet(cryptoFrame(0, m[:10]), cryptoFrame(20, m[20:]))}, "", More},
		{"and a packet of another kind", [][]byte{packet(cryptoFrame(0, m[:30])), {0x41, 1, 2, 3}, initialPacket(t, version1, 1, cryptoFrame(30, m[30:]))}, name, Done},
		{"a message that is not for servers", [][]byte{packet(cryptoFrame(0, []byte{2, 0, 0, 0}))}, "", Other},
		{"no name", [][]byte{packet(cryptoFrame(0, build()))}, "", Done},
		{"damaged", [][]byte{spoilt}, "", More},
		{"another version", [][]byte{foreign}, "", Other},
		{"DNS", [][]byte{{0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0}}, "", Other},
		{"WireGuard", [][]byte{{1, 0, 0, 0, 1, 2, 3, 4}}, "", Other},
		{"DTLS", [][]byte{{22, 0xfe, 0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 10}}, "", Other},
		{"nothing", [][]byte{{}}, "", Other},
		{"cut short", [][]byte{packet(cryptoFrame(0, m))[:100]}, "", Other},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var q QUIC
			var got string
			var s State
			for _, b := range tt.in {
				before := bytes.Clone(b)
				got, s = q.Datagram(b)
				if !bytes.Equal(b, before) {
					t.Error("the datagram was changed")
				}
			}
			if got != tt.want || s != tt.state {
				t.Errorf("%q, %v, want %q, %v", got, s, tt.want, tt.state)
			}
			if s != More {
				if again, s2 := q.Datagram([]byte{1}); again != got || s2 != s {
					t.Errorf("then %q, %v", again, s2)
				}
			}
		})
	}
}

// A message in many pieces that never join does not take more memory than is allowed, and ends nothing.
func TestQUICSpans(t *testing.T) {
	var q QUIC
	for i := range 2000 {
		q.insert(2*i+1, []byte{1})
		q.insert(1<<29, []byte{1})
	}
	if len(q.have) != maxSpans || len(q.crypto) > MaxSize {
		t.Errorf("%d spans, %d bytes", len(q.have), len(q.crypto))
	}
	q.insert(0, make([]byte, MaxSize+5))
	if len(q.have) != 1 || q.have[0] != (span{0, MaxSize}) || len(q.crypto) != MaxSize {
		t.Errorf("%v, %d bytes", q.have, len(q.crypto))
	}
}

// TestRealQUIC listens to the first datagrams of a real client.
func TestRealQUIC(t *testing.T) {
	server, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	client, err := quic.Listen("udp", "127.0.0.1:0", nil)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	done := make(chan struct{})
	go func() {
		defer close(done)
		client.Dial(ctx, "udp", server.LocalAddr().String(), &quic.Config{TLSConfig: &tls.Config{
			ServerName: "media.corp.example", MinVersion: tls.VersionTLS13, NextProtos: []string{"h3"},
		}})
	}()
	server.SetDeadline(time.Now().Add(5 * time.Second))
	var q QUIC
	b := make([]byte, 2048)
	for {
		n, _, err := server.ReadFrom(b)
		if err != nil {
			t.Fatal(err)
		}
		if name, s := q.Datagram(b[:n]); s != More {
			if name != "media.corp.example" || s != Done {
				t.Errorf("%q, %v", name, s)
			}
			break
		}
	}
	cancel()
	<-done
	closing, stop := context.WithTimeout(context.Background(), time.Millisecond)
	defer stop()
	client.Close(closing)
}

func FuzzQUIC(f *testing.F) {
	m := quicMessage(f, "media.corp.example")
	f.Add(initialPacket(f, version1, 0, cryptoFrame(0, m)), []byte{0x40})
	f.Add(initialPacket(f, version1, 0, cryptoFrame(40, m[40:])), initialPacket(f, version1, 1, cryptoFrame(0, m[:40])))
	f.Add([]byte{0xc0, 0, 0, 0, 1, 0, 0, 0, 5, 1, 2, 3, 4, 5}, []byte{})
	f.Fuzz(func(t *testing.T, one, two []byte) {
		var q QUIC
		for _, b := range [][]byte{one, two} {
			if name, s := q.Datagram(b); name != "" && (s != Done || canonical([]byte(name)) != name) {
				t.Fatalf("%q, %v", name, s)
			}
		}
	})
}

// FuzzFrames is what an attacker can do who knows the key, as everybody does.
func FuzzFrames(f *testing.F) {
	m := quicMessage(f, "media.corp.example")
	f.Add(cryptoFrame(0, m))
	f.Add(append(cryptoFrame(100, m[100:]), cryptoFrame(0, m[:100])...))
	f.Add([]byte{frameAck, 1, 2, 3, 4, 5})
	f.Fuzz(func(t *testing.T, frames []byte) {
		var q QUIC
		q.frames(frames)
		q.look()
		for i, s := range q.have {
			if s.first >= s.end || s.end > len(q.crypto) || i > 0 && q.have[i-1].end >= s.first {
				t.Fatalf("%v of %d bytes", q.have, len(q.crypto))
			}
		}
	})
}

func BenchmarkQUIC(b *testing.B) {
	p := initialPacket(b, version1, 0, cryptoFrame(0, quicMessage(b, "media.corp.example")))
	b.ReportAllocs()
	for b.Loop() {
		var q QUIC
		if _, s := q.Datagram(p); s != Done {
			b.Fatal(s)
		}
	}
}
