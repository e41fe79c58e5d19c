package profile

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"culvert.example/vpn/policy/document"
)

// A Host is a gateway that the user may choose.
type Host struct {
	// Name is what the user sees.
	Name string `json:"name"`
	// Address is the address as the profile has it, and the name where it has none.
	Address string `json:"address"`
	// UserGroup is the group to log in to, or "".
	UserGroup string `json:"userGroup,omitempty"`
	// Backups are the gateways to try when this one fails, in this order: the host's own, or else those of the profile, which all
	// hosts without their own share. They must not be changed.
	Backups []string `json:"backups,omitempty"`
	// OwnBackups says that Backups stand in the host's entry.
	OwnBackups bool `json:"ownBackups,omitempty"`
	// LoadBalancing are the gateways that this one may send its clients to.
	LoadBalancing []string `json:"loadBalancing,omitempty"`
	// Protocol is SSL or IPsec.
	Protocol string `json:"protocol"`
	// IKE is set if the gateway is to be reached by IPsec with standard authentication only.
	IKE *IKE `json:"ike,omitempty"`
	// Pins are the host's own pins, which add to those of the profile.
	Pins []Pin `json:"pins,omitempty"`
	// AutomaticSCEPHost is the gateway and group at which a certificate is requested by itself.
	AutomaticSCEPHost string `json:"automaticSCEPHost,omitempty"`
	// CA is the certificate authority, nil for none.
	CA *CA `json:"ca,omitempty"`
	// Mobile are settings of telephones, nil for none.
	Mobile *MobileHost `json:"mobile,omitempty"`
	// Profile is the name of the profile that the host is in.
	Profile string `json:"profile,omitempty"`
	document.Position
}

// An IKE says how to log in to a gateway that knows only what the IKEv2 standard has.
type IKE struct {
	Method   string `json:"method"`
	Identity string `json:"identity,omitempty"`
}

// A Pin is the public key of a certificate.
type Pin struct {
	// Hash is the SHA-512 of the key.
	Hash []byte `json:"hash"`
	// Subject and Issuer are for people.
	Subject string `json:"subject,omitempty"`
	Issuer  string `json:"issuer,omitempty"`
}

// A CA is a certificate authority that certificates are requested from by SCEP.
type CA struct {
	URL                string `json:"url"`
	PromptForChallenge bool   `json:"promptForChallenge,omitempty"`
	Thumbprint         string `json:"thumbprint,omitempty"`
}

// A MobileHost is what telephones need to know of a gateway.
type MobileHost struct {
	NetworkRoaming    bool     `json:"networkRoaming"`
	CertificatePolicy string   `json:"certificatePolicy"`
	ConnectOnDemand   bool     `json:"connectOnDemand"`
	NeverConnect      []string `json:"neverConnect,omitempty"`
	// ConnectIfNeeded includes the domains of AlwaysConnectDomainList, which is no longer in use.
	ConnectIfNeeded  []string `json:"connectIfNeeded,omitempty"`
	ActivateOnImport bool     `json:"activateOnImport"`
}

// Server returns the host's name or address, with the port if it is not 443, as a dialer takes it. It fails if there is none.
func (h Host) Server() (string, error) { return server(h.Address) }

// server returns what of an address of a profile a dialer takes.
func server(address string) (string, error) {
	host, port, _, err := splitAddress(address)
	if err != nil {
		return "", fmt.Errorf("%q is no address of a gateway: %w", address, err)
	}
	if port == 0 || port == 443 {
		return host, nil
	}
	return net.JoinHostPort(host, strconv.Itoa(int(port))), nil
}

// URL returns the host's URL, with the group as its path.
func (h Host) URL() (string, error) {
	s, err := h.Server()
	if err != nil {
		return "", err
	}
	_, _, path, _ := splitAddress(h.Address)
	if h.UserGroup != "" {
		path = h.UserGroup
	}
	if strings.Contains(s, ":") && !strings.Contains(s, "]") && strings.Count(s, ":") > 1 {
		s = "[" + s + "]"
	}
	u := url.URL{Scheme: "https", Host: s, Path: "/" + path}
	if path == "" {
		u.Path = ""
	}
	return u.String(), nil
}

// Servers returns the addresses of the host and of its backups, in the order in which they are to be tried, each once, as a
// dialer takes them. Those that are no addresses are left out.
func (h Host) Servers() []string {
	var all []string
	seen := map[string]bool{}
	for _, a := range append([]string{h.Address}, h.Backups...) {
		if s, err := server(a); err == nil && !seen[s] {
			seen[s] = true
			all = append(all, s)
		}
	}
	return all
}

