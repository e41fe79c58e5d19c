// Package wire is the AnyConnect language, both ends of it: what the bytes mean that a client and a gateway exchange. It
// opens no connection, keeps no state and knows no time, so each part of it is a function from bytes to a value or back.
//
// A session speaks three dialects, one after the other, all over one TLS connection or over a few to the same gateway:
//
//	POST /                           documents in XML until the login is complete      Document, Form
//	CONNECT /CSCOSSLC/tunnel         one request and one reply of header lines         ConnectRequest, ConnectReply
//	53 54 46 01 len len type 00 ...  frames, each with a packet or a control message   Type, PutHeader, ParseHeader
//
// Two peculiarities run through all of it. Gateways match the names of headers byte by byte, so those are written in
// their exact case and never by way of http.Header, which would change it. And what a peer sends is often a little wrong:
// a malformed value of an optional header is left out, and reported by name, instead of ending the session.
//
// Everything that is parsed here may come from an attacker: all sizes are bounded, and no input causes a panic.
package wire
