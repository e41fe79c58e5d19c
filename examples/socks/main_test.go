package main

import (
	"bufio"
	"context"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"culvert.example/vpn/gateway/gatewaytest"
	"culvert.example/vpn/internal/leak"
)

func TestRun(t *testing.T) {
	leak.Check(t)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	r, w := io.Pipe()
	done := make(chan error, 1)
	go func() { done <- run(ctx, "127.0.0.1:0", w); w.Close() }()
	line, err := bufio.NewReader(r).ReadString('\n')
	if err != nil {
		t.Fatal(err, <-done)
	}
	fields := strings.Fields(line) // try: curl --socks5-hostname ADDRESS URL
	transport := &http.Transport{Proxy: http.ProxyURL(&url.URL{Scheme: "socks5h", Host: fields[3]})}
	defer transport.CloseIdleConnections()
	res, err := (&http.Client{Transport: transport}).Get(fields[4])
	if err != nil {
		t.Fatal(err)
	}
	page, err := io.ReadAll(res.Body)
	res.Body.Close()
	if err != nil || string(page) != gatewaytest.Page {
		t.Errorf("got %q, %v", page, err)
	}
	transport.CloseIdleConnections()
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
