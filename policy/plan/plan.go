package plan

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"culvert.example/vpn/policy"
	"culvert.example/vpn/policy/certificate"
	"culvert.example/vpn/policy/document"
	"culvert.example/vpn/policy/local"
	"culvert.example/vpn/policy/logon"
	"culvert.example/vpn/policy/network"
	"culvert.example/vpn/policy/preferences"
	"culvert.example/vpn/policy/profile"
)

// Documents are what was found on the machine. The zero Documents are those of a machine without any.
type Documents struct {
	// Local is the local policy, nil for none, and LocalPath the file that it is from.
	Local     *local.Policy
	LocalPath string
	// Profiles are the profiles, nil for none.
	Profiles *profile.Collection
	// Preferences are those of the user and of the machine.
	Preferences preferences.Pair
}

// An Environment is what the documents do not know.
type Environment struct {
	// System is the operating system as Go calls it.
	System string
	// WholeMachine says that the tunnel is to carry the traffic of the machine, rather than that of one program.
	WholeMachine bool
	// Administrator says that whoever asks for the tunnel administers the machine; see [certificate.Situation].
	Administrator bool
	// FIPS says that the cryptography of this process is in FIPS 140-3 mode, as crypto/fips140.Enabled reports.
	FIPS bool
	// Unavailable are settings that cannot be carried out here, by their paths, with the reasons.
	Unavailable map[string]string
	// Message is the text to be shown where the profile wants one before the first connection. Empty means a text that says so.
	Message string
}

// ErrNoHost is what the error of New matches if no gateway was named and the documents name none.
var ErrNoHost = errors.New("no gateway")

// A Plan is what the documents say about connections to one gateway. It must not be changed.
type Plan struct {
	// Documents and Environment are what it was made of.
	Documents   Documents
	Environment Environment

	// Profile is the profile in force, nil for none: the one that lists the gateway, and for a gateway that none lists the one
	// that demands Always-On. Effective are its settings with the defaults and the preferences.
	Profile   *profile.Profile
	Effective *profile.Effective

	// Host is the entry of the gateway; of one that a person has typed in it has only the name and the address. Listed says which.
	Host   profile.Host
	Listed bool
	// Servers are the gateways to dial, in this order: the one that was chosen, and its backups.
	Servers []string
	// Group is the user group to log in to, "" for none. It is the path of the gateway's URL.
	Group string
	// AuthenticationTimeout bounds a login.
	AuthenticationTimeout time.Duration
	// IPProtocols are IPv4 and IPv6, or one of them, in the order in which the gateway is to be tried over them.
	IPProtocols []string
	// NoDTLS keeps the tunnel on TLS, and NoDTLSReason says why. It is "" if DTLS is allowed.
	NoDTLS       bool
	NoDTLSReason string

	// TLS says what connections to gateways must be like, and Certificates which certificates count.
	TLS          TLS
	Certificates Certificates
	// Proxy says through which proxy the gateway is reached.
	Proxy Proxy

	// Message is what to show before connecting.
	Message Message
	// LocalLAN says that connected networks may be reached past the tunnel, if the gateway allows that too.
	LocalLAN bool
	// PPP says how the server of a PPP connection beneath the tunnel is kept out of it.
	PPP PPP
	// BeforeLogon says that the tunnel is to come up before anybody logs on.
	BeforeLogon bool
	// Script says whether scripts run.
	Script Script
	// Reconnect says what becomes of a tunnel that was interrupted.
	Reconnect Reconnect

	// Network says what becomes of the tunnel in which network, Logon and Lock who may connect from which machine.
	Network network.Config
	Logon   logon.Rules
	Lock    logon.LockRule

	// Keep says what may be written into the preferences without the user having chosen it.
	Keep preferences.Keep

	// Features are the eighteen that need a profile, and Local the settings of the local policy, with their states. Ignored are the
	// elements of the profile in force, and of its entry of the gateway, that have no effect here, each with the reason.
	Features []Feature
	Local    []Effect
	Ignored  []Effect

	// Refusals are the reasons not to connect, none if one may.
	Refusals []*policy.RefusedError
}

// Certificates say which certificates count.
type Certificates struct {
	// Stores are the stores of the system and what each may be used for.
	Stores []certificate.Store
	// Rules choose the client certificate.
	Rules certificate.Rules
	// Pins are the keys that the chosen gateway must have one of, nil if any key does that is trusted. See [Plan.PinsOf] for others.
	Pins *certificate.Pins
	// WarnDays is how many days before a client certificate expires the user is told, 0 for never.
	WarnDays int
}

