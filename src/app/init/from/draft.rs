//! A config that is put together from another tool's: guests, suites, and what a person has to look at.

use super::systems;
use std::{collections::BTreeSet, ffi::OsString};
use toml::{Table, Value};
use vmdeck_model::catalogue::Catalogue;

/// A config that grows.
pub(super) struct ConfigDraft<'a> {
    catalogue: &'a Catalogue,
    /// The folder of the other tool's project, from here.
    folder: String,
    /// The flags of the other tool's program with which its config is read.
    flags: Vec<OsString>,
    guests: Table,
    suites: Vec<SuiteDraft>,
    /// What was not taken over, each once.
    notes: Vec<String>,
}

/// A suite that grows.
#[derive(Clone, Debug, Default)]
pub(super) struct SuiteDraft {
    /// The name, as the other tool has it.
    pub name: String,
    /// The guests that it runs on; empty = all.
    pub guests: Vec<String>,
    pub setup: Vec<String>,
    pub teardown: Vec<String>,
    pub env: Vec<(String, String)>,
    pub artifacts: Vec<String>,
    pub timeout: Option<String>,
    pub run_as_root: bool,
    /// The program that runs its scripts; empty = the guest's.
    pub shell: &'static [&'static str],
    pub cases: Vec<CaseDraft>,
}

/// A case that grows.
#[derive(Clone, Debug, Default)]
pub(super) struct CaseDraft {
    pub name: String,
    pub run: String,
    /// The commands, one after the other, in place of `run`.
    pub steps: Vec<String>,
    /// The tool whose tests it is, in place of `run`.
    pub discover: Option<&'static str>,
    pub before: Option<String>,
    pub after: Option<String>,
    pub on_failure: Option<String>,
    pub tags: Vec<String>,
    /// Whether it is run only where it is asked for.
    pub is_explicit: bool,
    /// Whether it may restart the guest.
    pub restarts: bool,
    pub matrix: Vec<(String, Vec<String>)>,
    pub exclude: Vec<Vec<(String, String)>>,
    pub include: Vec<Vec<(String, String)>>,
    pub artifacts: Vec<String>,
    /// The exit code that makes it pass, where it is not 0.
    pub exit: Option<i64>,
    pub timeout: Option<String>,
    /// Why it is not run.
    pub skip: Option<String>,
}

impl<'a> ConfigDraft<'a> {
    pub(super) fn new(catalogue: &'a Catalogue, folder: &str, flags: &[OsString]) -> Self {
        Self {
            catalogue,
            folder: folder.to_owned(),
            flags: flags.to_vec(),
            guests: Table::new(),
            suites: Vec::new(),
            notes: Vec::new(),
        }
    }

    /// Returns the folder of the other tool's project, from here.
    pub(super) fn folder(&self) -> &str {
        &self.folder
    }

    /// Returns the flags of the other tool's program with which its config is read.
    pub(super) fn flags(&self) -> &[OsString] {
        &self.flags
    }

    /// Notes what was not taken over.
    pub(super) fn note(&mut self, text: impl Into<String>) {
        let text = text.into();
        if !self.notes.contains(&text) {
            self.notes.push(text);
        }
    }

    /// Notes every key of a table that is not among the known ones.
    pub(super) fn leftovers(&mut self, value: &serde_json::Value, known: &[&str], of: &str) {
        for (key, _) in
            super::yaml::entries(value).filter(|(key, value)| !known.contains(&key.as_str()) && !value.is_null())
        {
            self.note(format!("`{key}` of {of}"));
        }
    }

