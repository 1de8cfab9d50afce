//! Why a request to WinRM had no good answer, and what that means for whoever asked.

use super::ntlm::NtlmError;
use vmdeck_model::error::Fault;

/// The fault codes of WS-Management that have a meaning here (MS-WSMV, and what Windows answers).
pub(super) mod code {
    /// Nothing happened within the operation timeout; the next request goes on.
    pub(in super::super) const TIMED_OUT: u32 = 2_150_858_793;
    /// There is no such shell or command (any more).
    pub(in super::super) const NOT_FOUND: u32 = 2_150_858_843;
    /// The user may not.
    pub(in super::super) const ACCESS_DENIED: u32 = 5;
    /// The user has as many shells as are allowed.
    pub(in super::super) const SHELL_QUOTA: u32 = 2_150_859_173;
    /// The user has as many commands at once as are allowed.
    pub(in super::super) const OPERATION_QUOTA: u32 = 2_150_859_174;
    /// The pipe to the command is closed: it does not read any more.
    pub(in super::super) const PIPE_CLOSED: u32 = 2_150_859_064;
}

/// Why a request had no good answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum WinrmError {
    /// The connection cannot be made, or broke.
    #[error("{0}")]
    Lost(String),
    /// The user or the password is wrong.
    #[error("the guest refused the user or the password")]
    Refused,
    /// The server takes none of the ways to log on that are set.
    #[error("the guest's WinRM does not offer `{wanted}`; it offers: {offered}")]
    NotOffered {
        /// What is wanted.
        wanted: &'static str,
        /// What the server said.
        offered: String,
    },
    /// The logon of the connection has ended before the request was looked at.
    #[error("the logon has ended")]
    LogonEnded,
    /// The server wants less in one message.
    #[error("a message was too large for the guest's WinRM")]
    TooLarge,
    /// The service is there and cannot serve now.
    #[error("the guest's WinRM answers with HTTP status {0}")]
    Status(u16),
    /// The service knows the request, and says no.
    #[error("the guest's WinRM says: {text} (code {code})")]
    Service {
        /// WS-Management's own code.
        code: u32,
        /// Its words.
        text: String,
    },
    /// The answer is not what the protocol allows.
    #[error("the guest's WinRM answers with nonsense: {0}")]
    Nonsense(String),
    /// Its certificate is not the expected one, or nobody vouches for it.
    #[error("{0}")]
    Certificate(String),
    /// There was no answer in time.
    #[error("no answer within {0} s")]
    Late(u64),
}

impl From<NtlmError> for WinrmError {
    fn from(error: NtlmError) -> Self {
        WinrmError::Nonsense(error.to_string())
    }
}

impl WinrmError {
    /// Returns whether it is a fault of this code.
    pub(super) fn is(&self, wanted: u32) -> bool {
        matches!(self, WinrmError::Service { code, .. } if *code == wanted)
    }

    /// Returns the fault of a command that cannot go on.
    pub(super) fn lost(&self) -> Fault {
        let fault = Fault::infra("cannot finish the command").because(self);
        match self.remedy() {
            Some(hint) => fault.hint(hint),
            None => fault.hint("the guest may have rebooted, run out of memory, or lost its network"),
        }
    }

    /// Returns what to do about it, where that is known.
    pub(super) fn remedy(&self) -> Option<&'static str> {
        let WinrmError::Service { code, .. } = self else { return None };
        Some(match *code {
            code::SHELL_QUOTA => {
                "end other sessions, or allow more in the guest: `winrm set winrm/config/winrs @{MaxShellsPerUser=\"100\"}`"
            }
            code::OPERATION_QUOTA => "run fewer commands at once",
            code::ACCESS_DENIED => {
                "the user must be in the guest's group `Administrators` or `Remote Management Users`; a local administrator other than the built-in one needs LocalAccountTokenFilterPolicy = 1"
            }
            _ => return None,
        })
    }
}