// A Proxy says through which proxy a gateway is reached.
type Proxy struct {
	Choice profile.ProxyChoice
	// Public is the proxy that Choice Override means.
	Public string
	// AllowLocal allows a proxy on this machine.
	AllowLocal bool
}

// A Message is what a person is to be shown before connecting.
type Message struct {
	// Show says that it is to be shown: the profile wants so, and it was not shown yet.
	Show bool
	// Text is the message, and Mark its name in the preferences, once it has been shown; see [Plan.Shown].
	Text, Mark string
}

// A PPP says how the server of a PPP connection beneath the tunnel is kept out of it.
type PPP struct {
	Choice profile.PPPChoice
	// Server is the one that Choice Override means, and the zero Addr with another choice or if none is named.
	Server netip.Addr
}

// A Script says whether the scripts OnConnect and OnDisconnect run.
type Script struct {
	Allowed bool
	// TerminateOnNextEvent ends a script that runs when the next one begins, and PostSBL runs OnConnect again at the logon after
	// a tunnel that came up before it.
	TerminateOnNextEvent, PostSBL bool
}

// A Reconnect says what becomes of a tunnel that was interrupted.
type Reconnect struct {
	// Automatic says that it is made again.
	Automatic bool
	// AfterResume says that this holds after the machine was asleep too. Otherwise the tunnel ends when it falls asleep.
	AfterResume bool
}

// New makes the plan for a gateway: the name or address of an entry, or an address that a person has typed in. An empty host means
// the one that was used last, or else the first one of the profiles.
//
// If the documents refuse the connection, the error is that of [Plan.Err], and the plan is returned all the same; if there is no
// gateway, the error matches [ErrNoHost], and the plan has everything that does not depend on one.
func New(host string, docs Documents, env Environment) (*Plan, error) {
	if docs.Local == nil {
		docs.Local = local.Default()
	}
	if docs.Profiles == nil {
		docs.Profiles = &profile.Collection{}
	}
	p := &Plan{Documents: docs, Environment: env}
	found := p.choose(host)
	p.Effective = profile.Resolve(p.Profile, docs.Preferences.Control, env.System)
	s := p.Effective.Settings()

	p.AuthenticationTimeout, p.IPProtocols = s.AuthenticationTimeout, s.IPProtocols
	p.LocalLAN = s.LocalLANAccess
	p.Proxy = Proxy{Choice: s.Proxy, Public: s.PublicProxy, AllowLocal: s.AllowLocalProxyConnections}
	p.PPP.Choice, p.BeforeLogon = s.PPPExclusion, s.StartBeforeLogon
	if s.PPPExclusion == profile.PPPOverride {
		// What is no address has been refused with the profile; a preference that is none does not count.
		p.PPP.Server, _ = netip.ParseAddr(s.PPPExclusionServer)
	}
	p.Script = Script{s.EnableScripting, s.TerminateScriptOnNextEvent, s.PostSBLOnConnectScript}
	p.Reconnect = Reconnect{s.AutoReconnect, s.ReconnectBehavior == "ReconnectAfterResume"}
	p.TLS = TLS{FIPS: docs.Local.FIPSMode, Strict: docs.Local.StrictCertificateTrust || p.BlocksUntrusted()}
	if p.TLS.FIPS {
		p.TLS.by = *p.forbids("FipsMode", "true", "")
	}
	if docs.Local.FIPSMode {
		p.NoDTLS, p.NoDTLSReason = true, "FipsMode is true, and the handshake of DTLS is not part of the validated module"
	}
	p.certificates(s)
	p.message(s)

	enforcement, establishment := s.Logon(env.System)
	p.Logon = logon.Rules{
		System: env.System, Enforcement: logon.Enforcement(enforcement), Establishment: logon.Establishment(establishment),
		RetainOnLogoff: s.RetainVPNOnLogoff, UserEnforcement: logon.UserEnforcement(s.UserEnforcement), Document: p.document(),
	}
	if s.DeviceLockRequired {
		p.Lock = logon.LockRule{
			Required: true, MaximumTimeout: s.DeviceLockMaximumTimeout, MinimumLength: s.DeviceLockMinimumPasswordLength,
			Complexity: s.DeviceLockPasswordComplexity, Document: p.document(),
		}
	}
	p.Network = network.FromProfile(p.Profile, p.Effective)
	if p.Listed {
		p.Network.Default = p.Host.Name
	}
	caching := docs.Local.Caching
	p.Keep = preferences.Keep{Credentials: caching.Credentials(), Thumbprints: caching.Thumbprints(), Anything: caching.Anything()}

	p.Features, p.Local, p.Ignored = p.features(), p.effects(), p.ignored()
	p.refuse(host, found, s)
	if err := p.Err(); err != nil {
		return p, err
	}
	if !found {
		return p, fmt.Errorf("%w: none is named, and no profile lists one; name a gateway", ErrNoHost)
	}
	return p, nil
}

