package gateway

import (
	"context"
	"errors"
	"net/netip"
	"testing"
	"time"
)

func TestPinger(t *testing.T) {
	p := &pinger{}
	defer p.close()
	for _, to := range []string{"127.0.0.1", "::1"} {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		err := p.ping(ctx, netip.MustParseAddr(to), []byte("are you there?"))
		cancel()
		if errors.Is(err, errNoPing) {
			t.Skipf("the system lets this process send no pings to %s", to)
		}
		if err != nil {
			t.Errorf("ping of %s: %v", to, err)
		}
	}
	p.close()
	if err := p.ping(context.Background(), netip.MustParseAddr("127.0.0.1"), nil); !errors.Is(err, errNoPing) {
		t.Errorf("after close: %v", err)
	}
}
