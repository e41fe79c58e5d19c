//go:build !(linux || freebsd || openbsd || netbsd || windows || (darwin && cgo))

package main

import "errors"

// trayError says why there is no tray.
func trayError() error {
	return errors.New("this program was built without a tray: on macOS it takes cgo, and other systems have none that is known here")
}

// runTray is not reached, since trayError says why not.
func runTray(model, func(string), func(view) error) error { return trayError() }
