//! Runs one case in a machine that is up, and judges it by its exit status alone.
//!
//! Three things are kept apart: the code failed, the guest failed, nobody can tell. No status means `infra`, never a pass.

use super::{
    conductor::Shared,
    launch::{self, Machine},
    link,
    logs::{Logs, Source},
};
use crate::{
    command::{Exec, Exit},
    host::clock,
    transport::source,
};
use std::{path::PathBuf, time::Duration};
use vmdeck_model::{
    error::{Blame, Fault},
    event::{Attempt, EventKind},
    guest::Guest,
    ids::{CaseId, SuiteId},
    outcome::Verdict,
    quantity::show_duration,
    suite::{Action, Case, Expect, Suite},
};

/// How long the machine's own end may come after the connection's.
const LAG: Duration = Duration::from_millis(500);
/// How long a command that was cancelled may take to end.
const GRACE: Duration = Duration::from_secs(15);

/// A case to be run, in one of the rounds.
#[derive(Clone, Debug)]
pub(super) struct Item {
    pub(super) suite: usize,
    pub(super) case: usize,
    pub(super) round: u32,
}

/// How a case ended, all attempts taken together.
pub(super) struct Outcome {
    pub(super) verdict: Verdict,
    /// The machine cannot be used any more.
    pub(super) machine_lost: bool,
}

/// What every command of a suite has in common.
pub(super) fn base(guest: &Guest, suite: &Suite) -> Exec {
    Exec {
        env: suite.env.clone(),
        dir: suite.dir.clone().or_else(|| guest.source.as_ref().map(|s| s.to.clone())),
        run_as: suite.run_as,
        ..Exec::new("")
    }
}

/// Runs a case with its retries and tells how it ended.
pub(super) async fn run(
    shared: &Shared,
    guest: &Guest,
    machine: &mut Machine,
    suite: &Suite,
    case: &Case,
    round: u32,
) -> Outcome {
    let retries = shared.plan.options.retries.unwrap_or(case.retries);
    let dir = case_dir(shared, guest, suite, case, round);
    let mut earlier: Vec<Attempt> = Vec::new();
    loop {
        let number = u32::try_from(earlier.len()).unwrap_or(u32::MAX) + 1;
        shared.emit.fact(EventKind::CaseStarted {
            guest: guest.id.clone(),
            suite: suite.id.clone(),
            case: case.id.clone(),
            round,
            attempt: number,
        });
        let place = if number == 1 { dir.clone() } else { dir.join(format!("attempt-{number}")) };
        let (mut attempt, machine_lost) = one_attempt(shared, guest, machine, suite, case, place).await;
        let may_retry = !machine_lost && !shared.cancel.is_cancelled();
        if attempt.verdict == Verdict::Failed && number <= retries && may_retry {
            shared.emit.fact(EventKind::Retrying {
                guest: Some(guest.id.clone()),
                what: format!("{}/{}", suite.id, case.id),
                attempt: number + 1,
                of: retries + 1,
                after_ms: 0,
                why: attempt.message.clone(),
            });
            earlier.push(attempt);
            continue;
        }
        if attempt.verdict == Verdict::Passed && !earlier.is_empty() {
            attempt.verdict = Verdict::Flaky;
            attempt.message = format!("passed at attempt {number}; before: {}", earlier[0].message);
        }
        let verdict = attempt.verdict;
        tell(shared, guest, (&suite.id, &case.id), round, attempt, earlier);
        return Outcome { verdict, machine_lost };
    }
}

/// Tells a verdict.
fn tell(
    shared: &Shared,
    guest: &Guest,
    (suite, case): (&SuiteId, &CaseId),
    round: u32,
    last: Attempt,
    earlier: Vec<Attempt>,
) {
    shared.emit.fact(EventKind::CaseEnded {
        guest: guest.id.clone(),
        suite: suite.clone(),
        case: case.clone(),
        round,
        verdict: last.verdict,
        exit: last.exit,
        took_ms: last.took_ms,
        message: last.message,
        stdout_tail: last.stdout_tail,
        stderr_tail: last.stderr_tail,
        earlier,
    });
}

