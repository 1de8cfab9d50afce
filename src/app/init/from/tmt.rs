//! tmt's plans and tests.
//!
//! Facts, of tmt's specification: a plan has `execute`, a test has `test`; each step is a table or a list of them; tests run as root,
//! by bash with `set -eo pipefail`, in the folder of their file; a plan's variables win over a test's.

use super::{
    draft::{CaseDraft, ConfigDraft, SuiteDraft, apart, plain},
    fmf::{self, Leaf},
    yaml::{self, entries, list, scalar, texts},
};
use crate::app::init::guest::CODE;
use regex::Regex;
use serde_json::Value;
use std::path::Path;
use vmdeck_core::command::sh_quote;
use vmdeck_model::error::{Fault, Result};

/// Installs packages by whatever the system has.
const INSTALL: &str = "install() {
  if command -v dnf >/dev/null; then
    dnf -y install \"$@\"
  elif command -v apt-get >/dev/null; then
    apt-get update
    apt-get -y install \"$@\"
  else
    zypper -n install \"$@\"
  fi
}";

/// Takes the plans and tests of a tree over.
pub(super) fn convert(path: &Path, draft: &mut ConfigDraft<'_>) -> Result<()> {
    let root = fmf::root(path);
    let leaves = fmf::leaves(&root)?;
    let (plans, tests): (Vec<&Leaf>, Vec<&Leaf>) = leaves
        .iter()
        .filter(|leaf| !leaf.data["execute"].is_null() || !leaf.data["test"].is_null())
        .partition(|leaf| !leaf.data["execute"].is_null());
    if plans.is_empty() && tests.is_empty() {
        return Err(Fault::user(format!("cannot take `{}` over", path.display()))
            .because("it holds no plan and no test of tmt"));
    }
    if plans.is_empty() {
        let guest = draft.guest("fedora", "fedora", CODE);
        let plan = Leaf { name: "/tests".into(), data: Value::Null, folder: String::new() };
        draft.note("there is no plan: all tests run on a Fedora");
        suite(&plan, &tests, vec![guest], draft);
        return Ok(());
    }
    let mut made: Vec<(Value, String)> = Vec::new();
    for plan in plans {
        let guests = provision(plan, &mut made, draft);
        for key in ["adjust", "environment-file", "gate", "import", "context"] {
            if !plan.data[key].is_null() {
                draft.note(format!("`{key}` of the plan `{}`", plan.name));
            }
        }
        if plan.data["enabled"] == false {
            draft.note(format!("the plan `{}`, which is switched off", plan.name));
            continue;
        }
        suite(plan, &tests, guests, draft);
    }
    Ok(())
}

/// Makes the guests of a plan; plans that say the same share one.
fn provision(plan: &Leaf, made: &mut Vec<(Value, String)>, draft: &mut ConfigDraft<'_>) -> Vec<String> {
    let mut out = Vec::new();
    let steps = list(&plan.data["provision"]);
    let nothing = Value::Object(serde_json::Map::new());
    for step in if steps.is_empty() { vec![&nothing] } else { steps } {
        if let Some((_, guest)) = made.iter().find(|(other, _)| other == step) {
            out.push(guest.clone());
            continue;
        }
        let how = scalar(&step["how"]).unwrap_or_else(|| "virtual".into());
        let image = scalar(&step["image"]).unwrap_or_else(|| "fedora".into());
        if how != "virtual" {
            draft.note(format!("`provision` of the plan `{}` by `{how}`: its guest is one in QEMU here", plan.name));
        }
        let name =
            scalar(&step["name"]).unwrap_or_else(|| image.rsplit('/').next().unwrap_or_default().replace(':', "-"));
        let guest = draft.guest(&name, &image, CODE);
        for (key, unit) in [("memory", "MiB"), ("disk", "GiB")] {
            let named = scalar(&step[key]).or_else(|| scalar(&step["hardware"][key]));
            match named.as_deref().map(|text| size(text, unit)) {
                Some(Some(size)) => draft.set(&guest, key, size),
                Some(None) => draft.note(format!("`{key}` of the plan `{}`", plan.name)),
                None => {}
            }
        }
        if let Some(count) = scalar(&step["hardware"]["cpu"]["processors"])
            && let Ok(count) = count.trim_start_matches(['>', '=', ' ']).parse::<i64>()
        {
            draft.set(&guest, "cpus", count);
        }
        if !step["role"].is_null() {
            draft.note(format!("`role` of the plan `{}`: each guest runs all tests by itself", plan.name));
        }
        made.push((step.clone(), guest.clone()));
        out.push(guest);
    }
    out
}

