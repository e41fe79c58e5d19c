package certificate

import (
	"fmt"
	"strings"

	"culvert.example/vpn/policy/local"
	"culvert.example/vpn/policy/profile"
)

// A Kind is a kind of certificate store.
type Kind string

const (
	// System is what the system comes with: the bundle of the distribution on Linux, the keychains of macOS, the certificate
	// stores of Windows.
	System Kind = "system"
	// PEMMachine are directories with PEM files that belong to the machine.
	PEMMachine Kind = "pem-machine"
	// PEMUser are directories with PEM files that belong to the user.
	PEMUser Kind = "pem-user"
	// Firefox is the store of the user's Firefox.
	Firefox Kind = "firefox"
)

// A Situation is what the documents do not know.
type Situation struct {
	// System is the operating system, as Go calls it.
	System string
	// Administrator says that whoever asks for the tunnel administers the machine: that it is root, or a service that acts for
	// nobody in particular. A service that acts for an ordinary user is none.
	Administrator bool
}

// A Use says whether a store may be used for something, and why.
type Use struct {
	Allowed bool `json:"allowed"`
	// Reason says why, in words.
	Reason string `json:"reason"`
	// Setting is the element that decided, "" if none did, and Document the kind of document that it belongs to: "local policy"
	// or "profile".
	Setting  string `json:"setting,omitempty"`
	Document string `json:"document,omitempty"`
}

// Refusal returns the reason for certificates of the store, the zero value if it may be used.
func (u Use) Refusal() Refusal {
	if u.Allowed {
		return Refusal{}
	}
	return Refusal{u.Setting, "its store is left out: " + u.Reason}
}

// A Store is a store of the system with what it may be used for.
type Store struct {
	Kind Kind `json:"kind"`
	// Servers says whether the authorities in it may vouch for gateways, and what it distrusts is refused.
	Servers Use `json:"servers"`
	// Clients says whether client certificates may be taken from it.
	Clients Use `json:"clients"`
}

const (
	byLocal   = "local policy"
	byProfile = "profile"
)

// Stores returns the stores of the system and what each may be used for, those to be preferred first. The settings are the
// effective ones of [profile.Effective], and the policy that of the machine, where nil means [local.Default].
//
//	ExcludePemFileCertStore, ExcludeFirefoxNSSCertStore,
//	ExcludeMacNativeCertStore, ExcludeWinNativeCertStore   leave out a store altogether
//	RestrictServerCertStore                                leaves out stores of the user, for gateways
//	CertificateStore, …Mac, …Linux                         choose the machine's or the user's, for clients
//	CertificateStoreOverride                               opens the machine's for users who do not administer it
func Stores(s Situation, settings profile.Settings, policy *local.Policy) []Store {
	if policy == nil {
		policy = local.Default()
	}
	var all []Store
	for _, kind := range kindsOf(s.System) {
		store := Store{Kind: kind}
		if setting := excluded(kind, s.System, policy); setting != "" {
			no := Use{Reason: setting + " is true", Setting: setting, Document: byLocal}
			store.Servers, store.Clients = no, no
		} else {
			store.Servers, store.Clients = servers(kind, policy), clients(kind, s, settings)
		}
		all = append(all, store)
	}
	return all
}

// kindsOf returns the stores that a system has. Windows has everything in its own.
func kindsOf(system string) []Kind {
	if system == "windows" {
		return []Kind{System}
	}
	return []Kind{System, PEMMachine, PEMUser, Firefox}
}

// excluded returns the element of the local policy that excludes a store, or "".
func excluded(kind Kind, system string, policy *local.Policy) string {
	switch {
	case kind == System && system == "darwin" && policy.ExcludeMacNative:
		return "ExcludeMacNativeCertStore"
	case kind == System && system == "windows" && policy.ExcludeWinNative:
		return "ExcludeWinNativeCertStore"
	case (kind == PEMMachine || kind == PEMUser) && policy.ExcludePEM:
		return "ExcludePemFileCertStore"
	case kind == Firefox && policy.ExcludeFirefoxNSS:
		return "ExcludeFirefoxNSSCertStore"
	}
	return ""
}

func ofUser(kind Kind) bool { return kind == PEMUser || kind == Firefox }

func servers(kind Kind, policy *local.Policy) Use {
	if policy.RestrictServerCertStore && ofUser(kind) {
		return Use{Reason: "RestrictServerCertStore is true, and the store belongs to the user", Setting: "RestrictServerCertStore", Document: byLocal}
	}
	return Use{Allowed: true, Reason: "nothing excludes it"}
}

// clients decides about the client certificates of a store.
func clients(kind Kind, s Situation, settings profile.Settings) Use {
	setting, value := "CertificateStoreLinux", settings.CertificateStoreLinux
	switch s.System {
	case "darwin":
		setting, value = "CertificateStoreMac", settings.CertificateStoreMac
	case "windows":
		setting, value = "CertificateStore", settings.CertificateStore
	}
	machine := value != "User" && value != "Login"
	user := value != "Machine" && value != "System"
	switch {
	case kind == System && s.System == "linux":
		return Use{Reason: "it holds authorities only"}
	case kind == System:
		return Use{Reason: "its private keys cannot be reached by this program; name a file with --certificate"}
	case ofUser(kind) && !user:
		return Use{Reason: fmt.Sprintf("%s is %s, and the store belongs to the user", setting, value), Setting: setting, Document: byProfile}
	case kind == PEMMachine && !machine:
		return Use{Reason: fmt.Sprintf("%s is %s, and the store belongs to the machine", setting, value), Setting: setting, Document: byProfile}
	case kind == PEMMachine && !s.Administrator && !settings.CertificateStoreOverride:
		const override = "CertificateStoreOverride"
		return Use{Reason: "it belongs to the machine, and " + override + " does not open it for users", Setting: override, Document: byProfile}
	case kind == PEMMachine && !s.Administrator:
		return Use{Allowed: true, Reason: "CertificateStoreOverride is true", Setting: "CertificateStoreOverride", Document: byProfile}
	}
	return Use{Allowed: true, Reason: "nothing excludes it"}
}

// A NoStoreError says that the documents leave no store to verify gateways with.
type NoStoreError struct {
	// Settings are the elements that have excluded the stores.
	Settings []string
}

// Error implements error.
func (e *NoStoreError) Error() string {
	return fmt.Sprintf("no certificate store is left to verify gateways with: the local policy excludes all (%s); allow one of them", strings.Join(e.Settings, ", "))
}

// CheckStores returns a [*NoStoreError] if no store is left to verify gateways with, so that no gateway could be trusted.
func CheckStores(stores []Store) error {
	e := &NoStoreError{}
	for _, s := range stores {
		if s.Servers.Allowed {
			return nil
		}
		e.Settings = append(e.Settings, s.Servers.Setting)
	}
	return e
}
