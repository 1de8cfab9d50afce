//! `vmdeck cleanup`: what would be taken, and taking it.
//!
//! The rules are `reap`'s; asking a person is the front end's.

use super::{
    lock,
    reap::{self, Leftover, Reaped, Scope},
};
use crate::backend;
use std::path::Path;

/// What would be taken.
pub fn preview(deps: &backend::Deps) -> Vec<Leftover> {
    reap::leftovers(&deps.state)
}

/// Takes it all; `told` hears of each. Also removes the lock `lock_path` where its holder is dead.
pub async fn run(deps: &backend::Deps, lock_path: &Path, told: &mut (dyn FnMut(Reaped) + Send)) {
    reap::dead_runs(deps, Scope::Kept, told).await;
    // Somebody alive may hold it by now, and then it stays.
    let _ = lock::break_dead(lock_path, false);
    lock::sweep_private(lock_path);
}
