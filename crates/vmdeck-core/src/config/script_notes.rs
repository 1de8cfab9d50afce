//! Lines whose failure a shell ignores although `set -e` is on: what a test author should know, told by `config check`.
//!
//! A look at the text, not a parser: it says less rather than something wrong.

use vmdeck_model::{
    guest::{Guest, Os},
    suite::{CaseAction, CaseStep, ScriptShell, Suite, has_several_lines},
};

/// Returns a note for each such line of these suites.
pub(super) fn of_setup(guests: &[Guest], suites: &[Suite]) -> Vec<String> {
    let mut out = Vec::new();
    for suite in suites {
        // One guest with such a shell is enough for the line to be a trap.
        let of_guests = || guests.iter().filter(|guest| guest.os != Os::Windows).map(|guest| &guest.shell);
        let shells = |own: &Option<ScriptShell>| -> Vec<ScriptShell> {
            own.iter().chain(suite.shell.as_ref().filter(|_| own.is_none())).cloned().collect::<Vec<_>>()
        };
        let mut look = |what: &str, text: &str, own: &Option<ScriptShell>| {
            let chosen = shells(own);
            let chosen: Vec<&ScriptShell> =
                if chosen.is_empty() { of_guests().collect() } else { chosen.iter().collect() };
            let mut notes: Vec<String> = chosen.into_iter().flat_map(|shell| ignored(text, shell)).collect();
            notes.dedup();
            out.extend(notes.into_iter().map(|note| format!("suite `{}`, {what}: {note}", suite.id)));
        };
        for (what, text) in [("setup", &suite.setup), ("teardown", &suite.teardown)] {
            if let Some(text) = text {
                look(what, text, &None);
            }
        }
        for case in &suite.cases {
            match &case.action {
                CaseAction::Run(text) => look(&format!("case `{}`", case.id), text, &case.shell),
                CaseAction::Steps(steps) => {
                    for (at, step) in steps.iter().enumerate() {
                        if let CaseStep::Run(text) = step {
                            look(&format!("step {} of case `{}`", at + 1, case.id), text, &case.shell);
                        }
                    }
                }
                CaseAction::Script(_) | CaseAction::Host(_) | CaseAction::Discover(_) | CaseAction::Manual(_) => {}
            }
        }
    }
    out
}

/// Returns what a shell ignores in this text, line by line.
fn ignored(text: &str, shell: &ScriptShell) -> Vec<String> {
    let several = has_several_lines(text);
    let (strict, no_pipefail) = match shell {
        ScriptShell::Sh => (several, several),
        ScriptShell::Strict => (true, true),
        ScriptShell::Bash => (true, false),
        ScriptShell::Plain | ScriptShell::PowerShell | ScriptShell::Command(_) => (false, false),
    };
    // Text that is no command: what follows `<<WORD` up to the word.
    if !strict || text.contains("<<") {
        return Vec::new();
    }
    let lines: Vec<(usize, &str)> = text
        .lines()
        .enumerate()
        .map(|(at, line)| (at + 1, line.trim()))
        .filter(|(_, line)| !line.is_empty() && !line.starts_with('#'))
        .collect();
    let mut out = Vec::new();
    for (at, (number, line)) in lines.iter().enumerate() {
        let is_last = at + 1 == lines.len();
        let bare = without_quotes(line);
        let opens = ["if ", "while ", "until ", "elif ", "case "].iter().any(|word| bare.starts_with(word));
        let continues = bare.ends_with('\\') || bare.ends_with("&&") || bare.ends_with("||") || bare.ends_with('|');
        if opens || continues {
            continue;
        }
        let mut note = |why: &str| out.push(format!("line {number} (`{line}`): {why}"));
        if bare.starts_with("! ") && !is_last {
            note("`set -e` ignores what `!` turns round; write `if cmd; then exit 1; fi`");
        } else if bare.contains("&&") && !bare.contains("||") && !is_last {
            note("`set -e` ignores a failure left of `&&`; write two lines");
        } else if no_pipefail && has_pipe(&bare) {
            note("a shell without `pipefail` (dash) ignores a failure left of `|`; use `shell = \"bash\"`");
        }
    }
    out
}

fn has_pipe(bare: &str) -> bool {
    bare.replace("||", "").contains('|')
}

/// Returns the line with everything in quotes, and a comment, taken out.
fn without_quotes(line: &str) -> String {
    let (mut out, mut open, mut escaped) = (String::new(), None, false);
    for c in line.chars() {
        match open {
            _ if escaped => escaped = false,
            None if c == '#' && out.chars().last().is_none_or(char::is_whitespace) => break,
            None if matches!(c, '\'' | '"') => open = Some(c),
            None => {
                escaped = c == '\\';
                out.push(c);
            }
            Some(quote) if c == quote => open = None,
            Some('"') => escaped = c == '\\',
            Some(_) => {}
        }
    }
    out.trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_that_set_e_ignores() {
        let rows: [(&str, &ScriptShell, &[&str]); 16] = [
            ("a && b\nc", &ScriptShell::Sh, &["line 1"]),
            ("c\na && b", &ScriptShell::Sh, &[]),
            ("a && b", &ScriptShell::Sh, &[]),
            ("a && b || c\nd", &ScriptShell::Sh, &[]),
            ("! a\nb", &ScriptShell::Sh, &["line 1"]),
            ("b\n! a", &ScriptShell::Sh, &[]),
            ("a | b\nc", &ScriptShell::Sh, &["line 1"]),
            ("c\na | b", &ScriptShell::Sh, &["line 2"]),
            ("a | b\nc", &ScriptShell::Bash, &[]),
            ("a && b\nc", &ScriptShell::Bash, &["line 1"]),
            ("a && b\nc", &ScriptShell::Plain, &[]),
            ("if a && b; then\nc\nfi", &ScriptShell::Sh, &[]),
            ("echo 'a && b | c'\nc", &ScriptShell::Sh, &[]),
            ("echo x # a && b\nc", &ScriptShell::Sh, &[]),
            ("# a && b\nc\nd", &ScriptShell::Sh, &[]),
            ("cat <<E\na && b\nE\nc", &ScriptShell::Sh, &[]),
        ];
        for (text, shell, want) in rows {
            let got = ignored(text, shell);
            assert_eq!(got.len(), want.len(), "{text:?} {got:?}");
            assert!(got.iter().zip(want).all(|(note, start)| note.starts_with(start)), "{text:?} {got:?}");
        }
    }
}
