//! Whether what a config names may be started before anybody has started a run.
//!
//! A config that came with a project is a stranger's text until its reader has said yes: by `--trust`, or once, by answering a
//! question that lists what it would start. The yes holds for that folder and exactly that text. A config in the user's own config
//! folder is the user's word. Who starts a run says yes to what the config names, as with any build tool.

use super::{Io, settings};
use crate::cli::ConfigArgs;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::{
    collections::BTreeMap,
    io::IsTerminal,
    path::{Path, PathBuf},
};
use vmdeck_core::host::{files, info};
use vmdeck_model::{digest::hex, error::Result, plan::Setup, text::Clean};

/// The configs that were answered with a yes: the sum of each folder's.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Remembered(BTreeMap<PathBuf, String>);

/// What a command needs of what a config names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ConfigUse {
    /// The programs of the backends.
    Programs,
    /// The programs, and the secrets too: they are checked.
    ProgramsAndSecrets,
}

/// Loads the config for a command that starts no run; what may not be started is left out, and told on standard error.
pub(super) fn load_if_any(args: &ConfigArgs, needs: ConfigUse, io: &mut Io<'_>) -> Result<Option<Setup>> {
    if settings::find(args).is_none() {
        return Ok(None);
    }
    ask(args, io)?;
    let setup = match (needs, is_trusted(args)) {
        (ConfigUse::Programs, trusted) => settings::load_for_cockpit(args, trusted)?,
        (ConfigUse::ProgramsAndSecrets, true) => settings::load(args)?,
        (ConfigUse::ProgramsAndSecrets, false) => settings::load_untrusted(args)?,
    };
    if !setup.left_out.is_empty() {
        io.warn(&sentence(&setup.left_out));
    }
    Ok(Some(setup))
}

/// Asks, once for each text of a config, whether what it names may be started; where nobody can be asked, it may not.
pub(super) fn ask(args: &ConfigArgs, io: &mut Io<'_>) -> Result<()> {
    let Some(path) = settings::find(args).filter(|_| !is_trusted(args)) else { return Ok(()) };
    // Before it is read: a text that comes between is not the one that was answered.
    let text = identity(&path);
    let left_out = settings::load_untrusted(args)?.left_out;
    if !left_out.is_empty()
        && asked(&path, &left_out, io)
        && let Some((place, sum)) = text
    {
        remember(place, sum);
    }
    Ok(())
}

/// Returns what was left out as a sentence with its remedy.
pub(super) fn sentence(left_out: &[String]) -> String {
    format!(
        "warning: not started, because this project's config is not trusted: {}\n\nhint: read the config; `--trust` starts them",
        left_out.join(", ")
    )
}

/// Returns whether what the config names may be started.
pub(super) fn is_trusted(args: &ConfigArgs) -> bool {
    let Some(path) = settings::find(args) else { return true };
    args.trust || settings::is_users_own(&path) || is_remembered(&path)
}

fn asked(path: &Path, left_out: &[String], io: &mut Io<'_>) -> bool {
    if !std::io::stdin().is_terminal() || !std::io::stderr().is_terminal() {
        return false;
    }
    let list: String = left_out.iter().map(|what| format!("  {}\n", Clean::from_text(what))).collect();
    let _ = write!(
        io.err,
        "`{}` is a project's config, and names what would be started on this host:\n\n{list}\n\
         Start them? A yes is remembered for this file and exactly this text. [y/N] ",
        path.display()
    );
    let _ = io.err.flush();
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer).is_ok() && matches!(answer.trim(), "y" | "Y" | "yes")
}

fn store() -> PathBuf {
    info::state_dir().join("trusted.json")
}

fn recall() -> Remembered {
    let bytes = vmdeck_files::read(&store(), vmdeck_files::SMALL).unwrap_or_default();
    serde_json::from_slice(&bytes).unwrap_or_default()
}

/// Returns the folder and the sum of a config.
fn identity(path: &Path) -> Option<(PathBuf, String)> {
    let bytes = vmdeck_files::read(path, vmdeck_files::LARGE).ok()?;
    Some((std::fs::canonicalize(path).ok()?, hex(&Sha256::digest(&bytes))))
}

fn is_remembered(path: &Path) -> bool {
    identity(path).is_some_and(|(place, sum)| recall().0.get(&place) == Some(&sum))
}

fn remember(place: PathBuf, sum: String) {
    let mut all = recall();
    all.0.insert(place, sum);
    let (folder, bytes) = (info::state_dir(), serde_json::to_vec_pretty(&all).unwrap_or_default());
    // If it cannot be kept the question comes again.
    let _ = files::private_dir(&folder).and_then(|()| files::write_atomic(&store(), &bytes));
}
