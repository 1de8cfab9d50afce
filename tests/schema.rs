//! The JSON schemas in `schema/`: real records fit them, broken ones do not, and they list exactly what the model writes.

use serde_json::{Map, Value, json};
use std::{collections::BTreeMap, fs, path::Path};
use vmdeck_model::{exit::RunExit, lifecycle::MachineState, outcome::Verdict};
use vmdeck_testkit::world::World;

fn read(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
}

fn parsed(path: &str) -> Value {
    serde_json::from_str(&read(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
}

fn events_schema() -> Value {
    parsed("schema/events-1.schema.json")
}

fn lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).expect("json")).collect()
}

fn mixed() -> Vec<Value> {
    lines(&read("crates/testkit/records/mixed.jsonl"))
}

// --- a validator for the keywords that the schemas use ---------------------------------------------------------------

/// Keywords that only explain.
const NOTES: [&str; 5] = ["$schema", "$id", "$defs", "title", "description"];

/// Returns what of `value` does not fit the schema, each with its place; `root` is where references point into.
fn faults(root: &Value, schema: &Value, value: &Value, at: &str) -> Vec<String> {
    let mut out = Vec::new();
    for (keyword, wanted) in schema.as_object().expect("a schema is an object") {
        let fault = |text: String| vec![format!("{at}: {text}")];
        let unless = |fits: bool, text: &str| if fits { Vec::new() } else { fault(format!("{text} {wanted}")) };
        let branches = || wanted.as_array().into_iter().flatten().map(|branch| faults(root, branch, value, at));
        out.extend(match keyword.as_str() {
            word if NOTES.contains(&word) => Vec::new(),
            "$ref" => faults(root, target(root, wanted), value, at),
            "type" => unless(has_type(value, wanted), &format!("{value} is not of type")),
            "enum" => unless(wanted.as_array().is_some_and(|all| all.contains(value)), &format!("{value} is none of")),
            "const" => unless(value == wanted, &format!("{value} is not")),
            "minimum" => unless(!value.is_number() || value.as_f64() >= wanted.as_f64(), &format!("{value} is below")),
            "minLength" => unless(length(value).is_none_or(|n| Some(n) >= wanted.as_u64()), "shorter than"),
            "maxLength" => unless(length(value).is_none_or(|n| Some(n) <= wanted.as_u64()), "longer than"),
            "format" => unless(is_format(value, wanted), &format!("{value} is no")),
            "required" => {
                let names = wanted.as_array().expect("a list").iter().filter_map(Value::as_str);
                let missing = names.filter(|name| value.is_object() && value.get(name).is_none());
                missing.flat_map(|name| fault(format!("`{name}` is missing"))).collect()
            }
            "properties" => {
                let known = wanted.as_object().expect("a table").iter();
                let there = known.filter_map(|(name, schema)| Some((name, schema, value.get(name)?)));
                there.flat_map(|(name, schema, value)| faults(root, schema, value, &format!("{at}/{name}"))).collect()
            }
            "items" => {
                let items = value.as_array().into_iter().flatten().enumerate();
                items.flat_map(|(i, item)| faults(root, wanted, item, &format!("{at}/{i}"))).collect()
            }
            "anyOf" if branches().any(|found| found.is_empty()) => Vec::new(),
            "anyOf" => branches().flatten().collect(),
            "oneOf" => match branches().filter(Vec::is_empty).count() {
                1 => Vec::new(),
                // Of the branches for other kinds nothing is to be said.
                0 => branches().filter(|found| !found.iter().any(|f| f.contains("/kind: "))).flatten().collect(),
                several => fault(format!("fits {several} branches")),
            },
            other => panic!("the schema uses `{other}`, which is not checked here"),
        });
    }
    out
}

fn target<'a>(root: &'a Value, reference: &Value) -> &'a Value {
    let pointer = reference.as_str().and_then(|text| text.strip_prefix('#')).expect("a reference into this file");
    root.pointer(pointer).unwrap_or_else(|| panic!("{reference} leads nowhere"))
}

fn has_type(value: &Value, wanted: &Value) -> bool {
    if let Some(several) = wanted.as_array() {
        return several.iter().any(|one| has_type(value, one));
    }
    match wanted.as_str().expect("a type") {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_i64() || value.is_u64(),
        "null" => value.is_null(),
        other => panic!("the schema uses the type `{other}`, which is not checked here"),
    }
}

fn length(value: &Value) -> Option<u64> {
    value.as_str().map(|text| text.chars().count() as u64)
}

fn is_format(value: &Value, wanted: &Value) -> bool {
    assert_eq!(wanted, "date-time", "the only format that is checked here");
    value.as_str().is_none_or(|text| chrono::DateTime::parse_from_rfc3339(text).is_ok())
}

