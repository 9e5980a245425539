# make test      all checks and all tests, with the tools that they need installed first (Debian; root or sudo)
# make build     bin/holdfast, bin/holdfast-keeper, bin/holdfast-verify and bin/holdfast-fsck, one static file each
# make install   programs, units, users and directories (root); DESTDIR and PREFIX as usual
# make million   a million entries pulled, listed and restored, with the peak memory of each
# make index-growth    what a look-up, opening and memory of the index cost at 1, 10 and 50 million chunks; SCRATCH has 10 GB free
# make year      a simulated year of hourly pulls: what grows, with and without evacuation
# make decade    ten simulated years (YEARS) of several sources under keep rules, with and without power cuts: five minutes
# make bench      us beside rsync, rclone, sftp, restic and borg at full size: hours, 20 GB; make bench-small for a look at the tool
# make histories    a million random lives of a vault under random schedules of its clocks: 25 minutes on two processors
# make crash-sweep, kill-sweep, flip-sweep, power-cuts, keeper-cuts, keeper-users, kept, fuzz    the long forms of what `make test` samples
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c

GO          ?= $(or $(shell command -v go),/usr/local/go/bin/go)
PREFIX      ?= /usr/local
DESTDIR     ?=
STATICCHECK ?= honnef.co/go/tools/cmd/staticcheck@v0.8.2
PACKAGES    ?= ./...
TIMEOUT     ?= 22m
FUZZTIME    ?= 30s
CUTS        ?= 500
HISTORIES   ?= 1000000
GROWTH      ?= 1000000,10000000,50000000
SCRATCH     ?= $(or $(TMPDIR),/tmp)

# sshd is where an ordinary user's PATH does not look.
export PATH := $(PATH):/usr/sbin:/sbin:$(dir $(GO))

.PHONY: all build install test check vet format lint tools million year decade index-growth bench bench-small resume-huge crash-sweep histories kill-sweep flip-sweep power-cuts keeper-cuts keeper-users kept fuzz clean

all: build

build:
	CGO_ENABLED=0 $(GO) build -trimpath -o bin/holdfast ./cmd/holdfast
	CGO_ENABLED=0 $(GO) build -trimpath -o bin/holdfast-keeper ./cmd/holdfast-keeper
	CGO_ENABLED=0 $(GO) build -trimpath -o bin/holdfast-verify ./cmd/holdfast-verify
	CGO_ENABLED=0 $(GO) build -trimpath -o bin/holdfast-fsck ./cmd/holdfast-fsck

install: build
	install -D -m 0755 bin/holdfast $(DESTDIR)$(PREFIX)/bin/holdfast
	install -D -m 0755 bin/holdfast-keeper $(DESTDIR)$(PREFIX)/bin/holdfast-keeper
	install -D -m 0755 bin/holdfast-verify $(DESTDIR)$(PREFIX)/bin/holdfast-verify
	install -D -m 0755 bin/holdfast-fsck $(DESTDIR)$(PREFIX)/bin/holdfast-fsck
	install -d $(DESTDIR)$(PREFIX)/lib/systemd/system $(DESTDIR)$(PREFIX)/share/doc/holdfast
	for unit in holdfast holdfast-keeper holdfast-witness; do \
		sed 's#/usr/local/bin/holdfast#$(PREFIX)/bin/holdfast#' systemd/$$unit.service > $(DESTDIR)$(PREFIX)/lib/systemd/system/$$unit.service; \
		chmod 0644 $(DESTDIR)$(PREFIX)/lib/systemd/system/$$unit.service; \
	done
	sed 's#/usr/local/bin/holdfast#$(PREFIX)/bin/holdfast#' systemd/without-keeper.conf > $(DESTDIR)$(PREFIX)/share/doc/holdfast/without-keeper.conf
	chmod 0644 $(DESTDIR)$(PREFIX)/share/doc/holdfast/without-keeper.conf
	install -D -m 0644 systemd/holdfast.sysusers $(DESTDIR)$(PREFIX)/lib/sysusers.d/holdfast.conf
	install -D -m 0644 systemd/holdfast-witness.sysusers $(DESTDIR)$(PREFIX)/share/doc/holdfast/holdfast-witness.sysusers
	install -D -m 0644 systemd/holdfast.tmpfiles $(DESTDIR)$(PREFIX)/lib/tmpfiles.d/holdfast.conf
	install -D -m 0644 holdfast.example.yaml $(DESTDIR)$(PREFIX)/share/doc/holdfast/holdfast.example.yaml
	@echo "then: systemd-sysusers && systemd-tmpfiles --create && systemctl daemon-reload (docs/OPERATIONS.md goes on from there)"

