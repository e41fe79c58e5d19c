package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"runtime"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"culvert.example/vpn/policy/document"
	"culvert.example/vpn/policy/plan"
	"culvert.example/vpn/policy/preferences"
	"culvert.example/vpn/policy/profile"
)

// fileHelp says how the commands about documents take files and end.
const fileHelp = `FILE may be - for standard input. The exit status is 0 if all is well, 1 if there is something to say against it, and 2 if the
command line is wrong or a file is missing.`

func (a *app) profileCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "profile",
		Short: "Check, show and edit AnyConnect VPN profiles",
		Long: `Profile works on VPN profiles, the XML documents by which an organisation tells its clients which gateways there are and how to
behave.

` + fileHelp,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(a.profileList(), a.lintCommand("a profile", profile.Lint), a.profileShow(), a.profileEffective(), a.profileNew(), a.profileDiff(), a.profileHash())
	return cmd
}

// stdinName is what the document of standard input is called in messages.
const stdinName = "(standard input)"

// document reads a document to look at. A file that cannot be read is a mistake of the command line; one that is too large or was
// replaced all the time is not.
func (a *app) document(file string) (name string, data []byte, err error) {
	if file != "-" {
		data, err = document.ReadFile(file, false)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) || errors.Is(err, document.ErrNotRegular) {
			err = asUsage(err)
		}
		return file, data, err
	}
	data, err = io.ReadAll(io.LimitReader(a.in, document.MaxSize+1))
	if err == nil && len(data) > document.MaxSize {
		err = fmt.Errorf("%s: %w: at most %d bytes are read", stdinName, document.ErrTooLarge, document.MaxSize)
	}
	return stdinName, data, err
}

// someFiles demands at least one file, and - only once.
func someFiles(_ *cobra.Command, args []string) error {
	if len(args) == 0 {
		return usagef("FILE is missing")
	}
	if n := len(slices.DeleteFunc(slices.Clone(args), func(s string) bool { return s != "-" })); n > 1 {
		return usagef("standard input can be read only once")
	}
	return nil
}

// lintCommand returns a command that checks documents of a kind.
func (a *app) lintCommand(kind string, lint func(name string, data []byte) []document.Finding) *cobra.Command {
	return &cobra.Command{
		Use:   "lint FILE...",
		Short: "Check " + kind + ", and say what is wrong and where",
		Long: "Lint prints everything there is to say about " + kind + `, in the order of the document, one finding in a line:

    FILE:LINE:COLUMN: SEVERITY: MESSAGE; HINT (RULE)

Notes alone leave the exit status at 0. With --json it prints an array of findings.

` + fileHelp,
		Args: someFiles,
		RunE: func(_ *cobra.Command, args []string) error {
			all := []document.Finding{}
			for _, file := range args {
				name, data, err := a.document(file)
				if err != nil {
					return err
				}
				all = append(all, lint(name, data)...)
			}
			return a.printFindings(all)
		},
	}
}

// printFindings prints findings, and returns an error if one of them is more than a note.
func (a *app) printFindings(all []document.Finding) error {
	faults, warnings := 0, 0
	for _, f := range all {
		switch f.Severity {
		case document.SeverityError:
			faults++
		case document.SeverityWarning:
			warnings++
		}
	}
	if a.json {
		if err := json.NewEncoder(a.out).Encode(all); err != nil {
			return err
		}
	} else {
		for _, f := range all {
			if _, err := fmt.Fprintln(a.out, oneLine(f.String())); err != nil {
				return err
			}
		}
	}
	if faults+warnings > 0 {
		return fmt.Errorf("found %s and %s", count(faults, "error"), count(warnings, "warning"))
	}
	return nil
}

func count(n int, what string) string {
	if n != 1 {
		what += "s"
	}
	return fmt.Sprintf("%d %s", n, what)
}

// parseProfile reads a profile to look at.
func (a *app) parseProfile(file string) (*profile.Profile, error) {
	name, data, err := a.document(file)
	if err != nil {
		return nil, err
	}
	p, err := profile.Parse(name, data)
	if err != nil {
		return nil, a.invalid("the profile cannot be read", err)
	}
	return p, nil
}

// A profilesView is the profiles of this machine and where they were looked for.
type profilesView struct {
	Directories []string        `json:"directories"`
	Profiles    []listedProfile `json:"profiles"`
}

