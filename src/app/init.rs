//! `vmdeck init`: a first config from what this host has, with a comment at each line that a person will change.
//!
//! What each key means is in config.example.toml.

use super::{Io, old_names};
use std::{io::Write, path::Path};
use vmdeck_core::host::info;
use vmdeck_model::{
    error::{Fault, Result},
    exit::RunExit,
};

const FILE: &str = "vmdeck.toml";
/// Where runs leave their records.
const RECORDS: &str = ".vmdeck/";

pub(super) fn run(force: bool, io: &mut Io<'_>) -> Result<RunExit> {
    let path = Path::new(FILE);
    let cannot = |e: std::io::Error| Fault::user(format!("cannot write `{FILE}`")).because(e);
    let text = text(choose(), &old_names::families_set());
    let new = || std::fs::OpenOptions::new().write(true).create_new(true).open(path);
    // Over what is there only if that is a file.
    let opened = if force && path.symlink_metadata().is_ok() { vmdeck_files::create(path) } else { new() };
    let mut file = opened.map_err(|e| match e.kind() {
        std::io::ErrorKind::AlreadyExists => cannot(e).hint("`vmdeck init --force` overwrites it"),
        _ => cannot(e),
    })?;
    file.write_all(text.as_bytes()).map_err(cannot)?;
    if let Err(e) = ignore_records() {
        io.warn(&format!("warning: cannot add `{RECORDS}` to .gitignore: {e}"));
    }
    io.say(&format!(
        "wrote {FILE}\n\nnext: `vmdeck doctor`, then `vmdeck --ci`; `vmdeck config example` shows every key"
    ));
    Ok(RunExit::Passed)
}

/// Keeps the records of runs out of a repository: they hold what guests wrote.
fn ignore_records() -> std::io::Result<()> {
    if !Path::new(".git").exists() {
        return Ok(());
    }
    let path = Path::new(".gitignore");
    let text = match vmdeck_files::read_text(path, vmdeck_files::LARGE) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => String::new(),
        Err(e) => return Err(e),
    };
    let bare = |line: &str| line.trim().trim_start_matches('/').trim_end_matches('/').to_owned();
    if text.lines().any(|line| bare(line) == RECORDS.trim_end_matches('/')) {
        return Ok(());
    }
    let gap = if text.is_empty() || text.ends_with('\n') { "" } else { "\n" };
    let mut file = std::fs::OpenOptions::new().append(true).create(true).open(path)?;
    file.write_all(format!("{gap}{RECORDS}\n").as_bytes())
}

/// Returns the guest for what this host has.
fn choose() -> &'static str {
    let is_there = |name: &str| info::find_program(name).is_some();
    let micro = Path::new("guests/micro/out/initrd.cpio").exists();
    match () {
        () if micro && is_there("qemu-system-x86_64") => MICRO,
        () if is_there("utmctl") || is_there("/Applications/UTM.app/Contents/MacOS/utmctl") => UTM,
        () if is_there("multipass") => MULTIPASS,
        () if is_there("qemu-system-x86_64") => QEMU,
        () => LOCAL,
    }
}

/// Returns the file with this guest; old variables that are set keep working.
fn text(guest: &str, families: &[&str]) -> String {
    let compat = if families.is_empty() {
        String::new()
    } else {
        let list = families.iter().map(|family| format!("\"{family}\"")).collect::<Vec<_>>().join(", ");
        format!(
            "[compat]                             # variables of the old system that are set here keep working\nenv = [{list}]\n\n"
        )
    };
    format!(
        "# vmdeck.toml - `vmdeck config example` prints every key with its default\n\n[host]\nmin_free_disk = \"2GiB\"\n\n{compat}{guest}\n{SUITE}"
    )
}

const MICRO: &str = r#"[guests.micro]                       # the micro guest of guests/micro: boots in seconds
backend = "qemu"
cpus = 1
memory = "256MiB"
[guests.micro.boot]
pattern = "login:"
[guests.micro.ssh]
user = "ci"
key = "guests/micro/out/id_ed25519"
host_key = "guests/micro/out/host_key"
[guests.micro.qemu]
kernel = "guests/micro/out/vmlinux"
initrd = "guests/micro/out/initrd.cpio"
append = "console=ttyS0 panic=-1 sysrq_always_enabled"
"#;

const QEMU: &str = r#"[guests.debian]
backend = "qemu"
[guests.debian.boot]
pattern = "login:"
[guests.debian.ssh]
user = "ci"
key = "id_ed25519"                   # change: a key that the image accepts
[guests.debian.qemu]
image = "debian.qcow2"               # change: your disk image; it is never written
"#;

const UTM: &str = r#"[guests.linux]                       # the UTM machine `ci-os-linux...` or `ci-linux...`; or set `machine`
backend = "utm"
[guests.linux.ssh]                   # without a key or password commands go by the guest agent
user = "ci"
"#;

const MULTIPASS: &str = r#"[guests.ubuntu]
backend = "multipass"
fresh = "suite"                      # one machine for each suite, deleted afterwards
[guests.ubuntu.multipass]
image = "24.04"
"#;

const LOCAL: &str = r#"[guests.here]                        # NOT isolated: commands run on this host; install QEMU for real guests
backend = "local"
"#;

const SUITE: &str = r#"[suites.smoke]
[[suites.smoke.cases]]
name = "hello"
run = "uname -a"
"#;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::settings;

    #[test]
    fn what_it_writes_is_a_good_config() {
        let families: [&[&str]; 2] = [&[], &["trustinstall", "vm-tests"]];
        for (guest, families) in [MICRO, UTM, MULTIPASS, QEMU, LOCAL].into_iter().zip(families.into_iter().cycle()) {
            let setup = settings::load_text(Path::new(FILE), &text(guest, families)).expect("good");
            assert_eq!((setup.guests.len(), setup.suites[0].cases.len()), (1, 1));
        }
    }
}
