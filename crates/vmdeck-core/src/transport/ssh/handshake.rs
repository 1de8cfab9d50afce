//! The key exchange with an SSH server, over whatever carries it: the host key is compared, and nothing is sent yet.
//!
//! Logging in is `auth`'s work.

use super::hostkey::{Checker, Refused};
use crate::{host::clock, transport::contract::ConnectError};
use russh::client;
use std::{borrow::Cow, sync::Arc, time::Duration};
use tokio::io::{AsyncRead, AsyncWrite};
use vmdeck_model::{error::Fault, key::Options};

/// How long the key exchange may take once the banner was seen; emulated guests are slow.
pub(super) const HANDSHAKE: Duration = Duration::from_secs(30);
/// Pause after a key exchange that broke off: the service restarts during the boot.
pub(super) const RESTART_PAUSE: Duration = Duration::from_millis(200);

/// The kinds of compression, the one first that begins only after the login: what was not let in has nothing unpacked.
const COMPRESSED: [russh::compression::Name; 3] =
    [russh::compression::ZLIB_LEGACY, russh::compression::ZLIB, russh::compression::NONE];

/// A connection to the guest's server, whatever carries it.
pub(super) trait Carried: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Carried for T {}

/// Exchanges keys with a server; its own key must be one that the checker takes.
pub(super) async fn handshake(
    stream: Box<dyn Carried>,
    checker: &Checker,
    wishes: LinkWishes,
) -> Result<client::Handle<Checker>, ConnectError> {
    let config = client::Config {
        nodelay: true,
        keepalive_interval: Some(wishes.keep_alive).filter(|time| !time.is_zero()),
        keepalive_max: 3,
        preferred: preferred(checker, wishes.compression),
        ..client::Config::default()
    };
    match clock::within(HANDSHAKE, client::connect_stream(Arc::new(config), stream, checker.clone())).await {
        None => Err(again(format!("no key exchange within {} s", HANDSHAKE.as_secs()))),
        Some(Ok(handle)) => Ok(handle),
        Some(Err(error)) => Err(match checker.refusal() {
            Some(Refused { expected, shown, .. }) => ConnectError::WrongMachine(
                Fault::infra("cannot trust the guest's host key")
                    .because(format!("it shows {shown}, expected {expected}"))
                    .hint("no credential was sent; another machine may have this address, or `ssh.host_key` is wrong")
                    .permanent(),
            ),
            None => again(error.to_string()),
        }),
    }
}

/// Returns the order of algorithms: a cipher that hardware helps with first, and the pinned keys' kinds first.
fn preferred(checker: &Checker, compression: bool) -> russh::Preferred {
    let mut preferred = russh::Preferred {
        cipher: Cow::Borrowed(&[
            russh::cipher::AES_256_GCM,
            russh::cipher::CHACHA20_POLY1305,
            russh::cipher::AES_256_CTR,
            russh::cipher::AES_192_CTR,
            russh::cipher::AES_128_CTR,
        ]),
        compression: Cow::Borrowed(if compression { &COMPRESSED } else { &[russh::compression::NONE] }),
        ..russh::Preferred::default()
    };
    let mut order = preferred.key.to_vec();
    order.sort_by_key(|kind| !checker.expects(kind));
    if checker.strict {
        order.retain(|kind| checker.expects(kind));
    }
    preferred.key = Cow::Owned(order);
    preferred
}

/// Returns that another attempt may help, soon.
pub(super) fn again(reason: String) -> ConnectError {
    ConnectError::NotYet { reason, pause: RESTART_PAUSE }
}

/// What a connection is to be like.
#[derive(Clone, Copy, Debug)]
pub(super) struct LinkWishes {
    /// How long the server may be silent; zero = for ever.
    keep_alive: Duration,
    /// Whether what is sent is made smaller, where the server can read that.
    compression: bool,
}

impl LinkWishes {
    /// Reads the keys of a guest's table.
    pub(super) fn of(options: &Options) -> Self {
        let keep_alive = options.duration("keep_alive").unwrap_or_default();
        Self { keep_alive, compression: options.flag("compression") }
    }
}
