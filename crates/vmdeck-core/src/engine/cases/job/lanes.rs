//! Several machines of one guest that run its cases at once: each case in a machine of its own, as with one after the other.
//!
//! The first machine is made alone, until its case begins: it leaves the snapshots that the others go on from. A case that needs another
//! waits until that has ended.

use super::job_run::{JobRun, QueuedCase, SuiteRound};
use crate::engine::{cases::members::Member, context::RunContext, machine::Permits};
use futures_util::future::join_all;
use parking_lot::Mutex;
use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};
use tokio::sync::{Notify, watch};
use vmdeck_model::{
    error::Blame,
    event::EventKind,
    guest::{Fresh, Guest},
    ids::CaseId,
    job::Job,
    outcome::Verdict,
    plan::{Keep, Plan, RunPurpose},
    quantity::show_count,
    select::word_of_case,
    suite::{Case, Suite},
};

/// Returns how many machines of a guest are wanted; with `auto`, each of them is to be as fast as one alone. Whether the host has memory for
/// all of them is found out when each is started.
pub(in crate::engine) fn wanted_machines(guest: &Guest) -> usize {
    let processors = std::thread::available_parallelism().map_or(1, usize::from) / (guest.cpus.max(1) as usize);
    guest.workers.up_to(processors)
}

/// The machines that run the cases of one guest.
pub(super) struct Lanes {
    /// The guest as each of its machines is called; the first one has its own name.
    machines: Vec<Arc<Guest>>,
}

/// What the lanes share.
struct LaneQueue<'a, 'c> {
    job: Mutex<&'a mut JobRun<'c>>,
    /// The cases that are being run.
    running: Mutex<Vec<(SuiteRound, CaseId)>>,
    /// How long each case usually takes, in milliseconds, by its place; empty where nothing is known.
    usual: HashMap<(usize, usize), u64>,
    /// Told each time that a case has ended, and when the last one has begun.
    changed: Notify,
    /// Whether the first machine is as far as that its case begins, or has come to nothing.
    is_ready: watch::Sender<bool>,
}

/// What a lane does next.
enum NextCase {
    Run(QueuedCase),
    /// A case that is being run comes first.
    Wait,
    Done,
}

/// Returns the machines that a job has at once, each as a guest of its own name, and why they are fewer than the config wants.
pub(in crate::engine) fn machines_at_once(plan: &Plan, job: &Job) -> (Vec<Guest>, Option<String>) {
    let (guest, options) = (job.guest(), &plan.options);
    let alone = |why: Option<String>| (vec![guest.clone()], why);
    let wanted = wanted_machines(guest).min(job.cases_in(&guest.id).count() * options.repeat as usize);
    if wanted < 2 || options.purpose != RunPurpose::Cases {
        return alone(None);
    }
    let goes_on = job.suites.iter().any(|suite| suite.cases.iter().any(|case| case.background.is_some()));
    let reasons = [
        (guest.fresh != Fresh::Case, "its cases share machines; `fresh = \"case\"` gives each its own"),
        (job.guests().count() > 1, "its suite has several guests"),
        (options.keep != Keep::Never, "machines may be kept"),
        (goes_on, "one of its cases goes on beside the others"),
    ];
    if let Some((_, why)) = reasons.into_iter().find(|(holds, _)| *holds) {
        return alone(Some(why.to_owned()));
    }
    let slots = plan.host.slots as usize;
    let further = (2..=wanted.min(slots)).filter_map(|number| guest.one_more(number));
    let machines: Vec<Guest> = std::iter::once(guest.clone()).chain(further).collect();
    let why = (machines.len() < wanted).then(|| format!("`host.slots` is {slots}"));
    (machines, why)
}

impl Lanes {
    /// Returns the lanes of a job; `None` = it has one machine at a time. Where the config wants several and it cannot be, that is said.
    pub(super) fn of(context: &RunContext, job: &Job) -> Option<Self> {
        let (machines, why) = machines_at_once(&context.plan, job);
        if let Some(why) = why {
            let (id, count) = (&job.guest().id, show_count(machines.len(), "machine"));
            context.events.warn(Some(id), format!("guest `{id}` has {count} at once: {why}"), None);
        }
        let machines: Vec<Arc<Guest>> = machines.into_iter().map(Arc::new).collect();
        (machines.len() > 1).then_some(Self { machines })
    }

    /// Runs the cases of a job whose queue is filled.
    pub(super) async fn run(self, mut job: JobRun<'_>) {
        let context = job.context;
        let guest = Arc::clone(&job.members[0].guest);
        let text = format!("guest `{}`: {} machines run its cases at once", guest.id, self.machines.len());
        context.events.send(EventKind::Progress { guest: Some(guest.id.clone()), text });
        let queue = LaneQueue {
            usual: job.usual_times(),
            job: Mutex::new(&mut job),
            running: Mutex::default(),
            changed: Notify::new(),
            is_ready: watch::channel(false).0,
        };
        let lanes = self.machines.iter().enumerate().map(|(at, machine)| {
            let queue = &queue;
            async move {
                if at == 0 {
                    return queue.serve(machine, None).await;
                }
                // The sender is there as long as the queue.
                let _ = queue.is_ready.subscribe().wait_for(|ready| *ready).await;
                if let Some(permits) = queue.permit(context, machine).await {
                    queue.serve(machine, Some(permits)).await;
                }
            }
        });
        join_all(lanes).await;
        let job = queue.job.into_inner();
        if !job.queue.is_empty() {
            job.give_up(Verdict::Cancelled, context.stop_reason());
        }
    }
}

