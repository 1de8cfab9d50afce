//! Every value against the key tables: what is unknown, what is of the wrong kind, what cannot be.
//!
//! All mistakes are found in one go; nothing is built here.

use super::{
    Problem, Sources, case_defaults,
    case_values::{axis, discover, expect, ready, row, step},
    tree::{self, Node, Origin, RawValue, text},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};
use vmdeck_files::Exposure;
use vmdeck_model::{
    catalogue::{Catalogue, NamedImage},
    chord::Chord,
    discover::{Discovery, DiscoverySource},
    image::{BuildWay, Image, Recipe, RemoteImage},
    key::{Key, Kind, Value},
    pattern::Pattern,
    quantity::{parse_duration, parse_size},
    secret::Secret,
    suite::ScriptShell,
    workers::Workers,
};

/// The checked values by full path, and the names in the order in which they were written.
#[derive(Debug, Default)]
pub(super) struct Checked {
    pub(super) values: BTreeMap<String, (Value, Origin)>,
    pub(super) guests: Vec<(String, Origin)>,
    pub(super) catalogue: Vec<(String, Origin)>,
    pub(super) troubles: Vec<(String, Origin)>,
    /// Each suite with the places of its cases.
    pub(super) suites: Vec<(String, Origin, Vec<Origin>)>,
    /// What a person should know although nothing is wrong.
    pub(super) notes: Vec<String>,
    /// The programs and commands of the file that may not be started, each with its key and place.
    pub(super) left_out: Vec<String>,
    /// The variables of the environment that hold secrets.
    pub(super) secret_env: Vec<String>,
}

/// The table that holds keys for all guests.
const DEFAULTS: &str = "defaults";

pub(super) fn check(tree: &Node, sources: &Sources<'_>, problems: &mut Vec<Problem>) -> Checked {
    let mut walk = Walk { sources, problems, out: Checked::default() };
    for (name, node) in tree.entries() {
        walk.node(name, &[name], node);
    }
    let list = |key: &str| tree.get(key).map(Node::entries).unwrap_or_default();
    walk.out.guests = list("guests").iter().map(|(name, node)| (name.clone(), node.origin.clone())).collect();
    walk.out.troubles = list("trouble").iter().map(|(name, node)| (name.clone(), node.origin.clone())).collect();
    let catalogue =
        tree.get("images").and_then(|images| images.get("catalogue")).map(Node::entries).unwrap_or_default();
    walk.out.catalogue = catalogue.iter().map(|(name, node)| (name.clone(), node.origin.clone())).collect();
    for (name, node) in list("suites") {
        let cases = match node.get("cases").map(|n| &n.raw) {
            Some(RawValue::List(items)) => items.iter().map(|item| item.origin.clone()).collect(),
            _ => Vec::new(),
        };
        walk.out.suites.push((name.clone(), node.origin.clone(), cases));
    }
    walk.out
}

struct Walk<'a> {
    sources: &'a Sources<'a>,
    problems: &'a mut Vec<Problem>,
    out: Checked,
}

