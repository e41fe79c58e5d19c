package main

// A number is a bar for the ratio between ours and the peer, with one beyond it.
type number struct {
	pair, title  string
	ours         []string // contenders; none means all of ours
	tests        []string
	metric       metric
	bar, stretch float64
	atMost       bool // the ratio must not be above the bar, instead of below
}

// loads are the tests that numbers are set for.
var loads = []string{loadName(up, 1), loadName(down, 1), loadName(up, 8), loadName(down, 8)}

// numbers are the numbers to reach.
var numbers = []number{
	{pair: "a", title: "embedded vs openconnect + ocproxy", tests: loads, metric: rate, bar: 2, stretch: 3},
	{pair: "b", title: "TUN vs openconnect, DTLS", tests: loads, metric: rate, bar: 1.2, stretch: 1.6},
	{pair: "b-tls", title: "TUN vs openconnect, TLS only", tests: loads, metric: rate, bar: 1.3, stretch: 2},
	{pair: "c", title: "TUN and our gateway vs wireguard-go", tests: loads, metric: rate, bar: 1.2, stretch: 2},
	{pair: "d", title: "stack and our gateway vs wireguard-go netstack", tests: loads, metric: rate, bar: 2.5, stretch: 4},
	{pair: "b", title: "client CPU per GB vs openconnect", tests: loads, metric: client, bar: cpuBar, stretch: 0.5, atMost: true},
	{
		pair: "loss", title: "one stream vs kernel TCP over openconnect", metric: rate, bar: 0.9, stretch: 1,
		tests: []string{impairedName(judged, up), impairedName(judged, down)},
	},
	{
		pair: "a", title: "dial to first byte vs openconnect's start to first byte", ours: []string{"vpn.Dial"}, tests: []string{startTrial},
		metric: dialed, bar: 0.8, stretch: 0.5, atMost: true,
	},
	{pair: "dns", title: "DNS proxy vs dnsmasq", tests: []string{dnsLoadName(1), dnsLoadName(16)}, metric: queries, bar: 1, stretch: 1.5},
}

const (
	// cpuBar is the bar for the client's CPU time, which counts where the gateway is the limit of the rate.
	cpuBar = 0.8
	// full is the share of a core, in per cent, from which on a gateway is taken to be the limit.
	full = 90
)

// A verdict is what became of a number.
type verdict string

const (
	stretched verdict = "stretch"
	passed    verdict = "yes"
	byCPU     verdict = "by CPU"
	missed    verdict = "NO"
)

// A judgement is a number with what was measured for it in one test by one contender.
type judgement struct {
	Number    string  `json:"number"`
	Pair      string  `json:"pair"`
	Test      string  `json:"test"`
	Ours      string  `json:"ours"`
	Peer      string  `json:"peer"`
	Metric    metric  `json:"metric"`
	AtMost    bool    `json:"at_most"`
	Bar       float64 `json:"bar"`
	Stretch   float64 `json:"stretch"`
	OurValue  float64 `json:"our_value"`
	PeerValue float64 `json:"peer_value"`
	Ratio     spread  `json:"ratio"`
	CPU       spread  `json:"cpu"`     // the ratio of the client's CPU time for each gigabyte
	Gateway   float64 `json:"gateway"` // % of a core with our client
	Busy      float64 `json:"busy"`    // % of the machine, likewise
	Verdict   verdict `json:"verdict"`
}

// judge compares a number with the samples of a test. It is false if there are none.
func (n number) judge(samples []sample, test, ours, peer string) (judgement, bool) {
	a, b := pick(samples, n.pair, test, ours, n.metric), pick(samples, n.pair, test, peer, n.metric)
	j := judgement{
		Number: n.title, Pair: n.pair, Test: test, Ours: ours, Peer: peer, Metric: n.metric, AtMost: n.atMost, Bar: n.bar, Stretch: n.stretch,
		OurValue: a.spread().Median, PeerValue: b.spread().Median, Ratio: a.over(b).spread(),
		CPU:     pick(samples, n.pair, test, ours, client).over(pick(samples, n.pair, test, peer, client)).spread(),
		Gateway: pick(samples, n.pair, test, ours, gateCore).spread().Median, Busy: pick(samples, n.pair, test, ours, busy).spread().Median,
	}
	if j.Ratio.N == 0 {
		return j, false
	}
	reached := func(bar float64) bool {
		if n.atMost {
			return j.Ratio.Median <= bar
		}
		return j.Ratio.Median >= bar
	}
	switch {
	case reached(n.stretch):
		j.Verdict = stretched
	case reached(n.bar):
		j.Verdict = passed
	case n.metric == rate && j.Gateway >= full && j.CPU.N > 0 && j.CPU.Median <= cpuBar:
		j.Verdict = byCPU
	default:
		j.Verdict = missed
	}
	return j, true
}

// judge returns all that the samples tell about the numbers.
func (r *report) judge() []judgement {
	var js []judgement
	for _, n := range numbers {
		for _, p := range r.Pairs {
			if p.Name != n.pair {
				continue
			}
			peer := p.Contenders[len(p.Contenders)-1]
			ours := n.ours
			if len(ours) == 0 {
				ours = p.Contenders[:len(p.Contenders)-1]
			}
			for _, test := range n.tests {
				for _, o := range ours {
					if j, ok := n.judge(r.Samples, test, o, peer); ok {
						js = append(js, j)
					}
				}
			}
		}
	}
	return js
}
