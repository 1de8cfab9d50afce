//! The only home of passwords, and the filter that keeps them out of everything written.
//!
//! Where a secret comes from (environment, file, command) is the config's business.

use aho_corasick::{AhoCorasick, Input, MatchKind};
use base64::{
    Engine,
    prelude::{BASE64_STANDARD_NO_PAD as STANDARD_NO_PAD, BASE64_URL_SAFE_NO_PAD as URL_SAFE_NO_PAD},
};
use secrecy::{ExposeSecret, SecretString};
use std::{collections::BTreeSet, fmt, sync::Arc};

/// A password or passphrase: prints as `***`, cannot be serialised, is wiped from memory when dropped.
#[derive(Clone)]
pub struct Secret(SecretString);

impl Secret {
    /// Makes a secret of a text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(SecretString::from(text.into()))
    }

    /// Returns the text itself; only for handing it to the guest over an authenticated channel.
    pub fn expose(&self) -> &str {
        self.0.expose_secret()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        self.expose() == other.expose()
    }
}

/// The shortest secret that is looked for in output, in bytes; a shorter one would blacken half the log.
pub const REDACT_MIN: usize = 6;

/// Replaces secrets in a stream by `***`, also where a chunk border cuts one in two, and in the forms in which programs write
/// them on: base64 (at any place of a longer text), hexadecimal, percent-encoded, as JSON text, and UTF-16.
///
/// Holds back only what may be the beginning of one, at most the longest form less one byte; [`Redactor::finish`] returns the
/// rest.
#[derive(Clone, Debug, Default)]
pub struct Redactor {
    forms: Option<Arc<Forms>>,
    held: Vec<u8>,
}

/// What is looked for.
struct Forms {
    finder: AhoCorasick,
    all: Vec<Vec<u8>>,
    longest: usize,
}

impl fmt::Debug for Forms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl Redactor {
    /// Returns a filter for these secrets; those under [`REDACT_MIN`] bytes are left out.
    pub fn new<'a>(secrets: impl IntoIterator<Item = &'a Secret>) -> Self {
        let known = secrets.into_iter().map(Secret::expose).filter(|text| text.len() >= REDACT_MIN);
        let forms: BTreeSet<Vec<u8>> = known.flat_map(forms_of).filter(|form| form.len() >= REDACT_MIN).collect();
        let longest = forms.iter().map(Vec::len).max().unwrap_or(0);
        // Longest first: where one secret begins with another, the longer one must win.
        let finder = AhoCorasick::builder().match_kind(MatchKind::LeftmostLongest).build(&forms);
        let all = forms.into_iter().collect();
        let forms = finder.ok().filter(|_| longest > 0).map(|finder| Arc::new(Forms { finder, all, longest }));
        Self { forms, held: Vec::new() }
    }

    /// Feeds one chunk and returns what can be shown now.
    pub fn feed(&mut self, chunk: &[u8]) -> Vec<u8> {
        let Some(forms) = self.forms.clone() else { return chunk.to_vec() };
        self.held.extend_from_slice(chunk);
        // What may still become a form is held back, and no more: a prompt must be seen before anything follows it.
        let certain = (self.held.len() + 1).saturating_sub(forms.longest);
        let open = |at: &usize| forms.all.iter().any(|form| form.starts_with(&self.held[*at..]));
        let judged = (certain..self.held.len()).find(open).unwrap_or(self.held.len());
        self.release(&forms, judged)
    }

    /// Returns the end of the stream: what was held back.
    pub fn finish(&mut self) -> Vec<u8> {
        let Some(forms) = self.forms.clone() else { return Vec::new() };
        let all = self.held.len();
        self.release(&forms, all)
    }

    /// Returns a whole text with its secrets replaced.
    pub fn text(&self, text: &str) -> String {
        // Every console line comes through here, and hardly one holds a secret.
        if self.forms.as_ref().is_none_or(|forms| !forms.finder.is_match(text)) {
            return text.to_owned();
        }
        let mut filter = Self { held: Vec::new(), ..self.clone() };
        let mut out = filter.feed(text.as_bytes());
        out.extend(filter.finish());
        String::from_utf8_lossy(&out).into_owned()
    }

    /// Gives out what begins before `judged`, with the secrets in it replaced.
    fn release(&mut self, forms: &Forms, judged: usize) -> Vec<u8> {
        let mut out = Vec::with_capacity(judged);
        let mut at = 0;
        while at < judged {
            let found = forms.finder.find(Input::new(&self.held).span(at..self.held.len()));
            let Some(found) = found.filter(|found| found.start() < judged) else { break };
            out.extend_from_slice(&self.held[at..found.start()]);
            out.extend_from_slice(b"***");
            at = found.end();
        }
        if at < judged {
            out.extend_from_slice(&self.held[at..judged]);
            at = judged;
        }
        self.held.drain(..at);
        out
    }
}

