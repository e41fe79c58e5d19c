package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"runtime"
	"strconv"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"culvert.example/vpn/flow/filter"
	"culvert.example/vpn/policy/decision"
	"culvert.example/vpn/policy/document"
	"culvert.example/vpn/policy/local"
	"culvert.example/vpn/policy/plan"
)

func (a *app) policyCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "policy",
		Short: "Check and show the local policy, and explain what becomes of a flow",
		Long: `Policy works on the local policy, the XML document by which the administrator of a machine says what its VPN client may do, and
explains what all documents together make of a connection to a host.

` + fileHelp,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(a.lintCommand("a local policy", local.Lint), a.policyShow(), a.policyExplain())
	return cmd
}

func (a *app) policyShow() *cobra.Command {
	var root string
	cmd := &cobra.Command{
		Use:   "show [FILE]",
		Short: "Show what a local policy says and what that does here",
		Long: `Show prints every setting of a local policy and what it does on this system. Without FILE it shows the policy of this machine.

` + fileHelp,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 1 {
				return usagef("unexpected argument %q", args[1])
			}
			return nil
		},
		RunE: func(_ *cobra.Command, args []string) error {
			var docs plan.Documents
			var findings []document.Finding
			var err error
			if len(args) == 1 {
				var data []byte
				if docs.LocalPath, data, err = a.document(args[0]); err != nil {
					return err
				}
				docs.Local, findings, err = local.Parse(docs.LocalPath, data)
			} else {
				docs.Local, docs.LocalPath, findings, err = local.LoadFirst(local.Paths(runtime.GOOS, a.getenv, root), false)
			}
			if err != nil {
				return a.invalid("the local policy cannot be used", err)
			}
			// Without a gateway there is no plan to refuse, and the settings are all that is wanted.
			p, err := plan.New("", docs, plan.Environment{System: runtime.GOOS, WholeMachine: true, FIPS: true})
			if p == nil {
				return err
			}
			if a.json {
				return json.NewEncoder(a.out).Encode(struct {
					File     string             `json:"file,omitempty"`
					Policy   *local.Policy      `json:"policy"`
					Settings []plan.Effect      `json:"settings"`
					Findings []document.Finding `json:"findings"`
				}{docs.LocalPath, docs.Local, p.Local, append([]document.Finding{}, findings...)})
			}
			if docs.LocalPath == "" {
				fmt.Fprintln(a.out, "There is no local policy on this machine, so everything is allowed.")
			} else {
				fmt.Fprintln(a.out, docs.LocalPath)
			}
			if err := printEffects(a.out, p.Local); err != nil {
				return err
			}
			for _, s := range docs.Local.Update.AuthorizedServers {
				fmt.Fprintf(a.out, "Updates from %s would be allowed; this client takes none from gateways.\n", oneLine(s))
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&root, "document-root", "", "look for the local policy below `DIR`, such as the image of a system")
	return cmd
}

func printEffects(w io.Writer, effects []plan.Effect) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "SETTING\tVALUE\tSTATE\tEFFECT")
	for _, e := range effects {
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\n", e.Path, cell(e.Value), e.State, oneLine(e.Says))
	}
	return t.Flush()
}

// explainFlags are those of policy explain.
type explainFlags struct {
	documents documentFlags
	gateway   string
	filter    string
	control   string
	netns     string
	offline   bool
	query     decision.Query
}

