//! The `multipass` backend: Ubuntu machines of Canonical's Multipass, made for the run or adopted.
//!
//! Everything goes through its command line, whose traps are told at the places where they are met.

mod client;
mod reply;
mod spinner;
mod vm;

use super::{Backend, Caps, Deps, Existing, Fut, Order, Power, Remnant, Vm};
use client::Client;
use std::path::Path;
use vm::MultipassVm;
use vmdeck_model::machine::MachineInfo;
use vmdeck_model::{
    error::{Fault, Result},
    event::{Finding, Severity},
    guest::{Fresh, Guest, Os},
    key::{Key, Kind},
};

/// Its keys.
pub const KEYS: &[Key] = &[
    Key {
        path: "host.tools.multipass",
        kind: Kind::Text,
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
        doc: "cloud-init file for its first boot",
    },
    Key {
        path: "guests.*.multipass.mounts",
        kind: Kind::Texts,
        default: Some("[]"),
        doc: "folders of this host to mount, each `SOURCE:TARGET`",
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

/// What it can do.
pub const CAPS: Caps = Caps {
    isolated: true,
    network: true,
    guest_exec: true,
    console: false,
    dump_stacks: false,
    live_memory: false,
    adopts: true,
    sized: true,
    takes_uuid: false,
};

const INSTALL: &str = "install it: `brew install --cask multipass` (macOS), `sudo snap install multipass` (Linux); or set `host.tools.multipass`";

/// See the module.
#[derive(Clone, Debug)]
pub struct Multipass {
    deps: Deps,
}

impl Multipass {
    /// Looks for its program only when it is needed.
    pub fn new(deps: &Deps) -> Self {
        Self { deps: deps.clone() }
    }

    async fn find_existing(&self, guest: &Guest) -> Result<Option<Existing>> {
        let Some(name) = &guest.machine else { return Ok(None) };
        let cannot = || Fault::user(format!("cannot adopt the machine `{name}` for guest `{}`", guest.id)).lasting();
        let all = Client::required(&self.deps)?.list().await?;
        match all.iter().find(|row| row.name == *name) {
            Some(row) if row.state == "Deleted" => {
                Err(cannot().because("it is deleted").hint(format!("`multipass recover {name}` brings it back")))
            }
            Some(row) => Ok(Some(Existing { name: name.clone(), id: None, was: reply::power(&row.state) })),
            None => {
                let seen: Vec<&str> = all.iter().map(|row| row.name.as_str()).collect();
                let seen = if seen.is_empty() { "none".to_owned() } else { seen.join(", ") };
                Err(cannot()
                    .because("there is no such machine")
                    .hint(format!("Multipass has: {seen}; set `guests.{}.machine`", guest.id)))
            }
        }
    }

    async fn check(&self, guest: Option<&Guest>) -> Vec<Finding> {
        let finding = |severity, text: String, hint: Option<&str>| Finding {
            check: "multipass".into(),
            severity,
            text,
            hint: hint.map(str::to_owned),
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
                    format!("Multipass {client} is installed and its daemon does not answer"),
                    Some(client::RESTART),
                )];
            }
            Ok(reply::Versions { client, daemon: Some(daemon) }) if client == daemon => {
                vec![finding(Severity::Ok, format!("Multipass {client}, `{program}`"), None)]
            }
            Ok(reply::Versions { client, daemon: Some(daemon) }) => {
                let text = format!("Multipass client {client} and daemon {daemon} are of two versions");
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
            match self.find_existing(guest).await {
                Ok(Some(existing)) if guest.options.text("snapshot").is_some() && existing.was != Power::Off => {
                    let text = format!(
                        "guest `{}`: `{}` is not stopped, and only a stopped machine is restored to its snapshot",
                        guest.id, existing.name
                    );
                    out.push(finding(Severity::Fatal, text, Some(&format!("`multipass stop {}`", existing.name))));
                }
                Ok(Some(existing)) if guest.fresh != Fresh::Run && guest.options.text("snapshot").is_none() => {
                    let text = format!(
                        "guest `{}`: `{}` is adopted: the same machine each time, whatever `fresh` says",
                        guest.id, existing.name
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
    let id = &guest.id;
    let mut out = Vec::new();
    let options = &guest.options;
    if guest.os != Os::Linux {
        out.push((
            format!("guest `{id}`: Multipass has only Linux machines"),
            format!("set `guests.{id}.os = \"linux\"`"),
        ));
    }
    if let Some(image) = options.text("image") {
        if image.starts_with('-') || image.is_empty() {
            out.push((format!("guest `{id}`: `{image}` is no image"), "`multipass find` lists the images".into()));
        } else if let Some(version) = image.strip_prefix("ubuntu:") {
            let hint = format!("write `{version}`: plain names are Ubuntu's");
            out.push((format!("guest `{id}`: Multipass knows no remote `ubuntu`"), hint));
        }
    }
    if let Some(Err(e)) = options.path("cloud_init").map(std::fs::File::open) {
        out.push((
            format!("guest `{id}`: cannot read its cloud-init file: {e}"),
            format!("correct `guests.{id}.multipass.cloud_init`"),
        ));
    }
    for mount in options.texts("mounts") {
        let source = mount.split(':').next().unwrap_or_default();
        if !Path::new(source).is_dir() {
            out.push((
                format!("guest `{id}`: cannot mount `{source}`: it is no folder"),
                format!("correct `guests.{id}.multipass.mounts`"),
            ));
        }
    }
    for (what, value, least) in [("memory", guest.memory, 128 << 20), ("disk", guest.disk, 512u64 << 20)] {
        if guest.machine.is_none() && value < least {
            let least = vmdeck_model::quantity::show_size(least);
            out.push((format!("guest `{id}`: its {what} is less than Multipass allows"), format!("at least {least}")));
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
    fn probe<'a>(&'a self, guest: Option<&'a Guest>) -> Fut<'a, Vec<Finding>> {
        Box::pin(async move { Ok(self.check(guest).await) })
    }

    fn list(&self) -> Fut<'_, Vec<MachineInfo>> {
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

    fn existing<'a>(&'a self, guest: &'a Guest) -> Fut<'a, Option<Existing>> {
        Box::pin(self.find_existing(guest))
    }

    fn create<'a>(&'a self, order: Order<'a>) -> Fut<'a, Box<dyn Vm>> {
        Box::pin(async move {
            let client = Client::required(&self.deps)?;
            Ok(Box::new(MultipassVm::new(client, &order)) as Box<dyn Vm>)
        })
    }

    fn reap<'a>(&'a self, remnant: &'a Remnant) -> Fut<'a, String> {
        Box::pin(async move {
            let client = Client::required(&self.deps)?;
            if let Some(existing) = &remnant.adopted {
                vm::put_back(&client, existing).await?;
                return vm::settled(&client, existing).await;
            }
            vm::destroy(&client, &remnant.name).await
        })
    }

    fn revisit<'a>(&'a self, guest: &'a Guest, remnant: &'a Remnant) -> Fut<'a, Option<Box<dyn Vm>>> {
        Box::pin(async move {
            let client = Client::required(&self.deps)?;
            let state = client.state(remnant.machine()).await?;
            let is_up = state.is_some_and(|state| reply::power(&state) == Power::On);
            Ok(is_up.then(|| Box::new(MultipassVm::new(client, &remnant.order(guest))) as Box<dyn Vm>))
        })
    }

    fn size<'a>(&'a self, found: &'a MachineInfo) -> Fut<'a, Option<u64>> {
        Box::pin(async move { Ok(Client::required(&self.deps)?.info(&found.name).await?.disk_used) })
    }

    fn remove<'a>(&'a self, found: &'a MachineInfo) -> Fut<'a, String> {
        Box::pin(async move { Client::required(&self.deps)?.destroy(&found.name).await })
    }
}
