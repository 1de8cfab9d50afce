//! What a QEMU binary knows of TDX guests: upstream has them from 10.1 on, with other properties than patched versions before.

use crate::host::process::{Spawner, Spec};
use std::{path::Path, time::Duration};
use vmdeck_model::{
    event::{Finding, Severity},
    guest::Guest,
};

/// How long the binary may take to say what it knows.
const ASK: Duration = Duration::from_secs(10);

/// Returns whether a guest is one under TDX.
pub(super) fn is_wanted(guest: &Guest) -> bool {
    guest.options.text("vm_type").is_some_and(|kind| matches!(kind, "tdx" | "tdxio"))
}

/// Returns what the binary says to `-object WORDS`.
async fn ask(spawner: &Spawner, binary: &Path, words: &str) -> String {
    let spec = Spec::new(binary).args(["-object", words]);
    spawner.output(&spec, ASK).await.map(|out| out.stdout).unwrap_or_default()
}

/// Returns whether the object has the property `debug`, which only patched versions have.
pub(super) async fn knows_debug(spawner: &Spawner, binary: &Path) -> bool {
    has_debug(&ask(spawner, binary, "tdx-guest,help").await)
}

fn has_debug(help: &str) -> bool {
    help.lines().any(|line| line.trim_start().starts_with("debug="))
}

/// Returns what the binary lacks for such a guest.
pub(super) async fn findings(spawner: &Spawner, binary: &Path, guest: &Guest) -> Vec<Finding> {
    let mut out = Vec::new();
    if !ask(spawner, binary, "help").await.lines().any(|line| line.trim() == "tdx-guest") {
        out.push(Finding {
            check: "tdx".into(),
            severity: Severity::Fatal,
            text: format!("guest `{}`: `{}` knows no guests under TDX", guest.id, binary.display()),
            hint: Some("use QEMU 10.1 or newer, or a patched one: `qemu.binary`".into()),
            fix: None,
        });
    } else if guest.options.text("debug").is_some() && !knows_debug(spawner, binary).await {
        out.push(Finding {
            check: "tdx".into(),
            severity: Severity::Warn,
            text: format!("guest `{}`: this QEMU's tdx-guest has no property `debug`; it is left out", guest.id),
            hint: Some(format!("remove `guests.{}.qemu.debug`", guest.id)),
            fix: None,
        });
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patched_and_upstream_are_told_apart_by_their_own_help() {
        let upstream = "tdx-guest options:\n  attributes=<uint64>\n  mrconfigid=<str>\n  quote-generation-socket=<SocketAddress>\n  sept-ve-disable=<bool>\n";
        let patched =
            "tdx-guest options:\n  debug=<bool>\n  quote-generation-service=<str>\n  sept-ve-disable=<bool>\n";
        for (help, has) in [(upstream, false), (patched, true), ("", false), ("  no-debug=<bool>\n", false)] {
            assert_eq!(has_debug(help), has, "{help}");
        }
    }
}
