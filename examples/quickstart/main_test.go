package main

import (
	"strings"
	"testing"

	"culvert.example/vpn/gateway/gatewaytest"
	"culvert.example/vpn/internal/leak"
)

func TestRun(t *testing.T) {
	leak.Check(t)
	var out strings.Builder
	if err := run(&out); err != nil {
		t.Fatal(err)
	}
	if text := out.String(); !strings.HasPrefix(text, gatewaytest.Page) || !strings.Contains(text, "path: dtls") {
		t.Errorf("printed %q, want the page and the path dtls", text)
	}
}
