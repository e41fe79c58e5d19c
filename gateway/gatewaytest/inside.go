package gatewaytest

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"culvert.example/vpn/gateway"
)

// Ports of the services inside the tunnel.
const (
	portEcho = 7
	portDNS  = 53
	portWeb  = 80
)

// inside are the services that the clients reach through the tunnel.
type inside struct {
	zone    zone
	closers []io.Closer
	web     *http.Server
	wg      sync.WaitGroup

	mu    sync.Mutex
	conns map[net.Conn]struct{}
}

func serveInside(srv *gateway.Server) (*inside, error) {
	s := &inside{conns: map[net.Conn]struct{}{}}
	for _, a := range srv.Addresses() {
		s.zone = append(s.zone, a)
	}
	web, err := srv.Listen("tcp", ":"+strconv.Itoa(portWeb))
	if err != nil {
		return nil, err
	}
	s.web = &http.Server{Handler: webHandler(), ReadHeaderTimeout: time.Minute}
	s.closers = append(s.closers, s.web)
	s.wg.Go(func() { s.web.Serve(web) })
	for port, handle := range map[int]func(net.Conn){portEcho: echoTCP, portDNS: s.zone.serveTCP} {
		ln, err := srv.Listen("tcp", ":"+strconv.Itoa(port))
		if err != nil {
			s.close()
			return nil, err
		}
		s.closers = append(s.closers, ln)
		s.wg.Go(func() { s.accept(ln, handle) })
	}
	for port, answer := range map[int]func([]byte) []byte{portEcho: echoUDP, portDNS: s.zone.answerUDP} {
		for _, a := range srv.Addresses() {
			pc, err := srv.ListenPacket("udp", netip.AddrPortFrom(a, uint16(port)).String())
			if err != nil {
				s.close()
				return nil, err
			}
			s.closers = append(s.closers, pc)
			s.wg.Go(func() { servePackets(pc, answer) })
		}
	}
	return s, nil
}

func (s *inside) close() {
	for _, c := range s.closers {
		c.Close()
	}
	s.mu.Lock()
	for c := range s.conns {
		c.Close()
	}
	s.mu.Unlock()
	s.wg.Wait()
}

func (s *inside) accept(ln net.Listener, handle func(net.Conn)) {
	for {
		c, err := ln.Accept()
		if err != nil {
			return
		}
		s.mu.Lock()
		s.conns[c] = struct{}{}
		s.mu.Unlock()
		s.wg.Go(func() {
			handle(c)
			c.Close()
			s.mu.Lock()
			delete(s.conns, c)
			s.mu.Unlock()
		})
	}
}

func servePackets(pc net.PacketConn, answer func([]byte) []byte) {
	buf := make([]byte, 64<<10)
	for {
		n, from, err := pc.ReadFrom(buf)
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return
			}
			continue
		}
		if out := answer(buf[:n]); out != nil {
			_, _ = pc.WriteTo(out, from)
		}
	}
}

func echoTCP(c net.Conn) { _, _ = io.Copy(c, c) }

func echoUDP(b []byte) []byte { return b }

// webHandler serves the page, /echo and /bytes.
func webHandler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, Page) })
	mux.HandleFunc("POST /echo", func(w http.ResponseWriter, r *http.Request) {
		// The answer begins before the question is over.
		_ = http.NewResponseController(w).EnableFullDuplex()
		_, _ = io.Copy(w, r.Body)
	})
	mux.HandleFunc("GET /bytes", func(w http.ResponseWriter, r *http.Request) {
		n, err := strconv.ParseInt(r.FormValue("n"), 10, 64)
		if err != nil || n < 0 {
			http.Error(w, "want /bytes?n=NUMBER", http.StatusBadRequest)
			return
		}
		w.Header().Set("Content-Length", strconv.FormatInt(n, 10))
		block := make([]byte, 64<<10)
		for i := range block {
			block[i] = byte(i)
		}
		for n > 0 {
			k := min(n, int64(len(block)))
			if _, err := w.Write(block[:k]); err != nil {
				return
			}
			n -= k
		}
	})
	return mux
}

// A zone is what the name server knows: the addresses of WebName.
type zone []netip.Addr

// bigRecords is how many addresses BigName has, which is more than fits a datagram of 512 bytes.
const bigRecords = 64

func (z zone) answerUDP(query []byte) []byte {
	out := z.answer(query)
	if len(out) <= 512 {
		return out
	}
	var m dnsmessage.Message
	if m.Unpack(out) != nil {
		return nil
	}
	m.Truncated, m.Answers = true, nil
	out, err := m.Pack()
	if err != nil {
		return nil
	}
	return out
}

func (z zone) serveTCP(c net.Conn) {
	for {
		c.SetDeadline(time.Now().Add(time.Minute))
		var size [2]byte
		if _, err := io.ReadFull(c, size[:]); err != nil {
			return
		}
		query := make([]byte, binary.BigEndian.Uint16(size[:]))
		if _, err := io.ReadFull(c, query); err != nil {
			return
		}
		out := z.answer(query)
		if out == nil {
			return
		}
		if _, err := c.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(out))), out...)); err != nil {
			return
		}
	}
}

// answer answers a query, and returns nil for what is none.
func (z zone) answer(query []byte) []byte {
	var p dnsmessage.Parser
	h, err := p.Start(query)
	if err != nil || h.Response {
		return nil
	}
	q, err := p.Question()
	if err != nil {
		return nil
	}
	m := dnsmessage.Message{
		Header: dnsmessage.Header{
			ID: h.ID, Response: true, Authoritative: true, RecursionDesired: h.RecursionDesired, RecursionAvailable: true,
		},
		Questions: []dnsmessage.Question{q},
	}
	name := strings.ToLower(strings.TrimSuffix(q.Name.String(), "."))
	switch name {
	case Alias:
		target, err := dnsmessage.NewName(WebName + ".")
		if err != nil {
			return nil
		}
		m.Answers = append(m.Answers, dnsmessage.Resource{
			Header: header(q.Name, dnsmessage.TypeCNAME), Body: &dnsmessage.CNAMEResource{CNAME: target},
		})
		m.Answers = append(m.Answers, z.records(target, q.Type, 1)...)
	case WebName:
		m.Answers = z.records(q.Name, q.Type, 1)
	case BigName:
		m.Answers = z.records(q.Name, q.Type, bigRecords)
	default:
		m.RCode = dnsmessage.RCodeRefused
		if name == Zone {
			m.RCode = dnsmessage.RCodeSuccess
		} else if strings.HasSuffix(name, "."+Zone) {
			m.RCode = dnsmessage.RCodeNameError
		}
	}
	out, err := m.Pack()
	if err != nil {
		return nil
	}
	return out
}

func header(name dnsmessage.Name, t dnsmessage.Type) dnsmessage.ResourceHeader {
	return dnsmessage.ResourceHeader{Name: name, Type: t, Class: dnsmessage.ClassINET, TTL: 60}
}

func (z zone) records(name dnsmessage.Name, t dnsmessage.Type, n int) (list []dnsmessage.Resource) {
	for range n {
		for _, a := range z {
			switch {
			case a.Is4() && t == dnsmessage.TypeA:
				list = append(list, dnsmessage.Resource{Header: header(name, t), Body: &dnsmessage.AResource{A: a.As4()}})
			case a.Is6() && t == dnsmessage.TypeAAAA:
				list = append(list, dnsmessage.Resource{Header: header(name, t), Body: &dnsmessage.AAAAResource{AAAA: a.As16()}})
			}
		}
	}
	return list
}
