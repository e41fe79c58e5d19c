module culvert.example/vpn/examples/tray

go 1.26.3

require (
	culvert.example/vpn v0.0.0
	fyne.io/systray v1.12.2
	github.com/godbus/dbus/v5 v5.2.4
	golang.org/x/term v0.47.0
)

replace culvert.example/vpn => ../..
