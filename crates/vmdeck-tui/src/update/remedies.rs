//! What to do about what preflight found: shown, copied, or run after a yes.

use super::{dispatch::may_change, list_keys::moved};
use crate::{
    model::Model,
    msg::Effect,
    notices,
    overlay::{Confirm, Overlay, Question},
};
use crossterm::event::{KeyCode, KeyEvent};
use vmdeck_model::event::{Finding, Severity};

/// Takes a key in the list: Enter asks whether to run the command, `y` copies it.
pub(super) fn key(model: &mut Model, at: usize, key: KeyEvent, out: &mut Vec<Effect>) -> Option<Overlay> {
    let all = notices::findings(model);
    let (rows, finding) = (all.len(), all.get(at).map(|finding| (*finding).clone()));
    match key.code {
        KeyCode::Esc | KeyCode::Char('q') => return None,
        KeyCode::Char('y') => out.extend(finding.map(|finding| Effect::Copy(copied(model, &finding)))),
        KeyCode::Enter => match finding.as_ref().and_then(|finding| notices::fix(model, finding)).cloned() {
            Some(words) if may_change(model) => {
                let line = notices::command(&words);
                return Some(Overlay::Confirm(Confirm::new(Question::Mend(words), "run this command?", vec![line])));
            }
            Some(_) => {}
            None => model.say(Severity::Ok, "no single command mends this: do what the line says"),
        },
        _ => {}
    }
    let at = moved(at, rows, key);
    Some(Overlay::Remedies(at))
}

fn copied(model: &Model, finding: &Finding) -> String {
    let command = notices::fix(model, finding).map(|words| notices::command(words));
    command.or_else(|| finding.hint.clone()).unwrap_or_else(|| finding.text.clone())
}

#[cfg(test)]
mod tests {
    use crate::{
        fixture::TestCockpit,
        host_state::Capacity,
        msg::{Effect, Msg},
    };
    use vmdeck_model::event::{EventKind, Finding, Severity};

    fn found(check: &str, severity: Severity, fix: Option<&[&str]>) -> Finding {
        let fix = fix.map(|words| words.iter().map(|word| (*word).to_owned()).collect());
        Finding { check: check.into(), severity, text: "bad".into(), hint: Some("do it".into()), fix }
    }

    #[test]
    fn the_worst_comes_first_and_its_command_is_run_only_after_a_yes() {
        let mut case = TestCockpit::with_run();
        let words: &[&str] = &["chmod", "600", "--", "/home/a b"];
        let findings = vec![found("disk", Severity::Ok, None), found("key", Severity::Fatal, Some(words))];
        // The record of the run has the finding without its command.
        case.event(5, EventKind::PreflightFinding(found("disk", Severity::Ok, None)));
        case.event(6, EventKind::PreflightFinding(found("key", Severity::Fatal, None)));
        case.msg(Msg::Findings(findings, Capacity::default())).sent();
        case.keys("3 enter y");
        assert_eq!(case.sent(), [Effect::Copy("chmod 600 -- '/home/a b'".into())]);
        case.keys("enter enter");
        assert_eq!(case.sent(), [], "Enter is no yes");
        case.keys("enter enter y");
        assert_eq!(case.sent(), [Effect::Mend(words.iter().map(|word| (*word).to_owned()).collect())]);
        case.keys("enter j enter y");
        assert_eq!(case.sent(), [Effect::Copy("do it".into())]);
        assert!(case.toast().contains("no single command"), "{}", case.toast());
        case.keys("esc");
        case.model.read_only = true;
        case.keys("enter enter");
        assert!(case.sent().is_empty() && case.toast().contains("read-only"), "{}", case.toast());
    }
}
