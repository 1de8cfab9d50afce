//! One command by the guest agent: started with files of the guest for its streams, which are read while they grow.

use super::client::{AgentClient, AgentError, GuestFile, PIECE, ProcessEnd};
use crate::{
    command::{
        Collected, CommandExit, OutputSink, RemoteCommand, Shell,
        frame::{self, Frame, NOT_READY},
        input_feed::InputFeed,
        own_output::OwnOutput,
        powershell, sh_quote,
    },
    host::clock,
};
use futures_util::future::BoxFuture;
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use vmdeck_model::{
    error::{Fault, Result},
    event::Stream,
    suite::RunAs,
};

/// First pause between two looks at a command, and the longest; a command that says something is looked at often.
const PAUSES: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(200));
/// How long removing the files of a command may take.
const REMOVE: Duration = Duration::from_secs(5);

/// The folder of one command in the guest, with its streams.
struct StreamFolder {
    language: Shell,
    path: String,
}

impl StreamFolder {
    /// Names a folder that is not there yet.
    async fn new(client: &AgentClient, language: Shell) -> Result<Self, AgentError> {
        let name = format!("vmdeck-{}", frame::nonce());
        let path = match language {
            Shell::Posix => format!("/tmp/.{name}"),
            Shell::PowerShell => {
                let root = client.output("cmd.exe", &["/d", "/c", "echo", "%SystemRoot%"]).await?;
                format!("{}\\Temp\\{name}", windows_root(&root))
            }
        };
        Ok(Self { language, path })
    }

    fn file(&self, name: &str) -> String {
        let separator = if self.language == Shell::Posix { '/' } else { '\\' };
        format!("{}{separator}{name}", self.path)
    }

    /// Makes the folder.
    async fn make(&self, client: &AgentClient) -> Result<(), AgentError> {
        let said = match self.language {
            Shell::Posix => {
                let text = format!("umask 077; mkdir {0} 2>&1 && : >{0}/out && : >{0}/err", self.path);
                client.output("/bin/sh", &["-c", &text]).await?
            }
            Shell::PowerShell => client.output("cmd.exe", &["/d", "/c", "mkdir", &self.path, "2>&1"]).await?,
        };
        let said = vmdeck_model::text::one_line(&said);
        if said.is_empty() { Ok(()) } else { Err(AgentError::Refused(said)) }
    }

    async fn remove(&self, client: &AgentClient) {
        let removed = async {
            match self.language {
                Shell::Posix => client.output("/bin/sh", &["-c", &format!("rm -rf {}", self.path)]).await,
                Shell::PowerShell => client.output("cmd.exe", &["/d", "/c", "rmdir", "/s", "/q", &self.path]).await,
            }
        };
        // What stays is in the temporary folder of a machine that is taken down.
        let _ = clock::within(REMOVE, removed).await;
    }

    /// Returns the program, and its words, that run a text with this folder's files as its streams.
    fn words(&self, frame: &Frame, exec: &RemoteCommand, user: Option<&str>, has_input: bool) -> (&str, Vec<String>) {
        let [input, out, err] = ["in", "out", "err"].map(|name| self.file(name));
        match self.language {
            Shell::Posix => {
                let input = if has_input { &input } else { "/dev/null" };
                let body = format!("cd 2>/dev/null\n{}", frame.body(exec));
                let body = match (exec.run_as, user) {
                    (RunAs::User, Some(user)) => {
                        format!("exec su -s /bin/sh {} -c {}", sh_quote(user), sh_quote(&body))
                    }
                    // An agent that a system starts has no home.
                    _ => format!("HOME=${{HOME:-/root}}; export HOME\n{body}"),
                };
                ("/bin/sh", vec!["-c".into(), format!("exec >{out} 2>{err} <{input} || exit {NOT_READY}\n{body}")])
            }
            Shell::PowerShell => {
                // Words that need no quotes: two programs would have to agree about those.
                let line = powershell::line(&powershell::starter(&frame.nonce));
                let words = ["/d", "/c"].into_iter().chain(line.split(' ')).map(str::to_owned);
                let streams = ["<".to_owned(), input, ">".into(), out, "2>".into(), err];
                ("cmd.exe", words.chain(streams).collect())
            }
        }
    }
}

/// Returns the folder of Windows, of what it says itself.
fn windows_root(said: &str) -> &str {
    let said = said.trim();
    let is_plain = said.chars().all(|c| c.is_ascii_alphanumeric() || "\\:_-.".contains(c));
    if is_plain && said.as_bytes().get(1) == Some(&b':') { said } else { "C:\\Windows" }
}

/// Runs one command to its end.
pub(super) async fn run(
    client: &AgentClient,
    language: Shell,
    user: Option<&str>,
    exec: &RemoteCommand,
    sink: &mut dyn OutputSink,
    cancel: &CancellationToken,
) -> Result<CommandExit> {
    let cannot_start = |error: AgentError| error.fault("start a command");
    // Before anything is begun: one that would read nothing instead must not run at all.
    let file = exec.stdin.open().map_err(|e| exec.stdin.unreadable(&e))?.map(tokio::fs::File::from);
    let folder = StreamFolder::new(client, language).await.map_err(cannot_start)?;
    folder.make(client).await.map_err(cannot_start)?;
    let running = Running { client, folder: &folder, frame: Frame::new(), user };
    let ran = running.run(exec, file, sink, cancel).await;
    folder.remove(client).await;
    ran
}

struct Running<'a> {
    client: &'a AgentClient,
    folder: &'a StreamFolder,
    frame: Frame,
    user: Option<&'a str>,
}

