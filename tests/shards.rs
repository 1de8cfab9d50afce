//! A run that is divided: every case is in exactly one shard, and the merged records say what one run would have said.

use proptest::prelude::*;
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};
use tokio_util::sync::CancellationToken;
use vmdeck_core::{
    backend::BACKENDS,
    config::{self, Sources},
    history,
    merge::{Merge, MergeOptions, plan_digest},
    report::{Fanout, junit::Junit, plan_index::PlanIndex, summary::Summary},
    transport::TRANSPORTS,
};
use vmdeck_model::{
    division,
    exit::RunExit,
    job::Job,
    key::Key,
    outcome::{CancelReason, Tally, Verdict},
    plan,
    shard::{PlannedShard, RunPart, Shard, ShardBy},
    times::CaseTimes,
};

fn jobs_of(text: &str) -> Vec<Job> {
    let transports = TRANSPORTS.iter().flat_map(|row| row.keys);
    let backends = BACKENDS.iter().flat_map(|row| row.keys);
    let keys: Vec<Key> = config::keys::core().chain(transports).chain(backends).copied().collect();
    let sources = Sources {
        file: Some((Path::new("vmdeck.toml"), text)),
        base: Path::new("/nowhere"),
        env: &BTreeMap::new(),
        set: &[],
        keys: &keys,
        backends: &BACKENDS.iter().map(|row| row.kind).collect::<Vec<_>>(),
        private_networks: &["fake"],
        old_names: &[],
        transports: &TRANSPORTS.iter().map(|row| row.kind).collect::<Vec<_>>(),
        secret_command: None,
        secrets_of: None,
        trusts_file: true,
    };
    plan::select(&config::load(&sources).unwrap_or_else(|e| panic!("{e}\n{text}")).0, &[])
}

/// Returns the name of every case of some jobs, `guest/suite/case`, in order.
fn names(jobs: &[Job]) -> Vec<String> {
    let cases = jobs.iter().flat_map(Job::cases);
    cases.map(|(guest, suite, case)| format!("{}/{}/{}", guest.id, suite.id, case.id)).collect()
}

fn divided(text: &str, shard: &str, times: Option<&str>) -> division::Division {
    let times = times.map(|times| CaseTimes::parse(times).expect("times"));
    division::divide(jobs_of(text), Shard::parse(shard).expect("shard"), times.as_ref(), 1)
}

fn part(text: &str, shard: &str, times: Option<&str>) -> Vec<String> {
    names(&divided(text, shard, times).jobs)
}

const GUESTS: &str = "[guests.a]\nbackend = \"fake\"\n[guests.b]\nbackend = \"fake\"\n";

fn cases(suite: &str, all: &[(&str, &str)]) -> String {
    let one = |(name, keys): &(&str, &str)| {
        format!("[[suites.{suite}.cases]]\nname = \"{name}\"\nrun = \"true\"\n{}\n", keys.replace(';', "\n"))
    };
    all.iter().map(one).collect()
}

#[test]
fn what_belongs_together_is_never_parted() {
    let needs =
        cases("s", &[("make", ""), ("other", ""), ("use", "needs = [\"make\"]"), ("last", "needs = [\"use\"]")]);
    let text = format!("[guests.a]\nbackend = \"fake\"\n[suites.s]\n{needs}");
    assert_eq!(part(&text, "1/2", None), ["a/s/make", "a/s/use", "a/s/last"]);
    assert_eq!(part(&text, "2/2", None), ["a/s/other"]);
    let beside = cases("s", &[("one", ""), ("two", ""), ("bg", "background = \"until-end\""), ("x", ""), ("y", "")]);
    let text = format!("[guests.a]\nbackend = \"fake\"\n[suites.s]\n{beside}");
    assert_eq!(part(&text, "1/2", None), ["a/s/one", "a/s/bg", "a/s/x", "a/s/y"]);
    assert_eq!(part(&text, "2/2", None), ["a/s/two"]);
    let plain = cases("s", &[("x", ""), ("y", "")]);
    let required =
        format!("[guests.a]\nbackend = \"fake\"\n[suites.s]\nartifacts = [\"*\"]\nartifacts_required = true\n{plain}");
    assert_eq!(part(&required, "1/2", None), ["a/s/x", "a/s/y"]);
    assert!(part(&required, "2/2", None).is_empty());
    // By time a setup is not run twice, unless its cases alone take longer than an equal part.
    let setup = format!("[guests.a]\nbackend = \"fake\"\n[suites.s]\nsetup = \"true\"\n{plain}");
    let more = format!("{setup}[suites.t]\n{}", cases("t", &[("p", ""), ("q", ""), ("r", "")]));
    let unknown = Some("{\"format\":1}");
    let parts = ["1/2", "2/2"].map(|shard| part(&more, shard, unknown));
    assert!(parts.iter().any(|part| part.starts_with(&["a/s/x".to_owned(), "a/s/y".to_owned()])), "{parts:?}");
    assert_eq!(["1/2", "2/2"].map(|shard| part(&setup, shard, unknown).len()), [1, 1]);
}

