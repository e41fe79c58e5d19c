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
	if s == "" || len(s) > 253 {
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

// checkDomains refuses a list of domains that holds something else. A domain may begin with *.
func checkDomains(s string) error {
	for _, d := range list(s) {
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

// checkServers refuses a list of addresses of DNS servers that holds something else. A part of an address may be *.
func checkServers(s string) error {
	for _, server := range list(s) {
		if strings.Contains(server, "*") && strings.Trim(server, "0123456789abcdefABCDEF.:*") == "" {
			continue
		}
		if _, err := netip.ParseAddr(server); err != nil {
			return fmt.Errorf("%q is not an IP address", server)
		}
	}
	return nil
}

// checkHosts refuses a list of hosts and networks that holds something else.
func checkHosts(s string) error {
	for _, h := range list(s) {
		if _, err := netip.ParsePrefix(h); err == nil {
			continue
		}
		if err := checkName(strings.TrimPrefix(h, "*.")); err != nil {
			return fmt.Errorf("%q: %w", h, err)
		}
	}
	return nil
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

func checkHash(s string) error {
	_, err := DecodeHash(s)
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
