package logon

import (
	"fmt"
	"slices"
	"time"
)

// Complexities of passwords, in the words of the profile, each more than the one before. An empty one demands nothing.
const (
	PIN    = "pin"
	Alpha  = "alpha"
	Strong = "strong"
)

// A LockRule is DeviceLockRequired of a profile. The zero LockRule demands nothing.
type LockRule struct {
	Required bool
	// MaximumTimeout is the longest time until the device locks itself; 0 is any.
	MaximumTimeout time.Duration
	// MinimumLength is the shortest password, in characters; 0 is any.
	MinimumLength int
	// Complexity is what the password must at least be; "" is anything.
	Complexity string
	// Document names where the setting stands.
	Document string
}

// A Device is what the system says about its lock. The zero Device says nothing.
type Device struct {
	// Known says that the system could tell. If it could not, Cause may say why.
	Known bool
	Cause error
	// Locks says that it locks itself and asks for a password then, after Timeout of inactivity.
	Locks   bool
	Timeout time.Duration
	// Length and Complexity are what the system demands of the password.
	Length     int
	Complexity string
}

const lockName = "DeviceLockRequired"

// DecideLock decides whether a device locks itself well enough to connect. What the device does not say counts as not so.
func DecideLock(rule LockRule, device Device) Verdict {
	order := []string{"", PIN, Alpha, Strong}
	refuse := func(kind error, setting string, value any, detail string) Verdict {
		return Verdict{Reason: &Reason{Kind: kind, Setting: setting, Value: fmt.Sprint(value), Document: rule.Document, Detail: detail, Cause: device.Cause}}
	}
	minutes := int64(rule.MaximumTimeout / time.Minute)
	switch {
	case !rule.Required:
		return Verdict{Allow: true}
	case !slices.Contains(order, rule.Complexity):
		return refuse(ErrSetting, lockName+"/DeviceLockPasswordComplexity", rule.Complexity, "it must be pin, alpha or strong")
	case !device.Known:
		return refuse(ErrDeviceLock, lockName, true, "this system does not say whether it locks itself")
	case !device.Locks:
		return refuse(ErrDeviceLock, lockName, true, "set a password and let the device lock itself")
	case rule.MaximumTimeout > 0 && device.Timeout > rule.MaximumTimeout:
		return refuse(ErrDeviceLock, lockName+"/DeviceLockMaximumTimeoutMinutes", minutes,
			fmt.Sprintf("it locks itself after %v; let it do so earlier", device.Timeout))
	case device.Length < rule.MinimumLength:
		return refuse(ErrDeviceLock, lockName+"/DeviceLockMinimumPasswordLength", rule.MinimumLength,
			fmt.Sprintf("it demands %d characters; let it demand more", device.Length))
	case slices.Index(order, device.Complexity) < slices.Index(order, rule.Complexity):
		return refuse(ErrDeviceLock, lockName+"/DeviceLockPasswordComplexity", rule.Complexity, "let it demand a better password")
	}
	return Verdict{Allow: true}
}
