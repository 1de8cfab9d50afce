//! One of the records that are merged, as its events tell: nothing else in its folder is believed.

use super::lines::EventReader;
use sha2::{Digest as _, Sha256};
use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};
use vmdeck_model::{
    digest::hex,
    error::{Fault, Result},
    event::{Attempt, CaseCause, Event, EventKind, Phase, PlannedGuest},
    exit::RunExit,
    ids::{CaseId, GuestId, RunId, SuiteId},
    lifecycle::MachineState,
    outcome::{CancelReason, Verdict},
    run_view::{GuestView, RunView},
    shard::{RunOrigin, RunPart},
    times::RunTimes,
};

/// A case of a run: its guest, suite and id.
pub(super) type CaseName = (GuestId, SuiteId, CaseId);
/// How each case of a run failed, by its round: every attempt, the last one behind the others.
pub(super) type RedAttempts = BTreeMap<(CaseName, u32), Vec<Attempt>>;

/// A record that is read.
pub(super) struct SourceRecord {
    /// The folder of the record.
    pub(super) folder: PathBuf,
    /// The name that the run has in the merged record.
    pub(super) origin: String,
    pub(super) run: RunId,
    pub(super) version: String,
    pub(super) host: String,
    pub(super) guests: Vec<PlannedGuest>,
    pub(super) part: RunPart,
    /// The runs from which this record was merged itself.
    pub(super) origins: Vec<RunOrigin>,
    /// The milliseconds since 1970 at which it began, by the clock of its host.
    pub(super) began_ms: i64,
    pub(super) error: Option<String>,
    /// The strongest reason for which it was cancelled.
    pub(super) cancelled: Option<CancelReason>,
    pub(super) waited_ms: u64,
    /// The state at the end of the record; without an exit code, the run did not come to its end.
    pub(super) view: RunView,
    pub(super) times: RunTimes,
    pub(super) sha256: String,
    /// The cases of which the record only says that nothing was told.
    pub(super) untold: BTreeSet<CaseName>,
    /// Whether a later attempt takes its place.
    pub(super) superseded: bool,
}

impl SourceRecord {
    /// Reads a record, given by its folder or by its events.
    pub(super) fn read(path: &Path) -> Result<Self> {
        let folder = match path.file_name() {
            Some(name) if name == "events.jsonl" => path.parent().unwrap_or(Path::new(".")).to_owned(),
            _ => path.to_owned(),
        };
        let mut lines = EventReader::open(&folder)?;
        let mut sum = Sha256::new();
        let mut source = match lines.next(&mut sum)? {
            Some(line) => Self::begin(folder.clone(), line.event(&lines)?)?,
            None => return Err(lines.wrong("it has no event: the run has not begun")),
        };
        while let Some(line) = lines.next(&mut sum)? {
            // Lines of output change nothing that is asked for here.
            if !line.is("output") {
                source.take(&line.event(&lines)?);
            }
        }
        source.sha256 = hex(&sum.finalize());
        Ok(source)
    }

    fn begin(folder: PathBuf, event: Event) -> Result<Self> {
        let mut view = RunView::default();
        view.apply(&event);
        let mut times = RunTimes::default();
        times.take(&event, &view);
        let began_ms = event.at.timestamp_millis();
        let EventKind::RunStarted { run, version, host, guests, part, origins, .. } = event.kind else {
            return Err(Fault::user(format!("cannot merge `{}`", folder.display()))
                .because("its first event is not `run_started`"));
        };
        Ok(Self {
            folder,
            origin: String::new(),
            run,
            version,
            host,
            guests,
            part,
            origins,
            began_ms,
            error: None,
            cancelled: None,
            waited_ms: 0,
            view,
            times,
            sha256: String::new(),
            untold: BTreeSet::new(),
            superseded: false,
        })
    }

    fn take(&mut self, event: &Event) {
        self.view.apply(event);
        self.times.take(event, &self.view);
        match &event.kind {
            EventKind::RunEnded { error, .. } => self.error.clone_from(error),
            EventKind::CancelBegan { reason } => self.cancelled = self.cancelled.max(Some(*reason)),
            EventKind::LockHeld { waited_ms, .. } => self.waited_ms += waited_ms,
            EventKind::PhaseEnded { phase: Phase::WaitForMemory, took_ms, .. } => {
                self.waited_ms += took_ms;
            }
            EventKind::CaseEnded { guest, suite, case, cause: Some(CaseCause::Untold), .. } => {
                self.untold.insert((guest.clone(), suite.clone(), case.clone()));
            }
            _ => {}
        }
    }

    /// Reads how its cases failed, for the later attempt that takes the place of this one.
    pub(super) fn red_attempts(&self) -> Result<RedAttempts> {
        let mut lines = EventReader::open(&self.folder)?;
        let mut out = RedAttempts::new();
        while let Some(line) = lines.next(&mut Sha256::new())? {
            if !line.is("case_ended") {
                continue;
            }
            let kind = line.event(&lines)?.kind;
            let last = kind.last_attempt();
            if let EventKind::CaseEnded { guest, suite, case, round, earlier, .. } = kind {
                // How it failed, as with attempts of one run; that it then passed is the last one's matter.
                let red = |attempt: &Attempt| {
                    matches!(attempt.verdict, Verdict::Failed | Verdict::Infra | Verdict::Cancelled)
                };
                let all = earlier.into_iter().chain(last).filter(red).collect();
                out.insert(((guest, suite, case), round), all);
            }
        }
        Ok(out)
    }

