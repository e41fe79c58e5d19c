package leak

import "os"

// descriptors returns what each open file descriptor leads to. Sockets and pipes have a number of their own there, so
// that a new one under an old descriptor is noticed.
func descriptors() map[string]string {
	const dir = "/proc/self/fd"
	fds := make(map[string]string)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fds
	}
	for _, e := range entries {
		// The descriptor that the directory was read through is closed by now.
		if target, err := os.Readlink(dir + "/" + e.Name()); err == nil {
			fds[e.Name()] = target
		}
	}
	return fds
}
