package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/url"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"culvert.example/vpn/gateway"
)

func (a *app) sessions() *cobra.Command {
	var control string
	cmd := &cobra.Command{
		Use:   "sessions",
		Short: "List who is connected to the gateway of this machine",
		Long: `Sessions asks a running "culvert serve" who is connected. Both must run as the same user and, if given, with the same --control.

` + exitHelp,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := dialControl(control, a.getenv)
			if err != nil {
				return err
			}
			return a.listSessions(cmd.Context(), c)
		},
	}
	cmd.PersistentFlags().StringVar(&control, "control", "", "the control socket of the gateway is at `PATH`")
	var reason, user string
	end := &cobra.Command{
		Use:   "disconnect ID | --user NAME",
		Short: "End a session, or all of a user",
		Long: `Disconnect ends a session by its ID, as "culvert sessions" lists it, or all sessions of a user. Whoever may still log in can do so
again at once, and clients with stored passwords will: take the user out of the --user-file first, and send culvert serve SIGHUP.

` + exitHelp,
		Args: func(cmd *cobra.Command, args []string) error {
			if user != "" {
				return cobra.NoArgs(cmd, args)
			}
			return exactArgs("ID")(cmd, args)
		},
		ValidArgsFunction: func(cmd *cobra.Command, args []string, _ string) (ids []cobra.Completion, _ cobra.ShellCompDirective) {
			if c, err := dialControl(control, a.getenv); err == nil && len(args) == 0 {
				list, _ := sessionsAt(cmd.Context(), c)
				for _, s := range list {
					ids = append(ids, cobra.CompletionWithDesc(s.ID, oneLine(s.User)))
				}
			}
			return ids, cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := dialControl(control, a.getenv)
			if err != nil {
				return err
			}
			body, err := json.Marshal(map[string]string{"reason": reason})
			if err != nil {
				return err
			}
			if user != "" {
				list, err := sessionsAt(cmd.Context(), c)
				if err != nil {
					return err
				}
				for _, s := range list {
					if s.User == user {
						args = append(args, s.ID)
					}
				}
				if len(args) == 0 {
					return fmt.Errorf("%s has no session", oneLine(user))
				}
			}
			for _, id := range args {
				if err := c.call(cmd.Context(), "POST", "/v1/sessions/"+url.PathEscape(id)+"/disconnect", strings.NewReader(string(body)), &struct{}{}); err != nil {
					return err
				}
			}
			return nil
		},
	}
	end.Flags().StringVar(&reason, "reason", "", "tell the user `TEXT`")
	end.Flags().StringVar(&user, "user", "", "end all sessions of the user `NAME`")
	cmd.AddCommand(end)
	return cmd
}

// listSessions prints the sessions as a table, or with --json as they came.
func (a *app) listSessions(ctx context.Context, c *controlClient) error {
	if a.json {
		var raw []json.RawMessage
		if err := c.call(ctx, "GET", "/v1/sessions", nil, &raw); err != nil {
			return err
		}
		return json.NewEncoder(a.out).Encode(raw)
	}
	sessions, err := sessionsAt(ctx, c)
	if err != nil {
		return err
	}
	return printSessions(a.out, sessions, time.Now())
}

// sessionsAt returns the sessions at a gateway.
func sessionsAt(ctx context.Context, c *controlClient) ([]gateway.SessionInfo, error) {
	var sessions []gateway.SessionInfo
	err := c.call(ctx, "GET", "/v1/sessions", nil, &sessions)
	return sessions, err
}

func printSessions(w io.Writer, sessions []gateway.SessionInfo, now time.Time) error {
	if len(sessions) == 0 {
		_, err := fmt.Fprintln(w, "Nobody is connected.")
		return err
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "ID\tUSER\tGROUP\tADDRESS\tFROM\tPATH\tSINCE\tRECEIVED\tSENT\tCLIENT")
	for _, s := range sessions {
		path := s.Path
		if path == "" {
			path = "-"
		}
		since := "-"
		if !s.Connected.IsZero() {
			since = ago(now.Sub(s.Connected))
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", s.ID, cell(s.User), cell(s.Group), join(s.Addresses), from(s), path, since,
			amount(s.Received.Bytes), amount(s.Sent.Bytes), cell(s.UserAgent))
	}
	return t.Flush()
}

// cell makes text of others fit for a column.
func cell(s string) string {
	if s = oneLine(s); s == "" {
		return "-"
	}
	return s
}

func from(s gateway.SessionInfo) string {
	if !s.Remote.IsValid() {
		return "-"
	}
	return s.Remote.String()
}

// ago says a duration in its largest units.
func ago(d time.Duration) string {
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%ds", max(0, int(d.Seconds())))
	case d < time.Hour:
		return fmt.Sprintf("%dm", int(d.Minutes()))
	case d < 24*time.Hour:
		return fmt.Sprintf("%dh%02dm", int(d.Hours()), int(d.Minutes())%60)
	}
	return fmt.Sprintf("%dd%02dh", int(d.Hours())/24, int(d.Hours())%24)
}

// amount says a number of bytes.
func amount(n uint64) string {
	const unit = 1024
	if n < unit {
		return fmt.Sprintf("%d B", n)
	}
	v, e := float64(n), -1
	for v >= unit && e < 4 {
		v /= unit
		e++
	}
	return fmt.Sprintf("%.1f %ciB", v, "KMGTP"[e])
}
