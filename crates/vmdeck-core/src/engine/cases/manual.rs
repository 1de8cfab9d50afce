//! A case that is a question to a person: whoever sits before the cockpit answers it.

use super::{
    case_run::{Attempted, CaseRun, Excuse, unrun},
    command_log::RecordedOutput,
};
use crate::{engine::machine::LeasedMachine, host::clock};
use std::time::Duration;
use vmdeck_model::{
    event::{Attempt, EventKind},
    outcome::Verdict,
    quantity::show_duration,
};

/// How long it waits where the case does not say it: whoever has left the cockpit may not come back, and others wait for the lock.
const PATIENCE: Duration = Duration::from_hours(1);

impl CaseRun<'_> {
    /// Asks the question and waits for the answer; where nobody can answer, the case is skipped.
    pub(super) async fn ask(&self, machine: &LeasedMachine, question: &str) -> Attempted {
        let Self { context, guest, suite, case, .. } = *self;
        let control = context.controls.of(&guest.id).filter(|_| context.plan.options.controlled);
        let Some(control) = control else {
            let text = format!("a person has to say, in the cockpit: {question}");
            return Attempted::unrun(unrun(Verdict::Skipped, &text, RecordedOutput::default()), machine);
        };
        let start = clock::now();
        let answered = control.ask();
        context.events.send(EventKind::Asked {
            guest: guest.id.clone(),
            suite: suite.id.clone(),
            case: case.id.clone(),
            question: question.to_owned(),
        });
        let limit = case.timeout.unwrap_or(PATIENCE);
        let (verdict, message) = tokio::select! {
            biased;
            () = context.cancel.cancelled() => (Verdict::Cancelled, context.stop_reason().to_owned()),
            () = machine.down() => (Verdict::Infra, "the guest ended before the question was answered".to_owned()),
            answer = answered => match answer {
                Ok(true) => (Verdict::Passed, String::new()),
                Ok(false) => (Verdict::Failed, format!("a person said no: {question}")),
                Err(_) => (Verdict::Infra, "nobody can answer any more".to_owned()),
            },
            () = clock::sleep(limit) => {
                (Verdict::Failed, format!("nobody answered within {}: {question}", show_duration(limit)))
            }
        };
        let took_ms = clock::ms_since(start);
        let attempt = Attempt { took_ms, ..unrun(verdict, &message, RecordedOutput::default()) };
        Attempted { excuse: Excuse::Case, ..Attempted::unrun(attempt, machine) }
    }
}
