package gateway

import (
	"crypto/rand"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"time"

	"culvert.example/vpn/transport/cstp"
	"culvert.example/vpn/transport/dtls"
	"culvert.example/vpn/transport/liveness"
	"culvert.example/vpn/transport/wire"
)

const (
	// tunnelOverhead is what DTLS with AES-GCM costs inside of UDP, in bytes, with the type in front of the packet. The other
	// suites cost less.
	tunnelOverhead = 13 + 8 + 16 + 1
	// mobileDPD spares the battery of mobile devices.
	mobileDPD = 5 * time.Minute
	// portDiscard is where nobody answers (RFC 863).
	portDiscard = 9
	// replyTimeout bounds the sending of the reply to CONNECT.
	replyTimeout = 10 * time.Second
	// maxKeepalive is what NATs take to keep a UDP mapping.
	maxKeepalive = 20 * time.Second
)

// innerMTU returns the size of the largest inner packet for an outer path.
func innerMTU(link int, outer netip.Addr) int {
	if outer.Is4() {
		return link - 20 - 8 - tunnelOverhead
	}
	return link - 40 - 8 - tunnelOverhead
}

// connect answers a request for a tunnel.
func (s *Server) connect(w http.ResponseWriter, r *http.Request) {
	// One client writes the path without its first slash, which makes the first part of it a host.
	if path := r.URL.Path; path != wire.TunnelPath && "/"+r.URL.Host+path != wire.TunnelPath {
		w.WriteHeader(http.StatusNotFound)
		return
	}
	// The cookie is taken from the header as it stands, all else of the request as well.
	req := wire.ParseConnectRequest(r.Header)
	in := connOf(r.Context())
	sess := s.table.find(req.Cookie)
	if req.Cookie == "" || sess == nil {
		s.log.Info("tunnel refused: unknown session", "remote", r.RemoteAddr)
		turnAway(w, http.StatusUnauthorized, "")
		return
	}
	// Of two requests at once the later one wins, which is the one that gets here later.
	sess.connecting.Lock()
	defer sess.connecting.Unlock()
	if sess.isOver() {
		turnAway(w, http.StatusUnauthorized, "")
		return
	}

	remote := remoteOf(r)
	rep, setup, err := s.propose(sess, req, in, remote.Addr())
	if err != nil {
		s.log.Warn("tunnel refused", "session", sess.id, "user", sess.user, "remote", remote, "err", err)
		turnAway(w, http.StatusServiceUnavailable, refusalReason(err))
		return
	}
	hijacked, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		s.log.Error("cannot take over the connection", "remote", remote, "err", err)
		turnAway(w, http.StatusInternalServerError, "")
		return
	}
	hijacked.SetDeadline(time.Time{})
	sess.steal()
	s.forgetDTLS(sess)
	if setup != nil {
		s.offerDTLS(sess, setup)
	}
	in.leave()
	sess.describe(req)
	// The session has its tunnel before the client knows, so that whoever acts on the one finds the other.
	t := sess.open(cstp.NewConn(in.Link, buffered.Reader, cstp.Config{
		MTU:         min(s.cfg.MTU, wire.MaxPayload),
		Compression: rep.ContentEncoding,
		Beat:        watch(rep.DPD),
		ShortDPD:    s.cfg.Quirks.ShortDPD,
		Server:      true,
		Logger:      s.log,
	}), remote, rep.MTU)
	hijacked.SetWriteDeadline(time.Now().Add(replyTimeout))
	_, err = hijacked.Write(rep.Append(nil))
	hijacked.SetWriteDeadline(time.Time{})
	if err != nil {
		t.close()
		sess.lost(t, err)
		return
	}
	t.start()
	dtlsMode := "none"
	if rep.DTLSCipherSuite != "" || rep.DTLS12CipherSuite != "" {
		dtlsMode = rep.DTLSCipherSuite + rep.DTLS12CipherSuite
	}
	s.log.Info("tunnel is up", "session", sess.id, "user", sess.user, "remote", remote, "addresses", rep.Addresses, "mtu", rep.MTU,
		"dtls", dtlsMode, "agent", clip(req.UserAgent, 63))
}

// watch returns how the gateway sees to it that a client lives: it is the client's part to probe, so the gateway does so only after
// one and a half of the client's periods, and gives up after three. Load makes no difference, because a client that sleeps
// comes back to its connection.
func watch(dpd time.Duration) liveness.Config {
	return liveness.Config{DPD: dpd * 3 / 2, Load: -1}
}

