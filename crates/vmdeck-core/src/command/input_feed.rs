//! What a command reads, piece by piece: its own text, and then a file of this host.
//!
//! Sending the pieces is a transport's or backend's work.

use super::Shell;
use base64::{Engine, prelude::BASE64_STANDARD};
use tokio::io::AsyncReadExt;

/// What a command reads, in the form in which its language takes it.
#[derive(Debug)]
pub struct InputFeed {
    /// What comes before it: the command's own text.
    head: Vec<u8>,
    file: Option<tokio::fs::File>,
    /// What comes after it: the word that all of it has come.
    tail: Vec<u8>,
    language: Shell,
}

impl InputFeed {
    /// Returns what gives a command of this language its own text, then this file, and then a last word.
    pub fn new(head: Vec<u8>, file: Option<tokio::fs::File>, tail: Vec<u8>, language: Shell) -> Self {
        Self { head, file, tail, language }
    }

    /// Returns whether there is more to read than the command's own text.
    pub fn has_file(&self) -> bool {
        self.file.is_some()
    }

    /// Returns the next piece, of at most so many bytes, and whether it is the last one.
    pub async fn next(&mut self, most: usize) -> std::io::Result<(Vec<u8>, bool)> {
        if !self.head.is_empty() {
            let rest = self.head.split_off(self.head.len().min(most));
            let piece = std::mem::replace(&mut self.head, rest);
            let is_last = self.head.is_empty() && self.file.is_none() && self.tail.is_empty();
            return Ok((piece, is_last));
        }
        let Some(file) = &mut self.file else {
            let rest = self.tail.split_off(self.tail.len().min(most));
            let piece = std::mem::replace(&mut self.tail, rest);
            return Ok((piece, self.tail.is_empty()));
        };
        // A line for PowerShell is base64, and of whole groups of three bytes.
        let room = if self.language == Shell::PowerShell { (most - 4) / 4 * 3 } else { most };
        let mut piece = Vec::with_capacity(room);
        while piece.len() < room {
            if (&mut *file).take((room - piece.len()) as u64).read_to_end(&mut piece).await? == 0 {
                break;
            }
        }
        let is_read = piece.len() < room;
        if self.language == Shell::PowerShell && !piece.is_empty() {
            piece = (BASE64_STANDARD.encode(&piece) + "\n").into_bytes();
        }
        if is_read {
            self.file = None;
        }
        Ok((piece, is_read && self.tail.is_empty()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::{Seek, Write};

    /// Returns all that a command reads, in pieces of at most so many bytes.
    async fn all(head: &[u8], content: Option<&[u8]>, tail: &[u8], language: Shell, most: usize) -> Vec<u8> {
        let file = content.map(|content| {
            let mut file = tempfile::tempfile().expect("tempfile");
            file.write_all(content).and_then(|()| file.rewind()).expect("written");
            tokio::fs::File::from(file)
        });
        let mut feed = InputFeed::new(head.to_vec(), file, tail.to_vec(), language);
        let mut out = Vec::new();
        loop {
            let (piece, is_last) = feed.next(most).await.expect("read");
            assert!(piece.len() <= most, "{} of {most}", piece.len());
            out.extend(piece);
            if is_last {
                return out;
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn everything_comes_in_the_form_of_its_language(
            head in prop::collection::vec(any::<u8>(), 0..50),
            content in prop::option::of(prop::collection::vec(any::<u8>(), 0..200)),
            tail in prop::collection::vec(any::<u8>(), 0..20),
            most in 8..64usize,
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().expect("runtime");
            let posix = runtime.block_on(all(&head, content.as_deref(), &tail, Shell::Posix, most));
            prop_assert_eq!(posix, [&head[..], content.as_deref().unwrap_or_default(), &tail].concat());
            let lines = runtime.block_on(all(&head, content.as_deref(), &tail, Shell::PowerShell, most));
            prop_assert!(lines.ends_with(&tail));
            let lines = String::from_utf8_lossy(&lines[head.len()..lines.len() - tail.len()]).into_owned();
            let decoded: Vec<u8> = lines.lines().flat_map(|line| BASE64_STANDARD.decode(line).expect("a line")).collect();
            prop_assert_eq!(decoded, content.unwrap_or_default());
        }
    }
}
