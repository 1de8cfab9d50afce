//! Runs a program of this host as a case: one that drives the guest by `ssh` and `scp`, which are stand-ins of ours on its search path.
//!
//! What the stand-ins ask for is `relay`'s work. The guest goes down where the program asks it to, and that is waited for.

use super::{
    command_log::CommandLog,
    relay::{Relay, RelayState},
};
use crate::{
    backend::follow_child,
    command::{CommandExit, Input},
    engine::{
        context::RunContext,
        machine::{LeasedMachine, recv_once},
        reap,
        stand_in::{COMMAND, FOLDER, NAMES, PORT, SOCKET},
    },
    host::{
        clock, files,
        process::{Spec, Streams},
    },
};
use parking_lot::Mutex;
use std::{
    ffi::OsString,
    io::Write,
    os::unix::{fs::PermissionsExt, process::ExitStatusExt},
    path::{Path, PathBuf},
    time::Duration,
};
use tokio::net::UnixListener;
use tokio_util::sync::CancellationToken;
use vmdeck_model::{
    error::{Fault, Result},
    guest::Guest,
    suite::HostProgram,
};

/// How long a guest may take to go down once it was asked to.
const GOES_DOWN: Duration = Duration::from_mins(2);
/// The name of the list of commands in the folder of a case.
const STEPS: &str = "steps.jsonl";

/// A host program that is about to run in a machine.
pub(super) struct HostRun<'a> {
    pub(super) context: &'a RunContext,
    pub(super) guest: &'a Guest,
    pub(super) machine: &'a LeasedMachine,
    pub(super) program: &'a HostProgram,
    /// The folder of the case in the record.
    pub(super) record: &'a Path,
}

