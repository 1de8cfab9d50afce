//! What the engine is built with.

use crate::{backend::BackendDeps, host::capacity::Meter};
use std::{path::PathBuf, sync::Arc};
use tokio::sync::mpsc;
use vmdeck_model::outcome::Signal;

/// What the engine is built with.
pub struct EngineDeps {
    /// What the backends are built with.
    pub backend: BackendDeps,
    /// The vmdeck binary, which is started again as the guardian; `None` = no guardian.
    pub binary: Option<PathBuf>,
    /// Measures what this host has left.
    pub meter: Arc<dyn Meter>,
    /// The signals that end the run; `None` in tests.
    pub signals: Option<mpsc::UnboundedReceiver<Signal>>,
}
