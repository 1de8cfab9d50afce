//! The memory of a guest whose kernel has panicked, as a file that tools for crash dumps read.
//!
//! QEMU writes it in the background (QMP `dump-guest-memory`, 7.2 and 10) and says when it is done.

use super::qmp::{Qmp, QmpEvent};
use crate::host::clock;
use serde_json::json;
use std::{path::Path, time::Duration};
use tokio::sync::watch;
use vmdeck_model::{
    error::{Fault, Result},
    guest::Guest,
    quantity::show_size,
};

/// How long writing it may take.
const WRITES: Duration = Duration::from_mins(5);
/// The form of a dump: compressed, page by page, as makedumpfile makes it.
const FORM: &str = "kdump-zlib";

/// What is to be saved of a machine.
pub(super) struct MemoryDump {
    memory: u64,
    limit: u64,
    /// Holds how it ended, once it has.
    pub(super) done: watch::Sender<Option<std::result::Result<(), String>>>,
}

impl MemoryDump {
    /// Returns what the config wants to be saved; `None` = nothing.
    pub(super) fn of(guest: &Guest) -> Option<Self> {
        let limit = match guest.options.get("dump_size") {
            Some(vmdeck_model::key::Value::Size(bytes)) => *bytes,
            _ => 4 << 30,
        };
        let is_wanted = guest.options.text("dump") == Some("panic");
        is_wanted.then(|| Self { memory: guest.memory, limit, done: watch::channel(None).0 })
    }

    /// Saves the memory; returns when all of it is written.
    pub(super) async fn save(&self, qmp: &Qmp, to: &Path) -> Result<()> {
        let cannot = || Fault::infra("cannot save the guest's memory");
        if self.memory > self.limit {
            return Err(cannot()
                .because(format!("it has {}, and {} are the most", show_size(self.memory), show_size(self.limit)))
                .hint("raise `qemu.dump_size`"));
        }
        // Made by us: QEMU would let others read it.
        vmdeck_files::create(to).map_err(|e| cannot().because(e))?;
        let mut done = self.done.subscribe();
        let protocol = format!("file:{}", to.display());
        let wanted = json!({"paging": false, "protocol": protocol, "detach": true, "format": FORM});
        qmp.execute("dump-guest-memory", wanted).await.map_err(|fault| cannot().caused_by(fault))?;
        let ended = clock::within(WRITES, done.wait_for(Option::is_some)).await;
        match ended.and_then(std::result::Result::ok).and_then(|end| end.clone()) {
            Some(Ok(())) => Ok(()),
            Some(Err(why)) => Err(cannot().because(why)),
            None => Err(cannot().because("QEMU did not come to its end")),
        }
    }
}

/// Returns how a dump ended, if this event says so.
pub(super) fn end(event: &QmpEvent) -> Option<std::result::Result<(), String>> {
    if event.name != "DUMP_COMPLETED" {
        return None;
    }
    let failed = event.data["error"].as_str().map(str::to_owned);
    let failed = failed.or_else(|| (event.data["result"]["status"] != "completed").then(|| "it failed".to_owned()));
    Some(failed.map_or(Ok(()), Err))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_event_says_how_it_ended() {
        let event = |name: &str, data| QmpEvent { name: name.into(), data };
        let result = json!({"result": {"status": "completed", "total": 1, "completed": 1}});
        let failed = json!({"result": {"status": "failed"}, "error": "No space left on device"});
        for (event, expected) in [
            (event("DUMP_COMPLETED", result), Some(Ok(()))),
            (event("DUMP_COMPLETED", failed), Some(Err("No space left on device".to_owned()))),
            (event("DUMP_COMPLETED", json!({})), Some(Err("it failed".to_owned()))),
            (event("STOP", json!({})), None),
        ] {
            assert_eq!(end(&event), expected);
        }
    }
}
