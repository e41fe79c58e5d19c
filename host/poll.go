package host

import (
	"context"
	"reflect"
	"time"
)

// poll is how often the interfaces are looked at where the system does not tell.
const poll = 2 * time.Second

// A poller is the source of a Watch that compares what it sees with what it saw.
type poller struct {
	interfaces func() ([]Interface, error)
	skip       func(name string) bool // interfaces whose changes are our own
	last       map[string]Interface
}

func (p *poller) close() {}

func (p *poller) look() (map[string]Interface, error) {
	ifs, err := p.interfaces()
	if err != nil {
		return nil, err
	}
	m := make(map[string]Interface, len(ifs))
	for _, i := range ifs {
		m[i.Name] = i
	}
	return m, nil
}

func (p *poller) next(ctx context.Context, wait time.Duration) (news, error) {
	t := time.NewTimer(min(wait, poll))
	defer t.Stop()
	select {
	case <-ctx.Done():
		return news{}, ctx.Err()
	case <-t.C:
	}
	now, err := p.look()
	if err != nil {
		return news{}, err
	}
	n := compare(p.last, now, p.skip)
	p.last = now
	return n, nil
}

// compare returns what has changed between two looks.
func compare(before, after map[string]Interface, skip func(string) bool) news {
	var n news
	for name, now := range after {
		was, known := before[name]
		if skip(name) || known && reflect.DeepEqual(was, now) {
			continue
		}
		c := Addresses
		if was.Addrs, now.Addrs = nil, nil; !known || !reflect.DeepEqual(was, now) {
			c |= Links
		}
		n.add(news{changed: c, interfaces: []string{name}})
	}
	for name := range before {
		if _, known := after[name]; !known && !skip(name) {
			n.add(news{changed: Links, interfaces: []string{name}})
		}
	}
	return n
}
