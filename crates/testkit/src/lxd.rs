//! A cluster of real LXD members on this host, each in a network of its own; `tests/lxd/cluster.sh` says how.

use crate::sshd;
use std::{
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::atomic::{AtomicU8, Ordering},
};

/// A cluster; it ends with this value, as by a power cut.
pub struct LxdCluster {
    folder: PathBuf,
    number: u8,
}

/// What the script needs.
const PROGRAMS: [&str; 6] = ["lxd", "lxc", "dnsmasq", "ip", "unshare", "ethtool"];

impl LxdCluster {
    /// Starts one with the image `micro`; `None` = it cannot be had here, which is said.
    pub fn start(members: u8) -> Option<Self> {
        static NEXT: AtomicU8 = AtomicU8::new(0);
        if sshd::lacks(&PROGRAMS) {
            return None;
        }
        // Tests run beside each other in processes of their own.
        let number =
            u8::try_from((std::process::id() + u32::from(NEXT.fetch_add(1, Ordering::Relaxed))) % 200).expect("small");
        let cluster = Self { folder: PathBuf::from(format!("/var/tmp/vmdeck-lxd-{number}")), number };
        cluster.make_anew(members);
        Some(cluster)
    }

    /// Puts another cluster in the place of this one, if it is there.
    pub fn make_anew(&self, members: u8) {
        self.script(&["wipe"]);
        self.script(&["start", &members.to_string()]);
        self.script(&["image"]);
    }

    /// Returns the socket of a member.
    pub fn socket(&self, member: &str) -> PathBuf {
        self.folder.join(member).join("unix.socket")
    }

    /// Returns the folder that the cluster lives in.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Returns the tables of a guest in the cluster, with further lines of its own and of its backend.
    pub fn guest(&self, name: &str, lines: &str, backend: &str) -> String {
        let socket = self.socket("m1");
        format!(
            "[guests.{name}]\nbackend = \"lxd\"\nmemory = \"128MiB\"\n{lines}\n[guests.{name}.lxd]\nimage = \"micro\"\nsocket = \"{}\"\n{backend}\n",
            socket.display()
        )
    }

    /// Runs `lxc` at the first member; returns what it wrote.
    pub fn lxc(&self, args: &[&str]) -> String {
        self.script(&[&["lxc"], args].concat())
    }

    /// Runs `lxc` at the first member, whatever comes of it.
    pub fn try_lxc(&self, args: &[&str]) {
        let _ = self.command(&[&["lxc"], args].concat()).output();
    }

    /// Returns the address of a member in its own network.
    pub fn address(&self, member: &str) -> String {
        format!("10.94.{}.1{}", self.number, member.trim_start_matches('m'))
    }

    /// Returns the command of a program in the network of a member.
    pub fn inside(&self, member: &str, program: &Path) -> Command {
        let mut command = self.command(&["exec", member]);
        command.arg(program);
        command
    }

    /// Ends a member without a word.
    pub fn cut_off(&self, member: &str) {
        self.script(&["kill", member]);
    }

    /// Starts the members that are down.
    pub fn start_again(&self) {
        self.script(&["start"]);
    }

    /// Returns every instance: name, state, member.
    pub fn instances(&self) -> Vec<(String, String, String)> {
        let said = self.lxc(&["list", "-f", "csv", "-c", "nsL"]);
        let row = |line: &str| {
            let mut words = line.split(',').map(str::to_owned);
            Some((words.next()?, words.next()?, words.next()?))
        };
        said.lines().filter_map(row).collect()
    }

    /// Returns the names of the instances that vmdeck has made.
    pub fn ours(&self) -> Vec<String> {
        self.instances().into_iter().map(|row| row.0).filter(|name| name.starts_with("vmdeck-")).collect()
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new("sh");
        command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/lxd/cluster.sh")).args(args);
        command.env("DIR", &self.folder).env("PREFIX", format!("vl{}", self.number));
        command.env("SUBNET", format!("10.94.{}", self.number));
        command
    }

    #[track_caller]
    fn script(&self, args: &[&str]) -> String {
        let Output { status, stdout, stderr } = self.command(args).output().expect("sh");
        let said = String::from_utf8_lossy(&stdout).into_owned();
        assert!(status.success(), "{args:?}: {said}{}", String::from_utf8_lossy(&stderr));
        said
    }
}

impl Drop for LxdCluster {
    fn drop(&mut self) {
        let _ = self.command(&["wipe"]).output();
    }
}