impl JobRun<'_> {
    /// Returns how long each case usually takes, in milliseconds, by its place.
    fn usual_times(&self) -> HashMap<(usize, usize), u64> {
        let (guest, known) = (&self.members[0].guest.id, &self.context.plan.usual_ms);
        let mut out = HashMap::new();
        for (at, suite) in self.suites.iter().enumerate() {
            for (number, case) in suite.cases.iter().enumerate() {
                let usual = known.get(&word_of_case(&suite.id, &case.id, guest));
                out.extend(usual.map(|usual| ((at, number), *usual)));
            }
        }
        out
    }

    /// Reports the cases of which one that they need did not pass.
    fn report_lacking(&mut self) {
        let mut at = 0;
        while let Some(queued) = self.queue.get(at).copied() {
            let Some(why) = self.lacks(queued) else {
                at += 1;
                continue;
            };
            self.queue.remove(at);
            self.note(queued, Verdict::Skipped);
            self.report_unrun(queued, Verdict::Skipped, &why);
        }
    }
}

impl LaneQueue<'_, '_> {
    /// Waits for a permit and for the memory of one more machine; `None` = nothing is left to do for it, or there is no memory for it.
    async fn permit(&self, context: &RunContext, machine: &Guest) -> Option<Arc<Permits>> {
        let admitted = async {
            let permits = Permits::acquire(&context.permits, 1).await?;
            match permits.reserve(&context.admission, &[machine], &context.cancel).await {
                Ok(()) => Some(Arc::new(permits)),
                Err(fault) => {
                    // The others go on.
                    if fault.blame() != Blame::Cancelled {
                        context.events.warn(Some(&machine.id), fault.to_string(), fault.remedy().map(str::to_owned));
                    }
                    None
                }
            }
        };
        tokio::pin!(admitted);
        loop {
            let changed = self.changed.notified();
            if self.job.lock().queue.is_empty() {
                return None;
            }
            tokio::select! {
                permits = &mut admitted => return permits,
                () = changed => {}
            }
        }
    }

    /// Runs one case after the other, each in a machine of this name.
    async fn serve(&self, machine: &Arc<Guest>, permits: Option<Arc<Permits>>) {
        loop {
            let changed = self.changed.notified();
            match self.next() {
                NextCase::Run(queued) => self.run_one(queued, machine, permits.as_ref()).await,
                NextCase::Wait => changed.await,
                NextCase::Done => break,
            }
        }
        self.is_ready.send_replace(true);
    }

    /// Takes a case that can be run now, of several the one that takes longest; those of which one that they need did not pass are reported.
    fn next(&self) -> NextCase {
        let mut job = self.job.lock();
        if job.context.is_stopped(&job.members[0].guest) {
            return NextCase::Done;
        }
        job.report_lacking();
        let mut running = self.running.lock();
        let mut best: Option<(usize, u64)> = None;
        for (at, queued) in job.queue.iter().enumerate() {
            let needs = &job.case_of(*queued).0.needs;
            let is_needed = |round: SuiteRound, id: &CaseId| {
                round == queued.of && needs.iter().any(|need| need == id || id.parent().as_ref() == Some(need))
            };
            let comes_before = |other: &QueuedCase| is_needed(other.of, &job.case_of(*other).0.id);
            let is_busy = || running.iter().any(|(round, id)| is_needed(*round, id));
            // The queue may be long, and few cases need others.
            if !needs.is_empty() && (is_busy() || job.queue.range(..at).any(comes_before)) {
                continue;
            }
            let usual = self.usual.get(&(queued.of.suite, queued.case)).copied().unwrap_or(u64::MAX);
            if best.is_none_or(|(_, longest)| usual > longest) {
                best = Some((at, usual));
            }
            if self.usual.is_empty() {
                break;
            }
        }
        let Some(queued) = best.and_then(|(at, _)| job.queue.remove(at)) else {
            return if job.queue.is_empty() { NextCase::Done } else { NextCase::Wait };
        };
        running.push((queued.of, job.case_of(queued).0.id.clone()));
        if job.queue.is_empty() {
            self.changed.notify_waiters();
        }
        NextCase::Run(queued)
    }

    /// Runs a case as a job of its own, from its machine to the proof that this is gone.
    async fn run_one(&self, queued: QueuedCase, machine: &Arc<Guest>, permits: Option<&Arc<Permits>>) {
        let (mut one, id) = {
            let job = self.job.lock();
            let (case, suite) = job.case_of(queued);
            // What it needs has ended, and well.
            let case = Case { needs: Vec::new(), ..case.clone() };
            let id = case.id.clone();
            let suite = Suite { cases: vec![case], ..suite.clone() };
            let member = Member::with_machine(&job.members[0].guest, machine);
            let permits = permits.unwrap_or(&job.permits);
            (JobRun::new(job.context, vec![member], vec![suite], Arc::clone(permits)), id)
        };
        let of = SuiteRound { suite: 0, round: queued.of.round };
        one.queue = VecDeque::from([QueuedCase { of, case: 0 }]);
        one.is_ready = Some(self.is_ready.clone());
        Box::pin(one.run()).await;
        self.is_ready.send_replace(true);
        let mut job = self.job.lock();
        job.has_failed |= one.has_failed;
        for ((_, id), verdict) in one.not_passed {
            job.not_passed.insert((queued.of, id), verdict);
        }
        let is_it = |(round, case): &(SuiteRound, CaseId)| *round == queued.of && *case == id;
        self.running.lock().retain(|running| !is_it(running));
        drop(job);
        self.changed.notify_waiters();
    }
}
