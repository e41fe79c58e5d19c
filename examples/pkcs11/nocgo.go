//go:build !cgo

package main

import (
	"fmt"
	"os"
)

func main() {
	fmt.Fprintln(os.Stderr, "pkcs11: modules of PKCS #11 are shared libraries: build this with CGO_ENABLED=1")
	os.Exit(1)
}
