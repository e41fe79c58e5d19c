//go:build race

package dtls

// raceDetector says that allocations cannot be counted: under the race detector a sync.Pool forgets at random.
const raceDetector = true
