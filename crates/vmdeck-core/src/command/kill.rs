//! The text that ends a command in a guest with everything that it started, and says whether anything is left.
//!
//! Processes are found in three ways, since each misses some: by the tag in their environment (not after `sudo` or `env -i`),
//! by their parent (not what was handed to init), and by the tag in an argument list where there is no `/proc`.

use std::time::Duration;

/// Variable that every process of a command has: its tag.
pub const TAG: &str = "VMDECK_COMMAND";
/// How long the text may take in all; it allows 2 s itself between SIGTERM and SIGKILL.
pub const LIMIT: Duration = Duration::from_secs(10);
/// Exit status of the text where something still runs.
pub const SURVIVORS: i32 = 3;

/// Exit status of the text where it does not know its own tag: without one it would find every process.
const NO_TAG: i32 = 4;

/// Lists them in `l`: those with the tag, the process `p` where it is known, and all below.
const LIST: &str = r#"
has() { case " $l " in *" $1 "*) return 0 ;; esac; return 1; }
gone() {
  [ -d /proc/self ] || { kill -0 "$1" 2>/dev/null && return 1; return 0; }
  [ -r "/proc/$1/stat" ] || return 0
  read -r x 2>/dev/null < "/proc/$1/stat" || return 0
  case ${x##*") "} in [ZX]*) return 0 ;; esac; return 1
}
table() {
  ps -A -o pid= -o ppid= 2>/dev/null && return
  for d in /proc/[0-9]*; do read -r x 2>/dev/null < "$d/stat" && { x=${x##*") "}; x=${x#* }; echo "${d#/proc/} ${x%% *}"; }; done
}
tagged() {
  grep -l "$g" /proc/[0-9]*/environ 2>/dev/null && return
  [ $? = 127 ] || return
  for d in /proc/[0-9]*; do
    [ -r "$d/environ" ] && while x=; read -r x || [ -n "$x" ]; do case $x in *"$g"*) echo "$d/environ" ;; esac; done < "$d/environ"
  done 2>/dev/null
}
list() {
  l=$p
  if [ -d /proc/self ]; then
    for d in $(tagged); do d=${d#/proc/}; d=${d%%/*}; has "$d" || l="$l $d"; done
  else
    for d in $(ps -A -o pid= -o args= | grep "$g" | while read -r d x; do echo "$d"; done); do has "$d" || l="$l $d"; done
  fi
  t=$(table); m=1
  while [ "$m" = 1 ]; do
    m=0
    set -f; set -- $t; set +f
    while [ $# -gt 1 ]; do has "$2" && ! has "$1" && { l="$l $1"; m=1; }; shift 2; done
  done
  r=; for d in $l; do gone "$d" || [ "$d" = $$ ] || r="$r $d"; done
}
send() { for d in $r; do kill "-$1" "$d" 2>/dev/null; done; }
until_gone() {
  n=0
  while list && [ -n "$r" ] && [ $n -lt "$1" ]; do sleep 0.1 2>/dev/null || sleep 1; n=$((n+1)); [ "$2" = KILL ] && send KILL; done
}
"#;

/// Returns the text for the command with this tag, whose first process is `pid` where that is known: it asks everything to end,
/// kills what is left after 2 s, and ends with [`SURVIVORS`] and the pids on standard output where something stays.
pub fn kill_text(tag: &str, pid: Option<u32>) -> String {
    // Written in two halves, so that this very command does not find itself.
    let (head, tail) = tag.split_at(tag.len() / 2);
    let pid = pid.map(|pid| pid.to_string()).unwrap_or_default();
    let length = tag.len();
    format!(
        "g={head}; g=\"$g\"{tail}; [ ${{#g}} = {length} ] || exit {NO_TAG}; p={pid}{LIST}list; send TERM; until_gone 20 TERM; send KILL; until_gone 20 KILL; [ -z \"$r\" ] || {{ echo $r; exit {SURVIVORS}; }}"
    )
}

#[cfg(test)]
mod tests {
    #![expect(clippy::disallowed_methods, reason = "a test acts from outside")]

    use super::*;
    use crate::host::pids;
    use std::process::{Command, Stdio};

    const SHELLS: [&[&str]; 5] = [&["dash"], &["bash"], &["busybox", "sh"], &["zsh", "--emulate", "sh"], &["/bin/sh"]];

    fn shells() -> impl Iterator<Item = &'static [&'static str]> {
        SHELLS.into_iter().filter(|words| {
            words[0].starts_with('/')
                || ["/bin", "/usr/bin"].iter().any(|d| std::path::Path::new(d).join(words[0]).exists())
        })
    }

    fn run(shell: &[&str], text: &str, path: Option<&std::path::Path>) -> (Option<i32>, String) {
        let mut command = Command::new(shell[0]);
        command.args(&shell[1..]).args(["-c", text]);
        if let Some(path) = path {
            command.env("PATH", path);
        }
        let out = command.output().expect("shell");
        (out.status.code(), String::from_utf8_lossy(&[out.stdout, out.stderr].concat()).into_owned())
    }

    fn wait_for(count: usize, word: &str) {
        while pids::with_arg(word).len() != count {
            std::thread::yield_now();
        }
    }

    /// A folder with some programs only; `ps` is none of them.
    fn programs(names: &[&str]) -> tempfile::TempDir {
        let home = tempfile::tempdir().expect("tempdir");
        for name in names {
            let from =
                ["/bin", "/usr/bin"].iter().map(|d| format!("{d}/{name}")).find(|p| std::path::Path::new(p).exists());
            std::os::unix::fs::symlink(from.expect("a program"), home.path().join(name)).expect("link");
        }
        home
    }

    #[test]
    fn everything_ends_in_every_shell_with_and_without_ps() {
        let few = programs(&["grep", "sleep", "sh", "dash", "bash", "env"]);
        let none = programs(&["sleep"]);
        for shell in shells() {
            for (round, path) in [None, Some(few.path()), Some(none.path())].into_iter().enumerate() {
                let (tag, word) = (format!("{:032x}", fastrand::u128(..)), format!("34.{}", fastrand::u32(1000..9999)));
                // A child, one that does not listen, one without our environment, and one that was handed to init.
                // Waiting for one that does not listen takes 2 s: once is enough.
                let deaf = if shell == SHELLS[0] { "trap '' TERM; " } else { "" };
                let text = format!(
                    "({deaf}sleep {word}; true) & env -i /bin/sleep {word} & (sleep {word} &) ; sleep {word}; echo next"
                );
                let mut first = Command::new("/bin/sh");
                first.args(["-c", &text]).env(TAG, &tag).stdout(Stdio::null());
                let mut first = first.spawn().expect("sh");
                wait_for(4, &word);
                let absolute = |name: &str| {
                    ["/bin", "/usr/bin"]
                        .iter()
                        .map(|d| format!("{d}/{name}"))
                        .find(|p| std::path::Path::new(p).exists())
                };
                let program = absolute(shell[0]).unwrap_or_else(|| shell[0].to_owned());
                let words: Vec<&str> = std::iter::once(program.as_str()).chain(shell[1..].iter().copied()).collect();
                let ended = run(&words, &kill_text(&tag, Some(first.id())), path);
                let left = pids::with_arg(&word).len();
                assert_eq!((ended.0, left), (Some(0), 0), "{shell:?} {round}: {}", ended.1);
                first.wait().expect("ended");
            }
        }
    }

    #[test]
    fn only_what_has_the_tag_is_found() {
        // Tags that begin and go on with letters and digits, which a shell could take for a variable's name.
        for tag in ["abcdefabcdefabcdefab", "01234567890123456789", "a1b2c3d4e5f60718293a"] {
            let text = kill_text(tag, None);
            let (definitions, _) = text.split_once("list; send TERM").expect("the list comes before the first signal");
            for shell in shells() {
                let (code, said) = run(shell, &format!("{definitions}\nlist; echo \"$g:$r\""), None);
                assert_eq!((code, said.trim()), (Some(0), format!("{tag}:").as_str()), "{shell:?}");
            }
        }
    }

    #[test]
    fn nothing_to_end_is_good() {
        assert_eq!(run(&["/bin/sh"], &kill_text("0123456789abcdef0123", None), None), (Some(0), String::new()));
    }
}
