//! `vmdeck demo`: the real thing without a config: a micro guest under QEMU, or the `local` backend where that cannot be.
//!
//! The guest is built by the script that the binary carries.

use super::{Io, run, settings};
use crate::{
    cli::{LookArgs, RunArgs},
    error::{Fault, Result},
    host::{
        machine,
        process::{Spawner, Spec},
    },
    model::exit::Exit,
};
use std::{
    path::{Path, PathBuf},
    time::Duration,
};

const BUILD: &str = include_str!("../../guests/micro/build.sh");
const SUITES: &str = include_str!("demo.toml");
/// What a built guest consists of.
const PARTS: [&str; 4] = ["vmlinux", "initrd.cpio", "id_ed25519", "host_key"];

pub(super) async fn run(guest: Option<PathBuf>, local: bool, look: &LookArgs, io: &mut Io<'_>) -> Result<Exit> {
    let table = if local {
        local_guest("--local was given", &mut |text| io.say(&text))
    } else {
        if let Some(dir) = guest.as_ref().filter(|dir| !is_built(dir)) {
            return Err(Fault::user(format!("cannot use `{}`", dir.display()))
                .because(format!("it is no built micro guest: it lacks one of {}", PARTS.join(", ")))
                .hint("`guests/micro/build.sh DIR` builds one; without --guest the demo builds its own"));
        }
        match micro(guest, &mut |text| io.say(&text)).await {
            Ok(dir) => micro_guest(&dir),
            Err(why) => local_guest(&why, &mut |text| io.say(&text)),
        }
    };
    let text = config(&table);
    let setup = settings::load_text(Path::new("demo.toml"), &text)?;
    let args = RunArgs { repeat: 1, ..RunArgs::default() };
    let plan = run::make_plan(setup, &args, io)?;
    let dir = plan.dir.clone();
    let exit = run::execute(plan, &args, look, io).await?;
    let config = dir.join("vmdeck.toml");
    std::fs::write(&config, text)
        .map_err(|e| Fault::host(format!("cannot write `{}`", config.display())).because(e))?;
    let shown =
        config.strip_prefix(std::env::current_dir().unwrap_or_default()).unwrap_or(&config).display().to_string();
    let name = if table.contains("[guests.micro]") { "micro" } else { "here" };
    let here = std::env::current_dir().unwrap_or_default();
    let record = dir.strip_prefix(here).unwrap_or(&dir).display();
    // As it was called just now: it may not be on the search path.
    let vmdeck = std::env::args().next().unwrap_or_else(|| "vmdeck".into());
    io.say(&format!(
        "\nthe whole record is in {record}\n\ntry next:\n\n  \
         {vmdeck} -f {shown} shell {name} -- uname -a\n      a command in a fresh guest of your own\n  \
         {vmdeck} -f {shown} --ci 'basics/*'\n      part of the suite again\n  \
         {vmdeck} init\n      a vmdeck.toml for your own project"
    ));
    Ok(exit)
}

/// Makes the guest and the config of the demo in the state folder, for the cockpit; `told` hears what is being done.
pub(super) async fn prepare(told: &(dyn Fn(String) + Send + Sync)) -> Result<PathBuf> {
    let table = match micro(None, &mut |text| told(text)).await {
        Ok(dir) => micro_guest(&dir),
        Err(why) => local_guest(&why, &mut |text| told(text)),
    };
    let file = machine::state_dir().join("demo").join("vmdeck.toml");
    let cannot = |e| Fault::host(format!("cannot write `{}`", file.display())).because(e);
    std::fs::create_dir_all(file.parent().unwrap_or(Path::new("/"))).map_err(cannot)?;
    std::fs::write(&file, config(&table)).map_err(cannot)?;
    Ok(file)
}

fn config(guest: &str) -> String {
    format!(
        "[host]\nmin_free_disk = \"1GiB\"\nwarn_free_disk = \"1GiB\"\nmin_free_memory = \"512MiB\"\n\n{guest}\n{SUITES}"
    )
}

fn is_built(dir: &Path) -> bool {
    PARTS.iter().all(|part| dir.join(part).exists())
}

/// A folder with a built micro guest; the error says why there is none.
async fn micro(
    wanted: Option<PathBuf>,
    told: &mut (impl FnMut(String) + Send),
) -> std::result::Result<PathBuf, String> {
    if machine::find_program("qemu-system-x86_64").is_none() {
        return Err("qemu-system-x86_64 is not installed".into());
    }
    let here = PathBuf::from("guests/micro/out");
    let dir = match wanted {
        Some(dir) => dir,
        None if is_built(&here) => here,
        None => machine::state_dir().join("micro"),
    };
    let dir = std::path::absolute(&dir).map_err(|e| e.to_string())?;
    if is_built(&dir) {
        return Ok(dir);
    }
    told(format!("building the micro guest in {} from Debian packages (once, some seconds) ...", dir.display()));
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

fn local_guest(why: &str, told: &mut impl FnMut(String)) -> String {
    told(format!("no real guest: {why}; the demo runs on the `local` backend\n"));
    "[guests.here]\nbackend = \"local\"\n".into()
}

fn micro_guest(dir: &Path) -> String {
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
