//! `vmdeck config show`: every effective value with the place that it comes from.
//!
//! Secrets print as `***`, by their type.

use super::Values;
use vmdeck_model::{
    image::{BuildWay, Image},
    key::Value,
    pattern::Pattern,
    quantity::{show_duration, show_size},
    suite::ScriptShell,
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
            let output = |name: &str, pattern: Option<&Pattern>| {
                pattern.map(|p| format!(", {name} = {}", quoted(p.source()))).unwrap_or_default()
            };
            let stdout = output("stdout", expect.stdout.as_ref());
            let stderr = output("stderr", expect.stderr.as_ref());
            let not_stdout = output("not_stdout", expect.not_stdout.as_ref());
            let not_stderr = output("not_stderr", expect.not_stderr.as_ref());
            let skip = expect.skip.map(|code| format!(", skip = {code}")).unwrap_or_default();
            format!("{{ exit = {}{skip}{stdout}{stderr}{not_stdout}{not_stderr} }}", expect.exit)
        }
    }
}
