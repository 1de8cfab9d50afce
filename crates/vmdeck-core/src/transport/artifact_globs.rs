//! What the globs of artifacts mean: which files a guest is asked for, and which of those that come were meant.
//!
//! The guest's shell only narrows down; what is taken is decided here, by the same rules for every guest.

use crate::command::sh_quote;
use globset::{GlobBuilder, GlobMatcher};
use std::path::Path;

/// Most globs that braces may make.
const ALTERNATIVES: usize = 256;

/// The globs of one suite.
pub(super) struct ArtifactGlobs {
    written: Vec<String>,
    matchers: Vec<Vec<GlobMatcher>>,
}

impl ArtifactGlobs {
    /// Returns the globs as they are matched; a glob that cannot be read matches the file of that very name.
    pub(super) fn new(globs: &[String]) -> Self {
        let matchers = globs.iter().map(|glob| expand(glob).iter().filter_map(|one| matcher(one)).collect()).collect();
        Self { written: globs.to_vec(), matchers }
    }

    /// Returns the positions of the globs that name this path, or a folder that it is in.
    pub(super) fn of(&self, path: &Path) -> Vec<usize> {
        let fits = |all: &&Vec<GlobMatcher>| {
            path.ancestors().any(|part| !part.as_os_str().is_empty() && all.iter().any(|glob| glob.is_match(part)))
        };
        self.matchers.iter().enumerate().filter(|(_, all)| fits(all)).map(|(at, _)| at).collect()
    }

    /// Returns whether one of the globs names this very path.
    pub(super) fn names(&self, path: &Path) -> bool {
        self.matchers.iter().flatten().any(|glob| glob.is_match(path))
    }

    /// Returns how many there are.
    pub(super) fn len(&self) -> usize {
        self.written.len()
    }

    /// Returns a glob as it was written.
    pub(super) fn written(&self, at: usize) -> &str {
        &self.written[at]
    }
}

fn matcher(glob: &str) -> Option<GlobMatcher> {
    // The names in an archive have neither.
    let bare = glob.trim_start_matches('/');
    let bare = bare.strip_prefix("./").unwrap_or(bare);
    let build = |glob: &str| GlobBuilder::new(glob).literal_separator(true).backslash_escape(true).build();
    let glob = build(bare).or_else(|_| build(&globset::escape(bare)));
    glob.ok().map(|glob| glob.compile_matcher())
}

/// Returns the globs that one with braces stands for.
fn expand(glob: &str) -> Vec<String> {
    let mut done = Vec::new();
    let mut open = vec![glob.to_owned()];
    while let Some(next) = open.pop() {
        match braces(&next) {
            Some((before, parts, after)) if done.len() + open.len() + parts.len() <= ALTERNATIVES => {
                open.extend(parts.iter().rev().map(|part| format!("{before}{part}{after}")));
            }
            _ => done.push(next),
        }
    }
    done
}

