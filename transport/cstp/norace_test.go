//go:build !race

package cstp

// raceDetector says that allocations cannot be counted.
const raceDetector = false
