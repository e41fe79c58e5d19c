package document

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// tasting is a small kind of document with everything that a table can say.
func tasting() *Schema {
	text := func(name string) *Element { return &Element{Name: name, Systems: Everywhere, Effect: "A text."} }
	return &Schema{
		Title: "AnyConnect tasting", About: "For tests.", Namespace: "urn:tasting",
		Root: &Element{
			Name: "Tasting", Content: Group, Order: Sequence, Systems: Everywhere, Effect: "All.",
			Children: []*Element{
				{Name: "Settings", Content: Group, Systems: Everywhere, Effect: "Settings.", Children: []*Element{
					{Name: "Loud", Type: Boolean(), Default: "false", Control: ControlOn, Systems: Linux, Effect: "Is loud.", Content: Mixed, When: "true",
						Children: []*Element{{Name: "Volume", Type: Integer("Volume", 1, 11), Default: "5", Systems: Linux, Effect: "How loud."}}},
					{Name: "Kind", Type: Enumeration("Kinds", "Red", "White"), Systems: Desktop, Effect: "Which kind."},
				}},
				{Name: "List", Content: Group, Order: Sequence, Systems: Everywhere, Effect: "Wines.", Unique: "Name", Children: []*Element{
					{Name: "Wine", Content: Group, Order: Sequence, Max: -1, Systems: Everywhere, Effect: "A wine.", Children: []*Element{
						text("Name"), text("Year"), text("Note"),
					}},
				}},
				{Name: "Free", Content: Open, Systems: Everywhere, Effect: "Anything."},
			},
		},
	}
}