// text returns the value of the element that path leads to from n if the table allows it, and else the default.
func (p *Profile) text(n *document.Node, e *document.Element, path string) string {
	c, ce := n.Find(path), e.Find(path)
	if c == nil || c.Value() == "" {
		return ce.Default
	}
	v, err := ce.Type.Validate(c.Value())
	if err != nil {
		return ce.Default
	}
	return v
}

// texts returns the values of all elements with the name.
func texts(n *document.Node, name string) []string {
	var all []string
	for _, c := range n.All(name) {
		if v := c.Value(); v != "" {
			all = append(all, v)
		}
	}
	return all
}

// BackupServers returns the profile's own list of gateways to try when the chosen one fails.
func (p *Profile) BackupServers() []string { return texts(p.node("BackupServerList"), "HostAddress") }

// Hosts returns the gateways of the profile in their order. The nil Profile has none, and entries without a name are left out.
func (p *Profile) Hosts() []Host {
	hosts := []Host{}
	if p == nil {
		return hosts
	}
	spec, backups := p.schema.Root.Find("ServerList/HostEntry"), p.BackupServers()
	// Each host has the list, so a long one would make the square of the document of it. A profile with a longer one is refused by Err.
	backups = slices.Clip(backups[:min(len(backups), MaxServers)])
	for _, n := range p.doc.Root().Child("ServerList").All("HostEntry") {
		if h := p.host(n, spec, backups); h.Name != "" {
			hosts = append(hosts, h)
		}
	}
	return hosts
}

// host returns the gateway of an entry. The backups are those of the profile.
func (p *Profile) host(n *document.Node, e *document.Element, backups []string) Host {
	text := func(path string) string { return p.text(n, e, path) }
	h := Host{
		Name: text("HostName"), Address: n.Child("HostAddress").Value(), UserGroup: text("UserGroup"), Protocol: text("PrimaryProtocol"),
		LoadBalancing: texts(n.Child("LoadBalancingServerList"), "HostAddress"), Backups: texts(n.Child("BackupServerList"), "HostAddress"),
		AutomaticSCEPHost: text("AutomaticSCEPHost"), CA: ca(n), Pins: pins(n), Profile: p.Name(), Position: n.Position(),
	}
	if h.Address == "" {
		h.Address = h.Name
	}
	if h.OwnBackups = len(h.Backups) > 0; !h.OwnBackups {
		h.Backups = backups
	}
	const standard = "PrimaryProtocol/StandardAuthenticationOnly"
	if h.Protocol == "IPsec" && text(standard) == "true" {
		h.IKE = &IKE{text(standard + "/AuthMethodDuringIKENegotiation"), text(standard + "/IKEIdentity")}
	}
	const mobile = "MobileHostEntryInfo/"
	if m := n.Child("MobileHostEntryInfo"); m != nil {
		h.Mobile = &MobileHost{
			NetworkRoaming: text(mobile+"NetworkRoaming") == "true", CertificatePolicy: text(mobile + "CertificatePolicy"),
			ConnectOnDemand: text(mobile+"ConnectOnDemand") == "true", ActivateOnImport: text(mobile+"ActivateOnImport") == "true",
			NeverConnect: texts(m.Child("NeverConnectDomainList"), "OnDemandDNSMatch"),
			ConnectIfNeeded: append(texts(m.Child("ConnectIfNeededDomainList"), "OnDemandDNSMatch"),
				texts(m.Child("AlwaysConnectDomainList"), "OnDemandDNSMatch")...),
		}
	}
	return h
}

func ca(n *document.Node) *CA {
	c := n.Child("CAURL")
	if c == nil || c.Value() == "" {
		return nil
	}
	prompt, _ := c.Attribute("PromptForChallengePW")
	thumbprint, _ := c.Attribute("Thumbprint")
	return &CA{c.Value(), strings.EqualFold(prompt, "true"), thumbprint}
}

// pins returns the pins of the list inside of n. Those that are no hashes are left out.
func pins(n *document.Node) []Pin {
	var all []Pin
	for _, c := range n.Child("CertificatePinList").All("Pin") {
		hash, err := DecodeHash(c.Value())
		if err != nil || len(hash) != 64 {
			continue
		}
		pin := Pin{Hash: hash}
		pin.Subject, _ = c.Attribute("Subject")
		pin.Issuer, _ = c.Attribute("Issuer")
		all = append(all, pin)
	}
	return all
}

