package gateway

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"culvert.example/vpn/packet"
	"culvert.example/vpn/transport"
	"culvert.example/vpn/transport/cstp"
	"culvert.example/vpn/transport/wire"
)

func TestTunnel(t *testing.T) {
	l := newLab(t, nil)
	c := l.tunnel(l.cookie("alice"))
	if got := len(c.lease.Addresses); got != 2 {
		t.Fatalf("%d addresses", got)
	}
	ln, err := l.Listen("tcp", ":80")
	if err != nil {
		t.Fatal(err)
	}
	web := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, "hello "+r.RemoteAddr)
	})}
	go web.Serve(ln)
	defer web.Close()
	for _, host := range []string{"10.20.0.1", "[fd20::1]"} {
		client := &http.Client{Transport: &http.Transport{DialContext: c.stack.DialContext}, Timeout: 20 * time.Second}
		res, err := client.Get("http://" + host + "/")
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(res.Body)
		res.Body.Close()
		client.CloseIdleConnections()
		if !strings.HasPrefix(string(body), "hello ") {
			t.Errorf("%s answers %q", host, body)
		}
	}
	if _, err := c.stack.Ping(testContext(t), netip.MustParseAddr("10.20.0.1")); err != nil {
		t.Errorf("ping of the gateway: %v", err)
	}

	// What is outside is reached by the dialer.
	to := echo(t)
	for _, network := range []string{"tcp", "udp"} {
		if err := c.exchange(network, to, "over "+network); err != nil {
			t.Errorf("%s to %s: %v", network, to, err)
		}
	}
	for _, to := range []string{"198.51.100.1:80", "10.20.0.77:80", "169.254.169.254:80"} {
		if err := c.exchange("tcp", to, "x"); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("tcp to %s: %v, want a refusal", to, err)
		}
	}
	s := l.only()
	if s.Path != "tls" || s.Received.Packets == 0 || s.Sent.Bytes == 0 || s.Remote.Addr() != l.addr.Addr() || s.Hostname != "box" {
		t.Errorf("session %+v", s)
	}
}

// The flow knows whose it is, and Dial may answer by itself.
func TestDial(t *testing.T) {
	asked := make(chan string, 1)
	l := newLab(t, func(c *Config) {
		c.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
			s, ok := SessionOf(ctx)
			if !ok {
				return nil, errors.New("no session")
			}
			asked <- s.User + " " + network + " " + address
			a, b := net.Pipe()
			go func() {
				io.Copy(b, b)
				b.Close()
			}()
			return a, nil
		}
	})
	c := l.tunnel(l.cookie("alice"))
	if err := c.exchange("tcp", "192.0.2.7:99", "inside the process"); err != nil {
		t.Fatal(err)
	}
	if got := <-asked; got != "alice tcp 192.0.2.7:99" {
		t.Errorf("Dial was asked for %q", got)
	}
}

