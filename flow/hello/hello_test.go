package hello

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"
)

// clientHello returns what crypto/tls sends first to a server of that name: one record.
func clientHello(tb testing.TB, name string) []byte {
	tb.Helper()
	client, server := net.Pipe()
	defer server.Close()
	go func() {
		c := tls.Client(client, &tls.Config{ServerName: name, InsecureSkipVerify: true})
		c.Handshake()
		c.Close()
	}()
	server.SetDeadline(time.Now().Add(5 * time.Second))
	header := make([]byte, recordHeader)
	if _, err := io.ReadFull(server, header); err != nil {
		tb.Fatal(err)
	}
	body := make([]byte, int(header[3])<<8|int(header[4]))
	if _, err := io.ReadFull(server, body); err != nil {
		tb.Fatal(err)
	}
	return append(header, body...)
}

// message returns the handshake message in a record.
func message(record []byte) []byte { return record[recordHeader:] }

// build returns a ClientHello with the given extensions, each with its header.
func build(extensions ...[]byte) []byte {
	body := append([]byte{3, 3}, make([]byte, 32)...)
	body = append(body, 0)          // session id
	body = append(body, 0, 2, 1, 1) // cipher suites
	body = append(body, 1, 0)       // compression
	if extensions != nil {
		all := bytes.Join(extensions, nil)
		body = append(body, byte(len(all)>>8), byte(len(all)))
		body = append(body, all...)
	}
	return append([]byte{handshakeHello, byte(len(body) >> 16), byte(len(body) >> 8), byte(len(body))}, body...)
}

func extension(kind int, body []byte) []byte {
	return append([]byte{byte(kind >> 8), byte(kind), byte(len(body) >> 8), byte(len(body))}, body...)
}

func sni(name string) []byte {
	n := len(name)
	return extension(0, append([]byte{byte((n + 3) >> 8), byte(n + 3), nameHost, byte(n >> 8), byte(n)}, name...))
}

// records cuts a message into records of up to size bytes.
func records(m []byte, size int) (b []byte) {
	for len(m) > 0 {
		n := min(size, len(m))
		b = append(b, recordHandshake, 3, 1, byte(n>>8), byte(n))
		b = append(b, m[:n]...)
		m = m[n:]
	}
	return b
}

func TestTLS(t *testing.T) {
	real := clientHello(t, "www.corp.example")
	late := build(extension(21, make([]byte, 20000)), sni("late.example"))
	lying := records(build(sni("a.example")), 4000)
	lying[recordHeader+3] -= 3 // the message says that it is shorter than its extensions
	for _, tt := range []struct {
		name  string
		in    []byte
		want  string
		state State
	}{
		{"of a real client", real, "www.corp.example", Done},
		{"and application data behind it", append(real[:len(real):len(real)], 23, 3, 3, 0, 1, 0), "www.corp.example", Done},
		{"nothing", nil, "", More},
		{"one byte", []byte{22}, "", More},
		{"in records of 1 byte", records(message(real), 1), "www.corp.example", Done},
		{"in records of 7 bytes", records(message(real), 7), "www.corp.example", Done},
		{"no extensions at all", records(build(), 4000), "", Done},
		{"no name", records(build(extension(10, []byte{0, 2, 0, 23})), 4000), "", Done},
		{"upper case and a final dot", records(build(sni("WWW.Corp.Example.")), 4000), "www.corp.example", Done},
		{"an address", records(build(sni("192.0.2.1")), 4000), "", Done},
		{"an empty name", records(build(sni("")), 4000), "", Done},
		{"an empty label", records(build(sni("a..example")), 4000), "", Done},
		{"a long label", records(build(sni(strings.Repeat("a", 64)+".example")), 4000), "", Done},
		{"a long name", records(build(sni(strings.Repeat("a.", 127)+"example")), 4000), "", Done},
		{"bytes that are no letters", records(build(sni("a\n.example")), 4000), "", Done},
		{"an extension without a body", records(build(extension(0, nil)), 4000), "", Done},
		{"the name later than anybody looks", records(late, 16384), "", Done},
		{"SSH", []byte("SSH-2.0-OpenSSH_9.2\r\n"), "", Other},
		{"HTTP", []byte("GET / HTTP/1.1\r\n"), "", Other},
		{"an alert", []byte{21, 3, 3, 0, 2, 2, 40}, "", Other},
		{"a ServerHello", []byte{22, 3, 3, 0, 5, 2, 0, 0, 1, 0}, "", Other},
		{"an empty record", []byte{22, 3, 3, 0, 0}, "", Other},
		{"a record that is too long", []byte{22, 3, 3, 0xff, 0xff}, "", Other},
		{"another version", []byte{22, 2, 3}, "", Other},
		{"something else in the second record", append(records(message(real)[:20], 20), 23, 3, 3, 0, 1), "", Other},
		{"a message that contradicts itself", lying, "", Other},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if name, s := TLS(tt.in); name != tt.want || s != tt.state {
				t.Errorf("TLS = %q, %v, want %q, %v", name, s, tt.want, tt.state)
			}
		})
	}
}

