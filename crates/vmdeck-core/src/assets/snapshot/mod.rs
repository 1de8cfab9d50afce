//! Snapshots of machines: each a folder with what a machine needs to go on from where another one was.
//!
//! What a backend writes into such a folder is its own business; here it is kept, proven whole, and removed again.

mod draft;
mod facts;
pub mod sparse;
pub mod store;

pub use draft::SnapshotDraft;
pub use facts::SnapshotFacts;
