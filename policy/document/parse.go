package document

import (
	"bytes"
	"fmt"
	"slices"
	"sort"
	"strings"
	"unicode"
	"unicode/utf8"
)

const (
	// MaxSize is the size in bytes up to which a document is read. The largest profile seen in use has a twentieth of it.
	MaxSize = 2 << 20
	// MaxDepth is how deep elements may be nested.
	MaxDepth = 64

	maxElements   = 50_000
	maxAttributes = 64
	maxName       = 256
	maxFindings   = 200
	maxUnknown    = 1000

	// stride is how many bytes of the text there are from one entry of Document.characters to the next.
	stride = 512

	xmlSpace = "http://www.w3.org/XML/1998/namespace"
	xsiSpace = "http://www.w3.org/2001/XMLSchema-instance"
)

// A Document is a parsed XML document that remembers its source. It is not for use by several goroutines at once when one of
// them edits it.
type Document struct {
	name     string
	raw      []byte // as it was read, or nil after an edit
	text     []byte // in UTF-8, without byte order mark
	encoding Encoding
	root     *Node
	lines    []int // offsets in text where lines start
	// characters holds how many characters stand in front of every stride-th byte of the text.
	characters []int
	faulty     bool
	warnings   []Finding // that do not keep the text from being XML
}

// Parse reads a document. The name is for messages only and may be empty.
//
// If the text is not well-formed XML, Parse returns an [*InvalidError] with every fault that it found and, unless the document
// was too large, in an unknown encoding or with a document type, also the Document as far as it could be made out, so that the
// rest can be checked too. Such a Document must not be acted upon and refuses to be edited.
func Parse(name string, data []byte) (*Document, error) {
	d := &Document{name: name}
	if len(data) > MaxSize {
		return nil, d.fatal(Position{}, RuleTooLarge, fmt.Sprintf("the document has %d bytes, and no more than %d are read", len(data), MaxSize), "")
	}
	d.raw = bytes.Clone(data)
	text, encoding, fault := decode(d.raw)
	if fault != nil {
		return nil, d.fatal(Position{fault.line, fault.column}, RuleEncoding, fault.message, fault.hint)
	}
	d.encoding = encoding
	findings, fatal := d.parse(text)
	if fatal != nil {
		return nil, fatal
	}
	if len(findings) > 0 {
		d.faulty = true
		return d, &InvalidError{Findings: findings}
	}
	return d, nil
}

func (d *Document) fatal(at Position, rule Rule, message, hint string) error {
	return &InvalidError{Findings: []Finding{{
		File: d.name, Position: at, Severity: SeverityError, Rule: rule, Message: message, Hint: hint, Schema: true,
	}}}
}

// Name returns the name that the document was parsed under.
func (d *Document) Name() string { return d.name }

// Encoding returns how the document is, and will be, written.
func (d *Document) Encoding() Encoding { return d.encoding }

// Root returns the outermost element.
func (d *Document) Root() *Node { return d.root }

// Bytes returns the document: the very bytes that were parsed if nothing has been changed. The caller owns them.
func (d *Document) Bytes() []byte {
	if d.raw != nil {
		return bytes.Clone(d.raw)
	}
	return d.encoding.encode(d.text)
}

// Finding returns a finding about an element of the document, for packages that check the meaning of documents.
func (d *Document) Finding(n *Node, severity Severity, rule Rule, message, hint string) Finding {
	return Finding{File: d.name, Position: n.Position(), Path: n.Path(), Severity: severity, Rule: rule, Message: message, Hint: hint}
}

// line returns the line of an offset in the text.
func (d *Document) line(offset int) int { return sort.SearchInts(d.lines, offset+1) }

// position returns the line and column of an offset in the text. It costs the same however long the line is, since every element
// of a document that is all one line may be asked for its place.
func (d *Document) position(offset int) Position {
	line := d.line(offset)
	return Position{line, 1 + d.before(offset) - d.before(d.lines[line-1])}
}

