//! `vmdeck guest-test`: the launcher of the KVM guest-test framework, with vmdeck's engine below it.
//!
//! What its config means is `framework`'s matter.

mod branches;
mod call;
mod kexec;
mod tree;

pub(super) use call::Call;

use super::{Io, execute, framework::FrameworkMachine, plan, settings};
use crate::cli::{GuestTestArgs, KeepArg, OutputArgs, RunArgs};
use kexec::KexecBoot;
use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, TcpListener},
    path::{Path, PathBuf},
};
use toml::{Table, Value};
use tree::{EXECUTOR_NAME, Tree};
use vmdeck_core::{
    host::random,
    report::launcher::{Launcher, LauncherRun},
};
use vmdeck_model::{
    error::{Fault, Result},
    exit::RunExit,
    ids::{CaseId, SuiteId},
    plan::Plan,
    suite::{Case, CaseAction, CasePlace, HostProgram},
};

/// The variable with the framework's `common.sh`, for the stand-in of `wget`.
pub(super) const COMMON: &str = "VMDECK_COMMON_SH";

/// The first port of ssh that the framework draws, and how many there are.
const PORTS: (u16, u64) = (10_010, 891);
/// How often another port is drawn where one is in use.
const DRAWS: usize = 20;
/// The name of the guest.
const GUEST: &str = "guest";
/// The name of a suite without a feature, or of one whose name can be none.
const SUITE: &str = "guest-test";
/// The status of a test that is not for this machine.
const NOT_FOR_HERE: i32 = 32;

/// Runs one test case.
pub(super) async fn run(args: GuestTestArgs, io: &mut Io<'_>) -> Result<RunExit> {
    let call = Call::new(args)?;
    let testcase = call.testcase()?.to_owned();
    let folder = call.folder()?;
    let config = call.config(&folder)?;
    let port = call.args.port.unwrap_or_else(draw_port);
    let machine = FrameworkMachine::of(&config, &call.wanted(), port, &|path| folder.join(path).is_file())?;
    for note in &machine.notes {
        io.warn(&format!("note: {note}"));
    }
    if call.args.dry_run {
        io.say(&serde_json::json!(machine.argv()).to_string());
        return Ok(RunExit::Passed);
    }
    let executor = executor(&call, &folder)?;
    refuse_unknown(&testcase, call.args.feature.as_deref(), &executor, io)?;
    if let Some(rpm) = call.args.rpm.as_ref().filter(|rpm| !Path::new(rpm).is_file()) {
        return Err(Fault::user(format!("cannot use -r `{rpm}`")).because("there is no such file"));
    }
    let run_args = run_args(&call);
    let setup =
        settings::load_made(Path::new("vmdeck guest-test"), &config_text(&call, &machine, &folder)?, &call.args.set)?;
    // A password in plain text is how the framework has it.
    let mut plan = plan::make_plan(vmdeck_model::plan::Setup { notes: Vec::new(), ..setup }, &run_args, io)?;
    let feature = call.args.feature_path.as_deref();
    let lines = record(&call, &plan, port);
    let tree = Tree::make(&plan.dir.join("scripts"), &folder, feature, &lines, &plan.dir.join("files"))?;
    drive_from_here(&mut plan, &program(&call, &machine, &tree), &kexec::boots(&call, &machine));
    let about = LauncherRun {
        kind: machine.kind.to_owned(),
        parameters: parameters(&call, &machine),
        kept: call.keeps(),
        judged: case_id(&testcase),
    };
    let to_stdout = call.args.report.events.as_deref() == Some(Path::new("-"));
    let out: Box<dyn std::io::Write + Send> =
        if to_stdout { Box::new(std::io::stderr()) } else { Box::new(std::io::stdout()) };
    let lines = Launcher::new(about, out, Box::new(std::io::stderr()));
    execute::execute(plan, &run_args, &OutputArgs::default(), execute::Lines::Instead(Box::new(lines)), io).await
}