/// Tells a verdict of a case that was never run.
pub(super) fn tell_unrun(
    shared: &Shared,
    guest: &Guest,
    suite: &Suite,
    case: &Case,
    round: u32,
    verdict: Verdict,
    message: &str,
) {
    let attempt = Attempt {
        verdict,
        exit: None,
        took_ms: 0,
        message: message.to_owned(),
        stdout_tail: String::new(),
        stderr_tail: String::new(),
    };
    tell(shared, guest, (&suite.id, &case.id), round, attempt, Vec::new());
}

async fn one_attempt(
    shared: &Shared,
    guest: &Guest,
    machine: &mut Machine,
    suite: &Suite,
    case: &Case,
    dir: PathBuf,
) -> (Attempt, bool) {
    let start = clock::now();
    let exec = command(guest, suite, case);
    let source = Source { guest: guest.id.clone(), suite: suite.id.clone(), case: Some(case.id.clone()) };
    let mut logs = Logs::open(&dir, source, shared.emit.clone(), &shared.redactor, case.expect.stdout.clone());
    let limit = case.timeout.unwrap_or(guest.case_timeout);
    let ended = supervise(shared, machine, &exec, &mut logs, limit).await;
    let took_ms = clock::ms_since(start);
    let (stdout_tail, stderr_tail, stdout_good) = logs.finish();
    let (verdict, exit, message, machine_lost) = match ended {
        End::Exit(exit) => {
            let (verdict, message) = judge(&case.expect, &exit, stdout_good);
            (verdict, exit.code(), message, false)
        }
        End::Timeout(still_runs) => {
            let fault =
                Fault::infra(format!("case `{}/{}` took longer than {}", suite.id, case.id, show_duration(limit)));
            // A guest that hangs is asked for its stacks while it still can be; they go to its console.
            let _ = clock::within(Duration::from_secs(10), machine.controller.dump_stacks()).await;
            launch::diagnose(shared, guest, &machine.controller, &fault).await;
            let took = format!("took longer than {}", show_duration(limit));
            match still_runs {
                None => (Verdict::Failed, None, format!("{took} and was ended"), false),
                // Nothing else may run beside it.
                Some(why) => (Verdict::Failed, None, shared.redactor.text(&format!("{took}; {why}")), true),
            }
        }
        End::Cancelled => (Verdict::Cancelled, None, shared.why_stopped().to_owned(), false),
        End::Refused(fault) => {
            let hint = fault.remedy().map(|h| format!(" ({h})")).unwrap_or_default();
            (Verdict::Infra, None, shared.redactor.text(&format!("{fault}{hint}")), false)
        }
        // The machine is replaced in both: after such a line nothing in it can be trusted.
        End::Complaint(fault) => (Verdict::Failed, None, shared.redactor.text(&fault.to_string()), true),
        End::Lost(fault) => {
            launch::diagnose(shared, guest, &machine.controller, &fault).await;
            (Verdict::Infra, None, shared.redactor.text(&fault.to_string()), true)
        }
    };
    (Attempt { verdict, exit, took_ms, message, stdout_tail, stderr_tail }, machine_lost)
}

fn command(guest: &Guest, suite: &Suite, case: &Case) -> Exec {
    let base = base(guest, suite);
    match &case.action {
        Action::Run(script) => Exec { script: script.clone(), ..base },
        Action::Script(path) => source::script(path, &base),
    }
}

/// How a command came to its end.
enum End {
    Exit(Exit),
    /// It took too long; with the reason why it may still run in the guest.
    Timeout(Option<Fault>),
    Cancelled,
    /// It was never started, and the machine is well: a folder or sudo's leave is missing.
    Refused(Fault),
    /// An error pattern was found on the console while the machine lives on: the code made the system complain.
    Complaint(Fault),
    Lost(Fault),
}

