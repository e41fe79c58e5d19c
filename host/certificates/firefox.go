package certificates

import (
	"bufio"
	"bytes"
	"crypto"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"culvert.example/vpn/host/certificates/nss"
	"culvert.example/vpn/host/certificates/sqlite"
)

// readFirefox reads the profiles in use of a directory with a profiles.ini.
func (s *Store) readFirefox(dir string) {
	ini := filepath.Join(dir, "profiles.ini")
	data, err := readFile(ini, maxINI)
	if err != nil {
		if !errors.Is(err, fs.ErrNotExist) {
			s.problem(err)
		}
		return
	}
	profiles, err := ParseProfiles(data)
	if err != nil {
		s.problem(fmt.Errorf("%s: %w", ini, err))
		return
	}
	for _, profile := range profiles {
		path := filepath.FromSlash(profile.Path)
		if profile.Relative {
			path = filepath.Join(dir, path)
		}
		s.readProfile(path)
	}
}

// readProfile reads cert9.db and key4.db of a profile.
func (s *Store) readProfile(dir string) {
	cert9 := filepath.Join(dir, "cert9.db")
	public, err := readDatabase(cert9)
	if errors.Is(err, fs.ErrNotExist) {
		return // a profile that was never used
	}
	if err != nil {
		s.problem(err)
		return
	}
	s.Directories = append(s.Directories, dir)
	key4 := filepath.Join(dir, "key4.db")
	private, err := readDatabase(key4)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		s.problem(err)
	}
	db, err := nss.Parse(public, private)
	if err != nil && private != nil {
		// Without the keys the trust is still worth having.
		s.problem(fmt.Errorf("%s: %w", dir, err))
		db, err = nss.Parse(public, nil)
	}
	if err != nil {
		s.problem(fmt.Errorf("%s: %w", dir, err))
		return
	}
	for _, note := range db.Notes() {
		s.problem(fmt.Errorf("%s: %s", cert9, note))
	}
	if db.DistrustsAny() {
		s.distrusts = append(s.distrusts, db.Distrusts)
	}
	var all []*x509.Certificate
	for _, c := range db.Certificates() {
		all = append(all, c.Certificate)
	}
	for i := range db.Certificates() {
		c := &db.Certificates()[i]
		if (c.HasKey || c.Trust == nss.Anchor || c.Trust == nss.Peer) && !s.room(cert9) {
			return
		}
		switch {
		case c.Trust == nss.Peer && c.Certificate.IsCA:
			// As an anchor it would vouch for others, which is more than was meant.
			s.problem(fmt.Errorf("%s: the authority %.100q is trusted as a single server, which has no effect", cert9, c.Label))
		case c.Trust == nss.Anchor, c.Trust == nss.Peer:
			s.Anchors = append(s.Anchors, Anchor{Certificate: c.Certificate, Label: c.Label, Path: cert9})
		}
		if c.HasKey {
			s.Identities = append(s.Identities, &Identity{
				Chain: chain(c.Certificate, all), Store: s.Kind, Label: c.Label, Path: cert9,
				key: func(u Unlock) (crypto.Signer, error) { return firefoxKey(db, c, key4, u) },
			})
		}
	}
}

// firefoxKey opens a private key, with the primary password if there is one.
func firefoxKey(db *nss.Database, c *nss.Certificate, path string, u Unlock) (crypto.Signer, error) {
	signer, err := db.Key(c, "")
	if errors.Is(err, nss.ErrPassword) {
		var password string
		if password, err = u.password("the primary password of Firefox in " + path); err != nil {
			return nil, err
		}
		signer, err = db.Key(c, password)
	}
	switch {
	case errors.Is(err, nss.ErrPassword):
		return nil, fmt.Errorf("%s: %w", path, ErrPassword)
	case err != nil:
		return nil, fmt.Errorf("%s: %w: %w", path, ErrKey, err)
	}
	return signer, nil
}

