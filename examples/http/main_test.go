package main

import (
	"context"
	"strings"
	"testing"

	"culvert.example/vpn/gateway/gatewaytest"
	"culvert.example/vpn/internal/leak"
)

func TestRun(t *testing.T) {
	leak.Check(t)
	var out, info strings.Builder
	if err := run(context.Background(), "", "", nil, &out, &info); err != nil {
		t.Fatal(err)
	}
	if out.String() != gatewaytest.Page {
		t.Errorf("printed %q", out.String())
	}
	if !strings.Contains(info.String(), "tunnel") {
		t.Errorf("explained %q", info.String())
	}
}