/// Returns a port that is free now; the guest gets one of its own all the same.
fn draw_port() -> u16 {
    let draw = || PORTS.0 + u16::try_from(random::u64() % PORTS.1).unwrap_or_default();
    let is_free = |port: &u16| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok();
    std::iter::repeat_with(draw).take(DRAWS).find(is_free).unwrap_or(PORTS.0)
}

/// Returns the script with the branches: of the feature, else the framework's own.
fn executor(call: &Call, folder: &Path) -> Result<PathBuf> {
    let Some(feature) = &call.args.feature else {
        let own = folder.join(EXECUTOR_NAME);
        let none = || {
            Fault::user("cannot find the executor")
                .because(format!("there is no `{}`", own.display()))
                .hint("name a feature: -e DIR -f NAME")
        };
        return own.is_file().then(|| own.clone()).ok_or_else(none);
    };
    let path = call.args.feature_path.as_deref().unwrap_or(feature);
    let beside = folder.parent().unwrap_or(folder).join(path);
    // The second and third are the names of 2023.
    let all = [
        beside.join(format!("{feature}.guest_test_executor.sh")),
        beside.join(format!("{feature}.test_executor.sh")),
        folder.join(path).join(format!("{feature}.test_executor.sh")),
    ];
    all.iter().find(|file| file.is_file()).cloned().ok_or_else(|| {
        Fault::user(format!("cannot find the executor of the feature `{feature}`"))
            .because(format!("there is no `{}`", all[0].display()))
            .hint("-e names the folder beside guest-test, -f the feature")
    })
}

/// Refuses a test case that the executor would pass by running nothing.
fn refuse_unknown(testcase: &str, feature: Option<&str>, executor: &Path, io: &mut Io<'_>) -> Result<()> {
    let script = vmdeck_files::read_text(executor, vmdeck_files::LARGE)
        .map_err(|e| Fault::user(format!("cannot read `{}`", executor.display())).because(e))?;
    let Some(labels) = branches::labels(&script) else {
        if feature.is_none() && script.contains("$FEATURE") {
            return Err(Fault::user("no feature is named")
                .because(format!("`{}` runs the executor of a feature", executor.display()))
                .hint("name it: -e DIR -f NAME"));
        }
        io.warn(&format!(
            "note: `{}` does not show its test cases; an unknown one may run nothing",
            executor.display()
        ));
        return Ok(());
    };
    if branches::may_know(&script, &labels, testcase) {
        return Ok(());
    }
    let known: Vec<&str> =
        labels.iter().map(String::as_str).filter(|label| label.starts_with(char::is_alphanumeric)).collect();
    Err(Fault::user(format!("unknown test case `{testcase}`")).because(format!(
        "`{}` has no branch for it (known: {})",
        executor.display(),
        known.join(", ")
    )))
}

/// Returns the arguments of the run, as those of `vmdeck --ci` would be.
fn run_args(call: &Call) -> RunArgs {
    let args = &call.args;
    RunArgs {
        ci: true,
        repeat: 1,
        report: args.report.clone(),
        keep: call.keeps().then_some(KeepArg::Always),
        lock: args.lock.clone(),
        ..RunArgs::default()
    }
}

