package main

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/subtle"
	_ "embed"
	"errors"
	"fmt"
	"html/template"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"time"

	"culvert.example/vpn/transport/login"
)

// pages asks the user in his browser: no toolkit is linked, the browser is there, and it knows how to hide a password.
//
// A question is a page of a web server that lives as long as the question, on a port of the loopback interface. What is typed goes
// from the browser to this process and nowhere else: it is in no address, no argument and no log. Others on the machine, who can
// reach the port and may read the address among the arguments of the browser, are kept out in three ways. The address has a token
// that is good for one visit. The page has another one, without which no answer is taken. And where the system tells
// who is at the other end of a connection, as Linux does, that must be the same user.
type pages struct {
	// open shows an address to the user. It returns when that is under way.
	open func(ctx context.Context, address string) error
	// same reports whether the program at the other end of a connection is one of this user. The addresses are those of its socket.
	same   func(local, remote netip.AddrPort) bool
	logger *slog.Logger

	mu     sync.Mutex
	reopen func() // opens the question that waits, nil if none does
}

const (
	answerTime = 10 * time.Minute // how long a question waits
	showTime   = 2 * time.Minute  // how long a text waits for the browser
	mostAnswer = 64 << 10         // how long an answer may be, in bytes
)

//go:embed page.html
var pageHTML string

// A page is what the template shows.
type page struct {
	Title, Error string
	Texts        []string
	Fields       []field
	// Ask says that the page has buttons. Action is where the answer goes.
	Ask    bool
	Action string
}

// A field is an input of a page. Its name is its place in the form, so that nothing of the gateway gets there.
type field struct {
	Name, Label, Value string
	Secret             bool
	Options            []option
}

type option struct {
	Value, Text string
	Selected    bool
}

// Answer implements login.Prompter.
func (p *pages) Answer(ctx context.Context, f *login.Form) error {
	pg, open := formPage(f)
	values, err := p.ask(ctx, pg)
	if err != nil {
		return err
	}
	return fill(f, open, values)
}

// formPage returns the page of a form, and the places of the fields that it asks for.
func formPage(f *login.Form) (page, []int) {
	pg := page{Title: cmp.Or(line(f.Title), "Log in to "+line(f.Gateway)), Error: text(f.Error), Ask: true}
	for _, t := range []string{f.Banner, f.Message} {
		if t = text(t); t != "" {
			pg.Texts = append(pg.Texts, t)
		}
	}
	if f.Gateway != "" {
		pg.Texts = append(pg.Texts, "The gateway "+line(f.Gateway)+" asks.")
	}
	var open []int
	for i := range f.Fields {
		fl := &f.Fields[i]
		if fl.Answered {
			continue
		}
		open = append(open, i)
		in := field{Name: strconv.Itoa(i), Label: cmp.Or(strings.TrimRight(line(fl.Label), ": "), line(fl.Name))}
		switch fl.Kind {
		case login.Password:
			in.Secret = true
		case login.Choice:
			for j, o := range fl.Options {
				// The options go by their places for the same reason as the fields.
				in.Options = append(in.Options, option{strconv.Itoa(j), line(o.Text), o.Value == fl.Value.Reveal()})
			}
		default:
			in.Value = line(fl.Value.Reveal())
		}
		pg.Fields = append(pg.Fields, in)
	}
	return pg, open
}

// fill puts the values of a page into the fields at the places open.
func fill(f *login.Form, open []int, values url.Values) error {
	for _, i := range open {
		fl, v := &f.Fields[i], values.Get(strconv.Itoa(i))
		if fl.Kind != login.Choice {
			fl.Set(v)
			continue
		}
		j, err := strconv.Atoi(v)
		if err != nil || j < 0 || j >= len(fl.Options) {
			return fmt.Errorf("%w: the page has sent no choice for %s", login.ErrCannot, line(fl.Name))
		}
		fl.Set(fl.Options[j].Value)
	}
	return nil
}

func (p *pages) confirm(ctx context.Context, title, s string) error {
	_, err := p.ask(ctx, page{Title: title, Texts: []string{s}, Ask: true})
	return err
}

func (p *pages) show(ctx context.Context, title, s string) error {
	ctx, cancel := context.WithTimeout(ctx, showTime)
	defer cancel()
	_, err := p.ask(ctx, page{Title: title, Texts: []string{s}})
	if errors.Is(err, context.DeadlineExceeded) {
		return errNoAnswer
	}
	return err
}

func (p *pages) again() {
	p.mu.Lock()
	reopen := p.reopen
	p.mu.Unlock()
	if reopen != nil {
		reopen()
	}
}

// A visit is a question while it waits: the server of its page.
type visit struct {
	pages *pages
	page  page
	host  string
	// answer is the token of the page.
	answer string
	// done gets the answer: nil values are that the user cancelled. A page that asks nothing is done once it is shown.
	done chan url.Values

	mu     sync.Mutex
	ticket string // the token of the address, until it is visited
}

