package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strconv"
	"strings"

	"culvert.example/vpn/proxy"
)

// A forward is a value of --local-forward: where to listen, and what connections lead to, each as host:port.
type forward struct{ listen, target string }

// parseForwards parses [BIND:]PORT:HOST:HOSTPORT, as ssh and ocproxy write it.
func parseForwards(values []string) ([]forward, error) {
	var fs []forward
	for _, v := range values {
		f, err := parseForward(v)
		if err != nil {
			return nil, usagef("--local-forward %s: %w; want [BIND:]PORT:HOST:HOSTPORT, with IPv6 addresses in brackets", oneLine(v), err)
		}
		fs = append(fs, f)
	}
	return fs, nil
}

func parseForward(s string) (forward, error) {
	parts, err := splitColons(s)
	if err != nil {
		return forward{}, err
	}
	switch len(parts) {
	case 3:
		parts = append([]string{"127.0.0.1"}, parts...)
	case 4:
	default:
		return forward{}, fmt.Errorf("it has %d parts, not 3 or 4", len(parts))
	}
	bind, host := parts[0], parts[2]
	if bind == "*" {
		bind = "" // to package net
	} else if err := checkHost(bind); err != nil {
		return forward{}, fmt.Errorf("to listen on: %w", err)
	}
	if err := checkHost(host); err != nil {
		return forward{}, err
	}
	port, err := strconv.ParseUint(parts[1], 10, 16)
	if err != nil {
		return forward{}, fmt.Errorf("%q is no port", parts[1])
	}
	to, err := strconv.ParseUint(parts[3], 10, 16)
	if err != nil || to == 0 {
		return forward{}, fmt.Errorf("%q is no port of a host", parts[3])
	}
	return forward{net.JoinHostPort(bind, strconv.FormatUint(port, 10)), net.JoinHostPort(host, strconv.FormatUint(to, 10))}, nil
}

// splitColons splits s at its colons, but for those in brackets, which are taken off.
func splitColons(s string) ([]string, error) {
	var parts []string
	for {
		var part string
		if rest, ok := strings.CutPrefix(s, "["); ok {
			part, rest, ok = strings.Cut(rest, "]")
			if addr, err := netip.ParseAddr(part); !ok || err != nil || !addr.Is6() {
				return nil, errors.New("no IPv6 address is in the brackets")
			}
			if rest != "" && rest[0] != ':' {
				return nil, errors.New("a colon is missing behind ]")
			}
			parts, s = append(parts, part), rest
		} else {
			part, _, _ = strings.Cut(s, ":")
			parts, s = append(parts, part), s[len(part):]
		}
		if s == "" {
			return parts, nil
		}
		s = s[1:]
	}
}

// checkHost refuses what is neither an IP address nor can be the name of a host.
func checkHost(host string) error {
	if host == "" {
		return errors.New("a host is missing")
	}
	if _, err := netip.ParseAddr(host); err == nil {
		return nil
	}
	for _, c := range []byte(host) {
		if c <= ' ' || c == 0x7f || strings.IndexByte(`*[]/%@\"'`, c) >= 0 {
			return fmt.Errorf("%q is no host", oneLine(host))
		}
	}
	return nil
}

// listenForwards opens the ports, all or none.
func listenForwards(fs []forward) ([]net.Listener, error) {
	if len(fs) == 0 {
		return nil, nil
	}
	addresses := make([]string, len(fs))
	for i, f := range fs {
		addresses[i] = f.listen
	}
	return listen("local-forward", addresses)
}

// forwarder returns a server for forwards. Their clients speak no proxy protocol in which to tell them why a destination is
// not reached, so the user is told.
func (a *app) forwarder(dial dialFunc, logger *slog.Logger) *proxy.Server {
	r := a.reporter()
	return &proxy.Server{
		Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
			conn, err := dial(ctx, network, address)
			if err != nil && !errors.Is(ctx.Err(), context.Canceled) {
				text := oneLine(plainText(err))
				r.say(event{Event: "forward", State: "failed", Target: address, Error: text}, "failed to reach %s: %s", address, text)
			}
			return conn, err
		},
		Logger: logger,
	}
}
