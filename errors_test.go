package vpn_test

import (
	"errors"
	"strings"
	"testing"

	vpn "culvert.example/vpn"
)

// checkError fails unless err says what was done, through which gateway, and to what.
func checkError(t *testing.T, op, server, path string, err error) {
	t.Helper()
	var e *vpn.OpError
	switch {
	case err == nil:
		t.Errorf("%s %s: no error", op, path)
	case !errors.As(err, &e) || error(e) != err:
		t.Errorf("%s %s: a bare %T: %v", op, path, err, err)
	case e.Op != op || e.Server != server || e.Path != path || e.Err == nil:
		t.Errorf("%s %s: %+v", op, path, e)
	case !strings.Contains(err.Error(), op) || !strings.Contains(err.Error(), server):
		t.Errorf("%s %s: the text %q lacks the operation or the gateway", op, path, err)
	}
}
