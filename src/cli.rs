//! The command line: its arguments and their help. Plain data comes out; nothing is checked on the host here.

use clap::{Args, Parser, Subcommand, ValueEnum};
use std::{path::PathBuf, time::Duration};
use vmdeck_model::{
    plan::Keep,
    quantity::{parse_duration, parse_size},
    select::{Selector, Shard},
};

/// Boots virtual machines, runs the tests inside, reports, and leaves nothing behind.
///
/// SELECT is `suite[/case][@guest]` with globs: `trust-store`, `*/install@windows`, `@debian`. Without SELECT, everything runs.
#[derive(Parser, Debug)]
#[command(name = "vmdeck", version, subcommand_precedence_over_arg = true, after_help = EXITS)]
pub struct Cli {
    /// The subcommand; without one, a run.
    #[command(subcommand)]
    pub command: Option<Sub>,
    /// The arguments of a run.
    #[command(flatten)]
    pub run: RunArgs,
    /// The arguments that name the config.
    #[command(flatten)]
    pub config: ConfigArgs,
    /// The arguments that decide what is printed.
    #[command(flatten)]
    pub look: OutputArgs,
}

const EXITS: &str = "Exit codes: 0 all passed; 1 a test failed; 2 usage or config; 3 host not ready; 4 could not acquire the lock in time;\n\
                     5 infra; 6 something could not be proven cleaned up; 70 a bug in vmdeck; 130, 143 cancelled.";

/// The arguments that name the config.
#[derive(Args, Debug, Clone, Default)]
pub struct ConfigArgs {
    /// Config file [default: ./vmdeck.toml, then vmdeck/config.toml in the user's config folder]
    #[arg(short = 'f', long = "config", value_name = "FILE", global = true)]
    pub file: Option<PathBuf>,
    /// Override a config key, for example `guests.deb.memory=4GiB`
    #[arg(long, value_name = "KEY=VALUE", global = true)]
    pub set: Vec<String>,
    /// Let `doctor`, `list` and the cockpit start the programs and secret commands that a project's config names
    #[arg(long, global = true)]
    pub trust: bool,
}

/// How much is printed, and how.
#[derive(Args, Debug, Clone, Default)]
pub struct OutputArgs {
    /// When to use colours
    #[arg(long, value_enum, default_value_t, global = true)]
    pub color: Color,
    /// Print only failures and the summary
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub quiet: bool,
    /// Print every output line as well
    #[arg(long, global = true)]
    pub verbose: bool,
}

/// When colours are used.
#[derive(ValueEnum, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Color {
    /// On a terminal, unless `NO_COLOR` is set.
    #[default]
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// The arguments of a run.
#[expect(clippy::struct_excessive_bools, reason = "independent switches of the command line")]
#[derive(Args, Debug, Clone, Default)]
pub struct RunArgs {
    /// What to run: `suite[/case][@guest]` with globs; default: everything
    #[arg(value_name = "SELECT", value_parser = |s: &str| Selector::parse(s).map(|_| s.to_owned()))]
    pub select: Vec<String>,
    /// Run without a screen, for CI
    #[arg(long)]
    pub ci: bool,
    /// Folder of the run's record; default: `.vmdeck/runs/<time>-<id>`
    #[arg(long, value_name = "DIR")]
    pub run_dir: Option<PathBuf>,
    /// Also write the report in JUnit format to this file
    #[arg(long, value_name = "FILE")]
    pub junit: Option<PathBuf>,
    /// Also write the events to this file; `-` = standard output
    #[arg(long, value_name = "FILE")]
    pub events: Option<PathBuf>,
    /// Which guests to keep at the end
    #[arg(long, value_enum, value_name = "WHEN")]
    pub keep: Option<KeepArg>,
    /// How long to wait for the host lock [default: `host.lock_timeout`]
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    pub lock_timeout: Option<Duration>,
    /// Do not take the host lock
    #[arg(long)]
    pub no_lock: bool,
    /// How many times to retry a failed case [default: each case's own setting]
    #[arg(long, value_name = "N")]
    pub retries: Option<u32>,
    /// How many times to run each case
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub repeat: u32,
    /// End the run at the first failure
    #[arg(long)]
    pub fail_fast: bool,
    /// Run part I of N of the cases
    #[arg(long, value_name = "I/N", value_parser = Shard::parse)]
    pub shard: Option<Shard>,
    /// How long a guest with a failed case, or one that did not boot, is held for inspection before it is taken down
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    pub pause: Option<Duration>,
    /// Boot the selected guests, run nothing in them, and keep them up until they are stopped
    #[arg(long)]
    pub hold: bool,
    /// Read commands as JSON lines from standard input; end of input without the word `detach` ends the run
    #[arg(long, hide = true)]
    pub commands: bool,
    /// The run's id, 16 hexadecimal digits; default: random
    #[arg(long, hide = true, value_name = "HEX", value_parser = |s: &str| u64::from_str_radix(s, 16))]
    pub run_id: Option<u64>,
    /// Turn off everything in the cockpit that changes something
    #[arg(long)]
    pub read_only: bool,
    /// Print the plan and start nothing
    #[arg(long)]
    pub dry_run: bool,
}

