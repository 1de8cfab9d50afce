//! Checked values to the places where the results of a case's own tests are.

use super::{build::Build, tree::Origin};
use vmdeck_model::suite::ResultSources;
use vmdeck_results::{Format, check_rerun};

impl Build<'_> {
    /// Returns where the results of a case are: what the case says, else what its suite says.
    pub(super) fn results(&mut self, suite: &str, index: usize, origin: &Origin) -> ResultSources {
        let of_suite = |key: &str| (format!("suites.{suite}.{key}"), format!("suites.*.{key}"));
        let of_case = |key: &str| (format!("suites.{suite}.cases.{index}.{key}"), format!("suites.*.cases.[].{key}"));
        let [list, empty, rerun] = ["results", "allow_empty", "rerun"].map(|key| {
            let own = of_case(key);
            if self.is_written(&own.0) { own } else { of_suite(key) }
        });
        let ((list, any_list), (empty, any_empty), (rerun, any_rerun)) = (list, empty, rerun);
        let allow_empty = self.flag(&empty, &any_empty);
        let mut sources = ResultSources { allow_empty, ..ResultSources::default() };
        for word in self.texts(&list, &any_list) {
            if word == ResultSources::AUTO || Format::of_word(&word).is_some() {
                sources.streams.push(word);
            } else if word.contains(['/', '*', '.', '\\']) {
                sources.files.push(word);
            } else {
                let known: Vec<&str> = std::iter::once(ResultSources::AUTO).chain(Format::words()).collect();
                let why = format!("`{word}` is no format of results (known: {})", known.join(", "));
                self.problem(
                    origin,
                    &list,
                    why,
                    Some("a file is known by a `/`, `*` or `.` in its path: \"./results\""),
                );
            }
        }
        sources.rerun = self.text(&rerun, &any_rerun);
        if let Some(template) = &sources.rerun {
            if let Err(why) = check_rerun(template) {
                self.problem(origin, &rerun, format!("`{template}`: {why}"), None);
            } else if sources.is_empty() && self.is_written(&rerun) {
                self.problem(origin, &rerun, "there are no `results` that could tell what failed", None);
            }
        }
        if allow_empty && sources.is_empty() && self.is_written(&empty) {
            self.problem(origin, &empty, "there are no `results` that it could speak of", None);
        }
        sources
    }
}
