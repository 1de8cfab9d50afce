//! Renews a guest by a command in it, as far as its tools go: where no program of ours waits in it.

use super::{
    answer::{EXACT, GuestAnswer, JUMP, Renewed, TRIES, entropy},
    text::{HOLD_TIMERS, LET_TIMERS_GO, NEW_ID},
};
use crate::{
    command::{Collected, Input, OutputSink, RemoteCommand},
    host::clock,
    transport::session::Session,
};
use chrono::{DateTime, TimeDelta, Utc};
use std::{io::Write, sync::Arc, time::Duration};
use tokio_util::sync::CancellationToken;
use vmdeck_model::{
    error::{Fault, Result},
    event::Stream,
    suite::RunAs,
    text::one_line,
};

/// How long one command may take.
const LIMIT: Duration = Duration::from_mins(1);

/// Renews the guest.
pub(super) async fn renew(session: &dyn Session, new_id: &str) -> Result<Renewed> {
    let first = turn(session, &text(None, TimeDelta::zero(), false, None)).await?;
    let hold = first.error > JUMP;
    let begun = clock::utc();
    // What the command takes until it sets the clock is not known; it is seen by how far that is off then.
    let mut ahead = TimeDelta::zero();
    let mut renewed = turn(session, &text(Some(begun), ahead, hold, Some(new_id))).await?;
    for _ in 1..TRIES {
        if renewed.error.abs() <= EXACT {
            break;
        }
        ahead += renewed.error;
        renewed = turn(session, &text(Some(clock::utc()), ahead, false, None)).await?;
    }
    Ok(renewed)
}

async fn turn(session: &dyn Session, script: &str) -> Result<Renewed> {
    let cannot = || Fault::infra("cannot renew the guest that goes on from a snapshot");
    let hint = "it needs root or sudo in the guest; with `snapshot = \"off\"` each machine boots";
    let mut seed = tempfile::tempfile().map_err(|e| cannot().because(e))?;
    seed.write_all(&entropy()).map_err(|e| cannot().because(e))?;
    let stdin = Input::Unnamed(Arc::new(seed));
    let command = RemoteCommand { run_as: RunAs::Root, stdin, ..RemoteCommand::new(script) };
    let (mut said, never) = (TimedOutput::default(), CancellationToken::new());
    let ran = clock::within(LIMIT, session.run(&command, &mut said, &never)).await;
    let exit = ran.ok_or_else(|| cannot().because("it does not answer"))?.map_err(|fault| cannot().caused_by(fault))?;
    let line = String::from_utf8_lossy(&said.collected.stdout).into_owned();
    if let Some((answer, heard)) = GuestAnswer::of_shell(&line).zip(said.heard) {
        return Ok(Renewed { error: heard - answer.time, answer });
    }
    let words = one_line(&String::from_utf8_lossy(&said.collected.stderr));
    let why = if words.is_empty() { format!("its answer is not understood ({exit})") } else { words };
    Err(cannot().because(why).hint(hint))
}

/// Returns the text of one turn: fresh entropy, the clock set to a time where there is one, and the answer.
///
/// `RNDADDENTROPY` and `RNDRESEEDCRNG` need a program that can do `ioctl`. What is only written to the device is mixed in, and the kernel goes on
/// with what it has for up to a minute.
fn text(now: Option<DateTime<Utc>>, ahead: TimeDelta, hold: bool, new_id: Option<&str>) -> String {
    let mut out = String::from(
        "umask 077; s=/dev/shm; [ -d $s ] || s=/tmp; s=$s/.vmdeck-seed.$$; cat >$s
perl -e 'open(U,\"+</dev/urandom\");read(STDIN,$s,32);ioctl(U,0x40085203,pack(\"iia32\",256,32,$s))&&ioctl(U,0x5207,0)||exit 1' <$s 2>/dev/null ||
python3 -c 'import fcntl,struct,sys
u=open(\"/dev/urandom\",\"r+b\",0)
fcntl.ioctl(u,0x40085203,struct.pack(\"ii32s\",256,32,sys.stdin.buffer.read(32)))
fcntl.ioctl(u,0x5207)' <$s 2>/dev/null || cat $s >/dev/urandom
rm -f $s
",
    );
    if hold {
        out.push_str(HOLD_TIMERS);
    }
    if let Some(now) = now {
        let now = now + ahead;
        let (seconds, nanos) = (now.timestamp(), now.timestamp_subsec_nanos());
        out.push_str(&format!(
            "date -u -s '@{seconds}.{nanos:09}' >/dev/null 2>&1 || date -u -s '@{seconds}' >/dev/null || exit\n"
        ));
    }
    out.push_str(
        "printf '%s %s\\n' \"$(date -u +%s.%N)\" \"$(head -c 16 /dev/urandom | od -An -tx1 | tr -d '\\n')\"\n",
    );
    if hold {
        out.push_str(LET_TIMERS_GO);
    }
    if let Some(id) = new_id {
        out.push_str(&format!("id={id}\n{NEW_ID}"));
    }
    out.push_str("exit 0\n");
    out
}

/// Collects output, and notes when its first piece came.
#[derive(Default)]
struct TimedOutput {
    collected: Collected,
    heard: Option<DateTime<Utc>>,
}

impl OutputSink for TimedOutput {
    fn write(&mut self, stream: Stream, bytes: &[u8]) {
        if stream != Stream::Stderr {
            self.heard.get_or_insert_with(clock::utc);
        }
        self.collected.write(stream, bytes);
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::disallowed_methods, reason = "a test acts from outside")]

    use super::*;
    use std::process::Command;

    #[test]
    fn shells_read_the_text() {
        let all = text(Some(DateTime::UNIX_EPOCH), TimeDelta::milliseconds(250), true, Some("abc"));
        assert!(all.contains("@0.250000000"), "{all}");
        for shell in ["/bin/sh", "/bin/bash"] {
            let out = Command::new(shell).args(["-n", "-c", &all]).output().expect("shell");
            assert!(out.status.success(), "{out:?}");
        }
    }
}
