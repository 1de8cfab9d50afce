//! The fully resolved run: every default applied, every name looked up, nothing left to read.
//!
//! Made by `config`, carried out by `engine`.

use super::{
    guest::Guest,
    ids::{CaseId, GuestId, RunId},
    image::ImageConfig,
    job::{Job, JobGuest, is_meant_for, role_guests, selects, with_needs},
    key::{Key, Options},
    quarantine::Quarantine,
    secret::Secret,
    select::Selector,
    shard::RunPart,
    snapshot::SnapshotConfig,
    suite::{Case, Suite},
    tag_expr::TagExpr,
    trouble::TroubleKind,
};
use globset::Glob;
use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    time::Duration,
};

/// What the config says, before a selection.
#[derive(Clone, Debug, PartialEq)]
pub struct Setup {
    /// The config file, if there is one.
    pub file: Option<PathBuf>,
    /// The folder of the config; without one, the current folder.
    pub folder: PathBuf,
    /// The host's limits and lock.
    pub host: HostConfig,
    /// Every guest.
    pub guests: Vec<Guest>,
    /// Every suite.
    pub suites: Vec<Suite>,
    /// The cockpit's settings: the keys of `[cockpit]`.
    pub cockpit: Options,
    /// The cockpit's keys: for each action of `[keys]`, the keys it is bound to.
    pub keys: Options,
    /// Every kind of trouble that is looked for on consoles, unless a guest leaves it out.
    pub troubles: Vec<TroubleKind>,
    /// The tests whose failure is known.
    pub quarantine: Quarantine,
    /// What a person should know although nothing is wrong.
    pub notes: Vec<String>,
    /// The digest of all that decides what is tested and where: the same on every host that has the same files.
    pub digest: String,
    /// The programs and commands of this host that the config names and that may not be started now, each with its key and place.
    pub left_out: Vec<String>,
}

/// How much of the records is kept: one that is beyond any of these goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RecordBudget {
    /// The most records.
    pub count: Option<u32>,
    /// The most days since they were written.
    pub days: Option<u32>,
    /// The most bytes of all together.
    pub size: Option<u64>,
}

impl RecordBudget {
    /// Returns whether nothing is to go.
    pub fn is_unlimited(&self) -> bool {
        *self == Self::default()
    }
}

/// The host's limits and its lock.
#[derive(Clone, Debug, PartialEq)]
pub struct HostConfig {
    /// The lock directory.
    pub lock: PathBuf,
    /// Whether the old scripts use the same lock; their races are then guarded against.
    pub lock_shared: bool,
    /// How long to wait for the lock.
    pub lock_timeout: Duration,
    /// The free disk space below which preflight fails, in bytes.
    pub min_free_disk: u64,
    /// The free disk space below which preflight warns, in bytes.
    pub warn_free_disk: u64,
    /// The memory to leave free besides that of the guests, in bytes.
    pub min_free_memory: u64,
    /// The memory that the guests of all vmdeck processes may have together, in bytes; `None` = what the host has.
    pub memory: Option<u64>,
    /// How many guests may be up at a time, over all vmdeck processes.
    pub slots: u32,
    /// The most bytes of one log of a record.
    pub log_size: u64,
    /// The most bytes of the artifacts of a run.
    pub artifacts_size: u64,
    /// The most bytes of output lines among the events of a record.
    pub events_size: u64,
    /// What of the records in the usual folder is kept when a run has ended.
    pub records: RecordBudget,
    /// How images are fetched and kept.
    pub images: ImageConfig,
    /// How snapshots are kept.
    pub snapshots: SnapshotConfig,
    /// The prefixes of the names of test machines made by others; `vmdeck cleanup --all` removes those.
    pub test_prefixes: Vec<String>,
    /// The tools that are not where they usually are: name and program.
    pub tools: BTreeMap<String, String>,
    /// The variables of the environment that hold secrets: no process that a run starts gets them.
    pub secret_env: Vec<String>,
}

/// Which guests to keep at the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Keep {
    /// No guest is kept.
    #[default]
    Never,
    /// Guests with a failed or infra case are kept.
    Failed,
    /// Every guest is kept.
    Always,
}

/// What guests are booted for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum RunPurpose {
    /// Cases are run in them.
    #[default]
    Cases,
    /// They are held until they are stopped; nothing is run in them.
    Hold,
    /// They are kept as they are once they are up.
    Keep,
}

/// How a run is to be done: the command line's part.
#[expect(clippy::struct_excessive_bools, reason = "independent switches of the command line")]
#[derive(Clone, Debug, PartialEq)]
pub struct RunOptions {
    /// Which guests to keep at the end.
    pub keep: Keep,
    /// How many times to retry a failed case, instead of each case's own number.
    pub retries: Option<u32>,
    /// How many times to run each case.
    pub repeat: u32,
    /// Whether the first failure ends the run.
    pub fail_fast: bool,
    /// Whether the run does not take the host lock.
    pub no_lock: bool,
    /// How long a guest with a failed case, or one that did not boot, is held for inspection.
    pub pause: Option<Duration>,
    /// What the guests are booted for.
    pub purpose: RunPurpose,
    /// Whether a guest gets the machine that an earlier run kept for it, if there is one.
    pub reuse: bool,
    /// Whether commands may be sent to the run: then a guest may have to outlive it.
    pub controlled: bool,
}

