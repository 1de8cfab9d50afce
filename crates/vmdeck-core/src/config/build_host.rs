//! The part of a config that is about this host: its lock, its limits, its tools, what is kept.

use super::{build::Build, tree::Origin};
use std::collections::BTreeMap;
use vmdeck_model::{
    key::Value,
    plan::{HostConfig, RecordBudget},
    snapshot::SnapshotConfig,
};

/// The lock of the old scripts: whoever uses it must guard against their races.
const OLD_LOCK: &str = "redoubt-vm-tests.lock.d";

impl Build<'_> {
    /// Returns what the config says of this host.
    pub(super) fn host(&mut self) -> HostConfig {
        let size =
            |build: &mut Self, path: &str| if let Some(Value::Size(size)) = build.value(path, path) { size } else { 0 };
        let lock = self.path("host.lock", "host.lock").unwrap_or_default();
        let shared = match self.value("host.lock_shared", "host.lock_shared") {
            Some(Value::Bool(shared)) => shared,
            _ => lock.ends_with(OLD_LOCK),
        };
        if shared && self.number("host.slots", "host.slots") > 1 {
            let text = "the lock of the old scripts has only one slot";
            self.problem(&Origin::Nowhere, "host.slots", text, Some("set it to 1, or set `host.lock` to another path"));
        }
        HostConfig {
            lock_shared: shared,
            lock,
            lock_timeout: self.duration("host.lock_timeout", "host.lock_timeout").unwrap_or_default(),
            min_free_disk: size(self, "host.min_free_disk"),
            warn_free_disk: size(self, "host.warn_free_disk"),
            min_free_memory: size(self, "host.min_free_memory"),
            memory: match self.value("host.memory", "host.memory") {
                Some(Value::Size(size)) => Some(size),
                _ => None,
            },
            slots: self.number("host.slots", "host.slots"),
            test_prefixes: self.test_prefixes(),
            tools: self.tools(),
            secret_env: std::mem::take(&mut self.checked.secret_env),
            log_size: size(self, "host.log_size"),
            artifacts_size: size(self, "host.artifacts_size"),
            events_size: size(self, "host.events_size"),
            images: self.images(),
            snapshots: SnapshotConfig {
                cache: self.path("snapshots.cache", "snapshots.cache"),
                max_size: size(self, "snapshots.max_size"),
            },
            records: RecordBudget {
                count: self.count("host.keep_records", "host.keep_records"),
                days: self.count("host.keep_days", "host.keep_days"),
                size: match self.value("host.keep_size", "host.keep_size") {
                    Some(Value::Size(size)) => Some(size),
                    _ => None,
                },
            },
        }
    }

    fn test_prefixes(&mut self) -> Vec<String> {
        let key = "host.test_prefixes";
        let prefixes = self.texts(key, key);
        if prefixes.iter().any(|prefix| prefix.len() < 2) {
            self.problem(
                &Origin::Nowhere,
                key,
                "a prefix of fewer than two characters matches almost every machine",
                None,
            );
        }
        prefixes
    }

    /// Returns the path of a program: one with a slash in it starts from the config's folder; one without is looked up.
    fn tools(&mut self) -> BTreeMap<String, String> {
        let mut out = BTreeMap::new();
        for (path, name) in
            self.keys.iter().filter_map(|k| k.path.strip_prefix("host.tools.").map(|name| (k.path, name)))
        {
            if let Some(program) = self.text(path, path) {
                let program =
                    if program.contains('/') { self.base.join(program).display().to_string() } else { program };
                out.insert(name.to_owned(), program);
            }
        }
        out
    }
}
