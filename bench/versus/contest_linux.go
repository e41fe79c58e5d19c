package main

import (
	"context"
	"fmt"
	"time"
)

// A contest is a whole run.
type contest struct {
	options *options
	report  *report
	say     func(format string, args ...any)
}

// run makes all rounds of a pair.
func (c *contest) run(ctx context.Context, p pair) error {
	return perform(ctx, func(s *stage) {
		contenders := p.build(s, c.options)
		var names []string
		for _, x := range contenders {
			names = append(names, x.name)
		}
		c.report.Pairs = append(c.report.Pairs, pairReport{Name: p.name, Title: p.title, Contenders: names, Details: map[string]string{}})
		// Each client starts once before, so that no round reads programs from the disk.
		for _, x := range contenders {
			v, _, _, err := x.begin(ctx)
			s.check(err)
			v.end()
		}
		for round := 1; round <= c.options.rounds; round++ {
			c.round(s, p, contenders, round)
			s.check(ctx.Err())
		}
	})
}

// round has every contender start, do its trials in turn with the others, and end.
func (c *contest) round(s *stage, p pair, contenders []*contender, round int) {
	var visits []*visit
	defer func() {
		for _, v := range visits {
			v.end()
		}
	}()
	begun := time.Now()
	note := func(test, contender string, values map[metric]float64, err error) {
		s.check(s.ctx.Err())
		if err != nil {
			c.report.Failures = append(c.report.Failures, failure{
				Pair: p.name, Test: test, Contender: contender, Round: round, Error: err.Error(),
				Peer: contender == contenders[len(contenders)-1].name,
			})
			c.say("%s %d/%d %s: %s: FAILED: %v", p.name, round, c.options.rounds, test, contender, err)
			return
		}
		c.report.Samples = append(c.report.Samples, sample{p.name, test, contender, round, values})
	}
	line := fmt.Sprintf("%s %d/%d %s:", p.name, round, c.options.rounds, startTrial)
	for _, x := range contenders {
		var v *visit
		var values map[metric]float64
		var detail string
		err := s.try(func() {
			var err error
			v, values, detail, err = x.begin(s.ctx)
			s.check(err)
		})
		note(startTrial, x.name, values, err)
		if err == nil {
			visits = append(visits, v)
			line += "  " + x.name + " " + brief(values)
			c.report.Pairs[len(c.report.Pairs)-1].Details[x.name] = detail
		}
	}
	c.say("%s", line)
	s.check(pause(s.ctx, restTime))
	for _, t := range p.trials {
		if t.every > 1 && round%t.every != 1 || c.options.tests != nil && !c.options.tests.MatchString(t.name) {
			continue
		}
		for _, v := range visits {
			v.impair(t.impairment)
		}
		line := fmt.Sprintf("%s %d/%d %s:", p.name, round, c.options.rounds, t.name)
		for _, v := range visits {
			var values map[metric]float64
			err := s.try(func() {
				var err error
				values, err = c.measure(s.ctx, v, t)
				s.check(err)
			})
			note(t.name, v.name, values, err)
			if err == nil {
				line += "  " + v.name + " " + brief(values)
			}
		}
		c.say("%s", line)
	}
	for _, v := range visits {
		n, err := peakMemory(v.clientIDs)
		note(endTrial, v.name, map[metric]float64{memory: float64(n) / (1 << 20)}, err)
	}
	c.say("%s %d/%d took %v", p.name, round, c.options.rounds, time.Since(begun).Round(time.Second))
}

// measure makes one trial.
func (c *contest) measure(ctx context.Context, v *visit, t trial) (map[metric]float64, error) {
	switch t.direction {
	case dnsLoad:
		return v.dnsperf(ctx, t.streams, c.options.duration)
	case "":
		l, err := v.latency(ctx, c.options.duration/2)
		return l.values(), err
	}
	r, err := v.load(ctx, t.direction, t.streams, max(c.options.duration, min(t.time, 3*c.options.duration)))
	return r.values(), err
}

// brief says the most important of some values.
func brief(values map[metric]float64) string {
	for _, m := range metrics {
		if x, ok := values[m]; ok {
			return format(x) + " " + string(m)
		}
	}
	return ""
}
