//! `spread.yaml` and its `task.yaml` files.
//!
//! Facts, of spread's documentation and sources: scripts run by bash with `set -eu`, as root; those of a project start in its folder,
//! those of tasks and suites in the task's; the values of variables are expanded in the guest; a variant of any variable makes a job
//! of its own; `restore` runs whatever happened before; only a direct child of a suite's folder is a task.

use super::{
    draft::{CaseDraft, ConfigDraft, SuiteDraft, apart, plain},
    yaml::{self, duration, entries, scalar, texts},
};
use crate::app::init::guest::CODE;
use globset::Glob;
use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};
use vmdeck_core::command::sh_quote;
use vmdeck_model::error::Result;

/// The keys that are taken over, or mean nothing for a run.
const PROJECT: &[&str] = &[
    "project",
    "path",
    "backends",
    "suites",
    "environment",
    "exclude",
    "prepare",
    "restore",
    "prepare-each",
    "restore-each",
    "debug-each",
    "kill-timeout",
];
const SUITE: &[&str] = &[
    "summary",
    "details",
    "systems",
    "backends",
    "variants",
    "environment",
    "prepare",
    "restore",
    "prepare-each",
    "restore-each",
    "debug",
    "debug-each",
    "kill-timeout",
    "manual",
];
const TASK: &[&str] = &[
    "summary",
    "details",
    "systems",
    "backends",
    "variants",
    "environment",
    "prepare",
    "execute",
    "restore",
    "debug",
    "artifacts",
    "kill-timeout",
    "manual",
    "tags",
];

/// The words that exist only within spread's scripts, as functions for those that use them.
const HELPERS: [(&str, &str); 4] = [
    ("REBOOT", "REBOOT() { \"$VMDECK_REBOOT\" \"$@\"; }"),
    ("NOMATCH", "NOMATCH() { local text; text=$(cat); ! grep -qE \"$@\" <<< \"$text\"; }"),
    (
        "MATCH",
        "MATCH() { local text; text=$(cat); grep -qE \"$@\" <<< \"$text\" || { printf '%s\\n' \"$text\"; return 1; }; }",
    ),
    ("ERROR", "ERROR() { echo \"$*\" >&2; exit 1; }"),
];

/// A guest, and what spread calls it.
struct SpreadSystem {
    name: String,
    backend: String,
    guest: String,
}

/// Variables of one level: those for all variants, and those of some.
#[derive(Clone, Default)]
struct Environment {
    plain: Vec<(String, String)>,
    variants: BTreeMap<String, Vec<(String, String)>>,
}

impl Environment {
    /// Returns the variables with those of a further level, which win.
    fn with(&self, value: &Value) -> Self {
        let mut out = self.clone();
        for (key, value) in entries(value) {
            // Nothing is the empty text.
            let text = scalar(value).unwrap_or_default();
            match key.split_once('/') {
                Some((key, variants)) => {
                    for variant in variants.split(',') {
                        set(out.variants.entry(variant.trim().to_owned()).or_default(), key, &text);
                    }
                }
                None => set(&mut out.plain, key, &text),
            }
        }
        out
    }

    /// Returns every variant that these lists leave, with its variables; one without a name where there are none.
    fn jobs(&self, lists: &[Vec<String>; 2]) -> Vec<(String, Vec<(String, String)>)> {
        if self.variants.is_empty() {
            return vec![(String::new(), self.plain.clone())];
        }
        let all: BTreeSet<String> = self.variants.keys().cloned().collect();
        let wanted = lists.iter().fold(all, |all, words| chosen(&all, words));
        let job = |(name, own): (&String, &Vec<(String, String)>)| {
            let mut all = self.plain.clone();
            for (key, value) in own {
                set(&mut all, key, value);
            }
            (name.clone(), all)
        };
        self.variants.iter().filter(|(name, _)| wanted.contains(*name)).map(job).collect()
    }
}

/// Returns a script of the project, a suite or a task; none where it has nothing but space.
fn script(value: &Value, key: &str) -> Option<String> {
    scalar(&value[key]).filter(|text| !text.trim().is_empty())
}

fn set(list: &mut Vec<(String, String)>, key: &str, value: &str) {
    list.retain(|(other, _)| other != key);
    list.push((key.to_owned(), value.to_owned()));
}

