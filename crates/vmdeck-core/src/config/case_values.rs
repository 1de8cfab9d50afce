//! The values of a case's keys that are tables: steps, what is found, a matrix, what is expected.

use super::tree::{Node, RawValue, text};
use vmdeck_model::{
    discover::{Discovery, DiscoverySource},
    pattern::Pattern,
    suite::{CaseStep, Expect, Readiness, does_nothing},
};

/// Returns where the cases come from that a case stands for.
pub(super) fn discover(entries: &[(String, Node)]) -> Result<DiscoverySource, String> {
    let known = "write the word of a tool, { glob = \"..\", run = \".. {path}\" }, or { command = \"..\", run = \".. {name}\" }";
    let get = |key: &str| entries.iter().find(|(own, _)| own == key).map(|(_, node)| text(node)).transpose();
    let (glob, command, run) = (get("glob")?, get("command")?, get("run")?);
    let holds = |run: &str, place: &str| match stands(run, place) {
        Stands::Nowhere => Err(format!("`run` has to hold {place}, which stands for what was found")),
        Stands::Quoted => {
            Err(format!("{place} stands for a word that is quoted already: leave out the quotes around it"))
        }
        Stands::Free => Ok(()),
    };
    match (glob, command, run, entries.len()) {
        (Some(glob), None, Some(run), 2) if !glob.is_empty() => {
            holds(&run, Discovery::PATH)?;
            Ok(DiscoverySource::Files { glob, run })
        }
        (None, Some(command), Some(run), 2) if !does_nothing(&command) => {
            holds(&run, Discovery::NAME)?;
            Ok(DiscoverySource::Command { command, run })
        }
        _ => Err(known.to_owned()),
    }
}

/// How a place stands in a script.
enum Stands {
    /// It is not there, or only in a comment.
    Nowhere,
    /// It is within quotes of a shell, or beside them: there the quotes of what it stands for would end them.
    Quoted,
    Free,
}

/// Returns how a place stands in a script.
fn stands(script: &str, place: &str) -> Stands {
    let mut found = Stands::Nowhere;
    let (mut quote, mut rest, mut begins_word) = (None, script, true);
    while let Some(c) = rest.chars().next() {
        if c == '#' && begins_word && quote.is_none() {
            // A comment has no quotes.
            rest = rest.find('\n').map_or("", |end| &rest[end..]);
            continue;
        }
        begins_word = c.is_whitespace() || ";&|()".contains(c);
        if rest.starts_with(place) {
            let after = rest[place.len()..].chars().next();
            if quote.is_some() || after.is_some_and(|c| "'\"`".contains(c)) {
                return Stands::Quoted;
            }
            found = Stands::Free;
            rest = &rest[place.len()..];
            continue;
        }
        let is_escape = c == '\\' && quote != Some('\'');
        match quote {
            _ if is_escape => {}
            None if "'\"`".contains(c) => quote = Some(c),
            Some(open) if open == c => {
                quote = None;
                if rest[1..].starts_with(place) {
                    return Stands::Quoted;
                }
            }
            _ => {}
        }
        let skipped = c.len_utf8() + if is_escape { rest.chars().nth(1).map_or(0, char::len_utf8) } else { 0 };
        rest = &rest[skipped..];
    }
    found
}

/// Returns what shows that a case that goes on is ready.
pub(super) fn ready(node: &Node) -> Result<Readiness, String> {
    let known = "write a glob or /regex/ for a line of its output, or { port = 8080 }";
    match &node.raw {
        RawValue::Text(line) => Pattern::parse(line).map(Readiness::Line),
        RawValue::Table(entries) => match &entries[..] {
            [(key, Node { raw: RawValue::Int(port), .. })] if key == "port" => {
                let port = u16::try_from(*port).ok().filter(|port| *port > 0);
                port.map(Readiness::Port).ok_or_else(|| "a port is a number from 1 to 65535".to_owned())
            }
            _ => Err(known.to_owned()),
        },
        _ => Err(known.to_owned()),
    }
}

