//! Is this host ready for this plan? Every check runs, every finding is reported, one fatal finding stops the run.
//!
//! Checks of a backend or transport are theirs; here are those of the host itself.

use super::{admission, cleanup, reach};
use crate::{
    backend::{self, BACKENDS, BackendDeps, BackendInfo, record::AdoptTarget},
    context::CallContext,
    host::{
        capacity::{self, HostMeter},
        files,
    },
    transport::{contract::Unusable, route, source},
};
use std::{path::Path, time::Duration};
use tokio_util::sync::CancellationToken;
use vmdeck_model::{
    event::{Finding, Severity},
    guest::{Guest, Network, Source},
    memory::MemoryStanding,
    plan::{HostConfig, Setup},
    quantity::{show_count, show_size},
};

/// How long one backend's check, or finding one machine to adopt, may take.
const ASK: Duration = Duration::from_mins(2);

/// How many files a run has open at a time, as seen, and how many more for each guest that is up.
const OPEN_FILES: u64 = 24;
const OPEN_FILES_OF_A_GUEST: u64 = 16;

/// What a host must be ready for.
pub struct Request<'a> {
    /// The host's limits.
    pub host: &'a HostConfig,
    /// The folder of the run's record.
    pub record: &'a Path,
    /// The guests that the run needs.
    pub guests: Vec<&'a Guest>,
    /// The further machines of guests that have several at once: they need memory, and nothing else.
    pub further: Vec<Guest>,
    /// How many guests run at a time.
    pub parallel: usize,
    /// The most memory that guests need which are up together or not at all, in bytes.
    pub together: u64,
}

/// Checks everything that a run needs; `report` is called with each finding. Returns whether the run may start.
pub async fn run(request: &Request<'_>, deps: &BackendDeps, report: &mut (dyn FnMut(Finding) + Send)) -> bool {
    let mut ready = true;
    let mut seen: Vec<Finding> = Vec::new();
    let mut add = |finding: Finding| {
        ready &= finding.severity != Severity::Fatal;
        // Guests that are alike find the same things.
        if !seen.contains(&finding) {
            seen.push(finding.clone());
            report(finding);
        }
    };
    let machines: Vec<&Guest> = request.guests.iter().copied().chain(&request.further).collect();
    let need = memory_need(&machines, request.parallel, request.together);
    host(request.host, &deps.state, request.record, (&need, request.parallel)).into_iter().for_each(&mut add);
    if let Some(finding) = machines_of_others(request.host, deps).await {
        add(finding);
    }
    for guest in &request.guests {
        check_guest(guest, deps).await.into_iter().for_each(&mut add);
    }
    shared_machines(&request.guests, deps).await.into_iter().for_each(&mut add);
    for source in distinct_sources(&request.guests) {
        sources(source).await.into_iter().for_each(&mut add);
    }
    ready
}

fn distinct_sources<'a>(guests: &[&'a Guest]) -> Vec<&'a Source> {
    let mut out: Vec<&Source> = Vec::new();
    for source in guests.iter().filter_map(|guest| guest.source.as_ref()) {
        if !out.contains(&source) {
            out.push(source);
        }
    }
    out
}

/// Returns what keeps code of this host from coming in, before any guest is started for it.
async fn sources(source: &Source) -> Vec<Finding> {
    let check = "source".to_owned();
    let looked = source.clone();
    let found = tokio::task::spawn_blocking(move || source::check(&looked)).await;
    match found {
        Ok(Ok(notes)) => {
            let warn = |text| Finding { check: check.clone(), severity: Severity::Warn, text, hint: None, fix: None };
            notes.into_iter().map(warn).collect()
        }
        Ok(Err(fault)) => vec![Finding::of_fault(&check, Severity::Fatal, &fault)],
        Err(e) => vec![Finding { check, severity: Severity::Fatal, text: e.to_string(), hint: None, fix: None }],
    }
}

/// Returns a finding for every machine that two guests would adopt.
async fn shared_machines(guests: &[&Guest], deps: &BackendDeps) -> Vec<Finding> {
    let mut out = Vec::new();
    let mut adopted: Vec<(&Guest, AdoptTarget)> = Vec::new();
    let never = CancellationToken::new();
    for guest in guests {
        let Ok(row) = backend::find(&guest.backend) else { continue };
        let backend = (row.build)(deps);
        let Some(adoption) = backend.adoption() else { continue };
        // Why it cannot be found was said by the backend's own check.
        let Ok(Some(target)) = adoption.find(guest, CallContext::new(ASK, &never)).await else { continue };
        let same = |(other, found): &&(&Guest, AdoptTarget)| {
            other.backend == guest.backend && found.id == target.id && found.name == target.name
        };
        if let Some((other, _)) = adopted.iter().find(same) {
            out.push(Finding {
                check: "adopt".into(),
                severity: Severity::Fatal,
                text: format!("guests `{}` and `{}` would share the machine `{}`", other.id, guest.id, target.name),
                hint: Some("give each guest a machine of its own, by `machine`".into()),
                fix: None,
            });
        }
        adopted.push((guest, target));
    }
    out
}

