//! A way into the graphical session: a command is run by Terminal.app, which may talk to UTM where an SSH session may not.
//!
//! It is a small script that takes `utmctl`'s place: same arguments, same streams, same exit code.

use crate::{
    backend::{deps::BackendDeps, tool::Tool},
    host::{files, info},
};
use std::path::Path;

/// The script with places for the two programs. Its arguments are those of `utmctl`; the request is made of quoted
/// words alone.
const SCRIPT: &str = r#"#!/bin/sh
# Runs utmctl in the graphical session; vmdeck writes this file.
set -u
umask 077
d=$(mktemp -d "${TMPDIR:-/tmp}/vmdeck-terminal.XXXXXX") || exit 1
trap 'rm -rf "$d"' EXIT
trap 'exit 143' TERM INT HUP
cat > "$d/in"
quote() {
  r=$1 o=
  while case $r in *\'*) true ;; *) false ;; esac; do o="$o${r%%\'*}'\\''" r=${r#*\'}; done
  printf "'%s' " "$o$r"
}
{
  echo '#!/bin/sh'
  quote "@UTMCTL@"
  for word; do quote "$word"; done
  printf '<'; quote "$d/in"; printf '>'; quote "$d/out"; printf '2>'; quote "$d/err"; echo
  printf 'echo $? >'; quote "$d/code.new"; printf '&& mv '; quote "$d/code.new"; quote "$d/code"; echo
} > "$d/run.command"
chmod 700 "$d/run.command"
"@OPEN@" -gj -a Terminal "$d/run.command" || exit 1
while [ ! -e "$d/code" ]; do sleep 0.1; done
cat "$d/err" >&2
cat "$d/out"
exit "$(cat "$d/code")"
"#;

/// Returns the script in `utmctl`'s place; `None` where there is no Terminal.app to ask.
pub(super) fn relay(deps: &BackendDeps, utmctl: &Tool) -> Option<Tool> {
    let open =
        deps.tools.get("open").cloned().or_else(|| cfg!(target_os = "macos").then(|| "/usr/bin/open".to_owned()))?;
    let open = info::find_program(&open)?;
    let path = deps.state.join("utmctl-by-terminal");
    let (open, utmctl) = (plain(&open)?, plain(utmctl.program())?);
    let text = SCRIPT.replace("@UTMCTL@", &utmctl).replace("@OPEN@", &open);
    if vmdeck_files::read_text(&path, vmdeck_files::SMALL).is_ok_and(|old| old == text) {
        return Some(utmctl_in(deps, &path));
    }
    files::private_dir(&deps.state).ok()?;
    files::write_program(&path, text.as_bytes()).ok()?;
    Some(utmctl_in(deps, &path))
}

fn utmctl_in(deps: &BackendDeps, path: &Path) -> Tool {
    Tool::at(deps, path)
}

/// Returns a path that needs no quoting within double quotes.
fn plain(path: &Path) -> Option<String> {
    let text = path.to_str()?;
    (!text.contains(['"', '$', '`', '\\', '\n'])).then(|| text.to_owned())
}
