#!/usr/bin/env bash
# nextest.sh - installs cargo-nextest, the test runner, if it is missing. Without it the tests run by `cargo test`, which is slower
# and keeps no groups; so a failure here is only reported.
set -uo pipefail
cargo=${CARGO:-cargo}
"$cargo" nextest --version >/dev/null 2>&1 && exit 0
[ -z "${VMDECK_NO_NEXTEST:-}" ] || exit 0
echo "installing cargo-nextest, the test runner: takes a few minutes once; VMDECK_NO_NEXTEST=1 skips it"
if ! timeout 900 "$cargo" install --quiet --locked cargo-nextest; then
  echo "note: cargo-nextest could not be installed; the tests run by cargo test" >&2
fi
exit 0
