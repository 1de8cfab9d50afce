//! The events of all records as one stream, in the order of time and each record's own, with what is missing told at the end.

use super::{
    lines::{EventLine, EventReader},
    source::{self, CaseName, RedAttempts, SourceRecord},
};
use crate::report::Fanout;
use chrono::{DateTime, Utc};
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};
use std::{
    cmp::Reverse,
    collections::{BTreeSet, BinaryHeap},
    fs::File,
    io::{BufWriter, Write},
    path::Path,
};
use tokio_util::sync::CancellationToken;
use vmdeck_model::{
    error::{Fault, Result},
    event::{Attempt, CaseCause, Event, EventKind, PlannedGuest},
    exit::RunExit,
    ids::{CaseId, GuestId, RunId, short_run},
    outcome::{CancelReason, Verdict},
    quantity::show_count,
    shard::{RunOrigin, RunPart},
};

/// What happened to the run of a later attempt's record is told there; of an earlier one only what it did to machines counts.
const OF_THE_RUN: [&str; 5] = ["cancel_began", "lock_lost", "coverage", "revision", "preflight_finding"];

/// Writes the events of the merged record; returns the exit code that one run would have had.
pub(super) fn write(
    sources: &[SourceRecord],
    (run, expect): (&RunId, Option<usize>),
    out: &Path,
    (fanout, stop): (&mut Fanout, &CancellationToken),
    lost: &mut Vec<String>,
) -> Result<RunExit> {
    let cannot = |e: std::io::Error| Fault::host(format!("cannot write `{}`", out.display())).because(e);
    let file = vmdeck_files::create_new(&out.join("events.jsonl")).map_err(cannot)?;
    let before = sources.iter().filter(|source| source.superseded);
    let mut join = Join {
        sources,
        earlier: before.map(|source| Ok((source, source.red_attempts()?))).collect::<Result<_>>()?,
        run,
        expect,
        stop,
        shared: source::shared_guests(sources),
        whole: whole_plan(sources),
        file: BufWriter::new(file),
        fanout,
        broken: Vec::new(),
        seq: 0,
        at: DateTime::UNIX_EPOCH,
        elapsed_ms: 0,
    };
    join.start()?;
    join.events()?;
    join.missing()?;
    let exit = join.end()?;
    join.file.flush().map_err(cannot)?;
    lost.append(&mut join.broken);
    Ok(exit)
}

struct Join<'a> {
    sources: &'a [SourceRecord],
    /// The id of the merged run.
    run: &'a RunId,
    /// How many records there must be.
    expect: Option<usize>,
    stop: &'a CancellationToken,
    /// The guests that had machines in several records.
    shared: BTreeSet<GuestId>,
    /// The records whose place a later attempt takes, each with how its cases failed.
    earlier: Vec<(&'a SourceRecord, RedAttempts)>,
    /// Every case of the whole plan, in order.
    whole: Vec<CaseName>,
    file: BufWriter<File>,
    fanout: &'a mut Fanout,
    /// The reports that could not be written.
    broken: Vec<String>,
    seq: u64,
    /// The time of the last event.
    at: DateTime<Utc>,
    elapsed_ms: u64,
}

/// The record that is read, while it is merged.
struct OpenRecord<'a> {
    source: &'a SourceRecord,
    lines: EventReader,
    /// The milliseconds of the merged run at which this one began.
    offset_ms: u64,
    next: Option<EventLine>,
    /// The time of the last event, in milliseconds of the merged run: a record's own order is never changed.
    last_ms: u64,
}

/// Returns the cases of the whole plan, in the order of the plan.
fn whole_plan(sources: &[SourceRecord]) -> Vec<CaseName> {
    let mut seen = BTreeSet::new();
    let all = sources.iter().filter(|source| !source.superseded).flat_map(SourceRecord::whole);
    all.filter(|name| seen.insert(name.clone())).collect()
}

