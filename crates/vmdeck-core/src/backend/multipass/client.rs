//! The `multipass` program: its commands as functions, and its failures as faults.
//!
//! Its exit code 2 stands for every refusal, an unreachable daemon included, so its words decide (facts of Multipass 1.16.3:
//! `return_codes.h`, `client_common.cpp`).

use super::{
    reply::{self, Info, Listed},
    spinner::Spinner,
};
use crate::{
    backend::{BackendDeps, tool::Tool},
    host::{clock, process::Output},
};
use std::time::Duration;
use vmdeck_model::{
    error::{Blame, Fault, Result},
    text::one_line,
};

/// The hint that says how to install the program.
pub(super) const INSTALL: &str = "install it: `brew install --cask multipass` (macOS), `sudo snap install multipass` (Linux); or set `host.tools.multipass`";

/// The key of `[host.tools]`, and the program.
pub(super) const PROGRAM: &str = "multipass";
/// The places where its installers put the program.
const USUAL: &[&str] = &[
    "/usr/local/bin/multipass",
    "/opt/homebrew/bin/multipass",
    "/snap/bin/multipass",
    "/Library/Application Support/com.canonical.multipass/bin/multipass",
];
/// How long a question may take; the daemon asks each machine by ssh.
const ASK: Duration = Duration::from_secs(20);
/// How long stopping, deleting or restoring a machine may take.
const CHANGE: Duration = Duration::from_secs(50);
/// The pause between two checks of a machine that is about to appear or to go.
const PAUSE: Duration = Duration::from_millis(500);
/// Exit code of a client whose `--timeout` is over while the daemon continues.
const TIMED_OUT: i32 = 5;

/// See the module.
#[derive(Clone, Debug)]
pub(super) struct Client {
    pub(super) tool: Tool,
}

impl Client {
    /// Returns the program; the error is a sentence.
    pub(super) fn find(deps: &BackendDeps) -> Result<Self, String> {
        Tool::find(deps, PROGRAM, USUAL).map(|tool| Self { tool })
    }

    /// Returns the program, or a fault where it is missing.
    pub(super) fn required(deps: &BackendDeps) -> Result<Self> {
        Self::find(deps).map_err(|why| Fault::host("cannot use Multipass").because(why).hint(INSTALL).permanent())
    }

    async fn ask(&self, args: &[&str]) -> Result<String> {
        let out = self.tool.run(args, ASK).await?;
        if out.status.success() { Ok(out.stdout) } else { Err(refusal(args[0], &out)) }
    }

    pub(super) async fn change(&self, args: &[&str]) -> Result<()> {
        let out = self.tool.run(args, CHANGE).await?;
        if out.status.success() { Ok(()) } else { Err(refusal(args[0], &out)) }
    }

    pub(super) async fn versions(&self) -> Result<reply::Versions> {
        let text = self.ask(&["version", "--format", "json"]).await?;
        reply::versions(&text).map_err(|why| strange("version", why))
    }

    /// Returns every machine, those that were deleted and can be recovered included.
    pub(super) async fn list(&self) -> Result<Vec<Listed>> {
        let text = self.ask(&["list", "--format", "json"]).await?;
        reply::list(&text).map_err(|why| strange("list", why))
    }

    /// Returns the same without asking each machine for its address, which is quick.
    pub(super) async fn states(&self) -> Result<Vec<Listed>> {
        let text = self.ask(&["list", "--no-ipv4", "--format", "json"]).await?;
        reply::list(&text).map_err(|why| strange("list", why))
    }

    /// Returns the state of exactly this machine; `None` = there is none.
    pub(super) async fn state(&self, name: &str) -> Result<Option<String>> {
        Ok(self.states().await?.into_iter().find(|row| row.name == name).map(|row| row.state))
    }

    pub(super) async fn info(&self, name: &str) -> Result<Info> {
        let text = self.ask(&["info", name, "--format", "json"]).await?;
        reply::info(&text, name).map_err(|why| strange("info", why))
    }

    pub(super) async fn snapshots(&self, name: &str) -> Result<Vec<String>> {
        let text = self.ask(&["list", "--snapshots", "--format", "json"]).await?;
        reply::snapshots(&text, name).map_err(|why| strange("list", why))
    }

    /// Deletes this machine for good and proves that it is gone. Never the global `purge`: that destroys what the user may
    /// want to recover.
    pub(super) async fn destroy(&self, name: &str) -> Result<String> {
        let leftover = || {
            Fault::new(Blame::Leftover, format!("cannot delete the Multipass machine `{name}`"))
                .hint(format!("`multipass delete --purge {name}`; if that does not help, restart multipassd"))
        };
        let was = self.state(name).await.map_err(|fault| leftover().caused_by(fault))?;
        if was.is_some() {
            let deleted = self.change(&["delete", "--purge", name]).await;
            // What counts is whether it is gone: it may have been deleted by somebody else meanwhile.
            match self.state(name).await {
                Ok(None) => {}
                Ok(Some(state)) => {
                    let why = deleted.err().unwrap_or_else(|| Fault::infra(format!("it is still there as `{state}`")));
                    return Err(leftover().caused_by(why));
                }
                Err(fault) => return Err(leftover().caused_by(fault)),
            }
        }
        Ok(format!("Multipass lists no machine `{name}`"))
    }

