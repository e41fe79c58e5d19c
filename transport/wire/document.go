package wire

import (
	"errors"
	"fmt"
	"strings"
)

// Limits of a document. A gateway or client that exceeds them is answered with an error, never with memory.
const (
	// MaxDocument is the size in bytes of the largest document that is parsed.
	MaxDocument = 1 << 20

	maxDepth = 32    // elements inside one another
	maxNodes = 16384 // elements in all
	maxAttrs = 64    // attributes of one element

	maxFields  = 256  // fields of a form; what is beyond is left out
	maxOptions = 4096 // options of all fields of a form; the same
)

// Errors of ParseDocument, ParseRequest and ParseValues. Match them with errors.Is.
var (
	// ErrNotDocument says that the text is no aggregate-auth document at all, such as the HTML of a web portal.
	ErrNotDocument = errors.New("wire: not a config-auth document")

	// ErrTooLarge says that a document exceeds a limit in size, depth or count.
	ErrTooLarge = errors.New("wire: document exceeds limits")
)

// A Kind is the type attribute of a document.
type Kind string

// The kinds of documents. A client sends KindInit, KindAuthReply and KindLogout; a gateway sends KindAuthRequest and
// KindComplete.
const (
	KindInit        Kind = "init"
	KindAuthRequest Kind = "auth-request"
	KindAuthReply   Kind = "auth-reply"
	KindComplete    Kind = "complete"
	KindLogout      Kind = "logout"
)

// Names of fields that mean something to both ends.
const (
	// FieldGroup is the select field with the groups. Its value travels as GroupSelect, not among the values.
	FieldGroup = "group_list"
	// FieldUsername, FieldPassword and FieldSecondPassword are the usual names of the credentials.
	FieldUsername       = "username"
	FieldPassword       = "password"
	FieldSecondPassword = "secondary_password"
)

// AuthSuccess is the Auth.ID that ends a login well.
const AuthSuccess = "success"

// A Document is one message of the aggregate-auth dialogue: the root element config-auth, or the older root auth. Each
// kind uses some of the fields; the others are left zero and are not rendered.
//
// Documents carry secrets (SessionToken, Auth.Values); their String methods leave these out.
type Document struct {
	// Kind is the type attribute. A document with root auth has KindComplete if its ID is AuthSuccess, and
	// KindAuthRequest otherwise.
	Kind Kind
	// Legacy says that the root is auth, or that a request came URL-encoded. Replies to legacy forms are URL-encoded.
	Legacy bool

	// Version is the program version of the sender.
	Version string
	// Device tells about the machine of the client.
	Device Device
	// MACAddresses are the hardware addresses that some clients report, as written.
	MACAddresses []string
	// AuthMethods are the capabilities of the client, such as single-sign-on-v2.
	AuthMethods []string
	// GroupAccess is the URL that the user asked for (init).
	GroupAccess string
	// GroupSelect is the chosen group, by value or by text (init, auth-reply).
	GroupSelect string
	// ClientCertFail says that the client has no certificate to show (init).
	ClientCertFail bool
	// HostScanToken is the token of a finished host scan (auth-reply).
	HostScanToken string

	// SessionID and SessionToken name the session (complete, logout). SessionToken is the value of the webvpn cookie.
	SessionID, SessionToken string

	// Opaque is the gateway's state that the client carries. The gateway must treat what returns as untrusted.
	Opaque Opaque

	// Auth is the form, the answers to it, or the news of success. It is nil if the element is missing.
	Auth *Auth

	// HostScan says that the gateway wants the machine examined; both the host-scan and the older csd elements lead here.
	HostScan *HostScan
	// ClientCertRequest says that the gateway wants a certificate in a new TLS connection.
	ClientCertRequest bool
	// MultipleCertRequest says that the gateway wants a second certificate proven by a signature.
	MultipleCertRequest *MultipleCertRequest
	// CertAuthenticated says that the certificate of the TLS connection was accepted.
	CertAuthenticated bool

	// Config is what a complete document, or the header X-CSTP-Post-Auth-XML, hands to the client.
	Config *ClientConfig
}

// String implements fmt.Stringer. It shows the kind and the id, no values.
func (d *Document) String() string {
	if d == nil {
		return "no document"
	}
	s := printable(string(d.Kind), 40)
	if d.Legacy {
		s = "legacy " + s
	}
	if d.Auth != nil {
		s = fmt.Sprintf("%s id=%.40q", s, d.Auth.ID)
	}
	return s
}

