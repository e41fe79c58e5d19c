package profile

import (
	"time"

	"culvert.example/vpn/policy/document"
)

// The short names keep a row of the table readable.
const (
	fixed = document.Fixed
	off   = document.ControlOff
	on    = document.ControlOn

	windows    = document.Windows
	macOS      = document.MacOS
	linux      = document.Linux
	mobile     = document.Mobile
	desktop    = document.Desktop
	everywhere = document.Everywhere
)

// row returns a setting: an element with a value and perhaps children, which may stand once.
func row(name string, t document.Type, value string, control document.Control, systems document.Systems, effect string, children ...*document.Element) *document.Element {
	e := &document.Element{Name: name, Type: t, Default: value, Control: control, Systems: systems, Effect: effect, Children: children}
	if len(children) > 0 {
		e.Content, e.When = document.Mixed, "true"
	}
	return e
}

// feature makes e one of the features that do not exist without a profile, with the value that it has then.
func feature(e *document.Element, name, without string) *document.Element {
	e.Feature = name
	if without != e.Default {
		e.Without = without
	}
	return e
}

// when says with which value of e its children have an effect.
func when(e *document.Element, value string) *document.Element {
	e.When = value
	return e
}

// sequence makes the order of the children of e count.
func sequence(e *document.Element) *document.Element {
	e.Order = document.Sequence
	return e
}

// group returns an element that only holds others, in their order.
func group(name string, systems document.Systems, effect string, children ...*document.Element) *document.Element {
	return &document.Element{Name: name, Content: document.Group, Order: document.Sequence, Systems: systems, Effect: effect, Children: children}
}

// times says how often e may stand.
func times(e *document.Element, least, most int) *document.Element {
	e.Min, e.Max = least, most
	return e
}

func counted(name string, least, most int, unit time.Duration) document.Type {
	t := document.Integer(name, least, most)
	t.Unit = unit
	return t
}

func boolean() document.Type { return document.Boolean() }

// Namespace is the XML namespace of profiles.
const Namespace = "http://schemas.xmlsoap.org/encoding/"

// Schema returns the table of everything that may stand in a profile.
func Schema() *document.Schema {
	return &document.Schema{
		Title:     "AnyConnect VPN profile",
		About:     "An organisation tells its clients with it which gateways there are and how to behave.",
		Namespace: Namespace,
		Foreign:   foreign,
		Root: &document.Element{
			Name: "AnyConnectProfile", Content: document.Group, Order: document.Sequence, Systems: everywhere,
			Effect:   "The whole profile.",
			Children: []*document.Element{initialization(), serverList()},
		},
	}
}