impl Running<'_> {
    async fn run(
        &self,
        exec: &RemoteCommand,
        file: Option<tokio::fs::File>,
        sink: &mut dyn OutputSink,
        cancel: &CancellationToken,
    ) -> Result<CommandExit> {
        let (language, client) = (self.folder.language, self.client);
        let cannot_start = |error: AgentError| error.fault("start a command");
        let (head, tail) = match language {
            Shell::Posix => (String::new(), String::new()),
            Shell::PowerShell => (powershell::payload(&self.frame, exec), powershell::last_line(&self.frame.nonce)),
        };
        let has_input = file.is_some() || !head.is_empty();
        if has_input {
            let input = InputFeed::new(head.into_bytes(), file, tail.into_bytes(), language);
            self.send(input, exec, cancel).await?;
        }
        let (program, words) = self.folder.words(&self.frame, exec, self.user, has_input);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let pid = client.start(program, &words).await.map_err(cannot_start)?;
        let mut streams = [GrowingFile::new(self.folder.file("out")), GrowingFile::new(self.folder.file("err"))];
        let mut own = OwnOutput::new(&self.frame.nonce, language);
        let mut pause = PAUSES.0;
        let ended = 'command: loop {
            let ended = client.ended(pid).await.map_err(lost)?;
            let mut has_more = false;
            for (stream, tail) in [Stream::Stdout, Stream::Stderr].into_iter().zip(&mut streams) {
                // After its end everything is there to be read.
                while let Some(piece) = tail.next(client, ended.is_some()).await.map_err(lost)? {
                    has_more = true;
                    own.pass(stream, &piece, sink);
                    // Output that was not read to its end belongs to no end.
                    if cancel.is_cancelled() {
                        break 'command None;
                    }
                }
            }
            if ended.is_some() {
                break ended;
            }
            pause = if has_more { PAUSES.0 } else { (pause * 2).min(PAUSES.1) };
            // The agent tells nothing by itself.
            tokio::select! {
                () = clock::sleep(pause) => {}
                () = cancel.cancelled() => break None,
            }
        };
        for tail in &streams {
            tail.close(client).await;
        }
        let Some(end) = ended else {
            self.end(own.pid(), exec).await?;
            return Err(Fault::cancelled("cannot finish the command").because("it was cancelled"));
        };
        let rest = own.finish();
        if !rest.is_empty() {
            sink.write(Stream::Stderr, &rest);
        }
        let exit = match end {
            ProcessEnd::Code(code) => CommandExit::Code(code),
            ProcessEnd::Signal(number) => CommandExit::of_signal(number),
        };
        if own.pid().is_some() { Ok(exit) } else { Err(frame::refused(exec, &exit, &own.complaint(), 0)) }
    }

    /// Writes what the command reads to its file.
    async fn send(&self, mut input: InputFeed, exec: &RemoteCommand, cancel: &CancellationToken) -> Result<()> {
        let cannot = |error: AgentError| error.fault("send the command its input");
        let handle = self.client.open(&self.folder.file("in"), "w").await.map_err(cannot)?;
        let sent = async {
            loop {
                let (piece, is_last) = input.next(PIECE).await.map_err(|e| exec.stdin.unreadable(&e))?;
                if !piece.is_empty() {
                    self.client.write(handle, &piece).await.map_err(cannot)?;
                }
                if is_last {
                    return Ok(());
                }
            }
        };
        let sent = tokio::select! {
            sent = sent => sent,
            () = cancel.cancelled() => Err(Fault::cancelled("cannot start the command").because("it was cancelled")),
        };
        let closed = self.client.close(handle).await.map_err(cannot);
        sent.and(closed)
    }

    /// Ends a cancelled command and everything that it started; the error says that something may still run.
    fn end<'a>(&'a self, pid: Option<u32>, exec: &'a RemoteCommand) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let language = self.folder.language;
            let Some(text) = language.kill_text(&self.frame, pid) else {
                return Err(Fault::infra("cannot end the command in the guest").because("it may be about to begin"));
            };
            // The agent may end everybody's.
            let kill = RemoteCommand { run_as: RunAs::Root, ..RemoteCommand::new(text) };
            let kill = if language == Shell::Posix { kill } else { RemoteCommand { run_as: exec.run_as, ..kill } };
            let (mut said, never) = (Collected::default(), CancellationToken::new());
            let ending = run(self.client, language, None, &kill, &mut said, &never);
            frame::ended(clock::within(language.kill_limit(), ending).await, &said)
        })
    }
}

/// Returns the fault of a command of which nobody knows the end any more.
pub(super) fn lost(error: AgentError) -> Fault {
    let why = match error {
        AgentError::Silent(why) => why,
        AgentError::Refused(why) | AgentError::Forbidden(why) => format!("the guest agent says: {why}"),
    };
    let fault = Fault::infra("cannot finish the command").because(why);
    fault.hint("the guest may have restarted or stopped, or its agent did; see its console log")
}

/// A file that grows.
struct GrowingFile {
    path: String,
    handle: Option<GuestFile>,
}

impl GrowingFile {
    fn new(path: String) -> Self {
        Self { path, handle: None }
    }

    /// Returns what the file has got since; `None` = nothing. One that cannot be opened may be held by its writer, as in Windows,
    /// until that has ended.
    async fn next(&mut self, client: &AgentClient, has_ended: bool) -> Result<Option<Vec<u8>>, AgentError> {
        let handle = match self.handle {
            Some(handle) => handle,
            None => match client.open(&self.path, "r").await {
                Ok(handle) => *self.handle.insert(handle),
                Err(AgentError::Refused(_)) if !has_ended => return Ok(None),
                Err(error) => return Err(error),
            },
        };
        let piece = client.read(handle).await?;
        Ok(Some(piece).filter(|piece| !piece.is_empty()))
    }

    async fn close(&self, client: &AgentClient) {
        if let Some(handle) = self.handle {
            let _ = client.close(handle).await;
        }
    }
}
