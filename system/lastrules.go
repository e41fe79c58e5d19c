package system

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
)

// lastRules are what a tunnel left outside of itself, which the kill switch may let pass after its end.
type lastRules struct {
	// Hosts are the prefixes that it excluded, at most maxLast.
	Hosts []netip.Prefix `json:"hosts,omitempty"`
	// LAN says that it left connected networks outside.
	LAN bool `json:"lan,omitempty"`
}

const (
	// maxLast is how many prefixes are kept; together with AllowedHosts and the addresses of AllowedNames they fit the firewall.
	maxLast = 256
	// maxLastSize bounds the file, in bytes.
	maxLastSize = 32 << 10
)

// parseLastRules reads the file, nothing of which is believed without a look.
func parseLastRules(b []byte) (lastRules, error) {
	var r lastRules
	if len(b) > maxLastSize {
		return r, fmt.Errorf("it is larger than %d bytes", maxLastSize)
	}
	if err := json.Unmarshal(b, &r); err != nil {
		return lastRules{}, err
	}
	if len(r.Hosts) > maxLast {
		return lastRules{}, fmt.Errorf("hosts: %d prefixes, at most %d", len(r.Hosts), maxLast)
	}
	for _, p := range r.Hosts {
		if !p.IsValid() || p != p.Masked() || p.Addr().Is4In6() || !narrow(p) {
			return lastRules{}, fmt.Errorf("hosts: %v is not a prefix of at least /8 (IPv4) or /16 (IPv6)", p)
		}
	}
	return r, nil
}

// lastFile is where the rules of the last tunnel are kept: beside the journal.
func (c *Config) lastFile() string { return c.Journal + ".rules" }

// recall reads what the last tunnel left outside of itself. Without the file there is nothing.
func (s *System) recall() {
	f, err := os.Open(s.cfg.lastFile())
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	var b []byte
	if err == nil {
		defer f.Close()
		b, err = io.ReadAll(io.LimitReader(f, maxLastSize+1))
	}
	if err == nil {
		s.last, err = parseLastRules(b)
	}
	if err != nil {
		s.log.Warn("the local resource rules of the last session are not applied", "file", s.cfg.lastFile(), "err", err)
	}
}

// bequeath keeps what the tunnel leaves outside of itself for the time after it. The lock of the System is held.
func (t *tunnel) bequeath() (write func()) {
	s := t.s
	if k := s.cfg.KillSwitch; k == nil || !k.LastRules || t.lease == nil {
		return func() {}
	}
	hosts := t.direct(slices.Concat(t.lease.Exclude, s.cfg.User.Exclude))
	slices.SortFunc(hosts, netip.Prefix.Compare)
	hosts = slices.Compact(hosts)
	s.last = lastRules{Hosts: hosts[:min(len(hosts), maxLast)], LAN: t.lan}
	last := s.last
	return func() {
		if err := writeAtomic(s.cfg.lastFile(), last); err != nil {
			s.log.Warn("the local resource rules of this session are not kept for the next start", "err", err)
		}
	}
}

// writeAtomic replaces a file by v in JSON, as a whole or not at all.
func writeAtomic(path string, v any) (err error) {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err = errors.Join(err, f.Sync(), f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		os.Remove(f.Name())
	}
	return err
}