/// Returns a secret in every form that is looked for.
fn forms_of(text: &str) -> Vec<Vec<u8>> {
    let bytes = text.as_bytes();
    // Which characters stay is each library's own choice.
    let percent = |upper: bool, kept: &str, plus: bool| -> String {
        let encode = |b: &u8| match b {
            b' ' if plus => "+".to_owned(),
            b if kept.as_bytes().contains(b) || (!kept.is_empty() && b.is_ascii_alphanumeric()) => {
                char::from(*b).to_string()
            }
            b if upper => format!("%{b:02X}"),
            b => format!("%{b:02x}"),
        };
        bytes.iter().map(encode).collect()
    };
    let json = serde_json::to_string(text).unwrap_or_default();
    let json = json.get(1..json.len().saturating_sub(1)).unwrap_or_default();
    let go = ["<", ">", "&"]
        .iter()
        .fold(json.to_owned(), |json, c| json.replace(c, &format!("\\u{:04x}", c.chars().next().map_or(0, u32::from))));
    let html = |quotes: [&str; 2]| {
        let text = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
        text.replace('"', quotes[0]).replace('\'', quotes[1])
    };
    let escaped = |write: &dyn Fn(u16) -> String| -> String { text.encode_utf16().map(write).collect() };
    let dump = |upper: bool, between: &str| -> String {
        let pairs: Vec<String> =
            bytes.iter().map(|b| if upper { format!("{b:02X}") } else { format!("{b:02x}") }).collect();
        pairs.join(between)
    };
    let wide: Vec<u8> = text.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let mut texts = vec![
        json.to_owned(),
        json.replace('/', "\\/"),
        go,
        escaped(&|unit| format!("\\u{unit:04x}")),
        escaped(&|unit| format!("\\u{unit:04X}")),
        html(["&quot;", "&#39;"]),
        html(["&#34;", "&#x27;"]),
        html(["&quot;", "&apos;"]),
        bytes.iter().map(|b| format!("\\x{b:02x}")).collect(),
    ];
    for upper in [false, true] {
        texts.extend(["", " ", ":"].map(|between| dump(upper, between)));
        for kept in ["", "-._~", "-._~/", "-._~!'()*", "-._~!'()*;,/?:@&=+$#", "-._*"] {
            texts.extend([false, true].map(|plus| percent(upper, kept, plus)));
        }
    }
    let mut out: Vec<Vec<u8>> = texts.into_iter().map(String::into_bytes).collect();
    out.extend([bytes.to_vec(), text.encode_utf16().flat_map(u16::to_be_bytes).collect(), wide.clone()]);
    // PowerShell hands its own commands on as base64 of UTF-16.
    for source in [bytes, &wide] {
        out.extend((0..3).flat_map(|offset| base64_within(source, offset)));
    }
    out
}

