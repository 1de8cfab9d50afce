//! The text that is sent to the guest for one command, and the marks that come back before and after its own output.
//!
//! A command line is built by quoting alone; a mark holds a nonce that is never in that text as it will be printed, so
//! neither an echo nor an error message that quotes the command can look like it. Sending it is a transport's or a
//! backend's work.

use super::{CommandExit, RemoteCommand, sh_quote};
use memchr::memmem;
use vmdeck_model::{error::Fault, suite::RunAs};

/// The shell that sshd gives the command to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoginShell {
    /// `sh`, `ash` or `dash`: takes the text as it is, which saves a process.
    Sh,
    /// Anything else: a POSIX shell is started by it.
    Other,
}

impl LoginShell {
    /// Returns the kind of the shell that calls itself this: `-ash`, `/bin/dash`.
    pub fn of(name: &str) -> Self {
        let base = name.trim().rsplit('/').next().unwrap_or_default().trim_start_matches('-');
        if matches!(base, "sh" | "ash" | "dash") { Self::Sh } else { Self::Other }
    }
}

/// How root is had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sudo {
    /// No password is known.
    Silent,
    /// A password is sent when it is asked for.
    Asking,
}

/// Returns the whole text for one command.
pub fn command(exec: &RemoteCommand, nonce: &str, shell: LoginShell, sudo: Sudo) -> String {
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

fn body(exec: &RemoteCommand, nonce: &str) -> String {
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

/// Returns the whole text for one command that is sent by a tool whose own exit status cannot be trusted: what the command writes
/// ends with a mark on both streams that holds its status. The mark on standard output proves that nothing of it was cut.
///
/// The script runs in a shell of its own, so that an `exit` in it does not skip the marks.
pub fn framed(exec: &RemoteCommand, nonce: &str, sudo: Sudo) -> String {
    let inner = command(exec, nonce, LoginShell::Other, sudo);
    let inner = inner.strip_prefix("exec ").unwrap_or(&inner);
    format!("{inner}; c=$?; printf '[end-%s %s]' {nonce} \"$c\"; printf '[end-%s %s]' {nonce} \"$c\" >&2; exit \"$c\"")
}

/// Returns a random text that nobody in the guest can guess.
pub fn nonce() -> String {
    format!("{:032x}", fastrand::u128(..))
}

/// Passes one stream of a [`framed`] command on and takes the mark at its end off.
#[derive(Clone, Debug)]
pub struct EndMark {
    mark: Vec<u8>,
    held: Vec<u8>,
}

/// Longest status in a mark, with its bracket.
const STATUS_MAX: usize = 5;

impl EndMark {
    /// Looks for the mark of this nonce.
    pub fn new(nonce: &str) -> Self {
        Self { mark: format!("[end-{nonce} ").into_bytes(), held: Vec::new() }
    }

    /// Takes a piece; gives what cannot belong to the mark any more.
    pub fn feed(&mut self, bytes: &[u8]) -> Vec<u8> {
        self.held.extend_from_slice(bytes);
        let keep = match memmem::find(&self.held, &self.mark) {
            Some(at) => at,
            None => (0..self.mark.len().min(self.held.len() + 1))
                .rev()
                .find(|n| self.held.ends_with(&self.mark[..*n]))
                .map_or(self.held.len(), |n| self.held.len() - n),
        };
        let rest = self.held.split_off(keep);
        std::mem::replace(&mut self.held, rest)
    }

    /// Returns the status in the mark, and what came after it. `None` = there was no mark; then what was held back is the second.
    pub fn finish(self) -> (Option<i32>, Vec<u8>) {
        let Some(after) = self.held.strip_prefix(&self.mark[..]) else { return (None, self.held) };
        let end = memchr::memchr(b']', after).filter(|at| *at < STATUS_MAX);
        let status = end.and_then(|end| std::str::from_utf8(&after[..end]).ok()?.parse().ok());
        match (status, end) {
            (Some(status), Some(end)) => (Some(status), after[end + 1..].to_vec()),
            _ => (None, self.held),
        }
    }
}

/// Returns why a command did not begin, from its shell's status and what was said instead of the mark; `asked` is how often sudo
/// wanted a password. The guest itself is well.
pub fn refused(exec: &RemoteCommand, exit: &CommandExit, complaint: &str, asked: u32) -> Fault {
    if let (CommandExit::Code(125), Some(dir)) = (exit, &exec.dir) {
        return Fault::user(format!("cannot run a command in `{dir}`"))
            .because(complaint)
            .hint("does the suite's `dir` exist in the guest?");
    }
    if exec.run_as == RunAs::Root {
        return refused_sudo(asked, exit, complaint);
    }
    Fault::user("cannot start the command").because(if complaint.is_empty() {
        exit.to_string()
    } else {
        complaint.to_owned()
    })
}

fn refused_sudo(asked: u32, exit: &CommandExit, complaint: &str) -> Fault {
    let fault = Fault::user("cannot run a command as root");
    match (asked, exit) {
        (2.., _) => fault.because("sudo refused the password").hint("correct `guests.NAME.sudo.password`"),
        (1, _) => fault
            .because(format!("the password is right and sudo does not allow it: {complaint}"))
            .hint("add the user to sudoers in the guest"),
        (_, CommandExit::Code(127)) => {
            fault.because("there is no sudo in the guest").hint("install sudo there, or log in as root")
        }
        _ if complaint.contains("password is required") => fault
            .because("sudo wants a password")
            .hint("set `guests.NAME.sudo.password`, or NOPASSWD in the guest's sudoers"),
        _ => fault.because(if complaint.is_empty() { exit.to_string() } else { complaint.to_owned() }),
    }
}

/// Text that ends whatever still runs of the command with this nonce, found by its command line.
pub fn kill_by_nonce(nonce: &str) -> String {
    let (head, tail) = nonce.split_at(8);
    // Written in two halves, so that this very command does not find itself.
    format!(
        "n={head}; n=\"$n\"{tail}; for q in $(ps -A -o pid= -o args= | awk -v n=\"$n\" 'index($0,n){{print $1}}'); do [ \"$q\" = $$ ] || k=\"$k $q\"; done; for q in $k; do {}; done",
        kill_tree_of("\"$q\"")
    )
}

/// Returns what sudo's prompt looks like.
pub fn ask_mark(nonce: &str) -> String {
    format!("[ask {nonce}]")
}

/// Text that ends a process and everything below it: asks them all, parents first, and kills what is left after 2 s.
///
/// The whole tree is listed before the first signal: once a parent is gone its children cannot be told from others.
pub fn kill_tree(pid: u32) -> String {
    kill_tree_of(&pid.to_string())
}

fn kill_tree_of(pid: &str) -> String {
    format!(
        "l=; t() {{ l=\"$l $1\"; for c in $(ps -A -o pid= -o ppid= 2>/dev/null | awk -v p=\"$1\" '$2==p{{print $1}}'); do t \"$c\"; done; }}; t {pid}; \
         a() {{ for p in $l; do kill -0 \"$p\" 2>/dev/null && return 0; done; return 1; }}; \
         kill -TERM $l 2>/dev/null; n=0; while [ $n -lt 20 ] && a; do sleep 0.1; n=$((n+1)); done; a && kill -KILL $l 2>/dev/null; :"
    )
}

/// What was found on standard error before the command's own output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FrameMark {
    /// sudo wants a password.
    Asked,
    /// The command runs under this pid; the rest is its own output.
    Running {
        /// The pid in the guest.
        pid: u32,
        /// What came right after the mark.
        rest: Vec<u8>,
    },
}

/// Looks for marks in the first bytes of standard error.
#[derive(Clone, Debug)]
pub struct FrameMarks {
    ask: Vec<u8>,
    run: Vec<u8>,
    seen: Vec<u8>,
}

/// Most that is kept of what comes before the mark: a message of the day, a complaint of sudo.
const SEEN_MAX: usize = 64 * 1024;

impl FrameMarks {
    /// Looks for the marks of this nonce.
    pub fn new(nonce: &str) -> Self {
        Self { ask: ask_mark(nonce).into_bytes(), run: format!("[run-{nonce} ").into_bytes(), seen: Vec::new() }
    }

    /// Takes a piece; gives the next mark, if it is complete.
    pub fn feed(&mut self, bytes: &[u8]) -> Option<FrameMark> {
        self.seen.extend_from_slice(bytes);
        let marks: Vec<usize> = memmem::find_iter(&self.seen, &self.run).map(|at| at + self.run.len()).collect();
        for after in marks {
            let Some(length) = memchr::memchr(b']', &self.seen[after..]) else { break };
            let pid = std::str::from_utf8(&self.seen[after..after + length]).ok().and_then(|text| text.parse().ok());
            // Without a number it is no mark of ours, whoever wrote it.
            if let Some(pid) = pid {
                let rest = self.seen.split_off(after + length + 1);
                return Some(FrameMark::Running { pid, rest });
            }
        }
        if let Some(at) = memmem::find(&self.seen, &self.ask) {
            self.seen.drain(..at + self.ask.len());
            return Some(FrameMark::Asked);
        }
        let excess = self.seen.len().saturating_sub(SEEN_MAX);
        self.seen.drain(..excess);
        None
    }

    /// Returns what was written instead of a mark.
    pub fn seen(&self) -> &[u8] {
        &self.seen
    }

    /// Returns the same as one line.
    pub fn complaint(&self) -> String {
        let text = String::from_utf8_lossy(&self.seen);
        text.lines().map(str::trim).filter(|l| !l.is_empty()).collect::<Vec<_>>().join("; ")
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::disallowed_methods, reason = "a test acts from outside")]

    use super::*;
    use proptest::prelude::*;
    use std::{collections::BTreeMap, process::Command};

    fn run_in_sh(text: &str) -> (String, Vec<u8>, Option<i32>) {
        let out = Command::new("/bin/sh").args(["-c", text]).output().expect("sh");
        (String::from_utf8_lossy(&out.stdout).into_owned(), out.stderr, out.status.code())
    }

    #[test]
    fn a_mark_without_a_number_hides_no_other_and_grows_nothing() {
        let mut marks = FrameMarks::new("n");
        assert_eq!(marks.feed(b"[run-n x] [run-n"), None);
        assert_eq!(marks.feed(b" 7]rest"), Some(FrameMark::Running { pid: 7, rest: b"rest".to_vec() }));
        let mut flood = FrameMarks::new("n");
        for _ in 0..100 {
            assert_eq!(flood.feed(&[b"[run-n ".as_slice(), &[b'x'; 1000]].concat()), None);
        }
        assert!(flood.seen().len() <= SEEN_MAX);
    }

    #[test]
    fn the_mark_comes_first_and_nothing_of_the_environment_is_shell_text() {
        let env = BTreeMap::from([("HOSTILE".to_owned(), "'; touch /tmp/vmdeck-pwned; '$(id)\n`id`".to_owned())]);
        let exec = RemoteCommand {
            env,
            dir: Some("/".into()),
            ..RemoteCommand::new("pwd; printf %s \"$HOSTILE\"; echo e >&2; exit 7")
        };
        for shell in [LoginShell::Sh, LoginShell::Other] {
            let (out, err, code) = run_in_sh(&command(&exec, "n0", shell, Sudo::Silent));
            assert_eq!((out.as_str(), code), ("/\n'; touch /tmp/vmdeck-pwned; '$(id)\n`id`", Some(7)));
            let Some(FrameMark::Running { pid, rest }) = FrameMarks::new("n0").feed(&err) else {
                panic!("no mark in {err:?}")
            };
            assert!(pid > 1);
            assert_eq!(rest, b"e\n");
        }
    }

    #[test]
    fn a_framed_command_says_its_status_on_both_streams() {
        for (script, status) in [
            ("echo out; echo err >&2", 0),
            ("echo out; echo err >&2; exit 7", 7),
            ("echo out; echo err >&2; kill -9 $$", 137),
        ] {
            let (out, err, code) = run_in_sh(&framed(&RemoteCommand::new(script), "0123456789abcdef", Sudo::Silent));
            assert_eq!(code, Some(status));
            let (mut ends, mut marks) = (
                [EndMark::new("0123456789abcdef"), EndMark::new("0123456789abcdef")],
                FrameMarks::new("0123456789abcdef"),
            );
            assert_eq!(ends[0].feed(out.as_bytes()), b"out\n");
            let Some(FrameMark::Running { rest, .. }) = marks.feed(&err) else { panic!("no mark in {err:?}") };
            let passed = ends[1].feed(&rest);
            assert!(passed.starts_with(b"err\n"), "{passed:?}");
            for end in ends {
                assert_eq!(end.finish().0, Some(status));
            }
        }
    }

    #[test]
    fn what_follows_the_end_mark_is_the_tools_own() {
        let mut end = EndMark::new("n");
        assert_eq!(end.feed(b"text[end-n 0]Error from event: x"), b"text");
        assert_eq!(end.finish(), (Some(0), b"Error from event: x".to_vec()));
        let mut cut = EndMark::new("n");
        assert_eq!(cut.feed(b"text[end-"), b"text");
        assert_eq!(cut.finish(), (None, b"[end-".to_vec()), "nothing is lost where the mark is missing");
    }

    #[test]
    fn a_command_is_found_and_ended_by_its_nonce() {
        use std::os::unix::process::ExitStatusExt;
        let text = framed(&RemoteCommand::new("sleep 47.5; true"), "feedc0defeedc0de", Sudo::Silent);
        let mut child =
            Command::new("/bin/sh").args(["-c", &text]).stderr(std::process::Stdio::piped()).spawn().expect("sh");
        let mut mark = [0; 8];
        std::io::Read::read_exact(child.stderr.as_mut().expect("piped"), &mut mark).expect("it runs");
        run_in_sh(&kill_by_nonce("feedc0defeedc0de"));
        assert!(child.wait().expect("ended").signal().is_some());
    }

    #[test]
    fn a_missing_folder_is_told_before_the_command_runs() {
        let exec = RemoteCommand { dir: Some("/no/such".into()), ..RemoteCommand::new("echo ran") };
        let (out, err, code) = run_in_sh(&command(&exec, "n0", LoginShell::Other, Sudo::Silent));
        let mut marks = FrameMarks::new("n0");
        assert_eq!((out.as_str(), marks.feed(&err), code), ("", None, Some(125)));
        assert!(marks.complaint().contains("/no/such"), "{}", marks.complaint());
    }

    #[test]
    fn quoting_the_command_line_back_is_no_mark() {
        let exec = RemoteCommand { run_as: RunAs::Root, ..RemoteCommand::new("true") };
        let text = command(&exec, "n0", LoginShell::Sh, Sudo::Asking);
        let mut marks = FrameMarks::new("n0");
        // sudo quotes a refused command line; the prompt itself is meant to be found.
        assert_eq!(marks.feed(text.replace("[ask n0]", "").as_bytes()), None);
        assert_eq!(marks.feed(b"[ask n0]"), Some(FrameMark::Asked));
        assert_eq!(marks.feed(b"[run-n0 "), None);
        assert_eq!(marks.feed(b"12]x"), Some(FrameMark::Running { pid: 12, rest: b"x".to_vec() }));
    }

    #[test]
    fn marks_are_found_wherever_they_are_cut() {
        let text = b"motd [run-n0 4711]out";
        for at in 0..text.len() {
            let mut marks = FrameMarks::new("n0");
            let first = marks.feed(&text[..at]);
            let found = first.or_else(|| marks.feed(&text[at..]));
            let Some(FrameMark::Running { pid: 4711, .. }) = found else { panic!("cut at {at}: {found:?}") };
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

    proptest! {
        #[test]
        fn the_end_mark_is_found_wherever_it_is_cut(
            text in proptest::collection::vec(prop_oneof![Just(b'['), Just(b'e'), Just(b'n'), any::<u8>()], 0..40), cut in 0usize..60
        ) {
            let whole = [&text[..], b"[end-nonce 3]"].concat();
            prop_assume!(memmem::find(&text, b"[end-nonce ").is_none());
            let cut = cut.min(whole.len());
            let mut end = EndMark::new("nonce");
            let passed = [end.feed(&whole[..cut]), end.feed(&whole[cut..])].concat();
            prop_assert_eq!(passed, text);
            prop_assert_eq!(end.finish(), (Some(3), Vec::new()));
        }
    }
}