// A listedProfile is one of them. Error says why it is not used, "" if it is.
type listedProfile struct {
	File     string   `json:"file"`
	Gateways []string `json:"gateways"`
	Error    string   `json:"error,omitempty"`
}

func (a *app) profileList() *cobra.Command {
	var root string
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the profiles of this machine, their gateways and where they are looked for",
		Long: `List prints which profiles a command without --profile uses, in the order in which they count, the gateways that they list, and the
directories in which profiles are looked for. A tunnel for the whole machine leaves those of users out.

` + exitHelp,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			v := profilesView{profile.Directories(runtime.GOOS, profile.VPN, a.getenv, root, false), []listedProfile{}}
			all, err := profile.LoadDirectories(v.Directories, false)
			if err != nil {
				return err
			}
			for _, p := range all.Profiles {
				l := listedProfile{File: p.Name(), Gateways: []string{}}
				for _, h := range p.Hosts() {
					l.Gateways = append(l.Gateways, h.Name)
				}
				v.Profiles = append(v.Profiles, l)
			}
			for _, r := range all.Rejected {
				v.Profiles = append(v.Profiles, listedProfile{File: r.Path, Gateways: []string{}, Error: r.Err.Error()})
			}
			if a.json {
				return json.NewEncoder(a.out).Encode(v)
			}
			for _, p := range v.Profiles {
				text := strings.Join(p.Gateways, ", ")
				if p.Error != "" {
					text = "not used: " + p.Error
				}
				fmt.Fprintf(a.out, "%s: %s\n", p.File, cell(text))
			}
			if len(v.Profiles) == 0 {
				fmt.Fprintln(a.out, "There is no profile on this machine.")
			}
			_, err = fmt.Fprintf(a.out, "Looked for in %s.\n", strings.Join(v.Directories, ", "))
			return err
		},
	}
	cmd.Flags().StringVar(&root, "document-root", "", "look for profiles below `DIR`, such as the image of a system")
	return cmd
}

func (a *app) profileShow() *cobra.Command {
	return &cobra.Command{
		Use:   "show FILE...",
		Short: "Show what a profile says",
		Long:  "Show prints what profiles say: settings, rules for client certificates, and gateways, with the lines where they stand.\n\n" + fileHelp,
		Args:  someFiles,
		RunE: func(_ *cobra.Command, args []string) error {
			views := []profile.View{}
			for _, file := range args {
				p, err := a.parseProfile(file)
				if err != nil {
					return err
				}
				views = append(views, p.View())
			}
			if a.json {
				return json.NewEncoder(a.out).Encode(views)
			}
			for _, v := range views {
				if err := printView(a.out, v); err != nil {
					return err
				}
			}
			return nil
		},
	}
}

func printView(w io.Writer, v profile.View) error {
	fmt.Fprintf(w, "%s: %s, %d bytes, SHA-1 %s\n", v.File, v.Encoding.Name, v.Size, v.SHA1)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	if len(v.Settings) > 0 {
		fmt.Fprintln(t, "\nLINE\tSETTING\tVALUE\tUSER MAY CHOOSE")
	}
	for _, s := range v.Settings {
		fmt.Fprintf(t, "%d\t%s\t%s\t%v\n", s.Line, s.Path, cell(s.Value), s.UserControllable)
	}
	if len(v.Hosts) > 0 {
		fmt.Fprintln(t, "\nLINE\tGATEWAY\tADDRESS\tGROUP\tPROTOCOL\tBACKUPS")
	}
	for _, h := range v.Hosts {
		fmt.Fprintf(t, "%d\t%s\t%s\t%s\t%s\t%s\n", h.Line, cell(h.Name), cell(h.Address), cell(h.UserGroup), cell(h.Protocol), cell(strings.Join(h.Backups, ", ")))
	}
	if err := t.Flush(); err != nil {
		return err
	}
	if m := v.CertificateMatch; m != nil {
		fmt.Fprintln(w, "\nClient certificates must have")
		if len(m.KeyUsage) > 0 {
			fmt.Fprintf(w, "  one of the key usages %s\n", oneLine(strings.Join(m.KeyUsage, ", ")))
		}
		if len(m.ExtendedKeyUsage) > 0 {
			fmt.Fprintf(w, "  all extended key usages %s\n", oneLine(strings.Join(m.ExtendedKeyUsage, ", ")))
		}
		for _, n := range m.Names {
			fmt.Fprintf(w, "  %s\n", oneLine(describeRule(n)))
		}
	}
	if n := len(v.Findings); n > 0 {
		fmt.Fprintf(w, "\nThere is something to say about it (%s): see culvert profile lint.\n", count(n, "finding"))
	}
	return nil
}

