//! The messages between host and guest on the serial port.
//!
//! A connection begins with a line of each side that holds a nonce of the host's: what an earlier connection left in between is
//! passed over. Then come messages: a length of four bytes (little-endian, of what follows), a kind of one byte, the number of
//! the command in four bytes, and the content. Either side may be hostile to the other: a length has a limit, and a kind that is
//! not known ends the connection.

use serde::{Deserialize, Serialize};
use std::fmt;

/// Most bytes of a message's content.
pub const CONTENT_MAX: usize = 64 * 1024 * 1024;
/// Bytes of a stream that are sent in one message.
pub const PIECE: usize = 64 * 1024;
/// Bytes of a command's input that may be on their way: a command that does not read must not block the others.
pub const WINDOW: usize = 256 * 1024;

const HEAD: usize = 9;
const GREETING: &str = "\nvmdeck-serial 1 ";

/// Returns the line with which the host begins a connection, and the guest answers.
pub fn greeting(nonce: &str) -> String {
    format!("{GREETING}{nonce}\n")
}

/// Returns the nonce of the last whole greeting in these bytes, and what comes after it.
pub fn find_greeting(bytes: &[u8]) -> Option<(String, &[u8])> {
    let mark = GREETING.as_bytes();
    let last = (0..=bytes.len().saturating_sub(mark.len())).rev().filter(|at| bytes[*at..].starts_with(mark));
    for at in last {
        let rest = &bytes[at + mark.len()..];
        let Some(end) = rest.iter().position(|byte| *byte == b'\n') else { continue };
        if end > 0 && rest[..end].iter().all(u8::is_ascii_hexdigit) {
            return Some((String::from_utf8_lossy(&rest[..end]).into_owned(), &rest[end + 1..]));
        }
    }
    None
}

/// Returns what comes after the greeting with this nonce, if it is in these bytes.
pub fn after_greeting<'a>(bytes: &'a [u8], nonce: &str) -> Option<&'a [u8]> {
    let line = greeting(nonce);
    let at = bytes.windows(line.len()).position(|part| part == line.as_bytes())?;
    Some(&bytes[at + line.len()..])
}

/// A message that belongs to one command; its number is chosen by the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// The number of the command.
    pub id: u32,
    /// The content.
    pub body: Body,
}

/// What a message says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// The host wants a command to be run.
    Run(Box<CommandRequest>),
    /// The host sends a piece of the command's input.
    Input(Vec<u8>),
    /// The host has no more input.
    InputEnd,
    /// The host's terminal has this many columns and rows.
    Resize(u16, u16),
    /// The host does not want the command any more: it is killed, and nothing is said about it.
    Abandon,
    /// The guest has passed on this many bytes of input.
    InputTaken(u32),
    /// The guest sends a piece of standard output, or of a terminal.
    Stdout(Vec<u8>),
    /// The guest sends a piece of standard error.
    Stderr(Vec<u8>),
    /// The command exited with this code.
    Exited(i32),
    /// The command was killed by the signal of this number.
    Killed(i32),
    /// The command could not be started, for this reason.
    Refused(String),
}

/// A command to run in the guest.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommandRequest {
    /// The text for `/bin/sh`; `None` = the user's login shell.
    pub script: Option<String>,
    /// Who runs it.
    pub user: User,
    /// The terminal that it gets; `None` = three pipes.
    pub terminal: Option<Terminal>,
}

/// A user of the guest.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum User {
    /// The user with the number 0.
    #[default]
    Root,
    /// The user of this name, as the guest's own list of users has it.
    Named(String),
    /// The user of these numbers, whether the guest knows it or not.
    Numbered {
        /// The user's number.
        uid: u32,
        /// The number of the user's group.
        gid: u32,
        /// The numbers of the user's other groups.
        groups: Vec<u32>,
        /// The user's home, for a user that the guest does not know.
        home: String,
    },
}

/// A terminal as it begins.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Terminal {
    /// The value of `TERM`.
    pub kind: String,
    /// The columns.
    pub columns: u16,
    /// The rows.
    pub rows: u16,
}