impl Walk<'_> {
    fn problem(&mut self, node: &Node, key: &str, text: impl Into<String>, hint: Option<String>) {
        self.problems.push(Problem { place: node.origin.to_string(), key: key.to_owned(), text: text.into(), hint });
    }

    fn node(&mut self, shown: &str, path: &[&str], node: &Node) {
        if let [DEFAULTS, case_defaults::TABLE, key] = path
            && !case_defaults::is_known(key)
        {
            let hint = Some("write it in each case".to_owned());
            return self.problem(
                node,
                shown,
                format!("`{key}` says what a case is, and how it is run: it is each case's own"),
                hint,
            );
        }
        let pattern = as_pattern(path);
        if let Some(key) = self.sources.keys.iter().find(|k| fits(k.path, &pattern)) {
            if let (Kind::Program | Kind::HostCommand, RawValue::Text(program)) = (key.kind, &node.raw)
                && self.must_not_start(node)
            {
                self.out.left_out.push(format!("`{shown}` = `{program}` ({})", node.origin));
                return;
            }
            match self.value(key, shown, node) {
                Ok(value) => {
                    self.out.values.insert(path.join("."), (value, node.origin.clone()));
                }
                Err(text) => self.problem(node, shown, text, None),
            }
            return;
        }
        let below: Vec<&str> = self.sources.keys.iter().filter_map(|k| next_part(k.path, &pattern)).collect();
        match &node.raw {
            _ if below.is_empty() => {
                let hint = unquoted(path, node).or_else(|| self.nearest(&pattern));
                self.problem(node, shown, "unknown key", hint);
            }
            RawValue::Table(entries) if below != ["[]"] => {
                for (name, child) in entries {
                    self.node(&format!("{shown}.{}", tree::shown(name)), &[path, &[name]].concat(), child);
                }
            }
            RawValue::List(items) if below.contains(&"[]") => {
                for (index, child) in items.iter().enumerate() {
                    let name = index.to_string();
                    self.element(&format!("{shown}[{index}]"), &[path, &[&name]].concat(), child);
                }
            }
            other => {
                let wanted = if below.contains(&"[]") { "a list of tables (`[[...]]`)" } else { "a table (`[...]`)" };
                self.problem(node, shown, format!("expected {wanted}, found {}", other.kind()), None);
            }
        }
    }

    fn element(&mut self, shown: &str, path: &[&str], node: &Node) {
        let RawValue::Table(entries) = &node.raw else {
            self.problem(node, shown, format!("expected a table, found {}", node.raw.kind()), None);
            return;
        };
        for (name, child) in entries {
            self.node(&format!("{shown}.{name}"), &[path, &[name]].concat(), child);
        }
    }

    /// Returns the known key at this level that is most like the unknown one.
    fn nearest(&self, pattern: &[String]) -> Option<String> {
        let (last, parents) = pattern.split_last()?;
        let known: std::collections::BTreeSet<&str> = if parents.is_empty() {
            self.sources.keys.iter().filter_map(|k| k.path.split('.').next()).chain([DEFAULTS]).collect()
        } else {
            self.sources
                .keys
                .iter()
                .filter_map(|k| next_part(k.path, parents))
                .filter(|p| *p != "*" && *p != "[]")
                .collect()
        };
        let best = known.iter().map(|k| (strsim::jaro_winkler(k, last), *k)).max_by(|a, b| a.0.total_cmp(&b.0))?;
        if best.0 > 0.75 {
            return Some(format!("did you mean `{}`?", best.1));
        }
        let list: Vec<&str> = known.into_iter().collect();
        Some(format!("known here: {}", list.join(", ")))
    }

    /// Returns whether a program or command of this place may not be started: the user's own words are trusted, a file that came
    /// with a project only after a yes.
    fn must_not_start(&self, node: &Node) -> bool {
        !self.sources.trusts_file && matches!(node.origin, Origin::File(..))
    }

    fn value(&mut self, key: &Key, shown: &str, node: &Node) -> Result<Value, String> {
        let value = convert(key.kind, node)?;
        if let Kind::Secret = key.kind {
            if let Origin::Env(name) = &node.origin {
                self.out.secret_env.push(name.clone());
            }
            if let Some(RawValue::Text(name)) = node.get("env").map(|named| &named.raw) {
                self.out.secret_env.push(name.clone());
            }
            if let RawValue::Text(_) = node.raw {
                let place = &node.origin;
                self.out.notes.push(format!(
                    "{place}: `{}` holds a secret in plain text; {{ env = \"NAME\" }} keeps it out of the file",
                    key.path
                ));
            }
            return self.secret(shown, node);
        }
        Ok(value)
    }

    fn secret(&mut self, shown: &str, node: &Node) -> Result<Value, String> {
        let RawValue::Table(_) = &node.raw else {
            let RawValue::Text(text) = &node.raw else {
                return Err("a secret is a string, or { env | file | command }".into());
            };
            return Ok(Value::Secret(Secret::new(text.clone())));
        };
        let unknown = || Ok(Value::Secret(Secret::new("")));
        let Some(run) = self.sources.secret_command else { return unknown() };
        let is_of_another = |wanted: &BTreeSet<String>| {
            let guest = shown.strip_prefix("guests.").map(|rest| !wanted.iter().any(|name| is_below(rest, name)));
            guest.unwrap_or(false)
        };
        if self.sources.secrets_of.is_some_and(is_of_another) {
            return unknown();
        }
        let text_of = |key: &str| node.get(key).map(|n| &n.raw);
        let trimmed = |text: String| Ok(Value::Secret(Secret::new(text.trim_end_matches(['\n', '\r']))));
        match (text_of("env"), text_of("file"), text_of("command")) {
            (Some(RawValue::Text(name)), None, None) => {
                let value = self.sources.env.get(name).ok_or_else(|| format!("the variable `{name}` is not set"))?;
                trimmed(value.clone())
            }
            (None, Some(RawValue::Text(path)), None) => {
                let path = self.sources.base.join(path);
                trimmed(read_secret(&path)?)
            }
            (None, None, Some(RawValue::List(words))) => {
                let words: Option<Vec<String>> =
                    words.iter().map(|w| if let RawValue::Text(t) = &w.raw { Some(t.clone()) } else { None }).collect();
                let words = words.filter(|w| !w.is_empty()).ok_or("`command` must be a list of words")?;
                if self.must_not_start(node) {
                    self.out.left_out.push(format!("`{shown}` by `{}` ({})", words.join(" "), node.origin));
                    return unknown();
                }
                trimmed(run(&words)?)
            }
            _ => Err("a secret table holds exactly one of `env`, `file`, `command`".into()),
        }
    }
}

