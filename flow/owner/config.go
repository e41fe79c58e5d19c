package owner

// A Config says how a [Finder] looks. The zero Config is usable.
type Config struct {
	// MaxSockets is how many sockets the Finder remembers the process of. Zero means 4096.
	MaxSockets int
	// MaxFiles is how many open files of other processes one search looks at; then it ends without having found the program. Zero
	// means 100000, which take about a tenth of a second.
	MaxFiles int
	// Proc is where the file system of processes is mounted. Empty means /proc.
	Proc string
}

// Stats count what a [Finder] did.
type Stats struct {
	// Found are the flows whose socket was found, NotFound those without one, and Errors those where the kernel did not tell.
	Found, NotFound, Errors uint64
	// Remembered are the sockets whose process was still where it had been before, Searched those that all processes were looked
	// through for, and Nobody those of them that no process had, or none that could be looked at.
	Remembered, Searched, Nobody uint64
}

const (
	defaultMaxSockets = 4096
	defaultMaxFiles   = 100_000
	defaultProc       = "/proc"
)
