package script

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"time"
)

const (
	// maxEnviron bounds the environment in bytes, with the pointers to its strings. Linux takes a quarter of the stack's
	// limit, which is 2 MiB by default, and the program's own children inherit what it adds.
	maxEnviron = 1 << 20
	pointer    = 8

	maxServers = 64
)

// Environ returns the environment of a script that is started for the reason, without what concerns the machine, such as
// PATH. What the settings have that cannot be handed on, such as a domain that is no name, is left out and returned as
// omitted. The error is a [*FieldError]: settings that are too large match [ErrTooLarge], because a script that knows only a
// part of the routes would leave the others to the wrong side.
func (s *Settings) Environ(reason Reason) (env []string, omitted []*FieldError, err error) {
	e := &environ{}
	if !reason.valid() {
		return nil, nil, &FieldError{"reason", fmt.Errorf("there is no reason %q", excerpt(string(reason)))}
	}
	e.set("reason", string(reason))
	s.session(e)
	s.network4(e)
	s.network6(e)
	s.names(e)
	s.routes(e)
	if e.err != nil {
		return nil, e.omitted, e.err
	}
	return e.env, e.omitted, nil
}

// An environ is an environment that is being made, until the first error.
type environ struct {
	env     []string
	size    int
	omitted []*FieldError
	err     error
}

// set adds a variable, unless it has no value. The value has no NUL.
func (e *environ) set(name, value string) {
	if e.err != nil || value == "" {
		return
	}
	e.size += len(name) + len(value) + len("=\x00") + pointer
	if e.size > maxEnviron {
		e.fail(name, fmt.Errorf("%w (%d bytes are the limit): ask for fewer split networks at the gateway, or do without a script",
			ErrTooLarge, maxEnviron))
		return
	}
	e.env = append(e.env, name+"="+value)
}

func (e *environ) number(name string, n int) {
	if n > 0 {
		e.set(name, strconv.Itoa(n))
	}
}

func (e *environ) fail(name string, err error) {
	if e.err == nil {
		e.err = &FieldError{name, err}
	}
}

// omit notes what was left out. A gateway that sends nothing but nonsense is told of once for each variable and a few times more.
func (e *environ) omit(name string, err error) {
	if len(e.omitted) < 20 {
		e.omitted = append(e.omitted, &FieldError{name, err})
	}
}

func (s *Settings) session(e *environ) {
	if s.Device != "" {
		if err := checkDevice(s.Device); err != nil {
			e.fail("TUNDEV", err)
		}
		e.set("TUNDEV", s.Device)
	}
	if g := s.Gateway.Unmap(); g.IsValid() {
		// The zone of a link-local address is the name of an interface.
		if z := g.Zone(); z != "" {
			if err := checkDevice(z); err != nil {
				e.fail("VPNGATEWAY", err)
			}
		}
		e.set("VPNGATEWAY", g.String())
	}
	pid := s.PID
	if pid == 0 {
		pid = os.Getpid()
	}
	e.number("VPNPID", pid)
	e.set("LOG_LEVEL", strconv.Itoa(min(max(s.LogLevel, 0), 3)))
	e.number("IDLE_TIMEOUT", int(s.IdleTimeout/time.Second))
	e.set("CISCO_BANNER", strings.Trim(cleanText(s.Banner, maxBanner, true), "\n "))
	if s.ProxyPAC != "" {
		if err := checkURL(s.ProxyPAC); err != nil {
			e.omit("CISCO_PROXY_PAC", err)
		} else {
			e.set("CISCO_PROXY_PAC", s.ProxyPAC)
		}
	}
	var b strings.Builder
	for _, o := range s.Options {
		if secretOption(o.Name) {
			continue
		}
		if err := checkOption(o.Name); err != nil {
			e.omit("CISCO_CSTP_OPTIONS", err)
			continue
		}
		line := o.Name + "=" + cleanText(o.Value, maxOption, false) + "\n"
		if b.Len()+len(line) > maxOptions {
			e.omit("CISCO_CSTP_OPTIONS", errors.New("more than 32 KiB of options"))
			break
		}
		b.WriteString(line)
	}
	e.set("CISCO_CSTP_OPTIONS", b.String())
}

// address returns the first inner address of a family.
func (s *Settings) address(is4 bool) (netip.Prefix, bool) {
	for _, p := range s.Addresses {
		if p.IsValid() && !p.Addr().Is4In6() && p.Addr().Zone() == "" && p.Addr().Is4() == is4 {
			return p, true
		}
	}
	return netip.Prefix{}, false
}

