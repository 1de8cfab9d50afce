//! Says what a boot is waiting for, in words that a person reads when the time is over.

use crate::transport::contract::{ConnectProgress, DiscoveryAttempt};
use parking_lot::Mutex;
use vmdeck_model::guest::Guest;

/// How a reason begins that the service itself gave.
const LOGIN: &str = "the login service answered: ";

/// What a boot is waiting for; told by every step of the connection.
#[derive(Default)]
pub(super) struct WaitingReason(Mutex<String>);

impl WaitingReason {
    /// Returns what is missing, as the end of a sentence.
    pub(super) fn text(&self) -> String {
        self.0.lock().clone()
    }

    fn set(&self, text: String) {
        *self.0.lock() = text;
    }

    /// Notes that the ready pattern is waited for.
    pub(super) fn ready_pattern(&self, pattern: &str) {
        self.set(format!("the ready pattern `{pattern}` did not appear on the console"));
    }

    /// Notes that the login service is waited for.
    pub(super) fn service(&self) {
        self.set("no login service answered".into());
    }

    /// Notes that the end of the guest's own first set-up is waited for.
    pub(super) fn first_boot(&self) {
        self.set("the guest's first set-up (cloud-init) did not end".into());
    }

    /// Notes a step of the connection.
    pub(super) fn step(&self, step: &ConnectProgress) {
        match step {
            ConnectProgress::Waiting(reason) => self.set(format!("no login service answered: {reason}")),
            // Says more than what the next attempt begins with.
            ConnectProgress::NotYet(reason) => self.set(format!("{LOGIN}{reason}")),
            ConnectProgress::NoAgent(reason) => self.set(format!("the guest's agent did not answer: {reason}")),
            ConnectProgress::ServiceAnswers if self.text().starts_with(LOGIN) => {}
            ConnectProgress::ServiceAnswers => {
                self.set("the login service answered but no command could be run".into());
            }
            ConnectProgress::DiscoveryAttempt(attempt) if attempt.ok => {}
            ConnectProgress::DiscoveryAttempt(DiscoveryAttempt { method, found, reason, .. }) => {
                let reason = if reason.is_empty() && found.is_empty() { "it was not found" } else { reason };
                self.set(format!("no login service answered; last searched by {method}: {reason}"));
            }
        }
    }
}

/// Returns what to do about a guest that did not answer in time; `shows_boot` = its console may say why.
pub(super) fn late_hint(guest: &Guest, shows_boot: bool) -> String {
    let (id, key) = (&guest.id, &guest.key);
    let needs_service = guest.transports.iter().any(|kind| kind != "exec");
    if shows_boot && needs_service {
        return format!(
            "see guests/{id}/console.log in the record; correct `boot.pattern` or the login service, or raise `boot_timeout`"
        );
    }
    let check = |kind: &String| match kind.as_str() {
        "ssh" => format!("sshd is running and `guests.{key}.ssh` has a key or password"),
        "winrm" => "WinRM is on (`Enable-PSRemoting` in the guest) and the firewall lets it in".to_owned(),
        _ => "the guest agent is installed and running".to_owned(),
    };
    let services: Vec<String> = guest.transports.iter().map(check).collect();
    format!("check that {}; or raise `boot_timeout`", services.join(", or that "))
}
