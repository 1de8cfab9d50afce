//! What a daemon tells about its instances, its cluster and what it does, as far as vmdeck reads it.

use super::error::LxdError;
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;
use std::{collections::BTreeMap, net::IpAddr};

/// The setting of an instance that says that a vmdeck made it.
pub(super) const OWNER: &str = "user.vmdeck.owner";
/// The setting with the name that it was made under: a copy has it too.
pub(super) const NONCE: &str = "user.vmdeck.nonce";
/// The setting with its id: made by the daemon, kept by a rename and by a move, new for a copy.
const UUID: &str = "volatile.uuid";

/// An instance.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(super) struct LxdInstance {
    /// The name.
    pub(super) name: String,
    /// The state as a word.
    pub(super) status: String,
    /// The state as a number.
    pub(super) status_code: u16,
    /// The member that it is on; `none` without a cluster.
    pub(super) location: String,
    /// Its settings; none of an instance whose member is away.
    pub(super) config: BTreeMap<String, String>,
    /// When it was made, RFC 3339.
    pub(super) created_at: String,
    /// When it was started last, RFC 3339: changes at each start.
    pub(super) last_used_at: String,
}

/// Reads what a daemon said. It writes `null` for every list and table that is empty.
pub(super) fn read<T: DeserializeOwned>(mut said: Value) -> Result<T, LxdError> {
    drop_nulls(&mut said);
    serde_json::from_value(said).map_err(|e| LxdError::Lost(format!("what it said cannot be read: {e}")))
}

fn drop_nulls(value: &mut Value) {
    match value {
        Value::Object(object) => {
            object.retain(|_, value| !value.is_null());
            object.values_mut().for_each(drop_nulls);
        }
        Value::Array(array) => array.iter_mut().for_each(drop_nulls),
        _ => {}
    }
}

/// The states that matter here.
pub(super) mod status {
    /// It does not run.
    pub(in super::super) const STOPPED: u16 = 102;
    /// It runs.
    pub(in super::super) const RUNNING: u16 = 103;
    /// It was frozen.
    pub(in super::super) const FROZEN: u16 = 110;
    /// The daemon does not know: its member is away.
    pub(in super::super) const ERROR: u16 = 112;
}

impl LxdInstance {
    /// Returns the id; `None` = the daemon does not tell.
    pub(super) fn uuid(&self) -> Option<&str> {
        self.config.get(UUID).map(String::as_str).filter(|uuid| !uuid.is_empty())
    }

    /// Returns the name under which a vmdeck made it, or made what it is a copy of.
    pub(super) fn nonce(&self) -> Option<&str> {
        self.config.get(NONCE).map(String::as_str)
    }

    /// Returns whether nothing is known of it but that it exists.
    pub(super) fn is_unreadable(&self) -> bool {
        self.status_code == status::ERROR || self.config.is_empty()
    }
}

/// What a daemon says of itself.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct LxdServer {
    /// `trusted`, or not.
    pub(super) auth: String,
    /// More of it.
    pub(super) environment: LxdEnvironment,
}

/// What a daemon is and what it can do.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct LxdEnvironment {
    /// `lxd` or `incus`.
    pub(super) server: String,
    /// Its version.
    pub(super) server_version: String,
    /// The fingerprint of its certificate, which all members of a cluster have alike.
    pub(super) certificate_fingerprint: String,
    /// Whether it is a member of a cluster.
    pub(super) server_clustered: bool,
    /// What it can make, as `lxc | qemu`.
    pub(super) driver: String,
}

/// A member of a cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(super) struct LxdMember {
    /// The name.
    pub(super) server_name: String,
    /// `Online`, `Offline`, `Evacuated`, ...
    pub(super) status: String,
    /// Why it is not online.
    pub(super) message: String,
    /// The groups that it is in.
    pub(super) groups: Vec<String>,
}

impl LxdMember {
    /// Returns whether instances can be made on it.
    pub(super) fn is_online(&self) -> bool {
        self.status.eq_ignore_ascii_case("online")
    }
}

/// What a member has.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct LxdResources {
    /// Its memory.
    pub(super) memory: LxdMemory,
}

/// The memory of a member in bytes.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct LxdMemory {
    /// What is in use.
    pub(super) used: u64,
    /// All of it.
    pub(super) total: u64,
}

/// What goes on in a daemon.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct LxdOperation {
    /// The id.
    pub(super) id: String,
    /// `task`, or `websocket` for one that lasts as long as somebody listens.
    pub(super) class: String,
    /// The state as a number.
    pub(super) status_code: u16,
    /// Why it failed.
    pub(super) err: String,
    /// What it is about, by kind, as paths.
    pub(super) resources: BTreeMap<String, Vec<String>>,
    /// What it gives.
    pub(super) metadata: Option<Value>,
}