func TestDTLS(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(*Config)
		offer  func(*wire.ConnectRequest)
		cipher string // none: no DTLS
	}{
		{
			"PSK", nil,
			func(r *wire.ConnectRequest) {
				r.DTLSCipherSuites = []string{wire.PSKNegotiate, "OC-DTLS1_2-AES256-GCM"}
			},
			"PSK",
		},
		{
			"resumption", nil,
			func(r *wire.ConnectRequest) {
				r.DTLS12CipherSuites = []string{"AES128-SHA", "AES256-GCM-SHA384", "ECDHE-RSA-AES128-GCM-SHA256"}
			},
			"ECDHE-RSA-AES128-GCM-SHA256",
		},
		{
			"resumption, PSK refused", func(c *Config) { c.Quirks.NoPSK = true },
			func(r *wire.ConnectRequest) {
				r.DTLSCipherSuites = []string{wire.PSKNegotiate, "OC-DTLS1_2-AES256-GCM"}
			},
			"AES256-GCM-SHA384",
		},
		{"nothing in common", nil, func(r *wire.ConnectRequest) { r.DTLS12CipherSuites = []string{"AES128-SHA"} }, ""},
		{"nothing offered", nil, func(r *wire.ConnectRequest) {}, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l := newLab(t, tt.change)
			req := request(l.cookie("alice"))
			master := randomMaster()
			req.MasterSecret = master[:]
			tt.offer(req)
			c, err := l.request(req)
			if err != nil {
				t.Fatal(err)
			}
			r := c.reply
			if tt.cipher == "" {
				if r.DTLSPort != 0 || r.DTLSAppID != nil || r.DTLSSessionID != nil || r.DTLSCipherSuite+r.DTLS12CipherSuite != "" {
					t.Errorf("DTLS is announced: %+v", r)
				}
				return
			}
			if r.DTLSMTU != 0 && r.DTLSMTU != r.MTU {
				t.Errorf("two MTUs, %d and %d", r.MTU, r.DTLSMTU)
			}
			conn := l.datagrams(c, master)
			if got := conn.CipherSuite(); !strings.HasPrefix(got, tt.cipher) {
				t.Errorf("cipher %s, want %s", got, tt.cipher)
			}
			c.host(conn)
			if err := c.exchange("udp", echo(t), "over DTLS"); err != nil {
				t.Fatal(err)
			}
			s := l.only()
			if s.Path != "dtls" || s.DTLSCipher == "" {
				t.Errorf("path %q, cipher %q", s.Path, s.DTLSCipher)
			}
			if s.Remote.Addr() != l.addr.Addr() || s.RemoteUDP.Addr() != l.addr.Addr() || s.RemoteUDP.Port() == 0 {
				t.Errorf("remote %v, by UDP %v", s.Remote, s.RemoteUDP)
			}
			if st := conn.Stats(); st.PacketsReceived == 0 {
				t.Errorf("nothing came over DTLS: %+v", st)
			}
			if st := c.conn.Stats(); st.In != 0 {
				t.Errorf("%d packets came over TLS", st.In)
			}
		})
	}
}

// Packets follow the channel that the client uses.
func TestChannelChoice(t *testing.T) {
	l := newLab(t, nil)
	req := request(l.cookie("alice"))
	req.DTLSCipherSuites = []string{wire.PSKNegotiate}
	c, err := l.request(req)
	if err != nil {
		t.Fatal(err)
	}
	conn := l.datagrams(c, [48]byte{})
	go drain(conn)
	path := func(want string) {
		t.Helper()
		eventually(t, "packets go by "+want, func() bool { return l.only().Path == want })
	}
	path("dtls")
	ping := packet.Batch{packet.NewBuf(1500)}
	ping[0].Set(udpPacket(c.lease.Addresses[0].Addr(), netip.MustParseAddr("10.20.0.1"), 9, nil))
	// A packet that was under way on TLS changes nothing.
	if _, err := c.conn.WriteBatch(ping); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the packet has come", func() bool { return l.only().Received.Packets == 1 })
	path("dtls")
	sess, err := l.table.get(l.only().ID)
	if err != nil {
		t.Fatal(err)
	}
	sess.paths.lastUDP.Store(time.Now().Add(-2 * udpMargin).UnixNano())
	c.conn.WriteBatch(ping)
	path("tls")
	conn.WriteBatch(ping)
	path("dtls")
	conn.Close()
	path("tls")
}

func drain(r packet.Reader) {
	b := packet.NewBatch(16, 2048)
	for {
		if _, err := r.ReadBatch(b); err != nil {
			return
		}
	}
}

// udpPacket returns an IPv4 UDP packet.
func udpPacket(src, dst netip.Addr, port uint16, payload []byte) []byte {
	p := make([]byte, 28+len(payload))
	p[0], p[8], p[9] = 0x45, 64, 17
	binary.BigEndian.PutUint16(p[2:], uint16(len(p)))
	copy(p[12:], src.AsSlice())
	copy(p[16:], dst.AsSlice())
	sum := uint32(0)
	for i := 0; i < 20; i += 2 {
		sum += uint32(binary.BigEndian.Uint16(p[i:]))
	}
	for sum>>16 != 0 {
		sum = sum&0xffff + sum>>16
	}
	binary.BigEndian.PutUint16(p[10:], ^uint16(sum))
	binary.BigEndian.PutUint16(p[20:], 4000)
	binary.BigEndian.PutUint16(p[22:], port)
	binary.BigEndian.PutUint16(p[24:], uint16(8+len(payload)))
	copy(p[28:], payload)
	return p
}