// before returns how many characters stand in front of an offset.
func (d *Document) before(offset int) int {
	n := d.characters[offset/stride]
	for _, c := range d.text[offset-offset%stride : offset] {
		if utf8.RuneStart(c) {
			n++
		}
	}
	return n
}

// index notes what position needs to know of the text.
func (d *Document) index() {
	d.lines, d.characters = []int{0}, make([]int, 0, len(d.text)/stride+1)
	n := 0
	for i, c := range d.text {
		if i%stride == 0 {
			d.characters = append(d.characters, n)
		}
		if utf8.RuneStart(c) {
			n++
		}
		if c == '\n' {
			d.lines = append(d.lines, i+1)
		}
	}
	if len(d.text)%stride == 0 {
		d.characters = append(d.characters, n)
	}
}

// expandRun returns the characters of a run.
func (d *Document) expandRun(r run) string {
	s := string(d.text[r.start:r.end])
	if r.cdata {
		return strings.TrimSuffix(strings.TrimPrefix(s, "<![CDATA["), "]]>")
	}
	return expand(s)
}

// parse replaces the text and the elements of d.
func (d *Document) parse(text []byte) ([]Finding, error) {
	d.text, d.root, d.warnings = text, nil, nil
	d.index()
	p := &parser{d: d, s: text}
	p.run()
	if p.fatal != nil {
		return nil, p.fatal
	}
	if d.root == nil {
		p.fault(len(text), "the document has no element", "")
		return nil, &InvalidError{Findings: p.findings}
	}
	return Merge(p.findings, nil), nil
}

// A parser reads a document from front to back once. It goes on after a fault as well as it can, so that all faults are
// known at once.
type parser struct {
	d        *Document
	s        []byte
	i        int
	stack    []*Node
	elements int
	findings []Finding
	fatal    error
	rootDone bool
}

// fault notes a fault. After too many of them there is no use in reading on.
func (p *parser) fault(at int, message, hint string) {
	if p.fatal != nil {
		return
	}
	f := Finding{
		File: p.d.name, Position: p.d.position(at), Severity: SeverityError, Rule: RuleMalformed,
		Message: message, Hint: hint, Schema: true,
	}
	p.findings = append(p.findings, f)
	if len(p.findings) == maxFindings {
		f.Rule, f.Message, f.Hint = RuleTooLarge, "there are too many faults, and what follows is not read", ""
		p.fatal = &InvalidError{Findings: Merge(p.findings, []Finding{f})}
	}
}

func (p *parser) stop(at int, rule Rule, message, hint string) {
	p.fatal = &InvalidError{Findings: append(Merge(p.findings, nil), Finding{
		File: p.d.name, Position: p.d.position(at), Severity: SeverityError, Rule: rule, Message: message, Hint: hint, Schema: true,
	})}
}

func (p *parser) has(prefix string) bool { return bytes.HasPrefix(p.s[p.i:], []byte(prefix)) }

func (p *parser) run() {
	for i, r := range string(p.s) {
		if !isChar(r) {
			p.fault(i, fmt.Sprintf("XML does not allow the character U+%04X", r), "")
		}
	}
	for p.i < len(p.s) && p.fatal == nil {
		switch {
		case p.s[p.i] != '<':
			p.textRun()
		case p.has("<!--"):
			p.comment()
		case p.has("<![CDATA["):
			p.cdata()
		case p.has("<?"):
			p.instruction()
		case p.has("</"):
			p.endTag()
		case p.has("<!"):
			if len(p.s)-p.i >= 9 && strings.EqualFold(string(p.s[p.i:p.i+9]), "<!DOCTYPE") {
				p.stop(p.i, RuleDoctype, "the document has a document type declaration, which is not read: it could define entities that grow or that fetch files",
					"remove the line with <!DOCTYPE")
				return
			}
			p.fault(p.i, "a declaration has no place here", "")
			p.skipPast(">")
		default:
			p.startTag()
		}
	}
	for i := len(p.stack) - 1; i >= 0 && p.fatal == nil; i-- {
		p.unclosed(p.stack[i], len(p.s), "the end of the document")
	}
}

