//! `vmdeck doctor`: is this host ready, and with `--fix` what makes it so.

use super::{
    Io,
    deps::deps,
    settings,
    trust::{self, ConfigUse},
};
use crate::cli::{ConfigArgs, DoctorArgs};
use std::{io::IsTerminal, process::Stdio};
use vmdeck_core::{
    engine::preflight,
    host::process::{Spawner, Spec, Streams},
};
use vmdeck_model::{
    error::{Fault, Result},
    event::{Finding, Severity},
    exit::RunExit,
};

/// Runs every check, with or without a config; mends what has a command for it, where that is wanted.
pub(super) async fn run(args: &DoctorArgs, config: &ConfigArgs, io: &mut Io<'_>) -> Result<RunExit> {
    let findings = check(config, io).await?;
    show(&findings, *args, io);
    if !args.fix {
        return Ok(exit(&findings));
    }
    let fixes = fixes(&findings);
    if fixes.is_empty() {
        io.say("nothing here is mended by a command");
        return Ok(exit(&findings));
    }
    io.say("\nThese commands mend some of it:");
    for fix in &fixes {
        io.say(&format!("  {}", shown(fix)));
    }
    if !args.yes {
        if !std::io::stdin().is_terminal() {
            return Err(Fault::user("cannot ask whether to run them")
                .because("standard input is not a terminal")
                .hint("use --yes to run them"));
        }
        if !io.confirmed("Run them?") {
            io.say("nothing was run");
            return Ok(exit(&findings));
        }
    }
    for fix in &fixes {
        io.say(&format!("\n$ {}", shown(fix)));
        carry_out(fix).await?;
    }
    io.say("");
    let findings = check(config, io).await?;
    show(&findings, *args, io);
    Ok(exit(&findings))
}

async fn check(config: &ConfigArgs, io: &mut Io<'_>) -> Result<Vec<Finding>> {
    if let Some(setup) = trust::load_if_any(config, ConfigUse::ProgramsAndSecrets, io)? {
        for note in &setup.notes {
            io.warn(&format!("warning: {note}"));
        }
        return Ok(preflight::of_setup(&setup, &deps(&setup.host)?).await);
    }
    let (host, _) = settings::load_host(config)?;
    Ok(preflight::bare(&host, &deps(&host)?).await)
}

fn is_fit(findings: &[Finding]) -> bool {
    findings.iter().all(|finding| finding.severity != Severity::Fatal)
}

fn exit(findings: &[Finding]) -> RunExit {
    if is_fit(findings) { RunExit::Passed } else { RunExit::HostNotReady }
}

fn show(findings: &[Finding], args: DoctorArgs, io: &mut Io<'_>) {
    if args.json {
        let row = |finding: &Finding| {
            let mut row = serde_json::json!(finding);
            if let Some(fix) = &finding.fix {
                row["fix"] = serde_json::json!(fix);
            }
            row
        };
        let rows: Vec<serde_json::Value> = findings.iter().map(row).collect();
        let value = serde_json::json!({ "ready": is_fit(findings), "findings": rows });
        io.say(&serde_json::to_string_pretty(&value).unwrap_or_default());
        return;
    }
    for finding in findings {
        let word = finding.severity.word();
        io.say(&format!("{word} {:<12} {}", finding.check, finding.text));
        if let Some(hint) = &finding.hint {
            io.say(&format!("{:18} hint: {hint}", ""));
        }
    }
    let can_mend = !args.fix && findings.iter().any(|finding| finding.fix.is_some());
    let mend = if can_mend { "; `vmdeck doctor --fix` runs what mends it, after a yes" } else { "" };
    io.say(&format!("\nthis host is {}{mend}", if is_fit(findings) { "ready" } else { "NOT ready" }));
}

/// Returns the commands that mend what was found, each once, in the order of the findings.
fn fixes(findings: &[Finding]) -> Vec<Vec<String>> {
    let mut out: Vec<Vec<String>> = Vec::new();
    for fix in findings.iter().filter_map(|finding| finding.fix.as_ref()) {
        if !out.contains(fix) {
            out.push(fix.clone());
        }
    }
    out
}

/// Returns a command as a shell would take it.
fn shown(words: &[String]) -> String {
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    shlex::try_join(words.iter().copied()).unwrap_or_else(|_| words.join(" "))
}

/// Runs one command at the terminal of whoever has asked for it.
async fn carry_out(words: &[String]) -> Result<()> {
    let cannot = || Fault::host(format!("cannot run `{}`", shown(words)));
    let [program, arguments @ ..] = words else { return Ok(()) };
    let spawner = Spawner::new(std::env::current_exe().ok()).map_err(|e| cannot().because(e))?;
    let streams = Streams { stdin: Stdio::inherit(), stdout: Stdio::inherit(), stderr: Stdio::inherit() };
    let spec = Spec::new(program).args(arguments).foreground();
    let mut child = spawner.spawn_tethered(&spec, streams).await.map_err(|e| cannot().because(e))?;
    let status = child.wait().await.map_err(|e| cannot().because(e))?;
    if !status.success() {
        return Err(cannot().because(status).hint("run it by hand, and then `vmdeck doctor` again"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_command_is_run_once_and_shown_as_a_shell_takes_it() {
        let finding = |words: &[&str]| Finding {
            check: "x".into(),
            severity: Severity::Fatal,
            text: String::new(),
            hint: None,
            fix: (!words.is_empty()).then(|| words.iter().map(|word| (*word).to_owned()).collect()),
        };
        let path = "/home/a b/$(touch x)";
        let all = [finding(&["chmod", "600", "--", path]), finding(&[]), finding(&["a"]), finding(&["a"])];
        let fixes = fixes(&all);
        assert_eq!(fixes.len(), 2);
        assert_eq!(shown(&fixes[0]), "chmod 600 -- '/home/a b/$(touch x)'");
    }
}
