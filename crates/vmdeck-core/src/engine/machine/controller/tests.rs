//! The thirty cases of the controller that this one replaces, against a scripted machine: no hypervisor, no rights needed.

use super::*;
use crate::backend::contract::DumpStacks;
use crate::command::Collected;
use parking_lot::Mutex;
use proptest::prelude::*;
use std::{collections::BTreeMap, sync::Arc};
use tokio::sync::watch;
use vmdeck_model::{event::Stream, lifecycle::TRANSITIONS};

/// What a scripted machine does: how often each call fails, and what was called.
#[derive(Default)]
struct Script {
    failures: BTreeMap<&'static str, u32>,
    calls: Vec<&'static str>,
}

#[derive(Clone, Default)]
struct CallLog(Arc<Mutex<Script>>);

impl CallLog {
    fn failing(calls: &[(&'static str, u32)]) -> Self {
        let shared = Self::default();
        shared.0.lock().failures.extend(calls.iter().copied());
        shared
    }

    fn call(&self, name: &'static str) -> Result<()> {
        let mut script = self.0.lock();
        script.calls.push(name);
        match script.failures.get_mut(name) {
            Some(left @ 1..) => {
                *left -= 1;
                Err(Fault::infra(format!("cannot {name}")).because("scripted"))
            }
            _ => Ok(()),
        }
    }

    fn calls(&self) -> Vec<&'static str> {
        self.0.lock().calls.clone()
    }
}

struct ScriptedMachine {
    shared: CallLog,
    ended: watch::Sender<Option<MachineExit>>,
    can_dump: bool,
}

impl Machine for ScriptedMachine {
    fn name(&self) -> &'static str {
        "scripted"
    }
    fn id(&self) -> MachineId {
        MachineId::default()
    }
    fn start<'a>(&'a mut self, _: CallContext<'a>) -> BoxFuture<'a, Result<()>> {
        Box::pin(async { self.shared.call("start") })
    }
    fn exit(&self) -> watch::Receiver<Option<MachineExit>> {
        self.ended.subscribe()
    }
    fn stop(&mut self) -> BoxFuture<'_, Result<()>> {
        Box::pin(async { self.shared.call("terminate") })
    }
    fn release(&mut self) -> BoxFuture<'_, Result<Vec<Proof>>> {
        Box::pin(async { self.shared.call("close").map(|()| vec![Proof::Gone("gone".into())]) })
    }
    fn detach(self: Box<Self>) {}
    fn stacks(&self) -> Option<&dyn DumpStacks> {
        self.can_dump.then_some(self)
    }
    fn stats(&self) -> Option<Stats> {
        Some(Stats { memory: 7, cpu_ms: 1 })
    }
}

impl DumpStacks for ScriptedMachine {
    fn dump(&self) -> BoxFuture<'_, Result<bool>> {
        Box::pin(async { self.shared.call("dump").map(|()| true) })
    }
}

struct ScriptedConnection {
    shared: CallLog,
    /// The drain waits for ever.
    stuck: bool,
}

impl Connection for ScriptedConnection {
    fn prepare<'a>(&'a mut self, _: &'a dyn Machine) -> BoxFuture<'a, Result<()>> {
        Box::pin(async { self.shared.call("prepare") })
    }
    fn connect<'a>(&'a mut self, _: &'a dyn Machine, _: &'a CancellationToken) -> BoxFuture<'a, Result<()>> {
        Box::pin(async { self.shared.call("connect") })
    }
    fn run<'a>(
        &'a self,
        command: &'a RemoteCommand,
        sink: &'a mut dyn OutputSink,
        _: &'a CancellationToken,
    ) -> BoxFuture<'a, Result<CommandExit>> {
        Box::pin(async move {
            self.shared.call("exec")?;
            sink.write(Stream::Stdout, b"out");
            Ok(CommandExit::Code(command.script.parse().unwrap_or(0)))
        })
    }
    fn close(&mut self) -> BoxFuture<'_, Result<()>> {
        Box::pin(async { self.shared.call("close_connection") })
    }
    fn drain(&mut self) -> BoxFuture<'_, Result<()>> {
        Box::pin(async {
            self.shared.call("drain")?;
            if self.stuck { std::future::pending().await } else { Ok(()) }
        })
    }
}