#[test]
fn by_time_the_longest_comes_first_and_a_boot_is_paid_once() {
    let text = format!("{GUESTS}[suites.s]\n{}", cases("s", &[("long", ""), ("p", ""), ("q", ""), ("r", "")]));
    let times = |boot: u64| {
        let of = |ms: u64| json!({ "ms": [ms], "n": 1, "last": "2026-11-01" });
        let boots = json!({ "boot_ms": [boot], "last": "2026-11-01" });
        let cases = json!({ "a/fake s/long": of(9000), "a/fake s/p": of(3000), "a/fake s/q": of(3000), "a/fake s/r": of(3000),
                            "b/fake s/long": of(3000) });
        json!({ "format": 1, "guests": { "a/fake": boots, "b/fake": boots }, "cases": cases }).to_string()
    };
    // Boots are dear: each shard boots one of the guests.
    let dear = times(100_000);
    let mut guests: Vec<BTreeSet<char>> = ["1/2", "2/2"]
        .map(|shard| part(&text, shard, Some(&dear)).iter().filter_map(|name| name.chars().next()).collect())
        .into();
    guests.sort();
    assert_eq!(guests, [BTreeSet::from(['a']), BTreeSet::from(['b'])]);
    // Boots are free: nine seconds stand against all others. What is not known takes as long as the rest of its suite.
    let free = times(0);
    assert_eq!(part(&text, "1/4", Some(&free)), ["a/s/long"]);
    let long = divided(&text, "1/4", Some(&free)).too_long;
    assert_eq!(long.first().map(|(name, ms)| (name.as_str(), *ms)), Some(("`s/long@a`", 9000)));
    assert!(division::told_too_long(&long).expect("told").contains("`s/long@a` alone takes about 9.0s"));
    assert_eq!(division::told_too_long(&[]), None);
}

/// A random config and what happens when it is run.
#[derive(Clone, Debug)]
struct RandomHistory {
    text: String,
    count: usize,
    by_time: bool,
    repeat: u32,
    /// Draws verdicts and times.
    seed: u64,
    cancelled: Option<CancelReason>,
    leaves: bool,
}

fn histories() -> impl Strategy<Value = RandomHistory> {
    let case = (0_usize..5, prop::bool::weighted(0.3), prop::bool::weighted(0.1));
    let suite = (prop::collection::vec(case, 1..6), any::<bool>(), prop::bool::weighted(0.2));
    let suites = prop::collection::vec(suite, 1..4);
    let cancelled = prop_oneof![
        8 => Just(None),
        1 => Just(Some(CancelReason::Interrupt)),
        1 => Just(Some(CancelReason::FailFast)),
        1 => Just(Some(CancelReason::Terminate))
    ];
    (suites, 1_usize..6, any::<bool>(), 1_u32..3, any::<u64>(), cancelled, prop::bool::weighted(0.1)).prop_map(
        |(suites, count, by_time, repeat, seed, cancelled, leaves)| {
            let mut text = GUESTS.to_owned();
            for (number, (all, setup, roles)) in suites.iter().enumerate() {
                text.push_str(&format!("[suites.s{number}]\n"));
                if *roles {
                    text.push_str("roles = { one = \"a\", two = \"b\" }\nnetwork = \"none\"\n");
                } else if *setup {
                    text.push_str("setup = \"true\"\n");
                }
                for (at, (need, needs, goes_on)) in all.iter().enumerate() {
                    let mut keys = String::new();
                    if *needs && *need < at {
                        keys.push_str(&format!("needs = [\"c{need}\"];"));
                    }
                    let is_background = |at: usize| all[at].2 && !*roles;
                    if *goes_on && !*roles && at + 1 < all.len() && !(*needs && *need < at) {
                        keys.push_str("background = \"until-end\";");
                    }
                    if *roles {
                        keys.push_str("on = [\"one\", \"two\"];");
                    }
                    // Nothing can need what goes on.
                    if *needs && *need < at && is_background(*need) {
                        keys.clear();
                    }
                    text.push_str(&cases(&format!("s{number}"), &[(&format!("c{at}"), &keys)]));
                }
            }
            RandomHistory { text, count, by_time, repeat, seed, cancelled, leaves }
        },
    )
}