func initialization() *document.Element {
	logon := []string{"SingleLogon", "SingleLocalLogon", "SingleLogonNoRemote"}
	establishment := []string{"LocalUsersOnly", "AllowRemoteUsers"}
	return &document.Element{
		Name: "ClientInitialization", Content: document.Group, Order: document.AnyOrder, Systems: everywhere,
		Effect: "The settings of the client, for all gateways of the profile.",
		Children: []*document.Element{
			feature(row("UseStartBeforeLogon", boolean(), "false", on, windows|linux,
				"Brings the tunnel up before anybody logs on, so that the logon itself can go through it."), "Start Before Login", "false"),
			row("AutomaticCertSelection", boolean(), "true", on, everywhere,
				"Chooses the client certificate by the rules of the profile. With false the user is asked."),
			feature(row("ShowPreConnectMessage", boolean(), "false", fixed, desktop,
				"Shows a message once, before the first attempt to connect."), "Show Pre-connect Message", "false"),
			row("CertificateStore", document.Enumeration("CertificateStores", "All", "Machine", "User"), "All", fixed, windows,
				"The certificate stores of Windows that client certificates are taken from."),
			row("CertificateStoreMac", document.Enumeration("CertificateStoresMac", "All", "System", "Login"), "All", fixed, macOS,
				"The keychains of macOS that client certificates are taken from."),
			row("CertificateStoreLinux", document.Enumeration("CertificateStoresLinux", "All", "Machine", "User"), "All", fixed, linux,
				"The certificate stores of Linux that client certificates are taken from."),
			feature(row("CertificateStoreOverride", boolean(), "false", fixed, desktop,
				"Lets the client use the machine's certificates for users who may not read them themselves."), "Certificate Store Override", "false"),
			when(row("ProxySettings", document.Enumeration("ProxySettingsValues", "Native", "IgnoreProxy", "Override"), "Native", on, desktop,
				"Whether the way to the gateway leads through the proxy of the system, through none, or through the one named here.",
				row("PublicProxyServerAddress", document.Text("", 0, 0, "host:port", nil), "", on, desktop,
					"The proxy to use with Override.")), "Override"),
			feature(row("AllowLocalProxyConnections", boolean(), "true", fixed, desktop,
				"Allows to connect through a proxy that runs on this machine."), "Local proxy connections", "false"),
			row("AutoConnectOnStart", boolean(), "false", on, desktop, "Connects as soon as the client starts."),
			row("MinimizeOnConnect", boolean(), "true", on, desktop, "Makes the window small once the tunnel is up."),
			feature(row("LocalLanAccess", boolean(), "false", on, desktop,
				"Lets the networks that the machine is directly connected to be reached beside the tunnel, if the gateway permits it."), "Local LAN Access", "false"),
			row("DisableCaptivePortalDetection", boolean(), "false", on, everywhere, "Does not look for captive portals."),
			row("AutoReconnect", boolean(), "true", off, everywhere,
				"Tries to get the tunnel back after its connection has failed.",
				row("AutoReconnectBehavior", document.Enumeration("AutoReconnectValues", "DisconnectOnSuspend", "ReconnectAfterResume"), "DisconnectOnSuspend", off, desktop,
					"Whether the session ends when the machine goes to sleep, or is taken up again when it wakes.")),
			row("SuspendOnConnectedStandby", boolean(), "false", fixed, windows, "Suspends the tunnel in connected standby."),
			row("AutoUpdate", boolean(), "true", off, desktop, "Accepts updates of the client from gateways. With false none are made."),
			row("RSASecurIDIntegration", document.Enumeration("RSAIntegrationValues", "Automatic", "SoftwareToken", "HardwareToken"), "Automatic", off, windows,
				"How the client speaks with the software of RSA tokens."),
			row("WindowsLogonEnforcement", document.Enumeration("WindowsLogonEnforcementValues", logon...), "SingleLocalLogon", fixed, windows,
				"How many users may be logged on while the tunnel is up: one (SingleLogon), one locally and any number remotely (SingleLocalLogon), one locally and none remotely (SingleLogonNoRemote)."),
			row("LinuxLogonEnforcement", document.Enumeration("LinuxLogonEnforcementValues", logon...), "SingleLocalLogon", fixed, linux,
				"How many users may be logged on while the tunnel is up: one (SingleLogon), one locally and any number remotely (SingleLocalLogon), one locally and none remotely (SingleLogonNoRemote)."),
			row("WindowsVPNEstablishment", document.Enumeration("WindowsVPNEstablishmentValues", establishment...), "LocalUsersOnly", fixed, windows,
				"Whether a user who is logged on remotely may connect."),
			row("LinuxVPNEstablishment", document.Enumeration("LinuxVPNEstablishmentValues", establishment...), "LocalUsersOnly", fixed, linux,
				"Whether a user who is logged on remotely may connect."),
			feature(row("RetainVpnOnLogoff", boolean(), "false", fixed, desktop,
				"Keeps the tunnel when its user logs off.",
				row("UserEnforcement", document.Enumeration("UserEnforcementValues", "SameUserOnly", "AnyUser"), "SameUserOnly", fixed, desktop,
					"Whether a kept tunnel ends when another user logs on.")), "Retain VPN on Logoff", "false"),
			automaticPolicy(),
			feature(when(row("PPPExclusion", document.Enumeration("PPPExclusionValues", "Automatic", "Disable", "Override"), "Automatic", off, desktop,
				"How the server of a PPP connection (PPTP, L2TP) beneath the tunnel is kept out of it.",
				row("PPPExclusionServerIP", document.Text("", 0, 0, "IP address", checkIP), "", off, desktop,
					"The PPP server to keep out of the tunnel with Override.")), "Override"), "PPP Exclusion", "Disable"),
			sequence(feature(row("EnableScripting", boolean(), "false", off, desktop,
				"Runs the scripts OnConnect and OnDisconnect of the script directory.",
				row("TerminateScriptOnNextEvent", boolean(), "false", fixed, desktop, "Ends a script that still runs when the next event comes."),
				row("EnablePostSBLOnConnectScript", boolean(), "true", fixed, windows|linux, "Runs OnConnect also after the tunnel came up before the logon.")),
				"Scripting", "false")),
			row("CertificatePinning", boolean(), "false", fixed, everywhere,
				"Accepts a gateway only if a certificate of its chain is among the pins.", pinList()),
			certificateMatch(),
			group("BackupServerList", everywhere, "Gateways to try, in this order, when the chosen one fails. The list of a host takes precedence.",
				times(row("HostAddress", hostAddress(), "", fixed, everywhere, "A gateway."), 1, -1)),
			group("MobilePolicy", mobile, "Settings of Windows Mobile.",
				&document.Element{
					Name: "DeviceLockRequired", Content: document.Empty, Systems: mobile, Effect: "Connects only if the device locks itself.",
					Attributes: []*document.AttributeSpec{
						{Name: "MaximumTimeoutMinutes", Type: counted("Minutes", 0, 1<<31-1, time.Minute), Effect: "The longest time until the lock, in minutes."},
						{Name: "MinimumPasswordLength", Type: counted("Length", 0, 1<<31-1, 0), Effect: "The shortest password."},
						{Name: "PasswordComplexity", Type: complexity(), Effect: "The kind of password."},
					},
				}),
			certificateEnrollment(),
			sequence(feature(row("DeviceLockRequired", boolean(), "false", fixed, mobile, "Connects only if the device locks itself.",
				row("DeviceLockMaximumTimeoutMinutes", counted("Minutes", 0, 1<<31-1, time.Minute), "", fixed, mobile, "The longest time until the lock, in minutes."),
				row("DeviceLockMinimumPasswordLength", counted("Length", 0, 1<<31-1, 0), "", fixed, mobile, "The shortest password."),
				row("DeviceLockPasswordComplexity", complexity(), "", fixed, mobile, "The kind of password.")), "Device Lock Required", "false")),
			sequence(feature(row("EnableAutomaticServerSelection", boolean(), "false", on, desktop,
				"Chooses the gateway that answers fastest.",
				row("AutoServerSelectionImprovement", counted("Percent", 10, 100, 0), "20", fixed, desktop,
					"By how many percent another gateway must be faster to be changed to."),
				row("AutoServerSelectionSuspendTime", counted("Hours", 1, 100, time.Hour), "4", fixed, desktop,
					"For how many hours the machine must have been disconnected or asleep before the choice is made again.")), "Automatic Server Selection", "false")),
			row("AuthenticationTimeout", counted("AuthenticationTimeoutValues", 10, 120, time.Second), "30", fixed, everywhere,
				"How many seconds the login may take."),
			row("SafeWordSofTokenIntegration", boolean(), "false", off, windows, "Speaks with the software of SafeWord tokens."),
			row("AllowIPsecOverSSL", boolean(), "false", fixed, desktop, "Allows IPsec inside of TLS. Nothing documents it."),
			row("ClearSmartcardPin", boolean(), "true", on, windows, "Forgets the PIN of the smart card after the tunnel is up."),
			feature(row("ServiceDisable", boolean(), "false", fixed, desktop, "Keeps the client from connecting at all."), "Service Disable", "false"),
			row("IPProtocolSupport", document.Enumeration("IPProtocolSupportValues", "IPv4", "IPv6", "IPv4,IPv6", "IPv6,IPv4"), "IPv4,IPv6", fixed, everywhere,
				"Which IP protocols the gateway is reached with, and in which order they are tried."),
			row("CaptivePortalRemediationBrowserFailover", boolean(), "false", fixed, desktop,
				"Lets the user open a captive portal in the browser of the system."),
			row("AllowManualHostInput", boolean(), "true", fixed, desktop, "Lets the user type in a gateway that is not in the list."),
		},
	}
}

