//! The `utm` backend: machines of UTM on macOS, adopted by name, chosen by their name, or copied from a template.
//!
//! Everything goes through `utmctl`, which has neither JSON nor honest exit codes; what it does not report is read from
//! disk.

mod addresses;
mod applescript_relay;
mod arp;
mod bundle;
mod exec;
pub(crate) mod leases;
mod machine;
mod match_name;
mod scan;
pub(crate) mod utmctl;

use super::{
    capabilities::{Capabilities, Reach},
    contract::{Adoption, Backend, Machine, Removal},
    deps::BackendDeps,
    discovery::{AddressDiscovery, DiscoveryMethod},
    guest_exec::GuestExec,
    proof::Proof,
    record::{AdoptTarget, MachineRecord, PowerState},
    request::{CreateRequest, Service},
};
use crate::{
    context::CallContext,
    host::{clock, files},
};
use addresses::AddressFinder;
use exec::UtmExec;
use futures_util::future::BoxFuture;
use machine::UtmMachine;
use std::{sync::Arc, time::Duration};
use utmctl::{Failure, FailureKind, INSTALL, Row, Utmctl, named, power};
use vmdeck_model::machine::MachineInfo;
use vmdeck_model::{
    error::{Fault, Result},
    event::{Finding, Severity},
    guest::{Fresh, Guest, Os},
    key::{Key, Kind},
};

/// The config keys of the backend.
pub const KEYS: &[Key] = &[
    Key {
        path: "host.tools.utmctl",
        kind: Kind::Program,
        default: None,
        doc: "the program `utmctl`; default: on the search path, then inside /Applications/UTM.app",
    },
    Key { path: "host.tools.arp", kind: Kind::Program, default: None, doc: "the program `arp`" },
    Key {
        path: "host.tools.open",
        kind: Kind::Program,
        default: None,
        doc: "macOS's program `open`, for `utm.terminal`; default: /usr/bin/open",
    },
    Key {
        path: "guests.*.utm.clone",
        kind: Kind::Text,
        default: None,
        doc: "stopped template to copy for the run; the copy has the template's MAC and is deleted after the run",
    },
    Key {
        path: "guests.*.utm.disposable",
        kind: Kind::Bool,
        default: Some("false"),
        doc: "start it as disposable: no change in it is kept; not for machines of Apple's virtualization",
    },
    Key {
        path: "guests.*.utm.hide",
        kind: Kind::Choice(&["auto", "always", "never"]),
        default: Some("\"auto\""),
        doc: "hide UTM's window; auto tries again without hiding if that fails",
    },
    Key {
        path: "guests.*.utm.terminal",
        kind: Kind::Choice(&["auto", "never"]),
        default: Some("\"auto\""),
        doc: "auto: if this session may not talk to UTM, run utmctl in the logged-in user's Terminal.app",
    },
    Key {
        path: "guests.*.utm.agent_user",
        kind: Kind::Text,
        default: None,
        doc: "user who runs commands sent through the guest agent (by `su`); default: root, the agent's own user",
    },
    Key {
        path: "guests.*.utm.documents",
        kind: Kind::Path,
        default: None,
        doc: "folder that holds UTM's machines; default: the one in the user's Library",
    },
    Key {
        path: "guests.*.utm.leases",
        kind: Kind::Path,
        default: Some("\"/var/db/dhcpd_leases\""),
        doc: "file with macOS's DHCP leases",
    },
    Key {
        path: "guests.*.utm.dhcp_names",
        kind: Kind::Texts,
        default: Some("[]"),
        doc: "other host names that the guest may have in the leases, besides the machine's own name",
    },
    Key {
        path: "guests.*.utm.networks",
        kind: Kind::Texts,
        default: Some("[\"192.168.64.0/24\"]"),
        doc: "subnets to scan if nothing else finds the address; [] = never scan",
    },
];

/// What the backend can do.
pub const CAPABILITIES: Capabilities =
    Capabilities { isolated: true, network: Reach::Routed, guest_exec: true, adopts: true, ..Capabilities::NONE };

/// How long a copy whose answer was lost may take to appear.
const APPEARS: Duration = Duration::from_mins(1);
/// The pause between two checks for it.
const PAUSE: Duration = Duration::from_secs(1);

