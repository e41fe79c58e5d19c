package hello

import (
	"bytes"
	"strings"
)

// maxMethod is the length of the longest method of HTTP that is looked for; UPDATEREDIRECTREF is the longest that is registered.
const maxMethod = 20

// HTTP looks at the first bytes of a TCP connection, all that have come so far, for the head of an HTTP/1 request (RFC 9112 section 3).
// With Done, name is that of the host in lower case without port and final dot, or empty if the request names none, names several, or
// names something that is no name. A target with a host of its own counts, and the Host field does not (RFC 9112 section 3.2.2); the
// target of CONNECT is not that of the connection.
func HTTP(b []byte) (name string, s State) {
	b = b[:min(len(b), MaxSize)]
	full := len(b) == MaxSize
	method := 0
	for method < len(b) && 'A' <= b[method] && b[method] <= 'Z' {
		method++
	}
	if method > maxMethod || method < len(b) && (method == 0 || b[method] != ' ') {
		return "", Other
	}
	line, rest, ok := bytes.Cut(b, []byte("\n"))
	if !ok {
		if full {
			return "", Other
		}
		return "", More
	}
	parts := strings.Fields(string(line))
	if len(parts) != 3 || !strings.HasPrefix(parts[2], "HTTP/1.") {
		return "", Other
	}
	if scheme, target, ok := strings.Cut(parts[1], "://"); ok && !strings.ContainsAny(scheme, "/?") {
		if i := strings.IndexAny(target, "/?"); i >= 0 {
			target = target[:i]
		}
		return host(target[strings.LastIndexByte(target, '@')+1:]), Done
	}
	if parts[0] == "CONNECT" {
		return "", Done
	}
	for hosts := 0; ; {
		line, more, ok := bytes.Cut(rest, []byte("\n"))
		if !ok {
			if full {
				return "", Done
			}
			return "", More
		}
		rest = more
		line = bytes.TrimSuffix(line, []byte("\r"))
		if len(line) == 0 {
			return name, Done
		}
		if line[0] == ' ' || line[0] == '\t' {
			return "", Done // part of the line before, as nobody writes it any more
		}
		if key, value, ok := bytes.Cut(line, []byte(":")); ok && strings.EqualFold(strings.TrimSpace(string(key)), "Host") {
			if hosts++; hosts > 1 {
				return "", Done
			}
			name = host(strings.TrimSpace(string(value)))
		}
	}
}

// host returns the name in a host with or without a port, or "".
func host(s string) string {
	if i := strings.LastIndexByte(s, ':'); i >= 0 {
		s = s[:i]
	}
	return canonical([]byte(s))
}
