//! Which revision of the code a run tests, as git says.

use super::events::EventSender;
use crate::host::process::{self, GitAnswer};
use std::{path::Path, sync::Arc};
use vmdeck_model::{event::EventKind, plan::Plan};

/// Asks git about the folder of the config, and tells it; without git, or outside of a repository, nothing is said.
pub(super) async fn tell(plan: Arc<Plan>, events: EventSender) {
    let asking = tokio::task::spawn_blocking(move || ask(&plan.folder));
    if let Ok(Some(revision)) = asking.await {
        events.send(revision);
    }
}

fn ask(folder: &Path) -> Option<EventKind> {
    let said = |words: &[&str]| match process::git(folder, words) {
        Ok(GitAnswer::Said(bytes)) => Some(bytes),
        _ => None,
    };
    let commit = String::from_utf8(said(&["rev-parse", "--verify", "--quiet", "HEAD"])?).ok()?.trim().to_owned();
    let is_commit = !commit.is_empty() && commit.bytes().all(|byte| byte.is_ascii_hexdigit());
    let changes = said(&["--no-optional-locks", "status", "--porcelain", "--untracked-files=normal"])?;
    // The records are our own, and nobody's code.
    let is_code = |line: &str| !line.is_empty() && !line.contains(".vmdeck/");
    let dirty = String::from_utf8_lossy(&changes).lines().any(is_code);
    is_commit.then_some(EventKind::Revision { commit, dirty })
}
