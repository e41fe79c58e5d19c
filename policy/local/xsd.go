package local

import _ "embed"

// xsd is what Schema().XSD() writes; a test compares them, and updates the file.
//
//go:embed AnyConnectLocalPolicy.xsd
var xsd string

// XSD returns the XML Schema of local policies, for tools that check XML.
func XSD() string { return xsd }