// skipPast moves behind the next occurrence of s, or to the end, and reports whether there was one.
func (p *parser) skipPast(s string) bool {
	n := bytes.Index(p.s[p.i:], []byte(s))
	if n < 0 {
		p.i = len(p.s)
		return false
	}
	p.i += n + len(s)
	return true
}

// skipSpace moves behind white space and reports whether there was any.
func (p *parser) skipSpace() bool {
	start := p.i
	for p.i < len(p.s) && isSpace(rune(p.s[p.i])) {
		p.i++
	}
	return p.i > start
}

// top is the innermost element that is open, or nil.
func (p *parser) top() *Node {
	if len(p.stack) == 0 {
		return nil
	}
	return p.stack[len(p.stack)-1]
}

// add gives the innermost element a run of text.
func (p *parser) add(r run) {
	if top := p.top(); top != nil && r.end > r.start {
		top.runs = append(top.runs, r)
	}
}

func (p *parser) textRun() {
	start := p.i
	if n := bytes.IndexByte(p.s[p.i:], '<'); n >= 0 {
		p.i += n
	} else {
		p.i = len(p.s)
	}
	text := p.s[start:p.i]
	if len(p.stack) == 0 {
		if n := bytes.IndexFunc(text, func(r rune) bool { return !isSpace(r) }); n >= 0 {
			p.fault(start+n, "text stands outside of the outermost element", "")
		}
		return
	}
	if n := bytes.Index(text, []byte("]]>")); n >= 0 {
		p.fault(start+n, "]]> stands in text", "write ]]&gt;")
	}
	p.references(start, text)
	p.add(run{start: start, end: p.i})
}

// references checks the references in text, which begins at the offset start.
func (p *parser) references(start int, text []byte) {
	for i := 0; ; {
		n := bytes.IndexByte(text[i:], '&')
		if n < 0 {
			return
		}
		i += n + 1
		end := bytes.IndexByte(text[i:min(len(text), i+maxName)], ';')
		if end < 0 {
			p.fault(start+i-1, "& begins no reference", "write &amp;")
			continue
		}
		name := string(text[i : i+end])
		if _, ok := reference(name); ok {
			i += end + 1
			continue
		}
		switch {
		case strings.HasPrefix(name, "#"):
			p.fault(start+i-1, fmt.Sprintf("&%s; stands for no character that XML allows", clip(name)), "")
		case nameLength([]byte(name)) == len(name) && name != "":
			p.fault(start+i-1, fmt.Sprintf("the entity &%s; is not known", clip(name)), "XML itself knows amp, lt, gt, quot and apos only")
		default:
			p.fault(start+i-1, "& begins no reference", "write &amp;")
		}
	}
}

func (p *parser) comment() {
	start := p.i
	p.i += len("<!--")
	body := p.i
	if !p.skipPast("-->") {
		p.fault(start, "the comment does not end", "close it with -->")
		return
	}
	if n := bytes.Index(p.s[body:p.i-len("->")], []byte("--")); n >= 0 && body+n < p.i-len("-->") {
		p.fault(body+n, "-- stands in a comment", "")
	}
}

func (p *parser) cdata() {
	start := p.i
	if len(p.stack) == 0 {
		p.fault(start, "text stands outside of the outermost element", "")
	}
	if !p.skipPast("]]>") {
		p.fault(start, "the section <![CDATA[ does not end", "close it with ]]>")
		return
	}
	p.add(run{start: start, end: p.i, cdata: true})
}

