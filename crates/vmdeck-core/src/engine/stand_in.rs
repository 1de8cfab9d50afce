//! What the engine and the stand-ins of a host program know of each other: who they are, and where they are served.
//!
//! They are served in `cases/relay.rs`; the stand-ins themselves belong to the program.

use serde::{Deserialize, Serialize};

/// What a stand-in asks for: a line of JSON at the beginning of its connection. After it come the messages of
/// `vmdeck_guest::wire`: input there, output and the end here.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StandInRequest {
    /// What is run, as a text of a POSIX shell.
    pub script: String,
    /// The command as its caller wrote it.
    pub command: String,
    /// Whether what is read is a file that is copied, and no commands.
    pub copies: bool,
}

/// The programs that have a stand-in.
pub const NAMES: [&str; 4] = ["ssh", "scp", "sshpass", "wget"];
/// The hidden subcommand of the vmdeck binary that is one of them; its first argument is the name.
pub const COMMAND: &str = "__stand-in";
/// The variable with the socket at which a stand-in is served.
pub const SOCKET: &str = "VMDECK_RELAY";
/// The variable with the folder of the stand-ins.
pub const FOLDER: &str = "VMDECK_STAND_INS";
/// The variable with the port at which the guest is reached.
pub const PORT: &str = "VMDECK_GUEST_PORT";
/// The status of `ssh` for a connection that was lost.
pub const LOST: i32 = 255;
/// The status of a stand-in that fails for another reason, and of a command whose own status is [`LOST`]: scripts of the framework
/// take a lost connection for a pass.
pub const FAILED: u8 = 254;