struct Rig {
    controller: Controller,
    shared: CallLog,
    end: watch::Sender<Option<MachineExit>>,
    can_dump: bool,
}

impl Rig {
    fn new(shared: CallLog) -> Self {
        Self::built(shared, false, true)
    }

    fn built(shared: CallLog, stuck: bool, can_dump: bool) -> Self {
        let link = ScriptedConnection { shared: shared.clone(), stuck };
        let controller = Controller::new(Box::new(link), Box::new(|_, _, _| {}));
        Self { controller, shared, end: watch::channel(None).0, can_dump }
    }

    async fn create(&mut self) -> Result<()> {
        let machine = ScriptedMachine { shared: self.shared.clone(), ended: self.end.clone(), can_dump: self.can_dump };
        let shared = self.shared.clone();
        self.controller
            .create(async move { shared.call("create").map(|()| Box::new(machine) as Box<dyn Machine>) })
            .await
    }

    async fn start(&mut self) -> Result<()> {
        self.controller.start(&CancellationToken::new()).await
    }

    /// The guest ends by itself.
    fn ends(&self, how: MachineExit) {
        self.end.send_replace(Some(how));
    }

    async fn terminate(&mut self) -> Result<()> {
        self.controller.terminate("test").await
    }

    async fn exec(&self, exec: &RemoteCommand) -> Result<CommandExit> {
        self.controller.run(exec, &mut Collected::default(), &CancellationToken::new()).await
    }

    /// Returns a machine in this state.
    async fn at(state: MachineState, shared: CallLog) -> Self {
        let mut rig = Self::new(shared);
        rig.bring_to(state).await;
        rig
    }

    async fn bring_to(&mut self, state: MachineState) {
        if state != MachineState::NotCreated {
            self.create().await.expect("created");
        }
        if state == MachineState::Invalid {
            self.shared.0.lock().failures.insert("connect", 1);
            self.start().await.expect_err("half started");
        }
        if matches!(state, MachineState::Running | MachineState::Terminated) {
            self.start().await.expect("running");
        }
        if state == MachineState::Terminated {
            self.terminate().await.expect("terminated");
        }
        assert_eq!(self.controller.state(), state);
    }
}

// --- idempotency -----------------------------------------------------------------------------------------------------

#[tokio::test]
async fn start_when_running_is_a_no_op() {
    let mut rig = Rig::at(MachineState::Running, CallLog::default()).await;
    let before = rig.shared.calls();
    rig.start().await.expect("no-op");
    assert_eq!((rig.controller.state(), rig.shared.calls()), (MachineState::Running, before));
}

#[tokio::test]
async fn terminate_from_terminated_is_a_no_op() {
    let mut rig = Rig::at(MachineState::Terminated, CallLog::default()).await;
    let before = rig.shared.calls();
    rig.terminate().await.expect("no-op");
    assert_eq!((rig.controller.state(), rig.shared.calls()), (MachineState::Terminated, before));
}

#[tokio::test]
async fn terminate_from_not_created_is_a_no_op() {
    let mut rig = Rig::at(MachineState::NotCreated, CallLog::default()).await;
    rig.terminate().await.expect("no-op");
    assert_eq!((rig.controller.state(), rig.shared.calls().len()), (MachineState::NotCreated, 0));
}

// --- guards ----------------------------------------------------------------------------------------------------------

#[tokio::test]
async fn start_rejects_not_created_terminated_and_invalid() {
    for state in [MachineState::NotCreated, MachineState::Terminated, MachineState::Invalid] {
        let mut rig = Rig::at(state, CallLog::default()).await;
        let fault = rig.start().await.expect_err("rejected");
        assert!(fault.to_string().contains(&format!("it is in state {state}")), "{fault}");
        assert_eq!(rig.controller.state(), state);
    }
}

#[tokio::test]
async fn exec_rejects_terminated() {
    let rig = Rig::at(MachineState::Terminated, CallLog::default()).await;
    assert!(rig.exec(&RemoteCommand::new("0")).await.expect_err("rejected").to_string().contains("Terminated"));
}