/// The backend; see the module.
#[derive(Clone, Debug)]
pub struct Utm {
    deps: BackendDeps,
}

impl Utm {
    /// Makes the backend; its program is looked for only when it is needed.
    pub fn new(deps: &BackendDeps) -> Self {
        Self { deps: deps.clone() }
    }

    async fn find_target(&self, guest: &Guest) -> Result<Option<AdoptTarget>> {
        if guest.options.text("clone").is_some() {
            return Ok(None);
        }
        let utmctl = Utmctl::required(&self.deps, Some(guest))?;
        pick(guest, utmctl.list().await)
    }

    /// Copies the template and finds the copy by its name, since `clone` does not report the new id.
    async fn copy(&self, request: &CreateRequest<'_>, template: &str) -> Result<Row> {
        let failed = || Fault::infra(format!("cannot copy the template `{template}`"));
        let utmctl = Utmctl::required(&self.deps, Some(request.guest))?;
        let rows = utmctl.list().await?;
        let Some(source) = named(&rows, template) else { return Err(nothing(request.guest, &rows, None)) };
        let cloned = utmctl.clone_machine(&source.uuid, request.name, &request.record_dir.join("utmctl")).await;
        // An answer that did not come in time is no failure, so that only the list counts.
        let lost = cloned.as_ref().is_err_and(|failure| failure.kind == FailureKind::Passing);
        let appeared = async {
            loop {
                if let Some(row) = utmctl.list().await?.into_iter().find(|row| row.name == request.name) {
                    return Ok::<_, Fault>(Some(row));
                }
                if !lost {
                    return Ok(None);
                }
                clock::sleep(PAUSE).await;
            }
        };
        if let Some(row) = clock::within(APPEARS, appeared).await.transpose()?.flatten() {
            return Ok(row);
        }
        match cloned {
            Err(failure) if failure.kind == FailureKind::MustBeStopped => Err(failed()
                .caused_by(failure.fault)
                .hint(format!("stop it: `utmctl stop --request {}`", source.uuid))
                .permanent()),
            Err(failure) => Err(failed().caused_by(failure.fault)),
            Ok(()) => Err(failed().because("UTM does not list the copy")),
        }
    }

    async fn findings(&self, guest: Option<&Guest>, context: CallContext<'_>) -> Vec<Finding> {
        let finding = |check: &str, severity, text: String, hint: Option<&str>| Finding {
            check: check.into(),
            severity,
            text,
            hint: hint.map(str::to_owned),
            fix: None,
        };
        let bad = if guest.is_some() { Severity::Fatal } else { Severity::Warn };
        let utmctl = match Utmctl::find(&self.deps, guest) {
            Ok(utmctl) => utmctl,
            Err(_) if guest.is_none() => return Vec::new(),
            Err(why) => return vec![finding("utm", bad, format!("UTM is not installed: {why}"), Some(INSTALL))],
        };
        let listed = utmctl.list().await;
        let template = guest.and_then(|g| g.options.text("clone").map(|wanted| (g, wanted)));
        if let (Ok(rows), Some((guest, wanted))) = (&listed, template)
            && let Some(finding) = check_template(guest, rows, wanted)
        {
            return vec![finding];
        }
        let mut out = match &listed {
            Ok(rows) => {
                let count = if rows.len() == 1 { "1 machine".to_owned() } else { format!("{} machines", rows.len()) };
                let text = format!("UTM shows {count}, `{}`", utmctl.tool.program().display());
                vec![finding("utm", Severity::Ok, text, None)]
            }
            // A machine that is named and runs can be used without asking UTM.
            Err(failure) if failure.kind == FailureKind::Forbidden && guest.is_some_and(|g| g.machine.is_some()) => {
                vec![finding("utm", Severity::Warn, failure.fault.to_string(), failure.fault.remedy())]
            }
            Err(failure) => return vec![finding("utm", bad, failure.fault.to_string(), failure.fault.remedy())],
        };
        let Some(guest) = guest else { return out };
        for (text, hint) in check_guest(guest) {
            out.push(finding("utm", Severity::Fatal, text, Some(&hint)));
        }
        match pick(guest, listed) {
            Ok(Some(target)) => {
                if guest.fresh != Fresh::Run {
                    let text = format!(
                        "guest `{}`: `{}` is adopted: the same machine each time, whatever `fresh` says",
                        guest.id, target.name
                    );
                    out.push(finding(
                        "utm",
                        Severity::Warn,
                        text,
                        Some("`utm.clone` or `utm.disposable` makes it fresh"),
                    ));
                }
                out.extend(self.chain(guest, &utmctl, &target, context).await);
            }
            Ok(None) => {}
            Err(fault) => out.push(finding("utm", Severity::Fatal, fault.to_string(), fault.remedy())),
        }
        out
    }