func describeRule(n profile.NameRule) string {
	verb := map[[2]bool]string{{false, false}: "equal to", {false, true}: "other than", {true, false}: "with", {true, true}: "without"}[[2]bool{n.Substring, n.NotEqual}]
	s := fmt.Sprintf("%s %s %q", n.Name, verb, n.Pattern)
	if n.IgnoreCase {
		s += ", in capital or small letters"
	}
	return s
}

func (a *app) profileEffective() *cobra.Command {
	var chosen, system string
	var changed bool
	cmd := &cobra.Command{
		Use:   "effective [FILE]",
		Short: "Show what each setting finally is, and why",
		Long: `Effective prints what each setting finally is: the default, unless the profile says otherwise, unless the user has chosen
otherwise and the profile lets the user choose. Then it prints the features that need a profile, and whether they are on, and the
settings of the profile that have no effect here, and why. Without FILE it shows what holds without a profile.

` + fileHelp,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 1 {
				return usagef("unexpected argument %q", args[1])
			}
			return nil
		},
		RunE: func(_ *cobra.Command, args []string) error {
			var p *profile.Profile
			var err error
			if len(args) == 1 {
				if p, err = a.parseProfile(args[0]); err != nil {
					return err
				}
			}
			var choices preferences.Pair
			if chosen != "" {
				if _, err := os.Stat(chosen); err != nil {
					return asUsage(fmt.Errorf("--preferences: %w", err))
				}
				if choices.User, err = preferences.Load(chosen, false); err != nil {
					return err
				}
			}
			e := profile.Resolve(p, choices.Control, system)
			if a.json {
				err = json.NewEncoder(a.out).Encode(e)
			} else {
				err = printEffective(a.out, e, changed)
			}
			if err == nil && p != nil && !a.json {
				err = printUnapplied(a.out, p, system)
			}
			if err == nil && p != nil && p.Err() != nil {
				err = a.invalid("the profile is not acted upon", p.Err())
			}
			return err
		},
	}
	f := cmd.Flags()
	f.StringVar(&chosen, "preferences", "", "what the user has chosen is in `FILE`")
	f.StringVar(&system, "system", runtime.GOOS, "show it for the `SYSTEM` windows, darwin or linux")
	f.BoolVar(&changed, "changed", false, "leave out settings that have their default")
	return cmd
}

func printEffective(w io.Writer, e *profile.Effective, changed bool) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "SETTING\tVALUE\tFROM\tLINE\tNOTE")
	for _, v := range e.Values {
		if changed && v.Origin == profile.FromDefault {
			continue
		}
		line := "-"
		if v.Where != nil {
			line = fmt.Sprint(v.Where.Line)
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\n", v.Path, cell(v.Value), v.Origin, line, oneLine(v.Note))
	}
	fmt.Fprintln(t, "\nFEATURE\tSETTING\tON\t\tWHY NOT")
	for _, f := range e.Features {
		fmt.Fprintf(t, "%s\t%s\t%v\t\t%s\n", f.Name, f.Path, f.On, oneLine(f.Why))
	}
	return t.Flush()
}

// printFeatures prints the features that need a profile with their states, for people.
func printFeatures(w io.Writer, features []plan.Feature) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "FEATURE\tSTATE\tVALUE\tWHY")
	for _, f := range features {
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\n", f.Name, f.State, cell(f.Value), oneLine(f.Why))
	}
	return t.Flush()
}