/// Takes a project over.
pub(super) fn convert(path: &Path, draft: &mut ConfigDraft<'_>) -> Result<()> {
    let project = yaml::read(path)?;
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    draft.leftovers(&project, PROJECT, "the project");
    let wanted = scalar(&project["path"]).unwrap_or_default();
    let is_safe =
        wanted.starts_with('/') && wanted.trim_end_matches('/').matches('/').count() >= 2 && !wanted.contains("..");
    let code = if is_safe { wanted.trim_end_matches('/').to_owned() } else { CODE.to_owned() };
    if code != wanted.trim_end_matches('/') {
        draft.note(format!("`path` of the project: the code is at `{code}`, since a folder that is replaced lies at least two levels deep"));
    }
    let systems = systems(&project, &code, draft);
    if !project["prepare"].is_null() && entries(&project["suites"]).count() > 1 {
        // Once for each machine, as spread does it.
        draft.note(
            "`prepare` of the project is in the setup of each suite; each suite has machines of its own for that",
        );
        for system in &systems {
            draft.set(&system.guest, "fresh", "suite");
        }
    }
    let environment = Environment::default().with(&project["environment"]);
    for (key, suite) in entries(&project["suites"]) {
        let frame = SuiteFrame { project: &project, suite, name: key, folder, code: &code, systems: &systems };
        frame.convert(&environment, draft)?;
    }
    Ok(())
}

/// Makes a guest of each system of each backend; the same one of two backends is one guest.
fn systems(project: &Value, code: &str, draft: &mut ConfigDraft<'_>) -> Vec<SpreadSystem> {
    let mut out: Vec<SpreadSystem> = Vec::new();
    for (backend, value) in entries(&project["backends"]) {
        let kind = scalar(&value["type"]).unwrap_or_else(|| backend.clone());
        if kind != "qemu" {
            draft.note(format!("backend `{backend}` ({kind}): its systems are guests in QEMU here"));
        }
        draft.leftovers(value, &["type", "systems", "memory"], &format!("the backend `{backend}`"));
        for system in yaml::list(&value["systems"]) {
            let (name, more) = match system {
                Value::Object(map) => map.iter().next().map_or((String::new(), &Value::Null), |(k, v)| (k.clone(), v)),
                other => (scalar(other).unwrap_or_default(), &Value::Null),
            };
            if name.is_empty() {
                continue;
            }
            let known = out.iter().find(|other| other.name == name).map(|other| other.guest.clone());
            let guest = known.unwrap_or_else(|| {
                let image = scalar(&more["image"]).unwrap_or_else(|| name.clone());
                let guest = draft.guest(&name, &image, code);
                if let Some(memory) = scalar(&value["memory"]).filter(|text| text.ends_with(['G', 'M'])) {
                    draft.set(&guest, "memory", format!("{memory}iB"));
                }
                let excluded = texts(&project["exclude"]);
                if !excluded.is_empty() {
                    draft.set(
                        &guest,
                        "source.exclude",
                        toml::Value::Array(excluded.into_iter().map(Into::into).collect()),
                    );
                }
                guest
            });
            draft.leftovers(more, &["image", "username", "password"], &format!("the system `{name}`"));
            if ["username", "password"].iter().any(|key| !more[*key].is_null()) {
                draft.note(format!("the login of the system `{name}`: vmdeck makes one of its own (`seed`)"));
            }
            out.push(SpreadSystem { name, backend: backend.clone(), guest });
        }
    }
    out
}

/// Returns what is left of all names by a list of spread: plain names replace, `+name` and `-name` change.
fn chosen(all: &BTreeSet<String>, words: &[String]) -> BTreeSet<String> {
    let matches = |pattern: &str| -> BTreeSet<String> {
        let glob = Glob::new(pattern).ok().map(|glob| glob.compile_matcher());
        all.iter().filter(|name| glob.as_ref().is_some_and(|glob| glob.is_match(name))).cloned().collect()
    };
    if words.is_empty() {
        return all.clone();
    }
    let is_change = words.iter().all(|word| word.starts_with(['-', '+']));
    let mut out = if is_change { all.clone() } else { BTreeSet::new() };
    for word in words {
        match word.strip_prefix('-') {
            Some(word) => out.retain(|name| !matches(word).contains(name)),
            None => out.extend(matches(word.trim_start_matches('+'))),
        }
    }
    out
}

/// A suite, and what surrounds it.
struct SuiteFrame<'a> {
    project: &'a Value,
    suite: &'a Value,
    name: &'a str,
    folder: &'a Path,
    code: &'a str,
    systems: &'a [SpreadSystem],
}

