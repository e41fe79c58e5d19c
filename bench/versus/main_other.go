//go:build !linux

package main

import (
	"fmt"
	"os"
)

func main() {
	fmt.Fprintln(os.Stderr, "versus: it needs Linux, for its network namespaces")
	os.Exit(3)
}
