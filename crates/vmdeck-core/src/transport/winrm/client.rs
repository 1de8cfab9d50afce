//! Messages to one WinRM service over a few connections: each carries one message at a time, and an idle one is used again.
//!
//! A message that is given up midway costs its connection. What the messages say is `soap`'s matter.

use super::{
    connection::{WinrmConnection, WinrmTarget},
    error::{WinrmError, code},
    soap::{self, OutputPiece, ShellMessage},
};
use crate::host::{clock, random};
use parking_lot::Mutex;
use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

/// How long a connection may be idle and still be used: Windows closes those that are idle for two minutes, and what is sent then
/// is lost.
const IDLE: Duration = Duration::from_secs(20);
/// How much longer than its operation timeout an answer may take; emulated guests are slow.
const GRACE: Duration = Duration::from_secs(30);

/// Sends messages to one service.
pub(super) struct WinrmClient {
    target: WinrmTarget,
    /// The service's address as the messages name it.
    url: String,
    /// How long the service waits for something to happen before it answers that nothing has.
    operation_timeout: Duration,
    idle: Mutex<Vec<WinrmConnection>>,
    /// Whether some logon has ended by itself.
    logon_ended: AtomicBool,
}

impl WinrmClient {
    /// Returns a client that has no connection yet.
    pub(super) fn new(target: WinrmTarget, operation_timeout: Duration) -> Self {
        let url = target.url();
        Self { target, url, operation_timeout, idle: Mutex::default(), logon_ended: AtomicBool::new(false) }
    }

    /// Logs on, without saying anything else.
    pub(super) async fn log_on(&self) -> Result<(), WinrmError> {
        let connection = Box::pin(WinrmConnection::open(&self.target)).await?;
        self.idle.lock().push(connection);
        Ok(())
    }

    /// Returns whether a logon has ended by itself, so that a message was sent twice: over plain HTTP, anybody between may have
    /// wanted that.
    pub(super) fn has_sent_twice(&self) -> bool {
        self.logon_ended.load(Ordering::Relaxed)
    }

    /// Makes a shell; returns its id.
    pub(super) async fn create(&self) -> Result<String, WinrmError> {
        soap::shell_id(&self.call(None, &ShellMessage::Create).await?)
    }

    /// Starts a command line; returns its id.
    pub(super) async fn command(&self, shell: &str, line: &str) -> Result<String, WinrmError> {
        soap::command_id(&self.call(Some(shell), &ShellMessage::Command(line)).await?)
    }

    /// Waits for output of a command; an empty piece means that there was none within the operation timeout.
    pub(super) async fn receive(&self, shell: &str, command: &str) -> Result<OutputPiece, WinrmError> {
        match self.call(Some(shell), &ShellMessage::Receive(command)).await {
            Err(error) if error.is(code::TIMED_OUT) => Ok(OutputPiece::default()),
            answer => soap::piece(&answer?),
        }
    }

    /// Sends another message of a shell.
    pub(super) async fn tell(&self, shell: &str, message: &ShellMessage<'_>) -> Result<(), WinrmError> {
        self.call(Some(shell), message).await.map(drop)
    }

    async fn call(&self, shell: Option<&str>, message: &ShellMessage<'_>) -> Result<String, WinrmError> {
        let xml = message.text(&self.url, shell, &random::uuid(), self.operation_timeout);
        let limit = self.operation_timeout + GRACE;
        let late = || WinrmError::Late(limit.as_secs());
        let (status, text) = clock::within(limit, self.exchange(&xml)).await.unwrap_or_else(|| Err(late()))?;
        // The status is nobody's word; what is sealed is the service's own.
        if status == 200 && !soap::is_fault(&text) { Ok(text) } else { Err(soap::fault(&text)) }
    }

    async fn exchange(&self, xml: &str) -> Result<(u16, String), WinrmError> {
        let mut connection = match self.take() {
            Some(connection) => connection,
            None => Box::pin(WinrmConnection::open(&self.target)).await?,
        };
        let answer = match connection.exchange(xml).await {
            // The service has not looked at the message.
            Err(WinrmError::LogonEnded) => {
                self.logon_ended.store(true, Ordering::Relaxed);
                connection = Box::pin(WinrmConnection::open(&self.target)).await?;
                connection.exchange(xml).await?
            }
            answer => answer?,
        };
        self.idle.lock().push(connection);
        Ok(answer)
    }

    fn take(&self) -> Option<WinrmConnection> {
        let mut idle = self.idle.lock();
        idle.retain(|connection| connection.is_usable(IDLE));
        idle.pop()
    }
}
