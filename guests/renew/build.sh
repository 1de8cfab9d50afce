#!/usr/bin/env bash
# build.sh - assembles renew.x86_64.s into the program that vmdeck carries. It is run by hand after a change; the result is committed.
set -euo pipefail
cd "$(dirname "$0")"
out=../../crates/vmdeck-core/src/engine/machine/snapshots/renew/renew.x86_64
object=$(mktemp)
trap 'rm -f "$object"' EXIT
as -o "$object" renew.x86_64.s
ld -static -N -s --build-id=none -z noseparate-code --no-warn-rwx-segments -o "$out" "$object"
chmod 644 "$out"
