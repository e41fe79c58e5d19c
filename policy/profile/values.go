package profile

import (
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"culvert.example/vpn/policy/document"
)

// What this client takes of a profile. An XML Schema sets no such bounds, and other clients may take more; a profile that exceeds them
// is refused by [Profile.Err], since what would be left out of it could be what matters.
const (
	// MaxHosts is how many gateways the ServerList may have, backups and members not counted.
	MaxHosts = 1024
	// MaxServers is how many gateways one BackupServerList or LoadBalancingServerList may have.
	MaxServers = 256
	// MaxTrustedServers is how many servers the TrustedHttpsServerList may have. They are asked one after the other.
	MaxTrustedServers = 16
	// MaxTrustedPatterns is how many entries TrustedDNSDomains and TrustedDNSServers may each have.
	MaxTrustedPatterns = 256
	// MaxAllowed is how many characters AllowedHosts may have, with a comma between two entries.
	MaxAllowed = 500

	maxHostName = 253 // of DNS
	maxServerIP = 64
)

// list returns the parts of a list with commas, without white space around them and without empty ones.
func list(value string) []string {
	var all []string
	for part := range strings.SplitSeq(value, ",") {
		if part = strings.TrimSpace(part); part != "" {
			all = append(all, part)
		}
	}
	return all
}

// checkName refuses what is neither the name of a host nor an address.
func checkName(s string) error {
	if _, err := netip.ParseAddr(strings.Trim(s, "[]")); err == nil {
		return nil
	}
	s = strings.TrimSuffix(s, ".")
	if s == "" || len(s) > maxHostName {
		return errors.New("it must be the name or the address of a host")
	}
	for label := range strings.SplitSeq(s, ".") {
		if label == "" || len(label) > 63 {
			return errors.New("the parts of a name between the dots must have 1 to 63 characters")
		}
		for _, r := range label {
			if r <= ' ' || r < 0x80 && !strings.ContainsRune("-_", r) && (r < '0' || r > '9') && (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') {
				return fmt.Errorf("%q has no place in the name of a host", r)
			}
		}
	}
	return nil
}

// checkTrusted refuses what is not the address of a server that proves the trusted network.
func checkTrusted(s string) error {
	// The dot at the end of a name and the zone of an address count here.
	if len(s) > maxHostName {
		return fmt.Errorf("it has %d characters; write at most %d", len(s), maxHostName)
	}
	return checkName(s)
}

// splitAddress takes an address as profiles write it, such as https://vpn.example.com:8443/group, apart.
func splitAddress(s string) (host string, port uint16, path string, err error) {
	s = strings.TrimPrefix(s, "https://")
	s, path, _ = strings.Cut(s, "/")
	host = s
	if _, err := netip.ParseAddr(s); err != nil {
		i := strings.LastIndexByte(s, ':')
		if i >= 0 && !strings.HasSuffix(s, "]") {
			n, err := strconv.ParseUint(s[i+1:], 10, 16)
			if err != nil || n == 0 {
				return "", 0, "", fmt.Errorf("%q is no port", s[i+1:])
			}
			host, port = s[:i], uint16(n)
		}
	}
	return strings.Trim(host, "[]"), port, path, checkName(host)
}

// checkAddress refuses what is not the address of a gateway.
func checkAddress(s string) error {
	_, _, _, err := splitAddress(s)
	return err
}

// checkDomains refuses a list of domains that holds something else, or too much. A domain may begin with *.
func checkDomains(s string) error {
	domains := list(s)
	if len(domains) > MaxTrustedPatterns {
		return fmt.Errorf("it has %d domains; write at most %d, such as *.example.com for all below one", len(domains), MaxTrustedPatterns)
	}
	for _, d := range domains {
		// The length counts in small letters, as the names are compared.
		if n := len(strings.ToLower(strings.TrimSuffix(d, "."))); n > maxHostName {
			return fmt.Errorf("a domain has %d characters; write at most %d", n, maxHostName)
		}
		name := strings.TrimPrefix(d, "*.")
		if name == "*" {
			continue
		}
		if err := checkName(strings.Trim(name, "*")); err != nil {
			return fmt.Errorf("%q: %w", d, err)
		}
	}
	return nil
}

