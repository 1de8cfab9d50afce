//! A guest for tests.

use std::{collections::BTreeMap, time::Duration};
use vmdeck_model::{
    guest::{ConsolePatterns, CrashPolicy, Fresh, Guest, Os, SurvivorPolicy},
    ids::GuestId,
    key::{Options, Value},
    snapshot::Checkpoint,
    workers::Workers,
};

/// Returns a guest with these keys of the backend.
pub(crate) fn guest(set: &[(&str, Value)]) -> Guest {
    let mut options = Options::default();
    for (key, value) in set {
        options.set(key, value.clone());
    }
    Guest {
        id: GuestId::new("deb").expect("name"),
        key: GuestId::new("deb").expect("name"),
        backend: "qemu".into(),
        os: Os::Linux,
        arch: "x86_64".into(),
        cpus: 2,
        memory: 2 << 30,
        disk: 10 << 30,
        image: None,
        vmlinux: None,
        shares: Vec::new(),
        seed: vmdeck_model::guest::Seed::None,
        firmware: vmdeck_model::guest::Firmware::Auto,
        trouble: Vec::new(),
        user_data: None,
        tpm: false,
        machine: None,
        address: None,
        power: vmdeck_model::guest::PowerHooks::default(),
        transports: vec!["ssh".into()],
        transport_turn: std::time::Duration::from_secs(45),
        save_disk: None,
        fresh: Fresh::Run,
        snapshot: None,
        workers: Workers::Count(1),
        checkpoint: Checkpoint::Never,
        one_more_of: None,
        launch_retries: 3,
        boot_timeout: Duration::from_mins(5),
        case_timeout: Duration::from_mins(1),
        shell: vmdeck_model::suite::ScriptShell::Sh,
        crash: CrashPolicy::Failed,
        survivors: SurvivorPolicy::Replace,
        shutdown: vmdeck_model::guest::Shutdown::Quit,
        shutdown_timeout: Duration::from_mins(1),
        network: vmdeck_model::guest::Network::User,
        first_boot: vmdeck_model::guest::FirstBoot::Ignored,
        boot: ConsolePatterns::default(),
        sudo: None,
        source: None,
        options,
        transport_options: BTreeMap::new(),
    }
}