/// Returns whether a shown key without its section is below this name.
fn is_below(rest: &str, name: &str) -> bool {
    rest.strip_prefix(tree::shown(name).as_str()).is_some_and(|below| below.starts_with('.'))
}

/// Returns what a secret's file holds; refuses one that others can read, or exchange.
fn read_secret(path: &Path) -> Result<String, String> {
    let shown = path.display();
    let cannot = |e: std::io::Error| format!("cannot read `{shown}`: {e}");
    match vmdeck_files::exposure(path).map_err(cannot)? {
        Some(Exposure::Open) => {
            Err(format!("others can read or change `{shown}`, which holds a secret; run `chmod 600 {shown}`"))
        }
        Some(Exposure::Foreign(user)) => {
            Err(format!("`{shown}` holds a secret and belongs to another user (uid {user}); use a file of your own"))
        }
        None => match vmdeck_files::read_text(path, vmdeck_files::SMALL).map_err(cannot)? {
            text if text.trim().is_empty() => Err(format!("`{shown}` is empty, and must hold a secret")),
            text => Ok(text),
        },
    }
}

/// Returns one value of a kind; texts come in where a flag or variable had no quotes.
pub(super) fn convert(kind: Kind, node: &Node) -> Result<Value, String> {
    let wrong = |wanted: &str| Err(format!("expected {wanted}, found {}", node.raw.kind()));
    match (kind, &node.raw) {
        (Kind::Bool, RawValue::Bool(flag)) => Ok(Value::Bool(*flag)),
        (Kind::Bool, _) => wrong("true or false"),
        (Kind::CountOrAuto, RawValue::Int(int)) if (1..=1024).contains(int) => {
            Ok(Value::CountOrAuto(Workers::Count(u32::try_from(*int).unwrap_or(1))))
        }
        (Kind::CountOrAuto, RawValue::Text(text)) if text == "auto" => Ok(Value::CountOrAuto(Workers::Auto)),
        (Kind::CountOrAuto, _) => wrong("a number from 1 to 1024, or \"auto\""),
        (Kind::Int(low, high), RawValue::Int(int)) if (low..=high).contains(int) => Ok(Value::Int(*int)),
        (Kind::Int(low, high), _) => {
            wrong(&format!("a whole number from {low} to {high}")).map_err(|e| match &node.raw {
                RawValue::Int(int) => format!("{int} is out of range: {low} to {high}"),
                _ => e,
            })
        }
        (Kind::Duration, RawValue::Text(text)) => parse_duration(text).map(Value::Duration),
        (Kind::Duration, RawValue::Int(int)) => parse_duration(&int.to_string()).map(Value::Duration),
        (Kind::Duration, _) => wrong("a duration like \"90s\""),
        (Kind::Size, RawValue::Text(text)) => parse_size(text).map(Value::Size),
        (Kind::Size, RawValue::Int(int)) => parse_size(&int.to_string()).map(Value::Size),
        (Kind::Size, _) => wrong("a size like \"2GiB\""),
        (Kind::Text, RawValue::Text(text)) if text.contains('\0') => Err("a NUL character is not allowed".into()),
        (Kind::Text, RawValue::Text(text)) => Ok(Value::Text(text.clone())),
        (Kind::Text, RawValue::Int(int)) => Ok(Value::Text(int.to_string())),
        // A version such as 22.04, without quotes.
        (Kind::Text, RawValue::Other(text)) => Ok(Value::Text(text.clone())),
        (Kind::Text, _) => wrong("a string"),
        (Kind::Program | Kind::HostCommand, _) => convert(Kind::Text, node),
        (Kind::Path, RawValue::Text(text)) if !text.is_empty() && !text.contains('\0') => {
            Ok(Value::Path(PathBuf::from(text)))
        }
        (Kind::Path, _) => wrong("a path"),
        (Kind::KeyOrPath, RawValue::Text(text))
            if text.split_whitespace().nth(1).is_some() || text.starts_with("sha256:") =>
        {
            Ok(Value::Text(text.clone()))
        }
        (Kind::KeyOrPath, _) => convert(Kind::Path, node),
        (Kind::Choice(words), RawValue::Text(text)) if words.contains(&text.as_str()) => Ok(Value::Text(text.clone())),
        (Kind::Choice(words), RawValue::Text(text)) => Err(format!("`{text}` is not one of {}", words.join(", "))),
        (Kind::Choice(words), _) => wrong(&format!("one of {}", words.join(", "))),
        (Kind::Pattern, RawValue::Text(text)) => Pattern::parse(text).map(Value::Pattern),
        (Kind::Pattern, _) => wrong("a glob or /regex/"),
        (Kind::Texts, RawValue::List(items)) => items.iter().map(text).collect::<Result<_, _>>().map(Value::Texts),
        (Kind::Texts, RawValue::Text(one)) => Ok(Value::Texts(vec![one.clone()])),
        (Kind::Texts, _) => wrong("a list of strings"),
        (Kind::Patterns, RawValue::List(items)) => items
            .iter()
            .map(|i| text(i).and_then(|t| Pattern::parse(&t)))
            .collect::<Result<_, _>>()
            .map(Value::Patterns),
        (Kind::Patterns, _) => wrong("a list of globs or /regex/es"),
        // The secret itself is fetched by the caller, which knows where from.
        (Kind::Secret, RawValue::Text(_) | RawValue::Table(_)) => Ok(Value::Secret(Secret::new(""))),
        (Kind::Secret, _) => wrong("a string, or { env | file | command }"),
        (Kind::Chords, RawValue::List(items)) => {
            items.iter().map(|item| Chord::parse(&text(item)?)).collect::<Result<_, _>>().map(Value::Chords)
        }
        (Kind::Chords, RawValue::Text(one)) => Ok(Value::Chords(vec![Chord::parse(one)?])),
        (Kind::Chords, _) => wrong("a list of keys like [\"x\", \"ctrl-r\"]"),
        (Kind::Map, RawValue::Table(entries)) => entries
            .iter()
            .map(|(k, v)| name(k).and_then(|k| Ok((k, text(v)?))))
            .collect::<Result<_, _>>()
            .map(Value::Map),
        (Kind::Map, _) => wrong("a table of strings"),
        (Kind::Discover, RawValue::Text(word)) if Discovery::TOOLS.contains(&word.as_str()) => {
            Ok(Value::Discover(DiscoverySource::Tool(word.clone())))
        }
        (Kind::Discover, RawValue::Text(word)) => {
            Err(format!("`{word}` is no tool whose tests can be listed (known: {})", Discovery::TOOLS.join(", ")))
        }
        (Kind::Discover, _) => discover(node.entries()).map(Value::Discover),
        (Kind::Ready, _) => ready(node).map(Value::Ready),
        (Kind::Steps, RawValue::List(items)) => items.iter().map(step).collect::<Result<_, _>>().map(Value::Steps),
        (Kind::Steps, _) => wrong("a list like [{ run = \"..\" }, { reboot = true }]"),
        (Kind::Axes, RawValue::Table(entries)) => entries.iter().map(axis).collect::<Result<_, _>>().map(Value::Axes),
        (Kind::Axes, _) => wrong("a table of lists like { go = [\"1.24\", \"1.25\"] }"),
        (Kind::Rows, RawValue::List(items)) => items.iter().map(row).collect::<Result<_, _>>().map(Value::Rows),
        (Kind::Rows, _) => wrong("a list of tables like [{ go = \"1.24\" }]"),
        (Kind::Expect, RawValue::Table(entries)) => expect(entries).map(Value::Expect),
        (Kind::Expect, _) => wrong("a table like { exit = 0 }"),
        (Kind::Image, RawValue::Text(word)) => image(word).map(Value::Image),
        (Kind::Image, RawValue::Table(entries)) => {
            recipe(entries).map(|recipe| Value::Image(Image::Built(Box::new(recipe))))
        }
        (Kind::Image, _) => wrong("a path, an address, a name, \"host\", or a table like { build = \"debian:12\" }"),
        (Kind::Shell, RawValue::Text(word)) => shell(word).map(Value::Shell),
        (Kind::Shell, RawValue::List(items)) => match items.iter().map(text).collect::<Result<Vec<_>, _>>()? {
            words if words.first().is_none_or(String::is_empty) => Err("the list must begin with a program".into()),
            words => Ok(Value::Shell(ScriptShell::Command(words))),
        },
        (Kind::Shell, _) => wrong("sh, bash, strict, plain, or a list of words"),
    }
}

