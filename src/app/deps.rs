//! What the backends are built with in this process.

use vmdeck_core::{
    assets::{image::store::ImageStore, snapshot::store::SnapshotStore},
    backend,
    host::{info, process},
};
use vmdeck_model::{
    error::{Fault, Result},
    plan::HostConfig,
};

/// Returns what the backends are built with on this host.
pub(super) fn deps(host: &HostConfig) -> Result<backend::BackendDeps> {
    let (images, snapshots) = (ImageStore::new(&host.images), SnapshotStore::new(&host.snapshots));
    Ok(backend::BackendDeps { images, snapshots, ..deps_with(&host.tools, &host.secret_env)? })
}

/// Returns what the backends are built with: `tools` are those that are not where they usually are, `secret_env` the variables
/// that hold secrets.
pub(super) fn deps_with(tools: &backend::Tools, secret_env: &[String]) -> Result<backend::BackendDeps> {
    let spawner = process::Spawner::new(std::env::current_exe().ok());
    Ok(backend::BackendDeps {
        spawner: spawner.map_err(|e| Fault::host("cannot start a thread").because(e))?.hiding(secret_env),
        state: info::state_dir(),
        tools: tools.clone(),
        images: ImageStore::unused(),
        snapshots: SnapshotStore::unused(),
    })
}
