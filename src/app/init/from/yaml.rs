//! YAML of strangers, as JSON values, and small readers for them.

use serde_json::{Map, Value};
use std::path::Path;
use vmdeck_model::error::{Fault, Result};

/// Reads a file. The parser has a budget for what aliases may grow to, and says the line of a mistake.
pub(super) fn read(path: &Path) -> Result<Value> {
    parse(&text(path)?, path)
}

/// Reads a text file of a modest size.
pub(super) fn text(path: &Path) -> Result<String> {
    vmdeck_files::read_text(path, vmdeck_files::LARGE)
        .map_err(|e| Fault::user(format!("cannot read `{}`", path.display())).because(e))
}

pub(super) fn parse(text: &str, path: &Path) -> Result<Value> {
    if text.trim().is_empty() {
        return Ok(Value::Object(Map::new()));
    }
    serde_saphyr::from_str(text).map_err(|e| {
        let why = e.to_string();
        let first = why.lines().find(|line| !line.trim().is_empty()).unwrap_or_default();
        Fault::user(format!("cannot read `{}`", path.display())).because(first)
    })
}

/// Returns the entries of a table; nothing else has any.
pub(super) fn entries(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.as_object().into_iter().flatten()
}

/// Returns a text; numbers and truth values are texts as well.
pub(super) fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(flag) => Some(flag.to_string()),
        _ => None,
    }
}

/// Returns the texts of a list, or of one text alone.
pub(super) fn texts(value: &Value) -> Vec<String> {
    match value {
        Value::Array(list) => list.iter().filter_map(scalar).collect(),
        other => scalar(other).into_iter().collect(),
    }
}

/// Returns the elements of a list, or one element alone; nothing for nothing.
pub(super) fn list(value: &Value) -> Vec<&Value> {
    match value {
        Value::Array(list) => list.iter().collect(),
        Value::Null => Vec::new(),
        one => vec![one],
    }
}

/// Returns a duration as vmdeck writes it, of a text such as `1.5h`, `1m30s`, `1h 30m` or `90`; `None` where it is not one.
pub(super) fn duration(text: &str) -> Option<String> {
    let mut seconds = 0.0;
    let mut number = String::new();
    let mut any = false;
    for c in text.chars().chain(" ".chars()) {
        match c {
            '0'..='9' | '.' => number.push(c),
            's' | 'm' | 'h' | 'd' | ' ' if !number.is_empty() => {
                let factor = match c {
                    'm' => 60.0,
                    'h' => 3600.0,
                    'd' => 86_400.0,
                    _ => 1.0,
                };
                seconds += number.parse::<f64>().ok()? * factor;
                number.clear();
                any = true;
            }
            ' ' => {}
            _ => return None,
        }
    }
    (any && (1.0..1e7).contains(&seconds)).then(|| format!("{seconds:.0}s"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_of_others_are_read() {
        for (text, wanted) in [
            ("90s", Some("90s")),
            ("1.5h", Some("5400s")),
            ("1m30s", Some("90s")),
            ("1h 30m", Some("5400s")),
            ("90", Some("90s")),
            ("2d", Some("172800s")),
            ("-1", None),
            ("soon", None),
            ("", None),
            ("5m *2", None),
        ] {
            assert_eq!(duration(text).as_deref(), wanted, "{text}");
        }
    }

    #[test]
    fn an_alias_bomb_is_refused_and_a_mistake_has_its_line() {
        let mut bomb = "a: &a [x,x,x,x,x,x,x,x,x,x]\n".to_owned();
        for (n, name) in ('b'..='j').enumerate() {
            let before = char::from(b'a' + u8::try_from(n).expect("few"));
            bomb.push_str(&format!(
                "{name}: &{name} [*{before},*{before},*{before},*{before},*{before},*{before},*{before},*{before}]\n"
            ));
        }
        parse(&bomb, Path::new("bomb.yaml")).expect_err("too much");
        let fault = parse("a: [1\nb: }\n", Path::new("x.yaml")).expect_err("broken");
        assert!(fault.to_string().contains("x.yaml") && fault.to_string().contains("line"), "{fault}");
    }
}
