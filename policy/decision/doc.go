// Package decision is where everything meets that has a say in whether a flow may be and which way it goes: the local policy, the
// profile, who is logged on, the network that the machine is in, the rules of the content filter, and the routes.
//
// They are asked in this order, and the first one with a final word decides:
//
//  1. Loopback addresses never leave the machine.
//  2. May there be a tunnel? The local policy and the profile (the Refusals of a plan.Plan), then the rules about logons, then
//     the policy for the network, which also tells whether there is a tunnel now.
//  3. Without a tunnel: what Always-On lets pass, or another kill switch. Where it is closed only gateways, allowed hosts, and an open
//     portal window; otherwise everything goes past the tunnel that is not there.
//  4. With a tunnel: the rules of the content filter, which block or allow.
//  5. The routes, which say whether the flow goes through the tunnel, past it, or nowhere.
//
// With a tunnel the verdict also says what 3 says of the flow, since every tunnel is down at times.
//
// Each of them leaves a [Step] in the chain of the [Verdict], with the setting's name, its document and its line, so that "why can
// I not reach this host" has an answer that an administrator can act upon.
//
// [Judge] is pure. A [Decider] holds the present state of affairs for those who ask by flow, and implements policy.Decider.
package decision