fn shell(word: &str) -> Result<ScriptShell, String> {
    Ok(match word {
        "sh" => ScriptShell::Sh,
        "bash" => ScriptShell::Bash,
        "strict" => ScriptShell::Strict,
        "plain" => ScriptShell::Plain,
        "powershell" => ScriptShell::PowerShell,
        "cmd" => ScriptShell::Command(vec!["cmd".into()]),
        other => {
            return Err(format!(
                "`{other}` is not one of sh, bash, strict, plain, powershell, cmd; another program is given as a list: [\"{other}\", \"-c\"]"
            ));
        }
    })
}

fn image(word: &str) -> Result<Image, String> {
    match word {
        "host" => Ok(Image::Host),
        "" => Err("it is empty".into()),
        _ if word.contains('\0') => Err("a NUL character is not allowed".into()),
        _ if word.starts_with("https://") || word.starts_with("http://") => {
            Ok(Image::Remote(RemoteImage { url: word.to_owned(), digest: None }))
        }
        _ if word.contains("://") => Err(format!("`{word}` is no address of the kind https")),
        // Looked up where the whole catalogue is known.
        _ if Catalogue::is_name(word) => {
            Ok(Image::Named(Box::new(NamedImage { name: word.to_owned(), ..NamedImage::default() })))
        }
        _ => Ok(Image::File(PathBuf::from(word))),
    }
}

