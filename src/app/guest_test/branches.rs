//! The test cases that an executor knows: the labels of its `case "$TESTCASE" in`.
//!
//! The framework lets an unknown name run nothing and pass. The script is read as text and never run for this; where anything about
//! it is in doubt, the name may be known.

use globset::GlobBuilder;

/// Returns the labels of all such statements; `None` = there is none, or its end is not found.
pub(super) fn labels(script: &str) -> Option<Vec<String>> {
    let mut labels = Vec::new();
    let mut found = false;
    let mut lines = script.lines();
    while let Some(line) = lines.next() {
        let words: Vec<&str> = line.split_whitespace().collect();
        if words.first() == Some(&"case") && line.contains("TESTCASE") && words.last() == Some(&"in") {
            found = true;
            if !statement(&mut lines, &mut labels) {
                return None;
            }
        }
    }
    found.then_some(labels)
}

/// Reads one statement to its `esac`; returns whether it was found.
fn statement<'a>(lines: &mut impl Iterator<Item = &'a str>, labels: &mut Vec<String>) -> bool {
    let (mut depth, mut expects_label) = (1, true);
    let mut label = String::new();
    for line in lines {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let mut rest = line;
        if depth == 1 && expects_label && word_count(line, "esac") == 0 {
            // A label may go over several lines.
            let Some((last, body)) = line.split_once(')') else {
                label.push_str(line.trim_end_matches('\\'));
                continue;
            };
            label.push_str(last);
            let patterns = label.trim_start_matches('(').split('|').map(|one| pattern(one.trim()));
            labels.extend(patterns.filter(|one| !one.is_empty()));
            label.clear();
            (rest, expects_label) = (body, false);
        }
        depth += word_count(rest, "case") - word_count(rest, "esac");
        if depth <= 0 {
            return true;
        }
        // What is before it belongs to the statement that it ends.
        let own = rest.rsplit_once("esac").map_or(rest, |(_, own)| own);
        if depth == 1 && (own.contains(";;") || own.contains(";&")) {
            expects_label = true;
        }
    }
    false
}

/// Returns how often a word of the shell stands on a line.
fn word_count(line: &str, word: &str) -> i32 {
    let words = line.split(|c: char| c.is_whitespace() || c == ';').filter(|own| *own == word);
    i32::try_from(words.count()).unwrap_or(i32::MAX)
}

/// Returns a label as a pattern of vmdeck's: without quotes, and with anything for a variable.
fn pattern(label: &str) -> String {
    let mut out = String::new();
    let mut rest = label.chars().peekable();
    while let Some(char) = rest.next() {
        match char {
            '"' | '\'' => {}
            '$' => {
                let is_name = |c: &char| c.is_ascii_alphanumeric() || "_{}".contains(*c);
                while rest.next_if(is_name).is_some() {}
                out.push('*');
            }
            char => out.push(char),
        }
    }
    out
}

/// Returns whether a script may know this test case: by a label, or because its name stands somewhere.
pub(super) fn may_know(script: &str, labels: &[String], testcase: &str) -> bool {
    let is_label = labels.iter().any(|label| {
        let glob = GlobBuilder::new(label).literal_separator(false).build();
        label == testcase || glob.is_ok_and(|glob| glob.compile_matcher().is_match(testcase))
    });
    let code = script.lines().filter(|line| !line.trim_start().starts_with('#'));
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    is_label || code.flat_map(|line| line.split(|c| !is_name(c))).any(|word| word == testcase)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCRIPT: &str = r#"
x() { case "$1" in a) ;; esac; }
case "$TESTCASE" in
  EARLY) helper ;;
esac
case "$TESTCASE" in
  BOOT)     one boot.sh "-v (1)" ;;   # lscpu
  # OLD) gone ;;
  "A_1" | 'B_2')
    case "$VM_TYPE" in
      tdx) echo ;;
      *) echo ;;
    esac
    for i in 1 2; do case "$i" in 1) ;; esac; done
    guest_test_close
    ;;
  C_3 | \
  D_4)
    two
    ;;
  KEXEC_"$VCPU"C_"$MEM"G_CYCLE_0)
    three ;;
  TD_*) two
    ;;
  :)
    usage && exit 1
    ;;
  \?)
    exit 1
    ;;
esac
case "$OTHER" in X) ;; esac
"#;

    #[test]
    fn the_labels_are_those_of_the_test_case() {
        let found = labels(SCRIPT).expect("labels");
        let expected = ["EARLY", "BOOT", "A_1", "B_2", "C_3", "D_4", "KEXEC_*C_*G_CYCLE_0", "TD_*", ":", "\\?"];
        assert_eq!(found, expected);
        for (name, known) in [
            ("BOOT", true),
            ("B_2", true),
            ("D_4", true),
            ("TD_X", true),
            ("KEXEC_4C_16G_CYCLE_0", true),
            ("KEXEC_4C", false),
            ("OLD", false),
            ("NO_SUCH", false),
        ] {
            assert_eq!(may_know(SCRIPT, &found, name), known, "{name}");
        }
    }

    #[test]
    fn in_doubt_a_name_may_be_known() {
        assert_eq!(labels("run \"$TESTCASE\""), None);
        assert_eq!(labels("case \"$TESTCASE\" in\n a) x"), None);
        assert!(may_know("", &["*".into()], "any"));
        let odd = "case \"$TESTCASE\" in\n A) echo \"in this case\" ;;\n B) x ;;\nesac\n";
        assert!(labels(odd).is_none_or(|labels| may_know(odd, &labels, "B")));
    }
}
