package oath

import (
	"testing"

	"culvert.example/vpn/transport/login"
)

func TestWantsCode(t *testing.T) {
	for _, tt := range []struct {
		id, message, name, label string
		kind                     login.Kind
		want                     bool
	}{
		{"main", "Please enter your OTP password.", "password", "Password:", login.Password, true},
		{"main", "Please enter your password.", "password", "Password:", login.Password, false},
		{"main", "", "password", "One-time code", login.Password, true},
		{"main", "", "secondary_password", "", login.Password, true},
		{"challenge", "", "answer", "", login.Text, true},
		{"main", "Enter the OTP", "username", "User", login.Text, false},
	} {
		f := &login.Form{ID: tt.id, Message: tt.message}
		if got := wantsCode(f, &login.Field{Name: tt.name, Label: tt.label, Kind: tt.kind}); got != tt.want {
			t.Errorf("%+v: %v", tt, got)
		}
	}
}