// choose finds the gateway and the profile that is in force for it, and reports whether there is one.
func (p *Plan) choose(name string) bool {
	profiles := p.InForce()
	if name == "" {
		name = p.last()
	}
	if name == "" {
		if hosts := profiles.Hosts(); len(hosts) > 0 {
			name = hosts[0].Name
		}
	}
	if h, of, ok := profiles.Host(name); ok && name != "" {
		p.Host, p.Profile, p.Listed = h, of, true
		p.Servers, p.Group = h.Servers(), h.UserGroup
		return true
	}
	p.Profile = profiles.AlwaysOn(p.Environment.System)
	if name == "" {
		// Without a gateway, the first profile is as good as any for whoever wants to see what would hold.
		if p.Profile == nil && len(profiles.Profiles) > 0 {
			p.Profile = profiles.Profiles[0]
		}
		return false
	}
	p.Host = profile.Host{Name: name, Address: name, Protocol: "SSL"}
	p.Servers = []string{name}
	return true
}

// InForce returns the profiles whose gateways may be chosen. Where one of them demands Always-On of the machine, only such ones are:
// the others count as deleted, as they are when a gateway sends that profile, or else whoever names a gateway of theirs would be rid of
// the kill switch. Whether they disable the client still counts.
func (p *Plan) InForce() *profile.Collection {
	all := p.Documents.Profiles
	if all == nil || !p.Environment.WholeMachine || all.AlwaysOn(p.Environment.System) == nil {
		return all
	}
	demanding := &profile.Collection{}
	for _, one := range all.Profiles {
		if profile.Resolve(one, nil, p.Environment.System).Settings().AlwaysOn {
			demanding.Profiles = append(demanding.Profiles, one)
		}
	}
	return demanding
}

// last returns the gateway that was used last, if a profile lists it.
func (p *Plan) last() string {
	if p.Documents.Preferences.User == nil {
		return ""
	}
	last := p.Documents.Preferences.User.Last()
	for _, name := range []string{last.HostName, last.HostAddress} {
		if _, _, ok := p.InForce().Host(name); ok && name != "" {
			return name
		}
	}
	return ""
}

// BlocksUntrusted reports whether the user does not want to be asked about gateways that are not trusted. Without the preference
// it depends on who asks. One that makes no sense counts as true, since whoever wrote it meant to be safe.
func (p *Plan) BlocksUntrusted() bool {
	v, ok := p.Documents.Preferences.Control(profile.BlockUntrustedServers)
	if !ok {
		return false
	}
	meant, err := profile.CheckPreference(profile.BlockUntrustedServers, v)
	return err != nil || meant == "true"
}

// Chosen reports whether the user has chosen anything that counts.
func (p *Plan) Chosen() bool {
	_, blocks := p.Documents.Preferences.Control(profile.BlockUntrustedServers)
	return blocks || slices.ContainsFunc(p.Effective.Values, func(v profile.Value) bool { return v.Origin == profile.FromPreference })
}

func (p *Plan) certificates(s profile.Settings) {
	in := certificate.Situation{System: p.Environment.System, Administrator: p.Environment.Administrator}
	p.Certificates.Stores = certificate.Stores(in, s, p.Documents.Local)
	p.Certificates.Rules = certificate.Rules{Automatic: s.AutomaticCertSelection, Document: p.document()}
	if user := p.Documents.Preferences.User; user != nil {
		p.Certificates.Rules.Preferred = user.Last().ClientCertificateThumbprint
	}
	if p.Profile == nil {
		return
	}
	p.Certificates.Rules.Match = p.Profile.CertificateMatch()
	p.Certificates.Pins = certificate.PinsOf(p.Profile, p.Host)
	if e := p.Profile.Enrollment(); e != nil {
		p.Certificates.WarnDays = e.WarnDays
	}
}

// PinsOf returns the keys of which a gateway must have one, by the name of its entry, where "" is the chosen one. Nil accepts any key.
func (p *Plan) PinsOf(name string) *certificate.Pins {
	if h, of, ok := p.InForce().Host(name); ok && name != "" {
		return certificate.PinsOf(of, h)
	}
	return p.Certificates.Pins
}

