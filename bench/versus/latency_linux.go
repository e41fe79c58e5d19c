package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"time"
)

// pageSize is the size of the answers to requests over HTTP, in bytes.
const pageSize = 1 << 10

// latencies are how long requests took.
type latencies struct {
	Requests int
	P50, P99 time.Duration
}

// serveHTTP answers every request with a page.
func serveHTTP(l net.Listener) {
	page := make([]byte, pageSize)
	(&http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.Write(page) })}).Serve(l)
}

// measureLatency asks for the page again and again, one request at a time on one connection.
func measureLatency(ctx context.Context, dial dialFunc, addr string, d time.Duration) (latencies, error) {
	transport := &http.Transport{DialContext: dial, DisableCompression: true}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport, Timeout: 10 * time.Second}
	get := func() error {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+addr+"/", nil)
		if err != nil {
			return err
		}
		resp, err := client.Do(req)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if n, err := io.Copy(io.Discard, resp.Body); err != nil || n != pageSize {
			return fmt.Errorf("the page has %d bytes, error %v", n, err)
		}
		return nil
	}
	for range 10 { // the first request connects
		if err := get(); err != nil {
			return latencies{}, err
		}
	}
	var took []time.Duration
	for begin := time.Now(); time.Since(begin) < d; {
		t := time.Now()
		if err := get(); err != nil {
			return latencies{}, err
		}
		took = append(took, time.Since(t))
	}
	return summarize(took)
}

// summarize returns the quantiles.
func summarize(took []time.Duration) (latencies, error) {
	if len(took) == 0 {
		return latencies{}, errors.New("no request was finished in time")
	}
	slices.Sort(took)
	at := func(q float64) time.Duration { return took[min(int(q*float64(len(took))), len(took)-1)] }
	return latencies{Requests: len(took), P50: at(0.50), P99: at(0.99)}, nil
}
