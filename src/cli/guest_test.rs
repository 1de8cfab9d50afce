//! The arguments of `vmdeck guest-test`: the launcher's flags, which are not those of the other subcommands.

use super::{LockArgs, ReportArgs};
use clap::{ArgMatches, CommandFactory, FromArgMatches, Parser};
use std::{path::PathBuf, time::Duration};
use vmdeck_model::quantity::parse_duration;

/// Runs one test case of the KVM guest-test framework: takes the flags of `guest.test_launcher.sh`, reads its qemu.config.json (and
/// common.json), boots the machine, runs the framework's own executor scripts unchanged, and proves that the machine is gone.
///
/// Records, reports and exit codes are those of `vmdeck --ci`. The image is never written to; the guest is reached by
/// vmdeck's own session, whatever `ssh`, `scp` and `sshpass` the scripts call.
#[derive(Parser, Debug, Clone, Default)]
#[command(name = "vmdeck guest-test", bin_name = "vmdeck guest-test", args_override_self = true)]
pub struct GuestTestArgs {
    /// Processors [default: `cpus` of the config]
    #[arg(short = 'v', value_name = "N")]
    pub cpus: Option<String>,
    /// Processor sockets [default: `sockets`]
    #[arg(short = 's', value_name = "N")]
    pub sockets: Option<String>,
    /// Memory in GB [default: `mem`]
    #[arg(short = 'm', value_name = "N")]
    pub memory: Option<String>,
    /// Debug of a tdx-guest object: on or off [default: `debug`]
    #[arg(short = 'd', value_name = "on|off")]
    pub debug: Option<String>,
    /// Kind of machine: legacy, tdx, tdxio or `vfio_pt` [default: `vm_type`]
    #[arg(short = 't', value_name = "TYPE")]
    pub vm_type: Option<String>,
    /// Folder of the feature's scripts, beside guest-test
    #[arg(short = 'e', value_name = "DIR")]
    pub feature_path: Option<String>,
    /// Feature: which `NAME.guest_test_executor.sh` of that folder is run
    #[arg(short = 'f', value_name = "NAME")]
    pub feature: Option<String>,
    /// Test case: a branch of the executor
    #[arg(short = 'x', value_name = "CASE")]
    pub testcase: Option<String>,
    /// More kernel arguments [default: `cmdline`]
    #[arg(short = 'c', value_name = "TEXT", allow_hyphen_values = true)]
    pub cmdline: Option<String>,
    /// Performance counters of the guest: on or off [default: `pmu`]
    #[arg(short = 'p', value_name = "on|off")]
    pub pmu: Option<String>,
    /// Keep the machine for the collection of coverage: on or off [default: off]
    #[arg(short = 'g', value_name = "on|off", value_parser = ["on", "off"])]
    pub gcov: Option<String>,
    /// The file with images, boot pattern and password, from the folder guest-test [default: common.json]
    #[arg(short = 'i', value_name = "FILE")]
    pub common: Option<String>,
    /// The file with the machine, likewise [default: qemu.config.json]
    #[arg(short = 'j', value_name = "FILE")]
    pub qemu: Option<String>,
    /// Package that the executor may install in the guest: a path from here
    #[arg(short = 'r', value_name = "FILE")]
    pub rpm: Option<String>,
    /// Drain the memory before a kexec: yes or no
    #[arg(short = 'o', value_name = "yes|no", value_parser = ["yes", "no"])]
    pub mem_drain: Option<String>,
    /// Boots before the judged one, each by a kexec that the executor does; each is a case of its own
    #[arg(short = 'k', value_name = "N", value_parser = clap::value_parser!(u32).range(..=10_000))]
    pub kexec: Option<u32>,
    /// Folder of the framework's scripts [default: the current one, else ./guest-test or ./BM/guest-test]
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// Print the argument list that the config gives QEMU, as a JSON array; start nothing, and look at nothing else
    #[arg(long)]
    pub dry_run: bool,
    /// The number in the place of $PORT [default: one of 10010 to 10900]; the real port is a free one
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1024..))]
    pub port: Option<u16>,
    /// Limit for the boot, and the same again for the test case
    #[arg(long, value_name = "DURATION", default_value = "20m", value_parser = parse_duration)]
    pub timeout: Duration,
    /// Where the results go.
    #[command(flatten)]
    pub report: ReportArgs,
    /// How the host lock is taken.
    #[command(flatten)]
    pub lock: LockArgs,
    /// Override a config key of the guest, for example `guests.guest.boot_timeout=5m`
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// The recorded flags, in the order in which they were given.
    #[arg(skip)]
    pub given: Vec<&'static str>,
}

/// The recorded flags: the id of the argument, and the name in the record.
const RECORDED: [(&str, &str); 16] = [
    ("cpus", "VCPU"),
    ("sockets", "SOCKETS"),
    ("memory", "MEM"),
    ("debug", "DEBUG"),
    ("vm_type", "VM_TYPE"),
    ("feature_path", "FEATURE_PATH"),
    ("feature", "FEATURE"),
    ("testcase", "TESTCASE"),
    ("cmdline", "CMDLINE"),
    ("pmu", "PMU"),
    ("gcov", "GCOV"),
    ("common", "JSON_C"),
    ("qemu", "JSON_Q"),
    ("rpm", "RPM"),
    ("mem_drain", "MEM_DRAIN"),
    ("kexec", "KEXEC_CNT"),
];

impl GuestTestArgs {
    /// Reads the words after `vmdeck guest-test`.
    pub fn read<S: Into<std::ffi::OsString> + Clone>(words: impl IntoIterator<Item = S>) -> Result<Self, clap::Error> {
        let name = std::ffi::OsString::from("vmdeck guest-test");
        let words = std::iter::once(name).chain(words.into_iter().map(Into::into));
        let matches = Self::command().try_get_matches_from(words)?;
        let mut out = Self::from_arg_matches(&matches)?;
        out.given = given(&matches);
        Ok(out)
    }
}

fn given(matches: &ArgMatches) -> Vec<&'static str> {
    let place = |id: &str| matches.indices_of(id).and_then(Iterator::last);
    let mut all: Vec<(usize, &'static str)> =
        RECORDED.iter().filter_map(|(id, name)| Some((place(id)?, *name))).collect();
    all.sort_unstable();
    all.into_iter().map(|(_, name)| name).collect()
}