    /// Returns the ways to look up the address of the guest's machine and what each finds now, if it runs. No scan is
    /// made.
    async fn chain(
        &self,
        guest: &Guest,
        utmctl: &Utmctl,
        target: &AdoptTarget,
        context: CallContext<'_>,
    ) -> Vec<Finding> {
        let uuid = target.id.clone().unwrap_or_default();
        let agent = Arc::new(UtmExec::new(utmctl.clone(), uuid.clone(), None)) as Arc<dyn GuestExec>;
        let finder = AddressFinder::new(&self.deps, utmctl, guest, (&uuid, &target.name), agent);
        let state = match target.was {
            PowerState::Off => "stopped",
            PowerState::Suspended => "paused",
            PowerState::On => "running",
        };
        let names: Vec<&str> = finder.methods().iter().map(|method| method.as_str()).collect();
        let head = format!(
            "guest `{}` is `{}`, {state}; its address is looked up by: {}",
            guest.id,
            target.name,
            names.join(", ")
        );
        let finding = |severity, text| Finding { check: "address".into(), severity, text, hint: None, fix: None };
        let mut out = vec![finding(Severity::Ok, head)];
        let port = guest.transport_options.get("ssh").and_then(|o| o.int("port")).and_then(|p| u16::try_from(p).ok());
        let service =
            Service { name: "ssh", port: port.unwrap_or_default(), probe: crate::host::net::Probe::Banner(b"SSH-") };
        let asked = finder.methods().iter().copied();
        let asked = asked.filter(|way| target.was == PowerState::On && *way != DiscoveryMethod::SubnetScan);
        for method in asked {
            let found = finder.discover(method, &service, context).await;
            out.push(match found {
                Ok(found) if !found.is_empty() => {
                    let list: Vec<String> = found.iter().map(|candidate| candidate.address.to_string()).collect();
                    finding(Severity::Ok, format!("{method}: {}", list.join(", ")))
                }
                Ok(_) => finding(Severity::Ok, format!("{method}: nothing")),
                Err(fault) => finding(Severity::Ok, format!("{method}: {fault}")),
            });
        }
        out
    }
}

/// Returns the machine that a guest adopts, from what UTM lists or, where it may not be asked, from what is on disk. A copy adopts none.
fn pick(guest: &Guest, listed: Result<Vec<Row>, Failure>) -> Result<Option<AdoptTarget>> {
    if guest.options.text("clone").is_some() {
        return Ok(None);
    }
    let (rows, why) = match listed {
        Ok(rows) => (rows, None),
        Err(failure) if failure.kind == FailureKind::Forbidden => (on_disk(guest), Some(failure.fault)),
        Err(failure) if !failure.seen.is_empty() => (failure.seen, Some(failure.fault)),
        Err(failure) => return Err(failure.fault),
    };
    let wanted = match &guest.machine {
        Some(wanted) => named(&rows, wanted),
        None => match_name::best_match(rows.iter().map(|row| row.name.as_str()), guest.os)
            .and_then(|name| rows.iter().find(|row| row.name == name)),
    };
    match wanted {
        Some(Row { name, uuid, status }) => {
            Ok(Some(AdoptTarget { name: name.clone(), id: Some(uuid.clone()), was: power(status) }))
        }
        None => Err(nothing(guest, &rows, why)),
    }
}

/// Returns what can be known where UTM may not be asked: the folders of its machines. They are taken to be running.
fn on_disk(guest: &Guest) -> Vec<Row> {
    let all = bundle::seen(guest.options.path("documents"));
    all.into_iter().map(|b| Row { uuid: b.uuid.unwrap_or_default(), status: "started".into(), name: b.name }).collect()
}