func complexity() document.Type {
	return document.Enumeration("PasswordComplexityValues", "pin", "alpha", "strong")
}

func automaticPolicy() *document.Element {
	remediation := feature(row("AllowCaptivePortalRemediation", boolean(), "false", fixed, desktop,
		"Opens the network for a while behind a captive portal, so that the user can satisfy it.",
		row("CaptivePortalRemediationTimeout", counted("CaptivePortalRemediationTimeoutValues", 0, 100, time.Minute), "5", fixed, desktop,
			"For how many minutes.")), "Captive Portal Remediation", "false")
	failure := when(row("ConnectFailurePolicy", document.Enumeration("ConnectFailurePolicyValues", "Open", "Closed"), "Closed", fixed, desktop,
		"Whether the network is shut (Closed) or not (Open) while always-on cannot connect.",
		remediation,
		row("ApplyLastVPNLocalResourceRules", boolean(), "false", fixed, desktop,
			"Keeps what the last session let through to the local network while the network is shut.")), "Closed")
	alwaysOn := feature(row("AlwaysOn", boolean(), "false", fixed, desktop,
		"Keeps the tunnel up whenever the network is not trusted, and lets nothing pass beside it.",
		failure,
		row("AllowVPNDisconnect", boolean(), "true", fixed, desktop, "Lets the user disconnect nevertheless."),
		row("AllowedHosts", document.Text("", 0, 0, "hosts and networks with commas between", checkHosts), "", fixed, desktop,
			"What can be reached while the tunnel is down.")), "Always-On", "false")
	server := times(group("TrustedHttpsServer", desktop, "A server that only the trusted network can reach.",
		times(row("Address", document.Text("", 0, 0, "name or address of a host", checkTrusted), "", fixed, desktop, "The server."), 1, 1),
		times(row("Port", document.Integer("Port", 1, 65535), "", fixed, desktop, "Its port."), 1, 1),
		times(row("CertificateHash", document.Text("", 0, 0, "SHA-256 in hexadecimal", checkHash), "", fixed, desktop, "The hash of its certificate."), 1, 1)), 0, -1)
	return feature(row("AutomaticVPNPolicy", boolean(), "false", fixed, desktop,
		"Connects and disconnects by itself, by the network that the machine is in.",
		feature(row("TrustedDNSDomains", document.Text("", 0, 0, "domains with commas between, * as wildcard", checkDomains), "", fixed, desktop,
			"The domains that DNS has in the trusted network."), "Trusted DNS Domains", ""),
		feature(row("TrustedDNSServers", document.Text("", 0, 0, "IP addresses with commas between, * as wildcard", checkServers), "", fixed, desktop,
			"The DNS servers of the trusted network."), "Trusted DNS Servers", ""),
		group("TrustedHttpsServerList", desktop, "Servers that only the trusted network can reach.", server),
		feature(row("TrustedNetworkPolicy", document.Enumeration("TrustedNetworkPolicyValues", "Connect", "Pause", "Disconnect", "DoNothing"), "Disconnect", fixed, desktop,
			"What to do in the trusted network."), "Trusted Network Policy", "DoNothing"),
		feature(row("UntrustedNetworkPolicy", document.Enumeration("UntrustedNetworkPolicyValues", "Connect", "DoNothing"), "Connect", fixed, desktop,
			"What to do in any other network."), "Untrusted Network Policy", "DoNothing"),
		row("BypassConnectUponSessionTimeout", boolean(), "false", fixed, desktop,
			"Does not connect again by itself after the gateway has ended the session for its age."),
		alwaysOn), "Automatic VPN Policy", "false")
}

