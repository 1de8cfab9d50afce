//! `[compat] env`: the variables of the systems that vmdeck replaces, as values of its own keys.
//!
//! Which old name means what comes in as a table; a name that never worked, or has no place here, is answered with a note.

use super::{
    Problem, Sources,
    old_name::{OldName, To},
    tree::{self, Node, Origin, RawValue},
};
use vmdeck_model::key::{Kind, Value};

/// The key that switches families of old names on.
const SWITCH: &str = "compat.env";

/// Puts what the old names say into the tree; `wanted` are the families that are switched on.
pub(super) fn apply(tree: &mut Node, sources: &Sources<'_>, wanted: &[String], notes: &mut Vec<String>) {
    let mut unread: Vec<&str> = Vec::new();
    for old in sources.old_names {
        let Some(value) = sources.env.get(old.name).filter(|value| !value.trim().is_empty()) else { continue };
        if !old.family.is_empty() && !wanted.iter().any(|family| family == old.family) {
            if !unread.contains(&old.family) && !tree.entries().is_empty() {
                unread.push(old.family);
                notes.push(format!(
                    "{} is set but not read: `[compat] env = [\"{}\"]` reads the old names",
                    old.name, old.family
                ));
            }
            continue;
        }
        put(tree, sources, old, value, notes);
        if let Some(note) = old.note {
            notes.push(format!("{}: {note}", old.name));
        }
    }
}

fn put(tree: &mut Node, sources: &Sources<'_>, old: &OldName, value: &str, notes: &mut Vec<String>) {
    let origin = Origin::Env(old.name.to_owned());
    let node = |pattern: &str| as_kind(sources, pattern, value, &origin);
    match old.to {
        To::Nothing => {}
        To::Key(key) => tree.put(&key.split('.').collect::<Vec<_>>(), node(key)),
        To::Guests { backend, os, key, with } => {
            let guests = guests(tree, backend, os);
            if guests.is_empty() {
                let system = os.map(|os| format!(" with os = \"{os}\"")).unwrap_or_default();
                notes.push(format!("{} sets nothing: the config has no `{backend}` guest{system}", old.name));
            }
            for guest in guests {
                let below =
                    |key: &'static str| ["guests", &guest].into_iter().chain(key.split('.')).collect::<Vec<_>>();
                tree.put(&below(key), node(&format!("guests.*.{key}")));
                if let Some((other, value)) = with {
                    let parts = below(other);
                    if at(tree, &parts).is_none() {
                        tree.put(&parts, Node { raw: RawValue::Text(value.into()), origin: origin.clone() });
                    }
                }
            }
        }
    }
}

fn at<'a>(tree: &'a Node, path: &[&str]) -> Option<&'a Node> {
    path.iter().try_fold(tree, |node, key| node.get(key))
}

/// Returns the value in the form that its key wants.
fn as_kind(sources: &Sources<'_>, pattern: &str, value: &str, origin: &Origin) -> Node {
    let kind = sources.keys.iter().find(|key| key.path == pattern).map(|key| key.kind);
    let text = |text: &str| Node { raw: RawValue::Text(text.to_owned()), origin: origin.clone() };
    let raw = match (kind, origin) {
        // By its name, so that it stands nowhere else.
        (Some(Kind::Secret), Origin::Env(name)) => RawValue::Table(vec![("env".into(), text(name))]),
        (Some(Kind::Texts), _) => {
            let words = value.split([',', ' ', ';']).filter(|word| !word.is_empty());
            RawValue::List(words.map(text).collect())
        }
        (Some(Kind::Int(..) | Kind::CountOrAuto | Kind::Duration | Kind::Bool | Kind::Size), _) => {
            return tree::loose(value.trim(), origin);
        }
        _ => RawValue::Text(value.to_owned()),
    };
    Node { raw, origin: origin.clone() }
}

/// Returns the guests of this backend and system, as far as the file tells.
fn guests(tree: &Node, backend: &str, os: Option<&str>) -> Vec<String> {
    let default = |key: &str| text_at(tree.get("defaults"), key);
    let of = |guest: &Node, key: &str| text_at(Some(guest), key).or_else(|| default(key));
    let fits = |guest: &Node| {
        let system = of(guest, "os").unwrap_or_else(|| "linux".into());
        of(guest, "backend").as_deref() == Some(backend) && os.is_none_or(|os| system == os)
    };
    let all = tree.get("guests").map(Node::entries).unwrap_or_default();
    // A name with a dot cannot be written as a path.
    all.iter().filter(|(name, guest)| fits(guest) && !name.contains('.')).map(|(name, _)| name.clone()).collect()
}

fn text_at(node: Option<&Node>, key: &str) -> Option<String> {
    match &node?.get(key)?.raw {
        RawValue::Text(text) => Some(text.clone()),
        _ => None,
    }
}

/// Returns the families that the config switches on; a word that is none is a problem.
pub(super) fn wanted(tree: &Node, sources: &Sources<'_>, problems: &mut Vec<Problem>) -> Vec<String> {
    let parts: Vec<&str> = SWITCH.split('.').collect();
    let Some(node) = at(tree, &parts) else { return Vec::new() };
    // Another kind of value is told where all values are checked.
    let Ok(Value::Texts(words)) = super::check::convert(Kind::Texts, node) else { return Vec::new() };
    let mut known: Vec<&str> = sources.old_names.iter().map(|old| old.family).filter(|f| !f.is_empty()).collect();
    known.dedup();
    for word in words.iter().filter(|word| !known.contains(&word.as_str())) {
        problems.push(Problem {
            place: node.origin.to_string(),
            key: SWITCH.into(),
            text: format!("`{word}` is not a family of old names (known: {})", known.join(", ")),
            hint: None,
        });
    }
    words
}
