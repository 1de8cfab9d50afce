//! The demand for machines: asks for one per job, runs the selected cases in it, and judges them.
//!
//! How a machine comes up and goes is `machine`'s business.

mod around;
mod attempt;
mod background;
mod boot_id;
mod capped_log;
mod case;
mod case_artifacts;
mod case_folders;
mod case_run;
mod code;
mod command_log;
mod coverage;
mod discover;
mod floor;
mod host_program;
mod job;
mod judge;
mod line_match;
mod manual;
mod member_folders;
mod members;
mod peers;
mod reboot;
mod relay;
mod requirements;
mod result_files;
mod script_failure;
mod setup_inputs;
mod setup_key;
mod steps;
mod subtests;
mod suite;
mod supervise;
mod wish;

pub(super) use job::{machines_at_once, run, wanted_machines};
