package main

import (
	"context"
	"errors"
	"net/http"

	"github.com/spf13/cobra"

	"culvert.example/vpn/policy/network"
)

// A wish is what a person wants of a tunnel about which the network decides.
type wish struct {
	name        string
	kind        network.Kind
	short, long string
	done        string // what to say when it is granted
}

var wishes = []wish{
	{
		"pause", network.UserPause, "Leave the tunnel for a while and keep the session",
		`Pause has a running "culvert connect" leave its tunnel for now, so that the machine is without it. The gateway keeps the session for
as long as it lets one be without a connection, so that "culvert resume" needs no login. Always-On keeps the network closed meanwhile.`,
		"the tunnel pauses; take it up again with: culvert resume",
	},
	{
		"resume", network.UserResume, "Take up a tunnel that was paused",
		`Resume has a running "culvert connect" take up the tunnel that "culvert pause" has left, unless the network is one where there is to
be none.`,
		"the tunnel is taken up again, if this network is one to have it in",
	},
	{
		"portal", network.UserPortal, "Ask for a captive portal again, and open the way to it",
		`Portal has a running "culvert connect" look once more for a captive portal, as hotels have them. If there is one, the kill switch
of Always-On is opened to it for as long as CaptivePortalRemediationTimeout says, also if the time to log in has run out before.`,
		"the gateways are asked; if a captive portal lies before them, the way to it is open for a while (see culvert status)",
	},
}

// steer adds the commands for the wishes of a person.
func (a *app) steer(root *cobra.Command) {
	for _, x := range wishes {
		cmd := &cobra.Command{
			Use: x.name, Short: x.short, Args: cobra.NoArgs,
			Long: x.long + " It is for tunnels under the AutomaticVPNPolicy of a profile.\n\n" + exitHelp,
		}
		w := addWhereFlags(cmd)
		cmd.RunE = func(cmd *cobra.Command, _ []string) error {
			c, err := a.ask(w)
			if err != nil {
				return err
			}
			if err := c.call(cmd.Context(), "POST", "/v1/network/"+x.name, nil, &struct{}{}); err != nil {
				return err
			}
			a.reporter().say(event{Event: "message", Kind: x.name, Message: x.done}, "%s", x.done)
			return nil
		}
		root.AddCommand(cmd)
	}
}

// grant does what a person wishes, and returns the refusal if a document does not allow it. A nil automat has nothing to decide.
func (m *automat) grant(ctx context.Context, kind network.Kind) error {
	if m == nil {
		return errors.New("there is no AutomaticVPNPolicy, so the tunnel is as it was started; end it with: culvert disconnect")
	}
	select {
	case <-m.ready:
	default:
		return errors.New("culvert connect is only starting; try it again in a moment")
	}
	return m.runner.Do(ctx, network.Event{Kind: kind})
}

// steerHandler answers the wishes of a person in the control protocol.
func steerHandler(auto *automat) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		for _, x := range wishes {
			if x.name != r.PathValue("wish") {
				continue
			}
			if err := auto.grant(r.Context(), x.kind); err != nil {
				refuse(w, err)
				return
			}
			answer(w, http.StatusOK, struct{}{})
			return
		}
		http.NotFound(w, r)
	}
}