/// Checks everything that a run of this whole config would need; its record would be in the current folder.
pub async fn of_setup(setup: &Setup, deps: &BackendDeps) -> Vec<Finding> {
    let record = std::env::current_dir().unwrap_or_default();
    let request = Request {
        host: &setup.host,
        record: &record,
        guests: setup.guests.iter().collect(),
        further: Vec::new(),
        parallel: setup.host.slots as usize,
        together: 0,
    };
    let mut findings = Vec::new();
    run(&request, deps, &mut |finding| findings.push(finding)).await;
    findings
}

/// Checks the host alone, without a config: what `vmdeck doctor` can say at a first start.
pub async fn bare(limits: &HostConfig, deps: &BackendDeps) -> Vec<Finding> {
    let mut out = host(limits, &deps.state, Path::new("."), (&Need::default(), 1));
    for row in BACKENDS {
        out.extend(check_backend(row, deps, None).await);
    }
    out
}

/// Returns a finding for machines made by others that have a test prefix: their owner is unknown, so they are only
/// reported.
async fn machines_of_others(limits: &HostConfig, deps: &BackendDeps) -> Option<Finding> {
    if limits.test_prefixes.is_empty() {
        return None;
    }
    let (machines, _) = cleanup::by_prefix(deps, &limits.test_prefixes).await;
    let names: Vec<&str> = machines.iter().map(|machine| machine.name.as_str()).collect();
    (!names.is_empty()).then(|| Finding {
        check: "leftovers".into(),
        severity: Severity::Warn,
        text: format!("machines made by others with a test prefix: {}", names.join(", ")),
        hint: Some("`vmdeck cleanup --all` removes them, with their sizes".into()),
        fix: None,
    })
}

async fn check_backend(row: &BackendInfo, deps: &BackendDeps, guest: Option<&Guest>) -> Vec<Finding> {
    let never = CancellationToken::new();
    (row.build)(deps)
        .check(guest, CallContext::new(ASK, &never))
        .await
        .unwrap_or_else(|fault| vec![Finding::of_fault(row.kind, Severity::Fatal, &fault)])
}

/// The memory that guests need.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Need {
    /// What those need that run at a time where there is room, in bytes.
    bytes: u64,
    guests: Vec<String>,
    /// What must be there for each of them to have its turn, in bytes, and for whom.
    least: u64,
    least_for: String,
}

/// Returns the largest guests that may run at the same time; those whose memory is not ours to say are left out.
pub fn largest<'a>(guests: impl Iterator<Item = &'a Guest>, parallel: usize) -> Vec<&'a Guest> {
    let mut all: Vec<&Guest> = guests.filter(|guest| admission::memory_need(guest) > 0).collect();
    all.sort_by_key(|g| std::cmp::Reverse(g.memory));
    all.truncate(parallel);
    all
}

fn memory_need(guests: &[&Guest], parallel: usize, together: u64) -> Need {
    let all = largest(guests.iter().copied(), parallel);
    let (most, name) = all.first().map(|g| (g.memory, g.id.to_string())).unwrap_or_default();
    Need {
        bytes: all.iter().map(|g| g.memory).sum(),
        guests: all.iter().map(|g| g.id.to_string()).collect(),
        least: most.max(together),
        least_for: if together > most { "the guests of one suite".to_owned() } else { name },
    }
}

fn host(limits: &HostConfig, state: &Path, record: &Path, (need, parallel): (&Need, usize)) -> Vec<Finding> {
    let mut out = vec![state_dir(state)];
    out.extend(disk(limits, state, "state folder"));
    if !same_place(state, record) {
        out.extend(disk(limits, record, "run's record"));
    }
    out.extend(memory(limits, need, &admission::look(limits, &HostMeter)));
    out.extend(open_files(capacity::open_files(), parallel));
    out
}

fn state_dir(state: &Path) -> Finding {
    let check = "state".to_owned();
    let usable = files::private_dir(state).and_then(|()| tempfile::tempfile_in(state).map(drop));
    match usable {
        Ok(()) => Finding {
            check,
            severity: Severity::Ok,
            text: format!("state folder `{}`", state.display()),
            hint: None,
            fix: None,
        },
        Err(e) => Finding {
            check,
            severity: Severity::Fatal,
            text: format!("cannot write the state folder `{}`: {e}", state.display()),
            hint: Some(
                "vmdeck makes nothing that it could not clean up; set XDG_STATE_HOME to a writable folder".into(),
            ),
            fix: None,
        },
    }
}