#[tokio::test]
async fn exec_rejects_terminal_with_stderr_before_it_looks_at_the_state() {
    let rig = Rig::at(MachineState::Terminated, CallLog::default()).await;
    let fault = rig.exec(&RemoteCommand { terminal: true, ..RemoteCommand::new("0") }).await.expect_err("rejected");
    assert!(fault.to_string().contains("no separate standard error"), "{fault}");
}

#[tokio::test]
async fn stats_rejects_terminated() {
    assert!(Rig::at(MachineState::Terminated, CallLog::default()).await.controller.stats().is_err());
    let running = Rig::at(MachineState::Running, CallLog::default()).await;
    assert_eq!(running.controller.stats().expect("running").map(|s| s.memory), Some(7));
}

#[tokio::test]
async fn wait_rejects_not_created() {
    let mut rig = Rig::at(MachineState::NotCreated, CallLog::default()).await;
    assert!(
        rig.controller.wait(&CancellationToken::new()).await.expect_err("rejected").to_string().contains("NotCreated")
    );
}

#[tokio::test]
async fn dump_stacks_rejects_terminated() {
    assert!(Rig::at(MachineState::Terminated, CallLog::default()).await.controller.dump_stacks().await.is_err());
}

#[tokio::test]
async fn create_rejects_a_second_call_and_a_failed_one_can_be_repeated() {
    let mut rig = Rig::new(CallLog::failing(&[("create", 1)]));
    rig.create().await.expect_err("scripted");
    assert_eq!(rig.controller.state(), MachineState::NotCreated);
    rig.create().await.expect("second try");
    assert!(rig.create().await.expect_err("duplicate").to_string().contains("Created"));
}

// --- start failures --------------------------------------------------------------------------------------------------

#[tokio::test]
async fn any_failure_on_the_way_up_leaves_invalid() {
    for point in ["prepare", "start", "connect"] {
        let mut rig = Rig::new(CallLog::failing(&[(point, 1)]));
        rig.create().await.expect("created");
        rig.start().await.expect_err(point);
        assert_eq!(rig.controller.state(), MachineState::Invalid, "{point}");
        rig.terminate().await.expect("recovered");
        assert_eq!(rig.controller.state(), MachineState::Terminated, "{point}");
    }
}

#[tokio::test]
async fn the_console_is_listened_to_before_the_machine_runs() {
    let rig = Rig::at(MachineState::Running, CallLog::default()).await;
    assert_eq!(rig.shared.calls(), ["create", "prepare", "start", "connect"]);
}

// --- the way down ----------------------------------------------------------------------------------------------------

#[tokio::test]
async fn the_order_is_terminate_close_connection_close() {
    let rig = Rig::at(MachineState::Terminated, CallLog::default()).await;
    assert_eq!(rig.shared.calls()[4..], ["terminate", "close_connection", "close"]);
    assert_eq!(rig.controller.proofs(), ["gone"]);
}

#[tokio::test]
async fn a_machine_that_never_ran_is_released_without_terminate() {
    let mut rig = Rig::at(MachineState::Created, CallLog::default()).await;
    rig.terminate().await.expect("released");
    assert_eq!(rig.shared.calls(), ["create", "close_connection", "close"]);
    assert_eq!(rig.controller.state(), MachineState::Terminated);
}

#[tokio::test]
async fn a_terminate_failure_is_swallowed_and_close_is_still_called() {
    let mut rig = Rig::at(MachineState::Running, CallLog::failing(&[("terminate", 1)])).await;
    rig.terminate().await.expect("swallowed");
    assert_eq!(rig.shared.calls()[4..], ["terminate", "close_connection", "close"]);
    assert_eq!((rig.controller.state(), rig.controller.swallowed().len()), (MachineState::Terminated, 1));
}

#[tokio::test]
async fn a_close_connection_failure_is_swallowed_and_close_is_still_called() {
    let mut rig = Rig::at(MachineState::Running, CallLog::failing(&[("close_connection", 1)])).await;
    rig.terminate().await.expect("swallowed");
    assert_eq!((rig.controller.state(), rig.controller.swallowed().len()), (MachineState::Terminated, 1));
}

#[tokio::test]
async fn a_close_failure_leaves_invalid() {
    let mut rig = Rig::at(MachineState::Running, CallLog::failing(&[("close", 1)])).await;
    rig.terminate().await.expect_err("scripted");
    assert_eq!(rig.controller.state(), MachineState::Invalid);
}

