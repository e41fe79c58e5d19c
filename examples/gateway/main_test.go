package main

import (
	"bufio"
	"context"
	"io"
	"strings"
	"testing"
	"time"

	vpn "culvert.example/vpn"
	"culvert.example/vpn/internal/leak"
	"culvert.example/vpn/transport/login"
)

func TestRun(t *testing.T) {
	leak.Check(t)
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	r, w := io.Pipe()
	done := make(chan error, 1)
	go func() { done <- run(ctx, "127.0.0.1:0", w); w.Close() }()
	line, err := bufio.NewReader(r).ReadString('\n')
	if err != nil {
		t.Fatal(err, <-done)
	}
	url, pin, _ := strings.Cut(strings.TrimSpace(line), " ")
	tunnel, err := vpn.Dial(ctx, url, &vpn.Config{
		Login: login.Fixed{Username: "alice", Password: "pass"}, Pins: []string{pin},
	})
	if err != nil {
		t.Fatal(err)
	}
	if got := tunnel.Status().Addresses; len(got) != 2 {
		t.Errorf("addresses %v, want one of each family", got)
	}
	tunnel.Close()
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