func TestReconnectKeepsAddresses(t *testing.T) {
	l := newLab(t, nil)
	cookie := l.cookie("alice")
	first := l.tunnel(cookie)
	id := l.only().ID
	// A second tunnel with the same cookie takes over, without a word to the first.
	second := l.tunnel(cookie)
	eventually(t, "the first tunnel ends", func() bool { return first.conn.Err() != nil })
	if err := first.conn.Err(); errors.Is(err, transport.ErrDisconnected) {
		t.Errorf("the first tunnel was told %v", err)
	}
	if first.lease.Addresses[0] != second.lease.Addresses[0] || first.lease.Addresses[1] != second.lease.Addresses[1] {
		t.Errorf("addresses %v, then %v", first.lease.Addresses, second.lease.Addresses)
	}
	if s := l.only(); s.ID != id || s.Connects != 2 || s.Path != "tls" {
		t.Errorf("session %+v", s)
	}
	if err := second.exchange("tcp", echo(t), "second"); err != nil {
		t.Error(err)
	}

	// After a failure of the network too.
	if err := l.Drop(id); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the tunnel ends", func() bool { return second.conn.Err() != nil })
	if s := l.only(); s.Path != "" || len(s.Addresses) != 2 {
		t.Errorf("session %+v", s)
	}
	if third := l.tunnel(cookie); third.lease.Addresses[0] != first.lease.Addresses[0] {
		t.Errorf("address %v after a failure", third.lease.Addresses[0])
	}

	if err := l.Renumber(id); err != nil {
		t.Fatal(err)
	}
	if fourth := l.tunnel(cookie); fourth.lease.Addresses[0] == first.lease.Addresses[0] {
		t.Error("the address is the same after Renumber")
	}
	if err := l.Expire(id); err != nil {
		t.Fatal(err)
	}
	if _, err := l.request(request(cookie)); !errors.Is(err, transport.ErrExpired) {
		t.Errorf("with a forgotten cookie: %v", err)
	}
}

func TestEndOfSession(t *testing.T) {
	t.Run("goodbye", func(t *testing.T) {
		l := newLab(t, nil)
		cookie := l.cookie("alice")
		c := l.tunnel(cookie)
		if err := c.conn.Disconnect(wire.ReasonUser, "bye"); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the gateway notices", func() bool { return l.only().Path == "" })
		s, err := l.table.get(l.only().ID)
		if err != nil {
			t.Fatal(err)
		}
		s.mu.Lock()
		left := time.Until(s.deadline())
		// Let the time pass.
		s.gone = s.gone.Add(-goodbyeGrace)
		s.mu.Unlock()
		if left > goodbyeGrace || left < goodbyeGrace-5*time.Second {
			t.Errorf("the session has %v left", left)
		}
		if l.table.find(cookie) != nil {
			t.Error("the cookie is still good")
		}
		s.review()
		if n := len(l.Sessions()); n != 0 {
			t.Errorf("%d sessions left", n)
		}
	})
	t.Run("pause", func(t *testing.T) {
		l := newLab(t, nil)
		c := l.tunnel(l.cookie("alice"))
		c.conn.Disconnect(wire.ReasonPause, "")
		eventually(t, "the gateway notices", func() bool { return l.only().Path == "" })
		s, _ := l.table.get(l.only().ID)
		s.mu.Lock()
		defer s.mu.Unlock()
		if left := time.Until(s.deadline()); left < 5*time.Minute {
			t.Errorf("the session has %v left", left)
		}
	})
	t.Run("kick", func(t *testing.T) {
		l := newLab(t, nil)
		cookie := l.cookie("alice")
		c := l.tunnel(cookie)
		if err := l.Disconnect(l.only().ID, "out with you"); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the client notices", func() bool { return c.conn.Err() != nil })
		bye, ok := errors.AsType[*cstp.DisconnectError](c.conn.Err())
		if !ok || bye.Text != "out with you" || bye.Reason != wire.ReasonError {
			t.Errorf("the client was told %v", c.conn.Err())
		}
		if _, err := l.request(request(cookie)); !errors.Is(err, transport.ErrExpired) {
			t.Errorf("afterwards: %v", err)
		}
		if err := l.Disconnect("nobody", ""); err == nil {
			t.Error("an unknown session can be ended")
		}
	})
	t.Run("session timeout", func(t *testing.T) {
		l := newLab(t, func(c *Config) { c.SessionTimeout = 2 * time.Second })
		c := l.tunnel(l.cookie("alice"))
		eventually(t, "the session ends", func() bool { return len(l.Sessions()) == 0 && c.conn.Err() != nil })
	})
	t.Run("idle timeout", func(t *testing.T) {
		l := newLab(t, func(c *Config) { c.IdleTimeout = 2 * time.Second })
		c := l.tunnel(l.cookie("alice"))
		to := echo(t)
		for range 5 {
			if err := c.exchange("udp", to, "busy"); err != nil {
				t.Fatal(err)
			}
			time.Sleep(500 * time.Millisecond)
		}
		eventually(t, "the session ends", func() bool { return len(l.Sessions()) == 0 && c.conn.Err() != nil })
	})
	t.Run("shutdown", func(t *testing.T) {
		l := newLab(t, nil)
		c := l.tunnel(l.cookie("alice"))
		if err := l.Shutdown(testContext(t)); err != nil {
			t.Errorf("Shutdown: %v", err)
		}
		eventually(t, "the client notices", func() bool { return c.conn.Err() != nil })
		if err := c.conn.Err(); errors.Is(err, transport.ErrDisconnected) {
			t.Errorf("the client was told %v, and so stays away", err)
		}
	})
}

