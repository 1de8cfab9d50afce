//! A lock in a machine that other hosts may use as well. It is held by a command in the machine that lives as long as our connection, so
//! whoever dies, or loses the connection, holds nothing: the machine's own kernel says who is alive, and wakes who waits.
//!
//! The lock of this host is `engine::lock`'s matter.

use crate::{
    command::{CommandExit, Input, OutputSink, RemoteCommand, Shell, sh_quote},
    host::clock,
    transport::session::Session,
};
use std::{fs::File, io::PipeWriter, os::fd::OwnedFd, sync::Arc, time::Duration};
use tokio::{sync::mpsc, task::JoinHandle};
use tokio_util::sync::CancellationToken;
use vmdeck_model::{
    error::{Fault, Result},
    event::Stream,
    quantity::show_duration,
    text::one_line,
};

/// Exit status of our text where the machine has no program for locks.
const CANNOT_LOCK: i32 = 76;
/// What it says once it holds the lock, and before it waits.
const HELD: &str = "held";
const WAITS: &str = "waits ";
/// Takes the lock, and holds it until its input ends. The file may be another user's: then only who holds it stays unsaid.
const SCRIPT: &str = r#"f=/var/tmp/vmdeck.lock
command -v flock >/dev/null || exit 76
if [ -L "$f" ]; then echo "$f is a link" >&2; exit 77; fi
[ -e "$f" ] || (umask 0; : >>"$f") 2>/dev/null
exec 9<"$f" || exit 77
flock -n 9 || { echo "waits $(head -c 200 "$f" | head -n 1)"; flock 9 || exit 77; }
[ ! -O "$f" ] || echo OWNER >"$f"
echo held
cat >/dev/null"#;

/// The lock, while it is held.
pub(super) struct MachineLock {
    /// Its end ends the command that holds the lock.
    _input: PipeWriter,
    holder: JoinHandle<()>,
}

/// What taking it came to.
pub(super) enum LockOutcome {
    /// It is held.
    Held(MachineLock),
    /// The machine can hold none.
    Impossible,
}

/// Takes the lock of a machine; `tell` is called with whoever is waited for. `owner` = how we are called there, one line.
pub(super) async fn take(
    session: &Arc<dyn Session>,
    owner: &str,
    limit: Duration,
    tell: impl Fn(&str),
    cancel: &CancellationToken,
) -> Result<LockOutcome> {
    if session.shell() != Shell::Posix {
        return Ok(LockOutcome::Impossible);
    }
    let cannot = || Fault::infra("cannot lock the machine for this run");
    let (reader, input) = std::io::pipe().map_err(|e| cannot().because(e))?;
    let stdin = Input::Pipe(Arc::new(File::from(OwnedFd::from(reader))));
    let command = RemoteCommand { stdin, ..RemoteCommand::new(SCRIPT.replace("OWNER", &sh_quote(owner))) };
    let (said, mut hears) = mpsc::unbounded_channel();
    let (session, stop) = (Arc::clone(session), cancel.clone());
    let holder = tokio::spawn(async move {
        let mut sink = HolderOutput { said: said.clone(), stdout: String::new(), stderr: String::new() };
        let ended = session.run(&command, &mut sink, &stop).await;
        let _ = said.send(Said::Ended(ended, one_line(&sink.stderr)));
    });
    let lock = MachineLock { _input: input, holder };
    let mut holds = String::new();
    let takes = async {
        while let Some(said) = hears.recv().await {
            match said {
                Said::Line(line) if line == HELD => return Ok(true),
                Said::Line(line) => {
                    if let Some(other) = line.strip_prefix(WAITS) {
                        one_line(other).clone_into(&mut holds);
                        tell(&holds);
                    }
                }
                Said::Ended(Ok(CommandExit::Code(CANNOT_LOCK)), _) => return Ok(false),
                Said::Ended(Ok(exit), why) => return Err(cannot().because(format!("{exit}: {why}"))),
                Said::Ended(Err(fault), _) => return Err(cannot().caused_by(fault)),
            }
        }
        Err(cannot().because("its command was lost"))
    };
    match clock::within(limit, takes).await {
        Some(Ok(true)) => Ok(LockOutcome::Held(lock)),
        Some(Ok(false)) => Ok(LockOutcome::Impossible),
        Some(Err(fault)) => Err(fault),
        None => Err(cannot()
            .because(format!("another run has used it for {}: {holds}", show_duration(limit)))
            .hint("wait for that run, raise `host.lock_timeout`, or set `remote.lock = false`")
            .permanent()),
    }
}

impl Drop for MachineLock {
    fn drop(&mut self) {
        // Its input ends with us; a connection that is closed meanwhile ends it as well.
        self.holder.abort();
    }
}

/// What the command that takes the lock came to say.
enum Said {
    Line(String),
    Ended(Result<CommandExit>, String),
}

/// Passes on whole lines of standard output.
struct HolderOutput {
    said: mpsc::UnboundedSender<Said>,
    stdout: String,
    stderr: String,
}

impl OutputSink for HolderOutput {
    fn write(&mut self, stream: Stream, bytes: &[u8]) {
        let text = String::from_utf8_lossy(bytes);
        let into = if stream == Stream::Stderr { &mut self.stderr } else { &mut self.stdout };
        into.extend(text.chars().take(4096_usize.saturating_sub(into.len())));
        while let Some((line, rest)) = self.stdout.split_once('\n') {
            let _ = self.said.send(Said::Line(line.to_owned()));
            self.stdout = rest.to_owned();
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::disallowed_methods, reason = "a test acts from outside")]

    use super::*;
    use std::process::{Command, Stdio};

    #[test]
    fn what_cannot_be_locked_says_so_and_the_end_of_the_input_lets_go() {
        let home = tempfile::tempdir().expect("tempdir");
        let run = |file: &str, path: Option<&str>| {
            let script = SCRIPT.replace("/var/tmp/vmdeck.lock", &home.path().join(file).display().to_string());
            let mut command = Command::new("/bin/sh");
            command.args(["-c", &script.replace("OWNER", "'a host'")]).stdin(Stdio::null());
            path.map(|path| command.env("PATH", path));
            let out = command.output().expect("sh");
            (out.status.code(), String::from_utf8_lossy(&out.stdout).into_owned())
        };
        std::os::unix::fs::symlink("/etc/passwd", home.path().join("link")).expect("link");
        std::fs::create_dir(home.path().join("closed")).expect("folder");
        for (file, path, code, out) in [
            ("lock", None, 0, "held\n"),
            ("lock", Some("/nonexistent"), CANNOT_LOCK, ""),
            ("link", None, 77, ""),
            ("missing/lock", None, 77, ""),
        ] {
            let (status, said) = run(file, path);
            // A redirection that fails ends some shells with a status of their own.
            let is_refused = code == 77 && status.is_some_and(|status| status != 0 && status != CANNOT_LOCK);
            assert!((status == Some(code) || is_refused) && said == out, "{file}: {status:?} {said}");
        }
        assert_eq!(std::fs::read_to_string(home.path().join("lock")).expect("owner"), "a host\n");
    }
}
