# make help lists what there is.

VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
LDFLAGS := -s -w -X main.version=$(VERSION)
GOBUILD := go build -trimpath -buildvcs=false

.NOTPARALLEL:
.PHONY: help build berthd shim setup tools test test-vm test-powercut test-faults test-logs test-crash test-exits test-abuse soak demo bench bench-pull bench-cold bench-restart bench-idle bench-shim clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST)

build: ## build berthd, berth and berth-shim into bin/
build: berthd shim

berthd:
	CGO_ENABLED=0 $(GOBUILD) -ldflags '$(LDFLAGS)' -o bin/ $(addprefix ./,$(wildcard cmd/berthd cmd/berth))

# The shim holds libcontainer and libseccomp, which are C; the file is static all the same.
shim:
	CGO_ENABLED=1 $(GOBUILD) -tags 'seccomp netgo osusergo' -ldflags '$(LDFLAGS) -linkmode external -extldflags "-static"' -o bin/ ./cmd/berth-shim

setup:
	@test/setup.sh

# What tests run and do not build themselves, because they have no network then.
tools: setup
	@test/cni/build.sh >/dev/null
	@test/critest/tools/build.sh
	@test/snapshotters/tools/build.sh
	@go test -count=1 -run '^TestBuild$$' ./test/upgrade

test: tools build ## vet, unit tests (race detector), kernel tests as root, recovery, the contract, events and retries, bad input, critest, kubelet, and some of it in a virtual machine
	@go run ./test/run

# Its own program says one line per suite; go run ./test/vm suites lists them.
test-vm: tools ## run the suites in virtual machines with systemd, cgroup v2, AppArmor and SELinux; 30 min
	@go run ./test/vm run

test-powercut: tools build ## take the power away 200 times while images are pulled and removed, and without fsync; 15 min
	@BERTH_CUTS=$${BERTH_CUTS:-100} go test -count=1 -v -timeout=60m ./test/powercut

test-exits: tools build ## race 10,000 exits of containers with 1,000 kills of berthd; 20 min
	@BERTH_EXITS=$${BERTH_EXITS:-10000} go test -count=1 -v -timeout=60m -run TestExitsAndKills ./test/recovery

test-faults: tools build ## let each party down that berth and containerd depend on, and write docs/reliability.md; FAULTS=-help lists the flags; 40 min
	@go run ./test/faults -markdown docs/reliability.md $(FAULTS)

test-logs: tools build ## log 1,000,000 lines a minute of 100 containers while logs are rotated and berthd and shims killed; 3 min
	@BERTH_LOGS=all go test -count=1 -v -timeout=30m ./test/logs

test-crash: tools ## kill the daemon, the shim and both at every step and every write, with plugins that fail and with a full disk; 15 min
	@BERTH_CRASH=all go test -count=1 -v -timeout=60m ./test/crash

test-abuse: tools build ## misuse berthd a thousand times over and expect its memory, goroutines and descriptors to be as before; 15 min
	@BERTH_ABUSE=1 go test -count=1 -v -timeout=60m ./test/abuse

soak: tools build ## keep 110 pods in motion and in trouble for an hour; SOAK=-help lists the flags, SOAK="-docs docs" writes what it has seen
	@go run ./test/soak $(SOAK)

demo: tools build ## run a pod with a web server through crictl; DEMO_IMAGE=name runs another image
	@go run ./test/demo

bench: tools build ## measure berth beside containerd, figure by figure, and write docs/performance.md; BENCH=-help lists the flags; 40 min
	@go run ./test/bench/all -markdown docs/performance.md $(BENCH)

bench-pull: setup build ## pull a big image with berth and with containerd, in turns; BENCH=-help lists the flags
	@go run ./test/bench/pull $(BENCH)

bench-cold: setup build ## pods of one cold image at once, and pods beside a pull; BENCH=-help lists the flags
	@go run ./test/bench/cold $(BENCH)

bench-restart: setup build ## kill berthd under a hundred pods and time how soon it knows them; BENCH=-help lists the flags
	@go run ./test/bench/restart $(BENCH)

bench-idle: setup build ## what a node with pods costs at rest, and lists, statuses and stats; BENCH=-help lists the flags
	@go run ./test/bench/idle $(BENCH)

bench-shim: setup build ## time what keeping containers takes: calls, commands, memory, logs; BENCH=-help lists the flags
	@go run ./test/bench/shim $(BENCH)

clean: ## remove what was built and cached
	rm -rf bin .cache
