//! Gives a guest that goes on from a snapshot what must be its own: the time of this host, random numbers, an id of the machine.
//!
//! Each is verified by what the guest says afterwards; what cannot be had is a finding. The guest's address, its network card and its host
//! name stay: each machine has a network of its own, in which nothing else is called so.

mod answer;
mod by_port;
mod by_shell;
mod resident;
mod text;

pub(super) use resident::start as start_resident;

use super::SnapshotBook;
use crate::{backend::contract::GuestPort, host::random, transport::session::Session};
use answer::{EXACT, Renewed};
use vmdeck_model::{error::Result, quantity::show_duration};

/// Renews a guest by the program that waits in it; returns what a person should know of it.
pub(in crate::engine::machine) async fn by_port(port: &GuestPort, book: &SnapshotBook) -> Result<Vec<String>> {
    by_port::renew(port, &new_id()).await.map(|renewed| notes(&renewed, book))
}

/// Renews a guest by the tools of its shell; returns what a person should know of it.
pub(in crate::engine::machine) async fn by_shell(session: &dyn Session, book: &SnapshotBook) -> Result<Vec<String>> {
    by_shell::renew(session, &new_id()).await.map(|renewed| notes(&renewed, book))
}

/// Returns a new id of a machine (machine-id(5)).
fn new_id() -> String {
    format!("{:032x}", random::u128())
}

/// Returns what could not be had.
fn notes(renewed: &Renewed, book: &SnapshotBook) -> Vec<String> {
    let mut out = Vec::new();
    let Renewed { answer, error } = renewed;
    if error.abs() > EXACT {
        let off = show_duration(error.abs().to_std().unwrap_or_default());
        out.push(format!("its clock is {off} off: the guest has no `date` that knows parts of a second"));
    }
    if answer.drawn.is_empty() || !book.is_new_draw(&answer.drawn) {
        let why = "its kernel draws the same random numbers as another one from the same snapshot";
        out.push(format!("{why}: it has no perl, no python3 and no driver for vmgenid"));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::{answer::GuestAnswer, *};
    use chrono::{DateTime, TimeDelta};

    #[test]
    fn what_cannot_be_had_is_told() {
        let book = SnapshotBook::default();
        let renewed = |drawn: &str, error: i64| {
            let answer = GuestAnswer { time: DateTime::UNIX_EPOCH, drawn: drawn.to_owned() };
            notes(&Renewed { answer, error: TimeDelta::milliseconds(error) }, &book)
        };
        assert!(renewed("aa", 3).is_empty());
        assert!(renewed("bb", -40).is_empty());
        assert_eq!(
            renewed("cc", -700),
            ["its clock is 0.7s off: the guest has no `date` that knows parts of a second"]
        );
        assert!(renewed("aa", 0)[0].contains("the same random numbers"), "drawn twice");
        assert!(renewed("", 0)[0].contains("the same random numbers"), "nothing drawn");
    }
}
