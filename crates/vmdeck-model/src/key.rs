//! The vocabulary of the config: what a key is called, what it may hold, its default and its meaning.
//!
//! One table of keys feeds the checks, the defaults, `config show`, the JSON schema and the example file. Backends and
//! transports bring their own rows. Reading a file is `config`'s work.

use super::{
    chord::Chord,
    discover::DiscoverySource,
    image::Image,
    pattern::Pattern,
    secret::Secret,
    suite::{CaseStep, Expect, Readiness, ScriptShell},
    workers::Workers,
};
use std::{collections::BTreeMap, path::PathBuf, time::Duration};

/// One row: a key that the config may hold.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// The dotted path; `*` is any name, `[]` an element of a list: `guests.*.boot.pattern`.
    pub path: &'static str,
    /// What the key holds.
    pub kind: Kind,
    /// The built-in default as written in TOML; `None` = unset.
    pub default: Option<&'static str>,
    /// The meaning in one line, for the schema and the example file.
    pub doc: &'static str,
}

/// What a key may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `true` or `false`.
    Bool,
    /// A whole number in a range.
    Int(i64, i64),
    /// A whole number from 1 on, or `"auto"`.
    CountOrAuto,
    /// A duration: `"90s"`.
    Duration,
    /// A size in bytes: `"2GiB"`.
    Size,
    /// Any string.
    Text,
    /// A path; a relative one starts from the config's folder.
    Path,
    /// A public key as text or a fingerprint (`sha256:...`), or the path of a file that holds it.
    KeyOrPath,
    /// A program of this host: a name that is looked up on the search path, or a path.
    Program,
    /// A command of this host, as a text for `sh`.
    HostCommand,
    /// One of these words.
    Choice(&'static [&'static str]),
    /// A glob or `/regex/`.
    Pattern,
    /// A list of strings.
    Texts,
    /// A list of globs or `/regex/`es.
    Patterns,
    /// A text, `{ env = ".." }`, `{ file = ".." }` or `{ command = [..] }`.
    Secret,
    /// A list of keys of the keyboard: `["x", "ctrl-r"]`.
    Chords,
    /// A table of strings.
    Map,
    /// `{ exit = 0, stdout = "/regex/", skip = 77 }`.
    Expect,
    /// The word of a tool, or `{ glob = "..", run = ".. {path}" }`, or `{ command = "..", run = ".. {name}" }`.
    Discover,
    /// A pattern, or `{ port = 8080 }`.
    Ready,
    /// A list of `{ run = ".." }` and `{ reboot = true }`.
    Steps,
    /// A table of lists of strings, in order: `{ go = ["1.24", "1.25"] }`.
    Axes,
    /// A list of tables of strings: `[{ go = "1.24", db = "my" }]`.
    Rows,
    /// `"host"`, a path, an address, or `{ build = "debian:12", packages = [], script = "..", mirror = ".." }`.
    Image,
    /// `"sh"`, `"bash"`, `"strict"`, `"plain"`, or a program with its arguments as a list.
    Shell,
}

/// A checked value.
#[derive(Clone, Debug, PartialEq)]
#[expect(missing_docs, reason = "each variant is the value of the Kind of the same name")]
pub enum Value {
    Bool(bool),
    Int(i64),
    CountOrAuto(Workers),
    Duration(Duration),
    Size(u64),
    Text(String),
    Path(PathBuf),
    Pattern(Pattern),
    Texts(Vec<String>),
    Patterns(Vec<Pattern>),
    Secret(Secret),
    Chords(Vec<Chord>),
    Map(BTreeMap<String, String>),
    Expect(Expect),
    Discover(DiscoverySource),
    Ready(Readiness),
    Steps(Vec<CaseStep>),
    Axes(Vec<(String, Vec<String>)>),
    Rows(Vec<Vec<(String, String)>>),
    Shell(ScriptShell),
    Image(Image),
}

/// Checked values by key: what a backend or transport is configured with.
///
/// The getters return `None` for an unset key; a key of another kind is unset too, which the check before has excluded.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Options(BTreeMap<String, Value>);

impl Options {
    /// Sets a key.
    pub fn set(&mut self, key: &str, value: Value) {
        self.0.insert(key.to_owned(), value);
    }

    /// Returns the same without one of the keys.
    #[must_use]
    pub fn without(&self, key: &str) -> Self {
        let mut out = self.clone();
        out.0.remove(key);
        out
    }

    /// Returns a key's value, whatever its kind.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.0.get(key)
    }

    /// Returns a text or choice.
    pub fn text(&self, key: &str) -> Option<&str> {
        if let Some(Value::Text(text)) = self.get(key) { Some(text) } else { None }
    }

    /// Returns a path.
    pub fn path(&self, key: &str) -> Option<&std::path::Path> {
        if let Some(Value::Path(path)) = self.get(key) { Some(path) } else { None }
    }

    /// Returns a switch; unset is `false`.
    pub fn flag(&self, key: &str) -> bool {
        matches!(self.get(key), Some(Value::Bool(true)))
    }

    /// Returns a whole number.
    pub fn int(&self, key: &str) -> Option<i64> {
        if let Some(Value::Int(int)) = self.get(key) { Some(*int) } else { None }
    }

    /// Returns a duration.
    pub fn duration(&self, key: &str) -> Option<Duration> {
        if let Some(Value::Duration(time)) = self.get(key) { Some(*time) } else { None }
    }

    /// Returns a table of strings; unset is empty.
    pub fn map(&self, key: &str) -> impl Iterator<Item = (&str, &str)> {
        let table = if let Some(Value::Map(table)) = self.get(key) { Some(table) } else { None };
        table.into_iter().flatten().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// Returns a list of texts; unset is empty.
    pub fn texts(&self, key: &str) -> &[String] {
        if let Some(Value::Texts(texts)) = self.get(key) { texts } else { &[] }
    }

    /// Returns keys of the keyboard; `None` = unset, empty = no key.
    pub fn chords(&self, key: &str) -> Option<&[Chord]> {
        if let Some(Value::Chords(chords)) = self.get(key) { Some(chords) } else { None }
    }

    /// Returns a secret.
    pub fn secret(&self, key: &str) -> Option<&Secret> {
        if let Some(Value::Secret(secret)) = self.get(key) { Some(secret) } else { None }
    }

    /// Returns every path among the values.
    pub fn paths(&self) -> impl Iterator<Item = &std::path::Path> {
        self.0.values().filter_map(|value| match value {
            Value::Path(path) => Some(path.as_path()),
            _ => None,
        })
    }

    /// Returns every secret among the values, for the redactor.
    pub fn secrets(&self) -> impl Iterator<Item = &Secret> {
        self.0.values().filter_map(|v| if let Value::Secret(secret) = v { Some(secret) } else { None })
    }
}
