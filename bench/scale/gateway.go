package main

import (
	"bufio"
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"

	"culvert.example/vpn/gateway"
)

// serveArg is the argument that makes this program the gateway's process. It talks with the other by JSON on its standard input
// and output: first a hello goes out, then each order is answered with a sample, and the end of the input ends it.
const serveArg = "serve-for-scale"

// A hello says how to reach the gateway.
type hello struct {
	URL, Pin, User, Password string
	// Echo is the inner address of the service that the tunnels talk with.
	Echo netip.AddrPort
}

// An order asks the gateway's process for a sample.
type order struct {
	Name string
	Deep bool
}

// Sizes in bytes of a request and of the answer to it.
const requestSize, answerSize = 200, 1000

// serve is the gateway's process.
func serve(in io.Reader, out io.Writer, profiles string) error {
	cert, pin, err := gateway.SelfSigned("localhost", "127.0.0.1")
	if err != nil {
		return err
	}
	h := hello{Pin: pin, User: "scale", Password: rand.Text()}
	pool := netip.MustParsePrefix("10.128.0.0/14")
	srv, err := gateway.New(gateway.Config{
		TLS: &tls.Config{Certificates: []tls.Certificate{cert}},
		Auth: gateway.Passwords(gateway.VerifierFunc(func(_ context.Context, user, password string) error {
			if user != h.User || password != h.Password {
				return &gateway.Refusal{Text: "Login failed."}
			}
			return nil
		})),
		Pools:       []netip.Prefix{pool, netip.MustParsePrefix("fd5c:a1e::/64")},
		Network:     gateway.Network{Routes: []netip.Prefix{pool}},
		MaxSessions: 1 << 17, MaxSessionsPerUser: 1 << 17,
		MaxFlows: 64,
	})
	if err != nil {
		return err
	}
	defer srv.Close()
	h.Echo = netip.AddrPortFrom(srv.Addresses()[0], 7)
	inner, err := srv.Listen("tcp", h.Echo.String())
	if err != nil {
		return err
	}
	go accept(inner)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	h.URL = "https://" + ln.Addr().String()
	udp, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(ln.Addr().(*net.TCPAddr).AddrPort()))
	if err != nil {
		ln.Close()
		return err
	}
	go srv.Serve(ln, udp)

	enc, dec := json.NewEncoder(out), json.NewDecoder(in)
	if err := enc.Encode(h); err != nil {
		return err
	}
	for {
		var o order
		if err := dec.Decode(&o); err != nil {
			return nil // the other process is done
		}
		s, err := take("gateway."+o.Name, o.Deep, profiles)
		if err != nil {
			return err
		}
		if err := enc.Encode(s); err != nil {
			return err
		}
	}
}

// accept serves the echo: requests of requestSize bytes, each answered with answerSize bytes that begin with it.
func accept(ln net.Listener) {
	for {
		c, err := ln.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			buf := make([]byte, answerSize)
			for {
				if _, err := io.ReadFull(c, buf[:requestSize]); err != nil {
					return
				}
				if _, err := c.Write(buf); err != nil {
					return
				}
			}
		}()
	}
}

// A remote is the gateway's process, as seen from this one.
type remote struct {
	hello hello
	cmd   *exec.Cmd
	in    io.WriteCloser
	enc   *json.Encoder
	dec   *json.Decoder
}

// startGateway starts the gateway's process. The caller closes it.
func startGateway(ctx context.Context, profiles string) (*remote, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, self, serveArg, profiles)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	r := &remote{cmd: cmd, in: in, enc: json.NewEncoder(in), dec: json.NewDecoder(bufio.NewReader(out))}
	if err := r.dec.Decode(&r.hello); err != nil {
		return nil, errors.Join(fmt.Errorf("no hello from the gateway's process: %w", err), r.close())
	}
	return r, nil
}

// sample has the gateway's process sample itself.
func (r *remote) sample(name string, deep bool) (s sample, err error) {
	if err = r.enc.Encode(order{name, deep}); err == nil {
		err = r.dec.Decode(&s)
	}
	if err != nil {
		err = fmt.Errorf("no sample from the gateway's process: %w", err)
	}
	return s, err
}

// close ends the process and waits for it.
func (r *remote) close() error {
	r.in.Close()
	return r.cmd.Wait()
}
