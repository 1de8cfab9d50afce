//! What a shell may complete: the guests, suites and cases of the config here, and the images that there are.
//!
//! Nothing that the config names is started for that, and a config that is broken completes nothing.

use super::settings;
use crate::cli::{Cli, ConfigArgs};
use clap::{Command, CommandFactory};
use clap_complete::{ArgValueCandidates, CompletionCandidate};
use vmdeck_core::assets::image::store::ImageStore;
use vmdeck_model::plan::Setup;

/// Returns the command line with what may stand in its places.
pub(super) fn command() -> Command {
    let with = |command: Command, argument: &'static str, list: fn() -> Vec<CompletionCandidate>| {
        // In its place: the order of arguments is that of the command line.
        command.mut_args(|own| if own.get_id() == argument { own.add(ArgValueCandidates::new(list)) } else { own })
    };
    with(Cli::command(), "select", selections)
        .mut_subcommand("shell", |shell| with(shell, "guest", guests))
        .mut_subcommand("init", |init| with(init, "image", image_names))
        .mut_subcommand("image", |image| {
            image
                .mut_subcommand("pull", |pull| with(pull, "what", image_names))
                .mut_subcommand("update", |update| with(update, "names", image_names))
                .mut_subcommand("rm", |rm| with(rm, "name", stored_images))
        })
}

fn setup() -> Option<Setup> {
    settings::load_without_secrets(&ConfigArgs::default()).ok()
}

/// Returns the names of the guests, and of the machines of suites with roles.
fn guests() -> Vec<CompletionCandidate> {
    let Some(setup) = setup() else { return Vec::new() };
    let names = setup.machine_names();
    let guests = names.iter().filter_map(|name| setup.guest_named(name.as_str()));
    guests.map(|guest| CompletionCandidate::new(guest.id.as_str()).help(Some(guest.backend.clone().into()))).collect()
}

/// Returns every suite, every case and every guest as a selection.
fn selections() -> Vec<CompletionCandidate> {
    let Some(setup) = setup() else { return Vec::new() };
    let suites = setup.suites.iter().map(|suite| suite.id.to_string());
    let cases =
        setup.suites.iter().flat_map(|suite| suite.cases.iter().map(move |case| format!("{}/{}", suite.id, case.id)));
    let guests = setup.machine_names().into_iter().map(|name| format!("@{name}"));
    suites.chain(cases).chain(guests).map(CompletionCandidate::new).collect()
}

/// Returns the names that images can have.
fn image_names() -> Vec<CompletionCandidate> {
    let Ok((host, _)) = settings::load_host(&ConfigArgs::default()) else { return Vec::new() };
    let names = host.images.catalogue.0.iter();
    names
        .flat_map(|(name, entry)| entry.versions.keys().map(move |version| format!("{name}:{version}")))
        .map(CompletionCandidate::new)
        .collect()
}

/// Returns the images in the cache.
fn stored_images() -> Vec<CompletionCandidate> {
    let Ok((host, _)) = settings::load_host(&ConfigArgs::default()) else { return Vec::new() };
    let all = ImageStore::new(&host.images).list();
    all.into_iter().map(|image| CompletionCandidate::new(image.name).help(Some(image.origin.into()))).collect()
}
