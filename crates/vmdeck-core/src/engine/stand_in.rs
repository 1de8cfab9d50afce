//! What the engine and the stand-ins of a host program know of each other: who they are, and where they are served.
//!
//! They are served in `cases/relay.rs`; the stand-ins themselves belong to the program.

/// The programs that have a stand-in.
pub const NAMES: [&str; 4] = ["ssh", "scp", "sshpass", "wget"];
/// The hidden subcommand of the vmdeck binary that is one of them; its first argument is the name.
pub const COMMAND: &str = "__stand-in";
/// The variable with the socket at which a stand-in is served.
pub const SOCKET: &str = "VMDECK_RELAY";
/// The variable with the folder of the stand-ins.
pub const FOLDER: &str = "VMDECK_STAND_INS";
