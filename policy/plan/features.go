package plan

import (
	"fmt"
	"strings"

	"culvert.example/vpn/policy"
	"culvert.example/vpn/policy/document"
	"culvert.example/vpn/policy/local"
)

// A State says what becomes of a setting.
type State string

const (
	// On: it has an effect.
	On State = "on"
	// Off: it would have one, but is not switched on.
	Off State = "off"
	// NotApplicable: it can have none here.
	NotApplicable State = "not applicable"
)

// A Feature is one of the eighteen that do not exist without a profile.
type Feature struct {
	// Name is the name in the administrator's guide, Path the setting that switches it, and Value its effective value.
	Name  string `json:"name"`
	Path  string `json:"path"`
	Value string `json:"value"`
	// State says what becomes of it, and Why why it is not on.
	State State  `json:"state"`
	Why   string `json:"why,omitempty"`
	// Document is the profile, and the Position that of the setting in it, if it is there.
	Document string `json:"document,omitempty"`
	document.Position
}

// machineOnly reports whether a setting is about the network of the whole machine.
func machineOnly(path string) bool {
	switch path {
	case "LocalLanAccess", "PPPExclusion", "AutomaticVPNPolicy/AlwaysOn",
		"AutomaticVPNPolicy/AlwaysOn/ConnectFailurePolicy/AllowCaptivePortalRemediation":
		return true
	}
	return false
}

// theirs says why what is about the whole machine has no effect where the tunnel is a program's.
const theirs = "the tunnel carries one program, and not the traffic of the machine"

// features returns the features with their states.
func (p *Plan) features() []Feature {
	all := make([]Feature, 0, len(p.Effective.Features))
	for _, f := range p.Effective.Features {
		out := Feature{Name: f.Name, Path: f.Path, Value: f.Value, State: Off, Why: f.Why, Document: p.document()}
		v, _ := p.Effective.Get(f.Path)
		if v.Where != nil {
			out.Position = *v.Where
		}
		switch {
		case p.Profile == nil: // it is off, whatever else is true
		case !v.Applies:
			out.State = NotApplicable
		case f.On && machineOnly(f.Path) && !p.Environment.WholeMachine:
			out.State, out.Why = NotApplicable, theirs
		case f.On && p.Environment.Unavailable[f.Path] != "":
			out.State, out.Why = NotApplicable, p.Environment.Unavailable[f.Path]
		case f.On:
			out.State, out.Why = On, ""
		}
		all = append(all, out)
	}
	return all
}

// An Effect is a setting of a document and what it does here.
type Effect struct {
	Path  string `json:"path"`
	Value string `json:"value"`
	State State  `json:"state"`
	// Says is what it does, or why it does nothing.
	Says string `json:"says"`
	// Usual says that the value is the default, so that nobody misses its effect.
	Usual bool `json:"usual,omitempty"`
	// The Position is the place in the document, zero for a setting that is not there.
	document.Position
}

// moot says why a setting of the local policy makes no difference to this client, "" if it makes one.
func moot(path string) string {
	if strings.HasPrefix(path, "UpdatePolicy/") {
		return "this client takes no updates, profiles or scripts from gateways; Accept tells what one that does may take"
	}
	switch path {
	case "RestrictScriptWebDeploy":
		return "this client takes no scripts from gateways"
	case "BypassDefaultLocalization", "RestrictLocalizationWebDeploy":
		return "there are no translations"
	case "RestrictWebLaunch":
		return "nothing can start this client from a web page"
	case "RestrictHelpWebDeploy":
		return "this client has no help files that a gateway could replace"
	case "RestrictResourceWebDeploy":
		return "this client has no pictures and texts that a gateway could replace"
	case "OCSPRevocation":
		return "this client does not ask whether certificates have been revoked"
	}
	return ""
}

// effects returns the settings of the local policy with their states.
func (p *Plan) effects() []Effect {
	var all []Effect
	for _, row := range p.Documents.Local.Rows(p.Environment.System) {
		e := Effect{Path: row.Path, Value: row.Value, State: Off, Says: row.Effect, Usual: row.Value == row.Default, Position: p.Documents.Local.Where(row.Path)}
		why := moot(row.Path)
		switch {
		case !row.Applies:
			e.State, e.Says = NotApplicable, "it has no effect on "+p.Environment.System
		case why != "":
			e.State, e.Says = NotApplicable, why
		case row.Value != row.Default:
			e.State = On
			if row.Default == "true" {
				e.Says = "It is false, so nothing of the kind is taken from gateways that are not in AuthorizedServerList."
			}
		case row.Default == "true":
			e.Says = "It is true, which forbids nothing."
		}
		all = append(all, e)
	}
	return all
}