impl HostRun<'_> {
    /// Runs the program to its end, and waits for the guest's where the program has asked for it. An error of [`Blame::Infra`] is a
    /// lost connection or a host that cannot start it.
    ///
    /// [`Blame::Infra`]: vmdeck_model::error::Blame::Infra
    pub(super) async fn run(
        &self,
        state: &RelayState,
        log: &mut CommandLog,
        cancel: &CancellationToken,
    ) -> Result<HostEnd> {
        let cannot = || Fault::infra(format!("cannot run `{}`", self.program.program.display()));
        let session = self.machine.controller.session();
        let session = session.ok_or_else(|| cannot().because("there is no session"))?;
        let folder = reap::machine_folder(&self.context.backend.state, &self.machine.name);
        let socket = folder.join("relay.sock");
        // Of a case before this one.
        let _ = std::fs::remove_file(&socket);
        let listener = UnixListener::bind(&socket).map_err(|e| cannot().because(e))?;
        let stand_ins = stand_ins(&folder).map_err(|e| cannot().because(e))?;
        if let (Some(record), Some(peer)) = (&self.program.record, session.peer()) {
            let mut lines = format!("PORT={}\n", peer.port());
            for line in &self.program.lines {
                lines.push_str(line);
                lines.push('\n');
            }
            let written = vmdeck_files::open_for_append(record).and_then(|mut file| file.write_all(lines.as_bytes()));
            written.map_err(|e| cannot().because(e))?;
        }
        let steps = vmdeck_files::create(&self.record.join(STEPS)).ok().map(Mutex::new);
        let relay = Relay { session, machine: self.machine, state, redactor: &self.context.redactor, log: steps };
        let spec = self.spec(&stand_ins, &socket, session.peer().map(|peer| peer.port()));
        let streams = Streams::piped_out();
        let mut child =
            self.context.backend.spawner.spawn_tethered(&spec, streams).await.map_err(|e| cannot().because(e))?;
        let mut lost = state.lost();
        let ended = tokio::select! {
            biased;
            Some(fault) = recv_once(&mut lost) => Err(fault),
            ended = follow_child(&mut child, &Input::Empty, log, cancel) => ended,
            () = relay.serve(&listener) => Ok(None),
        };
        // What it left running would talk to a guest that is not its own any more.
        let _ = child.kill_group().await;
        let Some(status) = ended? else {
            return Err(Fault::cancelled("cannot finish the program").because("it was cancelled"));
        };
        if let Some(fault) = lost.borrow().clone() {
            return Err(fault);
        }
        let exit = match (status.code(), status.signal()) {
            (Some(code), _) => CommandExit::Code(code),
            (None, signal) => CommandExit::of_signal(signal.unwrap_or(9)),
        };
        self.end(exit, state).await
    }

    fn spec(&self, stand_ins: &Path, socket: &Path, port: Option<u16>) -> Spec {
        let program = self.program;
        let mut path = OsString::from(stand_ins);
        if let Some(own) = std::env::var_os("PATH") {
            path.push(":");
            path.push(own);
        }
        let mut spec = Spec::new(&program.program).args(&program.args).dir(&program.dir);
        for (name, value) in &program.env {
            spec = spec.env(name, value);
        }
        if let Some(port) = port {
            spec = spec.env("PORT", port.to_string()).env(PORT, port.to_string());
        }
        let ssh = self.guest.transport_options.get("ssh");
        if let (Some(name), Some(password)) = (&program.password, ssh.and_then(|keys| keys.secret("password"))) {
            spec = spec.env(name, password.expose());
        }
        spec.env("PATH", path).env(SOCKET, socket).env(FOLDER, stand_ins)
    }

    /// Returns what the program's end means.
    async fn end(&self, exit: CommandExit, state: &RelayState) -> Result<HostEnd> {
        if self.program.restarts {
            return Ok(HostEnd::Exit(exit));
        }
        if exit != CommandExit::Code(0) {
            // The framework's scripts turn every failure into 1; that a test does not apply is known from its own status.
            let own = |skip: &i32| exit == CommandExit::Code(1) || exit == CommandExit::Code(*skip);
            let skipped = self.program.skip.filter(|skip| own(skip) && state.last_status() == Some(*skip));
            return Ok(HostEnd::Exit(skipped.map_or(exit, CommandExit::Code)));
        }
        if state.steps() == 0 {
            let fault = Fault::infra("the program ended well and has run nothing in the guest");
            return Ok(HostEnd::Complaint(fault.hint("does it know this test case?")));
        }
        if !self.program.closes {
            return Ok(HostEnd::Exit(exit));
        }
        if !state.is_closing() {
            let text = "the guest was not closed: the program has not asked it to shut down";
            return Ok(HostEnd::Complaint(Fault::infra(text)));
        }
        let mut ended = self.machine.exit.clone();
        match clock::within(GOES_DOWN, recv_once(&mut ended)).await {
            Some(Some(how)) if how.is_orderly() => Ok(HostEnd::Exit(exit)),
            Some(how) => {
                let how = how.map_or_else(|| "nothing is known of its end".to_owned(), |how| how.to_string());
                Err(Fault::infra("the guest did not shut down as it was asked to").because(how))
            }
            None => Ok(HostEnd::Complaint(
                Fault::infra("the guest was not closed: it is still up")
                    .because(format!("it was asked to shut down {} s ago", GOES_DOWN.as_secs())),
            )),
        }
    }
}

/// How a host program came to its end.
pub(super) enum HostEnd {
    /// It ended by itself, and the guest is as it should be.
    Exit(CommandExit),
    /// It ended well, and something is wrong all the same.
    Complaint(Fault),
}

/// Writes the stand-ins; returns their folder.
fn stand_ins(folder: &Path) -> std::io::Result<PathBuf> {
    let vmdeck = std::env::current_exe()?;
    let vmdeck = vmdeck.to_str().ok_or_else(|| std::io::Error::other("the path of vmdeck is not UTF-8"))?;
    let bin = folder.join("bin");
    files::private_dir(&bin)?;
    for name in NAMES {
        let script = format!("#!/bin/sh\nexec {} {COMMAND} {name} \"$@\"\n", crate::command::sh_quote(vmdeck));
        let path = bin.join(name);
        vmdeck_files::write(&path, script.as_bytes())?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o700))?;
    }
    Ok(bin)
}
