// Package vpn opens tunnels through AnyConnect-compatible VPN gateways (Cisco ASA and FTD, ocserv, AnyLink) inside a Go program:
// without root, without a daemon, without cgo, and without changing anything on the machine.
//
//	tunnel, err := vpn.Dial(ctx, "https://vpn.example.com", &vpn.Config{
//		Login: login.Fixed{Username: "alice", Password: transport.Secret(password)},
//	})
//	if err != nil {
//		return err
//	}
//	defer tunnel.Close()
//	client := &http.Client{Transport: &http.Transport{DialContext: tunnel.DialContext}}
//
// # What a tunnel is
//
// A [Tunnel] is a TCP/IP host of its own. Its network stack runs in the program, its packets travel to the gateway over DTLS or
// TLS, and its connections are ordinary net.Conns. The machine's routes and resolver stay as they are, so that nothing on the
// machine but the program uses the tunnel, and no other program can divert it. Any number of tunnels may be open at once, also
// to networks that use the same addresses.
//
// # Logging in
//
// A login.Prompter answers what the gateway asks. login.Fixed knows the answers, package login/oath computes one-time codes,
// package login/terminal asks a person, and login.Chain joins them:
//
//	code, err := oath.TOTP(transport.Secret(secret))
//	cfg.Login = login.Chain(code, login.Fixed{Username: "alice", Password: transport.Secret(password)}, terminal.New(nil, nil))
//
// Client certificates go into Config.TLS, with private keys that may be any crypto.Signer: see the example of Config. [Authenticate] logs
// in without opening a tunnel; the cookie that it gives opens one later, as Config.Cookie.
//
// The certificate of the gateway is always verified: by the machine's authorities, by those of Config.TLS, or by
// Config.Pins, which names its key. An error that matches [ErrUntrusted] tells the pin that the gateway has.
//
// # Connecting
//
// DialContext takes names and addresses. The [Config] decides in this order:
//
//  1. Config.Policy may deny the flow; it sees the name.
//  2. The name is resolved: by the gateway's DNS servers through the tunnel if its split-DNS rules say so, or if there are
//     none, and otherwise by the machine.
//  3. Config.Split, or the gateway's split rules, say whether the address lies in the tunnel, outside of it, or nowhere.
//
// [Tunnel.Explain] tells for a host what would happen and why. [Tunnel.Listen] and [Tunnel.ListenPacket] accept connections
// from the private network, [Tunnel.Ping] sends an ICMP echo, and [Tunnel.Resolver] is a net.Resolver with the same rules.
//
// # Routing through the machine
//
// With [Config.Device] a tunnel has no network stack of its own: its packets come from a device and go there, usually a network
// interface that package stack/tun opens and the program gives the addresses of the lease and routes. Then every program on
// the machine uses the tunnel, as its routes have it. What needs the stack, such as DialContext, fails with [ErrNoStack]. The
// rules of Config.Policy and Config.Split are about connections of the program and do not apply; still only packets from and to
// the addresses of the lease pass.
//
//	cfg.Device = func(lease *transport.Lease) (packet.Conn, error) {
//		return tun.Open(tun.Config{Name: "vpn0", MTU: lease.MTU})
//	}
//
// # Staying connected
//
// A tunnel prefers DTLS and keeps TLS open beside it. When UDP dies it goes on over TLS within about a second and a half, and
// returns to DTLS when UDP is back. When TLS dies, or the machine's address changes, it reconnects with the same session.
// Connections through the tunnel wait meanwhile; they are not reset. [Tunnel.NetworkChanged] tells a tunnel what the program
// knows sooner than time-outs would.
//
// [Tunnel.Status] is a snapshot and [Tunnel.Watch] follows it. A tunnel that cannot go on closes [Tunnel.Done]; [Tunnel.Err]
// then matches one of [ErrLogin], [ErrExpired], [ErrAddressChanged], [ErrUntrusted], [ErrDisconnected], [ErrUnreachable] and
// the like, or net.ErrClosed after Close.
//
// # Other packages
//
// Package gateway is the other end, and gateway/gatewaytest starts one for a test in one line. Package proxy serves SOCKS5
// and HTTP in front of a tunnel. The command culvert, in cmd/culvert, is all this for those who do not write Go.
package vpn