fn recipe(entries: &[(String, Node)]) -> Result<Recipe, String> {
    let (mut out, mut by) = (Recipe::default(), None);
    for (key, node) in entries {
        match (key.as_str(), &node.raw) {
            ("build", _) => out.system = text(node)?,
            ("packages", RawValue::List(items)) => out.packages = items.iter().map(text).collect::<Result<_, _>>()?,
            ("packages", _) => return Err("`packages` must be a list of strings".into()),
            ("script", _) => out.script = Some(PathBuf::from(text(node)?)),
            ("mirror", _) => out.mirror = Some(text(node)?),
            ("by", _) => by = Some(text(node)?),
            (other, _) => return Err(format!("unknown key `{other}` (known: build, packages, script, mirror, by)")),
        }
    }
    if out.system.is_empty() {
        return Err("`build` is missing: { build = \"debian:12\" }".into());
    }
    let of_packages = ["debian:", "ubuntu:"].iter().any(|name| out.system.starts_with(name));
    let boots = match by.as_deref() {
        Some("boot") => true,
        Some("packages") => false,
        Some(other) => return Err(format!("`by = \"{other}\"` is unknown (known: packages, boot)")),
        None => !of_packages,
    };
    if boots {
        out.way = BuildWay::Boot(match image(&out.system)? {
            Image::Host => return Err("`host` cannot be built on: it is no disk image".into()),
            base => base,
        });
        if out.mirror.is_some() {
            return Err("`mirror` is for a build from packages; a guest that is booted has its own sources".into());
        }
    }
    Ok(out)
}

