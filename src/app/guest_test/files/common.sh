#!/bin/bash
# Made by vmdeck for scripts of the KVM guest-test framework that come without a common.sh of their own: the words of a log, and the
# exit codes of a test. It is sourced on the host and in the guest.

_vmdeck_stamp() { date '+%m%d_%H%M%S.000'; }

test_print_trc() { echo "|$(_vmdeck_stamp)|TRACE|$*|"; }
test_print_wrg() { echo "|$(_vmdeck_stamp)|WARNING| $0 - $*|" >&2; }
test_print_err() { echo "|$(_vmdeck_stamp)|ERROR| $0 - $*|" >&2; }

# The test failed.
die() { test_print_err "FATAL: $*"; exit 1; }
# The test cannot be run, because something before it failed.
block_test() { test_print_wrg "BLOCK: $*"; exit 2; }
# The test is not for this machine.
skip_test() { test_print_wrg "SKIP: $*"; exit 32; }
na_test() { test_print_wrg "NA: $*"; exit 32; }

# Runs a command; a failure ends the test.
do_cmd() {
  test_print_trc "CMD: $*"
  eval "$@" || die "$* returned $?"
}

# Runs a command that must fail.
should_fail() {
  test_print_trc "CMD, to fail: $*"
  if eval "$@"; then die "$* did not fail"; fi
}
