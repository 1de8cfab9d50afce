//! `vmdeck config schema`: the key tables as a JSON schema, for editors.
//!
//! It is made from the same rows as the checks, so the two cannot disagree.

use super::case_defaults;
use serde_json::{Map, Value, json};
use vmdeck_model::{
    discover::Discovery,
    key::{Key, Kind},
};

/// Returns the schema (draft 2020-12).
pub fn render(keys: &[Key]) -> Value {
    let mut root = json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "vmdeck.toml",
        "type": "object",
        "additionalProperties": false,
        "properties": {},
    });
    for key in keys {
        let parts: Vec<&str> = key.path.split('.').collect();
        put(&mut root, &parts, key);
        if let ["guests", "*", rest @ ..] = &parts[..] {
            put(&mut root, &[&["defaults"], rest].concat(), key);
        }
        if let ["suites", "*", "cases", "[]", rest @ ..] = &parts[..]
            && rest.first().is_some_and(|key| case_defaults::is_known(key))
        {
            put(&mut root, &[&["defaults", case_defaults::TABLE], rest].concat(), key);
        }
    }
    root
}

fn object() -> Value {
    json!({ "type": "object", "additionalProperties": false, "properties": {} })
}

fn put(node: &mut Value, parts: &[&str], key: &Key) {
    match parts {
        [] => *node = leaf(key),
        ["*", rest @ ..] => {
            let child = slot(node, "additionalProperties", object);
            put(child, rest, key);
        }
        ["[]", rest @ ..] => {
            node["type"] = json!("array");
            if let Some(map) = node.as_object_mut() {
                map.remove("additionalProperties");
                map.remove("properties");
            }
            let child = slot(node, "items", object);
            put(child, rest, key);
        }
        [name, rest @ ..] => {
            let properties = slot(node, "properties", || json!({}));
            let child = slot(properties, name, || if rest.is_empty() { Value::Null } else { object() });
            put(child, rest, key);
        }
    }
}

/// Returns the member `name`, made if it is absent or only a `false`.
fn slot<'a>(node: &'a mut Value, name: &str, make: impl FnOnce() -> Value) -> &'a mut Value {
    if !node.get(name).is_some_and(Value::is_object) {
        node[name] = make();
    }
    &mut node[name]
}

fn leaf(key: &Key) -> Value {
    let texts = || json!({ "type": "array", "items": { "type": "string" } });
    let one_or_more = || json!({ "oneOf": [{ "type": "string" }, texts()] });
    let mut out = match key.kind {
        Kind::Bool => json!({ "type": "boolean" }),
        Kind::CountOrAuto => {
            json!({ "oneOf": [{ "type": "integer", "minimum": 1, "maximum": 1024 }, { "const": "auto" }] })
        }
        Kind::Int(low, high) => json!({ "type": "integer", "minimum": low, "maximum": high }),
        Kind::Duration | Kind::Size => json!({ "type": ["string", "integer"] }),
        Kind::Text | Kind::Program | Kind::HostCommand | Kind::Path | Kind::KeyOrPath | Kind::Pattern => {
            json!({ "type": "string" })
        }
        Kind::Choice(words) => json!({ "enum": words }),
        Kind::Texts | Kind::Patterns | Kind::Chords => texts(),
        Kind::Map => json!({ "type": "object", "additionalProperties": { "type": ["string", "integer", "boolean"] } }),
        Kind::Secret => json!({ "oneOf": [
            { "type": "string" },
            { "type": "object", "additionalProperties": false, "minProperties": 1, "maxProperties": 1,
              "properties": { "env": { "type": "string" }, "file": { "type": "string" }, "command": texts() } },
        ] }),
        Kind::Image => json!({ "oneOf": [
            { "type": "string" },
            { "type": "object", "additionalProperties": false, "required": ["build"], "properties": {
              "build": { "type": "string" }, "packages": texts(), "script": { "type": "string" },
              "mirror": { "type": "string" } } },
        ] }),
        Kind::Shell => json!({ "oneOf": [
            { "enum": ["sh", "bash", "strict", "plain"] },
            { "type": "array", "minItems": 1, "items": { "type": "string" } },
        ] }),
        Kind::Expect => json!({ "type": "object", "additionalProperties": false, "properties": {
            "exit": { "type": "integer" }, "skip": { "type": "integer" }, "stdout": one_or_more(),
            "stderr": one_or_more(), "not_stdout": one_or_more(), "not_stderr": one_or_more(), "files": one_or_more() } }),
        Kind::Discover => {
            let of = |from: &str| {
                json!({ "type": "object", "additionalProperties": false, "required": [from, "run"],
                  "properties": { from: { "type": "string" }, "run": { "type": "string" } } })
            };
            json!({ "oneOf": [{ "enum": Discovery::TOOLS }, of("glob"), of("command")] })
        }
        Kind::Ready => json!({ "oneOf": [
            { "type": "string" },
            { "type": "object", "additionalProperties": false, "required": ["port"],
              "properties": { "port": { "type": "integer", "minimum": 1, "maximum": 65535 } } },
        ] }),
        Kind::Steps => json!({ "type": "array", "minItems": 1, "items": { "oneOf": [
            { "type": "object", "additionalProperties": false, "required": ["run"],
              "properties": { "run": { "type": "string" } } },
            { "type": "object", "additionalProperties": false, "required": ["reboot"],
              "properties": { "reboot": { "const": true } } } ] } }),
        Kind::Axes => json!({ "type": "object", "additionalProperties": texts() }),
        Kind::Rows => {
            json!({ "type": "array", "items": { "type": "object", "additionalProperties": { "type": "string" } } })
        }
    };
    let map: &mut Map<String, Value> = match out.as_object_mut() {
        Some(map) => map,
        None => return out,
    };
    map.insert("description".into(), json!(key.doc));
    if let Some(default) = key.default {
        map.insert("x-default".into(), json!(default));
    }
    out
}
