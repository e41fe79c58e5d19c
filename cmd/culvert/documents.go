package main

import (
	"crypto/fips140"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"runtime"

	"github.com/spf13/pflag"

	"culvert.example/vpn/policy/document"
	"culvert.example/vpn/policy/local"
	"culvert.example/vpn/policy/plan"
	"culvert.example/vpn/policy/preferences"
	"culvert.example/vpn/policy/profile"
)

// documentFlags say where the documents are that steer the client.
type documentFlags struct {
	profileFile, localFile, root string
	// machine says that the tunnel is to carry the traffic of the whole machine. Then only documents count that nobody but the
	// administrator could have written.
	machine bool
	// lenient reads files that others could have written all the same, to show what they say.
	lenient bool
}

func (f *documentFlags) add(flags *pflag.FlagSet) {
	flags.StringVar(&f.profileFile, "profile", "", "the VPN profile is `FILE|NAME`, where a name is that of a file in the usual places, instead of all in those")
	flags.StringVar(&f.localFile, "local-policy", "", "the local policy is in `FILE` instead of the usual places")
	flags.StringVar(&f.root, "document-root", "", "look for documents below `DIR`, such as the image of a system")
}

// documents makes the plan for a gateway from the documents of this machine. Host is what the user has given, or "". The plan is
// returned with the error if the documents refuse the connection; see [plan.New].
func (a *app) documents(f *documentFlags, host string) (*plan.Plan, error) {
	docs, err := a.readDocuments(f)
	if err != nil {
		return nil, err
	}
	host = listedName(docs.Profiles, host)
	message, err := a.preConnectText(f)
	if err != nil {
		return nil, err
	}
	return plan.New(host, docs, plan.Environment{
		System: runtime.GOOS, WholeMachine: f.machine, Administrator: os.Geteuid() == 0, FIPS: fips140.Enabled() || f.lenient, Message: message,
		Unavailable: unavailable(f.machine),
	})
}

// readDocuments reads the documents. A local policy that cannot be acted upon is an error, because it would restrict; so is a
// profile that was named, and any one where the tunnel is for the whole machine. Others are reported and passed over, and so are
// preferences.
func (a *app) readDocuments(f *documentFlags) (plan.Documents, error) {
	var docs plan.Documents
	var err error
	trusted := f.machine && !f.lenient

	paths := local.Paths(runtime.GOOS, a.getenv, f.root)
	if f.localFile != "" {
		if _, err := os.Stat(f.localFile); err != nil {
			return docs, asUsage(fmt.Errorf("--local-policy: %w", err))
		}
		paths = []string{f.localFile}
	}
	var findings []document.Finding
	if docs.Local, docs.LocalPath, findings, err = local.LoadFirst(paths, trusted); err != nil {
		return docs, asUsage(a.invalid("the local policy cannot be used", err))
	}
	for _, finding := range findings {
		if finding.Severity == document.SeverityError {
			a.reporter().warn("%s", finding)
		}
	}

	if f.profileFile != "" {
		p, err := profile.Load(a.profileFile(f), trusted)
		if err != nil {
			return docs, asUsage(a.invalid("--profile: it cannot be used", err))
		}
		docs.Profiles = &profile.Collection{Profiles: []*profile.Profile{p}}
	} else {
		dirs := profile.Directories(runtime.GOOS, profile.VPN, a.getenv, f.root, f.machine)
		if docs.Profiles, err = profile.LoadDirectories(dirs, trusted); err != nil {
			return docs, fmt.Errorf("reading the profiles: %w", err)
		}
	}
	for _, r := range docs.Profiles.Rejected {
		if trusted {
			// It may have demanded Always-On, so that going on without it would open what it keeps closed.
			return docs, asUsage(a.invalid("the profile "+r.Path+" cannot be used, and nobody knows what it demands; mend it or take it away", r.Err))
		}
		a.reporter().warn("the profile %s is not used: %v", r.Path, r.Err)
	}

	files := preferences.Paths(runtime.GOOS, a.getenv, f.root)
	docs.Preferences.User = a.readPreferences(files.User, false)
	docs.Preferences.Global = a.readPreferences(files.Global, trusted)
	return docs, nil
}

// An invalidDocument is a document with faults that have been reported one by one.
type invalidDocument struct {
	what   string
	faults *document.InvalidError
}

// Error implements error.
func (e *invalidDocument) Error() string {
	file := e.faults.Findings[0].File
	return fmt.Sprintf("%s: %s has %s", e.what, file, count(len(e.faults.Findings), "fault"))
}

// Unwrap returns the faults.
func (e *invalidDocument) Unwrap() error { return e.faults }

// invalid reports each fault of a document in a line of its own, because there may be more than an error message can hold.
func (a *app) invalid(what string, err error) error {
	faults := (*document.InvalidError)(nil)
	if !errors.As(err, &faults) || len(faults.Findings) == 0 {
		return fmt.Errorf("%s: %w", what, err)
	}
	for _, f := range faults.Findings {
		a.reporter().warn("%s", oneLine(f.String()))
	}
	return &invalidDocument{what, faults}
}

// readPreferences reads the first file that exists, nil if there is none or it cannot be used. They only choose among what the
// profile leaves open, so without them nothing is allowed that would not be otherwise.
func (a *app) readPreferences(files []string, trusted bool) *preferences.Preferences {
	file := preferences.First(files)
	if file == "" {
		return nil
	}
	p, err := preferences.Load(file, trusted)
	if err != nil {
		a.reporter().warn("the preferences are not used: %v", err)
		return nil
	}
	return p
}

// maxMessage bounds the text that is shown before connecting, in bytes.
const maxMessage = 16 << 10

// preConnectText reads the text that an administrator may have put beside the pictures and texts of the user interface, "" if
// there is none.
func (a *app) preConnectText(f *documentFlags) (string, error) {
	const name = "preconnect.txt"
	dirs := profile.Directories(runtime.GOOS, profile.Resources, a.getenv, f.root, f.machine)
	if runtime.GOOS == "linux" {
		dirs = append([]string{path.Join("/", f.root, "etc/culvert")}, dirs...)
	}
	for _, dir := range dirs {
		b, err := document.ReadFile(path.Join(dir, name), f.machine && !f.lenient)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			continue
		case err != nil:
			return "", fmt.Errorf("the message before connecting: %w", err)
		case len(b) > maxMessage:
			return "", fmt.Errorf("the message before connecting: %s has more than %d bytes", path.Join(dir, name), maxMessage)
		}
		return string(b), nil
	}
	return "", nil
}

// savePreferences writes down what was used last, as far as the local policy lets it, and that the message before connecting was
// shown. It changes nothing on the disk if nothing is new, and nothing that somebody has chosen meanwhile.
func (a *app) savePreferences(f *documentFlags, p *plan.Plan, used func(*preferences.Last), shown bool) error {
	files := preferences.Paths(runtime.GOOS, a.getenv, f.root)
	file := preferences.First(files.User)
	if file == "" {
		return nil
	}
	if p.Documents.Preferences.User == nil {
		if _, err := os.Stat(file); err == nil {
			return nil // there is a file that could not be read, which is not ours to replace
		}
	}
	return preferences.Edit(file, preferences.UserMode, false, func(user *preferences.Preferences) error {
		last := user.Last()
		used(&last)
		if err := user.SetLast(p.Remember(last)); err != nil {
			return err
		}
		if shown {
			if err := p.Shown(user); err != nil {
				return err
			}
		}
		return user.Forget(p.Keep)
	})
}
