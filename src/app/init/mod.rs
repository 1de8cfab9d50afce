//! `vmdeck init`: a first config that runs on this host as it is, with a comment at each line that a person may change.
//!
//! What each key means is in config.example.toml.

mod ask;
mod from;
mod guest;
mod template;

pub use template::Template;

use super::{Io, old_names, run};
use crate::cli::{ConfigArgs, InitArgs, OutputArgs, RunArgs};
use guest::{CODE, GuestText, GuestTools};
use std::{
    ffi::OsString,
    io::Write,
    path::{Path, PathBuf},
};
use vmdeck_core::host::info;
use vmdeck_model::{
    error::{Fault, Result},
    exit::RunExit,
    suite::does_nothing,
};

const FILE: &str = "vmdeck.toml";
/// Where runs leave their records.
const RECORDS: &str = ".vmdeck/";

/// What is written, and what is said of it.
struct Draft {
    text: String,
    what: String,
    /// What could not be taken over, or needs a person.
    notes: Vec<String>,
    /// Whether to run it once.
    check: bool,
}

/// Writes a config, and runs it once where that is wanted.
pub(super) async fn run(args: &InitArgs, config: &ConfigArgs, look: &OutputArgs, io: &mut Io<'_>) -> Result<RunExit> {
    let file = config.file.clone().unwrap_or_else(|| PathBuf::from(FILE));
    if !make(args, &file, io)? {
        return Ok(RunExit::Passed);
    }
    let config = ConfigArgs { file: Some(file), ..config.clone() };
    let args = RunArgs { ci: true, repeat: 1, ..RunArgs::default() };
    run::run(&args, &config, look, io).await
}

/// Writes a config; returns whether it shall be run once.
pub(super) fn make(args: &InitArgs, file: &Path, io: &mut Io<'_>) -> Result<bool> {
    // Said before anybody answers questions.
    if !args.force && file.symlink_metadata().is_ok() {
        return Err(Fault::user(format!("cannot write `{}`", file.display()))
            .because("it is there")
            .hint("`vmdeck init --force` overwrites it"));
    }
    let draft = match &args.from {
        Some(from) => {
            let converted = from::convert(from, &args.flags)?;
            Draft { text: converted.text, what: converted.what, notes: converted.notes, check: args.check }
        }
        None => draft(args, io)?,
    };
    write(file, &draft.text, args.force)?;
    if let Err(e) = ignore_records() {
        io.warn(&format!("warning: cannot add `{RECORDS}` to .gitignore: {e}"));
    }
    for note in &draft.notes {
        io.warn(&format!("note: {note}"));
    }
    let next =
        if draft.check { "running it once:" } else { "next: `vmdeck --ci`; `vmdeck config example` shows every key" };
    io.say(&format!("wrote {}: {}\n\n{next}", file.display(), draft.what));
    Ok(draft.check)
}

/// Returns the config of another tool as the text of one of vmdeck.
#[cfg(test)]
pub(super) fn taken_over(file: &Path, flags: &[OsString]) -> Result<String> {
    from::convert(file, flags).map(|converted| converted.text)
}

/// Prints the config of another tool as one of vmdeck; what could not be taken over goes to standard error.
pub(super) fn show(file: &Path, flags: &[OsString], io: &mut Io<'_>) -> Result<RunExit> {
    let converted = from::convert(file, flags)?;
    for note in &converted.notes {
        io.warn(&format!("note: {note}"));
    }
    io.say(converted.text.trim_end());
    Ok(RunExit::Passed)
}

/// Returns a new config for what this host and this folder have; a person at a terminal is asked what it shall be.
fn draft(args: &InitArgs, io: &mut Io<'_>) -> Result<Draft> {
    let folder = Path::new(".");
    let template = args.template.unwrap_or_else(|| Template::of(folder));
    if args.test.as_deref().is_some_and(does_nothing) {
        return Err(Fault::user("cannot use `--test`").because("the command does nothing"));
    }
    if args.sha256.is_some() && args.image.is_none() {
        return Err(Fault::user("cannot use `--sha256`").because("it goes with --image and an address"));
    }
    let proposed = args.test.clone().or_else(|| template.test(folder).map(|test| test.command));
    let asks = !args.yes && args.image.is_none() && args.template.is_none() && ask::can_ask();
    let (guest, test, is_named, check) = if asks {
        let answers = ask::ask(template, guest::choices(template), proposed.clone(), io)?;
        // What was only taken over is still a proposal.
        let is_named = answers.test.is_some() && answers.test != proposed;
        (answers.guest, answers.test, is_named, answers.check)
    } else {
        let guest = match &args.image {
            Some(image) => guest::with_image(image, args.sha256.as_deref(), template)?,
            None => guest::choices(template).swap_remove(0),
        };
        (guest, proposed, args.test.is_some() || args.template.is_some(), false)
    };
    let lack = if is_named { None } else { lack(&guest, template) };
    let text = text(&guest, test.as_deref(), lack.as_deref(), &old_names::families_set());
    let note = |why: String| format!("the project's own test is only proposed in the file: {why}");
    let notes = lack.filter(|_| test.is_some()).map(note).into_iter().collect();
    Ok(Draft { text, what: guest.what, notes, check: args.check || check })
}

