// Package profile reads, checks, resolves and edits AnyConnect VPN profiles, the XML documents by which an organisation tells
// its clients which gateways there are and how to behave.
//
// A profile is read tolerantly and checked strictly. Profiles in use hold elements that never existed, elements of other
// documents, and elements in the wrong place; all of those are read past, have no effect, and are named by [Lint]. What would
// change the meaning of the profile if it were read past, such as a value that does not exist, keeps the profile from being
// used: [Load] refuses it and says where.
//
// What a setting finally is, [Resolve] finds out: the default, unless the profile says otherwise, unless the user has chosen
// otherwise and the profile lets the user choose. It keeps where each value comes from.
//
// Everything that is known of an element stands in one table, [Schema]: the checks, the defaults, the XML Schema for other tools
// and the reference in elements.md are made from it.
package profile