fn same_place(a: &Path, b: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let device = |path: &Path| path.ancestors().find_map(|p| std::fs::metadata(p).ok()).map(|m| m.dev());
    device(a) == device(b)
}

fn disk(limits: &HostConfig, path: &Path, what: &str) -> Option<Finding> {
    let free = capacity::free_disk(path).ok()?;
    let check = "disk".to_owned();
    let text = format!("{} free for the {what} at `{}`", show_size(free), path.display());
    Some(if free < limits.min_free_disk {
        Finding {
            check,
            severity: Severity::Fatal,
            text: format!("{text}, {} needed", show_size(limits.min_free_disk)),
            hint: Some("free disk space: `vmdeck cleanup --list-only` shows what vmdeck could remove; or lower `host.min_free_disk`".into()), fix: None }
    } else if free < limits.warn_free_disk {
        let hint = format!("below `host.warn_free_disk` = {}", show_size(limits.warn_free_disk));
        Finding { check, severity: Severity::Warn, text, hint: Some(hint), fix: None }
    } else {
        Finding { check, severity: Severity::Ok, text, hint: None, fix: None }
    })
}

fn memory(limits: &HostConfig, need: &Need, here: &MemoryStanding) -> Option<Finding> {
    let free = here.free.or(limits.memory)?;
    let check = "memory".to_owned();
    let free_text = here.free.map_or_else(|| "an unknown amount".to_owned(), show_size);
    let of = if need.guests.is_empty() { String::new() } else { format!(" for {}", need.guests.join(", ")) };
    let stays = format!("{} must stay free", show_size(limits.min_free_memory));
    let limit = limits.memory.map(|limit| format!(", `host.memory` is {}", show_size(limit))).unwrap_or_default();
    let too_little = free < limits.min_free_memory && here.promised.is_empty();
    if too_little || here.left_alone.is_some_and(|most| most < need.least) {
        let of = if need.least == 0 { String::new() } else { format!(" for {}", need.least_for) };
        let text = format!("{free_text} available, {} needed{of}; {stays}{limit}", show_size(need.least));
        let hint = "close programs, lower a guest's `memory`, or change `host.min_free_memory` or `host.memory`";
        return Some(Finding { check, severity: Severity::Fatal, text, hint: Some(hint.into()), fix: None });
    }
    if here.left.is_some_and(|left| left < need.bytes) {
        let promised: u64 = here.promised.iter().fold(0, |sum, one| one.memory.saturating_add(sum));
        let others = match here.promised.len() {
            0 => String::new(),
            count => format!(", {} promised to {}", show_size(promised), show_count(count, "other guest")),
        };
        let text = format!("{free_text} available{others}, {} needed{of}; {stays}{limit}", show_size(need.bytes));
        let hint = "guests wait until there is memory for them".to_owned();
        return Some(Finding { check, severity: Severity::Warn, text, hint: Some(hint), fix: None });
    }
    let text = format!("{} available", show_size(free));
    Some(Finding { check, severity: Severity::Ok, text, hint: None, fix: None })
}

/// Returns a warning where so few files may be open that a run may fail in the middle.
fn open_files(limit: Option<u64>, parallel: usize) -> Option<Finding> {
    let wanted = OPEN_FILES + OPEN_FILES_OF_A_GUEST * parallel as u64;
    let limit = limit.filter(|limit| *limit < wanted)?;
    Some(Finding {
        check: "open files".into(),
        severity: Severity::Warn,
        text: format!("only {limit} files may be open at a time, {wanted} may be needed"),
        hint: Some("raise the limit: `ulimit -n 1024`".into()),
        fix: None,
    })
}