#[tokio::test]
async fn invalid_is_left_by_another_terminate() {
    let mut rig = Rig::at(MachineState::Running, CallLog::failing(&[("close", 1)])).await;
    rig.terminate().await.expect_err("scripted");
    rig.terminate().await.expect("second try");
    assert_eq!(rig.controller.state(), MachineState::Terminated);
    assert_eq!(rig.shared.calls().iter().filter(|c| **c == "close").count(), 2);
}

#[tokio::test]
async fn a_retry_that_fails_stays_invalid() {
    let mut rig = Rig::at(MachineState::Running, CallLog::failing(&[("close", 3)])).await;
    for _ in 0..3 {
        rig.terminate().await.expect_err("scripted");
        assert_eq!(rig.controller.state(), MachineState::Invalid);
    }
    rig.terminate().await.expect("at last");
}

// --- errors that must arrive -----------------------------------------------------------------------------------------

#[tokio::test]
async fn an_exec_error_arrives() {
    let rig = Rig::at(MachineState::Running, CallLog::failing(&[("exec", 1)])).await;
    assert!(rig.exec(&RemoteCommand::new("0")).await.expect_err("scripted").to_string().contains("cannot exec"));
}

#[tokio::test]
async fn a_dump_error_arrives() {
    let rig = Rig::at(MachineState::Running, CallLog::failing(&[("dump", 1)])).await;
    assert!(rig.controller.dump_stacks().await.is_err());
}

#[tokio::test]
async fn exit_status_before_terminated_is_an_error() {
    for state in [MachineState::NotCreated, MachineState::Created, MachineState::Running, MachineState::Invalid] {
        assert!(Rig::at(state, CallLog::default()).await.controller.exit_status().is_err(), "{state}");
    }
}

// --- delegation ------------------------------------------------------------------------------------------------------

#[tokio::test]
async fn exec_forwards_the_exit_code() {
    let rig = Rig::at(MachineState::Running, CallLog::default()).await;
    assert_eq!(rig.exec(&RemoteCommand::new("42")).await.expect("ran"), CommandExit::Code(42));
}

#[tokio::test]
async fn dump_stacks_where_it_is_supported() {
    assert!(Rig::at(MachineState::Running, CallLog::default()).await.controller.dump_stacks().await.expect("asked"));
}

#[tokio::test]
async fn dump_stacks_where_it_is_not_supported() {
    let mut rig = Rig::built(CallLog::default(), false, false);
    rig.bring_to(MachineState::Running).await;
    assert!(!rig.controller.dump_stacks().await.expect("asked"));
}

#[tokio::test]
async fn exit_status_tells_when_and_how() {
    let mut rig = Rig::at(MachineState::Running, CallLog::default()).await;
    rig.ends(MachineExit::Panicked("p".into()));
    rig.terminate().await.expect("released");
    let status = rig.controller.exit_status().expect("terminated");
    assert_eq!(status.exit, Some(MachineExit::Panicked("p".into())));
    assert!(status.stopped >= rig.controller.start_time().expect("started"));
}

#[tokio::test]
async fn start_time_is_known_while_running_and_after() {
    for (state, known) in [
        (MachineState::NotCreated, false),
        (MachineState::Created, false),
        (MachineState::Running, true),
        (MachineState::Terminated, true),
        (MachineState::Invalid, false),
    ] {
        assert_eq!(Rig::at(state, CallLog::default()).await.controller.start_time().is_some(), known, "{state}");
    }
}

// --- waiting and the guest's own end ---------------------------------------------------------------------------------

#[tokio::test]
async fn wait_from_terminated_drains_the_console() {
    let mut rig = Rig::at(MachineState::Terminated, CallLog::default()).await;
    rig.controller.wait(&CancellationToken::new()).await.expect("drained");
    assert_eq!(rig.shared.calls().last(), Some(&"drain"));
}

#[tokio::test]
async fn wait_can_be_cancelled_during_the_drain() {
    let mut rig = Rig::built(CallLog::default(), true, true);
    rig.bring_to(MachineState::Terminated).await;
    let cancel = CancellationToken::new();
    let (waited, ()) = tokio::join!(rig.controller.wait(&cancel), async { cancel.cancel() });
    assert_eq!(waited.expect_err("cancelled").blame(), vmdeck_model::error::Blame::Cancelled);
}