func TestCompression(t *testing.T) {
	for _, allowed := range []bool{false, true} {
		t.Run(strconv.FormatBool(allowed), func(t *testing.T) {
			l := newLab(t, func(c *Config) { c.Compression = allowed })
			req := request(l.cookie("alice"))
			req.AcceptEncoding = []string{wire.LZS, wire.LZ4}
			c, err := l.request(req)
			if err != nil {
				t.Fatal(err)
			}
			if got := c.reply.ContentEncoding; (got == wire.LZ4) != allowed {
				t.Errorf("encoding %q", got)
			}
		})
	}
}

// The program reaches what a client serves.
func TestDialClient(t *testing.T) {
	l := newLab(t, nil)
	c := l.tunnel(l.cookie("alice"))
	ln, err := c.stack.Listen("tcp", ":22")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	go func() {
		if nc, err := ln.Accept(); err == nil {
			io.WriteString(nc, "hello")
			nc.Close()
		}
	}()
	nc, err := l.DialContext(testContext(t), "tcp", netip.AddrPortFrom(c.lease.Addresses[0].Addr(), 22).String())
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	if b, err := io.ReadAll(nc); err != nil || string(b) != "hello" {
		t.Errorf("%q, %v", b, err)
	}
}

func TestSpoofing(t *testing.T) {
	l := newLab(t, func(c *Config) { c.ClientToClient = true })
	alice, bob := l.tunnel(l.cookie("alice")), l.tunnel(l.cookie("bob"))
	b := bob.lease.Addresses[0].Addr()
	var spoofed packet.Batch
	for _, src := range []netip.Addr{b, netip.MustParseAddr("10.20.0.1"), netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("127.0.0.1")} {
		buf := packet.NewBuf(1500)
		buf.Set(udpPacket(src, b, 9, []byte("x")))
		spoofed = append(spoofed, buf)
	}
	if _, err := alice.conn.WriteBatch(spoofed); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the gateway counts them", func() bool {
		for _, s := range l.Sessions() {
			if s.User == "alice" && s.Spoofed == uint64(len(spoofed)) {
				return true
			}
		}
		return false
	})
	if in := bob.conn.Stats().In; in != 0 {
		t.Errorf("bob got %d of them", in)
	}
}