// AnyPins returns the pins of all gateways together, for questions to one of them that tell it nothing.
func (p *Plan) AnyPins() *certificate.Pins {
	all := []*certificate.Pins{p.Certificates.Pins}
	for _, h := range p.InForce().Hosts() {
		all = append(all, p.PinsOf(h.Name))
	}
	return certificate.Join(all...)
}

// shownMark is the name under which the preferences note that the message before connecting has been shown.
const shownMark = "PreConnectMessageShown"

func (p *Plan) message(s profile.Settings) {
	if !s.ShowPreConnectMessage {
		return
	}
	text := cmp.Or(strings.TrimSpace(p.Environment.Message), "Your organisation wants you to be reminded before you connect for the first time.")
	sum := sha256.Sum256([]byte(text))
	p.Message = Message{Text: text, Mark: hex.EncodeToString(sum[:8])}
	shown, _ := p.Documents.Preferences.Control(shownMark)
	p.Message.Show = shown != p.Message.Mark
}

// Shown notes in the preferences of the user that the message has been shown, so that it is not shown again unless its text
// changes. Where the local policy lets nothing be written that the user has not chosen, it is shown each time.
func (p *Plan) Shown(user *preferences.Preferences) error {
	if !p.Message.Show || !p.Keep.Anything {
		return nil
	}
	return user.SetControl(shownMark, p.Message.Mark)
}

// Remember returns what of a last connection may be written into the preferences.
func (p *Plan) Remember(last preferences.Last) preferences.Last {
	if !p.Keep.Anything {
		return preferences.Last{}
	}
	if !p.Keep.Credentials {
		last.User, last.SecondUser = "", ""
	}
	if !p.Keep.Thumbprints {
		last.ClientCertificateThumbprint, last.ClientCertificateThumbprints, last.ServerCertificateThumbprint = "", "", ""
	}
	return last
}

// document names the profile in force, as refusals do, or "".
func (p *Plan) document() string {
	if p.Profile == nil {
		return ""
	}
	return "profile " + p.Profile.Name()
}

// localDocument names the local policy, as refusals do.
func (p *Plan) localDocument() string {
	return strings.TrimSpace("local policy " + p.Documents.LocalPath)
}

// Document names a document for messages: the profile in force, or with local the local policy. It is "" if there is none.
func (p *Plan) Document(local bool) string {
	switch {
	case !local:
		return p.document()
	case p.Documents.LocalPath == "":
		return ""
	}
	return p.localDocument()
}

// maxEntries is how many entries a message names.
const maxEntries = 12

// Entries names the profiles, and the gateways that they list, for messages. Both are empty if there are no profiles.
func (p *Plan) Entries() (documents, entries string) {
	profiles := p.InForce()
	if profiles == nil || len(profiles.Profiles) == 0 {
		return "", ""
	}
	var files, names []string
	for _, other := range profiles.Profiles {
		files = append(files, other.Name())
	}
	hosts := profiles.Hosts()
	for _, h := range hosts[:min(maxEntries, len(hosts))] {
		names = append(names, h.Name)
	}
	switch more := len(hosts) - len(names); {
	case len(names) == 0:
		names = []string{"none"}
	case more > 0:
		names = append(names, fmt.Sprintf("and %d more", more))
	}
	return "profile " + strings.Join(files, ", "), strings.Join(names, ", ")
}

// Err returns the Refusals as one error, from which errors.As gets the first one, or nil if there are none.
func (p *Plan) Err() error {
	errs := make([]error, len(p.Refusals))
	for i, r := range p.Refusals {
		errs[i] = r
	}
	if len(errs) == 1 {
		return errs[0]
	}
	return errors.Join(errs...)
}

