//! Which transport is taken: each in the guest's order, with the reason why the ones before failed.
//!
//! A fallback happens only here, before anything was run: a test that has started is never run again by another way.

use super::{Session, Step, Target, Transport};
use crate::host::clock;
use parking_lot::Mutex;
use vmdeck_model::error::{Fault, Result};

/// One transport's turn, or one way to find the address for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tried {
    /// The transport.
    pub transport: String,
    /// The way to find the address.
    pub way: Option<String>,
    /// Whether it is the one.
    pub ok: bool,
    /// Why not.
    pub why: String,
    /// How long it took, milliseconds.
    pub took_ms: u64,
    /// Where the guest was reached, or sought.
    pub address: Option<String>,
}

/// Opens the first transport that works; `told` hears of every try. The caller limits the time.
///
/// Where several could work they take turns: none of them may keep a guest that another one can reach waiting for ever.
pub async fn open(target: &Target<'_>, told: impl Fn(Tried) + Send + Sync) -> Result<Box<dyn Session>> {
    let mut last = None;
    let mut usable: Vec<(&str, Box<dyn Transport>)> = Vec::new();
    for kind in &target.guest.transports {
        let transport = (super::find(kind)?.build)();
        match transport.suits(target) {
            Ok(()) => usable.push((kind, transport)),
            Err(why) => {
                told(tried(kind, false, why.clone(), clock::now()));
                last = last.or_else(|| Some(Fault::infra(format!("cannot use `{kind}`")).because(why)));
            }
        }
    }
    while !usable.is_empty() {
        let alone = usable.len() == 1;
        let mut index = 0;
        while let Some((kind, transport)) = usable.get(index) {
            let start = clock::now();
            let (connected, waited_for) = connect(target, kind, transport.as_ref(), &told, alone).await;
            match connected {
                Some(Ok(session)) => {
                    let address = session.peer().map(|a| a.to_string());
                    told(Tried { address, ..tried(kind, true, String::new(), start) });
                    return Ok(session);
                }
                Some(Err(fault)) => {
                    told(tried(kind, false, fault.to_string(), start));
                    last = Some(fault);
                    usable.remove(index);
                }
                None => {
                    told(tried(kind, false, waited_for, start));
                    index += 1;
                }
            }
        }
    }
    let none =
        || Fault::user(format!("guest `{}` has no transports", target.guest.id)).hint("set `transports = [\"ssh\"]`");
    Err(last.unwrap_or_else(none))
}

fn tried(kind: &str, ok: bool, why: String, start: clock::Instant) -> Tried {
    Tried { transport: kind.to_owned(), way: None, ok, why, took_ms: clock::ms_since(start), address: None }
}

/// One turn; `None` = it is over, and this was waited for.
async fn connect(
    target: &Target<'_>,
    kind: &str,
    transport: &dyn Transport,
    told: &(impl Fn(Tried) + Send + Sync),
    alone: bool,
) -> (Option<Result<Box<dyn Session>>>, String) {
    let waiting = Mutex::new("no answer yet".to_owned());
    let progress = |step: Step| {
        match &step {
            Step::Waiting(why) => why.clone_into(&mut waiting.lock()),
            Step::Sought(sought) => {
                let list: Vec<String> = sought.found.iter().map(ToString::to_string).collect();
                told(Tried {
                    transport: kind.to_owned(),
                    way: Some(sought.way.to_owned()),
                    ok: sought.ok,
                    why: sought.why.clone(),
                    took_ms: sought.took_ms,
                    address: (!list.is_empty()).then(|| list.join(", ")),
                });
            }
            Step::Spoken => {}
        }
        (target.progress)(step);
    };
    let inner =
        Target { guest: target.guest, vm: target.vm, created: target.created, pin: target.pin, progress: &progress };
    let connected = if alone {
        Some(transport.connect(&inner).await)
    } else {
        clock::within(target.guest.transport_turn, transport.connect(&inner)).await
    };
    (connected, waiting.into_inner())
}
