//! The program that waits in a guest while that is frozen: it is there at once when the guest goes on, without a login.
//!
//! It is a shell with a port of the machine as its input and output, and a program of 760 bytes (guests/renew) that does what no shell can.

use super::text::{HOLD_TIMERS, LET_TIMERS_GO, NEW_ID};
use crate::{
    backend::contract::RENEWAL_PORT,
    command::{Collected, RemoteCommand, Shell, sh_quote},
    host::clock,
    transport::session::Session,
};
use std::{fmt::Write, time::Duration};
use tokio_util::sync::CancellationToken;
use vmdeck_model::suite::RunAs;

/// The program for Linux on x86-64, assembled from guests/renew.
const PROGRAM: &[u8] = include_bytes!("renew.x86_64");
/// How long starting it may take.
const STARTS: Duration = Duration::from_secs(30);

/// Starts the program in a guest that is about to be frozen, as root; returns whether it waits there now. The port must be open on this
/// side.
pub(in super::super) async fn start(session: &dyn Session) -> bool {
    if session.shell() != Shell::Posix {
        return false;
    }
    let command = RemoteCommand { run_as: RunAs::Root, ..RemoteCommand::new(text()) };
    let (mut said, never) = (Collected::default(), CancellationToken::new());
    let ran = clock::within(STARTS, session.run(&command, &mut said, &never)).await;
    matches!(ran, Some(Ok(_))) && String::from_utf8_lossy(&said.stdout).trim() == "waits"
}

/// Returns the text that starts it. It writes `waits` where the guest has the port, the processor, and a place to run programs from.
fn text() -> String {
    let mut octal = String::with_capacity(PROGRAM.len() * 4);
    for byte in PROGRAM {
        let _ = write!(octal, "\\{byte:03o}");
    }
    // Two turns at the port: what the clock says, and then, with the timers held, what it is to say.
    let waits = format!(
        "exec 3<>\"$1\" </dev/null >/dev/null 2>&1; cd /; trap '' HUP
\"$2\" <&3 >&3 && read -r hold id <&3 || exit
[ \"$hold\" = 0 ] || {{ {HOLD_TIMERS}}}
\"$2\" <&3 >&3 || exit
[ \"$hold\" = 0 ] || {{ {LET_TIMERS_GO}}}
{NEW_ID}echo done >&3
rm -f \"$2\""
    );
    format!(
        "[ \"$(uname -m)\" = x86_64 ] || exit 0
ls /sys/class/virtio-ports/* >/dev/null 2>&1 || modprobe virtio_console 2>/dev/null
p=
for n in /sys/class/virtio-ports/*/name; do
  [ -r \"$n\" ] && [ \"$(cat \"$n\")\" = {RENEWAL_PORT} ] && p=${{n%/name}} && p=/dev/${{p##*/}}
done
[ -c \"$p\" ] || exit 0
for d in /run /dev/shm /var/tmp; do
  f=$d/.vmdeck-renew
  rm -f \"$f\" && (umask 077 && printf {program} >\"$f\") 2>/dev/null && chmod 700 \"$f\" || continue
  if head -c 48 /dev/zero | \"$f\" 2>/dev/null | grep -q '^[0-9a-f]*$'; then
    s=; command -v setsid >/dev/null 2>&1 && s=setsid
    $s sh -c {waits} vmdeck-renew \"$p\" \"$f\" </dev/null >/dev/null 2>&1 &
    echo waits
    exit 0
  fi
  rm -f \"$f\"
done
exit 0",
        program = sh_quote(&octal),
        waits = sh_quote(&waits),
    )
}

#[cfg(test)]
mod tests {
    #![expect(clippy::disallowed_methods, reason = "a test acts from outside")]

    use super::*;
    use std::process::Command;

    #[test]
    fn the_text_makes_the_program_and_shells_read_it() {
        let home = tempfile::tempdir().expect("tempdir");
        let place = home.path().join(".vmdeck-renew");
        let write = text();
        let line = write.lines().find(|line| line.contains("umask 077")).expect("line");
        let line = line.replace("\"$f\"", &sh_quote(&place.display().to_string())).replace("|| continue", "");
        let out = Command::new("/bin/sh").args(["-c", &line]).output().expect("shell");
        assert!(out.status.success(), "{out:?}");
        assert_eq!(vmdeck_files::read(&place, 4096).expect("written"), PROGRAM);
        for shell in ["/bin/sh", "/bin/bash"] {
            let out = Command::new(shell).args(["-n", "-c", &text()]).output().expect("shell");
            assert!(out.status.success(), "{out:?}");
        }
    }
}