#[tokio::test]
async fn wait_while_running_ends_with_the_guest() {
    let mut rig = Rig::at(MachineState::Running, CallLog::default()).await;
    let (end, never) = (rig.end.clone(), CancellationToken::new());
    let (waited, _) = tokio::join!(rig.controller.wait(&never), async { end.send(Some(MachineExit::Rebooted)) });
    waited.expect("ended");
}

/// Stopped all the same: QEMU stays after a panic, and an adopted machine is put back by its stop.
#[tokio::test]
async fn a_guest_that_ended_while_running_is_taken_down_and_its_end_is_the_reason() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let told = Arc::clone(&seen);
    let mut rig = Rig::at(MachineState::Running, CallLog::default()).await;
    rig.controller.on_change = Box::new(move |_, to, why| told.lock().push((to, why.to_owned())));
    rig.ends(MachineExit::Shutdown("guest-shutdown".into()));
    rig.terminate().await.expect("released");
    let why = MachineExit::Shutdown("guest-shutdown".into()).to_string();
    assert_eq!(*seen.lock(), [(MachineState::Terminated, why)]);
    assert_eq!(rig.shared.calls()[4..], ["terminate", "close_connection", "close"]);
}

/// The old controller overwrote `Invalid` here, and then a failed close was never tried again.
#[tokio::test]
async fn a_guest_that_ends_in_invalid_stays_invalid_until_it_is_released() {
    let mut rig = Rig::at(MachineState::Running, CallLog::failing(&[("close", 2)])).await;
    rig.terminate().await.expect_err("scripted");
    rig.ends(MachineExit::Crashed("x".into()));
    assert_eq!(rig.controller.state(), MachineState::Invalid);
    rig.terminate().await.expect_err("scripted again");
    rig.terminate().await.expect("released");
    assert_eq!(rig.controller.exit_status().expect("terminated").exit, Some(MachineExit::Crashed("x".into())));
}

#[tokio::test]
async fn an_end_whose_release_fails_leaves_invalid() {
    let mut rig = Rig::at(MachineState::Running, CallLog::failing(&[("close", 1)])).await;
    rig.ends(MachineExit::Rebooted);
    rig.terminate().await.expect_err("scripted");
    assert_eq!(rig.controller.state(), MachineState::Invalid);
    rig.terminate().await.expect("released");
}

// --- anything at any time --------------------------------------------------------------------------------------------

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]
    #[test]
    fn random_calls_with_random_failures_never_leave_the_table_and_everything_can_be_released(
        calls in proptest::collection::vec(0u8..5, 0..24),
        failing in proptest::collection::vec((0usize..6, 1u32..3), 0..5),
    ) {
        let points = ["create", "prepare", "start", "connect", "terminate", "close"];
        let shared = CallLog::failing(&failing.iter().map(|(i, n)| (points[*i], *n)).collect::<Vec<_>>());
        let seen = Arc::new(Mutex::new(Vec::new()));
        let told = Arc::clone(&seen);
        let link = ScriptedConnection { shared: shared.clone(), stuck: false };
        let on_change: OnChange = Box::new(move |from, to, _| told.lock().push((from, to)));
        let mut rig = Rig { controller: Controller::new(Box::new(link), on_change), shared, end: watch::channel(None).0, can_dump: true };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("runtime");
        runtime.block_on(async {
            for call in calls {
                let _ = match call {
                    0 => rig.create().await,
                    1 => rig.start().await,
                    2 => rig.terminate().await,
                    3 => {
                        rig.ends(MachineExit::Rebooted);
                        Ok(())
                    }
                    _ => rig.exec(&RemoteCommand::new("0")).await.map(drop),
                };
            }
            for _ in 0..8 {
                let _ = rig.terminate().await;
            }
        });
        prop_assert!(matches!(rig.controller.state(), MachineState::Terminated | MachineState::NotCreated));
        let mut at = MachineState::NotCreated;
        for (from, to) in seen.lock().iter() {
            prop_assert_eq!(at, *from);
            prop_assert!(TRANSITIONS.iter().any(|r| r.0 == *from && r.2 == *to), "{from} -> {to}");
            at = *to;
        }
    }
}