    /// Adds a QEMU guest; `system` = what the other tool calls its image. Returns its name here.
    pub(super) fn guest(&mut self, name: &str, system: &str, code: &str) -> String {
        let name = unused(&plain(name), |name| self.guests.contains_key(name));
        let mut table = Table::new();
        table.insert("backend".into(), "qemu".into());
        let image =
            if systems::is_image(system) { Some(system.to_owned()) } else { systems::image(system, self.catalogue) };
        match image {
            Some(image) if image.starts_with("https://") => {
                self.note(format!(
                    "guest `{name}`: its image has no digest; set `image_sha256` instead of `image_unverified`"
                ));
                table.insert("image".into(), image.into());
                table.insert("image_unverified".into(), true.into());
            }
            Some(image) => {
                table.insert("image".into(), image.into());
            }
            None => {
                let file = format!("{}.qcow2", plain(system));
                let why = match system {
                    "" => "nothing names its image".to_owned(),
                    _ => format!("no image is known by the name `{system}`"),
                };
                self.note(format!(
                    "guest `{name}`: {why}; put one at `{file}`, or set `guests.{name}.image` \
                     (`vmdeck image list --names`)"
                ));
                table.insert("image".into(), file.into());
            }
        }
        if !code.is_empty() {
            let mut source = Table::new();
            source.insert("path".into(), self.folder.clone().into());
            source.insert("to".into(), code.into());
            table.insert("source".into(), Value::Table(source));
        }
        self.guests.insert(name.clone(), Value::Table(table));
        name
    }

    /// Returns the name of the guest of this name, which is added where there is none.
    pub(super) fn guest_once(&mut self, name: &str, code: &str) -> String {
        let known = plain(name);
        if self.guests.contains_key(&known) { known } else { self.guest(name, name, code) }
    }

    /// Adds a guest with all its keys. Returns its name here.
    pub(super) fn take_guest(&mut self, name: &str, table: Table) -> String {
        let name = unused(&plain(name), |name| self.guests.contains_key(name));
        self.guests.insert(name.clone(), Value::Table(table));
        name
    }

    /// Sets a key of a guest, such as `memory` or `ssh.user`.
    pub(super) fn set(&mut self, guest: &str, key: &str, value: impl Into<Value>) {
        let Some(Value::Table(table)) = self.guests.get_mut(guest) else { return };
        let mut table = table;
        let (parents, last) = key.rsplit_once('.').map_or((None, key), |(parents, last)| (Some(parents), last));
        for parent in parents.into_iter().flat_map(|parents| parents.split('.')) {
            let slot = table.entry(parent).or_insert_with(|| Value::Table(Table::new()));
            let Value::Table(below) = slot else { return };
            table = below;
        }
        table.insert(last.to_owned(), value.into());
    }

    /// Adds a suite; one without cases is left out.
    pub(super) fn suite(&mut self, suite: SuiteDraft) {
        if !suite.cases.is_empty() {
            self.suites.push(suite);
        }
    }

    /// Returns whether there is no guest.
    pub(super) fn is_empty(&self) -> bool {
        self.guests.is_empty()
    }

    /// Returns the config's text, and the notes. A config without a case gets one that shows that its guests work.
    pub(super) fn finish(mut self, from: &str) -> Result<(String, Vec<String>), toml::ser::Error> {
        if self.suites.is_empty() {
            let hello = CaseDraft { name: "hello".into(), run: "uname -a".into(), ..CaseDraft::default() };
            self.suite(SuiteDraft { name: "smoke".into(), cases: vec![hello], ..SuiteDraft::default() });
            self.note("no test was found; `smoke/hello` only shows that the guests work");
        }
        let mut suites = Table::new();
        for suite in self.suites {
            let name = unused(&plain(&suite.name), |name| suites.contains_key(name));
            suites.insert(name, Value::Table(suite_table(suite, self.guests.len())));
        }
        let mut host = Table::new();
        host.insert("min_free_disk".into(), "2GiB".into());
        let mut all = Table::new();
        for (key, table) in [("host", host), ("guests", self.guests), ("suites", suites)] {
            all.insert(key.into(), Value::Table(table));
        }
        let mut out =
            format!("# vmdeck.toml - made from {from}; `vmdeck config example` prints every key with its default\n");
        if !self.notes.is_empty() {
            out.push_str("#\n# Not taken over, or to be looked at:\n");
            for note in &self.notes {
                out.push_str(&format!("# - {}\n", vmdeck_model::text::one_line(note)));
            }
        }
        out.push('\n');
        out.push_str(&toml::to_string_pretty(&all)?);
        Ok((out, self.notes))
    }
}

