//! A Vagrantfile, as far as it is simple: literals and blocks, line by line. It is Ruby; what is more than that is named with its line.
//!
//! Facts, of Vagrant's documentation: settings outside of `define` hold for all machines; provisioners outside run before those within,
//! wherever they stand; a shell provisioner runs by sudo unless `privileged` is false, and without `set -e`.

use super::{
    draft::{ConfigDraft, SuiteDraft, apart},
    yaml,
};
use crate::app::init::guest::CODE;
use regex::Regex;
use std::path::Path;
use vmdeck_core::command::sh_quote;
use vmdeck_model::error::{Fault, Result};

/// What is known of a machine.
#[derive(Clone, Default)]
struct MachineDraft {
    name: String,
    system: String,
    memory: Option<u64>,
    cpus: Option<i64>,
    scripts: Vec<String>,
}

/// A provisioner in a block of its own.
#[derive(Default)]
struct ScriptDraft {
    inline: Option<String>,
    path: Option<String>,
    args: String,
    as_user: bool,
}

/// What a block of Ruby is about.
#[derive(Clone, Copy, PartialEq)]
enum Block {
    Config,
    Machine,
    Provider,
    Script,
    /// One that is not read.
    Unknown,
}

/// Takes the machines over.
pub(super) fn convert(path: &Path, draft: &mut ConfigDraft<'_>) -> Result<()> {
    let text = yaml::text(path)?;
    if !text.contains("Vagrant.configure") {
        return Err(Fault::user(format!("cannot take `{}` over", path.display())).because("it configures no machine"));
    }
    let mut reader = Reader::new(draft)?;
    let lines: Vec<&str> = text.lines().collect();
    let mut at = 0;
    while at < lines.len() {
        at = reader.line(&lines, at);
    }
    let Reader { outer, machines, .. } = reader;
    let machines = if machines.is_empty() {
        vec![MachineDraft { name: "default".into(), ..MachineDraft::default() }]
    } else {
        machines
    };
    for machine in machines {
        let system = if machine.system.is_empty() { &outer.system } else { &machine.system };
        let guest = draft.guest(&machine.name, system, CODE);
        if let Some(memory) = machine.memory.or(outer.memory) {
            draft.set(&guest, "memory", format!("{memory}MiB"));
        }
        if let Some(cpus) = machine.cpus.or(outer.cpus) {
            draft.set(&guest, "cpus", cpus);
        }
        let setup: Vec<String> = outer.scripts.iter().chain(&machine.scripts).cloned().collect();
        let hello = super::draft::CaseDraft { name: "hello".into(), run: "uname -a".into(), ..Default::default() };
        draft.suite(SuiteDraft {
            name: machine.name.clone(),
            guests: vec![guest],
            setup,
            cases: vec![hello],
            ..SuiteDraft::default()
        });
    }
    draft.note("a Vagrantfile has no tests: the case `hello` of each machine only shows that it is set up; write your own beside it");
    draft.note(format!("the project is at `{CODE}` in each guest, not at `/vagrant`"));
    Ok(())
}

struct Reader<'a, 'b> {
    draft: &'a mut ConfigDraft<'b>,
    blocks: Vec<Block>,
    outer: MachineDraft,
    machines: Vec<MachineDraft>,
    script: ScriptDraft,
    assign: Regex,
    define: Regex,
    shell: Regex,
    text: Regex,
    option: Regex,
    block: Regex,
}

