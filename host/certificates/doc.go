// Package certificates reads the certificate stores of a machine: which authorities vouch for gateways, which certificates are
// distrusted, and which client certificates there are, with their private keys.
//
// There are four kinds of stores. [System] is what the operating system comes with. [PEMMachine] and [PEMUser] are directories
// with files in PEM: authorities in ca, client certificates in client, and the private key of client/NAME.pem in
// client/private/NAME.key. [Firefox] is the database of the browser that most people on Linux have, with the authorities that they
// or their administrator have added or distrusted there.
//
// Which of them may be used is a matter of policy, which this package does not know. It reads what it is told to, and leaves out
// what cannot be read: one broken file must not take the others with it, and is among the problems of the [Store].
//
// Private keys are opened when they are asked for, since that may need a password from the user.
package certificates