func parse(t testing.TB, s string) *Document {
	t.Helper()
	d, err := Parse("test.xml", []byte(s))
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestFaults(t *testing.T) {
	deep := strings.Repeat("<a>", MaxDepth+1) + strings.Repeat("</a>", MaxDepth+1)
	for _, tt := range []struct {
		name, text, want string // want is the beginning of the findings, one after the other
	}{
		{"empty", "", "1:1: the document has no element"},
		{"only white space", " \n\n", "3:1: the document has no element"},
		{"no element", "text", "1:1: text stands outside"},
		{"two roots", "<a/><b/>", "1:5: <b> is a second outermost element"},
		{"unquoted", "<a b=c/>", `1:6: the value of the attribute b is not in quotation marks`},
		{"unquoted to the end", "<a b=c", `1:1: the tag <a does not end 1:1: <a> is not closed before the end of the document 1:6: the value of the attribute b is not in quotation marks`},
		{"no value", "<a b></a>", "1:4: the attribute b has no value"},
		{"no value at the end", "<a b=", "1:1: the tag <a does not end"},
		{"an empty value", "<a b=></a>", "1:4: the attribute b has no value"},
		{"value without end", "<a b='c></a>", "1:1: the tag <a does not end 1:1: <a> is not closed before the end of the document 1:4: the value of the attribute b does not end"},
		{"twice", "<a b='1' b='2'/>", "1:10: <a> has the attribute b twice"},
		{"no space", "<a b='1'c='2'/>", "1:9: white space is missing"},
		{"less in a value", "<a b='<'/>", "1:7: < stands in the value"},
		{"ampersand", "<a>a & b</a>", "1:6: & begins no reference"},
		{"ampersand at the end", "<a>&</a>", "1:4: & begins no reference"},
		{"entity", "<a>&nbsp;</a>", "1:4: the entity &nbsp; is not known"},
		{"reference to nothing", "<a>&#0;&#xffff;&#xD800;&#1114112;&#x;&#;</a>", "1:4: &#0; stands for no character"},
		{"huge reference", "<a>&#x10000000041;</a>", "1:4: &#x10000000041; stands for no character"},
		{"control character", "<a>\x01</a>", "1:4: XML does not allow the character U+0001"},
		{"not closed", "<a>\n<b>\n</a>", "2:1: <b> is not closed before </a> in line 3"},
		{"never closed", "<a>\n<b>", "1:1: <a> is not closed before the end of the document 2:1: <b> is not closed before the end of the document"},
		{"wrong end", "<aaa></bbb></aaa>", "1:6: </bbb> closes nothing"},
		{"slip of the pen", "<Address></Adress>", "1:10: </Adress> closes <Address>"},
		{"too many ends", "<a></a></a>", "1:8: </a> closes nothing"},
		{"end without end", "<a></a", "1:4: the tag </a does not end"},
		{"junk in an end", "<a></a b='1'>", "1:4: the tag </a does not end"},
		{"comment without end", "<a/><!-- ", "1:5: the comment does not end"},
		{"hyphens in a comment", "<a><!-- - -- - --></a>", "1:11: -- stands in a comment"},
		{"cdata without end", "<a><![CDATA[ </a>", "1:1: <a> is not closed before the end of the document 1:4: the section <![CDATA[ does not end"},
		{"cdata outside", "<a/><![CDATA[x]]>", "1:5: text stands outside"},
		{"end of cdata in text", "<a>]]></a>", "1:4: ]]> stands in text"},
		{"instruction without end", "<a/><?p ", "1:5: the instruction <?p does not end"},
		{"instruction without name", "<a/><? p?>", "1:5: <? must be followed by a name"},
		{"late declaration", "\n<?xml version='1.0'?><a/>", "2:1: the declaration <?xml must be the very first thing"},
		{"capital declaration", "<a/><?XML version='1.0'?>", "1:5: the declaration must be written <?xml"},
		{"XML 1.1", "<?xml version='1.1'?><a/>", "1:1: XML 1.1 is not read"},
		{"no version", "<?xml encoding='UTF-8'?><a/>", "1:1: the XML declaration does not begin with the version"},
		{"standalone", "<?xml version='1.0' standalone='maybe'?><a/>", "1:1: standalone is neither"},
		{"something else", "<?xml version='1.0' foo='maybe'?><a/>", `1:1: the XML declaration has no "foo"`},
		{"declaration", "<a><!ELEMENT a></a>", "1:4: a declaration has no place here"},
		{"prefix", "<x:a y:b='1'/>", "1:1: the prefix x: stands for no namespace 1:6: the prefix y:"},
		{"less than", "<a>1 < 2</a>", "1:6: < begins no element"},
		{"junk in a tag", "<a \"/>", `1:4: '"' has no place in the tag <a>`},
		{"doctype", "<!DOCTYPE a><a/>", "1:1: the document has a document type declaration"},
		{"small doctype", "<a/><!doctype a>", "1:5: the document has a document type declaration"},
		{"deep", deep, "1:193: elements are nested deeper than 64"},
		{"long name", "<" + strings.Repeat("n", 300) + "/>", "1:1: a name has 300 bytes"},
		{"many attributes", "<a" + manyAttributes(65) + "/>", "1:2404: <a> has more than 64 attributes"},
		{"many elements", "<a>" + strings.Repeat("<b/>", maxElements) + "</a>", "1:200000: the document has more than 50000 elements"},
		{"columns are characters", "<a>äöü&</a>", "1:7: & begins no reference"},
		{"UTF-16 cut off", "\xff\xfe<\x00a", "1:2: the document is in UTF-16 and ends in the middle"},
		{"half a character", "\xff\xfe<\x00\x00\xd8a\x00", "1:2: 0xd800 is half of a character"},
		{"not UTF-8", "<a>\n\xff</a>", "2:1: byte 0xff is not UTF-8"},
		{"not UTF-8 after a BOM", "\xef\xbb\xbf<a>\xff</a>", "1:4: byte 0xff is not UTF-8"},
		{"not ASCII", "<?xml version='1.0' encoding='us-ascii'?><a>ä</a>", "1:45: byte 0xc3 is not US-ASCII"},
		{"says UTF-16", "<?xml version='1.0' encoding='utf-16'?><a/>", "1:1: the document says that it is in utf-16, but its bytes are not"},
		{"says Latin-1 in UTF-16", "\xff\xfe" + utf16le("<?xml version='1.0' encoding='latin1'?><a/>"), "1:1: the document says that it is in ISO-8859-1, but it is in UTF-16"},
		{"says something else in UTF-16", "\xff\xfe" + utf16le("<?xml version='1.0' encoding='x'?><a/>"), `1:1: the encoding "x" is not read`},
		{"unknown encoding", "<?xml version='1.0' encoding='klingon'?><a/>", `1:1: the encoding "klingon" is not read`},
		{"UTF-32", "\xff\xfe\x00\x00<\x00\x00\x00", "1:1: the document is in UTF-32"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := Parse("", []byte(tt.text))
			var invalid *InvalidError
			if !errors.As(err, &invalid) {
				t.Fatalf("Parse: %v", err)
			}
			var all []string
			for _, f := range invalid.Findings {
				all = append(all, f.Position.String()+": "+f.Message)
				if f.Severity != SeverityError || f.Message == "" {
					t.Errorf("%+v", f)
				}
			}
			got, want := strings.Join(all, " "), tt.want
			if !strings.HasPrefix(got, want) {
				t.Errorf("found %s\nwant  %s", got, want)
			}
		})
	}
}

