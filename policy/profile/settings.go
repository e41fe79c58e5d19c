package profile

import "time"

// A LogonEnforcement says how many users may be logged on while the tunnel is up.
type LogonEnforcement string

const (
	// SingleLogon: one, locally or remotely.
	SingleLogon LogonEnforcement = "SingleLogon"
	// SingleLocalLogon: one locally, and any number remotely.
	SingleLocalLogon LogonEnforcement = "SingleLocalLogon"
	// SingleLogonNoRemote: one locally, and none remotely.
	SingleLogonNoRemote LogonEnforcement = "SingleLogonNoRemote"
)

// A VPNEstablishment says who may connect.
type VPNEstablishment string

const (
	// LocalUsersOnly: users who are logged on locally.
	LocalUsersOnly VPNEstablishment = "LocalUsersOnly"
	// AllowRemoteUsers: users who are logged on remotely too.
	AllowRemoteUsers VPNEstablishment = "AllowRemoteUsers"
)

// A NetworkPolicy says what to do in a trusted or untrusted network.
type NetworkPolicy string

const (
	// Connect the tunnel.
	Connect NetworkPolicy = "Connect"
	// Disconnect the tunnel.
	Disconnect NetworkPolicy = "Disconnect"
	// Pause the tunnel: keep the session, and take it up again in an untrusted network.
	Pause NetworkPolicy = "Pause"
	// DoNothing: leave the tunnel as it is.
	DoNothing NetworkPolicy = "DoNothing"
)

// A ConnectFailure says whether the network is shut while always-on cannot connect.
type ConnectFailure string

const (
	// FailClosed: it is shut.
	FailClosed ConnectFailure = "Closed"
	// FailOpen: it is not.
	FailOpen ConnectFailure = "Open"
)

// A ProxyChoice says through which proxy the gateway is reached.
type ProxyChoice string

const (
	// ProxyNative is the proxy of the system.
	ProxyNative ProxyChoice = "Native"
	// ProxyIgnore is none.
	ProxyIgnore ProxyChoice = "IgnoreProxy"
	// ProxyOverride is the one that the profile or the user names.
	ProxyOverride ProxyChoice = "Override"
)

// A PPPChoice says how the server of a PPP connection is kept out of the tunnel.
type PPPChoice string

const (
	// PPPAutomatic: it is found out.
	PPPAutomatic PPPChoice = "Automatic"
	// PPPDisable: it is not kept out.
	PPPDisable PPPChoice = "Disable"
	// PPPOverride: it is the one that the profile or the user names.
	PPPOverride PPPChoice = "Override"
)