fn misfits(schema: &Value, value: &Value) -> Vec<String> {
    faults(schema, schema, value, "")
}

#[track_caller]
fn assert_fits(schema: &Value, value: &Value) {
    assert_eq!(misfits(schema, value), Vec::<String>::new(), "\n{value:#}");
}

// --- records ---------------------------------------------------------------------------------------------------------

/// Runs this config and compares everything that it writes with the schemas; returns its events.
fn checked_run(config: &str, args: &[&str], exit: i32) -> Vec<Value> {
    let world = World::new(config);
    world.ci(&[&["--events", "copy.jsonl"], args].concat()).exits(exit);
    let schema = events_schema();
    let copy = lines(&fs::read_to_string(world.path("copy.jsonl")).expect("copy"));
    world.events().iter().chain(&copy).for_each(|event| assert_fits(&schema, event));
    assert_fits(&parsed("schema/summary-1.schema.json"), &world.json("summary.json"));
    assert_fits(&parsed("schema/receipt-1.schema.json"), &world.json("receipt.json"));
    world.events()
}

#[test]
fn records_of_real_runs_fit() {
    let local = "[guests.here]\nbackend = \"local\"\n[suites.s]\nartifacts = [\"out\"]\nretries = 1\n\
        [[suites.s.cases]]\nname = \"good\"\nrun = \"echo yes | tee out\"\n\
        [[suites.s.cases]]\nname = \"flaky\"\nrun = \"echo x >> tries; test $(wc -l < tries) -ge 2\"\n\
        [[suites.s.cases]]\nname = \"bad\"\nrun = \"echo no >&2; exit 4\"\n\
        [[suites.s.cases]]\nname = \"skipped\"\nrun = \"false\"\nskip = \"not today\"\n\
        [suites.t]\nsetup = \"false\"\nteardown = \"exit 9\"\n[[suites.t.cases]]\nname = \"a\"\nrun = \"true\"\n";
    let mut events = checked_run(local, &[], 1);
    events.extend(checked_run(local, &["--fail-fast", "s"], 1));
    let fake = "[guests.g]\nbackend = \"fake\"\nlaunch_retries = 2\n[guests.g.boot]\nwarnings = [\"*odd*\"]\n\
        [guests.g.fake]\nFAIL\nconsole = [\"Linux version 6\", \"odd\", \"login:\"]\n\
        [suites.s]\n[[suites.s.cases]]\nname = \"a\"\nrun = \"a\"\n";
    events.extend(checked_run(&fake.replace("FAIL", ""), &[], 0));
    events.extend(checked_run(&fake.replace("FAIL", "fail = \"panic\""), &[], 5));
    events.extend(checked_run(&fake.replace("FAIL", "fail = \"close\""), &[], 6));
    let seen = |kind: &str| events.iter().any(|event| event["kind"] == kind);
    for kind in ["output", "retrying", "cancel_began", "console_match", "route_tried", "warning", "run_ended"] {
        assert!(seen(kind), "no `{kind}` was written: the runs above show less than they should");
    }
}

#[test]
fn shards_and_their_merged_record_fit() {
    let world = World::new(
        "[guests.here]\nbackend = \"local\"\n[suites.s]\n[[suites.s.cases]]\nname = \"a\"\nrun = \"true\"\n\
        [[suites.s.cases]]\nname = \"b\"\nrun = \"true\"\n",
    );
    world.run(&["--ci", "--run-dir", "one", "--shard", "1/3", "--group", "g"]).exits(0);
    world.run(&["--ci", "--run-dir", "two", "--shard", "3/3", "--group", "g"]).exits(0);
    world.run(&["merge", "one", "two", "-o", "record"]).exits(5);
    let schema = events_schema();
    let of_shard = lines(&fs::read_to_string(world.path("one/events.jsonl")).expect("events"));
    of_shard.iter().chain(&world.events()).for_each(|event| assert_fits(&schema, event));
    assert!(world.events().iter().any(|event| event["cause"] == "untold"));
    assert_fits(&parsed("schema/summary-1.schema.json"), &world.json("summary.json"));
    assert_fits(&parsed("schema/receipt-1.schema.json"), &world.json("receipt.json"));
}

#[test]
fn an_older_record_fits() {
    let (schema, events) = (events_schema(), mixed());
    assert!(events.len() > 50, "the record was found");
    for event in &events {
        assert_fits(&schema, event);
    }
}