func manyAttributes(n int) string {
	var b strings.Builder
	for i := range n {
		b.WriteString(" a" + strings.Repeat("x", i) + "='1'")
	}
	return b.String()
}

func utf16le(s string) string {
	var b strings.Builder
	for _, c := range []byte(s) {
		b.WriteByte(c)
		b.WriteByte(0)
	}
	return b.String()
}

// TestTooLarge: 100 MB are refused before anything is done with them.
func TestTooLarge(t *testing.T) {
	start := time.Now()
	d, err := Parse("", make([]byte, 100<<20))
	if d != nil || !Has(err, RuleTooLarge) {
		t.Errorf("Parse: %v, %v", d, err)
	}
	if took := time.Since(start); took > 10*time.Second {
		t.Errorf("that took %v", took)
	}
	path := filepath.Join(t.TempDir(), "large.xml")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, 100<<20); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadFile(path, false); !errors.Is(err, ErrTooLarge) || !strings.Contains(err.Error(), "104857600") {
		t.Errorf("ReadFile: %v", err)
	}
}

// TestCostly: documents that are as large as may be, made to be expensive, are still read and checked soon.
func TestCostly(t *testing.T) {
	n := MaxSize / 16
	for name, text := range map[string]string{
		"faults in one line":   "<Tasting>" + strings.Repeat("&", MaxSize-100) + "</Tasting>",
		"unknown elements":     "<Tasting xmlns='urn:tasting'>" + strings.Repeat("<Settigns/>", maxElements-1) + "</Tasting>",
		"ends":                 "<Tasting>" + strings.Repeat("</Tastign>", n),
		"open elements":        strings.Repeat(strings.Repeat("<a>", 50)+"</a>", 900),
		"unclosed in pairs":    "<r>" + strings.Repeat("<a><b></a>", 24000) + "</r>",
		"duplicates":           "<Tasting xmlns='urn:tasting'><List>" + strings.Repeat("<Wine><Name>x</Name><Name>y</Name></Wine>", 16000) + "</List></Tasting>",
		"many prefixes":        "<r>" + strings.Repeat("<p:a>", 30) + strings.Repeat("<q:b/>", 40000) + strings.Repeat("</p:a>", 30) + "</r>",
		"comments":             "<r>" + strings.Repeat("<!---->", MaxSize/8) + "</r>",
		"runs in one element":  "<r>" + strings.Repeat("x<!---->", MaxSize/9) + "</r>",
		"references":           "<r>" + strings.Repeat("&amp;", MaxSize/6) + "</r>",
		"brackets":             strings.Repeat("<", MaxSize-10),
		"comments without end": strings.Repeat("<!--", MaxSize/5),
		"encodings":            "\xff\xfe" + utf16le("<?xml version='1.0'"+strings.Repeat(" encoding='utf-8'", MaxSize/40)+"?><Tasting xmlns='urn:tasting'/>"),
		"unknown names":        "<Tasting xmlns='urn:tasting'>" + numbered(maxElements-1, "<Wein%06x/>") + "</Tasting>",
		"elements in one line": "<Tasting xmlns='urn:tasting'><Note>" + strings.Repeat("ä", MaxSize/4) + "</Note>" + strings.Repeat("<Settigns/>", maxElements-2) + "</Tasting>",
	} {
		t.Run(name, func(t *testing.T) {
			start := time.Now()
			d, _ := Parse("", []byte(text))
			if d != nil {
				tasting().Lint(d)
				d.Root().Value()
				for _, n := range d.Root().Children {
					n.Position()
				}
			}
			// What grows with the square of the size takes minutes; a busy machine under the detector of races takes seconds.
			if took := time.Since(start); took > 20*time.Second {
				t.Errorf("that took %v", took)
			}
		})
	}
}

func numbered(n int, format string) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, format, i)
	}
	return b.String()
}

