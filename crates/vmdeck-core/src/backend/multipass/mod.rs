//! The `multipass` backend: Ubuntu machines of Canonical's Multipass, made for the run or adopted.
//!
//! Everything goes through its command line, whose traps are described where they are met.

mod client;
mod machine;
pub(crate) mod reply;
mod spinner;

use super::{
    capabilities::{Capabilities, ConsoleKind, Reach},
    contract::{Adoption, Backend, Machine, Removal},
    deps::BackendDeps,
    proof::Proof,
    record::{AdoptTarget, MachineRecord, PowerState},
    request::CreateRequest,
};
use crate::context::CallContext;
use client::{Client, INSTALL};
use futures_util::future::BoxFuture;
use machine::MultipassMachine;
use std::path::Path;
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
        path: "host.tools.multipass",
        kind: Kind::Program,
        default: None,
        doc: "the program `multipass`; default: on the search path, then where its installers put it",
    },
    Key {
        path: "guests.*.multipass.image",
        kind: Kind::Text,
        default: None,
        doc: "image, alias or URL, as `multipass find` shows them; default: the current LTS",
    },
    Key {
        path: "guests.*.multipass.cloud_init",
        kind: Kind::Path,
        default: None,
        doc: "cloud-init file for the first boot",
    },
    Key {
        path: "guests.*.multipass.mounts",
        kind: Kind::Texts,
        default: Some("[]"),
        doc: "host folders to mount, each `SOURCE:TARGET`",
    },
    Key {
        path: "guests.*.multipass.networks",
        kind: Kind::Texts,
        default: Some("[]"),
        doc: "further networks, as `multipass networks` shows them",
    },
    Key {
        path: "guests.*.multipass.launch_timeout",
        kind: Kind::Duration,
        default: None,
        doc: "how long Multipass may take to fetch the image, boot it and finish cloud-init; default: boot_timeout",
    },
    Key {
        path: "guests.*.multipass.snapshot",
        kind: Kind::Text,
        default: None,
        doc: "snapshot of an adopted machine: taken the first time, restored before each later start",
    },
];

/// What the backend can do.
pub const CAPABILITIES: Capabilities = Capabilities {
    isolated: true,
    network: Reach::Routed,
    guest_exec: true,
    console: ConsoleKind::Progress,
    adopts: true,
    sized: true,
    runs_here: true,
    ..Capabilities::NONE
};

/// The backend; see the module.
#[derive(Clone, Debug)]
pub struct Multipass {
    deps: BackendDeps,
}

impl Multipass {
    /// Makes the backend; its program is looked for only when it is needed.
    pub fn new(deps: &BackendDeps) -> Self {
        Self { deps: deps.clone() }
    }

    fn handle(&self, request: &CreateRequest<'_>, target: Option<&AdoptTarget>) -> Result<Box<dyn Machine>> {
        let client = Client::required(&self.deps)?;
        Ok(Box::new(MultipassMachine::new(client, request, target)))
    }

    async fn find_target(&self, guest: &Guest) -> Result<Option<AdoptTarget>> {
        let Some(name) = &guest.machine else { return Ok(None) };
        let cannot = || Fault::user(format!("cannot adopt the machine `{name}` for guest `{}`", guest.id)).permanent();
        let all = Client::required(&self.deps)?.list().await?;
        match all.iter().find(|row| row.name == *name) {
            Some(row) if row.state == "Deleted" => {
                Err(cannot().because("it is deleted").hint(format!("`multipass recover {name}` brings it back")))
            }
            Some(row) => Ok(Some(AdoptTarget { name: name.clone(), id: None, was: reply::power(&row.state) })),
            None => {
                let seen: Vec<&str> = all.iter().map(|row| row.name.as_str()).collect();
                let seen = if seen.is_empty() { "none".to_owned() } else { seen.join(", ") };
                Err(cannot()
                    .because("there is no such machine")
                    .hint(format!("Multipass has: {seen}; set `guests.{}.machine`", guest.key)))
            }
        }
    }

