//! A client of the guest agent: one question at a time, each with its answer, as lines of JSON.
//!
//! Facts: the agent greets nobody and numbers nothing, so after every silence both sides are brought together again by a number that
//! comes back behind a byte 0xFF; where no agent runs, nothing ever answers.

use crate::host::{clock, random};
use base64::{Engine, prelude::BASE64_STANDARD};
use serde_json::{Value, json};
use std::{path::PathBuf, time::Duration};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::UnixStream,
    sync::Mutex,
};

/// How long the agent may take to say the number again.
const TOGETHER: Duration = Duration::from_secs(3);
/// How long an answer may take; emulated guests under load are slow.
const ANSWER: Duration = Duration::from_secs(30);
/// How long a program may take that prepares a command.
const SHORT: Duration = Duration::from_mins(1);
/// Longest answer that is taken, in bytes.
const ANSWER_MAX: u64 = 4 << 20;
/// What ends everything that was said before.
const MARK: u8 = 0xff;
/// Bytes of a file that are read or written at a time.
pub(super) const PIECE: usize = 256 * 1024;

/// The connection to an agent, made when it is needed.
pub(super) struct AgentClient {
    socket: PathBuf,
    stream: Mutex<Option<BufReader<UnixStream>>>,
}

/// Why a question has no good answer.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum AgentError {
    /// There is no answer.
    Silent(String),
    /// The agent says no, with these words.
    Refused(String),
    /// The agent may not do that at all.
    Forbidden(String),
}

/// How a process ended, as the agent tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ProcessEnd {
    Code(i32),
    Signal(i32),
}

/// A file that the agent has open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct GuestFile(i64);

impl AgentClient {
    pub(super) fn new(socket: PathBuf) -> Self {
        Self { socket, stream: Mutex::new(None) }
    }

    /// Asks one question. A silence ends the connection: its answer may still come and must not be taken for another one's.
    pub(super) async fn call(&self, command: &str, arguments: Value) -> Result<Value, AgentError> {
        let mut kept = self.stream.lock().await;
        let mut stream = match kept.take() {
            Some(stream) => stream,
            None => self.connect().await?,
        };
        let line = format!("{}\n", json!({ "execute": command, "arguments": arguments }));
        let asked = async {
            stream.get_mut().write_all(line.as_bytes()).await?;
            answer(&mut stream).await
        };
        let answer = match clock::within(ANSWER, asked).await {
            Some(Ok(answer)) => answer,
            Some(Err(e)) => return Err(AgentError::Silent(format!("the guest agent was lost: {e}"))),
            None => {
                let seconds = ANSWER.as_secs();
                return Err(AgentError::Silent(format!("the guest agent gave no answer within {seconds} s")));
            }
        };
        *kept = Some(stream);
        meaning(answer)
    }

    async fn connect(&self) -> Result<BufReader<UnixStream>, AgentError> {
        let cannot = |e: std::io::Error| AgentError::Silent(format!("cannot open the guest agent's port: {e}"));
        let stream = UnixStream::connect(&self.socket).await.map_err(cannot)?;
        let mut stream = BufReader::new(stream);
        let together = clock::within(TOGETHER, come_together(&mut stream)).await;
        let silent = || AgentError::Silent("the guest agent does not answer".into());
        together.ok_or_else(silent)?.map_err(cannot)?;
        Ok(stream)
    }

    /// Starts a program; returns its number.
    pub(super) async fn start(&self, path: &str, words: &[&str]) -> Result<i64, AgentError> {
        let started = self.call("guest-exec", json!({ "path": path, "arg": words })).await?;
        started["pid"].as_i64().ok_or_else(|| nonsense("guest-exec"))
    }

    /// Starts a program and returns what it writes; both are short.
    pub(super) async fn output(&self, path: &str, words: &[&str]) -> Result<String, AgentError> {
        let late = || AgentError::Silent(format!("`{path}` did not end in the guest within {} s", SHORT.as_secs()));
        clock::within(SHORT, self.output_of(path, words)).await.unwrap_or_else(|| Err(late()))
    }