func TestClientToClient(t *testing.T) {
	for _, allowed := range []bool{false, true} {
		l := newLab(t, func(c *Config) { c.ClientToClient = allowed })
		alice, bob := l.tunnel(l.cookie("alice")), l.tunnel(l.cookie("bob"))
		pc, err := bob.stack.ListenPacket("udp4", ":7")
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			b := make([]byte, 2048)
			for {
				n, from, err := pc.ReadFrom(b)
				if err != nil {
					return
				}
				pc.WriteTo(b[:n], from)
			}
		}()
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		nc, err := alice.stack.DialContext(ctx, "udp", netip.AddrPortFrom(bob.lease.Addresses[0].Addr(), 7).String())
		cancel()
		if err != nil {
			t.Fatal(err)
		}
		patience := 500 * time.Millisecond
		if allowed {
			patience = 20 * time.Second
		}
		nc.SetDeadline(time.Now().Add(patience))
		io.WriteString(nc, "hello bob")
		_, err = nc.Read(make([]byte, 100))
		if (err == nil) != allowed {
			t.Errorf("allowed %v: %v", allowed, err)
		}
		nc.Close()
		pc.Close()
	}
}

func TestLimits(t *testing.T) {
	t.Run("addresses", func(t *testing.T) {
		l := newLab(t, func(c *Config) { c.Pools = prefixes("10.20.0.0/30") })
		l.tunnel(l.cookie("alice"))
		_, err := l.request(request(l.cookie("bob")))
		status, ok := errors.AsType[*cstp.StatusError](err)
		if !ok || status.Code != 503 || !strings.Contains(status.Reason, "No address") {
			t.Errorf("a second client: %v", err)
		}
	})
	t.Run("sessions", func(t *testing.T) {
		l := newLab(t, func(c *Config) { c.MaxSessions, c.MaxSessionsPerUser = 3, 2 })
		l.cookie("alice")
		old := l.Sessions()[0].ID
		l.tunnel(l.cookie("alice"))
		// The one without a tunnel makes room.
		l.tunnel(l.cookie("alice"))
		if _, err := l.table.get(old); err == nil || len(l.Sessions()) != 2 {
			t.Errorf("%d sessions", len(l.Sessions()))
		}
		k := newTalk(l)
		k.do("POST", "/", initXML)
		if _, body := k.do("POST", "/auth", replyXML("alice", "alicepass")); !strings.Contains(body, "too many sessions") {
			t.Errorf("a third tunnel: %s", body)
		}
		l.cookie("bob")
		k.cookie = ""
		k.do("POST", "/", initXML)
		if _, body := k.do("POST", "/auth", replyXML("carol", "carolpass")); !strings.Contains(body, "no room") {
			t.Errorf("a fourth session: %s", body)
		}
	})
	t.Run("flows", func(t *testing.T) {
		l := newLab(t, func(c *Config) { c.MaxFlows = 2 })
		c := l.tunnel(l.cookie("alice"))
		to := echo(t)
		for range 2 {
			nc, err := c.stack.DialContext(testContext(t), "tcp", to)
			if err != nil {
				t.Fatal(err)
			}
			defer nc.Close()
		}
		if err := c.exchange("tcp", to, "x"); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("a third flow: %v", err)
		}
	})
}

// A client that does not read delays nobody else, and costs bounded memory.
func TestSlowClient(t *testing.T) {
	l := newLab(t, nil)
	cookie := l.cookie("alice")
	nc, err := net.Dial("tcp", l.addr.String())
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	link := cstp.Client(nc, l.tls)
	reply, _, err := cstp.Connect(testContext(t), link, request(cookie))
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "the tunnel is up", func() bool { return l.only().Path == "tls" })
	flood := packet.NewBatch(batchSize, 1500)
	to, _ := l.table.owner(reply.Addresses[0].Addr())
	deadline := time.Now().Add(10 * time.Second)
	for to.dropped.Load() < 10*queueDepth {
		for i := range flood {
			flood[i].Set(udpPacket(netip.MustParseAddr("10.20.0.1"), reply.Addresses[0].Addr(), 9, make([]byte, 1300)))
		}
		to.send(flood)
		if time.Now().After(deadline) {
			t.Fatal("nothing is dropped")
		}
	}
	bob := l.tunnel(l.cookie("bob"))
	start := time.Now()
	if err := bob.exchange("tcp", echo(t), "not delayed"); err != nil {
		t.Fatal(err)
	}
	if d := time.Since(start); d > 8*time.Second {
		t.Errorf("it took %v beside a stalled client", d)
	}
}

