#!/usr/bin/env bash
# deps.sh - installs the system packages that building, testing and the demo need, and nothing that is there already.
#
# It says first what it is going to do. Only Debian and Ubuntu are known; elsewhere it lists the tools to install by hand.
set -euo pipefail
export PATH="$PATH:/usr/sbin:/sbin"

# command:package
wanted="cc:gcc ld:binutils qemu-system-x86_64:qemu-system-x86 qemu-img:qemu-utils ssh:openssh-client sshd:openssh-server
        cpio:cpio modprobe:kmod dropbearkey:dropbear-bin openssl:openssl python3:python3 lz4:lz4 zstd:zstd git:git
        ps:procps tmux:tmux swtpm:swtpm qemu-ga:qemu-guest-agent"

missing() {
  local pair out=""
  for pair in $wanted; do
    command -v "${pair%%:*}" >/dev/null 2>&1 || out="$out ${pair#*:}"
  done
  # gcc alone cannot link without the C library's headers and start files.
  [ -e /usr/include/stdio.h ] || out="$out libc6-dev"
  # Debian's own Python makes no environments without this.
  python3 -c 'import ensurepip, venv' 2>/dev/null || out="$out python3-venv"
  # A UEFI is found by its description.
  compgen -G '/usr/share/qemu/firmware/*.json' >/dev/null || out="$out ovmf"
  echo "$out"
}

# A cluster of LXD in namespaces of this host, for its tests: only where that can be made, and where no daemon would be started for
# good. Without it those tests say that they are left out.
cluster() {
  [ "$(id -u)" -eq 0 ] && [ ! -d /run/systemd/system ] && unshare --mount --net true 2>/dev/null || return 0
  local pair packages=""
  for pair in lxd:lxd lxc:lxd-client dnsmasq:dnsmasq-base busybox:busybox-static ip:iproute2 ethtool:ethtool; do
    command -v "${pair%%:*}" >/dev/null 2>&1 || packages="$packages ${pair#*:}"
  done
  [ -n "$packages" ] || return 0
  echo "the tests of LXD need system packages:$packages"
  # shellcheck disable=SC2086 # a list of package names
  DEBIAN_FRONTEND=noninteractive apt-get -qq -y --no-install-recommends install $packages >/dev/null 2>&1 ||
    echo "note: LXD cannot be had here, and its tests are left out"
}

need=$(missing)
if [ -z "$need" ]; then
  # Package lists are needed to fetch the guest's packages.
  if command -v apt-cache >/dev/null && [ -n "$(apt-cache depends linux-image-cloud-amd64 2>/dev/null)" ]; then
    cluster
    exit 0
  fi
fi

id=$(. /etc/os-release 2>/dev/null && echo "${ID:-} ${ID_LIKE:-}" || true)
case " $id " in
  *" debian "* | *" ubuntu "*) ;;
  *)
    echo "error: cannot install packages: this system (${id:-unknown}) is not Debian or Ubuntu" >&2
    echo >&2
    echo "hint: install by hand what provides:$need; then run make again. \`vmdeck demo --local\` needs none of it" >&2
    exit 3 ;;
esac

sudo=""
if [ "$(id -u)" -ne 0 ]; then
  command -v sudo >/dev/null || { echo "error: cannot install packages: not root, and there is no sudo" >&2; exit 3; }
  sudo=sudo
fi
echo "vmdeck needs system packages:${need:- (none, only the package lists)}"
echo "running: ${sudo:+sudo }apt-get update, then apt-get install"
$sudo apt-get -qq update
# Twice: a newer qemu-utils from elsewhere may have to give way to the version that goes with qemu-system-x86.
for _ in 1 2; do
  need=$(missing)
  [ -n "$need" ] || break
  # shellcheck disable=SC2086 # a list of package names
  $sudo env DEBIAN_FRONTEND=noninteractive apt-get -qq -y --no-install-recommends install $need >/dev/null
done
need=$(missing)
if [ -n "$need" ]; then
  echo "error: cannot install:$need" >&2
  exit 3
fi
cluster
