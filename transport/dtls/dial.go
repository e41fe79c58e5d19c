package dtls

import (
	"context"
	"fmt"
	"net"
	"sync"
	"time"

	"culvert.example/vpn/packet"
	"culvert.example/vpn/transport/liveness"
)

// maxKeepalive bounds the interval of keepalives of a client.
const maxKeepalive = 10 * time.Second

// Dial performs a handshake over conn, finds the MTU of the path and returns the channel. conn is a connected UDP socket from
// OpenSocket; any other net.Conn that keeps datagrams apart does as well, at one system call for each. Dial owns
// conn, and closes it if it fails. The context bounds only the dialing.
func Dial(ctx context.Context, conn net.Conn, cfg Config) (*Conn, error) {
	c, err := dial(ctx, conn, cfg)
	if err != nil {
		retire(conn, cfg.linger())
		return nil, err
	}
	return c, nil
}

func dial(ctx context.Context, conn net.Conn, cfg Config) (*Conn, error) {
	resume, err := cfg.check()
	if err != nil {
		return nil, err
	}
	if cfg.Burst <= 0 {
		cfg.Burst = defaultBurst
	}
	cfg.Burst = min(cfg.Burst, burstRecords)
	cfg.Beat = clientBeat(cfg.Beat)
	out, err := handshakeOver(ctx, conn, &cfg, resume)
	if err != nil {
		return nil, err
	}
	ch, err := channelOver(conn, cfg.Burst, maxPlain, cfg.Batch, cfg.linger())
	if err != nil {
		return nil, fmt.Errorf("dtls: %w", err)
	}
	c, err := newConn(connParams{
		client: true, out: out, channel: ch, pool: newBurstPool(), log: cfg.logger().With("peer", conn.RemoteAddr()),
		beat: cfg.Beat, mtu: cfg.MTU, base: cfg.BaseMTU, remote: conn.RemoteAddr, outer: outerOverhead(conn.RemoteAddr()), ipv6: cfg.IPv6,
		buffer: cfg.PeerBuffer,
	})
	if err != nil {
		return nil, err
	}
	if err := c.settle(ctx, out.early); err != nil {
		c.Close()
		return nil, err
	}
	c.log.Debug("DTLS channel is up", "cipher", c.suite.name, "mtu", c.MTU())
	return c, nil
}

// handshakeOver performs the handshake of a client over conn, and leaves conn without a deadline.
func handshakeOver(ctx context.Context, conn net.Conn, cfg *Config, resume *suite) (*outcome, error) {
	ctx, cancel := context.WithTimeout(ctx, cfg.handshakeTimeout())
	defer cancel()
	g := newGate(conn.LocalAddr(), conn.RemoteAddr(), func(b []byte) error {
		_, err := conn.Write(b)
		return err
	})
	var pump sync.WaitGroup
	pump.Go(func() {
		b := make([]byte, maxDatagram)
		refused := 0
		for {
			n, err := conn.Read(b)
			switch {
			case err == nil:
				g.deliver(b[:n])
			case isRefused(err):
				if refused++; refused > 1 {
					g.fail(errRefused)
					return
				}
			default:
				if !isTimeout(err) {
					g.fail(err)
				}
				return
			}
		}
	})
	out, err := clientHandshake(ctx, g, cfg, resume)
	conn.SetReadDeadline(time.Unix(1, 0))
	pump.Wait()
	conn.SetReadDeadline(time.Time{})
	if err != nil {
		return nil, err
	}
	// What came in the meantime is in the notes of the gate still.
	_, _, out.early = g.shut()
	return out, nil
}

// settle starts the Conn and waits for the first search for the MTU. Packets that come meanwhile are kept.
func (c *Conn) settle(ctx context.Context, early [][]byte) error {
	c.readMu.Lock()
	defer c.readMu.Unlock()
	stop := context.AfterFunc(ctx, func() { c.fail(context.Cause(ctx)) })
	defer stop()
	c.searching.Store(true)
	c.beat.Start()
	c.work.Go(func() { c.searchAndAgain(c.in.interrupt) })
	c.early = packet.NewBatch(earlyPackets, c.ceiling)
	c.unread(early)
	for {
		n, err := c.readEarly()
		c.earlyN += n
		if err == nil {
			continue
		}
		if c.dead.Load() {
			return fmt.Errorf("DTLS channel: %w", c.Err())
		}
		if isTimeout(err) && !c.searching.Load() {
			c.in.resume()
			if c.dead.Load() { // which may have been what interrupted
				return fmt.Errorf("DTLS channel: %w", c.Err())
			}
			if c.earlyN == 0 {
				c.early = nil
			}
			return nil
		}
		if !isTimeout(err) {
			return err
		}
	}
}

// readEarly reads into what is left of the memory for early packets, and drops what there is none for.
func (c *Conn) readEarly() (int, error) {
	if c.earlyN < len(c.early) {
		return c.read(c.early[c.earlyN:])
	}
	drop := packet.NewBatch(1, c.ceiling)
	_, err := c.read(drop)
	return 0, err
}

// unread accepts datagrams that came before the end of the handshake.
func (c *Conn) unread(datagrams [][]byte) {
	for _, d := range datagrams {
		for len(d) > 0 {
			r, rest, ok := parseRecord(d)
			if !ok {
				break
			}
			d = rest
			if c.earlyN < len(c.early) && c.accept(r, &c.early[c.earlyN]) {
				c.earlyN++
			}
		}
	}
}

// clientBeat returns the intervals of a client, whose keepalive is held to maxKeepalive.
func clientBeat(beat liveness.Config) liveness.Config {
	if beat.Keepalive <= 0 || beat.Keepalive > maxKeepalive {
		beat.Keepalive = maxKeepalive
	}
	return beat
}
