//! Why a daemon did not do what it was asked for, and what its words mean for a person.

use super::{flavour::Flavour, place::DaemonAddress};
use std::{io, time::Duration};
use vmdeck_model::{error::Fault, quantity::show_duration, text::one_line};

/// Why a call failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum LxdError {
    /// Nothing answers at the daemon's address, or it may not be used.
    NoDaemon {
        /// The error of this host.
        why: String,
        /// Whether this host forbids it.
        is_denied: bool,
    },
    /// What was asked for is not there.
    NotFound(String),
    /// The daemon refused, or tried and failed.
    Refused {
        /// The code of the answer or of the operation.
        code: u16,
        /// The daemon's words.
        text: String,
    },
    /// There was no answer in this time.
    Late(Duration),
    /// The connection was lost: what was asked for may be done all the same.
    Lost(String),
}

impl LxdError {
    /// Returns the error of a connection that could not be made.
    pub(super) fn unreachable(daemon: &DaemonAddress, error: &io::Error) -> Self {
        LxdError::NoDaemon {
            why: format!("`{daemon}`: {error}"),
            is_denied: error.kind() == io::ErrorKind::PermissionDenied,
        }
    }

    /// Returns whether nobody knows what became of the call.
    pub(super) fn is_open(&self) -> bool {
        matches!(self, LxdError::Late(_) | LxdError::Lost(_) | LxdError::NotFound(_))
    }

    /// Returns whether the fault is in what the config asks for: another attempt would fail in the same way.
    fn is_permanent(&self) -> bool {
        match self {
            LxdError::NoDaemon { is_denied, .. } => *is_denied,
            LxdError::NotFound(_) => true,
            LxdError::Refused { code, text } => {
                *code == 403
                    || ["Invalid", "Unknown configuration", "pool not found"].iter().any(|word| text.contains(word))
            }
            LxdError::Late(_) | LxdError::Lost(_) => false,
        }
    }

    /// Returns the daemon's words in one line.
    pub(super) fn words(&self) -> String {
        match self {
            LxdError::NoDaemon { why, .. } => why.clone(),
            LxdError::NotFound(text) | LxdError::Refused { text, .. } => one_line(text),
            LxdError::Late(limit) => format!("it gave no answer within {}", show_duration(*limit)),
            LxdError::Lost(why) => format!("the connection to it was lost: {why}"),
        }
    }

    /// Returns the fault of what could not be done; `what` completes "cannot ...".
    pub(super) fn fault(&self, flavour: &Flavour, what: impl std::fmt::Display) -> Fault {
        let name = flavour.name;
        let fault = Fault::infra(format!("cannot {what}"));
        let words = self.words();
        let fault = match (self, hint(&words, flavour)) {
            (LxdError::NoDaemon { why, is_denied: true }, _) => fault
                .because(format!("you may not use {name}: {why}"))
                .hint(format!("add yourself to the group `{}`, and log in again", flavour.group)),
            (LxdError::NoDaemon { why, .. }, _) => {
                fault.because(format!("the {name} daemon does not answer: {why}")).hint(format!(
                    "install and start {name}, or say where it is with `guests.NAME.{}.socket` or `.url`",
                    flavour.kind
                ))
            }
            (LxdError::Refused { code: 403, .. }, _) => fault
                .because(format!("{name} does not know our certificate"))
                .hint(format!("`{} config trust add` at the daemon gives a token for it", flavour.program)),
            (_, Some((meaning, hint))) => fault.because(format!("{meaning} ({words})")).hint(hint),
            (_, None) => fault.because(format!("{name}: {words}")),
        };
        if self.is_permanent() { fault.permanent() } else { fault }
    }
}

/// Returns what the daemon's words about a cluster mean, and what to do.
fn hint(words: &str, flavour: &Flavour) -> Option<(&'static str, String)> {
    let list = || format!("`{} cluster list` shows the members", flavour.program);
    let has = |texts: &[&str]| texts.iter().any(|text| words.contains(text));
    // Seen with two of three members cut off.
    if has(&["dqlite", "context deadline exceeded"]) {
        return Some(("the cluster has lost its quorum: too many of its members are down", list()));
    }
    if has(&["Missing event connection with target", "Unable to connect to:", "no route to host"]) {
        return Some(("a member of the cluster does not answer", list()));
    }
    if has(&["Invalid device", "Invalid value", "Unknown configuration key", "Storage pool not found"]) {
        let key = format!("correct `guests.NAME.{0}.config`, `.devices` or `.profiles`", flavour.kind);
        return Some(("the daemon refuses a setting of the guest", key));
    }
    if has(&["No space left on device", "no space left on device"]) {
        return Some(("the storage of its member is full", format!("`{} storage info POOL`", flavour.program)));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::{super::flavour::LXD, *};

    #[test]
    fn the_words_of_a_daemon_become_a_cause_and_a_remedy() {
        let daemon = DaemonAddress::Socket("/run/lxd.socket".into());
        let refused = |text: &str| LxdError::Refused { code: 500, text: text.into() };
        let dqlite =
            "Failed to begin transaction: failed to create dqlite connection: no available dqlite leader server found";
        let denied = LxdError::unreachable(&daemon, &io::Error::from(io::ErrorKind::PermissionDenied));
        let rows = [
            (refused(dqlite), "lost its quorum", "lxc cluster list", true),
            (
                refused("Missing event connection with target cluster member"),
                "does not answer",
                "lxc cluster list",
                true,
            ),
            (
                refused("Failed creating instance from image: Unpack failed: No space left on device"),
                "is full",
                "storage",
                true,
            ),
            (refused("Invalid device type frob"), "refuses a setting", "lxd.config", false),
            (denied, "you may not use LXD", "group `lxd`", false),
            (LxdError::Refused { code: 403, text: "not authorized".into() }, "certificate", "trust add", false),
            (
                LxdError::unreachable(&daemon, &io::Error::from(io::ErrorKind::NotFound)),
                "/run/lxd.socket",
                "lxd.socket",
                true,
            ),
        ];
        for (error, cause, remedy, again) in rows {
            let fault = error.fault(&LXD, "make it");
            assert!(fault.to_string().contains(cause), "{fault}");
            assert!(fault.remedy().unwrap_or_default().contains(remedy), "{fault}: {:?}", fault.remedy());
            assert_eq!(fault.is_worth_a_retry(), again, "{fault}");
        }
    }
}
