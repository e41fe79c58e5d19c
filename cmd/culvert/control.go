package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"culvert.example/vpn/gateway"
)

// The control protocol of a gateway is HTTP and JSON over a Unix socket that only its user may open:
//
//	GET  /v1/sessions                        the sessions, as an array of gateway.SessionInfo
//	POST /v1/sessions/{id}/disconnect        ends a session; the body may hold {"reason": "..."}
//
// Errors are {"error": "..."} with a status that is not 200.

// A controlled gateway is what the control protocol needs of gateway.Server.
type controlled interface {
	Sessions() []gateway.SessionInfo
	Disconnect(id, reason string) error
}

// maxControl bounds what goes over the control socket, in bytes.
const maxControl = 16 << 20

// controlPaths returns where the socket may be, the place where a server of this user puts it first.
func controlPaths(getenv func(string) string) []string {
	var paths []string
	if os.Getuid() == 0 {
		paths = append(paths, "/run/culvert/serve.sock")
	}
	if dir := getenv("XDG_RUNTIME_DIR"); dir != "" {
		paths = append(paths, filepath.Join(dir, "culvert", "serve.sock"))
	}
	return paths
}

// listenControl opens the socket, in place of one that a dead server has left.
func listenControl(path string) (net.Listener, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("--control: %w", err)
	}
	if fi, err := os.Lstat(path); err == nil {
		if fi.Mode()&os.ModeSocket == 0 {
			return nil, fmt.Errorf("--control: %s is there and is no socket", path)
		}
		if c, err := net.DialTimeout("unix", path, time.Second); err == nil {
			c.Close()
			return nil, fmt.Errorf("--control: another culvert serve answers at %s; give each its own --control", path)
		}
		os.Remove(path)
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("--control: %w", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		l.Close()
		return nil, fmt.Errorf("--control: %w", err)
	}
	return l, nil
}

// controlHandler answers the control protocol for a gateway.
func controlHandler(gw controlled) http.Handler {
	mux := http.NewServeMux()
	answer := func(w http.ResponseWriter, status int, v any) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		json.NewEncoder(w).Encode(v)
	}
	type failure struct {
		Error string `json:"error"`
	}
	mux.HandleFunc("GET /v1/sessions", func(w http.ResponseWriter, _ *http.Request) {
		sessions := gw.Sessions()
		if sessions == nil {
			sessions = []gateway.SessionInfo{}
		}
		answer(w, http.StatusOK, sessions)
	})
	mux.HandleFunc("POST /v1/sessions/{id}/disconnect", func(w http.ResponseWriter, r *http.Request) {
		var body struct {
			Reason string `json:"reason"`
		}
		if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 4096)).Decode(&body); err != nil && !errors.Is(err, io.EOF) {
			answer(w, http.StatusBadRequest, failure{err.Error()})
			return
		}
		if body.Reason == "" {
			body.Reason = "disconnected by the administrator"
		}
		if err := gw.Disconnect(r.PathValue("id"), body.Reason); err != nil {
			answer(w, http.StatusNotFound, failure{err.Error()})
			return
		}
		answer(w, http.StatusOK, struct{}{})
	})
	return mux
}

// A controlClient speaks the control protocol.
type controlClient struct{ http *http.Client }

// dialControl finds the server: at path, or where one may be.
func dialControl(path string, getenv func(string) string) (*controlClient, error) {
	paths := []string{path}
	if path == "" {
		if paths = controlPaths(getenv); len(paths) == 0 {
			return nil, usagef("where is the gateway? Give its --control PATH")
		}
	}
	var errs []error
	for _, p := range paths {
		c, err := net.DialTimeout("unix", p, 2*time.Second)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		c.Close()
		return &controlClient{&http.Client{
			Timeout: 10 * time.Second,
			Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				return new(net.Dialer).DialContext(ctx, "unix", p)
			}},
		}}, nil
	}
	return nil, fmt.Errorf("no culvert serve answers (is it running, as this user, and with the same --control?): %w", errors.Join(errs...))
}

// call makes a request and decodes the answer into v.
func (c *controlClient) call(ctx context.Context, method, path string, body io.Reader, v any) error {
	req, err := http.NewRequestWithContext(ctx, method, "http://culvert"+path, body)
	if err != nil {
		return err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	dec := json.NewDecoder(io.LimitReader(resp.Body, maxControl))
	if resp.StatusCode != http.StatusOK {
		var f struct {
			Error string `json:"error"`
		}
		if dec.Decode(&f) == nil && f.Error != "" {
			return errors.New(f.Error)
		}
		return fmt.Errorf("the gateway answers %s", resp.Status)
	}
	return dec.Decode(v)
}
