//! `vmdeck image`: the cache of images, by hand.
//!
//! Fetching and building are the core's; runs do both by themselves.

use super::{
    Io,
    deps::{deps, images},
    settings,
};
use crate::cli::{ConfigArgs, ImageSub};
use serde_json::json;
use std::io::IsTerminal;
use tokio_util::sync::CancellationToken;
use vmdeck_core::{
    assets::image::{
        Digest, System, build,
        fetch::{self, Patience, RemoteImage},
        store::{ImageStore, StoredImage},
    },
    context::CallContext,
    host::{clock, info, signal},
};
use vmdeck_model::{
    error::{Fault, Result},
    exit::RunExit,
    image::{Image, Recipe},
    plan::HostConfig,
    quantity::{show_count, show_duration, show_size},
};

/// How long one image may take.
const LIMIT: std::time::Duration = std::time::Duration::from_hours(24);

pub(super) async fn run(sub: ImageSub, config: &ConfigArgs, io: &mut Io<'_>) -> Result<RunExit> {
    let host = settings::load_host(config)?.0;
    let store = images(&host);
    match sub {
        ImageSub::List { json } => list(&store, json, io),
        ImageSub::Pull { url: Some(url), sha256, unverified } => {
            let digest = sha256.as_deref().map(Digest::parse).transpose();
            let digest = digest.map_err(|why| Fault::user("cannot use `--sha256`").because(why))?;
            if digest.is_none() && !unverified {
                return Err(Fault::user(format!("cannot fetch `{url}`"))
                    .because("nothing says what it has to be")
                    .hint("give its digest with --sha256, or --unverified to believe what comes"));
            }
            get(&[Image::Remote { url, digest: digest.map(|digest| hex(&digest)) }], &host, io).await
        }
        ImageSub::Pull { url: None, .. } => {
            let setup = settings::load_without_secrets(config)?;
            let all: Vec<Image> = setup.guests.into_iter().filter_map(|guest| guest.image).collect();
            get(&all, &host, io).await
        }
        ImageSub::Build { system, package, script, mirror } => {
            get(&[Image::Built(Recipe { system, packages: package, script, mirror })], &host, io).await
        }
        ImageSub::Verify => {
            let bad = store.verify(&mut |name| io.say(&format!("checking {name}")));
            for name in &bad {
                io.warn(&format!("removed {name}: its bytes are not what its name says"));
            }
            Ok(if bad.is_empty() { RunExit::Passed } else { RunExit::TestFailed })
        }
        ImageSub::Prune { size, force } => prune(&store, size, force, io),
        ImageSub::Rm { name } => {
            let all = store.list();
            let hits: Vec<&StoredImage> = all.iter().filter(|image| image.name.starts_with(&name)).collect();
            let [image] = hits[..] else {
                let why = if hits.is_empty() { "no image" } else { "several images" };
                return Err(Fault::user(format!("cannot remove `{name}`"))
                    .because(format!("{why} in the cache begin with that"))
                    .hint("`vmdeck image list` shows the names"));
            };
            store.remove_unused(image, &info::state_dir())?;
            io.say(&format!("removed {}", image.name));
            Ok(RunExit::Passed)
        }
    }
}

/// Returns the digits of a digest.
fn hex(digest: &Digest) -> String {
    digest.to_string().rsplit(':').next().unwrap_or_default().to_owned()
}