func pinList() *document.Element {
	pin := times(row("Pin", document.Text("", 0, 0, "SHA-512 of a public key", checkPin), "", fixed, everywhere,
		"The hash of the public key of a certificate."), 0, -1)
	pin.Attributes = []*document.AttributeSpec{
		{Name: "Subject", Type: words(), Effect: "Whose certificate it is, for people."},
		{Name: "Issuer", Type: words(), Effect: "Who issued it, for people."},
	}
	return group("CertificatePinList", everywhere, "Certificates that gateways may show.", pin)
}

func certificateMatch() *document.Element {
	keys := document.Enumeration("MatchKeyValues", "Decipher_Only", "Encipher_Only", "CRL_Sign", "Key_Cert_Sign", "Key_Agreement",
		"Data_Encipherment", "Key_Encipherment", "Non_Repudiation", "Digital_Signature")
	extended := document.Enumeration("ExtendedMatchKeyValues", "ServerAuth", "ClientAuth", "CodeSign", "EmailProtect", "IPSecEndSystem",
		"IPSecTunnel", "IPSecUser", "TimeStamp", "OCSPSign", "DVCS", "IKEIntermediate")
	var names []string
	for _, prefix := range []string{"", "ISSUER-"} {
		for _, n := range []string{"CN", "DC", "SN", "GN", "N", "I", "GENQ", "DNQ", "C", "L", "SP", "ST", "O", "OU", "T", "EA"} {
			names = append(names, prefix+n)
		}
	}
	definition := times(group("DistinguishedNameDefinition", everywhere, "A rule about a name in the certificate.",
		times(row("Name", document.Enumeration("DistinguishedNames", names...), "", fixed, everywhere, "The part of the subject or issuer to look at."), 1, 1),
		times(row("Pattern", document.Text("Pattern", 1, 30, "", nil), "", fixed, everywhere, "The text to compare it with."), 1, 1)), 1, 10)
	definition.Attributes = []*document.AttributeSpec{
		{Name: "Wildcard", Type: document.Enumeration("Switch", "Disabled", "Enabled"), Default: "Disabled", Effect: "Whether the pattern may be any part of the text."},
		{Name: "Operator", Type: document.Enumeration("Operators", "Equal", "NotEqual"), Default: "Equal", Effect: "Whether they must agree or differ."},
		{Name: "MatchCase", Type: document.Enumeration("Switch", "Disabled", "Enabled"), Default: "Enabled", Effect: "Whether capital and small letters differ."},
	}
	return group("CertificateMatch", everywhere, "Which client certificates come into question.",
		row("MatchOnlyCertsWithEKU", boolean(), "", fixed, everywhere, "Leaves out certificates without an extended key usage."),
		row("MatchOnlyCertsWithKU", boolean(), "", fixed, everywhere, "Leaves out certificates without a key usage."),
		group("KeyUsage", everywhere, "Key usages of which a certificate must have at least one.",
			times(row("MatchKey", keys, "", fixed, everywhere, "A key usage."), 1, 9)),
		group("ExtendedKeyUsage", everywhere, "Extended key usages that a certificate must have all of.",
			times(row("ExtendedMatchKey", extended, "", fixed, everywhere, "An extended key usage by name."), 0, -1),
			times(row("CustomExtendedMatchKey", document.Text("CustomExtendedMatchKey", 1, 30, "object identifier", checkOID), "", fixed, everywhere,
				"An extended key usage by its object identifier."), 0, 10)),
		group("DistinguishedName", everywhere, "Rules about names, all of which must hold.", definition))
}

