//! The rows of a matrix, the cases that they make of one, and the guests for which a case is meant.
//!
//! The case itself is `build_suite`'s matter.

use super::{build::Build, tree::Origin};
use globset::Glob;
use std::collections::BTreeSet;
use vmdeck_model::{
    discover::DiscoverySource,
    guest::{Guest, Os},
    ids::{CaseId, RoleId, is_plain, plain_value},
    job::{JobGuest, is_meant_for},
    key::Value,
    plan::suite_members,
    suite::{Case, CaseAction, CaseStep, Suite},
    when::{WhenExpr, WhenFacts},
};

/// The most cases that one may become.
const MOST: usize = 256;
/// The processors that there are besides those of the guests, as the kernel of Linux names them.
const ARCHITECTURES: [&str; 9] =
    ["x86_64", "aarch64", "armv7l", "i686", "loongarch64", "ppc64le", "riscv64", "s390x", "mips64"];
/// What `{{x}}` may stand for although it is no axis: words of the templates of other programs.
const OTHERS: [&str; 2] = ["else", "end"];

/// One combination: the value of each axis, and further keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct MatrixRow {
    axes: Vec<(String, String)>,
    more: Vec<(String, String)>,
}

impl MatrixRow {
    fn all(&self) -> impl Iterator<Item = &(String, String)> {
        self.axes.iter().chain(&self.more)
    }
}

