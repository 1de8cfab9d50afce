//! A connection to a daemon, encrypted or not.

use tokio::io::{AsyncRead, AsyncWrite};

/// A connection to a daemon.
pub(super) trait Wire: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Wire for T {}
