package script

import "bytes"

const (
	maxLine  = 1024 // bytes of a line that are kept
	maxLines = 1000 // lines of one run
)

// An output takes what a program prints, and hands it on line by line. It takes everything, so that the program does not wait or fail,
// but does not keep it all.
type output struct {
	say   func(line string)
	line  []byte
	cut   bool // the line is longer than what is kept of it
	lines int
	last  string
}

// Write implements io.Writer.
func (o *output) Write(b []byte) (int, error) {
	n := len(b)
	for {
		line, rest, whole := bytes.Cut(b, []byte("\n"))
		if room := maxLine - len(o.line); len(line) > room {
			line, o.cut = line[:room], true
		}
		o.line = append(o.line, line...)
		if !whole {
			return n, nil
		}
		o.end()
		b = rest
	}
}

// end ends a line.
func (o *output) end() {
	line := cleanText(string(o.line), maxLine, false)
	if o.cut {
		line += "…"
	}
	o.line, o.cut = o.line[:0], false
	if line == "" {
		return
	}
	o.last = line
	switch o.lines++; {
	case o.lines <= maxLines:
		o.say(line)
	case o.lines == maxLines+1:
		o.say("(the script prints more than is kept)")
	}
}

// close ends the last line, if nothing else did.
func (o *output) close() {
	if len(o.line) > 0 {
		o.end()
	}
}