// Host returns the gateway with the name that the user gave: the one whose name it is, or else the one whose name it is but for
// capital and small letters, or else the first one whose address it is.
func (p *Profile) Host(name string) (Host, bool) { return findHost(p.Hosts(), name) }

func findHost(hosts []Host, name string) (Host, bool) {
	for _, same := range []func(Host) bool{
		func(h Host) bool { return h.Name == name },
		func(h Host) bool { return strings.EqualFold(h.Name, name) },
		func(h Host) bool { return strings.EqualFold(h.Address, name) },
	} {
		if i := slices.IndexFunc(hosts, same); i >= 0 {
			return hosts[i], true
		}
	}
	return Host{}, false
}

// part returns the element of a host.
func (h Host) part() document.Part {
	entry := document.Part{Name: "HostEntry", Children: []document.Part{{Name: "HostName", Value: h.Name}}}
	add := func(name, value string) {
		if value != "" {
			entry.Children = append(entry.Children, document.Part{Name: name, Value: value})
		}
	}
	servers := func(name string, addresses []string) {
		if len(addresses) == 0 {
			return
		}
		list := document.Part{Name: name}
		for _, a := range addresses {
			list.Children = append(list.Children, document.Part{Name: "HostAddress", Value: a})
		}
		entry.Children = append(entry.Children, list)
	}
	if h.Address != h.Name {
		add("HostAddress", h.Address)
	}
	add("UserGroup", h.UserGroup)
	servers("BackupServerList", h.Backups)
	servers("LoadBalancingServerList", h.LoadBalancing)
	if h.Protocol != "SSL" {
		add("PrimaryProtocol", h.Protocol)
	}
	return entry
}

// AddHost writes a gateway behind those that are there: its name, address, group, backups, load balancing and protocol. A
// name that is there already is refused, and so are addresses that are none.
func (p *Profile) AddHost(h Host) error {
	if h.Name == "" {
		return errors.New("a host needs a name")
	}
	if h.Address == "" {
		h.Address = h.Name
	}
	for _, a := range slices.Concat([]string{h.Address}, h.Backups, h.LoadBalancing) {
		if err := checkAddress(a); err != nil {
			return fmt.Errorf("host %q: %q is no address of a gateway: %w", h.Name, a, err)
		}
	}
	if h.Protocol != "" && h.Protocol != "SSL" && h.Protocol != "IPsec" {
		return fmt.Errorf("host %q: the protocol is SSL or IPsec", h.Name)
	}
	for _, other := range p.Hosts() {
		if strings.EqualFold(other.Name, h.Name) {
			return fmt.Errorf("%s: there is a host %q already, in line %d", p.Name(), other.Name, other.Line)
		}
	}
	return p.edit(func() error {
		root := p.doc.Root()
		if list := root.Child("ServerList"); list != nil {
			return p.doc.Insert(p.schema, list, h.part())
		}
		return p.doc.Insert(p.schema, root, document.Part{Name: "ServerList", Children: []document.Part{h.part()}})
	})
}

// SetHost changes one element of a gateway, such as HostAddress or PrimaryProtocol, and nothing else.
func (p *Profile) SetHost(name, path, value string) error {
	n, err := p.entry(name)
	if err != nil {
		return err
	}
	if path == "HostName" {
		for _, other := range p.Hosts() {
			if strings.EqualFold(other.Name, value) && other.Position != n.Position() {
				return fmt.Errorf("%s: there is a host %q already, in line %d", p.Name(), other.Name, other.Line)
			}
		}
	}
	return p.edit(func() error { return p.doc.Put(p.schema, n, path, value) })
}

// RemoveHost takes a gateway out of the profile.
func (p *Profile) RemoveHost(name string) error {
	n, err := p.entry(name)
	if err != nil {
		return err
	}
	if list := n.Parent; len(list.Children) == 1 {
		n = list
	}
	return p.edit(func() error { return p.doc.Remove(n) })
}

// entry returns the element of the gateway with exactly this name.
func (p *Profile) entry(name string) (*document.Node, error) {
	for _, n := range p.doc.Root().Child("ServerList").All("HostEntry") {
		if n.Child("HostName").Value() == name {
			return n, nil
		}
	}
	return nil, fmt.Errorf("%s: there is no host %q", p.Name(), name)
}
