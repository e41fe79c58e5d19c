package logon

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// An Enforcement says how many users may be logged on while the tunnel is up. The words are those of the profile.
type Enforcement string

const (
	// SingleLocalLogon: one locally, any number remotely. It is the default.
	SingleLocalLogon Enforcement = "SingleLocalLogon"
	// SingleLogon: one, locally or remotely.
	SingleLogon Enforcement = "SingleLogon"
	// SingleLogonNoRemote: one locally, none remotely.
	SingleLogonNoRemote Enforcement = "SingleLogonNoRemote"
)

// An Establishment says who may bring the tunnel up. The words are those of the profile.
type Establishment string

const (
	// LocalUsersOnly: nobody who is logged on remotely. It is the default.
	LocalUsersOnly Establishment = "LocalUsersOnly"
	// AllowRemoteUsers: those who are logged on remotely too, unless the tunnel would cut them off.
	AllowRemoteUsers Establishment = "AllowRemoteUsers"
)

// A UserEnforcement says when a tunnel that outlived the logon of its user ends. The words are those of the profile.
type UserEnforcement string

const (
	// SameUserOnly: when another user logs on. It is the default.
	SameUserOnly UserEnforcement = "SameUserOnly"
	// AnyUser: not because of who logs on.
	AnyUser UserEnforcement = "AnyUser"
)

const (
	// RemoteHold is how long after the tunnel came up a remote user of Windows who disconnects the session ends the tunnel.
	RemoteHold = 90 * time.Second
	// Patience is how long a tunnel stays up while nobody can say who is logged on.
	Patience = 30 * time.Second
)

// Rules are the settings of a profile that are about logons. The zero Rules have no system, and therefore no limits; with a
// System, an empty setting stands for the default of the profile.
type Rules struct {
	// System is the operating system as Go calls it. Enforcement and Establishment are in force on "windows" and "linux" only.
	System        string
	Enforcement   Enforcement
	Establishment Establishment
	// RetainOnLogoff keeps the tunnel when its user logs off; UserEnforcement says for how long.
	RetainOnLogoff  bool
	UserEnforcement UserEnforcement
	// Document names where the settings stand, such as the file of the profile. It is quoted in reasons.
	Document string
}

// effective returns r with defaults instead of empty settings.
func (r Rules) effective() Rules {
	if r.Enforcement == "" {
		r.Enforcement = SingleLocalLogon
	}
	if r.Establishment == "" {
		r.Establishment = LocalUsersOnly
	}
	if r.UserEnforcement == "" {
		r.UserEnforcement = SameUserOnly
	}
	return r
}

// prefix begins the names of the settings of the system, and is empty where it has none.
func (r Rules) prefix() string {
	switch r.System {
	case "windows":
		return "Windows"
	case "linux":
		return "Linux"
	}
	return ""
}

func (r Rules) enforcementName() string { return r.prefix() + "LogonEnforcement" }

func (r Rules) establishmentName() string { return r.prefix() + "VPNEstablishment" }

const (
	retainName = "RetainVpnOnLogoff"
	userName   = "RetainVpnOnLogoff/UserEnforcement"
)

// Check returns an error for each setting with a value that does not exist. Rules that fail it refuse every tunnel.
func (r Rules) Check() error {
	r = r.effective()
	var errs []error
	bad := func(name, value string, possible ...string) {
		if !slices.Contains(possible, value) {
			errs = append(errs, &Reason{Kind: ErrSetting, Setting: name, Value: value, Document: r.Document,
				Detail: "it must be " + strings.Join(possible[:len(possible)-1], ", ") + " or " + possible[len(possible)-1]})
		}
	}
	if r.prefix() != "" {
		bad(r.enforcementName(), string(r.Enforcement), string(SingleLocalLogon), string(SingleLogon), string(SingleLogonNoRemote))
		bad(r.establishmentName(), string(r.Establishment), string(LocalUsersOnly), string(AllowRemoteUsers))
	}
	bad(userName, string(r.UserEnforcement), string(SameUserOnly), string(AnyUser))
	return errors.Join(errs...)
}

// A Setting is one row of [Rules.Settings].
type Setting struct {
	// Name is the element of the profile, and Value what is in force, or would be.
	Name, Value string
	// InForce says whether it has an effect, and Why why it has none.
	InForce bool
	Why     string
}

// Settings says which settings are in force, before the first logon or after it, and why the others are not.
func (r Rules) Settings(beforeLogon bool) []Setting {
	r = r.effective()
	rows := []Setting{
		{Name: "WindowsLogonEnforcement"}, {Name: "LinuxLogonEnforcement"}, {Name: "WindowsVPNEstablishment"}, {Name: "LinuxVPNEstablishment"},
		{Name: retainName, Value: fmt.Sprint(r.RetainOnLogoff), InForce: true},
		{Name: userName, Value: string(r.UserEnforcement), InForce: r.RetainOnLogoff},
	}
	for i := range rows {
		s := &rows[i]
		switch {
		case strings.HasPrefix(s.Name, retainName):
			if !s.InForce {
				s.Why = retainName + " is false"
			}
		case s.Name == r.enforcementName():
			s.Value, s.InForce = string(r.Enforcement), true
		case s.Name == r.establishmentName():
			s.Value, s.InForce = string(r.Establishment), !beforeLogon
			if beforeLogon {
				s.Why = "it is not available before the first logon"
			}
		default:
			s.Why = "it is not a setting of this system"
		}
	}
	return rows
}