// refuse finds the reasons not to connect.
func (p *Plan) refuse(typed string, found bool, s profile.Settings) {
	add := func(r *policy.RefusedError) { p.Refusals = append(p.Refusals, r) }
	for _, other := range p.Documents.Profiles.Profiles {
		// A disabled client stays so whichever gateway is named.
		if r := p.switched(other, "ServiceDisable", "true", "the client is not to connect at all"); r != nil {
			add(r)
		}
	}
	policyOf := p.Documents.Local
	if !policyOf.Protocols.TLS() {
		add(p.forbids("RestrictTunnelProtocols", string(policyOf.Protocols), "tunnels over TLS are forbidden, and this client speaks no other protocol"))
	}
	if policyOf.FIPSMode && !p.Environment.FIPS {
		add(p.forbids("FipsMode", "true", "the cryptography of this process is not in FIPS 140-3 mode; start it with GODEBUG=fips140=on in its environment"))
	}
	if err := certificate.CheckStores(p.Certificates.Stores); err != nil {
		none := (*certificate.NoStoreError)(nil)
		settings := []string{"ExcludePemFileCertStore"}
		if errors.As(err, &none) && len(none.Settings) > 0 {
			settings = slices.Compact(slices.Clone(none.Settings))
		}
		r := p.forbids(settings[0], "true", err.Error())
		r.Setting, r.Err = strings.Join(settings, ", "), err
		add(r)
	}
	if found && !p.Listed {
		p.refuseTyped(typed)
	}
	if found && p.Host.Protocol == "IPsec" {
		add(&policy.RefusedError{Document: p.document(), Setting: "PrimaryProtocol", Value: "IPsec", Line: p.Host.Line, Column: p.Host.Column,
			Reason: fmt.Sprintf("the gateway %s is to be reached by IPsec, which this client does not speak", p.Host.Name)})
	}
	if p.Listed && len(p.Servers) == 0 {
		add(&policy.RefusedError{Document: p.document(), Setting: "HostAddress", Value: p.Host.Address, Line: p.Host.Line, Column: p.Host.Column,
			Reason: fmt.Sprintf("%q is no address, and there is no backup; mend the entry %s", p.Host.Address, p.Host.Name)})
	}
	if err := p.Network.Validate(); err != nil {
		at := p.position(p.Profile, "AutomaticVPNPolicy")
		add(&policy.RefusedError{Document: p.document(), Setting: "AutomaticVPNPolicy", Line: at.Line, Column: at.Column, Reason: err.Error(), Err: err})
	}
	if err := p.Logon.Check(); err != nil {
		r := &policy.RefusedError{Document: p.document(), Setting: "LinuxLogonEnforcement", Reason: err.Error(), Err: err}
		if reason := (*logon.Reason)(nil); errors.As(err, &reason) {
			r.Setting, r.Value = reason.Setting, reason.Value
		}
		add(r)
	}
}

// refuseTyped refuses a gateway that no profile lists where it must be one that is.
func (p *Plan) refuseTyped(typed string) {
	_, entries := p.Entries()
	for _, other := range p.Documents.Profiles.Profiles {
		if r := p.switched(other, "AllowManualHostInput", "false", fmt.Sprintf("%s is not in the list of gateways (%s), and only those may be connected to", typed, entries)); r != nil {
			p.Refusals = append(p.Refusals, r)
			return
		}
	}
	if p.Profile == nil || !p.Effective.Settings().AlwaysOn {
		return
	}
	at := p.position(p.Profile, "AutomaticVPNPolicy/AlwaysOn")
	p.Refusals = append(p.Refusals, &policy.RefusedError{Document: p.document(), Setting: "AlwaysOn", Value: "true", Line: at.Line, Column: at.Column,
		Reason: fmt.Sprintf("%s is not in the list of gateways (%s), and Always-On connects to those alone, because its firewall must know them", typed, entries)})
}

// Refuse returns the refusal of a setting of the profile in force, with its value and its place.
func (p *Plan) Refuse(path, reason string) *policy.RefusedError {
	v, _ := p.Effective.Get(path)
	at := p.position(p.Profile, path)
	return &policy.RefusedError{Document: p.document(), Setting: path, Value: v.Value, Line: at.Line, Column: at.Column, Reason: reason}
}

// switched returns the refusal of a setting of a profile if it has the value.
func (p *Plan) switched(of *profile.Profile, path, value, why string) *policy.RefusedError {
	v, ok := profile.Resolve(of, p.Documents.Preferences.Control, p.Environment.System).Get(path)
	if !ok || v.Value != value || !v.Active || !v.Applies {
		return nil
	}
	at := p.position(of, path)
	return &policy.RefusedError{Document: "profile " + of.Name(), Setting: path, Value: value, Line: at.Line, Column: at.Column, Reason: why}
}

// position returns the place of a setting in a profile, the zero Position if it is not there.
func (p *Plan) position(of *profile.Profile, path string) document.Position {
	if of == nil {
		return document.Position{}
	}
	if v, ok := profile.Resolve(of, nil, p.Environment.System).Get(path); ok && v.Where != nil {
		return *v.Where
	}
	return document.Position{}
}

// Choices returns the settings that the user may choose, with what they are now. The Note of one that has no effect says why.
func (p *Plan) Choices() []profile.Value {
	var all []profile.Value
	for _, v := range p.Effective.Values {
		if v.UserControllable && v.Applies {
			path := clientPath + v.Path
			v.Note = cmp.Or(v.Note, p.idle(path, profile.Schema().Root.Find(path)))
			all = append(all, v)
		}
	}
	return all
}
