//! The ways into a guest, as preflight tells them: which are used in which order and why others are not, and whether a machine that
//! is there already answers.

use crate::{
    backend::{BackendDeps, BackendInfo, record::PowerState},
    context::CallContext,
    host::net,
    transport::{
        TransportInfo,
        contract::{Needs, Unusable},
    },
};
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use vmdeck_model::{
    error::Result,
    event::{Finding, Severity},
    guest::Guest,
};

/// How long a machine may take to accept a connection.
const ANSWER: Duration = Duration::from_secs(3);
/// How long asking whether it is on may take.
const POWER: Duration = Duration::from_mins(2);

/// A guest's transports, each with why it cannot be used.
type Ways = [(&'static TransportInfo, Result<(), Unusable>)];

/// Returns which transports are used, where some of them are passed over.
pub(super) fn chain(guest: &Guest, ways: &Ways) -> Option<Finding> {
    let used: Vec<&str> = ways.iter().filter(|(_, usable)| usable.is_ok()).map(|(row, _)| row.kind).collect();
    let passed_over = |(row, usable): &(&TransportInfo, Result<(), Unusable>)| {
        usable.as_ref().err().map(|why| format!("`{}` is passed over: {}", row.kind, why.reason()))
    };
    let others: Vec<String> = ways.iter().filter_map(passed_over).collect();
    if used.is_empty() || others.is_empty() {
        return None;
    }
    let text = format!("guest `{}` is reached by {}; {}", guest.id, used.join(", then "), others.join("; "));
    Some(Finding { check: "transports".into(), severity: Severity::Ok, text, hint: None, fix: None })
}

/// Returns why a machine at a given address cannot be reached, by none of the transports that could be used. One that is off, and
/// that the run switches on, is not asked.
pub(super) async fn unreachable(guest: &Guest, row: &BackendInfo, deps: &BackendDeps, ways: &Ways) -> Option<Finding> {
    let address = guest.address.clone()?;
    let never = CancellationToken::new();
    let backend = (row.build)(deps);
    let found = backend.adoption()?.find(guest, CallContext::new(POWER, &never)).await;
    if !matches!(found, Ok(Some(target)) if target.was == PowerState::On) {
        // What is wrong with it is said by the backend's own check.
        return None;
    }
    let mut tried = Vec::new();
    for (row, _) in ways.iter().filter(|(_, usable)| usable.is_ok()) {
        let Needs::Service(service) = row.transport.needs(guest) else { return None };
        let host = row.transport.host(guest).unwrap_or_else(|| address.clone());
        match tokio::net::lookup_host((host.as_str(), service.port)).await {
            Ok(all) => {
                for place in all {
                    if net::accepts(place, ANSWER).await {
                        return None;
                    }
                    tried.push(format!("nothing answers at {place} (`{}`)", row.kind));
                }
            }
            Err(e) => tried.push(format!("cannot resolve `{host}`: {e}")),
        }
    }
    tried.dedup();
    (!tried.is_empty()).then(|| Finding {
        check: "reach".into(),
        severity: Severity::Fatal,
        text: format!("guest `{}` cannot be reached: {}", guest.id, tried.join("; ")),
        hint: Some("switch the machine on, or correct `address`, or the port of the transport".into()),
        fix: None,
    })
}
