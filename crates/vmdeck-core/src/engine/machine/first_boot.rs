//! Waits for a guest's own first set-up, where it has one (cloud-init), and reads how that ended.
//!
//! sshd answers before the set-up has ended: packages and commands of the first boot would race with the tests. Facts: exit 0 is
//! well; 1 a failure, before 23.4 any error; 2 from 23.4 on an error after which it went on.

use crate::{
    command::{Collected, CommandExit, RemoteCommand},
    transport::session::Session,
};
use tokio_util::sync::CancellationToken;
use vmdeck_model::{
    error::{Fault, Result},
    guest::{FirstBoot, Guest, Os},
    text::{Clean, one_line},
};

/// What is asked. Without cloud-init the answer comes at once.
const QUESTION: &str = "command -v cloud-init >/dev/null 2>&1 || exit 0
cloud-init status --wait >/dev/null 2>&1; s=$?
[ $s = 0 ] || { cloud-init status --long; tail -n 5 /run/cloud-init/result.json; } 2>&1 | tail -n 20
exit $s";
/// Most of its words that a message repeats, in characters.
const WORDS: usize = 600;

/// Waits for the end of the set-up; returns what a person should know of it, as a sentence. The caller limits the time.
pub(super) async fn finished(guest: &Guest, session: &dyn Session) -> Result<Option<String>> {
    if guest.first_boot == FirstBoot::Ignored || guest.os != Os::Linux {
        return Ok(None);
    }
    let (mut said, never) = (Collected::default(), CancellationToken::new());
    let exit = session.run(&RemoteCommand::new(QUESTION), &mut said, &never).await?;
    let words: String = one_line(&String::from_utf8_lossy(&said.stdout)).chars().take(WORDS).collect();
    let words = Clean::from_text(&words);
    match exit {
        // What says nothing of a status is not cloud-init's own failure.
        CommandExit::Code(1) if words.as_str().contains("status:") && guest.first_boot == FirstBoot::Required => {
            Err(Fault::infra("cannot use the guest: its first set-up failed")
                .because(format!("cloud-init says: {words}"))
                .hint(format!(
                    "see /var/log/cloud-init.log in the guest; `guests.{0}.first_boot = \"warn\"` goes on all the same",
                    guest.key
                ))
                .permanent())
        }
        CommandExit::Code(1 | 2) if words.as_str().contains("status:") => {
            Ok(Some(format!("the first set-up of guest `{}` ended with errors; cloud-init says: {words}", guest.id)))
        }
        _ => Ok(None),
    }
}
