package main

import (
	"context"
	"testing"
	"time"

	"culvert.example/vpn/internal/netns"
)

// TestAddressNews gives a host an address and takes it away.
func TestAddressNews(t *testing.T) {
	h := netns.New(t).Host("a")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var news <-chan struct{}
	h.Do(func() { news = addressNews(ctx) })
	if news == nil {
		t.Fatal("the kernel does not tell")
	}
	select {
	case <-news:
		t.Error("news of nothing")
	case <-time.After(50 * time.Millisecond):
	}
	for _, what := range []string{"add", "del"} {
		for _, address := range []string{"192.0.2.1/32", "2001:db8::1/128"} {
			h.IP("address", what, address, "dev", "lo")
			select {
			case <-news:
			case <-time.After(5 * time.Second):
				t.Errorf("no news of %s %s", what, address)
			}
		}
	}
}

func TestWatchAddresses(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	news, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		watchAddresses(ctx, nil, news, func() { t.Error("the addresses have not changed") })
	}()
	news <- struct{}{}
	news <- struct{}{}
	cancel()
	select {
	case <-ended:
	case <-time.After(5 * time.Second):
		t.Error("it does not end")
	}
}
