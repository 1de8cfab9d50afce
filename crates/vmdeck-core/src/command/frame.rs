//! The text that is sent to the guest for one command, and the marks that come back before and after its own output.
//!
//! A mark holds a nonce that is never in that text as it will be printed, so neither an echo nor an error message that quotes
//! the command can look like it. Sending it is a transport's or a backend's work, reading the marks is `marks`.
//!
//! A login shell may be anything (fish, csh, one whose files speak or start another shell). Where it is proven that quoted text
//! arrives as it is, the command goes as one text ([`Frame::direct`]). Elsewhere the shell is given one line of plain words and
//! one text in single quotes without a backslash, a quote, `!` or a line end, which all of them read alike: it starts a POSIX
//! shell, and that shell reads the command itself from its standard input ([`Frame::starter`], [`Frame::payload`]).

use super::{Collected, CommandExit, RemoteCommand, kill, login_shell::LoginShell, sh_quote};
use crate::host::random;
use vmdeck_model::{
    error::{Fault, Result},
    suite::{RunAs, ScriptShell, has_several_lines},
};

/// How a command gets root rights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sudo {
    /// sudo is run without a password.
    Silent,
    /// A password is sent when sudo asks for it.
    Asking,
}

/// Exit status of our own text where the working directory is missing.
pub const NO_DIR: i32 = 125;
/// Exit status of our own text where something else that the command needs is missing; it says what.
pub const NOT_READY: i32 = 124;

/// The word on which a command that was sent as one text begins.
pub const GO: &str = "go\n";

/// Longest text that is given to a login shell as one argument, in bytes: Linux takes 128 KiB.
const DIRECT_MAX: usize = 96 * 1024;

/// PowerShell, where it is not the guest's own shell; the text follows.
const PWSH: [&str; 4] = ["pwsh", "-NoProfile", "-NonInteractive", "-Command"];

/// One command on its way: its text, and what marks it.
#[derive(Clone, Debug)]
pub struct Frame {
    /// What is in the marks.
    pub nonce: String,
    /// What is in the environment of everything that the command starts; another text, which the guest may know.
    pub tag: String,
}

impl Frame {
    /// Returns a frame that nobody in the guest can guess.
    pub fn new() -> Self {
        Self { nonce: nonce(), tag: nonce() }
    }

    /// Returns the whole command as one text for a login shell of which enough is known; it waits for [`GO`] on its standard
    /// input. `None` = it goes by the starter. One that
    /// waits for a password goes so too: whatever came early would be read as the password.
    pub fn direct(&self, command: &RemoteCommand, shell: LoginShell, sudo: Sudo) -> Option<String> {
        // It begins only on our word: one that was given up meanwhile, behind slow files of the login shell, never begins.
        let gate = format!("printf '[ready-%s]' {} >&2; IFS= read -r l || exit {NOT_READY}; unset l\n", self.nonce);
        let body = gate + &self.body(command);
        let text = match (command.run_as, sudo, shell) {
            (_, _, LoginShell::Unknown) | (RunAs::Root, Sudo::Asking, _) => return None,
            (RunAs::User, _, LoginShell::Posix) => body,
            (RunAs::User, _, LoginShell::Quotes) => format!("exec /bin/sh -c {}", sh_quote(&body)),
            (RunAs::Root, Sudo::Silent, _) => format!("exec {}", as_root(&body)),
        };
        (text.len() <= DIRECT_MAX).then_some(text)
    }

    /// Returns the whole command as one text for a POSIX shell, with nothing to read: it begins at once. `None` = it is too long
    /// for an argument.
    pub fn whole(&self, command: &RemoteCommand) -> Option<String> {
        let body = format!("exec </dev/null\n{}", self.body(command));
        let text = match command.run_as {
            RunAs::User => body,
            RunAs::Root => format!("exec {}", as_root(&body)),
        };
        (text.len() <= DIRECT_MAX).then_some(text)
    }

    /// Returns a line that any login shell understands: it starts a POSIX shell that waits for [`Frame::payload`].
    pub fn starter(&self, run_as: RunAs, sudo: Sudo) -> String {
        let nonce = &self.nonce;
        let shell = format!(
            r#"/bin/sh -c 'printf "[ready-%s]" {nonce} >&2;while IFS= read -r l;do [ "$l" = "go-{nonce}" ]&&break;done;IFS= read -r l;eval "$l"'"#
        );
        match (run_as, sudo) {
            (RunAs::User, _) => format!("exec {shell}"),
            (RunAs::Root, Sudo::Silent) => format!("exec env LC_ALL=C sudo -n -- {shell}"),
            (RunAs::Root, Sudo::Asking) => format!("exec env LC_ALL=C sudo -S -p '{}' -- {shell}", ask_mark(nonce)),
        }
    }

