package profile

import "culvert.example/vpn/policy/document"

// A CertificateMatch says which client certificates come into question: those that every part of it accepts.
type CertificateMatch struct {
	// OnlyWithEKU leaves out certificates without an extended key usage, OnlyWithKU those without a key usage.
	OnlyWithEKU bool `json:"onlyWithEKU,omitempty"`
	OnlyWithKU  bool `json:"onlyWithKU,omitempty"`
	// KeyUsage are usages of which a certificate must have at least one, by the names of the profile.
	KeyUsage []string `json:"keyUsage,omitempty"`
	// ExtendedKeyUsage are object identifiers of usages that a certificate must have all of.
	ExtendedKeyUsage []string `json:"extendedKeyUsage,omitempty"`
	// Names are rules about the subject and issuer, all of which must hold.
	Names []NameRule `json:"names,omitempty"`
}

// A NameRule is a rule about a part of the subject or issuer of a certificate.
type NameRule struct {
	// Name is the part, such as CN or ISSUER-O.
	Name string `json:"name"`
	// Pattern is what it is compared with.
	Pattern string `json:"pattern"`
	// Substring says that the pattern may be any part of the text.
	Substring bool `json:"substring,omitempty"`
	// NotEqual says that they must differ.
	NotEqual bool `json:"notEqual,omitempty"`
	// IgnoreCase says that capital and small letters are the same.
	IgnoreCase bool `json:"ignoreCase,omitempty"`
}

// extendedKeyUsage returns the object identifier that a profile's name stands for (RFC 5280, section 4.2.1.12, RFC 3029 and
// RFC 4945).
func extendedKeyUsage(name string) string {
	switch name {
	case "ServerAuth":
		return "1.3.6.1.5.5.7.3.1"
	case "ClientAuth":
		return "1.3.6.1.5.5.7.3.2"
	case "CodeSign":
		return "1.3.6.1.5.5.7.3.3"
	case "EmailProtect":
		return "1.3.6.1.5.5.7.3.4"
	case "IPSecEndSystem":
		return "1.3.6.1.5.5.7.3.5"
	case "IPSecTunnel":
		return "1.3.6.1.5.5.7.3.6"
	case "IPSecUser":
		return "1.3.6.1.5.5.7.3.7"
	case "TimeStamp":
		return "1.3.6.1.5.5.7.3.8"
	case "OCSPSign":
		return "1.3.6.1.5.5.7.3.9"
	case "DVCS":
		return "1.3.6.1.5.5.7.3.10"
	case "IKEIntermediate":
		return "1.3.6.1.5.5.8.2.2"
	}
	return ""
}

// CertificateMatch returns the rules for client certificates, or nil if the profile has none. Values that the table does not
// allow are left out; a profile that has some is refused by Err.
func (p *Profile) CertificateMatch() *CertificateMatch {
	n := p.node("CertificateMatch")
	if n == nil {
		return nil
	}
	e := p.schema.Root.Find(settings + "/CertificateMatch")
	m := &CertificateMatch{
		OnlyWithEKU: p.text(n, e, "MatchOnlyCertsWithEKU") == "true",
		OnlyWithKU:  p.text(n, e, "MatchOnlyCertsWithKU") == "true",
	}
	valid := func(c *document.Node, path string) (string, bool) {
		v, err := e.Find(path).Type.Validate(c.Value())
		return v, err == nil && v != ""
	}
	for _, c := range n.Child("KeyUsage").All("MatchKey") {
		if v, ok := valid(c, "KeyUsage/MatchKey"); ok {
			m.KeyUsage = append(m.KeyUsage, v)
		}
	}
	for _, c := range n.Child("ExtendedKeyUsage").All("ExtendedMatchKey") {
		if v, ok := valid(c, "ExtendedKeyUsage/ExtendedMatchKey"); ok {
			m.ExtendedKeyUsage = append(m.ExtendedKeyUsage, extendedKeyUsage(v))
		}
	}
	for _, c := range n.Child("ExtendedKeyUsage").All("CustomExtendedMatchKey") {
		if v, ok := valid(c, "ExtendedKeyUsage/CustomExtendedMatchKey"); ok {
			m.ExtendedKeyUsage = append(m.ExtendedKeyUsage, v)
		}
	}
	const definition = "DistinguishedName/DistinguishedNameDefinition/"
	for _, c := range n.Child("DistinguishedName").All("DistinguishedNameDefinition") {
		name, ok := valid(c.Child("Name"), definition+"Name")
		pattern, also := valid(c.Child("Pattern"), definition+"Pattern")
		if !ok || !also {
			continue
		}
		is := func(attribute, value string) bool {
			v, _ := c.Attribute(attribute)
			return v == value
		}
		m.Names = append(m.Names, NameRule{name, pattern, is("Wildcard", "Enabled"), is("Operator", "NotEqual"), is("MatchCase", "Disabled")})
	}
	return m
}