// ask shows a page and waits for its answer.
func (p *pages) ask(ctx context.Context, pg page) (url.Values, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("%w: the page with the question has no port: %w", login.ErrCannot, err)
	}
	v := &visit{pages: p, page: pg, host: l.Addr().String(), answer: rand.Text(), done: make(chan url.Values, 1)}
	v.page.Action = "/" + v.answer
	server := &http.Server{
		Handler: v, ReadHeaderTimeout: 10 * time.Second, ReadTimeout: 30 * time.Second, WriteTimeout: 30 * time.Second, IdleTimeout: time.Minute,
		MaxHeaderBytes: 32 << 10, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug),
	}
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = server.Serve(l) // it ends when it is shut down below, and an earlier end shows as a page that is not there
	}()
	defer func() {
		// The last page still has to get to the browser, which may keep its connection open for long.
		end, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
		defer cancel()
		if server.Shutdown(end) != nil {
			_ = server.Close()
		}
		<-served
	}()

	reopens := make(chan struct{}, 1)
	p.mu.Lock()
	previous := p.reopen
	if pg.Ask {
		p.reopen = func() {
			select {
			case reopens <- struct{}{}:
			default:
			}
		}
	}
	p.mu.Unlock()
	defer func() {
		p.mu.Lock()
		p.reopen = previous
		p.mu.Unlock()
	}()

	late := time.NewTimer(answerTime)
	defer late.Stop()
	for {
		if err := p.open(ctx, v.address()); err != nil {
			return nil, fmt.Errorf("%w: no browser shows the page with the question: %w", login.ErrCannot, err)
		}
		select {
		case values := <-v.done:
			if values == nil {
				return nil, errDeclined
			}
			return values, nil
		case <-reopens:
		case <-late.C:
			return nil, errNoAnswer
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// address returns a new address of the page, which takes the place of the one before.
func (v *visit) address() string {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.ticket = rand.Text()
	return "http://" + v.host + "/" + v.ticket
}

// use reports whether a token is good for a visit, and makes it good for no other.
func (v *visit) use(token string) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	good := v.ticket != "" && subtle.ConstantTimeCompare([]byte(v.ticket), []byte(token)) == 1
	if good {
		v.ticket = ""
	}
	return good
}

// ServeHTTP implements http.Handler.
func (v *visit) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Cache-Control", "no-store")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'")
	token := strings.TrimPrefix(r.URL.Path, "/")
	switch {
	case r.Host != v.host || !v.sameUser(r):
		v.tell(w, http.StatusForbidden, "This page is not for you.")
	case r.Method == http.MethodGet && v.use(token):
		v.write(w, http.StatusOK, v.page)
		if !v.page.Ask {
			v.finish(url.Values{})
		}
	case r.Method == http.MethodPost && v.page.Ask && subtle.ConstantTimeCompare([]byte(token), []byte(v.answer)) == 1:
		r.Body = http.MaxBytesReader(w, r.Body, mostAnswer)
		if err := r.ParseForm(); err != nil {
			v.tell(w, http.StatusBadRequest, "The answer is not to be understood.")
			return
		}
		if r.PostForm.Has("cancel") {
			v.tell(w, http.StatusOK, "Cancelled. You can close this page.")
			v.finish(nil)
			return
		}
		v.tell(w, http.StatusOK, "Thank you. You can close this page.")
		v.finish(r.PostForm)
	case r.Method == http.MethodGet:
		v.tell(w, http.StatusNotFound, "This page can be opened once. If you have not done so yourself, cancel in the tray; "+
			"otherwise choose there to answer the question.")
	default:
		v.tell(w, http.StatusNotFound, "There is nothing here.")
	}
}

// finish hands out the answer, of which the first one counts.
func (v *visit) finish(values url.Values) {
	select {
	case v.done <- values:
	default:
	}
}

func (v *visit) sameUser(r *http.Request) bool {
	peer, err := netip.ParseAddrPort(r.RemoteAddr)
	here, err2 := netip.ParseAddrPort(v.host)
	return err == nil && err2 == nil && v.pages.same(peer, here)
}

func (v *visit) tell(w http.ResponseWriter, status int, s string) {
	v.write(w, status, page{Title: "Culvert", Texts: []string{s}})
}

func (v *visit) write(w http.ResponseWriter, status int, pg page) {
	w.WriteHeader(status)
	if err := v.pages.template().Execute(w, pg); err != nil {
		v.pages.logger.Debug("a page was not written", "error", err)
	}
}

func (p *pages) template() *template.Template {
	return template.Must(template.New("page").Parse(pageHTML)) // a test parses it
}

// browser returns a function that shows an address with a command, to whose arguments the address is added.
//
// The browser may well be this command's own process, and is the user's: it is not waited for, and it goes on when this program ends. A
// command that fails at once does not get to show anything, and that is found out.
func browser(command []string) func(ctx context.Context, address string) error {
	return func(ctx context.Context, address string) error {
		cmd := exec.Command(command[0], append(command[1:len(command):len(command)], address)...)
		detach(cmd)
		if err := cmd.Start(); err != nil {
			return err
		}
		ended := make(chan error, 1)
		go func() { ended <- cmd.Wait() }()
		select {
		case err := <-ended:
			if err != nil {
				return fmt.Errorf("%s: %w", command[0], err)
			}
			return nil
		case <-time.After(2 * time.Second):
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