func (p *parser) instruction() {
	start := p.i
	p.i += len("<?")
	target := string(p.s[p.i : p.i+nameLength(p.s[p.i:])])
	body := p.i + len(target)
	if !p.skipPast("?>") {
		p.fault(start, "the instruction <?"+clip(target)+" does not end", "close it with ?>")
		return
	}
	switch {
	case target == "":
		p.fault(start, "<? must be followed by a name", "")
	case target == "xml" && start == 0:
		p.declaration(string(p.s[body : p.i-len("?>")]))
	case target == "xml":
		p.fault(start, "the declaration <?xml must be the very first thing in the document", "remove what stands in front of it")
	case strings.EqualFold(target, "xml"):
		p.fault(start, "the declaration must be written <?xml", "")
	}
}

// declaration checks what stands in the XML declaration.
func (p *parser) declaration(s string) {
	all := pseudoAttributes(s)
	if len(all) == 0 || all[0][0] != "version" {
		p.fault(0, "the XML declaration does not begin with the version", `write <?xml version="1.0" encoding="UTF-8"?>`)
	}
	for _, a := range all {
		if p.fatal != nil {
			return
		}
		switch a[0] {
		case "version":
			if a[1] != "1.0" {
				p.fault(0, fmt.Sprintf("XML %s is not read", clip(a[1])), `write version="1.0"`)
			}
		case "encoding":
			got := canonical(a[1])
			if got == "" {
				p.stop(0, RuleEncoding, fmt.Sprintf("the encoding %q is not read", clip(a[1])), "save the document as UTF-8")
			} else if got == "UTF-8" && p.d.encoding.family() == "UTF-16" && p.d.encoding.BOM {
				// Editors change the bytes and leave the first line; the byte order mark leaves no doubt. Once is enough to say so,
				// however often the declaration names the encoding.
				p.d.warnings = append(p.d.warnings[:0], Finding{File: p.d.name, Position: Position{1, 1}, Severity: SeverityWarning, Rule: RuleEncoding,
					Message: "the document says that it is in UTF-8, but it is in UTF-16", Hint: `write encoding="UTF-16", or save it as UTF-8`})
			} else if got != p.d.encoding.family() {
				p.stop(0, RuleEncoding, fmt.Sprintf("the document says that it is in %s, but it is in %s", got, p.d.encoding.family()),
					fmt.Sprintf("write encoding=%q", p.d.encoding.family()))
			}
		case "standalone":
			if a[1] != "yes" && a[1] != "no" {
				p.fault(0, "standalone is neither yes nor no", "")
			}
		default:
			p.fault(0, fmt.Sprintf("the XML declaration has no %q", clip(a[0])), "")
		}
	}
}

// nameLength returns how many bytes at the start of s are a name. The rule is a little wider than that of XML 1.0.
func nameLength(s []byte) int {
	n := 0
	for n < len(s) {
		r, size := utf8.DecodeRune(s[n:])
		first := r == '_' || r == ':' || unicode.IsLetter(r)
		if !first && (n == 0 || r != '-' && r != '.' && r != 0xb7 && !unicode.IsDigit(r) && !unicode.Is(unicode.M, r)) {
			break
		}
		n += size
	}
	return n
}

func (p *parser) name() string {
	n := nameLength(p.s[p.i:])
	s := string(p.s[p.i : p.i+n])
	p.i += n
	return s
}

func splitName(s string) (prefix, local string) {
	if prefix, local, ok := strings.Cut(s, ":"); ok && prefix != "" && local != "" {
		return prefix, local
	}
	return "", s
}

