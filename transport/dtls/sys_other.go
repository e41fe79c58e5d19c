//go:build !linux

package dtls

import (
	"net"
	"net/netip"
	"os"
	"time"
)

// A burstSys is nothing where each datagram takes a call of its own.
type burstSys struct{}

func (burstSys) init(int) {}

func channelOver(conn net.Conn, _, _ int, _ bool, linger time.Duration) (channel, error) {
	return newStreamless(conn, linger), nil
}

// A route is where the datagrams of a session go.
type route struct{ peer netip.AddrPort }

// A udpSocket is the socket of a Listener.
type udpSocket struct{ conn *net.UDPConn }

func newUDPSocket(conn *net.UDPConn, _ int) (*udpSocket, error) { return &udpSocket{conn: conn}, nil }

func (s *udpSocket) newRoute(peer netip.AddrPort, _ netip.Addr) *route { return &route{peer: peer} }

func (s *udpSocket) wantLocal() {}

func (s *udpSocket) pathMTU() int { return 0 }

func (s *udpSocket) segments() bool { return false }

func (s *udpSocket) send(b *burst, to *route, _ bool) (int, error) {
	for i := range b.count {
		if _, err := s.conn.WriteToUDPAddrPort(b.record(i), to.peer); err != nil {
			if isMessageSize(err) {
				return i, errTooBig
			}
			if os.IsTimeout(err) {
				return i, err
			}
			b.lose(i, i+1)
		}
	}
	return b.count, nil
}

// An intake receives datagrams.
type intake struct {
	sock  *udpSocket
	buf   []byte
	got   []byte
	from  netip.AddrPort
	local netip.Addr
}

func newIntake(s *udpSocket, _ int, _, _ bool) *intake {
	return &intake{sock: s, buf: make([]byte, maxDatagram)}
}

func (r *intake) wait() error {
	n, from, err := r.sock.conn.ReadFromUDPAddrPort(r.buf)
	if err != nil {
		if isRefused(err) {
			return errRefused
		}
		return err
	}
	r.got, r.from = r.buf[:n], from
	return nil
}

func (r *intake) next() []byte {
	d := r.got
	r.got = nil
	return d
}

func (r *intake) interrupt() { r.sock.conn.SetReadDeadline(time.Unix(1, 0)) }