/// Returns a size as vmdeck writes it: `4 GB`, `>= 2 GiB`, or a number in the unit that tmt means.
fn size(text: &str, unit: &str) -> Option<String> {
    let text = text.trim_start_matches(['>', '=', ' ']);
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, given) = (text[..end].parse::<u64>().ok()?, text[end..].trim());
    match given {
        "" => Some(format!("{number}{unit}")),
        "MB" | "MiB" => Some(format!("{number}MiB")),
        "GB" | "GiB" => Some(format!("{number}GiB")),
        _ => None,
    }
}

/// Makes a suite of a plan.
fn suite(plan: &Leaf, tests: &[&Leaf], guests: Vec<String>, draft: &mut ConfigDraft<'_>) {
    let env: Vec<(String, String)> =
        entries(&plan.data["environment"]).filter_map(|(key, value)| Some((key.clone(), scalar(value)?))).collect();
    let mut out = SuiteDraft {
        name: plain(&plan.name.trim_start_matches("/plans/").replace('/', "-")),
        guests,
        run_as_root: true,
        shell: &["bash"],
        env,
        ..SuiteDraft::default()
    };
    let (mut required, mut recommended) = (Vec::new(), Vec::new());
    for found in discover(plan, tests, draft) {
        let case = case(&found, &out.env, (&mut required, &mut recommended), draft);
        out.cases.push(case);
    }
    let install = |names: &[String]| {
        let words: Vec<String> = names.iter().map(|name| sh_quote(name)).collect();
        format!("install {}", words.join(" "))
    };
    // In their order; what the tests require comes after what the plan says.
    let mut steps = list(&plan.data["prepare"]);
    steps.sort_by_key(|step| scalar(&step["order"]).and_then(|order| order.parse::<i64>().ok()).unwrap_or(50));
    for step in steps {
        let of = format!("a `prepare` of the plan `{}`", plan.name);
        match scalar(&step["how"]).as_deref().unwrap_or("shell") {
            "shell" => {
                draft.leftovers(step, &["how", "script", "order", "name", "summary"], &of);
                out.setup.extend(texts(&step["script"]).iter().map(|script| apart(script)));
            }
            "install" => {
                draft.leftovers(step, &["how", "package", "order", "name", "summary"], &of);
                out.setup.push(install(&texts(&step["package"])));
            }
            other => draft.note(format!("`prepare` by `{other}` of the plan `{}`", plan.name)),
        }
    }
    if !required.is_empty() {
        out.setup.push(install(&required));
    }
    if !recommended.is_empty() {
        out.setup.push(format!("{} || true", install(&recommended)));
    }
    if out.setup.iter().any(|line| line.starts_with("install ")) {
        out.setup.insert(0, INSTALL.to_owned());
    }
    for step in list(&plan.data["finish"]) {
        match scalar(&step["how"]).as_deref().unwrap_or("shell") {
            "shell" => out.teardown.extend(texts(&step["script"]).iter().map(|script| apart(script))),
            other => draft.note(format!("`finish` by `{other}` of the plan `{}`", plan.name)),
        }
    }
    if out.cases.is_empty() {
        draft.note(format!("the plan `{}` has no test that could be taken over", plan.name));
    }
    draft.suite(out);
}

