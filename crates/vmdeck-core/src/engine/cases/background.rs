//! A case that goes on beside those behind it, to the end of its suite: a server for the others, as a rule.
//!
//! It is judged at the end: it passes where it still ran then, and its output is as it must be.

use super::{
    case::Outcome,
    case_run::CaseRun,
    command_log::{CommandLog, OutputOrigin, RecordedOutput},
    line_match::LineMatch,
};
use crate::{
    command::{Collected, CommandExit, OutputSink, RemoteCommand, Shell},
    engine::machine::LeasedMachine,
    host::clock,
    transport::session::Session,
};
use std::{sync::Arc, time::Duration};
use tokio::{sync::watch, task::JoinHandle, time::Instant};
use tokio_util::sync::CancellationToken;
use vmdeck_model::{
    error::{Blame, Fault, Result},
    event::{Attempt, EventKind, Stream},
    outcome::Verdict,
    quantity::show_duration,
    suite::Readiness,
};

/// How long its end may take, with all that it started.
const GRACE: Duration = Duration::from_secs(30);
/// How long the guest may take to answer a short question.
const ANSWER: Duration = Duration::from_secs(5);
/// How long the end of a command may come behind the answer.
const LAG: Duration = Duration::from_millis(200);

/// A case that goes on.
pub(super) struct Background {
    start: Instant,
    stop: CancellationToken,
    session: Arc<dyn Session>,
    task: JoinHandle<(Result<CommandExit>, RecordedOutput)>,
}

/// Why no more cases are run beside one.
pub(super) enum Stopped {
    /// The suite has come to its end.
    End,
    /// The run or the guest was stopped.
    Cancelled(&'static str),
    /// A machine of the suite was lost.
    Lost(String),
    /// The case behind it could not begin.
    NotReady(String),
}

/// Takes the output of such a case, and tells when it is ready.
struct BackgroundSink {
    log: CommandLog,
    wanted: Option<[LineMatch; 2]>,
    ready: watch::Sender<bool>,
}

impl OutputSink for BackgroundSink {
    fn write(&mut self, stream: Stream, bytes: &[u8]) {
        if let Some(wanted) = &mut self.wanted {
            let line = &mut wanted[usize::from(stream == Stream::Stderr)];
            line.feed(bytes);
            if line.is_found() {
                self.wanted = None;
                self.ready.send_replace(true);
            }
        }
        self.log.write(stream, bytes);
    }
}

impl CaseRun<'_> {
    /// Starts the case and waits until it is ready; the inner error says why it is not, the outer why it could not even begin.
    pub(super) async fn start(
        &self,
        machine: &LeasedMachine,
    ) -> Result<(Background, Result<(), Stopped>), (Verdict, String)> {
        let Self { context, guest, suite, case, round, .. } = *self;
        let folders = self.of_suite.and_then(|all| all.of(suite, case));
        let run = CaseRun { folders: folders.as_ref(), ..*self };
        context.events.send(EventKind::CaseStarted {
            guest: guest.id.clone(),
            suite: suite.id.clone(),
            case: case.id.clone(),
            round,
            attempt: 1,
            only: None,
            background: true,
        });
        let begun = run.command(machine, (1, None)).and_then(|command| {
            let session = machine.controller.shared_session().ok_or_else(|| Fault::infra("there is no session"))?;
            Ok((command, session))
        });
        let (command, session) = match begun {
            Ok(begun) => begun,
            Err(fault) => return Err((Verdict::Infra, fault.with_remedy())),
        };
        if let Some(Readiness::Port(port)) = case.background
            && ask(session.as_ref(), listens_script(session.shell(), port, false)).await
        {
            // Whoever listens there would be taken for it.
            let why = format!("it was not begun: something listens on port {port} of the guest already");
            return Err((Verdict::Failed, why));
        }
        let origin = OutputOrigin { guest: guest.id.clone(), suite: suite.id.clone(), case: Some(case.id.clone()) };
        let limit = context.plan.host.log_size;
        let log =
            CommandLog::open(&self.dir(1), origin, context.events.clone(), &context.redactor, &case.expect, limit);
        let wanted = match &case.background {
            Some(Readiness::Line(pattern)) => Some([(); 2].map(|()| LineMatch::new(pattern.clone()))),
            Some(Readiness::Port(_) | Readiness::Started) | None => None,
        };
        let (ready, seen) = watch::channel(false);
        let (stop, of_task) = (CancellationToken::new(), Arc::clone(&session));
        let token = stop.clone();
        let task = tokio::spawn(async move {
            let mut sink = BackgroundSink { log, wanted, ready };
            let ended = of_task.run(&command, &mut sink, &token).await;
            (ended, sink.log.finish())
        });
        let background = Background { start: clock::now(), stop, session: Arc::clone(&session), task };
        let is_ready = self.await_readiness(machine, &background, session.as_ref(), seen).await;
        Ok((background, is_ready))
    }

