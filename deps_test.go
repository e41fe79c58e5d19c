package vpn_test

import (
	"go/parser"
	"go/token"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "culvert.example/vpn"

// arrows says which packages of this module a package may import, tests not counted. It is a statement of policy: to make a
// build pass, change the code and not this table. Siblings never meet; the root hands one a function of the other.
var arrows = map[string]string{
	"packet":                   "",
	"packet/pcapng":            "",
	"packet/offload":           "packet",
	"packet/packettest":        "packet packet/pcapng",
	"split":                    "",
	"dns":                      "",
	"proxy":                    "",
	"stack":                    "packet packet/offload",
	"stack/tun":                "packet packet/offload",
	"policy":                   "packet",
	"flow":                     "packet stack flow/filter flow/health flow/hello flow/owner",
	"flow/filter":              "",
	"flow/health":              "",
	"flow/hello":               "",
	"flow/owner":               "",
	"policy/document":          "",
	"policy/profile":           "policy/document",
	"policy/local":             "policy/document",
	"policy/preferences":       "policy/document",
	"policy/certificate":       "policy/local policy/profile transport",
	"transport":                "packet",
	"transport/wire":           "",
	"transport/liveness":       "",
	"transport/nap":            "",
	"transport/trust":          "transport",
	"transport/heartbeat":      "transport/liveness",
	"transport/login":          "transport transport/wire transport/trust",
	"transport/login/terminal": "transport transport/login",
	"transport/login/oath":     "transport transport/login",
	"transport/cstp":           "packet transport transport/wire transport/liveness transport/heartbeat transport/nap",
	"transport/dtls":           "packet transport transport/wire transport/liveness transport/heartbeat transport/nap",
	"transport/failover":       "packet transport",
	"transport/anyconnect": "packet transport transport/wire transport/liveness transport/trust transport/login " +
		"transport/cstp transport/dtls transport/failover transport/heartbeat",
	".": "packet packet/pcapng stack dns split policy transport transport/trust transport/login transport/anyconnect internal/race",
	"gateway": "packet stack policy transport transport/wire transport/liveness transport/heartbeat " +
		"transport/login transport/cstp transport/dtls",
	"gateway/gatewaytest": "gateway packet transport dns transport/trust",
	"examples/quickstart": ". gateway/gatewaytest transport/login",
	"examples/http":       ". gateway/gatewaytest transport transport/login",
	"examples/socks":      ". gateway/gatewaytest proxy transport/login",
	"examples/gateway":    "gateway",
	"examples/tray": ". flow/owner gateway gateway/gatewaytest host/certificates policy/certificate policy/local policy/plan policy/preferences " +
		"policy/profile proxy transport/login transport/login/terminal transport/upstream",
	"examples/pkcs11":          ". transport transport/login",
	"bench":                    "",
	"bench/table":              "",
	"bench/versus":             ". dns gateway internal/netns internal/ocserv packet stack/tun transport transport/login",
	"bench/scale":              ". gateway transport transport/login",
	"internal/leak":            "",
	"internal/race":            "",
	"host":                     "",
	"host/firewall":            "",
	"host/resolver":            "",
	"internal/resolved":        "internal/netns internal/unpacked",
	"internal/unpacked":        "",
	"internal/issue":           "",
	"internal/netns":           "",
	"internal/ocserv":          "internal/netns",
	"host/certificates":        "host/certificates/nss host/certificates/sqlite",
	"host/certificates/nss":    "host/certificates/sqlite",
	"host/certificates/sqlite": "",
	"policy/network": "policy/profile policy/network/trusted policy/network/portal " +
		"policy/network/selection",
	"policy/network/trusted":   "",
	"policy/network/portal":    "",
	"policy/network/selection": "",
	"policy/logon":             "",
	"host/logins":              "",
	"internal/logind":          "internal/unpacked",
	"transport/upstream":       "transport",
	"host/proxysettings":       "",
	"script":                   "transport",
	"examples/rootless":        ". gateway/gatewaytest packet transport transport/login transport/login/terminal",
	"system": ". packet stack stack/tun split dns host host/resolver host/proxysettings host/firewall flow flow/filter flow/health flow/owner " +
		"policy transport internal/race",
	"policy/plan": "policy policy/document policy/profile policy/local policy/preferences policy/certificate policy/network " +
		"policy/logon",
	"policy/decision": "policy policy/plan policy/profile policy/network policy/network/trusted policy/logon",
}

// owners names the one package that may import an outside dependency, by a prefix of its import path.
var owners = map[string][]string{
	"gvisor.dev/gvisor":           {"stack"},
	"github.com/pion":             {"transport/dtls"},
	"github.com/miekg/dns":        {"dns"},
	"github.com/pquerna/otp":      {"transport/login/oath"},
	"golang.org/x/term":           {"transport/login/terminal", "examples/tray"},
	"github.com/pierrec/lz4":      {"transport/cstp"},
	"golang.org/x/crypto":         {"gateway", "transport/dtls"},
	"github.com/spf13/cobra":      {"cmd/culvert"},
	"github.com/BurntSushi":       {"cmd/culvert"},
	"software.sslmate.com":        {"cmd/culvert"},
	"github.com/youmark/pkcs8":    {"cmd/culvert", "examples/tray"},
	"github.com/ThalesGroup":      {"examples/pkcs11"},
	"github.com/vishvananda":      {"host"},
	"github.com/gaissmai/bart":    {"split"},
	"go4.org/netipx":              {"host/firewall"},
	"github.com/google/nftables":  {"host/firewall"},
	"github.com/mdlayher/netlink": {"host/firewall"},
	"github.com/godbus/dbus":      {"host/resolver", "examples/tray", "host/logins", "internal/logind", "host/proxysettings"},
	"fyne.io/systray":             {"examples/tray"},
	"github.com/fsnotify":         {"host/resolver"},
	"golang.zx2c4.com/wireguar":   {"stack/tun", "bench/versus"},
}

func TestArrows(t *testing.T) {
	dirs := packageDirs(t)
	for dir, files := range dirs {
		command := strings.HasPrefix(dir, "cmd/")
		allowed, known := arrows[dir]
		if !known && !command {
			t.Errorf("package %s is not in the table of arrows", dir)
			continue
		}
		imports := map[string]string{}
		for _, file := range files {
			f, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ImportsOnly)
			if err != nil {
				t.Error(err)
				continue
			}
			for _, spec := range f.Imports {
				p, err := strconv.Unquote(spec.Path.Value)
				if err != nil {
					t.Error(err)
				}
				imports[p] = file
			}
		}
		for _, p := range slices.Sorted(maps.Keys(imports)) {
			if p == module || strings.HasPrefix(p, module+"/") {
				of := path.Clean("./" + strings.TrimPrefix(strings.TrimPrefix(p, module), "/"))
				if !command && !slices.Contains(strings.Fields(allowed), of) {
					t.Errorf("%s: %s may not import %s", imports[p], dir, of)
				}
				continue
			}
			for prefix, owners := range owners {
				if strings.HasPrefix(p, prefix) && !slices.ContainsFunc(owners, func(o string) bool {
					return dir == o || o == "cmd/culvert" && command
				}) {
					t.Errorf("%s: %s may not import %s, which belongs to %v", imports[p], dir, p, owners)
				}
			}
		}
	}
	for dir := range arrows {
		if _, ok := dirs[dir]; !ok {
			t.Errorf("the table of arrows names %s, which does not exist", dir)
		}
	}
}
