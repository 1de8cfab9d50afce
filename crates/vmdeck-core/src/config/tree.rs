//! The config as a tree of values, each of which knows where it was written.
//!
//! What a value may be is decided in `check`.

use super::Problem;
use std::{path::Path, sync::Arc};
use toml::de::{DeTable, DeValue};

/// Where a value was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The value was not written: it is the root, or a table that was made on the way.
    Nowhere,
    /// The value is in a file, at this line.
    File(Arc<str>, usize),
    /// The value comes from this variable of the environment.
    Env(String),
    /// The value comes from `--set`.
    Set,
}

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Origin::Nowhere => f.write_str("default"),
            Origin::File(path, line) => write!(f, "{path}:{line}"),
            Origin::Env(name) => f.write_str(name),
            Origin::Set => f.write_str("--set"),
        }
    }
}

/// A value with its place.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// The value itself.
    pub raw: RawValue,
    /// The place where the value was written.
    pub origin: Origin,
}

/// A value as written.
#[derive(Clone, Debug, PartialEq)]
#[expect(missing_docs, reason = "TOML's own kinds")]
pub enum RawValue {
    Bool(bool),
    Int(i64),
    Text(String),
    List(Vec<Node>),
    Table(Vec<(String, Node)>),
    /// A float or a date: no key holds one.
    Other(String),
}

impl RawValue {
    /// Returns the word for the kind of value, for messages.
    pub fn kind(&self) -> &'static str {
        match self {
            RawValue::Bool(_) => "a boolean",
            RawValue::Int(_) => "a whole number",
            RawValue::Text(_) => "a string",
            RawValue::List(_) => "a list",
            RawValue::Table(_) => "a table",
            RawValue::Other(_) => "a number or date",
        }
    }
}

impl Node {
    /// Returns a table without entries.
    pub fn empty() -> Self {
        Self { raw: RawValue::Table(Vec::new()), origin: Origin::Nowhere }
    }

    /// Returns the entries, if it is a table.
    pub fn entries(&self) -> &[(String, Node)] {
        if let RawValue::Table(entries) = &self.raw { entries } else { &[] }
    }

    /// Returns an entry of a table.
    pub fn get(&self, key: &str) -> Option<&Node> {
        self.entries().iter().find(|(k, _)| k == key).map(|(_, node)| node)
    }

    /// Puts a value at a path, making tables on the way.
    pub fn put(&mut self, path: &[&str], node: Node) {
        let Some((head, rest)) = path.split_first() else {
            *self = node;
            return;
        };
        if let (RawValue::List(items), Ok(index)) = (&mut self.raw, head.parse::<usize>())
            && let Some(item) = items.get_mut(index)
        {
            return item.put(rest, node);
        }
        if !matches!(self.raw, RawValue::Table(_)) {
            *self = Node { raw: RawValue::Table(Vec::new()), origin: node.origin.clone() };
        }
        let RawValue::Table(entries) = &mut self.raw else { return };
        let at = entries.iter().position(|(k, _)| k == head).unwrap_or_else(|| {
            entries.push(((*head).to_owned(), Node { raw: RawValue::Table(Vec::new()), origin: node.origin.clone() }));
            entries.len() - 1
        });
        entries[at].1.put(rest, node);
    }
}

/// Parses a file's text.
pub fn parse(path: &Path, text: &str) -> Result<Node, Problem> {
    let name: Arc<str> = path.display().to_string().into();
    let line_of = |at: usize| memchr::memchr_iter(b'\n', &text.as_bytes()[..at.min(text.len())]).count() + 1;
    let table = DeTable::parse(text).map_err(|e| Problem {
        place: format!("{name}:{}", line_of(e.span().map_or(0, |s| s.start))),
        key: String::new(),
        text: e.message().to_owned(),
        hint: None,
    })?;
    let origin = |at: usize| Origin::File(Arc::clone(&name), line_of(at));
    Ok(Node { raw: convert_table(table.get_ref(), &origin), origin: Origin::Nowhere })
}

fn convert_table(table: &DeTable<'_>, origin: &dyn Fn(usize) -> Origin) -> RawValue {
    let entry = |(key, value): (&toml::Spanned<std::borrow::Cow<'_, str>>, &toml::Spanned<DeValue<'_>>)| {
        (key.get_ref().to_string(), Node { raw: convert(value.get_ref(), origin), origin: origin(key.span().start) })
    };
    RawValue::Table(table.iter().map(entry).collect())
}

