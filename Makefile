# vmdeck: `make demo` and `make test` do all their set-up themselves on Debian and Ubuntu.
GUEST := guests/micro/out
KERNELS := guests/kernels/out
CARGO ?= cargo
export HOURS KILLS SEED

.PHONY: demo dist build test test-all check deps nextest peer guest bench bench-winrm bench-snapshots bench-lxd bench-cockpit soak docs screens clean

# A real guest, booted, tested and proven gone.
demo: deps guest build
	target/release/vmdeck demo

build:
	$(CARGO) build --release

# What people install, in dist/: archives, Debian packages, checksums, a formula. `make dist TARGETS=...` names the targets.
dist:
	scripts/dist.sh $(TARGETS)

# Every test, real QEMU guests included: with cargo-nextest, which keeps the groups of .config/nextest.toml, else without.
TESTS = if $(CARGO) nextest --version >/dev/null 2>&1; then $(CARGO) nextest run --workspace --status-level fail; \
	else $(CARGO) test --quiet --workspace --lib --bins --tests; fi

test: deps nextest peer guest
	$(TESTS)

# The slow ones as well: many kills, floods, the cases that wait for a time-out.
test-all: deps nextest peer guest
	export VMDECK_TEST_SLOW=1; $(TESTS)

# Format, lints, documentation, licences and advisories.
check:
	$(CARGO) fmt --check
	$(CARGO) clippy --quiet --workspace --all-targets -- -D warnings
	$(CARGO) check --quiet --features rsa
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --quiet --no-deps --workspace
	@if command -v cargo-deny >/dev/null; then $(CARGO) deny --offline check bans licenses sources; \
	else echo "note: cargo-deny is not installed; licences and advisories were not checked"; fi

# vmdeck against ssh with a control master, and against a bare script, on the same guest in the same run.
bench: deps guest
	$(CARGO) bench --bench overhead

# Fresh guests from snapshots, against boots and `loadvm`; builds a Debian first.
bench-snapshots: deps guest
	$(CARGO) bench --bench snapshots

# The winrm transport against pypsrp, with the same server in the same run.
bench-winrm: peer
	tests/winrm/venv/bin/pip --quiet --disable-pip-version-check install 'pypsrp==0.9.1'
	$(CARGO) bench --bench winrm

# Cases in instances of LXD, each in its own, against the client of LXD in the same run.
bench-lxd: deps
	$(CARGO) bench --bench lxd

# The cockpit under load: 4 guests with 25 000 lines/s each, ten million lines, a search, an idle time.
bench-cockpit: deps
	$(CARGO) bench --bench cockpit

# HOURS of kills, lock fights and want of memory, with tallies at the end; KILLS=N ends it after so many kills of real guests.
soak: deps guest
	$(CARGO) bench --bench soak

# Files in the repository that are made from the program.
docs:
	$(CARGO) run --quiet -- config example > config.example.toml

# docs/screens: what the cockpit shows in a scripted run.
screens: deps
	VMDECK_SCREENS=write $(CARGO) test --test terminal -- the_screens the_picture

deps:
	@scripts/deps.sh

nextest:
	@scripts/nextest.sh

# The WinRM server that the tests talk to.
peer: deps
	@scripts/peer.sh

guest: $(GUEST)/initrd.cpio $(KERNELS)/cloud/version
$(KERNELS)/cloud/version: guests/kernels/fetch.sh
	guests/kernels/fetch.sh $(KERNELS)
$(GUEST)/initrd.cpio: guests/micro/build.sh guests/micro/kexec.c
	guests/micro/build.sh $(GUEST)

clean:
	$(CARGO) clean
	rm -rf $(GUEST) $(KERNELS) tests/winrm/venv .vmdeck
