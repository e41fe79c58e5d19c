package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"
)

// The exit statuses.
const (
	exitOK          = 0
	exitFailed      = 1
	exitUsage       = 2
	exitMissing     = 3
	exitNotReached  = 4
	exitInterrupted = 130
)

// options are what the command line says.
type options struct {
	pairs          string
	tests          *regexp.Regexp // nil means all
	rounds         int
	duration       time.Duration
	json, markdown string
	culvert        string
	list, strict   bool
}

func main() {
	if len(os.Args) > 1 && os.Args[1] == roleWord {
		// The parent decides when this process ends, also if the terminal sends SIGINT.
		if err := playRole(os.Args[2:], os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, "versus:", err)
			os.Exit(exitFailed)
		}
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	status := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(status)
}

// run is main with everything given. It returns the exit status.
func run(ctx context.Context, args []string, out, log io.Writer) int {
	o, chosen, status := parse(args, log)
	if o == nil {
		return status
	}
	if o.list {
		for _, p := range chosen {
			fmt.Fprintf(out, "%-6s %s\n", p.name, p.title)
		}
		return exitOK
	}
	begun := time.Now()
	say := func(format string, args ...any) {
		fmt.Fprintf(log, "%6.0fs "+format+"\n", append([]any{time.Since(begun).Seconds()}, args...)...)
	}
	fail := func(err error) int {
		if ctx.Err() != nil {
			fmt.Fprintln(log, "versus: interrupted")
			return exitInterrupted
		}
		fmt.Fprintln(log, "versus:", err)
		if errors.Is(err, errMissing) {
			return exitMissing
		}
		return exitFailed
	}
	if err := checkTools(chosen); err != nil {
		return fail(err)
	}
	if o.culvert == "" {
		dir, err := os.MkdirTemp("", "versus")
		if err != nil {
			return fail(err)
		}
		defer os.RemoveAll(dir)
		o.culvert = filepath.Join(dir, "culvert")
		if err := buildCulvert(o.culvert); err != nil {
			return fail(err)
		}
	}
	r := &report{
		Machine: describeMachine(), Command: append([]string{"go", "run", "./bench/versus"}, args...),
		Rounds: o.rounds, Duration: o.duration.Seconds(),
	}
	c := &contest{options: o, report: r, say: say}
	var err error
	for _, p := range chosen {
		if e := c.run(ctx, p); e != nil {
			err = errors.Join(err, fmt.Errorf("pair %s: %w", p.name, e))
		}
		if ctx.Err() != nil {
			break
		}
	}
	// What was measured is kept, even if something went wrong later.
	r.finish(begun)
	if o.json != "" {
		err = errors.Join(err, r.write(o.json))
	}
	if o.markdown != "" {
		var b strings.Builder
		r.markdown(&b)
		err = errors.Join(err, os.WriteFile(o.markdown, []byte(b.String()), 0o644))
	}
	r.print(out)
	switch {
	case err != nil || ctx.Err() != nil:
		return fail(err)
	case !r.complete():
		return exitFailed
	case o.strict && slices.ContainsFunc(r.Numbers, func(j judgement) bool { return j.Verdict == missed }):
		return exitNotReached
	}
	return exitOK
}

// parse reads the command line. Without options it returns the exit status.
func parse(args []string, log io.Writer) (*options, []pair, int) {
	o := &options{}
	f := flag.NewFlagSet("versus", flag.ContinueOnError)
	f.SetOutput(log)
	f.IntVar(&o.rounds, "rounds", 9, "how often each contender does each trial")
	f.DurationVar(&o.duration, "duration", 2*time.Second, "how long a load runs, in whole seconds; on bad cables up to three times as long")
	f.StringVar(&o.pairs, "pairs", "", "the `NAMES` of the pairs to measure, separated by commas (default all)")
	f.Func("tests", "measure only the tests whose name matches `REGEXP`, such as '^up', and starting (default all)", func(v string) (err error) {
		o.tests, err = regexp.Compile(v)
		return err
	})
	f.StringVar(&o.json, "json", "", "keep all samples in `FILE`")
	f.StringVar(&o.markdown, "markdown", "", "write the tables, as sections of bench/RESULTS.md, to `FILE`")
	f.StringVar(&o.culvert, "culvert", "", "the `COMMAND` to measure (default: it is built)")
	f.BoolVar(&o.list, "list", false, "print the pairs and end")
	f.BoolVar(&o.strict, "strict", false, "exit with status 4 if a number is not reached")
	if err := f.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return nil, nil, exitOK
		}
		return nil, nil, exitUsage
	}
	chosen, err := choosePairs(o.pairs)
	switch {
	case err != nil:
	case f.NArg() > 0:
		err = fmt.Errorf("unexpected argument %q", f.Arg(0))
	case o.rounds < 1:
		err = errors.New("--rounds must be at least 1")
	case o.duration < time.Second || o.duration%time.Second != 0:
		err = errors.New("--duration must be whole seconds")
	}
	if err != nil {
		fmt.Fprintln(log, "versus:", err)
		return nil, nil, exitUsage
	}
	return o, chosen, exitOK
}
