package vpn_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	vpn "culvert.example/vpn"
	"culvert.example/vpn/gateway"
	"culvert.example/vpn/gateway/gatewaytest"
	"culvert.example/vpn/internal/leak"
	"culvert.example/vpn/transport"
	"culvert.example/vpn/transport/login"
)

// A person answers the forms of a login, and counts them. It is nobody to ask again without need.
type person struct {
	login.Fixed
	asked atomic.Int32
}

func newPerson() *person {
	return &person{Fixed: login.Fixed{Username: gatewaytest.User, Password: gatewaytest.Password}}
}

// Unattended overrides that of Fixed.
func (p *person) Unattended() bool { return false }

// Answer implements login.Prompter.
func (p *person) Answer(ctx context.Context, f *login.Form) error {
	p.asked.Add(1)
	return p.Fixed.Answer(ctx, f)
}

// TestFlowSurvives does something to the network while a stream goes through the tunnel. The stream must get through whole,
// without a new login.
func TestFlowSurvives(t *testing.T) {
	leak.Check(t)
	// Half of this is what it takes; the machine may be busy with other tests.
	const usual = 5 * time.Second
	for _, tt := range []struct {
		name   string
		config func(*vpn.Config)
		fault  func(t *testing.T, gw *gatewaytest.Gateway, tun *vpn.Tunnel, f *flow)
		stall  time.Duration // how long the stream may stand still
	}{
		{"UDP dies", nil, func(t *testing.T, gw *gatewaytest.Gateway, tun *vpn.Tunnel, f *flow) {
			gw.CutUDP(true)
			over(t, tun, "tls", 15*time.Second)
			f.progress(t, 15*time.Second)
			gw.CutUDP(false)
			tun.NetworkChanged()
			over(t, tun, "dtls", 30*time.Second)
		}, usual},
		{"UDP is away for a moment", nil, func(t *testing.T, gw *gatewaytest.Gateway, tun *vpn.Tunnel, f *flow) {
			gw.CutUDP(true)
			over(t, tun, "tls", 15*time.Second)
			gw.CutUDP(false)
			over(t, tun, "dtls", 60*time.Second)
		}, usual},
		{"UDP dies after some packets", nil, func(t *testing.T, gw *gatewaytest.Gateway, tun *vpn.Tunnel, f *flow) {
			gw.SetUDPLimit(500)
			over(t, tun, "tls", 20*time.Second)
		}, usual},
		{"TCP is reset under DTLS", nil, func(t *testing.T, gw *gatewaytest.Gateway, tun *vpn.Tunnel, f *flow) {
			gw.ResetTCP()
			again(t, tun, "tls", 2)
			over(t, tun, "dtls", 30*time.Second)
		}, usual},
		{"TCP is reset under TLS", onlyTLS, func(t *testing.T, gw *gatewaytest.Gateway, tun *vpn.Tunnel, f *flow) {
			gw.ResetTCP()
			again(t, tun, "tls", 2)
		}, usual},
		{"TCP is dead for a while under DTLS", nil, func(t *testing.T, gw *gatewaytest.Gateway, tun *vpn.Tunnel, f *flow) {
			gw.CutTCP(true)
			time.Sleep(5 * time.Second)
			gw.CutTCP(false)
		}, 4 * time.Second},
		{"TCP is dead for a while under TLS", onlyTLS, func(t *testing.T, gw *gatewaytest.Gateway, tun *vpn.Tunnel, f *flow) {
			gw.CutTCP(true)
			eventually(t, 15*time.Second, "the tunnel notices", func() bool { return tun.Status().State == vpn.Reconnecting })
			time.Sleep(time.Second)
			gw.CutTCP(false)
			again(t, tun, "tls", 2)
		}, 15 * time.Second},
		{"everything is dead for a while", nil, func(t *testing.T, gw *gatewaytest.Gateway, tun *vpn.Tunnel, f *flow) {
			gw.CutUDP(true)
			gw.CutTCP(true)
			eventually(t, 15*time.Second, "the tunnel notices", func() bool { return tun.Status().State == vpn.Reconnecting })
			gw.CutTCP(false)
			gw.CutUDP(false)
			over(t, tun, "dtls", 30*time.Second)
		}, 20 * time.Second},
		{"the gateway drops its connections", nil, func(t *testing.T, gw *gatewaytest.Gateway, tun *vpn.Tunnel, f *flow) {
			gw.Drop(only(t, gw).ID)
			again(t, tun, "tls", 2)
			over(t, tun, "dtls", 30*time.Second)
		}, usual},
		{"the client roams", nil, func(t *testing.T, gw *gatewaytest.Gateway, tun *vpn.Tunnel, f *flow) {
			before := only(t, gw).RemoteUDP
			gw.Roam()
			eventually(t, 15*time.Second, "the gateway sees another port", func() bool { return only(t, gw).RemoteUDP != before })
			f.progress(t, 15*time.Second)
			if s := only(t, gw); s.Connects != 1 || s.Path != "dtls" {
				t.Errorf("at the gateway: %+v", s)
			}
			if p := tun.Status().Paths[0]; !p.Active || p.Opens != 1 {
				t.Errorf("the DTLS path: %+v", p)
			}
		}, usual},
		{"large datagrams begin to vanish", nil, func(t *testing.T, gw *gatewaytest.Gateway, tun *vpn.Tunnel, f *flow) {
			before := tun.Status().MTU
			gw.SetHole(1360)
			eventually(t, 20*time.Second, "the tunnel notices", func() bool {
				s := tun.Status()
				return s.MTU < before || s.Path == "tls"
			})
		}, 2 * usual},
		{"the network changes and does not", nil, func(t *testing.T, gw *gatewaytest.Gateway, tun *vpn.Tunnel, f *flow) {
			for range 10 {
				tun.NetworkChanged()
				time.Sleep(30 * time.Millisecond)
			}
			f.progress(t, 15*time.Second)
			for _, p := range tun.Status().Paths {
				if !p.Open || p.Opens != 1 || p.Failures != 0 {
					t.Errorf("path %s: %+v", p.Name, p)
				}
			}
		}, usual},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			who := newPerson()
			gw, tun := simple(t, func(c *vpn.Config) { c.Login = who }, tt.config)
			if tt.config == nil {
				over(t, tun, "dtls", 10*time.Second)
			}
			session, before := only(t, gw).ID, tun.Status()
			f := flowTo(t, tun, gw.Echo)
			tt.fault(t, gw, tun, f)
			f.progress(t, 15*time.Second)
			if stall := f.stalled(); stall > tt.stall {
				t.Errorf("the stream stood still for %v, want at most %v", stall, tt.stall)
			} else {
				t.Logf("the stream stood still for %v", stall.Round(time.Millisecond))
			}
			f.finish(t)
			if id := only(t, gw).ID; id != session {
				t.Errorf("another session than before: %s and %s", session, id)
			}
			if n := who.asked.Load(); n != 1 {
				t.Errorf("the person was asked %d times, want 1", n)
			}
			if s := tun.Status(); !slices.Equal(s.Addresses, before.Addresses) || tun.Err() != nil {
				t.Errorf("in the end: %+v", s)
			}
		})
	}
}