/// Returns when each record begins, in milliseconds of the merged run. Clocks of several hosts are compared for this alone, and times
/// in which none of the runs went on are left out: then a clock that is years off changes nothing but the order.
fn offsets(sources: &[SourceRecord]) -> Vec<u64> {
    let mut order: Vec<usize> = (0..sources.len()).collect();
    order.sort_by_key(|at| (sources[*at].began_ms, *at));
    let mut offsets = vec![0; sources.len()];
    let Some(first) = order.first().map(|at| sources[*at].began_ms) else { return offsets };
    let (mut idle, mut busy_until) = (0, first);
    for at in order {
        let source = &sources[at];
        idle += source.began_ms.saturating_sub(busy_until).max(0);
        offsets[at] = u64::try_from(source.began_ms.saturating_sub(first).saturating_sub(idle)).unwrap_or(0);
        let took = i64::try_from(source.view.now_ms).unwrap_or(i64::MAX);
        busy_until = busy_until.max(source.began_ms.saturating_add(took));
    }
    offsets
}

impl Join<'_> {
    fn start(&mut self) -> Result<()> {
        let sources = self.sources;
        // It begins with the last of its runs: whoever asks for the last run means it, and none of those.
        let began = sources.iter().map(|source| source.began_ms).max().unwrap_or_default();
        self.at = DateTime::from_timestamp_millis(began).unwrap_or_default();
        let own: Vec<&SourceRecord> = sources.iter().filter(|source| !source.superseded).collect();
        let guests = self.guests();
        let repeat = own.first().and_then(|source| source.part.repeat);
        let hosts: BTreeSet<&str> = own.iter().map(|source| source.host.as_str()).collect();
        let kind = EventKind::RunStarted {
            run: self.run.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            host: hosts.into_iter().collect::<Vec<_>>().join(", "),
            // Wherever the record is: it tells of no place.
            dir: String::new(),
            selection: common(&own, |source| Some(&source.view.selection)).cloned().unwrap_or_default(),
            config: common(&own, |source| source.view.config.as_ref()).cloned(),
            cases: guests.iter().map(|planned| planned.cases).sum(),
            guests,
            part: RunPart {
                plan: common(&own, |source| source.part.plan.as_ref()).cloned(),
                group: common(&own, |source| source.part.group.as_ref()).cloned(),
                repeat,
                flaky_fails: own
                    .iter()
                    .flat_map(|source| source.part.flaky_fails.clone())
                    .collect::<BTreeSet<_>>()
                    .into_iter()
                    .collect(),
                ..RunPart::default()
            },
            origins: source::runs(self.sources),
        };
        self.send(kind, None)
    }

    /// Returns the guests of the merged run: each with all its cases, then the machines that several records had for it.
    fn guests(&self) -> Vec<PlannedGuest> {
        let sources = self.sources;
        let mut order: Vec<&GuestId> = Vec::new();
        for (guest, ..) in &self.whole {
            if !order.contains(&guest) {
                order.push(guest);
            }
        }
        let mut out: Vec<PlannedGuest> = Vec::new();
        for guest in order {
            let known = sources.iter().flat_map(|source| &source.guests).find(|planned| planned.guest == *guest);
            let unknown = || PlannedGuest {
                guest: guest.clone(),
                backend: "unknown".to_owned(),
                os: "unknown".to_owned(),
                isolated: true,
                cases: 0,
                names: Vec::new(),
                one_more_of: None,
            };
            let own = self.whole.iter().filter(|(of, ..)| of == guest);
            let names: Vec<String> = own.map(|(_, suite, case)| format!("{suite}/{case}")).collect();
            let cases = names.len() * self.repeat() as usize;
            out.push(PlannedGuest { cases, names, one_more_of: None, ..known.cloned().unwrap_or_else(unknown) });
        }
        for source in sources {
            for planned in &source.guests {
                let machine = self.machine(source, &planned.guest);
                if out.iter().any(|known| known.guest == machine) {
                    continue;
                }
                let told = planned.one_more_of.clone().unwrap_or_else(|| planned.guest.clone());
                let one_more_of = Some(told).filter(|told| *told != machine);
                out.push(PlannedGuest { guest: machine, cases: 0, names: Vec::new(), one_more_of, ..planned.clone() });
            }
        }
        out
    }

    fn repeat(&self) -> u32 {
        self.sources.iter().find(|source| !source.superseded).and_then(|source| source.part.repeat).unwrap_or(1)
    }

    /// Returns the name that a machine of a record has in the merged one.
    fn machine(&self, source: &SourceRecord, machine: &GuestId) -> GuestId {
        let is_shared = self.shared.contains(source.told_as(machine));
        if is_shared { machine.of_origin(&source.origin).unwrap_or_else(|_| machine.clone()) } else { machine.clone() }
    }

    /// Passes on every event of every record, the oldest first.
    fn events(&mut self) -> Result<()> {
        let mut queue = BinaryHeap::new();
        let mut readings = Vec::new();
        for (at, (source, offset_ms)) in self.sources.iter().zip(offsets(self.sources)).enumerate() {
            let lines = EventReader::open(&source.folder)?;
            let mut reading = OpenRecord { source, lines, offset_ms, next: None, last_ms: 0 };
            if let Some(ms) = reading.advance()? {
                queue.push(Reverse((ms, at)));
            }
            readings.push(reading);
        }
        while let Some(Reverse((ms, at))) = queue.pop() {
            if self.stop.is_cancelled() {
                return Err(Fault::cancelled("cannot merge").because("it was cancelled"));
            }
            let reading = &mut readings[at];
            if let Some(line) = reading.next.take() {
                self.elapsed_ms = self.elapsed_ms.max(ms);
                self.pass_on(reading.source, line, &reading.lines)?;
            }
            match reading.advance()? {
                Some(ms) => queue.push(Reverse((ms, at))),
                None => self.close(reading.source)?,
            }
        }
        Ok(())
    }

    /// Passes on one event of a record, unless the merged record tells that itself.
    fn pass_on(&mut self, source: &SourceRecord, mut line: EventLine, lines: &EventReader) -> Result<()> {
        let is_of_case = line.word("suite").is_some();
        let is_told_here = line.is("run_started")
            || line.is("run_ended")
            // Of a merged record what it tells itself is found out anew.
            || (!source.origins.is_empty() && line.word("origin").is_none())
            || (source.superseded && (is_of_case || OF_THE_RUN.iter().any(|kind| line.is(kind))));
        if is_told_here {
            return Ok(());
        }
        if !is_of_case {
            self.rename(source, &mut line.fields);
        } else if line.is("case_ended") {
            self.add_earlier(source, &mut line)?;
            self.lead_to_setup(source, &mut line.fields);
        }
        let inner = line.word("origin").map(|inner| format!("/{inner}")).unwrap_or_default();
        let origin = format!("{}{inner}", source.origin);
        if let Some(at) = line.word("at").and_then(|at| DateTime::parse_from_rfc3339(at).ok()) {
            self.at = self.at.max(at.to_utc());
        }
        self.seq += 1;
        line.fields.insert("seq".to_owned(), json!(self.seq));
        line.fields.insert("elapsed_ms".to_owned(), json!(self.elapsed_ms));
        put_behind(&mut line.fields, "origin", json!(origin), "elapsed_ms");
        self.write_line(&line.fields)?;
        if !line.is("output") {
            let event = line.event(lines)?;
            self.tell(&event);
        }
        Ok(())
    }

    /// Gives the machine of an event the name that it has in the merged record.
    fn rename(&self, source: &SourceRecord, fields: &mut Map<String, Value>) {
        let renamed = |value: &Value| {
            let guest = GuestId::try_from(value.as_str()?.to_owned()).ok()?;
            Some(json!(self.machine(source, &guest)))
        };
        if let Some(value) = fields.get_mut("guest")
            && let Some(name) = renamed(value)
        {
            *value = name;
        }
        for value in fields.get_mut("with").and_then(Value::as_array_mut).into_iter().flatten() {
            if let Some(name) = renamed(value) {
                *value = name;
            }
        }
    }

    /// Puts how a case ended in earlier attempts of CI before how it ended now: what failed then and passed now is flaky.
    fn add_earlier(&self, source: &SourceRecord, line: &mut EventLine) -> Result<()> {
        let earlier = self.earlier(source, line);
        if earlier.is_empty() {
            return Ok(());
        }
        let is_strict = is_strict(source, line);
        let failed =
            earlier.iter().rfind(|attempt| attempt.verdict == Verdict::Failed).map(|attempt| attempt.message.clone());
        let own = line.fields.get("earlier").and_then(Value::as_array).cloned().unwrap_or_default();
        let all = serde_json::to_value(&earlier).map_err(|e| Fault::bug("cannot write JSON").because(e))?;
        let all: Vec<Value> = all.as_array().into_iter().flatten().cloned().chain(own).collect();
        line.fields.insert("earlier".to_owned(), Value::Array(all));
        let verdict = if is_strict { Verdict::Failed } else { Verdict::Flaky };
        if let (Some(before), true) = (failed, line.word("verdict") == Some(Verdict::Passed.as_str())) {
            line.fields.insert("verdict".to_owned(), json!(verdict));
            let message = format!("passed only in a later attempt of CI; before: {before}");
            line.fields.insert("message".to_owned(), json!(message));
        }
        Ok(())
    }

    /// Has the message of a setup that failed name the log of the machine in which it did.
    fn lead_to_setup(&self, source: &SourceRecord, fields: &mut Map<String, Value>) {
        let Some(guest) = fields.get("guest").and_then(|guest| GuestId::try_from(guest.as_str()?.to_owned()).ok())
        else {
            return;
        };
        let (from, to) = (format!("guests/{guest}/"), format!("guests/{}/", self.machine(source, &guest)));
        if fields.get("cause").and_then(Value::as_str) == Some("setup")
            && let Some(Value::String(message)) = fields.get_mut("message")
        {
            *message = message.replace(&from, &to);
        }
    }

    /// Returns how the case of an event ended in the earlier attempts of its shard.
    fn earlier(&self, source: &SourceRecord, line: &EventLine) -> Vec<Attempt> {
        let Some(shard) = source.part.shard.as_ref() else { return Vec::new() };
        let word = |name: &str| line.word(name).unwrap_or_default().to_owned();
        let (Ok(guest), Ok(suite), Ok(case)) =
            (word("guest").try_into(), word("suite").try_into(), word("case").try_into())
        else {
            return Vec::new();
        };
        let round = line.fields.get("round").and_then(Value::as_u64).and_then(|round| u32::try_from(round).ok());
        let key = ((guest, suite, case), round.unwrap_or(1));
        let is_it = |other: &SourceRecord| other.part.shard.as_ref().is_some_and(|own| own.shard == shard.shard);
        let before = self.earlier.iter().filter(|(other, _)| is_it(other));
        before.filter_map(|(_, attempts)| attempts.get(&key)).flatten().cloned().collect()
    }

    /// Tells what a record that broke off leaves open.
    fn close(&mut self, source: &SourceRecord) -> Result<()> {
        let open: Vec<(GuestId, String)> =
            source.unproven().map(|(guest, machine)| (self.machine(source, guest), machine.to_owned())).collect();
        for (guest, machine) in open {
            if source.superseded {
                let text = format!("machine `{machine}` of an earlier attempt: its run ended without a word");
                self.send(EventKind::Warning { guest: Some(guest), text, hint: None }, Some(&source.origin))?;
                continue;
            }
            let left = vec![format!("machine `{machine}`: its run ended without a word")];
            let kind =
                EventKind::CleanupEnded { guest, proofs: Vec::new(), left, kept: false, adopted: false, freed: None };
            self.send(kind, Some(&source.origin))?;
        }
        Ok(())
    }

    /// Tells of every case of the plan that no record has told of.
    fn missing(&mut self) -> Result<()> {
        let view = &self.fanout.view;
        let ended: BTreeSet<_> = view
            .cases
            .iter()
            .map(|case| ((case.guest.clone(), case.suite.clone(), case.case.clone()), case.round))
            .collect();
        let claimed: BTreeSet<CaseName> =
            self.sources.iter().filter(|source| !source.superseded).flat_map(SourceRecord::claims).collect();
        let mut lost = Vec::new();
        for round in 1..=self.repeat() {
            for name in &self.whole {
                let (guest, suite, case) = name.clone();
                let found = view.found.of(&(guest.clone(), suite.clone(), case.clone(), round));
                let cases = found.map_or_else(|| vec![case], <[_]>::to_vec);
                for case in cases {
                    if !ended.contains(&((guest.clone(), suite.clone(), case.clone()), round)) {
                        let why = if claimed.contains(name) {
                            "the shard ended without a word"
                        } else {
                            "no shard reported it"
                        };
                        lost.push(((guest.clone(), suite.clone(), case, round), why));
                    }
                }
            }
        }
        for (name, why) in lost {
            self.send(EventKind::case_not_run(name, Verdict::Infra, why.to_owned(), CaseCause::Untold), None)?;
        }
        Ok(())
    }

    /// Returns what is wrong with the records themselves, beside what they tell.
    fn wrongs(&self) -> Vec<String> {
        let origins: Vec<_> = source::runs(self.sources).into_iter().filter(|origin| !origin.superseded).collect();
        let there: BTreeSet<usize> = origins.iter().filter_map(|origin| Some(origin.shard?.index)).collect();
        let count = origins.iter().filter_map(|origin| Some(origin.shard?.count)).max().unwrap_or(0);
        let is_gone = |index: &usize| !there.contains(index);
        let gone: Vec<String> = (1..=count).filter(is_gone).map(|index| format!("{index}/{count}")).collect();
        let mut wrongs = Vec::new();
        if !gone.is_empty() {
            wrongs.push(format!("no record of shard {} was given", gone.join(", ")));
        }
        if let Some(expected) = self.expect.filter(|expected| *expected != origins.len()) {
            let are = if expected == 1 { "is" } else { "are" };
            wrongs.push(format!("{} {are} expected, {} given", show_count(expected, "record"), origins.len()));
        }
        let name = |origin: &RunOrigin| {
            origin.shard.map_or_else(|| format!("run {}", short_run(&origin.run)), |shard| format!("shard {shard}"))
        };
        let died = origins.iter().filter(|origin| origin.exit.is_none());
        wrongs.extend(died.map(|origin| format!("the record of {} ends without a word", name(origin))));
        let odd = self.sources.iter().filter(|source| !source.superseded && source.is_unexplained());
        let odd = odd.flat_map(|source| source::runs(std::slice::from_ref(source)));
        wrongs.extend(odd.map(|origin| {
            let code = origin.exit.map_or(0, RunExit::code);
            format!("{} ended with exit code {code}, and none of its cases says why", name(&origin))
        }));
        wrongs
    }

    fn end(&mut self) -> Result<RunExit> {
        let own: Vec<&SourceRecord> = self.sources.iter().filter(|source| !source.superseded).collect();
        let cancelled: Option<CancelReason> = own.iter().filter_map(|source| source.cancelled).max();
        let wrongs = self.wrongs();
        let runs = source::runs(self.sources);
        let has = |wanted: &[RunExit]| {
            let mut exits = runs.iter().filter(|origin| !origin.superseded).filter_map(|origin| origin.exit);
            exits.any(|exit| wanted.contains(&exit))
        };
        // A run that could not begin has its cases as infra, whatever its own code was.
        let unbegun = [RunExit::Infra, RunExit::HostNotReady, RunExit::LockTimeout, RunExit::Usage];
        let infra = !wrongs.is_empty() || has(&unbegun);
        let view = &self.fanout.view;
        let leftover = view.left().next().is_some() || has(&[RunExit::Leftover]);
        let exit = match RunExit::of_run(&view.tally, infra, leftover, cancelled) {
            _ if has(&[RunExit::Bug]) => RunExit::Bug,
            exit => exit,
        };
        let error = |source: &&SourceRecord| Some(format!("{}: {}", source.origin, source.error.as_ref()?));
        let of_runs = own.iter().filter(|source| source.origins.is_empty()).filter_map(error);
        let errors: Vec<String> = wrongs.into_iter().chain(of_runs).collect();
        let kind = EventKind::RunEnded {
            tally: view.tally,
            exit,
            took_ms: own.iter().map(|source| source.took_ms()).max().unwrap_or(0),
            skipped_output: own.iter().fold(0, |sum, source| sum.saturating_add(source.view.skipped_output)),
            error: (!errors.is_empty()).then(|| errors.join("; ")),
            hint: None,
        };
        self.send(kind, None)?;
        Ok(exit)
    }

    /// Sends an event of the merged run itself, or one that a record lacks.
    fn send(&mut self, kind: EventKind, origin: Option<&str>) -> Result<()> {
        self.seq += 1;
        let origin = origin.map(str::to_owned);
        let event = Event { seq: self.seq, at: self.at, elapsed_ms: self.elapsed_ms, origin, kind };
        match serde_json::to_value(&event) {
            Ok(Value::Object(fields)) => self.write_line(&fields)?,
            _ => return Err(Fault::bug("cannot write an event")),
        }
        self.tell(&event);
        Ok(())
    }

    fn tell(&mut self, event: &Event) {
        self.broken.extend(self.fanout.event(event));
    }

    fn write_line(&mut self, fields: &Map<String, Value>) -> Result<()> {
        let cannot = |e: std::io::Error| Fault::host("cannot write the events of the merged record").because(e);
        serde_json::to_writer(&mut self.file, fields).map_err(|e| cannot(e.into()))?;
        self.file.write_all(b"\n").map_err(cannot)
    }
}

