package vpn_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	vpn "culvert.example/vpn"
	"culvert.example/vpn/gateway/gatewaytest"
	"culvert.example/vpn/internal/leak"
	"culvert.example/vpn/transport/login"
)

// TestLoginTexts reads what a login that fails says: one sentence, with the kinds that programs match.
func TestLoginTexts(t *testing.T) {
	leak.Check(t)
	gw := gatewaytest.New(t)
	host := strings.TrimPrefix(gw.URL, "https://")
	for _, tt := range []struct {
		name  string
		login login.Prompter
		want  string
		kinds []error
	}{
		{"wrong password", login.Fixed{Username: "alice", Password: "wrong"},
			"login refused: " + host + ` rejected the answers and says "Login failed."; stored answers are not sent twice`,
			[]error{vpn.ErrLogin, vpn.ErrPrompt, login.ErrCannot}},
		{"nobody to ask", nil, host + ` asks for "Username": no answer to it is known`, []error{vpn.ErrPrompt, login.ErrCannot}},
		{"no password", login.Fixed{Username: "alice"}, host + ` asks for "Password": no answer to it is known`, []error{vpn.ErrPrompt, login.ErrCannot}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := vpn.Dial(timeout(t, 20*time.Second), gw.URL, settings(gw, func(c *vpn.Config) { c.Login = tt.login }))
			if err == nil || err.Error() != "vpn dial through "+gw.URL+": "+tt.want {
				t.Errorf("%v\nwant %s", err, tt.want)
			}
			for _, kind := range tt.kinds {
				if !errors.Is(err, kind) {
					t.Errorf("%v does not match %v", err, kind)
				}
			}
			if rejected := (*login.RejectedError)(nil); errors.As(err, &rejected) != errors.Is(err, vpn.ErrLogin) {
				t.Errorf("%v: RejectedError %+v", err, rejected)
			}
		})
	}
}