fn name(key: &str) -> Result<String, String> {
    if key.is_empty() || key.contains(['\0', '\n']) {
        return Err(format!("{key:?} cannot be a name"));
    }
    Ok(key.to_owned())
}

/// Returns what to do about `[guests.ubuntu-24.04]`, where the dot divides a name in two.
fn unquoted(path: &[&str], node: &Node) -> Option<String> {
    match (path, &node.raw) {
        ([section @ ("guests" | "suites"), name, rest], RawValue::Table(_)) => {
            Some(format!("a name with a dot stands in quotes: [{section}.\"{name}.{rest}\"]"))
        }
        _ => None,
    }
}

/// `guests.deb.cpus` as a key table sees it; `defaults.cpus` stands for a guest's key, `defaults.case.timeout` for a case's.
fn as_pattern(path: &[&str]) -> Vec<String> {
    match path {
        [DEFAULTS, case_defaults::TABLE, rest @ ..] if rest.first().is_none_or(|key| case_defaults::is_known(key)) => {
            ["suites", "*", "cases", "0"].iter().chain(rest).map(|s| (*s).to_owned()).collect()
        }
        [DEFAULTS, rest @ ..] => ["guests", "*"].iter().chain(rest).map(|s| (*s).to_owned()).collect(),
        _ => path.iter().map(|s| (*s).to_owned()).collect(),
    }
}

fn part_fits(pattern: &str, part: &str) -> bool {
    match pattern {
        "*" => true,
        "[]" => part.parse::<usize>().is_ok(),
        word => word == part,
    }
}

fn fits(key: &str, path: &[String]) -> bool {
    key.split('.').count() == path.len() && key.split('.').zip(path).all(|(k, p)| part_fits(k, p))
}

/// Returns what may follow this path, if the key goes through it.
fn next_part(key: &'static str, path: &[String]) -> Option<&'static str> {
    let mut parts = key.split('.');
    for part in path {
        if !part_fits(parts.next()?, part) {
            return None;
        }
    }
    parts.next()
}
