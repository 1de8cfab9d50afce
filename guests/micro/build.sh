#!/usr/bin/env bash
# build.sh OUTDIR - builds the micro guest: a Debian kernel and an initramfs with busybox, an SSH server, SFTP, sudo and a kexec.
#
# Everything comes from Debian packages (apt-get download). No root, no loop mount, no chroot: packages are unpacked
# with dpkg-deb and packed with cpio. Keys and the password of `ci` are made anew whenever OUTDIR holds none.
#
# Result in OUTDIR:
#   vmlinuz  vmlinux   the kernel, and the same kernel uncompressed (its PVH entry boots 0.4 s faster under emulation)
#   initrd.cpio        the guest's file tree; the guest runs from memory and has no disk
#   id_ed25519[.pub]   key that logs in as `ci` and `root`
#   host_key           the guest's SSH host key in authorized_keys form, to pin
#   password           password of `ci` and `root`
#
# Same packages, same keys and same C compiler give the same initrd, byte for byte (SOURCE_DATE_EPOCH is honoured, default 0).
set -euo pipefail
umask 022
export LC_ALL=C PATH="$PATH:/usr/sbin:/sbin"

usage="usage: guests/micro/build.sh OUTDIR"
OUT=${1:?$usage}
mkdir -p "$OUT"
OUT=$(cd "$OUT" && pwd)
CACHE=${DEB_CACHE:-$OUT/debs}
EPOCH=${SOURCE_DATE_EPOCH:-0}

for tool in apt-get apt-cache cc dpkg-deb cpio ssh-keygen dropbearkey modprobe depmod openssl python3 ldd; do
  command -v "$tool" >/dev/null || { echo "error: cannot build the micro guest: \`$tool\` is not installed" >&2
    echo >&2; echo "hint: run \`make deps\`, or: apt-get install gcc libc6-dev cpio kmod openssh-client dropbear-bin openssl python3 lz4 zstd" >&2; exit 3; }
done

W=$(mktemp -d "$OUT/work.XXXXXX")
trap 'rm -rf "$W"' EXIT
R=$W/root
X=$W/packages
mkdir -p "$CACHE" "$R" "$X"

# --- packages -----------------------------------------------------------------------------------------------------
kernel=""
for meta in linux-image-cloud-amd64 linux-image-virtual; do # Debian's name, Ubuntu's name
  [ -n "$kernel" ] || kernel=$(apt-cache depends "$meta" 2>/dev/null | awk '/Depends: linux-image-[0-9]/{print $2; exit}')
done
[ -n "$kernel" ] || { echo "error: cannot find a kernel package for the micro guest: apt has no package lists" >&2
  echo >&2; echo "hint: run \`apt-get update\` (as root) first; Debian or Ubuntu on amd64 is needed" >&2; exit 3; }