// again waits until a path has been opened n times, and is open.
func again(t *testing.T, tun *vpn.Tunnel, path string, n int) {
	t.Helper()
	eventually(t, 30*time.Second, fmt.Sprintf("%s opens for the %d. time", path, n), func() bool {
		return slices.ContainsFunc(tun.Status().Paths, func(p vpn.PathStatus) bool { return p.Name == path && p.Open && p.Opens >= n })
	})
}

// TestEnds ends tunnels for good in every way, with the reason.
func TestEnds(t *testing.T) {
	leak.Check(t)
	for _, tt := range []struct {
		name string
		end  func(gw *gatewaytest.Gateway, id string)
		want error
	}{
		{"disconnected", func(gw *gatewaytest.Gateway, id string) { gw.Disconnect(id, "Go home.") }, vpn.ErrDisconnected},
		{"closed", func(gw *gatewaytest.Gateway, id string) { gw.Server.Close() }, vpn.ErrDisconnected},
		{"renumbered", func(gw *gatewaytest.Gateway, id string) { gw.Renumber(id); gw.Drop(id) }, vpn.ErrAddressChanged},
		{"expired", func(gw *gatewaytest.Gateway, id string) { gw.Expire(id); gw.Drop(id) }, vpn.ErrExpired},
		{"unreachable", func(gw *gatewaytest.Gateway, id string) { gw.CutUDP(true); gw.CutTCP(true); gw.ResetTCP() }, vpn.ErrUnreachable},
	} {
		for _, config := range []func(*vpn.Config){nil, onlyTLS} {
			name := tt.name + " over dtls"
			if config != nil {
				name = tt.name + " over tls"
			}
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				who := newPerson()
				gw, tun := simple(t, func(c *vpn.Config) { c.Login, c.ReconnectTimeout = who, time.Second }, config)
				var r record
				watched := make(chan error, 1)
				go func() { watched <- tun.Watch(t.Context(), r.note) }()
				conn, err := tun.DialContext(timeout(t, 10*time.Second), "tcp", gw.Echo.String())
				if err != nil {
					t.Fatal(err)
				}
				defer conn.Close()
				go func() {
					// The traffic makes the tunnel notice.
					for err := error(nil); err == nil; time.Sleep(10 * time.Millisecond) {
						_, err = conn.Write([]byte("x"))
					}
				}()
				tt.end(gw, only(t, gw).ID)
				err = ended(t, tun, 10*time.Second)
				checkError(t, "tunnel", gw.URL, "", err)
				if !errors.Is(err, tt.want) || errors.Is(err, net.ErrClosed) {
					t.Errorf("Err: %v, want %v", err, tt.want)
				}
				if err := <-watched; err != nil {
					t.Errorf("Watch: %v", err)
				}
				if last := r.all()[len(r.all())-1]; last.State != vpn.Closed || !errors.Is(last.Err, tt.want) {
					t.Errorf("the last state: %+v", last)
				}
				_, err = tun.DialContext(timeout(t, 10*time.Second), "tcp", gw.Echo.String())
				checkError(t, "dial", gw.URL, gw.Echo.String(), err)
				if !errors.Is(err, tt.want) {
					t.Errorf("DialContext: %v, want %v", err, tt.want)
				}
				conn.SetDeadline(time.Now().Add(20 * time.Second))
				for err = nil; err == nil; {
					_, err = conn.Read(make([]byte, 1000))
				}
				var ne net.Error
				if !errors.As(err, &ne) || ne.Timeout() {
					t.Errorf("Read: %v", err)
				}
				if n := who.asked.Load(); n != 1 {
					t.Errorf("the person was asked %d times, want 1", n)
				}
			})
		}
	}
}

