package dns

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	wire "github.com/miekg/dns"
)

// rounds is how often a Client asks all servers before it gives up. The time it waits for one answer doubles each round, so
// that a lost packet costs little and a slow server is still heard.
const rounds = 3

// maxForged is how many packets are read for one answer over UDP. Somebody who sends more than so many wrong ones is
// guessing, and cannot guess what TCP needs.
const maxForged = 64

var errForged = errors.New("too many answers to something that was not asked")

// A Client is an [Exchanger] that asks DNS servers, over UDP first and over TCP where the answer does not fit. It must
// not be changed once it is used.
type Client struct {
	// Servers are asked in their order: the next one where the one before does not answer in time or fails.
	Servers []netip.AddrPort

	// Dial connects to a server; network is udp or tcp. Nil means a [net.Dialer].
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)

	// Timeout is how long the first round waits for an answer from each server; each further round waits twice as long.
	// Zero means one second.
	Timeout time.Duration

	// MixCase gives the letters of names that are asked for over UDP a random case, and ignores answers that do not repeat it,
	// so that who cannot see a query has more to guess. Some servers do not repeat it.
	MixCase bool
}

// Clients returns a Client for each of servers, all with the same dial, as the upstreams of a [Zone] are: each for itself, so
// that the one can be asked while the other is silent.
func Clients(servers []netip.AddrPort, dial func(ctx context.Context, network, addr string) (net.Conn, error)) []Exchanger {
	list := make([]Exchanger, len(servers))
	for i, server := range servers {
		list[i] = &Client{Servers: []netip.AddrPort{server}, Dial: dial}
	}
	return list
}

// String returns the addresses of the servers.
func (c *Client) String() string {
	var b strings.Builder
	for i, server := range c.Servers {
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString(server.String())
	}
	return b.String()
}

// Exchange implements [Exchanger]. The query travels under an id of its own and from a new port; whatever comes back with
// another id or another question is ignored. The answer of a server that says it failed is returned only if no server
// does better.
func (c *Client) Exchange(ctx context.Context, query []byte) ([]byte, error) {
	q, err := parseQuery(query)
	if err != nil {
		return nil, err
	}
	if len(c.Servers) == 0 {
		return nil, fmt.Errorf("%w: %s", ErrNoServer, q.name)
	}
	id := binary.BigEndian.Uint16(query)
	wait := c.Timeout
	if wait <= 0 {
		wait = time.Second
	}
	var poor []byte // an answer that says no more than that the server failed
	for range rounds {
		for _, server := range c.Servers {
			answer, e := c.ask(ctx, server, q, query, wait)
			switch {
			case ctx.Err() != nil:
				return nil, fmt.Errorf("dns: no answer for %s: %w", q.name, context.Cause(ctx))
			case e != nil:
				err = fmt.Errorf("dns: server %s, name %s: %w", server, q.name, e)
			case rcode(answer) == wire.RcodeSuccess, rcode(answer) == wire.RcodeNameError:
				return withID(answer, id), nil
			default:
				poor = answer
			}
		}
		if poor != nil {
			return withID(poor, id), nil
		}
		wait *= 2
	}
	return nil, err
}

// ask asks one server once, over UDP and then, if need be, over TCP.
func (c *Client) ask(ctx context.Context, server netip.AddrPort, q question, query []byte, wait time.Duration) ([]byte, error) {
	msg := withID(query, randomID())
	answer, err := c.roundTrip(ctx, "udp", server, q, msg, wait)
	if err == nil && rcode(answer) == wire.RcodeFormatError {
		// Servers from before RFC 6891 do not understand its record, which the query can do without.
		if plain, ok := withoutEDNS(msg); ok {
			msg = plain
			answer, err = c.roundTrip(ctx, "udp", server, q, msg, wait)
		}
	}
	if err != nil && !errors.Is(err, errForged) || err == nil && !truncated(answer) {
		return answer, err
	}
	full, err := c.roundTrip(ctx, "tcp", server, q, msg, wait)
	if err != nil {
		return nil, fmt.Errorf("UDP will not do, and TCP failed: %w", err)
	}
	return full, nil
}

