// Package local reads and checks the AnyConnect local policy, the XML document by which the administrator of a machine says
// what its VPN client may do, whatever a gateway or a profile would like.
//
// A gateway never sends this document and never changes it, so it is trusted as far as the file is: [Load] refuses one that
// others than the administrator could have written. The client reads it once when it starts.
//
// Everything that is known of an element stands in one table, [Schema].
package local
