//! `vmdeck image`: the cache of images, by hand.
//!
//! Fetching and building are the core's; runs do both by themselves.

use super::{Io, customise, deps::deps, settings};
use crate::cli::{BuildByArg, ConfigArgs, ImageBuildArgs, ImageSub, OutputArgs, RunArgs};
use serde_json::json;
use std::{io::IsTerminal, path::Path};
use tokio_util::sync::CancellationToken;
use toml::Table;
use vmdeck_core::{
    assets::image::{
        self, System,
        store::{ImageStore, StoredImage},
    },
    backend::qemu::image_arch,
    context::CallContext,
    host::{clock, info, signal},
};
use vmdeck_model::{
    catalogue::{Catalogue, LOCK_FILE, NamedImage},
    digest::Digest,
    error::{Fault, Result},
    exit::RunExit,
    guest::Guest,
    image::{BuildWay, Image, RemoteImage},
    plan::HostConfig,
    quantity::{show_count, show_duration, show_size},
};

/// How long one image may take.
const LIMIT: std::time::Duration = std::time::Duration::from_hours(24);

/// An image, and the processor that it is for.
struct WantedImage {
    image: Image,
    arch: &'static str,
    /// Whether its name is looked up anew.
    renew: bool,
}

impl WantedImage {
    fn for_this_host(image: Image) -> Self {
        Self { image, arch: image_arch(None), renew: false }
    }
}

pub(super) async fn run(sub: ImageSub, config: &ConfigArgs, look: &OutputArgs, io: &mut Io<'_>) -> Result<RunExit> {
    let host = settings::load_host(config)?.0;
    let store = ImageStore::new(&host.images);
    match sub {
        ImageSub::List { names: true, json } => names(&host.images.catalogue, json, io),
        ImageSub::List { names: false, json } => list(&store, &host.images.catalogue, json, io),
        ImageSub::Pull { what: Some(what), sha256, unverified } => {
            let image = if Catalogue::is_name(&what) {
                if sha256.is_some() || unverified {
                    return Err(Fault::user(format!("cannot fetch `{what}`"))
                        .because(format!("the digest of an image with a name is in `{LOCK_FILE}`"))
                        .hint("give its address instead of its name"));
                }
                Image::Named(Box::new(named(&what, config, &host, &store)?))
            } else {
                Image::Remote(remote(what, sha256.as_deref(), unverified)?)
            };
            get(&[WantedImage::for_this_host(image)], &host, io).await
        }
        ImageSub::Pull { what: None, .. } => get(&of_guests(config, false)?, &host, io).await,
        ImageSub::Update { names } if names.is_empty() => {
            let all = of_guests(config, true)?;
            let all: Vec<WantedImage> =
                all.into_iter().filter(|wanted| matches!(wanted.image, Image::Named(_))).collect();
            get(&all, &host, io).await
        }
        ImageSub::Update { names } => {
            let one = |name: &String| {
                let image = Image::Named(Box::new(named(name, config, &host, &store)?));
                Ok(WantedImage { renew: true, ..WantedImage::for_this_host(image) })
            };
            get(&names.iter().map(one).collect::<Result<Vec<_>>>()?, &host, io).await
        }
        ImageSub::Build(args) => {
            let guests = match &args.system {
                Some(system) => vec![guest_to_build(system, &args)?],
                None => settings::load_without_secrets(config)?.guests,
            };
            build(guests, &host, look, io).await
        }
        ImageSub::Verify => {
            let bad = store.verify(&mut |name| io.say(&format!("checking {name}")));
            let built = store.list().iter().filter(|image| Digest::of_file_name(&image.name).is_none()).count();
            if bad.is_empty() {
                io.say(&format!("every fetched image is what its name says; {built} built here have no digest"));
            }
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
                    .because(format!("{why} with a name that begins so"))
                    .hint("`vmdeck image list` shows the names"));
            };
            store.remove_unused(image, &info::state_dir())?;
            io.say(&format!("removed {}", image.name));
            Ok(RunExit::Passed)
        }
    }
}

/// Returns a guest whose image is the one to be built, as a config would have it.
fn guest_to_build(system: &str, args: &ImageBuildArgs) -> Result<Guest> {
    let mut recipe = Table::new();
    recipe.insert("build".into(), system.into());
    recipe.insert("packages".into(), args.package.clone().into());
    if let Some(script) = &args.script {
        let path = std::path::absolute(script);
        let path = path.map_err(|e| Fault::user(format!("cannot use `{}`", script.display())).because(e))?;
        let text = path.to_str().ok_or_else(|| Fault::user("the path of the script is not UTF-8"))?;
        recipe.insert("script".into(), text.into());
    }
    for (key, value) in [("mirror", args.mirror.as_deref()), ("by", args.by.map(BuildByArg::word))] {
        recipe.extend(value.map(|value| (key.to_owned(), value.into())));
    }
    let mut guest = Table::new();
    guest.insert("backend".into(), "qemu".into());
    guest.insert("image".into(), recipe.into());
    guest.extend(args.sha256.as_ref().map(|digest| ("image_sha256".to_owned(), digest.as_str().into())));
    let guests = Table::from_iter([("image".to_owned(), toml::Value::from(guest))]);
    let all = Table::from_iter([("guests".to_owned(), toml::Value::from(guests))]);
    let text = toml::to_string(&all).map_err(|e| Fault::bug("cannot write the config").because(e))?;
    let setup = settings::load_made(Path::new("vmdeck image build"), &text, &[])?;
    setup.guests.into_iter().next().ok_or_else(|| Fault::bug("there is no guest"))
}

