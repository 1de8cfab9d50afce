//! What becomes one command: it enters the new root, gives up the rights of root, gets a session of its own, and is the shell
//! from then on.
//!
//! A process of its own instead of a hook between fork and exec: that hook would need `unsafe`.

#![expect(clippy::disallowed_methods, reason = "here a process becomes the command of a guest")]

use super::{users, wire::CommandRequest, words::PROGRAM};
use rustix::{
    process::{Gid, Uid, chroot, ioctl_tiocsctty, setsid},
    thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid},
};
use std::{
    ffi::OsString,
    io::{self, Write},
    os::unix::{ffi::OsStringExt, process::CommandExt},
    process::Command,
};

/// The word by which the program knows that it becomes a command.
pub(super) const WORD: &str = "command";
/// The new root, as it is seen from the initial RAM disk: process 1 has it as its working directory.
pub(super) const NEW_ROOT: &str = "/proc/1/cwd";
/// The exit status of a command that could not be started; the reason is on standard error.
const NOT_STARTED: u8 = 126;

/// Returns what starts a command: everything but its text, which may be long, as one word.
pub(super) fn starter(request: &CommandRequest) -> Command {
    let mut command = Command::new(format!("/{PROGRAM}"));
    let rest = CommandRequest { script: None, ..request.clone() };
    // A structure of texts and numbers always has a form.
    command.arg0(PROGRAM).arg(WORD).arg(serde_json::to_string(&rest).unwrap_or_default());
    command.args(request.script.as_ref());
    command
}

/// Becomes the command; returns only where that failed.
pub(super) fn run(args: &[OsString]) -> u8 {
    let why = match args {
        [request, script @ ..] => become_command(request, script.first()),
        [] => "there is no command".to_owned(),
    };
    let _ = writeln!(io::stderr(), "{why}");
    NOT_STARTED
}

fn become_command(request: &OsString, script: Option<&OsString>) -> String {
    let request: CommandRequest = match serde_json::from_slice(&request.clone().into_vec()) {
        Ok(request) => request,
        Err(e) => return format!("cannot understand the request: {e}"),
    };
    if let Err(e) = std::env::set_current_dir(NEW_ROOT).and_then(|()| Ok(chroot(".")?)) {
        return format!("cannot enter the root: {e}");
    }
    let account = match users::find(&request.user) {
        Ok(account) => account,
        Err(why) => return why,
    };
    // As root: a home may be closed to others, and then it is not the user's either.
    let home = if std::env::set_current_dir(&account.home).is_ok() { account.home.as_str() } else { "/" };
    let in_session = setsid().and_then(|_| match request.terminal {
        Some(_) => ioctl_tiocsctty(rustix::stdio::stdin()),
        None => Ok(()),
    });
    if let Err(e) = in_session {
        return format!("cannot make a session: {e}");
    }
    if let Err(e) = give_up_root(&account) {
        return format!("cannot become the user {}: {e}", account.name);
    }
    let mut shell = Command::new(if script.is_some() { "/bin/sh" } else { &account.shell });
    if let Some(script) = script {
        shell.arg("-c").arg(script);
    } else {
        // A dash before its name tells a shell that it is the login shell.
        shell.arg0(format!("-{}", account.shell.rsplit('/').next().unwrap_or("sh")));
    }
    if std::env::set_current_dir(home).is_err() {
        let _ = std::env::set_current_dir("/");
    }
    shell.env_clear();
    shell.env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
    shell.envs([("HOME", home), ("USER", &account.name), ("LOGNAME", &account.name), ("SHELL", &account.shell)]);
    shell.envs(request.terminal.as_ref().map(|terminal| ("TERM", terminal.kind.as_str())));
    let error = shell.exec();
    format!("cannot run {}: {error}", shell.get_program().display())
}

/// Becomes the user, for good. This process has one thread.
fn give_up_root(account: &users::Account) -> rustix::io::Result<()> {
    let (uid, gid) = (Uid::from_raw(account.uid), Gid::from_raw(account.gid));
    let groups: Vec<Gid> = account.groups.iter().map(|group| Gid::from_raw(*group)).collect();
    set_thread_groups(&groups)?;
    set_thread_res_gid(gid, gid, gid)?;
    set_thread_res_uid(uid, uid, uid)
}
