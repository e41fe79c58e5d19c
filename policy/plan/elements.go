package plan

import (
	"cmp"
	"strings"

	"culvert.example/vpn/policy/document"
	"culvert.example/vpn/policy/profile"
)

// Where the settings and the gateways stand in a profile.
const (
	clientPath = "ClientInitialization/"
	hostPath   = "ServerList/HostEntry/"
)

// without says why an element of profiles has no effect with this client on any system, "" if it has one. The path is that of the
// element below ClientInitialization or HostEntry.
func without(path string) string {
	const (
		noIPsec = "this client speaks no IPsec"
		noSCEP  = "this client requests no certificates; put one into a store or name it with --certificate"
	)
	switch path {
	case "MinimizeOnConnect":
		return "this client has no window"
	case "AutoUpdate":
		return "this client is not updated by gateways"
	case "AllowIPsecOverSSL", "PrimaryProtocol/StandardAuthenticationOnly":
		return noIPsec
	case "CertificateEnrollment/AutomaticSCEPHost", "CertificateEnrollment/CAURL", "CertificateEnrollment/CertificateImportStore",
		"CertificateEnrollment/CertificateSCEP", "AutomaticSCEPHost", "CAURL":
		return noSCEP
	case "RSASecurIDIntegration", "SafeWordSofTokenIntegration":
		return "this client asks no program for tokens; it makes them itself with --token-mode"
	case "ClearSmartcardPin":
		return "this client keeps no PIN"
	case "SuspendOnConnectedStandby":
		return "this client does not know of connected standby"
	}
	return ""
}

// idle says why an element has no effect here, "" if it has one or is inside of one that has none. The path is that of the element
// from the root of the profile.
func (p *Plan) idle(path string, e *document.Element) string {
	setting, isSetting := strings.CutPrefix(path, clientPath)
	short, isHost := strings.CutPrefix(setting, hostPath)
	switch {
	case !e.Systems.Has(p.Environment.System):
		return "it is for " + e.Systems.String() + " and not for " + p.Environment.System
	case !isSetting && !isHost:
		return ""
	case isSetting && machineOnly(setting) && !p.Environment.WholeMachine:
		return theirs
	case setting == "AutoConnectOnStart" && p.Network.Automatic && p.Environment.WholeMachine:
		return "" // it has a tunnel come up although nobody is logged on
	case isSetting && p.Environment.Unavailable[setting] != "":
		return p.Environment.Unavailable[setting]
	}
	return without(short)
}

// ignored returns the elements of the profile in force that have no effect here, in their order. Of the gateways, that is the chosen
// one. Elements that only hold others are not among them.
func (p *Plan) ignored() []Effect {
	if p.Profile == nil {
		return nil
	}
	var all []Effect
	var below func(prefix, above string, n *document.Node, e *document.Element)
	below = func(prefix, above string, n *document.Node, e *document.Element) {
		for _, child := range n.Children {
			row := e.Child(child.Name)
			if row == nil || row.Name == "HostEntry" && child.Position() != p.Host.Position {
				continue // what is in no table has been named when the profile was read
			}
			path := prefix + child.Name
			why := cmp.Or(p.idle(path, row), above)
			if why != "" && row.Content != document.Group {
				value, err := row.Type.Validate(child.Value())
				all = append(all, Effect{
					Path: strings.TrimPrefix(strings.TrimPrefix(path, clientPath), "ServerList/"), Value: child.Value(), State: NotApplicable, Says: why,
					Usual: err == nil && value == row.Default && row.Content != document.Empty, Position: child.Position(),
				})
			}
			below(path+"/", why, child, row)
		}
	}
	below("", "", p.Profile.Document().Root(), profile.Schema().Root)
	return all
}