/// Builds the images of these guests that are built at all.
async fn build(guests: Vec<Guest>, host: &HostConfig, look: &OutputArgs, io: &mut Io<'_>) -> Result<RunExit> {
    let is_built = |guest: &Guest| matches!(guest.image, Some(Image::Built(_)));
    let guests: Vec<Guest> = guests.into_iter().filter(is_built).collect();
    if let Some(exit) = customise::build_missing(&guests, host, &RunArgs::default(), look, io).await? {
        return Ok(exit);
    }
    let all: Vec<WantedImage> = guests.into_iter().filter_map(|guest| wanted(guest, false)).collect();
    get(&all, host, io).await
}

/// Returns what a guest needs that is not a file of this host.
fn wanted(guest: Guest, renew: bool) -> Option<WantedImage> {
    let arch = image_arch(Some(&guest));
    let image = guest.image.filter(|image| !matches!(image, Image::Host | Image::File(_)))?;
    Some(WantedImage { image, arch, renew })
}

/// Returns the images of all guests of the config; of one that is built by a machine, what it is built on.
fn of_guests(config: &ConfigArgs, renew: bool) -> Result<Vec<WantedImage>> {
    let setup = settings::load_without_secrets(config)?;
    let one = |mut guest: Guest| {
        if let Some(Image::Built(recipe)) = &guest.image
            && let BuildWay::Boot(base) = &recipe.way
        {
            guest.image = Some(base.clone());
        }
        wanted(guest, renew)
    };
    Ok(setup.guests.into_iter().filter_map(one).collect())
}

/// Looks a name up; what it stands for is kept beside the config, without one in the cache.
fn named(name: &str, config: &ConfigArgs, host: &HostConfig, store: &ImageStore) -> Result<NamedImage> {
    let beside =
        settings::find(config).and_then(|file| Some(std::path::absolute(file).ok()?.with_file_name(LOCK_FILE)));
    let lock = beside.unwrap_or_else(|| store.folder().join(LOCK_FILE));
    host.images.catalogue.find(name, lock).map_err(|why| {
        Fault::user(format!("cannot use `{name}`"))
            .because(why)
            .hint("`vmdeck image list --names` lists the names; `[images.catalogue]` in the config adds some")
    })
}

fn remote(url: String, sha256: Option<&str>, unverified: bool) -> Result<RemoteImage> {
    if !url.contains("://") {
        return Err(Fault::user(format!("cannot fetch `{url}`"))
            .because("it is neither an address nor a name such as debian:12")
            .hint("`vmdeck image list --names` lists the names"));
    }
    let digest = sha256.map(Digest::parse).transpose();
    let digest = digest.map_err(|why| Fault::user("cannot use `--sha256`").because(why))?;
    if digest.is_none() && !unverified {
        return Err(Fault::user(format!("cannot fetch `{url}`"))
            .because("nothing says what it has to be")
            .hint("give its digest with --sha256, or --unverified to believe what comes"));
    }
    Ok(RemoteImage { url, digest })
}

/// Fetches or builds images until all are in the cache, or somebody stops it.
async fn get(all: &[WantedImage], host: &HostConfig, io: &mut Io<'_>) -> Result<RunExit> {
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
        for WantedImage { image, arch, renew } in all {
            if let Image::Named(named) = image
                && *renew
            {
                let got = image::renew(&deps.images, named, arch, call);
                out.push(call.run(format!("renew `{}`", named.name), got).await?);
                continue;
            }
            let got = image::obtain(&deps.images, image, arch, &deps.spawner, call);
            out.extend(call.run("get an image", got).await?);
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
        return Ok(signal.map_or(RunExit::Interrupted, RunExit::of_signal));
    }
    let systems = done?;
    if systems.is_empty() {
        io.say("no guest of the config has such an image");
    }
    for system in systems {
        io.say(&format!("{} ({}, in {})", system.disk.display(), system.format, show_duration(begun.elapsed())));
    }
    Ok(RunExit::Passed)
}

/// Lists the names that images can have.
fn names(catalogue: &Catalogue, json: bool, io: &mut Io<'_>) -> Result<RunExit> {
    if json {
        let row = |(name, entry): (&String, &vmdeck_model::catalogue::CatalogueEntry)| {
            json!({ "name": name, "versions": entry.versions, "arch": entry.arch.keys().collect::<Vec<_>>(),
                    "user": entry.user })
        };
        let rows: Vec<_> = catalogue.0.iter().map(row).collect();
        io.say(&serde_json::to_string_pretty(&rows).map_err(|e| Fault::bug("cannot write JSON").because(e))?);
        return Ok(RunExit::Passed);
    }
    for (name, entry) in &catalogue.0 {
        let number = |version: &str| -> Vec<u32> { version.split('.').map(|part| part.parse().unwrap_or(0)).collect() };
        let mut versions: Vec<(&String, &String)> = entry.versions.iter().collect();
        versions.sort_by_key(|(version, _)| number(version));
        let versions: Vec<String> = versions
            .into_iter()
            .map(|(version, release)| {
                let is_word = release != version && release.chars().all(|c| c.is_ascii_lowercase());
                if is_word { format!("{name}:{version} ({release})") } else { format!("{name}:{version}") }
            })
            .collect();
        let arch = entry.arch.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
        io.say(&format!("{}  [{arch}]", versions.join(", ")));
    }
    Ok(RunExit::Passed)
}

fn list(store: &ImageStore, catalogue: &Catalogue, json: bool, io: &mut Io<'_>) -> Result<RunExit> {
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
    let names = catalogue.0.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
    io.say(&format!("\ncan be named: {names} (`vmdeck image list --names` shows the versions)"));
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
        if !io.confirmed("Remove all of this?") {
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