func (p *parser) startTag() {
	start := p.i
	p.i++
	name := p.name()
	switch {
	case name == "":
		p.fault(start, "< begins no element", "write &lt;")
		p.add(run{start: start, end: p.i})
		return
	case len(name) > maxName:
		p.stop(start, RuleTooLarge, fmt.Sprintf("a name has %d bytes, and no more than %d are read", len(name), maxName), "")
		return
	case len(p.stack) == MaxDepth:
		p.stop(start, RuleTooLarge, fmt.Sprintf("elements are nested deeper than %d", MaxDepth), "")
		return
	case p.elements == maxElements:
		p.stop(start, RuleTooLarge, fmt.Sprintf("the document has more than %d elements", maxElements), "")
		return
	}
	p.elements++
	n := &Node{doc: p.d, start: start, Parent: p.top()}
	n.prefix, n.Name = splitName(name)
	empty := p.attributes(n, name)
	if p.fatal != nil {
		return
	}
	p.resolve(n)
	n.open, n.close, n.end = p.i, p.i, p.i
	switch {
	case n.Parent != nil:
		n.Parent.Children = append(n.Parent.Children, n)
	case p.rootDone:
		p.fault(start, fmt.Sprintf("<%s> is a second outermost element", clip(name)), "")
	default:
		p.d.root, p.rootDone = n, true
	}
	if !empty {
		p.stack = append(p.stack, n)
	}
}

// attributes reads up to the end of a start tag and reports whether it was one of an empty element.
func (p *parser) attributes(n *Node, element string) (empty bool) {
	unclosed := func() {
		p.fault(n.start, fmt.Sprintf("the tag <%s does not end", clip(element)), "close it with >")
	}
	for {
		space := p.skipSpace()
		switch {
		case p.i == len(p.s) || p.s[p.i] == '<':
			unclosed()
			return false
		case p.s[p.i] == '>':
			p.i++
			return false
		case p.has("/>"):
			p.i += 2
			return true
		}
		start := p.i
		name := p.name()
		if name == "" {
			r, size := utf8.DecodeRune(p.s[p.i:])
			p.fault(start, fmt.Sprintf("%q has no place in the tag <%s>", r, clip(element)), "")
			p.i += size
			continue
		}
		if !space {
			p.fault(start, fmt.Sprintf("white space is missing in front of the attribute %s", clip(name)), "")
		}
		if len(n.Attributes)+len(n.namespaces) == maxAttributes {
			p.stop(start, RuleTooLarge, fmt.Sprintf("<%s> has more than %d attributes", clip(element), maxAttributes), "")
			return false
		}
		a := Attribute{start: start}
		a.prefix, a.Name = splitName(name)
		p.skipSpace()
		if p.i == len(p.s) || p.s[p.i] != '=' {
			p.fault(start, fmt.Sprintf("the attribute %s has no value", clip(name)), fmt.Sprintf("write %s=\"…\"", clip(name)))
			continue
		}
		p.i++
		p.skipSpace()
		if !p.attributeValue(&a, name) {
			unclosed()
			return false
		}
		if a.Name == "xmlns" && a.prefix == "" || a.prefix == "xmlns" {
			a.namespace = true
		}
		list := &n.Attributes
		if a.namespace {
			list = &n.namespaces
		}
		if slices.ContainsFunc(*list, func(b Attribute) bool { return b.Name == a.Name && b.prefix == a.prefix }) {
			p.fault(start, fmt.Sprintf("<%s> has the attribute %s twice", clip(element), clip(name)), "")
			continue
		}
		*list = append(*list, a)
	}
}

