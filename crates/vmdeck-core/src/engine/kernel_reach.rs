//! What a person may do to the kernel of a guest that is up: press its `SysRq` key, or send it a non-maskable interrupt.
//!
//! The job goes on meanwhile. What the kernel then says was asked for, and is nobody's complaint; a panic always is.

use super::{events::EventSender, machine::ConsoleWatch};
use crate::{backend::contract::KernelKeys, host::clock};
use std::{sync::Arc, time::Duration};
use tokio::sync::Mutex;
use vmdeck_model::{command::KernelKey, event::EventKind, ids::GuestId};

/// How long the answer to a key may take.
const ANSWER: Duration = Duration::from_mins(1);

/// How long a kernel may take to say what it makes of an interrupt.
const SAYS: Duration = Duration::from_secs(1);

/// The way to the kernel of one guest.
#[derive(Clone)]
pub(super) struct KernelReach {
    pub(super) guest: GuestId,
    pub(super) keys: Arc<dyn KernelKeys>,
    pub(super) console: ConsoleWatch,
    pub(super) events: EventSender,
    /// One key after the other: what one was answered with is not taken for another's.
    pub(super) turn: Arc<Mutex<()>>,
}

impl std::fmt::Debug for KernelReach {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KernelReach").field("guest", &self.guest).finish_non_exhaustive()
    }
}

impl KernelReach {
    /// Presses the key; how that went is told by an event.
    pub(super) async fn press(self, key: KernelKey) {
        let id = Some(self.guest.clone());
        let _turn = self.turn.lock().await;
        let pressed = self.console.muted(ANSWER, async {
            match key {
                KernelKey::SysRq { key } => self.keys.sysrq(key).await,
                KernelKey::Nmi => {
                    self.keys.nmi().await?;
                    // Nothing tells when a kernel has had its say.
                    clock::sleep(SAYS).await;
                    Ok(true)
                }
            }
        });
        let what = match key {
            KernelKey::SysRq { key } => format!("SysRq `{key}`"),
            KernelKey::Nmi => "a non-maskable interrupt".to_owned(),
        };
        let guest = &self.guest;
        match pressed.await {
            Some(Ok(true)) => {
                let text = format!("guest `{guest}` got {what}");
                self.events.send(EventKind::Progress { guest: id, text });
            }
            Some(Ok(false)) => {
                let text = format!("guest `{guest}` got {what} and said nothing");
                let hint = "its kernel may have no SysRq (`sysrq_always_enabled` on its command line turns it on)";
                self.events.warn(Some(guest), text, Some(hint.to_owned()));
            }
            Some(Err(fault)) => self.events.warn(Some(guest), fault.to_string(), fault.remedy().map(str::to_owned)),
            None => self.events.warn(Some(guest), format!("guest `{guest}` did not take {what} in time"), None),
        }
    }
}
