package upstream

import (
	"bufio"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
)

const (
	// maxHeader bounds the header of an answer, and maxBody the body of a refusal that is read to use the connection again, in
	// bytes.
	maxHeader = 64 << 10
	maxBody   = 64 << 10
	// maxInterim bounds the answers with a status below 200 before the one that counts.
	maxInterim = 5
	// maxQuestions bounds how often the proxy may ask for the password: without any, for a stale nonce, and once more.
	maxQuestions = 4
)

// connect makes a connection through an HTTP proxy.
func (d *Dialer) connect(ctx context.Context, network string, to target) (net.Conn, error) {
	var w *wire
	defer func() {
		if w != nil {
			w.conn.Close()
		}
	}()
	credentials := d.remembered(to.String())
	for range maxQuestions {
		if w == nil {
			conn, err := d.open(ctx, network)
			if err != nil {
				return nil, err
			}
			w = newWire(conn)
		}
		release := guard(ctx, w.conn)
		answer, err := w.ask(d.request(to, credentials.header))
		if err := errors.Join(err, release()); err != nil {
			return nil, err
		}
		if answer.StatusCode/100 == 2 {
			d.remember(credentials, answer.Header)
			conn, err := w.tunnel()
			w = nil
			return conn, err
		}
		refusal := &StatusError{Code: answer.StatusCode, Text: reason(answer)}
		if answer.StatusCode != http.StatusProxyAuthRequired {
			return nil, refusal
		}
		if credentials, err = d.answer(credentials, answer.Header, to.String(), refusal); err != nil {
			return nil, err
		}
		release = guard(ctx, w.conn)
		again := w.drain(answer)
		if release() != nil || !again {
			w.conn.Close()
			w = nil
		}
	}
	return nil, fmt.Errorf("%w: it has asked for the password %d times", ErrProtocol, maxQuestions)
}

// request returns the request for a connection to an address.
func (d *Dialer) request(to target, authorization string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "CONNECT %s HTTP/1.1\r\nHost: %[1]s\r\n", to)
	if d.UserAgent != "" {
		fmt.Fprintf(&b, "User-Agent: %s\r\n", printable(d.UserAgent, 200))
	}
	if authorization != "" {
		fmt.Fprintf(&b, "Proxy-Authorization: %s\r\n", authorization)
	}
	b.WriteString("\r\n")
	return b.String()
}

// reason returns what the proxy wrote beside the status.
func reason(r *http.Response) string {
	_, text, _ := strings.Cut(r.Status, " ")
	return printable(strings.TrimSpace(text), 80)
}

// A wire is a connection to an HTTP proxy before it carries anything.
type wire struct {
	conn    net.Conn
	limited io.LimitedReader
	buf     *bufio.Reader
}

func newWire(conn net.Conn) *wire {
	w := &wire{conn: conn}
	w.limited.R = conn
	w.buf = bufio.NewReader(&w.limited)
	return w
}

// ask sends a request and reads the header of the answer.
func (w *wire) ask(request string) (*http.Response, error) {
	if _, err := io.WriteString(w.conn, request); err != nil {
		return nil, err
	}
	w.limited.N = maxHeader
	for range maxInterim {
		answer, err := http.ReadResponse(w.buf, &http.Request{Method: http.MethodConnect})
		switch {
		case err != nil && w.limited.N <= 0:
			return nil, fmt.Errorf("%w: the header of its answer is longer than %d bytes", ErrProtocol, maxHeader)
		case errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, io.EOF):
			return nil, fmt.Errorf("%w: it has closed the connection instead of answering", ErrProtocol)
		case netError(err):
			return nil, err
		case err != nil:
			return nil, fmt.Errorf("%w: %s", ErrProtocol, printable(err.Error(), 200))
		case answer.StatusCode < 100 || answer.StatusCode > 999:
			return nil, fmt.Errorf("%w: its answer has the status %d", ErrProtocol, answer.StatusCode)
		case answer.StatusCode >= 200:
			return answer, nil
		}
	}
	return nil, fmt.Errorf("%w: it answers with a status below 200 again and again", ErrProtocol)
}

func netError(err error) bool {
	var e net.Error
	return errors.As(err, &e)
}

// drain reads the body of a refusal, and reports whether the connection can be used again.
func (w *wire) drain(answer *http.Response) bool {
	if answer.Close || strings.EqualFold(answer.Header.Get("Proxy-Connection"), "close") || answer.ContentLength > maxBody {
		return false
	}
	w.limited.N = maxBody
	_, err := io.Copy(io.Discard, answer.Body)
	return err == nil && w.limited.N > 0
}

// tunnel returns the connection as what it is from now on. All that follows the header belongs to the gateway (RFC 9110,
// section 9.3.6), also what has been read with it.
func (w *wire) tunnel() (net.Conn, error) {
	n := w.buf.Buffered()
	if n == 0 {
		return w.conn, nil
	}
	early := make([]byte, n)
	if _, err := io.ReadFull(w.buf, early); err != nil {
		w.conn.Close()
		return nil, err
	}
	return &earlyConn{Conn: w.conn, early: early}, nil
}