// Pins returns the pins that a gateway's certificates must match, those of the whole profile and those of the host, and
// whether pins are to be checked at all.
func (p *Profile) Pins(h Host) ([]Pin, bool) {
	if v, _ := p.Get("CertificatePinning"); v != "true" {
		return nil, false
	}
	return append(pins(p.node("CertificatePinning")), h.Pins...), true
}

// An HTTPSServer is a server that only the trusted network can reach.
type HTTPSServer struct {
	Address string `json:"address"`
	Port    uint16 `json:"port"`
	// Hash is the hash of its certificate: SHA-256 or SHA-512 by its length.
	Hash []byte `json:"hash"`
}

// TrustedHTTPSServers returns the servers that only the trusted network can reach. Entries that the table does not allow are
// left out.
func (p *Profile) TrustedHTTPSServers() []HTTPSServer {
	var all []HTTPSServer
	for _, n := range p.node("AutomaticVPNPolicy/TrustedHttpsServerList").All("TrustedHttpsServer") {
		address := n.Child("Address").Value()
		_, port, _, err := splitAddress("port:" + n.Child("Port").Value())
		written := n.Child("CertificateHash").Value()
		if err == nil && checkHash(written) == nil && checkTrusted(address) == nil {
			hash, _ := DecodeHash(written) // which checkHash has found good
			all = append(all, HTTPSServer{address, port, hash})
		}
	}
	return all
}

// An Enrollment says how a client certificate is requested by SCEP.
type Enrollment struct {
	// WarnDays is how many days before the certificate expires the user is warned, 0 for never.
	WarnDays int `json:"warnDays,omitempty"`
	// AutomaticHost is the gateway and group at which a certificate is requested by itself.
	AutomaticHost string `json:"automaticHost,omitempty"`
	// CA is the authority, nil for none.
	CA *CA `json:"ca,omitempty"`
	// ImportStore is the store of Windows that the certificate goes to.
	ImportStore string `json:"importStore,omitempty"`
	// Request are the elements of CertificateSCEP by their names, but Domain_DC.
	Request map[string]string `json:"request,omitempty"`
	// Domains are the domain components.
	Domains []string `json:"domains,omitempty"`
}

// Enrollment returns how a client certificate is requested, or nil.
func (p *Profile) Enrollment() *Enrollment {
	n := p.node("CertificateEnrollment")
	if n == nil {
		return nil
	}
	e := p.schema.Root.Find(settings + "/CertificateEnrollment")
	m := &Enrollment{
		WarnDays: atoi(p.text(n, e, "CertificateExpirationThreshold")), AutomaticHost: p.text(n, e, "AutomaticSCEPHost"), CA: ca(n),
		ImportStore: p.text(n, e, "CertificateImportStore"), Request: map[string]string{},
		Domains: texts(n.Child("CertificateSCEP"), "Domain_DC"),
	}
	for _, c := range e.Child("CertificateSCEP").Children {
		if v := p.text(n, e, "CertificateSCEP/"+c.Name); v != "" && !c.Repeated() {
			m.Request[c.Name] = v
		}
	}
	return m
}
