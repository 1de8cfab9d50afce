#!/usr/bin/env bash
# dist.sh - makes what people install: for each target an archive and, for Linux, a Debian package, and then their checksums and the
# formula for Homebrew, all in dist/.
#
#   scripts/dist.sh [--out DIR] [--binary FILE TARGET] [--sums-only] [TARGET...]
#
# Without targets: those with musl (static: they run on any Linux) whose Rust parts are installed, else the one of this host.
# --binary packs a program that was built elsewhere; --sums-only makes checksums and formula of what is in the folder already.
set -euo pipefail
cd "$(dirname "$0")/.."

out=dist binary= sums_only= targets=()
while [ $# -gt 0 ]; do
  case "$1" in
    --out) out=$2; shift 2 ;;
    --binary) binary=$2 targets=("$3"); shift 3 ;;
    --sums-only) sums_only=1; shift ;;
    -*) echo "error: unknown option \`$1\`" >&2; exit 2 ;;
    *) targets+=("$1"); shift ;;
  esac
done
version=$(sed -n '/^\[workspace.package\]/,/^\[/s/^version = "\(.*\)"/\1/p' Cargo.toml)
host=$(rustc --version --verbose | sed -n 's/^host: //p')
# The same bytes for the same commit.
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || echo 0)}
export SOURCE_DATE_EPOCH
# How hard to compress, 1 to 9.
level=${LEVEL:-9}
mkdir -p "$out"
out=$(cd "$out" && pwd)

has_target() { [ -d "$(rustc --print sysroot)/lib/rustlib/$1/lib" ]; }

if [ ${#targets[@]} = 0 ] && [ -z "$sums_only" ]; then
  for target in x86_64-unknown-linux-musl aarch64-unknown-linux-musl; do
    if has_target "$target"; then targets+=("$target"); fi
  done
  if [ ${#targets[@]} = 0 ]; then
    echo "note: no target with musl is installed (\`rustup target add x86_64-unknown-linux-musl\`); building for $host," \
      "which needs a C library as new as the one here" >&2
    targets=("$host")
  fi
fi

# Fills a folder with everything but the program.
fill() {
  local stage=$1 program=$2
  cp README.md CHANGELOG.md LICENSE-MIT LICENSE-APACHE config.example.toml "$stage/"
  mkdir -p "$stage/man" "$stage/completions"
  "$program" man --dir "$stage/man"
  "$program" completions bash > "$stage/completions/vmdeck.bash"
  "$program" completions zsh > "$stage/completions/_vmdeck"
  "$program" completions fish > "$stage/completions/vmdeck.fish"
}

# The Debian package of a folder.
deb() {
  local stage=$1 target=$2 arch root
  case "$target" in
    x86_64-*) arch=amd64 ;;
    aarch64-*) arch=arm64 ;;
    *) return 0 ;;
  esac
  root=$(mktemp -d)
  chmod 755 "$root"
  install -D -m 755 "$stage/vmdeck" "$root/usr/bin/vmdeck"
  install -D -m 644 "$stage/completions/vmdeck.bash" "$root/usr/share/bash-completion/completions/vmdeck"
  install -D -m 644 "$stage/completions/_vmdeck" "$root/usr/share/zsh/vendor-completions/_vmdeck"
  install -D -m 644 "$stage/completions/vmdeck.fish" "$root/usr/share/fish/vendor_completions.d/vmdeck.fish"
  install -D -m 644 "$stage/config.example.toml" "$root/usr/share/doc/vmdeck/config.example.toml"
  cat LICENSE-MIT LICENSE-APACHE > "$root/usr/share/doc/vmdeck/copyright"
  gzip -9n < CHANGELOG.md > "$root/usr/share/doc/vmdeck/changelog.gz"
  mkdir -p "$root/usr/share/man/man1" "$root/DEBIAN"
  for page in "$stage"/man/*.1; do gzip -9n < "$page" > "$root/usr/share/man/man1/$(basename "$page").gz"; done
  {
    echo "Package: vmdeck"
    echo "Version: $version"
    echo "Architecture: $arch"
    echo "Maintainer: the vmdeck developers <noreply@vmdeck.invalid>"
    echo "Section: devel"
    echo "Priority: optional"
    echo "Installed-Size: $(du -ks "$root/usr" | cut -f1)"
    # A static program needs nothing of the system it runs on.
    case "$target" in *-gnu) echo "Depends: libc6 (>= 2.34), libgcc-s1" ;; esac
    echo "Recommends: qemu-system-x86 | qemu-system-arm, qemu-utils"
    echo "Suggests: mmdebstrap, uidmap, ovmf, swtpm, virtiofsd"
    echo "Description: tests in virtual machines, from boot to report"
    echo " vmdeck boots virtual machines, waits for them, puts the code in, runs the tests"
    echo " inside, watches every console live, reports, and leaves nothing behind."
  } > "$root/DEBIAN/control"
  find "$root" -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +
  dpkg-deb --root-owner-group -z"$level" --build "$root" "$out/vmdeck_${version}_$arch.deb" >/dev/null
  rm -rf "$root"
}

for target in ${targets+"${targets[@]}"}; do
  program=$binary
  if [ -z "$program" ]; then
    if ! has_target "$target"; then
      echo "error: cannot build for $target: its Rust parts are missing" >&2
      echo >&2
      echo "hint: \`rustup target add $target\`; a C compiler for it as well (Debian, Ubuntu: \`apt-get install musl-tools\`)" >&2
      exit 3
    fi
    echo "building for $target"
    cargo build --release --locked --target "$target"
    program=$(cargo metadata --format-version 1 --no-deps | sed 's/.*"target_directory":"\([^"]*\)".*/\1/')/$target/release/vmdeck
  fi
  case "$target" in
    *-musl) if grep -qa /ld-linux "$program"; then echo "error: $program is not static" >&2; exit 1; fi ;;
  esac
  # Pages and scripts are the same whatever the target; a program of another processor cannot print them.
  printer=$program
  if ! "$printer" --version >/dev/null 2>&1; then
    cargo build --release --locked
    printer=$(cargo metadata --format-version 1 --no-deps | sed 's/.*"target_directory":"\([^"]*\)".*/\1/')/release/vmdeck
  fi
  name=vmdeck-$version-$target
  parent=$(mktemp -d)
  stage=$parent/$name
  mkdir "$stage"
  install -m 755 "$program" "$stage/vmdeck"
  fill "$stage" "$printer"
  tar --sort=name --mtime="@$SOURCE_DATE_EPOCH" --owner=0 --group=0 --numeric-owner -C "$parent" -cf - "$name" | gzip -n"$level" > "$out/$name.tar.gz"
  case "$target" in *-linux-*) if command -v dpkg-deb >/dev/null; then deb "$stage" "$target"; fi ;; esac
  rm -rf "$parent"