/// Fetches or builds images until all are in the cache, or somebody stops it.
async fn get(all: &[Image], host: &HostConfig, io: &mut Io<'_>) -> Result<RunExit> {
    let deps = deps(host)?;
    let cancel = CancellationToken::new();
    let mut signals = signal::listen().map_err(|e| Fault::host("cannot listen for signals").because(e))?;
    let stop = cancel.clone();
    let watch = tokio::spawn(async move {
        let signal = signals.recv().await;
        stop.cancel();
        signal
    });
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel::<String>();
    let report = move |text: &str| drop(tell.send(text.to_owned()));
    let call = CallContext { progress: &report, ..CallContext::new(LIMIT, &cancel) };
    let work = async {
        let mut out: Vec<System> = Vec::new();
        for image in all {
            match image {
                Image::Remote { url, digest } => {
                    let digest = digest.as_deref().map(Digest::parse).transpose();
                    let digest = digest.map_err(|why| Fault::user("cannot use the digest").because(why))?;
                    let wanted = RemoteImage { url: url.clone(), digest };
                    let fetched = fetch::fetch(&deps.images, &wanted, Patience::default(), call);
                    out.push(call.run(format!("fetch `{url}`"), fetched).await?);
                }
                Image::Built(recipe) => out.push(build::build(&deps.images, recipe, &deps.spawner, call).await?),
                Image::Host | Image::File(_) => {}
            }
        }
        Ok::<_, Fault>(out)
    };
    tokio::pin!(work);
    let (begun, person) = (clock::now(), std::io::stderr().is_terminal());
    let done = loop {
        tokio::select! {
            done = &mut work => break done,
            Some(text) = told.recv() => {
                let end = if person { "\x1b[K\r" } else { "\n" };
                let _ = write!(io.err, "{text}{end}").and_then(|()| io.err.flush());
            }
        }
    };
    if person {
        // What was told last stays no longer.
        let _ = write!(io.err, "\x1b[K");
    }
    if cancel.is_cancelled() {
        let signal = watch.await.ok().flatten();
        io.warn("cancelled; what has come so far is kept for the next time");
        return Ok(if signal == Some(vmdeck_model::outcome::Signal::Terminate) {
            RunExit::Terminated
        } else {
            RunExit::Interrupted
        });
    }
    let systems = done?;
    if systems.is_empty() {
        io.say("no guest of the config has an image that is fetched or built");
    }
    for system in systems {
        io.say(&format!("{} ({}, in {})", system.disk.display(), system.format, show_duration(begun.elapsed())));
    }
    Ok(RunExit::Passed)
}

fn list(store: &ImageStore, json: bool, io: &mut Io<'_>) -> Result<RunExit> {
    let all = store.list();
    let age = |image: &StoredImage| clock::system().duration_since(image.used).unwrap_or_default();
    if json {
        let rows: Vec<_> = all
            .iter()
            .map(|image| {
                json!({ "name": image.name, "path": image.path, "size": image.size, "origin": image.origin,
                        "unused_s": age(image).as_secs() })
            })
            .collect();
        io.say(&serde_json::to_string_pretty(&rows).map_err(|e| Fault::bug("cannot write JSON").because(e))?);
        return Ok(RunExit::Passed);
    }
    if all.is_empty() {
        io.say(&format!("no image in `{}`", store.folder().display()));
    }
    for image in &all {
        let (size, used) = (show_size(image.size), show_duration(age(image)));
        io.say(&format!("{:<26} {size:>10}  used {used} ago  {}", short(&image.name), image.origin));
    }
    Ok(RunExit::Passed)
}

/// Returns the beginning of a name, which is enough to tell it from others.
fn short(name: &str) -> String {
    name.chars().take(26).collect()
}

fn prune(store: &ImageStore, size: Option<u64>, force: bool, io: &mut Io<'_>) -> Result<RunExit> {
    let mut kept = 0;
    let surplus: Vec<StoredImage> = store
        .list()
        .into_iter()
        .filter(|image| {
            kept += image.size;
            size.is_none_or(|size| kept > size)
        })
        .collect();
    if surplus.is_empty() {
        io.say("no image to remove");
        return Ok(RunExit::Passed);
    }
    let what =
        format!("{}, {}", show_count(surplus.len(), "image"), show_size(surplus.iter().map(|image| image.size).sum()));
    if !force {
        if !std::io::stdin().is_terminal() {
            return Err(Fault::user(format!("cannot ask whether to remove {what}"))
                .because("standard input is not a terminal")
                .hint("use --force to remove them, or `vmdeck image list` to see them"));
        }
        io.say(&what);
        if !super::housekeeping::confirmed(io) {
            io.say("nothing was removed");
            return Ok(RunExit::Passed);
        }
    }
    for image in &surplus {
        match store.remove_unused(image, &info::state_dir()) {
            Ok(()) => io.say(&format!("removed {} {}", short(&image.name), image.origin)),
            // Those that are used stay.
            Err(fault) => io.warn(&fault.to_string()),
        }
    }
    Ok(RunExit::Passed)
}