impl OpenRecord<'_> {
    /// Reads the next event; returns its time in milliseconds of the merged run.
    fn advance(&mut self) -> Result<Option<u64>> {
        self.next = self.lines.next(&mut Sha256::new())?;
        let Some(line) = &self.next else { return Ok(None) };
        self.last_ms = self.last_ms.max(self.offset_ms.saturating_add(line.elapsed_ms()));
        Ok(Some(self.last_ms))
    }
}

/// Returns what all of these records say alike; `None` = they differ.
fn common<'a, T: PartialEq>(
    sources: &[&'a SourceRecord],
    of: impl Fn(&'a SourceRecord) -> Option<&'a T>,
) -> Option<&'a T> {
    let (first, rest) = sources.split_first()?;
    let value = of(first)?;
    rest.iter().all(|source| of(source) == Some(value)).then_some(value)
}

/// Returns whether the case of an event, or the one for which it was found, has failed where it passes only when it is tried again.
fn is_strict(source: &SourceRecord, line: &EventLine) -> bool {
    let word = |name: &str| line.word(name).unwrap_or_default().to_owned();
    let Ok(case) = CaseId::try_from(word("case")) else { return false };
    let mut names = case.parent().into_iter().chain([case]);
    names.any(|case| source.part.flaky_fails.contains(&format!("{}/{}/{case}", word("guest"), word("suite"))))
}

/// Puts a field behind another one, where readers look for it.
fn put_behind(fields: &mut Map<String, Value>, name: &str, value: Value, before: &str) {
    fields.shift_remove(name);
    let at = fields.keys().position(|key| key == before).map_or(fields.len(), |at| at + 1);
    fields.shift_insert(at, name.to_owned(), value);
}
