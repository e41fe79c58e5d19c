package host

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
)

// TestDesktop: what programs of users go by is applied last, undone first, left alone by Renew, and kept for later if it has to be.
func TestDesktop(t *testing.T) {
	b := newBench(t)
	var order []string
	var later bool
	desktop := notebook{line: "old"}
	plain := desktop.part()
	watched := func(name string, p Part) Part {
		return PartOf(func(ctx context.Context, s note, record func([]byte) error) error {
			order = append(order, "apply "+name)
			return p.Apply(ctx, s, record)
		}, func(ctx context.Context, undo []byte) error {
			order = append(order, "undo "+name)
			if name == "desktop" && later {
				return fmt.Errorf("nobody is there: %w", ErrLater)
			}
			return p.Undo(ctx, undo)
		}, nil)
	}
	parts := Parts{Resolver: watched("resolver", b.resolver.part()), Firewall: watched("firewall", b.firewall.part()), Desktop: watched("desktop", plain)}
	open := func() *Machine {
		t.Helper()
		m, err := openMachine(Config{JournalPath: b.path, Parts: parts}, b.k)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { m.Close() })
		return m
	}
	before := b.k.picture()
	m := open()
	s := full()
	s.Desktop = note("proxy")
	if err := m.Apply(t.Context(), s); err != nil || desktop.line != "proxy" {
		t.Fatalf("%v: %s", err, desktop.line)
	}
	if want := []string{"apply firewall", "apply resolver", "apply desktop"}; !slices.Equal(order, want) {
		t.Errorf("%v", order)
	}
	desktop.line = "the user's own"
	if err := m.Renew(t.Context()); err != nil || desktop.line != "the user's own" || b.resolver.applied != 2 {
		t.Errorf("Renew: %v: %s", err, desktop.line)
	}
	desktop.line = "proxy"

	// One that fails goes back, and so does everything before it.
	other := narrow()
	other.Desktop, desktop.fail = note("another"), errors.New("no")
	if err := m.Apply(t.Context(), other); !errors.Is(err, desktop.fail) || b.resolver.line != "10.8.0.1" || desktop.line != "proxy" {
		t.Errorf("%v: %s, %s", err, b.resolver.line, desktop.line)
	}
	desktop.fail = nil
	other.Desktop = nil
	if err := m.Apply(t.Context(), other); err != nil || desktop.line != "old" || b.resolver.line != "10.8.0.2" {
		t.Errorf("without: %v: %s", err, desktop.line)
	}
	if err := m.Apply(t.Context(), s); err != nil || desktop.line != "proxy" {
		t.Errorf("again: %v: %s", err, desktop.line)
	}

	later, order = true, nil
	report, err := m.Undo(t.Context())
	if err != nil || len(report.Later) != 1 || b.resolver.line != "old" || b.firewall.line != "open" || !b.k.picture().equal(before) {
		t.Errorf("%v: %+v", err, report)
	}
	if len(order) < 3 || order[0] != "undo desktop" || order[len(order)-1] != "undo firewall" {
		t.Errorf("%v", order)
	}
	m.Close()
	m = open()
	m.Close()
	report, err = repair(t.Context(), b.path, parts, b.k)
	if err != nil || len(report.Later) != 1 || desktop.line != "proxy" {
		t.Errorf("%v: %+v", err, report)
	}
	later = false
	report, err = repair(t.Context(), b.path, parts, b.k)
	if err != nil || len(report.Undone) != 1 || desktop.line != "old" {
		t.Errorf("%v: %+v", err, report)
	}
}