func caURL(systems document.Systems) *document.Element {
	e := row("CAURL", document.Text("", 0, 0, "URL", nil), "", fixed, systems, "The SCEP server of the certificate authority.")
	e.Attributes = []*document.AttributeSpec{
		{Name: "PromptForChallengePW", Type: boolean(), Effect: "Whether the user is asked for the challenge password."},
		{Name: "Thumbprint", Type: words(), Effect: "The hash of the authority's certificate."},
	}
	return e
}

func certificateEnrollment() *document.Element {
	text := func(name, effect string) *document.Element {
		return row(name, words(), "", fixed, everywhere, effect)
	}
	return group("CertificateEnrollment", everywhere, "How a client certificate is requested by SCEP.",
		row("CertificateExpirationThreshold", counted("Days", 0, 1<<31-1, 24*time.Hour), "", fixed, everywhere,
			"How many days before its certificate expires the user is warned."),
		text("AutomaticSCEPHost", "The gateway and group at which a certificate is requested by itself."),
		caURL(everywhere),
		row("CertificateImportStore", document.Enumeration("CertificateStores", "All", "Machine", "User"), "All", fixed, windows,
			"The store that a new certificate goes to."),
		group("CertificateSCEP", everywhere, "What stands in the request.",
			text("CADomain", "The domain of the authority."),
			text("Name_CN", "The common name."),
			text("Department_OU", "The organisational unit."),
			text("Company_O", "The organisation."),
			text("State_ST", "The state."),
			text("State_SP", "The state, by its other name."),
			text("Country_C", "The country."),
			text("Email_EA", "The mail address."),
			times(text("Domain_DC", "A domain component."), 0, 10),
			text("SurName_SN", "The surname."),
			text("GivenName_GN", "The given name."),
			text("UnstructName_N", "The unstructured name."),
			text("Initials_I", "The initials."),
			text("Qualifier_GEN", "The generation qualifier."),
			text("Qualifier_DN", "The qualifier of the distinguished name."),
			text("City_L", "The city."),
			text("Title_T", "The title."),
			row("KeySize", counted("Bits", 0, 1<<31-1, 0), "", fixed, everywhere, "The size of the key in bits."),
			row("DisplayGetCertButton", boolean(), "", fixed, everywhere, "Offers to request a certificate when the login lacks one."),
			row("CertificateAccessControl", boolean(), "", fixed, mobile, "Protects the private key on the device.")))
}

