//go:build !race

package system_test

// together is how many tests run at a time. Most of their time they wait for what goes on in namespaces of their own, so that there may
// be more of them than processors.
const together = 4
