//! The demo's guest: the micro guest, built by the script that the binary carries, or the `local` backend; and its config.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};
use vmdeck_core::host::{
    info,
    process::{Spawner, Spec},
};
use vmdeck_model::error::{Fault, Result};

const BUILD: &str = include_str!("../../guests/micro/build.sh");
const SUITES: &str = include_str!("demo.toml");
/// The files of a built guest.
pub(super) const PARTS: [&str; 4] = ["vmlinux", "initrd.cpio", "id_ed25519", "host_key"];

/// Makes the guest and the config of the demo in the state folder, for the cockpit; `told` is called with each step.
pub(super) async fn make(told: &(dyn Fn(String) + Send + Sync)) -> Result<PathBuf> {
    let table = match build(None, &mut |text| told(text)).await {
        Ok(dir) => micro_guest(&dir),
        Err(why) => local_guest(&why, &mut |text| told(text)),
    };
    write_config(&config(&table))
}

/// Writes the config of the demo in the state folder; returns its path.
pub(super) fn write_config(text: &str) -> Result<PathBuf> {
    let file = info::state_dir().join("demo").join("vmdeck.toml");
    let cannot = |e| Fault::host(format!("cannot write `{}`", file.display())).because(e);
    std::fs::create_dir_all(file.parent().unwrap_or(Path::new("/"))).map_err(cannot)?;
    std::fs::write(&file, text).map_err(cannot)?;
    Ok(file)
}

pub(super) fn config(guest: &str) -> String {
    format!(
        "[host]\nmin_free_disk = \"1GiB\"\nwarn_free_disk = \"1GiB\"\nmin_free_memory = \"512MiB\"\n\n{guest}\n{SUITES}"
    )
}

pub(super) fn is_built(dir: &Path) -> bool {
    PARTS.iter().all(|part| dir.join(part).exists())
}

/// Returns a folder with a built micro guest; the error says why there is none.
pub(super) async fn build(
    wanted: Option<PathBuf>,
    told: &mut (impl FnMut(String) + Send),
) -> std::result::Result<PathBuf, String> {
    if info::find_program("qemu-system-x86_64").is_none() {
        return Err("qemu-system-x86_64 is not installed".into());
    }
    let here = PathBuf::from("guests/micro/out");
    let dir = match wanted {
        Some(dir) => dir,
        None if is_built(&here) => here,
        None => info::state_dir().join("micro"),
    };
    let dir = std::path::absolute(&dir).map_err(|e| e.to_string())?;
    if is_built(&dir) {
        return Ok(dir);
    }
    told(format!(
        "building the micro guest in {} from Debian packages (only once, takes a few seconds) ...",
        dir.display()
    ));
    let script = tempfile::NamedTempFile::new().map_err(|e| e.to_string())?;
    std::fs::write(script.path(), BUILD).map_err(|e| e.to_string())?;
    let spec = Spec::new("bash").args([script.path(), &dir]);
    let spawner = Spawner::new(None).map_err(|e| e.to_string())?;
    let out = spawner.output(&spec, Duration::from_mins(10)).await.map_err(|e| e.to_string())?;
    if out.status.success() && is_built(&dir) {
        return Ok(dir);
    }
    let why = out.stderr.lines().find(|l| l.starts_with("error:")).or(out.stderr.lines().last()).unwrap_or("it failed");
    Err(format!("the micro guest could not be built: {why}"))
}

pub(super) fn local_guest(why: &str, told: &mut impl FnMut(String)) -> String {
    told(format!("no real guest: {why}; the demo runs on the `local` backend\n"));
    "[guests.here]\nbackend = \"local\"\n".into()
}

pub(super) fn micro_guest(dir: &Path) -> String {
    let path = |name: &str| toml::Value::String(dir.join(name).to_string_lossy().into_owned()).to_string();
    format!(
        "[guests.micro]\nbackend = \"qemu\"\ncpus = 1\nmemory = \"256MiB\"\n\n[guests.micro.boot]\npattern = \"login:\"\n\n\
         [guests.micro.ssh]\nuser = \"ci\"\nkey = {}\nhost_key = {}\n\n\
         [guests.micro.qemu]\nkernel = {}\ninitrd = {}\nappend = \"console=ttyS0 panic=-1 sysrq_always_enabled\"\n",
        path("id_ed25519"),
        path("host_key"),
        path("vmlinux"),
        path("initrd.cpio")
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::settings;

    #[test]
    fn both_forms_are_good_configs() {
        for table in [micro_guest(Path::new("/with \"quotes\"")), "[guests.here]\nbackend = \"local\"\n".into()] {
            let text = format!("{table}\n{SUITES}");
            let setup = settings::load_text(Path::new("demo.toml"), &text).expect("good");
            assert!(setup.suites.iter().any(|s| s.cases.iter().any(|c| c.retries > 0)), "a flaky case");
            assert!(setup.suites.iter().any(|s| s.cases.iter().any(|c| c.skip.is_some())), "a skipped case");
        }
    }
}
