//! The command line: its arguments and their help. Plain data comes out; nothing is checked on the host here.

mod guest_test;
mod merge;
mod run;
mod snapshot;
mod stress;

pub use guest_test::GuestTestArgs;
pub use merge::{MergeArgs, TimesArgs};
pub use run::{KeepArg, LockArgs, ReportArgs, RunArgs, ShardByArg};
pub use snapshot::SnapshotSub;
pub use stress::StressArgs;

use crate::app::Template;
use clap::{Args, Parser, Subcommand, ValueEnum};
use std::{ffi::OsString, path::PathBuf, time::Duration};
use vmdeck_model::{
    quantity::{parse_duration, parse_size},
    select::Selector,
    tag_expr::TagExpr,
};

/// Boots virtual machines, runs the tests inside, reports, and leaves nothing behind.
///
/// SELECT is `suite[/case][@guest]` with globs: `trust-store`, `*/install@windows`, `@debian`; of a case with a matrix also
/// `suite/case:axis=value`. Without SELECT, everything runs.
#[derive(Parser, Debug)]
#[command(name = "vmdeck", disable_version_flag = true, subcommand_precedence_over_arg = true, after_help = EXITS)]
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
    /// Print the version; with --verbose also what it was built of and where it keeps things
    #[arg(short = 'V', long)]
    pub version: bool,
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
    /// No screen and no line that is drawn anew: a line of text for each change, for screen readers
    #[arg(long, global = true)]
    pub plain: bool,
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

