//! What `multipass` answers with `--format json`: read by key, whatever the request, and with its uneven types.
//!
//! Numbers come as texts in some places and as numbers in others, and a machine that does not run has empty texts, lists and
//! objects instead (read in Multipass 1.16.3, `json_formatter.cpp`).

use crate::backend::record::PowerState;
use serde_json::Value;

/// A machine in the answer to `list`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Listed {
    pub(super) name: String,
    /// Multipass's own word, which may contain a blank.
    pub(crate) state: String,
    pub(crate) ipv4: Vec<String>,
}

/// A machine in the answer to `info`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Info {
    pub(super) state: String,
    pub(crate) ipv4: Vec<String>,
    /// Bytes of its disk that are used.
    pub(super) disk_used: Option<u64>,
}

/// Client and daemon versions; no daemon = it does not answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Versions {
    pub(super) client: String,
    pub(super) daemon: Option<String>,
}

fn text(value: &Value) -> Option<String> {
    value.as_str().map(str::to_owned)
}

/// Returns a number that may come as a text.
fn number(value: &Value) -> Option<u64> {
    value.as_u64().or_else(|| value.as_str()?.trim().parse().ok())
}

/// Addresses; a running machine without one has the text `N/A` in their place.
fn addresses(value: &Value) -> Vec<String> {
    let all = value.as_array().map(Vec::as_slice).unwrap_or_default();
    all.iter().filter_map(text).filter(|a| a.parse::<std::net::IpAddr>().is_ok()).collect()
}

fn parse(json: &str) -> Result<Value, String> {
    serde_json::from_str(json.trim()).map_err(|e| format!("it is not the expected JSON: {e}"))
}

pub(crate) fn list(json: &str) -> Result<Vec<Listed>, String> {
    let value = parse(json)?;
    let rows = value["list"].as_array().ok_or("it has no `list`")?;
    let row = |row: &Value| {
        let state = text(&row["state"]).unwrap_or_else(|| "Unknown".into());
        Some(Listed { name: text(&row["name"])?, state, ipv4: addresses(&row["ipv4"]) })
    };
    rows.iter().map(|r| row(r).ok_or_else(|| "a machine in its list has no name".to_owned())).collect()
}

pub(crate) fn info(json: &str, name: &str) -> Result<Info, String> {
    let value = parse(json)?;
    let found = &value["info"][name];
    let state = text(&found["state"]).ok_or_else(|| format!("it says nothing about `{name}`"))?;
    let disks = found["disks"].as_object();
    let disk_used =
        disks.and_then(|all| all.values().filter_map(|disk| number(&disk["used"])).reduce(u64::saturating_add));
    Ok(Info { state, ipv4: addresses(&found["ipv4"]), disk_used })
}

/// Returns the names of a machine's snapshots, in the answer to `list --snapshots`.
pub(crate) fn snapshots(json: &str, name: &str) -> Result<Vec<String>, String> {
    let value = parse(json)?;
    Ok(value["info"][name].as_object().map(|all| all.keys().cloned().collect()).unwrap_or_default())
}

pub(crate) fn versions(json: &str) -> Result<Versions, String> {
    let value = parse(json)?;
    let client = text(&value["multipass"]).ok_or("it names no version")?;
    Ok(Versions { client, daemon: text(&value["multipassd"]) })
}

