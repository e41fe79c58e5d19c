package main

import (
	"cmp"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"culvert.example/vpn/host/certificates"
	"culvert.example/vpn/policy/certificate"
	"culvert.example/vpn/policy/document"
	"culvert.example/vpn/policy/local"
	"culvert.example/vpn/policy/preferences"
	"culvert.example/vpn/policy/profile"
)

// A certificateView is what the documents and the stores of this machine say about certificates.
type certificateView struct {
	profileFile, localFile, root string

	profile *profile.Profile
	policy  *local.Policy
	// policyPath is where the local policy is from, "" for the default one.
	policyPath string
	effective  *profile.Effective
	last       preferences.Last
	stores     []openedStore
	problems   []error
}

// An openedStore is a store with what it may be used for. One that may not be used is opened too, to say what is missing.
type openedStore struct {
	use  certificate.Store
	held *certificates.Store
}

func (a *app) certificates() *cobra.Command {
	var v certificateView
	cmd := &cobra.Command{
		Use:   "certificates",
		Short: "Show the certificate stores, and which client certificate is chosen",
		Long: `Certificates shows which certificate stores of this machine may vouch for gateways and which may identify the user, by the
profile and the local policy, and which client certificate is chosen among those that are there.

` + exitHelp,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	flags := cmd.PersistentFlags()
	flags.StringVar(&v.profileFile, "profile", "", "the VPN profile is in `FILE`; without it, the defaults hold")
	flags.StringVar(&v.localFile, "local-policy", "", "the local policy is in `FILE` instead of the usual places")
	flags.StringVar(&v.root, "document-root", "", "look for stores and documents below `DIR`, such as the image of a system")
	list := &cobra.Command{
		Use:   "list",
		Short: "List the stores, what they may be used for and why, and what is in them",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			if err := v.open(a.getenv); err != nil {
				return err
			}
			if a.json {
				return json.NewEncoder(a.out).Encode(v.listJSON())
			}
			return v.list(a.out, time.Now())
		},
	}
	match := &cobra.Command{
		Use:   "match",
		Short: "Say which client certificate is chosen, and why the others are not",
		Long: `Match says which client certificate the profile chooses, and for each of the others why not. The exit status is 1 if there is
none that may be used.

` + exitHelp,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			if err := v.open(a.getenv); err != nil {
				return err
			}
			choice := v.choose(time.Now())
			var err error
			if a.json {
				err = json.NewEncoder(a.out).Encode(v.choiceJSON(choice, time.Now()))
			} else {
				err = v.printChoice(a.out, choice, time.Now())
			}
			if err == nil && len(choice.Accepted) == 0 {
				err = cmp.Or(choice.Err(), errors.New("there is no client certificate in any store"))
			}
			return err
		},
	}
	cmd.AddCommand(list, match)
	return cmd
}

// open reads the documents and the stores.
func (v *certificateView) open(getenv func(string) string) error {
	var err error
	if v.profileFile != "" {
		if v.profile, err = profile.Load(v.profileFile, false); err != nil {
			return asUsage(err)
		}
	}
	paths := local.Paths(runtime.GOOS, getenv, v.root)
	if v.localFile != "" {
		if _, err := os.Stat(v.localFile); err != nil {
			return asUsage(fmt.Errorf("--local-policy: %w", err))
		}
		paths = []string{v.localFile}
	}
	if v.policy, v.policyPath, _, err = local.LoadFirst(paths, false); err != nil {
		return asUsage(err)
	}
	chosen := preferences.Paths(runtime.GOOS, getenv, v.root)
	pair := preferences.Pair{User: v.preferences(chosen.User), Global: v.preferences(chosen.Global)}
	v.effective = profile.Resolve(v.profile, pair.Control, runtime.GOOS)
	if pair.User != nil {
		v.last = pair.User.Last()
	}

	in := certificate.Situation{System: runtime.GOOS, Administrator: os.Geteuid() == 0}
	options := certificates.Options{Getenv: getenv, Root: v.root}
	if v.root == "" {
		// Below a root, the owners of files are not those of this machine.
		options.ReadMachine = func(path string) ([]byte, error) { return document.ReadFile(path, true) }
	}
	for _, s := range certificate.Stores(in, v.effective.Settings(), v.policy) {
		v.stores = append(v.stores, openedStore{s, certificates.Open(certificates.Kind(s.Kind), options)})
	}
	return nil
}

// preferences reads the first of the files that exists. Preferences that cannot be read are as good as none here.
func (v *certificateView) preferences(paths []string) *preferences.Preferences {
	path := preferences.First(paths)
	if path == "" {
		return nil
	}
	p, err := preferences.Load(path, false)
	if err != nil {
		v.problems = append(v.problems, err)
		return nil
	}
	return p
}

