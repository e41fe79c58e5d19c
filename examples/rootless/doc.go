// Command rootless runs a program whose whole traffic goes through a tunnel, without root and without changing the machine:
//
//	go run ./examples/rootless                                                 # shows it, with a gateway of its own
//	go run ./examples/rootless -gateway vpn.example.com -user alice -- curl http://intranet.corp.example/
//
// With -servercert the gateway is trusted by its pin. With -help it says what else there is.
//
// The program is started in a user namespace, a network namespace and a mount namespace of its own. In there is nothing but a
// loopback interface, a TUN device with the addresses of the tunnel and a route to it, and a resolv.conf that names the servers
// of the tunnel. The tunnel itself stays outside, in this process, and is handed the device over a Unix socket:
//
//	parent: vpn.Dial, the way to the gateway          child: ip address, ip route, resolv.conf
//	        packets <------ the descriptor of the TUN device ------            then the program, without any rights
//
// Whatever the program does, it cannot go around the tunnel: there is no other interface, and it has given up the right to make
// one. When the tunnel ends, the program has no network.
//
// It needs Linux with user namespaces for everybody (sysctl user.max_user_namespaces, and on Ubuntu
// kernel.apparmor_restrict_unprivileged_userns=0), /dev/net/tun, and ip from iproute2.
package main
