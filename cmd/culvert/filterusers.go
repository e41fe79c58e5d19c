package main

import (
	"errors"
	"os/user"
	"strconv"

	"culvert.example/vpn/flow/filter"
)

// warnUsers warns of users in the rules of a content filter whom this machine does not know, so that the rules never match them.
func warnUsers(r *reporter, file string, cfg *filter.Config) {
	if cfg == nil {
		return
	}
	const most = 20
	told := 0
	for i, rule := range cfg.Rules {
		name := rule.Name
		if name == "" {
			name = "rule " + strconv.Itoa(i+1)
		}
		for _, u := range rule.Users {
			if !unknownUser(u) {
				continue
			}
			if told++; told > most {
				r.warn("--filter %s: there are more users whom this machine does not know", oneLine(file))
				return
			}
			r.warn("--filter %s: rule %q: users: this machine has no user %q, so the rule does not match by that name; numbers serve for users who are not in its own list",
				oneLine(file), oneLine(name), oneLine(u))
		}
	}
}

// unknownUser reports whether s is the name of a user that this machine does not have. A number is not looked up, nor does a list that
// cannot be read make anybody unknown. The flow path finds the names of users in the same list.
func unknownUser(s string) bool {
	if _, err := strconv.ParseUint(s, 10, 31); err == nil {
		return false
	}
	_, err := user.Lookup(s)
	var unknown user.UnknownUserError
	return errors.As(err, &unknown)
}

// identity returns the number and the name of a user who is given by either, as far as they are known.
func identity(s string) (uid int, name string) {
	if n, err := strconv.ParseUint(s, 10, 31); err == nil {
		if u, err := user.LookupId(s); err == nil {
			return int(n), u.Username
		}
		return int(n), ""
	}
	if u, err := user.Lookup(s); err == nil && s != "" {
		if n, err := strconv.Atoi(u.Uid); err == nil {
			return n, s
		}
	}
	return -1, s
}