/// Returns the text before the first braces with a comma in them, what is between its commas, and the text after.
fn braces(glob: &str) -> Option<(&str, Vec<&str>, &str)> {
    let (mut depth, mut start, mut cuts) = (0usize, None, Vec::new());
    for (at, c) in glob.char_indices() {
        match c {
            '{' => {
                depth += 1;
                if depth == 1 {
                    (start, cuts) = (Some(at), vec![at]);
                }
            }
            ',' if depth == 1 => cuts.push(at),
            '}' if depth == 1 && cuts.len() > 1 => {
                cuts.push(at);
                let parts = cuts.windows(2).map(|pair| &glob[pair[0] + 1..pair[1]]).collect();
                return Some((&glob[..start?], parts, &glob[at + 1..]));
            }
            '}' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    None
}

/// Returns a script that packs what the globs name with the guest's `tar`, to standard output or to a file. A link is packed as
/// what it leads to; one that leads nowhere is named on standard error.
pub(super) fn pack_script(globs: &[String], to_file: Option<&str>) -> String {
    let end = match to_file {
        Some(path) => format!(
            "eval \"set -- $a\"; [ $# -eq 0 ] || {{ umask 077; tar -chf {path} -- \"$@\"; }} || bad=1; exit $bad"
        ),
        None => "eval \"set -- $a\"; [ $# -eq 0 ] || tar -chf - -- \"$@\" || bad=1; exit $bad".to_owned(),
    };
    find_script(globs) + &end
}

/// Returns a script that writes a line for each file that the globs name: what changes when somebody writes it, a tab, and its path.
pub(super) fn stamp_script(globs: &[String]) -> String {
    find_script(globs)
        + r#"eval "set -- $a"; e='
'; for f; do
  case $f in *"$e"*) printf '%s\n' "$f" | tr '\n\t' '??'; echo; continue ;; esac
  s=$(stat -L -c '%s %y %z %i' -- "$f" 2>/dev/null || stat -L -f '%z %Fm %Fc %i' "$f" 2>/dev/null || ls -Ldlni -- "$f") || continue
  printf '%s\t%s\n' "$s" "$f"
done; exit 0"#
}

/// Returns a script that finds what the globs name and leaves it as quoted words in `$a`.
fn find_script(globs: &[String]) -> String {
    let mut out = String::from(
        r#"n=0; a=; add() { case $1 in /*) f=$1 ;; ./*) f=$1 ;; *) f=./$1 ;; esac; n=$((n+1)); eval "v$n=\$f"; a="$a \"\$v$n\""; }
lacks() { echo "$1: $2" >&2; bad=1; }
file() { if [ -e "$1" ]; then add "$1"; elif [ -L "$1" ]; then lacks "$1" "the link leads nowhere"; fi; }
all() { for e in "$1"/* "$1"/.[!.]* "$1"/..?*; do
  if [ -L "$e" ] && [ -d "$e" ]; then lacks "$e" "a link to a folder is not followed"; elif [ -d "$e" ]; then all "$e"; else file "$e"; fi
done; }
take() { if [ -d "$1" ]; then all "$1"; else file "$1"; fi; }
bad=0
"#,
    );
    for (at, glob) in globs.iter().flat_map(|glob| expand(glob)).enumerate() {
        match glob.split_once("**") {
            None => out.push_str(&format!("for f in {}; do take \"$f\"; done\n", shell_glob(&glob))),
            Some((head, _)) => {
                let folder = head.rsplit_once('/').map_or("", |(folder, _)| folder);
                let wild = |text: &str| text.contains(['*', '?', '[']);
                // The folder above the first wildcard is where the walk begins.
                let folder = folder.split('/').take_while(|part| !wild(part)).collect::<Vec<_>>().join("/");
                let root = match (glob.starts_with('/'), folder.as_str()) {
                    (true, "") => "/",
                    (false, "") => ".",
                    (_, folder) => folder,
                };
                let prefix = if root == "." && !glob.starts_with("./") { "./" } else { "" };
                let pattern = shell_glob(&format!("{prefix}{}", glob.replace("**/", "*").replace("**", "*")));
                out.push_str(&format!(
                    r#"w{at}() {{ for e in "$1"/* "$1"/.[!.]* "$1"/..?*; do
  if [ -d "$e" ] && [ ! -L "$e" ]; then w{at} "$e"; else case $e in {pattern})
    if [ -d "$e" ]; then lacks "$e" "a link to a folder is not followed"; else file "$e"; fi ;; esac; fi
done; }}; w{at} {}
"#,
                    sh_quote(if root == "/" { "" } else { root })
                ));
            }
        }
    }
    out
}

/// A walk through a folder of the guest, for one that has no shell with globs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct FolderWalk {
    /// The folder, or the very file; empty = the working directory.
    pub(super) root: String,
    /// The regular expression for the paths below it, with slashes.
    pub(super) pattern: String,
}

impl FolderWalk {
    /// Returns the walks that find what the globs name, and perhaps more.
    pub(super) fn of(globs: &[String]) -> Vec<Self> {
        globs.iter().flat_map(|glob| expand(glob)).map(|glob| Self::one(&glob)).collect()
    }

    fn one(glob: &str) -> Self {
        let glob = glob.strip_prefix("./").unwrap_or(glob);
        let is_wild = |part: &str| part.contains(['*', '?', '[']);
        let parts: Vec<&str> = glob.split('/').collect();
        let plain = parts.iter().position(|part| is_wild(part)).unwrap_or(parts.len());
        let (root, rest) = (parts[..plain].join("/"), parts[plain..].join("/"));
        // A folder that is named stands for all that is in it.
        let pattern = if rest.is_empty() { String::new() } else { format!("^(?:{})(?:/.*)?$", regex_of(&rest)) };
        Self { root: if root.is_empty() && glob.starts_with('/') { "/".into() } else { root }, pattern }
    }
}