done

cd "$out"
rm -f SHA256SUMS vmdeck.rb
shopt -s nullglob
files=(*.tar.gz *.deb)
[ ${#files[@]} -gt 0 ] || { echo "error: there is nothing in $out" >&2; exit 1; }
sha256sum "${files[@]}" > SHA256SUMS

# The digest of an archive, or of nothing, by which the formula leaves a system out.
digest() { sed -n "s/^\([0-9a-f]*\)  vmdeck-$version-$1.tar.gz\$/\1/p" SHA256SUMS; }
formula() {
  local system=$1 processor=$2 target=$3 sum
  sum=$(digest "$target")
  [ -n "$sum" ] || return 0
  printf '  on_%s do\n    on_%s do\n' "$system" "$processor"
  printf '      url "%s/v%s/vmdeck-%s-%s.tar.gz"\n' "$releases" "$version" "$version" "$target"
  printf '      sha256 "%s"\n    end\n  end\n' "$sum"
}
releases=https://github.com/vmdeck/vmdeck/releases/download
{
  echo "# Made by scripts/dist.sh"
  echo "class Vmdeck < Formula"
  echo '  desc "Boots virtual machines, runs the tests inside, reports, leaves nothing behind"'
  echo '  homepage "https://github.com/vmdeck/vmdeck"'
  echo "  version \"$version\""
  echo '  license any_of: ["MIT", "Apache-2.0"]'
  formula macos arm aarch64-apple-darwin
  formula linux intel x86_64-unknown-linux-musl
  formula linux arm aarch64-unknown-linux-musl
  echo
  echo "  def install"
  echo '    bin.install "vmdeck"'
  echo '    man1.install Dir["man/*.1"]'
  echo '    bash_completion.install "completions/vmdeck.bash" => "vmdeck"'
  echo '    zsh_completion.install "completions/_vmdeck"'
  echo '    fish_completion.install "completions/vmdeck.fish"'
  echo "  end"
  echo
  echo "  test do"
  echo '    assert_match version.to_s, shell_output("#{bin}/vmdeck --version")'
  echo '    system bin/"vmdeck", "demo", "--local"'
  echo "  end"
  echo "end"
} > vmdeck.rb
ls -l
