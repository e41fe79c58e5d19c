package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"culvert.example/vpn/policy/document"
)

// An app is one run of the command: its streams, its environment and the flags that all commands have.
type app struct {
	in       io.Reader
	out, err io.Writer
	getenv   func(string) string

	started bool // a command has begun to run, so the command line made sense
	rep     *reporter
	lines   *bufio.Reader

	args    []string     // the command line
	release func() error // tells the process in the foreground that all is up, or nil
	flush   func()       // waits for a while until everything that was told is written

	json    bool
	quiet   bool
	verbose int
	config  string
	inFile  map[string]bool // what config has set
}

// command returns the root of the commands.
func (a *app) command() *cobra.Command {
	root := &cobra.Command{
		Use:   "culvert",
		Short: "An AnyConnect-compatible VPN: client, proxy and gateway",
		Long: `Culvert connects to AnyConnect-compatible VPN gateways (Cisco ASA, ocserv and others), without root as a proxy or with it for
the whole machine, and is such a gateway itself. Begin with "culvert demo".

` + exitHelp,
		Version:           version(),
		Args:              knownCommand,
		RunE:              func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
		SilenceUsage:      true,
		SilenceErrors:     true,
		PersistentPreRunE: a.begin,
	}
	root.SuggestionsMinimumDistance = 2
	root.SetFlagErrorFunc(flagError)
	root.SetVersionTemplate("culvert {{.Version}}\n")
	flags := root.PersistentFlags()
	flags.BoolVar(&a.json, "json", false, "print one JSON event a line to standard error (commands that print a report print it as JSON to standard output)")
	flags.BoolVarP(&a.quiet, "quiet", "q", false, "print nothing but errors")
	flags.CountVarP(&a.verbose, "verbose", "v", "print what happens; twice prints more")
	root.AddCommand(a.demo(), a.proxy(), a.connect(), a.status(), a.disconnect(), a.repair(), a.dataPath(), a.serve(), a.sessions(), a.versionCommand())
	a.steer(root)
	root.AddCommand(a.certificates())
	root.AddCommand(a.profileCommand(), a.policyCommand(), a.preferences())
	return root
}

// knownCommand is the Args of the root, which has no arguments but commands.
func knownCommand(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	text := fmt.Sprintf("unknown command %q", args[0])
	if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
		text += "; did you mean " + strings.Join(near, " or ") + "?"
	}
	return usagef("%s", text)
}

// flagError says in words of the command what is wrong with a flag, and if there is none of that name, which one may be meant.
func flagError(cmd *cobra.Command, err error) error {
	if invalid := (*pflag.InvalidValueError)(nil); errors.As(err, &invalid) {
		cause := invalid.Unwrap()
		if number := (*strconv.NumError)(nil); errors.As(cause, &number) {
			cause = errors.New("want a whole number")
			if errors.Is(number, strconv.ErrRange) {
				cause = errors.New("the number is too large")
			}
		}
		return usagef("--%s %s: %w", invalid.GetFlag().Name, oneLine(invalid.GetValue()), cause)
	}
	unknown := (*pflag.NotExistError)(nil)
	if !errors.As(err, &unknown) {
		return err
	}
	var names []string
	cmd.Flags().VisitAll(func(f *pflag.Flag) { names = append(names, f.Name) })
	if near := document.Nearest(unknown.GetSpecifiedName(), names); near != "" {
		return usagef("%w; did you mean --%s?", err, near)
	}
	return err
}

// begin runs before every command, when the command line has been understood.
func (a *app) begin(cmd *cobra.Command, _ []string) error {
	if err := a.loadConfig(cmd.Flags()); err != nil {
		return err
	}
	a.started = true
	return nil
}

// reporter returns the one reporter. The flags must have been parsed.
func (a *app) reporter() *reporter {
	if a.rep == nil {
		a.rep = &reporter{w: a.err, json: a.json, quiet: a.quiet, colour: a.getenv("NO_COLOR") == "" && a.getenv("TERM") != "dumb" && isTerminal(a.err)}
	}
	return a.rep
}

// endure is for commands that run for long: whoever reads what they tell may end, or stop reading, and they go on.
func (a *app) endure() {
	survivePipes()
	a.flush = a.reporter().detach()
}

// isTerminal reports whether w is a terminal, or at least a device for characters.
func isTerminal(w any) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	fi, err := f.Stat()
	return err == nil && fi.Mode()&os.ModeCharDevice != 0
}

// maxLine bounds a line of standard input, in bytes. Cookies of some gateways have several kilobytes.
const maxLine = 64 << 10

// line reads the next line of standard input, which is what for.
func (a *app) line(what string) (string, error) {
	if a.lines == nil {
		a.lines = bufio.NewReaderSize(a.in, maxLine)
	}
	b, err := a.lines.ReadSlice('\n')
	switch {
	case errors.Is(err, bufio.ErrBufferFull):
		return "", usagef("standard input: the line with the %s is longer than %d bytes", what, maxLine)
	case err != nil && !errors.Is(err, io.EOF):
		return "", fmt.Errorf("reading the %s from standard input: %w", what, err)
	}
	s := strings.TrimRight(string(b), "\r\n")
	if s == "" {
		return "", usagef("standard input holds no %s: write it there as one line, such as with: printf '%%s\\n' \"$SECRET\" | culvert ...", what)
	}
	return s, nil
}

// exactArgs is cobra.ExactArgs with words that say what is missing.
func exactArgs(names ...string) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		if len(args) < len(names) {
			return usagef("%s is missing", names[len(args)])
		}
		if len(args) > len(names) {
			return usagef("unexpected argument %q", args[len(names)])
		}
		return nil
	}
}
