//! Checked values to suites and their cases.
//!
//! What belongs to guests and the host is in `build`.

use super::{
    build::Build,
    build_matrix::{MatrixKeys, needed},
    tree::Origin,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};
use vmdeck_model::{
    guest::Guest,
    ids::{CaseId, GuestId, RoleId, SuiteId},
    key::Value,
    requirement::{Requirement, Version},
    select::Selector,
    suite::{
        Case, CasePlace, CaseScripts, CoverageKind, Expect, FlakyPolicy, Readiness, RebootPolicy, RunAs, Suite,
        does_nothing,
    },
    tag_expr::check_tag,
    trouble::TroubleKind,
};

/// The systems for which something can be installed.
const SYSTEMS: [&str; 3] = ["linux", "windows", "macos"];

impl Build<'_> {
    pub(super) fn suite(
        &mut self,
        name: &str,
        origin: &Origin,
        cases: &[Origin],
        guests: &[Guest],
        troubles: &[TroubleKind],
    ) -> Option<Suite> {
        let full = |key: &str| format!("suites.{name}.{key}");
        let any = |key: &str| format!("suites.*.{key}");
        let id = match SuiteId::new(name) {
            Ok(id) => id,
            Err(e) => {
                self.problem(origin, &format!("suites.{name}"), e.to_string(), None);
                return None;
            }
        };
        let roles = self.roles(name, origin, guests);
        let written = self.written_roles(name);
        let network = self.network(name, origin, &roles, guests);
        let mut on = self.texts(&full("guests"), &any("guests"));
        if self.is_written(&full("roles")) {
            if self.is_written(&full("guests")) {
                let why = "a suite has `roles` or `guests`";
                self.problem(origin, &full("guests"), why, Some("leave `guests` out: the roles name them"));
            }
            on.clear();
        }
        if on.first().is_some_and(|word| word.starts_with('!')) {
            let hint = "begin with \"*\": guests = [\"*\", \"!win*\"]";
            self.problem(origin, &full("guests"), "there is nothing yet that a `!` could take away", Some(hint));
        }
        for word in &on {
            let word = word.strip_prefix('!').unwrap_or(word);
            let fits = Selector::parse(&format!("@{word}"));
            let hits =
                |g: &&Guest| globset::Glob::new(word).is_ok_and(|glob| glob.compile_matcher().is_match(g.id.as_str()));
            if fits.is_err() || !guests.iter().any(|g| hits(&g)) {
                self.problem(origin, &full("guests"), no_guest(word, guests), None);
            }
        }
        let timeout = self.duration(&full("timeout"), &any("timeout"));
        let retries = self.number(&full("retries"), &any("retries"));
        let trouble_ignore = self.ignored_troubles(&full("trouble_ignore"), &any("trouble_ignore"), origin, troubles);
        let mut tags = self.tags(&full("tags"), &any("tags"), origin);
        if self.is_written("defaults.case.tags") {
            tags.extend(self.tags("defaults.case.tags", "suites.*.cases.[].tags", origin));
        }
        let rows = self.rows(&MatrixKeys::of_suite(name), origin);
        let mut env = BTreeMap::new();
        if self.is_written("defaults.case.env") {
            env = self.env("defaults.case.env", "suites.*.cases.[].env", origin);
        }
        env.extend(self.env(&full("env"), &any("env"), origin));
        let mut seen = BTreeSet::new();
        let mut list: Vec<Case> = Vec::new();
        for (index, origin) in cases.iter().enumerate() {
            let case = self.case(name, index, origin, timeout, retries, (&roles, &written));
            if let Some(mut case) = case {
                let rows = self.case_rows(name, index, &rows, origin);
                let shown = format!("suites.{name}.cases[{index}]");
                let path = format!("suites.{name}.cases.{index}.trouble_ignore");
                let own = self.ignored_troubles(&path, "suites.*.cases.[].trouble_ignore", origin, troubles);
                case.trouble_ignore = [&trouble_ignore[..], &own].concat();
                case.tags.extend(tags.iter().cloned());
                case.tags.sort();
                case.tags.dedup();
                for (name, value) in env.iter().filter(|(_, value)| value.contains("{{")) {
                    // What stands for a value of an axis differs from case to case.
                    case.env.entry(name.clone()).or_insert_with(|| value.clone());
                }
                if !seen.insert(case.id.clone()) {
                    self.problem(
                        origin,
                        &full("cases"),
                        format!("there are two cases `{}`", case.id),
                        Some("give each its own name"),
                    );
                }
                let mut variants = self.variants(&case, &rows, &shown, origin);
                for case in &mut variants {
                    case.needs = needed(case, &case.needs, &list).unwrap_or_else(|why| {
                        let hint = "cases run in the order in which they are written";
                        self.problem(origin, &format!("{shown}.needs"), why, Some(hint));
                        Vec::new()
                    });
                }
                list.extend(variants);
            }
        }
        if let Some(at) = list.iter().position(|case| case.background.is_some())
            && let Some(fresh) = list[at..].iter().find(|case| case.fresh)
        {
            let (name, going) = (&fresh.id, &list[at].id);
            let text = format!("case `{name}` gets a new machine, in which `{going}` does not go on");
            self.problem(
                origin,
                &full("cases"),
                text,
                Some("take `fresh` or `background` out, or give it a suite of its own"),
            );
        }
        if cases.is_empty() {
            self.problem(
                origin,
                &full("cases"),
                "the suite has no cases",
                Some("add `[[suites.NAME.cases]]` with `name` and `run`"),
            );
        }
        for key in ["timeout", "setup_timeout", "teardown_timeout"] {
            if self.duration(&full(key), &any(key)) == Some(Duration::ZERO) {
                self.problem(origin, &full(key), "nothing can be done in no time", Some("write it like \"90s\""));
            }
        }
        let artifacts_required = self.flag(&full("artifacts_required"), &any("artifacts_required"));
        let artifacts = self.texts(&full("artifacts"), &any("artifacts"));
        let has_artifacts = !artifacts.is_empty() || list.iter().any(|case| !case.artifacts.is_empty());
        if artifacts_required && !has_artifacts {
            self.problem(origin, &full("artifacts_required"), "there are no `artifacts` that it could require", None);
        }
        let setup_inputs = self.setup_inputs(name, origin);
        let suite = Suite {
            id,
            setup_inputs,
            guests: on,
            roles,
            network,
            setup_timeout: self.duration(&full("setup_timeout"), &any("setup_timeout")).unwrap_or_default(),
            teardown_timeout: self.duration(&full("teardown_timeout"), &any("teardown_timeout")).unwrap_or_default(),
            shell: self.shell(&full("shell"), &any("shell")),
            artifacts_required,
            artifacts_timeout: self.duration(&full("artifacts_timeout"), &any("artifacts_timeout")).unwrap_or_default(),
            artifacts_size: match self.value(&full("artifacts_size"), &any("artifacts_size")) {
                Some(Value::Size(size)) => size,
                _ => 0,
            },
            requires: self.requires(name, origin),
            setup: self.text(&full("setup"), &any("setup")),
            teardown: self.text(&full("teardown"), &any("teardown")),
            env,
            dir: self.text(&full("dir"), &any("dir")),
            run_as: self.run_as(&full("run_as"), &any("run_as")).unwrap_or_default(),
            artifacts,
            coverage: self
                .text(&full("coverage"), &any("coverage"))
                .map_or_else(CoverageKind::default, |w| CoverageKind::of_word(&w)),
            trouble_ignore,
            cases: list,
        };
        self.check_when(&suite, guests, origin);
        Some(suite)
    }

    /// Returns the files of the source on which the setup of a suite depends.
    fn setup_inputs(&mut self, suite: &str, origin: &Origin) -> Option<Vec<String>> {
        let full = |key: &str| format!("suites.{suite}.{key}");
        let Some(Value::Texts(globs)) = self.value(&full("setup_inputs"), "suites.*.setup_inputs") else { return None };
        let problem = if self.text(&full("setup"), "suites.*.setup").is_none() {
            Some(("there is no `setup` that could depend on them", "add one, or take it out"))
        } else if self.text(&full("teardown"), "suites.*.teardown").is_some() {
            Some(("what the `teardown` undoes the setup has to do again each time", "take one of the two out"))
        } else {
            None
        };
        if let Some((what, hint)) = problem {
            self.problem(origin, &full("setup_inputs"), what, Some(hint));
        }
        for glob in &globs {
            if let Err(e) = globset::Glob::new(glob) {
                self.problem(origin, &full("setup_inputs"), format!("cannot read `{glob}`: {e}"), None);
            }
        }
        Some(globs)
    }

    fn requires(&mut self, suite: &str, origin: &Origin) -> Vec<Requirement> {
        let mut out = Vec::new();
        for index in 0.. {
            let full = |key: &str| format!("suites.{suite}.requires.{index}.{key}");
            let any = |key: &str| format!("suites.*.requires.[].{key}");
            if !["cmd", "at_least", "install"].iter().any(|key| self.is_written(&full(key))) {
                break;
            }
            let shown = format!("suites.{suite}.requires[{index}]");
            let Some(cmd) = self.text(&full("cmd"), &any("cmd")).filter(|cmd| !does_nothing(cmd)) else {
                let hint = "name the command that tells whether it is there, such as `go version`";
                self.problem(origin, &shown, "`cmd` is missing", Some(hint));
                continue;
            };
            let at_least = self.text(&full("at_least"), &any("at_least")).and_then(|text| {
                let version = Version::parse(&text);
                if version.is_none() {
                    let why = format!("`{text}` is no version");
                    self.problem(origin, &full("at_least"), why, Some("write numbers with dots: \"1.25\""));
                }
                version
            });
            let mut install = BTreeMap::new();
            if let Some(Value::Map(map)) = self.value(&full("install"), &any("install")) {
                for (system, text) in map {
                    if let Some(known) = SYSTEMS.iter().find(|known| **known == system) {
                        install.insert(*known, text);
                    } else {
                        let why = format!("`{system}` is no system (known: {})", SYSTEMS.join(", "));
                        self.problem(origin, &full("install"), why, None);
                    }
                }
            }
            out.push(Requirement { cmd, at_least, install });
        }
        out
    }

    /// Returns what is run around a case: what it says itself, else what its suite says.
    fn scripts(
        &mut self,
        suite: &str,
        full: &dyn Fn(&str) -> String,
        any: &dyn Fn(&str) -> String,
        shown: &str,
        origin: &Origin,
    ) -> CaseScripts {
        let [before, after, on_failure] = ["before_each", "after_each", "on_failure"].map(|key| {
            let own = self.text(&full(key), &any(key));
            if own.as_ref().is_some_and(String::is_empty) {
                // The case has none, whatever its suite says.
                return None;
            }
            let text = own.or_else(|| self.text(&format!("suites.{suite}.{key}"), &format!("suites.*.{key}")));
            if text.as_ref().is_some_and(|text| does_nothing(text)) {
                self.problem(origin, &format!("{shown}.{key}"), "it is empty, and would do nothing", None);
            }
            text
        });
        CaseScripts { before, after, on_failure }
    }

    /// Returns when the case behind one begins that goes on beside it. What such a case cannot be, or do, is a mistake.
    fn background(
        &mut self,
        full: &dyn Fn(&str) -> String,
        any: &dyn Fn(&str) -> String,
        shown: &str,
        origin: &Origin,
    ) -> Option<Readiness> {
        let goes_on = self.text(&full("background"), &any("background")).is_some();
        if !goes_on {
            if self.is_written(&full("ready")) {
                let hint = "add `background = \"until-end\"`, or take it out";
                self.problem(origin, &format!("{shown}.ready"), "only a case that goes on is waited for", Some(hint));
            }
            return None;
        }
        for key in ["steps", "discover", "manual", "reboot", "results", "rerun", "retries", "exclusive", "artifacts"] {
            let says_none = match self.written(&full(key)) {
                Some(Value::Bool(false) | Value::Int(0)) => true,
                Some(Value::Texts(list)) => list.is_empty(),
                Some(Value::Text(word)) => key == "reboot" && word == "forbidden",
                _ => false,
            };
            if self.is_written(&full(key)) && !says_none {
                let text = format!("a case that goes on to the end of its suite has no `{key}`");
                self.problem(origin, &format!("{shown}.{key}"), text, Some("take one of the two out"));
            }
        }
        if let Some(Value::Expect(expect)) = self.written(&full("expect")).cloned()
            && (expect.exit != 0 || expect.skip.is_some())
        {
            let text =
                "a case that goes on to the end of its suite does not exit: its `expect` has no `exit` and no `skip`";
            self.problem(origin, &format!("{shown}.expect"), text, Some("take them out"));
        }
        if let Some(Value::Expect(expect)) = self.value(&full("expect"), &any("expect"))
            && !expect.files.is_empty()
        {
            // Nobody would look for them.
            let text = "a case that goes on to the end of its suite has no files that could be looked for when it ends";
            self.problem(origin, &format!("{shown}.expect"), text, Some("look for them in a case of their own"));
        }
        match self.value(&full("ready"), &any("ready")) {
            Some(Value::Ready(ready)) => Some(ready),
            _ => Some(Readiness::Started),
        }
    }

    fn run_as(&mut self, path: &str, key: &str) -> Option<RunAs> {
        self.text(path, key).map(|word| RunAs::of_word(&word))
    }

    fn tags(&mut self, path: &str, key: &str, origin: &Origin) -> Vec<String> {
        let tags = self.texts(path, key);
        for why in tags.iter().filter_map(|tag| check_tag(tag).err()) {
            self.problem(origin, path, why, None);
        }
        tags
    }

    fn env(&mut self, path: &str, key: &str, origin: &Origin) -> BTreeMap<String, String> {
        let Some(Value::Map(map)) = self.value(path, key) else { return BTreeMap::new() };
        for name in map.keys() {
            if name == "VMDECK" || name.starts_with("VMDECK_") {
                let why = format!("`{name}` is one of those that vmdeck sets itself");
                self.problem(origin, path, why, Some("give it another name"));
            }
            let good = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
                && !name.starts_with(|c: char| c.is_ascii_digit());
            if !good {
                self.problem(
                    origin,
                    path,
                    format!("`{name}` cannot be a variable's name"),
                    Some("use letters, digits and _"),
                );
            }
        }
        map
    }

    fn case(
        &mut self,
        suite: &str,
        index: usize,
        origin: &Origin,
        timeout: Option<Duration>,
        retries: u32,
        (roles, written): (&BTreeMap<RoleId, GuestId>, &[String]),
    ) -> Option<Case> {
        let full = |key: &str| format!("suites.{suite}.cases.{index}.{key}");
        let any = |key: &str| format!("suites.*.cases.[].{key}");
        let shown = format!("suites.{suite}.cases[{index}]");
        let Some(name) = self.text(&full("name"), &any("name")) else {
            self.problem(origin, &shown, "`name` is missing", None);
            return None;
        };
        let id = CaseId::new(&name).map_err(|e| self.problem(origin, &shown, e.to_string(), None)).ok()?;
        let on = self.case_roles(&full("on"), &name, origin, roles, written);
        let action = self.action((suite, index), &name, &on, origin)?;
        let own =
            if self.is_written(&full("retries")) { self.number(&full("retries"), &any("retries")) } else { retries };
        let expect = if let Some(Value::Expect(expect)) = self.value(&full("expect"), &any("expect")) {
            expect
        } else {
            Expect::default()
        };
        Some(Case {
            id,
            action,
            shell: self.shell(&full("shell"), &any("shell")),
            on,
            place: match origin {
                Origin::File(file, line) => CasePlace { file: file.to_string(), line: *line },
                _ => CasePlace::default(),
            },
            timeout: self.duration(&full("timeout"), &any("timeout")).or(timeout),
            expect,
            retries: own,
            flaky: {
                let own = self.text(&full("flaky"), &any("flaky"));
                let word = own.or_else(|| self.text(&format!("suites.{suite}.flaky"), "suites.*.flaky"));
                word.map_or_else(FlakyPolicy::default, |word| FlakyPolicy::of_word(&word))
            },
            skip: self.text(&full("skip"), &any("skip")),
            results: self.results(suite, index, origin),
            needs: {
                let names = self.texts(&full("needs"), &any("needs"));
                let ids = names.iter().map(|name| CaseId::new(name)).collect::<Result<Vec<_>, _>>();
                ids.map_err(|e| self.problem(origin, &format!("{shown}.needs"), e.to_string(), None))
                    .unwrap_or_default()
            },
            around: self.scripts(suite, &full, &any, &shown, origin),
            tags: self.tags(&full("tags"), &any("tags"), origin),
            env: self.env(&full("env"), &any("env"), origin),
            dir: self.text(&full("dir"), &any("dir")),
            run_as: self.run_as(&full("run_as"), &any("run_as")),
            trouble_ignore: Vec::new(),
            matrix: Vec::new(),
            when: self.when(suite, index, origin),
            explicit: self.flag(&full("explicit"), &any("explicit")),
            fresh: self.flag(&full("fresh"), &any("fresh")),
            background: self.background(&full, &any, &shown, origin),
            exclusive: self.flag(&full("exclusive"), &any("exclusive")),
            artifacts: self.texts(&full("artifacts"), &any("artifacts")),
            reboot: self
                .text(&full("reboot"), &any("reboot"))
                .map_or_else(RebootPolicy::default, |w| RebootPolicy::of_word(&w)),
        })
    }
}

/// Returns that a word names no guest, and which there are.
pub(super) fn no_guest(word: &str, guests: &[Guest]) -> String {
    let known: Vec<&str> = guests.iter().map(|guest| guest.id.as_str()).collect();
    format!("`{word}` is not a guest (known: {})", known.join(", "))
}