# The tests come last, so that what is read at the end is what they say.
# First those packages whose long loops have nothing concurrent in them and are thinned under the race detector.
# Then what the race detector would distort, since it allocates for itself, or take minutes over.
COUNTED := PullTurnsOver|PacksGrowWithoutEnd|DecodesBlocksAgain|NamedWrongAfterEvacuation|CutAtEveryOperation|FailureWedges|YearOutgrowsItsPolicy
WITHOUT_RACE := ./vault/chunk ./vault/pack ./immutability/ledger ./immutability/worm ./immutability/move

test: tools check
	@[ "$$(id -u)" -eq 0 ] || echo "not root: what needs other users, mounts, loop devices or file flags is left out (go test -v names each); as root nothing is"
	HOLDFAST_REQUIRE_ALL=1 $(GO) test -timeout $(TIMEOUT) $(WITHOUT_RACE)
	HOLDFAST_REQUIRE_ALL=1 $(GO) test -timeout $(TIMEOUT) -run '$(COUNTED)' -p 1 ./puller ./vault
	HOLDFAST_REQUIRE_ALL=1 $(GO) test -race -timeout $(TIMEOUT) $(PACKAGES)

check: format vet lint

format:
	@bad=$$("$$($(GO) env GOROOT)/bin/gofmt" -l .); test -z "$$bad" || { echo "not formatted by gofmt:"; echo "$$bad"; exit 1; }

vet:
	$(GO) vet $(PACKAGES)

lint:
	$(GO) run $(STATICCHECK) $(PACKAGES)

# Program and Debian package of everything that the tests talk to.
TOOLS := sshd:openssh-server ssh:openssh-client sftp:openssh-client ssh-keygen:openssh-client prometheus:prometheus \
         promtool:prometheus systemd-analyze:systemd systemd-sysusers:systemd jq:jq rsync:rsync git:git gcc:gcc \
         mkfs.ext4:e2fsprogs mkfs.xfs:xfsprogs mount:mount setpriv:util-linux unshare:util-linux

tools:
	@missing=""; \
	for tool in $(TOOLS); do \
		command -v "$${tool%%:*}" >/dev/null || missing="$$missing $${tool##*:}"; \
	done; \
	if command -v gcc >/dev/null && ! printf '#include <stdlib.h>\n' | gcc -E - >/dev/null 2>&1; then missing="$$missing libc6-dev"; fi; \
	case "$$missing" in *gcc*) missing="$$missing libc6-dev";; esac; \
	if [ -z "$$missing" ]; then exit 0; fi; \
	missing=$$(printf '%s\n' $$missing | sort -u | tr '\n' ' '); \
	if ! command -v apt-get >/dev/null; then echo "make test needs what Debian calls: $$missing"; exit 1; fi; \
	sudo=""; if [ "$$(id -u)" -ne 0 ]; then sudo="sudo"; fi; \
	echo "installing what the tests need: $$missing"; \
	$$sudo apt-get update -q; \
	$$sudo env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends $$missing

# $(call sweep,PATTERN,PACKAGES,ENVIRONMENT) runs tests by name and fails when no test has such a name.
define sweep
	out=$$(mktemp); trap 'rm -f "$$out"' EXIT; \
	env $(3) $(GO) test -v -count=1 -timeout 12h -run '$(1)' $(2) | tee "$$out" | grep -v 'no test' ; \
	grep -q '^--- PASS' "$$out" || { echo "no test passed that is called $(1)"; exit 1; }
endef

million:
	$(call sweep,Million,./...,HOLDFAST_MILLION=1)