#[test]
fn newer_fields_are_allowed_and_unknown_kinds_are_not() {
    let schema = events_schema();
    for event in mixed() {
        let with = |key: &str, value: Value| {
            let mut changed = event.clone();
            changed[key] = value;
            changed
        };
        assert_fits(&schema, &with("added_later", json!({ "any": ["thing"] })));
        for (key, value) in [
            ("kind", json!("teleported")),
            ("kind", json!("unknown")),
            ("seq", json!(0)),
            ("seq", json!("1")),
            ("elapsed_ms", json!(-1)),
            ("at", json!("yesterday")),
        ] {
            assert!(!misfits(&schema, &with(key, value.clone())).is_empty(), "{key} = {value} in {event}");
        }
    }
}

#[test]
fn an_event_without_a_required_field_or_with_a_wrong_one_does_not_fit() {
    let schema = events_schema();
    let names = |schema: &Value| -> Vec<String> {
        schema["required"].as_array().expect("a list").iter().map(|n| n.as_str().expect("text").to_owned()).collect()
    };
    for event in mixed() {
        let kind = event["kind"].as_str().expect("kind");
        for name in [names(&schema), names(&schema["$defs"][kind])].concat() {
            let mut short = event.clone();
            assert!(short.as_object_mut().expect("object").shift_remove(&name).is_some(), "{name} in {event}");
            assert!(!misfits(&schema, &short).is_empty(), "{kind} without {name}");
            let mut wrong = event.clone();
            wrong[&name] = json!({ "not": "this" });
            // A field that holds an object rejects this one as well: what it requires is missing.
            assert!(!misfits(&schema, &wrong).is_empty(), "{kind} with a wrong {name}");
        }
    }
    let case = mixed().into_iter().find(|event| event["kind"] == "case_ended").expect("a case");
    let mut changed = case.clone();
    changed["verdict"] = json!("perhaps");
    assert!(misfits(&schema, &changed).iter().any(|f| f.starts_with("/verdict: ")), "{:?}", misfits(&schema, &changed));
}

// --- the model's source ----------------------------------------------------------------------------------------------

/// Splits at the commas that stand in no brackets: each item with its attributes apart. Comments are left out.
fn items(body: &str) -> Vec<(String, String)> {
    let bare: Vec<&str> = body.lines().map(str::trim).filter(|line| !line.starts_with("//")).collect();
    let (mut depth, mut parts) = (0, vec![String::new()]);
    for c in bare.join(" ").chars() {
        match c {
            '{' | '(' | '[' | '<' => depth += 1,
            '}' | ')' | ']' | '>' => depth -= 1,
            _ => {}
        }
        if c == ',' && depth == 0 {
            parts.push(String::new());
        } else {
            parts.last_mut().expect("one").push(c);
        }
    }
    let apart = |part: &String| {
        let (mut attributes, mut rest) = (String::new(), part.trim());
        while let Some(end) = rest.strip_prefix("#[").and_then(|inner| inner.find(']')) {
            attributes.push_str(&rest[..end + 3]);
            rest = rest[end + 3..].trim();
        }
        (attributes, rest.to_owned())
    };
    parts.iter().map(apart).filter(|(_, rest)| !rest.is_empty()).collect()
}

/// Returns what stands between the braces of a type of the model.
fn body(file: &str, head: &str) -> String {
    let text = read(&format!("crates/vmdeck-model/src/{file}.rs"));
    let inner = text.split_once(&format!("pub {head} {{\n")).unwrap_or_else(|| panic!("no `{head}` in {file}.rs")).1;
    inner.split("\n}\n").next().expect("its end").to_owned()
}

fn snake(name: &str) -> String {
    let piece = |c: char| if c.is_uppercase() { format!("_{}", c.to_ascii_lowercase()) } else { c.to_string() };
    name.chars().map(piece).collect::<String>().trim_start_matches('_').to_owned()
}

/// Returns the variants of an enum by the names that serde writes, each with its own text; one that is only read is left out.
fn variants(file: &str, name: &str) -> BTreeMap<String, String> {
    let all = items(&body(file, &format!("enum {name}"))).into_iter().filter(|(attributes, _)| {
        assert!(!attributes.contains("rename_all"), "{name} has a rule that is not known here");
        !attributes.contains("(other)")
    });
    all.map(|(attributes, text)| {
        let ident: String = text.chars().take_while(|c| c.is_alphanumeric()).collect();
        let renamed = attributes.split_once("rename = \"").and_then(|(_, rest)| rest.split('"').next());
        (renamed.map_or_else(|| snake(&ident), str::to_owned), text)
    })
    .collect()
}

/// Returns the fields that a schema must have, each with whether it is always written.
fn fields(body: &str) -> BTreeMap<String, bool> {
    let mut out = BTreeMap::new();
    for (attributes, text) in items(body).into_iter().filter(|(attributes, _)| !attributes.contains("serde(skip)")) {
        let (name, kind) = text.trim_start_matches("pub ").split_once(':').expect("name and type");
        if attributes.contains("serde(flatten)") {
            let file = if kind.contains("Subtest") { "subtest" } else { "shard" };
            out.extend(fields(&self::body(file, &format!("struct {}", kind.trim()))));
        } else {
            out.insert(name.to_owned(), !attributes.contains("skip_serializing_if"));
        }
    }
    out
}

