//go:build !linux

package main

import (
	"fmt"
	"os"
)

func main() {
	fmt.Fprintln(os.Stderr, "rootless: only Linux has network namespaces")
	os.Exit(1)
}