func serverList() *document.Element {
	domains := func(name, effect string) *document.Element {
		return group(name, mobile, effect, times(row("OnDemandDNSMatch", words(), "", fixed, mobile, "A domain."), 0, -1))
	}
	servers := func(name, effect string) *document.Element {
		return group(name, everywhere, effect, times(row("HostAddress", hostAddress(), "", fixed, everywhere, "A gateway."), 1, -1))
	}
	protocol := when(row("PrimaryProtocol", document.Enumeration("PrimaryProtocolValues", "SSL", "IPsec"), "SSL", fixed, everywhere,
		"The protocol that is tried first.",
		row("StandardAuthenticationOnly", boolean(), "false", fixed, everywhere, "The gateway knows only the methods of the IKEv2 standard.",
			row("AuthMethodDuringIKENegotiation", document.Enumeration("AuthMethodValues", "EAP-MD5", "EAP-MSCHAPv2", "EAP-GTC", "EAP-AnyConnect", "IKE-RSA", "IKE-ECDSA"),
				"EAP-GTC", fixed, everywhere, "The method."),
			row("IKEIdentity", words(), "", fixed, everywhere, "The identity that the client gives."))), "IPsec")
	entry := times(group("HostEntry", everywhere, "A gateway that the user may choose.",
		times(row("HostName", document.Text("HostName", 1, 0, "name for people, or name or address of the host", nil), "", fixed, everywhere,
			"The name that the user sees. Without HostAddress it is the address too."), 1, 1),
		row("HostAddress", hostAddress(), "", fixed, everywhere, "The name or address of the gateway."),
		row("UserGroup", words(), "", fixed, everywhere, "The group to log in to, which becomes the path of the gateway's URL."),
		servers("BackupServerList", "Gateways to try, in this order, when this one fails."),
		servers("LoadBalancingServerList", "The gateways that this one may send its clients to."),
		row("AutomaticSCEPHost", words(), "", fixed, everywhere, "The gateway and group at which a certificate is requested by itself."),
		caURL(everywhere),
		group("MobileHostEntryInfo", mobile, "Settings of telephones.",
			row("NetworkRoaming", boolean(), "true", fixed, mobile, "Reconnects when the network changes."),
			row("CertificatePolicy", document.Enumeration("CertificatePolicyRule", "Auto", "Manual", "None"), "Auto", fixed, mobile, "How the client certificate is chosen."),
			row("ConnectOnDemand", boolean(), "false", fixed, mobile, "Connects when a domain of the lists is looked up."),
			domains("AlwaysConnectDomainList", "No longer in use: these domains count as ConnectIfNeededDomainList."),
			domains("NeverConnectDomainList", "Domains that never connect."),
			domains("ConnectIfNeededDomainList", "Domains that connect if they are not found otherwise."),
			row("ActivateOnImport", boolean(), "false", fixed, mobile, "Makes this the chosen gateway when the profile is imported.")),
		protocol,
		pinList()), 1, -1)
	list := group("ServerList", everywhere, "The gateways that the user may choose from.", entry)
	list.Unique = "HostName"
	return list
}

