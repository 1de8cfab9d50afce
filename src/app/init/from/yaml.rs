//! YAML of strangers, as JSON values, and small readers for them.

use saphyr_parser::{Event, Parser, ScalarStyle};
use serde_json::{Map, Value};
use std::{collections::HashMap, path::Path};
use vmdeck_model::error::{Fault, Result};

/// The most values that a file may hold, with what its aliases repeat.
const VALUES: usize = 200_000;
/// How deep values may lie in one another.
const DEPTH: usize = 64;

/// Reads a file.
pub(super) fn read(path: &Path) -> Result<Value> {
    parse(&text(path)?, path)
}

/// Reads a text file of a modest size.
pub(super) fn text(path: &Path) -> Result<String> {
    vmdeck_files::read_text(path, vmdeck_files::LARGE)
        .map_err(|e| Fault::user(format!("cannot read `{}`", path.display())).because(e))
}

/// Reads the first document of a text. Each value that is no table and no list is a text as it was written, so that `3.10` stays what
/// it is; only `true`, `false` and nothing have kinds of their own. An empty text is an empty table.
pub(super) fn parse(text: &str, path: &Path) -> Result<Value> {
    let cannot = |why: String| Fault::user(format!("cannot read `{}`", path.display())).because(why);
    let mut tree = TreeBuilder::default();
    for event in Parser::new_from_str(text) {
        let (event, span) = event.map_err(|e| cannot(format!("line {}: {}", e.marker().line(), e.info())))?;
        if matches!(event, Event::DocumentEnd) {
            break;
        }
        tree.take(event).map_err(|why| cannot(format!("line {}: {why}", span.start.line())))?;
    }
    Ok(tree.root.unwrap_or_else(|| Value::Object(Map::new())))
}

/// A table or list that is being read, with the number of its anchor.
enum Open {
    List(Vec<Value>, usize),
    Table(Map<String, Value>, Option<String>, usize),
}

/// Makes a tree of a parser's events.
#[derive(Default)]
struct TreeBuilder {
    root: Option<Value>,
    open: Vec<Open>,
    anchors: HashMap<usize, Value>,
    values: usize,
}

impl TreeBuilder {
    fn take(&mut self, event: Event<'_>) -> std::result::Result<(), &'static str> {
        match event {
            Event::Scalar(text, style, anchor, _) => self.put(scalar_of(&text, style), anchor),
            Event::Alias(anchor) => {
                let value = self.anchors.get(&anchor).cloned().unwrap_or_default();
                self.values += size(&value);
                self.put(value, 0)
            }
            Event::SequenceStart(anchor, _) => self.begin(Open::List(Vec::new(), anchor)),
            Event::MappingStart(anchor, _) => self.begin(Open::Table(Map::new(), None, anchor)),
            Event::SequenceEnd | Event::MappingEnd => match self.open.pop() {
                Some(Open::List(list, anchor)) => self.put(Value::Array(list), anchor),
                Some(Open::Table(table, _, anchor)) => self.put(Value::Object(table), anchor),
                None => Ok(()),
            },
            _ => Ok(()),
        }
    }

    fn begin(&mut self, open: Open) -> std::result::Result<(), &'static str> {
        self.open.push(open);
        if self.open.len() > DEPTH { Err("it goes too deep") } else { Ok(()) }
    }

    /// Puts a whole value in its place.
    fn put(&mut self, value: Value, anchor: usize) -> std::result::Result<(), &'static str> {
        self.values += 1;
        if self.values > VALUES {
            return Err("it holds too many values");
        }
        if anchor > 0 {
            self.anchors.insert(anchor, value.clone());
        }
        match self.open.last_mut() {
            None => self.root = Some(value),
            Some(Open::List(list, _)) => list.push(value),
            Some(Open::Table(table, key, _)) => match key.take() {
                None => *key = Some(scalar(&value).ok_or("a key is no text")?),
                // What a merge brings is under what stands here.
                Some(name) if name == "<<" => {
                    for (name, value) in list(&value).into_iter().flat_map(entries) {
                        table.entry(name.clone()).or_insert_with(|| value.clone());
                    }
                }
                Some(name) => {
                    table.insert(name, value);
                }
            },
        }
        Ok(())
    }
}

/// Returns the number of values in a value.
fn size(value: &Value) -> usize {
    match value {
        Value::Array(list) => 1 + list.iter().map(size).sum::<usize>(),
        Value::Object(table) => 1 + table.values().map(size).sum::<usize>(),
        _ => 1,
    }
}

fn scalar_of(text: &str, style: ScalarStyle) -> Value {
    match (style, text) {
        (ScalarStyle::Plain, "" | "~" | "null") => Value::Null,
        (ScalarStyle::Plain, "true" | "True") => Value::Bool(true),
        (ScalarStyle::Plain, "false" | "False") => Value::Bool(false),
        _ => Value::String(text.to_owned()),
    }
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
    fn texts_stay_as_they_were_written_and_aliases_and_merges_are_followed() {
        let text = "a: &a {v: 3.10, o: 0755, y: yes, t: true, n: , q: '7'}\nb: {<<: *a, v: 4}\nc: [*a]\n---\nd: 1\n";
        let value = parse(text, Path::new("x")).expect("YAML");
        let a = serde_json::json!({ "v": "3.10", "o": "0755", "y": "yes", "t": true, "n": null, "q": "7" });
        assert_eq!((&value["a"], &value["c"][0], value["d"].is_null()), (&a, &a, true));
        assert_eq!((&value["b"]["v"], &value["b"]["o"]), (&"4".into(), &"0755".into()));
        parse(&"[".repeat(100), Path::new("x")).expect_err("too deep");
        parse("? [a]\n: b\n", Path::new("x")).expect_err("a list as a key");
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
