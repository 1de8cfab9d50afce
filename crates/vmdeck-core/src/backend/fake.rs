//! The `fake` backend: a machine that follows a script from the config. It makes nothing and runs nothing.
//!
//! For trying out a config, the reports and the cockpit, and for the engine's own tests.

use super::{
    capabilities::{Capabilities, ConsoleKind},
    contract::{Backend, Console, Machine, MachineExit, note_exit},
    guest_exec::GuestExec,
    proof::Proof,
    record::{MachineId, MachineRecord},
    request::CreateRequest,
};
use crate::{
    command::{CommandExit, OutputSink, RemoteCommand},
    context::CallContext,
    host::clock,
};
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use std::{collections::BTreeMap, fs, io::Write, path::PathBuf, sync::Arc, time::Duration};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use vmdeck_model::machine::MachineInfo;
use vmdeck_model::{
    error::{Blame, Fault, Result},
    event::{Finding, Stream},
    guest::Guest,
    key::{Key, Kind, Options, Value},
    quantity::parse_duration,
};

/// The steps at which the script can fail.
const FAILURES: &[&str] = &["create", "start", "boot", "panic", "terminate", "close", "close-once"];

/// The config keys of the backend.
pub const KEYS: &[Key] = &[
    Key {
        path: "guests.*.fake.boot",
        kind: Kind::Duration,
        default: Some("\"0s\""),
        doc: "time from start to the first command",
    },
    Key {
        path: "guests.*.fake.console",
        kind: Kind::Texts,
        default: Some("[]"),
        doc: "lines on the console, spread over the boot",
    },
    Key { path: "guests.*.fake.fail", kind: Kind::Choice(FAILURES), default: None, doc: "the step that fails" },
    Key {
        path: "guests.*.fake.replies",
        kind: Kind::Map,
        default: Some("{}"),
        doc: "answers by exact command: `CODE[@DELAY] [TEXT]`, `lost` or `hang`; several, in turn, separated by ` | `",
    },
];

/// What the backend can do.
pub const CAPABILITIES: Capabilities = Capabilities {
    isolated: true,
    guest_exec: true,
    console: ConsoleKind::Log,
    sized: true,
    runs_here: true,
    ..Capabilities::NONE
};

/// The backend; see the module.
#[derive(Debug)]
pub struct Fake;

impl Backend for Fake {
    fn check<'a>(&'a self, _: Option<&'a Guest>, _: CallContext<'a>) -> BoxFuture<'a, Result<Vec<Finding>>> {
        Box::pin(async { Ok(Vec::new()) })
    }

    fn list<'a>(&'a self, _: CallContext<'a>) -> BoxFuture<'a, Result<Vec<MachineInfo>>> {
        Box::pin(async { Ok(Vec::new()) })
    }

    fn create<'a>(&'a self, request: CreateRequest<'a>, _: CallContext<'a>) -> BoxFuture<'a, Result<Box<dyn Machine>>> {
        Box::pin(async move {
            let options = &request.guest.options;
            let fail = options.text("fail").map(str::to_owned);
            if fail.as_deref() == Some("create") {
                return Err(Fault::infra(format!("cannot create `{}`", request.name)).because("the script says so"));
            }
            let vm = FakeMachine {
                name: request.name.to_owned(),
                console: request.record_dir.join("console.log"),
                script: options.clone(),
                fail,
                ready: Arc::new(watch::channel(false).0),
                replies: Arc::new(Mutex::new(replies(options))),
                exit: watch::channel(None).0,
                boot: None,
            };
            Ok(Box::new(vm) as Box<dyn Machine>)
        })
    }

    fn reap<'a>(&'a self, record: &'a MachineRecord, _: CallContext<'a>) -> BoxFuture<'a, Proof> {
        Box::pin(async { Proof::Gone(format!("`{}` was only a script", record.name)) })
    }

    fn reattach<'a>(
        &'a self,
        _: &'a Guest,
        _: &'a MachineRecord,
        _: CallContext<'a>,
    ) -> BoxFuture<'a, Result<Option<Box<dyn Machine>>>> {
        // Its script ends with the run.
        Box::pin(async { Ok(None) })
    }
}

/// For each command its answers and how many of them were given.
type Replies = BTreeMap<String, (Vec<String>, usize)>;

fn replies(options: &Options) -> Replies {
    let Some(Value::Map(map)) = options.get("replies") else { return Replies::new() };
    map.iter()
        .map(|(command, answers)| (command.clone(), (answers.split(" | ").map(str::to_owned).collect(), 0)))
        .collect()
}

struct FakeMachine {
    name: String,
    console: PathBuf,
    script: Options,
    fail: Option<String>,
    ready: Arc<watch::Sender<bool>>,
    replies: Arc<Mutex<Replies>>,
    exit: watch::Sender<Option<MachineExit>>,
    boot: Option<tokio::task::AbortHandle>,
}

