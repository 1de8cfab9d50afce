//! What the engine is built with.

use crate::backend::BackendDeps;
use std::path::PathBuf;
use tokio::sync::mpsc;
use vmdeck_model::outcome::Signal;

/// What the engine is built with.
pub struct EngineDeps {
    /// What the backends are built with.
    pub backend: BackendDeps,
    /// The vmdeck binary: it is started again as the guardian. None = no guardian.
    pub binary: Option<PathBuf>,
    /// Signals that end the run; none in tests.
    pub signals: Option<mpsc::UnboundedReceiver<Signal>>,
}