fn convert(value: &DeValue<'_>, origin: &dyn Fn(usize) -> Origin) -> RawValue {
    match value {
        DeValue::String(text) => RawValue::Text(text.to_string()),
        DeValue::Integer(int) => match i64::from_str_radix(int.as_str(), int.radix()) {
            Ok(int) => RawValue::Int(int),
            Err(_) => RawValue::Other(int.to_string()),
        },
        DeValue::Boolean(flag) => RawValue::Bool(*flag),
        DeValue::Array(list) => {
            let node = |item: &toml::Spanned<DeValue<'_>>| Node {
                raw: convert(item.get_ref(), origin),
                origin: origin(item.span().start),
            };
            RawValue::List(list.iter().map(node).collect())
        }
        DeValue::Table(table) => convert_table(table, origin),
        DeValue::Float(float) => RawValue::Other(float.to_string()),
        DeValue::Datetime(date) => RawValue::Other(date.to_string()),
    }
}

/// Returns a value as a flag or variable gives it: TOML where it is TOML, else a plain text.
pub fn loose(text: &str, origin: &Origin) -> Node {
    let line = format!("x = {text}");
    let raw = match DeTable::parse(&line) {
        Ok(table) => match convert_table(table.get_ref(), &|_| origin.clone()) {
            RawValue::Table(mut entries) if entries.len() == 1 => entries.remove(0).1.raw,
            _ => RawValue::Text(text.to_owned()),
        },
        Err(_) => RawValue::Text(text.to_owned()),
    };
    Node { raw, origin: origin.clone() }
}

/// Returns a text that may have been written without quotes.
pub(super) fn text(node: &Node) -> Result<String, String> {
    match &node.raw {
        RawValue::Text(text) if !text.contains('\0') => Ok(text.clone()),
        RawValue::Int(int) => Ok(int.to_string()),
        RawValue::Bool(flag) => Ok(flag.to_string()),
        other => Err(format!("expected a list of strings, found {} in it", other.kind())),
    }
}

/// The most parts that a key may have; no key has as many.
const DEPTH_MAX: usize = 32;

/// Returns a name as a key shows it: in quotes where it would be read as several.
pub fn shown(name: &str) -> String {
    let bare = !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || "-_".contains(c));
    if bare { name.to_owned() } else { ::toml::Value::String(name.to_owned()).to_string() }
}

/// Returns the parts of a dotted key: as TOML reads it where it has quotes; else a name of the config that holds a dot is one
/// part.
fn parts(tree: &Node, key: &str) -> Option<Vec<String>> {
    if key.contains(['"', '\'']) {
        let line = format!("{key} = 0");
        let table = DeTable::parse(&line).ok()?;
        let mut node = Node { raw: convert_table(table.get_ref(), &|_| Origin::Nowhere), origin: Origin::Nowhere };
        let mut out = Vec::new();
        while let RawValue::Table(mut entries) = node.raw {
            let (name, below) = entries.pop()?;
            out.push(name);
            node = below;
        }
        return Some(out);
    }
    if let Some((section, rest)) = key.split_once('.')
        && let Some(entry) = tree.get(section).filter(|_| matches!(section, "guests" | "suites"))
    {
        let fits = |name: &&str| rest.strip_prefix(*name).is_some_and(|below| below.starts_with('.'));
        let names = entry.entries().iter().map(|(name, _)| name.as_str());
        if let Some(name) = names.filter(fits).max_by_key(|name| name.len()) {
            let below = rest[name.len() + 1..].split('.').map(str::to_owned);
            return Some([section.to_owned(), name.to_owned()].into_iter().chain(below).collect());
        }
    }
    Some(key.split('.').map(str::to_owned).collect())
}

/// Applies `KEY=VALUE`.
pub fn set(tree: &mut Node, word: &str) -> Result<(), Problem> {
    let Some((key, value)) = word.split_once('=') else {
        return Err(Problem {
            place: "--set".into(),
            key: word.to_owned(),
            text: "there is no `=`".into(),
            hint: Some("write it like `--set guests.deb.memory=4GiB`".into()),
        });
    };
    let Some(path) = parts(tree, key.trim()) else {
        return Err(Problem {
            place: "--set".into(),
            key: key.trim().to_owned(),
            text: "this is not a key".into(),
            hint: Some("write a name with a dot in quotes: --set 'guests.\"a.b\".memory=4GiB'".into()),
        });
    };
    let path: Vec<&str> = path.iter().map(String::as_str).collect();
    if path.len() > DEPTH_MAX {
        return Err(Problem {
            place: "--set".into(),
            key: path[..2].join("."),
            text: format!("a key has at most {DEPTH_MAX} parts"),
            hint: None,
        });
    }
    tree.put(&path, loose(value.trim(), &Origin::Set));
    Ok(())
}