// attributeValue reads the value of a, and reports whether there was one.
func (p *parser) attributeValue(a *Attribute, name string) bool {
	if p.i == len(p.s) {
		return false
	}
	if quote := p.s[p.i]; quote == '"' || quote == '\'' {
		p.i++
		a.value = p.i
		end := bytes.IndexByte(p.s[p.i:], quote)
		if end < 0 {
			p.fault(a.start, fmt.Sprintf("the value of the attribute %s does not end", clip(name)), fmt.Sprintf("close it with %c", quote))
			p.i = len(p.s)
			return false
		}
		a.end = p.i + end
		p.i = a.end + 1
		if n := bytes.IndexByte(p.s[a.value:a.end], '<'); n >= 0 {
			p.fault(a.value+n, fmt.Sprintf("< stands in the value of the attribute %s", clip(name)), "write &lt;, or close the value in front of it")
		}
	} else {
		a.value = p.i
		for p.i < len(p.s) && !isSpace(rune(p.s[p.i])) && p.s[p.i] != '>' && p.s[p.i] != '<' && !p.has("/>") {
			p.i++
		}
		a.end = p.i
		if a.value == a.end {
			p.fault(a.start, fmt.Sprintf("the attribute %s has no value", clip(name)), "")
			return true
		}
		p.fault(a.value, fmt.Sprintf("the value of the attribute %s is not in quotation marks", clip(name)),
			fmt.Sprintf("write %s=%q", clip(name), clip(string(p.s[a.value:a.end]))))
	}
	p.references(a.value, p.s[a.value:a.end])
	// Tabs and line ends in a value are spaces to XML.
	a.Value = expand(strings.Map(func(r rune) rune {
		if isSpace(r) {
			return ' '
		}
		return r
	}, string(p.s[a.value:a.end])))
	return true
}

// resolve finds the namespaces of an element and its attributes.
func (p *parser) resolve(n *Node) {
	space := func(prefix string, at int) string {
		if prefix == "xml" {
			return xmlSpace
		}
		for e := n; e != nil; e = e.Parent {
			for _, a := range e.namespaces {
				if a.prefix == "" && prefix == "" || a.prefix == "xmlns" && a.Name == prefix {
					return a.Value
				}
			}
		}
		if prefix != "" {
			p.fault(at, fmt.Sprintf("the prefix %s: stands for no namespace", clip(prefix)), fmt.Sprintf("declare it with xmlns:%s=\"…\"", clip(prefix)))
		}
		return ""
	}
	n.Space = space(n.prefix, n.start)
	for i := range n.Attributes {
		if a := &n.Attributes[i]; a.prefix != "" {
			a.Space = space(a.prefix, a.start)
		}
	}
}

func (p *parser) unclosed(n *Node, at int, by string) {
	p.fault(n.start, fmt.Sprintf("<%s> is not closed before %s", clip(n.qualified()), by), fmt.Sprintf("write </%s>", clip(n.qualified())))
	n.close, n.end = at, at
}

// qualified is the name with its prefix.
func (n *Node) qualified() string {
	if n.prefix != "" {
		return n.prefix + ":" + n.Name
	}
	return n.Name
}

func (p *parser) endTag() {
	start := p.i
	p.i += len("</")
	name := p.name()
	p.skipSpace()
	if p.i == len(p.s) || p.s[p.i] != '>' {
		p.fault(start, fmt.Sprintf("the tag </%s does not end", clip(name)), "close it with >")
		// A tag that follows at once is read by itself; anything else on the way to > is dropped.
		for p.i < len(p.s) && p.s[p.i] != '>' && p.s[p.i] != '<' {
			p.i++
		}
	}
	if p.i < len(p.s) && p.s[p.i] == '>' {
		p.i++
	}
	top := p.top()
	if top == nil {
		p.fault(start, fmt.Sprintf("</%s> closes nothing", clip(name)), "")
		return
	}
	if top.qualified() != name {
		open := slices.IndexFunc(p.stack, func(n *Node) bool { return n.qualified() == name })
		switch {
		case open >= 0:
			for top.qualified() != name {
				p.unclosed(top, start, fmt.Sprintf("</%s> in line %d", clip(name), p.d.line(start)))
				p.stack = p.stack[:len(p.stack)-1]
				top = p.top()
			}
		case near(top.qualified(), name):
			p.fault(start, fmt.Sprintf("</%s> closes <%s>", clip(name), clip(top.qualified())), fmt.Sprintf("write </%s>", clip(top.qualified())))
		default:
			p.fault(start, fmt.Sprintf("</%s> closes nothing", clip(name)), fmt.Sprintf("<%s> is open here", clip(top.qualified())))
			return
		}
	}
	top.close, top.end = start, p.i
	p.stack = p.stack[:len(p.stack)-1]
}
