// Package system makes a tunnel carry the traffic of the whole machine.
//
//	sys, err := system.Open(ctx, system.Config{Journal: system.DefaultJournal})
//	...
//	defer sys.Close()
//	tunnel, err := vpn.Dial(ctx, "vpn.example.com", &vpn.Config{Login: login, System: sys})
//
// A program of the package vpn has its tunnel for itself. With a System, the tunnel ends in a network interface of the kernel
// (package stack/tun), and routes, resolver and firewall of the machine are set such that every program uses it (package host).
// The gateway's description of its side, and what the user says of it, become one table (package split); a DNS proxy (package
// dns) asks for names on the side where they belong, and teaches that table which addresses the names have.
//
// # Two ways through the machine
//
// On the packet path the packets of the interface go to the gateway as they are. The kernel decides by address which
// packets these are.
//
// On the flow path (package flow) every connection of every program ends in this process, which decides by program, user, name
// and address whether it may be, and carries it on through the tunnel or past it. It has three parts that are watched; when one
// fails, the machine is on the packet path within a second, and the session with the gateway goes on.
//
// # What is promised
//
// Every change of the machine is in a journal on the disk before it is made. [System.Close] undoes the changes, and after
// a crash the next [Open] or [Repair] does. Where something cannot be done, such as for want of rights, there is an error that
// says what is missing, and the machine is as it was.
//
// With a [KillSwitch] nothing leaves the machine but what belongs to the tunnel: before the login, while the tunnel
// reconnects, and after a crash.
package system
