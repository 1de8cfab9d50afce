//! The config as this program sees it: which file, which keys, and the `vmdeck config` commands.
//!
//! Reading and checking is `config`'s work.

use super::{Io, quarantine_list};
use crate::cli::ConfigArgs;
use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};
use vmdeck_core::{
    assets::image::{self, store::ImageStore},
    backend::{BACKENDS, qemu::image_arch},
    config::{self, Sources, Values},
    host::{info, process},
    transport::TRANSPORTS,
};
use vmdeck_model::{
    error::{Fault, Result},
    exit::RunExit,
    image::Image,
    key::Key,
    plan::{HostConfig, Setup},
    tag_expr::TagExpr,
    trouble::TroubleKind,
};
use vmdeck_tui as tui;

/// Returns every key: the core's, then each backend's and transport's, then the cockpit's.
pub(super) fn all_keys() -> Vec<Key> {
    let backends = BACKENDS.iter().flat_map(|row| row.keys);
    let transports = TRANSPORTS.iter().flat_map(|row| row.keys);
    let cockpit = tui::KEYS.iter().chain(tui::keymap::KEYS);
    config::keys::core().chain(transports).chain(backends).chain(cockpit).copied().collect()
}

/// Returns the config file to read: the one that was named, or the first of the usual places that exists.
pub(super) fn find(args: &ConfigArgs) -> Option<PathBuf> {
    if let Some(file) = &args.file {
        return Some(file.clone());
    }
    let usual = [Some(PathBuf::from("vmdeck.toml")), info::config_dir().map(|d| d.join("config.toml"))];
    usual.into_iter().flatten().find(|p| p.exists())
}

/// Returns whether a config lies in the user's own config folder.
pub(super) fn is_users_own(path: &Path) -> bool {
    let real = |path: &Path| std::fs::canonicalize(path).ok();
    match (real(path), info::config_dir().and_then(|dir| real(&dir))) {
        (Some(path), Some(folder)) => path.starts_with(folder),
        _ => false,
    }
}

/// Returns where the user's own themes are.
pub(super) fn theme_folder() -> Option<PathBuf> {
    info::config_dir().map(|d| d.join("themes"))
}

/// Leaves of a setup the cases that `--tag` means; without it, all.
pub(super) fn retain_tags(setup: &mut Setup, wanted: Option<&str>) -> Result<()> {
    let Some(text) = wanted else { return Ok(()) };
    let cannot = |why| Fault::user("cannot select by tags").because(why);
    setup.retain_tags(&TagExpr::parse(text).map_err(cannot)?).map_err(cannot)
}

/// What of a config is wanted and allowed.
#[derive(Clone, Copy, Debug, Default)]
struct Wish<'a> {
    /// Whether secrets are read, and their commands run; if not, only whether they are set is known.
    secrets: bool,
    /// The guests whose secrets are read; `None` = those of all.
    secrets_of: Option<&'a BTreeSet<String>>,
    /// Whether programs and commands that the file names are left out; see `trust`.
    leaves_out: bool,
}

/// Loads the config with its secrets; fails without one.
pub(super) fn load(args: &ConfigArgs) -> Result<Setup> {
    load_required(args, Wish { secrets: true, ..Wish::default() })
}

/// Loads the config with the secrets of these guests, for a run in them; fails without one.
pub(super) fn load_for(args: &ConfigArgs, guests: &BTreeSet<String>) -> Result<Setup> {
    load_required(args, Wish { secrets: true, secrets_of: Some(guests), ..Wish::default() })
}

/// Loads the config without its secrets: nothing is started for that. Fails without one.
pub(super) fn load_without_secrets(args: &ConfigArgs) -> Result<Setup> {
    load_required(args, Wish::default())
}

/// Loads the config without what a file of a stranger could start: programs and commands that it names are left out, and listed.
pub(super) fn load_untrusted(args: &ConfigArgs) -> Result<Setup> {
    load_required(args, Wish { secrets: true, leaves_out: true, ..Wish::default() })
}

/// Loads the config for a cockpit: without secrets, and without the programs that it names unless it is `trusted`.
pub(super) fn load_for_cockpit(args: &ConfigArgs, trusted: bool) -> Result<Setup> {
    load_required(args, Wish { leaves_out: !trusted, ..Wish::default() })
}