/// Returns what base64 shows of some bytes within a longer text, `offset` bytes after a border of three: without the characters
/// that also depend on what stands before and after.
fn base64_within(bytes: &[u8], offset: usize) -> [Vec<u8>; 2] {
    let padded = [&vec![0; offset][..], bytes].concat();
    let (first, last) = ((offset * 8).div_ceil(6), padded.len() * 8 / 6);
    [&STANDARD_NO_PAD, &URL_SAFE_NO_PAD].map(|engine| {
        let encoded = engine.encode(&padded);
        encoded.as_bytes().get(first..last).unwrap_or_default().to_vec()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn through(redactor: &Redactor, parts: &[&[u8]]) -> String {
        let mut filter = redactor.clone();
        let mut out = Vec::new();
        for part in parts {
            out.extend(filter.feed(part));
        }
        out.extend(filter.finish());
        String::from_utf8(out).expect("text")
    }

    #[test]
    fn a_secret_never_prints() {
        let secret = Secret::new("hunter22");
        assert_eq!(format!("{secret} {secret:?}"), "*** ***");
    }

    #[test]
    fn a_secret_is_found_wherever_chunks_are_cut() {
        let redactor = Redactor::new(&[Secret::new("hunter22"), Secret::new("hunter22-long")]);
        let text = b"a hunter22 b hunter22-long c hunter2";
        for first in 0..text.len() {
            for second in first..text.len() {
                let parts = [&text[..first], &text[first..second], &text[second..]];
                assert_eq!(through(&redactor, &parts), "a *** b *** c hunter2");
            }
        }
    }

    #[test]
    fn a_secret_is_found_in_every_form_and_within_longer_texts() {
        let secret = "p\u{e4}ss w\"ord/4+5";
        let redactor = Redactor::new(&[Secret::new(secret)]);
        for before in ["", "a", "ab", "user:"] {
            for after in ["", "x", "\n", " and more"] {
                let whole = format!("{before}{secret}{after}");
                let hex: String = whole.bytes().map(|b| format!("{b:02x}")).collect();
                for encoded in [STANDARD_NO_PAD.encode(&whole), URL_SAFE_NO_PAD.encode(&whole), hex.to_uppercase(), hex]
                {
                    let text = redactor.text(&format!("see {encoded} here"));
                    assert!(text.contains("***") && text.starts_with("see ") && text.ends_with(" here"), "{text}");
                    assert!(text.len() <= encoded.len() + 13 - secret.len(), "{encoded}: {text}");
                }
            }
        }
        for form in ["p%C3%A4ss%20w%22ord%2F4%2B5", "p%c3%a4ss%20w%22ord%2f4%2b5", "p\u{e4}ss w\\\"ord/4+5", secret] {
            assert_eq!(redactor.text(&format!("<{form}>")), "<***>");
        }
        let wide: Vec<u8> = secret.encode_utf16().flat_map(u16::to_le_bytes).collect();
        assert_eq!(through(&redactor, &[b"<", &wide[..7], &wide[7..], b">"]), "<***>");
    }

    #[test]
    fn the_usual_libraries_spellings_are_known() {
        let redactor = Redactor::new(&[Secret::new("Tr0ub/4d or&3+z?'")]);
        for form in [
            "Tr0ub/4d%20or%263%2Bz%3F%27",
            "Tr0ub%2F4d+or%263%2Bz%3F%27",
            "Tr0ub/4d%20or&3+z?'",
            "%54%72%30%75%62%2F%34%64%20%6F%72%26%33%2B%7A%3F%27",
            "Tr0ub\\/4d or&3+z?'",
            "Tr0ub/4d or\\u00263+z?'",
            "Tr0ub/4d or&amp;3+z?&#39;",
            "54 72 30 75 62 2f 34 64 20 6f 72 26 33 2b 7a 3f 27",
            "54:72:30:75:62:2F:34:64:20:6F:72:26:33:2B:7A:3F:27",
            "VAByADAAdQBiAC8ANABkACAAbwByACYAMwArAHoAPwAnA",
        ] {
            assert!(redactor.text(&format!("<{form}A>")).starts_with("<***"), "{form}");
        }
    }

    #[test]
    fn what_cannot_become_a_secret_is_shown_at_once() {
        let mut redactor = Redactor::new(&[Secret::new("hunter22")]);
        assert_eq!(redactor.feed(b"login: "), b"login: ");
        assert_eq!(redactor.feed(b"x hun"), b"x ");
        assert_eq!(redactor.feed(b"gry\n"), b"hungry\n");
    }

    #[test]
    fn short_secrets_do_not_blacken_the_log() {
        let redactor = Redactor::new(&[Secret::new("a"), Secret::new("")]);
        assert_eq!(redactor.text("banana"), "banana");
    }
}