/// Returns what a state word means for whether the machine is up. A word of a newer version counts as up: it is checked
/// again before anything is done.
pub(crate) fn power(state: &str) -> PowerState {
    match state {
        "Stopped" | "Deleted" | "Unavailable" => PowerState::Off,
        "Suspended" | "Suspending" => PowerState::Suspended,
        _ => PowerState::On,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn types_are_uneven_and_read_all_the_same() {
        let running = r#"{"errors":[],"info":{"foo":{"cpu_count":"1","disks":{"sda1":{"total":"5153960756","used":"1288490188"}},
            "ipv4":["10.168.32.2"],"load":[0.45],"memory":{"total":1503238554,"used":60817408},"snapshot_count":"0","state":"Running"}}}"#;
        let wanted = Info { state: "Running".into(), ipv4: vec!["10.168.32.2".into()], disk_used: Some(1_288_490_188) };
        assert_eq!(info(running, "foo"), Ok(wanted));
        let stopped = r#"{"errors":[],"info":{"foo":{"cpu_count":"","disks":{"sda1":{}},"ipv4":[],"load":[],"memory":{},"release":"","state":"Stopped"}}}"#;
        assert_eq!(info(stopped, "foo"), Ok(Info { state: "Stopped".into(), ..Info::default() }));
        let newer = r#"{"info":{"foo":{"zone":{"available":true,"name":"zone1"},"disks":{"sda1":{"used":7}},"state":"Running"}},"errors":[]}"#;
        assert_eq!(info(newer, "foo").map(|i| i.disk_used), Ok(Some(7)));
        assert!(info(newer, "fo").expect_err("another name").contains("nothing about `fo`"));
    }

    /// Trap 12 of the tool: a state with a blank, and an address that is none.
    #[test]
    fn trap_12_a_state_with_a_blank_and_an_address_that_is_none() {
        let json = r#"{"list":[{"ipv4":["N/A"],"name":"a","release":"Not Available","state":"Delayed Shutdown"},
            {"ipv4":["10.21.124.56","172.17.0.1"],"name":"b","release":"Ubuntu 24.04 LTS","state":"Running"},{"ipv4":[],"name":"c","state":"Deleted"}]}"#;
        let rows = list(json).expect("list");
        assert_eq!(
            (rows[0].state.as_str(), rows[0].ipv4.len(), power(&rows[0].state)),
            ("Delayed Shutdown", 0, PowerState::On)
        );
        assert_eq!(rows[1].ipv4, ["10.21.124.56", "172.17.0.1"]);
        assert_eq!(power(&rows[2].state), PowerState::Off);
    }

    #[test]
    fn every_state_has_its_meaning() {
        for (word, is) in [
            ("Running", PowerState::On),
            ("Starting", PowerState::On),
            ("Restarting", PowerState::On),
            ("Delayed Shutdown", PowerState::On),
            ("Unknown", PowerState::On),
            ("Suspending", PowerState::Suspended),
            ("Suspended", PowerState::Suspended),
            ("Stopped", PowerState::Off),
            ("Deleted", PowerState::Off),
            ("Unavailable", PowerState::Off),
            ("A word of 2030", PowerState::On),
        ] {
            assert_eq!(power(word), is, "{word}");
        }
    }

    #[test]
    fn an_empty_list_and_no_list_are_two_things() {
        assert_eq!(list("{\n    \"list\": [\n    ]\n}\n"), Ok(Vec::new()));
        assert!(list("{}").is_err() && list("No instances found.").is_err() && list("").is_err());
    }

    /// Trap 6 of the tool: `version` succeeds without a daemon.
    #[test]
    fn trap_06_only_the_daemons_own_key_shows_that_it_is_up() {
        assert_eq!(versions(r#"{"multipass":"1.16.3"}"#).expect("client").daemon, None);
        let both = versions(r#"{"multipass":"1.16.3","multipassd":"1.16.2","update":{"title":"x"}}"#).expect("both");
        assert_eq!(both.daemon.as_deref(), Some("1.16.2"));
    }

    #[test]
    fn snapshots_of_one_machine() {
        let json = r#"{"errors":[],"info":{"foo":{"clean":{"comment":"","parent":""},"s2":{}},"bar":{}}}"#;
        assert_eq!(snapshots(json, "foo").expect("read"), ["clean", "s2"]);
        assert!(snapshots(json, "baz").expect("read").is_empty());
    }

    proptest! {
        #[test]
        fn no_answer_breaks_the_reader(json in ".{0,200}") {
            let _ = (list(&json), info(&json, "foo"), versions(&json), snapshots(&json, "foo"));
        }
    }
}