// The exact bytes of the reply are what old clients compare.
func TestConnectReplyBytes(t *testing.T) {
	for _, quirks := range []string{"", "anylink"} {
		t.Run(quirks, func(t *testing.T) { testConnectReplyBytes(t, quirks) })
	}
}

func testConnectReplyBytes(t *testing.T, quirks string) {
	l := newLab(t, func(c *Config) { c.Quirks.Server = quirks })
	cookie := l.cookie("alice")
	nc, err := tls.Dial("tcp", l.addr.String(), l.tls)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	master := randomMaster()
	req := request(cookie)
	req.MasterSecret, req.DTLS12CipherSuites = master[:], []string{"ECDHE-RSA-AES256-GCM-SHA384"}
	// The first frame may come glued to the request.
	payload := "are you there?"
	frame := append(make([]byte, wire.HeaderLen), payload...)
	wire.PutHeader(frame, wire.DPDRequest, len(payload))
	if _, err := nc.Write(append(req.Append(nil), frame...)); err != nil {
		t.Fatal(err)
	}
	br := bufio.NewReader(nc)
	var head strings.Builder
	for {
		line, err := br.ReadString('\n')
		if err != nil {
			t.Fatal(err)
		}
		head.WriteString(line)
		if line == "\r\n" {
			break
		}
	}
	text := head.String()
	status, port := "200 CONNECTED", l.udpPort()
	if quirks == "anylink" {
		status, port, payload = "200 OK", portDiscard, ""
	}
	for _, want := range []string{
		"HTTP/1.1 " + status + "\r\nX-CSTP-Version: 1\r\n", "\r\nX-CSTP-Address: 10.20.0.", "\r\nX-CSTP-Netmask: 255.255.255.0\r\n",
		"\r\nX-CSTP-Address-IP6: fd20::", "\r\nX-CSTP-DNS: 10.20.0.1\r\n", "\r\nX-CSTP-Split-Include: 10.20.0.0/255.255.255.0\r\n",
		"\r\nX-CSTP-DPD: 30\r\n", "\r\nX-CSTP-Keepalive: 20\r\n", "\r\nX-CSTP-License: accept\r\n", "\r\nX-CSTP-MTU: 1434\r\n",
		"\r\nX-CSTP-Base-MTU: 1500\r\n", fmt.Sprintf("\r\nX-DTLS-Port: %d\r\n", port), "\r\nX-DTLS-MTU: 1434\r\n", "\r\nX-CSTP-Rekey-Method: new-tunnel\r\n",
		"\r\nX-DTLS12-CipherSuite: ECDHE-RSA-AES256-GCM-SHA384\r\n",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
	if strings.Contains(text, "Content-Length") || strings.Contains(text, "Transfer-Encoding") != (quirks == "anylink") {
		t.Errorf("wrong framing of a body that is not there:\n%s", text)
	}
	got := make([]byte, wire.HeaderLen)
	nc.SetReadDeadline(time.Now().Add(5 * time.Second))
	if _, err := io.ReadFull(br, got); err != nil {
		t.Fatal(err)
	}
	typ, n, err := wire.ParseHeader(got)
	if typ != wire.DPDResponse || n != len(payload) || err != nil {
		t.Fatalf("the probe is answered by %v of %d bytes, %v", typ, n, err)
	}
	echoed := make([]byte, n)
	if _, err := io.ReadFull(br, echoed); err != nil || string(echoed) != payload {
		t.Errorf("the answer has %q, %v", echoed, err)
	}
}

func TestConnectRefused(t *testing.T) {
	l := newLab(t, nil)
	for _, cookie := range []string{"", "x", strings.Repeat("0", 64), `"`, strings.Repeat("A", 8000)} {
		if _, err := l.request(request(cookie)); err == nil {
			t.Errorf("cookie %.10q is accepted", cookie)
		}
	}
	req := request(l.cookie("alice"))
	req.BaseMTU = 1300
	c, err := l.request(req)
	if err != nil {
		t.Fatal(err)
	}
	if len(c.lease.Addresses) != 1 || c.lease.MTU >= 1280 {
		t.Errorf("IPv6 over an MTU of %d: %v", c.lease.MTU, c.lease.Addresses)
	}
}

func TestQueue(t *testing.T) {
	const size = 64
	var mu sync.Mutex
	var got []byte
	gate := make(chan struct{})
	q := newQueue(newSpare(size), func(b packet.Batch) {
		<-gate
		mu.Lock()
		defer mu.Unlock()
		for i := range b {
			got = append(got, b[i].Bytes()...)
		}
	})
	in := packet.NewBatch(batchSize, size)
	var sent []byte
	dropped := 0
	for k := range byte(100) {
		for i := range in[:1+k%batchSize] {
			in[i].Set([]byte{k})
		}
		n := int(1 + k%batchSize)
		lost := q.put(in[:n])
		dropped += lost
		sent = append(sent, bytes.Repeat([]byte{k}, n-lost)...)
		if len(sent) < queueDepth && lost > 0 {
			t.Fatalf("%d dropped after %d", lost, len(sent))
		}
	}
	// One batch may be on its way.
	if len(sent) > queueDepth+batchSize || dropped == 0 {
		t.Errorf("%d packets are held, %d dropped", len(sent), dropped)
	}
	close(gate)
	eventually(t, "all is sent", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return bytes.Equal(got, sent)
	})
	eventually(t, "the queue rests", func() bool {
		q.mu.Lock()
		defer q.mu.Unlock()
		return !q.busy && len(q.ring) == restDepth
	})
	seen := map[*byte]bool{}
	for _, b := range [][]packet.Buf{q.ring, q.spare.bufs, in} {
		for i := range b {
			if b[i].Size() > 0 && seen[&b[i].Space()[0]] {
				t.Fatal("two Bufs share memory")
			} else if b[i].Size() > 0 {
				seen[&b[i].Space()[0]] = true
			}
		}
	}
	if len(seen) > len(in)+cap(q.spare.bufs) {
		t.Errorf("%d Bufs are kept", len(seen))
	}
	for i := range q.ring {
		if q.ring[i].Size() != 0 {
			t.Fatal("an empty queue has memory")
		}
	}
	q.close()
	if q.put(in[:1]) != 1 {
		t.Error("a closed queue takes packets")
	}
}

