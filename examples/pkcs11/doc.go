// Command pkcs11 fetches a page through a tunnel whose client certificate and private key are in a token: a smart card, a YubiKey, an
// HSM, or SoftHSM, by the PKCS #11 module that comes with it.
//
//	VPN_PIN=1234 go run ./examples/pkcs11 -module /usr/lib/softhsm/libsofthsm2.so -token corp \
//		-gateway https://vpn.example.com https://intranet.corp.example/
//
// The key never leaves the token: package vpn takes any crypto.Signer. The PIN is read from the environment variable VPN_PIN, and the
// password, for gateways that want one too, from VPN_PASSWORD, so that they do not show in the list of processes.
//
// PKCS #11 modules are shared libraries, so this needs cgo, and is a module of its own to keep that from everybody else.
package main