impl RunArgs {
    /// Returns the selection, read.
    pub fn selectors(&self) -> Vec<Selector> {
        // Each word was checked when the command line was read.
        self.select.iter().filter_map(|word| Selector::parse(word).ok()).collect()
    }
}

/// Which guests `--keep` keeps.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeepArg {
    /// Keep no guest.
    Never,
    /// Keep guests that failed.
    Failed,
    /// Keep every guest.
    Always,
}

impl From<KeepArg> for Keep {
    fn from(arg: KeepArg) -> Self {
        match arg {
            KeepArg::Never => Keep::Never,
            KeepArg::Failed => Keep::Failed,
            KeepArg::Always => Keep::Always,
        }
    }
}

/// Everything besides a run.
#[derive(Subcommand, Debug)]
pub enum Sub {
    /// Check this host: list problems and how to fix them (exit 0 or 3)
    Doctor {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// List every machine that the backends see, and which run owns it
    List {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Remove what dead runs left, and machines that were kept; asks first
    Cleanup(CleanupArgs),
    /// Remove old records of runs from .vmdeck/runs; asks first
    Prune(PruneArgs),
    /// Show, break or hold the host lock
    #[command(subcommand)]
    Lock(LockSub),
    /// Open a shell in a guest, starting it if needed, or run one command in it
    Shell {
        /// Name of a guest in the config
        guest: String,
        /// Use only this machine of the guest
        #[arg(long, hide = true, value_name = "NAME")]
        machine: Option<String>,
        /// Command to run instead of a shell
        #[arg(last = true, value_name = "CMD")]
        command: Vec<String>,
    },
    /// Open a recorded run in the cockpit: play it, go to any time, see every log as it was at that time
    Replay {
        /// Folder of a run, or its events.jsonl
        #[arg(value_name = "RUN-DIR|EVENTS.jsonl")]
        path: PathBuf,
    },
    /// Write a vmdeck.toml that suits this host
    Init {
        /// Overwrite an existing file
        #[arg(long)]
        force: bool,
    },
    /// Run the built-in demo: on a real micro guest if QEMU is installed, else on the `local` backend
    Demo {
        /// Folder of a built micro guest [default: guests/micro/out, else built into the state folder]
        #[arg(long, value_name = "DIR")]
        guest: Option<PathBuf>,
        /// Do not use QEMU even if it is installed
        #[arg(long)]
        local: bool,
    },
    /// Check or show the config, or print its JSON schema
    #[command(subcommand)]
    Config(ConfigSub),
    /// Print a completion script
    Completions {
        /// Shell to generate completions for
        shell: clap_complete::Shell,
    },
    /// Print the manual page
    Man,
}

/// The arguments of `vmdeck cleanup`.
#[derive(Args, Debug, Clone, Copy)]
pub struct CleanupArgs {
    /// Only show what would be removed
    #[arg(long)]
    pub list_only: bool,
    /// Do not ask for confirmation
    #[arg(long)]
    pub force: bool,
    /// Also remove machines made by others whose names begin with one of `host.test_prefixes`
    #[arg(long)]
    pub all: bool,
}

/// The arguments of `vmdeck prune`: a record that does not fulfil all of the conditions goes.
#[derive(Args, Debug, Clone, Default)]
pub struct PruneArgs {
    /// Keep the last N records
    #[arg(long, value_name = "N")]
    pub keep: Option<u32>,
    /// Keep the records of the last N days
    #[arg(long, value_name = "N")]
    pub days: Option<u32>,
    /// Keep as many of the newest records as fit into this size
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub size: Option<u64>,
    /// Only show what would be removed
    #[arg(long)]
    pub list_only: bool,
    /// Do not ask for confirmation
    #[arg(long)]
    pub force: bool,
}

/// The subcommands of `vmdeck lock`.
#[derive(Subcommand, Debug)]
pub enum LockSub {
    /// Show who holds the lock, since when, and what they are doing
    Status {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Remove a dead lock; refuse if its holder is alive
    Break {
        /// Also remove a lock of the old scripts that looks alive; never one that vmdeck holds
        #[arg(long)]
        force: bool,
    },
    /// Run a command while holding the lock
    Exec {
        /// Command to run
        #[arg(last = true, required = true, value_name = "CMD")]
        command: Vec<String>,
    },
}

/// The subcommands of `vmdeck config`.
#[derive(Subcommand, Debug, Clone, Copy)]
pub enum ConfigSub {
    /// Validate the config; list every problem
    Check,
    /// Show every effective value and where it comes from
    Show,
    /// Print the JSON schema
    Schema,
    /// Print an example with every key and its default
    Example,
}