    /// Returns whether the record's own exit code says more than what it tells of its cases and machines.
    pub(super) fn is_unexplained(&self) -> bool {
        let Some(exit) = self.view.exit.filter(|_| self.origins.is_empty()) else { return false };
        let has_left = self.view.left().next().is_some();
        let told = RunExit::of_run(&self.view.tally, false, has_left, self.cancelled);
        exit != RunExit::Passed && told == RunExit::Passed
    }

    /// Returns the cases that the record answers for, in the order of its plan.
    pub(super) fn claims(&self) -> impl Iterator<Item = CaseName> {
        self.planned().into_iter().filter(|name| !self.untold.contains(name))
    }

    /// Returns the cases that the run was to have.
    fn planned(&self) -> Vec<CaseName> {
        let own = self.guests.iter().filter(|planned| planned.one_more_of.is_none());
        own.flat_map(|planned| planned.names.iter().filter_map(|name| read_name(planned.guest.as_str(), name)))
            .collect()
    }

    /// Returns how long the run took, in milliseconds; of a merged record, the longest of its runs.
    pub(super) fn took_ms(&self) -> u64 {
        self.origins.iter().map(|origin| origin.took_ms).max().unwrap_or(self.view.now_ms)
    }

    /// Returns the cases of the whole plan of which the run was a part, in order.
    pub(super) fn whole(&self) -> Vec<CaseName> {
        if self.part.planned_all.is_empty() {
            return self.planned();
        }
        let read = |name: &String| name.split_once('/').and_then(|(guest, name)| read_name(guest, name));
        self.part.planned_all.iter().filter_map(read).collect()
    }

    /// Returns the guest of which this one is a machine, or itself.
    pub(super) fn told_as<'a>(&'a self, machine: &'a GuestId) -> &'a GuestId {
        let planned = self.guests.iter().find(|planned| planned.guest == *machine);
        planned.and_then(|planned| planned.one_more_of.as_ref()).unwrap_or(machine)
    }

    /// Returns the machines that were there when the record broke off: nobody has told what became of them.
    pub(super) fn unproven(&self) -> impl Iterator<Item = (&GuestId, &str)> {
        let guests = self.view.guests.iter().filter(|_| self.view.exit.is_none());
        let is_open = |guest: &GuestView| {
            !guest.kept && !matches!(guest.state, MachineState::NotCreated | MachineState::Terminated)
        };
        guests.filter(move |(_, guest)| is_open(guest)).filter_map(|(id, guest)| Some((id, guest.machine.as_deref()?)))
    }

    /// Returns every run that the record tells of: itself, or those from which it was merged.
    fn runs(&self) -> Vec<RunOrigin> {
        if self.origins.is_empty() {
            return vec![self.as_origin()];
        }
        let inner = self.origins.iter().cloned();
        let name = |inner: RunOrigin| RunOrigin {
            origin: format!("{}/{}", self.origin, inner.origin),
            superseded: inner.superseded || self.superseded,
            ..inner
        };
        inner.map(name).collect()
    }

    fn as_origin(&self) -> RunOrigin {
        RunOrigin {
            origin: self.origin.clone(),
            run: self.run.to_string(),
            host: self.host.clone(),
            version: self.version.clone(),
            shard: self.part.shard.as_ref().map(|planned| planned.shard),
            attempt: self.part.attempt,
            superseded: self.superseded,
            exit: self.view.exit,
            took_ms: self.view.now_ms,
            cases: self.view.cases.len(),
            boot_ms: self.view.guests.values().filter_map(GuestView::boot_ms).sum(),
            waited_ms: self.waited_ms,
            sha256: self.sha256.clone(),
        }
    }

    /// Returns the record as people are told of it.
    pub(super) fn shown(&self) -> String {
        let folder = self.folder.display();
        self.part
            .shard
            .as_ref()
            .map_or_else(|| format!("`{folder}`"), |planned| format!("`{folder}` (shard {})", planned.shard))
    }
}

fn read_name(guest: &str, name: &str) -> Option<CaseName> {
    let (suite, case) = name.split_once('/')?;
    Some((GuestId::new(guest).ok()?, SuiteId::new(suite).ok()?, CaseId::try_from(case.to_owned()).ok()?))
}

/// Returns every run of which these records tell, those from which a record was merged before included.
pub(super) fn runs(sources: &[SourceRecord]) -> Vec<RunOrigin> {
    sources.iter().flat_map(SourceRecord::runs).collect()
}

/// Returns the guests that several of the records had machines for: those get names of their own.
pub(super) fn shared_guests(sources: &[SourceRecord]) -> BTreeSet<GuestId> {
    let (mut seen, mut shared) = (BTreeSet::new(), BTreeSet::new());
    for planned in sources.iter().flat_map(|source| &source.guests).filter(|planned| planned.one_more_of.is_none()) {
        if !seen.insert(planned.guest.clone()) {
            shared.insert(planned.guest.clone());
        }
    }
    shared
}
