package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"runtime"
	"strconv"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"culvert.example/vpn/policy/document"
	"culvert.example/vpn/policy/plan"
	"culvert.example/vpn/policy/preferences"
	"culvert.example/vpn/policy/profile"
	"culvert.example/vpn/transport/upstream"
)

// preferenceFlags are those of the preferences commands.
type preferenceFlags struct {
	documents documentFlags
	gateway   string
}

// plan reads the documents of a tunnel for the whole machine, and those of the user beside them, and shows what they say even if
// they refuse a tunnel.
func (f *preferenceFlags) plan(a *app) (*plan.Plan, error) {
	docs, err := a.readDocuments(&f.documents)
	if err != nil {
		return nil, err
	}
	p, err := plan.New(listedName(docs.Profiles, f.gateway), docs, plan.Environment{
		System: runtime.GOOS, WholeMachine: true, FIPS: true, Unavailable: unavailable(true),
	})
	if p == nil {
		return nil, err
	}
	if hosts := docs.Profiles.Hosts(); f.gateway != "" && !p.Listed && len(hosts) > 0 {
		return nil, usagef("--gateway: no profile lists %s; culvert profile show tells which gateways there are", oneLine(f.gateway))
	}
	return p, nil
}

func (a *app) preferences() *cobra.Command {
	var f preferenceFlags
	cmd := &cobra.Command{
		Use:   "preferences",
		Short: "Show and change the settings that the profile leaves to the user",
		Long: `Preferences lists the settings that the profile of this machine leaves to the user, what each is and by what. They are written to
the file of the user, or to the global one if they matter before anybody has logged on, and count from the next connection on.
They are those of the user who runs the command: for a tunnel that sudo brings up, choose with sudo too.

    culvert preferences set LocalLanAccess true
    culvert preferences unset LocalLanAccess

` + exitHelp,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			p, err := f.plan(a)
			if err != nil {
				return err
			}
			v := f.view(a, p)
			if a.json {
				return json.NewEncoder(a.out).Encode(v)
			}
			return v.print(a.out)
		},
	}
	f.documents.add(cmd.PersistentFlags())
	cmd.PersistentFlags().StringVar(&f.gateway, "gateway", "", "the profile that lists the gateway `NAME` counts, if there are several")
	complete := func(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		names := []string{profile.BlockUntrustedServers}
		if p, err := f.plan(&app{in: a.in, out: io.Discard, err: io.Discard, getenv: a.getenv}); err == nil {
			for _, v := range p.Choices() {
				names = append(names, path.Base(v.Path))
			}
		}
		return names, cobra.ShellCompDirectiveNoFileComp
	}
	set := &cobra.Command{
		Use: "set SETTING VALUE", Short: "Choose the value of a setting", Args: exactArgs("SETTING", "VALUE"), ValidArgsFunction: complete,
		RunE: func(_ *cobra.Command, args []string) error {
			if args[1] == "" {
				return usagef("VALUE is empty; a choice is taken back by: culvert preferences unset %s", oneLine(args[0]))
			}
			return f.choose(a, args[0], args[1])
		},
	}
	unset := &cobra.Command{
		Use: "unset SETTING", Short: "Take the choice of a setting back", Args: exactArgs("SETTING"), ValidArgsFunction: complete,
		RunE: func(_ *cobra.Command, args []string) error { return f.takeBack(a, args[0]) },
	}
	cmd.AddCommand(set, unset)
	return cmd
}

// A preferencesView is what may be chosen and what has been used last, with the files that hold it.
type preferencesView struct {
	File       string           `json:"file,omitempty"`
	GlobalFile string           `json:"globalFile,omitempty"`
	Profile    string           `json:"profile,omitempty"`
	Choices    []choice         `json:"choices"`
	Last       preferences.Last `json:"last"`
}

// A choice is a setting that the user may choose.
type choice struct {
	Setting string         `json:"setting"`
	Value   string         `json:"value"`
	Origin  profile.Origin `json:"origin"`
	// Note says why the setting or the choice has no effect, "" if it has.
	Note string `json:"note,omitempty"`
}

func (f *preferenceFlags) view(a *app, p *plan.Plan) preferencesView {
	files := preferences.Paths(runtime.GOOS, a.getenv, f.documents.root)
	v := preferencesView{File: preferences.First(files.User), GlobalFile: preferences.First(files.Global), Choices: []choice{}}
	if p.Profile != nil {
		v.Profile = p.Profile.Name()
	}
	for _, s := range p.Choices() {
		v.Choices = append(v.Choices, choice{Setting: path.Base(s.Path), Value: s.Value, Origin: s.Origin, Note: s.Note})
	}
	block := choice{Setting: profile.BlockUntrustedServers, Value: "false", Origin: profile.FromDefault}
	if _, ok := p.Documents.Preferences.Control(profile.BlockUntrustedServers); ok {
		block.Value, block.Origin = strconv.FormatBool(p.BlocksUntrusted()), profile.FromPreference
	}
	v.Choices = append(v.Choices, block)
	if user := p.Documents.Preferences.User; user != nil {
		v.Last = user.Last()
	}
	return v
}