// However a stream is cut, the answer is More until it is the final one.
func TestTLSGrows(t *testing.T) {
	b := records(message(clientHello(t, "www.corp.example")), 50)
	done := false
	for i := range b {
		name, s := TLS(b[:i])
		switch {
		case s == More && !done:
		case s == Done && name == "www.corp.example":
			done = true
		default:
			t.Fatalf("after %d of %d bytes: %q, %v", i, len(b), name, s)
		}
	}
	if !done {
		t.Error("the name is found only at the end of the message, though it stands before")
	}
}

// The bytes of a client that never comes to an end are not looked at for ever.
func TestTLSBound(t *testing.T) {
	endless := append([]byte{handshakeHello, 0xff, 0xff, 0xff, 3, 3}, make([]byte, 40<<10)...)
	for _, size := range []int{1, 100, 16384} {
		if name, s := TLS(records(endless, size)); name != "" || s == More {
			t.Errorf("records of %d bytes: %q, %v", size, name, s)
		}
	}
}

// One allocation is the name.
func TestTLSAllocs(t *testing.T) {
	b := clientHello(t, "www.corp.example")
	if n := testing.AllocsPerRun(100, func() { TLS(b) }); n > 1 {
		t.Errorf("%v allocations", n)
	}
}

// quicMessage returns the ClientHello of a QUIC client, without framing.
func quicMessage(tb testing.TB, name string) []byte {
	tb.Helper()
	c := tls.QUICClient(&tls.QUICConfig{TLSConfig: &tls.Config{ServerName: name, MinVersion: tls.VersionTLS13, NextProtos: []string{"h3"}}})
	defer c.Close()
	c.SetTransportParameters([]byte{1, 2, 0x40, 0x64})
	if err := c.Start(context.Background()); err != nil {
		tb.Fatal(err)
	}
	var m []byte
	for {
		switch e := c.NextEvent(); e.Kind {
		case tls.QUICWriteData:
			m = append(m, e.Data...)
		case tls.QUICNoEvent:
			if m == nil {
				tb.Fatal(errors.New("the client says nothing"))
			}
			return m
		}
	}
}

func FuzzTLS(f *testing.F) {
	real := clientHello(f, "www.corp.example")
	f.Add(real)
	f.Add(records(message(real), 9))
	f.Add(records(build(), 4000))
	f.Add([]byte("SSH-2.0-x"))
	f.Fuzz(func(t *testing.T, b []byte) {
		before := bytes.Clone(b)
		name, s := TLS(b)
		if !bytes.Equal(b, before) {
			t.Fatal("the bytes were changed")
		}
		if name != "" && (s != Done || canonical([]byte(name)) != name) {
			t.Fatalf("%q, %v", name, s)
		}
		// What is known does not change by what comes after it.
		if s != More {
			if again, s2 := TLS(append(b[:len(b):len(b)], 22, 3, 3, 0, 1, 1)); s2 != s || again != name {
				t.Fatalf("%q, %v became %q, %v", name, s, again, s2)
			}
		}
	})
}