impl Default for RunOptions {
    fn default() -> Self {
        Self {
            keep: Keep::Never,
            retries: None,
            repeat: 1,
            fail_fast: false,
            no_lock: false,
            pause: None,
            purpose: RunPurpose::Cases,
            reuse: false,
            controlled: false,
        }
    }
}

/// A run, ready to be carried out.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// The id of the run.
    pub run: RunId,
    /// The config file, if there is one.
    pub config: Option<PathBuf>,
    /// The folder of the config: the machines that are kept belong to it.
    pub folder: PathBuf,
    /// The folder of the run's record.
    pub dir: PathBuf,
    /// The host's limits and lock.
    pub host: HostConfig,
    /// The options from the command line.
    pub options: RunOptions,
    /// What runs where, guest by guest.
    pub jobs: Vec<Job>,
    /// The words that selected the cases, for the record.
    pub selection: Vec<String>,
    /// The tests whose failure is known, and does not make the run red.
    pub quarantine: Quarantine,
    /// How long cases took in earlier runs, in milliseconds, by their SELECT words: where several are run at once, the longest begins first.
    pub usual_ms: BTreeMap<String, u64>,
    /// What was selected in all, and which part of that this run has.
    pub part: RunPart,
}

impl Setup {
    /// Leaves only the cases that an expression over tags wants, among them those that are run only where they are asked for and that
    /// it asks for by a tag; an error names a tag that no case has.
    pub fn retain_tags(&mut self, wanted: &TagExpr) -> Result<(), String> {
        let all: BTreeSet<&String> =
            self.suites.iter().flat_map(|suite| &suite.cases).flat_map(|case| &case.tags).collect();
        if let Some(unknown) = wanted.tags().into_iter().find(|tag| !all.iter().any(|known| known == tag)) {
            let known: Vec<&str> = all.into_iter().map(String::as_str).collect();
            let known =
                if known.is_empty() { "there are none".to_owned() } else { format!("known: {}", known.join(", ")) };
            return Err(format!("no case has the tag `{unknown}` ({known})"));
        }
        let named = wanted.wanted_tags();
        for suite in &mut self.suites {
            for case in &mut suite.cases {
                case.explicit &= !case.tags.iter().any(|tag| named.contains(&tag.as_str()));
            }
            let chosen = suite.cases.iter().filter(|case| wanted.matches(&case.tags)).map(|case| &case.id).collect();
            let chosen: BTreeSet<CaseId> = with_needs(suite, chosen).into_iter().cloned().collect();
            suite.cases.retain(|case| chosen.contains(&case.id));
        }
        self.suites.retain(|suite| !suite.cases.is_empty());
        Ok(())
    }

    /// Returns the names of all machines that runs of this config may have: one for each guest, and one for each role of a suite.
    pub fn machine_names(&self) -> Vec<GuestId> {
        let of_roles = self.suites.iter().flat_map(|suite| role_guests(suite, &self.guests));
        self.guests.iter().map(|guest| guest.id.clone()).chain(of_roles.map(|member| member.guest.id)).collect()
    }

    /// Returns the guest that has this name in a run: one of the config, one that fills a role of a suite, or a further machine of one that
    /// has several at once.
    pub fn guest_named(&self, name: &str) -> Option<Guest> {
        let is_it = |guest: &Guest| guest.id.as_str() == name;
        let own = self.guests.iter().find(|guest| is_it(guest)).cloned();
        let mut of_roles = self.suites.iter().flat_map(|suite| role_guests(suite, &self.guests));
        let further = || {
            let (first, number) = name.rsplit_once('.')?;
            let guest = self.guests.iter().find(|guest| guest.id.as_str() == first)?;
            guest.one_more(number.parse().ok().filter(|number| *number > 1)?)
        };
        own.or_else(|| of_roles.find(|member| is_it(&member.guest)).map(|member| member.guest)).or_else(further)
    }
}

impl Plan {
    /// Returns how many cases will be run or skipped, repetitions included.
    pub fn case_count(&self) -> usize {
        self.jobs.iter().map(|job| job.cases().count()).sum::<usize>() * self.options.repeat as usize
    }

    /// Returns every guest of the run, job by job.
    pub fn guests(&self) -> impl Iterator<Item = &Guest> {
        self.jobs.iter().flat_map(Job::guests)
    }

    /// Puts the config's guests in the place of the plan's own: with what was not known yet when it was made.
    pub fn replace_guests(&mut self, guests: &[Guest]) {
        self.jobs.iter_mut().for_each(|job| job.replace_guests(guests));
    }

