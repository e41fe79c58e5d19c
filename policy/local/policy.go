package local

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"reflect"
	"strings"

	"culvert.example/vpn/policy/document"
)

// A PreferenceCaching says what must not be written into the preferences.
type PreferenceCaching string

const (
	// CacheEverything restricts nothing.
	CacheEverything PreferenceCaching = "false"
	// NoCredentials: no names of users.
	NoCredentials PreferenceCaching = "Credentials"
	// NoThumbprints: no names of certificates.
	NoThumbprints PreferenceCaching = "Thumbprints"
	// NoCredentialsAndThumbprints: neither.
	NoCredentialsAndThumbprints PreferenceCaching = "CredentialsAndThumbprints"
	// CacheNothing: nothing that the user has not chosen himself.
	CacheNothing PreferenceCaching = "All"
)

// Credentials reports whether the names of users may be written down.
func (c PreferenceCaching) Credentials() bool {
	return c != NoCredentials && c != NoCredentialsAndThumbprints && c != CacheNothing
}

// Thumbprints reports whether the thumbprints of certificates may be written down.
func (c PreferenceCaching) Thumbprints() bool {
	return c != NoThumbprints && c != NoCredentialsAndThumbprints && c != CacheNothing
}

// Anything reports whether what the user has not chosen himself, such as the last gateway, may be written down.
func (c PreferenceCaching) Anything() bool { return c != CacheNothing }

// A TunnelProtocols says which family of protocols a tunnel must not use.
type TunnelProtocols string

const (
	// AllProtocols forbids none.
	AllProtocols TunnelProtocols = "false"
	// NoTLS forbids TLS and DTLS, so that only IPsec is left, which this client does not speak.
	NoTLS TunnelProtocols = "TLS"
	// NoIPsec forbids IPsec.
	NoIPsec TunnelProtocols = "IPSec"
)

// TLS reports whether tunnels over TLS and DTLS are allowed.
func (t TunnelProtocols) TLS() bool { return t != NoTLS }

// IPsec reports whether tunnels over IPsec are allowed.
func (t TunnelProtocols) IPsec() bool { return t != NoIPsec }

// A Policy is a local policy. The zero Policy is none that a file could be; without a file [Default] holds.
type Policy struct {
	// Version is the attribute acversion.
	Version string `json:"version,omitempty"`
	// FIPSMode allows only algorithms that FIPS 140 approves.
	FIPSMode bool `json:"fipsMode" element:"FipsMode"`
	// BypassDownloader takes nothing from gateways.
	BypassDownloader          bool `json:"bypassDownloader" element:"BypassDownloader"`
	BypassDefaultLocalization bool `json:"bypassDefaultLocalization" element:"BypassDefaultLocalization"`
	// RestrictWebLaunch refuses to be started by a web page.
	RestrictWebLaunch bool `json:"restrictWebLaunch" element:"RestrictWebLaunch"`
	// StrictCertificateTrust refuses gateways that are not trusted instead of asking.
	StrictCertificateTrust bool `json:"strictCertificateTrust" element:"StrictCertificateTrust"`
	// Caching says what must not be written into the preferences.
	Caching PreferenceCaching `json:"preferenceCaching" element:"RestrictPreferenceCaching"`
	// Protocols says what tunnels must not use.
	Protocols TunnelProtocols `json:"tunnelProtocols" element:"RestrictTunnelProtocols"`
	// Restrict…WebDeploy take no such files from gateways.
	RestrictScriptWebDeploy       bool `json:"restrictScriptWebDeploy" element:"RestrictScriptWebDeploy"`
	RestrictHelpWebDeploy         bool `json:"restrictHelpWebDeploy" element:"RestrictHelpWebDeploy"`
	RestrictResourceWebDeploy     bool `json:"restrictResourceWebDeploy" element:"RestrictResourceWebDeploy"`
	RestrictLocalizationWebDeploy bool `json:"restrictLocalizationWebDeploy" element:"RestrictLocalizationWebDeploy"`
	// RestrictServerCertStore trusts only the system's certificate authorities.
	RestrictServerCertStore bool `json:"restrictServerCertStore" element:"RestrictServerCertStore"`
	// Exclude…CertStore leave out sources of certificates.
	ExcludePEM        bool `json:"excludePEM" element:"ExcludePemFileCertStore"`
	ExcludeFirefoxNSS bool `json:"excludeFirefoxNSS" element:"ExcludeFirefoxNSSCertStore"`
	ExcludeMacNative  bool `json:"excludeMacNative" element:"ExcludeMacNativeCertStore"`
	ExcludeWinNative  bool `json:"excludeWinNative" element:"ExcludeWinNativeCertStore"`
	// OCSPRevocation asks whether certificates have been revoked.
	OCSPRevocation bool `json:"ocspRevocation" element:"OCSPRevocation"`
	// Update says what may be updated from which gateways.
	Update UpdatePolicy `json:"update"`

	where map[string]document.Position // of the elements that the document has
}

