//go:build linux

package logind

import (
	"fmt"
	"sync/atomic"
	"time"

	"github.com/godbus/dbus/v5"
)

const (
	systemdName    = "org.freedesktop.systemd1"
	systemdPath    = "/org/freedesktop/systemd1"
	systemdManager = systemdName + ".Manager"
)

// A systemd answers what logind asks of the first process: it says that every unit has started or stopped, and starts nothing.
type systemd struct {
	conn *dbus.Conn
	jobs atomic.Uint32
}

// serveSystemd makes conn the systemd of its bus.
func serveSystemd(conn *dbus.Conn) error {
	if err := conn.Export(&systemd{conn: conn}, systemdPath, systemdManager); err != nil {
		return err
	}
	// Logind forgets a session whose scope is not there any more, and finds that out by asking for its state.
	if err := conn.ExportSubtree(unit{}, systemdPath+"/unit", "org.freedesktop.DBus.Properties"); err != nil {
		return err
	}
	if err := conn.ExportSubtree(scope{}, systemdPath+"/unit", systemdName+".Scope"); err != nil {
		return err
	}
	reply, err := conn.RequestName(systemdName, dbus.NameFlagDoNotQueue)
	if err == nil && reply != dbus.RequestNameReplyPrimaryOwner {
		err = fmt.Errorf("the bus has a %s already", systemdName)
	}
	return err
}

// job pretends that a job for a unit begins, and that it is done soon after.
func (s *systemd) job(unit string) (dbus.ObjectPath, *dbus.Error) {
	n := s.jobs.Add(1)
	path := dbus.ObjectPath(fmt.Sprintf("%s/job/%d", systemdPath, n))
	time.AfterFunc(5*time.Millisecond, func() {
		s.conn.Emit(systemdPath, systemdManager+".JobRemoved", n, path, unit, "done")
	})
	return path, nil
}

func (s *systemd) Subscribe() *dbus.Error { return nil }

func (s *systemd) StartUnit(unit, mode string) (dbus.ObjectPath, *dbus.Error) { return s.job(unit) }

func (s *systemd) StopUnit(unit, mode string) (dbus.ObjectPath, *dbus.Error) { return s.job(unit) }

func (s *systemd) KillUnit(unit, who string, signal int32) *dbus.Error { return nil }

// scopePath is the object of the scope of a session.
func scopePath(session string) dbus.ObjectPath {
	return dbus.ObjectPath(systemdPath + "/unit/session_2d" + session + "_2escope")
}

type property struct {
	Name  string
	Value dbus.Variant
}

type auxiliary struct {
	Name       string
	Properties []property
}

func (s *systemd) StartTransientUnit(unit, mode string, properties []property, aux []auxiliary) (dbus.ObjectPath, *dbus.Error) {
	return s.job(unit)
}

// A unit is any of them, and never runs.
type unit struct{}

func (unit) Get(iface, name string) (dbus.Variant, *dbus.Error) {
	switch name {
	case "ActiveState":
		return dbus.MakeVariant("inactive"), nil
	case "Job":
		return dbus.MakeVariant(struct {
			ID   uint32
			Path dbus.ObjectPath
		}{0, "/"}), nil
	}
	return dbus.Variant{}, dbus.NewError("org.freedesktop.DBus.Error.UnknownProperty", nil)
}

type scope struct{}

func (scope) Abandon() *dbus.Error { return nil }