version=${kernel#linux-image-}
# Ubuntu keeps the modules in a package of their own.
modules=$(apt-cache show "linux-modules-$version" >/dev/null 2>&1 && echo "linux-modules-$version" || true)
packages="$kernel $modules busybox-static dropbear-bin openssh-sftp-server sudo libpam0g libpam-modules libaudit1 libcap-ng0
  libselinux1 libpcre2-8-0 libapparmor1 libc6 libcrypt1 libtomcrypt1 libtommath1 libgmp10 zlib1g"
missing=""
for p in $packages; do
  compgen -G "$CACHE/${p}_*.deb" >/dev/null || missing="$missing $p"
done
if [ -n "$missing" ]; then
  # shellcheck disable=SC2086 # a list of package names
  (cd "$CACHE" && apt-get -qq -o APT::Sandbox::User=root download $missing)
fi
for p in $packages; do dpkg-deb -x "$CACHE/$p"_*.deb "$X"; done

# --- kernel -------------------------------------------------------------------------------------------------------
cp "$X/boot/vmlinuz-$version" "$OUT/vmlinuz"
if [ ! -e "$OUT/vmlinux" ] || [ "$OUT/vmlinux" -ot "$CACHE/$kernel"_*.deb ]; then
  python3 - "$OUT/vmlinuz" "$OUT/vmlinux" <<'PY'
import lzma, struct, subprocess, sys
b = open(sys.argv[1], "rb").read()
start = (b[0x1F1] + 1) * 512 + struct.unpack_from("<I", b, 0x248)[0]
payload = b[start : start + struct.unpack_from("<I", b, 0x24C)[0]]
if payload[:6] == b"\xfd7zXZ\0":
    out = lzma.decompress(payload[:-4], lzma.FORMAT_XZ)
else:  # Debian 12: an LZ4 legacy frame with four bytes of size behind it; newer ones: zstd
    tool = "lz4" if payload[:4] == b"\x02\x21\x4c\x18" else "zstd"
    out = subprocess.run([tool, "-dcq"], input=payload[:-4], stdout=subprocess.PIPE).stdout
assert out[:4] == b"\x7fELF", "unknown kernel compression"
open(sys.argv[2], "wb").write(out)
PY
fi

# --- file tree ----------------------------------------------------------------------------------------------------
mkdir -p "$R"/{bin,sbin,dev,proc,sys,run,tmp,mnt,root/.ssh,home/ci/.ssh,etc/dropbear,etc/pam.d,etc/sudoers.d} \
         "$R"/{usr/bin,usr/sbin,usr/lib/openssh,usr/libexec/sudo,lib/modules,lib/security,lib64,var/log,var/run/sudo}
cp "$X/bin/busybox" "$R/bin/busybox"
"$R/bin/busybox" --list-full | grep / | grep -vx bin/busybox | while read -r applet; do
  ln -sf /bin/busybox "$R/$applet"
done
cc -static -Os -s -o "$R/sbin/kexec" "$(dirname "$0")/kexec.c"
cp "$X/usr/sbin/dropbear" "$R/usr/sbin/"
cp "$X/usr/lib/openssh/sftp-server" "$R/usr/lib/openssh/"
ln -s openssh/sftp-server "$R/usr/lib/sftp-server"
cp "$X/usr/bin/sudo" "$R/usr/bin/sudo"
cp "$X"/usr/libexec/sudo/*.so* "$R/usr/libexec/sudo/" 2>/dev/null || cp "$X"/usr/lib/sudo/*.so* "$R/usr/libexec/sudo/"
pam_dir=$(dirname "$(find "$X" -name pam_unix.so | head -n1)")
cp "$pam_dir/pam_unix.so" "$pam_dir/pam_permit.so" "$pam_dir/pam_deny.so" "$R/lib/security/"
mkdir -p "$R/lib/x86_64-linux-gnu"
ln -s ../security "$R/lib/x86_64-linux-gnu/security"

# The libraries these need, by their own NEEDED entries, from the unpacked packages alone.
needed() { python3 - "$@" <<'PY'
import subprocess, sys
for path in sys.argv[1:]:
    out = subprocess.run(["ldd", path], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True).stdout
    for line in out.splitlines():
        name = line.split()[0]
        if not name.startswith("/") and not name.startswith("linux-vdso"):
            print(name)
PY
}
needed "$R/usr/sbin/dropbear" "$R/usr/lib/openssh/sftp-server" "$R/usr/bin/sudo" "$R"/usr/libexec/sudo/*.so "$R"/lib/security/*.so |
  LC_ALL=C sort -u | while read -r name; do
    case $name in libsudo_util*|statically) continue ;; esac
    from=$(find "$X" -name "$name" | head -n1)
    # A library of pam_unix's NIS support may be absent: the module then is not loaded, and nothing here uses it.
    [ -n "$from" ] || { echo "note: $name is in no package of the guest" >&2; continue; }
    cp -L "$from" "$R/lib/x86_64-linux-gnu/"
  done
cp -L "$(find "$X" -name ld-linux-x86-64.so.2 | head -n1)" "$R/lib64/"

# --- modules, in load order, in one flat directory ------------------------------------------------------------------
depmod -b "$X" "$version"
for m in virtio_pci virtio_mmio virtio_net virtio_blk virtio_console virtio_rng virtio_balloon overlay; do
  modprobe -d "$X" -S "$version" --show-depends "$m" 2>/dev/null | awk '$1=="insmod"{print $2}' | while read -r path; do
    file=$(basename "$path" | sed 's/\.\(zst\|xz\|gz\)$//')
    case $path in # busybox loads uncompressed modules only
      *.zst) zstd -dqcf "$path" > "$R/lib/modules/$file" ;;
      *.xz) python3 -c 'import lzma, sys; sys.stdout.buffer.write(lzma.open(sys.argv[1]).read())' "$path" > "$R/lib/modules/$file" ;;
      *.gz) gzip -dc "$path" > "$R/lib/modules/$file" ;;
      *) cp -n "$path" "$R/lib/modules/" ;;
    esac
    echo "$file" >> "$R/lib/modules/$m.order"
  done
done

# --- accounts and keys --------------------------------------------------------------------------------------------
[ -e "$OUT/id_ed25519" ] || ssh-keygen -q -t ed25519 -N '' -C vmdeck-micro -f "$OUT/id_ed25519"
chmod 600 "$OUT/id_ed25519"
[ -e "$OUT/password" ] || (umask 077; openssl rand -hex 12 > "$OUT/password")
[ -e "$OUT/dropbear_key" ] || dropbearkey -t ed25519 -f "$OUT/dropbear_key" >/dev/null 2>&1
cp "$OUT/dropbear_key" "$R/etc/dropbear/dropbear_ed25519_host_key"
dropbearkey -y -f "$OUT/dropbear_key" | awk '/^ssh-ed25519/{print $1, $2}' > "$OUT/host_key"
for home in root home/ci; do
  cp "$OUT/id_ed25519.pub" "$R/$home/.ssh/authorized_keys"
  chmod 700 "$R/$home" "$R/$home/.ssh"
  chmod 600 "$R/$home/.ssh/authorized_keys"
done
# The salt is the key's digest: reproducible, and another one for each build.
salt=$(sha256sum "$OUT/id_ed25519.pub" | cut -c1-12)
hash=$(openssl passwd -6 -salt "$salt" -stdin < "$OUT/password")
printf 'root:x:0:0:root:/root:/bin/sh\nci:x:1000:1000:ci:/home/ci:/bin/sh\n' > "$R/etc/passwd"
printf 'root:x:0:\nci:x:1000:\n' > "$R/etc/group"
printf 'root:%s:19000:0:99999:7:::\nci:%s:19000:0:99999:7:::\n' "$hash" "$hash" > "$R/etc/shadow"
chmod 640 "$R/etc/shadow"
echo /bin/sh > "$R/etc/shells"
echo micro > "$R/etc/hostname"
printf '127.0.0.1 localhost micro\n' > "$R/etc/hosts"
echo 'nameserver 10.0.2.3' > "$R/etc/resolv.conf"
printf 'ID=micro\nPRETTY_NAME="vmdeck micro guest (Debian kernel, busybox)"\n' > "$R/etc/os-release"
printf 'passwd: files\ngroup: files\nshadow: files\nhosts: files dns\n' > "$R/etc/nsswitch.conf"
printf 'auth required pam_unix.so\naccount required pam_permit.so\nsession required pam_permit.so\n' > "$R/etc/pam.d/sudo"
cp "$R/etc/pam.d/sudo" "$R/etc/pam.d/other"
# `ci` runs anything as root without a password; `micro.sudo=password` on the kernel command line makes sudo ask.
printf 'Defaults !lecture\nroot ALL=(ALL:ALL) ALL\nci ALL=(ALL:ALL) NOPASSWD: ALL\n' > "$R/etc/sudoers"
chmod 440 "$R/etc/sudoers"

cat > "$R/etc/inittab" <<'T'
::sysinit:/etc/rcS
ttyS0::respawn:/sbin/getty -L 115200 ttyS0 vt100
::ctrlaltdel:/sbin/reboot
T
cat > "$R/etc/rcS" <<'T'
#!/bin/sh
# Brings the guest up. Words on the kernel command line start trouble for tests: micro.sudo=password, micro.sshd=off.
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev
mkdir -p /dev/pts /dev/shm; mount -t devpts devpts /dev/pts; mount -t tmpfs shm /dev/shm
hostname micro
cd /lib/modules
for m in virtio_pci virtio_net virtio_rng virtio_blk virtio_balloon virtio_console; do
  for k in $(cat "$m.order" 2>/dev/null); do insmod "$k" 2>/dev/null; done
done
cd /
ip link set lo up
ip addr add 10.0.2.15/24 dev eth0; ip link set eth0 up; ip route add default via 10.0.2.2
chmod 1777 /tmp
for word in $(cat /proc/cmdline); do
  case $word in
    micro.sudo=password) sed -i 's/NOPASSWD: //' /etc/sudoers ;;
    micro.sshd=off) sshd=off ;;
  esac
done
[ "${sshd:-on}" = off ] || dropbear -R -p 22
T
chmod 755 "$R/etc/rcS"
ln -s /sbin/init "$R/init"
chmod 4755 "$R/usr/bin/sudo"

# --- pack: sorted, without times or inode numbers; /home/ci in a second segment, for it belongs to user 1000 ----------
find "$R" -depth -print0 | xargs -0 touch -h -d "@$EPOCH"
pack() { cpio --null -o -H newc --reproducible -R "$1" --quiet; }
(cd "$R" && find . -path ./home/ci -prune -o -print0 | sort -z | pack 0:0) > "$W/root.cpio"
(cd "$R" && find home/ci -print0 | sort -z | pack 1000:1000) > "$W/ci.cpio"
cat "$W/root.cpio" "$W/ci.cpio" > "$OUT/initrd.cpio"
echo "$version" > "$OUT/version"
ls -l "$OUT/vmlinuz" "$OUT/vmlinux" "$OUT/initrd.cpio" | awk '{print $5, $9}'
