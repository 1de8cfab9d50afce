//! The `serial` transport: our agent in the guest, over a virtio-serial port. No network, no login, no key.
//!
//! The messages and the agent are in the crate `vmdeck-guest`.

mod link;
mod session;
#[cfg(test)]
mod tests;

use super::contract::{ConnectError, ConnectTarget, Connector, Endpoint, Needs, Transport, Unusable};
use super::session::Session;
use crate::backend::capabilities::Capabilities;
use futures_util::future::BoxFuture;
use link::Link;
use session::SerialSession;

pub(super) use session::KIND;
use std::time::Duration;
use vmdeck_guest::wire::User;
use vmdeck_model::{
    error::{Fault, Result},
    guest::Guest,
    image::Image,
    key::{Key, Kind},
};

/// Pause before another attempt, where the port is not there.
const PAUSE: Duration = Duration::from_millis(100);

/// The config keys of the transport.
pub(super) const KEYS: &[Key] = &[Key {
    path: "guests.*.serial.user",
    kind: Kind::Text,
    default: None,
    doc: "user of the guest that runs the commands; default: the user who runs vmdeck, by number",
}];

/// The `serial` transport.
pub(super) struct Serial;

impl Transport for Serial {
    fn usable(&self, guest: &Guest, _: &Capabilities) -> Result<(), Unusable> {
        if guest.image == Some(Image::Host) {
            return Ok(());
        }
        Err(Unusable::NotSupported("only a guest with `image = \"host\"` has vmdeck's agent".into()))
    }

    fn needs(&self, _: &Guest) -> Needs {
        Needs::AgentPort
    }

    fn has_terminal(&self) -> bool {
        true
    }

    fn connector<'a>(&'a self, target: &'a ConnectTarget<'a>) -> Result<Box<dyn Connector + 'a>> {
        Ok(Box::new(Greeter { user: user_of(target.guest) }))
    }
}

/// Returns who runs the commands of a guest.
fn user_of(guest: &Guest) -> User {
    let named = guest.transport_options.get(KIND).and_then(|options| options.text("user"));
    match named {
        Some("root") => User::Root,
        Some(name) => User::Named(name.to_owned()),
        None => User::Numbered {
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
            groups: rustix::process::getgroups()
                .unwrap_or_default()
                .into_iter()
                .map(rustix::process::Gid::as_raw)
                .collect(),
            home: std::env::var("HOME").unwrap_or_else(|_| "/".to_owned()),
        },
    }
}

/// Greets the agent, which answers as soon as it is there.
struct Greeter {
    user: User,
}

impl Connector for Greeter {
    fn proves_identity(&self) -> bool {
        true
    }

    fn connect(&mut self, endpoint: Endpoint) -> BoxFuture<'_, Result<Box<dyn Session>, ConnectError>> {
        Box::pin(async move {
            let Endpoint::AgentPort(socket) = endpoint else {
                return Err(Fault::bug("the transport `serial` got a connection").into());
            };
            match Link::open(&socket).await {
                Ok(link) => Ok(Box::new(SerialSession::new(link, self.user.clone())) as Box<dyn Session>),
                Err(e) => Err(ConnectError::NotYet { reason: format!("the serial port: {e}"), pause: PAUSE }),
            }
        })
    }
}