// A robot answers the forms of a login, counts them, and may be asked at any time.
type robot struct{ person }

func (r *robot) Unattended() bool { return true }

// TestLoginAgain forgets the session at the gateway. The tunnel goes on with the next one; only what the gateway has ended
// with the session is gone.
func TestLoginAgain(t *testing.T) {
	leak.Check(t)
	who := &robot{person: person{Fixed: newPerson().Fixed}}
	gw := gatewaytest.New(t)
	cfg := settings(gw, func(c *vpn.Config) { c.Login = who })
	// A session that was started elsewhere may be replaced at once; between logins of its own a tunnel pauses.
	ticket, err := vpn.Authenticate(timeout(t, 10*time.Second), gw.URL, cfg)
	if err != nil {
		t.Fatal(err)
	}
	cfg.Cookie = ticket.Cookie
	tun := dial(t, gw.URL, cfg)
	was := only(t, gw)
	ln, err := tun.Listen("tcp", ":80")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	gw.Expire(was.ID)
	gw.Drop(was.ID)
	eventually(t, 20*time.Second, "another session", func() bool {
		s := gw.Sessions()
		return len(s) == 1 && s[0].ID != was.ID && s[0].Path != ""
	})
	conn, err := tun.DialContext(timeout(t, 10*time.Second), "tcp", gw.Echo.String())
	if err != nil {
		t.Fatal(err)
	}
	transfer(t, conn, 100_000)
	back, err := gw.DialContext(timeout(t, 10*time.Second), "tcp", netip.AddrPortFrom(was.Addresses[0], 80).String())
	if err != nil {
		t.Fatal(err)
	}
	back.Close()
	if n := who.asked.Load(); n != 2 {
		t.Errorf("the robot was asked %d times, want 2", n)
	}
	if s := only(t, gw); !slices.Equal(s.Addresses, was.Addresses) {
		t.Errorf("addresses %v, were %v", s.Addresses, was.Addresses)
	}
}