impl RandomHistory {
    /// Returns a number that is the same for the same words.
    fn draw(&self, words: &str, below: u64) -> u64 {
        let hash =
            words.bytes().fold(self.seed | 1, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
        (hash ^ (hash >> 29)) % below
    }

    fn verdict(&self, name: &str, round: u32) -> Verdict {
        let drawn = usize::try_from(self.draw(&format!("{name} {round}"), 12)).expect("small");
        Verdict::ALL
            .get(drawn)
            .copied()
            .filter(|verdict| *verdict != Verdict::Cancelled || self.cancelled.is_some())
            .unwrap_or(Verdict::Passed)
    }

    fn times(&self, all: &[String]) -> CaseTimes {
        let one = |name: &String| {
            let (guest, case) = name.split_once('/').expect("a name");
            let ms = self.draw(case, 9000);
            (format!("{guest}/fake {case}"), json!({ "ms": [ms], "n": 1, "last": "2026-11-01" }))
        };
        let cases: serde_json::Map<String, Value> = all.iter().map(one).collect();
        CaseTimes::parse(&json!({ "format": 1, "cases": cases }).to_string()).expect("times")
    }

    /// Writes the record of a run of these jobs; returns its folder.
    fn record(&self, home: &Path, name: &str, jobs: &[Job], part: &RunPart) -> PathBuf {
        let folder = home.join(name);
        fs::create_dir(&folder).expect("folder");
        let guests: Vec<Value> = jobs
            .iter()
            .flat_map(|job| job.guests().map(move |guest| (job, guest)))
            .map(|(job, guest)| {
                let names: Vec<String> =
                    job.cases_in(&guest.id).map(|(suite, case)| format!("{}/{}", suite.id, case.id)).collect();
                json!({ "guest": guest.id, "backend": "fake", "os": "linux", "isolated": true,
                    "cases": names.len() * self.repeat as usize, "names": names })
            })
            .collect();
        let all = names(jobs);
        let mut kinds = Vec::new();
        let mut start = json!({ "kind": "run_started", "run": format!("{:016x}", self.draw(name, u64::MAX)), "version": "0.1.0",
            "host": format!("host-{name}"), "dir": "/x", "selection": [], "guests": guests, "cases": all.len() * self.repeat as usize });
        let more = serde_json::to_value(part).expect("json");
        start.as_object_mut().expect("object").extend(more.as_object().expect("object").clone());
        kinds.push(start);
        let mut tally = Tally::default();
        for round in 1..=self.repeat {
            for name in &all {
                let mut words = name.splitn(3, '/');
                let mut word = || words.next().expect("a part");
                let (guest, suite, case) = (word(), word(), word());
                let verdict = self.verdict(name, round);
                tally.add(verdict);
                kinds.push(json!({ "kind": "case_ended", "guest": guest, "suite": suite, "case": case, "round": round, "verdict": verdict,
                    "exit": null, "took_ms": 5, "message": format!("{verdict} it is"), "stdout_tail": "", "stderr_tail": "" }));
            }
        }
        if let Some(reason) = self.cancelled.filter(|_| !all.is_empty()) {
            kinds.push(json!({ "kind": "cancel_began", "reason": reason }));
        }
        let leaves = self.leaves && !all.is_empty();
        for guest in jobs.iter().flat_map(Job::guests) {
            let left: &[&str] = if leaves { &["a disk"] } else { &[] };
            kinds.push(
                json!({ "kind": "cleanup_ended", "guest": guest.id, "proofs": ["gone"], "left": left, "kept": false }),
            );
        }
        let cancelled = self.cancelled.filter(|_| !all.is_empty());
        let exit = RunExit::of_run(&tally, false, leaves, cancelled);
        kinds.push(json!({ "kind": "run_ended", "tally": tally, "exit": exit, "took_ms": 9, "skipped_output": 0 }));
        let lines: String = kinds
            .into_iter()
            .enumerate()
            .map(|(at, mut event)| {
                event["seq"] = json!(at + 1);
                event["at"] = json!(format!("2026-11-21T08:00:{:02}.000Z", self.draw(name, 60)));
                event["elapsed_ms"] = json!(at);
                format!("{event}\n")
            })
            .collect();
        fs::write(folder.join("events.jsonl"), lines).expect("written");
        folder
    }
}

/// What a record says of each case, and of the whole.
#[derive(Debug, PartialEq)]
struct ToldRecord {
    cases: Vec<(String, u32, Verdict, String)>,
    tally: Tally,
    exit: Option<RunExit>,
    planned: usize,
    junit: Vec<String>,
}

fn told(record: &Path) -> ToldRecord {
    let view = history::view(record).expect("a record");
    let mut cases: Vec<_> = view
        .cases
        .iter()
        .map(|case| {
            (format!("{}/{}/{}", case.guest, case.suite, case.case), case.round, case.verdict, case.message.clone())
        })
        .collect();
    cases.sort();
    let junit = fs::read_to_string(record.join("junit.xml")).expect("junit");
    let mut junit: Vec<String> = junit
        .lines()
        .map(str::trim)
        .filter(|line| line.starts_with("<testcase") || line.starts_with("<testsuites") || line.starts_with("<error"))
        .map(|line| line.split(" time=").next().expect("a part").to_owned())
        .collect();
    junit.sort();
    ToldRecord { cases, tally: view.tally, exit: view.exit, planned: view.planned, junit }
}

fn merged(records: &[PathBuf], out: &Path) -> RunExit {
    let merge = Merge::of(records, MergeOptions::default()).unwrap_or_else(|e| panic!("{e}"));
    fs::create_dir(out).expect("folder");
    let mut fanout = Fanout::default();
    fanout.add(Box::new(Junit::new(out.join("junit.xml"), Vec::new(), PlanIndex::default())));
    fanout.add(Box::new(Summary::new(out.to_owned())));
    let outcome = merge.write(out, &mut fanout, &CancellationToken::new()).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!((outcome.notes, outcome.lost), (Vec::new(), Vec::new()));
    outcome.exit
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn shards_and_merge_say_what_one_run_says(history in histories()) {
        let home = tempfile::tempdir().expect("tempdir");
        let jobs = jobs_of(&history.text);
        let all = names(&jobs);
        let whole = RunPart {
            plan: Some(plan_digest(&all, history.repeat, "config")),
            repeat: (history.repeat > 1).then_some(history.repeat),
            ..RunPart::default()
        };
        let one = history.record(home.path(), "one", &jobs, &whole);
        prop_assert_eq!(merged(std::slice::from_ref(&one), &home.path().join("alone")), history_exit(&one), "a merge of one changes nothing");
        let times = history.by_time.then(|| history.times(&all));
        let by = if history.by_time { ShardBy::Time } else { ShardBy::Count };
        let mut records = Vec::new();
        let mut seen = Vec::new();
        for index in 1..=history.count {
            let shard = Shard { index, count: history.count };
            let own = division::divide(jobs.clone(), shard, times.as_ref(), history.repeat).jobs;
            seen.extend(names(&own));
            let planned = PlannedShard { shard, by, times: history.by_time.then(|| "same".to_owned()) };
            let part = RunPart { shard: Some(planned), planned_all: all.clone(), ..whole.clone() };
            records.push(history.record(home.path(), &format!("shard-{index}"), &own, &part));
        }
        let (mut every, mut wanted) = (seen.clone(), all.clone());
        every.sort();
        wanted.sort();
        prop_assert_eq!(every, wanted, "each case is in one shard");
        let out = home.path().join("merged");
        let exit = merged(&records, &out);
        prop_assert_eq!(told(&out), told(&home.path().join("alone")));
        prop_assert_eq!(exit, history_exit(&one));
        let clean: Value = serde_json::from_slice(&fs::read(out.join("receipt.json")).expect("receipt")).expect("json");
        prop_assert_eq!(clean["clean"].as_bool(), Some(!history.leaves));
        records.reverse();
        let again = home.path().join("again");
        merged(&records, &again);
        for file in ["events.jsonl", "junit.xml", "summary.json", "receipt.json", "origins.json"] {
            prop_assert!(fs::read(out.join(file)).expect(file) == fs::read(again.join(file)).expect(file), "{} differs", file);
        }
        // In two steps it comes to the same: what the first step lacks is told by the second.
        if history.count > 2 {
            let (left, right) = (home.path().join("left"), home.path().join("right"));
            merged(&records[..2], &left);
            merged(&records[2..], &right);
            let both = home.path().join("both");
            merged(&[left, right], &both);
            prop_assert_eq!(told(&both), told(&out));
        }
        // A shard that is lost, and one that died, never make the whole green.
        let lost = usize::try_from(history.draw("lost", history.count as u64)).expect("small");
        let gone = records.remove(lost);
        let had: usize = history::view(&gone).expect("view").cases.len();
        if !records.is_empty() {
            let out = home.path().join("lost");
            prop_assert_ne!(merged(&records, &out), RunExit::Passed);
            let view = history::view(&out).expect("view");
            prop_assert_eq!(view.cases.iter().filter(|case| case.message == "no shard reported it").count(), had);
        }
        let events = fs::read_to_string(gone.join("events.jsonl")).expect("events");
        let kept = usize::try_from(history.draw("kept", events.lines().count() as u64)).expect("small").max(1);
        let torn: String = events.lines().take(kept).flat_map(|line| [line, "\n"]).chain(["{\"seq\":"]).collect();
        fs::write(gone.join("events.jsonl"), torn).expect("written");
        records.push(gone);
        let out = home.path().join("died");
        prop_assert_ne!(merged(&records, &out), RunExit::Passed);
        prop_assert_eq!(history::view(&out).expect("view").cases.len(), all.len() * history.repeat as usize);
    }
}

fn history_exit(record: &Path) -> RunExit {
    history::view(record).expect("view").exit.expect("ended")
}