// What is for a client whose CONNECT is being answered goes after the answer.
func TestQueueHeld(t *testing.T) {
	sent := make(chan int, 1)
	q := newQueue(newSpare(64), func(b packet.Batch) { sent <- len(b) })
	q.hold()
	if dropped := q.put(packet.NewBatch(2, 64)); dropped != 0 {
		t.Fatalf("%d dropped", dropped)
	}
	q.mu.Lock()
	if q.busy {
		t.Error("packets are sent before release")
	}
	q.mu.Unlock()
	q.release()
	select {
	case n := <-sent:
		if n != 2 {
			t.Errorf("%d packets are sent", n)
		}
	case <-time.After(10 * time.Second):
		t.Error("nothing is sent after release")
	}
	q.close()
}

func TestQueueAllocs(t *testing.T) {
	q := newQueue(newSpare(64), func(packet.Batch) {})
	q.busy = true // the goroutine that takes packets out is this one
	in, out := packet.NewBatch(batchSize, 64), make(packet.Batch, batchSize)
	if n := testing.AllocsPerRun(100, func() {
		q.put(in)
		q.put(in)
		q.spare.give(out[:q.get(out)])
		q.spare.give(out[:q.get(out)])
	}); n != 0 {
		t.Errorf("%v allocations for a batch", n)
	}
}

// From the channel of one client to the queue of another nothing is allocated.
func TestRoutingDoesNotAllocate(t *testing.T) {
	l := newLab(t, func(c *Config) { c.ClientToClient = true })
	c, err := l.request(request(l.cookie("alice")))
	if err != nil {
		t.Fatal(err)
	}
	other, err := l.request(request(l.cookie("bob")))
	if err != nil {
		t.Fatal(err)
	}
	own, theirs := c.lease.Addresses[0].Addr(), other.lease.Addresses[0].Addr()
	s, _ := l.table.owner(own)
	to, _ := l.table.owner(theirs)
	// Nobody takes the packets out of the queue, so they are dropped at the end of the way.
	to.paths.tls.Store(nil)
	b := packet.NewBatch(batchSize, 1500)
	for i := range b {
		b[i].Set(udpPacket(own, theirs, 9, nil))
	}
	if n := testing.AllocsPerRun(100, func() { s.receive(b, false) }); n != 0 {
		t.Errorf("%v allocations for a batch", n)
	}
	if n := to.dropped.Load(); n == 0 {
		t.Error("nothing arrived")
	}
}