func (a *app) policyExplain() *cobra.Command {
	var e explainFlags
	cmd := &cobra.Command{
		Use:   "explain HOST[:PORT]",
		Short: "Explain what becomes of a connection to a host, and by which settings",
		Long: `Explain tells what becomes of a connection to a host and names the settings and rules that were asked, in their order; the last one
decided. Then it tells the same for when the tunnel is down, by Always-On or the kill switch. If a "culvert connect" runs, it is
asked, since it knows the routes of the gateway, the network, who is logged on, and whether the content filter is in force.
Otherwise the documents of this machine are asked, and whether a client that was killed has left a closed kill switch; with --offline the
documents alone, or those that are named.

The exit status is 1 if the connection is refused.

` + exitHelp,
		Args: exactArgs("HOST"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := e.target(args[0]); err != nil {
				return err
			}
			v, err := a.explain(cmd.Context(), &e)
			if err != nil {
				return err
			}
			if a.json {
				err = json.NewEncoder(a.out).Encode(v)
			} else {
				err = printVerdict(a.out, v)
			}
			if err == nil {
				err = v.Err()
			}
			return err
		},
	}
	f := cmd.Flags()
	e.documents.add(f)
	f.StringVar(&e.gateway, "gateway", "", "presume a tunnel to the gateway `NAME` of the profile, or to an address")
	f.StringVar(&e.filter, "filter", "", "the rules of the content filter are in the TOML `FILE`; see culvert connect --help")
	f.StringVar(&e.query.User, "user", "", "presume a program of the user `NAME`")
	f.StringVar(&e.query.Program, "program", "", "presume the program at `PATH`")
	f.StringVar(&e.query.Network, "protocol", "tcp", "presume the `PROTOCOL` tcp, udp or ping")
	f.StringVar(&e.control, "control", "", "the control socket of culvert connect is at `PATH`")
	f.StringVar(&e.netns, "netns", "", "the tunnel is in the network namespace `NAME`, as ip netns knows it")
	f.BoolVar(&e.offline, "offline", false, "ask the documents alone, even if culvert connect runs")
	return cmd
}

// target takes the argument apart.
func (e *explainFlags) target(s string) error {
	if strings.ContainsAny(s, "/ \t") {
		return usagef("%s is neither a name nor an address; leave out https:// and paths", oneLine(s))
	}
	e.query.Host = strings.Trim(s, "[]")
	if host, port, err := net.SplitHostPort(s); err == nil {
		n, err := strconv.ParseUint(port, 10, 16)
		if err != nil || n == 0 {
			return usagef("%s: the port is none of 1 to 65535", oneLine(s))
		}
		e.query.Host, e.query.Port = host, uint16(n)
	}
	if addr, err := netip.ParseAddr(e.query.Host); err == nil {
		e.query.Addr = addr.Unmap()
	} else if e.query.Host == "" || strings.Contains(e.query.Host, ":") {
		return usagef("%s is neither a name nor an address", oneLine(s))
	}
	switch e.query.Network {
	case "tcp", "udp", "ping":
		return nil
	}
	return usagef("--protocol %s: want tcp, udp or ping", oneLine(e.query.Network))
}

// explain asks a culvert connect that runs, or the documents.
func (a *app) explain(ctx context.Context, e *explainFlags) (decision.Verdict, error) {
	if e.query.User != "" && unknownUser(e.query.User) {
		a.reporter().warn("--user: this machine has no user %s; the answer is for somebody whom no rule names by number", oneLine(e.query.User))
	}
	d := &e.documents
	named := d.profileFile != "" || d.localFile != "" || d.root != "" || e.gateway != "" || e.filter != ""
	if named && (e.control != "" || e.netns != "") {
		return decision.Verdict{}, usagef("--control and --netns ask a running culvert connect, which has its own documents; leave out those that you name")
	}
	if !e.offline && !named {
		where := whereFlags{netns: e.netns, control: e.control}
		if err := where.check(); err != nil {
			return decision.Verdict{}, err
		}
		c, err := dialControlAt("connect", where.askPaths(a.getenv))
		switch {
		case err == nil:
			return askExplain(ctx, c, e.query)
		case e.control != "" || e.netns != "":
			return decision.Verdict{}, fmt.Errorf("no culvert connect answers: %w", err)
		case !errors.Is(err, errNotRunning):
			return decision.Verdict{}, fmt.Errorf("a culvert connect cannot be asked (--offline asks the documents alone): %w", err)
		}
	}
	var left func(decision.Query) decision.Answer
	if !e.offline && !named {
		none, err := (&whereFlags{}).absence()
		if err != nil {
			return decision.Verdict{}, err
		}
		if left = none.answer(); none.unknown {
			a.reporter().warn("whether a culvert connect has left a closed kill switch is for root to see; without one:")
		}
	}
	d.machine, d.lenient = true, true
	p, err := a.documents(d, e.gateway)
	if p == nil {
		return decision.Verdict{}, err
	}
	in := decision.Inputs{Plan: p, Down: left != nil, Left: left}
	if e.filter != "" {
		cfg, err := readFilter(e.filter)
		if err != nil {
			return decision.Verdict{}, err
		}
		rules, err := filter.Compile(*cfg)
		if err != nil {
			return decision.Verdict{}, asUsage(err)
		}
		warnUsers(a.reporter(), e.filter, cfg)
		in.Filter = filterAnswer(rules, e.filter)
	}
	return decision.Judge(in, e.query), nil
}