impl<'a, 'b> Reader<'a, 'b> {
    fn new(draft: &'a mut ConfigDraft<'b>) -> Result<Self> {
        let regex = |text: &str| Regex::new(text).map_err(|e| Fault::bug("cannot read a Vagrantfile").because(e));
        Ok(Self {
            draft,
            blocks: Vec::new(),
            outer: MachineDraft::default(),
            machines: Vec::new(),
            script: ScriptDraft::default(),
            assign: regex(r#"^\w+\.(?:vm\.)?(\w+)\s*=\s*(?:["'](.*)["']|(\d+|true|false))\s*(?:#.*)?$"#)?,
            define: regex(r#"\.vm\.define\s*\(?\s*[:"']([\w.-]+)["']?"#)?,
            shell: regex(r#"\.vm\.provision\b.*(?::shell\b|["']shell["'])"#)?,
            text: regex(r#"^(?:"((?:[^"\\]|\\.)*)"|'([^']*)')$"#)?,
            option: regex(r#"\b(\w+)(?::|\s*=>)\s*("(?:[^"\\]|\\.)*"|'[^']*'|\[[^\]]*\]|\w+)"#)?,
            block: regex(r"\bdo\s*\|[^|]*\|$")?,
        })
    }

    fn machine(&mut self) -> &mut MachineDraft {
        if self.blocks.contains(&Block::Machine)
            && let Some(machine) = self.machines.last_mut()
        {
            return machine;
        }
        &mut self.outer
    }

    fn skipped(&mut self, at: usize, line: &str) {
        self.draft.note(format!("line {}: `{}`", at + 1, line.trim()));
    }

    /// Reads the line at a place; returns the place of the next one.
    fn line(&mut self, lines: &[&str], at: usize) -> usize {
        let line = lines[at].trim();
        if line.is_empty() || line.starts_with('#') {
            return at + 1;
        }
        if lines[at].starts_with("=begin") {
            let end = (at..lines.len()).find(|n| lines[*n].starts_with("=end"));
            return end.map_or(lines.len(), |end| end + 1);
        }
        if line == "end" {
            if self.blocks.pop() == Some(Block::Script) {
                self.finish_script(at, line);
            }
            return at + 1;
        }
        let opens = line.ends_with(" do") || self.block.is_match(line);
        let begins = ["if ", "unless ", "case ", "while ", "def "].iter().any(|word| line.starts_with(word));
        if self.blocks.contains(&Block::Unknown) {
            // Only where it ends is of interest.
            if opens || begins {
                self.blocks.push(Block::Unknown);
            }
            return Self::after_text(lines, at);
        }
        if opens && line.contains("Vagrant.configure") {
            self.blocks.push(Block::Config);
        } else if let Some(name) = self.define.captures(line).map(|found| found[1].to_owned()) {
            if line.contains("#{") {
                self.skipped(at, line);
                self.blocks.push(Block::Unknown);
                return at + 1;
            }
            if line.contains("autostart: false") {
                self.draft.note(format!("the machine `{name}` is not started by itself"));
            }
            self.machines.push(MachineDraft { name, ..MachineDraft::default() });
            if opens {
                self.blocks.push(Block::Machine);
            }
        } else if self.shell.is_match(line) {
            return self.provision(lines, at, opens);
        } else if opens && line.contains(".vm.provider") {
            self.blocks.push(Block::Provider);
        } else if opens || begins {
            self.skipped(at, line);
            self.blocks.push(Block::Unknown);
        } else {
            self.setting(at, line);
            return Self::after_text(lines, at);
        }
        at + 1
    }

    /// Returns the place after a line and the text that it may begin.
    fn after_text(lines: &[&str], at: usize) -> usize {
        Self::heredoc(lines, at).map_or(at + 1, |(_, next)| next)
    }

    /// Reads a text that begins in a line and goes on to its mark; returns it with the place after it. `None` instead of the text
    /// where Ruby would compute some of it.
    fn heredoc(lines: &[&str], at: usize) -> Option<(Option<String>, usize)> {
        let (_, tail) = lines[at].split_once("<<")?;
        let tail = tail.trim_start_matches(['-', '~']);
        let is_raw = tail.starts_with('\'');
        let mark: String = tail
            .trim_start_matches(['\'', '"'])
            .chars()
            .take_while(|c| c.is_ascii_alphanumeric() || *c == '_')
            .collect();
        if mark.is_empty() {
            return None;
        }
        let end = (at + 1..lines.len()).find(|n| lines[*n].trim() == mark)?;
        let body = &lines[at + 1..end];
        let indent =
            body.iter().filter(|l| !l.trim().is_empty()).map(|l| l.len() - l.trim_start().len()).min().unwrap_or(0);
        let text: Vec<&str> = body.iter().map(|line| line.get(indent..).unwrap_or_default()).collect();
        let text = text.join("\n");
        Some((if is_raw { Some(text) } else { unescaped(&text) }, (end + 1).min(lines.len())))
    }

    fn setting(&mut self, at: usize, line: &str) {
        let Some(found) = self.assign.captures(line) else {
            let is_customized = line.contains("customize");
            let number = |flag: &str| {
                let (_, tail) = line.split_once(flag)?;
                tail.trim_start_matches(['"', '\'', ',', ' '])
                    .split(|c: char| !c.is_ascii_digit())
                    .next()?
                    .parse::<u64>()
                    .ok()
            };
            match (is_customized, number("--memory"), number("--cpus")) {
                (true, Some(memory), _) => self.machine().memory = Some(memory),
                (true, _, Some(cpus)) => self.machine().cpus = i64::try_from(cpus).ok(),
                _ => self.skipped(at, line),
            }
            return;
        };
        let key = found[1].to_owned();
        let value = found.get(2).or(found.get(3)).map(|value| value.as_str().to_owned()).unwrap_or_default();
        let in_script = self.blocks.last() == Some(&Block::Script);
        let is_plain = !value.contains("#{");
        match key.as_str() {
            _ if !is_plain => self.skipped(at, line),
            "inline" if in_script => self.script.inline = unescaped(&value),
            "path" if in_script => self.script.path = Some(value),
            "args" if in_script => self.script.args = value,
            "privileged" if in_script => self.script.as_user = value == "false",
            "box" => self.machine().system = value,
            // Several providers may disagree: the most that one of them wants.
            "memory" => {
                let memory = value.parse().ok();
                let machine = self.machine();
                machine.memory = machine.memory.max(memory);
            }
            "cpus" => {
                let cpus = value.parse().ok();
                let machine = self.machine();
                machine.cpus = machine.cpus.max(cpus);
            }
            _ => self.skipped(at, line),
        }
    }

    /// Reads a shell provisioner, on one line, over several, or as a block.
    fn provision(&mut self, lines: &[&str], at: usize, opens: bool) -> usize {
        if opens {
            self.script = ScriptDraft::default();
            self.blocks.push(Block::Script);
            return at + 1;
        }
        let mut next = at + 1;
        let mut whole = lines[at].trim().to_owned();
        while whole.ends_with(',') && next < lines.len() {
            whole.push_str(lines[next].trim());
            next += 1;
        }
        let mut script = ScriptDraft::default();
        if let Some((text, after)) = Self::heredoc(lines, at) {
            script.inline = text;
            next = after;
        }
        let options: Vec<(String, String)> =
            self.option.captures_iter(&whole).map(|found| (found[1].to_owned(), found[2].to_owned())).collect();
        for (key, value) in options {
            let text = self.text.captures(&value).and_then(|found| match found.get(1) {
                Some(text) => unescaped(text.as_str()),
                None => Some(found[2].to_owned()),
            });
            match (key.as_str(), text) {
                ("inline", Some(text)) => script.inline = Some(text),
                ("path", Some(text)) => script.path = Some(text),
                ("args", Some(text)) => script.args = text,
                ("args", None) => {
                    let words =
                        value.trim_matches(['[', ']']).split(',').map(|word| word.trim().trim_matches(['"', '\'']));
                    script.args = words.map(sh_quote).collect::<Vec<_>>().join(" ");
                }
                ("privileged", None) => script.as_user = value == "false",
                ("type" | "inline", _) => {}
                _ => self.draft.note(format!("line {}: `{key}` of a provisioner", at + 1)),
            }
        }
        for word in ["env:", ":env =>", "name:"].iter().filter(|word| whole.contains(**word)) {
            self.draft.note(format!("line {}: `{}` of a provisioner", at + 1, word.trim_matches([':', ' ', '=', '>'])));
        }
        let is_never = whole.contains("\"never\"") || whole.contains(":never");
        // A text that is put together, or ends nowhere, is not known.
        let is_odd =
            whole.contains("\" +") || whole.contains("' +") || (whole.contains("<<") && script.inline.is_none());
        if is_never || is_odd {
            self.skipped(at, lines[at]);
            return next;
        }
        self.script = script;
        self.finish_script(at, lines[at]);
        next
    }

    /// Takes a provisioner into the set-up.
    fn finish_script(&mut self, at: usize, line: &str) {
        let script = std::mem::take(&mut self.script);
        let text = script.inline.or_else(|| {
            script.path.map(|path| format!("sh ./{} {}", sh_quote(path.trim_start_matches("./")), script.args))
        });
        match text {
            // A script that would be fetched is not here.
            Some(text) if !text.starts_with("sh ./http") => {
                let lines = text.trim_end();
                let run = if script.as_user { apart(lines) } else { format!("sudo -n sh -ec {}", sh_quote(lines)) };
                self.machine().scripts.push(run);
            }
            _ => self.skipped(at, line),
        }
    }
}

/// Returns a text of double quotes as Ruby reads it; `None` where Ruby would compute some of it.
fn unescaped(text: &str) -> Option<String> {
    let mut out = String::new();
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match (c, chars.peek()) {
            ('#', Some('{')) => return None,
            ('\\', Some('n')) => {
                out.push('\n');
                chars.next();
            }
            ('\\', Some(next)) => {
                out.push(*next);
                chars.next();
            }
            _ => out.push(c),
        }
    }
    Some(out)
}
