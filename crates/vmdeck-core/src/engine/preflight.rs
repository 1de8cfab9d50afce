//! Is this host ready for this plan? Every check runs, every finding is told, one fatal finding stops the run.
//!
//! Checks of a backend or transport are theirs; here are those of the host itself.

use super::cleanup;
use crate::{
    backend::{self, BACKENDS},
    host::{capacity, files},
    transport,
};
use std::path::Path;
use vmdeck_model::{
    event::{Finding, Severity},
    guest::{Guest, Os},
    ids::RunId,
    plan::{Host, Job, Plan, RunOptions, Setup},
    quantity::show_size,
};

/// Checks everything that the plan needs; `parallel` guests run at a time. Returns whether the run may start.
pub async fn run(plan: &Plan, deps: &backend::Deps, parallel: usize, told: &mut (dyn FnMut(Finding) + Send)) -> bool {
    let mut fit = true;
    let mut seen: Vec<Finding> = Vec::new();
    let mut tell = |finding: Finding| {
        fit &= finding.severity != Severity::Fatal;
        // Guests that are alike find the same things.
        if !seen.contains(&finding) {
            seen.push(finding.clone());
            told(finding);
        }
    };
    host(&plan.host, &deps.state, &plan.dir, &memory_need(&plan.jobs, parallel)).into_iter().for_each(&mut tell);
    if let Some(finding) = strangers(&plan.host, deps).await {
        tell(finding);
    }
    let mut adopted: Vec<(&Guest, backend::Existing)> = Vec::new();
    for job in &plan.jobs {
        for finding in guest(&job.guest, deps).await {
            tell(finding);
        }
        // Why it cannot be found was told by the backend's own check.
        if let Ok(row) = backend::find(&job.guest.backend)
            && let Ok(Some(existing)) = (row.build)(deps).existing(&job.guest).await
        {
            let same = |(other, e): &&(&Guest, backend::Existing)| {
                other.backend == job.guest.backend && e.id == existing.id && e.name == existing.name
            };
            if let Some((other, _)) = adopted.iter().find(same) {
                tell(Finding {
                    check: "adopt".into(),
                    severity: Severity::Fatal,
                    text: format!(
                        "guests `{}` and `{}` would share the machine `{}`",
                        other.id, job.guest.id, existing.name
                    ),
                    hint: Some("give each guest a machine of its own, by `machine`".into()),
                });
            }
            adopted.push((&job.guest, existing));
        }
    }
    fit
}

/// Checks everything that a run of this whole config would need.
pub async fn of_setup(setup: &Setup, deps: &backend::Deps) -> Vec<Finding> {
    let jobs = setup.guests.iter().map(|guest| Job { guest: guest.clone(), suites: Vec::new() }).collect();
    let plan = Plan {
        run: RunId::from_bits(0),
        dir: std::env::current_dir().unwrap_or_default(),
        host: setup.host.clone(),
        options: RunOptions::default(),
        jobs,
        selection: Vec::new(),
    };
    let mut findings = Vec::new();
    run(&plan, deps, setup.host.slots as usize, &mut |finding| findings.push(finding)).await;
    findings
}

/// Checks the host alone, without a config: what `vmdeck doctor` can say at a first start.
pub async fn bare(limits: &Host, deps: &backend::Deps) -> Vec<Finding> {
    let mut out = host(limits, &deps.state, Path::new("."), &Need::default());
    for row in BACKENDS {
        out.extend(probe(row, deps, None).await);
    }
    out
}

/// Machines of others that the config calls test machines: who they belong to is not known, so that they only are told.
async fn strangers(limits: &Host, deps: &backend::Deps) -> Option<Finding> {
    if limits.test_prefixes.is_empty() {
        return None;
    }
    let (machines, _) = cleanup::by_prefix(deps, &limits.test_prefixes).await;
    let names: Vec<&str> = machines.iter().map(|machine| machine.name.as_str()).collect();
    (!names.is_empty()).then(|| Finding {
        check: "leftovers".into(),
        severity: Severity::Warn,
        text: format!("machines of others with a test prefix: {}", names.join(", ")),
        hint: Some("`vmdeck cleanup --all` removes them, with their sizes".into()),
    })
}

async fn probe(row: &backend::BackendDef, deps: &backend::Deps, guest: Option<&Guest>) -> Vec<Finding> {
    (row.build)(deps).probe(guest).await.unwrap_or_else(|fault| {
        let hint = fault.remedy().map(str::to_owned);
        vec![Finding { check: row.kind.into(), severity: Severity::Fatal, text: fault.to_string(), hint }]
    })
}

/// Memory that the guests which run at the same time need.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Need {
    bytes: u64,
    guests: Vec<String>,
}

/// The largest guests that may run at the same time; those whose memory is not ours to say are left out.
pub fn largest<'a>(guests: impl Iterator<Item = &'a Guest>, parallel: usize) -> Vec<&'a Guest> {
    let counts = |g: &&Guest| g.machine.is_none() && backend::find(&g.backend).is_ok_and(|row| row.caps.sized);
    let mut all: Vec<&Guest> = guests.filter(counts).collect();
    all.sort_by_key(|g| std::cmp::Reverse(g.memory));
    all.truncate(parallel);
    all
}

fn memory_need(jobs: &[Job], parallel: usize) -> Need {
    let all = largest(jobs.iter().map(|j| &j.guest), parallel);
    Need { bytes: all.iter().map(|g| g.memory).sum(), guests: all.iter().map(|g| g.id.to_string()).collect() }
}