// checkServers refuses a list of addresses of DNS servers that holds something else, or too much. A part of an address may be *.
func checkServers(s string) error {
	servers := list(s)
	if len(servers) > MaxTrustedPatterns {
		return fmt.Errorf("it has %d addresses; write at most %d, such as 192.0.2.* for a network", len(servers), MaxTrustedPatterns)
	}
	for _, server := range servers {
		if len(server) > maxServerIP {
			return fmt.Errorf("an entry of %d characters is no address; write at most %d", len(server), maxServerIP)
		}
		if strings.Contains(server, "*") && strings.Trim(server, "0123456789abcdefABCDEF.:*") == "" {
			continue
		}
		if _, err := netip.ParseAddr(server); err != nil {
			return fmt.Errorf("%q is not an IP address", server)
		}
	}
	return nil
}

// CheckAllowed refuses entries of AllowedHosts that are too many to be let through while the tunnel is down, that would let half of
// the world through, or that are neither hosts nor networks.
func CheckAllowed(hosts []string) error {
	if n := len(strings.Join(hosts, ",")); n > MaxAllowed {
		return fmt.Errorf("it has %d characters, at most %d are allowed; write networks instead of single hosts", n, MaxAllowed)
	}
	for _, h := range hosts {
		p, err := netip.ParsePrefix(h)
		switch {
		case err == nil && (p.Addr().Is4() && p.Bits() < 8 || p.Addr().Is6() && p.Bits() < 16):
			return fmt.Errorf("%s is a hole and not a host; write IPv4 networks of at least 8 bits, and IPv6 ones of at least 16", h)
		case err == nil && p.Addr().Is4In6():
			return fmt.Errorf("%s: write an IPv4 network as such", h)
		case err != nil && (h == "" || strings.ContainsFunc(h, func(r rune) bool { return r <= ' ' || r == 0x7f || r == '/' })):
			return fmt.Errorf("%q is neither a host nor a network", h)
		}
	}
	return nil
}

// checkHosts refuses a list of hosts and networks that holds something else, or what [CheckAllowed] refuses.
func checkHosts(s string) error {
	for _, h := range list(s) {
		if _, err := netip.ParsePrefix(h); err == nil {
			continue
		}
		if err := checkName(strings.TrimPrefix(h, "*.")); err != nil {
			return fmt.Errorf("%q: %w", h, err)
		}
	}
	return CheckAllowed(list(s))
}

// checkIP refuses what is not an address.
func checkIP(s string) error {
	if _, err := netip.ParseAddr(s); err != nil {
		return errors.New("it must be an IP address")
	}
	return nil
}

// DecodeHash returns the bytes of a hash as profiles write it: hexadecimal, with or without colons, or base64. Hashes of 20,
// 32 and 64 bytes are known: SHA-1, SHA-256 and SHA-512.
func DecodeHash(s string) ([]byte, error) {
	plain := strings.NewReplacer(":", "", " ", "").Replace(s)
	b, err := hex.DecodeString(plain)
	if err != nil {
		b, err = base64.StdEncoding.DecodeString(plain)
	}
	if err != nil || len(b) != 20 && len(b) != 32 && len(b) != 64 {
		return nil, errors.New("it must be a hash, hexadecimal or in base64")
	}
	return b, nil
}

// checkHash refuses what does not tell one certificate from all others.
func checkHash(s string) error {
	b, err := DecodeHash(s)
	if err == nil && len(b) == 20 {
		return errors.New("it is a SHA-1, which proves nothing any more; write the SHA-256 of the certificate")
	}
	return err
}

// checkPin refuses what is not a SHA-512.
func checkPin(s string) error {
	if b, err := DecodeHash(s); err != nil || len(b) != 64 {
		return errors.New("it must be a SHA-512, hexadecimal or in base64")
	}
	return nil
}

// checkOID refuses what is not an object identifier in dots and digits.
func checkOID(s string) error {
	for n := range strings.SplitSeq(s, ".") {
		if _, err := strconv.ParseUint(n, 10, 64); err != nil {
			return errors.New("it must be an object identifier such as 1.3.6.1.5.5.7.3.2")
		}
	}
	if !strings.Contains(s, ".") {
		return errors.New("it must be an object identifier such as 1.3.6.1.5.5.7.3.2")
	}
	return nil
}

func words() document.Type { return document.Type{} }

func hostAddress() document.Type {
	return document.Text("HostAddress", 1, 0, "name or address of a host", checkAddress)
}