/// Returns the config of the guest and its only case.
fn config_text(call: &Call, machine: &FrameworkMachine, folder: &Path) -> Result<String> {
    let timeout = format!("{}ms", call.args.timeout.as_millis());
    let mut guest = machine.guest(Some(folder));
    for key in ["boot_timeout", "case_timeout"] {
        guest.insert(key.into(), timeout.clone().into());
    }
    guest.insert("launch_retries".into(), 1.into());
    // What answers on another port than ssh is nothing that the framework knows.
    guest.insert("transports".into(), Value::Array(vec!["ssh".into()]));
    if let (Some(password), Some(Value::Table(ssh))) = (&machine.password, guest.get_mut("ssh")) {
        ssh.insert("password".into(), password.clone().into());
    }
    let suite = call.args.feature.as_deref().filter(|name| SuiteId::new(name).is_ok()).unwrap_or(SUITE);
    let case = case_id(call.testcase()?);
    // What it runs is set in the plan: no config can name a program of the host.
    let mut row = Table::new();
    row.insert("name".into(), case.to_string().into());
    row.insert("run".into(), "true".into());
    let expect = [("exit".to_owned(), Value::from(0)), ("skip".to_owned(), NOT_FOR_HERE.into())];
    row.insert("expect".into(), Table::from_iter(expect).into());
    let table = |key: &str, value: Table| Table::from_iter([(key.to_owned(), Value::Table(value))]);
    let mut host = Table::new();
    for (key, value) in [("min_free_disk", "512MiB"), ("warn_free_disk", "1GiB"), ("min_free_memory", "256MiB")] {
        host.insert(key.into(), value.into());
    }
    let mut all = table("host", host);
    all.insert("guests".into(), table(GUEST, guest).into());
    all.insert(
        "suites".into(),
        table(suite, Table::from_iter([("cases".to_owned(), Value::Array(vec![row.into()]))])).into(),
    );
    toml::to_string(&all).map_err(|e| Fault::bug("cannot write the config").because(e))
}

/// Returns the name of the case: the test case's, where that can be one.
fn case_id(testcase: &str) -> CaseId {
    CaseId::new(testcase).or_else(|_| CaseId::new("testcase")).unwrap_or_else(|_| unreachable!("a name"))
}

/// Returns the lines of `test_params.py`.
fn record(call: &Call, plan: &Plan, port: u16) -> Vec<String> {
    let mut lines = call.record(port);
    let scripts = plan.dir.join("scripts/guest-test");
    lines.push(super::framework::record("SCRIPT_DIR", &scripts.to_string_lossy(), false));
    lines
}

/// Returns the executor as a program of this host.
fn program(call: &Call, machine: &FrameworkMachine, tree: &Tree) -> HostProgram {
    let exported = machine.exported.iter().map(|(name, value)| ((*name).to_owned(), value.clone()));
    let mut env: BTreeMap<String, String> = exported.collect();
    // The framework records it only where it was a flag, and closes every other guest as a legacy one.
    env.insert("VM_TYPE".to_owned(), machine.kind.to_owned());
    env.insert(COMMON.to_owned(), tree.common().to_string_lossy().into_owned());
    HostProgram {
        program: "bash".into(),
        args: vec![format!("./{EXECUTOR_NAME}")],
        dir: tree.scripts(),
        env,
        password: machine.password.is_some().then(|| "SSHPASS".to_owned()),
        record: Some(tree.record()),
        skip: Some(NOT_FOR_HERE),
        closes: !call.keeps(),
        restarts: false,
        lines: Vec::new(),
    }
}

/// Puts a program of this host in the place of the plan's only case, which comes behind the boots that it wants before.
fn drive_from_here(plan: &mut Plan, program: &HostProgram, boots: &[KexecBoot]) {
    for suite in plan.jobs.iter_mut().flat_map(|job| &mut job.suites) {
        let Some(judged) = suite.cases.pop() else { continue };
        // It was written nowhere.
        let judged = Case { place: CasePlace::default(), ..judged };
        let (last, before) = boots.split_last().map_or((None, boots), |(last, before)| (Some(last), before));
        suite.cases = before.iter().filter_map(|boot| boot.case(&judged, program)).collect();
        let lines = last.map(|boot| boot.lines.clone()).unwrap_or_default();
        suite.cases.push(Case { action: CaseAction::Host(HostProgram { lines, ..program.clone() }), ..judged });
    }
}

/// Returns the flags as one line.
fn parameters(call: &Call, machine: &FrameworkMachine) -> String {
    let values = machine.parameters.iter().map(|(name, value)| format!("{name}: {value}"));
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    let own = [("FEATURE", text(&call.args.feature)), ("TESTCASE", text(&call.args.testcase))];
    values.chain(own.map(|(name, value)| format!("{name}: {value}"))).collect::<Vec<_>>().join(", ")
}