// refusalReason is what the client may know of err.
func refusalReason(err error) string {
	if errors.Is(err, errNoAddress) {
		return "No address available"
	}
	return "Server error"
}

// turnAway answers a CONNECT that fails. There is no body, and some clients wait for none only if the connection ends.
func turnAway(w http.ResponseWriter, code int, reason string) {
	// As bytes of the map, so that the name keeps its case.
	if reason != "" {
		w.Header()["X-Reason"] = []string{reason}
	}
	w.Header().Set("Connection", "close")
	w.Header().Set("Content-Length", "0")
	w.WriteHeader(code)
}

// A dtlsOffer is what it takes to open the DTLS channel of a tunnel.
type dtlsOffer struct {
	id      []byte
	session *dtls.ServerSession
}

// propose decides what the tunnel will be like. The offer is nil if there is to be no DTLS.
func (s *Server) propose(sess *session, req *wire.ConnectRequest, in *inbound, remote netip.Addr) (*wire.ConnectReply, *dtlsOffer, error) {
	c, n := &s.cfg, sess.network
	link := c.MTU
	if req.BaseMTU >= 576 {
		link = min(link, req.BaseMTU)
	}
	if mtu := pathMTU(in.nc); mtu >= 576 {
		link = min(link, mtu)
	}
	mtu := innerMTU(link, remote)
	if req.BaseMTU == 0 && req.MTU >= 576 {
		mtu = min(mtu, req.MTU)
	}

	v4 := req.IPv4 || !req.IPv6
	v6 := req.IPv6 && mtu >= 1280
	addrs, err := s.table.lease(sess, v4, v6)
	if err != nil {
		return nil, nil, err
	}
	dpd := c.DPD
	if req.License == "mobile" {
		dpd = max(dpd, mobileDPD)
	}
	rep := &wire.ConnectReply{
		StatusCode: http.StatusOK,
		Status:     "CONNECTED",
		ServerName: c.Name,

		DNS:             n.DNS,
		NBNS:            n.NBNS,
		DefaultDomain:   n.SearchDomains,
		SplitDNS:        n.SplitDNS,
		TunnelAllDNS:    n.TunnelAllDNS,
		SplitInclude:    slices.Clone(n.Routes),
		SplitExclude:    n.NoRoutes,
		ExcludeLocalLAN: n.ExcludeLocalLAN,
		BypassProtocol:  n.BypassProtocol,

		DPD:         dpd,
		Keepalive:   c.Keepalive,
		RekeyMethod: "none",

		LeaseDuration:           c.SessionTimeout,
		SessionTimeout:          c.SessionTimeout,
		SessionTimeoutRemaining: max(time.Until(sess.expires), time.Second),
		SessionTimeoutAlert:     time.Minute,
		IdleTimeout:             c.IdleTimeout,
		DisconnectedTimeout:     c.DisconnectedTimeout,

		License:                    "accept",
		Keep:                       true,
		TCPKeepalive:               true,
		SmartcardRemovalDisconnect: true,

		Banner:  n.Banner,
		BaseMTU: link,
		MTU:     mtu,

		LegacyIPv6: !req.FullIPv6,
		PlainDNS6:  strings.Contains(strings.ToLower(req.UserAgent), "openconnect"),
	}
	if c.Quirks.Server == likeASA || c.Quirks.Server == likeAnyLink {
		rep.Status = "OK"
	}
	if c.Rekey > 0 {
		rep.RekeyTime, rep.RekeyMethod = c.Rekey, "new-tunnel"
	}
	for _, a := range addrs {
		rep.Addresses = append(rep.Addresses, netip.PrefixFrom(a, s.table.prefixOf(a).Bits()))
	}
	if strings.HasPrefix(strings.ToLower(req.Platform), "apple-ios") && v6 && !slices.ContainsFunc(n.Routes, isPrefix6) {
		// Those take no IPv6 default route, but one for all there is.
		rep.SplitInclude = append(rep.SplitInclude, netip.MustParsePrefix("2000::/3"))
	}
	if c.Compression {
		rep.ContentEncoding = pick(req.AcceptEncoding, wire.LZ4, wire.LZS)
	}
	if req.License != "mobile" && (c.Quirks.Server == likeASA || len(n.DynamicInclude)+len(n.DynamicExclude) > 0) {
		doc := &wire.Document{Kind: wire.KindComplete, Auth: &wire.Auth{ID: wire.AuthSuccess}, Config: n.clientConfig("")}
		rep.PostAuthXML = strings.NewReplacer("\r", "", "\n", "").Replace(string(doc.Append(nil)))
	}
	if c.Quirks.ChunkedConnect {
		rep.Extra = append(rep.Extra, wire.HeaderField{Name: "Transfer-Encoding", Value: "chunked"})
	}
	offer := s.proposeDTLS(rep, req, in)
	return rep, offer, nil
}