// choose chooses among the client certificates of all stores.
func (v *certificateView) choose(now time.Time) certificate.Choice {
	rules := certificate.Rules{Automatic: v.effective.Settings().AutomaticCertSelection, Preferred: v.last.ClientCertificateThumbprint}
	if v.profile != nil {
		rules.Match, rules.Document = v.profile.CertificateMatch(), filepath.Base(v.profile.Name())
	}
	var candidates []certificate.Candidate
	for _, s := range v.stores {
		for _, id := range s.held.Identities {
			c := certificate.Candidate{Certificate: id.Chain[0], Store: s.use.Kind, Place: place(id.Path, id.Label), Excluded: s.use.Clients.Refusal()}
			if id.NoKey != nil {
				c.NoKey = id.NoKey.Error()
			}
			candidates = append(candidates, c)
		}
	}
	return certificate.Choose(candidates, rules, now)
}

// place says where a certificate is: a database holds many, under labels.
func place(path, label string) string {
	if label == "" || strings.TrimSuffix(filepath.Base(path), filepath.Ext(path)) == label {
		return path
	}
	return path + " (" + label + ")"
}

// threshold is how many days before it expires the user is told.
func (v *certificateView) threshold() int {
	if v.profile != nil {
		if e := v.profile.Enrollment(); e != nil {
			return e.WarnDays
		}
	}
	return 0
}

// yes says what a store may be used for.
func yes(u certificate.Use) string {
	if u.Allowed {
		return "yes"
	}
	return "no"
}

func (v *certificateView) list(w io.Writer, now time.Time) error {
	document := "none, so the default holds"
	if v.policyPath != "" {
		document = oneLine(v.policyPath)
	}
	fmt.Fprintf(w, "Local policy: %s\n\n", document)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "STORE\tGATEWAYS\tCLIENTS\tAUTHORITIES\tCLIENT CERTIFICATES\tWHERE")
	for _, s := range v.stores {
		authorities, where := fmt.Sprint(len(s.held.Anchors)), strings.Join(s.held.Directories, ", ")
		if s.use.Kind == certificate.System {
			authorities, where = "-", "the operating system"
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%d\t%s\n", s.use.Kind, yes(s.use.Servers), yes(s.use.Clients), authorities, len(s.held.Identities), cell(where))
	}
	if err := t.Flush(); err != nil {
		return err
	}
	fmt.Fprintln(w)
	for _, s := range v.stores {
		for _, use := range []struct {
			what string
			certificate.Use
		}{{"gateways", s.use.Servers}, {"client certificates", s.use.Clients}} {
			if !use.Allowed {
				fmt.Fprintf(w, "%s is not used for %s: %s%s\n", s.use.Kind, use.what, use.Reason, by(use.Use))
			}
		}
	}
	if err := certificate.CheckStores(v.policies()); err != nil {
		fmt.Fprintf(w, "%v\n", err)
	}
	for _, s := range v.stores {
		for _, anchor := range s.held.Anchors {
			fmt.Fprintf(w, "%s authority: %s\n", s.use.Kind, describeCertificate(anchor.Certificate, place(anchor.Path, anchor.Label), now))
		}
		for _, id := range s.held.Identities {
			fmt.Fprintf(w, "%s client certificate: %s\n", s.use.Kind, describeCertificate(id.Chain[0], place(id.Path, id.Label), now))
		}
	}
	v.printProblems(w)
	return nil
}

// by names the document that a decision is from.
func by(u certificate.Use) string {
	if u.Document == "" {
		return ""
	}
	return " (" + u.Document + ")"
}

func (v *certificateView) policies() []certificate.Store {
	var all []certificate.Store
	for _, s := range v.stores {
		all = append(all, s.use)
	}
	return all
}

// describeCertificate is a line about a certificate, with text of others made fit for a terminal.
func describeCertificate(c *x509.Certificate, where string, now time.Time) string {
	return fmt.Sprintf("%s, issued by %s, %s, in %s", cell(c.Subject.String()), cell(c.Issuer.String()), certificate.ExpiryOf(c, 0, now), cell(where))
}

func (v *certificateView) printProblems(w io.Writer) {
	for _, problem := range v.allProblems() {
		fmt.Fprintf(w, "problem: %s\n", oneLine(problem))
	}
}

func (v *certificateView) allProblems() []string {
	all := []string{}
	for _, err := range v.problems {
		all = append(all, err.Error())
	}
	for _, s := range v.stores {
		for _, err := range s.held.Problems {
			all = append(all, err.Error())
		}
	}
	return all
}

