package profile_test

import (
	"fmt"

	"culvert.example/vpn/policy/profile"
)

const text = `<?xml version="1.0" encoding="UTF-8"?>
<AnyConnectProfile xmlns="http://schemas.xmlsoap.org/encoding/">
  <ClientInitialization>
    <LocalLanAccess UserControllable="true">false</LocalLanAccess>
    <AutoUpdate UserControllable="false">true</AutoUpdate>
    <BypassDownloader>true</BypassDownloader>
    <AuthenticationTimeout>5</AuthenticationTimeout>
  </ClientInitialization>
</AnyConnectProfile>
`

func ExampleLint() {
	for _, f := range profile.Lint("corp.xml", []byte(text)) {
		fmt.Println(f)
	}
	// Output:
	// corp.xml:2:1: note: the profile lists no gateway, so that the user has to type one in; add a ServerList with a HostEntry (no-host)
	// corp.xml:6:5: error: <BypassDownloader> is an element of the local policy and has no effect in a profile; write it into AnyConnectLocalPolicy.xml on each machine, and remove it here (local-policy-element)
	// corp.xml:7:28: error: <AuthenticationTimeout>: "5" is not allowed here; allowed are whole numbers from 10 to 120 (wrong-value)
}

func ExampleResolve() {
	p, err := profile.Parse("corp.xml", []byte(text))
	if err != nil {
		fmt.Println(err)
		return
	}
	preferences := map[string]string{"LocalLanAccess": "true", "AutoUpdate": "false"}
	e := profile.Resolve(p, func(name string) (string, bool) {
		v, ok := preferences[name]
		return v, ok
	}, "linux")
	for _, path := range []string{"LocalLanAccess", "AutoUpdate", "AutoReconnect"} {
		v, _ := e.Get(path)
		fmt.Println(path, "is", v.Value, "by the", v.Origin)
	}
	// Output:
	// LocalLanAccess is true by the preference
	// AutoUpdate is true by the profile
	// AutoReconnect is true by the default
}