    /// Returns what the shell of [`Frame::starter`] reads: after it, its standard input is the command's.
    pub fn payload(&self, command: &RemoteCommand) -> String {
        let nonce = &self.nonce;
        // IFS begins with a blank, a tab and a newline in every POSIX shell: a newline without a process of its own.
        let read = r#"n=${IFS#??};n=${n%"${n#?}"};s=;while IFS= read -r l;do [ "$l" ="#;
        let unset = if command.run_as == RunAs::Root { "unset LC_ALL; " } else { "" };
        let body = self.body(command);
        format!(
            "go-{nonce}\n{read} \"end-{nonce}\" ]&&break;s=$s$l$n;done;eval \"$s\"\nunset n l s\n{unset}{body}\nend-{nonce}\n"
        )
    }

    /// Returns the command with what comes before it: its folder and environment, our marks, and its shell's own rules.
    pub fn body(&self, command: &RemoteCommand) -> String {
        let Self { nonce, tag } = self;
        let mut out = format!("export {}={tag}\n", kill::TAG);
        if let Some(dir) = &command.dir {
            out.push_str(&format!("cd -- {} || exit {NO_DIR}\n", sh_quote(dir)));
        }
        for (name, value) in &command.env {
            out.push_str(&format!("export {name}={}\n", sh_quote(value)));
        }
        for line in [command.prepare.as_str(), &needs(&command.shell)].into_iter().filter(|line| !line.is_empty()) {
            out.push_str(line);
            out.push('\n');
        }
        out.push_str(&format!("printf '[out-%s]' {nonce}; printf '[run-%s %s]' {nonce} \"$$\" >&2\n"));
        out.push_str(&script(command));
        out
    }

    /// Returns the whole text for one command that is sent by a tool whose own exit status cannot be trusted: what the command
    /// writes ends with a mark on both streams that holds its status. The mark on standard output proves that nothing of it
    /// was cut.
    ///
    /// The script runs in a shell of its own, so that an `exit` in it does not skip the marks.
    pub fn framed(&self, command: &RemoteCommand) -> String {
        self.framed_within(command, |body| body)
    }

    /// Returns the same, with the text of the command put into another one by `within`.
    pub fn framed_within(&self, command: &RemoteCommand, within: impl FnOnce(String) -> String) -> String {
        let (nonce, body) = (&self.nonce, within(self.body(command)));
        let inner = match command.run_as {
            RunAs::User => format!("/bin/sh -c {}", sh_quote(&body)),
            RunAs::Root => as_root(&body),
        };
        format!(
            "{inner}; c=$?; printf '[end-%s %s]' {nonce} \"$c\"; printf '[end-%s %s]' {nonce} \"$c\" >&2; exit \"$c\""
        )
    }

    /// Returns the text that ends the command with everything that it started; `pid` is its first process, where it is known.
    pub fn kill_text(&self, pid: Option<u32>) -> String {
        kill::kill_text(&self.tag, pid)
    }
}

impl Default for Frame {
    fn default() -> Self {
        Self::new()
    }
}

/// Returns a text that runs another one as root, without a password.
fn as_root(body: &str) -> String {
    format!("env LC_ALL=C sudo -n -- /bin/sh -c {}", sh_quote(&format!("unset LC_ALL; {body}")))
}

/// Returns a text that says on standard error what is missing, where the guest has no such shell.
fn needs(shell: &ScriptShell) -> String {
    let program = match shell {
        ScriptShell::Bash => "bash",
        ScriptShell::PowerShell => PWSH[0],
        ScriptShell::Command(words) => words.first().map_or("", String::as_str),
        ScriptShell::Sh | ScriptShell::Strict | ScriptShell::Plain => return String::new(),
    };
    let word = sh_quote(program);
    let missing = sh_quote(&format!("there is no `{program}` in the guest, which `shell` asks for"));
    format!("command -v -- {word} >/dev/null 2>&1 || {{ echo {missing} >&2; exit {NOT_READY}; }}")
}

