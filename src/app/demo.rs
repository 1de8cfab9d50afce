//! `vmdeck demo`: a run without a config: on a micro guest under QEMU, or on the `local` backend where QEMU cannot run.
//!
//! The guest is built by the script that the binary carries.

use super::{Io, execute, micro, plan, settings};
use crate::cli::{OutputArgs, RunArgs};
use std::path::{Path, PathBuf};
use vmdeck_model::{
    error::{Fault, Result},
    exit::RunExit,
};

pub(super) async fn run(guest: Option<PathBuf>, local: bool, look: &OutputArgs, io: &mut Io<'_>) -> Result<RunExit> {
    let table = if local {
        micro::local_guest("--local was given", &mut |text| io.say(&text))
    } else {
        if let Some(dir) = guest.as_ref().filter(|dir| !micro::is_built(dir)) {
            return Err(Fault::user(format!("cannot use `{}`", dir.display()))
                .because(format!("it must hold a built micro guest: {}", micro::PARTS.join(", ")))
                .hint("`guests/micro/build.sh DIR` builds one; without --guest the demo builds its own"));
        }
        match micro::build(guest, &mut |text| io.say(&text)).await {
            Ok(dir) => micro::micro_guest(&dir),
            Err(why) => micro::local_guest(&why, &mut |text| io.say(&text)),
        }
    };
    let text = micro::config(&table);
    let setup = settings::load_text(Path::new("demo.toml"), &text)?;
    let args = RunArgs { repeat: 1, ..RunArgs::default() };
    let plan = plan::make_plan(setup, &args, io)?;
    let dir = plan.dir.clone();
    let exit = execute::execute(plan, &args, look, execute::Lines::Usual, io).await?;
    let config = dir.join("vmdeck.toml");
    std::fs::write(&config, text)
        .map_err(|e| Fault::host(format!("cannot write `{}`", config.display())).because(e))?;
    let shown =
        config.strip_prefix(std::env::current_dir().unwrap_or_default()).unwrap_or(&config).display().to_string();
    let name = if table.contains("[guests.micro]") { "micro" } else { "here" };
    let here = std::env::current_dir().unwrap_or_default();
    let record = dir.strip_prefix(here).unwrap_or(&dir).display();
    // As it was called just now: it may not be on the search path.
    let vmdeck = std::env::args_os().next().map_or_else(|| "vmdeck".into(), |word| word.to_string_lossy().into_owned());
    io.say(&format!(
        "\nthe whole record is in {record}\n\ntry next:\n\n  \
         {vmdeck} -f {shown} shell {name} -- uname -a\n      run a command in a fresh guest\n  \
         {vmdeck} -f {shown} --ci 'basics/*'\n      run part of the suite again\n  \
         {vmdeck} init\n      a vmdeck.toml for your own project"
    ));
    Ok(exit)
}
