//go:build !linux

package proxysettings

import (
	"context"
	"errors"
	"fmt"
)

func unsupported() error {
	return fmt.Errorf("%w on this system: run what MacPlan or WindowsPlan says: %w", ErrUnavailable, errors.ErrUnsupported)
}

func (s Session) readUser(string) (database, error) { return database{}, unsupported() }

func (s Session) write(context.Context, string, map[string]variant) error { return unsupported() }

func readFile(string) ([]byte, error) { return nil, unsupported() }

func tellAll(context.Context, string, string) error { return unsupported() }
