#!/usr/bin/env bash
# peer.sh - makes the Python environment of the WinRM server that the tests talk to, if it is not there already.
set -euo pipefail
cd "$(dirname "$0")/.."
venv=tests/winrm/venv
"$venv/bin/python" -c 'import spnego' 2>/dev/null && exit 0
echo "making $venv: pyspnego, for tests/winrm/peer.py"
rm -rf "$venv"
python3 -m venv "$venv"
# A package index may be slow to answer once.
for _ in 1 2 3; do
  "$venv/bin/pip" --quiet --disable-pip-version-check install 'pyspnego==0.12.4' && exit 0
  sleep 2
done
echo "error: cannot install pyspnego" >&2
exit 3