// TestPositions holds the place of every character to a count from the beginning of its line, around the ends of the stretches that
// are counted once.
func TestPositions(t *testing.T) {
	for _, unit := range []string{"x", "é", "€", "🍷", "aé€🍷", "a\né"} {
		for _, size := range []int{1, stride - 9, stride - 8, stride - 7, stride, 3*stride - 8, 3*stride + 1} {
			filling := strings.Repeat(unit, size)
			// The tags around the text have seven bytes.
			for cut := range min(8, len(unit)+1) {
				d := parse(t, "<a>"+filling+strings.Repeat(" ", cut)+"</a>")
				line, column := 1, 1
				for i, r := range string(d.text) {
					if got := d.position(i); got != (Position{line, column}) {
						t.Fatalf("%q times %d: position(%d) = %v, want %d:%d", unit, size, i, got, line, column)
					}
					column++
					if r == '\n' {
						line, column = line+1, 1
					}
				}
				if got := d.position(len(d.text)); got != (Position{line, column}) {
					t.Fatalf("%q times %d: the end is at %v, want %d:%d", unit, size, got, line, column)
				}
			}
		}
	}
	// An edit moves them.
	d := parse(t, "<a><b>"+strings.Repeat("é", stride)+"</b><c/></a>")
	if err := d.SetValue(d.Root().Child("b"), "é"); err != nil {
		t.Fatal(err)
	}
	if got := d.Root().Child("c").Position(); got != (Position{1, 12}) {
		t.Errorf("after an edit <c> is at %v", got)
	}
}

// TestManyFindings: of what is wrong again and again only so much is listed, but nothing that is wrong in another way is lost over it.
func TestManyFindings(t *testing.T) {
	const more = 50
	d := parse(t, "<Tasting xmlns='urn:tasting'><Settings>"+strings.Repeat("<Whisky/>", maxFindings+more)+
		"<Kind>Green</Kind></Settings><List>"+strings.Repeat("<Wine><Name>x</Name></Wine>", 3)+"</List><Liszt/></Tasting>")
	all := tasting().Lint(d)
	rules := map[Rule]int{}
	for _, f := range all {
		rules[f.Rule]++
	}
	for rule, want := range map[Rule]int{RuleUnknownElement: maxFindings, RuleWrongValue: 1, RuleDuplicateValue: 1, RuleMisspelledElement: 1, RuleMoreFindings: 1} {
		if rules[rule] != want {
			t.Errorf("%d findings of the rule %s, want %d", rules[rule], rule, want)
		}
	}
	last := all[len(all)-1]
	if want := fmt.Sprintf("%d more findings", more+1); last.Rule != RuleMoreFindings || last.Severity != SeverityNote || !strings.Contains(last.Message, want) {
		t.Errorf("the last finding is %v, want %q", last, want)
	}
	// Those who check the meaning share the bound.
	c := NewCollector(d)
	for range maxElements {
		c.Add(d.Root(), SeverityWarning, "meaning", "again", "")
	}
	c.Add(d.Root(), SeverityError, "meaning", "worse", "")
	if all := c.Findings(); len(all) != maxFindings+2 || all[maxFindings].Message != "worse" || !strings.HasPrefix(all[maxFindings+1].Message, "49800 more") {
		t.Errorf("%d findings, the last two %v", len(all), all[len(all)-2:])
	}
	// Whether names beyond the bound are slips of the pen is not known, and an error says so.
	d = parse(t, "<Tasting xmlns='urn:tasting'>"+numbered(maxUnknown+1, "<Wein%06x/>")+"</Tasting>")
	if err := Errors(tasting().Lint(d), RuleUnknownElement, RuleMisspelledElement); !Has(err, RuleTooLarge) {
		t.Errorf("too many names: %v", err)
	}
	if err := Errors(tasting().Lint(parse(t, "<Tasting xmlns='urn:tasting'>"+strings.Repeat("<Whisky/><Gin/>", maxUnknown)+"</Tasting>")), RuleUnknownElement); err != nil {
		t.Errorf("two names: %v", err)
	}
}

func TestValues(t *testing.T) {
	d := parse(t, "<a b=' x\n&lt;&#x41;' xmlns:n='urn:n' n:c='2'> one <!-- c -->\n\ttwo<x/><![CDATA[ &amp; ]]>thr&#101;e\u00a0</a>")
	if got, want := d.Root().Value(), "one two &amp; three\u00a0"; got != want {
		t.Errorf("Value() = %q, want %q", got, want)
	}
	if v, ok := d.Root().Attribute("b"); v != " x <A" || !ok {
		t.Errorf("b = %q", v)
	}
	if _, ok := d.Root().Attribute("c"); ok {
		t.Error("an attribute of another namespace is found without its prefix")
	}
	var none *Node
	if none.Value() != "" || none.Child("x") != nil || none.All("x") != nil || none.Find("x/y") != nil || none.Path() != "" {
		t.Error("the nil Node is something")
	}
}

