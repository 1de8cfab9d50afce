//! The text that is sent to the guest for one command, and the marks that come back before its own output.
//!
//! A command line is built by quoting alone; a mark holds a nonce that is never in that text as it will be printed, so
//! neither an echo nor an error message that quotes the command can look like it.

use crate::model::{
    exec::{Exec, sh_quote},
    suite::RunAs,
};
use memchr::memmem;

/// The shell that sshd gives the command to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LoginShell {
    /// `sh`, `ash` or `dash`: takes the text as it is, which saves a process.
    Sh,
    /// Anything else: a POSIX shell is started by it.
    Other,
}

impl LoginShell {
    pub(super) fn of(name: &str) -> Self {
        let base = name.trim().rsplit('/').next().unwrap_or_default().trim_start_matches('-');
        if matches!(base, "sh" | "ash" | "dash") { Self::Sh } else { Self::Other }
    }
}

/// How root is had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sudo {
    /// No password is known.
    Silent,
    /// A password is sent when it is asked for.
    Asking,
}

/// The whole text for one command.
pub(super) fn command(exec: &Exec, nonce: &str, shell: LoginShell, sudo: Sudo) -> String {
    let body = body(exec, nonce);
    match (exec.run_as, shell) {
        (RunAs::User, LoginShell::Sh) => body,
        (RunAs::User, LoginShell::Other) => format!("exec /bin/sh -c {}", sh_quote(&body)),
        (RunAs::Root, _) => {
            let how = if sudo == Sudo::Asking { format!("-S -p {}", sh_quote(&ask_mark(nonce))) } else { "-n".into() };
            format!("exec env LC_ALL=C sudo {how} -- /bin/sh -c {}", sh_quote(&format!("unset LC_ALL; {body}")))
        }
    }
}

fn body(exec: &Exec, nonce: &str) -> String {
    let mut out = String::new();
    if let Some(dir) = &exec.dir {
        out.push_str(&format!("cd -- {} || exit 125; ", sh_quote(dir)));
    }
    out.push_str(&format!("printf '[run-%s %s]' {nonce} \"$$\" >&2\n"));
    for (name, value) in &exec.env {
        out.push_str(&format!("export {name}={}\n", sh_quote(value)));
    }
    out.push_str(&exec.script);
    out
}

/// What sudo's prompt looks like.
pub(super) fn ask_mark(nonce: &str) -> String {
    format!("[ask {nonce}]")
}

/// Text that ends a process and everything below it: asks them all, parents first, and kills what is left after 2 s.
///
/// The whole tree is listed before the first signal: once a parent is gone its children cannot be told from others.
pub(super) fn kill_tree(pid: u32) -> String {
    format!(
        "l=; t() {{ l=\"$l $1\"; for c in $(ps -A -o pid= -o ppid= 2>/dev/null | awk -v p=\"$1\" '$2==p{{print $1}}'); do t \"$c\"; done; }}; t {pid}; \
         a() {{ for p in $l; do kill -0 \"$p\" 2>/dev/null && return 0; done; return 1; }}; \
         kill -TERM $l 2>/dev/null; n=0; while [ $n -lt 20 ] && a; do sleep 0.1; n=$((n+1)); done; a && kill -KILL $l 2>/dev/null; :"
    )
}

/// What was found on standard error before the command's own output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Mark {
    /// sudo wants a password.
    Asked,
    /// The command runs under this pid; the rest is its own output.
    Running { pid: u32, rest: Vec<u8> },
}

/// Looks for marks in the first bytes of standard error.
#[derive(Clone, Debug)]
pub(super) struct Marks {
    ask: Vec<u8>,
    run: Vec<u8>,
    seen: Vec<u8>,
}

/// Most that is kept of what comes before the mark: a message of the day, a complaint of sudo.
const SEEN_MAX: usize = 64 * 1024;

impl Marks {
    pub(super) fn new(nonce: &str) -> Self {
        Self { ask: ask_mark(nonce).into_bytes(), run: format!("[run-{nonce} ").into_bytes(), seen: Vec::new() }
    }

    /// Takes a piece; gives the next mark, if it is complete.
    pub(super) fn feed(&mut self, bytes: &[u8]) -> Option<Mark> {
        self.seen.extend_from_slice(bytes);
        if let Some(at) = memmem::find(&self.seen, &self.run) {
            let after = at + self.run.len();
            let end = after + memchr::memchr(b']', &self.seen[after..])?;
            let pid = std::str::from_utf8(&self.seen[after..end]).ok()?.parse().ok()?;
            let rest = self.seen.split_off(end + 1);
            return Some(Mark::Running { pid, rest });
        }
        if let Some(at) = memmem::find(&self.seen, &self.ask) {
            self.seen.drain(..at + self.ask.len());
            return Some(Mark::Asked);
        }
        let excess = self.seen.len().saturating_sub(SEEN_MAX);
        self.seen.drain(..excess);
        None
    }