/// Everything besides a run.
#[derive(Subcommand, Debug)]
pub enum Sub {
    /// Check this host: list problems and how to fix them (exit 0 or 3)
    Doctor(DoctorArgs),
    /// List every machine that the backends see, and which run owns it; with --cases, what a run would run
    List {
        /// List the cases in place of machines: where each runs, its tags, its limit, where it was written
        #[arg(long)]
        cases: bool,
        /// With --cases: also those that are not run, and why
        #[arg(long, requires = "cases")]
        all: bool,
        /// With --cases: only those whose tags fit
        #[arg(long, value_name = "EXPR", requires = "cases", value_parser = |s: &str| TagExpr::parse(s).map(|_| s.to_owned()))]
        tag: Option<String>,
        /// With --cases: only these, `suite[/case[:axis=value]][@guest]` with globs
        #[arg(value_name = "SELECT", requires = "cases", value_parser = |s: &str| Selector::parse(s).map(|_| s.to_owned()))]
        select: Vec<String>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Remove what dead runs left, and machines that were kept; asks first
    Cleanup(CleanupArgs),
    /// Remove old records of runs from .vmdeck/runs; asks first
    Prune(PruneArgs),
    /// Make a page or a text of a run, to be handed around
    Report(PageArgs),
    /// Make one record and report of several: of the shards of a run, or of machines that each had a part of it
    Merge(MergeArgs),
    /// Note how long cases and boots took, for `--shard-by time`
    Times(TimesArgs),
    /// List, add or end the tests whose failure is known and does not make a run red
    #[command(subcommand)]
    Quarantine(QuarantineCommand),
    /// Show, break or hold the host lock
    #[command(subcommand)]
    Lock(LockSub),
    /// Boot guests, put the code in and keep them up: for `--reuse`, `vmdeck watch` and `vmdeck shell`
    Keep {
        /// Names of guests in the config [default: all]
        #[arg(value_name = "GUEST")]
        guests: Vec<String>,
    },
    /// Run the selected cases again after each change of the code, in guests that stay up
    Watch {
        /// What to run: `suite[/case][@guest]` with globs; default: everything
        #[arg(value_name = "SELECT", value_parser = |s: &str| vmdeck_model::select::Selector::parse(s).map(|_| s.to_owned()))]
        select: Vec<String>,
        /// How it takes the host lock.
        #[command(flatten)]
        lock: LockArgs,
    },
    /// Run cases again and again, each time in a machine of its own, and tell how often they fail
    Stress(StressArgs),
    /// Remove the machines that were kept for guests of this config
    Down {
        /// Names of guests in the config, or SUITE.ROLE [default: all]
        #[arg(value_name = "GUEST")]
        guests: Vec<String>,
    },
    /// Open a shell in a guest, starting it if needed, or run one command in it
    ///
    /// The shell opens where the code is, with the environment of the guest's suite. `RUN/CASE` opens it in the machine that was kept of
    /// a run, as that case had it: `vmdeck shell 5bba890d/unit/parser@debian`.
    Shell {
        /// Name of a guest in the config, SUITE.ROLE, or RUN/CASE
        guest: String,
        /// Suite whose environment the shell has, where several run on the guest
        #[arg(long, value_name = "NAME")]
        suite: Option<String>,
        /// Use only this machine of the guest
        #[arg(long, hide = true, value_name = "NAME")]
        machine: Option<String>,
        /// Command to run instead of a shell
        #[arg(last = true, value_name = "CMD")]
        command: Vec<String>,
    },
    /// Run a command under a kernel, on this host's own root: read-only, below a writable layer in memory
    ///
    /// Nothing is needed but QEMU and a kernel: no image, no network, no login, no root. The exit status is the command's own; 125
    /// where the guest did not come to it, so that `git bisect run vmdeck boot -k ... -- ./test` skips what does not boot; 124 where
    /// it took longer than --timeout, 1 where the system crashed under it.
    Boot(BootArgs),
    /// Run a test case of the KVM guest-test framework: takes the flags of `guest.test_launcher.sh`
    ///
    /// `vmdeck guest-test -h` lists them.
    #[command(disable_help_flag = true)]
    GuestTest {
        /// Flags of the launcher
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "FLAGS")]
        flags: Vec<OsString>,
    },
    /// Join a run that is in progress, in the cockpit: see all of it, and steer it
    Attach {
        /// Folder of the run, or the beginning of its id [default: the one that is in progress]
        #[arg(value_name = "RUN")]
        run: Option<String>,
        /// Steer a run of `vmdeck --ci` as well, which is only watched else
        #[arg(long)]
        allow_control: bool,
    },
    /// List the runs of this folder, the newest first: how they ended, what was tested
    Runs(RunsArgs),
    /// Open a recorded run in the cockpit: play it, go to any time, see every log as it was at that time
    Replay {
        /// Folder of a run, its events.jsonl, or the beginning of its id [default: the last run]
        #[arg(value_name = "RUN")]
        path: Option<PathBuf>,
    },
    /// Write a vmdeck.toml that runs on this host as it is
    Init(InitArgs),
    /// Run the built-in demo: on a real micro guest if QEMU is installed, else on the `local` backend
    ///
    /// In a terminal it opens the cockpit; with --plain it tells its lines.
    Demo {
        /// Folder of a built micro guest [default: guests/micro/out, else built into the state folder]
        #[arg(long, value_name = "DIR")]
        guest: Option<PathBuf>,
        /// Do not use QEMU even if it is installed
        #[arg(long)]
        local: bool,
    },
    /// List, fetch, build and remove the images of guests
    #[command(subcommand)]
    Image(ImageSub),
    /// List the machines that were frozen, so that others begin where they were; remove them
    #[command(subcommand)]
    Snapshot(SnapshotSub),
    /// Show which kinds of trouble are looked for on consoles, or what a console's log gives
    #[command(subcommand)]
    Trouble(TroubleSub),
    /// Check or show the config, or print its JSON schema
    #[command(subcommand)]
    Config(ConfigSub),
    /// Print a completion script: guests, suites, cases and images of the config are completed as well
    ///
    /// For bash: `eval "$(vmdeck completions bash)"` in ~/.bashrc. For zsh the same in ~/.zshrc, after `compinit`. For fish:
    /// `vmdeck completions fish | source` in ~/.config/fish/config.fish.
    Completions {
        /// Shell to generate completions for
        shell: clap_complete::Shell,
    },
    /// Print a manual page: of vmdeck, or of a subcommand
    Man {
        /// Subcommand, such as `image pull`
        #[arg(value_name = "SUBCOMMAND")]
        subcommand: Vec<String>,
        /// Write the pages of all subcommands into this folder instead
        #[arg(long, value_name = "DIR", conflicts_with = "subcommand")]
        dir: Option<PathBuf>,
    },
}

