// Package host changes the network of the machine for a tunnel, and changes it back.
//
// A [Machine] is told how things should be, not what to do:
//
//	m, err := host.Open(host.Config{JournalPath: "/run/culvert/journal"})
//	...
//	defer m.Close()
//	err = m.Apply(ctx, host.Settings{
//		Device:    "culvert0",
//		Addresses: []netip.Prefix{netip.MustParsePrefix("10.8.0.5/24")},
//		MTU:       1400,
//		Tunnel:    []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0")},
//		Gateways:  []netip.Addr{netip.MustParseAddr("198.51.100.1")},
//	})
//	...
//	report, err := m.Undo(ctx)
//
// Apply compares the [Settings] with the machine and takes small steps from one to the other, so a second Apply does only what
// differs. If a step fails, the steps before it are taken back.
//
// # How packets find their way
//
// The routes of the machine stay as they are. A routing table of our own says for each prefix whether it lies in the tunnel
// (a route through the device), outside (a "throw" route, after which the kernel goes on with the routes of the machine) or
// nowhere (an "unreachable" route), and the kernel takes the most specific. One rule sends packets to that table:
//
//	10400: not from all fwmark 0x28a0 lookup 10400
//
// The sockets that carry the tunnel itself have that mark (SO_MARK), so their packets never see the table and cannot run
// into the tunnel they carry. The addresses of the gateway have "throw" routes besides, for programs that cannot set marks.
// Since what stays outside is looked up in the table of the machine at that moment, a change of the network outside needs no
// change here.
//
// Addresses are put on the device without their prefix, whose route goes to our table. So no lease, however wide its
// netmask, makes the kernel send packets for the gateway into the tunnel.
//
// No step of a change gives a destination a third way: whatever has the way A before and the way B after it, has A until one
// step and B from then on. So what stays in the tunnel is in it throughout.
//
// # What happens to a machine whose program dies
//
// Before each change, what it takes to undo it is written to a journal and synced to the disk. After a crash, a kill or a loss
// of power, the next [Open] undoes what it finds there, and so does [Repair]. The journal is locked while a Machine is open,
// so that two never work against each other.
//
// # The other parts of the machine
//
// Who asks which resolver and what the firewall lets pass is also part of the Settings, but other packages know how: a [Part]
// applies such settings and undoes them again, and the journal keeps what it needs for that.
//
// # Seeing
//
// A [Network] looks at the interfaces and routes of the machine, needs no rights, and works in programs that change nothing.
// It tells wired interfaces from radio and mobile ones, ranks the ways out of the machine, and reports changes.
//
// Linux is changed through netlink. For macOS and Windows, [MacCommands] and [WindowsCommands] tell which commands do the same
// and which undo it.
package host