/// Returns the fault for a guest that no machine matches: what was seen, and how to say which one is meant.
fn nothing(guest: &Guest, rows: &[Row], listing: Option<Fault>) -> Fault {
    let seen = rows.iter().map(|row| format!("`{}` ({})", row.name, row.uuid)).collect::<Vec<_>>().join(", ");
    let seen = if seen.is_empty() { "no machines".to_owned() } else { seen };
    let wanted = guest.options.text("clone").or(guest.machine.as_deref());
    let what = match wanted {
        Some(wanted) if listing.is_some() => {
            format!("UTM cannot be asked, and `{wanted}` is not in its folder on disk")
        }
        Some(wanted) => format!("there is no machine `{wanted}`"),
        None => format!("no machine has a name that matches it: `ci-os-{0}...` or `ci-{0}...`", guest.os),
    };
    let fault = Fault::user(format!("cannot find the machine of guest `{}`", guest.id))
        .because(what)
        .because(if listing.is_some() { format!("the folder holds {seen}") } else { format!("UTM shows {seen}") });
    let fault = match listing {
        Some(listing) => fault.because(listing),
        None => fault,
    };
    let key = if guest.options.text("clone").is_some() { "utm.clone" } else { "machine" };
    fault.hint(format!("set `guests.{}.{key}` to one of these names or UUIDs", guest.key)).permanent()
}

/// Returns a finding if the template cannot be copied.
fn check_template(guest: &Guest, rows: &[Row], wanted: &str) -> Option<Finding> {
    let (text, hint) = match named(rows, wanted) {
        None => {
            let fault = nothing(guest, rows, None);
            (fault.to_string(), format!("set `guests.{}.utm.clone` to one of these names or UUIDs", guest.key))
        }
        Some(row) if power(&row.status) != PowerState::Off => (
            format!(
                "guest `{}`: its template `{}` is not stopped, and only a stopped machine can be copied",
                guest.id, row.name
            ),
            format!("`utmctl stop --request {}`", row.uuid),
        ),
        Some(_) => return None,
    };
    Some(Finding { check: "utm".into(), severity: Severity::Fatal, text, hint: Some(hint), fix: None })
}

/// Settings that cannot work, with what to do about each.
fn check_guest(guest: &Guest) -> Vec<(String, String)> {
    let (id, key, mut out) = (&guest.id, &guest.key, Vec::new());
    if guest.machine.is_some() && guest.options.text("clone").is_some() {
        out.push((
            format!("guest `{id}`: it cannot be both adopted and a copy"),
            "set either `machine` or `utm.clone`".into(),
        ));
    }
    for cidr in guest.options.texts("networks") {
        if let Err(why) = scan::hosts(cidr) {
            out.push((format!("guest `{id}`: {why}"), format!("correct `guests.{key}.utm.networks`")));
        }
    }
    if guest.os == Os::Macos && guest.options.flag("disposable") {
        out.push((
            format!("guest `{id}`: macOS machines cannot be started disposable"),
            "remove `utm.disposable`".into(),
        ));
    }
    out
}

impl Backend for Utm {
    fn check<'a>(&'a self, guest: Option<&'a Guest>, context: CallContext<'a>) -> BoxFuture<'a, Result<Vec<Finding>>> {
        Box::pin(async move { Ok(self.findings(guest, context).await) })
    }

    fn list<'a>(&'a self, _: CallContext<'a>) -> BoxFuture<'a, Result<Vec<MachineInfo>>> {
        Box::pin(async {
            // Where it is not installed it has no machines; one that the config names must be there.
            let utmctl = match Utmctl::find(&self.deps, None) {
                Ok(utmctl) => utmctl,
                Err(_) if !self.deps.tools.contains_key(utmctl::PROGRAM) => return Ok(Vec::new()),
                Err(_) => Utmctl::required(&self.deps, None)?,
            };
            let found = |row: Row| MachineInfo {
                name: row.name,
                backend: "utm",
                state: row.status,
                id: Some(row.uuid),
                address: None,
            };
            Ok(utmctl.list().await?.into_iter().map(found).collect())
        })
    }

    fn create<'a>(&'a self, request: CreateRequest<'a>, _: CallContext<'a>) -> BoxFuture<'a, Result<Box<dyn Machine>>> {
        Box::pin(async move {
            let Some(template) = request.guest.options.text("clone") else {
                return Err(nothing(request.guest, &[], None));
            };
            let row = self.copy(&request, template).await?;
            self.handle(&request, &row, None)
        })
    }

    fn reap<'a>(&'a self, record: &'a MachineRecord, _: CallContext<'a>) -> BoxFuture<'a, Proof> {
        Box::pin(async move {
            match &record.adopted {
                Some(target) => Proof::put_back(self.put_back(target).await),
                None => Proof::gone(self.delete(record).await),
            }
        })
    }

    fn reattach<'a>(
        &'a self,
        guest: &'a Guest,
        record: &'a MachineRecord,
        _: CallContext<'a>,
    ) -> BoxFuture<'a, Result<Option<Box<dyn Machine>>>> {
        Box::pin(async move {
            let utmctl = Utmctl::required(&self.deps, Some(guest))?;
            let Some(uuid) = record.id.uuid.clone() else { return Ok(None) };
            let status = utmctl.status(&uuid).await?;
            let row = Row { uuid, name: record.provider_name().to_owned(), status };
            let is_up = power(&row.status) == PowerState::On;
            is_up.then(|| self.handle(&record.request(guest), &row, record.adopted.as_ref())).transpose()
        })
    }

    fn adoption(&self) -> Option<&dyn Adoption> {
        Some(self)
    }

    fn removal(&self) -> Option<&dyn Removal> {
        Some(self)
    }
}