func (s *Settings) network4(e *environ) {
	for _, p := range s.Addresses {
		if !p.IsValid() || p.Addr().Is4In6() || p.Addr().Zone() != "" {
			e.fail("INTERNAL_IP4_ADDRESS", errors.New("an inner address that is none"))
		}
	}
	if p, ok := s.address(true); ok {
		e.set("INTERNAL_IP4_ADDRESS", p.Addr().String())
		e.set("INTERNAL_IP4_NETMASK", mask(p))
		e.set("INTERNAL_IP4_NETMASKLEN", strconv.Itoa(p.Bits()))
		e.set("INTERNAL_IP4_NETADDR", p.Masked().Addr().String())
	}
	// One number serves both families.
	e.number("INTERNAL_IP4_MTU", s.MTU)
	e.servers("INTERNAL_IP4_DNS", s.DNS, netip.Addr.Is4)
	e.servers("INTERNAL_IP4_NBNS", s.NBNS, netip.Addr.Is4)
}

func (s *Settings) network6(e *environ) {
	if p, ok := s.address(false); ok {
		e.set("INTERNAL_IP6_ADDRESS", p.Addr().String())
		// The name promises a mask, but it has always been the address with the length of its network.
		e.set("INTERNAL_IP6_NETMASK", p.String())
	}
	e.servers("INTERNAL_IP6_DNS", s.DNS, netip.Addr.Is6)
}

// servers sets a list of those addresses that belong into it.
func (e *environ) servers(name string, list []netip.Addr, belongs func(netip.Addr) bool) {
	var text []string
	for _, a := range list {
		a = a.Unmap().WithZone("")
		if !a.IsValid() || !belongs(a) {
			continue
		}
		if len(text) == maxServers {
			e.omit(name, fmt.Errorf("more than %d servers", maxServers))
			break
		}
		text = append(text, a.String())
	}
	e.set(name, strings.Join(text, " "))
}

func (s *Settings) names(e *environ) {
	e.domains("CISCO_DEF_DOMAIN", s.Domains, " ")
	e.domains("CISCO_SPLIT_DNS", s.SplitDNS, ",")
}

func (e *environ) domains(name string, list []string, separator string) {
	var b strings.Builder
	for _, d := range list {
		d, err := checkDomain(d)
		if err != nil {
			e.omit(name, err)
			continue
		}
		if b.Len() > 0 {
			b.WriteString(separator)
		}
		b.WriteString(d)
		if b.Len() > maxList {
			e.fail(name, fmt.Errorf("%w (%d bytes are the limit): ask for fewer domains at the gateway, or do without a script", ErrTooLarge, maxList))
			return
		}
	}
	e.set(name, b.String())
}

// localLAN is what a gateway sends for the networks that the machine is connected with.
var localLAN = netip.PrefixFrom(netip.IPv4Unspecified(), 32)

func (s *Settings) routes(e *environ) {
	exclude := s.Exclude
	if s.LocalLAN {
		exclude = append([]netip.Prefix{localLAN}, exclude...)
	}
	for _, list := range []struct {
		name     string
		prefixes []netip.Prefix
	}{{"INC", s.Include}, {"EXC", exclude}} {
		var list4, list6 []netip.Prefix
		for _, p := range list.prefixes {
			switch {
			case !p.IsValid() || p.Addr().Is4In6():
				e.fail("CISCO_SPLIT_"+list.name, errors.New("a network that is none"))
			case p.Addr().Is4():
				list4 = append(list4, p.Masked())
			default:
				list6 = append(list6, p.Masked())
			}
		}
		e.networks("CISCO_SPLIT_"+list.name, list4)
		e.networks("CISCO_IPV6_SPLIT_"+list.name, list6)
	}
}

// networks sets the variables of a list of networks of one family.
func (e *environ) networks(name string, list []netip.Prefix) {
	e.number(name, len(list))
	for i, p := range list {
		if e.err != nil {
			return
		}
		one := name + "_" + strconv.Itoa(i)
		e.set(one+"_ADDR", p.Addr().String())
		if p.Addr().Is4() {
			e.set(one+"_MASK", mask(p))
		}
		e.set(one+"_MASKLEN", strconv.Itoa(p.Bits()))
		if p.Addr().Is4() {
			// Gateways of IPsec can narrow networks down to ports. Nobody does here, and scripts expect to be told.
			e.set(one+"_PROTOCOL", "0")
			e.set(one+"_SPORT", "0")
			e.set(one+"_DPORT", "0")
		}
	}
}

// mask returns the mask of an IPv4 network.
func mask(p netip.Prefix) string { return net.IP(net.CIDRMask(p.Bits(), 32)).String() }