// GoString implements fmt.GoStringer. It shows no more than String.
func (d *Document) GoString() string { return d.String() }

// Value returns the answer with the given name, verbatim, and whether there is one (auth-reply).
func (d *Document) Value(name string) (string, bool) {
	if d.Auth == nil {
		return "", false
	}
	for _, v := range d.Auth.Values {
		if v.Name == name {
			return v.Value, true
		}
	}
	return "", false
}

// Succeeded reports whether the document says that the login is over and well. The token may still be missing: some
// gateways send it only as a cookie.
func (d *Document) Succeeded() bool {
	return d.Auth != nil && d.Auth.ID == AuthSuccess || d.Kind == KindComplete && d.SessionToken != ""
}

// A Device describes the machine of a client. All but Platform may be empty.
type Device struct {
	// Platform is linux, linux-64, win, mac-intel, android or apple-ios.
	Platform string
	// ComputerName, Type, PlatformVersion, UniqueID and UniqueIDGlobal are free text.
	ComputerName, Type, PlatformVersion, UniqueID, UniqueIDGlobal string
}

// An Auth is the auth element.
type Auth struct {
	// ID is main, challenge, success or the like. Several forms in a row may share one ID.
	ID string
	// Title, Message, Banner and Error are for the user.
	Title                  string
	Message, Banner, Error Text
	// Form is what the gateway asks; nil if it asks nothing.
	Form *Form
	// SSO tells where to log in with a browser; nil if that is not wanted.
	SSO *SSO
	// AuthenticationComplete wants an empty reply at once.
	AuthenticationComplete bool
	// Values are the answers of the client, in their order, verbatim (auth-reply).
	Values []Value
}

// A Text is a message with a number and up to two parameters, which replace the %s in it.
type Text struct {
	// ID is Cisco's number of the message, or empty.
	ID string
	// Format is the text as it came, perhaps with %s inside.
	Format string
	// Param1 and Param2 replace the first and the second %s.
	Param1, Param2 string
}

// String returns the text with the parameters in place. A %s without a parameter vanishes.
func (t Text) String() string {
	s := t.Format
	if !strings.Contains(s, "%s") {
		return s
	}
	var b strings.Builder
	for _, p := range [...]string{t.Param1, t.Param2} {
		before, after, found := strings.Cut(s, "%s")
		b.WriteString(before)
		s = after
		if !found {
			return b.String()
		}
		b.WriteString(p)
	}
	b.WriteString(strings.ReplaceAll(s, "%s", ""))
	return b.String()
}

// An SSO is the demand to log in with a browser.
type SSO struct {
	Login, LoginFinal, Logout, LogoutFinal string
	TokenCookie, ErrorCookie               string
	// BrowserMode is "external" if the system browser may be used.
	BrowserMode string
}

// A HostScan holds the parameters of the examination of the client's machine.
type HostScan struct {
	Ticket, Token, BaseURI, WaitURI, StubURL, StartURL string
}

// A MultipleCertRequest asks for a signature by a second certificate.
type MultipleCertRequest struct {
	// HashAlgorithms are sha256, sha384 and the like, as written.
	HashAlgorithms []string
	// Random is hex.
	Random string
}

// A ClientConfig is the config element.
type ClientConfig struct {
	// BasePackageURI is where the installer files lie, ServerCertHash the SHA-1 of the certificate in upper-case hex.
	BasePackageURI, ServerCertHash string
	// ProfileURI is the path of the user's profile, ProfileHash the SHA-1 of that file in hex.
	ProfileURI, ProfileHash string
	// Custom are the attributes for the client, such as dynamic-split-exclude-domains, in their order.
	Custom []Value
}

// DynamicSplit returns the domain suffixes that are to be included in the tunnel and excluded from it, by name. They are in lower
// case, without wildcards, dots at their ends and repetitions. What is no domain is left out.
func (c *ClientConfig) DynamicSplit() (include, exclude []string) {
	if c == nil {
		return nil, nil
	}
	for _, v := range c.Custom {
		switch v.Name {
		case "dynamic-split-include-domains":
			include = append(include, v.Value)
		case "dynamic-split-exclude-domains":
			exclude = append(exclude, v.Value)
		}
	}
	return suffixes(include), suffixes(exclude)
}
