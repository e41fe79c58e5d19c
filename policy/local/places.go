package local

import (
	"path"
	"strings"
)

// FileName is the name of the file in each of its directories.
const FileName = "AnyConnectLocalPolicy.xml"

// Paths returns where the local policy is looked for on a system, as Go calls it, the path to be preferred first: this
// client's own on Linux, then those of Secure Client 5.x and AnyConnect 4.x. The environment is asked for %ProgramData% of
// Windows. The root, usually "", comes in front of all paths, for tests and images of systems. No path belongs to a user.
func Paths(system string, env func(name string) string, root string) []string {
	var all []string
	switch system {
	case "windows":
		data := env("ProgramData")
		if data == "" {
			return nil
		}
		data = strings.TrimSuffix(data, `\`)
		all = []string{data + `\Cisco\Cisco Secure Client\VPN\` + FileName, data + `\Cisco\Cisco AnyConnect Secure Mobility Client\` + FileName}
	case "linux":
		all = []string{"/etc/culvert/" + FileName}
		fallthrough
	case "darwin":
		all = append(all, "/opt/cisco/secureclient/vpn/"+FileName, "/opt/cisco/secureclient/"+FileName, "/opt/cisco/anyconnect/"+FileName)
	}
	if root != "" {
		for i, p := range all {
			all[i] = path.Join(root, strings.NewReplacer(`\`, "/", ":", "").Replace(p))
		}
	}
	return all
}
