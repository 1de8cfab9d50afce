//! Finds the service of a machine: one discovery method after the other, until one leads to where the service answers.
//!
//! An address that is not proven to be this machine's is tried only where the connection itself proves it.

use super::contract::{ConnectProgress, ConnectTarget, DiscoveryAttempt};
use crate::{
    backend::{
        discovery::{AddressCandidate, DiscoveryMethod},
        request::Service,
    },
    context::CallContext,
    host::{clock, net},
};
use std::{collections::BTreeMap, net::SocketAddr, time::Duration};
use tokio::{net::TcpStream, task::JoinSet};
use tokio_util::sync::CancellationToken;
use vmdeck_model::error::Result;

/// How long the addresses of one method may take to answer before the next method is tried.
const ANSWER: Duration = Duration::from_secs(2);
/// The same where there is no other method.
const ONLY_METHOD: Duration = Duration::from_secs(15);
/// How long a method itself may take; each has a tighter limit of its own.
const METHOD: Duration = Duration::from_mins(1);
/// First pause between two rounds; it doubles up to the second.
const PAUSES: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(2));

/// A place where the service answered.
pub(super) struct Reached {
    pub(super) stream: TcpStream,
    pub(super) address: SocketAddr,
    /// Whether it is the only place where the machine can be: another machine there is a reason to give up.
    pub(super) only: bool,
}

/// One search: it remembers what it has reported, and who turned out to be another machine.
pub(super) struct AddressSearch<'a> {
    target: &'a ConnectTarget<'a>,
    service: Service,
    /// The address that the config gives; then nothing is searched.
    fixed: Option<String>,
    /// Whether the connection proves which machine is at the other end.
    proves_identity: bool,
    reported: BTreeMap<DiscoveryMethod, DiscoveryAttempt>,
    others: Vec<SocketAddr>,
}

impl<'a> AddressSearch<'a> {
    /// Returns a search for a service; one whose host the config gives is not searched for.
    pub(super) fn new(
        target: &'a ConnectTarget<'a>,
        service: Service,
        fixed: Option<String>,
        proves_identity: bool,
    ) -> Self {
        Self { target, service, fixed, proves_identity, reported: BTreeMap::new(), others: Vec::new() }
    }

    /// Leaves out this address from now on: another machine answers there.
    pub(super) fn exclude(&mut self, address: SocketAddr) {
        self.others.push(address);
    }

    /// Searches until the service answers somewhere; the caller limits the time. An error means that searching cannot help.
    pub(super) async fn next(&mut self) -> Result<Reached> {
        if let Some(host) = self.fixed.clone() {
            return Ok(self.at(&host).await);
        }
        let methods = self.target.machine.addresses().map_or(&[][..], |addresses| addresses.methods());
        let limit = if methods.len() == 1 { ONLY_METHOD } else { ANSWER };
        let mut pause = PAUSES.0;
        loop {
            for method in methods {
                if let Some(reached) = self.by(*method, limit).await {
                    return Ok(reached);
                }
            }
            clock::sleep(pause).await;
            pause = (pause * 2).min(PAUSES.1);
        }
    }

    /// Waits for the service at the address that the config gives: a name may become known only when the guest is up, may have
    /// several addresses, and may change them.
    async fn at(&self, host: &str) -> Reached {
        let mut pause = PAUSES.0;
        loop {
            let mut found: Vec<AddressCandidate> = match tokio::net::lookup_host((host, self.service.port)).await {
                Ok(all) => all.map(AddressCandidate::proven).collect(),
                Err(e) => {
                    let reason = format!("cannot resolve `{host}`: {e} (the address that the config gives)");
                    (self.target.progress)(ConnectProgress::Waiting(reason));
                    Vec::new()
                }
            };
            found.sort_by_key(|candidate| candidate.address);
            found.dedup();
            if let (Some(reached), _) = self.first_to_answer(&found, ONLY_METHOD).await {
                return Reached { only: true, ..reached };
            }
            clock::sleep(pause).await;
            pause = (pause * 2).min(PAUSES.1);
        }
    }

