//! One instance: made with a name and marks of ours, started, watched, and destroyed with two proofs.

use super::{
    answer::{LxdInstance, NONCE, OWNER, status},
    client::LxdClient,
    console,
    error::LxdError,
    exec::LxdExec,
    ownership::{self, MachineFound},
    placement::{self, Placement},
    watch::{self, WatchOutput},
};
use crate::{
    backend::{
        contract::{Console, Machine, MachineExit, Stats},
        discovery::{AddressCandidate, AddressDiscovery, DiscoveryMethod},
        guest_exec::GuestExec,
        proof::Proof,
        record::MachineId,
        request::{CreateRequest, Service},
    },
    context::CallContext,
    host::clock,
};
use futures_util::future::BoxFuture;
use serde_json::{Map, Value, json};
use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};
use tokio::{sync::watch as channel, task::AbortHandle};
use vmdeck_model::{
    error::{Fault, Result},
    guest::Guest,
    text::one_line,
};

/// How long stopping by force may take.
const STOP: Duration = Duration::from_secs(30);
/// How long starting may take.
const START: Duration = Duration::from_mins(1);
/// How often it is asked whether a member has room.
const ROOM: Duration = Duration::from_secs(2);
/// How much of the daemon's own log about an instance is shown, in bytes.
const LOG: usize = 2048;

/// Servers of images by the word that people put before a name, as the clients of the daemons have them.
const SERVERS: &[(&str, &str, &str)] = &[
    ("lxd", "ubuntu", "https://cloud-images.ubuntu.com/releases"),
    ("lxd", "images", "https://images.lxd.canonical.com"),
    ("incus", "ubuntu", "https://cloud-images.ubuntu.com/releases"),
    ("incus", "images", "https://images.linuxcontainers.org"),
];

/// An instance.
pub(super) struct LxdMachine {
    client: LxdClient,
    name: String,
    /// The id that the daemon gave it, once it is known.
    uuid: Option<String>,
    /// The fingerprint of the daemon, once it is known.
    daemon: Option<String>,
    /// The member that it is on, once it is known.
    member: Option<String>,
    user: Option<String>,
    log: PathBuf,
    watched: WatchOutput,
    /// Whether it ran already when it was taken over.
    is_up: bool,
    /// What follows it while it runs.
    followers: Vec<AbortHandle>,
}

impl LxdMachine {
    /// Returns a handle on the instance of a request; nothing is asked.
    pub(super) fn new(client: LxdClient, request: &CreateRequest<'_>) -> Self {
        Self {
            client,
            name: request.name.to_owned(),
            uuid: None,
            daemon: None,
            member: None,
            user: request.guest.options.text("user").map(str::to_owned),
            log: console::log(request.record_dir),
            watched: WatchOutput::new(),
            is_up: false,
            followers: Vec::new(),
        }
    }

    /// Returns a handle on an instance that was made before, and had this id then.
    pub(super) fn of_made(client: LxdClient, request: &CreateRequest<'_>, made: &LxdInstance, id: &MachineId) -> Self {
        let mut machine = Self::new(client, request);
        machine.learn(made);
        machine.daemon.clone_from(&id.provider);
        machine.is_up = made.status_code == status::RUNNING;
        machine
    }

    fn learn(&mut self, made: &LxdInstance) {
        self.uuid = made.uuid().map(str::to_owned);
        self.member = Some(made.location.clone()).filter(|member| !member.is_empty() && member != "none");
    }

    /// Makes the instance, where there is room for it.
    pub(super) async fn make(&mut self, guest: &Guest, context: CallContext<'_>) -> Result<()> {
        let what = format!("make the instance `{}`", self.name);
        let limit = guest.options.duration("launch_timeout").unwrap_or(guest.boot_timeout);
        let end = clock::now() + limit;
        let place = self.room(guest, end, context).await?;
        let body = body(self.client.flavour.kind, &self.name, guest);
        let member = place.as_ref().map(Placement::member);
        let asked =
            self.client.create(&body, member, (end.saturating_duration_since(clock::now()), context.progress)).await;
        if let Err(error) = &asked
            && !error.is_open()
        {
            return Err(self.failed_at(member, error, &what));
        }
        // Where the answer was lost, what is there counts, once nothing goes on any more.
        let settled = if asked.is_ok() { Ok(()) } else { self.client.settle(&self.name, limit).await };
        let made = match settled {
            Ok(()) => self.client.instance(&self.name).await,
            Err(error) => Err(error),
        };
        match (made, asked) {
            (Ok(Some(made)), _) if made.nonce() == Some(&*self.name) => {
                self.learn(&made);
                self.daemon = self.client.fingerprint().await.ok();
                Ok(())
            }
            (Ok(_) | Err(_), Err(error)) | (Err(error), Ok(())) => Err(self.failed_at(member, &error, &what)),
            (Ok(_), Ok(())) => Err(Fault::infra(format!("cannot {what}")).because("it is gone again")),
        }
    }

