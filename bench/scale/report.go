package main

import (
	"fmt"
	"io"
	"slices"
	"sync"
	"text/tabwriter"
	"time"
)

// A histogram keeps all times, since there are few.
type histogram struct {
	mu    sync.Mutex
	times []time.Duration
}

func newHistogram() *histogram { return &histogram{times: make([]time.Duration, 0, 1<<16)} }

func (h *histogram) add(d time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.times = append(h.times, d)
}

func (h *histogram) count() int { return len(h.times) }

// at returns the time that a part q of all does not exceed, and 0 if there are none.
func (h *histogram) at(q float64) time.Duration {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.times) == 0 {
		return 0
	}
	slices.Sort(h.times)
	return h.times[min(int(q*float64(len(h.times))), len(h.times)-1)]
}

// A result is what a run has measured.
type result struct {
	Date       string `json:"date"`
	System     string `json:"system"`
	Go         string `json:"go"`
	Processors int    `json:"processors"`
	Tunnels    int    `json:"tunnels"`
	DTLS       bool   `json:"dtls"`

	// Establish is how long it took until all tunnels were open, Ready until all of them had DTLS too.
	Establish time.Duration `json:"establish"`
	Ready     time.Duration `json:"ready"`

	Before       pair `json:"before"`
	Established  pair `json:"established"`
	IdleBegin    pair `json:"idle_begin"`
	IdleEnd      pair `json:"idle_end"`
	Idle         pair `json:"idle"`
	TrafficBegin pair `json:"traffic_begin"`
	TrafficEnd   pair `json:"traffic_end"`
	Traffic      pair `json:"traffic"`

	Echo echo `json:"echo"`
}

// print writes the result as a table.
func (r *result) print(w io.Writer, markdown bool) error {
	path := "TLS and DTLS open"
	if !r.DTLS {
		path = "TLS only"
	}
	fmt.Fprintf(w, "%d tunnels (%s) of one process to one gateway in another; %s, %s, %d processors, %s\n\n",
		r.Tunnels, path, r.System, r.Go, r.Processors, r.Date)

	format, head, end := "%s\t%s\t%s\n", "", ""
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	out := io.Writer(tw)
	if markdown {
		format, head, out = "| %s | %s | %s |\n", "|---|---|---|\n", w
	} else {
		end = "\n"
	}
	row := func(name, tunnels, gateway string) { fmt.Fprintf(out, format, name, tunnels, gateway) }
	row("", "tunnels", "gateway")
	io.WriteString(out, head)
	each := func(name string, of func(at func(*pair) *sample) string) {
		row(name, of(func(p *pair) *sample { return &p.Tunnels }), of(func(p *pair) *sample { return &p.Gateway }))
	}
	row("all open", seconds(r.Establish), "")
	if r.DTLS {
		row("all on DTLS", seconds(r.Ready), "")
	}
	each("CPU for opening one", func(at func(*pair) *sample) string {
		return fmt.Sprintf("%.2f ms", 1e3*(at(&r.Established).CPU-at(&r.Before).CPU).Seconds()/float64(r.Tunnels))
	})
	phase := func(name string, begin, end, deep *pair) {
		memory := func(of func(*sample) uint64) func(func(*pair) *sample) string {
			return func(at func(*pair) *sample) string {
				more := int64(of(at(deep))) - int64(of(at(&r.Before)))
				return fmt.Sprintf("%.0f KiB", float64(more)/1024/float64(r.Tunnels))
			}
		}
		each(name+": memory of each, settled", memory(func(s *sample) uint64 { return s.Settled }))
		each(name+": memory of each, as it stands", memory(func(s *sample) uint64 { return s.RSS }))
		each(name+": live heap of each", memory(func(s *sample) uint64 { return s.Heap }))
		each(name+": stacks of each", memory(func(s *sample) uint64 { return s.Stacks }))
		number := func(of func(*sample) int) func(func(*pair) *sample) string {
			return func(at func(*pair) *sample) string {
				return fmt.Sprintf("%.1f", float64(of(at(end))-of(at(&r.Before)))/float64(r.Tunnels))
			}
		}
		each(name+": goroutines of each", number(func(s *sample) int { return s.Goroutines }))
		each(name+": descriptors of each", number(func(s *sample) int { return s.Descriptors }))
		each(name+": CPU", func(at func(*pair) *sample) string {
			a, b := at(begin), at(end)
			return fmt.Sprintf("%.2f %% of a core", 100*(b.CPU-a.CPU).Seconds()/b.At.Sub(a.At).Seconds())
		})
		each(name+": switches each second", func(at func(*pair) *sample) string {
			a, b := at(begin), at(end)
			return fmt.Sprintf("%.0f", float64(b.Switches-a.Switches)/b.At.Sub(a.At).Seconds())
		})
	}
	phase("idle", &r.IdleBegin, &r.IdleEnd, &r.Idle)
	phase("traffic", &r.TrafficBegin, &r.TrafficEnd, &r.Traffic)
	row("requests answered, failed", fmt.Sprintf("%d, %d", r.Echo.Requests, r.Echo.Errors), "")
	row("latency p50, p99, max", fmt.Sprintf("%s, %s, %s", millis(r.Echo.P50), millis(r.Echo.P99), millis(r.Echo.Max)), "")
	io.WriteString(out, end)
	if markdown {
		return nil
	}
	return tw.Flush()
}

func seconds(d time.Duration) string { return fmt.Sprintf("%.1f s", d.Seconds()) }

func millis(d time.Duration) string { return fmt.Sprintf("%.2f ms", d.Seconds()*1e3) }
