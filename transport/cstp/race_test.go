//go:build race

package cstp

// raceDetector says that allocations cannot be counted: under the race detector a sync.Pool forgets at random.
const raceDetector = true