    /// Waits for a member that has room.
    async fn room(&self, guest: &Guest, end: clock::Instant, context: CallContext<'_>) -> Result<Option<Placement>> {
        let mut told = String::new();
        loop {
            let why = match placement::take(&self.client, guest).await {
                Ok(place) => return Ok(place),
                Err(Err(fault)) => return Err(fault),
                Err(Ok(why)) => why,
            };
            if clock::now() >= end {
                return Err(Fault::infra(format!("cannot find a member for guest `{}`", guest.id)).because(why).hint(
                    format!(
                        "wait for others to end, or raise `guests.{}.{}.launch_timeout`",
                        guest.key, self.client.flavour.kind
                    ),
                ));
            }
            if told != why {
                (context.progress)(&format!("waits for room in the cluster: {why}"));
                told = why;
            }
            clock::sleep(ROOM).await;
        }
    }

    /// Returns the fault of what failed on a member, which the next attempt leaves alone.
    fn failed_at(&self, member: Option<&str>, error: &LxdError, what: &str) -> Fault {
        let Some(member) = member else { return error.fault(self.client.flavour, what) };
        placement::avoid(&self.client, member);
        error.fault(self.client.flavour, format!("{what} on `{member}`"))
    }

    async fn power_on(&mut self) -> Result<()> {
        let what = format!("start the instance `{}`", self.name);
        let member = self.member.clone();
        if !self.is_up
            && let Err(error) = self.client.set_state(&self.name, "start", START).await
        {
            let fault = self.failed_at(member.as_deref(), &error, &what);
            return Err(match self.own_log().await {
                Some(log) => fault.caused_by(Fault::infra(log)),
                None => fault,
            });
        }
        self.follow().await.map_err(|error| self.failed_at(member.as_deref(), &error, &what))
    }

    /// Begins to follow an instance that runs.
    async fn follow(&mut self) -> Result<(), LxdError> {
        let gone = || LxdError::NotFound("it is gone again".into());
        let started = self.client.instance(&self.name).await?.ok_or_else(gone)?;
        self.learn(&started);
        self.followers = vec![
            console::follow(self.client.clone(), self.name.clone(), self.log.clone()),
            watch::follow(self.client.clone(), started, self.watched.clone()),
        ];
        Ok(())
    }

    fn unfollow(&mut self) {
        self.followers.drain(..).for_each(|follower| follower.abort());
    }

    /// Returns the errors in the daemon's own log about the instance: the place where it says why it did not start.
    async fn own_log(&self) -> Option<String> {
        let said = self.client.text(&self.name, &["logs", "lxc.log"]).await.ok()?;
        let said = String::from_utf8_lossy(&said[said.len().saturating_sub(LOG)..]).into_owned();
        let errors: Vec<&str> = said.lines().filter(|line| line.contains(" ERROR ")).collect();
        errors.first().map(|first| one_line(first))
    }

    async fn power_off(&mut self) -> Result<()> {
        self.unfollow();
        // One whose member is away is not asked: it would not answer for a long time.
        let failed = |error: LxdError| error.fault(self.client.flavour, format!("stop the instance `{}`", self.name));
        match self.client.glance(&self.name).await.map_err(failed)? {
            Some(now) if matches!(now.status_code, status::RUNNING | status::FROZEN) => {
                self.client.set_state(&self.name, "stop", STOP).await.map_err(failed)
            }
            _ => Ok(()),
        }
    }
}