// An earlyConn is a connection of which something has been read already. One goroutine reads at a time, as of any stream.
type earlyConn struct {
	net.Conn
	early []byte
}

// Read implements net.Conn.
func (c *earlyConn) Read(b []byte) (int, error) {
	if len(c.early) == 0 {
		return c.Conn.Read(b)
	}
	n := copy(b, c.early)
	c.early = c.early[n:]
	return n, nil
}

// CloseWrite closes one direction, where the connection can.
func (c *earlyConn) CloseWrite() error {
	if w, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return w.CloseWrite()
	}
	return ErrUnsupported
}

// A memory is what a Dialer knows of how the proxy wants the password.
type memory struct {
	// basic and challenge are how it was shown with success; at most one of them.
	basic     bool
	challenge *challenge
	uses      uint32 // of the challenge's nonce
	// digest says that the proxy has offered Digest.
	digest bool
}

// A shown is what was shown to the proxy.
type shown struct {
	header    string
	basic     bool
	challenge *challenge
	guess     bool // from memory, before the proxy has asked
}

// remembered returns what to show without being asked.
func (d *Dialer) remembered(to string) shown {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case d.auth.challenge != nil:
		d.auth.uses++
		header, err := d.auth.challenge.respond(d.Proxy.User, d.Proxy.Password.Reveal(), to, d.auth.uses)
		if err != nil {
			return shown{}
		}
		return shown{header: header, challenge: d.auth.challenge, guess: true}
	case d.auth.basic:
		return shown{header: d.basic(), basic: true, guess: true}
	}
	return shown{}
}

// remember keeps how the password was shown with success.
func (d *Dialer) remember(s shown, header http.Header) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.auth.basic = s.basic
	if s.challenge == nil {
		return
	}
	if next := nextNonce(header); next != "" {
		d.auth.challenge, d.auth.uses = s.challenge.renewed(next), 0
	} else if d.auth.challenge != s.challenge {
		d.auth.challenge, d.auth.uses = s.challenge, 1
	}
}

// answer returns what to show after the proxy has refused what was shown last.
func (d *Dialer) answer(last shown, header http.Header, to string, refusal *StatusError) (shown, error) {
	offers, err := parseChallenges(header.Values("Proxy-Authenticate"))
	if err != nil {
		return shown{}, fmt.Errorf("%w: Proxy-Authenticate: %w", ErrProtocol, err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.auth.challenge, d.auth.basic = nil, false
	d.auth.digest = d.auth.digest || offered(offers, "digest")
	if d.Proxy.User == "" {
		return shown{}, fmt.Errorf("%w; it asks for a user and password (%s): give them as %s://USER:PASSWORD@%s", refusal, schemes(offers), d.Proxy.Scheme, d.Proxy.address())
	}
	best, err := d.pick(offers)
	if err != nil {
		return shown{}, err
	}
	// Another answer to the same question would be the same, and wrong passwords lock accounts.
	if last.header != "" && !last.guess && !(best != nil && last.challenge != nil && best.stale && best.nonce != last.challenge.nonce) {
		return shown{}, refusal
	}
	if best == nil {
		return shown{header: d.basic(), basic: true}, nil
	}
	authorization, err := best.respond(d.Proxy.User, d.Proxy.Password.Reveal(), to, 1)
	if err != nil {
		return shown{}, err
	}
	return shown{header: authorization, challenge: best}, nil
}

// pick chooses among what the proxy offers: the best Digest, or nil for Basic. It is called with d.mu held.
func (d *Dialer) pick(offers []offer) (*challenge, error) {
	var best *challenge
	var why error
	if d.methods()&Digest != 0 {
		for _, o := range offers {
			if o.scheme != "digest" {
				continue
			}
			c, err := newChallenge(o)
			if err != nil {
				why = err
			} else if best == nil || c.algorithm.rank > best.algorithm.rank {
				best = c
			}
		}
	}
	if best != nil {
		return best, nil
	}
	if d.methods()&Basic != 0 && offered(offers, "basic") {
		if d.Proxy.Scheme == HTTPS {
			return nil, nil
		}
		if !d.auth.digest {
			d.logger().Warn("the proxy takes the password only in the clear", "proxy", d.Proxy.String())
			return nil, nil
		}
		if why == nil {
			why = errors.New("allow it with --proxy-auth digest")
			if d.methods()&Digest != 0 {
				why = errors.New("it offered Digest before, and does not now")
			}
		}
		return nil, fmt.Errorf("%w: the password would go in the clear to a proxy that knows Digest: %w", ErrUnsupported, why)
	}
	if why != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnsupported, why)
	}
	return nil, fmt.Errorf("%w: the proxy takes a password by %s; allowed are %s", ErrUnsupported, schemes(offers), d.methods())
}

func (d *Dialer) basic() string {
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(d.Proxy.User+":"+d.Proxy.Password.Reveal()))
}
