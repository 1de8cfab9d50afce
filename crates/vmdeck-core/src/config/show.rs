//! `vmdeck config show`: every effective value with the place that it comes from.
//!
//! Secrets print as `***`, by their type.

use super::Values;
use vmdeck_model::{
    discover::DiscoverySource,
    image::{BuildWay, Image},
    key::Value,
    pattern::Pattern,
    quantity::{show_duration, show_size},
    suite::{CaseStep, Readiness, ScriptShell},
    workers::Workers,
};

/// Returns one line for each key: `guests.deb.memory = "2GiB"  # vmdeck.toml:3`.
pub fn render(values: &Values) -> String {
    let lines: Vec<(String, &str)> =
        values.iter().map(|(key, (value, place))| (format!("{key} = {}", toml(value)), place.as_str())).collect();
    let width = lines.iter().map(|(text, _)| text.chars().count()).filter(|w| *w < 60).max().unwrap_or(0);
    lines.iter().map(|(text, place)| format!("{text:<width$}  # {place}\n")).collect()
}

/// Returns a value as it would be written in the file.
pub fn toml(value: &Value) -> String {
    let quoted = |text: &str| ::toml::Value::String(text.to_owned()).to_string();
    let list = |items: Vec<String>| format!("[{}]", items.join(", "));
    match value {
        Value::Bool(flag) => flag.to_string(),
        Value::Int(int) => int.to_string(),
        Value::CountOrAuto(Workers::Count(count)) => count.to_string(),
        Value::CountOrAuto(Workers::Auto) => "\"auto\"".to_owned(),
        Value::Duration(time) if time.subsec_millis() == 0 => {
            quoted(&humantime::format_duration(*time).to_string().replace(' ', ""))
        }
        Value::Duration(time) => quoted(&show_duration(*time)),
        Value::Size(bytes) => quoted(&show_size(*bytes)),
        Value::Text(text) => quoted(text),
        Value::Path(path) => quoted(&path.display().to_string()),
        Value::Pattern(pattern) => quoted(pattern.source()),
        Value::Texts(texts) => list(texts.iter().map(|t| quoted(t)).collect()),
        Value::Patterns(patterns) => list(patterns.iter().map(|p| quoted(p.source())).collect()),
        Value::Chords(chords) => list(chords.iter().map(|c| quoted(&c.to_string())).collect()),
        Value::Secret(secret) => quoted(&secret.to_string()),
        Value::Map(map) => {
            let pairs: Vec<String> = map.iter().map(|(k, v)| format!("{} = {}", quoted(k), quoted(v))).collect();
            if pairs.is_empty() { "{}".into() } else { format!("{{ {} }}", pairs.join(", ")) }
        }
        Value::Image(image) => match image {
            Image::Host => quoted("host"),
            Image::File(path) => quoted(&path.display().to_string()),
            Image::Remote(image) => quoted(&image.url),
            Image::Named(image) => quoted(&image.name),
            Image::Built(recipe) => {
                let packages = list(recipe.packages.iter().map(|name| quoted(name)).collect());
                let script =
                    recipe.script.as_ref().map(|path| format!(", script = {}", quoted(&path.display().to_string())));
                let mirror = recipe.mirror.as_ref().map(|mirror| format!(", mirror = {}", quoted(mirror)));
                let (script, mirror) = (script.unwrap_or_default(), mirror.unwrap_or_default());
                let by = if recipe.way == BuildWay::Packages { "packages" } else { "boot" };
                let system = quoted(&recipe.system);
                format!("{{ build = {system}, packages = {packages}{script}{mirror}, by = {} }}", quoted(by))
            }
        },
        Value::Shell(shell) => match shell {
            ScriptShell::Sh => quoted("sh"),
            ScriptShell::Bash => quoted("bash"),
            ScriptShell::Strict => quoted("strict"),
            ScriptShell::PowerShell => quoted("powershell"),
            ScriptShell::Plain => quoted("plain"),
            ScriptShell::Command(words) => list(words.iter().map(|word| quoted(word)).collect()),
        },
        Value::Expect(expect) => {
            let some = |name: &str, all: Vec<String>| match &all[..] {
                [] => String::new(),
                [one] => format!(", {name} = {one}"),
                _ => format!(", {name} = {}", list(all)),
            };
            let output = |name: &str, patterns: &[Pattern], must_be_empty: bool| {
                let patterns = patterns.iter().map(Pattern::source);
                some(name, patterns.chain(must_be_empty.then_some("")).map(quoted).collect())
            };
            let parts = [
                expect.skip.map(|code| format!(", skip = {code}")).unwrap_or_default(),
                output("stdout", &expect.stdout, expect.stdout_empty),
                output("stderr", &expect.stderr, expect.stderr_empty),
                output("not_stdout", &expect.not_stdout, false),
                output("not_stderr", &expect.not_stderr, false),
                some("files", expect.files.iter().map(|file| quoted(file)).collect()),
            ];
            format!("{{ exit = {}{} }}", expect.exit, parts.concat())
        }
        Value::Discover(source) => match source {
            DiscoverySource::Tool(word) => quoted(word),
            DiscoverySource::Files { glob, run } => format!("{{ glob = {}, run = {} }}", quoted(glob), quoted(run)),
            DiscoverySource::Command { command, run } => {
                format!("{{ command = {}, run = {} }}", quoted(command), quoted(run))
            }
        },
        Value::Ready(Readiness::Started) => quoted(""),
        Value::Ready(Readiness::Line(pattern)) => quoted(pattern.source()),
        Value::Ready(Readiness::Port(port)) => format!("{{ port = {port} }}"),
        Value::Steps(steps) => list(
            steps
                .iter()
                .map(|step| match step {
                    CaseStep::Run(text) => format!("{{ run = {} }}", quoted(text)),
                    CaseStep::Reboot => "{ reboot = true }".to_owned(),
                })
                .collect(),
        ),
        Value::Axes(axes) => {
            let axis = |(name, values): &(String, Vec<String>)| {
                format!("{} = {}", super::tree::shown(name), list(values.iter().map(|value| quoted(value)).collect()))
            };
            format!("{{ {} }}", axes.iter().map(axis).collect::<Vec<_>>().join(", "))
        }
        Value::Rows(rows) => {
            let pair = |(name, value): &(String, String)| format!("{} = {}", super::tree::shown(name), quoted(value));
            let row =
                |row: &Vec<(String, String)>| format!("{{ {} }}", row.iter().map(pair).collect::<Vec<_>>().join(", "));
            list(rows.iter().map(row).collect())
        }
    }
}