/// The keys of a matrix, of a suite or of one of its cases.
pub(super) struct MatrixKeys {
    /// Each with the row of the key table: `matrix`, `exclude`, `include`.
    keys: [(String, &'static str); 3],
}

impl MatrixKeys {
    /// Returns the keys of a suite.
    pub(super) fn of_suite(suite: &str) -> Self {
        let keys = [("matrix", "suites.*.matrix"), ("exclude", "suites.*.exclude"), ("include", "suites.*.include")];
        Self { keys: keys.map(|(key, any)| (format!("suites.{suite}.{key}"), any)) }
    }
}

impl Build<'_> {
    /// Returns the combinations of a case; one that has no axes where there is no matrix. What the case does not say is the suite's.
    pub(super) fn case_rows(
        &mut self,
        suite: &str,
        index: usize,
        of_suite: &[MatrixRow],
        origin: &Origin,
    ) -> Vec<MatrixRow> {
        let own = |key: &str| format!("suites.{suite}.cases.{index}.{key}");
        let is_written = ["matrix", "exclude", "include"].map(|key| self.is_written(&own(key)));
        if is_written == [false; 3] {
            return of_suite.to_vec();
        }
        let mut keys = MatrixKeys::of_suite(suite);
        // What is said of other axes has no meaning for these.
        for (at, key) in ["matrix", "exclude", "include"].into_iter().enumerate() {
            if is_written[0] || is_written[at] {
                let any = ["suites.*.cases.[].matrix", "suites.*.cases.[].exclude", "suites.*.cases.[].include"][at];
                keys.keys[at] = (own(key), any);
            }
        }
        self.rows(&keys, origin)
    }

    /// Returns the combinations that these keys make.
    pub(super) fn rows(&mut self, keys: &MatrixKeys, origin: &Origin) -> Vec<MatrixRow> {
        let [(matrix, any_matrix), (exclude, any_exclude), (include, any_include)] = &keys.keys;
        let axes = match self.value(matrix, any_matrix) {
            Some(Value::Axes(axes)) => axes,
            _ => Vec::new(),
        };
        let [without, with] =
            [(exclude, any_exclude), (include, any_include)].map(|(key, any)| match self.value(key, any) {
                Some(Value::Rows(rows)) => rows,
                _ => Vec::new(),
            });
        let before = self.problem_count();
        self.check_axes(&axes, matrix, origin);
        for (rows, key) in [(&without, exclude), (&with, include)] {
            if axes.is_empty() && !rows.is_empty() {
                self.problem(origin, key, "there is no `matrix` that it could change", None);
            }
        }
        if axes.is_empty() || self.problem_count() > before {
            return vec![MatrixRow::default()];
        }
        let mut rows = combinations(&axes);
        for left_out in &without {
            self.check_excluded(left_out, &axes, exclude, origin);
            rows.retain(|row| !left_out.iter().all(|pair| row.axes.contains(pair)));
        }
        for row in &with {
            if let Some(row) = self.included(row, &axes, &rows, include, origin) {
                rows.push(row);
            }
        }
        let more: BTreeSet<String> = rows.iter().flat_map(|row| &row.more).map(|(key, _)| key.clone()).collect();
        for row in &mut rows {
            let missing = more.iter().filter(|key| !row.more.iter().any(|(own, _)| own == *key));
            row.more.extend(missing.map(|key| (key.clone(), String::new())).collect::<Vec<_>>());
        }
        if rows.is_empty() {
            self.problem(
                origin,
                exclude,
                "it leaves nothing of the matrix",
                Some("leave the case out instead: skip = \"why\""),
            );
        }
        rows
    }

    fn check_axes(&mut self, axes: &[(String, Vec<String>)], key: &str, origin: &Origin) {
        let mut variables = BTreeSet::new();
        for (axis, values) in axes {
            self.check_axis(axis, key, origin);
            if !variables.insert(variable(axis)) {
                self.problem(origin, key, format!("two axes would be the variable {}", variable(axis)), None);
            }
            if values.is_empty() {
                self.problem(origin, key, format!("axis `{axis}` has no values, so nothing would be run"), None);
            }
            let mut seen = BTreeSet::new();
            for value in values.iter().filter(|value| !seen.insert(plain_value(value))) {
                let why =
                    format!("axis `{axis}` has `{value}` twice, or another value that is the same in a file name");
                self.problem(origin, key, why, None);
            }
        }
        let count = axes.iter().map(|(_, values)| values.len()).try_fold(1usize, usize::checked_mul);
        if count.is_none_or(|count| count > MOST) {
            let why = format!("it makes more than {MOST} cases of one");
            self.problem(origin, key, why, Some("leave values out, or write several cases"));
        }
    }

    fn check_axis(&mut self, axis: &str, key: &str, origin: &Origin) {
        let is_good = axis.starts_with(|c: char| c.is_ascii_alphabetic())
            && axis.chars().all(|c| c.is_ascii_alphanumeric() || "_-".contains(c))
            && axis.len() <= 32;
        if !is_good {
            let why = format!("`{axis}` cannot be the name of an axis");
            self.problem(origin, key, why, Some("use up to 32 letters, digits, `_` and `-`, and begin with a letter"));
        }
    }

    /// Finds what an excluded combination names that no axis has: it would leave nothing out, and nobody would see it.
    fn check_excluded(&mut self, row: &[(String, String)], axes: &[(String, Vec<String>)], key: &str, origin: &Origin) {
        if row.is_empty() {
            self.problem(origin, key, "an empty row would leave everything out", None);
        }
        for (axis, value) in row {
            match axes.iter().find(|(own, _)| own == axis) {
                None => {
                    let known: Vec<&str> = axes.iter().map(|(own, _)| own.as_str()).collect();
                    self.problem(origin, key, format!("`{axis}` is no axis (known: {})", known.join(", ")), None);
                }
                Some((_, values)) if !values.contains(value) => {
                    let why = format!("axis `{axis}` has no value `{value}` (known: {})", values.join(", "));
                    self.problem(origin, key, why, None);
                }
                Some(_) => {}
            }
        }
    }

    /// Returns the combination that a row of `include` adds.
    fn included(
        &mut self,
        row: &[(String, String)],
        axes: &[(String, Vec<String>)],
        rows: &[MatrixRow],
        key: &str,
        origin: &Origin,
    ) -> Option<MatrixRow> {
        let mut out = MatrixRow::default();
        for (axis, _) in axes {
            let Some((_, value)) = row.iter().find(|(own, _)| own == axis) else {
                self.problem(
                    origin,
                    key,
                    format!("a row does not say what `{axis}` is"),
                    Some("a row sets every axis"),
                );
                return None;
            };
            out.axes.push((axis.clone(), value.clone()));
        }
        for (name, value) in row.iter().filter(|(name, _)| !axes.iter().any(|(axis, _)| axis == name)) {
            self.check_axis(name, key, origin);
            out.more.push((name.clone(), value.clone()));
        }
        let id = |row: &MatrixRow| row.axes.iter().map(|(_, value)| plain_value(value)).collect::<Vec<_>>();
        if rows.iter().any(|row| id(row) == id(&out)) {
            let values: Vec<String> = out.axes.iter().map(|(axis, value)| format!("{axis} {value}")).collect();
            self.problem(origin, key, format!("there is a combination {} already", values.join(", ")), None);
            return None;
        }
        Some(out)
    }

    /// Returns the cases that a case is: one for each combination.
    pub(super) fn variants(&mut self, case: &Case, rows: &[MatrixRow], shown: &str, origin: &Origin) -> Vec<Case> {
        let mut out = Vec::new();
        for row in rows {
            let mut one = case.clone();
            one.matrix = row.all().cloned().collect();
            if !row.axes.is_empty() {
                match case.id.variant(&row.axes) {
                    Ok(id) => one.id = id,
                    Err(e) => {
                        self.problem(
                            origin,
                            shown,
                            format!("the name and the values of its axes are too long: `{}`", e.text),
                            None,
                        );
                        return out;
                    }
                }
                self.fill(&mut one, shown, origin);
            }
            out.push(one);
        }
        out
    }

    /// Puts the values of a combination where the case has `{{axis}}`, and into its environment.
    fn fill(&mut self, case: &mut Case, shown: &str, origin: &Origin) {
        let matrix = case.matrix.clone();
        let mut wrong: BTreeSet<String> = BTreeSet::new();
        let mut put = |text: &mut String| {
            for (axis, value) in &matrix {
                let word = format!("{{{{{axis}}}}}");
                if text.contains(&word) {
                    if !value.chars().all(is_plain) {
                        wrong.insert(format!(
                            "`{word}` would stand for `{value}`, which a shell may not leave as it is; write \"${}\" instead",
                            variable(axis)
                        ));
                    }
                    *text = text.replace(&word, value);
                }
            }
        };
        texts_of(case).into_iter().for_each(&mut put);
        for why in wrong {
            self.problem(origin, shown, why, None);
        }
        let unknown: BTreeSet<String> = texts_of(case).into_iter().flat_map(|text| words_in(text)).collect();
        for word in unknown {
            let known: Vec<&str> = matrix.iter().map(|(axis, _)| axis.as_str()).collect();
            let note = format!(
                "{origin}: `{{{{{word}}}}}` of case `{}` stays as it is: it is no axis (known: {})",
                case.id.name(),
                known.join(", ")
            );
            self.note(note);
        }
        for (axis, value) in matrix {
            case.env.insert(variable(&axis), value);
        }
    }

    /// Returns for which guests a case is meant.
    pub(super) fn when(&mut self, suite: &str, index: usize, origin: &Origin) -> Option<WhenExpr> {
        let own = (format!("suites.{suite}.cases.{index}.when"), "suites.*.cases.[].when");
        let of_suite = (format!("suites.{suite}.when"), "suites.*.when");
        let (path, any) = if self.is_written(&own.0) { own } else { of_suite };
        let text = self.text(&path, any)?;
        let shown = path.replace(&format!(".cases.{index}."), &format!(".cases[{index}]."));
        let parsed = WhenExpr::parse(&text, self.env);
        parsed.map_err(|why| self.problem(origin, &shown, why, None)).ok()
    }

    /// Notes the cases that no guest of their suite runs.
    fn note_unreachable(&mut self, suite: &Suite, guests: &[Guest]) {
        let members = suite_members(suite, guests);
        let takes_part = |case: &Case, JobGuest { role, guest }: &JobGuest| {
            case.runs_on(role.as_ref()) && is_meant_for(case, guest, role.as_ref())
        };
        let is_run = |case: &Case| members.iter().any(|member| takes_part(case, member));
        let run: BTreeSet<&str> = suite.cases.iter().filter(|case| is_run(case)).map(|case| case.id.name()).collect();
        let mut told = BTreeSet::new();
        for case in &suite.cases {
            let Some(when) = &case.when else { continue };
            // One of its combinations is enough.
            if !run.contains(case.id.name()) && told.insert(case.id.name()) {
                let place = &case.place;
                let place = if place.line > 0 { format!("{}:{}: ", place.file, place.line) } else { String::new() };
                self.note(format!(
                    "{place}case `{}/{}` is run in no guest: `{}` is so in none of its suite",
                    suite.id,
                    case.id.name(),
                    when.text()
                ));
            }
        }
    }

    /// Finds what the conditions of a suite's cases ask for and nobody knows: such a case would silently never be run.
    pub(super) fn check_when(&mut self, suite: &Suite, guests: &[Guest], origin: &Origin) {
        let mut said = BTreeSet::new();
        self.note_unreachable(suite, guests);
        for case in &suite.cases {
            let Some(when) = &case.when else { continue };
            let facts = WhenFacts { guest: [""; 5], tags: &case.tags, matrix: &case.matrix };
            let mut mistakes: Vec<String> = when.holds(&facts).err().into_iter().collect();
            for (name, word, is_glob) in when.compared() {
                let known: Vec<&str> = match name {
                    "arch" => guests.iter().map(|guest| guest.arch.as_str()).chain(ARCHITECTURES).collect(),
                    "backend" => self.backends.to_vec(),
                    "tags" => suite.cases.iter().flat_map(|case| &case.tags).map(String::as_str).collect(),
                    "os" => [Os::Linux, Os::Windows, Os::Macos].map(Os::as_str).to_vec(),
                    "guest" => guests.iter().map(|guest| guest.key.as_str()).collect(),
                    "role" => suite.roles.keys().map(RoleId::as_str).collect(),
                    name if name.starts_with("matrix.") => {
                        let siblings = suite.cases.iter().filter(|other| other.id.name() == case.id.name());
                        let axis = &name["matrix.".len()..];
                        let values = siblings.flat_map(|other| &other.matrix).filter(|(own, _)| own == axis);
                        values.map(|(_, value)| value.as_str()).collect()
                    }
                    _ => continue,
                };
                let fits = |known: &&str| {
                    if is_glob {
                        Glob::new(word).is_ok_and(|g| g.compile_matcher().is_match(known))
                    } else {
                        *known == word
                    }
                };
                let is_unknown_axis = name.starts_with("matrix.") && known.is_empty();
                if word.is_empty() || is_unknown_axis || known.iter().any(fits) {
                    continue;
                }
                let known: Vec<&str> = known.into_iter().collect::<BTreeSet<_>>().into_iter().collect();
                let known =
                    if known.is_empty() { "there are none".to_owned() } else { format!("known: {}", known.join(", ")) };
                mistakes.push(match name {
                    "tags" => format!("no case of the suite has the tag `{word}` ({known})"),
                    _ if is_glob => format!("`{name}` never fits `{word}` ({known})"),
                    _ => format!("`{name}` is never `{word}` ({known})"),
                });
            }
            for why in mistakes {
                let text = format!("`{}`: {why}", when.text());
                if said.insert(text.clone()) {
                    let place = Origin::File(case.place.file.as_str().into(), case.place.line);
                    let origin = if case.place.line > 0 { &place } else { origin };
                    self.problem(origin, &format!("suites.{}.cases.{}.when", suite.id, case.id.name()), text, None);
                }
            }
        }
    }
}

/// Returns every text of a case in which `{{axis}}` stands for a value.
fn texts_of(case: &mut Case) -> Vec<&mut String> {
    let run: Vec<&mut String> = match &mut case.action {
        CaseAction::Run(text) | CaseAction::Manual(text) => vec![text],
        CaseAction::Steps(steps) => {
            let texts = steps.iter_mut().map(|step| if let CaseStep::Run(text) = step { Some(text) } else { None });
            texts.flatten().collect()
        }
        CaseAction::Discover(discovery) => match &mut discovery.source {
            DiscoverySource::Files { glob, run } => vec![glob, run],
            DiscoverySource::Command { command, run } => vec![command, run],
            DiscoverySource::Tool(_) => Vec::new(),
        },
        CaseAction::Script(_) | CaseAction::Host(_) => Vec::new(),
    };
    let around = [&mut case.around.before, &mut case.around.after, &mut case.around.on_failure];
    let mut out: Vec<&mut String> = run.into_iter().chain(around.into_iter().flatten()).collect();
    out.extend(case.dir.iter_mut().chain(case.skip.iter_mut()).chain(case.env.values_mut()));
    out.extend(case.results.files.iter_mut().chain(&mut case.artifacts).chain(&mut case.expect.files));
    out
}

/// Returns the variable by which a command sees the value of an axis.
fn variable(axis: &str) -> String {
    format!("VMDECK_MATRIX_{}", axis.to_ascii_uppercase().replace('-', "_"))
}

/// Returns the names that a text has in `{{..}}`, without those of the templates of other programs.
fn words_in(text: &str) -> Vec<String> {
    let words = text.split("{{").skip(1).filter_map(|rest| Some(rest.split_once("}}")?.0));
    let is_name = |word: &&str| {
        word.starts_with(|c: char| c.is_ascii_alphabetic())
            && word.chars().all(|c| c.is_ascii_alphanumeric() || "_-".contains(c))
    };
    words.filter(is_name).filter(|word| !OTHERS.contains(word)).map(str::to_owned).collect()
}

/// Returns every combination, the last axis changing first.
fn combinations(axes: &[(String, Vec<String>)]) -> Vec<MatrixRow> {
    let mut rows = vec![MatrixRow::default()];
    for (axis, values) in axes {
        let with = |row: &MatrixRow| {
            let row = row.clone();
            values.iter().map(move |value| {
                let mut row = row.clone();
                row.axes.push((axis.clone(), value.clone()));
                row
            })
        };
        rows = rows.iter().flat_map(with).collect();
    }
    rows
}

/// Returns the cases before that a case needs, of these names: of one with axes those that have the same values where both have the
/// axis. An error says of which there is none.
pub(super) fn needed(case: &Case, names: &[CaseId], before: &[Case]) -> Result<Vec<CaseId>, String> {
    let mut out = Vec::new();
    for name in names {
        let agrees = |other: &&Case| {
            let differs = |(axis, value): (&str, &str)| case.id.values().any(|(own, of)| own == axis && of != value);
            other.id.name() == name.as_str() && !other.id.values().any(differs)
        };
        let count = out.len();
        out.extend(before.iter().filter(agrees).map(|other| other.id.clone()));
        if out.len() == count {
            let is_there = before.iter().any(|other| other.id.name() == name.as_str());
            let why =
                if is_there { "of which no combination has the same values" } else { "which is no case before it" };
            return Err(format!("case `{}` needs `{name}`, {why}", case.id));
        }
    }
    Ok(out)
}