// Where returns the place of an element such as UpdatePolicy/AuthorizedServerList in the document, the zero Position if it is not
// there.
func (p *Policy) Where(path string) document.Position { return p.where[path] }

// An UpdatePolicy says what may be updated from which gateways.
type UpdatePolicy struct {
	// The switches are for gateways that are not authorized.
	Software             bool `json:"software" element:"UpdatePolicy/AllowSoftwareUpdatesFromAnyServer"`
	ComplianceModule     bool `json:"complianceModule" element:"UpdatePolicy/AllowComplianceModuleUpdatesFromAnyServer"`
	VPNProfile           bool `json:"vpnProfile" element:"UpdatePolicy/AllowVPNProfileUpdatesFromAnyServer"`
	ManagementVPNProfile bool `json:"managementVPNProfile" element:"UpdatePolicy/AllowManagementVPNProfileUpdatesFromAnyServer"`
	ISEProfile           bool `json:"iseProfile" element:"UpdatePolicy/AllowISEProfileUpdatesFromAnyServer"`
	ServiceProfile       bool `json:"serviceProfile" element:"UpdatePolicy/AllowServiceProfileUpdatesFromAnyServer"`
	Script               bool `json:"script" element:"UpdatePolicy/AllowScriptUpdatesFromAnyServer"`
	Help                 bool `json:"help" element:"UpdatePolicy/AllowHelpUpdatesFromAnyServer"`
	Resource             bool `json:"resource" element:"UpdatePolicy/AllowResourceUpdatesFromAnyServer"`
	Localization         bool `json:"localization" element:"UpdatePolicy/AllowLocalizationUpdatesFromAnyServer"`
	// AuthorizedServers are names, domains behind *., and addresses of gateways that the switches do not matter for.
	AuthorizedServers []string `json:"authorizedServers"`
}

// Authorized reports whether a gateway is in the list, by the name or address that the user typed, without port. A name is
// never looked up: an entry with a name does not authorize its addresses, nor the other way round. An entry such as
// *.example.com stands for every name that ends in .example.com, at any depth, and not for example.com itself.
func (u UpdatePolicy) Authorized(server string) bool {
	server = normal(server)
	if server == "" {
		return false
	}
	_, err := netip.ParseAddr(server)
	literal := err == nil
	for _, entry := range u.AuthorizedServers {
		domain, wildcard := strings.CutPrefix(normal(entry), "*.")
		switch {
		case !wildcard && domain == server:
			return true
		case wildcard && !literal && len(server) > len(domain)+1 && strings.HasSuffix(server, "."+domain):
			return true
		}
	}
	return false
}

// normal returns a name in small letters and without the dot at its end, and an address in its shortest form.
func normal(s string) string {
	s = strings.Trim(strings.TrimSpace(s), "[]")
	if a, err := netip.ParseAddr(s); err == nil {
		return a.Unmap().String()
	}
	return strings.ToLower(strings.TrimSuffix(s, "."))
}

// Default returns the policy of a machine without a local policy: everything is allowed.
func Default() *Policy {
	p := &Policy{}
	p.fill(nil, Schema())
	return p
}

