package system_test

import (
	"flag"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"

	"culvert.example/vpn/system"
)

// TestMain sees to it that the tests leave the machine itself alone: all that they change is in namespaces of their own.
func TestMain(m *testing.M) {
	flag.Set("test.parallel", strconv.Itoa(together))
	code := m.Run()
	if left := onMachine(); left != "" {
		fmt.Println("FAIL: the tests have changed the machine itself:", left)
		code = 1
	}
	os.Exit(code)
}

// onMachine returns what of ours is in the namespace of this process. Other programs' tests make nothing of that kind there either.
func onMachine() string {
	var left []string
	if _, err := net.InterfaceByName(system.DefaultDevice); err == nil {
		left = append(left, "the interface "+system.DefaultDevice)
	}
	for _, look := range []struct {
		args []string
		ours string
	}{{[]string{"ip", "rule"}, "lookup 10400"}, {[]string{"nft", "list", "tables"}, "inet culvert"}} {
		if out, err := exec.Command(look.args[0], look.args[1:]...).Output(); err == nil && strings.Contains(string(out), look.ours) {
			left = append(left, look.ours)
		}
	}
	return strings.Join(left, ", ")
}