impl Message {
    /// Appends the message to what is to be sent.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let json;
        let four;
        let (kind, content): (u8, &[u8]) = match &self.body {
            Body::Run(request) => {
                // A structure of texts and numbers always has a form.
                json = serde_json::to_vec(request).unwrap_or_default();
                (1, &json)
            }
            Body::Input(bytes) => (2, bytes),
            Body::InputEnd => (3, &[]),
            Body::Resize(columns, rows) => {
                four = (u32::from(*columns) | u32::from(*rows) << 16).to_le_bytes();
                (4, &four)
            }
            Body::Abandon => (5, &[]),
            Body::InputTaken(bytes) => {
                four = bytes.to_le_bytes();
                (6, &four)
            }
            Body::Stdout(bytes) => (7, bytes),
            Body::Stderr(bytes) => (8, bytes),
            Body::Exited(code) => {
                four = code.to_le_bytes();
                (9, &four)
            }
            Body::Killed(signal) => {
                four = signal.to_le_bytes();
                (10, &four)
            }
            Body::Refused(reason) => (11, reason.as_bytes()),
        };
        let length = u32::try_from(content.len() + HEAD - 4).unwrap_or(u32::MAX);
        out.extend_from_slice(&length.to_le_bytes());
        out.push(kind);
        out.extend_from_slice(&self.id.to_le_bytes());
        out.extend_from_slice(content);
    }

    /// Returns the message as it is sent.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.encode(&mut out);
        out
    }
}

/// Why what came is no message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WireError {
    /// The message would be this long.
    TooLong(usize),
    /// The kind is not known, or its content is not of its form.
    Unknown(u8),
}

impl fmt::Display for WireError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            WireError::TooLong(bytes) => write!(f, "a message of {bytes} bytes came, and {CONTENT_MAX} are the most"),
            WireError::Unknown(kind) => write!(f, "a message of the kind {kind} came that makes no sense"),
        }
    }
}

impl std::error::Error for WireError {}

/// Puts messages together from the pieces in which they come.
#[derive(Debug)]
pub struct Decoder {
    buffer: Vec<u8>,
    content_max: usize,
}

impl Decoder {
    /// Returns a decoder for messages of at most this many bytes of content.
    pub fn new(content_max: usize) -> Self {
        Self { buffer: Vec::new(), content_max }
    }

    /// Takes a piece.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// Returns the next whole message; `None` = more is needed. After an error nothing makes sense any more.
    pub fn next_message(&mut self) -> Result<Option<Message>, WireError> {
        let Some(head) = self.buffer.first_chunk::<HEAD>() else { return Ok(None) };
        let four = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        let (length, kind, id) = (four(0) as usize, head[4], four(5));
        let Some(content) = length.checked_sub(HEAD - 4) else { return Err(WireError::Unknown(kind)) };
        if content > self.content_max {
            return Err(WireError::TooLong(content));
        }
        let end = HEAD + content;
        if self.buffer.len() < end {
            return Ok(None);
        }
        let body = body(kind, &self.buffer[HEAD..end]).ok_or(WireError::Unknown(kind))?;
        self.buffer.drain(..end);
        Ok(Some(Message { id, body }))
    }
}

