//! What tests of the engine begin with.

use std::{collections::BTreeMap, time::Duration};
use vmdeck_model::plan::HostConfig;

/// Returns a host without limits.
pub(super) fn host() -> HostConfig {
    HostConfig {
        lock: "/l".into(),
        lock_shared: false,
        lock_timeout: Duration::from_mins(5),
        min_free_disk: 0,
        warn_free_disk: 0,
        min_free_memory: 0,
        memory: None,
        slots: 1,
        log_size: 1 << 20,
        artifacts_size: 1 << 30,
        events_size: 1 << 20,
        records: vmdeck_model::plan::RecordBudget::default(),
        images: vmdeck_model::image::ImageConfig::default(),
        snapshots: vmdeck_model::snapshot::SnapshotConfig::default(),
        test_prefixes: Vec::new(),
        tools: BTreeMap::new(),
        secret_env: Vec::new(),
    }
}
