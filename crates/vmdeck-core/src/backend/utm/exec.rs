//! Commands in a guest by its QEMU guest agent: `utmctl exec`, with a mark of ours in place of its exit code.
//!
//! Its traps: a failed Apple event and a process that dies of a signal both give exit code 0; output comes only at the end;
//! the agent keeps a limited amount of it; what a command is to read goes into one message. So files go by `file push`.

use super::utmctl::{Hide, Utmctl, explain, has_event_error};
use crate::{
    backend::{
        framed::ProviderWords,
        guest_exec::{CopyOut, GuestExec},
        tool::{self, ExecTool, Tool},
    },
    command::frame,
    command::{Collected, CommandExit, Input, OutputSink, RemoteCommand, sh_quote},
    host::{files, process::Streams},
};
use futures_util::future::BoxFuture;
use sha2::{Digest, Sha256};
use std::{ffi::OsString, fs::File, io::Seek, time::Duration};
use tokio::sync::OnceCell;
use tokio_util::sync::CancellationToken;
use vmdeck_model::{
    digest::hex,
    error::{Fault, Result},
    suite::RunAs,
    text::one_line,
};

/// How long a file may take on its way: it goes in pieces of 4 KiB, each an Apple event.
const PUSH: Duration = Duration::from_mins(15);

pub(super) struct UtmExec {
    utmctl: Utmctl,
    uuid: String,
    /// Who runs the commands; the agent itself is root.
    user: Option<String>,
    tool: OnceCell<Tool>,
}

impl UtmExec {
    pub(super) fn new(utmctl: Utmctl, uuid: String, user: Option<String>) -> Self {
        Self { utmctl, uuid, user, tool: OnceCell::new() }
    }

    /// Returns what the guest says is the checksum of a file, or what it says instead.
    async fn sum_of(&self, agent: &Agent<'_>, script: &str, cancel: &CancellationToken) -> Result<String> {
        let mut out = Collected::default();
        tool::run_framed(agent, &RemoteCommand { run_as: RunAs::Root, ..RemoteCommand::new(script) }, &mut out, cancel)
            .await?;
        let said = one_line(&String::from_utf8_lossy(&[out.stdout, out.stderr].concat()));
        Ok(said
            .split_once(' ')
            .map_or(said.clone(), |(sum, rest)| if rest.trim() == "-" { sum.to_owned() } else { said.clone() }))
    }

    async fn tool(&self) -> Agent<'_> {
        let tool = self.tool.get_or_init(|| async { self.utmctl.able().await.clone() }).await;
        Agent { tool, hide: self.utmctl.hide, uuid: &self.uuid, user: self.user.as_deref() }
    }

    /// Brings a file in, proves that it arrived as it is, and lets the command read it.
    async fn with_input(
        &self,
        exec: &RemoteCommand,
        sink: &mut dyn OutputSink,
        cancel: &CancellationToken,
    ) -> Result<CommandExit> {
        let agent = self.tool().await;
        let there = format!("/tmp/.vmdeck-{}", frame::nonce());
        let failed = || Fault::infra("cannot copy the input of the command into the guest");
        let Some((file, sum)) = spooled(&exec.stdin)? else {
            let exec = RemoteCommand { stdin: Input::Empty, ..exec.clone() };
            return tool::run_framed(&agent, &exec, sink, cancel).await;
        };
        let pushed = tokio::select! {
            pushed = agent.tool.run_with(["file", "push", &self.uuid, &there], Streams { stdin: file.into(), ..Streams::piped_out() }, PUSH) => pushed?,
            () = cancel.cancelled() => return Err(Fault::cancelled("cannot copy a file into the guest").because("it was cancelled")),
        };
        if !pushed.status.success() || has_event_error(&pushed.stderr) {
            return Err(
                failed().caused_by(explain("file push", &pushed.stderr, pushed.status.code().unwrap_or(-1)).fault)
            );
        }
        // Its errors give exit code 0 as well.
        let arrived = self.sum_of(&agent, &format!("chmod 644 {there} && sha256sum < {there}"), cancel).await?;
        if arrived != sum {
            return Err(failed().because(format!("it arrived with different contents: {arrived}")));
        }
        let prepare = format!("exec < {there}\n{}", exec.prepare);
        let exec = RemoteCommand { prepare, stdin: Input::Empty, ..exec.clone() };
        let ran = tool::run_framed(&agent, &exec, sink, cancel).await;
        let remove = RemoteCommand { run_as: RunAs::Root, ..RemoteCommand::new(format!("rm -f {there}")) };
        // What stays is in /tmp of a machine that is taken down.
        let _ = tool::run_framed(&agent, &remove, &mut Collected::default(), &CancellationToken::new()).await;
        ran
    }
}