    async fn findings(&self, guest: Option<&Guest>) -> Vec<Finding> {
        let finding = |severity, text: String, hint: Option<&str>| Finding {
            check: "multipass".into(),
            severity,
            text,
            hint: hint.map(str::to_owned),
            fix: None,
        };
        let bad = if guest.is_some() { Severity::Fatal } else { Severity::Warn };
        let client = match Client::find(&self.deps) {
            Ok(client) => client,
            Err(_) if guest.is_none() => return Vec::new(),
            Err(why) => return vec![finding(bad, format!("Multipass is not installed: {why}"), Some(INSTALL))],
        };
        let program = client.tool.program().display().to_string();
        let mut out = match client.versions().await {
            Err(fault) => {
                let hint = fault.remedy().unwrap_or(INSTALL).to_owned();
                return vec![finding(bad, fault.to_string(), Some(&hint))];
            }
            // It succeeds without a daemon: only the daemon's own key shows that there is one.
            Ok(reply::Versions { client, daemon: None }) => {
                return vec![finding(
                    bad,
                    format!("Multipass {client} is installed but its daemon does not answer"),
                    Some(client::RESTART),
                )];
            }
            Ok(reply::Versions { client, daemon: Some(daemon) }) if client == daemon => {
                vec![finding(Severity::Ok, format!("Multipass {client}, `{program}`"), None)]
            }
            Ok(reply::Versions { client, daemon: Some(daemon) }) => {
                let text = format!("Multipass client {client} and daemon {daemon} have different versions");
                vec![finding(Severity::Warn, text, Some("restart the daemon after an update"))]
            }
        };
        // A daemon that has hung still tells its version.
        if let Err(fault) = client.states().await {
            out.push(finding(bad, fault.to_string(), Some(fault.remedy().unwrap_or(client::RESTART))));
            return out;
        }
        if let Some(guest) = guest {
            out.extend(check_guest(guest).into_iter().map(|(text, hint)| finding(Severity::Fatal, text, Some(&hint))));
            match self.find_target(guest).await {
                Ok(Some(target)) if guest.options.text("snapshot").is_some() && target.was != PowerState::Off => {
                    let text = format!(
                        "guest `{}`: `{}` is not stopped, and only a stopped machine is restored to its snapshot",
                        guest.id, target.name
                    );
                    out.push(finding(Severity::Fatal, text, Some(&format!("`multipass stop {}`", target.name))));
                }
                Ok(Some(target)) if guest.fresh != Fresh::Run && guest.options.text("snapshot").is_none() => {
                    let text = format!(
                        "guest `{}`: `{}` is adopted: the same machine each time, whatever `fresh` says",
                        guest.id, target.name
                    );
                    out.push(finding(Severity::Warn, text, Some("`multipass.snapshot` makes it fresh")));
                }
                Ok(_) => {}
                Err(fault) => out.push(finding(Severity::Fatal, fault.to_string(), fault.remedy())),
            }
        }
        out
    }
}

/// Settings that cannot work, with what to do about each.
fn check_guest(guest: &Guest) -> Vec<(String, String)> {
    let (id, key) = (&guest.id, &guest.key);
    let mut out = Vec::new();
    let options = &guest.options;
    if guest.os != Os::Linux {
        out.push((
            format!("guest `{id}`: Multipass has only Linux machines"),
            format!("set `guests.{key}.os = \"linux\"`"),
        ));
    }
    if let Some(image) = options.text("image") {
        if image.starts_with('-') || image.is_empty() {
            out.push((format!("guest `{id}`: `{image}` is not an image"), "`multipass find` lists the images".into()));
        } else if let Some(version) = image.strip_prefix("ubuntu:") {
            let hint = format!("write `{version}`: plain names are Ubuntu's");
            out.push((format!("guest `{id}`: Multipass has no remote `ubuntu`"), hint));
        }
    }
    if let Some(Err(e)) = options.path("cloud_init").map(vmdeck_files::open) {
        out.push((
            format!("guest `{id}`: cannot read its cloud-init file: {e}"),
            format!("correct `guests.{key}.multipass.cloud_init`"),
        ));
    }
    for mount in options.texts("mounts") {
        let source = mount.split(':').next().unwrap_or_default();
        if !Path::new(source).is_dir() {
            out.push((
                format!("guest `{id}`: cannot mount `{source}`: it is not a folder"),
                format!("correct `guests.{key}.multipass.mounts`"),
            ));
        }
    }
    for (what, value, least) in [("memory", guest.memory, 128 << 20), ("disk", guest.disk, 512u64 << 20)] {
        if guest.machine.is_none() && value < least {
            let least = vmdeck_model::quantity::show_size(least);
            out.push((
                format!("guest `{id}`: its {what} is less than Multipass allows"),
                format!("set it to at least {least}"),
            ));
        }
    }
    if guest.machine.is_none() && options.text("snapshot").is_some() {
        out.push((
            format!("guest `{id}`: only an adopted machine has a snapshot to restore"),
            "set `machine`, or remove `multipass.snapshot`".into(),
        ));
    }
    out
}

