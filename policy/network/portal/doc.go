// Package portal finds captive portals, the pages that a hotel or a train puts in front of the Internet until somebody has agreed
// to its terms, and decides for how long the firewall may be opened so that somebody can.
//
// Nobody but the gateway is asked: it is what has to be reached, and no third party learns where the machine is. A [Prober]
// asks it over TLS, and over plain HTTP at port 80, where a gateway refuses, does not answer or leads to https on itself.
//
//   - The gateway's own certificate at its own port settles it: there is no portal, or it lets the tunnel pass.
//   - An answer to plain HTTP that leads elsewhere, has status 511 (RFC 6585, section 6) or is a page that a gateway would not
//     send comes from a portal.
//   - A wrong certificate alone proves nothing: a gateway whose certificate has run out, or names another host, looks the same.
//     Those who take it for a portal send their users to a page that does not exist.
//   - Where nothing answers, the gateway may be down. Where there is no way out at all, the machine is offline.
//
// [Judge] holds these rules. [Machine] says when to ask and how long a window may be open. Both are pure; what a
// portal answers is hostile, so that addresses of pages are cleaned before anybody sees them.
package portal
