//! Finding the service of a machine: the ways of its backend one after the other, until one leads to where it answers.
//!
//! An address that is not proven to be this machine's is a candidate only where a pinned host key will prove it.

use super::{Sought, Step, Target};
use crate::{
    backend::{Lead, Way},
    host::{clock, net},
};
use std::{collections::BTreeMap, net::SocketAddr, time::Duration};
use tokio::{net::TcpStream, task::JoinSet};

/// How long the addresses of one way may take to answer before the next way is tried.
const ANSWER: Duration = Duration::from_secs(2);
/// The same where there is no other way.
const ONLY_WAY: Duration = Duration::from_secs(15);
/// First pause between two rounds; it doubles up to the second.
const PAUSES: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(2));

/// Where the service answered.
pub(super) struct Reached {
    pub(super) stream: TcpStream,
    pub(super) address: SocketAddr,
    /// Whether it is the only place where the machine can be: another one there is a reason to give up.
    pub(super) only: bool,
}

/// One search: it remembers what it has told, and who turned out to be somebody else.
pub(super) struct Search<'a> {
    target: &'a Target<'a>,
    port: u16,
    prefix: &'static [u8],
    /// Whether a host key is known that proves a candidate.
    has_pin: bool,
    told: BTreeMap<&'static str, Sought>,
    strangers: Vec<SocketAddr>,
}

impl<'a> Search<'a> {
    pub(super) fn new(target: &'a Target<'a>, port: u16, prefix: &'static [u8], has_pin: bool) -> Self {
        Self { target, port, prefix, has_pin, told: BTreeMap::new(), strangers: Vec::new() }
    }

    /// This address belongs to somebody else.
    pub(super) fn exclude(&mut self, address: SocketAddr) {
        self.strangers.push(address);
    }

    /// Goes on until the service answers somewhere; the caller limits the time.
    pub(super) async fn next(&mut self) -> Reached {
        let ways = self.target.vm.ways();
        let mut pause = PAUSES.0;
        loop {
            for way in ways {
                if let Some(reached) = self.by(way, if ways.len() == 1 { ONLY_WAY } else { ANSWER }).await {
                    return reached;
                }
            }
            clock::sleep(pause).await;
            pause = (pause * 2).min(PAUSES.1);
        }
    }

    async fn by(&mut self, way: &Way, limit: Duration) -> Option<Reached> {
        let start = clock::now();
        let mut sought = Sought { way: way.name, found: Vec::new(), ok: false, why: String::new(), took_ms: 0 };
        let mut leads = match self.target.vm.seek(way, self.port).await {
            Ok(leads) => leads,
            Err(fault) => {
                sought.why = fault.to_string();
                Vec::new()
            }
        };
        sought.found = leads.iter().map(|lead| lead.address).collect();
        // A guest may list addresses that lead to this very host, such as those of a container bridge.
        leads.retain(|lead| !self.strangers.contains(&lead.address) && !net::is_own(lead.address.ip()));
        if !self.has_pin && leads.iter().any(|lead| !lead.proven) {
            leads.retain(|lead| lead.proven);
            sought.why =
                format!("nothing proves that this is the machine; set `guests.{}.ssh.host_key`", self.target.guest.id);
        }
        let (reached, why) = self.first_to_speak(&leads, limit).await;
        sought.ok = reached.is_some();
        if sought.why.is_empty() {
            sought.why = why;
        }
        sought.took_ms = clock::ms_since(start);
        self.tell(sought);
        reached
    }

    /// Asks all of them at once.
    async fn first_to_speak(&self, leads: &[Lead], limit: Duration) -> (Option<Reached>, String) {
        let only = leads.len() == 1;
        let mut tries = JoinSet::new();
        let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
        for lead in leads.iter().copied() {
            let (prefix, tell) = (self.prefix, tell.clone());
            tries.spawn(async move {
                let why = |why: &net::Silent| drop(tell.send((lead.address, why.to_string())));
                let stream = net::until_spoken(lead.address, prefix, why).await;
                Reached { stream, address: lead.address, only: only && lead.proven }
            });
        }
        drop(tell);
        let mut reasons = BTreeMap::new();
        let spoken = clock::within(limit, async {
            loop {
                tokio::select! {
                    reached = tries.join_next() => return reached.and_then(Result::ok),
                    Some((address, why)) = told.recv() => {
                        (self.target.progress)(Step::Waiting(why.clone()));
                        reasons.insert(address, why);
                    }
                }
            }
        });
        let reached = spoken.await.flatten();
        let why = match (&reached, leads.is_empty()) {
            (Some(_), _) => String::new(),
            (None, true) => "nothing was found".to_owned(),
            (None, false) if reasons.is_empty() => "no answer".to_owned(),
            (None, false) => {
                reasons.iter().map(|(address, why)| format!("{address}: {why}")).collect::<Vec<_>>().join("; ")
            }
        };
        (reached, why)
    }

    /// Tells what is new: a machine that boots is looked for many times.
    fn tell(&mut self, sought: Sought) {
        let same = |old: &Sought| old.found == sought.found && old.ok == sought.ok && old.why == sought.why;
        if !self.told.get(sought.way).is_some_and(same) {
            (self.target.progress)(Step::Sought(sought.clone()));
            self.told.insert(sought.way, sought);
        }
    }
}
