// Package certificate decides about certificates by what an administrator has written: where they may come from, which one
// identifies the user to a gateway, and which ones a gateway may show.
//
// Every decision here is a function of documents, certificates and the time, and every one comes with its reasons, because
// "no valid certificate" is the message that help desks hear most and that says the least. Reading stores is the business of
// package host/certificates; the types of both meet in whoever uses them.
//
// The rules of the profile are those of its CertificateMatch: a certificate must satisfy all parts of it. In KeyUsage one of the
// listed usages is enough, in ExtendedKeyUsage all of them are needed, and so are all rules about names.
package certificate
