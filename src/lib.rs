//! The vmdeck program: its command line and its composition root.
//!
//! What a run is lives in `vmdeck-model`, how it is carried out in `vmdeck-core`, how it is shown in `vmdeck-tui`. This
//! package knows all three and puts them together; none of them knows it.

pub mod app;
pub mod cli;