    async fn by(&mut self, method: DiscoveryMethod, limit: Duration) -> Option<Reached> {
        let start = clock::now();
        let mut attempt = DiscoveryAttempt { method, found: Vec::new(), ok: false, reason: String::new(), took_ms: 0 };
        let token = CancellationToken::new();
        let found = match self.target.machine.addresses() {
            Some(addresses) => addresses.discover(method, &self.service, CallContext::new(METHOD, &token)).await,
            None => Ok(Vec::new()),
        };
        let mut candidates = found.unwrap_or_else(|fault| {
            attempt.reason = fault.to_string();
            Vec::new()
        });
        attempt.found = candidates.iter().map(|candidate| candidate.address).collect();
        // A guest may list addresses that lead to this very host, such as those of a container bridge.
        candidates.retain(|c| !self.others.contains(&c.address) && !net::is_own(c.address.ip()));
        if !self.proves_identity && candidates.iter().any(|candidate| !candidate.proven) {
            candidates.retain(|candidate| candidate.proven);
            let (key, transport) = (&self.target.guest.key, self.service.name);
            attempt.reason =
                format!("nothing proves that this is the machine; set `guests.{key}.{transport}.host_key`");
        }
        let (reached, reason) = self.first_to_answer(&candidates, limit).await;
        attempt.ok = reached.is_some();
        if attempt.reason.is_empty() {
            attempt.reason = reason;
        }
        attempt.took_ms = clock::ms_since(start);
        self.report(attempt);
        reached
    }

    /// Asks all candidates at once.
    async fn first_to_answer(&self, candidates: &[AddressCandidate], limit: Duration) -> (Option<Reached>, String) {
        let only = candidates.len() == 1;
        let mut attempts = JoinSet::new();
        let (sender, mut receiver) = tokio::sync::mpsc::unbounded_channel();
        for candidate in candidates.iter().copied() {
            let (probe, sender) = (self.service.probe, sender.clone());
            attempts.spawn(async move {
                let progress = |why: &net::Silent| drop(sender.send((candidate.address, why.to_string())));
                let stream = net::until_answers(candidate.address, probe, progress).await;
                Reached { stream, address: candidate.address, only: only && candidate.proven }
            });
        }
        drop(sender);
        let mut reasons = BTreeMap::new();
        let answered = clock::within(limit, async {
            loop {
                tokio::select! {
                    reached = attempts.join_next() => return reached.and_then(Result::ok),
                    Some((address, why)) = receiver.recv() => {
                        reasons.insert(address, why);
                        (self.target.progress)(ConnectProgress::Waiting(each_answer(&reasons)));
                    }
                }
            }
        });
        let reached = answered.await.flatten();
        let reason = match (&reached, candidates.is_empty()) {
            (Some(_), _) => String::new(),
            (None, true) => "nothing was found".to_owned(),
            (None, false) if reasons.is_empty() => "no answer".to_owned(),
            (None, false) => each_answer(&reasons),
        };
        (reached, reason)
    }

    /// Reports what is new: a machine that boots is searched for many times.
    fn report(&mut self, attempt: DiscoveryAttempt) {
        let same =
            |old: &DiscoveryAttempt| old.found == attempt.found && old.ok == attempt.ok && old.reason == attempt.reason;
        if !self.reported.get(&attempt.method).is_some_and(same) {
            (self.target.progress)(ConnectProgress::DiscoveryAttempt(attempt.clone()));
            self.reported.insert(attempt.method, attempt);
        }
    }
}

/// Returns what each address says.
fn each_answer(reasons: &BTreeMap<SocketAddr, String>) -> String {
    reasons.iter().map(|(address, why)| format!("{address}: {why}")).collect::<Vec<_>>().join("; ")
}
