package decision

import (
	"context"
	"sync/atomic"

	"culvert.example/vpn/policy"
)

// A Decider judges flows by the present state of affairs. The zero Decider refuses everything until Set has been called. It is a
// [policy.Decider], and may be used by several goroutines; it never waits.
type Decider struct {
	inputs atomic.Pointer[Inputs]
	user   string
}

// NewDecider returns a Decider for the flows of a user; the name may be "" if it is not known. It refuses everything until Set has
// been called.
func NewDecider(user string) *Decider { return &Decider{user: user} }

// Set tells the Decider the state of affairs, which counts for everything that is asked from now on. The functions of the Inputs
// must be fit for several goroutines and must not wait.
func (d *Decider) Set(in Inputs) { d.inputs.Store(&in) }

// Explain judges a flow and says why. Without a user in the query it is a flow of the Decider's. An ended context refuses.
func (d *Decider) Explain(ctx context.Context, q Query) Verdict {
	if q.User == "" {
		q.User = d.user
	}
	in := d.inputs.Load()
	switch err := ctx.Err(); {
	case err != nil:
		return refuse(q, "the answer came too late: "+err.Error())
	case in == nil:
		return refuse(q, "nothing is allowed before the documents have been read")
	}
	return Judge(*in, q)
}

func refuse(q Query, why string) Verdict {
	return Verdict{Query: q.normal(), Outcome: Nowhere, Chain: []Step{{Setting: "policy", Says: why, Effect: Nowhere}}}
}

// Decide implements [policy.Decider]. What goes through the tunnel and past it is allowed; the error of what is not is a
// *[policy.RefusedError].
func (d *Decider) Decide(ctx context.Context, f policy.Flow) (policy.Decision, error) {
	v := d.Explain(ctx, Query{Network: f.Network, Host: f.Host, Addr: f.Addr, Port: f.Port})
	if err := v.Err(); err != nil {
		return policy.Decision{Reason: err.Error()}, err
	}
	return policy.Decision{Allow: true, Reason: v.Decided().String()}, nil
}