// TestDialects opens tunnels to gateways with the habits of others.
func TestDialects(t *testing.T) {
	leak.Check(t)
	for _, tt := range []struct {
		name   string
		quirks gateway.Quirks
		path   string
	}{
		{"ASA", gateway.Quirks{Server: "asa"}, "dtls"},
		{"ocserv", gateway.Quirks{Server: "ocserv"}, "dtls"},
		{"AnyLink", gateway.Quirks{Server: "anylink"}, "tls"},
		{"no PSK", gateway.Quirks{NoPSK: true}, "dtls"},
		{"dead DTLS", gateway.Quirks{DeadDTLS: true}, "tls"},
		{"chunked", gateway.Quirks{ChunkedConnect: true}, "dtls"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			gw := gatewaytest.New(t, gatewaytest.Options{Quirks: tt.quirks})
			tun := dial(t, gw.URL, settings(gw))
			over(t, tun, tt.path, 10*time.Second)
			conn, err := tun.DialContext(timeout(t, 10*time.Second), "tcp", gw.Echo.String())
			if err != nil {
				t.Fatal(err)
			}
			transfer(t, conn, 500_000)
			if p := tun.Status().Path; p != tt.path {
				t.Errorf("path %q, want %q", p, tt.path)
			}
			// The cookie of this dialect opens the tunnel again.
			gw.ResetTCP()
			again(t, tun, "tls", 2)
			if conn, err = tun.DialContext(timeout(t, 10*time.Second), "tcp", gw.Echo.String()); err != nil {
				t.Fatal(err)
			}
			transfer(t, conn, 10_000)
		})
	}
}

// codes is an authenticator that wants a one-time code after name and password. Each is good once.
type codes struct {
	mu   sync.Mutex
	good []string
}

// Authenticate implements gateway.Authenticator.
func (c *codes) Authenticate(_ context.Context, answered []login.Form) (*login.Form, string, error) {
	switch len(answered) {
	case 0:
		return &login.Form{ID: "main", Fields: []login.Field{{Name: "username", Label: "Name:"}, {Name: "password", Label: "Password:", Kind: login.Password}}}, "", nil
	case 1:
		return &login.Form{ID: "challenge", Message: "The next code, please.",
			Fields: []login.Field{{Name: "answer", Label: "Code:", Kind: login.Password}}}, "", nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	code := answered[1].Fields[0].Value.Reveal()
	if i := slices.Index(c.good, code); i >= 0 {
		c.good = slices.Delete(c.good, i, i+1)
		return nil, answered[0].Fields[0].Value.Reveal(), nil
	}
	return nil, "", &gateway.Refusal{Text: "That code is no good."}
}

// TestOneTimeCode needs one code for one login, however often the tunnel reconnects.
func TestOneTimeCode(t *testing.T) {
	t.Parallel()
	list := &codes{good: []string{"111111", "222222", "333333"}}
	gw := gatewaytest.New(t, gatewaytest.Options{Config: func(c *gateway.Config) { c.Auth = list }})
	var asked []string
	next := []string{"111111", "222222", "333333"}
	token := login.PrompterFunc(func(_ context.Context, f *login.Form) error {
		for i := range f.Fields {
			if f.Fields[i].Name == "answer" {
				asked = append(asked, next[0])
				f.Fields[i].Set(next[0])
				next = next[1:]
				return nil
			}
		}
		return login.ErrCannot
	})
	tun := dial(t, gw.URL, settings(gw, func(c *vpn.Config) {
		c.Login = login.Chain(token, login.Fixed{Username: gatewaytest.User, Password: gatewaytest.Password})
	}))
	gw.ResetTCP()
	again(t, tun, "tls", 2)
	id := only(t, gw).ID
	gw.Expire(id)
	gw.Drop(id)
	if err := ended(t, tun, 10*time.Second); !errors.Is(err, vpn.ErrExpired) {
		t.Errorf("after the session: %v, want ErrExpired", err)
	}
	if !slices.Equal(asked, []string{"111111"}) || len(list.good) != 2 {
		t.Errorf("the codes %v were taken, and %v are left", asked, list.good)
	}
	// A code that was used is refused.
	_, err := vpn.Dial(timeout(t, 20*time.Second), gw.URL, settings(gw, func(c *vpn.Config) {
		c.Login = login.Fixed{Username: gatewaytest.User, Password: gatewaytest.Password, Entries: map[string]transport.Secret{"answer": "111111"}}
	}))
	if !errors.Is(err, vpn.ErrLogin) {
		t.Errorf("with a code that was used: %v, want ErrLogin", err)
	}
}
