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
	"syscall"
	"time"

	"culvert.example/vpn/gateway"
)

// A control protocol is HTTP and JSON over a Unix socket that only its user may open. That of a gateway has
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

// serveSocket is the name of the socket of a gateway, connectSocket that of a client that a whole machine uses.
const (
	serveSocket   = "serve.sock"
	connectSocket = "connect.sock"
)

// rootSockets is the directory of the sockets of root.
const rootSockets = "/run/culvert"

// maxControl bounds what goes over the control socket, in bytes.
const maxControl = 16 << 20

// controlPaths returns where the socket of that name may be, the place where a process of this user puts it first.
func controlPaths(getenv func(string) string, name string) []string {
	var paths []string
	if os.Getuid() == 0 {
		paths = append(paths, filepath.Join(rootSockets, name))
	}
	if dir := getenv("XDG_RUNTIME_DIR"); dir != "" {
		paths = append(paths, filepath.Join(dir, "culvert", name))
	}
	return paths
}

// listenControl opens the socket of a command, in place of one that a dead process has left.
func listenControl(command, path string) (net.Listener, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("--control: %w", err)
	}
	if fi, err := os.Lstat(path); err == nil {
		if fi.Mode()&os.ModeSocket == 0 {
			return nil, fmt.Errorf("--control: %s is there and is no socket", path)
		}
		if c, err := net.DialTimeout("unix", path, time.Second); err == nil {
			c.Close()
			return nil, fmt.Errorf("--control: another culvert %s answers at %s; give each its own --control", command, path)
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

// answer answers a request of a control protocol.
func answer(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(v)
}

// A failure is the answer to a request that failed. Exit is the exit status that the command asking should end with.
type failure struct {
	Error string   `json:"error"`
	Exit  exitCode `json:"exit,omitempty"`
}

// controlServer returns a server for a handler of a control protocol.
func controlServer(h http.Handler) *http.Server {
	return &http.Server{Handler: h, ReadHeaderTimeout: farewell, IdleTimeout: time.Minute, MaxHeaderBytes: 16 << 10}
}

// controlHandler answers the control protocol for a gateway.
func controlHandler(gw controlled) http.Handler {
	mux := http.NewServeMux()
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
			answer(w, http.StatusBadRequest, failure{Error: err.Error()})
			return
		}
		if body.Reason == "" {
			body.Reason = "disconnected by the administrator"
		}
		if err := gw.Disconnect(r.PathValue("id"), body.Reason); err != nil {
			answer(w, http.StatusNotFound, failure{Error: err.Error()})
			return
		}
		answer(w, http.StatusOK, struct{}{})
	})
	return mux
}

// A controlClient speaks a control protocol.
type controlClient struct {
	command string // whom it speaks with
	http    *http.Client
}

// errNotRunning reports that nobody answers a control protocol.
var errNotRunning = errors.New("it is not running")

// dialControl finds a gateway: at path, or where one may be.
func dialControl(path string, getenv func(string) string) (*controlClient, error) {
	paths := []string{path}
	if path == "" {
		if paths = controlPaths(getenv, serveSocket); len(paths) == 0 {
			return nil, usagef("where is the gateway? Give its --control PATH")
		}
	}
	c, err := dialControlAt("serve", paths)
	if err != nil {
		return nil, fmt.Errorf("no culvert serve answers (is it running, as this user, and with the same --control?): %w", err)
	}
	return c, nil
}

// dialControlAt finds the process that answers at one of the paths. If nobody does since there is none, the error matches
// errNotRunning; if it is not for this user to ask there, it is a *closedSocketError.
func dialControlAt(command string, paths []string) (*controlClient, error) {
	var errs []error
	absent := true
	for _, p := range paths {
		c, err := net.DialTimeout("unix", p, 2*time.Second)
		if errors.Is(err, os.ErrPermission) {
			return nil, &closedSocketError{command, p, "sudo culvert status"}
		}
		if err != nil {
			errs = append(errs, err)
			absent = absent && (errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED))
			continue
		}
		c.Close()
		return &controlClient{command, &http.Client{
			Timeout: 30 * time.Second,
			Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				return new(net.Dialer).DialContext(ctx, "unix", p)
			}},
		}}, nil
	}
	err := errors.Join(errs...)
	if absent {
		err = fmt.Errorf("%w: %w", errNotRunning, err)
	}
	return nil, err
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
		var f failure
		if dec.Decode(&f) == nil && f.Error != "" {
			return &toldError{f}
		}
		return fmt.Errorf("culvert %s answers %s", c.command, resp.Status)
	}
	return dec.Decode(v)
}

// A toldError is an error that the process at the other end of a control socket has told.
type toldError struct{ failure }

// Error implements error.
func (e *toldError) Error() string { return e.failure.Error }
