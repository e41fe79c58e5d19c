// Package script runs programs of the administrator when a tunnel comes and goes.
//
// A [Script] is a program after the model of vpnc-script: it configures the machine instead of this module. It is started for
// each [Reason] and finds what it needs to know in its environment, under the names that openconnect uses:
//
//	reason, VPNGATEWAY, VPNPID, TUNDEV, IDLE_TIMEOUT, LOG_LEVEL
//	INTERNAL_IP4_ADDRESS, _NETADDR, _NETMASK, _NETMASKLEN, _MTU, _DNS, _NBNS
//	INTERNAL_IP6_ADDRESS, _NETMASK, _DNS
//	CISCO_DEF_DOMAIN, CISCO_SPLIT_DNS, CISCO_BANNER, CISCO_PROXY_PAC, CISCO_CSTP_OPTIONS
//	CISCO_SPLIT_INC, CISCO_SPLIT_EXC                       how many networks there are, numbered from 0 in
//	CISCO_SPLIT_INC_n_ADDR, _MASK, _MASKLEN, _PROTOCOL, _SPORT, _DPORT
//	CISCO_IPV6_SPLIT_INC, CISCO_IPV6_SPLIT_EXC             likewise, with _ADDR and _MASKLEN
//
// A variable without a value is not set, which is how scripts tell a full tunnel from a split one.
//
//	s, err := script.New(script.Config{Path: "/usr/share/vpnc-scripts/vpnc-script", Logger: logger})
//	...
//	settings := script.FromLease(lease, "tun0")
//	err = s.Run(ctx, script.Connect, settings)
//
// [Hooks] are the two files OnConnect and OnDisconnect that the AnyConnect client runs for its user where the profile says so.
// They configure nothing, and run with the rights of the user.
//
// # What a gateway can do to a script
//
// All of this comes from the gateway, and the script usually runs as root. Shell scripts quote badly, and put what they are given into
// files with a syntax of their own. So the values are made harmless here: addresses are made from parsed addresses, names
// consist of letters, digits, hyphens, underscores and dots, and the free texts (the banner and the options) have no control
// characters and none of the characters that end or open anything within quotes: they are replaced by look-alikes from
// Unicode. A value that cannot be one is left out, and logged. The whole is bounded, so that the kernel takes it.
//
// Nothing of the environment of this process is handed on.
package script
