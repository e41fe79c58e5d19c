//go:build !race

package dtls

// raceDetector says that allocations cannot be counted.
const raceDetector = false
