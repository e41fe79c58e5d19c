// Package netns builds small networks on one machine, for tests and measurements: hosts that are Linux network
// namespaces, joined by pairs of virtual Ethernet interfaces.
//
//	lab := netns.New(t)
//	client, server := lab.Host("client"), lab.Host("server")
//	lab.Join(client, "10.0.0.1/24", server, "10.0.0.2/24")
//	server.Start("ocserv", "-f", "-c", conf)
//	conn, err := client.DialContext(ctx, "tcp", "10.0.0.2:443")
//
// A cable can be bad, and be made better or worse while the test runs:
//
//	_, _, wire := lab.JoinThrough(client, "10.0.0.1/24", server, "10.0.0.2/24", netns.Impairment{Loss: 0.1})
//	wire.Set(netns.Impairment{Delay: 20 * time.Millisecond})
//
// All of it goes away when the test ends. Where the test may not make namespaces it is skipped, or fails if
// CULVERT_INTEROP is 1.
package netns
