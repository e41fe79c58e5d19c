package proxysettings

import (
	"errors"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"
)

// TestNew goes from the headers of a gateway to settings: B.6, and D148 and D149 for lockdown.
func TestNew(t *testing.T) {
	for _, tt := range []struct {
		name, method, server, pac string
		except                    []string
		lockdown                  bool
		want                      Config
		err                       string
	}{
		{name: "nothing"},
		{name: "lockdown alone (D148)", lockdown: true, want: Config{Lockdown: true}},
		{name: "no-modify", method: "no-modify", server: "p:1", want: Config{}},
		{name: "no-proxy", method: "NO_PROXY", want: Config{Method: None}},
		{name: "auto-detect", method: "auto-detect", pac: "file:///etc/passwd", want: Config{Method: Auto}},
		{name: "PAC (D149)", pac: "http://wpad.corp/x.pac", want: Config{Method: Auto, PAC: "http://wpad.corp/x.pac", Lockdown: true}},
		{name: "PAC by method", method: "use-pac-url", server: "p:1", pac: "https://[2001:db8::1]:8/x", want: Config{Method: Auto, PAC: "https://[2001:db8::1]:8/x", Lockdown: true}},
		{name: "server (D149)", server: "p:3128", want: Config{Method: Manual, HTTP: "p:3128", HTTPS: "p:3128", Lockdown: true}},
		{name: "server without a port", method: "use-server", server: "10.1.2.3", want: Config{Method: Manual, HTTP: "10.1.2.3:80", HTTPS: "10.1.2.3:80", Lockdown: true}},
		{name: "servers", server: "http=a:1;https=b:2;socks=[::1]:3;ftp=c:4", want: Config{Method: Manual, HTTP: "a:1", HTTPS: "b:2", SOCKS: "[::1]:3", Lockdown: true}},
		{name: "exceptions", server: "p:1", except: []string{"*.Corp.example", ".corp.example", "10.*", "192.168.*.*", "<local>", "fd00::/8", "host", "1.2.3.4", ""},
			want: Config{Method: Manual, HTTP: "p:1", HTTPS: "p:1", Short: true, Lockdown: true, Exceptions: []string{"*.corp.example", "10.0.0.0/8", "192.168.0.0/16", "fd00::/8", "host", "1.2.3.4"}}},
		{name: "method of the future", method: "magic\n", err: "Method"},
		{name: "no server", method: "use-server", err: "Server"},
		{name: "no PAC", method: "use-pac-url", err: "PAC-URL"},
		{name: "file", pac: "file:///etc/passwd", err: "PAC-URL"},
		{name: "script", pac: "javascript://x/%0aalert(1)", err: "PAC-URL"},
		{name: "user", pac: "http://u:p@h/x", err: "PAC-URL"},
		{name: "quote", pac: "http://h/'; rm -rf", err: "PAC-URL"},
		{name: "long", pac: "http://h/" + strings.Repeat("x", 3000), err: "PAC-URL"},
		{name: "bad server", server: "p|rm:1", err: "Server"},
		{name: "option", server: "-x:1", err: "Server"},
		{name: "bad port", server: "p:0", err: "Server"},
		{name: "no host", server: ";", err: "Server"},
		{name: "bad protocol", server: "x=p:1", err: "Server"},
		{name: "bad exception", server: "p:1", except: []string{"a'b"}, err: "Exception"},
		{name: "exceptions without end", server: "p:1", except: slices.Repeat([]string{"a"}, 513), err: "Exception"},
	} {
		got, err := New(tt.method, tt.server, tt.pac, tt.except, tt.lockdown)
		if tt.err != "" {
			if !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), tt.err) {
				t.Errorf("%s: error %v, want %s", tt.name, err, tt.err)
			}
			continue
		}
		if err != nil || !reflect.DeepEqual(got, tt.want) {
			t.Errorf("%s: %+v, %v", tt.name, got, err)
		}
		if err := got.check(); err != nil {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
}

// FuzzNew takes whatever a gateway says; what comes out can be applied.
func FuzzNew(f *testing.F) {
	f.Add("use-server", "http=a:1;b:2", "http://h/x.pac", "10.*,<local>,*.corp")
	f.Fuzz(func(t *testing.T, method, server, pac, except string) {
		c, err := New(method, server, pac, strings.Split(except, ","), true)
		if err != nil {
			return
		}
		if err := c.check(); err != nil {
			t.Errorf("%+v: %v", c, err)
		}
		for _, p := range []func(Config) (Plan, error){
			func(c Config) (Plan, error) { return MacPlan(c, "utun3") },
			func(c Config) (Plan, error) { return WindowsPlan(c, WindowsState{Build: 19045}) },
		} {
			if _, err := p(c); err != nil {
				t.Errorf("%+v: %v", c, err)
			}
		}
	})
}

// TestDatabase writes a database and reads it again.
func TestDatabase(t *testing.T) {
	d := database{values: Config{Method: Manual, HTTP: "p:1", HTTPS: "p:2", Exceptions: []string{"*.corp", "10.0.0.0/8"}}.keys(), locks: map[string]bool{directory + "mode": true}}
	b := d.bytes()
	got, err := parseDatabase(b, directory)
	if err != nil || !reflect.DeepEqual(got, d) {
		t.Errorf("%v, %v\nwant %v", got, err, d)
	}
	if !got.locked(directory+"mode") || got.locked(directory+"http/host") {
		t.Error("locks are wrong")
	}
	if list := got.values[directory+"ignore-hosts"].list(); !slices.Equal(list, []string{"localhost", "127.0.0.0/8", "::1", "*.corp", "10.0.0.0/8"}) {
		t.Errorf("the exceptions are %q", list)
	}
	for i := range b {
		parseDatabase(b[:i], directory)
	}
	if _, err := parseDatabase([]byte("GVariant but nothing else in here"), directory); err == nil {
		t.Error("nonsense is taken")
	}
	many := make([]string, 400)
	for i := range many {
		many[i] = strings.Repeat("x", i)
	}
	if got := variantStrings(many).list(); !slices.Equal(got, many) {
		t.Error("a long list does not come back")
	}
}

// FuzzDatabase reads any file, and any variant in it.
func FuzzDatabase(f *testing.F) {
	f.Add(database{values: Config{Method: Manual, HTTP: "p:1", Exceptions: []string{"*.corp"}}.keys(), locks: map[string]bool{directory: true}}.bytes())
	f.Fuzz(func(t *testing.T, b []byte) {
		d, err := parseDatabase(b, directory)
		if err != nil {
			return
		}
		for key, v := range d.values {
			v.text()
			v.number()
			v.list()
			d.locked(key)
		}
		again, err := parseDatabase(d.bytes(), directory)
		if err != nil || !maps.EqualFunc(again.values, d.values, func(a, b variant) bool { return slices.Equal(a, b) }) {
			t.Errorf("%v is read as %v, %v", d, again, err)
		}
	})
}

// FuzzRecord reads any undo record.
func FuzzRecord(f *testing.F) {
	f.Add([]byte(`{"version":1,"lock":{"file":"/etc/dconf/db/culvert","sum":"00"}}`))
	f.Add([]byte(`{"version":1,"keys":{"session":{"uid":0,"gid":0,"bus":"unix:path=/x","config":"/x"},"database":"user","before":{"/system/proxy/mode":null},"set":{"/system/proxy/mode":"AA=="}}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		if r, err := decode(b); err == nil {
			if r.Keys != nil {
				change(r.Keys.Set)
			}
		}
	})
}