/// The arguments of `vmdeck doctor`.
#[derive(Args, Debug, Clone, Copy)]
pub struct DoctorArgs {
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// Run the commands that mend what was found; asks first
    #[arg(long, conflicts_with = "json")]
    pub fix: bool,
    /// Do not ask for confirmation
    #[arg(long, requires = "fix")]
    pub yes: bool,
}

/// The arguments of `vmdeck init`.
#[derive(Args, Debug, Clone, Default)]
pub struct InitArgs {
    /// What the guest boots: a disk image, a folder of `vmdeck image build`, an address, a name such as debian:12, or host
    #[arg(long, value_name = "IMAGE")]
    pub image: Option<String>,
    /// Digest of an image that is fetched
    #[arg(long, value_name = "HEX")]
    pub sha256: Option<String>,
    /// Command that tests the project [default: what its build files suggest]
    #[arg(long, value_name = "CMD")]
    pub test: Option<String>,
    /// Kind of project, which decides how it is tested [default: by the build files]
    #[arg(long, value_enum, value_name = "KIND")]
    pub template: Option<Template>,
    /// Take over the config of another tool: spread.yaml, a tree of tmt (.fmf), kitchen.yml, a Vagrantfile, qemu.config.json
    #[arg(long, value_name = "FILE", conflicts_with_all = ["image", "sha256", "template", "test"])]
    pub from: Option<PathBuf>,
    /// Run the new config once
    #[arg(long)]
    pub check: bool,
    /// Ask nothing
    #[arg(long)]
    pub yes: bool,
    /// Overwrite an existing file
    #[arg(long)]
    pub force: bool,
    /// Flags of `guest.test_launcher.sh` with which a qemu.config.json is read
    #[arg(last = true, value_name = "FLAGS", requires = "from")]
    pub flags: Vec<OsString>,
}

/// The arguments of `vmdeck boot`.
#[derive(Args, Debug, Clone)]
pub struct BootArgs {
    /// Kernel: a bzImage or vmlinux, the folder of a built kernel tree, or the version of one in /boot [default: the running one,
    /// else the newest in /boot that is fit]
    #[arg(short, long, value_name = "KERNEL")]
    pub kernel: Option<PathBuf>,
    /// Folder that holds lib/modules/VERSION [default: beside the kernel, else this host's]
    #[arg(long, value_name = "DIR")]
    pub modules: Option<PathBuf>,
    /// Initial RAM disk that is loaded before vmdeck's own
    #[arg(long, value_name = "FILE")]
    pub initrd: Option<PathBuf>,
    /// Text that is added to the kernel's command line
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    pub append: Option<String>,
    /// Folder that becomes the root [default: /]
    #[arg(long, value_name = "DIR")]
    pub root: Option<PathBuf>,
    /// Folder that the guest sees at the same path, read-only; the current one is always there
    #[arg(long, value_name = "DIR")]
    pub share: Vec<PathBuf>,
    /// Folder that the guest sees at the same path, and may write to
    #[arg(long, value_name = "DIR")]
    pub rw_share: Vec<PathBuf>,
    /// How folders are shared; auto: virtiofs where its daemon is, else 9p, as far as the kernel has it
    #[arg(long, value_enum, default_value_t)]
    pub by: ByArg,
    /// Memory of the guest
    #[arg(long, value_name = "SIZE", default_value = "1GiB", value_parser = parse_size)]
    pub memory: u64,
    /// Processors of the guest
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=512))]
    pub cpus: u32,
    /// User who runs the command, by the root's own list of users [default: the caller]
    #[arg(long, value_name = "NAME")]
    pub user: Option<String>,
    /// Give the guest a network: it reaches what this host reaches
    #[arg(long)]
    pub net: bool,
    /// Wait for a debugger before the first instruction, and print the line that connects one
    #[arg(long)]
    pub gdb: bool,
    /// How long the command may take; then it is ended, with status 124
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    pub timeout: Option<Duration>,
    /// How long the guest may take to come to the command
    #[arg(long, value_name = "DURATION", default_value = "2m", value_parser = parse_duration)]
    pub boot_timeout: Duration,
    /// Do not take the host lock
    #[arg(long)]
    pub no_lock: bool,
    /// Command to run; without one, a shell
    #[arg(last = true, value_name = "CMD")]
    pub command: Vec<String>,
}

