package selection

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"
)

// What a Selector keeps is what the next one knows, and what is no Cache is as good as none.
func TestCache(t *testing.T) {
	now := epoch.Add(1000 * time.Hour)
	s := NewSelector(Config{}, Cache{}, now)
	s.Measured(now, home, []string{"us", "eu"}, []Sample{{"us", 90, true}, {"eu", 20, true}})
	s.Used("eu")
	s.Ended(now)
	b, err := json.Marshal(s.Cache())
	if err != nil {
		t.Fatal(err)
	}
	c, err := ParseCache(bytes.Replace(b, []byte("{"), []byte(`{"of another version":[1,2],`), 1))
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		row string
		at  time.Time
		in  Location
		how string // measure, or why not
	}{
		{"B.12: less than 4 h", now.Add(time.Hour), office, "less than 4h"},
		{"B.12: cached for the place", now.Add(5 * time.Hour), home, "for this place"},
		{"another place", now.Add(5 * time.Hour), office, "measured"},
	} {
		got := NewSelector(Config{}, c, tt.at).Choose(tt.at, tt.in, []string{"us", "eu"})
		if got.Server != "eu" || got.Measure != (tt.how == "measured") || !strings.Contains(got.Why, tt.how) {
			t.Errorf("%s: %+v", tt.row, got)
		}
	}
	for _, bad := range []string{"", "{", "[]", `{"ended":"yesterday"}`, strings.Repeat(" ", MaxCacheSize) + "{}"} {
		if c, err := ParseCache([]byte(bad)); !errors.Is(err, ErrCache) || c.Current != "" || c.Places != nil {
			t.Errorf("%.20q: %+v, %v", bad, c, err)
		}
	}
}

// Whatever is in the file, what is kept of it is bounded, and reads back as itself.
func FuzzParseCache(f *testing.F) {
	f.Add([]byte(`{"current":"vpn.example.com","ended":"2001-09-09T01:46:40Z","places":[{"location":"0a","server":"vpn.example.com:8443","at":"2001-09-09T01:46:40+02:00"}]}`))
	f.Add([]byte(`{"current":"\u0000","places":[{},{},null]}`))
	f.Add([]byte(`{"ended":"9999-12-31T23:59:59-23:59"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		now := epoch.UTC()
		var last []byte
		for range 2 {
			c, err := ParseCache(b)
			if err != nil {
				if last != nil {
					t.Fatalf("what was written cannot be read: %v", err)
				}
				return
			}
			s := NewSelector(Config{}, c, now)
			if got := s.Choose(now, home, []string{"a", "b"}); got.Server != "a" && got.Server != "b" {
				t.Fatalf("chosen is %q, which is no candidate", got.Server)
			}
			if b, err = json.Marshal(s.Cache()); err != nil {
				t.Fatal(err)
			}
			if len(b) > MaxCacheSize || last != nil && !bytes.Equal(b, last) {
				t.Fatalf("%d bytes, before\n%s\nand then\n%s", len(b), last, b)
			}
			last = b
		}
	})
}