impl SuiteFrame<'_> {
    fn convert(&self, environment: &Environment, draft: &mut ConfigDraft<'_>) -> Result<()> {
        let environment = environment.with(&self.suite["environment"]);
        draft.leftovers(self.suite, SUITE, &format!("the suite `{}`", self.name));
        let tasks = self.tasks();
        if tasks.is_empty() {
            draft.note(format!("the suite `{}`: there is no task in its folder", self.name));
        }
        // Tasks that run on the same guests are one suite.
        let mut suites: Vec<SuiteDraft> = Vec::new();
        for task in tasks {
            let path = self.folder.join(&task).join("task.yaml");
            let value = yaml::read(&path)?;
            let guests = self.guests(&value);
            let cases = self.cases(&task, &value, &environment, draft);
            if guests.is_empty() {
                draft.note(format!("task `{task}`: none of the systems fits it"));
                continue;
            }
            let at = suites.iter().position(|suite| suite.guests == guests).unwrap_or_else(|| {
                suites.push(self.empty(guests, &task, &environment, draft));
                suites.len() - 1
            });
            suites[at].cases.extend(cases);
        }
        for suite in suites {
            draft.suite(suite);
        }
        Ok(())
    }

    /// Returns the folders of the tasks, in the order of their names.
    fn tasks(&self) -> Vec<String> {
        let suite = self.name.trim_end_matches('/');
        let children = std::fs::read_dir(self.folder.join(suite)).into_iter().flatten().flatten();
        let mut out: Vec<String> = children
            .filter(|child| child.path().join("task.yaml").is_file())
            .filter_map(|child| Some(format!("{suite}/{}", child.file_name().to_str()?)))
            .collect();
        out.sort();
        out
    }

    /// Returns the guests of a task: its own lists replace those of its suite.
    fn guests(&self, task: &Value) -> Vec<String> {
        let narrowed = |key: &str, all: BTreeSet<String>| -> BTreeSet<String> {
            let of_suite = chosen(&all, &texts(&self.suite[key]));
            let own = texts(&task[key]);
            let changes = own.iter().all(|word| word.starts_with(['-', '+']));
            if changes { chosen(&of_suite, &own) } else { chosen(&all, &own) }
        };
        let backends = narrowed("backends", self.systems.iter().map(|s| s.backend.clone()).collect());
        let systems = narrowed("systems", self.systems.iter().map(|s| s.name.clone()).collect());
        let mut out: Vec<String> = Vec::new();
        for system in self.systems.iter().filter(|s| backends.contains(&s.backend) && systems.contains(&s.name)) {
            if !out.contains(&system.guest) {
                out.push(system.guest.clone());
            }
        }
        out
    }

    /// Returns the suite without cases.
    fn empty(
        &self,
        guests: Vec<String>,
        first: &str,
        environment: &Environment,
        draft: &mut ConfigDraft<'_>,
    ) -> SuiteDraft {
        // A suite's scripts start in the folder of the task that comes first.
        let in_task = |text: String| format!("cd {}\n{text}", sh_quote(first));
        let frame = |parts: [Option<String>; 2]| -> Vec<String> {
            let parts: Vec<String> = parts.into_iter().flatten().map(|part| apart(&part)).collect();
            if parts.is_empty() {
                return parts;
            }
            let text = parts.join("\n");
            let exports = self.exports(&environment.plain, first, "", &text);
            [helpers(&text), exports, vec![text]].concat()
        };
        let timeout = [self.suite, self.project].iter().find_map(|value| scalar(&value["kill-timeout"]));
        for (variable, value) in &environment.plain {
            if value.contains("$(HOST:") {
                draft.note(format!("the variable `{variable}` is computed on this host: `{value}`"));
            }
        }
        SuiteDraft {
            name: self.name.trim_end_matches('/').replace('/', "-"),
            guests,
            setup: frame([script(self.project, "prepare"), script(self.suite, "prepare").map(in_task)]),
            teardown: frame([script(self.suite, "restore").map(in_task), script(self.project, "restore")]),
            timeout: timeout.as_deref().and_then(duration).or_else(|| Some("15m".to_owned())),
            run_as_root: true,
            shell: &["bash", "-eu", "-c"],
            env: [("DEBIAN_FRONTEND", "noninteractive"), ("DEBIAN_PRIORITY", "critical")]
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .to_vec(),
            ..SuiteDraft::default()
        }
    }

    /// Returns a case for each variant of a task.
    fn cases(
        &self,
        task: &str,
        value: &Value,
        environment: &Environment,
        draft: &mut ConfigDraft<'_>,
    ) -> Vec<CaseDraft> {
        draft.leftovers(value, TASK, &format!("the task `{task}`"));
        let environment = environment.with(&value["environment"]);
        let before = [(self.project, "prepare-each"), (self.suite, "prepare-each"), (value, "prepare")];
        let after = [(value, "restore"), (self.suite, "restore-each"), (self.project, "restore-each")];
        let parts = |list: &[(&Value, &str)]| -> Vec<String> {
            list.iter().filter_map(|(value, key)| script(value, key)).map(|text| apart(&text)).collect()
        };
        let (before, after) = (parts(&before), parts(&after));
        let execute = script(value, "execute").unwrap_or_else(|| ":".to_owned());
        let debug = parts(&[(value, "debug"), (self.suite, "debug-each"), (self.project, "debug-each")]);
        let all = [before.join("\n"), after.join("\n"), execute.clone()].join("\n");
        for name in ["SPREAD_JOB", "SPREAD_BACKEND", "SPREAD_PROJECT", "SPREAD_SAMPLE"]
            .iter()
            .filter(|name| all.contains(**name))
        {
            draft.note(format!("the task `{task}` reads `{name}`, which is not set here"));
        }
        for (name, _) in environment.plain.iter().filter(|(name, _)| !is_name(name)) {
            draft.note(format!("the variable `{name}`, which no shell can have"));
        }
        let names_reboot =
            |text: &str| text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').any(|word| word == "REBOOT");
        let is_around = before.iter().chain(&after).any(|text| names_reboot(text));
        let skip = is_around.then(|| "it restarts the machine by spread's REBOOT around its task".to_owned());
        let restarts = names_reboot(&execute);
        let is_explicit = value["manual"] == true || self.suite["manual"] == true;
        let artifacts = texts(&value["artifacts"]);
        let artifact = |path: &String| format!("{task}/{path}{}", if path.ends_with('/') { "**" } else { "" });
        let short = task.rsplit('/').next().unwrap_or(task);
        let one = |(variant, variables): (String, Vec<(String, String)>)| {
            let whole = |text: String| {
                let mut lines = helpers(&text);
                lines.push(format!("cd {}", sh_quote(task)));
                lines.extend(self.exports(&variables, task, &variant, &text));
                lines.push(text);
                lines.join("\n") + "\n"
            };
            let around = |parts: &[String]| (!parts.is_empty()).then(|| whole(parts.join("\n")));
            CaseDraft {
                name: if variant.is_empty() { short.to_owned() } else { format!("{short}-{variant}") },
                run: whole(execute.trim_end().to_owned()),
                before: around(&before),
                after: around(&after),
                on_failure: around(&debug),
                tags: texts(&value["tags"]).iter().map(|tag| plain(tag)).collect(),
                is_explicit,
                restarts,
                artifacts: artifacts.iter().map(artifact).collect(),
                timeout: scalar(&value["kill-timeout"]).as_deref().and_then(duration),
                skip: skip.clone(),
                ..CaseDraft::default()
            }
        };
        environment.jobs(&[texts(&self.suite["variants"]), texts(&value["variants"])]).into_iter().map(one).collect()
    }

    /// Returns the lines that set the variables that a script reads; their values are expanded in the guest.
    fn exports(&self, variables: &[(String, String)], task: &str, variant: &str, script: &str) -> Vec<String> {
        let suite = format!("{}/", self.name.trim_end_matches('/'));
        let own = [
            ("SPREAD_PATH", self.code),
            ("SPREAD_TASK", task),
            ("SPREAD_SUITE", suite.as_str()),
            ("SPREAD_VARIANT", variant),
        ];
        let read = |name: &str| script.contains(name) || variables.iter().any(|(_, value)| value.contains(name));
        let own =
            own.iter().filter(|(name, _)| read(name)).map(|(name, value)| format!("export {name}={}", sh_quote(value)));
        let system = read("SPREAD_SYSTEM")
            .then(|| "export SPREAD_SYSTEM=$(. /etc/os-release; echo \"$ID-${VERSION_ID:-}\")".to_owned());
        let reboot = read("SPREAD_REBOOT")
            .then(|| "export SPREAD_REBOOT=\"${VMDECK_REBOOT_MARK:-${VMDECK_REBOOT_COUNT:-0}}\"".to_owned());
        let theirs =
            variables.iter().filter(|(_, value)| !value.contains("$(HOST:")).filter(|(name, _)| is_name(name)).map(
                |(name, value)| match value.chars().next() {
                    // As the shell reads it.
                    Some('"' | '\'') => format!("export {name}={value}"),
                    _ => format!("export {name}=\"{}\"", value.replace('"', "\\\"")),
                },
            );
        own.chain(system).chain(reboot).chain(theirs).collect()
    }
}

/// Returns whether a shell can have a variable of this name.
fn is_name(name: &str) -> bool {
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_') && name.chars().all(is_word)
}

/// Returns the functions that a script uses.
fn helpers(script: &str) -> Vec<String> {
    HELPERS.iter().filter(|(name, _)| script.contains(name)).map(|(_, text)| (*text).to_owned()).collect()
}
