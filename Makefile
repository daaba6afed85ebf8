# Culvert: every task a newcomer needs. `make help` lists them.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
export CULVERT_CACHE ?= $(HOME)/.cache/culvert

.PHONY: help setup build demo test unit lab check fmt clippy deny tidy check-ebpf ebpf bench bench-waypoint clean cluster cluster-images cluster-down test-cluster test-cluster-long test-kind test-interop conformance

help: ## what there is
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-14s %s\n", $$1, $$2}'

setup: ## install what building, testing and the demo need (Debian packages, the OTLP collector)
	@hack/setup.sh

build: setup ## build every program
	@cargo build --workspace --locked

demo: build ## raise a two-node mesh, prove that it holds, say what to try, clean up (KEEP=1 leaves it up)
	@hack/demo.sh

test: ## everything: house rules, unit tests, the lab as root
	@hack/test.sh

unit: ## unit tests of all crates (no root needed but for the kernel programs)
	@cargo test --workspace --locked --exclude e2e-lab --exclude redirect-loader

lab: build ## end-to-end tests on the lab (root)
	@cargo test --locked -p redirect-loader -p e2e-lab -- --test-threads=1

check: fmt clippy deny tidy check-ebpf ## formatting, lints, licences and bans, house rules

fmt: ## formatting
	@cargo fmt --all --check

clippy: ## lints, warnings are errors
	@cargo clippy --workspace --all-targets --locked -- -D warnings

deny: ## licences, bans, duplicates (installs cargo-deny into the cache)
	@hack/deny.sh

tidy: ## arrows between crates, sizes of files and functions
	@cargo xtask tidy

ebpf: ## rebuild the committed kernel object (installs the toolchain from packages)
	@redirect-ebpf/programs/build.sh

check-ebpf: ## does the committed kernel object match its sources?
	@redirect-ebpf/programs/check.sh

# Each takes minutes in this profile: only what is measured.
MEASURED = -p bench -p ztunnel -p waypoint -p control -p node -p ca -p culvert

bench: setup ## measurements: direct against meshed, the waypoint beside Envoy, routes, then a large cluster by a script
	@cargo build --locked --release $(MEASURED)
	@target/release/bench
	@target/release/bench waypoint
	@target/release/bench routes
	@target/release/bench scale

bench-waypoint: setup ## the waypoint beside Envoy alone (OPTIONS="--rounds 7 --workers 1 --no-log")
	@cargo build --locked --release $(MEASURED)
	@target/release/bench waypoint $(OPTIONS)

cluster: ## raise a real two-node Kubernetes (root; OPTIONS="--cni bridge --proxy-mode nftables"), and leave it up
	@hack/cluster.sh
	@cargo build --locked -p e2e-cluster
	@target/debug/e2e-cluster up $(OPTIONS)

cluster-images: build ## make the images of all programs, and load them into the cluster that is up
	@cargo run --quiet --locked -p xtask -- image
	@target/debug/e2e-cluster load-images

cluster-down: ## remove the cluster, also after a crash
	@cargo build --quiet --locked -p e2e-cluster
	@target/debug/e2e-cluster down

test-cluster: ## tests on such a cluster (root)
	@hack/cluster-test.sh

test-cluster-long: ## pods that come and go for two minutes, one a second, while they are called (root)
	@CULVERT_CHURN=120 hack/cluster-test.sh addresses_that_change_hands

test-kind: ## docs/kind.md, run as it stands (Docker and kind; KIND_NODE_IMAGE for a node image of your own)
	@hack/kind-test.sh

test-interop: ## our proxy under a real istiod, with our agent and with istio-cni; Istio's beside ours (CULVERT_STOCK_ZTUNNEL=binary) (root)
	@hack/interop-test.sh

conformance: ## the Gateway API's own conformance suite for a mesh, on such a cluster (root; RUN=MeshBasic for one test)
	@hack/conformance.sh

clean: ## remove what was built
	@cargo clean
