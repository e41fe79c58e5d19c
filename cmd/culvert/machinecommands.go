package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"culvert.example/vpn/host"
	"culvert.example/vpn/system"
)

// status is the command that tells how the client of this machine is.
func (a *app) status() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Tell how the tunnel of this machine is",
		Long: `Status asks a running "culvert connect", or the journal that one has left behind. It ends with status 1 if none runs.

` + exitHelp,
		Args: cobra.NoArgs,
	}
	w := addWhereFlags(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := w.check(); err != nil {
			return err
		}
		c, err := dialControlAt("connect", w.askPaths(a.getenv))
		if errors.Is(err, errNotRunning) {
			return a.statusOfNone(w)
		}
		if err != nil {
			return w.refused(err)
		}
		var r machineReport
		if err := c.call(cmd.Context(), "GET", "/v1/status", nil, &r); err != nil {
			return err
		}
		if a.json {
			return json.NewEncoder(a.out).Encode(r)
		}
		return r.print(a.page(), time.Now())
	}
	return cmd
}

// page returns what reports are printed on.
func (a *app) page() *page {
	r := &reporter{colour: a.getenv("NO_COLOR") == "" && a.getenv("TERM") != "dumb" && isTerminal(a.out)}
	return &page{w: a.out, paint: r.paint}
}

// farewellPatience is how long a client may take to undo its changes. Scripts have two minutes each.
const farewellPatience = 5 * time.Minute

// disconnect is the command that ends the client.
func (a *app) disconnect() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "disconnect",
		Short: "Log out and undo what culvert connect has changed",
		Long: `Disconnect has a running "culvert connect" log out, undo all its changes of this machine, the kill switch included unless
that is locked, and end. It returns when that is done. If none runs but one was killed, use "culvert repair".

` + exitHelp,
		Args: cobra.NoArgs,
	}
	w := addWhereFlags(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		c, err := a.ask(w)
		if err != nil {
			return err
		}
		var left farewellReport
		c.http.Timeout = farewellPatience
		if err := c.call(cmd.Context(), "POST", "/v1/disconnect", nil, &left); err != nil {
			return err
		}
		e, text := event{Event: "system", State: "closed"}, "logged out, and this machine is as it was before"
		if left.Locked {
			e.KillSwitch, text = system.FirewallClosed, "logged out; "+stillLocked
		}
		a.reporter().say(e, "%s", text)
		return nil
	}
	return cmd
}

// repair is the command that undoes what a client that was killed has left.
func (a *app) repair() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "repair",
		Short: "Undo what a culvert connect that was killed has changed",
		Long: `Repair undoes what the journal says that a killed "culvert connect" has changed of this machine, and tells each thing. It lifts the
kill switch too, also a locked one. It never touches what other programs have changed since. Repairing twice does no harm, and the next "culvert
connect" repairs before anything else.

` + exitHelp,
		Args: cobra.NoArgs,
	}
	w := addWhereFlags(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := w.check(); err != nil {
			return err
		}
		report, err := system.Repair(cmd.Context(), system.Config{
			Namespace: w.netns, Journal: w.journalPath(), Logger: a.reporter().logger(a.verbose),
		})
		if err != nil && len(report.Undone)+len(report.Gone)+len(report.Left)+len(report.Later) == 0 {
			if errors.Is(err, fs.ErrPermission) || errors.Is(err, host.ErrNotPermitted) {
				err = &rootOnlyError{err, w.asRoot()}
			}
			return err // that there is nothing to repair is not known
		}
		if perr := a.printRepair(report); err == nil {
			err = perr
		}
		return err
	}
	return cmd
}

// printRepair tells what was undone.
func (a *app) printRepair(r host.Report) error {
	if a.json {
		return json.NewEncoder(a.out).Encode(struct {
			Undone []string `json:"undone"`
			Gone   []string `json:"gone"`
			Left   []string `json:"left"`
			Later  []string `json:"later,omitempty"`
		}{noNil(r.Undone), noNil(r.Gone), noNil(r.Left), r.Later})
	}
	if a.quiet {
		return nil
	}
	var err error
	tell := func(what string, list []string) {
		for _, s := range list {
			if err == nil {
				_, err = fmt.Fprintf(a.out, "%s %s\n", what, oneLine(s))
			}
		}
	}
	tell("undone:          ", r.Undone)
	tell("gone already:    ", r.Gone)
	tell("changed by others", r.Left)
	tell("not possible yet:", r.Later)
	if err == nil && len(r.Undone)+len(r.Gone)+len(r.Left)+len(r.Later) == 0 {
		_, err = fmt.Fprintln(a.out, "There is nothing to repair.")
	}
	return err
}

func noNil(s []string) []string {
	if s == nil {
		return []string{}
	}
	return s
}

// dataPath is the command about the way of packets.
func (a *app) dataPath() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "data-path",
		Short: "Confirm, leave or take again the flow path of the tunnel of this machine",
		Long: `The flow path is the way of packets on which every connection ends in culvert connect, which decides about it. When one of its
components fails, packets take the packet path until somebody goes back. The content filter is not in force there. "culvert status"
shows the components.

` + exitHelp,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	add := func(use, short string, paths []string, patience time.Duration) {
		sub := &cobra.Command{Use: use, Short: short, Args: cobra.MaximumNArgs(len(paths))}
		if len(paths) > 0 {
			sub.Args = cobra.MaximumNArgs(1)
		}
		sub.ValidArgs = paths
		w := addWhereFlags(sub)
		name, _, _ := strings.Cut(use, " ")
		sub.RunE = func(cmd *cobra.Command, args []string) error {
			want := ""
			if len(args) > 0 {
				if want = args[0]; !contains(paths, want) {
					return usagef("data path %s: want %s", oneLine(want), strings.Join(paths, " or "))
				}
			}
			c, err := a.ask(w)
			if err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), patience)
			defer cancel()
			body, err := json.Marshal(map[string]string{"path": want})
			if err != nil {
				return err
			}
			var d dataPathReport
			if err := c.call(ctx, "POST", "/v1/data-path/"+name, strings.NewReader(string(body)), &d); err != nil {
				return err
			}
			if a.json {
				return json.NewEncoder(a.out).Encode(d)
			}
			p := a.page()
			p.dataPath(&d, time.Now())
			return p.err
		}
		cmd.AddCommand(sub)
	}
	const soon = 15 * time.Second
	add("confirm [flow|packet]", "Succeed if packets take the path that is wanted, and that is in order", []string{"flow", "packet"}, soon)
	add("revert", "Go back to the flow path", nil, soon)
	add("failover", "Leave the flow path for the packet path", nil, soon)
	return cmd
}