    async fn output_of(&self, path: &str, words: &[&str]) -> Result<String, AgentError> {
        let started = self.call("guest-exec", json!({ "path": path, "arg": words, "capture-output": true })).await?;
        let pid = started["pid"].as_i64().ok_or_else(|| nonsense("guest-exec"))?;
        loop {
            let status = self.call("guest-exec-status", json!({ "pid": pid })).await?;
            if status["exited"] == true {
                let bytes = BASE64_STANDARD.decode(status["out-data"].as_str().unwrap_or_default());
                return Ok(String::from_utf8_lossy(&bytes.unwrap_or_default()).into_owned());
            }
            // The agent tells nothing by itself.
            clock::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Returns how a process ended, once it has; asked again afterwards, the agent knows nothing of it.
    pub(super) async fn ended(&self, pid: i64) -> Result<Option<ProcessEnd>, AgentError> {
        let status = self.call("guest-exec-status", json!({ "pid": pid })).await?;
        let number = |key: &str| {
            let number = status[key].as_i64()?;
            // Windows' codes have 32 bits and no sign; its own tools show them with one.
            i32::try_from(number).ok().or_else(|| u32::try_from(number).ok().map(u32::cast_signed))
        };
        match (status["exited"].as_bool(), number("signal"), number("exitcode")) {
            (Some(false), ..) => Ok(None),
            (Some(true), Some(signal), _) => Ok(Some(ProcessEnd::Signal(signal))),
            (Some(true), None, Some(code)) => Ok(Some(ProcessEnd::Code(code))),
            (Some(true), None, None) | (None, ..) => Err(nonsense("guest-exec-status")),
        }
    }

    /// Opens a file of the guest, to be read (`r`) or written anew (`w`).
    pub(super) async fn open(&self, path: &str, mode: &str) -> Result<GuestFile, AgentError> {
        let opened = self.call("guest-file-open", json!({ "path": path, "mode": mode })).await?;
        opened.as_i64().map(GuestFile).ok_or_else(|| nonsense("guest-file-open"))
    }

    /// Reads what a file has next; empty = nothing at the moment.
    pub(super) async fn read(&self, handle: GuestFile) -> Result<Vec<u8>, AgentError> {
        let read = self.call("guest-file-read", json!({ "handle": handle.0, "count": PIECE })).await?;
        let text = read["buf-b64"].as_str().ok_or_else(|| nonsense("guest-file-read"))?;
        BASE64_STANDARD.decode(text).map_err(|_| nonsense("guest-file-read"))
    }

    /// Writes all of a piece.
    pub(super) async fn write(&self, handle: GuestFile, piece: &[u8]) -> Result<(), AgentError> {
        let text = BASE64_STANDARD.encode(piece);
        let written = self.call("guest-file-write", json!({ "handle": handle.0, "buf-b64": text })).await?;
        if written["count"].as_u64() == Some(piece.len() as u64) {
            return Ok(());
        }
        Err(AgentError::Refused(
            "a file in the guest took only a part of what was written: its disk may be full".into(),
        ))
    }

    /// Closes a file; only then is all of what was written there.
    pub(super) async fn close(&self, handle: GuestFile) -> Result<(), AgentError> {
        self.call("guest-file-close", json!({ "handle": handle.0 })).await.map(drop)
    }
}

/// Throws away what was said to others, until our own number comes back.
async fn come_together(stream: &mut BufReader<UnixStream>) -> std::io::Result<()> {
    // A number that JSON holds whatever reads it.
    let id = random::u64() >> 12;
    let line = json!({ "execute": "guest-sync-delimited", "arguments": { "id": id } });
    stream.get_mut().write_all(&[&[MARK][..], line.to_string().as_bytes(), b"\n"].concat()).await?;
    loop {
        let mut before = Vec::new();
        // Another one's answer may be long, and is forgotten piece by piece.
        while !before.ends_with(&[MARK]) {
            before.clear();
            if (&mut *stream).take(4096).read_until(MARK, &mut before).await? == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
        }
        if answer(stream).await?["return"] == id {
            return Ok(());
        }
    }
}

async fn answer(stream: &mut BufReader<UnixStream>) -> std::io::Result<Value> {
    let mut line = Vec::new();
    stream.take(ANSWER_MAX).read_until(b'\n', &mut line).await?;
    if !line.ends_with(b"\n") {
        return Err(std::io::ErrorKind::UnexpectedEof.into());
    }
    // Behind a mark that was not asked for.
    let text = line.rsplit(|byte| *byte == MARK).next().unwrap_or_default();
    Ok(serde_json::from_slice(text)?)
}

fn meaning(mut answer: Value) -> Result<Value, AgentError> {
    if let Some(value) = answer.get_mut("return") {
        return Ok(value.take());
    }
    let error = &answer["error"];
    let words = vmdeck_model::text::one_line(error["desc"].as_str().unwrap_or("nothing that is known"));
    // The class is the same for what is forbidden and for what an old agent does not know; a generic error says it in words.
    let is_forbidden = error["class"] == "CommandNotFound" || words.contains("has been disabled");
    Err(if is_forbidden { AgentError::Forbidden(words) } else { AgentError::Refused(words) })
}

fn nonsense(command: &str) -> AgentError {
    AgentError::Refused(format!("nothing that is known, to `{command}`"))
}
