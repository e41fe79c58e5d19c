package anyconnect_test

import (
	"slices"
	"testing"
	"time"

	"culvert.example/vpn/gateway/gatewaytest"
	"culvert.example/vpn/internal/leak"
	"culvert.example/vpn/transport/anyconnect"
	"culvert.example/vpn/transport/failover"
)

// reaches waits until the session is in a state.
func reaches(t *testing.T, s *anyconnect.Session, within time.Duration, what string, ok func(failover.State) bool) {
	t.Helper()
	for end := time.Now().Add(within); !ok(s.State()); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within %v: %s: %+v", within, what, s.State())
		}
	}
}

func opens(state failover.State, path string) (n uint64, open bool) {
	i := slices.IndexFunc(state.Paths, func(p failover.PathState) bool { return p.Name == path })
	return state.Paths[i].Opens, state.Paths[i].Open
}

// TestNewOffer has a new TLS connection come while DTLS is being opened on the terms of the old one, at a time when no datagram gets
// through. The attempt is void then, and must not keep DTLS from being opened as soon as that is possible.
func TestNewOffer(t *testing.T) {
	leak.Check(t)
	gw := gatewaytest.New(t)
	s := open(t, dialer(gw))
	if st := s.State(); st.Active == "" {
		t.Errorf("a session without a path: %+v", st)
	}
	reaches(t, s, 5*time.Second, "DTLS is open", func(st failover.State) bool { return st.Active == anyconnect.DTLS })
	if s.Cipher(anyconnect.DTLS) == "" || s.Cipher(anyconnect.TLS) == "" || s.Cipher("tcp") != "" {
		t.Errorf("ciphers %q and %q", s.Cipher(anyconnect.DTLS), s.Cipher(anyconnect.TLS))
	}
	gw.CutUDP(true)
	s.NetworkChanged()
	reaches(t, s, 5*time.Second, "DTLS is dead", func(st failover.State) bool { return st.Active == anyconnect.TLS })
	if c := s.Cipher(anyconnect.DTLS); c != "" {
		t.Errorf("the dead DTLS has the cipher suite %q", c)
	}
	time.Sleep(100 * time.Millisecond) // the attempt begins
	gw.ResetTCP()
	gw.CutUDP(false)
	reaches(t, s, 5*time.Second, "TLS is back", func(st failover.State) bool {
		n, open := opens(st, anyconnect.TLS)
		return open && n == 2
	})
	reaches(t, s, 4*time.Second, "DTLS is back", func(st failover.State) bool { return st.Active == anyconnect.DTLS })
	if n := len(gw.Sessions()); n != 1 {
		t.Errorf("%d sessions", n)
	}
}
