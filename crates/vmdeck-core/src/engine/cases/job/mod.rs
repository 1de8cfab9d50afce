//! One job: its cases, run in one machine after the other, or in several at once.

mod beside;
mod job_run;
mod lanes;
mod suites;

use super::members::Member;
use crate::engine::{context::RunContext, machine::Permits};
use job_run::JobRun;
use lanes::Lanes;
pub(in crate::engine) use lanes::{machines_at_once, wanted_machines};
use std::sync::Arc;
use vmdeck_model::job::Job;

/// Runs everything of one job; the permits are for as many machines as it needs at least.
pub(in crate::engine) async fn run(context: Arc<RunContext>, job: Job, permits: Permits) {
    let network = job.suites.first().map(|suite| suite.network).unwrap_or_default();
    let lanes = Lanes::of(&context, &job);
    let mut run = JobRun::new(&context, Member::all(&job), job.suites, Arc::new(permits));
    run.network = network;
    run.fill_queue();
    match lanes {
        Some(lanes) => lanes.run(run).await,
        None => run.run().await,
    }
}