// Settings are the effective values of the settings of ClientInitialization by their types; each field says in its tag which
// one it is, and the reference in elements.md what that does.
type Settings struct {
	StartBeforeLogon         bool   `json:"startBeforeLogon" setting:"UseStartBeforeLogon"`
	AutomaticCertSelection   bool   `json:"automaticCertSelection" setting:"AutomaticCertSelection"`
	ShowPreConnectMessage    bool   `json:"showPreConnectMessage" setting:"ShowPreConnectMessage"`
	CertificateStore         string `json:"certificateStore" setting:"CertificateStore"`
	CertificateStoreMac      string `json:"certificateStoreMac" setting:"CertificateStoreMac"`
	CertificateStoreLinux    string `json:"certificateStoreLinux" setting:"CertificateStoreLinux"`
	CertificateStoreOverride bool   `json:"certificateStoreOverride" setting:"CertificateStoreOverride"`

	Proxy                      ProxyChoice `json:"proxy" setting:"ProxySettings"`
	PublicProxy                string      `json:"publicProxy,omitempty" setting:"ProxySettings/PublicProxyServerAddress"`
	AllowLocalProxyConnections bool        `json:"allowLocalProxyConnections" setting:"AllowLocalProxyConnections"`

	AutoConnectOnStart            bool `json:"autoConnectOnStart" setting:"AutoConnectOnStart"`
	MinimizeOnConnect             bool `json:"minimizeOnConnect" setting:"MinimizeOnConnect"`
	LocalLANAccess                bool `json:"localLANAccess" setting:"LocalLanAccess"`
	DisableCaptivePortalDetection bool `json:"disableCaptivePortalDetection" setting:"DisableCaptivePortalDetection"`
	AutoReconnect                 bool `json:"autoReconnect" setting:"AutoReconnect"`
	// ReconnectBehavior is DisconnectOnSuspend or ReconnectAfterResume.
	ReconnectBehavior         string `json:"reconnectBehavior" setting:"AutoReconnect/AutoReconnectBehavior"`
	SuspendOnConnectedStandby bool   `json:"suspendOnConnectedStandby" setting:"SuspendOnConnectedStandby"`
	AutoUpdate                bool   `json:"autoUpdate" setting:"AutoUpdate"`
	RSASecurIDIntegration     string `json:"rsaSecurIDIntegration" setting:"RSASecurIDIntegration"`

	WindowsLogonEnforcement LogonEnforcement `json:"windowsLogonEnforcement" setting:"WindowsLogonEnforcement"`
	LinuxLogonEnforcement   LogonEnforcement `json:"linuxLogonEnforcement" setting:"LinuxLogonEnforcement"`
	WindowsVPNEstablishment VPNEstablishment `json:"windowsVPNEstablishment" setting:"WindowsVPNEstablishment"`
	LinuxVPNEstablishment   VPNEstablishment `json:"linuxVPNEstablishment" setting:"LinuxVPNEstablishment"`
	RetainVPNOnLogoff       bool             `json:"retainVPNOnLogoff" setting:"RetainVpnOnLogoff"`
	// UserEnforcement is SameUserOnly or AnyUser.
	UserEnforcement string `json:"userEnforcement" setting:"RetainVpnOnLogoff/UserEnforcement"`

	AutomaticVPNPolicy              bool           `json:"automaticVPNPolicy" setting:"AutomaticVPNPolicy"`
	TrustedDNSDomains               []string       `json:"trustedDNSDomains,omitempty" setting:"AutomaticVPNPolicy/TrustedDNSDomains"`
	TrustedDNSServers               []string       `json:"trustedDNSServers,omitempty" setting:"AutomaticVPNPolicy/TrustedDNSServers"`
	TrustedNetworkPolicy            NetworkPolicy  `json:"trustedNetworkPolicy" setting:"AutomaticVPNPolicy/TrustedNetworkPolicy"`
	UntrustedNetworkPolicy          NetworkPolicy  `json:"untrustedNetworkPolicy" setting:"AutomaticVPNPolicy/UntrustedNetworkPolicy"`
	BypassConnectUponSessionTimeout bool           `json:"bypassConnectUponSessionTimeout" setting:"AutomaticVPNPolicy/BypassConnectUponSessionTimeout"`
	AlwaysOn                        bool           `json:"alwaysOn" setting:"AutomaticVPNPolicy/AlwaysOn"`
	ConnectFailurePolicy            ConnectFailure `json:"connectFailurePolicy" setting:"AutomaticVPNPolicy/AlwaysOn/ConnectFailurePolicy"`
	AllowCaptivePortalRemediation   bool           `json:"allowCaptivePortalRemediation" setting:"AutomaticVPNPolicy/AlwaysOn/ConnectFailurePolicy/AllowCaptivePortalRemediation"`
	CaptivePortalRemediation        time.Duration  `json:"captivePortalRemediation" setting:"AutomaticVPNPolicy/AlwaysOn/ConnectFailurePolicy/AllowCaptivePortalRemediation/CaptivePortalRemediationTimeout"`
	ApplyLastLocalResourceRules     bool           `json:"applyLastLocalResourceRules" setting:"AutomaticVPNPolicy/AlwaysOn/ConnectFailurePolicy/ApplyLastVPNLocalResourceRules"`
	AllowVPNDisconnect              bool           `json:"allowVPNDisconnect" setting:"AutomaticVPNPolicy/AlwaysOn/AllowVPNDisconnect"`
	AllowedHosts                    []string       `json:"allowedHosts,omitempty" setting:"AutomaticVPNPolicy/AlwaysOn/AllowedHosts"`

	PPPExclusion               PPPChoice `json:"pppExclusion" setting:"PPPExclusion"`
	PPPExclusionServer         string    `json:"pppExclusionServer,omitempty" setting:"PPPExclusion/PPPExclusionServerIP"`
	EnableScripting            bool      `json:"enableScripting" setting:"EnableScripting"`
	TerminateScriptOnNextEvent bool      `json:"terminateScriptOnNextEvent" setting:"EnableScripting/TerminateScriptOnNextEvent"`
	PostSBLOnConnectScript     bool      `json:"postSBLOnConnectScript" setting:"EnableScripting/EnablePostSBLOnConnectScript"`
	CertificatePinning         bool      `json:"certificatePinning" setting:"CertificatePinning"`

	DeviceLockRequired              bool          `json:"deviceLockRequired" setting:"DeviceLockRequired"`
	DeviceLockMaximumTimeout        time.Duration `json:"deviceLockMaximumTimeout,omitempty" setting:"DeviceLockRequired/DeviceLockMaximumTimeoutMinutes"`
	DeviceLockMinimumPasswordLength int           `json:"deviceLockMinimumPasswordLength,omitempty" setting:"DeviceLockRequired/DeviceLockMinimumPasswordLength"`
	// DeviceLockPasswordComplexity is pin, alpha, strong or empty.
	DeviceLockPasswordComplexity string `json:"deviceLockPasswordComplexity,omitempty" setting:"DeviceLockRequired/DeviceLockPasswordComplexity"`

	AutomaticServerSelection bool `json:"automaticServerSelection" setting:"EnableAutomaticServerSelection"`
	// ServerSelectionImprovement is in percent.
	ServerSelectionImprovement  int           `json:"serverSelectionImprovement" setting:"EnableAutomaticServerSelection/AutoServerSelectionImprovement"`
	ServerSelectionSuspendTime  time.Duration `json:"serverSelectionSuspendTime" setting:"EnableAutomaticServerSelection/AutoServerSelectionSuspendTime"`
	AuthenticationTimeout       time.Duration `json:"authenticationTimeout" setting:"AuthenticationTimeout"`
	SafeWordSofTokenIntegration bool          `json:"safeWordSofTokenIntegration" setting:"SafeWordSofTokenIntegration"`
	AllowIPsecOverSSL           bool          `json:"allowIPsecOverSSL" setting:"AllowIPsecOverSSL"`
	ClearSmartcardPIN           bool          `json:"clearSmartcardPIN" setting:"ClearSmartcardPin"`
	ServiceDisable              bool          `json:"serviceDisable" setting:"ServiceDisable"`
	// IPProtocols are IPv4 and IPv6, or one of them, in the order in which they are tried.
	IPProtocols                  []string `json:"ipProtocols" setting:"IPProtocolSupport"`
	CaptivePortalBrowserFailover bool     `json:"captivePortalBrowserFailover" setting:"CaptivePortalRemediationBrowserFailover"`
	AllowManualHostInput         bool     `json:"allowManualHostInput" setting:"AllowManualHostInput"`

	CertificateImportStore        string        `json:"certificateImportStore" setting:"CertificateEnrollment/CertificateImportStore"`
	CertificateExpirationWarning  time.Duration `json:"certificateExpirationWarning,omitempty" setting:"CertificateEnrollment/CertificateExpirationThreshold"`
	MatchOnlyCertificatesWithEKU  bool          `json:"matchOnlyCertificatesWithEKU" setting:"CertificateMatch/MatchOnlyCertsWithEKU"`
	MatchOnlyCertificatesWithKU   bool          `json:"matchOnlyCertificatesWithKU" setting:"CertificateMatch/MatchOnlyCertsWithKU"`
	OfferCertificateRequest       bool          `json:"offerCertificateRequest" setting:"CertificateEnrollment/CertificateSCEP/DisplayGetCertButton"`
	ProtectCertificatesPrivateKey bool          `json:"protectCertificatesPrivateKey" setting:"CertificateEnrollment/CertificateSCEP/CertificateAccessControl"`
}

// Logon returns the rules for the users of the system, as Go calls it. On other systems than Windows and Linux there are none,
// and the zero values say so.
func (s Settings) Logon(system string) (LogonEnforcement, VPNEstablishment) {
	switch system {
	case "windows":
		return s.WindowsLogonEnforcement, s.WindowsVPNEstablishment
	case "linux":
		return s.LinuxLogonEnforcement, s.LinuxVPNEstablishment
	}
	return "", ""
}