impl LxdOperation {
    /// Returns whether it does something to an instance of this name: commands in it and its console do not.
    pub(super) fn changes(&self, name: &str) -> bool {
        if self.class == "websocket" {
            return false;
        }
        let all = self.resources.values().flatten();
        all.into_iter().any(|path| path.split('?').next().and_then(|path| path.rsplit('/').next()) == Some(name))
    }
}

/// How an instance is now.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct LxdState {
    /// Its processor time in nanoseconds.
    pub(super) cpu: LxdUsage,
    /// Its memory in bytes.
    pub(super) memory: LxdUsage,
    /// Its network interfaces.
    pub(super) network: BTreeMap<String, LxdInterface>,
}

/// How much of something an instance uses.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct LxdUsage {
    /// The amount.
    pub(super) usage: i64,
}

/// A network interface of an instance.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct LxdInterface {
    /// Its addresses.
    pub(super) addresses: Vec<LxdInterfaceAddress>,
    /// Its name on the host: one that only the guest has, such as a bridge inside, has none.
    pub(super) host_name: String,
}

/// An address of an interface.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct LxdInterfaceAddress {
    /// The address.
    pub(super) address: String,
    /// `global`, `link`, `local`.
    pub(super) scope: String,
}

impl LxdState {
    /// Returns the addresses at which others may reach the instance, IPv4 first; those that only lead to itself are left out.
    pub(super) fn addresses(&self) -> Vec<IpAddr> {
        let interfaces = self.network.iter().filter(|(name, _)| *name != "lo");
        // A guest's own bridges are reached by nobody; where the daemon tells no host side at all, all count.
        let has_sides = interfaces.clone().any(|(_, interface)| !interface.host_name.is_empty());
        let reached = interfaces.filter(|(_, interface)| !has_sides || !interface.host_name.is_empty());
        let global =
            reached.flat_map(|(_, interface)| &interface.addresses).filter(|address| address.scope == "global");
        let mut out: Vec<IpAddr> = global.filter_map(|address| address.address.parse().ok()).collect();
        out.sort_by_key(IpAddr::is_ipv6);
        out
    }
}

/// Something that has happened to an object.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct LxdEvent {
    /// What has happened.
    pub(super) metadata: LxdLifecycle,
}

/// What has happened, to what, and who asked for it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct LxdLifecycle {
    /// `instance-stopped` and so on.
    pub(super) action: String,
    /// The path of the object.
    pub(super) source: String,
    /// Who asked; nobody where the guest did it itself.
    pub(super) requestor: Option<LxdRequestor>,
}

/// Who asked for something.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(super) struct LxdRequestor {
    /// The name of a user, or the fingerprint of a certificate.
    pub(super) username: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of<T: DeserializeOwned>(text: &str) -> T {
        read(serde_json::from_str(text).expect("JSON")).expect("read")
    }

    #[test]
    fn only_addresses_that_others_reach_count() {
        let state: LxdState = of(r#"{"network":{
                "lo":{"addresses":[{"address":"127.0.0.1","scope":"local"}]},
                "docker0":{"addresses":[{"address":"172.17.0.1","scope":"global"}],"host_name":""},
                "eth0":{"addresses":[{"address":"fe80::1","scope":"link"},{"address":"fd00::2","scope":"global"},
                    {"address":"10.0.0.7","scope":"global"},{"address":"nonsense","scope":"global"}],"host_name":"veth1"}}}"#);
        let want: Vec<IpAddr> = ["10.0.0.7", "fd00::2"].iter().map(|text| text.parse().expect("address")).collect();
        assert_eq!(state.addresses(), want);
        let none: LxdState = of(r#"{"network":null}"#);
        assert!(none.addresses().is_empty());
    }

    #[test]
    fn an_instance_whose_member_is_away_can_be_read() {
        let text =
            r#"[{"name":"v-1","status":"Error","status_code":112,"location":"m2","config":null,"devices":null}]"#;
        let all: Vec<LxdInstance> = of(text);
        assert!(all[0].is_unreadable() && all[0].uuid().is_none());
    }

    #[test]
    fn an_operation_changes_exactly_the_instances_that_it_names() {
        let read = of::<LxdOperation>;
        let making = read(r#"{"class":"task","resources":{"instances":["/1.0/instances/vmdeck-a?project=p"]}}"#);
        assert!(making.changes("vmdeck-a"));
        assert!(!making.changes("vmdeck") && !making.changes("a"));
        assert!(!read(r#"{"class":"task","resources":null}"#).changes("vmdeck-a"));
        assert!(!read(r#"{"class":"task","resources":{"instances":null}}"#).changes("vmdeck-a"));
        let command = read(r#"{"class":"websocket","resources":{"instances":["/1.0/instances/vmdeck-a"]}}"#);
        assert!(!command.changes("vmdeck-a"), "it may last for hours");
    }
}
