//! A scratch world with the stand-ins in it.

use crate::world::{World, eventually};
use serde_json::{Value, json};
use std::{
    fs,
    ops::Deref,
    os::unix::fs::symlink,
    path::Path,
    process::{Command, Output, Stdio},
    time::Duration,
};

/// What a test runs when it does not matter.
pub const CASES: &str = "[suites.s]\n[[suites.s.cases]]\nname = \"a\"\nrun = \"echo fine; pwd\"\n";
/// The machine of UTM that most tests use.
pub const ID: &str = "FC379EA4-195C-499E-BDC9-066470BCA5C9";

/// A world whose desktop hypervisors are stand-ins.
pub struct DesktopWorld(World);

impl Deref for DesktopWorld {
    type Target = World;

    fn deref(&self) -> &World {
        &self.0
    }
}

impl DesktopWorld {
    /// With this config, and these machines and faults.
    pub fn new(config: &str, found: &Value) -> Self {
        let mut world = Self(World::new(""));
        let bin = world.path("desk/bin");
        fs::create_dir_all(&bin).expect("bin");
        let standin = Path::new(env!("CARGO_MANIFEST_DIR")).join("standins/standin.py");
        for name in ["multipass", "multipassd", "utmctl", "open", "arp", "poweroff"] {
            symlink(&standin, bin.join(name)).expect("symlink");
        }
        world.becomes(found);
        // By the user's own hand: those that a project's config names are not started by every subcommand.
        for name in ["multipass", "utmctl", "arp"] {
            let variable = format!("VMDECK_HOST_TOOLS_{}", name.to_uppercase());
            world.0.env.push((variable, bin.join(name).display().to_string()));
        }
        world.add(config);
        world
    }

    /// Adds to the config.
    pub fn add(&self, more: &str) {
        let text = fs::read_to_string(self.path("vmdeck.toml")).expect("config");
        fs::write(self.path("vmdeck.toml"), text + more).expect("config");
    }

    /// The stand-ins' world is this from now on.
    pub fn becomes(&self, found: &Value) {
        fs::write(self.path("desk/world.json"), found.to_string()).expect("world");
    }

    /// Returns what the stand-ins' world holds now.
    pub fn found(&self) -> Value {
        serde_json::from_str(&fs::read_to_string(self.path("desk/world.json")).expect("world")).expect("json")
    }

    /// Multipass's machines now.
    pub fn multipass(&self) -> Value {
        self.found()["multipass"]["machines"].clone()
    }

    /// UTM's machines now.
    pub fn utm(&self) -> Value {
        self.found()["utm"]["machines"].clone()
    }

    /// Returns every call of a stand-in so far, as a line.
    pub fn calls(&self) -> Vec<String> {
        let text = fs::read_to_string(self.path("desk/calls.jsonl")).unwrap_or_default();
        text.lines().map(|l| serde_json::from_str::<Vec<String>>(l).expect("call").join(" ")).collect()
    }

    /// Returns how many calls begin like this.
    pub fn count(&self, begin: &str) -> usize {
        self.calls().iter().filter(|call| call.starts_with(begin)).count()
    }

    /// Calls a stand-in as a person would.
    pub fn call(&self, tool: &str, args: &[&str]) -> (Option<i32>, String, String) {
        let Output { status, stdout, stderr } =
            Command::new(self.path("desk/bin").join(tool)).args(args).stdin(Stdio::null()).output().expect("stand-in");
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        (status.code(), text(stdout), text(stderr))
    }

    /// Waits until the guardian of a vmdeck that was killed has done its work: no journal, no lock.
    #[track_caller]
    pub fn guardian_ends(&self, whose: &str) {
        let none = |path: &Path, begin: &str| {
            let names = fs::read_dir(path).into_iter().flatten().flatten().map(|e| e.file_name());
            names.filter(|name| name.to_string_lossy().starts_with(begin)).count() == 0
        };
        eventually(&format!("the end of the guardian ({whose})"), Duration::from_mins(1), || {
            none(&self.state().join("runs"), "") && none(self.home.path(), "lock.d")
        });
    }

    /// A machine of UTM on disk.
    pub fn bundle(&self, name: &str, uuid: &str, network: &str) {
        let folder = self.path("documents").join(format!("{name}.utm"));
        fs::create_dir_all(&folder).expect("bundle");
        let text = format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?><plist version=\"1.0\"><dict><key>Information</key><dict><key>Name</key>\
             <string>{name}</string><key>UUID</key><string>{uuid}</string></dict><key>Network</key><array><dict>{network}</dict></array>\
             </dict></plist>"
        );
        fs::write(folder.join("config.plist"), text).expect("plist");
    }
}

/// Returns a world with these machines of Multipass.
pub fn multipass(machines: &Value, faults: &Value) -> Value {
    json!({ "multipass": { "daemon": "1.16.3", "machines": machines }, "utm": { "machines": [] }, "faults": faults })
}

/// Returns a world with these machines of UTM.
pub fn utm(machines: &Value, faults: &Value) -> Value {
    json!({ "multipass": { "daemon": "1.16.3", "machines": {} }, "utm": { "machines": machines }, "faults": faults })
}

/// Returns a machine of UTM with [`ID`].
pub fn machine(name: &str, status: &str) -> Value {
    json!({ "uuid": ID, "name": name, "status": status, "ips": ["192.0.2.4"] })
}

/// Returns a Multipass guest `u`, with further keys.
pub fn multipass_guest(more: &str) -> String {
    format!(
        "[guests.u]\nbackend = \"multipass\"\nmemory = \"1GiB\"\nlaunch_retries = 2\nboot_timeout = \"20s\"\n{more}\n{CASES}"
    )
}

/// Returns a UTM guest `linux`, with further keys of its own and of its `utm` table.
pub fn utm_guest(more: &str, of_utm: &str) -> String {
    format!(
        "[guests.linux]\nbackend = \"utm\"\nlaunch_retries = 2\nboot_timeout = \"20s\"\n{more}\n\
         [guests.linux.utm]\ndocuments = \"documents\"\nleases = \"/nowhere\"\n{of_utm}\n{CASES}"
    )
}