// RuleLocalPolicyElement is the rule of an element that belongs into the local policy. Half of the profiles in public use have
// one; it has no effect there.
const RuleLocalPolicyElement document.Rule = "local-policy-element"

// LocalPolicyNames are the elements of the local policy, which many profiles hold in error.
func LocalPolicyNames() []string {
	return []string{
		"FipsMode", "BypassDownloader", "BypassDefaultLocalization", "RestrictWebLaunch", "StrictCertificateTrust", "RestrictPreferenceCaching",
		"RestrictTunnelProtocols", "RestrictScriptWebDeploy", "RestrictHelpWebDeploy", "RestrictResourceWebDeploy",
		"RestrictLocalizationWebDeploy", "RestrictServerCertStore", "ExcludePemFileCertStore", "ExcludeFirefoxNSSCertStore",
		"ExcludeMacNativeCertStore", "ExcludeWinNativeCertStore", "OCSPRevocation", "UpdatePolicy", "AllowSoftwareUpdatesFromAnyServer",
		"AllowComplianceModuleUpdatesFromAnyServer", "AllowVPNProfileUpdatesFromAnyServer", "AllowManagementVPNProfileUpdatesFromAnyServer",
		"AllowISEProfileUpdatesFromAnyServer", "AllowServiceProfileUpdatesFromAnyServer", "AllowScriptUpdatesFromAnyServer",
		"AllowHelpUpdatesFromAnyServer", "AllowResourceUpdatesFromAnyServer", "AllowLocalizationUpdatesFromAnyServer",
		"AuthorizedServerList", "ServerName",
	}
}

// foreign says what is known of elements that profiles in use hold and that are none of a profile.
func foreign(name string) (document.Rule, string, string) {
	for _, n := range LocalPolicyNames() {
		if n == name {
			return RuleLocalPolicyElement, "<" + name + "> is an element of the local policy and has no effect in a profile",
				"write it into AnyConnectLocalPolicy.xml on each machine, and remove it here"
		}
	}
	switch name {
	case "CertEnrollmentPin":
		return document.RuleUnknownElement, "<" + name + "> is in many examples but no client reads it", "remove it"
	case "BlockUntrustedServers":
		return document.RuleUnknownElement, "<" + name + "> is a preference of the user and no setting of a profile", "remove it"
	case "DefaultUser", "DefaultHostName", "DefaultHostAddress", "DefaultGroup", "ControllablePreferences":
		return document.RuleUnknownElement, "<" + name + "> is an element of the preferences of a user", "remove it"
	}
	return "", "", ""
}