fn body(kind: u8, content: &[u8]) -> Option<Body> {
    let four = || content.try_into().ok();
    Some(match kind {
        1 => Body::Run(serde_json::from_slice(content).ok()?),
        2 => Body::Input(content.to_vec()),
        3 if content.is_empty() => Body::InputEnd,
        4 => {
            let [a, b, c, d] = four()?;
            Body::Resize(u16::from_le_bytes([a, b]), u16::from_le_bytes([c, d]))
        }
        5 if content.is_empty() => Body::Abandon,
        6 => Body::InputTaken(u32::from_le_bytes(four()?)),
        7 => Body::Stdout(content.to_vec()),
        8 => Body::Stderr(content.to_vec()),
        9 => Body::Exited(i32::from_le_bytes(four()?)),
        10 => Body::Killed(i32::from_le_bytes(four()?)),
        11 => Body::Refused(String::from_utf8(content.to_vec()).ok()?),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn any_body() -> impl Strategy<Value = Body> {
        let bytes = || proptest::collection::vec(any::<u8>(), 0..300);
        prop_oneof![
            (proptest::option::of(".*"), 0..3u8).prop_map(|(script, user)| {
                let user = match user {
                    0 => User::Root,
                    1 => User::Named("ci".into()),
                    _ => User::Numbered { uid: 1000, gid: 100, groups: vec![4, 27], home: "/home/ci".into() },
                };
                Body::Run(Box::new(CommandRequest { script, user, terminal: None }))
            }),
            bytes().prop_map(Body::Input),
            Just(Body::InputEnd),
            any::<(u16, u16)>().prop_map(|(columns, rows)| Body::Resize(columns, rows)),
            Just(Body::Abandon),
            any::<u32>().prop_map(Body::InputTaken),
            bytes().prop_map(Body::Stdout),
            bytes().prop_map(Body::Stderr),
            any::<i32>().prop_map(Body::Exited),
            any::<i32>().prop_map(Body::Killed),
            ".*".prop_map(Body::Refused),
        ]
    }

    proptest! {
        #[test]
        fn messages_survive_any_cut(
            bodies in proptest::collection::vec((any::<u32>(), any_body()), 1..6),
            cuts in proptest::collection::vec(1usize..50, 1..40),
        ) {
            let sent: Vec<Message> = bodies.into_iter().map(|(id, body)| Message { id, body }).collect();
            let mut bytes = Vec::new();
            for message in &sent {
                message.encode(&mut bytes);
            }
            let mut decoder = Decoder::new(CONTENT_MAX);
            let (mut came, mut rest, mut cuts) = (Vec::new(), &bytes[..], cuts.iter().cycle());
            while !rest.is_empty() {
                let (piece, after) = rest.split_at((*cuts.next().expect("endless")).min(rest.len()));
                rest = after;
                decoder.feed(piece);
                while let Some(message) = decoder.next_message().expect("whole") {
                    came.push(message);
                }
            }
            prop_assert_eq!(came, sent);
        }

        #[test]
        fn noise_is_refused_or_waited_for_and_never_a_panic(noise in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut decoder = Decoder::new(1000);
            decoder.feed(&noise);
            for _ in 0..50 {
                if !matches!(decoder.next_message(), Ok(Some(_))) {
                    break;
                }
            }
        }

        #[test]
        fn a_greeting_is_found_behind_anything(
            before in proptest::collection::vec(any::<u8>(), 0..100),
            after in proptest::collection::vec(97u8..102, 0..20),
        ) {
            let bytes = [&before[..], greeting("00ff").as_bytes(), &after].concat();
            prop_assert_eq!(find_greeting(&bytes), Some(("00ff".to_owned(), &after[..])));
        }
    }

    #[test]
    fn a_length_that_nobody_can_hold_is_refused_at_once() {
        let mut decoder = Decoder::new(1000);
        decoder.feed(&[0xff, 0xff, 0xff, 0x7f, 7, 0, 0, 0, 0]);
        assert_eq!(decoder.next_message(), Err(WireError::TooLong(0x7fff_fffa)));
        let mut decoder = Decoder::new(1000);
        decoder.feed(&[4, 0, 0, 0, 7, 0, 0, 0, 0]);
        assert_eq!(decoder.next_message(), Err(WireError::Unknown(7)));
    }

    #[test]
    fn a_greeting_without_its_end_is_none_yet() {
        for part in ["", "\nvmdeck-serial 1 ", "\nvmdeck-serial 1 00", "\nvmdeck-serial 1 zz\n", "\nvmdeck-serial 1 \n"]
        {
            assert_eq!(find_greeting(part.as_bytes()), None, "{part:?}");
        }
    }
}
