#!/usr/bin/env bash
# fetch.sh OUTDIR - two kernels of the system's own packages, unpacked and not installed: no root is needed.
#
# Result in OUTDIR, each as a folder with boot/vmlinuz-VERSION, boot/config-VERSION and lib/modules/VERSION:
#   generic   has the 9P file system, as modules
#   cloud     has virtiofs and no 9P
set -euo pipefail
export LC_ALL=C
OUT=${1:?usage: guests/kernels/fetch.sh OUTDIR}
mkdir -p "$OUT"
OUT=$(cd "$OUT" && pwd)
W=$(mktemp -d "$OUT/work.XXXXXX")
trap 'rm -rf "$W"' EXIT

for kind in generic cloud; do
  [ ! -e "$OUT/$kind/version" ] || continue
  # Debian's name, Ubuntu's name.
  case $kind in generic) names="linux-image-amd64 linux-image-generic" ;; cloud) names="linux-image-cloud-amd64 linux-image-virtual" ;; esac
  package=""
  for meta in $names; do
    [ -n "$package" ] || package=$(apt-cache depends "$meta" 2>/dev/null | awk '/Depends: linux-image-[0-9]/{print $2; exit}')
  done
  [ -n "$package" ] || { echo "error: cannot find a $kind kernel: apt has no package lists" >&2
    echo >&2; echo "hint: run \`apt-get update\` (as root) first; Debian or Ubuntu on amd64 is needed" >&2; exit 3; }
  version=${package#linux-image-}
  # Ubuntu keeps the modules in packages of their own.
  more=$(for other in "linux-modules-$version" "linux-modules-extra-$version"; do
    apt-cache show "$other" >/dev/null 2>&1 && echo "$other" || true; done)
  mkdir "$W/$kind"
  # shellcheck disable=SC2086 # a list of package names
  (cd "$W/$kind" && apt-get -qq -o APT::Sandbox::User=root download $package $more)
  for deb in "$W/$kind"/*.deb; do dpkg-deb -x "$deb" "$W/$kind/root"; done
  echo "$version" > "$W/$kind/root/version"
  rm -rf "${OUT:?}/$kind"
  chmod 755 "$W/$kind/root"
  mv "$W/$kind/root" "$OUT/$kind"
done
