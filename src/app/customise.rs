//! Builds the systems that are made by booting another one: a run of one guest, whose disk is kept.
//!
//! What the cache knows of them is the core's `assets::image::customise`.

use super::{
    Io,
    deps::deps,
    execute::{Lines, execute},
    prune, settings,
};
use crate::cli::{OutputArgs, RunArgs};
use std::path::{Path, PathBuf};
use tokio_util::sync::CancellationToken;
use vmdeck_core::{
    assets::image::{
        self,
        customise::{self, CustomBuild},
    },
    backend::{BackendDeps, qemu::image_arch},
    context::CallContext,
    host::{files, info, random, signal},
};
use vmdeck_model::{
    error::{Fault, Result},
    exit::RunExit,
    guest::{Fresh, Guest, Network, Shutdown},
    ids::RunId,
    image::{BuildWay, Image, Recipe},
    job::Job,
    plan::{HostConfig, Plan, RunOptions},
    snapshot::Checkpoint,
    suite::{CaseAction, Suite},
    workers::Workers,
};

/// How long getting the base may take.
const FETCH: std::time::Duration = std::time::Duration::from_hours(24);
/// How long the guest may take to shut down: its disk is kept only then.
const SHUTDOWN: std::time::Duration = std::time::Duration::from_mins(3);
/// Records of builds that failed and are kept.
const RECORDS: usize = 10;
/// The suite of a build. What makes each machine its own (host keys, its id, our key, cloud-init's memory) goes at the end.
const SUITE: &str = r#"
[guests.image]
backend = "local"
[suites.image]
guests = ["image"]
run_as = "root"
setup_timeout = "2h"
setup = '''
if command -v apt-get >/dev/null; then
  export DEBIAN_FRONTEND=noninteractive
  apt-get -q update && apt-get -q -y --no-install-recommends install $PACKAGES
elif command -v dnf >/dev/null; then dnf -q -y install $PACKAGES
elif command -v zypper >/dev/null; then zypper -n install $PACKAGES
elif command -v apk >/dev/null; then apk add $PACKAGES
elif command -v pacman >/dev/null; then pacman -Sy --noconfirm --needed $PACKAGES
else echo "the guest has no package manager that vmdeck knows" >&2; exit 1; fi
'''
[[suites.image.cases]]
name = "script"
timeout = "2h"
run = "true"
[[suites.image.cases]]
name = "clean"
timeout = "5m"
shell = "plain"
run = '''
command -v cloud-init >/dev/null && cloud-init clean --logs
rm -f /etc/ssh/ssh_host_* /root/.ssh/authorized_keys /home/*/.ssh/authorized_keys
rm -f /var/lib/systemd/random-seed /var/lib/dbus/machine-id
[ ! -e /etc/machine-id ] || : > /etc/machine-id
sync
'''
"#;

/// Builds what the guests need and the cache lacks; `Some` = how the run ended that did not come to an image.
pub(super) async fn build_missing(
    guests: &[Guest],
    host: &HostConfig,
    args: &RunArgs,
    look: &OutputArgs,
    io: &mut Io<'_>,
) -> Result<Option<RunExit>> {
    for guest in guests {
        if let Some(Image::Built(recipe)) = &guest.image
            && let BuildWay::Boot(base) = &recipe.way
            && let Some(exit) = build(guest, recipe, base, host, args, look, io).await?
        {
            return Ok(Some(exit));
        }
    }
    Ok(None)
}

