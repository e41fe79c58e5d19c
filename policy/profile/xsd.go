package profile

import _ "embed"

// xsd is what Schema().XSD() writes; a test compares them, and updates the file.
//
//go:embed AnyConnectProfile.xsd
var xsd string

// XSD returns the XML Schema of profiles, for tools that check XML. It is made from the table, and it and [Lint] agree on
// every document, but for what a schema cannot say; see Schema of [document.Finding].
func XSD() string { return xsd }
