//go:build !unix

package main

import "context"

// forkBackground refuses: there is no background of that kind here.
func (a *app) forkBackground(context.Context, string) (parent bool, err error) {
	return true, usagef("--background does not exist on this system")
}
