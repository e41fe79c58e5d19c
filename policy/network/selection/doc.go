// Package selection says which gateway is dialled, and which one after that.
//
// A [Sequence] walks through the list of a profile: the gateway that was selected, its backup servers, and, if nobody has
// insisted on that one, the other gateways with theirs; then, after a pause, again. A gateway may send its clients on to another one
// to share the load. That never leads round in circles: a gateway that was tried is not tried again in the same round,
// whether the list or another gateway names it.
//
// A [Selector] chooses the gateway that answers fastest. It measures, at most once in two weeks for each place that the
// machine comes to, three times each, of which the lowest counts; it measures only when the machine has been disconnected or
// asleep for some hours, and it changes to another gateway only if that is faster by some percent. The time of a round trip is
// taken by a [Prober].
//
// Neither has a clock or a socket: they are told what happened, and when.
package selection