    /// Like [`Client::destroy`] for a machine that the daemon may still be launching; `busy` says whether its client
    /// still runs.
    pub(super) async fn destroy_half_born(
        &self,
        name: &str,
        busy: impl Fn() -> bool,
        limit: Duration,
    ) -> Result<String> {
        let work = async {
            loop {
                // Before the question: a client that ends after it may have left a machine.
                let was_busy = busy();
                let gone = self.destroy(name).await;
                match gone {
                    Ok(proof) if !was_busy => return Ok(proof),
                    Err(fault) if !was_busy => return Err(fault),
                    // It is being prepared and not listed yet, or refuses to be deleted until it has started.
                    _ => clock::sleep(PAUSE).await,
                }
            }
        };
        clock::within(limit, work).await.unwrap_or_else(|| Err(still_preparing(name)))
    }
}

fn still_preparing(name: &str) -> Fault {
    Fault::new(Blame::Leftover, format!("cannot prove that the machine `{name}` is gone"))
        .because("multipassd may still be preparing it")
        .hint("`vmdeck cleanup` deletes it once it can be seen")
}

fn strange(command: &str, why: String) -> Fault {
    Fault::infra(format!("cannot read what `multipass {command}` answers")).because(why)
}

/// Returns a refusal in the tool's own words, with what to do about those that are known.
pub(super) fn refusal(command: &str, out: &Output) -> Fault {
    let mut words = one_line(&out.stderr);
    if words.is_empty() {
        // An unknown command is told on standard output.
        let mut spinner = Spinner::default();
        let mut lines = Vec::new();
        spinner.feed(out.stdout.as_bytes(), |line| lines.push(line.to_owned()));
        spinner.flush(&mut |line: &str| lines.push(line.to_owned()));
        words = lines.pop().unwrap_or_else(|| out.status.to_string());
    }
    explain(command, &words, out.status.code())
}

/// Returns a refusal as a fault; see [`refusal`].
pub(super) fn explain(command: &str, words: &str, code: Option<i32>) -> Fault {
    let base = |blame| Fault::new(blame, format!("cannot run `multipass {command}`")).because(words);
    let says = |text: &str| words.contains(text);
    if says("cannot connect to the multipass socket") {
        return base(Blame::Host).hint(RESTART).permanent();
    }
    if says("multipass socket access denied") {
        let hint =
            "your user may not use Multipass: run `multipass authenticate`, or join the group that owns its socket";
        return base(Blame::Host).hint(hint).permanent();
    }
    if says("is unknown or unreachable") || says("Unable to find an image") {
        let hint = "`multipass find` lists the images; write a version of Ubuntu as `22.04`, not as `ubuntu:22.04`";
        return base(Blame::User).hint(hint).permanent();
    }
    if says("Invalid arguments supplied") || (code == Some(1) && command == "launch") {
        return base(Blame::User)
            .hint("correct the guest's `cpus`, `memory`, `disk` or its `multipass` keys")
            .permanent();
    }
    if says("timed out waiting for initialization") {
        return base(Blame::Infra)
            .hint("cloud-init did not finish; check `multipass.cloud_init`, or raise `multipass.launch_timeout`");
    }
    if says("timed out waiting for response") || code == Some(TIMED_OUT) {
        return base(Blame::Infra)
            .hint("the machine did not come up in time; raise `multipass.launch_timeout`, or check the host's load");
    }
    if says("does not exist") || says("is deleted") {
        return base(Blame::Infra).permanent();
    }
    base(Blame::Infra)
}

/// The hint that says how to restart the daemon.
pub(super) const RESTART: &str = "restart the daemon: `sudo launchctl kickstart -k system/com.canonical.multipassd` (macOS), \
                                  `sudo snap restart multipass` (Linux)";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_told_apart_by_their_words() {
        for (words, code, blame, again) in [
            ("list failed: cannot connect to the multipass socket", 2, Blame::Host, false),
            ("list failed: multipass socket access denied", 2, Blame::Host, false),
            ("launch failed: instance \"foo\" already exists", 2, Blame::Infra, true),
            ("launch failed: instance \"foo\" is being prepared", 2, Blame::Infra, true),
            ("launch failed: Invalid arguments supplied; Invalid disk size value supplied: 1K.", 2, Blame::User, false),
            ("launch failed: Unable to find an image matching \"x\" in remote \"y\".", 2, Blame::User, false),
            ("launch failed: Remote \"ubuntu\" is unknown or unreachable.", 2, Blame::User, false),
            (
                "launch failed: The following errors occurred:; foo: timed out waiting for response",
                2,
                Blame::Infra,
                true,
            ),
            ("launch failed: timed out waiting for initialization to complete", 2, Blame::Infra, true),
            ("Timed out waiting for instance launch.", 5, Blame::Infra, true),
            ("error: --timeout value has to be a positive integer", 1, Blame::User, false),
            ("info failed: The following errors occurred:; instance \"foo\" does not exist", 2, Blame::Infra, false),
            ("something new", 2, Blame::Infra, true),
        ] {
            let fault = explain("launch", words, Some(code));
            assert_eq!((fault.blame(), fault.is_worth_a_retry()), (blame, again), "{words}");
            assert!(fault.to_string().contains(words));
        }
    }

    /// Trap 7 of the tool: a daemon that is down gives 2, as every refusal does.
    #[test]
    fn trap_07_a_daemon_that_is_down_is_known_by_its_words_not_by_its_code() {
        let down = explain("list", "list failed: cannot connect to the multipass socket", Some(2));
        let other = explain("list", "list failed: no such thing", Some(2));
        assert_eq!((down.blame(), other.blame()), (Blame::Host, Blame::Infra));
        assert!(down.remedy().expect("hint").contains("launchctl"));
    }
}
