//! The elements of a document, as the reader of XML hands them to the format that takes them.

use crate::sheet::Sheet;
use quick_xml::events::BytesStart;

/// Most attributes of an element.
const ATTRIBUTES: usize = 64;
/// Most bytes of text that are kept of one element.
const TEXT: usize = 64 * 1024;

/// An element as it begins.
#[derive(Default)]
pub(super) struct Element {
    pub(super) name: String,
    attributes: Vec<(String, String)>,
}

impl Element {
    pub(super) fn of(start: &BytesStart<'_>) -> Self {
        let name = start.local_name().as_ref().to_owned();
        let mut attributes = start.html_attributes();
        let attributes = attributes.with_checks(false).flatten().take(ATTRIBUTES);
        let pair = |attribute: quick_xml::events::attributes::Attribute<'_>| {
            (attribute.key.local_name().as_ref().to_owned(), unescape(&attribute.value))
        };
        Self { name, attributes: attributes.map(pair).collect() }
    }

    /// Returns the value of an attribute; `None` = it has none, or an empty one.
    pub(super) fn get(&self, key: &str) -> Option<&str> {
        let found = self.attributes.iter().find(|(name, _)| name == key);
        found.map(|(_, value)| value.as_str()).filter(|value| !value.trim().is_empty())
    }
}

/// Takes the elements of one format.
pub(super) trait Handler {
    fn open(&mut self, element: &Element, sheet: &mut Sheet);

    /// Takes text of the innermost element.
    fn text(&mut self, text: &str);

    fn close(&mut self, name: &str, sheet: &mut Sheet);

    /// Returns the name of the test in which the document is cut.
    fn inside(&self) -> Option<String>;

    /// Ends the document, cut or not.
    fn end(&mut self, sheet: &mut Sheet);
}

/// Text that is kept up to a limit.
#[derive(Default)]
pub(super) struct TextBuffer(String);

impl TextBuffer {
    pub(super) fn push(&mut self, text: &str) {
        let room = TEXT.saturating_sub(self.0.len());
        let end = (0..=text.len().min(room)).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
        self.0.push_str(&text[..end]);
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }

    pub(super) fn take(&mut self) -> String {
        std::mem::take(&mut self.0)
    }
}

/// Returns the text of an attribute.
fn unescape(raw: &str) -> String {
    let mut out = String::with_capacity(raw.len());
    let mut rest = raw;
    while let Some((before, after)) = rest.split_once('&') {
        out.push_str(before);
        let is_name =
            |name: &str| name.len() <= 10 && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'#');
        if let Some((name, after)) = after.split_once(';').filter(|(name, _)| is_name(name)) {
            out.push_str(&resolve(name));
            rest = after;
        } else {
            out.push('&');
            rest = after;
        }
    }
    out.push_str(rest);
    out
}

/// Returns what a reference stands for: one of the five that need no document type, or a character.
pub(super) fn resolve(name: &str) -> String {
    let number = match name.strip_prefix('#') {
        Some(digits) => match digits.strip_prefix(['x', 'X']) {
            Some(hex) => u32::from_str_radix(hex, 16).ok(),
            None => digits.parse().ok(),
        },
        None => None,
    };
    match name {
        "lt" => "<".to_owned(),
        "gt" => ">".to_owned(),
        "amp" => "&".to_owned(),
        "quot" => "\"".to_owned(),
        "apos" => "'".to_owned(),
        _ if name.starts_with('#') => number.and_then(char::from_u32).unwrap_or('\u{fffd}').to_string(),
        _ => format!("&{name};"),
    }
}

/// Returns the whole name of a test: the name alone where there is no class, or where it begins with that already.
pub(super) fn full_name(class: Option<&str>, name: &str) -> (String, String) {
    let Some(class) = class else { return (String::new(), name.to_owned()) };
    let rest = name.strip_prefix(class);
    let has_it = rest.is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '.', ':', '/', '>', '#', '(']));
    if has_it { (String::new(), name.to_owned()) } else { (class.to_owned(), name.to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_read_and_nothing_is_expanded() {
        assert_eq!(
            unescape("a &lt;b&gt; &amp;&quot;&apos; &#65;&#x42; &foo; & &#0;&#xD800;"),
            "a <b> &\"' AB &foo; & \0\u{fffd}"
        );
    }

    #[test]
    fn a_class_is_not_said_twice() {
        for (class, name, want) in [
            (Some("s"), "steady", ("s", "steady")),
            (Some("s"), "s / xpass", ("", "s / xpass")),
            (Some("calc adds"), "calc adds", ("", "calc adds")),
            (None, "deep", ("", "deep")),
        ] {
            assert_eq!(full_name(class, name), (want.0.to_owned(), want.1.to_owned()));
        }
    }
}