/// Checks everything that one guest needs.
async fn check_guest(guest: &Guest, deps: &BackendDeps) -> Vec<Finding> {
    let fatal = |check: &str, text: String, hint: &str| Finding {
        check: check.into(),
        severity: Severity::Fatal,
        text: format!("guest `{}`: {text}", guest.id),
        hint: Some(hint.into()),
        fix: None,
    };
    let row = match backend::find(&guest.backend) {
        Ok(row) => row,
        Err(fault) => return vec![fatal("backend", fault.to_string(), "correct `backend`")],
    };
    let mut out = check_backend(row, deps, Some(guest)).await;
    if guest.machine.is_some() && !row.capabilities.adopts {
        let text = format!("the backend `{}` cannot adopt a machine", guest.backend);
        out.push(fatal("adopt", text, "remove `machine`"));
    }
    if guest.network != Network::User && !row.capabilities.restricts_network {
        let text = format!("the backend `{}` cannot keep a guest off the network", guest.backend);
        out.push(fatal("network", text, "remove `network`, or use a `qemu` guest"));
    }
    if let Some(source) = guest.source.as_ref().filter(|s| !s.path.is_dir()) {
        let text = format!("the source `{}` is not a folder", source.path.display());
        out.push(fatal("source", text, "correct `source.path`"));
    }
    match route::usable(guest) {
        Ok(rows) => {
            let some_usable = rows.iter().any(|(_, usable)| usable.is_ok());
            for (row, usable) in &rows {
                // One that nobody has set up beside another that works is passed over at run time, and says so there.
                if usable.is_ok() || (matches!(usable, Err(Unusable::NotSetUp(_))) && !some_usable) {
                    out.extend(row.transport.check(guest));
                }
            }
            out.extend(reach::chain(guest, &rows));
            out.extend(reach::unreachable(guest, row, deps, &rows).await);
            let hopeless: Vec<String> = rows
                .iter()
                .filter_map(|(row, usable)| match usable {
                    Err(Unusable::NotSupported(reason)) => Some(format!("`{}`: {reason}", row.kind)),
                    _ => None,
                })
                .collect();
            if !rows.is_empty() && hopeless.len() == rows.len() {
                let text = format!("no transport can be used: {}", hopeless.join("; "));
                out.push(fatal("transport", text, "change the guest's `transports`, or its backend"));
            }
        }
        Err(fault) => out.push(fatal("transport", fault.to_string(), "correct `transports`")),
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::sample;

    fn limits(disk: u64, warn: u64, memory: u64) -> HostConfig {
        HostConfig { min_free_disk: disk, warn_free_disk: warn, min_free_memory: memory, ..sample::host() }
    }

    #[test]
    fn a_full_disk_is_fatal_and_names_the_remedy() {
        let check = |min, warn| disk(&limits(min, warn, 0), Path::new("/"), "record").expect("finding");
        assert_eq!(check(0, 0).severity, Severity::Ok);
        assert_eq!(check(0, u64::MAX).severity, Severity::Warn);
        let full = check(u64::MAX, u64::MAX);
        assert_eq!(full.severity, Severity::Fatal);
        assert!(full.hint.expect("hint").contains("vmdeck cleanup"));
    }

    #[test]
    fn what_can_never_be_had_is_fatal_and_what_is_only_taken_is_waited_for() {
        const GIB: u64 = 1 << 30;
        let need =
            Need { bytes: 8 * GIB, guests: vec!["deb".into(), "web".into()], least: 4 * GIB, least_for: "deb".into() };
        let limits = limits(0, 0, 2 * GIB);
        let check = |left: u64, left_alone: u64| {
            let here = MemoryStanding {
                free: Some(left + 2 * GIB),
                reserve: 2 * GIB,
                left: Some(left),
                left_alone: Some(left_alone),
                ..MemoryStanding::default()
            };
            memory(&limits, &need, &here).expect("finding").severity
        };
        assert_eq!(check(8 * GIB, 8 * GIB), Severity::Ok);
        assert_eq!(check(8 * GIB - 1, 8 * GIB), Severity::Warn, "they take turns");
        assert_eq!(check(0, 4 * GIB), Severity::Warn, "others have it");
        assert_eq!(check(0, 4 * GIB - 1), Severity::Fatal);
        let here = MemoryStanding { free: Some(GIB), ..MemoryStanding::default() };
        let nobody = Need::default();
        assert_eq!(memory(&limits, &nobody, &here).expect("finding").severity, Severity::Fatal, "less than must stay");
        let untold = MemoryStanding::default();
        assert!(memory(&limits, &need, &untold).is_none(), "a system that does not tell is not guessed at");
    }

    #[test]
    fn a_low_limit_of_open_files_is_told_with_what_is_needed() {
        assert!(
            open_files(None, 9).is_none() && open_files(Some(1024), 4).is_none() && open_files(Some(40), 1).is_none()
        );
        let low = open_files(Some(40), 2).expect("a finding");
        assert_eq!(
            (low.severity, low.text.as_str()),
            (Severity::Warn, "only 40 files may be open at a time, 56 may be needed")
        );
    }

    #[test]
    fn a_state_folder_that_cannot_be_written_is_fatal() {
        assert_eq!(state_dir(Path::new("/proc/no")).severity, Severity::Fatal);
    }
}