// fill writes the values of the document, or the defaults, into the fields that have a tag.
func (p *Policy) fill(root *document.Node, schema *document.Schema) {
	p.Version, _ = root.Attribute("acversion")
	schema.Root.Walk(func(path string, _ *document.Element) {
		if n := root.Find(path); n != nil {
			if p.where == nil {
				p.where = map[string]document.Position{}
			}
			p.where[path] = n.Position()
		}
	})
	p.Update.AuthorizedServers = []string{}
	if list := root.Find("UpdatePolicy/AuthorizedServerList"); list != nil {
		for _, n := range list.All("ServerName") {
			if v := n.Value(); v != "" {
				p.Update.AuthorizedServers = append(p.Update.AuthorizedServers, v)
			}
		}
	}
	for _, out := range []reflect.Value{reflect.ValueOf(p).Elem(), reflect.ValueOf(&p.Update).Elem()} {
		for i := range out.NumField() {
			path, ok := out.Type().Field(i).Tag.Lookup("element")
			if !ok {
				continue
			}
			e := schema.Root.Find(path)
			value := e.Default
			if n := root.Find(path); n != nil && n.Value() != "" {
				if v, err := e.Type.Validate(n.Value()); err == nil {
					value = v
				}
			}
			if field := out.Field(i); field.Kind() == reflect.Bool {
				field.SetBool(value == "true")
			} else {
				field.SetString(value)
			}
		}
	}
}

// Parse reads a local policy. The name is for messages only.
//
// It fails with a [*document.InvalidError] that holds every fault if the data is no well-formed XML or if anything in it could
// be meant otherwise than it would be read: since the document restricts, reading past a value would allow what it was to
// forbid. Elements that resemble no known one and wrong capital and small letters do not keep it from being read; the findings have
// them.
func Parse(name string, data []byte) (*Policy, []document.Finding, error) {
	findings, doc, schema := lint(name, data)
	if err := document.Errors(findings, tolerated()...); err != nil {
		return nil, findings, err
	}
	p := &Policy{}
	p.fill(doc.Root(), schema)
	return p, findings, nil
}

// tolerated are the rules that a policy may break and still be acted upon. An element in the wrong place is not among them, nor
// one with a slip of the pen in its name: whoever wrote it takes the restriction for set.
func tolerated() []document.Rule {
	return []document.Rule{
		document.RuleNamespace, document.RuleUnknownAttribute, document.RuleUnknownElement, document.RuleWrongOrder, document.RuleValueCase,
	}
}

// Lint returns everything there is to say about a local policy, in the order of the document.
func Lint(name string, data []byte) []document.Finding {
	findings, _, _ := lint(name, data)
	return findings
}

func lint(name string, data []byte) ([]document.Finding, *document.Document, *document.Schema) {
	schema := Schema()
	doc, err := document.Parse(name, data)
	var findings []document.Finding
	var invalid *document.InvalidError
	if errors.As(err, &invalid) {
		findings = invalid.Findings
	}
	if doc == nil {
		return findings, nil, schema
	}
	c := document.NewCollector(doc)
	if schema.Check(c) {
		meaning(doc.Root(), c)
	}
	return document.Merge(findings, c.Findings()), doc, schema
}

const (
	// RuleNoEffect: an element has no effect beside another.
	RuleNoEffect document.Rule = "no-effect"
	// RuleContradiction: an element keeps this client from working at all.
	RuleContradiction document.Rule = "contradiction"
)

// meaning adds to c what the table cannot say.
func meaning(root *document.Node, c *document.Collector) {
	if n := root.Child("RestrictTunnelProtocols"); strings.EqualFold(n.Value(), string(NoTLS)) {
		c.Add(n, document.SeverityWarning, RuleContradiction,
			"TLS and DTLS are forbidden, and this client speaks nothing else, so it cannot connect", "write IPSec to forbid IPsec, or false")
	}
	if n := root.Child("UpdatePolicy"); n != nil && strings.EqualFold(root.Child("BypassDownloader").Value(), "true") {
		c.Add(n, document.SeverityNote, RuleNoEffect, "UpdatePolicy has no effect while BypassDownloader is true", "")
	}
	seen := map[string]bool{}
	for _, n := range root.Find("UpdatePolicy/AuthorizedServerList").All("ServerName") {
		v := normal(n.Value())
		if v != "" && seen[v] {
			c.Add(n, document.SeverityWarning, document.RuleDuplicateValue, fmt.Sprintf("%q stands twice in the list", n.Value()), "remove it")
		}
		seen[v] = true
	}
}