// printVerdict prints a verdict for people.
func printVerdict(w io.Writer, v decision.Verdict) error {
	var err error
	tell := func(format string, args ...any) {
		if err == nil {
			_, err = fmt.Fprintf(w, format, args...)
		}
	}
	steps := func(chain []decision.Step) {
		for i, s := range chain {
			tell("%3d. %s\n", i+1, oneLine(s.String()))
		}
	}
	tell("%s: %s\n", oneLine(v.Query.String()), v.Outcome)
	steps(v.Chain)
	if v.Down != "" {
		tell("whenever the tunnel is down: %s\n", v.Down)
		steps(v.DownChain)
	}
	return err
}

// filterAnswer makes the rules of the content filter speak to the decider. The file is for messages and may be "".
func filterAnswer(rules *filter.Rules, file string) func(decision.Query) decision.Answer {
	return func(q decision.Query) decision.Answer {
		s := filter.Subject{Program: q.Program, Addr: q.Addr, Port: q.Port}
		s.UID, s.User = identity(q.User)
		if _, err := netip.ParseAddr(q.Host); err != nil {
			s.Name = strings.ToLower(q.Host)
		}
		switch q.Network {
		case "udp":
			s.Protocol = filter.UDP
		case "ping":
			s.Protocol = filter.ICMP
		}
		x := rules.Explain(&s)
		document := strings.TrimSpace("flow rules " + file)
		var a decision.Answer
		for i, step := range x.Steps {
			if !step.Matched && i < len(x.Steps)-1 && len(x.Steps) > 16 {
				continue // of a long list, only what matched is worth reading
			}
			says := "it does not match: " + step.Why
			if step.Matched {
				says = "it matches: " + step.Action.String()
			}
			a.Steps = append(a.Steps, decision.Step{Document: document, Setting: step.Name, Value: step.Action.String(), Says: says})
		}
		if x.Verdict.Rule < 0 {
			a.Steps = append(a.Steps, decision.Step{Document: document, Setting: "default", Value: x.Verdict.Action.String(), Says: "no rule decides"})
		}
		if x.Verdict.Provisional {
			a.Steps = append(a.Steps, decision.Step{Document: document, Says: "once its name is known, another rule may decide"})
		}
		a.Outcome = decision.Allow
		if x.Verdict.Action == filter.Block {
			a.Outcome = decision.Block
			deciding := decision.Step{Document: document, Setting: x.Verdict.Name, Value: "block", Says: "the flow is blocked", Effect: decision.Block}
			a.Steps = append(a.Steps, deciding)
		}
		return a
	}
}

// explainPath is where a culvert connect explains flows in its control protocol:
//
//	GET /v1/explain?host=NAME&addr=ADDRESS&port=443&protocol=tcp&user=NAME&program=PATH   a decision.Verdict
const explainPath = "/v1/explain"

// explainHandler answers questions of policy explain by the decider of a running tunnel.
func explainHandler(explain func(context.Context, decision.Query) decision.Verdict) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		v := r.URL.Query()
		e := explainFlags{query: decision.Query{Network: v.Get("protocol"), User: v.Get("user"), Program: v.Get("program")}}
		target := v.Get("host")
		if port := v.Get("port"); port != "" {
			target = net.JoinHostPort(target, port)
		}
		if err := e.target(target); err != nil {
			answer(w, http.StatusBadRequest, failure{Error: err.Error(), Exit: exitUsage})
			return
		}
		if addr, err := netip.ParseAddr(v.Get("addr")); err == nil {
			e.query.Addr = addr.Unmap()
		}
		answer(w, http.StatusOK, explain(r.Context(), e.query))
	})
}

// askExplain asks a culvert connect that runs.
func askExplain(ctx context.Context, c *controlClient, q decision.Query) (decision.Verdict, error) {
	v := url.Values{"host": {q.Host}, "protocol": {q.Network}}
	for key, value := range map[string]string{"user": q.User, "program": q.Program} {
		if value != "" {
			v.Set(key, value)
		}
	}
	if q.Addr.IsValid() {
		v.Set("addr", q.Addr.String())
	}
	if q.Port != 0 {
		v.Set("port", strconv.Itoa(int(q.Port)))
	}
	var verdict decision.Verdict
	err := c.call(ctx, "GET", explainPath+"?"+v.Encode(), nil, &verdict)
	return verdict, err
}