// readDatabase reads an SQLite file, and refuses one whose last changes are not in it yet.
func readDatabase(path string) ([]byte, error) {
	for range 3 {
		data, err := readFile(path, maxDatabase)
		if err != nil {
			return nil, err
		}
		// The journal is looked at behind the database: one that is gone again shows in the database, which is then read
		// once more by readFile, or was whole before.
		if !hot(path, data) {
			return data, nil
		}
	}
	return nil, &fs.PathError{Op: "read", Path: path, Err: fmt.Errorf("%w, or was left so by a crash; start and close Firefox", ErrChanged)}
}

// hot reports whether a journal beside a database holds changes.
func hot(path string, data []byte) bool {
	if f, err := os.OpenFile(path+"-journal", os.O_RDONLY|syscall.O_NONBLOCK, 0); err == nil {
		head := make([]byte, 8)
		n, _ := f.Read(head)
		f.Close()
		if sqlite.Hot(head[:n]) {
			return true
		}
	}
	db, err := sqlite.Parse(data)
	if err != nil || !db.WriteAhead() {
		return false
	}
	info, err := os.Stat(path + "-wal")
	return err == nil && info.Size() > 0
}

// A Profile is a directory in which Firefox keeps what belongs to one person.
type Profile struct {
	// Name is the name, for people.
	Name string
	// Path is the directory, with slashes; it begins at the one of profiles.ini if Relative is true.
	Path     string
	Relative bool
}

// ParseProfiles returns the profiles in use of a profiles.ini: those that an installation of Firefox starts with; where none is
// named, the default one; and where there is no such either, the only one. Others may be years old, and are not read.
func ParseProfiles(data []byte) ([]Profile, error) {
	type section struct {
		name   string
		values map[string]string
	}
	var sections []section
	const maxSections = 256
	scanner := bufio.NewScanner(bytes.NewReader(data))
	for scanner.Scan() {
		line := strings.TrimSpace(strings.TrimPrefix(scanner.Text(), "\ufeff"))
		if name, ok := strings.CutPrefix(line, "["); ok {
			if len(sections) == maxSections {
				return nil, fmt.Errorf("it has more than %d sections", maxSections)
			}
			sections = append(sections, section{strings.TrimSuffix(name, "]"), map[string]string{}})
			continue
		}
		if key, value, ok := strings.Cut(line, "="); ok && len(sections) > 0 && !strings.HasPrefix(line, ";") && !strings.HasPrefix(line, "#") {
			sections[len(sections)-1].values[strings.TrimSpace(key)] = strings.TrimSpace(value)
		}
	}
	if err := scanner.Err(); err != nil {
		return nil, err
	}
	byPath := map[string]Profile{}
	var all, defaults, installed []Profile
	for _, sec := range sections {
		if !strings.HasPrefix(sec.name, "Profile") {
			continue
		}
		p := Profile{Name: sec.values["Name"], Path: sec.values["Path"], Relative: sec.values["IsRelative"] != "0"}
		if p.Path == "" || p.Relative && !filepath.IsLocal(filepath.FromSlash(p.Path)) {
			return nil, fmt.Errorf("the Path of %q, %q, is not below its directory", sec.name, p.Path)
		}
		if !p.Relative && !filepath.IsAbs(filepath.FromSlash(p.Path)) {
			return nil, fmt.Errorf("the Path of %q, %q, is not absolute", sec.name, p.Path)
		}
		byPath[p.Path] = p
		all = append(all, p)
		if sec.values["Default"] == "1" {
			defaults = append(defaults, p)
		}
	}
	used := map[string]bool{}
	for _, sec := range sections {
		path := sec.values["Default"]
		if p, ok := byPath[path]; ok && strings.HasPrefix(sec.name, "Install") && !used[path] {
			used[path] = true
			installed = append(installed, p)
		}
	}
	switch {
	case len(installed) > 0:
		all = installed
	case len(defaults) > 0:
		all = defaults
	case len(all) > 1:
		return nil, errors.New("none of its profiles is the default one")
	}
	if len(all) > maxProfiles {
		all = all[:maxProfiles]
	}
	return all, nil
}