impl Backend for Multipass {
    fn check<'a>(&'a self, guest: Option<&'a Guest>, _: CallContext<'a>) -> BoxFuture<'a, Result<Vec<Finding>>> {
        Box::pin(async move { Ok(self.findings(guest).await) })
    }

    fn list<'a>(&'a self, _: CallContext<'a>) -> BoxFuture<'a, Result<Vec<MachineInfo>>> {
        Box::pin(async {
            // Where it is not installed it has no machines; one that the config names must be there.
            let client = match Client::find(&self.deps) {
                Ok(client) => client,
                Err(_) if !self.deps.tools.contains_key(client::PROGRAM) => return Ok(Vec::new()),
                Err(_) => Client::required(&self.deps)?,
            };
            let mut out = Vec::new();
            for row in client.list().await? {
                let address = row.ipv4.first().cloned();
                out.push(MachineInfo { name: row.name, backend: "multipass", state: row.state, id: None, address });
            }
            Ok(out)
        })
    }

    fn create<'a>(&'a self, request: CreateRequest<'a>, _: CallContext<'a>) -> BoxFuture<'a, Result<Box<dyn Machine>>> {
        Box::pin(async move { self.handle(&request, None) })
    }

    fn reattach<'a>(
        &'a self,
        guest: &'a Guest,
        record: &'a MachineRecord,
        _: CallContext<'a>,
    ) -> BoxFuture<'a, Result<Option<Box<dyn Machine>>>> {
        Box::pin(async move {
            let state = Client::required(&self.deps)?.state(record.provider_name()).await?;
            let is_up = state.is_some_and(|state| reply::power(&state) == PowerState::On);
            is_up.then(|| self.handle(&record.request(guest), record.adopted.as_ref())).transpose()
        })
    }

    fn reap<'a>(&'a self, record: &'a MachineRecord, _: CallContext<'a>) -> BoxFuture<'a, Proof> {
        Box::pin(async move {
            let client = match Client::required(&self.deps) {
                Ok(client) => client,
                Err(fault) => return Proof::Unknown(fault),
            };
            let Some(target) = &record.adopted else {
                return Proof::gone(machine::destroy(&client, &record.name).await);
            };
            if let Err(fault) = machine::put_back(&client, target).await {
                return Proof::Unknown(fault);
            }
            Proof::put_back(machine::settled(&client, target).await)
        })
    }

    fn adoption(&self) -> Option<&dyn Adoption> {
        Some(self)
    }

    fn removal(&self) -> Option<&dyn Removal> {
        Some(self)
    }
}

impl Adoption for Multipass {
    fn find<'a>(&'a self, guest: &'a Guest, _: CallContext<'a>) -> BoxFuture<'a, Result<Option<AdoptTarget>>> {
        Box::pin(self.find_target(guest))
    }

    fn adopt<'a>(
        &'a self,
        request: CreateRequest<'a>,
        target: &'a AdoptTarget,
        _: CallContext<'a>,
    ) -> BoxFuture<'a, Result<Box<dyn Machine>>> {
        Box::pin(async move { self.handle(&request, Some(target)) })
    }
}

impl Removal for Multipass {
    fn size<'a>(&'a self, machine: &'a MachineInfo, _: CallContext<'a>) -> BoxFuture<'a, Result<Option<u64>>> {
        Box::pin(async move { Ok(Client::required(&self.deps)?.info(&machine.name).await?.disk_used) })
    }

    fn remove<'a>(&'a self, machine: &'a MachineInfo, _: CallContext<'a>) -> BoxFuture<'a, Proof> {
        Box::pin(async move {
            Proof::gone(match Client::required(&self.deps) {
                Ok(client) => client.destroy(&machine.name).await,
                Err(fault) => Err(fault),
            })
        })
    }
}
