package firewall

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"sync"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

const (
	// changesGroup is NFNLGRP_NFTABLES, in which the kernel tells of each transaction.
	changesGroup = 7
	// pace is the least time between two looks at the rules. A machine full of containers changes its own many times a second.
	pace = 100 * time.Millisecond
)

func (f *Firewall) watch(ctx context.Context, policy Policy, report func(Event)) error {
	conn, err := netlink.Dial(unix.NETLINK_NETFILTER, &netlink.Config{NetNS: f.netns()})
	if err != nil {
		return kind(err)
	}
	defer conn.Close()
	conn.SetReadBuffer(socketBuffer)
	if err := conn.JoinGroup(changesGroup); err != nil {
		return kind(err)
	}
	// The kernel is listened to all the time, so that of several changes one knows that somebody else made.
	var mu sync.Mutex
	var by string
	var failed error
	changes := make(chan struct{}, 1)
	var listener sync.WaitGroup
	defer listener.Wait()
	defer conn.SetReadDeadline(time.Unix(1, 0))
	listener.Go(func() {
		for {
			who, err := transaction(conn)
			mu.Lock()
			if who != "" {
				by = who
			}
			failed = err
			mu.Unlock()
			select {
			case changes <- struct{}{}:
			default:
			}
			if err != nil {
				return
			}
		}
	})
	for {
		mu.Lock()
		who := by
		by, err = "", failed
		mu.Unlock()
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return kind(err)
		}
		e, changed := f.inspect(ctx, policy, who)
		if changed {
			report(e)
		}
		// What could not be repaired is tried again, without waiting for another change.
		again := changed && e.Err != nil && policy == Repair && !errors.Is(e.Err, ErrForeign)
		pause := pace
		if again {
			pause = time.Second
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(pause):
		}
		if again {
			continue
		}
		select {
		case <-ctx.Done():
			return nil
		case <-changes:
		}
	}
}

// transaction returns when any rule was changed, and who did it, "" if that is not known or was this process.
func transaction(conn *netlink.Conn) (by string, err error) {
	for {
		msgs, err := conn.Receive()
		if errors.Is(err, unix.ENOBUFS) {
			return "", nil // so much has changed that the socket overflowed
		}
		if err != nil {
			return "", err
		}
		for _, m := range msgs {
			if m.Header.Type == unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_NEWGEN && len(m.Data) >= 4 {
				return author(m.Data[4:]), nil
			}
		}
	}
}

// author reads who made a transaction: "" for this process, which changes its own rules.
func author(b []byte) string {
	const pid, name = 2, 3 // NFTA_GEN_PROC_PID, NFTA_GEN_PROC_NAME
	a, err := parse(b)
	if err != nil || len(a[pid]) != 4 {
		return ""
	}
	// What the kernel calls a process here is a thread.
	thread := strconv.FormatUint(a.number(pid), 10)
	if _, err := os.Stat("/proc/self/task/" + thread); err == nil {
		return ""
	}
	return strconv.QuoteToASCII(a.text(name)) + " (process " + thread + ")"
}

// inspect compares the rules with what was applied, and repairs them if the policy says so.
func (f *Firewall) inspect(ctx context.Context, policy Policy, by string) (Event, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.applied == nil {
		return Event{}, false
	}
	e := Event{Time: time.Now(), By: by}
	conn, err := f.dial(ctx)
	if err != nil {
		e.Err = err
		return e, ctx.Err() == nil
	}
	defer conn.Close()
	s, err := read(conn)
	switch {
	case err != nil:
		e.Err = err
		return e, ctx.Err() == nil
	case !f.known: // it could not be read when it was applied
		f.print, f.known = s.print, true
		return e, false
	case s.print == f.print:
		return e, false
	}
	e.Removed = !s.exists
	log := f.logger().With("removed", e.Removed, "by", by)
	switch {
	case s.owner != "" && s.owner != f.id:
		// To put ours back would begin a fight that neither wins.
		e.Err = fmt.Errorf("%w: another Firewall has replaced it", ErrForeign)
	case policy == Repair:
		serial, _ := strconv.ParseUint(s.serial, 10, 64)
		counts, _ := counters(conn)
		e.Err = f.replace(ctx, conn, f.applied, strconv.FormatUint(serial+1, 10), counts)
		e.Repaired = e.Err == nil
	}
	if policy == Report || errors.Is(e.Err, ErrForeign) {
		f.print = s.print // so that this change is told of once, and the next one again
	}
	log.Warn("the firewall was changed by somebody else", "repaired", e.Repaired, "err", e.Err)
	return e, true
}
