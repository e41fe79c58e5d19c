//go:build linux

package logind

import (
	"fmt"
	"strings"
	"sync"
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

	mu      sync.Mutex
	jobs    uint32
	running map[dbus.ObjectPath]bool // logind ends a session whose scope does not run
}

// serveSystemd makes conn the systemd of its bus.
func serveSystemd(conn *dbus.Conn) (*systemd, error) {
	s := &systemd{conn: conn, running: make(map[dbus.ObjectPath]bool)}
	for _, err := range []error{
		conn.ExportMethodTable(map[string]any{"Subscribe": s.done, "StartUnit": s.start, "StopUnit": s.stop, "KillUnit": s.kill,
			"StartTransientUnit": s.startTransient}, systemdPath, systemdManager),
		conn.ExportSubtreeMethodTable(map[string]any{"Get": s.property}, systemdPath+"/unit", "org.freedesktop.DBus.Properties"),
		conn.ExportSubtreeMethodTable(map[string]any{"Abandon": s.done}, systemdPath+"/unit", systemdName+".Scope"),
	} {
		if err != nil {
			return nil, err
		}
	}
	reply, err := conn.RequestName(systemdName, dbus.NameFlagDoNotQueue)
	if err == nil && reply != dbus.RequestNameReplyPrimaryOwner {
		err = fmt.Errorf("the bus has a %s already", systemdName)
	}
	return s, err
}

// unitPath is the object of a unit. It escapes as much as the names of sessions and users need.
func unitPath(unit string) dbus.ObjectPath {
	return dbus.ObjectPath(systemdPath + "/unit/" + strings.NewReplacer("-", "_2d", ".", "_2e", "@", "_40").Replace(unit))
}

// job pretends that a job for a unit begins, and that it is done soon after.
func (s *systemd) job(unit string, running bool) (dbus.ObjectPath, *dbus.Error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.jobs++
	s.running[unitPath(unit)] = running
	n, path := s.jobs, dbus.ObjectPath(fmt.Sprintf("%s/job/%d", systemdPath, s.jobs))
	time.AfterFunc(5*time.Millisecond, func() {
		s.conn.Emit(systemdPath, systemdManager+".JobRemoved", n, path, unit, "done")
	})
	return path, nil
}

// ended says that the last process of a unit has ended.
func (s *systemd) ended(unit string) {
	s.mu.Lock()
	delete(s.running, unitPath(unit))
	s.mu.Unlock()
	s.conn.Emit(systemdPath, systemdManager+".UnitRemoved", unit, unitPath(unit))
}

func (s *systemd) start(unit, mode string) (dbus.ObjectPath, *dbus.Error) { return s.job(unit, true) }

func (s *systemd) stop(unit, mode string) (dbus.ObjectPath, *dbus.Error) { return s.job(unit, false) }

func (s *systemd) kill(unit, who string, signal int32) *dbus.Error { return nil }

func (s *systemd) done() *dbus.Error { return nil }

type property struct {
	Name  string
	Value dbus.Variant
}

type auxiliary struct {
	Name       string
	Properties []property
}

func (s *systemd) startTransient(unit, mode string, properties []property, aux []auxiliary) (dbus.ObjectPath, *dbus.Error) {
	return s.job(unit, true)
}

// property answers for any unit.
func (s *systemd) property(m dbus.Message, iface, name string) (dbus.Variant, *dbus.Error) {
	if name != "ActiveState" {
		return dbus.Variant{}, dbus.NewError("org.freedesktop.DBus.Error.UnknownProperty", nil)
	}
	path, _ := m.Headers[dbus.FieldPath].Value().(dbus.ObjectPath)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.running[path] {
		return dbus.MakeVariant("active"), nil
	}
	return dbus.MakeVariant("inactive"), nil
}
