package profile

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"culvert.example/vpn/policy/document"
)

// A Collection is the profiles of some directories.
type Collection struct {
	// Profiles are those that may be acted upon, in the order of the directories and by name in each.
	Profiles []*Profile
	// Rejected are the files that may not, with the reasons.
	Rejected []Rejection
}

// A Rejection is a file that is no profile to act upon.
type Rejection struct {
	Path string `json:"path"`
	Err  error  `json:"-"`
	// Message is the text of Err.
	Message string `json:"message"`
}

// maxProfiles bounds how many files of a directory are read.
const maxProfiles = 1000

// LoadDirectories reads the profiles of directories: every file whose name ends in .xml, whatever it is called otherwise. A
// directory that does not exist holds none. A file that [Load] refuses is among the Rejected and does not keep the others
// from being read. For trusted see [document.ReadFile].
func LoadDirectories(dirs []string, trusted bool) (*Collection, error) {
	c := &Collection{}
	for _, dir := range dirs {
		entries, err := os.ReadDir(dir)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		for _, entry := range entries {
			path := filepath.Join(dir, entry.Name())
			if entry.IsDir() || !strings.EqualFold(filepath.Ext(entry.Name()), ".xml") || strings.HasPrefix(entry.Name(), ".") {
				continue
			}
			if len(c.Profiles)+len(c.Rejected) == maxProfiles {
				return nil, &fs.PathError{Op: "read", Path: dir, Err: errors.New("there are more than 1000 profiles")}
			}
			p, err := Load(path, trusted)
			if err != nil {
				c.Rejected = append(c.Rejected, Rejection{path, err, err.Error()})
				continue
			}
			c.Profiles = append(c.Profiles, p)
		}
	}
	return c, nil
}

// Hosts returns the gateways of all profiles, in their order. Of several with the same name, only the first is in the list.
func (c *Collection) Hosts() []Host {
	hosts, seen := []Host{}, map[string]bool{}
	for _, p := range c.Profiles {
		for _, h := range p.Hosts() {
			if !seen[h.Name] {
				seen[h.Name] = true
				hosts = append(hosts, h)
			}
		}
	}
	return hosts
}

// Host returns the gateway with the name that the user gave, found as [Profile.Host] does, and the profile that it is in, whose
// settings are in force for it.
func (c *Collection) Host(name string) (Host, *Profile, bool) {
	h, ok := findHost(c.Hosts(), name)
	if !ok {
		return Host{}, nil, false
	}
	i := slices.IndexFunc(c.Profiles, func(p *Profile) bool { return p.Name() == h.Profile })
	return h, c.Profiles[i], true
}

// AlwaysOn returns the first profile that demands that the tunnel is always up, or nil. A gateway that sends such a profile
// thereby replaces all others.
func (c *Collection) AlwaysOn(system string) *Profile {
	for _, p := range c.Profiles {
		if Resolve(p, nil, system).Settings().AlwaysOn {
			return p
		}
	}
	return nil
}

// SameDocument reports whether two profiles are the same byte for byte, as a gateway compares them by their hashes.
func SameDocument(a, b []byte) bool { return Hash(a) == Hash(b) }

// Save writes the profile to a file, as a whole or not at all, for everybody to read.
func (p *Profile) Save(path string) error {
	return document.WriteFile(path, p.Bytes(), 0o644)
}