func (a *app) profileNew() *cobra.Command {
	var hosts, backups, sets []string
	var full bool
	var output string
	cmd := &cobra.Command{
		Use:   "new --host NAME=ADDRESS",
		Short: "Write a new profile",
		Long: `New writes a profile with the gateways and settings given, to standard output or a new file.

    culvert profile new --host "Head office=vpn.example.com/staff" --backup "Head office=vpn2.example.com" \
        --set AutomaticVPNPolicy=true --set AutomaticVPNPolicy/TrustedDNSDomains=corp.example -o corp.xml

` + exitHelp,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			o := profile.NewOptions{Name: cmp.Or(output, "profile"), Full: full, Settings: map[string]string{}}
			for _, s := range hosts {
				name, address, ok := strings.Cut(s, "=")
				if !ok {
					return usagef("--host %s: want NAME=ADDRESS or NAME=ADDRESS/GROUP", oneLine(s))
				}
				address, group, _ := strings.Cut(address, "/")
				o.Hosts = append(o.Hosts, profile.Host{Name: name, Address: address, UserGroup: group})
			}
			for _, s := range backups {
				name, address, _ := strings.Cut(s, "=")
				i := slices.IndexFunc(o.Hosts, func(h profile.Host) bool { return h.Name == name })
				if i < 0 || address == "" {
					return usagef("--backup %s: want NAME=ADDRESS with the NAME of a --host", oneLine(s))
				}
				o.Hosts[i].Backups, o.Hosts[i].OwnBackups = append(o.Hosts[i].Backups, address), true
			}
			for _, s := range sets {
				path, value, ok := strings.Cut(s, "=")
				if !ok {
					return usagef("--set %s: want SETTING=VALUE", oneLine(s))
				}
				o.Settings[path] = value
			}
			p, err := profile.New(o)
			if err != nil {
				return asUsage(err)
			}
			if len(hosts) == 0 {
				a.reporter().warn("the profile lists no gateway, so that the user has to type one in; name one with --host NAME=ADDRESS")
			}
			if output == "" {
				_, err = a.out.Write(p.Bytes())
				return err
			}
			if err := writeNew(output, p.Bytes(), 0o644); err != nil {
				return asUsage(fmt.Errorf("--output: %w", err))
			}
			return nil
		},
	}
	f := cmd.Flags()
	f.StringArrayVar(&hosts, "host", nil, "add the gateway `NAME=ADDRESS[/GROUP]`; repeatable")
	f.StringArrayVar(&backups, "backup", nil, "let another gateway stand in for one, as `NAME=ADDRESS`; repeatable")
	f.StringArrayVar(&sets, "set", nil, "give a setting a value, as `SETTING=VALUE` such as AutoReconnect=false; repeatable")
	f.BoolVar(&full, "full", false, "write every setting with its default, and what it does")
	f.StringVarP(&output, "output", "o", "", "write to `FILE`, which must not exist")
	return cmd
}

func (a *app) profileDiff() *cobra.Command {
	return &cobra.Command{
		Use:   "diff OLD NEW",
		Short: "Show the differences in meaning between two profiles",
		Long: `Diff prints what differs in meaning between two profiles: white space, comments and the order of settings do not. The exit
status is 1 if anything does.

` + fileHelp,
		Args: func(cmd *cobra.Command, args []string) error {
			if err := exactArgs("OLD", "NEW")(cmd, args); err != nil {
				return err
			}
			return someFiles(cmd, args)
		},
		RunE: func(_ *cobra.Command, args []string) error {
			old, err := a.parseProfile(args[0])
			if err != nil {
				return err
			}
			other, err := a.parseProfile(args[1])
			if err != nil {
				return err
			}
			changes := profile.Diff(old, other)
			if a.json {
				if changes == nil {
					changes = []profile.Change{}
				}
				err = json.NewEncoder(a.out).Encode(changes)
			} else {
				for _, c := range changes {
					if _, err = fmt.Fprintln(a.out, oneLine(c.String())); err != nil {
						break
					}
				}
			}
			if err == nil && len(changes) > 0 {
				err = errors.New("the profiles differ: " + count(len(changes), "change"))
			}
			return err
		},
	}
}

func (a *app) profileHash() *cobra.Command {
	return &cobra.Command{
		Use:   "hash FILE...",
		Short: "Print the hashes of profiles, as gateways announce them",
		Long:  "Hash prints the SHA-1 and SHA-256 of the very bytes of files, by which gateways and clients tell whether they have the same profile.\n\n" + fileHelp,
		Args:  someFiles,
		RunE: func(_ *cobra.Command, args []string) error {
			type named struct {
				File string `json:"file"`
				profile.Hashes
			}
			all := []named{}
			for _, file := range args {
				name, data, err := a.document(file)
				if err != nil {
					return err
				}
				all = append(all, named{name, profile.Hash(data)})
			}
			if a.json {
				return json.NewEncoder(a.out).Encode(all)
			}
			for _, h := range all {
				if _, err := fmt.Fprintf(a.out, "%s\n  SHA-1   %s\n  SHA-256 %s\n", h.File, h.SHA1, h.SHA256); err != nil {
					return err
				}
			}
			return nil
		},
	}
}