/// Returns the error of a guest that the config does not have; `what` = what cannot be done, "open a shell".
pub(super) fn unknown_guest(what: &str, name: &str, setup: &Setup) -> Fault {
    let known: Vec<String> = setup.machine_names().iter().map(ToString::to_string).collect();
    Fault::user(format!("cannot {what}: unknown guest `{name}` (known: {})", known.join(", ")))
}

fn load_required(args: &ConfigArgs, wish: Wish<'_>) -> Result<Setup> {
    let Some(path) = find(args) else {
        let missing = Fault::user("cannot find a config")
            .because("there is no ./vmdeck.toml and no config in the user's config folder");
        let here = std::env::current_dir().unwrap_or_default();
        let above = here.ancestors().skip(1).find(|folder| folder.join("vmdeck.toml").is_file());
        return Err(match above {
            // Not taken by itself: the records, and the paths that are typed, belong to that folder.
            Some(folder) => {
                missing.hint(format!("there is one in `{0}`: `cd {0}`, or name it with -f", folder.display()))
            }
            None => missing.hint("`vmdeck init` writes one, `vmdeck demo` works without one"),
        });
    };
    load_file(Some(&path), args, wish).map(|(setup, _)| setup)
}

/// Returns the host's part alone, from the config or from the defaults, and the programs that it names and that are left out. Only
/// the user's own config may name programs here.
pub(super) fn load_host(args: &ConfigArgs) -> Result<(HostConfig, Vec<String>)> {
    let path = find(args);
    let leaves_out = !path.as_deref().is_some_and(is_users_own);
    let (setup, _) = load_file(path.as_deref(), args, Wish { leaves_out, ..Wish::default() })?;
    Ok((setup.host, setup.left_out))
}

/// Returns the kinds of trouble that the config knows, or the program without one.
pub(super) fn load_troubles(args: &ConfigArgs) -> Result<Vec<TroubleKind>> {
    let (setup, _) = load_file(find(args).as_deref(), args, Wish::default())?;
    Ok(setup.troubles)
}

/// Loads a text that vmdeck itself has made as the config, with these arguments of `--set`.
pub(super) fn load_made(name: &Path, text: &str, set: &[String]) -> Result<Setup> {
    let args = ConfigArgs { set: set.to_owned(), ..ConfigArgs::default() };
    parse(Some((name, text)), &args, Wish { secrets: true, ..Wish::default() }).map(|(setup, _)| setup)
}

/// Loads the config that is there without a file.
pub(super) fn built_in() -> Result<Setup> {
    parse(None, &ConfigArgs::default(), Wish::default()).map(|(setup, _)| setup)
}

/// Loads this text as the config.
pub(super) fn load_text(path: &Path, text: &str) -> Result<Setup> {
    parse(Some((path, text)), &ConfigArgs::default(), Wish { secrets: true, ..Wish::default() }).map(|(setup, _)| setup)
}

fn load_file(path: Option<&Path>, args: &ConfigArgs, wish: Wish<'_>) -> Result<(Setup, Values)> {
    let Some(path) = path else { return parse(None, args, wish) };
    let text = vmdeck_files::read_text(path, vmdeck_files::LARGE).map_err(|e| {
        let fault = Fault::user(format!("cannot read the config `{}`", path.display()));
        match e.kind() {
            std::io::ErrorKind::NotFound => fault.because(e).hint("`vmdeck init` writes one"),
            _ => fault.because(e).hint("it must be a readable file of UTF-8 text"),
        }
    })?;
    let (mut setup, values) = parse(Some((path, &text)), args, wish)?;
    let (list, notes) = quarantine_list::of_setup(&setup)?;
    setup.quarantine = list;
    setup.notes.extend(notes);
    Ok((setup, values))
}

fn parse(file: Option<(&Path, &str)>, args: &ConfigArgs, wish: Wish<'_>) -> Result<(Setup, Values)> {
    let keys = all_keys();
    let env: BTreeMap<String, String> =
        std::env::vars_os().filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?))).collect();
    let backends: Vec<&str> = BACKENDS.iter().map(|row| row.kind).collect();
    let networked = BACKENDS.iter().filter(|row| row.capabilities.joins_switch);
    let networked: Vec<&str> = networked.map(|row| row.kind).collect();
    let transports: Vec<&str> = TRANSPORTS.iter().map(|row| row.kind).collect();
    let absolute = file.and_then(|(path, _)| std::path::absolute(path).ok());
    let base = absolute.as_deref().and_then(Path::parent).map(Path::to_owned);
    let (mut setup, values) = config::load(&Sources {
        file,
        base: &base.or_else(|| std::env::current_dir().ok()).unwrap_or_default(),
        env: &env,
        set: &args.set,
        keys: &keys,
        old_names: super::old_names::OLD_NAMES,
        backends: &backends,
        private_networks: &networked,
        transports: &transports,
        secret_command: wish.secrets.then_some(&secret_command),
        secrets_of: wish.secrets_of,
        trusts_file: !wish.leaves_out,
    })?;
    // However it was named: machines that are kept belong to it.
    setup.folder = std::fs::canonicalize(&setup.folder).unwrap_or(setup.folder);
    Ok((setup, values))
}