    /// Waits until it is ready, or can be so no more.
    async fn await_readiness(
        &self,
        machine: &LeasedMachine,
        background: &Background,
        session: &dyn Session,
        mut seen: watch::Receiver<bool>,
    ) -> Result<(), Stopped> {
        let limit = self.limit();
        let probed = CancellationToken::new();
        let _probed = probed.clone().drop_guard();
        let probe = async {
            let Some(Readiness::Port(port)) = self.case.background else { return std::future::pending().await };
            let listens = RemoteCommand::new(listens_script(session.shell(), port, true));
            let ended = session.run(&listens, &mut Collected::default(), &probed).await;
            if !matches!(ended, Ok(CommandExit::Code(0))) {
                // How it ended is told where it matters: by the machine, or by the limit.
                std::future::pending::<()>().await;
            }
        };
        let gone = async {
            // Who says that it is ready goes with the command.
            while seen.changed().await.is_ok() {
                if *seen.borrow() {
                    return true;
                }
            }
            *seen.borrow()
        };
        if matches!(self.case.background, Some(Readiness::Started) | None) {
            return Ok(());
        }
        let not_yet = || Stopped::NotReady(format!("was not ready within {}", show_duration(limit)));
        tokio::select! {
            biased;
            is_ready = gone => if is_ready { Ok(()) } else { Err(Stopped::End) },
            () = probe => if background.task.is_finished() { Err(Stopped::End) } else { Ok(()) },
            () = self.context.cancel.cancelled() => Err(Stopped::Cancelled(self.context.stop_reason())),
            () = machine.down() => Err(Stopped::Lost("the guest was lost".to_owned())),
            () = clock::sleep(limit) => Err(not_yet()),
        }
    }

    /// Ends a case that goes on, and reports how it ended.
    pub(super) async fn end(&self, background: Background, why: Stopped) -> Outcome {
        let Background { start, stop, session, mut task } = background;
        let is_end = matches!(why, Stopped::End);
        if is_end && !task.is_finished() {
            // An end of its own may be on its way: it is heard before the answer to what is asked now, or right behind it.
            ask(session.as_ref(), "exit 0".to_owned()).await;
        }
        let mut joined = if is_end { clock::within(LAG, &mut task).await } else { None };
        let by_itself = joined.is_some();
        if !by_itself {
            stop.cancel();
            joined = clock::within(GRACE, &mut task).await;
        }
        let clear = |text: String| self.context.redactor.text(&text);
        let (ended, output) = joined.and_then(std::result::Result::ok).unwrap_or_else(|| {
            task.abort();
            let why = Fault::infra("cannot end the command in the guest").because("nothing answers");
            (Err(why), RecordedOutput::default())
        });
        let RecordedOutput { stdout_tail, stderr_tail, unmet, lost } = output;
        let exit = ended.as_ref().ok().and_then(CommandExit::code);
        let said = match &ended {
            Ok(exit) => format!("it ended before its suite: {exit}"),
            Err(fault) => fault.to_string(),
        };
        let (verdict, message) = match (why, by_itself, &ended) {
            (Stopped::Cancelled(why), ..) => (Verdict::Cancelled, why.to_owned()),
            (Stopped::Lost(why), ..) => (Verdict::Infra, clear(why)),
            (Stopped::NotReady(why), ..) => (Verdict::Failed, clear(format!("it {why}"))),
            (Stopped::End, _, Err(fault)) if fault.blame() == Blame::User => {
                (Verdict::Infra, clear(fault.with_remedy()))
            }
            (Stopped::End, true, Ok(_)) => (Verdict::Failed, said),
            (Stopped::End, true, Err(_)) => (Verdict::Infra, clear(said)),
            (Stopped::End, false, Err(fault)) if fault.blame() != Blame::Cancelled => (Verdict::Infra, clear(said)),
            (Stopped::End, false, _) => match (lost, unmet) {
                (Some(lost), _) => (Verdict::Infra, clear(lost)),
                (None, Some(unmet)) => (Verdict::Failed, clear(unmet)),
                (None, None) => (Verdict::Passed, String::new()),
            },
        };
        let exit = exit.filter(|_| by_itself);
        let took_ms = clock::ms_since(start);
        let is_red = self.report_background(Attempt { verdict, exit, took_ms, message, stdout_tail, stderr_tail });
        Outcome { verdict, is_red, machine_lost: false }
    }
}

impl Background {
    /// Returns whether it has ended by itself.
    pub(super) fn has_ended(&self) -> bool {
        self.task.is_finished()
    }
}

/// Returns whether a short command of ours says yes, by its status.
async fn ask(session: &dyn Session, script: String) -> bool {
    let (command, never, mut said) = (RemoteCommand::new(script), CancellationToken::new(), Collected::default());
    let asked = clock::within(ANSWER, session.run(&command, &mut said, &never)).await;
    matches!(asked, Some(Ok(CommandExit::Code(0))))
}

/// Returns the text that says whether something in the guest listens on this port, or waits until it does.
fn listens_script(shell: Shell, port: u16, waits: bool) -> String {
    match shell {
        // What the kernel says, else what the system's own tool does.
        Shell::Posix => format!(
            "if [ -r /proc/net/tcp ]; then t() {{ cat /proc/net/tcp /proc/net/tcp6 2>/dev/null | grep -qi ':{port:04X} [0-9A-F]*:0000 0A '; }}\n\
             else t() {{ netstat -an | grep -q '[.:]{port} .*LISTEN'; }}; fi\n{}",
            if waits { "until t; do sleep 0.1 2>/dev/null || sleep 1; done" } else { "t" }
        ),
        Shell::PowerShell => {
            let there = format!("(Get-NetTCPConnection -State Listen -LocalPort {port} -ErrorAction SilentlyContinue)");
            if waits {
                format!("while(-not {there}){{Start-Sleep -Milliseconds 100}}")
            } else {
                format!("if(-not {there}){{exit 1}}")
            }
        }
    }
}