// Load reads the local policy of this machine from a file. With trusted, which whoever changes the machine must ask for, a
// file that others than the administrator could have written is refused; see [document.ReadFile]. The error for a file that
// does not exist matches [fs.ErrNotExist]; then [Default] holds.
func Load(path string, trusted bool) (*Policy, []document.Finding, error) {
	data, err := document.ReadFile(path, trusted)
	if err != nil {
		return nil, nil, fmt.Errorf("local policy: %w", err)
	}
	return Parse(path, data)
}

// LoadFirst reads the first of the files that exists, as Load does, and returns its path. If there is none, it returns the
// default policy and no path. A file that exists and cannot be read is an error, and not passed over: it would restrict.
func LoadFirst(paths []string, trusted bool) (*Policy, string, []document.Finding, error) {
	for _, path := range paths {
		p, findings, err := Load(path, trusted)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		return p, path, findings, err
	}
	return Default(), "", nil, nil
}

// New returns the document of a policy that says p, with everything that differs from the default, or everything.
func New(p *Policy, full bool) ([]byte, error) {
	schema := Schema()
	var parts, update []document.Part
	for _, in := range []reflect.Value{reflect.ValueOf(p).Elem(), reflect.ValueOf(&p.Update).Elem()} {
		for i := range in.NumField() {
			path, ok := in.Type().Field(i).Tag.Lookup("element")
			if !ok {
				continue
			}
			e := schema.Root.Find(path)
			value := fmt.Sprint(in.Field(i).Interface())
			if value == e.Default && !full {
				continue
			}
			if _, err := e.Type.Validate(value); err != nil {
				return nil, fmt.Errorf("local policy: <%s>: %w", e.Name, err)
			}
			part := document.Part{Name: e.Name, Value: value}
			if strings.HasPrefix(path, "UpdatePolicy/") {
				update = append(update, part)
			} else {
				parts = append(parts, part)
			}
		}
	}
	if len(p.Update.AuthorizedServers) > 0 {
		list := document.Part{Name: "AuthorizedServerList"}
		for _, s := range p.Update.AuthorizedServers {
			if err := checkPattern(s); err != nil {
				return nil, fmt.Errorf("local policy: server %q: %w", s, err)
			}
			list.Children = append(list.Children, document.Part{Name: "ServerName", Value: s})
		}
		update = append(update, list)
	}
	if len(update) > 0 {
		parts = append(parts, document.Part{Name: "UpdatePolicy", Children: update})
	}
	var attributes [][2]string
	if p.Version != "" {
		attributes = append(attributes, [2]string{"acversion", p.Version})
	}
	doc, err := document.New(schema, "", attributes, parts...)
	if err != nil {
		return nil, fmt.Errorf("local policy: %w", err)
	}
	return doc.Bytes(), nil
}

// A Row is one element of the policy with its value, for people and for tools.
type Row struct {
	Path    string `json:"path"`
	Value   string `json:"value"`
	Default string `json:"default"`
	// Applies says whether the element has an effect on the system.
	Applies bool `json:"applies"`
	// Effect says what the element does.
	Effect string `json:"effect"`
}

// Rows returns every element with its value in the policy, for the system as Go calls it.
func (p *Policy) Rows(system string) []Row {
	values := map[string]string{}
	for _, in := range []reflect.Value{reflect.ValueOf(p).Elem(), reflect.ValueOf(&p.Update).Elem()} {
		for i := range in.NumField() {
			if path, ok := in.Type().Field(i).Tag.Lookup("element"); ok {
				values[path] = fmt.Sprint(in.Field(i).Interface())
			}
		}
	}
	var rows []Row
	Schema().Root.Walk(func(path string, e *document.Element) {
		if v, ok := values[path]; ok {
			rows = append(rows, Row{path, v, e.Default, e.Systems.Has(system), e.Effect})
		}
		if e.Name == "AuthorizedServerList" {
			rows = append(rows, Row{path, strings.Join(p.Update.AuthorizedServers, ", "), "", e.Systems.Has(system), e.Effect})
		}
	})
	return rows
}
