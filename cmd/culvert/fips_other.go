//go:build !unix

package main

import "errors"

func replaceProcess(string, []string, []string) error {
	return errors.New("the local policy demands FIPS 140-3 mode (FipsMode): set GODEBUG=" + fipsSetting + " in the environment of the command")
}