// A Download is what a gateway may offer for this machine to keep.
type Download string

// The kinds of downloads, by what the UpdatePolicy has switches for.
const (
	Software             Download = "software"
	ComplianceModule     Download = "compliance module"
	VPNProfile           Download = "VPN profile"
	ManagementVPNProfile Download = "management VPN profile"
	ISEProfile           Download = "ISE posture profile"
	ServiceProfile       Download = "service profile"
	Scripts              Download = "script"
	Help                 Download = "help"
	Resource             Download = "resource"
	Localization         Download = "localization"
)

// Required reports whether a connection ends when something that the gateway wants to be taken is refused.
func (d Download) Required() bool { return d == Software || d == VPNProfile }

// Accept returns a *[policy.RefusedError] if the local policy does not let something be taken from a gateway, which is named as the
// user typed it, without port. What is not a Download of this package is refused.
func (p *Plan) Accept(what Download, server string) error {
	l := p.Documents.Local
	if l.BypassDownloader {
		return p.forbids("BypassDownloader", "true", "nothing is taken from gateways")
	}
	never := map[Download]struct {
		forbidden bool
		setting   string
	}{
		Scripts:      {l.RestrictScriptWebDeploy, "RestrictScriptWebDeploy"},
		Help:         {l.RestrictHelpWebDeploy, "RestrictHelpWebDeploy"},
		Resource:     {l.RestrictResourceWebDeploy, "RestrictResourceWebDeploy"},
		Localization: {l.RestrictLocalizationWebDeploy, "RestrictLocalizationWebDeploy"},
	}[what]
	if never.forbidden {
		return p.forbids(never.setting, "true", fmt.Sprintf("nothing of the kind %s is taken from gateways", what))
	}
	allowed, setting := updates(l.Update, what)
	if allowed || l.Update.Authorized(server) {
		return nil
	}
	return p.forbids(setting, "false", fmt.Sprintf("nothing of the kind %s is taken from %s, which is not in the AuthorizedServerList%s", what, server, listed(l.Update)))
}

// forbids returns the refusal of a setting of the local policy, with its place there.
func (p *Plan) forbids(setting, value, why string) *policy.RefusedError {
	at := p.Documents.Local.Where(setting)
	return &policy.RefusedError{Document: p.localDocument(), Setting: setting, Value: value, Line: at.Line, Column: at.Column, Reason: why}
}

// listed names the gateways that would do.
func listed(u local.UpdatePolicy) string {
	if len(u.AuthorizedServers) == 0 {
		return ""
	}
	return " (" + strings.Join(u.AuthorizedServers[:min(8, len(u.AuthorizedServers))], ", ") + ")"
}

// updates returns the switch of the UpdatePolicy for something, and its name. What customizes the client is part of its software, so
// the switch for that must be on as well.
func updates(u local.UpdatePolicy, what Download) (bool, string) {
	const path = "UpdatePolicy/"
	switch what {
	case Scripts, Help, Resource, Localization:
		if !u.Software {
			return false, path + "AllowSoftwareUpdatesFromAnyServer"
		}
	}
	switch what {
	case Software:
		return u.Software, path + "AllowSoftwareUpdatesFromAnyServer"
	case ComplianceModule:
		return u.ComplianceModule, path + "AllowComplianceModuleUpdatesFromAnyServer"
	case VPNProfile:
		return u.VPNProfile, path + "AllowVPNProfileUpdatesFromAnyServer"
	case ManagementVPNProfile:
		return u.ManagementVPNProfile, path + "AllowManagementVPNProfileUpdatesFromAnyServer"
	case ISEProfile:
		return u.ISEProfile, path + "AllowISEProfileUpdatesFromAnyServer"
	case ServiceProfile:
		return u.ServiceProfile, path + "AllowServiceProfileUpdatesFromAnyServer"
	case Scripts:
		return u.Script, path + "AllowScriptUpdatesFromAnyServer"
	case Help:
		return u.Help, path + "AllowHelpUpdatesFromAnyServer"
	case Resource:
		return u.Resource, path + "AllowResourceUpdatesFromAnyServer"
	case Localization:
		return u.Localization, path + "AllowLocalizationUpdatesFromAnyServer"
	}
	return false, "UpdatePolicy"
}
