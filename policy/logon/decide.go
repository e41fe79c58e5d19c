package logon

import (
	"fmt"
	"net/netip"
	"time"
)

// A Request is somebody, or something, that wants the tunnel.
type Request struct {
	// BeforeLogon says that the tunnel comes up before the first logon (Start Before Logon), by nobody's wish.
	BeforeLogon bool
	// Session is the one that the asking process belongs to; "" if to none.
	Session string
	// Account is the user of the asking process, as in Session.Account; "" for a service that acts for nobody. It matters
	// only if the process belongs to no session.
	Account string
	// Captured reports whether the tunnel takes the packets to an address. It is nil as long as that is not known: ask again
	// when it is, before a route is changed.
	Captured func(netip.Addr) bool
	// Unknown says why the sessions are not known, if they are not. A machine that has no sessions by its nature has none, which is known.
	Unknown error
}

// A Verdict says whether the tunnel may come up.
type Verdict struct {
	// Allow says that it may. The zero Verdict refuses.
	Allow bool
	// Reason says why it may not; it is nil if it may.
	Reason *Reason
	// Deadline is until when the session that asked must not be left, if the tunnel came up now; the zero time if it may be.
	Deadline time.Time
}

// Err returns the reason as an error, or nil if the tunnel may come up.
func (v Verdict) Err() error {
	if v.Reason == nil {
		return nil
	}
	return v.Reason
}

// Decide decides whether a tunnel may come up, given all sessions of the machine. It keeps nothing of its arguments.
func Decide(rules Rules, sessions []Session, req Request, now time.Time) Verdict {
	if err := rules.Check(); err != nil {
		return Verdict{Reason: invalid(err)}
	}
	rules = rules.effective()
	if rules.prefix() == "" {
		return Verdict{Allow: true}
	}
	if req.Unknown != nil {
		return Verdict{Reason: rules.unknown(req.Unknown)}
	}
	if r := rules.crowded(sessions); r != nil {
		return Verdict{Reason: r}
	}
	if req.BeforeLogon {
		return Verdict{Allow: true}
	}
	asker, known := req.asker(sessions)
	if !known && req.Session != "" && req.Account == "" {
		// It is over, or a list of another moment: nobody can say that it was local.
		return Verdict{Reason: rules.unknown(fmt.Errorf("session %s, which asks, is not among them", show(req.Session)))}
	}
	if !known || !asker.Remote {
		return Verdict{Allow: true}
	}
	if rules.Establishment == LocalUsersOnly {
		return Verdict{Reason: rules.establishment(ErrRemoteUser, asker,
			"connect from a session at the machine itself, or have "+rules.establishmentName()+" set to "+string(AllowRemoteUsers))}
	}
	if r := rules.cutOff(asker, req.Captured); r != nil {
		return Verdict{Reason: r}
	}
	v := Verdict{Allow: true}
	if rules.System == "windows" {
		v.Deadline = now.Add(RemoteHold)
	}
	return v
}

// invalid returns the first reason of an error of Check.
func invalid(err error) *Reason {
	if all, ok := err.(interface{ Unwrap() []error }); ok {
		for _, e := range all.Unwrap() {
			if r, ok := e.(*Reason); ok {
				return r
			}
		}
	}
	return &Reason{Kind: ErrSetting, Cause: err}
}

// asker returns the session on whose behalf the tunnel is asked for.
func (q Request) asker(sessions []Session) (Session, bool) {
	if s, ok := byID(sessions, q.Session); ok {
		return s, true
	}
	if q.Account == "" {
		return Session{}, false
	}
	var best Session
	found := 0
	for _, s := range sessions {
		if s.Account != q.Account || !s.counts() {
			continue
		}
		// Somebody at the machine is asking from there. Otherwise who could be remote is.
		weight := 1
		switch {
		case !s.Remote && s.Active && !s.Locked:
			weight = 3
		case s.Remote:
			weight = 2
		}
		if weight > found {
			best, found = s, weight
		}
	}
	return best, found > 0
}

// crowded applies the limits of the logon enforcement.
func (r Rules) crowded(sessions []Session) *Reason {
	local, remote := logons(sessions)
	reason := func(kind error, detail string, who ...Session) *Reason {
		return &Reason{Kind: kind, Setting: r.enforcementName(), Value: string(r.Enforcement), Document: r.Document,
			Sessions: shown(who...), Detail: detail}
	}
	switch {
	case r.Enforcement == SingleLogonNoRemote && len(remote) > 0:
		return reason(ErrRemoteLogon, "let them log off", remote...)
	case r.Enforcement != SingleLogon && len(local) > 1:
		return reason(ErrTooManyLogons, "only one may be logged on at the machine itself; let the others log off", local...)
	case r.Enforcement == SingleLogon && len(local)+len(remote) > 1:
		return reason(ErrTooManyLogons, "only one may be logged on, locally or remotely; let the others log off", append(local, remote...)...)
	}
	return nil
}

// cutOff says whether a remote session loses its way to the other end. Without captured nothing is known, and nothing happens yet.
func (r Rules) cutOff(s Session, captured func(netip.Addr) bool) *Reason {
	switch {
	case captured == nil:
		return nil
	case !s.Origin.IsValid():
		return r.establishment(ErrOriginUnknown, s, "connect from a session at the machine itself")
	case captured(s.Origin.Unmap().WithZone("")):
		return r.establishment(ErrCutOff, s, "leave "+s.Origin.Unmap().String()+" out of the tunnel, or connect from a session at the machine itself")
	}
	return nil
}

func (r Rules) establishment(kind error, s Session, detail string) *Reason {
	return &Reason{Kind: kind, Setting: r.establishmentName(), Value: string(r.Establishment), Document: r.Document,
		Sessions: shown(s), Detail: detail}
}

func (r Rules) unknown(cause error) *Reason {
	return &Reason{Kind: ErrSessionsUnknown, Setting: r.enforcementName(), Value: string(r.Enforcement), Document: r.Document, Cause: cause,
		Detail: "it can be told only with systemd-logind or another source of sessions"}
}