// What was under way to a client that has gone must not reach the next one who gets his address.
func TestAddressesChangeHandsClean(t *testing.T) {
	l := newLab(t, func(c *Config) { c.Pools = prefixes("10.20.0.0/30") })
	ln, err := l.Listen("tcp", "10.20.0.1:80")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	ended := make(chan error, 1)
	go func() {
		c, err := ln.Accept()
		for err == nil {
			_, err = c.Write(make([]byte, 1000))
		}
		ended <- err
	}()
	cookie := l.cookie("alice")
	alice := l.tunnel(cookie)
	nc, err := alice.stack.DialContext(testContext(t), "tcp", "10.20.0.1:80")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(nc, make([]byte, 100_000)); err != nil {
		t.Fatal(err)
	}
	if err := l.Disconnect(l.only().ID, "out"); err != nil {
		t.Fatal(err)
	}
	bob, err := l.request(request(l.cookie("bob")))
	if err != nil {
		t.Fatal(err)
	}
	if a, b := alice.lease.Addresses[0], bob.lease.Addresses[0]; a != b {
		t.Fatalf("alice had %v, and bob has %v", a, b)
	}
	time.AfterFunc(2*time.Second, func() { bob.conn.Close() })
	b := packet.NewBatch(16, 2048)
	for {
		n, err := bob.conn.ReadBatch(b)
		if err != nil {
			break
		}
		t.Errorf("bob gets %d packets that were alice's, of %d bytes", n, b[0].Len())
	}
	select {
	case <-ended:
	case <-time.After(20 * time.Second):
		t.Error("the connection of alice is still open")
	}
}

// A client that tries addresses where nobody answers must not keep others from opening connections.
func TestPendingConnectionsOfOneClient(t *testing.T) {
	l := newLab(t, func(c *Config) {
		dial := c.Dial
		c.MaxFlows = 8192
		c.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
			if strings.HasPrefix(address, "192.0.2.9:") {
				<-ctx.Done()
				return nil, ctx.Err()
			}
			return dial(ctx, network, address)
		}
	})
	alice, bob := l.tunnel(l.cookie("alice")), l.tunnel(l.cookie("bob"))
	to := echo(t)
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	for port := range 2000 {
		wg.Go(func() {
			nc, err := alice.stack.DialContext(ctx, "tcp", fmt.Sprintf("192.0.2.9:%d", 1000+port))
			if err == nil {
				nc.Close()
			}
		})
	}
	time.Sleep(500 * time.Millisecond)
	if err := bob.exchange("tcp", to, "hello"); err != nil {
		t.Errorf("bob: %v", err)
	}
}

func TestSessionsOfOneUserAtOnce(t *testing.T) {
	l := newLab(t, func(c *Config) { c.MaxSessionsPerUser = 2 })
	var wg sync.WaitGroup
	for range 64 {
		wg.Go(func() { l.table.add("alice", "", &l.cfg.Network, clientAgent{}, time.Now()) })
	}
	wg.Wait()
	if n := len(l.Sessions()); n > 2 {
		t.Errorf("%d sessions, want 2 at most", n)
	}
}

func TestDroppedIsNotSent(t *testing.T) {
	l := newLab(t, nil)
	l.cookie("alice")
	sess, err := l.table.get(l.only().ID)
	if err != nil {
		t.Fatal(err)
	}
	b := packet.NewBatch(3, 1500)
	for i := range b {
		b[i].SetLen(100)
	}
	sess.send(b)
	if s := l.only(); s.Dropped != 3 || s.Sent != (Traffic{}) {
		t.Errorf("%d dropped, %+v sent to a client that is not there", s.Dropped, s.Sent)
	}
}
