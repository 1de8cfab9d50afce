# Made by vmdeck in the place of the framework's own .env: it needs no root and changes nothing outside of this shell.
_vmdeck_root="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
while IFS= read -r _vmdeck_dir; do
  PATH="$PATH:$_vmdeck_dir"
done < <(find "$_vmdeck_root" -type d -not -path '*/.*' 2>/dev/null)
export PATH
# shellcheck source=/dev/null
source "$_vmdeck_root/common/common.sh"
