package stack

import (
	"os"
	"os/exec"
	"strings"
	"testing"

	"go.uber.org/goleak"
	"gvisor.dev/gvisor/pkg/refs"
)

// leakCheck is the environment variable that makes the test binary count the packets that are never released. It is a process
// of its own because counting makes everything slow.
const leakCheck = "STACK_LEAK_CHECK"

func TestMain(m *testing.M) {
	if os.Getenv(leakCheck) == "" {
		goleak.VerifyTestMain(m)
		return
	}
	refs.SetLeakMode(refs.LeaksPanic)
	code := m.Run()
	refs.DoRepeatedLeakCheck()
	os.Exit(code)
}

// Every packet is released on every way that it can take. Closing a stack releases what its flows hold, so the tests of the governor
// ask before that whether the flows are gone.
func TestPacketsAreReleased(t *testing.T) {
	if os.Getenv(leakCheck) != "" {
		return
	}
	cmd := exec.Command(os.Args[0], "-test.run=Forward|UDP|Errors|HalfClose|Ping|PathMTU|Checksums|CutPackets|InjectWithoutReader|CloseEnds|FuzzInject|GovernorForgets|GovernorGivesUp|ForgedReset")
	cmd.Env = append(os.Environ(), leakCheck+"=1")
	if out, err := cmd.CombinedOutput(); err != nil {
		lines := strings.Split(string(out), "\n")
		t.Fatalf("%v\n%s", err, strings.Join(lines[:min(len(lines), 60)], "\n"))
	}
}