func (c *Client) roundTrip(ctx context.Context, network string, server netip.AddrPort, q question, msg []byte, wait time.Duration) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	dial := c.Dial
	if dial == nil {
		dial = new(net.Dialer).DialContext
	}
	conn, err := dial(ctx, network, server.String())
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	if t, ok := ctx.Deadline(); ok {
		conn.SetDeadline(t)
	}
	// A deadline in the past ends a Read or Write that is under way when the caller gives up.
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()

	var answer []byte
	if network == "udp" {
		answer, err = exchangeUDP(conn, q, msg, c.MixCase)
	} else {
		answer, err = exchangeTCP(conn, q, msg)
	}
	if isTimeout(err) {
		return nil, fmt.Errorf("no answer over %s: %w", network, err)
	}
	return answer, err
}

func exchangeUDP(conn net.Conn, q question, msg []byte, mix bool) ([]byte, error) {
	sent := msg
	if mix {
		sent = mixCase(msg)
	}
	if _, err := conn.Write(sent); err != nil {
		return nil, err
	}
	buf := make([]byte, max(4096, int(ednsSize(msg))))
	for range maxForged {
		n, err := conn.Read(buf)
		if err != nil {
			return nil, err
		}
		answer := buf[:n]
		if !answers(answer, binary.BigEndian.Uint16(msg), q) {
			continue
		}
		if !mix {
			return answer, nil
		}
		end, ok := skipName(sent, headerLen)
		if ok && n >= end && bytes.Equal(answer[headerLen:end], sent[headerLen:end]) {
			copy(answer[headerLen:end], msg[headerLen:end])
			return answer, nil
		}
	}
	return nil, errForged
}

// mixCase returns a copy of the query with a random case of the letters in its name
// (draft-vixie-dnsext-dns0x20).
func mixCase(query []byte) []byte {
	b := append([]byte(nil), query...)
	end, ok := skipName(b, headerLen)
	if !ok {
		return b
	}
	var coins [maxWireName]byte
	rand.Read(coins[:])
	// The length of a label is less than any letter.
	for i := headerLen; i < end; i++ {
		if c := b[i] | 0x20; 'a' <= c && c <= 'z' && b[i] > maxLabel && coins[(i-headerLen)%len(coins)]&1 != 0 {
			b[i] ^= 0x20
		}
	}
	return b
}

func exchangeTCP(conn net.Conn, q question, msg []byte) ([]byte, error) {
	if err := writeFramed(conn, msg); err != nil {
		return nil, err
	}
	answer, err := readFramed(conn)
	if err != nil {
		return nil, err
	}
	if !answers(answer, binary.BigEndian.Uint16(msg), q) {
		return nil, fmt.Errorf("%w: an answer over TCP to something that was not asked", ErrMessage)
	}
	return answer, nil
}

// ednsSize returns how large a UDP answer the query allows (RFC 6891 section 6.2.3).
func ednsSize(query []byte) uint16 {
	var m wire.Msg
	if m.Unpack(query) == nil {
		if opt := m.IsEdns0(); opt != nil {
			return opt.UDPSize()
		}
	}
	return wire.MinMsgSize
}

// withoutEDNS returns the query under a new id without its EDNS record. It reports false if there is none.
func withoutEDNS(query []byte) ([]byte, bool) {
	var m wire.Msg
	if m.Unpack(query) != nil || m.IsEdns0() == nil {
		return nil, false
	}
	m.Id = randomID()
	m.Extra = slices.DeleteFunc(m.Extra, func(rr wire.RR) bool { return rr.Header().Rrtype == wire.TypeOPT })
	b, err := m.Pack()
	return b, err == nil
}

// writeFramed writes a message behind its length, as TCP carries it (RFC 1035 section 4.2.2), in one Write.
func writeFramed(w io.Writer, msg []byte) error {
	b := binary.BigEndian.AppendUint16(make([]byte, 0, 2+len(msg)), uint16(len(msg)))
	_, err := w.Write(append(b, msg...))
	return err
}

func readFramed(r io.Reader) ([]byte, error) {
	var size [2]byte
	if _, err := io.ReadFull(r, size[:]); err != nil {
		return nil, err
	}
	msg := make([]byte, binary.BigEndian.Uint16(size[:]))
	_, err := io.ReadFull(r, msg)
	return msg, err
}
