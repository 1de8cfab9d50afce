#!/bin/bash
# Made by vmdeck for features of the KVM guest-test framework that come without its guest.test_executor.sh: the functions that a
# feature's own executor uses. `ssh`, `scp` and `sshpass` are vmdeck's and need no options.

GUEST_TEST_DIR="/root/guest_test/"

# guest_test_prepare [SCRIPT] [RPM]: an empty folder in the guest, with common.sh and the files that are given.
guest_test_prepare() {
  local file
  wget -q https://localhost/common.sh || return 1
  ssh root@localhost "rm -rf $GUEST_TEST_DIR && mkdir -p $GUEST_TEST_DIR" || return 1
  scp -q common.sh root@localhost:"$GUEST_TEST_DIR" || return 1
  for file in "$@"; do
    if [ -f "$file" ]; then scp -q "$file" root@localhost:"$GUEST_TEST_DIR" || return 1; fi
  done
  test_print_trc "Guest VM test script prepare complete"
}

# guest_test_source_code DIR BINARY: sends a folder, builds it in the guest, and puts the binary beside the scripts.
guest_test_source_code() {
  local name
  name="$(basename "$1")_temp"
  ssh root@localhost "mkdir -p $GUEST_TEST_DIR$name" || return 1
  scp -q -r "$1"/* root@localhost:"$GUEST_TEST_DIR$name" || return 1
  ssh root@localhost "cd $GUEST_TEST_DIR$name && make && chmod a+x $2 && cp $2 $GUEST_TEST_DIR" || return 1
  test_print_trc "Guest VM test source code and binary prepare complete"
}

# guest_test_entry SCRIPT "PARAMETERS": runs a script in the guest.
guest_test_entry() {
  ssh root@localhost <<EOF
    . $GUEST_TEST_DIR/common.sh
    cd $GUEST_TEST_DIR || exit 1
    ./$1 $2
EOF
}

# guest_test_close: ends the guest.
guest_test_close() {
  ssh root@localhost <<EOF
    case "$VM_TYPE" in
      tdx | tdxio) systemctl reboot --reboot-argument=now ;;
      *) shutdown now 2>/dev/null || poweroff ;;
    esac
EOF
  test_print_trc "Guest VM closed properly after test"
}

# Only if it is run and not sourced.
if [ "${BASH_SOURCE[0]}" -ef "$0" ]; then
  cd "$(dirname "$0")" 2>/dev/null || exit 1
  source ../.env
  source ./test_params.py
  executor="../$FEATURE_PATH/$FEATURE.guest_test_executor.sh"
  [ -e "$executor" ] || executor="../$FEATURE_PATH/$FEATURE.test_executor.sh"
  "$executor" || die "Failed on $TESTCASE of $FEATURE"
fi
