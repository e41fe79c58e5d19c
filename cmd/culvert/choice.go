package main

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"time"

	"culvert.example/vpn/policy/document"
	"culvert.example/vpn/policy/network"
	"culvert.example/vpn/policy/network/selection"
	"culvert.example/vpn/policy/plan"
)

// A gatewayCache is the file that keeps, beside the journal, what automatic server selection has measured.
type gatewayCache struct {
	path string
	keep bool // the local policy lets it be written
	warn func(format string, args ...any)
}

// gatewayCache returns the one of this client.
func (w *whereFlags) gatewayCache(a *app, p *plan.Plan) gatewayCache {
	path := filepath.Join(filepath.Dir(w.journalPath()), w.of("gateways.json"))
	return gatewayCache{path, p.Keep.Anything, a.reporter().warn}
}

// load reads the file. Where nothing may be kept, what an earlier policy let be written goes.
func (g gatewayCache) load() selection.Cache {
	var b []byte
	var err error
	if g.keep {
		b, err = document.ReadFile(g.path, false)
	} else {
		err = os.Remove(g.path)
	}
	var c selection.Cache
	if err == nil && g.keep {
		c, err = selection.ParseCache(b)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		g.warn("%s: %v; the gateways are measured again", g.path, err)
	}
	return c
}

// save writes the file, if it may be.
func (g gatewayCache) save(c selection.Cache) {
	if !g.keep {
		return
	}
	b, err := json.Marshal(c)
	if err == nil {
		err = document.WriteFile(g.path, b, 0o600)
	}
	if err != nil {
		g.warn("what was measured of the gateways is not kept: %v", err)
	}
}

// A chooser chooses the gateway that answers fastest, where a profile wants that and no network.Manager does it. A nil one leaves it
// at the gateway that was named.
type chooser struct {
	hosts []network.Host
	cache gatewayCache
	// where returns the DNS servers and the search list of the network, and roundTrip measures a gateway.
	where     func(ctx context.Context) ([]netip.AddrPort, []string, error)
	roundTrip func(ctx context.Context, server string) (time.Duration, error)
	selector  *selection.Selector
}

// selects reports whether the gateway is chosen by measuring: the profile wants it, and nobody has named one. A cookie is
// good for the gateway alone that it is from.
func (c *clientFlags) selects(args []string) bool {
	return c.plan != nil && c.plan.Profile != nil && c.plan.Network.Select && c.typed(args) == "" && c.cookie == "" && !c.cookieStdin
}

// newChooser returns the one of a plan whose gateways are measured.
func newChooser(p *plan.Plan, cache gatewayCache) *chooser {
	return &chooser{hosts: p.Network.Hosts, cache: cache, selector: selection.NewSelector(p.Network.Selection, cache.load(), time.Now())}
}

// choose returns the order in which gateways are to be dialled, and why.
func (c *chooser) choose(ctx context.Context) (order selection.Plan, why string) {
	at := selection.Location("")
	if servers, search, err := c.where(ctx); err == nil {
		addrs := make([]netip.Addr, len(servers))
		for i, s := range servers {
			addrs[i] = s.Addr()
		}
		at = selection.LocationOf(search, addrs)
	}
	servers := make([]string, len(c.hosts))
	for i, h := range c.hosts {
		servers[i] = h.Server
	}
	choice := c.selector.Choose(time.Now(), at, servers)
	if choice.Measure {
		samples := selection.Measure(ctx, servers, c.roundTrip)
		choice = c.selector.Measured(time.Now(), at, servers, samples)
		c.cache.save(c.selector.Cache())
	}
	i := max(0, slices.Index(servers, choice.Server))
	order = selection.Plan{Servers: append([]string{c.hosts[i].Server}, c.hosts[i].Backups...), Rounds: 1}
	for _, h := range c.hosts {
		order.Others = append(append(order.Others, h.Server), h.Backups...)
	}
	return order, choice.Why
}

// host returns the entry that a server belongs to, which has no name if nothing was chosen.
func (c *chooser) host(server string) network.Host {
	if c == nil {
		return network.Host{}
	}
	for _, h := range c.hosts {
		if h.Server == server || slices.Contains(h.Backups, server) {
			return h
		}
	}
	return network.Host{}
}

// used notes that a tunnel to a server is up, and ended that it is none any more.
func (c *chooser) used(server string) {
	if c != nil {
		c.note(func(s *selection.Selector) { s.Used(c.host(server).Server) })
	}
}

func (c *chooser) ended() {
	if c != nil {
		c.note(func(s *selection.Selector) { s.Ended(time.Now()) })
	}
}

func (c *chooser) note(what func(*selection.Selector)) {
	what(c.selector)
	c.cache.save(c.selector.Cache())
}

// roundTrip measures a gateway past the tunnel.
func (u *usage) roundTrip(ctx context.Context, server string) (time.Duration, error) {
	cfg, err := u.flags.prober()
	if err != nil {
		return 0, err
	}
	return (&selection.Prober{Dial: u.sys.DialContext, TLS: cfg}).RoundTrip(ctx, server)
}