/// A test that a plan runs.
struct PlannedTest {
    name: String,
    data: Value,
    folder: String,
    /// How long it may take where it does not say so.
    usual: &'static str,
}

/// Returns the tests of a plan: its scripts, its own list, or those of the tree.
fn discover(plan: &Leaf, tests: &[&Leaf], draft: &mut ConfigDraft<'_>) -> Vec<PlannedTest> {
    let execute = &plan.data["execute"];
    if scalar(&execute["how"]).is_some_and(|how| how != "tmt") {
        draft.note(format!(
            "`execute` of the plan `{}` by `{}`",
            plan.name,
            scalar(&execute["how"]).unwrap_or_default()
        ));
        return Vec::new();
    }
    draft.leftovers(execute, &["how", "script", "duration"], &format!("`execute` of the plan `{}`", plan.name));
    let scripts = texts(&execute["script"]);
    if !scripts.is_empty() {
        let one = |(n, script): (usize, String)| {
            let mut data = serde_json::Map::new();
            data.insert("test".into(), Value::String(script));
            data.insert("duration".into(), execute["duration"].clone());
            PlannedTest {
                name: format!("script-{n:02}"),
                data: Value::Object(data),
                folder: String::new(),
                usual: "1h",
            }
        };
        return scripts.into_iter().enumerate().map(one).collect();
    }
    let steps = list(&plan.data["discover"]);
    let nothing = Value::Object(serde_json::Map::new());
    let mut out = Vec::new();
    for step in if steps.is_empty() { vec![&nothing] } else { steps } {
        draft.leftovers(
            step,
            &["how", "url", "ref", "tests", "test", "exclude", "filter", "name"],
            &format!("`discover` of the plan `{}`", plan.name),
        );
        if !step["url"].is_null() {
            draft.note(format!("the tests of `{}` (plan `{}`)", scalar(&step["url"]).unwrap_or_default(), plan.name));
            continue;
        }
        if !step["tests"].is_null() {
            out.extend(list(&step["tests"]).into_iter().enumerate().map(|(n, test)| PlannedTest {
                name: scalar(&test["name"]).unwrap_or_else(|| format!("test-{n:02}")),
                data: test.clone(),
                folder: String::new(),
                usual: "1h",
            }));
            continue;
        }
        let patterns =
            |key: &str| -> Vec<Regex> { texts(&step[key]).iter().filter_map(|text| Regex::new(text).ok()).collect() };
        let (wanted, unwanted) = (patterns("test"), patterns("exclude"));
        let filters = texts(&step["filter"]);
        for test in tests {
            let fits = (step["test"].is_null() || wanted.iter().any(|regex| regex.is_match(&test.name)))
                && !unwanted.iter().any(|regex| regex.is_match(&test.name))
                && filters.iter().all(|filter| passes(filter, &test.data));
            if fits {
                out.push(PlannedTest {
                    name: test.name.clone(),
                    data: test.data.clone(),
                    folder: test.folder.clone(),
                    usual: "5m",
                });
            }
        }
    }
    out
}

/// Returns whether a test passes a filter such as `tag:fast & enabled:true | tier:1`.
fn passes(filter: &str, data: &Value) -> bool {
    let holds = |term: &str| {
        let Some((key, wanted)) = term.trim().split_once(':') else { return true };
        let own = texts(&data[key.trim()]);
        let is_usual = own.is_empty() && key.trim() == "enabled" && wanted.trim() == "true";
        wanted.split(',').any(|word| match word.trim().strip_prefix('-') {
            Some(word) => !own.iter().any(|own| own == word),
            None => is_usual || own.iter().any(|own| own == word.trim()),
        })
    };
    filter.split('|').any(|all| all.split('&').all(holds))
}

/// The keys of a test that are taken over, or mean nothing for a run.
const TEST: &[&str] = &[
    "summary",
    "description",
    "contact",
    "component",
    "id",
    "author",
    "test",
    "framework",
    "duration",
    "require",
    "recommend",
    "environment",
    "path",
    "tag",
    "tier",
    "enabled",
    "result",
    "manual",
    "name",
    "link",
];