/// Returns the script for the shell that runs our text: with its rules in front, or handed to another shell.
fn script(command: &RemoteCommand) -> String {
    let text = &command.script;
    // A shell without it (dash) says so, which is no news.
    let strict = |flags: &str| format!("set {flags}; (set -o pipefail) 2>/dev/null && set -o pipefail\n{text}");
    match &command.shell {
        ScriptShell::Plain => text.clone(),
        ScriptShell::Sh if !has_several_lines(text) => text.clone(),
        ScriptShell::Sh => strict("-e"),
        ScriptShell::Strict => strict("-eu"),
        ScriptShell::Bash => format!("exec bash -e -o pipefail -c {}", sh_quote(text)),
        ScriptShell::PowerShell => format!("exec {} {}", PWSH.join(" "), sh_quote(text)),
        ScriptShell::Command(words) => {
            let words: Vec<String> = words.iter().map(|word| sh_quote(word)).collect();
            format!("exec {} {}", words.join(" "), sh_quote(text))
        }
    }
}

/// Returns a random text that nobody in the guest can guess.
pub fn nonce() -> String {
    format!("{:032x}", random::u128())
}

/// Returns why a command did not begin, from its shell's status and what was said instead of the mark; `asked` is how often sudo
/// wanted a password. The guest itself is well.
pub fn refused(command: &RemoteCommand, exit: &CommandExit, complaint: &str, asked: u32) -> Fault {
    if let (CommandExit::Code(NO_DIR), Some(dir)) = (exit, &command.dir) {
        return Fault::user(format!("cannot run a command in `{dir}`"))
            .because(complaint)
            .hint("check that the suite's `dir` exists in the guest");
    }
    if command.run_as == RunAs::Root && exit != &CommandExit::Code(NOT_READY) {
        return refused_sudo(asked, exit, complaint);
    }
    Fault::user("cannot start the command").because(if complaint.is_empty() {
        exit.to_string()
    } else {
        complaint.to_owned()
    })
}

/// Returns the fault of a command that was to be ended and still runs, in whole or in part; `pids` as the guest says them.
pub fn still_running(pids: &str) -> Fault {
    let pids = pids.trim().chars().filter(|c| c.is_ascii_digit() || *c == ' ').take(80).collect::<String>();
    Fault::infra("cannot end the command in the guest").because(format!("process {pids} still runs"))
}

/// Returns what came of ending a command by [`Frame::kill_text`]: `ended` is how that text ended, `None` = not in time, and `said` what
/// it wrote. The error says that something may still run.
pub fn ended(ended: Option<Result<CommandExit>>, said: &Collected) -> Result<()> {
    let cannot = || Fault::infra("cannot end the command in the guest");
    match ended {
        Some(Ok(CommandExit::Code(0))) => Ok(()),
        Some(Ok(CommandExit::Code(kill::SURVIVORS))) => Err(still_running(&String::from_utf8_lossy(&said.stdout))),
        Some(Ok(exit)) => Err(cannot().because(exit)),
        Some(Err(fault)) => Err(cannot().caused_by(fault)),
        None => Err(cannot().because("nothing answers")),
    }
}

fn refused_sudo(asked: u32, exit: &CommandExit, complaint: &str) -> Fault {
    let fault = Fault::user("cannot run a command as root");
    match (asked, exit) {
        (2.., _) => fault.because("sudo refused the password").hint("correct `guests.NAME.sudo.password`"),
        (1, _) => fault
            .because(format!("the password is right, but sudo does not allow it: {complaint}"))
            .hint("add the user to sudoers in the guest"),
        (_, CommandExit::Code(127)) => {
            fault.because("sudo is not installed in the guest").hint("install sudo there, or log in as root")
        }
        _ if complaint.contains("password is required") => fault
            .because("sudo asks for a password")
            .hint("set `guests.NAME.sudo.password`, or NOPASSWD in the guest's sudoers"),
        _ => fault.because(if complaint.is_empty() { exit.to_string() } else { complaint.to_owned() }),
    }
}

/// Returns what sudo's prompt looks like.
pub(super) fn ask_mark(nonce: &str) -> String {
    format!("[ask {nonce}]")
}

/// Returns what the starter's shell says when it waits for the command.
pub(super) fn ready_mark(nonce: &str) -> String {
    format!("[ready-{nonce}]")
}

#[cfg(test)]
mod tests {
    #![expect(clippy::disallowed_methods, reason = "a test acts from outside")]

    use super::*;
    use crate::command::marks::{EndMark, FrameMark, FrameMarks, StartMark};
    use std::{
        collections::BTreeMap,
        io::Write,
        process::{Command, Output, Stdio},
    };

    fn frame() -> Frame {
        Frame { nonce: "0123456789abcdef".into(), tag: "fedcba9876543210".into() }
    }