    /// Returns every secret of the run.
    pub fn secrets(&self) -> Vec<Secret> {
        self.guests().flat_map(|guest| guest.secrets().cloned().collect::<Vec<_>>()).collect()
    }
}

/// Returns the jobs of the config that the selection matches; empty = nothing matched. A suite with roles is one job.
pub fn select(setup: &Setup, selectors: &[Selector]) -> Vec<Job> {
    let mut jobs = Vec::new();
    let wanted = |suite: &Suite, case: &Case, guest: &Guest| {
        let mut words = selectors.iter().filter(|s| selects(s, suite, case, &[&guest.id, &guest.key]));
        if case.explicit { words.any(Selector::names_case) } else { selectors.is_empty() || words.next().is_some() }
    };
    for guest in &setup.guests {
        let mut suites = Vec::new();
        for suite in setup.suites.iter().filter(|s| s.roles.is_empty() && runs_on(s, &guest.id)) {
            let is_meant = |case: &&Case| is_meant_for(case, guest, None);
            let chosen = |case: &&Case| wanted(suite, case, guest);
            let meant = suite.cases.iter().filter(is_meant);
            let chosen: BTreeSet<&CaseId> = meant.filter(chosen).map(|case| &case.id).collect();
            let wanted = with_needs(suite, chosen);
            let meant = suite.cases.iter().filter(is_meant);
            let cases: Vec<Case> = meant.filter(|case| wanted.contains(&case.id)).cloned().collect();
            if !cases.is_empty() {
                suites.push(Suite { cases, ..suite.clone() });
            }
        }
        if !suites.is_empty() {
            jobs.push(Job::new(guest.clone(), suites));
        }
    }
    for suite in setup.suites.iter().filter(|s| !s.roles.is_empty()) {
        let Some(mut job) = Job::of_roles(suite, &setup.guests) else { continue };
        job.drop_unmeant();
        job.retain_cases(|suite, case, member| wanted(suite, case, &member.guest));
        if job.cases().next().is_some() {
            jobs.push(job);
        }
    }
    for job in &mut jobs {
        job.mark_fresh();
        job.narrow(selectors);
    }
    jobs
}

/// Leaves of these jobs only the cases that one of the words selects.
pub fn retain(jobs: &mut Vec<Job>, selectors: &[Selector]) {
    for job in &mut *jobs {
        job.retain_cases(|suite, case, member| {
            let guest = &member.guest;
            selectors.iter().any(|selector| selects(selector, suite, case, &[&guest.id]))
        });
        job.narrow(selectors);
    }
    jobs.retain(|job| job.cases().next().is_some());
}

/// Returns jobs without cases for the guests that a selection names; an empty selection names all guests of the config. A word that
/// names only machines of a suite with roles stands for all machines of that suite.
pub fn select_guests(setup: &Setup, selectors: &[Selector]) -> Vec<Job> {
    let wanted = |guest: &&Guest| selectors.is_empty() || selectors.iter().any(|s| s.takes(&guest.id));
    let guests = setup.guests.iter().filter(wanted).map(|guest| Job::new(guest.clone(), Vec::new()));
    let names_roles = |s: &&Selector| !setup.guests.iter().any(|guest| s.takes(&guest.id));
    let of_roles: Vec<&Selector> = selectors.iter().filter(names_roles).collect();
    let with_roles = setup.suites.iter().filter_map(|suite| {
        let job = Job::of_roles(&Suite { cases: Vec::new(), ..suite.clone() }, &setup.guests)?;
        let is_named = job.guests().any(|guest| of_roles.iter().any(|s| s.takes(&guest.id)));
        is_named.then_some(job)
    });
    guests.chain(with_roles).collect()
}

/// Returns the guests in which a suite is run: those that fill its roles, or those that it names.
pub fn suite_members(suite: &Suite, guests: &[Guest]) -> Vec<JobGuest> {
    let alone = guests.iter().filter(|guest| suite.roles.is_empty() && runs_on(suite, &guest.id));
    let alone = alone.map(|guest| JobGuest { role: None, guest: guest.clone() });
    role_guests(suite, guests).chain(alone).collect()
}

/// Returns whether a suite names this guest, directly or by a glob; a word with `!` takes away what those before it have named.
fn runs_on(suite: &Suite, guest: &GuestId) -> bool {
    let fits = |glob: &str| Glob::new(glob).is_ok_and(|g| g.compile_matcher().is_match(guest.as_str()));
    suite.guests.iter().fold(false, |is_on, word| match word.strip_prefix('!') {
        Some(glob) => is_on && !fits(glob),
        None => is_on || fits(word),
    })
}

/// A key table of a backend or transport with its kind: how the config learns about them.
#[derive(Clone, Copy, Debug)]
pub struct KindKeys {
    /// The kind, such as `qemu` or `ssh`.
    pub kind: &'static str,
    /// The rows of the table; their paths begin with `guests.*.<kind>.`.
    pub keys: &'static [Key],
}