/// Returns a glob as a regular expression.
fn regex_of(glob: &str) -> String {
    let mut out = String::new();
    let mut rest = glob;
    while let Some(c) = rest.chars().next() {
        let after = &rest[c.len_utf8()..];
        let inner = (c == '[').then(|| class(after)).flatten();
        let (piece, next) = match (c, inner) {
            ('*', _) if after.starts_with("*/") => ("(?:.*/)?".to_owned(), &after[2..]),
            ('*', _) if after.starts_with('*') => (".*".to_owned(), &after[1..]),
            ('*', _) => ("[^/]*".to_owned(), after),
            ('?', _) => ("[^/]".to_owned(), after),
            (_, Some(inner)) => {
                let negated = inner.strip_prefix('!').map(|inner| format!("^{inner}"));
                (format!("[{}]", negated.as_deref().unwrap_or(inner)), &after[inner.len() + 1..])
            }
            _ => (regex::escape(&rest[..c.len_utf8()]), after),
        };
        out.push_str(&piece);
        rest = next;
    }
    out
}

/// Returns a glob as a word of a shell: what is no wildcard is quoted.
fn shell_glob(glob: &str) -> String {
    let mut out = String::new();
    let mut text = String::new();
    let mut rest = glob;
    let flush = |text: &mut String, out: &mut String| {
        if !text.is_empty() {
            out.push_str(&sh_quote(text));
            text.clear();
        }
    };
    while let Some(c) = rest.chars().next() {
        let after = &rest[c.len_utf8()..];
        let class = (c == '[').then(|| class(after)).flatten();
        match (c, class) {
            ('*' | '?', _) => {
                flush(&mut text, &mut out);
                out.push(c);
                rest = after;
            }
            (_, Some(inner)) => {
                flush(&mut text, &mut out);
                out.push_str(&format!("[{inner}]"));
                rest = &after[inner.len() + 1..];
            }
            _ => {
                text.push(c);
                rest = after;
            }
        }
    }
    flush(&mut text, &mut out);
    out
}