/// Returns the fields that a schema has, each with whether it is required.
fn listed(schema: &Value) -> BTreeMap<String, bool> {
    let required = schema["required"].as_array().expect("required");
    let properties: &Map<String, Value> = schema["properties"].as_object().expect("properties");
    properties.keys().map(|name| (name.clone(), required.iter().any(|r| r == name))).collect()
}

#[test]
fn every_kind_of_event_is_listed_with_its_fields() {
    let schema = events_schema();
    let kinds = variants("event", "EventKind");
    assert!(kinds.len() > 15, "the kinds were found");
    let names: Vec<String> = kinds.keys().cloned().collect();
    let sorted = |mut names: Vec<String>| {
        names.sort();
        names
    };
    let list = |value: &Value| value.as_array().expect("list").clone();
    let shown = list(&schema["properties"]["kind"]["enum"]);
    assert_eq!(sorted(shown.iter().map(|k| k.as_str().expect("text").to_owned()).collect()), names);
    let branches = list(&schema["oneOf"]);
    let branch = |b: &Value| b["$ref"].as_str().expect("text").trim_start_matches("#/$defs/").to_owned();
    assert_eq!(sorted(branches.iter().map(branch).collect()), names);
    for (kind, text) in &kinds {
        let mut expected = match (text.split_once('{'), text.split_once('(')) {
            (Some((_, inner)), _) => fields(inner.trim_end().strip_suffix('}').expect("its end")),
            (None, Some((_, inner))) => fields(&body("event", &format!("struct {}", inner.trim_end_matches(')')))),
            (None, None) => BTreeMap::new(),
        };
        expected.insert("kind".into(), true);
        assert_eq!(listed(&schema["$defs"][kind]), expected, "the fields of `{kind}`");
        assert_eq!(schema["$defs"][kind]["properties"]["kind"], json!({ "const": kind }));
    }
}

#[test]
fn the_parts_of_events_are_the_model_s() {
    let schema = events_schema();
    for (part, file, name) in [
        ("planned_guest", "event", "PlannedGuest"),
        ("holder", "event", "Holder"),
        ("attempt", "event", "Attempt"),
        ("tally", "outcome", "Tally"),
        ("subtest_tally", "subtest", "SubtestTally"),
        ("planned_shard", "shard", "PlannedShard"),
        ("shard", "shard", "Shard"),
        ("run_origin", "shard", "RunOrigin"),
    ] {
        assert_eq!(listed(&schema["$defs"][part]), fields(&body(file, &format!("struct {name}"))), "{part}");
    }
    for (part, file, name) in [
        ("phase", "event", "Phase"),
        ("severity", "event", "Severity"),
        ("pattern_kind", "event", "PatternKind"),
        ("stream", "event", "Stream"),
        ("case_cause", "event", "CaseCause"),
        ("shard_by", "shard", "ShardBy"),
        ("verdict", "outcome", "Verdict"),
        ("subtest_status", "subtest", "SubtestStatus"),
        ("cancel_reason", "outcome", "CancelReason"),
    ] {
        let listed = schema["$defs"][part]["enum"].as_array().expect("enum");
        let mut listed: Vec<&str> = listed.iter().map(|word| word.as_str().expect("text")).collect();
        listed.sort_unstable();
        assert_eq!(listed, variants(file, name).keys().collect::<Vec<_>>(), "{part}");
    }
    let states = MachineState::ALL.map(|state| json!(state));
    assert_eq!(schema["$defs"]["machine_state"]["enum"], json!(states));
    assert_eq!(schema["$defs"]["run_exit"]["enum"], json!(RunExit::ALL.map(|(_, code, _)| code)));
    assert_eq!(schema["$defs"]["verdict"]["enum"].as_array().map(Vec::len), Some(Verdict::ALL.len()));
}

#[test]
fn the_summary_and_the_receipt_share_their_parts_with_the_events() {
    let events = events_schema();
    for (file, own) in [("summary", ["guest", "case", "code_revision"].as_slice()), ("receipt", &["resource"])] {
        let schema = parsed(&format!("schema/{file}-1.schema.json"));
        for (name, part) in schema["$defs"].as_object().expect("parts") {
            assert!(own.contains(&name.as_str()) || *part == events["$defs"][name], "{file}: {name}");
        }
        assert_eq!(schema["$id"], format!("urn:vmdeck:schema:{file}-1"));
    }
}
