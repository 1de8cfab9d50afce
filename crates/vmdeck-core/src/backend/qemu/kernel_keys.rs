//! Reaches a guest's kernel past everything that may hang: `SysRq` by a break on the serial console, and the non-maskable interrupt.
//!
//! Facts: a kernel with `sysrq` support takes the key that follows a break; a break that comes before the key of the one before it
//! has been taken calls that one off.

use super::qmp::Qmp;
use crate::{backend::contract::KernelKeys, host::clock};
use futures_util::future::BoxFuture;
use serde_json::json;
use std::{path::PathBuf, sync::Arc, time::Duration};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use vmdeck_model::error::{Fault, Result};

/// How long a kernel may take to begin its answer.
const BEGINS: Duration = Duration::from_secs(2);
/// How long it is quiet once the answer is over.
const QUIET: Duration = Duration::from_millis(300);

/// The keys of one machine that runs.
pub(super) struct QemuKernelKeys {
    pub(super) qmp: Arc<Qmp>,
    /// The console's socket.
    pub(super) console: PathBuf,
}

impl KernelKeys for QemuKernelKeys {
    fn sysrq(&self, key: char) -> BoxFuture<'_, Result<bool>> {
        Box::pin(async move {
            let failed = |e: std::io::Error| Fault::infra("cannot write to the console").because(e);
            let mut console = tokio::net::UnixStream::connect(&self.console).await.map_err(failed)?;
            let answer = self.qmp.human("chardev-send-break console").await?;
            if !answer.trim().is_empty() {
                return Ok(false);
            }
            console.write_all(key.to_string().as_bytes()).await.map_err(failed)?;
            // Until it is quiet: an unread console stalls the guest.
            let (mut sink, mut patience, mut answered) = ([0; 4096], BEGINS, false);
            while matches!(clock::within(patience, console.read(&mut sink)).await, Some(Ok(1..))) {
                (patience, answered) = (QUIET, true);
            }
            Ok(answered)
        })
    }

    fn nmi(&self) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move { self.qmp.execute("inject-nmi", json!({})).await.map(drop) })
    }
}