func (v *certificateView) printChoice(w io.Writer, c certificate.Choice, now time.Time) error {
	for i, verdict := range c.Accepted {
		state := "may be used"
		if i == c.Chosen {
			state = "CHOSEN"
		}
		fmt.Fprintf(w, "%s: %s\n", state, describeCertificate(verdict.Certificate, verdict.Place, now))
		if i == c.Chosen {
			fmt.Fprintf(w, "    because %s\n", c.Reason)
		}
		if e := certificate.ExpiryOf(verdict.Certificate, v.threshold(), now); e.Warn {
			fmt.Fprintf(w, "    warning: it %s (CertificateExpirationThreshold is %d)\n", e, v.threshold())
		}
	}
	if c.Ask {
		fmt.Fprintf(w, "%s\n", c.Reason)
	}
	for _, verdict := range c.Refused {
		fmt.Fprintf(w, "refused: %s\n", describeCertificate(verdict.Certificate, verdict.Place, now))
		for _, r := range verdict.Refusals {
			fmt.Fprintf(w, "    %s\n", oneLine(r.String()))
		}
	}
	v.printProblems(w)
	return nil
}

// A certificateJSON is a certificate for programs.
type certificateJSON struct {
	Subject  string                `json:"subject"`
	Issuer   string                `json:"issuer"`
	Serial   string                `json:"serial"`
	NotAfter time.Time             `json:"notAfter"`
	SHA1     string                `json:"sha1"`
	SHA256   string                `json:"sha256"`
	Store    certificate.Kind      `json:"store"`
	Place    string                `json:"place"`
	Refusals []certificate.Refusal `json:"refusals,omitempty"`
	Expiry   *certificate.Expiry   `json:"expiry,omitempty"`
}

func toJSON(c *x509.Certificate, store certificate.Kind, place string) certificateJSON {
	one, two := sha1.Sum(c.Raw), sha256.Sum256(c.Raw)
	return certificateJSON{
		Subject: c.Subject.String(), Issuer: c.Issuer.String(), Serial: c.SerialNumber.Text(16), NotAfter: c.NotAfter.UTC(),
		SHA1: strings.ToUpper(hex.EncodeToString(one[:])), SHA256: hex.EncodeToString(two[:]), Store: store, Place: place,
	}
}

func (v *certificateView) listJSON() any {
	type store struct {
		certificate.Store
		Directories        []string          `json:"directories"`
		Authorities        []certificateJSON `json:"authorities"`
		ClientCertificates []certificateJSON `json:"clientCertificates"`
	}
	stores := []store{}
	for _, s := range v.stores {
		out := store{s.use, append([]string{}, s.held.Directories...), []certificateJSON{}, []certificateJSON{}}
		for _, anchor := range s.held.Anchors {
			out.Authorities = append(out.Authorities, toJSON(anchor.Certificate, s.use.Kind, place(anchor.Path, anchor.Label)))
		}
		for _, id := range s.held.Identities {
			out.ClientCertificates = append(out.ClientCertificates, toJSON(id.Chain[0], s.use.Kind, place(id.Path, id.Label)))
		}
		stores = append(stores, out)
	}
	return struct {
		Profile     string   `json:"profile,omitempty"`
		LocalPolicy string   `json:"localPolicy,omitempty"`
		Stores      []store  `json:"stores"`
		Problems    []string `json:"problems"`
	}{v.profileFile, v.policyPath, stores, v.allProblems()}
}

func (v *certificateView) choiceJSON(c certificate.Choice, now time.Time) any {
	verdicts := func(all []certificate.Verdict) []certificateJSON {
		out := []certificateJSON{}
		for _, verdict := range all {
			j := toJSON(verdict.Certificate, verdict.Store, verdict.Place)
			e := certificate.ExpiryOf(verdict.Certificate, v.threshold(), now)
			j.Refusals, j.Expiry = verdict.Refusals, &e
			out = append(out, j)
		}
		return out
	}
	accepted := verdicts(c.Accepted)
	var chosen *certificateJSON
	if c.Chosen >= 0 {
		chosen = &accepted[c.Chosen]
	}
	return struct {
		Profile  string              `json:"profile,omitempty"`
		Chosen   *certificateJSON    `json:"chosen"`
		Ask      bool                `json:"ask"`
		Reason   string              `json:"reason"`
		Accepted []certificateJSON   `json:"accepted"`
		Refused  []certificateJSON   `json:"refused"`
		Stores   []certificate.Store `json:"stores"`
		Problems []string            `json:"problems"`
	}{v.profileFile, chosen, c.Ask, c.Reason, accepted, verdicts(c.Refused), v.policies(), v.allProblems()}
}
