//! The test cases that an executor knows: the labels of its `case "$TESTCASE" in`.
//!
//! The framework lets an unknown name run nothing and pass. The script is read as text and never run for this.

use globset::GlobBuilder;

/// Returns the labels; `None` = the script has no such statement, or hides it.
pub(super) fn labels(script: &str) -> Option<Vec<String>> {
    let mut lines = script.lines();
    lines.find(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        words.first() == Some(&"case") && line.contains("TESTCASE") && words.last() == Some(&"in")
    })?;
    let mut labels = Vec::new();
    let (mut depth, mut expects_label) = (1, true);
    for line in lines {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let mut rest = line;
        if line == "esac" || line.starts_with("esac ") || line.starts_with("esac;") {
            depth -= 1;
            if depth == 0 {
                return Some(labels);
            }
        }
        if depth == 1 && expects_label {
            let Some((label, body)) = rest.split_once(')') else { continue };
            let patterns = label.trim_start_matches('(').split('|').map(|one| one.trim().trim_matches(['"', '\'']));
            labels.extend(patterns.map(str::to_owned));
            (rest, expects_label) = (body, false);
        }
        if rest.trim_start().starts_with("case ") && !rest.contains("esac") {
            depth += 1;
        }
        if depth == 1 && (rest.contains(";;") || rest.contains(";&")) {
            expects_label = true;
        }
    }
    None
}

/// Returns whether one of the labels is for this test case.
pub(super) fn knows(labels: &[String], testcase: &str) -> bool {
    labels.iter().any(|label| {
        let glob = GlobBuilder::new(label).literal_separator(false).build();
        label == testcase || glob.is_ok_and(|glob| glob.compile_matcher().is_match(testcase))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_labels_are_those_of_the_test_case() {
        let script = r#"
x() { case "$1" in a) ;; esac; }
case "$TESTCASE" in
  BOOT)     one boot.sh "-v (1)" ;;   # lscpu
  # OLD) gone ;;
  "A_1" | 'B_2')
    case "$VM_TYPE" in
      tdx) echo ;;
      *) echo ;;
    esac
    guest_test_close
    ;;
  TD_*) two
    ;;
  :)
    usage && exit 1
    ;;
  \?)
    exit 1
    ;;
esac
case "$OTHER" in C) ;; esac
"#;
        let labels = labels(script).expect("labels");
        assert_eq!(labels, ["BOOT", "A_1", "B_2", "TD_*", ":", "\\?"]);
        for (name, known) in [
            ("BOOT", true),
            ("B_2", true),
            ("TD_X", true),
            ("tdx", false),
            ("C", false),
            ("OLD", false),
            ("NO_SUCH", false),
        ] {
            assert_eq!(knows(&labels, name), known, "{name}");
        }
        assert_eq!(super::labels("run \"$TESTCASE\""), None);
        assert_eq!(super::labels("case \"$TESTCASE\" in\n a) x"), None);
        assert!(knows(&["*".into()], "any"));
    }
}