/// Returns what a daemon is to make for a guest.
fn body(kind: &str, name: &str, guest: &Guest) -> Value {
    let options = &guest.options;
    let mut config = Map::new();
    config.insert("limits.cpu".into(), guest.cpus.to_string().into());
    config.insert("limits.memory".into(), guest.memory.to_string().into());
    for (key, value) in options.map("config") {
        config.insert(key.into(), value.into());
    }
    // Last: nothing that a config says takes our marks away.
    config.insert(OWNER.into(), "vmdeck".into());
    config.insert(NONCE.into(), name.into());
    let mut devices = Map::new();
    for (device, text) in options.map("devices") {
        devices.insert(device.into(), pairs(text).collect::<Map<_, _>>().into());
    }
    let is_vm = options.text("type") == Some("vm");
    json!({
        "name": name,
        "type": if is_vm { "virtual-machine" } else { "container" },
        "source": source(kind, options.text("image").unwrap_or_default()),
        "profiles": options.texts("profiles"),
        "config": config,
        "devices": devices,
        "ephemeral": false,
    })
}

/// Returns whether a text is a device as the clients write it.
pub(super) fn is_device(text: &str) -> bool {
    text.split(',').all(|pair| pair.contains('=')) && pairs(text).any(|(key, _)| key == "type")
}

/// Reads a device as the clients write it: `type=disk,source=/srv,path=/data`.
fn pairs(text: &str) -> impl Iterator<Item = (String, Value)> {
    let pairs = text.split(',').filter_map(|pair| pair.split_once('='));
    pairs.map(|(key, value)| (key.trim().to_owned(), value.trim().into()))
}

/// Returns where the daemon gets an image.
fn source(kind: &str, image: &str) -> Value {
    let remote = image.split_once(':').and_then(|(word, alias)| {
        let row = SERVERS.iter().find(|row| (row.0, row.1) == (kind, word))?;
        Some((row.2, alias))
    });
    let is_fingerprint = image.len() >= 12 && image.chars().all(|c| c.is_ascii_hexdigit());
    match remote {
        Some((server, alias)) => {
            json!({ "type": "image", "mode": "pull", "protocol": "simplestreams", "server": server, "alias": alias })
        }
        None if is_fingerprint => json!({ "type": "image", "fingerprint": image }),
        None => json!({ "type": "image", "alias": image }),
    }
}

/// Returns whether an image is one that the daemon has itself, and not one that it fetches.
pub(super) fn own_image<'a>(kind: &str, guest: &'a Guest) -> Option<&'a str> {
    let image = guest.options.text("image").unwrap_or_default();
    source(kind, image).get("server").is_none().then_some(image)
}

impl Machine for LxdMachine {
    fn name(&self) -> &str {
        &self.name
    }

    fn id(&self) -> MachineId {
        MachineId { uuid: self.uuid.clone(), provider: self.daemon.clone(), ..MachineId::default() }
    }

    fn exists(&self) -> BoxFuture<'_, Result<bool>> {
        Box::pin(async {
            let found = self.client.instance(&self.name).await;
            let found = found.map_err(|error| error.fault(self.client.flavour, format!("look for `{}`", self.name)))?;
            Ok(found.is_some())
        })
    }

    fn start<'a>(&'a mut self, _: CallContext<'a>) -> BoxFuture<'a, Result<()>> {
        Box::pin(self.power_on())
    }

    fn exit(&self) -> channel::Receiver<Option<MachineExit>> {
        self.watched.exit.subscribe()
    }

    fn restarts(&self) -> Option<channel::Receiver<u32>> {
        Some(self.watched.restarts.subscribe())
    }

    fn stop(&mut self) -> BoxFuture<'_, Result<()>> {
        Box::pin(self.power_off())
    }

    fn release(&mut self) -> BoxFuture<'_, Result<Vec<Proof>>> {
        Box::pin(async {
            self.unfollow();
            let gone = ownership::destroy(&self.client, &self.name, &self.id()).await?;
            Ok(vec![Proof::Gone(gone)])
        })
    }

    fn detach(mut self: Box<Self>) {
        self.unfollow();
    }

    fn console(&self) -> Option<Console<'_>> {
        Some(Console { log: &self.log, socket: None })
    }

    fn member(&self) -> Option<&str> {
        self.member.as_deref()
    }

    fn addresses(&self) -> Option<&dyn AddressDiscovery> {
        Some(self)
    }

    fn guest_exec(&self) -> Option<Arc<dyn GuestExec>> {
        let (client, watched) = (self.client.clone(), self.watched.clone());
        Some(Arc::new(LxdExec::new(client, self.name.clone(), self.user.clone(), watched)))
    }

    fn describe(&self) -> BoxFuture<'_, Result<String>> {
        Box::pin(async {
            let failed = |error: LxdError| error.fault(self.client.flavour, format!("describe `{}`", self.name));
            let all = self.client.instances().await.map_err(failed)?;
            let mut out = match ownership::find(&all, &self.name, self.uuid.as_deref()) {
                MachineFound::Ours(now) => {
                    format!("{} on `{}`, last started {}\n", now.status, now.location, now.last_used_at)
                }
                MachineFound::Absent(why) => format!("{why}\n"),
                MachineFound::Unproven(why) => format!("{why}\n"),
            };
            if let Some(log) = self.own_log().await {
                out.push_str(&log);
                out.push('\n');
            }
            Ok(out)
        })
    }

    fn stats(&self) -> Option<Stats> {
        *self.watched.stats.lock()
    }
}

