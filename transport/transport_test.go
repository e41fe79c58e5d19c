package transport_test

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"culvert.example/vpn/transport"
)

// TestSecret formats a secret in every way, alone and inside of others.
func TestSecret(t *testing.T) {
	const text = "hunter2"
	s := transport.Secret(text)
	values := []any{s, &s, []transport.Secret{s}, map[string]transport.Secret{"k": s}, struct{ S transport.Secret }{s}}
	for _, v := range values {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%t", "%10.3s", "%!"} {
			if got := fmt.Sprintf(verb, v); strings.Contains(got, text) || strings.Contains(strings.ToLower(got), "68756e") {
				t.Errorf("%s of a %T shows it: %s", verb, v, got)
			}
		}
		if b, err := json.Marshal(v); err != nil || strings.Contains(string(b), text) {
			t.Errorf("JSON of a %T: %s, %v", v, b, err)
		}
		var b strings.Builder
		slog.New(slog.NewTextHandler(&b, nil)).Info("x", "v", v)
		slog.New(slog.NewJSONHandler(&b, nil)).Info("x", "v", v)
		if strings.Contains(b.String(), text) {
			t.Errorf("the log of a %T: %s", v, b.String())
		}
	}
	if s.Reveal() != text {
		t.Error("Reveal does not")
	}
}
