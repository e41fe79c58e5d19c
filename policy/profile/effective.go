package profile

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strconv"
	"time"

	"culvert.example/vpn/policy/document"
)

// An Origin is where an effective value comes from.
type Origin string

const (
	// FromDefault: the table, since nothing else says otherwise.
	FromDefault Origin = "default"
	// FromProfile: the profile.
	FromProfile Origin = "profile"
	// FromPreference: the user, whom the profile lets choose.
	FromPreference Origin = "preference"
	// FromNoProfile: the setting belongs to a feature that does not exist without a profile, and there is none.
	FromNoProfile Origin = "no profile"
)

// A Lookup returns the value that the user prefers for the setting with the name, the last one of its path, and whether there
// is one.
type Lookup func(name string) (value string, ok bool)

// A Value is a setting as it finally is.
type Value struct {
	// Path leads to the setting below ClientInitialization.
	Path string `json:"path"`
	// Value is the value.
	Value string `json:"value"`
	// Origin is where the value comes from.
	Origin Origin `json:"origin"`
	// Default is the value of the table, Profile that of the profile, and Preference that of the user; the latter two are nil
	// where there is none.
	Default    string  `json:"default"`
	Profile    *string `json:"profile,omitempty"`
	Preference *string `json:"preference,omitempty"`
	// UserControllable says whether the user may choose.
	UserControllable bool `json:"userControllable"`
	// Active says whether the setting has an effect beside the setting that it is a part of.
	Active bool `json:"active"`
	// Applies says whether the setting has an effect on the system at all.
	Applies bool `json:"applies"`
	// Where is the place in the profile, nil if it is not there.
	Where *document.Position `json:"where,omitempty"`
	// Note says what a person should know about the value, such as why a preference does not count.
	Note string `json:"note,omitempty"`
}

// An Effective is everything that a profile, the defaults and the preferences make together. It does not change.
type Effective struct {
	// Profile is the name of the profile, "" if there is none.
	Profile string `json:"profile,omitempty"`
	// System is the system that it is for, as Go calls it.
	System string `json:"system"`
	// Values are the settings in the order of the table.
	Values []Value `json:"values"`
	// Features are those that need a profile.
	Features []Feature `json:"features"`

	settings Settings
	index    map[string]int
}

// A Feature is one of those that do not exist without a profile.
type Feature struct {
	// Name is the name in the administrator's guide.
	Name string `json:"name"`
	// Path is the setting that switches it.
	Path string `json:"path"`
	// Value is the effective value of that setting.
	Value string `json:"value"`
	// On says whether the feature does anything.
	On bool `json:"on"`
	// Why says why it does not, or cannot on this system.
	Why string `json:"why,omitempty"`
}

// Resolve finds out what each setting is: the default of the table, unless the profile says otherwise, unless the user prefers
// otherwise and the profile lets him. Without a profile (nil) the features that need one are off, whatever the user prefers.
// Preferences may be nil. The system is named as Go names it, such as linux.
//
// Values that the table does not allow do not count, and the Note says so. A profile that has such values is refused by
// [Profile.Err].
func Resolve(p *Profile, preference Lookup, system string) *Effective {
	schema := Schema()
	e := &Effective{System: system, index: map[string]int{}, Values: []Value{}, Features: []Feature{}}
	if p != nil {
		schema, e.Profile = p.schema, p.Name()
	}
	if preference == nil {
		preference = func(string) (string, bool) { return "", false }
	}
	absent := map[string]bool{} // settings of features that are off for want of a profile
	walkSettings(schema, func(path string, row *document.Element) {
		v := Value{Path: path, Value: row.Default, Default: row.Default, Origin: FromDefault, Active: true, Applies: row.Systems.Has(system)}
		v.UserControllable = row.Control == document.ControlOn
		if p != nil {
			v.UserControllable = p.userControllable(path, row)
		}
		parent, inside := e.parent(path)
		if inside {
			outer := e.Values[parent]
			when := schema.Root.Find(settings + "/" + outer.Path).When
			if v.Active = outer.Active && outer.Value == when; !v.Active {
				v.Note = fmt.Sprintf("no effect: %s is %s", last(outer.Path), orNothing(outer.Value))
				if !outer.Active {
					v.Note = outer.Note
				}
			}
		}
		if p == nil && (row.Feature != "" || inside && absent[e.Values[parent].Path]) {
			absent[path] = true
			v.Origin, v.UserControllable = FromNoProfile, false
			if row.Without != "" {
				v.Value = row.Without
			}
		}
		e.fromProfile(&v, p, row)
		e.fromPreference(&v, preference, row)
		if !v.Applies {
			v.Note = fmt.Sprintf("not applicable on %s: it is for %s", system, row.Systems)
		}
		e.index[path] = len(e.Values)
		e.Values = append(e.Values, v)
		if row.Feature != "" {
			e.Features = append(e.Features, featureOf(v, row))
		}
	})
	e.settings = e.fill(schema)
	return e
}

// parent returns the setting around the one with the path.
func (e *Effective) parent(path string) (int, bool) {
	for i := len(path) - 1; i > 0; i-- {
		if path[i] == '/' {
			if n, ok := e.index[path[:i]]; ok {
				return n, true
			}
		}
	}
	return 0, false
}