/// Runs the command of a secret: its standard output is the secret, its complaints go to the user's terminal.
fn secret_command(words: &[String]) -> Result<String, String> {
    let Some((program, args)) = words.split_first() else { return Err("the command is empty".into()) };
    let (status, printed) = process::read_output(program, args).map_err(|e| format!("cannot run `{program}`: {e}"))?;
    if !status.success() {
        return Err(format!("`{program}` failed: {status}"));
    }
    String::from_utf8(printed).map_err(|_| format!("`{program}` did not print UTF-8 text"))
}

pub(super) fn schema(io: &mut Io<'_>) -> RunExit {
    let schema = config::schema::render(&all_keys());
    io.say(&serde_json::to_string_pretty(&schema).unwrap_or_default());
    RunExit::Passed
}

pub(super) fn example(io: &mut Io<'_>) -> RunExit {
    io.say(config::example::render(&all_keys()).trim_end());
    RunExit::Passed
}

pub(super) fn check(args: &ConfigArgs, io: &mut Io<'_>) -> Result<RunExit> {
    let path = find(args);
    let (setup, _) = load_file(path.as_deref(), args, Wish::default())?;
    for note in &setup.notes {
        io.warn(&format!("warning: {note}"));
    }
    // What names of images stand for is part of the config.
    let store = ImageStore::new(&setup.host.images);
    for guest in &setup.guests {
        if let Some(image @ Image::Named(_)) = &guest.image {
            image::place(&store, image, image_arch(Some(guest)))?;
        }
    }
    for clash in tui::keymap::Keymap::new(&setup.keys).1 {
        io.warn(&format!("warning: {clash}"));
    }
    let theme = setup.cockpit.text("theme").filter(|theme| *theme != tui::look::AUTO).unwrap_or(tui::theme::DEFAULT);
    if let Err(fault) = tui::theme::Theme::load(theme, theme_folder().as_deref(), tui::theme::Depth::True) {
        io.warn(&format!("warning: {fault}"));
    }
    let cases: usize = setup.suites.iter().map(|s| s.cases.len()).sum();
    let name = path.map_or("the built-in config".into(), |p| p.display().to_string());
    let count = |n: usize, what: &str| format!("{n} {what}{}", if n == 1 { "" } else { "s" });
    let (guests, suites) = (count(setup.guests.len(), "guest"), count(setup.suites.len(), "suite"));
    io.say(&format!("{name} is valid: {guests}, {suites}, {}", count(cases, "case")));
    Ok(RunExit::Passed)
}

pub(super) fn show(args: &ConfigArgs, io: &mut Io<'_>) -> Result<RunExit> {
    let (_, values) = load_file(find(args).as_deref(), args, Wish::default())?;
    io.say(config::show::render(&values).trim_end());
    Ok(RunExit::Passed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_of_a_secret_is_run_only_where_the_secret_is_needed() {
        let home = tempfile::tempdir().expect("tempdir");
        let (file, ran) = (home.path().join("vmdeck.toml"), home.path().join("ran"));
        let command = format!("touch {} && echo canary", ran.display());
        let text = format!(
            "[guests.deb]\nbackend = \"qemu\"\n[guests.deb.qemu]\nimage = \"x.qcow2\"\n[guests.deb.ssh]\npassword = {{ command = [\"sh\", \"-c\", {command:?}] }}\n"
        );
        std::fs::write(&file, text).expect("config");
        let args = ConfigArgs { file: Some(file), ..ConfigArgs::default() };
        let password = |setup: &Setup| {
            let options = setup.guests[0].transport_options.get("ssh").expect("options");
            options.secret("password").expect("it is known to be set").expose().to_owned()
        };
        let shown = load_without_secrets(&args).expect("loaded");
        assert_eq!((password(&shown).as_str(), ran.exists()), ("", false));
        let run = load(&args).expect("loaded");
        assert_eq!((password(&run).as_str(), ran.exists()), ("canary", true));
    }
}
