// Command scale measures what many tunnels cost: the tunnels of one process, embedded by vpn.Dial, to one of our gateways in another
// process, over the loopback interface. It needs no privileges.
//
//	go run ./bench/scale [--tunnels 1000] [--json FILE] [--markdown]
//
// It opens all tunnels, leaves them idle, and then has each of them carry a small request and its answer every second. What is
// printed for each phase is counted by the system: resident memory, processor time, descriptors and context switches, less what the
// process had before the first tunnel. Resident memory is given twice: as it stands, with what the collector of garbage has not
// given back yet, and after it was asked to give all of it back. The live heap is what the tunnels refer to.
//
// The numbers are those of the whole path: TLS and DTLS are both open, and everything is encrypted and verified as it
// always is. Memory of the kernel, such as that of sockets, is not in them.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"runtime/pprof"
	"time"
)

// settings are the flags.
type settings struct {
	tunnels, concurrent int
	idle, traffic       time.Duration
	noDTLS              bool
	jsonFile            string
	markdown            bool
	profiles            string
}

func main() {
	if len(os.Args) == 3 && os.Args[1] == serveArg {
		exit(serve(os.Stdin, os.Stdout, os.Args[2]))
	}
	var s settings
	flag.IntVar(&s.tunnels, "tunnels", 1000, "how many tunnels to open")
	flag.IntVar(&s.concurrent, "concurrent", 16, "how many of them to open at a time")
	flag.DurationVar(&s.idle, "idle", 30*time.Second, "how long they are idle")
	flag.DurationVar(&s.traffic, "traffic", 20*time.Second, "how long each then sends a request every second")
	flag.BoolVar(&s.noDTLS, "no-dtls", false, "stay on TLS")
	flag.StringVar(&s.jsonFile, "json", "", "write the result to this `file` too")
	flag.BoolVar(&s.markdown, "markdown", false, "print a table in Markdown")
	flag.StringVar(&s.profiles, "profiles", "", "write heap and goroutine profiles of the idle processes to this `directory`")
	flag.Parse()
	if flag.NArg() > 0 || s.tunnels < 1 || s.concurrent < 1 || s.idle <= 0 || s.traffic <= 0 {
		flag.Usage()
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	exit(run(ctx, s))
}

func exit(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "scale:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

// run measures, and prints the result.
func run(ctx context.Context, s settings) error {
	r, err := measure(ctx, s)
	if err != nil {
		return err
	}
	if s.jsonFile != "" {
		text, err := json.MarshalIndent(r, "", "\t")
		if err != nil {
			return err
		}
		if err := os.WriteFile(s.jsonFile, append(text, '\n'), 0o644); err != nil {
			return err
		}
	}
	return r.print(os.Stdout, s.markdown)
}

// settle is how long the processes are left alone before a measurement begins, so that what came before is over.
const settle = 3 * time.Second

func measure(ctx context.Context, s settings) (r *result, err error) {
	gw, err := startGateway(ctx, s.profiles)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, gw.close()) }()
	r = &result{
		Date: time.Now().UTC().Format(time.DateOnly), System: runtime.GOOS + "/" + runtime.GOARCH, Go: runtime.Version(),
		Processors: runtime.NumCPU(), Tunnels: s.tunnels, DTLS: !s.noDTLS,
	}
	both := func(name string, deep bool) (pair, error) {
		theirs, err := gw.sample(name, deep)
		if err != nil {
			return pair{}, err
		}
		ours, err := take(name, deep, s.profiles)
		return pair{ours, theirs}, err
	}
	if r.Before, err = both("before", true); err != nil {
		return nil, err
	}

	begin := time.Now()
	f, err := dialFleet(ctx, gw.hello, s)
	if f != nil {
		defer f.close()
	}
	if err != nil {
		return nil, err
	}
	r.Establish = time.Since(begin)
	if err := f.ready(ctx); err != nil {
		return nil, err
	}
	r.Ready = time.Since(begin)
	if r.Established, err = both("established", false); err != nil {
		return nil, err
	}

	if err := pause(ctx, settle); err != nil {
		return nil, err
	}
	if r.IdleBegin, err = both("", false); err != nil {
		return nil, err
	}
	if err := pause(ctx, s.idle); err != nil {
		return nil, err
	}
	if r.IdleEnd, err = both("", false); err != nil {
		return nil, err
	}
	if r.Idle, err = both("idle", true); err != nil {
		return nil, err
	}

	if err := f.connect(ctx); err != nil {
		return nil, err
	}
	if err := pause(ctx, settle); err != nil {
		return nil, err
	}
	if r.TrafficBegin, err = both("", false); err != nil {
		return nil, err
	}
	r.Echo = f.echo(ctx, s.traffic)
	if r.TrafficEnd, err = both("", false); err != nil {
		return nil, err
	}
	if r.Traffic, err = both("traffic", true); err != nil {
		return nil, err
	}
	return r, ctx.Err()
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// writeProfiles writes what the process holds and what its goroutines do.
func writeProfiles(dir, process string) error {
	for _, kind := range []string{"heap", "goroutine"} {
		f, err := os.Create(filepath.Join(dir, process+"."+kind+".pprof"))
		if err != nil {
			return err
		}
		err = pprof.Lookup(kind).WriteTo(f, 0)
		if err := errors.Join(err, f.Close()); err != nil {
			return err
		}
	}
	return nil
}