func TestEncodingsRoundTrip(t *testing.T) {
	for _, e := range []Encoding{{"UTF-8", false}, {"UTF-8", true}, {"UTF-16LE", true}, {"UTF-16BE", true}, {"UTF-16LE", false}, {"ISO-8859-1", false},
		{"windows-1252", false}, {"US-ASCII", false}} {
		text := "<?xml version=\"1.0\" encoding=\"" + e.family() + "\"?>\r\n<Tasting xmlns=\"urn:tasting\">\r\n\t<Settings/>\r\n</Tasting>\r\n"
		raw := e.encode([]byte(text))
		d, err := Parse("", raw)
		if err != nil {
			t.Errorf("%v: %v", e, err)
			continue
		}
		if d.Encoding() != e {
			t.Errorf("%v is taken for %v", e, d.Encoding())
		}
		if string(d.Bytes()) != string(raw) {
			t.Errorf("%v: not written as it was read", e)
		}
		if err := d.Put(tasting(), nil, "Free", "x"); err == nil {
			t.Error("an element without a value was given one")
		}
		if err := d.Insert(tasting(), d.Root(), Part{Name: "List", Children: []Part{{Name: "Wine", Children: []Part{{Name: "Name", Value: "Räuschling – 5 € 🍷"}}}}}); err != nil {
			t.Errorf("%v: %v", e, err)
			continue
		}
		again, err := Parse("", d.Bytes())
		if err != nil {
			t.Errorf("%v: %v", e, err)
			continue
		}
		if got, want := again.Root().Find("List/Wine/Name").Value(), "Räuschling – 5 € 🍷"; got != want || again.Encoding() != e {
			t.Errorf("%v: wrote %q and read %q", e, want, got)
		}
		if !strings.Contains(string(again.text), "\r\n\t<List>\r\n\t\t<Wine>\r\n\t\t\t<Name>") {
			t.Errorf("%v: wrote\n%q", e, again.text)
		}
	}
}