/// Runs a command while watching everything that can end it.
async fn supervise(shared: &Shared, machine: &mut Machine, exec: &Exec, logs: &mut Logs, limit: Duration) -> End {
    let token = shared.cancel.child_token();
    let (mut ended, mut error) = (machine.ended.clone(), machine.console_error.clone());
    let end = {
        let run = machine.controller.exec(exec, logs, &token);
        tokio::pin!(run);
        tokio::select! {
            // The exit comes first: a case that ended and a guest that powers off after it is no loss.
            biased;
            result = &mut run => match result {
                Ok(exit) => match machine.console_error.borrow().as_ref() {
                    // The console was faster than the status.
                    Some(found) => End::Complaint(link::console_fault(found)),
                    None => End::Exit(exit),
                },
                Err(fault) if fault.blame() == Blame::Cancelled => End::Cancelled,
                Err(fault) if fault.blame() == Blame::User => End::Refused(fault),
                Err(fault) => End::Lost(fault),
            },
            Some(found) = link::told(&mut error) => End::Complaint(link::console_fault(&found)),
            Some(how) = link::told(&mut ended) => End::Lost(Fault::infra("cannot finish the command").because(how)),
            () = clock::sleep(limit) => {
                token.cancel();
                let late = || Fault::infra("cannot end the command in the guest").because("nothing answers");
                End::Timeout(match clock::within(GRACE, &mut run).await {
                    Some(Err(fault)) if fault.blame() != Blame::Cancelled => Some(fault),
                    Some(_) => None,
                    None => Some(late()),
                })
            }
        }
    };
    match end {
        End::Lost(fault) => End::Lost(explain(machine, fault).await),
        End::Complaint(fault) if is_down(machine).await => End::Lost(fault),
        end => end,
    }
}

/// Whether the error on the console was the machine's last: it ended, or its kernel says that it has stopped.
async fn is_down(machine: &Machine) -> bool {
    let panicked = machine.console_error.borrow().as_ref().is_some_and(|e| e.line.contains("Kernel panic"));
    let mut ended = machine.ended.clone();
    panicked || clock::within(LAG, link::told(&mut ended)).await.is_some()
}

/// A lost connection has a reason: what the console or the machine says shortly after explains more than the socket does.
async fn explain(machine: &mut Machine, fault: Fault) -> Fault {
    let mut error = machine.console_error.clone();
    if let Some(Some(found)) = clock::within(LAG, link::told(&mut error)).await {
        return link::console_fault(&found);
    }
    match machine.ended.borrow().as_ref() {
        Some(how) => Fault::infra("cannot finish the command").because(how),
        None => fault,
    }
}

fn judge(expect: &Expect, exit: &Exit, stdout_good: bool) -> (Verdict, String) {
    match exit {
        Exit::Code(code) if Some(*code) == expect.skip => (Verdict::Skipped, format!("exit {code} means skipped")),
        Exit::Code(code) if *code != expect.exit => {
            let wanted = if expect.exit == 0 { String::new() } else { format!(", expected {}", expect.exit) };
            (Verdict::Failed, format!("exit {code}{wanted}"))
        }
        Exit::Code(_) if !stdout_good => {
            let wanted = expect.stdout.as_ref().map_or("", |p| p.source());
            (Verdict::Failed, format!("no line of stdout matches `{wanted}`"))
        }
        Exit::Code(_) => (Verdict::Passed, String::new()),
        Exit::Signal(_) => (Verdict::Failed, exit.to_string()),
    }
}

fn case_dir(shared: &Shared, guest: &Guest, suite: &Suite, case: &Case, round: u32) -> PathBuf {
    let dir = shared.guest_dir(guest).join(suite.id.as_str()).join(case.id.as_str());
    if round == 1 { dir } else { dir.join(format!("round-{round}")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vmdeck_model::pattern::Pattern;

    #[test]
    fn only_the_exit_status_and_the_pattern_decide() {
        let expect = Expect { exit: 3, skip: Some(77), stdout: Pattern::parse("/ok/").ok() };
        let check = |exit: Exit, stdout, verdict| assert_eq!(judge(&expect, &exit, stdout).0, verdict, "{exit}");
        check(Exit::Code(3), true, Verdict::Passed);
        check(Exit::Code(3), false, Verdict::Failed);
        check(Exit::Code(0), true, Verdict::Failed);
        check(Exit::Code(77), false, Verdict::Skipped);
        check(Exit::Code(255), true, Verdict::Failed);
        check(Exit::Signal("KILL".into()), true, Verdict::Failed);
    }
}
