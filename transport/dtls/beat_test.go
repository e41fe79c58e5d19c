package dtls

import (
	"testing"
	"time"

	"culvert.example/vpn/transport/liveness"
)

// TestKeepaliveIsShort: gateways leave a DTLS channel that is silent for 15 s, whatever interval they announce.
func TestKeepaliveIsShort(t *testing.T) {
	for announced, want := range map[time.Duration]time.Duration{
		0: 10 * time.Second, 32400 * time.Second: 10 * time.Second, 4 * time.Second: 4 * time.Second,
	} {
		if got := clientBeat(liveness.Config{Keepalive: announced}).Keepalive; got != want {
			t.Errorf("announced %v: %v, want %v", announced, got, want)
		}
	}
}
