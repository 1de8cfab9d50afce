//! Test Kitchen's `kitchen.yml`.
//!
//! Facts, of its documentation and sources: an instance is one suite on one platform, each on a machine of its own; `includes` wins over
//! `excludes`; settings of a platform win over those for all, and a suite's over both; the verifier `shell` runs on the host unless
//! `remote_exec` says otherwise; the provisioner `shell` runs its script by sudo, its command without. The file may be a template in Ruby.

use super::{
    draft::{CaseDraft, ConfigDraft, SuiteDraft},
    yaml::{self, list, scalar, texts},
};
use crate::app::init::guest::CODE;
use serde_json::Value;
use std::path::Path;
use vmdeck_core::command::sh_quote;
use vmdeck_model::error::Result;

/// The keys of a driver that are taken over, or mean nothing here.
const DRIVER: &[&str] = &["name", "provider", "box", "customize"];

/// What stands for a value that Ruby would compute.
const RUBY: &str = "ruby-0";

/// Takes platforms and suites over.
pub(super) fn convert(path: &Path, draft: &mut ConfigDraft<'_>) -> Result<()> {
    let text = yaml::text(path)?;
    let kitchen = yaml::parse(&without_ruby(&text, draft), path)?;
    let mut platforms: Vec<(String, String)> = Vec::new();
    for platform in list(&kitchen["platforms"]) {
        let name = scalar(&platform["name"]).unwrap_or_default();
        if name.contains("windows") || scalar(&platform["os_type"]).is_some_and(|os| os == "windows") {
            draft.note(format!("the platform `{name}`: a Windows guest is set up by hand"));
            continue;
        }
        let of = |keys: &[&str]| {
            [&platform["driver"], &kitchen["driver"]]
                .iter()
                .find_map(|driver| scalar(keys.iter().fold(driver, |value, key| &value[*key])))
        };
        let system = of(&["box"]).filter(|_| !platform["driver"]["box"].is_null()).unwrap_or_else(|| name.clone());
        let guest = draft.guest(&name, &system, CODE);
        if let Some(memory) = of(&["customize", "memory"]).and_then(|text| text.parse::<u64>().ok()) {
            draft.set(&guest, "memory", format!("{memory}MiB"));
        }
        if let Some(cpus) = of(&["customize", "cpus"]).and_then(|text| text.parse::<i64>().ok()) {
            draft.set(&guest, "cpus", cpus);
        }
        draft.leftovers(platform, &["name", "driver", "os_type"], &format!("the platform `{name}`"));
        draft.leftovers(&platform["driver"], DRIVER, &format!("the driver of the platform `{name}`"));
        draft.set(&guest, "fresh", "suite");
        platforms.push((name, guest));
    }
    draft.leftovers(&kitchen, &["driver", "provisioner", "verifier", "platforms", "suites"], "the file");
    draft.leftovers(&kitchen["driver"], DRIVER, "the driver");
    for value in list(&kitchen["suites"]) {
        suite(&kitchen, value, &platforms, draft);
    }
    Ok(())
}

fn suite(kitchen: &Value, value: &Value, platforms: &[(String, String)], draft: &mut ConfigDraft<'_>) {
    let name = scalar(&value["name"]).unwrap_or_default();
    let (includes, excludes) = (texts(&value["includes"]), texts(&value["excludes"]));
    let runs_on = |platform: &String| {
        if includes.is_empty() { !excludes.contains(platform) } else { includes.contains(platform) }
    };
    let guests: Vec<String> =
        platforms.iter().filter(|(platform, _)| runs_on(platform)).map(|(_, guest)| guest.clone()).collect();
    if guests.is_empty() {
        draft.note(format!("the suite `{name}`: none of the guests here fits it"));
        return;
    }
    draft.leftovers(
        value,
        &["name", "includes", "excludes", "provisioner", "verifier"],
        &format!("the suite `{name}`"),
    );
    // Of one plugin: what the suite says, else what is said for all.
    let merged = |plugin: &str, key: &str| {
        [&value[plugin], &kitchen[plugin]].iter().find_map(|table| scalar(&table[key])).filter(|text| !text.is_empty())
    };
    let kind =
        |plugin: &str| merged(plugin, "name").or_else(|| scalar(&value[plugin])).or_else(|| scalar(&kitchen[plugin]));
    let mut out = SuiteDraft { name: name.clone(), guests, ..SuiteDraft::default() };
    match kind("provisioner").as_deref() {
        Some("shell") => match (merged("provisioner", "command"), merged("provisioner", "script")) {
            (Some(command), _) => out.setup.push(command),
            (None, script) => {
                let script = script.unwrap_or_else(|| "bootstrap.sh".to_owned());
                let words = texts(&kitchen["provisioner"]["arguments"]);
                let words = words.iter().map(|word| format!(" {}", sh_quote(word))).collect::<String>();
                out.setup.push(format!("sudo sh ./{}{words}", sh_quote(script.trim_start_matches("./"))));
            }
        },
        Some(other) => draft.note(format!("the provisioner `{other}` of the suite `{name}`")),
        None => {}
    }
    let remote = merged("verifier", "remote_exec").is_some_and(|flag| flag == "true");
    match (kind("verifier").as_deref(), merged("verifier", "command")) {
        (Some("shell"), Some(command)) if remote => {
            out.cases.push(CaseDraft { name: "verify".into(), run: command, ..CaseDraft::default() });
        }
        (Some("shell"), Some(command)) => {
            draft.note(format!("the verifier of the suite `{name}` runs on this host: `{}`", command.trim()));
        }
        (Some(other), _) => draft.note(format!("the verifier `{other}` of the suite `{name}`")),
        (None, _) => {}
    }
    if out.cases.is_empty() {
        let skip = Some("its verifier was not taken over; write what it verifies here".to_owned());
        out.cases.push(CaseDraft { name: "verify".into(), run: "true".into(), skip, ..CaseDraft::default() });
    }
    draft.suite(out);
}

/// Returns the text without what Ruby would fill in: lines of code go, values become a word that names nothing.
fn without_ruby(text: &str, draft: &mut ConfigDraft<'_>) -> String {
    let mut out = String::new();
    for (number, line) in text.lines().enumerate() {
        let Some(at) = line.find("<%") else {
            out.push_str(line);
            out.push('\n');
            continue;
        };
        draft.note(format!("line {}: Ruby code: `{}`", number + 1, line.trim()));
        let is_code = line[at..].starts_with("<%") && !line[at..].starts_with("<%=");
        if is_code {
            continue;
        }
        let mut rest = line;
        while let Some((before, tail)) = rest.split_once("<%") {
            out.push_str(before);
            // A name that is no system's.
            out.push_str(RUBY);
            rest = tail.split_once("%>").map_or("", |(_, after)| after);
        }
        out.push_str(rest);
        out.push('\n');
    }
    out
}
