.PHONY: build test race lint cross fuzz bench benchstat

PACKAGES = ./... ./cmd/culvert/... ./examples/tray/... ./examples/pkcs11/...
export CGO_ENABLED = 0

build: ## the command, static, into bin/
	go build -trimpath -o bin/ ./cmd/culvert

test: ## every test; as root on Debian it installs the peers it speaks with (ocserv, openconnect, iperf3, ...)
	./.ci/test $(PACKAGES)

race: ## the tests under the race detector, without those that need peers
	CGO_ENABLED=1 go build -race $(PACKAGES)
	CGO_ENABLED=1 go test -race -short -p 1 -timeout 15m $(PACKAGES)

lint: ## gofmt, vet and staticcheck
	./.ci/lint $(PACKAGES)

cross: ## compile for the other systems
	./.ci/cross $(PACKAGES)

fuzz: ## every fuzz target for a few seconds
	./.ci/fuzz $(PACKAGES)

bench: ## the ladder of benchmarks, as a table in bin/LADDER.md; BENCH, COUNT and BENCHTIME are explained in bench/doc.go
	BENCH='$(BENCH)' COUNT='$(COUNT)' BENCHTIME='$(BENCHTIME)' ./bench/run

benchstat: ## what differs from the commit OLD: make benchstat OLD=HEAD~1
	BENCH='$(BENCH)' COUNT='$(COUNT)' BENCHTIME='$(BENCHTIME)' PACKAGE='$(PACKAGE)' ./bench/compare '$(OLD)' '$(NEW)'
