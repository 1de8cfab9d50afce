//! Which transport is taken: each in the guest's order, with the reason why the ones before failed.
//!
//! A fallback happens only here, before anything was run: a test that has started is never run again by another way.

use super::{Session, Target};
use crate::{
    error::{Fault, Result},
    host::clock,
};

/// One transport's turn.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tried {
    /// The transport.
    pub transport: String,
    /// Whether it is the one.
    pub ok: bool,
    /// Why not.
    pub why: String,
    /// How long it took, milliseconds.
    pub took_ms: u64,
    /// Where the guest was reached.
    pub address: Option<String>,
}

/// Opens the first transport that works; `told` hears of every try. The caller limits the time.
pub async fn open(target: &Target<'_>, mut told: impl FnMut(Tried)) -> Result<Box<dyn Session>> {
    let mut last = None;
    for kind in &target.guest.transports {
        let start = clock::now();
        let transport = (super::find(kind)?.build)();
        let mut tell = |ok, why: String, address| {
            told(Tried { transport: kind.clone(), ok, why, took_ms: clock::ms_since(start), address });
        };
        if let Err(why) = transport.suits(target) {
            tell(false, why.clone(), None);
            last = last.or_else(|| Some(Fault::infra(format!("cannot use `{kind}`")).because(why)));
            continue;
        }
        match transport.connect(target).await {
            Ok(session) => {
                let address = target.vm.address(22).await.ok().flatten();
                tell(true, String::new(), address.map(|a| a.to_string()));
                return Ok(session);
            }
            Err(fault) => {
                tell(false, fault.to_string(), None);
                last = Some(fault);
            }
        }
    }
    let none =
        || Fault::user(format!("guest `{}` has no transports", target.guest.id)).hint("set `transports = [\"ssh\"]`");
    Err(last.unwrap_or_else(none))
}