func orNothing(s string) string {
	if s == "" {
		return "nothing"
	}
	return s
}

func (e *Effective) fromProfile(v *Value, p *Profile, row *document.Element) {
	n := p.node(v.Path)
	if n == nil {
		return
	}
	at, written := n.Position(), n.Value()
	v.Where = &at
	if written == "" && row.Default != "" {
		return
	}
	meant, err := row.Type.Validate(written)
	if err != nil {
		v.Note = fmt.Sprintf("the profile's value does not count: %v", err)
		return
	}
	v.Profile, v.Value, v.Origin = &written, meant, FromProfile
}

func (e *Effective) fromPreference(v *Value, preference Lookup, row *document.Element) {
	if row.Control == document.Fixed {
		return
	}
	preferred, ok := preference(row.Name)
	if !ok {
		return
	}
	v.Preference = &preferred
	switch meant, err := row.Type.Validate(preferred); {
	case v.Origin == FromNoProfile:
		v.Note = "the preference does not count: without a profile the feature does not exist"
	case !v.UserControllable:
		v.Note = "the preference does not count: the profile does not let the user choose"
	case err != nil:
		v.Note = fmt.Sprintf("the preference does not count: %v", err)
	default:
		v.Value, v.Origin = meant, FromPreference
	}
}

// featureOf says whether a feature is on.
func featureOf(v Value, row *document.Element) Feature {
	f := Feature{Name: row.Feature, Path: v.Path, Value: v.Value}
	switch v.Value {
	case "", "false", "Disable", "DoNothing":
	default:
		f.On = v.Active && v.Applies
	}
	switch {
	case f.On:
	case v.Origin == FromNoProfile:
		f.Why = "there is no profile"
	case v.Note != "":
		f.Why = v.Note
	default:
		f.Why = fmt.Sprintf("%s is %s", last(v.Path), orNothing(v.Value))
	}
	return f
}

// Get returns the effective value of a setting by its path, such as AutomaticVPNPolicy/AlwaysOn.
func (e *Effective) Get(path string) (Value, bool) {
	i, ok := e.index[path]
	if !ok {
		return Value{}, false
	}
	return e.Values[i], true
}

// Named returns the effective value of a setting by its own name, the last one of its path.
func (e *Effective) Named(name string) (Value, bool) {
	for _, v := range e.Values {
		if last(v.Path) == name {
			return v, true
		}
	}
	return Value{}, false
}

// Settings returns the effective values by their types. A switch that has no effect beside another one, or on the system, has
// its default, so that whoever acts on the settings need not look further than at one of them.
func (e *Effective) Settings() Settings { return e.settings }

// fill writes the values into a Settings, by the tags of its fields.
func (e *Effective) fill(schema *document.Schema) Settings {
	var s Settings
	out := reflect.ValueOf(&s).Elem()
	for i := range out.NumField() {
		path := out.Type().Field(i).Tag.Get("setting")
		v, ok := e.Get(path)
		if !ok {
			continue
		}
		unit := time.Duration(1)
		if row := schema.Root.Find(settings + "/" + path); row.Type.Unit != 0 {
			unit = row.Type.Unit
		}
		switch field := out.Field(i); field.Interface().(type) {
		case bool:
			value := v.Value
			if v.Origin != FromNoProfile && !(v.Active && v.Applies) {
				value = v.Default
			}
			field.SetBool(value == "true")
		case int:
			field.SetInt(int64(atoi(v.Value)))
		case time.Duration:
			field.SetInt(int64(atoi(v.Value)) * int64(unit))
		case []string:
			field.Set(reflect.ValueOf(list(v.Value)))
		default:
			field.SetString(v.Value)
		}
	}
	return s
}

// atoi returns the number that a checked value stands for, and 0 for an empty one.
func atoi(s string) int {
	n, _ := strconv.Atoi(s)
	return n
}

// MarshalJSON writes the exported fields and the settings by their types.
func (e *Effective) MarshalJSON() ([]byte, error) {
	type plain Effective
	return json.Marshal(struct {
		*plain
		Settings Settings `json:"settings"`
	}{(*plain)(e), e.settings})
}

// CheckPreference returns the value that a preference with the name means, or an error if no setting with that name can be the
// user's to choose, or not with that value.
func CheckPreference(name, value string) (string, error) {
	if name == BlockUntrustedServers {
		return document.Boolean().Validate(value)
	}
	var found *document.Element
	names := []string{BlockUntrustedServers}
	walkSettings(Schema(), func(_ string, e *document.Element) {
		if e.Control == document.Fixed {
			return
		}
		if names = append(names, e.Name); e.Name == name {
			found = e
		}
	})
	if found == nil {
		return "", fmt.Errorf("%q is no setting that a profile can leave to the user%s", name, meant(name, names))
	}
	return found.Type.Validate(value)
}

// meant returns the end of an error about a setting that there is none of, with the one that may be meant.
func meant(name string, names []string) string {
	if near := document.Nearest(name, names); near != "" {
		return "; did you mean " + near + "?"
	}
	return ""
}

// BlockUntrustedServers is the name of the one preference that no profile has a setting for: whether gateways whose certificate
// is not trusted are refused without asking.
const BlockUntrustedServers = "BlockUntrustedServers"
