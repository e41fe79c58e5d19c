package policy

import (
	"errors"
	"io/fs"
	"testing"
)

func TestRefusedError(t *testing.T) {
	for _, tt := range []struct {
		err  RefusedError
		want string
	}{
		{RefusedError{Document: "profile corp.xml", Setting: "AlwaysOn", Value: "true", Line: 12, Column: 7, Reason: "no"}, "AlwaysOn (profile corp.xml:12:7): no"},
		{RefusedError{Document: "profile corp.xml", Setting: "AlwaysOn", Line: 12, Reason: "no"}, "AlwaysOn (profile corp.xml:12:1): no"},
		{RefusedError{Document: "local policy", Setting: "FipsMode", Reason: "no"}, "FipsMode (local policy): no"},
		{RefusedError{Setting: "tunnel", Reason: "no"}, "tunnel: no"},
		{RefusedError{Reason: "no", Err: fs.ErrExist}, "no"},
	} {
		err := error(&tt.err)
		if err.Error() != tt.want {
			t.Errorf("%q, want %q", err, tt.want)
		}
		if !errors.Is(err, ErrDenied) || errors.Is(err, fs.ErrExist) != (tt.err.Err != nil) {
			t.Errorf("%v matches the wrong errors", err)
		}
	}
}
