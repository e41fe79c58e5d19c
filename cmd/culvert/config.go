package main

import (
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"strings"

	"github.com/BurntSushi/toml"
	"github.com/spf13/pflag"
)

// maxConfig bounds a configuration file, in bytes.
const maxConfig = 1 << 20

// addConfig adds --config.
func (a *app) addConfig(flags *pflag.FlagSet) {
	flags.StringVar(&a.config, "config", "", "read flags from this TOML `FILE`; each key is the long name of a flag, and flags given on the command line win")
}

// notInFile are the flags that make no sense in a file.
var notInFile = []string{"config", "help", "version"}

// loadConfig sets the flags that --config gives and the command line does not.
func (a *app) loadConfig(flags *pflag.FlagSet) error {
	if a.config == "" {
		return nil
	}
	values, err := readTOML(a.config)
	if err != nil {
		return &usageError{err: err}
	}
	a.inFile = make(map[string]bool, len(values))
	keys := make([]string, 0, len(values))
	for k := range values {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	for _, key := range keys {
		f := flags.Lookup(key)
		if f == nil || slices.Contains(notInFile, key) {
			return usagef("%s: unknown key %q%s", a.config, key, suggest(flags, key))
		}
		if f.Changed {
			continue
		}
		if err := setFlag(f, values[key]); err != nil {
			return usagef("%s: %s: %w", a.config, key, err)
		}
		a.inFile[key] = true
		if f.Annotations[secretFlag] != nil {
			a.checkPrivate(a.config, key)
		}
	}
	return nil
}

// fromFile reports whether a flag was set by the configuration file.
func (a *app) fromFile(name string) bool { return a.inFile[name] }

// said tells where a flag was given.
func (a *app) said(name string) string {
	if a.fromFile(name) {
		return "configuration file " + a.config
	}
	return "command line"
}

func readTOML(file string) (map[string]any, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxConfig+1))
	if err != nil {
		return nil, err
	}
	if len(b) > maxConfig {
		return nil, fmt.Errorf("%s: larger than %d bytes", file, maxConfig)
	}
	var values map[string]any
	if _, err := toml.Decode(string(b), &values); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return values, nil
}

// setFlag gives a flag the value that a TOML file has for it.
func setFlag(f *pflag.Flag, value any) error {
	list, many := f.Value.(pflag.SliceValue)
	switch v := value.(type) {
	case []any:
		if !many {
			return fmt.Errorf("takes one value, not a list")
		}
		var all []string
		for _, e := range v {
			s, err := scalar(e)
			if err != nil {
				return err
			}
			all = append(all, s)
		}
		return list.Replace(all)
	default:
		s, err := scalar(v)
		if err != nil {
			return err
		}
		if _, isBool := v.(bool); isBool != (f.Value.Type() == "bool") {
			return fmt.Errorf("want %s, not %v", kindOf(f), v)
		}
		if many {
			return list.Replace([]string{s})
		}
		return f.Value.Set(s)
	}
}

func kindOf(f *pflag.Flag) string {
	if f.Value.Type() == "bool" {
		return "true or false"
	}
	return "a value"
}

// scalar returns what one would write on the command line for a TOML value.
func scalar(v any) (string, error) {
	switch v := v.(type) {
	case string:
		return v, nil
	case bool, int64, float64:
		return fmt.Sprint(v), nil
	}
	return "", fmt.Errorf("takes a string, a number or a list of them")
}

// suggest names the flag that was probably meant.
func suggest(flags *pflag.FlagSet, key string) string {
	norm := func(s string) string {
		return strings.ReplaceAll(strings.ReplaceAll(strings.ToLower(s), "_", "-"), "-", "")
	}
	var found string
	flags.VisitAll(func(f *pflag.Flag) {
		n, k := norm(f.Name), norm(key)
		if !f.Hidden && (n == k || n+"s" == k || strings.TrimSuffix(n, "s") == k || strings.HasPrefix(n, k) && len(k) > 3) {
			found = f.Name
		}
	})
	if found == "" {
		return ""
	}
	return fmt.Sprintf("; did you mean %q?", found)
}

// secretFlag marks flags whose values are secrets.
const secretFlag = "secret"

// markSecret marks a flag as holding a secret.
func markSecret(flags *pflag.FlagSet, name string) {
	flags.SetAnnotation(name, secretFlag, []string{"true"})
}

// checkPrivate warns of a file with secrets that others may read.
func (a *app) checkPrivate(file, what string) {
	if runtime.GOOS == "windows" {
		return
	}
	if fi, err := os.Stat(file); err == nil && fi.Mode().Perm()&0o077 != 0 {
		a.reporter().warn("%s holds a secret (%s) and others may read it: chmod 600 %s", file, what, file)
	}
}
