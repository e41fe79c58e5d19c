//go:build linux || freebsd || openbsd || netbsd

package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"html"
	"log/slog"
	"slices"
	"sync/atomic"
	"time"

	"github.com/godbus/dbus/v5"
)

// Names on the session bus.
const (
	watcherName = "org.kde.StatusNotifierWatcher"
	notesName   = "org.freedesktop.Notifications"
	notesPath   = "/org/freedesktop/Notifications"
)

const (
	callTime = 5 * time.Second // how long a call on the bus may take
	mostOpen = 32              // how many notices are remembered for their buttons
)

// A desktop is the session bus: it knows whether there is a tray, and brings up notices.
type desktop struct {
	conn   *dbus.Conn
	logger *slog.Logger
	queue  chan notice
	done   chan struct{} // closed when start's goroutine has ended; nil if there is none
	gone   atomic.Bool   // the bus has ended
}

// openDesktop connects to the session bus, without starting one. The caller closes the desktop.
func openDesktop(logger *slog.Logger) (*desktop, error) {
	conn, err := dbus.SessionBusPrivateNoAutoStartup()
	if err == nil {
		stop := time.AfterFunc(callTime, func() { _ = conn.Close() }) // a bus that is silent is none
		if err = conn.Auth(nil); err == nil {
			err = conn.Hello()
		}
		if !stop.Stop() {
			err = cmp.Or(err, errors.New("it does not answer"))
		}
		if err != nil {
			_ = conn.Close()
		}
	}
	if err != nil {
		return nil, fmt.Errorf("there is no D-Bus session bus, as every desktop has (%w)", err)
	}
	return &desktop{conn: conn, logger: logger, queue: make(chan notice, 16)}, nil
}

// hasTray waits for the part of the desktop that shows the icons of programs. It may start later than this program, at a login.
func (d *desktop) hasTray(ctx context.Context, wait time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	signals := make(chan *dbus.Signal, 16)
	d.conn.Signal(signals)
	defer d.conn.RemoveSignal(signals)
	match := []dbus.MatchOption{
		dbus.WithMatchSender("org.freedesktop.DBus"), dbus.WithMatchInterface("org.freedesktop.DBus"),
		dbus.WithMatchMember("NameOwnerChanged"), dbus.WithMatchArg(0, watcherName),
	}
	if err := d.conn.AddMatchSignalContext(ctx, match...); err != nil {
		return fmt.Errorf("the session bus fails: %w", err)
	}
	defer func() { _ = d.conn.RemoveMatchSignal(match...) }()
	for {
		var there bool
		err := d.conn.BusObject().CallWithContext(ctx, "org.freedesktop.DBus.NameHasOwner", 0, watcherName).Store(&there)
		switch {
		case there:
			return nil
		case err != nil && ctx.Err() == nil:
			return fmt.Errorf("the session bus fails: %w", err)
		}
		select {
		case <-signals:
		case <-ctx.Done():
			return fmt.Errorf("the desktop has no tray: nobody owns the name %s on the session bus. "+
				"GNOME needs an extension for it, such as AppIndicator; other desktops a panel with a tray that is not of the old kind", watcherName)
		}
	}
}

// start shows the notices, with their buttons' commands going to do, until close. If the bus ends, as at the end of the user's
// session, the command is to quit.
func (d *desktop) start(do func(command string)) {
	d.done = make(chan struct{})
	go func() {
		defer close(d.done)
		d.run(do)
	}()
}

// close ends the desktop.
func (d *desktop) close() {
	close(d.queue)
	if d.done != nil {
		<-d.done
	}
	_ = d.conn.Close()
}

// err says that the desktop has ended before the program, if it has.
func (d *desktop) err() error {
	if d.gone.Load() {
		return errors.New("the D-Bus session bus has ended")
	}
	return nil
}

// notify implements notifier. If the desktop hangs, what does not find room is only logged.
func (d *desktop) notify(n notice) {
	d.logger.Info("notice", "title", n.title, "body", n.body)
	select {
	case d.queue <- n:
	default:
	}
}

func (d *desktop) run(do func(command string)) {
	object := d.conn.Object(notesName, notesPath)
	signals := make(chan *dbus.Signal, 64)
	d.conn.Signal(signals)
	defer d.conn.RemoveSignal(signals)
	ctx, cancel := context.WithTimeout(context.Background(), callTime)
	var can []string
	err := d.conn.AddMatchSignalContext(ctx, dbus.WithMatchInterface(notesName), dbus.WithMatchObjectPath(notesPath))
	if err == nil {
		err = object.CallWithContext(ctx, notesName+".GetCapabilities", 0).Store(&can)
	}
	cancel()
	if err != nil {
		d.logger.Warn("the desktop shows no notices", "error", err)
	}

	type shown struct {
		id      uint32
		topic   topic
		command string
	}
	var open []shown // those on the screen, as far as is known
	forget := func(id uint32) { open = slices.DeleteFunc(open, func(s shown) bool { return s.id == id }) }
	for {
		select {
		case n, ok := <-d.queue:
			if !ok {
				return
			}
			var replaces uint32
			for _, s := range open {
				if s.topic == n.topic {
					replaces = s.id
				}
			}
			id, err := d.post(object, can, n, replaces)
			if err != nil {
				d.logger.Warn("a notice is not shown", "title", n.title, "error", err)
				continue
			}
			forget(replaces)
			forget(id)
			if len(open) == mostOpen {
				open = open[1:]
			}
			open = append(open, shown{id, n.topic, n.command})
		case s, ok := <-signals:
			if !ok {
				signals = nil
				d.gone.Store(true)
				do(cmdQuit)
				continue
			}
			var id uint32
			var key string
			switch s.Name {
			case notesName + ".ActionInvoked":
				if dbus.Store(s.Body, &id, &key) != nil {
					continue
				}
				for _, o := range open {
					if o.id == id && o.command != "" && o.command == key {
						do(o.command)
					}
				}
			case notesName + ".NotificationClosed":
				var why uint32
				if dbus.Store(s.Body, &id, &why) == nil {
					forget(id)
				}
			}
		}
	}
}

// post brings up a notice in place of an earlier one, or beside it if replaces is 0, and returns its number.
func (d *desktop) post(object dbus.BusObject, can []string, n notice, replaces uint32) (uint32, error) {
	ctx, cancel := context.WithTimeout(context.Background(), callTime)
	defer cancel()
	body := n.body
	if slices.Contains(can, "body-markup") {
		body = html.EscapeString(body) // the text may be the gateway's, and is not to become a link or a picture
	}
	var actions []string
	if n.command != "" && slices.Contains(can, "actions") {
		actions = []string{n.command, n.button}
	}
	urgency := byte(1)
	if n.urgent {
		urgency = 2
	}
	hints := map[string]dbus.Variant{"urgency": dbus.MakeVariant(urgency), "category": dbus.MakeVariant("network")}
	var id uint32
	const byDefault = int32(-1) // how long it is shown is up to the desktop
	err := object.CallWithContext(ctx, notesName+".Notify", 0, "Culvert", replaces, "network-vpn", n.title, body, actions, hints, byDefault).Store(&id)
	return id, err
}
