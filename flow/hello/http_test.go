package hello

import (
	"strings"
	"testing"
)

func TestHTTP(t *testing.T) {
	for _, tt := range []struct {
		in, name string
		state    State
	}{
		{"", "", More},
		{"GE", "", More},
		{"GET / HTTP/1.1\r\n", "", More},
		{"GET / HTTP/1.1\r\nHost: a.exam", "", More},
		{"GET / HTTP/1.1\r\nHost: a.example\r\n", "", More}, // another one may follow
		{"GET / HTTP/1.1\r\nHost: A.Example.:8080\r\n\r\n", "a.example", Done},
		{"GET / HTTP/1.0\nhost:intranet\n\n", "intranet", Done},
		{"POST /x HTTP/1.1\r\nA: b\r\nHost : a.example\r\n\r\nbody", "a.example", Done},
		{"GET / HTTP/1.1\r\nHost: a.example\r\nHost: b.example\r\n\r\n", "", Done},
		{"GET / HTTP/1.1\r\nHost: a.example\r\n b.example\r\n\r\n", "", Done},
		{"GET http://u@b.example:80/x HTTP/1.1\r\nHost: a.example\r\n\r\n", "b.example", Done},
		{"GET http://b.example?x HTTP/1.1\r\n", "b.example", Done},
		{"GET /?u=http://b.example/ HTTP/1.1\r\nHost: a.example\r\n\r\n", "a.example", Done},
		{"GET / HTTP/1.1\r\nHost: 192.0.2.1\r\n\r\n", "", Done},
		{"GET / HTTP/1.1\r\nHost: [2001:db8::1]:80\r\n\r\n", "", Done},
		{"GET / HTTP/1.1\r\n\r\n", "", Done},
		{"CONNECT b.example:443 HTTP/1.1\r\nHost: b.example\r\n\r\n", "", Done},
		{"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "", Other},
		{"SSH-2.0-x\r\n", "", Other},
		{"EHLO a.example\r\n", "", Other},
		{"get / HTTP/1.1\r\n", "", Other},
		{strings.Repeat("A", 30), "", Other},
		{"GET /" + strings.Repeat("x", MaxSize), "", Other},
		{"GET / HTTP/1.1\r\nA: " + strings.Repeat("x", MaxSize), "", Done},
	} {
		if name, state := HTTP([]byte(tt.in)); name != tt.name || state != tt.state {
			t.Errorf("%.60q: %q, %v, want %q, %v", tt.in, name, state, tt.name, tt.state)
		}
	}
}

// FuzzHTTP: more bytes never take back what was said, and a name is one.
func FuzzHTTP(f *testing.F) {
	for _, s := range []string{"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n", "GET http://b.example/ HTTP/1.1\r\n", "EHLO x\r\n", "\x16\x03\x01"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		name, state := HTTP(b)
		if name != "" && (state != Done || canonical([]byte(name)) != name) {
			t.Errorf("%q: %q, %v", b, name, state)
		}
		if state == More {
			return
		}
		if n, s := HTTP(append(b[:len(b):len(b)], 'x')); n != name || s != state {
			t.Errorf("%q: %q, %v, and with more %q, %v", b, name, state, n, s)
		}
	})
}
