//! `vmdeck demo`: a run without a config: on a micro guest under QEMU, or on the `local` backend where QEMU cannot run; in the cockpit
//! where a person has a terminal.
//!
//! The guest is built by the script that the binary carries.

use super::{Io, cockpit, execute, micro, plan, settings, terminal};
use crate::cli::{ConfigArgs, OutputArgs, RunArgs};
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
    if terminal::is_terminal() && !execute::is_plain(look) {
        let file = micro::write_config(&text)?;
        let config = ConfigArgs { file: Some(file.clone()), ..ConfigArgs::default() };
        let exit = cockpit::demo(&config, look, io).await?;
        try_next(&file, &table, io);
        return Ok(exit);
    }
    let setup = settings::load_text(Path::new("demo.toml"), &text)?;
    let args = RunArgs { repeat: 1, ..RunArgs::default() };
    let plan = plan::make_plan(setup, &args, io)?;
    let dir = plan.dir.clone();
    let exit = execute::execute(plan, &args, look, execute::Lines::Usual, io).await?;
    let config = dir.join("vmdeck.toml");
    std::fs::write(&config, text)
        .map_err(|e| Fault::host(format!("cannot write `{}`", config.display())).because(e))?;
    let here = std::env::current_dir().unwrap_or_default();
    io.say(&format!("\nthe whole record is in {}", dir.strip_prefix(here).unwrap_or(&dir).display()));
    try_next(&config, &table, io);
    Ok(exit)
}

/// Says what somebody who has seen the demo may try with its config.
fn try_next(config: &Path, table: &str, io: &mut Io<'_>) {
    let here = std::env::current_dir().unwrap_or_default();
    let shown = config.strip_prefix(here).unwrap_or(config).display();
    let name = if table.contains("[guests.micro]") { "micro" } else { "here" };
    // As it was called just now: it may not be on the search path.
    let vmdeck = std::env::args_os().next().map_or_else(|| "vmdeck".into(), |word| word.to_string_lossy().into_owned());
    io.say(&format!(
        "\ntry next:\n\n  \
         {vmdeck} -f {shown} shell {name} -- uname -a\n      run a command in a fresh guest\n  \
         {vmdeck} -f {shown} --ci 'basics/*'\n      run part of the suite again\n  \
         {vmdeck} init\n      a vmdeck.toml for your own project"
    ));
}