func TestEdits(t *testing.T) {
	s := tasting()
	const ns = ` xmlns="urn:tasting"`
	put := func(path, value string) func(*Document) error {
		return func(d *Document) error { return d.Put(s, nil, path, value) }
	}
	wine := func(name string) func(*Document) error {
		return func(d *Document) error {
			return d.Insert(s, d.Root().Child("List"), Part{Name: "Wine", Children: []Part{{Name: "Name", Value: name}}})
		}
	}
	remove := func(path string) func(*Document) error {
		return func(d *Document) error { return d.Remove(d.Root().Find(path)) }
	}
	for _, tt := range []struct {
		name         string
		edit         func(*Document) error
		before, want string
	}{
		{"a value", put("Settings/Kind", "White"),
			"<Tasting" + ns + "><Settings><Kind> Red\n</Kind></Settings></Tasting>",
			"<Tasting" + ns + "><Settings><Kind> White\n</Kind></Settings></Tasting>"},
		{"the same value", put("Settings/Kind", "Red"), "<Tasting" + ns + "><Settings><Kind >Red</Kind></Settings></Tasting>",
			"<Tasting" + ns + "><Settings><Kind >Red</Kind></Settings></Tasting>"},
		{"an empty element", put("Settings/Kind", "White"), "<Tasting" + ns + "><Settings><Kind /></Settings></Tasting>",
			"<Tasting" + ns + "><Settings><Kind>White</Kind></Settings></Tasting>"},
		{"a value beside a child", put("Settings/Loud", "true"),
			"<Tasting" + ns + "><Settings><Loud><!-- c -->false\n  <Volume>3</Volume></Loud></Settings></Tasting>",
			"<Tasting" + ns + "><Settings><Loud><!-- c -->true\n  <Volume>3</Volume></Loud></Settings></Tasting>"},
		{"a value in pieces", put("Settings/Kind", "White"), "<Tasting" + ns + "><Settings><Kind>R<!-- c --><![CDATA[e]]>d </Kind></Settings></Tasting>",
			"<Tasting" + ns + "><Settings><Kind>White<!-- c --> </Kind></Settings></Tasting>"},
		{"a new setting in one line", put("Settings/Kind", "Red"), "<Tasting" + ns + "/>",
			"<Tasting" + ns + "><Settings><Kind>Red</Kind></Settings></Tasting>"},
		{"a new setting", put("Settings/Loud/Volume", "11"),
			"<Tasting" + ns + ">\n    <Settings>\n        <Kind>Red</Kind> <!-- red -->\n    </Settings>\n</Tasting>\n",
			"<Tasting" + ns + ">\n    <Settings>\n        <Kind>Red</Kind> <!-- red -->\n        <Loud>false\n            <Volume>11</Volume>\n        </Loud>\n    </Settings>\n</Tasting>\n"},
		{"a new child beside a value", put("Settings/Loud/Volume", "11"),
			"<Tasting" + ns + ">\r\n\t<Settings>\r\n\t\t<Loud>true\r\n\t\t</Loud>\r\n\t</Settings>\r\n</Tasting>",
			"<Tasting" + ns + ">\r\n\t<Settings>\r\n\t\t<Loud>true\r\n\t\t\t<Volume>11</Volume>\r\n\t\t</Loud>\r\n\t</Settings>\r\n</Tasting>"},
		{"in its place", put("Settings/Kind", "Red"),
			"<Tasting" + ns + ">\n  <List>\n    <Wine/>\n  </List>\n</Tasting>",
			"<Tasting" + ns + ">\n  <Settings>\n    <Kind>Red</Kind>\n  </Settings>\n  <List>\n    <Wine/>\n  </List>\n</Tasting>"},
		{"one more", wine("Fendant & Co <x>"),
			"<p:Tasting xmlns:p='urn:tasting'>\n <p:List>\n  <p:Wine/>\n </p:List>\n <p:Free/>\n</p:Tasting>",
			"<p:Tasting xmlns:p='urn:tasting'>\n <p:List>\n  <p:Wine/>\n  <p:Wine>\n   <p:Name>Fendant &amp; Co &lt;x&gt;</p:Name>\n  </p:Wine>\n </p:List>\n <p:Free/>\n</p:Tasting>"},
		{"with a comment only", wine("x"), "<Tasting" + ns + ">\n<List><!-- none --></List>\n</Tasting>",
			"<Tasting" + ns + ">\n<List><!-- none -->\n  <Wine>\n    <Name>x</Name>\n  </Wine>\n</List>\n</Tasting>"},
		{"between", func(d *Document) error { return d.Put(s, d.Root().Find("List/Wine"), "Year", "2020") },
			"<Tasting" + ns + ">\n<List>\n<Wine>\n  <Name>n</Name>\n  <Note>good</Note>\n</Wine>\n</List>\n</Tasting>",
			"<Tasting" + ns + ">\n<List>\n<Wine>\n  <Name>n</Name>\n  <Year>2020</Year>\n  <Note>good</Note>\n</Wine>\n</List>\n</Tasting>"},
		{"remove a line", remove("Settings/Kind"), "<Tasting" + ns + ">\r\n<Settings>\r\n <Kind>Red</Kind> \r\n</Settings></Tasting>",
			"<Tasting" + ns + ">\r\n<Settings>\r\n</Settings></Tasting>"},
		{"remove in a line", remove("Settings/Kind"), "<Tasting" + ns + ">\n<Settings>\n <Loud/><Kind>Red</Kind>\n</Settings></Tasting>",
			"<Tasting" + ns + ">\n<Settings>\n <Loud/>\n</Settings></Tasting>"},
		{"an attribute", func(d *Document) error {
			return d.SetAttribute(d.Root().Find("Settings/Loud"), "UserControllable", "false")
		}, "<Tasting" + ns + "><Settings><Loud\n UserControllable = 'true'/></Settings></Tasting>",
			"<Tasting" + ns + "><Settings><Loud\n UserControllable = 'false'/></Settings></Tasting>"},
		{"a new attribute", func(d *Document) error {
			return d.SetAttribute(d.Root().Find("Settings/Loud"), "a", "'\"\n<&")
		}, "<Tasting" + ns + "><Settings><Loud/></Settings></Tasting>",
			"<Tasting" + ns + "><Settings><Loud a=\"'&quot;&#xA;&lt;&amp;\"/></Settings></Tasting>"},
		{"free", func(d *Document) error { return d.Insert(s, d.Root().Child("Free"), Part{Name: "Own", Value: "x"}) },
			"<Tasting" + ns + "><Free><Other/></Free></Tasting>", "<Tasting" + ns + "><Free><Other/><Own>x</Own></Free></Tasting>"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d := parse(t, tt.before)
			if err := tt.edit(d); err != nil {
				t.Fatal(err)
			}
			if got := string(d.Bytes()); got != tt.want {
				t.Errorf("got\n%s\nwant\n%s", got, tt.want)
			}
		})
	}
}

