//! How many machines of one guest run its cases at once.

/// How many machines of a guest run its cases at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Workers {
    /// So many, if the host has room for them.
    Count(u32),
    /// As many as the host has processors for.
    Auto,
}

impl Workers {
    /// Returns how many there may be at most, where the host has room for `room`.
    pub fn up_to(self, room: usize) -> usize {
        match self {
            Workers::Count(count) => count as usize,
            Workers::Auto => room.max(1),
        }
    }
}
