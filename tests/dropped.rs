//! The engine dropped in the middle of anything: whatever future is not polled again, the journal knows what is left.

#![expect(clippy::disallowed_methods, reason = "a test acts from outside")]

use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};
use vmdeck_core::{
    assets::{image::store::ImageStore, snapshot::store::SnapshotStore},
    backend::{BACKENDS, BackendDeps, Tools},
    config::{self, Sources},
    engine::{self, EngineDeps, lock, reap},
    host::{capacity::HostMeter, process::Spawner},
    transport::TRANSPORTS,
};
use vmdeck_model::{
    ids::RunId,
    key::Key,
    plan::{self, Plan, RunOptions},
};

const CONFIG: &str = "[host]\nmin_free_disk = \"1MiB\"\nmin_free_memory = \"1MiB\"\nlock = \"lock.d\"\n\
    [guests.one]\nbackend = \"local\"\n[guests.two]\nbackend = \"fake\"\n\
    [suites.s]\nsetup = \"true\"\n[[suites.s.cases]]\nname = \"a\"\nrun = \"sleep 0.02; echo x\"\n\
    [[suites.s.cases]]\nname = \"b\"\nrun = \"sleep 65 & sleep 65\"\n";

fn plan(home: &Path, number: u64) -> Plan {
    let transports = TRANSPORTS.iter().flat_map(|row| row.keys);
    let backends = BACKENDS.iter().flat_map(|row| row.keys);
    let keys: Vec<Key> = config::keys::core().chain(transports).chain(backends).copied().collect();
    let sources = Sources {
        file: Some((Path::new("vmdeck.toml"), CONFIG)),
        base: home,
        env: &BTreeMap::new(),
        set: &[],
        keys: &keys,
        backends: &BACKENDS.iter().map(|row| row.kind).collect::<Vec<_>>(),
        private_networks: &[],
        old_names: &[],
        transports: &TRANSPORTS.iter().map(|row| row.kind).collect::<Vec<_>>(),
        secret_command: None,
        secrets_of: None,
        trusts_file: true,
    };
    let (setup, _) = config::load(&sources).expect("config");
    let jobs = plan::select(&setup, &[]);
    let options = RunOptions::default();
    let dir = home.join(format!("record-{number}"));
    let run = RunId::from_bits(number);
    let (folder, selection, quarantine) = (setup.folder, Vec::new(), setup.quarantine);
    Plan {
        part: vmdeck_model::shard::RunPart::default(),
        run,
        config: None,
        folder,
        dir,
        host: setup.host,
        options,
        jobs,
        selection,
        quarantine,
        usual_ms: std::collections::BTreeMap::new(),
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime")
}

fn deps(home: &Path) -> BackendDeps {
    BackendDeps {
        spawner: Spawner::new(None).expect("spawner"),
        state: home.join("state"),
        tools: Tools::new(),
        images: ImageStore::unused(),
        snapshots: SnapshotStore::unused(),
    }
}

#[test]
fn an_engine_that_is_dropped_anywhere_leaves_nothing_that_a_reaper_does_not_find() {
    let home = tempfile::tempdir().expect("tempdir");
    let mut reaped = 0;
    // By turns of the scheduler at first, then by time.
    for number in 0..120_u64 {
        let dropped = runtime();
        dropped.block_on(async {
            let plan = plan(home.path(), number);
            fs::create_dir_all(&plan.dir).expect("record");
            let handle = engine::start(
                plan,
                EngineDeps { backend: deps(home.path()), binary: None, meter: Arc::new(HostMeter), signals: None },
            );
            for _ in 0..number * 3 {
                tokio::task::yield_now().await;
            }
            if number >= 60 {
                let start = Instant::now();
                while start.elapsed() < Duration::from_millis(2 * (number - 60)) {
                    tokio::task::yield_now().await;
                }
            }
            drop(handle);
        });
        drop(dropped);
        let state = home.path().join("state");
        let start = Instant::now();
        runtime().block_on(async {
            loop {
                let mut told = Vec::new();
                reap::dead_runs(&deps(home.path()), reap::ReapScope::Kept, &mut |one| told.push(one)).await;
                for one in told {
                    assert!(matches!(one, reap::Reaped::Gone { .. }), "dropped at {number}: {one:?}");
                    reaped += 1;
                }
                // A process that was just being started holds a copy of the journal's flock until it is its program.
                if reap::journals(&state).is_empty() || start.elapsed() > Duration::from_secs(10) {
                    break;
                }
            }
        });
        let entries = |name: &str| fs::read_dir(state.join(name)).map_or(0, Iterator::count);
        let journals = reap::journals(&state);
        assert_eq!((journals.len(), entries("machines")), (0, 0), "dropped at {number}: {journals:?}");
        // One that was taken before there was a journal is dead, and the next run breaks it.
        lock::break_dead(&home.path().join("lock.d"), false).unwrap_or_else(|e| panic!("dropped at {number}: {e}"));
    }
    assert!(reaped > 20, "machines were left and reaped: {reaped}");
}