func TestRefusedEdits(t *testing.T) {
	s := tasting()
	const before = "<Tasting xmlns='urn:tasting'><Settings/><List><Wine/></List><Unknown/></Tasting>"
	for name, edit := range map[string]func(d *Document) error{
		"wrong value":        func(d *Document) error { return d.Put(s, nil, "Settings/Kind", "Green") },
		"wrong case":         func(d *Document) error { return d.Put(s, nil, "Settings/Kind", "red") },
		"unknown":            func(d *Document) error { return d.Put(s, nil, "Settings/Kidn", "Red") },
		"below unknown":      func(d *Document) error { return d.Put(s, d.Root().Child("Unknown"), "x", "Red") },
		"several":            func(d *Document) error { return d.Put(s, nil, "List/Wine/Name", "x") },
		"no value":           func(d *Document) error { return d.Put(s, nil, "Settings", "x") },
		"no place":           func(d *Document) error { return d.Insert(s, d.Root(), Part{Name: "Wine"}) },
		"control character":  func(d *Document) error { return d.SetValue(d.Root(), "\x01") },
		"in an attribute":    func(d *Document) error { return d.SetAttribute(d.Root(), "a", "\x00") },
		"no attribute":       func(d *Document) error { return d.SetAttribute(d.Root(), "a b", "") },
		"outermost":          func(d *Document) error { return d.Remove(d.Root()) },
		"malformed part":     func(d *Document) error { return d.Insert(s, d.Root(), Part{Name: "Free", Comment: "a -- b"}) },
		"too large":          func(d *Document) error { return d.SetValue(d.Root(), strings.Repeat("x", MaxSize)) },
		"malformed document": func(d *Document) error { d.faulty = true; return d.SetValue(d.Root(), "x") },
	} {
		d := parse(t, before)
		if err := edit(d); err == nil {
			t.Errorf("%s: no error", name)
		}
		if got := string(d.Bytes()); got != before {
			t.Errorf("%s: the document is now %s", name, got)
		}
		if d.Root().Find("List/Wine").Position() != (Position{1, 1 + strings.Index(before, "<Wine")}) {
			t.Errorf("%s: the elements are not those of before", name)
		}
	}
}

