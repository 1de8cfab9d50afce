//! Fakes, worlds and stand-ins that vmdeck's tests and benchmarks share. Not published.
//!
//! - [`world`]: a place of its own for each test, and the real binary run in it.
//! - [`micro`]: the micro guest as a config. [`sshd`]: OpenSSH's own server, also with other logins.
//! - [`winrm`]: a WinRM server with real NTLM.
//! - [`lxd`]: a cluster of LXD. [`desktop`]: stand-ins for `multipass` and `utmctl`.
//! - [`cockpit`]: what the cockpit needs, faked. [`picture`]: a screen as a picture.

#![expect(
    clippy::disallowed_methods,
    clippy::missing_panics_doc,
    clippy::return_self_not_must_use,
    reason = "helpers of tests act from outside, and panic where a test has failed"
)]

pub mod cockpit;
pub mod desktop;
pub mod kernel;
pub mod lxd;
pub mod micro;
pub mod picture;
pub mod sshd;
pub mod winrm;
pub mod world;
