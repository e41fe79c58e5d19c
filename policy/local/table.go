package local

import (
	"errors"
	"net/netip"
	"strings"

	"culvert.example/vpn/policy/document"
)

// Namespace is the XML namespace of local policies.
const Namespace = "http://schemas.xmlsoap.org/encoding/"

func toggle(name, value string, systems document.Systems, effect string) *document.Element {
	return &document.Element{Name: name, Type: document.Boolean(), Default: value, Systems: systems, Effect: effect}
}

// Schema returns the table of everything that may stand in a local policy.
func Schema() *document.Schema {
	const (
		all    = document.Desktop
		others = " from gateways that are not in AuthorizedServerList."
	)
	deploy := func(name, what string) *document.Element {
		return toggle(name, "false", all, "Takes no "+what+" from gateways.")
	}
	allow := func(name, what string) *document.Element {
		return toggle(name, "true", all, "Accepts "+what+others)
	}
	update := &document.Element{
		Name: "UpdatePolicy", Content: document.Group, Systems: all,
		Effect: "What may be updated from which gateways. Without it everything may from all.",
		Children: []*document.Element{
			allow("AllowSoftwareUpdatesFromAnyServer", "updates of the client and its modules"),
			allow("AllowComplianceModuleUpdatesFromAnyServer", "updates of the compliance module"),
			allow("AllowVPNProfileUpdatesFromAnyServer", "VPN profiles"),
			allow("AllowManagementVPNProfileUpdatesFromAnyServer", "profiles of the management tunnel"),
			allow("AllowISEProfileUpdatesFromAnyServer", "ISE posture profiles"),
			allow("AllowServiceProfileUpdatesFromAnyServer", "profiles of other modules"),
			allow("AllowScriptUpdatesFromAnyServer", "scripts"),
			allow("AllowHelpUpdatesFromAnyServer", "help files"),
			allow("AllowResourceUpdatesFromAnyServer", "pictures and texts of the user interface"),
			allow("AllowLocalizationUpdatesFromAnyServer", "translations"),
			{
				Name: "AuthorizedServerList", Content: document.Group, Order: document.Sequence, Systems: all,
				Effect: "The gateways from which everything may be updated, whatever the switches say.",
				Children: []*document.Element{{
					Name: "ServerName", Max: -1, Systems: all, Type: document.Text("ServerName", 1, 0, "name, *.domain or address", checkPattern),
					Effect: "A gateway as the user names it. A name does not stand for its addresses, nor an address for its name.",
				}},
			},
		},
	}
	return &document.Schema{
		Title:     "AnyConnect local policy",
		About:     "The administrator of a machine says with it what its VPN client may do.",
		Namespace: Namespace,
		Foreign:   foreign,
		Root: &document.Element{
			Name: "AnyConnectLocalPolicy", Content: document.Group, Systems: all, Effect: "The whole policy.",
			Attributes: []*document.AttributeSpec{{Name: "acversion", Effect: "The version of the client that wrote the file. It has no effect."}},
			Children: []*document.Element{
				toggle("FipsMode", "false", all, "Uses only algorithms that FIPS 140 approves, in a module that is validated for it."),
				toggle("BypassDownloader", "false", all, "Takes nothing from gateways: no updates, no profiles, no scripts."),
				toggle("BypassDefaultLocalization", "false", all, "Does not use the translations that come with the client."),
				toggle("RestrictWebLaunch", "false", all, "Cannot be started by a web page."),
				toggle("StrictCertificateTrust", "false", all, "Refuses gateways whose certificate is not trusted, without asking the user."),
				{
					Name: "RestrictPreferenceCaching", Default: string(CacheEverything), Systems: all,
					Type:   document.Enumeration("PreferenceCaching", "false", "Credentials", "Thumbprints", "CredentialsAndThumbprints", "All"),
					Effect: "What is not written into the preferences: the names of users (Credentials), those of certificates (Thumbprints), both, or anything that the user has not chosen himself (All).",
				},
				{
					Name: "RestrictTunnelProtocols", Default: string(AllProtocols), Systems: all,
					Type:   document.Enumeration("TunnelProtocols", "false", "TLS", "IPSec"),
					Effect: "The family of protocols that tunnels must not use: TLS with DTLS, or IPSec.",
				},
				deploy("RestrictScriptWebDeploy", "scripts"),
				deploy("RestrictHelpWebDeploy", "help files"),
				deploy("RestrictResourceWebDeploy", "pictures and texts of the user interface"),
				deploy("RestrictLocalizationWebDeploy", "translations"),
				toggle("RestrictServerCertStore", "false", all, "Trusts only the certificate authorities of the system, and none of a user, for gateways."),
				toggle("ExcludePemFileCertStore", "false", document.MacOS|document.Linux, "Leaves out the directories with PEM files."),
				toggle("ExcludeFirefoxNSSCertStore", "false", document.MacOS|document.Linux, "Leaves out the certificates of Firefox."),
				toggle("ExcludeMacNativeCertStore", "false", document.MacOS, "Leaves out the keychains of macOS."),
				toggle("ExcludeWinNativeCertStore", "false", document.Windows, "Leaves out the certificate stores of Windows."),
				toggle("OCSPRevocation", "false", all, "Asks by OCSP whether the certificate of a gateway has been revoked."),
				update,
			},
		},
	}
}

// checkPattern refuses what cannot be the name of a gateway: a * may only stand for the first parts of a name.
func checkPattern(s string) error {
	if _, err := netip.ParseAddr(strings.Trim(s, "[]")); err == nil {
		return nil
	}
	name := strings.TrimPrefix(s, "*.")
	if name == "" || strings.ContainsAny(name, "*/: \t") {
		return errors.New("it must be a name, an address, or *. in front of a domain, without port and path")
	}
	return nil
}

// foreign says what is known of elements that are none of a local policy.
func foreign(name string) (document.Rule, string, string) {
	switch name {
	case "ClientInitialization", "ServerList", "HostEntry", "AutoUpdate", "LocalLanAccess", "UseStartBeforeLogon", "AutoConnectOnStart",
		"AutoReconnect", "AutomaticVPNPolicy", "AlwaysOn", "ServiceDisable", "CertificateStore", "CertificateStoreOverride":
		return document.RuleUnknownElement, "<" + name + "> is an element of a VPN profile and has no effect in the local policy",
			"write it into a profile"
	case "DefaultUser", "DefaultHostName", "ControllablePreferences", "BlockUntrustedServers":
		return document.RuleUnknownElement, "<" + name + "> is an element of the preferences of a user", "remove it"
	}
	return "", "", ""
}
