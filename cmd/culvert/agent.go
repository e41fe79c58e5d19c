package main

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"os"
	"sync"
	"time"

	"culvert.example/vpn"
	"culvert.example/vpn/flow/health"
	"culvert.example/vpn/policy/decision"
	"culvert.example/vpn/policy/plan"
	"culvert.example/vpn/system"
)

// The control protocol of a client that a whole machine uses has
//
//	GET  /v1/status                  a machineReport
//	GET  /v1/explain                 a decision.Verdict; see explainPath
//	POST /v1/disconnect              ends it; the answer comes when the machine is as before
//	POST /v1/network/{wish}          pause, resume or portal: what a person wants where the network decides; see wishes
//	POST /v1/data-path/confirm       whether packets take {"path": "flow" or "packet"}, or without that the path that is wanted
//	POST /v1/data-path/revert        goes back to the flow path
//	POST /v1/data-path/failover      leaves it for the packet path
//
// Those about the data path answer with a dataPathReport. Only root and the user of the process may ask: the socket is theirs, and the
// kernel says who it is.

// A machine is what the control protocol needs of system.System.
type controlledMachine interface {
	Status() system.Status
	Confirm(want health.Path) error
	Revert(ctx context.Context) error
	Failover() error
}

// An agent answers for a client that a whole machine uses.
type agent struct {
	sys     controlledMachine
	server  string
	started time.Time

	// leave gets a disconnection that somebody asks for. Whoever takes it closes it when all is undone.
	leave chan *departure

	plan *plan.Plan // what the documents say, nil without any
	// explain says what becomes of a flow, nil if nobody can.
	explain func(context.Context, decision.Query) decision.Verdict
	auto    *automat // what decides by the network, nil if nothing does
	scripts string   // where the scripts of the user are, "" if they may not run

	mu     sync.Mutex
	status func() vpn.Status // of the tunnel, nil while there is none
	err    error             // why there is none
	proxy  string            // by which the gateway is reached, and why
}

// A departure is a disconnection that somebody has asked for.
type departure struct {
	done chan struct{}

	// Once done is closed, err is what could not be undone, and locked says that the kill switch stays.
	err    error
	locked bool
}

// A farewellReport answers the one who has asked for a disconnection.
type farewellReport struct {
	// Locked says that the kill switch stays closed.
	Locked bool `json:"locked,omitempty"`
}

func newAgent(sys controlledMachine, server string) *agent {
	return &agent{sys: sys, server: server, started: time.Now(), leave: make(chan *departure)}
}

// tunnel says that there is a tunnel now, or with nil that there is none, because of err.
func (g *agent) tunnel(status func() vpn.Status, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.status, g.err = status, err
}

// dials says which gateway is dialled, and through which proxy.
func (g *agent) dials(server, proxy string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.server, g.proxy = server, proxy
}

// report tells how everything is.
func (g *agent) report() machineReport {
	g.mu.Lock()
	status, err, server, proxy := g.status, g.err, g.server, g.proxy
	g.mu.Unlock()
	var tunnel *vpn.Status
	if status != nil {
		s := status()
		tunnel = &s
	}
	r := reportOf(tunnel, g.sys.Status())
	r.PID, r.Started = os.Getpid(), g.started
	r.govern(g.plan)
	r.Scripts, r.Proxy = g.scripts, proxy
	r.Network = g.auto.status()
	if r.Server == "" {
		r.Server = server
	}
	if r.LastError == "" && err != nil {
		r.LastError = oneLine(plainText(err))
	}
	return r
}

// handler answers the control protocol. Requests that wait end with ctx.
func (g *agent) handler(ctx context.Context) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/status", func(w http.ResponseWriter, _ *http.Request) { answer(w, http.StatusOK, g.report()) })
	if g.explain != nil {
		mux.Handle("GET "+explainPath, explainHandler(g.explain))
	}
	mux.HandleFunc("POST /v1/disconnect", func(w http.ResponseWriter, r *http.Request) {
		if err := g.auto.mayLeave(r.Context()); err != nil {
			refuse(w, err)
			return
		}
		d := &departure{done: make(chan struct{})}
		select {
		case g.leave <- d:
		case <-ctx.Done():
			answer(w, http.StatusConflict, failure{Error: "it is ending already"})
			return
		case <-r.Context().Done():
			return
		}
		// The work goes on if the asker does not wait for it.
		select {
		case <-d.done:
		case <-r.Context().Done():
			return
		}
		if d.err != nil {
			refuse(w, d.err)
			return
		}
		answer(w, http.StatusOK, farewellReport{d.locked})
	})
	mux.HandleFunc("POST /v1/network/{wish}", steerHandler(g.auto))
	path := func(do func(ctx context.Context, want string) error) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			var body struct {
				Path string `json:"path"`
			}
			if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 4096)).Decode(&body); err != nil && !errors.Is(err, io.EOF) {
				answer(w, http.StatusBadRequest, failure{Error: err.Error()})
				return
			}
			if err := do(r.Context(), body.Path); err != nil {
				refuse(w, err)
				return
			}
			answer(w, http.StatusOK, dataPathOf(g.sys.Status().DataPath))
		}
	}
	mux.HandleFunc("POST /v1/data-path/confirm", path(func(_ context.Context, want string) error {
		p, err := g.wanted(want)
		if err != nil {
			return err
		}
		return g.sys.Confirm(p)
	}))
	mux.HandleFunc("POST /v1/data-path/revert", path(func(ctx context.Context, _ string) error { return g.sys.Revert(ctx) }))
	mux.HandleFunc("POST /v1/data-path/failover", path(func(ctx context.Context, _ string) error {
		if err := g.sys.Failover(); err != nil {
			return err
		}
		g.settle(ctx)
		return nil
	}))
	return mux
}

// settleTime is how long a change of the path may take that somebody is told of.
const settleTime = 2 * time.Second

// settle waits until packets have left the flow path.
func (g *agent) settle(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, settleTime)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		if r := g.sys.Status().DataPath.Report; r == nil || r.Path != health.Flow && r.Confirmed {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// wanted returns the path of that name, or the one that is configured if the name is empty.
func (g *agent) wanted(name string) (health.Path, error) {
	switch name {
	case "flow":
		return health.Flow, nil
	case "packet":
		return health.Packet, nil
	case "":
		if g.sys.Status().DataPath.Report != nil {
			return health.Flow, nil
		}
		return health.Packet, nil
	}
	return health.Nowhere, usagef("data path %s: want packet or flow", oneLine(name))
}

// refuse answers with an error and the exit status that the one who asked should end with.
func refuse(w http.ResponseWriter, err error) {
	answer(w, http.StatusConflict, failure{Error: oneLine(plainText(err)), Exit: codeOf(err)})
}

// serveAgent answers the control protocol until it is stopped, which lets answers that are under way be sent.
func (a *app) serveAgent(w *whereFlags, g *agent) (stop func(), err error) {
	if w.control == "none" {
		return func() {}, nil
	}
	l, err := listenControl("connect", w.controlPaths(a.getenv)[0])
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	srv := controlServer(g.handler(ctx))
	done := make(chan struct{})
	go func() {
		defer close(done)
		srv.Serve(sameUser(l))
	}()
	return sync.OnceFunc(func() {
		cancel()
		ctx, cancel := context.WithTimeout(context.Background(), farewell)
		defer cancel()
		if srv.Shutdown(ctx) != nil {
			srv.Close()
		}
		<-done
	}), nil
}