fn host(limits: &Host, state: &Path, record: &Path, need: &Need) -> Vec<Finding> {
    let mut out = vec![state_dir(state)];
    out.extend(disk(limits, state, "state folder"));
    if !same_place(state, record) {
        out.extend(disk(limits, record, "run's record"));
    }
    out.extend(memory(limits, need, capacity::available_memory()));
    out
}

fn state_dir(state: &Path) -> Finding {
    let check = "state".to_owned();
    let usable = files::private_dir(state).and_then(|()| tempfile::tempfile_in(state).map(drop));
    match usable {
        Ok(()) => {
            Finding { check, severity: Severity::Ok, text: format!("state folder `{}`", state.display()), hint: None }
        }
        Err(e) => Finding {
            check,
            severity: Severity::Fatal,
            text: format!("cannot write the state folder `{}`: {e}", state.display()),
            hint: Some(
                "vmdeck makes nothing that it could not clean up; set XDG_STATE_HOME to a writable folder".into(),
            ),
        },
    }
}

fn same_place(a: &Path, b: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let device = |path: &Path| path.ancestors().find_map(|p| std::fs::metadata(p).ok()).map(|m| m.dev());
    device(a) == device(b)
}

fn disk(limits: &Host, path: &Path, what: &str) -> Option<Finding> {
    let free = capacity::free_disk(path).ok()?;
    let check = "disk".to_owned();
    let text = format!("{} free for the {what} at `{}`", show_size(free), path.display());
    Some(if free < limits.min_free_disk {
        Finding {
            check,
            severity: Severity::Fatal,
            text: format!("{text}, {} needed", show_size(limits.min_free_disk)),
            hint: Some("free disk space: `vmdeck cleanup --list-only` shows what vmdeck could remove; or lower `host.min_free_disk`".into()),
        }
    } else if free < limits.warn_free_disk {
        let hint = format!("below `host.warn_free_disk` = {}", show_size(limits.warn_free_disk));
        Finding { check, severity: Severity::Warn, text, hint: Some(hint) }
    } else {
        Finding { check, severity: Severity::Ok, text, hint: None }
    })
}

fn memory(limits: &Host, need: &Need, available: Option<u64>) -> Option<Finding> {
    let free = available?;
    let check = "memory".to_owned();
    let wanted = need.bytes + limits.min_free_memory;
    let text = format!("{} available", show_size(free));
    Some(if free >= wanted {
        Finding { check, severity: Severity::Ok, text, hint: None }
    } else {
        let of = if need.guests.is_empty() { String::new() } else { format!(" for {}", need.guests.join(", ")) };
        Finding {
            check,
            severity: Severity::Fatal,
            text: format!(
                "{text}, {} needed{of} and {} to stay free",
                show_size(need.bytes),
                show_size(limits.min_free_memory)
            ),
            hint: Some("close programs, lower a guest's `memory`, or lower `host.min_free_memory`".into()),
        }
    })
}

/// What one guest needs.
async fn guest(guest: &Guest, deps: &backend::Deps) -> Vec<Finding> {
    let fatal = |check: &str, text: String, hint: &str| Finding {
        check: check.into(),
        severity: Severity::Fatal,
        text,
        hint: Some(hint.into()),
    };
    let row = match backend::find(&guest.backend) {
        Ok(row) => row,
        Err(fault) => return vec![fatal("backend", fault.to_string(), "correct `backend`")],
    };
    let mut out = probe(row, deps, Some(guest)).await;
    if guest.machine.is_some() && !row.caps.adopts {
        out.push(fatal(
            "adopt",
            format!("guest `{}`: the backend `{}` cannot adopt a machine", guest.id, guest.backend),
            "remove `machine`",
        ));
    }
    if guest.os == Os::Windows {
        out.push(fatal(
            "os",
            format!("guest `{}`: this version runs no commands in Windows guests", guest.id),
            "use a linux or macos guest",
        ));
    }
    if let Some(source) = guest.source.as_ref().filter(|s| !s.path.is_dir()) {
        let text = format!("guest `{}`: the source `{}` is no folder", guest.id, source.path.display());
        out.push(fatal("source", text, "correct `source.path`"));
    }
    for kind in &guest.transports {
        let Ok(way) = transport::find(kind) else { continue };
        let has_host = guest.transport_options.get(kind).is_some_and(|o| o.text("host").is_some());
        let has_other = row.caps.guest_exec && guest.transports.iter().any(|kind| kind == "exec");
        let is_wanted = (row.caps.network || has_host) && (!has_other || transport::ssh::has_credential_of(guest));
        // A transport that cannot work with this backend, or that nobody has set up beside another one, is passed over at run
        // time, and says so there.
        if kind != "ssh" || is_wanted {
            out.extend((way.check)(guest));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(disk: u64, warn: u64, memory: u64) -> Host {
        Host {
            lock: "/l".into(),
            lock_shared: false,
            lock_timeout: std::time::Duration::ZERO,
            min_free_disk: disk,
            warn_free_disk: warn,
            min_free_memory: memory,
            slots: 1,
            test_prefixes: Vec::new(),
            tools: std::collections::BTreeMap::new(),
        }
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
    fn memory_counts_the_guests_and_what_must_stay_free() {
        let need = Need { bytes: 4 << 30, guests: vec!["deb".into()] };
        let check = |free| memory(&limits(0, 0, 2 << 30), &need, Some(free)).expect("finding").severity;
        assert_eq!(check(6 << 30), Severity::Ok);
        assert_eq!(check((6 << 30) - 1), Severity::Fatal);
        assert!(memory(&limits(0, 0, 0), &need, None).is_none(), "a system that does not tell is not guessed at");
    }

    #[test]
    fn a_state_folder_that_cannot_be_written_is_fatal() {
        assert_eq!(state_dir(Path::new("/proc/no")).severity, Severity::Fatal);
    }
}