    fn run_in(shell: &[&str], text: &str, input: &[u8]) -> Output {
        let mut child = Command::new(shell[0])
            .args(&shell[1..])
            .args(["-c", text])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("shell");
        // A shell that ends early does not read it all.
        let _ = child.stdin.take().expect("piped").write_all(input);
        child.wait_with_output().expect("ended")
    }

    /// Returns the command's own output, its own errors (`None` = it did not begin), and the status.
    fn own(out: &Output) -> (Vec<u8>, Option<Vec<u8>>, Option<i32>) {
        let nonce = &frame().nonce;
        let stdout = StartMark::new(nonce).feed(&out.stdout).into_owned();
        let mut marks = FrameMarks::new(nonce);
        let mut next = marks.feed(&out.stderr);
        while let Some(mark) = next {
            if let FrameMark::Running { pid, rest } = mark {
                assert!(pid > 1);
                return (stdout, Some(rest), out.status.code());
            }
            next = marks.feed(b"");
        }
        (stdout, None, out.status.code())
    }

    fn logins() -> Vec<Vec<&'static str>> {
        let all: [&[&str]; 8] = [
            &["/bin/sh"],
            &["/bin/bash"],
            &["/bin/dash"],
            &["/usr/bin/fish"],
            &["/usr/bin/tcsh"],
            &["/usr/bin/zsh"],
            &["/usr/bin/busybox", "sh"],
            &["/usr/bin/ksh"],
        ];
        all.into_iter().filter(|w| std::path::Path::new(w[0]).exists()).map(<[&str]>::to_vec).collect()
    }

    #[test]
    fn what_a_login_shell_is_given_has_nothing_that_they_read_differently() {
        for (run_as, sudo) in [(RunAs::User, Sudo::Silent), (RunAs::Root, Sudo::Silent), (RunAs::Root, Sudo::Asking)] {
            let text = Frame::new().starter(run_as, sudo);
            assert!(!text.contains(['\\', '!', '\n', '\r', '`']), "{text}");
            assert!(text.len() < 400, "{text}");
        }
    }

    #[test]
    fn every_login_shell_runs_exactly_what_was_written() {
        let script = "printf %s 'a\\'b\\\\c' \"$HOSTILE\" '\\\n!x'\n# a comment's quote\ncat\necho e >&2\nexit 7";
        let hostile = "'; touch /tmp/vmdeck-pwned; '$(id)\n`id` \\ \r é \u{1}!";
        let env = BTreeMap::from([("HOSTILE".to_owned(), hostile.to_owned())]);
        let command = RemoteCommand { env, dir: Some("/".into()), ..RemoteCommand::new(script.replace("a\\'b", "ab")) };
        let frame = frame();
        for (login, shell) in [("/bin/dash", LoginShell::Posix), ("/bin/bash", LoginShell::Quotes)] {
            let text = frame.direct(&command, shell, Sudo::Silent).expect("known well enough");
            let never = run_in(&[login], &text, b"");
            assert!(own(&never).1.is_none() && never.stdout.is_empty(), "{login}: without our word it does not begin");
            let out = run_in(&[login], &text, format!("{GO}input\n").as_bytes());
            let (stdout, stderr, code) = own(&out);
            let want = format!("ab\\\\c{hostile}\\\n!xinput\n");
            assert_eq!(String::from_utf8_lossy(&stdout), want, "{login:?} {out:?}");
            assert_eq!((stderr.as_deref(), code), (Some(&b"e\n"[..]), Some(7)), "{login:?}");
        }
        let long = RemoteCommand::new("x".repeat(DIRECT_MAX));
        for (command, shell, sudo) in [
            (&command, LoginShell::Unknown, Sudo::Silent),
            (&RemoteCommand { run_as: RunAs::Root, ..command.clone() }, LoginShell::Posix, Sudo::Asking),
            (&long, LoginShell::Posix, Sudo::Silent),
        ] {
            assert_eq!(frame.direct(command, shell, sudo), None);
        }
        for login in logins() {
            let input = ["stray line of input\n", &frame.payload(&command), "the command's own \\ input\n\n"].concat();
            let out = run_in(&login, &frame.starter(RunAs::User, Sudo::Silent), input.as_bytes());
            let (stdout, stderr, code) = own(&out);
            let want = format!("ab\\\\c{hostile}\\\n!xthe command's own \\ input\n\n");
            assert_eq!(String::from_utf8_lossy(&stdout), want, "{login:?} {out:?}");
            assert_eq!((stderr.as_deref(), code), (Some(&b"e\n"[..]), Some(7)), "{login:?}");
        }
        assert!(!std::path::Path::new("/tmp/vmdeck-pwned").exists());
    }

    #[test]
    fn a_script_of_several_lines_stops_at_the_first_that_fails() {
        let words = |words: &[&str]| ScriptShell::Command(words.iter().map(|w| (*w).to_owned()).collect());
        let rows = [
            (ScriptShell::Sh, "false\necho on", Some(1), ""),
            (ScriptShell::Sh, "false; echo on\n", Some(0), "on\n"),
            (ScriptShell::Sh, "# why\nfalse; echo on", Some(1), ""),
            (ScriptShell::Sh, "cd /no/such\necho on", Some(2), ""),
            (ScriptShell::Plain, "false\necho on", Some(0), "on\n"),
            (ScriptShell::Strict, "false; echo on", Some(1), ""),
            (ScriptShell::Strict, "echo \"$not_set_anywhere\"; echo on", Some(2), ""),
            (ScriptShell::Bash, "false | true\necho on", Some(1), ""),
            (ScriptShell::Bash, "a=(1 2); echo ${a[1]}", Some(0), "2\n"),
            (words(&["/bin/sh", "-c"]), "false\necho on", Some(0), "on\n"),
            (words(&["no-such-shell", "-c"]), "echo on", Some(NOT_READY), ""),
        ];
        for (shell, script, code, stdout) in rows {
            let command = RemoteCommand { shell: shell.clone(), ..RemoteCommand::new(script) };
            let out = run_in(&["/bin/dash"], &frame().body(&command), b"");
            let (own_out, began, _) = own(&out);
            assert_eq!(
                (out.status.code(), String::from_utf8_lossy(&own_out).as_ref()),
                (code, stdout),
                "{shell:?} {script}"
            );
            assert_eq!(began.is_none(), code == Some(NOT_READY), "{shell:?} {script}");
        }
    }

    #[test]
    fn a_pipe_that_fails_early_stops_it_where_the_shell_can_tell() {
        for login in logins()
            .into_iter()
            .filter(|w| !matches!(w[0], "/bin/sh" | "/bin/dash" | "/usr/bin/fish" | "/usr/bin/tcsh"))
        {
            let command = RemoteCommand { shell: ScriptShell::Sh, ..RemoteCommand::new("false | true\necho on") };
            let out = run_in(&login, &frame().body(&command), b"");
            assert_eq!(out.status.code(), Some(1), "{login:?}");
        }
    }

    #[test]
    fn a_framed_command_says_its_status_on_both_streams() {
        for (script, status) in [
            ("echo out; echo err >&2", 0),
            ("echo out; echo err >&2; exit 7", 7),
            ("echo out; echo err >&2; kill -9 $$", 137),
        ] {
            let frame = frame();
            let out = run_in(&["/bin/sh"], &frame.framed(&RemoteCommand::new(script)), b"");
            assert_eq!(out.status.code(), Some(status));
            let (stdout, stderr, _) = own(&out);
            let mut ends = [EndMark::new(&frame.nonce), EndMark::new(&frame.nonce)];
            assert_eq!(ends[0].feed(&stdout), b"out\n");
            let passed = ends[1].feed(&stderr.expect("it began"));
            assert!(passed.starts_with(b"err\n"), "{passed:?}");
            for end in ends {
                assert_eq!(end.finish().0, Some(status));
            }
        }
    }

    #[test]
    fn what_is_missing_is_said_before_the_command_runs() {
        let command = RemoteCommand { dir: Some("/no/such".into()), ..RemoteCommand::new("echo ran") };
        let out = run_in(&["/bin/sh"], &frame().body(&command), b"");
        let (stdout, began, code) = own(&out);
        assert_eq!((stdout.as_slice(), began, code), (&b""[..], None, Some(NO_DIR)));
        let said = refused(&command, &CommandExit::Code(NO_DIR), &String::from_utf8_lossy(&out.stderr), 0).to_string();
        assert!(said.contains("/no/such"), "{said}");
    }

    #[test]
    fn quoting_the_command_line_back_is_no_mark() {
        let frame = frame();
        let command = RemoteCommand { run_as: RunAs::Root, ..RemoteCommand::new("true") };
        let mut marks = FrameMarks::new(&frame.nonce);
        // sudo quotes a refused command line; the prompt itself is meant to be found.
        let line = frame.starter(RunAs::Root, Sudo::Asking).replace(&ask_mark(&frame.nonce), "");
        for text in [line, frame.payload(&command), frame.framed(&command)] {
            assert_eq!(marks.feed(text.as_bytes()), None, "{text}");
        }
        assert_eq!(marks.feed(ask_mark(&frame.nonce).as_bytes()), Some(FrameMark::Asked));
    }
}
