//! Files with digests, as distributions publish them beside their images.
//!
//! Four forms: `HEX  NAME` (GNU), `SHA256 (NAME) = HEX` (BSD), a bare digest, and each of them within a signed text.

use std::collections::BTreeSet;
use vmdeck_model::digest::Digest;

/// Returns the digest of a file. `is_only` = whether the text speaks of this file alone, so that it may call it by another name. The
/// error is a sentence.
pub(super) fn digest_of(text: &str, file: &str, is_only: bool) -> Result<Digest, String> {
    if text.trim_start().starts_with('<') {
        return Err("the file with digests is a web page".to_owned());
    }
    let lines: Vec<(Option<&str>, Digest)> = text.lines().filter_map(line).collect();
    let named: BTreeSet<&Digest> =
        lines.iter().filter(|(name, _)| *name == Some(file)).map(|(_, digest)| digest).collect();
    let all: BTreeSet<&Digest> = lines.iter().map(|(_, digest)| digest).collect();
    let found = if named.is_empty() && is_only { all } else { named };
    match found.into_iter().collect::<Vec<_>>()[..] {
        [digest] => Ok(digest.clone()),
        // The same file may be there by both functions.
        [a, b] if a.kind() != b.kind() => Ok(if a.kind() == "sha256" { a } else { b }.clone()),
        [] => Err(format!("the file with digests does not name `{file}`")),
        _ => Err(format!("the file with digests has several for `{file}`")),
    }
}

/// Reads one line: a name, where there is one, and a digest.
fn line(text: &str) -> Option<(Option<&str>, Digest)> {
    let text = text.trim();
    if let Some((head, hex)) = text.rsplit_once(" = ") {
        let name = head.strip_suffix(')')?.split_once(" (")?.1;
        return Some((Some(name), Digest::parse(hex).ok()?));
    }
    let (hex, name) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
    let name = name.trim_start().trim_start_matches('*').trim_start_matches("./");
    let name = name.rsplit('/').next().unwrap_or(name);
    Some(((!name.is_empty()).then_some(name), Digest::parse(hex).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_form_gives_the_one_digest_and_doubt_is_an_error() {
        let (a, b, long) = ("ab".repeat(32), "cd".repeat(32), "ef".repeat(64));
        let signed = format!(
            "-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA256\n\n# d.img: 5 bytes\nSHA256 (d.img) = {a}\n-----BEGIN PGP SIGNATURE-----\n\niQI=\n"
        );
        for (text, is_only, wanted) in [
            (format!("{a}  d.img\n{b} *e.img\n"), false, Ok(&a)),
            (format!("{b}  d.img.xz\r\n{a} *./x/d.img\r\n"), false, Ok(&a)),
            (format!("SHA256 (e.img) = {b}\nSHA256 (d.img) = {a}\n"), false, Ok(&a)),
            (signed, false, Ok(&a)),
            (format!("{long}\n"), true, Ok(&long)),
            (format!("{a}  d-Build3.img\n"), true, Ok(&a)),
            (format!("{a}  d.img\n{a}  d.img\n"), false, Ok(&a)),
            (format!("SHA512 (d.img) = {long}\nSHA256 (d.img) = {a}\n"), false, Ok(&a)),
            (format!("{a}  d.img\n{b}  d.img\n"), false, Err("several")),
            (format!("{a}\n{b}\n"), true, Err("several")),
            (format!("{long}\n"), false, Err("does not name `d.img`")),
            (format!("{}  d.img\n", "ab".repeat(20)), true, Err("does not name")),
            ("<!DOCTYPE html>".to_owned(), true, Err("a web page")),
            (String::new(), true, Err("does not name")),
        ] {
            match (digest_of(&text, "d.img", is_only), wanted) {
                (Ok(digest), Ok(hex)) => assert_eq!(&digest, &Digest::parse(hex).expect("hex"), "{text}"),
                (Err(why), Err(wanted)) => assert!(why.contains(wanted), "{why}"),
                (result, _) => panic!("{result:?} for {text}"),
            }
        }
    }
}
