// Package plan turns the documents that steer a client into what one connection needs: which gateways to dial and in which
// order, what TLS must be like, which certificates count, what becomes of the tunnel when the network changes, what may be
// written down, and what the user is told.
//
//	documents            ┐
//	  local policy       │             ┌ gateways, group, proxy
//	  profiles           ├─► New ─► Plan ┤ TLS, certificates
//	  preferences        │             │ rules for networks and logons
//	environment          ┘             └ features, effects, refusals
//
// It decides nothing that other packages decide already: what a setting is, package profile resolves; what becomes of the
// tunnel in a network, package network decides by the Plan's Network; who may connect, package logon decides by its Logon.
// It reads no file and asks no clock, so that one can look at the plan of any machine on any other.
//
// # What refuses
//
// A setting that keeps the client from connecting is among the Refusals of the Plan, each with its name, its document and its
// line. A plan that is refused is complete otherwise, so that a person can be shown what would be.
//
// # What a document cannot do here
//
// Every setting of the local policy and every feature that needs a profile is listed with its state: on, off, or not applicable
// and why. Every other element of the profile has an effect, or is among the Ignored with the reason. Nothing is passed over in
// silence.
package plan
