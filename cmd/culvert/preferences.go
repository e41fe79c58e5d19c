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
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"culvert.example/vpn/policy/plan"
	"culvert.example/vpn/policy/preferences"
	"culvert.example/vpn/policy/profile"
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
				return usagef("VALUE is empty; culvert preferences unset %s takes a choice back", oneLine(args[0]))
			}
			return f.choose(a, args[0], args[1])
		},
	}
	unset := &cobra.Command{
		Use: "unset SETTING", Short: "Take the choice of a setting back", Args: exactArgs("SETTING"), ValidArgsFunction: complete,
		RunE: func(_ *cobra.Command, args []string) error { return f.choose(a, args[0], "") },
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
	if value, ok := p.Documents.Preferences.Control(profile.BlockUntrustedServers); ok {
		block.Value, block.Origin = value, profile.FromPreference
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

// choose writes down what the user has chosen for a setting, or that he has not with the value "". What the profile does not
// leave to him is refused, so that nobody believes in a choice that has no effect; it can always be taken back.
func (f *preferenceFlags) choose(a *app, setting, value string) error {
	meant, err := profile.CheckPreference(setting, value)
	if err != nil && value != "" {
		return asUsage(fmt.Errorf("%s: %w", oneLine(setting), err))
	}
	p, err := f.plan(a)
	if err != nil {
		return err
	}
	if value != "" {
		if err := allowed(p, setting); err != nil {
			return err
		}
	}
	paths := preferences.Paths(runtime.GOOS, a.getenv, f.documents.root)
	file, mode := preferences.First(paths.User), preferences.UserMode
	global := preferences.Global(setting)
	if global {
		file, mode = preferences.First(paths.Global), preferences.GlobalMode
	}
	if file == "" {
		return errors.New("HOME is not set, so there is no file for preferences")
	}
	chosen, err := preferences.Load(file, global && f.documents.root == "")
	if err != nil {
		return fmt.Errorf("%w; mend the file or take it away", err)
	}
	if value == "" {
		meant = ""
	}
	if err := chosen.SetControl(setting, meant); err != nil {
		return err
	}
	if err := chosen.Save(file, mode); err != nil {
		if global && errors.Is(err, fs.ErrPermission) && os.Geteuid() != 0 {
			return fmt.Errorf("%w; the choice is one for the whole machine, so that only root can write it down", err)
		}
		return err
	}
	v, err := f.plan(a)
	if err != nil {
		return err
	}
	for _, c := range f.view(a, v).Choices {
		switch {
		case c.Setting != setting:
		case a.json:
			return json.NewEncoder(a.out).Encode(c)
		case !a.quiet:
			_, err := fmt.Fprintf(a.out, "%s is %s from the next connection on, by the %s (%s)\n", setting, cell(c.Value), c.Origin, file)
			return err
		}
	}
	return nil
}

// allowed returns nil if the user may choose the setting, and else the refusal.
func allowed(p *plan.Plan, setting string) error {
	if setting == profile.BlockUntrustedServers {
		return nil
	}
	for _, v := range p.Effective.Values {
		if path.Base(v.Path) != setting {
			continue
		}
		switch {
		case v.Origin == profile.FromNoProfile:
			return p.Refuse(v.Path, "there is no profile, and without one the feature does not exist")
		case !v.UserControllable:
			return p.Refuse(v.Path, "the profile does not leave it to the user; its UserControllable is not true")
		case !v.Applies:
			return p.Refuse(v.Path, v.Note)
		}
		return nil
	}
	return usagef("%s is no setting", oneLine(strings.TrimSpace(setting)))
}