// print prints the view for people.
func (v *preferencesView) print(w io.Writer) error {
	if v.Profile == "" {
		fmt.Fprintln(w, "There is no profile on this machine, so the settings of one have their defaults.")
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "SETTING\tVALUE\tFROM\tNOTE")
	for _, c := range v.Choices {
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\n", c.Setting, cell(c.Value), c.Origin, oneLine(c.Note))
	}
	if err := t.Flush(); err != nil {
		return err
	}
	for _, used := range [][2]string{{"gateway", v.Last.HostName}, {"address", v.Last.HostAddress}, {"group", v.Last.Group}, {"user", v.Last.User}} {
		if used[1] != "" {
			fmt.Fprintf(w, "The %s used last is %s.\n", used[0], oneLine(used[1]))
		}
	}
	_, err := fmt.Fprintf(w, "Choices are kept in %s, those from before the logon in %s.\n", cell(v.File), cell(v.GlobalFile))
	return err
}

// choose writes down what the user has chosen for a setting. What the profile does not leave to him is refused, so that nobody
// believes in a choice that has no effect.
func (f *preferenceFlags) choose(a *app, setting, value string) error {
	meant, err := profile.CheckPreference(setting, value)
	if err == nil && setting == "PublicProxyServerAddress" {
		_, err = upstream.Parse(value)
	}
	if err != nil {
		return asUsage(fmt.Errorf("%s: %w", oneLine(setting), err))
	}
	p, err := f.plan(a)
	if err != nil {
		return err
	}
	if err := allowed(p, setting); err != nil {
		return err
	}
	file, err := f.file(a, preferences.Global(setting))
	if err != nil {
		return err
	}
	if err := f.write(file, preferences.Global(setting), setting, meant); err != nil {
		return err
	}
	return f.tell(a, setting, "by your choice in "+file)
}

// takeBack takes the choice of a setting out of the files that have it, whether or not it still counts.
func (f *preferenceFlags) takeBack(a *app, setting string) error {
	var from []string
	for _, global := range []bool{false, true} {
		file, err := f.file(a, global)
		if err != nil {
			continue // and so nothing can have been written there
		}
		p, err := preferences.Load(file, false)
		if err != nil {
			return fmt.Errorf("%w; mend the file or take it away", err)
		}
		if _, chosen := p.Control(setting); !chosen {
			continue
		}
		if err := f.write(file, global, setting, ""); err != nil {
			return err
		}
		from = append(from, file)
	}
	if len(from) > 0 {
		return f.tell(a, setting, "the choice is out of "+strings.Join(from, " and "))
	}
	// A slip of the pen is not to look like success.
	if _, known := profile.Resolve(nil, nil, runtime.GOOS).Named(setting); !known && setting != profile.BlockUntrustedServers {
		return usagef("%s is no setting, and nothing is chosen for it", oneLine(setting))
	}
	return f.tell(a, setting, "nothing was chosen for it")
}

// file returns the file for choices of the user or of the machine.
func (f *preferenceFlags) file(a *app, global bool) (string, error) {
	paths := preferences.Paths(runtime.GOOS, a.getenv, f.documents.root)
	file := preferences.First(paths.User)
	if global {
		file = preferences.First(paths.Global)
	}
	if file == "" {
		return "", errors.New("HOME is not set, so there is no file for preferences")
	}
	return file, nil
}

// write writes a choice into a file.
func (f *preferenceFlags) write(file string, global bool, setting, value string) error {
	mode := preferences.UserMode
	if global {
		mode = preferences.GlobalMode
	}
	err := preferences.Edit(file, mode, global && f.documents.root == "", func(p *preferences.Preferences) error { return p.SetControl(setting, value) })
	switch {
	case errors.Is(err, fs.ErrPermission) && global && os.Geteuid() != 0:
		return fmt.Errorf("%w; the choice is one for the whole machine, so that only root can change it", err)
	case document.Has(err, document.RuleMalformed) || document.Has(err, document.RuleRoot):
		return fmt.Errorf("%w; mend the file or take it away", err)
	}
	return err
}

// tell tells what a setting is now, and why.
func (f *preferenceFlags) tell(a *app, setting, why string) error {
	p, err := f.plan(a)
	if err != nil {
		return err
	}
	for _, c := range f.view(a, p).Choices {
		switch {
		case c.Setting != setting:
		case a.json:
			return json.NewEncoder(a.out).Encode(c)
		case a.quiet:
			return nil
		case c.Note != "":
			_, err := fmt.Fprintf(a.out, "%s is %s, but: %s (%s)\n", setting, cell(c.Value), oneLine(c.Note), oneLine(why))
			return err
		default:
			_, err := fmt.Fprintf(a.out, "%s is %s from the next connection on (%s)\n", setting, cell(c.Value), oneLine(why))
			return err
		}
	}
	if a.json {
		return json.NewEncoder(a.out).Encode(choice{Setting: setting, Note: "the profile does not leave it to the user"})
	}
	if !a.quiet {
		_, err = fmt.Fprintf(a.out, "%s is not the user's to choose (%s)\n", setting, oneLine(why))
	}
	return err
}

// allowed returns nil if the user may choose the setting, and else the refusal.
func allowed(p *plan.Plan, setting string) error {
	if setting == profile.BlockUntrustedServers {
		return nil
	}
	switch v, ok := p.Effective.Named(setting); {
	case !ok:
		return usagef("%s is no setting", oneLine(setting))
	case v.Origin == profile.FromNoProfile:
		return p.Refuse(v.Path, "there is no profile, and without one the feature does not exist")
	case !v.UserControllable:
		return p.Refuse(v.Path, "the profile does not leave it to the user; its UserControllable is not true")
	case !v.Applies:
		return p.Refuse(v.Path, v.Note)
	}
	return nil
}
