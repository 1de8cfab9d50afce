//! What the backends are built with in this process.

use vmdeck_core::{
    backend,
    host::{info, process},
};
use vmdeck_model::error::{Fault, Result};

/// Returns what the backends are built with; `tools` are those that are not where they usually are.
pub(super) fn deps(tools: &backend::Tools) -> Result<backend::BackendDeps> {
    let spawner = process::Spawner::new(std::env::current_exe().ok());
    Ok(backend::BackendDeps {
        spawner: spawner.map_err(|e| Fault::host("cannot start a thread").because(e))?,
        state: info::state_dir(),
        tools: tools.clone(),
    })
}