/// How folders are shared with a guest.
#[derive(ValueEnum, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ByArg {
    /// By what this host and the kernel have.
    #[default]
    Auto,
    /// By the 9P file system.
    #[value(name = "9p")]
    Plan9,
    /// By virtiofs.
    Virtiofs,
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

/// The arguments of `vmdeck runs`.
#[derive(Args, Debug, Clone, Default)]
pub struct RunsArgs {
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// List at most N runs
    #[arg(short = 'n', long, value_name = "N", default_value_t = 20)]
    pub last: usize,
    /// List every run
    #[arg(long, conflicts_with = "last")]
    pub all: bool,
    /// Keep the record of this run whatever is pruned
    #[arg(long, value_name = "RUN", conflicts_with_all = ["json", "unpin"])]
    pub pin: Option<String>,
    /// Let the record of this run be pruned again
    #[arg(long, value_name = "RUN", conflicts_with = "json")]
    pub unpin: Option<String>,
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

/// The arguments of `vmdeck report`.
#[derive(Args, Debug, Clone)]
#[command(group = clap::ArgGroup::new("form").required(true).multiple(true))]
pub struct PageArgs {
    /// Folder of a record, or the beginning of a run's id; default: the last run
    #[arg(value_name = "RUN")]
    pub run: Option<String>,
    /// Write one page that needs nothing besides itself; `-` is standard output
    #[arg(long, value_name = "FILE", group = "form")]
    pub html: Option<PathBuf>,
    /// Write Markdown for an issue: what failed, and why; `-` is standard output
    #[arg(long, value_name = "FILE", group = "form")]
    pub markdown: Option<PathBuf>,
}

/// What is done with the tests whose failure is known: the file `vmdeck.quarantine.toml` beside the config.
#[derive(Subcommand, Debug, Clone)]
pub enum QuarantineCommand {
    /// List them: until when, why, and which have passed often enough to be taken off
    List {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Add one: a case `SUITE/CASE`, or a sub-test `SUITE/CASE > NAME`, with globs
    Add {
        /// The test
        #[arg(value_name = "TEST")]
        name: String,
        /// Where the failure is explained: the address of an issue
        #[arg(long, value_name = "URL")]
        issue: String,
        /// Only in these guests, `GUEST[:axis=value]` with globs
        #[arg(long, value_name = "GUEST")]
        on: Option<String>,
        /// Until when
        #[command(flatten)]
        until: UntilArgs,
    },
    /// Excuse one for longer
    Extend {
        /// The test, as the file names it
        #[arg(value_name = "TEST")]
        name: String,
        /// Until when
        #[command(flatten)]
        until: UntilArgs,
    },
    /// Take out those whose time is over
    Expire,
}

/// Until when a test is excused.
#[derive(Args, Debug, Clone)]
pub struct UntilArgs {
    /// The last day, like 2026-12-31; at most 90 days ahead
    #[arg(long, value_name = "DATE", conflicts_with = "days")]
    pub until: Option<String>,
    /// The last day, in days from today
    #[arg(long, value_name = "N", default_value_t = 30, value_parser = clap::value_parser!(i64).range(0..=90))]
    pub days: i64,
}

/// What is to be built.
#[derive(Args, Debug, Clone, Default)]
pub struct ImageBuildArgs {
    /// System, such as debian:12; or an image to build on: a name, a file, an address
    pub system: Option<String>,
    /// Package that it gets besides (repeatable)
    #[arg(long, value_name = "NAME", value_delimiter = ',', requires = "system")]
    pub package: Vec<String>,
    /// Script that is run in it as root, at the end
    #[arg(long, value_name = "FILE", requires = "system")]
    pub script: Option<PathBuf>,
    /// Where its packages come from: a URL, a line or a file of sources [default: this host's sources, else the system's own]
    #[arg(long, value_name = "MIRROR", requires = "system")]
    pub mirror: Option<String>,
    /// How it is built [default: Debian and Ubuntu from packages, everything else by booting it]
    #[arg(long, value_enum, requires = "system")]
    pub by: Option<BuildByArg>,
    /// SHA-256 or SHA-512 of the image at an address
    #[arg(long, value_name = "HEX", requires = "system")]
    pub sha256: Option<String>,
}

/// How a system is built.
#[derive(ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
pub enum BuildByArg {
    /// From packages, without a machine
    Packages,
    /// In a machine that boots the image
    Boot,
}

impl BuildByArg {
    /// Returns the word of the config.
    pub fn word(self) -> &'static str {
        match self {
            BuildByArg::Packages => "packages",
            BuildByArg::Boot => "boot",
        }
    }
}

/// The subcommands of `vmdeck image`.
#[derive(Subcommand, Debug, Clone)]
pub enum ImageSub {
    /// List the images in the cache, the one that was used last first, and what can be named
    List {
        /// List the names that images can have, with their versions
        #[arg(long)]
        names: bool,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Fetch an image, or the images of all guests of the config
    Pull {
        /// Name of the image, such as debian:12, or its address (https) [default: those of the config]
        #[arg(value_name = "NAME|URL")]
        what: Option<String>,
        /// Digest that it must have (SHA-256 or SHA-512)
        #[arg(long, value_name = "HEX", requires = "what")]
        sha256: Option<String>,
        /// Fetch it without a digest: what comes first is believed, and required from then on
        #[arg(long, conflicts_with = "sha256", requires = "what")]
        unverified: bool,
    },
    /// Look for newer images of names: write down what they stand for in vmdeck.images.lock, and fetch them
    Update {
        /// Name of an image, such as debian:12 [default: those of the config]
        #[arg(value_name = "NAME")]
        names: Vec<String>,
    },
    /// Build a system: from packages, or by booting another image; without a name, those of the config
    Build(ImageBuildArgs),
    /// Compare every fetched image with its digest; remove those that are others now
    Verify,
    /// Remove images that no machine stands on: all, or the oldest until the rest fits
    Prune {
        /// Keep as many of those that were used last as fit into this size
        #[arg(long, value_name = "SIZE", value_parser = parse_size)]
        size: Option<u64>,
        /// Do not ask for confirmation
        #[arg(long)]
        force: bool,
    },
    /// Remove one image
    Rm {
        /// Name in `vmdeck image list`, or the beginning of it
        #[arg(value_parser = clap::builder::NonEmptyStringValueParser::new())]
        name: String,
    },
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

/// The subcommands of `vmdeck trouble`.
#[derive(Subcommand, Debug, Clone)]
pub enum TroubleSub {
    /// List the kinds, those of the config included
    List {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Show what the log of a console gives (exit 1 where a case would fail)
    Test {
        /// Log of a console; `-` = standard input
        #[arg(value_name = "FILE")]
        log: PathBuf,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

/// The subcommands of `vmdeck config`.
#[derive(Subcommand, Debug, Clone)]
pub enum ConfigSub {
    /// Validate the config; list every problem
    Check,
    /// Show every effective value and where it comes from; with --from, the config of another tool as one of vmdeck
    Show {
        /// Config of another tool, as `vmdeck init --from` takes it
        #[arg(long, value_name = "FILE")]
        from: Option<PathBuf>,
        /// Flags of `guest.test_launcher.sh` with which a qemu.config.json is read
        #[arg(last = true, value_name = "FLAGS", requires = "from")]
        flags: Vec<OsString>,
    },
    /// Print the JSON schema
    Schema,
    /// Print an example with every key and its default
    Example,
}