impl Drop for LxdMachine {
    fn drop(&mut self) {
        self.unfollow();
    }
}

impl AddressDiscovery for LxdMachine {
    fn methods(&self) -> &[DiscoveryMethod] {
        &[DiscoveryMethod::Provider]
    }

    fn discover<'a>(
        &'a self,
        _: DiscoveryMethod,
        service: &'a Service,
        _: CallContext<'a>,
    ) -> BoxFuture<'a, Result<Vec<AddressCandidate>>> {
        Box::pin(async move {
            let state = self.client.state(&self.name).await;
            let state = state.map_err(|error| error.fault(self.client.flavour, format!("find `{}`", self.name)))?;
            // Read from inside of the instance's own network: nobody else's address.
            let candidate = |ip| AddressCandidate::proven(SocketAddr::new(ip, service.port));
            Ok(state.addresses().into_iter().map(candidate).collect())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::sample;
    use vmdeck_model::key::Value as KeyValue;

    #[test]
    fn nothing_in_a_config_takes_our_marks_away() {
        let mut guest = sample::guest(&[]);
        let table = |pairs: &[(&str, &str)]| {
            KeyValue::Map(pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect())
        };
        guest.options.set(
            "config",
            table(&[(NONCE, "forged"), (OWNER, "x"), ("limits.cpu", "7"), ("security.nesting", "true")]),
        );
        guest.options.set("devices", table(&[("data", "type=disk, source=/srv,path=/data=x")]));
        let body = body("lxd", "vmdeck-a-b", &guest);
        assert_eq!((&body["config"][NONCE], &body["config"][OWNER]), (&json!("vmdeck-a-b"), &json!("vmdeck")));
        assert_eq!((&body["config"]["limits.cpu"], &body["config"]["security.nesting"]), (&json!("7"), &json!("true")));
        assert_eq!(body["devices"]["data"], json!({ "type": "disk", "source": "/srv", "path": "/data=x" }));
        assert_eq!(body["type"], "container");
        let rows = [
            ("type=disk,path=/", true),
            ("hello world", false),
            ("path=/", false),
            ("type=disk,path", false),
            ("", false),
        ];
        for (text, good) in rows {
            assert_eq!(is_device(text), good, "{text}");
        }
    }

    #[test]
    fn an_image_is_the_daemons_own_or_fetched_by_it() {
        assert_eq!(source("lxd", "micro"), json!({ "type": "image", "alias": "micro" }));
        assert_eq!(source("lxd", "8a2252b9433447e4"), json!({ "type": "image", "fingerprint": "8a2252b9433447e4" }));
        assert_eq!(source("lxd", "mine:v1"), json!({ "type": "image", "alias": "mine:v1" }));
        let (lxd, incus) = (source("lxd", "images:debian/12"), source("incus", "images:debian/12"));
        assert_eq!((&lxd["alias"], &lxd["protocol"]), (&json!("debian/12"), &json!("simplestreams")));
        assert_ne!(lxd["server"], incus["server"]);
    }
}
