//! `vmdeck --ci` and `vmdeck --dry-run`: the plan, what has to be built before it, and the run.
//!
//! Carrying it out is `execute`'s work.

use super::{
    Io, customise,
    execute::{Lines, execute, parent_of},
    plan, settings,
};
use crate::cli::{ConfigArgs, OutputArgs, RunArgs};
use vmdeck_core::{host::process, report::junit};
use vmdeck_model::{error::Result, exit::RunExit, guest::Guest};

/// Runs `vmdeck --ci` or `vmdeck --dry-run`.
pub(super) async fn run(args: &RunArgs, config: &ConfigArgs, look: &OutputArgs, io: &mut Io<'_>) -> Result<RunExit> {
    if args.commands {
        // A cockpit's engine: neither its terminal nor its end is ours.
        process::leave_session();
    }
    let planned = settings::load_without_secrets(config).and_then(|setup| {
        let mut plan = plan::make_plan(setup, args, io)?;
        if !args.dry_run {
            plan::read_secrets(&mut plan, config)?;
        }
        Ok(plan)
    });
    let plan = match planned {
        Ok(plan) => plan,
        Err(fault) => {
            report_unplanned(args, &fault.to_string(), io);
            return Err(fault);
        }
    };
    if args.dry_run {
        io.say(plan::show(&plan).trim_end());
        return Ok(RunExit::Passed);
    }
    // A cockpit's engine says what is missing: whoever looks at it waits for no other run.
    if !args.commands {
        let guests: Vec<Guest> = plan.guests().cloned().collect();
        match customise::build_missing(&guests, &plan.host, args, look, io).await {
            Ok(None) => {}
            Ok(Some(exit)) => {
                report_unplanned(args, "an image that the run needs was not built", io);
                return Ok(exit);
            }
            Err(fault) => {
                report_unplanned(args, &fault.to_string(), io);
                return Err(fault);
            }
        }
    }
    execute(plan, args, look, Lines::Usual, io).await
}

/// Writes the report that was asked for although no run begins: a reader that finds none, or an old one, must not take this for a
/// clean run.
fn report_unplanned(args: &RunArgs, why: &str, io: &mut Io<'_>) {
    if let Some(path) = args.report.junit.as_deref().filter(|_| !args.dry_run) {
        let written = parent_of(path).and_then(|()| junit::write_unplanned(path, why));
        if let Err(e) = written {
            io.warn(&format!("error: cannot write `{}`: {e}\n", path.display()));
        }
    }
}