/// Makes a case of a test.
fn case(
    found: &PlannedTest,
    plan: &[(String, String)],
    (required, recommended): (&mut Vec<String>, &mut Vec<String>),
    draft: &mut ConfigDraft<'_>,
) -> CaseDraft {
    let data = &found.data;
    draft.leftovers(data, TEST, &format!("the test `{}`", found.name));
    let is_package = |need: &str| !need.contains('(');
    for (key, packages) in [("require", &mut *required), ("recommend", recommended)] {
        for need in list(&data[key]) {
            match scalar(need).filter(|need| is_package(need)) {
                Some(name) if !packages.contains(&name) => packages.push(name),
                Some(_) => {}
                None => draft.note(format!("libraries and files that the test `{}` needs", found.name)),
            }
        }
    }
    if data["framework"] == "beakerlib" {
        draft.note(format!("the test `{}` uses beakerlib: its phases are not told apart", found.name));
        if !required.iter().any(|name| name == "beakerlib") {
            required.push("beakerlib".to_owned());
        }
    }
    let test = scalar(&data["test"]).unwrap_or_else(|| ":".into());
    let restarts = test.contains("tmt-reboot");
    let is_xfail = scalar(&data["result"]).as_deref() == Some("xfail");
    let skip = match () {
        () if data["manual"] == true => Some(format!("manual: {test}")),
        () if data["enabled"] == false => Some("switched off".to_owned()),
        () if restarts && is_xfail => Some("it restarts the machine, and is expected to fail".to_owned()),
        () => None,
    };
    if ["tmt-report-result", "tmt-file-submit", "tmt-abort"].iter().any(|word| test.contains(word)) {
        draft.note(format!("the test `{}` calls programs of tmt", found.name));
    }
    let mut lines = Vec::new();
    if restarts {
        lines.push("tmt-reboot() { \"$VMDECK_REBOOT\"; }".to_owned());
    }
    if test.contains("TMT_REBOOT_COUNT") {
        lines.push("export TMT_REBOOT_COUNT=\"${VMDECK_REBOOT_COUNT:-0}\"".to_owned());
    }
    let folder = scalar(&data["path"]).map_or(found.folder.clone(), |path| path.trim_matches('/').to_owned());
    if !folder.is_empty() {
        lines.push(format!("cd {}", sh_quote(&folder)));
    }
    for (key, value) in entries(&data["environment"]) {
        if let Some(value) = scalar(value).filter(|_| !plan.iter().any(|(other, _)| other == key)) {
            lines.push(format!("export {key}={}", sh_quote(&value)));
        }
    }
    match scalar(&data["result"]).as_deref() {
        // Of the exit codes 1 is a failure, and what is above it an error, which nobody expects.
        None | Some("respect" | "xfail") => lines.push(test),
        Some(other) => {
            draft.note(format!("`result: {other}` of the test `{}`", found.name));
            lines.push(test);
        }
    }
    CaseDraft {
        name: plain(&found.name.trim_start_matches("/tests/").replace('/', "-")),
        run: lines.join("\n") + "\n",
        timeout: duration(&scalar(&data["duration"]).unwrap_or_default()).or_else(|| Some(found.usual.to_owned())),
        tags: texts(&data["tag"]).iter().map(|tag| plain(tag)).collect(),
        exit: is_xfail.then_some(1),
        restarts,
        skip,
        ..CaseDraft::default()
    }
}

/// Returns a duration of tmt, which may end with a factor: `5m*4`.
fn duration(text: &str) -> Option<String> {
    let (time, factor) =
        text.split_once('*').map_or((text, 1), |(time, factor)| (time, factor.trim().parse().unwrap_or(1)));
    let seconds = yaml::duration(time)?;
    let seconds: u64 = seconds.trim_end_matches('s').parse().ok()?;
    Some(format!("{}s", seconds * factor))
}