async fn build(
    guest: &Guest,
    recipe: &Recipe,
    base: &Image,
    host: &HostConfig,
    args: &RunArgs,
    look: &OutputArgs,
    io: &mut Io<'_>,
) -> Result<Option<RunExit>> {
    let deps = deps(host)?;
    // From the first run on a signal ends nothing by itself.
    let mut signals = signal::listen().map_err(|e| Fault::host("cannot listen for signals").because(e))?;
    let custom = tokio::select! {
        begun = begin(guest, recipe, base, &deps, io) => match begun? {
            Some(custom) => custom,
            None => return Ok(None),
        },
        Some(signal) = signals.recv() => return Ok(Some(RunExit::of_signal(signal))),
    };
    io.warn(&format!(
        "building {}: a machine of its own boots, gets what it lacks, and its disk is kept",
        recipe.system
    ));
    let plan = plan(guest, recipe, base, &custom, host, args)?;
    let dir = plan.dir.clone();
    // No report that was asked for is this run's.
    let aside = RunArgs { lock: args.lock.clone(), ..RunArgs::default() };
    let exit = execute(plan, &aside, look, Lines::Aside, io).await?;
    prune::keep_newest_in(&builds(), RECORDS);
    let cannot = || {
        Fault::infra(format!("cannot build `{}`", recipe.system))
            .hint(format!("`vmdeck replay {}` shows what happened", dir.display()))
    };
    match exit {
        RunExit::Passed if custom.disk().is_file() => {
            io.warn("making the image small");
            tokio::select! {
                kept = custom.keep(&deps.spawner) => drop(kept.map_err(|fault| cannot().caused_by(fault))?),
                Some(signal) = signals.recv() => return Ok(Some(RunExit::of_signal(signal))),
            }
            let _ = files::remove_dir(&dir);
            Ok(None)
        }
        RunExit::Passed => Err(cannot().because("the guest did not shut down well, so its disk may not be whole")),
        RunExit::TestFailed => Err(cannot().because(match (&recipe.script, recipe.packages.is_empty()) {
            (Some(_), true) => "its script failed",
            (None, _) => "its packages could not be installed",
            (Some(_), false) => "its packages or its script failed",
        })),
        exit => Ok(Some(exit)),
    }
}

/// Gets the base; `None` = the image is there already.
async fn begin(
    guest: &Guest,
    recipe: &Recipe,
    base: &Image,
    deps: &BackendDeps,
    io: &mut Io<'_>,
) -> Result<Option<CustomBuild>> {
    let cancel = CancellationToken::new();
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel::<String>();
    let report = move |text: &str| drop(tell.send(text.to_owned()));
    let call = CallContext { progress: &report, ..CallContext::new(FETCH, &cancel) };
    let arch = image_arch(Some(guest));
    let work = async {
        if customise::find(&deps.images, recipe, base, arch)?.is_some() {
            return Ok(None);
        }
        let system = image::obtain(&deps.images, base, arch, &deps.spawner, call).await?;
        let system = system.ok_or_else(|| Fault::bug("there is nothing to build on"))?;
        customise::begin(&deps.images, recipe, (base, system), arch, call).await
    };
    tokio::pin!(work);
    loop {
        tokio::select! {
            begun = &mut work => return begun,
            Some(text) = told.recv() => io.warn(&text),
        }
    }
}

fn plan(
    guest: &Guest,
    recipe: &Recipe,
    base: &Image,
    custom: &CustomBuild,
    host: &HostConfig,
    args: &RunArgs,
) -> Result<Plan> {
    let run = RunId::from_bits(random::u64());
    let guest = Guest {
        image: Some(base.clone()),
        shutdown: Shutdown::Command,
        shutdown_timeout: SHUTDOWN.max(guest.shutdown_timeout),
        save_disk: Some(custom.disk()),
        source: None,
        shares: Vec::new(),
        // What each step does stands on the disk of the one machine.
        fresh: Fresh::Run,
        snapshot: None,
        workers: Workers::Count(1),
        checkpoint: Checkpoint::Never,
        one_more_of: None,
        // Packages come over the network.
        network: Network::User,
        ..guest.clone()
    };
    let job = Job::new(guest, vec![suite(recipe)?]);
    let options = RunOptions { no_lock: args.lock.no_lock, ..RunOptions::default() };
    let dir = builds().join(run.short());
    let folder = std::env::current_dir().unwrap_or_default();
    Ok(Plan {
        part: vmdeck_model::shard::RunPart::default(),
        usual_ms: std::collections::BTreeMap::new(),
        quarantine: vmdeck_model::quarantine::Quarantine::default(),
        dir,
        run,
        config: None,
        folder,
        host: host.clone(),
        options,
        jobs: vec![job],
        selection: vec!["image".into()],
    })
}

/// Returns the folder of the records of builds.
fn builds() -> PathBuf {
    info::state_dir().join("builds")
}

fn suite(recipe: &Recipe) -> Result<Suite> {
    let setup = settings::load_made(Path::new("vmdeck image build"), SUITE, &[])?;
    let mut suite = setup.suites.into_iter().next().ok_or_else(|| Fault::bug("there is no suite"))?;
    suite.env.insert("PACKAGES".into(), recipe.packages.join(" "));
    if recipe.packages.is_empty() {
        suite.setup = None;
    }
    suite.cases.retain_mut(|case| match (case.id.as_str(), &recipe.script) {
        ("script", Some(script)) => {
            case.action = CaseAction::Script(script.clone());
            true
        }
        ("script", None) => false,
        _ => true,
    });
    Ok(suite)
}