impl FakeMachine {
    fn fails_at(&self, point: &str) -> bool {
        self.fail.as_deref() == Some(point)
    }
}

impl Machine for FakeMachine {
    fn name(&self) -> &str {
        &self.name
    }

    fn id(&self) -> MachineId {
        MachineId { uuid: Some(format!("fake-{}", self.name)), ..MachineId::default() }
    }

    fn console(&self) -> Option<Console<'_>> {
        Some(Console { log: &self.console, socket: None })
    }

    fn start<'a>(&'a mut self, _: CallContext<'a>) -> BoxFuture<'a, Result<()>> {
        Box::pin(async {
            if self.fails_at("start") {
                return Err(Fault::infra(format!("cannot start `{}`", self.name)).because("the script says so"));
            }
            let lines = self.script.texts("console").to_vec();
            let step = self.script.duration("boot").unwrap_or_default() / u32::try_from(lines.len() + 1).unwrap_or(1);
            let (console, ready, exit) = (self.console.clone(), Arc::clone(&self.ready), self.exit.clone());
            let fail = self.fail.clone();
            let boot = tokio::spawn(async move {
                for line in lines {
                    clock::sleep(step).await;
                    if let Ok(mut file) = fs::OpenOptions::new().create(true).append(true).open(&console) {
                        let _ = writeln!(file, "{line}");
                    }
                }
                clock::sleep(step).await;
                match fail.as_deref() {
                    Some("boot") => std::future::pending().await,
                    Some("panic") => exit.send_replace(Some(MachineExit::Panicked("the script says so".into()))),
                    _ => {
                        ready.send_replace(true);
                        None
                    }
                }
            });
            self.boot = Some(boot.abort_handle());
            Ok(())
        })
    }

    fn exit(&self) -> watch::Receiver<Option<MachineExit>> {
        self.exit.subscribe()
    }

    fn stop(&mut self) -> BoxFuture<'_, Result<()>> {
        Box::pin(async {
            if let Some(boot) = self.boot.take() {
                boot.abort();
            }
            note_exit(&self.exit, MachineExit::Shutdown("terminated".into()));
            if self.fails_at("terminate") {
                return Err(Fault::infra(format!("cannot stop `{}`", self.name)).because("the script says so"));
            }
            Ok(())
        })
    }

    fn release(&mut self) -> BoxFuture<'_, Result<Vec<Proof>>> {
        Box::pin(async {
            if self.fails_at("close") || self.fails_at("close-once") {
                if self.fails_at("close-once") {
                    self.fail = None;
                }
                return Err(Fault::new(Blame::Leftover, format!("cannot release `{}`", self.name))
                    .because("the script says so"));
            }
            Ok(vec![Proof::Gone(format!("`{}` was only a script", self.name))])
        })
    }

    fn detach(self: Box<Self>) {}

    fn guest_exec(&self) -> Option<Arc<dyn GuestExec>> {
        Some(Arc::new(FakeExec { ready: self.ready.subscribe(), replies: Arc::clone(&self.replies) }))
    }
}

struct FakeExec {
    ready: watch::Receiver<bool>,
    replies: Arc<Mutex<Replies>>,
}

impl FakeExec {
    fn next_reply(&self, command: &str) -> String {
        let mut all = self.replies.lock();
        let Some((answers, given)) = all.get_mut(command) else { return "0".into() };
        let answer = answers.get(*given).or(answers.last()).cloned().unwrap_or_default();
        *given += 1;
        answer
    }
}

impl GuestExec for FakeExec {
    fn run<'a>(
        &'a self,
        command: &'a RemoteCommand,
        sink: &'a mut dyn OutputSink,
        cancel: &'a CancellationToken,
    ) -> BoxFuture<'a, Result<CommandExit>> {
        Box::pin(async move {
            let mut ready = self.ready.clone();
            let answer = async {
                ready.wait_for(|up| *up).await.map_err(|_| Fault::infra("cannot reach the fake guest"))?;
                let reply = self.next_reply(&command.script);
                let (head, text) = reply.split_once(' ').unwrap_or((&reply, ""));
                let (word, delay) = head.split_once('@').unwrap_or((head, "0s"));
                clock::sleep(parse_duration(delay).unwrap_or(Duration::ZERO)).await;
                if !text.is_empty() {
                    sink.write(Stream::Stdout, format!("{text}\n").as_bytes());
                }
                match word {
                    "lost" => Err(Fault::infra("cannot finish the command").because("the connection was lost")),
                    "hang" => std::future::pending().await,
                    code => Ok(CommandExit::Code(code.parse().unwrap_or(0))),
                }
            };
            tokio::select! {
                answer = answer => answer,
                () = cancel.cancelled() => Err(Fault::cancelled("cannot finish the command").because("it was cancelled")),
            }
        })
    }
}
