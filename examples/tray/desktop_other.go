//go:build !(linux || freebsd || openbsd || netbsd)

package main

import (
	"context"
	"log/slog"
	"time"
)

// A desktop is nothing here: the tray is the system's, and what would be a notice is logged.
type desktop struct{ logger *slog.Logger }

func openDesktop(logger *slog.Logger) (*desktop, error) { return &desktop{logger}, nil }

func (d *desktop) hasTray(context.Context, time.Duration) error { return nil }

func (d *desktop) start(func(command string)) {}

func (d *desktop) close() {}

func (d *desktop) err() error { return nil }

// notify implements notifier.
func (d *desktop) notify(n notice) { d.logger.Info("notice", "title", n.title, "body", n.body) }