/// Returns one step of a case.
pub(super) fn step(node: &Node) -> Result<CaseStep, String> {
    let known = "a step is { run = \"..\" } or { reboot = true }";
    match node.entries() {
        [(key, run)] if key == "run" => match text(run)? {
            script if does_nothing(&script) => Err("a step whose `run` is empty would always pass".to_owned()),
            script => Ok(CaseStep::Run(script)),
        },
        [(key, Node { raw: RawValue::Bool(true), .. })] if key == "reboot" => Ok(CaseStep::Reboot),
        _ => Err(known.to_owned()),
    }
}

/// Returns one axis of a matrix with its values.
pub(super) fn axis((name, node): &(String, Node)) -> Result<(String, Vec<String>), String> {
    let RawValue::List(items) = &node.raw else {
        return Err(format!("axis `{name}` must be a list of strings, and is {}", node.raw.kind()));
    };
    let value = |item: &Node| quoted(item).map_err(|why| format!("axis `{name}`: {why}"));
    Ok((name.clone(), items.iter().map(value).collect::<Result<_, _>>()?))
}

/// Returns one row of a matrix.
pub(super) fn row(node: &Node) -> Result<Vec<(String, String)>, String> {
    let RawValue::Table(entries) = &node.raw else {
        return Err(format!("expected a table like {{ go = \"1.24\" }}, found {}", node.raw.kind()));
    };
    entries
        .iter()
        .map(|(name, value)| Ok((name.clone(), quoted(value).map_err(|why| format!("`{name}`: {why}"))?)))
        .collect()
}

/// Returns a string; a number is refused: nobody knows whether 1.10 was to be 1.1.
fn quoted(node: &Node) -> Result<String, String> {
    match &node.raw {
        RawValue::Text(_) => text(node),
        other => Err(format!("a value is a string, in quotes, and this is {}", other.kind())),
    }
}

/// Returns what makes a case pass.
pub(super) fn expect(entries: &[(String, Node)]) -> Result<Expect, String> {
    let mut out = Expect::default();
    for (key, node) in entries {
        let code = || match node.raw {
            RawValue::Int(code) if (0..=255).contains(&code) => Ok(i32::try_from(code).unwrap_or_default()),
            RawValue::Int(code) => Err(format!("{code} is not an exit code: 0 to 255")),
            _ => Err(format!("`{key}` must be a whole number")),
        };
        match key.as_str() {
            "exit" => out.exit = code()?,
            "skip" => out.skip = Some(code()?),
            "stdout" if is_empty_text(node) => out.stdout_empty = true,
            "stderr" if is_empty_text(node) => out.stderr_empty = true,
            "stdout" => out.stdout = patterns(node)?,
            "stderr" => out.stderr = patterns(node)?,
            "not_stdout" => out.not_stdout = patterns(node)?,
            "not_stderr" => out.not_stderr = patterns(node)?,
            "files" => {
                let files = match &node.raw {
                    RawValue::List(items) => items.iter().map(text).collect::<Result<Vec<_>, _>>()?,
                    _ => vec![text(node)?],
                };
                if files.iter().any(|file| file.trim().is_empty()) {
                    return Err("`files` has an empty name".into());
                }
                out.files = files;
            }
            other => {
                let known = "exit, skip, stdout, stderr, not_stdout, not_stderr, files";
                return Err(format!("unknown key `{other}` (known: {known})"));
            }
        }
    }
    if out.skip == Some(out.exit) {
        return Err(format!("exit {} cannot mean both passed and skipped", out.exit));
    }
    Ok(out)
}

fn is_empty_text(node: &Node) -> bool {
    matches!(&node.raw, RawValue::Text(text) if text.is_empty())
}

/// Returns one pattern or a list of them.
fn patterns(node: &Node) -> Result<Vec<Pattern>, String> {
    match &node.raw {
        RawValue::List(items) => items.iter().map(|item| Pattern::parse(&text(item)?)).collect(),
        _ => Ok(vec![Pattern::parse(&text(node)?)?]),
    }
}
