//! What a backend can do, as data: one constant for each backend, everything that it lacks from [`Capabilities::NONE`].
//!
//! A missing power is a value here, or a `None` of the backend; it is never an error at the time of use.

/// What a backend can do.
#[expect(clippy::struct_excessive_bools, reason = "independent facts, not states")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// Whether guests are isolated from this host.
    pub isolated: bool,
    /// How a service in a guest can be reached from this host.
    pub network: Reach,
    /// Whether commands can be run in guests without a network.
    pub guest_exec: bool,
    /// What kind of serial console there is.
    pub console: ConsoleKind,
    /// Whether machines that others made are seen, and can be adopted.
    pub adopts: bool,
    /// Whether a new machine gets the processors and the memory that the guest asks for.
    pub sized: bool,
    /// Whether machines take their memory of this host; else whoever has them says whether there is room.
    pub runs_here: bool,
    /// Whether a new machine can be kept off the network.
    pub restricts_network: bool,
    /// Whether a new machine can be plugged into a switch of this host, beside its usual network.
    pub joins_switch: bool,
    /// Whether a new machine gets the UUID of the request; else the provider chooses, if it has such ids at all.
    pub takes_uuid: bool,
}

impl Capabilities {
    /// A backend that can do nothing.
    pub const NONE: Self = Self {
        isolated: false,
        network: Reach::None,
        guest_exec: false,
        console: ConsoleKind::None,
        adopts: false,
        sized: false,
        runs_here: false,
        restricts_network: false,
        joins_switch: false,
        takes_uuid: false,
    };
}

/// How a service in a guest can be reached from this host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// The service cannot be reached over a network.
    None,
    /// The service is reached by forwarded ports of this host; a request names the services whose ports are needed.
    ForwardedPorts,
    /// The service is reached at an address of the guest's own.
    Routed,
}

/// What kind of serial console there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ConsoleKind {
    /// There is no console.
    None,
    /// There is a log of what the provider does, without output of the guest's kernel.
    Progress,
    /// There is a log of what the guest writes once its first process runs; firmware and kernel say nothing on it.
    Userspace,
    /// There is a log of what the guest writes, from power-on.
    Log,
    /// There is such a log, and a person can type into the console.
    Interactive,
}

impl ConsoleKind {
    /// Returns whether the phases of a boot can be seen on the console.
    pub fn shows_boot(self) -> bool {
        self >= ConsoleKind::Userspace
    }

    /// Returns whether a boot begins on the console with its firmware.
    pub fn shows_firmware(self) -> bool {
        self >= ConsoleKind::Log
    }
}