/// Returns the inside of a class that begins here, if it holds nothing that a shell would read otherwise.
fn class(text: &str) -> Option<&str> {
    let inner = &text[..text.char_indices().skip(1).find(|(_, c)| *c == ']')?.0];
    let good = |c: char| c.is_alphanumeric() || "-_.!^+=@%,:".contains(c);
    inner.chars().all(good).then_some(inner)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::disallowed_methods, reason = "a test acts from outside")]

    use super::*;
    use std::{collections::BTreeSet, fs, os::unix::ffi::OsStrExt, process::Command};

    #[test]
    fn globs_are_quoted_around_their_wildcards() {
        assert_eq!(shell_glob("target/*.xml"), "target/*.xml");
        assert_eq!(shell_glob("a b/$(x)*[0-9]?"), "'a b/$(x)'*[0-9]?");
        assert_eq!(shell_glob("a[$(x)]b"), "'a[$(x)]b'");
    }

    #[test]
    fn walks_begin_below_what_is_not_wild() {
        for (glob, root, good, bad) in [
            ("out/*.xml", "out", &["a.xml", "d.xml/below"][..], &["d/a.xml", "a.xmlx"][..]),
            ("out/**/a.xml", "out", &["a.xml", "d/e/a.xml"], &["b.xml", "da.xml"]),
            ("**", "", &["a", "d/e/f"], &[]),
            ("C:/x y/[!a]?.log", "C:/x y", &["b1.log"], &["a1.log", "b.log"]),
            ("out/a.xml", "out/a.xml", &["anything"], &[]),
            ("./t+/{a,b}*", "t+", &["a1", "b"], &["c"]),
        ] {
            let walks = FolderWalk::of(&[glob.to_owned()]);
            let fits =
                |path: &str| walks.iter().any(|walk| regex::Regex::new(&walk.pattern).expect("regex").is_match(path));
            assert!(walks.iter().all(|walk| walk.root == root), "{glob}: {walks:?}");
            assert!(good.iter().all(|path| fits(path)) && !bad.iter().any(|path| fits(path)), "{glob}: {walks:?}");
        }
    }

    #[test]
    fn braces_stand_for_several() {
        for (glob, want) in [
            ("a{b,c}d", &["abd", "acd"][..]),
            ("{a,b{c,d}}", &["a", "bc", "bd"]),
            ("{a}", &["{a}"]),
            ("a{b,", &["a{b,"]),
            ("{a,b}/{c,d}", &["a/c", "a/d", "b/c", "b/d"]),
            ("x{,.gz}", &["x", "x.gz"]),
        ] {
            assert_eq!(expand(glob), want, "{glob}");
        }
        assert!(expand(&"{a,b}".repeat(40)).len() <= ALTERNATIVES);
    }

    /// Returns what a guest with this shell packs, filtered as it is here.
    fn packed(shell: &[&str], root: &Path, globs: &[&str]) -> BTreeSet<String> {
        let globs: Vec<String> = globs.iter().map(|g| (*g).to_owned()).collect();
        let mut command = Command::new(shell[0]);
        command.args(&shell[1..]).args(["-c", &pack_script(&globs, None)]).current_dir(root);
        let out = command.output().expect("shell");
        let wanted = ArtifactGlobs::new(&globs);
        let mut tar = tar::Archive::new(&out.stdout[..]);
        let names = tar.entries().expect("entries").filter_map(|e| {
            let entry = e.expect("entry");
            let path = entry.path().expect("path").into_owned();
            let path = path.strip_prefix(".").unwrap_or(&path).to_owned();
            let is_file = entry.header().entry_type() != tar::EntryType::Directory;
            (is_file && !wanted.of(&path).is_empty())
                .then(|| String::from_utf8_lossy(path.as_os_str().as_bytes()).into_owned())
        });
        names.collect()
    }

    #[test]
    fn every_shell_packs_what_was_meant() {
        let home = tempfile::tempdir().expect("tempdir");
        let root = home.path();
        for name in
            ["a.xml", "b.txt", "-x.xml", "d/a.xml", "d/e/f/a.xml", "d/e/.h.xml", "d/1.log", "d/2.log", "sp ace/q$x.xml"]
        {
            fs::create_dir_all(root.join(name).parent().expect("parent")).expect("mkdir");
            fs::write(root.join(name), name).expect("write");
        }
        fs::write(root.join(std::ffi::OsStr::from_bytes(b"l\xe4tin.xml")), "x").expect("write");
        std::os::unix::fs::symlink("b.txt", root.join("link.xml")).expect("link");
        std::os::unix::fs::symlink("nowhere", root.join("broken.xml")).expect("link");
        std::os::unix::fs::symlink("..", root.join("d/up")).expect("a link that goes round");
        let rows: [(&[&str], &[&str]); 9] = [
            (&["*.xml"], &["-x.xml", "a.xml", "link.xml", "l\u{fffd}tin.xml"]),
            (&["**/a.xml"], &["a.xml", "d/a.xml", "d/e/f/a.xml"]),
            (&["d/**/*.xml"], &["d/a.xml", "d/e/.h.xml", "d/e/f/a.xml"]),
            (&["d/**"], &["d/1.log", "d/2.log", "d/a.xml", "d/e/.h.xml", "d/e/f/a.xml"]),
            (&["d"], &["d/1.log", "d/2.log", "d/a.xml", "d/e/.h.xml", "d/e/f/a.xml"]),
            (&["d/[13].log"], &["d/1.log"]),
            (&["{a,b}.{xml,txt}"], &["a.xml", "b.txt"]),
            (&["sp ace/q$x.xml", "none*"], &["sp ace/q$x.xml"]),
            (&["none"], &[]),
        ];
        let shells: [&[&str]; 4] =
            [&["/bin/dash"], &["/bin/bash"], &["/usr/bin/busybox", "sh"], &["/usr/bin/zsh", "--emulate", "sh"]];
        for shell in shells.into_iter().filter(|words| Path::new(words[0]).exists()) {
            for (globs, want) in rows {
                let want: BTreeSet<String> = want.iter().map(|name| (*name).to_owned()).collect();
                assert_eq!(packed(shell, root, globs), want, "{shell:?} {globs:?}");
            }
        }
    }
}
