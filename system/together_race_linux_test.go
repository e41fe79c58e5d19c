//go:build race

package system_test

// together is how many tests run at a time. The race detector keeps the processors busy, and tests that look at the clock need them.
const together = 2