impl Utm {
    fn handle(&self, request: &CreateRequest<'_>, row: &Row, target: Option<&AdoptTarget>) -> Result<Box<dyn Machine>> {
        let utmctl = Utmctl::required(&self.deps, Some(request.guest))?;
        Ok(Box::new(UtmMachine::new(&self.deps, utmctl, request, row, target)))
    }

    /// Puts a machine that a dead run adopted back to how it was found.
    async fn put_back(&self, target: &AdoptTarget) -> Result<String> {
        let utmctl = Utmctl::required(&self.deps, None)?;
        let uuid = target.id.as_deref().unwrap_or(&target.name);
        if target.was != PowerState::On {
            machine::put_back(&utmctl, uuid, target).await?;
        }
        machine::settled(&utmctl, uuid, target).await
    }

    /// Deletes a copy that a dead run made. The generated name holds the nonce; the id, where it became known, must be the
    /// same one.
    async fn delete(&self, record: &MachineRecord) -> Result<String> {
        let utmctl = Utmctl::required(&self.deps, None)?;
        let uuid = record.id.uuid.as_deref();
        let rows = machine::list_once_copied(&utmctl, &record.name).await?;
        let ours = rows.iter().find(|row| row.name == record.name && uuid.is_none_or(|uuid| uuid == row.uuid));
        match ours {
            Some(row) => machine::destroy(&utmctl, &row.uuid, &row.name).await,
            None => Ok(format!("UTM lists no machine `{}`", record.name)),
        }
    }
}

impl Adoption for Utm {
    fn find<'a>(&'a self, guest: &'a Guest, _: CallContext<'a>) -> BoxFuture<'a, Result<Option<AdoptTarget>>> {
        Box::pin(self.find_target(guest))
    }

    fn adopt<'a>(
        &'a self,
        request: CreateRequest<'a>,
        target: &'a AdoptTarget,
        _: CallContext<'a>,
    ) -> BoxFuture<'a, Result<Box<dyn Machine>>> {
        Box::pin(async move {
            let uuid = target.id.clone().unwrap_or_default();
            let row = Row { uuid, name: target.name.clone(), status: String::new() };
            self.handle(&request, &row, Some(target))
        })
    }
}

impl Removal for Utm {
    fn size<'a>(&'a self, machine: &'a MachineInfo, _: CallContext<'a>) -> BoxFuture<'a, Result<Option<u64>>> {
        Box::pin(async move {
            let bundle = bundle::seen(None).into_iter().find(|b| b.uuid == machine.id);
            Ok(bundle.map(|b| files::disk_usage(&b.path)))
        })
    }

    fn remove<'a>(&'a self, info: &'a MachineInfo, _: CallContext<'a>) -> BoxFuture<'a, Proof> {
        Box::pin(async move {
            Proof::gone(match Utmctl::required(&self.deps, None) {
                Ok(utmctl) => machine::destroy(&utmctl, info.id.as_deref().unwrap_or_default(), &info.name).await,
                Err(fault) => Err(fault),
            })
        })
    }
}