/// Returns why a guest may lack what the project's own test needs; `None` where it has that.
fn lack(guest: &GuestText, template: Template) -> Option<String> {
    let folder = Path::new(".");
    let needs = template.test(folder).map(|test| test.needs);
    match (guest.tools, needs) {
        (GuestTools::OfDebian12, _) => template.misfit(folder),
        (GuestTools::OfPackages, _) => None,
        (GuestTools::OfThisHost, _) if template.fetches(folder) => {
            Some("it fetches packages, and the guest has no network: set `network = \"user\"`".to_owned())
        }
        (GuestTools::OfThisHost | GuestTools::Here, Some(program)) => {
            info::find_program(program).is_none().then(|| format!("`{program}` is not installed"))
        }
        (GuestTools::OfThisHost | GuestTools::Here, None) => None,
        (GuestTools::Unknown, _) => Some("the guest needs its tools".to_owned()),
    }
}

/// Writes the file; over what is there only if that is a file.
fn write(path: &Path, text: &str, force: bool) -> Result<()> {
    let cannot = |e: std::io::Error| Fault::user(format!("cannot write `{}`", path.display())).because(e);
    let new = || std::fs::OpenOptions::new().write(true).create_new(true).open(path);
    let opened = if force && path.symlink_metadata().is_ok() { vmdeck_files::create(path) } else { new() };
    let mut file = opened.map_err(|e| match e.kind() {
        std::io::ErrorKind::AlreadyExists => cannot(e).hint("`vmdeck init --force` overwrites it"),
        _ => cannot(e),
    })?;
    file.write_all(text.as_bytes()).map_err(cannot)
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

/// Returns the file with this guest; old variables that are set keep working. A test for which the guest may lack something is only
/// proposed.
fn text(guest: &GuestText, test: Option<&str>, lack: Option<&str>, families: &[&str]) -> String {
    let compat = if families.is_empty() {
        String::new()
    } else {
        let list = families.iter().map(|family| format!("\"{family}\"")).collect::<Vec<_>>().join(", ");
        format!(
            "[compat]                             # variables of the old system that are set here keep working\nenv = [{list}]\n\n"
        )
    };
    let off = if lack.is_none() { "" } else { "# " };
    let quoted = |text: &str| toml::Value::String(text.to_owned()).to_string();
    let mut code = String::new();
    let mut suite = "[suites.smoke]\n".to_owned();
    let mut case = String::new();
    if let Some(test) = test {
        let needs = lack.map(|why| format!("; {why}")).unwrap_or_default();
        if guest.tools == GuestTools::Here {
            // There is no guest to bring it into.
            let folder = std::env::current_dir().unwrap_or_default().display().to_string();
            suite.push_str(&format!("{off}dir = {}\n", quoted(&folder)));
        } else {
            code = format!(
                "{off}[guests.{}.source]{} # the working tree as git sees it, uncommitted work included\n{off}path = \".\"\n{off}to = \"{CODE}\"\n",
                guest.name,
                " ".repeat(20_usize.saturating_sub(guest.name.len()))
            );
        }
        case = format!(
            "\n# The project's own test{needs}\n{off}[[suites.smoke.cases]]\n{off}name = \"test\"\n{off}run = {}\n{off}timeout = \"30m\"\n",
            quoted(test)
        );
    }
    format!(
        "# vmdeck.toml - `vmdeck config example` prints every key with its default\n\n[host]\nmin_free_disk = \"2GiB\"\n\n{compat}{}{code}\n{suite}\
         [[suites.smoke.cases]]\nname = \"hello\"\nrun = \"uname -a\"\n{case}",
        guest.tables,
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::settings;
    use clap::ValueEnum;

    #[test]
    fn every_guest_with_every_template_is_a_good_config() {
        let home = tempfile::tempdir().expect("tempdir");
        let families: [&[&str]; 2] = [&[], &["trustinstall", "vm-tests"]];
        for template in Template::value_variants() {
            let tests = [template.test(home.path()).map(|test| test.command), Some("make \"all\" # test".to_owned())];
            for guest in guest::tests::all(*template) {
                for ((test, on), families) in
                    tests.iter().zip([true, false]).chain(tests.iter().zip([false, true])).zip(families.iter().cycle())
                {
                    let text = text(&guest, test.as_deref(), (!on).then_some("it lacks something"), families);
                    let setup =
                        settings::load_text(Path::new(FILE), &text).unwrap_or_else(|fault| panic!("{fault}\n{text}"));
                    let is_there = test.is_some() && on;
                    let cases = if is_there { 2 } else { 1 };
                    assert_eq!((setup.guests.len(), setup.suites[0].cases.len()), (1, cases), "{text}");
                    let has_code = setup.guests[0].source.is_some() || setup.suites[0].dir.is_some();
                    assert_eq!(has_code, is_there, "{text}");
                }
            }
        }
    }

    #[test]
    fn every_kind_of_image_is_a_good_config() {
        let home = tempfile::tempdir().expect("tempdir");
        let disk = home.path().join("a \"disk\".qcow2");
        std::fs::write(&disk, b"QFI\xfb\0\0\0\x03").expect("written");
        let path = disk.to_str().expect("text");
        for (image, digest) in [
            ("host", None),
            (path, None),
            ("debian:12", None),
            ("fedora:43", None),
            ("https://x/y.img", None),
            ("https://x/y", Some("ab".repeat(32))),
        ] {
            let guest = guest::with_image(image, digest.as_deref(), Template::Rust).expect(image);
            let text = text(&guest, Some("cargo test"), None, &[]);
            settings::load_text(Path::new(FILE), &text).unwrap_or_else(|fault| panic!("{fault}\n{text}"));
        }
    }
}
