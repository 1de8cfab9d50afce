# vmdeck: `make demo` and `make test` do all their set-up themselves on Debian and Ubuntu.
GUEST := guests/micro/out
CARGO ?= cargo

.PHONY: demo build test test-all check deps guest bench bench-cockpit docs screens clean

# A real guest, booted, tested and proven gone.
demo: deps guest build
	target/release/vmdeck demo

build:
	$(CARGO) build --release

# Every test, real QEMU guests included. Those of the desktop hypervisors mostly wait, so that more of them run at a time.
test: deps guest
	$(CARGO) test --quiet --lib --bins --test '[!d]*'
	$(CARGO) test --quiet --test desktop -- --test-threads 5

# The slow ones as well: many kills, floods, the cases that wait for a time-out.
test-all: deps guest
	VMDECK_TEST_SLOW=1 $(CARGO) test --quiet --lib --bins --test '[!d]*'
	$(CARGO) test --quiet --test desktop -- --test-threads 5

# Format, lints, documentation, licences and advisories.
check:
	$(CARGO) fmt --check
	$(CARGO) clippy --quiet --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --quiet --no-deps
	@if command -v cargo-deny >/dev/null; then $(CARGO) deny --offline check bans licenses sources; \
	else echo "note: cargo-deny is not installed; licences and advisories were not checked"; fi

# vmdeck against ssh with a control master, and against a bare script, on the same guest in the same run.
bench: deps guest
	$(CARGO) bench --bench overhead

# The cockpit under load: 4 guests with 25 000 lines/s each, ten million lines, a search, an idle time.
bench-cockpit: deps
	$(CARGO) bench --bench cockpit

# Files in the repository that are made from the program.
docs:
	$(CARGO) run --quiet -- config example > config.example.toml

# docs/screens: what the cockpit shows in a scripted run.
screens: deps
	VMDECK_SCREENS=write $(CARGO) test --test terminal the_screens

deps:
	@scripts/deps.sh

guest: $(GUEST)/initrd.cpio
$(GUEST)/initrd.cpio: guests/micro/build.sh
	guests/micro/build.sh $(GUEST)

clean:
	$(CARGO) clean
	rm -rf $(GUEST) .vmdeck
