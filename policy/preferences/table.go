package preferences

import "culvert.example/vpn/policy/document"

// Schema returns the table of everything that may stand in a file of preferences. The names in ControllablePreferences are those
// of the profile's settings and not in this table.
func Schema() *document.Schema {
	text := func(name, effect string) *document.Element {
		return &document.Element{Name: name, Systems: document.Desktop, Effect: effect}
	}
	return &document.Schema{
		Title: "AnyConnect preferences",
		About: "The client keeps in them what a user has chosen and what he used last.",
		Root: &document.Element{
			Name: "AnyConnectPreferences", Content: document.Group, Order: document.Sequence, Systems: document.Desktop, Effect: "All preferences.",
			Children: []*document.Element{
				text("DefaultUser", "The user who logged in last."),
				text("DefaultSecondUser", "The user of the second login, where there is one."),
				text("ClientCertificateThumbprint", "The client certificate that was used last."),
				text("MultipleClientCertificateThumbprints", "The client certificates that were used last, where there are several."),
				text("ServerCertificateThumbprint", "The certificate of the gateway that the user accepted last."),
				text("DefaultHostName", "The gateway that was used last, by the name in the profile."),
				text("DefaultHostAddress", "Its address, perhaps with a port."),
				text("DefaultGroup", "The group that was used last."),
				text("ProxyHost", "The proxy that was used last."),
				text("ProxyPort", "The port of the proxy."),
				text("SDITokenType", "The kind of RSA token, or none."),
				{
					Name: "ControllablePreferences", Content: document.Open, Systems: document.Desktop,
					Effect: "What the user has chosen, by the names of the profile's settings.",
				},
			},
		},
	}
}