    /// What was written instead of a mark, as one line.
    pub(super) fn complaint(&self) -> String {
        let text = String::from_utf8_lossy(&self.seen);
        text.lines().map(str::trim).filter(|l| !l.is_empty()).collect::<Vec<_>>().join("; ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{collections::BTreeMap, process::Command};

    fn run_in_sh(text: &str) -> (String, Vec<u8>, Option<i32>) {
        let out = Command::new("/bin/sh").args(["-c", text]).output().expect("sh");
        (String::from_utf8_lossy(&out.stdout).into_owned(), out.stderr, out.status.code())
    }

    #[test]
    fn the_mark_comes_first_and_nothing_of_the_environment_is_shell_text() {
        let env = BTreeMap::from([("HOSTILE".to_owned(), "'; touch /tmp/vmdeck-pwned; '$(id)\n`id`".to_owned())]);
        let exec = Exec { env, dir: Some("/".into()), ..Exec::new("pwd; printf %s \"$HOSTILE\"; echo e >&2; exit 7") };
        for shell in [LoginShell::Sh, LoginShell::Other] {
            let (out, err, code) = run_in_sh(&command(&exec, "n0", shell, Sudo::Silent));
            assert_eq!((out.as_str(), code), ("/\n'; touch /tmp/vmdeck-pwned; '$(id)\n`id`", Some(7)));
            let Some(Mark::Running { pid, rest }) = Marks::new("n0").feed(&err) else { panic!("no mark in {err:?}") };
            assert!(pid > 1);
            assert_eq!(rest, b"e\n");
        }
    }

    #[test]
    fn a_missing_folder_is_told_before_the_command_runs() {
        let exec = Exec { dir: Some("/no/such".into()), ..Exec::new("echo ran") };
        let (out, err, code) = run_in_sh(&command(&exec, "n0", LoginShell::Other, Sudo::Silent));
        let mut marks = Marks::new("n0");
        assert_eq!((out.as_str(), marks.feed(&err), code), ("", None, Some(125)));
        assert!(marks.complaint().contains("/no/such"), "{}", marks.complaint());
    }

    #[test]
    fn quoting_the_command_line_back_is_no_mark() {
        let exec = Exec { run_as: RunAs::Root, ..Exec::new("true") };
        let text = command(&exec, "n0", LoginShell::Sh, Sudo::Asking);
        let mut marks = Marks::new("n0");
        // sudo quotes a refused command line; the prompt itself is meant to be found.
        assert_eq!(marks.feed(text.replace("[ask n0]", "").as_bytes()), None);
        assert_eq!(marks.feed(b"[ask n0]"), Some(Mark::Asked));
        assert_eq!(marks.feed(b"[run-n0 "), None);
        assert_eq!(marks.feed(b"12]x"), Some(Mark::Running { pid: 12, rest: b"x".to_vec() }));
    }

    #[test]
    fn marks_are_found_wherever_they_are_cut() {
        let text = b"motd [run-n0 4711]out";
        for at in 0..text.len() {
            let mut marks = Marks::new("n0");
            let first = marks.feed(&text[..at]);
            let found = first.or_else(|| marks.feed(&text[at..]));
            let Some(Mark::Running { pid: 4711, .. }) = found else { panic!("cut at {at}: {found:?}") };
        }
    }

    #[test]
    fn the_tree_is_killed_with_its_grandchildren() {
        let mut child = Command::new("/bin/sh")
            .args(["-c", "(trap '' TERM; sleep 34.75; true) & sleep 34.75; echo next"])
            .spawn()
            .expect("sh");
        let count = || crate::host::pids::with_arg("34.75").len();
        while count() < 2 {
            std::thread::yield_now();
        }
        run_in_sh(&kill_tree(child.id()));
        child.wait().expect("ended");
        while count() > 0 {
            std::thread::yield_now();
        }
    }

    #[test]
    fn shells() {
        for (name, is) in [
            ("sh", LoginShell::Sh),
            ("-sh", LoginShell::Sh),
            ("/bin/dash", LoginShell::Sh),
            ("bash", LoginShell::Other),
            ("", LoginShell::Other),
        ] {
            assert_eq!(LoginShell::of(name), is, "{name}");
        }
    }
}