/// Returns the table of a suite; one that runs on all of the `guests` does not name them.
fn suite_table(suite: SuiteDraft, guests: usize) -> Table {
    let mut table = Table::new();
    let texts = |list: Vec<String>| Value::Array(list.into_iter().map(Value::String).collect());
    if !suite.guests.is_empty() && suite.guests.len() < guests {
        table.insert("guests".into(), texts(suite.guests));
    }
    if suite.run_as_root {
        table.insert("run_as".into(), "root".into());
    }
    match suite.shell {
        [] => {}
        [word] => drop(table.insert("shell".into(), (*word).into())),
        words => drop(table.insert("shell".into(), texts(words.iter().map(|word| (*word).to_owned()).collect()))),
    }
    for (key, parts) in [("setup", suite.setup), ("teardown", suite.teardown)] {
        let text = parts.join("\n");
        if !text.trim().is_empty() {
            table.insert(key.into(), text.into());
        }
    }
    if let Some(timeout) = suite.timeout {
        table.insert("timeout".into(), timeout.into());
    }
    if !suite.artifacts.is_empty() {
        table.insert("artifacts".into(), texts(suite.artifacts));
    }
    if !suite.env.is_empty() {
        let mut env = Table::new();
        for (key, value) in suite.env {
            env.insert(key, value.into());
        }
        table.insert("env".into(), Value::Table(env));
    }
    let mut names = BTreeSet::new();
    let mut cases = Vec::new();
    for case in suite.cases {
        let name = unused(&plain(&case.name), |name| names.contains(name));
        names.insert(name.clone());
        let mut row = Table::new();
        row.insert("name".into(), name.into());
        if let Some(tool) = case.discover {
            row.insert("discover".into(), tool.into());
        } else if case.steps.is_empty() {
            row.insert("run".into(), case.run.into());
        } else {
            let step = |run: String| Value::Table(Table::from_iter([("run".to_owned(), Value::String(run))]));
            row.insert("steps".into(), Value::Array(case.steps.into_iter().map(step).collect()));
        }
        let reboot = case.restarts.then(|| "allowed".to_owned());
        for (key, value) in [
            ("before_each", case.before),
            ("after_each", case.after),
            ("on_failure", case.on_failure),
            ("reboot", reboot),
            ("timeout", case.timeout),
            ("skip", case.skip),
        ] {
            if let Some(value) = value {
                row.insert(key.into(), value.into());
            }
        }
        for (key, list) in [("tags", case.tags), ("artifacts", case.artifacts)] {
            if !list.is_empty() {
                row.insert(key.into(), texts(list));
            }
        }
        if let Some(exit) = case.exit {
            row.insert("expect".into(), Value::Table(Table::from_iter([("exit".to_owned(), Value::Integer(exit))])));
        }
        if case.is_explicit {
            row.insert("explicit".into(), true.into());
        }
        if !case.matrix.is_empty() {
            let axes = case.matrix.into_iter().map(|(axis, values)| (axis, texts(values)));
            row.insert("matrix".into(), Value::Table(axes.collect()));
        }
        let pairs = |pairs: Vec<(String, String)>| {
            Value::Table(pairs.into_iter().map(|(name, value)| (name, Value::String(value))).collect())
        };
        for (key, rows) in [("exclude", case.exclude), ("include", case.include)] {
            if !rows.is_empty() {
                row.insert(key.into(), Value::Array(rows.into_iter().map(pairs).collect()));
            }
        }
        cases.push(Value::Table(row));
    }
    table.insert("cases".into(), Value::Array(cases));
    table
}

/// Returns a name of vmdeck's form.
pub(super) fn plain(name: &str) -> String {
    let text: String =
        name.chars().map(|c| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '-' }).collect();
    let text = text.trim_matches(['-', '.', '_']);
    // As long as an id may be.
    let text: String = text.chars().take(48).collect();
    if text.is_empty() { "main".to_owned() } else { text }
}

/// Returns the name, with a number where it is taken.
fn unused(name: &str, is_taken: impl Fn(&str) -> bool) -> String {
    let numbered = (2..).map(|n| format!("{name}-{n}"));
    std::iter::once(name.to_owned()).chain(numbered).find(|name| !is_taken(name)).unwrap_or_default()
}

/// Returns a script that runs by itself: what it sets, and where it goes, stays in it.
pub(super) fn apart(script: &str) -> String {
    format!("(\n{}\n)", script.trim_end())
}