/// Returns a copy of the file and its checksum in hexadecimal, since a pipe can be read only once; `None` = there is nothing in it.
fn spooled(input: &Input) -> Result<Option<(File, String)>> {
    let cannot = |e: std::io::Error| input.unreadable(&e);
    let Some(mut file) = input.open().map_err(cannot)? else { return Ok(None) };
    let mut copy = tempfile::tempfile().map_err(cannot)?;
    let length = std::io::copy(&mut file, &mut copy).map_err(cannot)?;
    let sum = checksum(&mut copy).map_err(cannot)?;
    copy.rewind().map_err(cannot)?;
    Ok((length > 0).then_some((copy, sum)))
}

/// SHA-256 of a file from its beginning, in hexadecimal.
fn checksum(file: &mut File) -> std::io::Result<String> {
    file.rewind()?;
    let mut hash = Sha256::new();
    files::read_pieces(file, |bytes| hash.update(bytes))?;
    Ok(hex(&hash.finalize()))
}

impl GuestExec for UtmExec {
    fn run<'a>(
        &'a self,
        command: &'a RemoteCommand,
        sink: &'a mut dyn OutputSink,
        cancel: &'a CancellationToken,
    ) -> BoxFuture<'a, Result<CommandExit>> {
        Box::pin(async move {
            if command.stdin.is_empty() {
                return tool::run_framed(&self.tool().await, command, sink, cancel).await;
            }
            self.with_input(command, sink, cancel).await
        })
    }

    fn copy_out(&self) -> Option<&dyn CopyOut> {
        Some(self)
    }
}

impl CopyOut for UtmExec {
    fn copy_out<'a>(&'a self, path: &'a str, to: &'a File, cancel: &'a CancellationToken) -> BoxFuture<'a, Result<()>> {
        Box::pin(self.pull(path, to, cancel))
    }
}

impl UtmExec {
    async fn pull(&self, path: &str, to: &File, cancel: &CancellationToken) -> Result<()> {
        let agent = self.tool().await;
        let failed = || Fault::infra(format!("cannot copy `{path}` out of the guest"));
        let (file, mut whole) =
            to.try_clone().and_then(|file| Ok((file, to.try_clone()?))).map_err(|e| failed().because(e))?;
        let pulled = tokio::select! {
            pulled = agent.tool.run_with(["file", "pull", &self.uuid, path], Streams { stdout: file.into(), ..Streams::piped_out() }, PUSH) => pulled?,
            () = cancel.cancelled() => return Err(Fault::cancelled("cannot copy a file").because("it was cancelled")),
        };
        if !pulled.status.success() || has_event_error(&pulled.stderr) {
            return Err(
                failed().caused_by(explain("file pull", &pulled.stderr, pulled.status.code().unwrap_or(-1)).fault)
            );
        }
        let there = self.sum_of(&agent, &format!("sha256sum < {}", sh_quote(path)), cancel).await?;
        let here = checksum(&mut whole).map_err(|e| failed().because(e))?;
        if there == here {
            Ok(())
        } else {
            Err(failed().because(format!("it arrived with different contents: {there}")))
        }
    }
}

/// One guest's agent, by a program that may talk to UTM.
struct Agent<'a> {
    tool: &'a Tool,
    hide: Hide,
    uuid: &'a str,
    user: Option<&'a str>,
}

impl ExecTool for Agent<'_> {
    fn tool(&self) -> &Tool {
        self.tool
    }

    fn args(&self, text: &str) -> Vec<OsString> {
        let mut out: Vec<OsString> = vec!["exec".into()];
        if self.hide != Hide::Never {
            // Only here: after `--cmd` everything belongs to the command.
            out.push("--hide".into());
        }
        out.extend([self.uuid, "--cmd", "/bin/sh", "-c", text].map(OsString::from));
        out
    }

    fn adapt(&self, exec: &RemoteCommand) -> RemoteCommand {
        // The agent is root, and its guest may have no sudo.
        RemoteCommand { run_as: RunAs::User, ..exec.clone() }
    }

    fn within(&self, asked: &RemoteCommand, body: String) -> String {
        match (asked.run_as, self.user) {
            (RunAs::User, Some(user)) => format!("exec su -s /bin/sh {} -c {}", sh_quote(user), sh_quote(&body)),
            _ => body,
        }
    }

    fn killer(&self, _: RunAs) -> RunAs {
        RunAs::Root
    }
}

impl ProviderWords for Agent<'_> {
    fn fault(&self, words: &str, before: bool) -> Fault {
        if before || has_event_error(words) {
            return explain("exec", words, 0).fault;
        }
        let words = match one_line(words) {
            words if words.is_empty() => "the machine or its agent ended and did not say why".to_owned(),
            words => format!("`utmctl exec` lost the command: {words}"),
        };
        Fault::infra("cannot finish the command")
            .because(words)
            .hint("the guest or its agent may have stopped; its output is kept only up to the agent's limit of 16 MiB")
    }

    fn is_failure(&self, words: &str) -> bool {
        has_event_error(words)
    }
}