func TestLintOfATable(t *testing.T) {
	d := parse(t, `<Tasting xmlns="urn:tasting" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" xsi:type="x">
<Settings><Loud UserControllable="True">true<Volume>12</Volume></Loud><Kind xmlns="">Red</Kind></Settings>
<List><Wine><Name>a</Name></Wine><Wine><Name> a </Name></Wine><Win/></List><Free>text<x>y</x></Free></Tasting>`)
	var got []string
	for _, f := range tasting().Lint(d) {
		got = append(got, f.Position.String()+" "+string(f.Rule))
	}
	want := []string{"1:84 unknown-attribute", "2:17 value-case", "2:53 wrong-value", "2:71 namespace", "3:40 duplicate-value", "3:63 misspelled-element", "3:82 stray-text"}
	if !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

func TestErrors(t *testing.T) {
	all := []Finding{{Severity: SeverityError, Rule: RuleWrongOrder}, {Severity: SeverityWarning, Rule: RuleWrongValue}, {Severity: SeverityError, Rule: RuleNamespace}}
	if err := Errors(all, RuleWrongOrder, RuleNamespace); err != nil {
		t.Errorf("tolerated: %v", err)
	}
	if err := Errors(all, RuleWrongOrder); !Has(err, RuleNamespace) || Has(err, RuleWrongOrder) || Has(err, RuleWrongValue) {
		t.Errorf("not tolerated: %v", err)
	}
	f := Finding{File: "a.xml", Position: Position{3, 4}, Severity: SeverityError, Rule: RuleWrongValue, Message: "m", Hint: "h"}
	if got, want := f.String(), "a.xml:3:4: error: m; h (wrong-value)"; got != want {
		t.Errorf("String() = %q, want %q", got, want)
	}
}

func TestNearest(t *testing.T) {
	names := []string{"AutoUpdate", "AutoReconnect", "AlwaysOn", "HostName", "HostAddress", "Pin", "Port"}
	for s, want := range map[string]string{
		"AutoUpdte": "AutoUpdate", "autoupdate": "AutoUpdate", "AlwyasOn": "AlwaysOn", "HostAdress": "HostAddress", "Prot": "Port",
		"Name": "", "Logging": "", "": "", strings.Repeat("x", 100): "", "İİİİİ": "",
	} {
		if got := Nearest(s, names); got != want {
			t.Errorf("Nearest(%q) = %q, want %q", s, got, want)
		}
	}
}

func TestSystems(t *testing.T) {
	if got := (Windows | Linux).String(); got != "Windows, Linux" {
		t.Error(got)
	}
	if Desktop.Has("android") || !Everywhere.Has("ios") || !Desktop.Has("darwin") || Everywhere.Has("plan9") {
		t.Error("Has")
	}
}

func FuzzParse(f *testing.F) {
	paths, _ := filepath.Glob("../profile/testdata/corpus/*.xml")
	for _, path := range paths {
		data, err := os.ReadFile(path)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	s := tasting()
	f.Fuzz(func(t *testing.T, data []byte) {
		d, err := Parse("", data)
		if err == nil && string(d.Bytes()) != string(data) {
			t.Fatal("not written as it was read")
		}
		if d == nil {
			return
		}
		for _, f := range s.Lint(d) {
			if f.Line < 1 || f.Column < 1 {
				t.Fatalf("%v has no place", f)
			}
		}
		var walk func(n *Node, depth int)
		walk = func(n *Node, depth int) {
			if n.start > n.open || n.open > n.close || n.close > n.end || depth > MaxDepth {
				t.Fatalf("<%s> is %d-%d-%d-%d", n.Name, n.start, n.open, n.close, n.end)
			}
			n.Value()
			for _, c := range n.Children {
				if c.Parent != n {
					t.Fatal("a child has another parent")
				}
				walk(c, depth+1)
			}
		}
		walk(d.Root(), 1)
		// An edit of a good document leaves a good one that says what was written.
		if err == nil {
			if err := d.SetValue(d.Root(), "a < b"); err == nil {
				again, err := Parse("", d.Bytes())
				if err != nil {
					t.Fatalf("after an edit: %v", err)
				}
				if got := again.Root().Value(); got != "a < b" {
					t.Fatalf("after an edit the value is %q", got)
				}
			}
		}
	})
}

// TestTooManyFaults: reading ends where there is no use in going on, and says so.
func TestTooManyFaults(t *testing.T) {
	d, err := Parse("", []byte("<a>"+strings.Repeat("&", 1000)+"</a>"))
	var invalid *InvalidError
	if d != nil || !errors.As(err, &invalid) || len(invalid.Findings) != maxFindings+1 || !Has(err, RuleTooLarge) {
		t.Errorf("%v, %.200v", d, err)
	}
	// What was found in front of a document type is not forgotten over it.
	if _, err := Parse("", []byte("<a b=c/><!DOCTYPE a>")); !Has(err, RuleMalformed) || !Has(err, RuleDoctype) {
		t.Error(err)
	}
}

func TestDescriptions(t *testing.T) {
	all := tasting().Describe()
	if len(all) != 10 || all[1].Path != "Settings/Loud" || all[1].UserControllable != "true" || all[1].Values != "true | false" || all[5].Occurs != "0..n" {
		t.Errorf("%+v", all)
	}
	page := string(tasting().Markdown())
	for _, want := range []string{"# AnyConnect tasting", "`urn:tasting`", "| `Settings/Loud/Volume` | 0..1 | `1 to 11` | `5` |  | Linux | How loud. |"} {
		if !strings.Contains(page, want) {
			t.Errorf("the page lacks %q:\n%s", want, page)
		}
	}
	if xsd := string(tasting().XSD()); !strings.Contains(xsd, `<xs:unique name="List-Name">`) || !strings.Contains(xsd, `processContents="skip"`) {
		t.Errorf("the schema is\n%s", xsd)
	}
	for value, want := range map[string]string{"7": "7", "+07": "7", "0": "", "12": "", "+-1": "", "++1": "", "x": "", "99999999999999999999": ""} {
		if got, err := Integer("Volume", 1, 11).Validate(value); got != want || (err == nil) != (want != "") {
			t.Errorf("Validate(%q) = %q, %v", value, got, err)
		}
	}
	if _, err := Enumeration("Kinds", "Red", "White").Validate("Rad"); err == nil || !strings.Contains(err.Error(), "did you mean Red?") {
		t.Error(err)
	}
}

func ExampleSchema_Lint() {
	s := tasting()
	d, err := Parse("party.xml", []byte("<Tasting xmlns=\"urn:tasting\">\n  <Settings>\n    <Kind>Whitte</Kind>\n  </Settings>\n</Tasting>\n"))
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, f := range s.Lint(d) {
		fmt.Println(f)
	}
	// Output: party.xml:3:11: error: <Kind>: "Whitte" is not allowed here; allowed are Red, White; did you mean White? (wrong-value)
}
