use super::*;
use std::{collections::BTreeSet, path::Path};
use vmdeck_model::text::Clean;

#[derive(Deserialize)]
struct Proven {
    kind: Vec<ProvenKind>,
}

/// What the data says that must hold.
#[derive(Deserialize)]
struct ProvenKind {
    id: String,
    sample: Vec<String>,
    near_miss: Vec<String>,
    #[serde(default)]
    seen: Vec<String>,
}

fn proven() -> Vec<ProvenKind> {
    toml::from_str::<Proven>(KINDS).expect("the library").kind
}

/// Returns the lines of a real console, as a person reads them.
fn console(name: &str) -> Vec<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/trouble/consoles").join(format!("{name}.txt"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let own = |line: &&str| !line.starts_with('#');
    text.lines().filter(own).map(|line| Clean::from_text(&line.replace("ESC[", "\x1b[")).into_string()).collect()
}

#[test]
fn each_kind_finds_its_lines_and_no_line_that_only_looks_like_them() {
    let all = built_in();
    assert_eq!(all.len(), proven().len());
    assert!(all.len() > 40);
    let ids: BTreeSet<&str> = all.iter().map(|kind| kind.id.as_str()).collect();
    assert_eq!(ids.len(), all.len(), "each name stands for one kind");
    for (kind, proven) in all.iter().zip(proven()) {
        assert_eq!(kind.id, proven.id);
        assert_eq!(refuse(&kind.regex), None, "{}", kind.id);
        let alone = TroubleFinder::new(&[TroubleKind { severity: TroubleSeverity::Fail, ..kind.clone() }]);
        for line in &proven.sample {
            assert!(alone.find(line.as_bytes()).is_some(), "{}: {line}", kind.id);
            // Kernel lines follow output of programs without a line break.
            assert!(alone.find(format!("some output {line}").as_bytes()).is_some(), "{}: glued {line}", kind.id);
        }
        for line in &proven.near_miss {
            assert!(alone.find(line.as_bytes()).is_none(), "{}: {line}", kind.id);
        }
    }
}

#[test]
fn true_consoles_show_what_they_are_of() {
    let all = built_in();
    for (kind, proven) in all.iter().zip(proven()) {
        let alone = TroubleFinder::new(&[TroubleKind { severity: TroubleSeverity::Fail, ..kind.clone() }]);
        for name in proven.seen {
            let lines = console(&name);
            assert!(lines.iter().any(|line| alone.find(line.as_bytes()).is_some()), "{} in {name}", kind.id);
        }
    }
    // What ends well, or was asked for, is no failure.
    let finder = TroubleFinder::new(&all);
    for name in ["sysrq-l", "power-off", "restart", "quiet-warning"] {
        for line in console(name) {
            let bad = finder.find(line.as_bytes()).filter(|kind| kind.severity == TroubleSeverity::Fail);
            assert!(bad.is_none(), "{name}: {line}: {bad:?}");
        }
    }
}

#[test]
fn a_flood_is_looked_at_in_time() {
    let finder = TroubleFinder::new(&built_in());
    let line =
        b"[   12.345678] an ordinary line of a driver that says a lot, as drivers do: 0xdeadbeef BUGLESS panicless\n";
    for _ in 0..20_000 {
        assert!(finder.find(line).is_none());
    }
}