index-growth:
	HOLDFAST_INDEX_GROWTH=$(GROWTH) HOLDFAST_SCRATCH=$(SCRATCH) $(GO) test -run '^$$' -bench '^BenchmarkGrowth$$' -timeout 3h -v ./vault/index

# A simulated year of hourly pulls in memory (half a GB of /dev/shm): what grows and what does not, with and without evacuation.
year:
	@mkdir -p bin
	$(GO) run ./bench year -out bin/year.md $(BENCH)

# What a test plays of seventy days in CI: the space follows the policy, what is kept comes back, cuts change nothing. Every fifth day has
# pulls, every day a prune; YEARS=1 has pulls on each day.
YEARS ?= 10
decade:
	$(call sweep,YearOutgrowsItsPolicy,./vault,HOLDFAST_YEARS=$(YEARS))

# What is missing of the other tools is installed when root runs it; BENCH takes flags (go run ./bench -h).
bench:
	@mkdir -p bin
	$(GO) run ./bench -newer -out bin/bench.md $(BENCH)

# A hundredth of everything, once: whether the bench works, not how fast anything is.
bench-small:
	@mkdir -p bin
	$(GO) run ./bench -scale 0.01 -n 1 -out bin/bench-small.md $(BENCH)

crash-sweep:
	$(call sweep,Cut|Crash|Fault|Killed,./vault/... ./immutability/...,HOLDFAST_SWEEP=full)

# HISTORIES lives, and a twentieth of that on a guarded disk; HOLDFAST_HISTORY_FIRST=SEED begins elsewhere.
histories:
	$(call sweep,NoHistoryBreaksAPromise,./immutability/worm,HOLDFAST_HISTORIES=$(HISTORIES))

# A real pull of a real sshd, killed at 50 moments.
kill-sweep:
	$(call sweep,Killed,./cmd/holdfast,HOLDFAST_SWEEP=full)

flip-sweep:
	$(call sweep,Flip|NoDamage,./vault/... ./immutability/... ./cmd/holdfast,HOLDFAST_SWEEP=full)

# /usr/local/go and /usr/share pulled from a real sshd and compared; a few bytes edited in a large file.
real-trees:
	$(call sweep,SourceComesBack|SmallEdit,./cmd/...,HOLDFAST_SWEEP=full)

# All 100 GiB of a generated file read through seeded cuts of every kind: half an hour and 2 GiB of memory, no disk.
resume-huge:
	$(call sweep,CutReadsMoreThanAPackAgain,./vault,HOLDFAST_SWEEP=full)

# Every attack of docs/KEEPER.md on a real keeper, ext4 and XFS, with a long storm of kills; root.
ATTACKS ?= 100
attacks:
	$(call sweep,Attack,./cmd/holdfast-keeper,HOLDFAST_ATTACKS=$(ATTACKS))

boot:
	$(call sweep,RealSystemd,./systemd,GOFLAGS=-tags=boot)

# A real kernel that loses what was not synced: loop devices, so root.
power-cuts:
	$(call sweep,RealKernel,./immutability/durable/...,HOLDFAST_LOOP_TEST=$(CUTS))

# The same of the whole guarded vault, on ext4 and on XFS.
keeper-cuts:
	$(call sweep,RealKernel|OldWriters,./immutability/worm ./immutability/move,HOLDFAST_LOOP_TEST=$(CUTS))

# Daemon and keeper under their own users, on ext4 and XFS, killed at moments of a pull.
keeper-users:
	$(call sweep,Keeper,./cmd/holdfast-keeper,HOLDFAST_SWEEP=full)

# Vault's own tests with their vaults kept by a keeper, and a keeper that is lost 200 times.
kept:
	$(call sweep,Keeper,./vault,HOLDFAST_SWEEP=full)

# Every fuzz target in turn, FUZZTIME each.
fuzz:
	@for package in $$($(GO) list $(PACKAGES)); do \
		for target in $$($(GO) test -list '^Fuzz' "$$package" | grep '^Fuzz' || true); do \
			echo "$$package $$target"; \
			$(GO) test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 1x "$$package"; \
		done; \
	done

clean:
	rm -rf bin