func isPrefix6(p netip.Prefix) bool { return p.Addr().Is6() }

// pick returns the first of the wanted that is offered.
func pick(offered []string, wanted ...string) string {
	for _, w := range wanted {
		if slices.Contains(offered, w) {
			return w
		}
	}
	return ""
}

// proposeDTLS adds DTLS to the reply, if both ends can do it, and returns what it takes.
func (s *Server) proposeDTLS(rep *wire.ConnectReply, req *wire.ConnectRequest, in *inbound) *dtlsOffer {
	c := &s.cfg
	port := s.udpPort()
	if c.Quirks.DeadDTLS {
		port = portDiscard
	}
	if port == 0 {
		return nil
	}
	id := make([]byte, 32)
	if _, err := rand.Read(id); err != nil {
		return nil
	}
	session := &dtls.ServerSession{
		MTU: rep.MTU, BaseMTU: rep.BaseMTU, Beat: watch(rep.DPD),
		IPv6: slices.ContainsFunc(rep.Addresses, isPrefix6),
	}
	offersPSK := slices.Contains(req.DTLSCipherSuites, wire.PSKNegotiate) || slices.Contains(req.DTLS12CipherSuites, wire.PSKNegotiate)
	if key, err := in.ExportKey(wire.PSKLabel, wire.PSKLen); offersPSK && !c.Quirks.NoPSK && err == nil {
		session.PSK = &dtls.PSK{Key: key, AppID: id}
		rep.DTLSAppID, rep.DTLSCipherSuite = id, wire.PSKNegotiate
	} else if len(req.MasterSecret) == 48 && !isZero(req.MasterSecret) {
		resume := &dtls.Resume{MasterSecret: [48]byte(req.MasterSecret), SessionID: id}
		if name := pick(req.DTLS12CipherSuites, strings.Split(dtls.OfferCipherSuites12, ":")...); name != "" {
			resume.CipherSuite, resume.DTLS12 = name, true
			rep.DTLS12CipherSuite = name
		} else if name := pick(req.DTLSCipherSuites, strings.Split(dtls.OfferCipherSuites, ":")...); name != "" {
			resume.CipherSuite = name
			rep.DTLSCipherSuite = name
		} else {
			return nil
		}
		session.Resume = resume
		rep.DTLSSessionID = id
		rep.DTLSMTU = rep.MTU
	} else {
		return nil
	}
	rep.DTLSPort = port
	rep.DTLSDPD, rep.DTLSKeepalive = rep.DPD, min(rep.Keepalive, maxKeepalive)
	rep.DTLSRekeyTime, rep.DTLSRekeyMethod = rep.RekeyTime, rep.RekeyMethod
	return &dtlsOffer{id: id, session: session}
}

func isZero(b []byte) bool {
	return !slices.ContainsFunc(b, func(c byte) bool { return c != 0 })
}

// describe notes what the client says about itself.
func (s *session) describe(req *wire.ConnectRequest) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if req.UserAgent != "" {
		s.agent.userAgent = clip(req.UserAgent, 63)
	}
	if req.Platform != "" {
		s.agent.platform = clip(req.Platform, 63)
	}
	if req.Hostname != "" {
		s.agent.hostname = clip(req.Hostname, 63)
	}
}

// offerDTLS lets the client open the DTLS channel that it was told of.
func (s *Server) offerDTLS(sess *session, o *dtlsOffer) {
	if s.udp == nil || s.cfg.Quirks.DeadDTLS {
		return
	}
	id := [32]byte(o.id)
	o.session.Accept = func(conn *dtls.Conn) {
		// The offer may have been withdrawn while the handshake went on.
		if s.offers.get(id) != o.session {
			conn.Close()
			return
		}
		sess.attach(conn)
	}
	sess.offer = id
	s.offers.put(id, o.session)
}

// forgetDTLS withdraws the offer made to the session, if there is one. A channel that is open stays.
func (s *Server) forgetDTLS(sess *session) { s.offers.remove(sess.offer) }

// peerOf returns where the datagrams of a channel come from.
func peerOf(conn *dtls.Conn) netip.AddrPort {
	a, ok := conn.RemoteAddr().(*net.UDPAddr)
	if !ok {
		return netip.AddrPort{}
	}
	at := a.AddrPort()
	return netip.AddrPortFrom(at.Addr().Unmap(), at.Port())
}
