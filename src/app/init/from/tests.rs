use super::*;
use crate::cli::ConfigArgs;
use std::{fmt::Write, path::PathBuf};
use vmdeck_model::{
    guest::Guest,
    image::Image,
    plan::Setup,
    suite::{Case, CaseAction, ScriptShell},
};

fn sample(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/conversions").join(path)
}

/// Takes a config over; what comes out passes the checks of `vmdeck config check`.
fn converted(path: &Path) -> (Converted, Setup) {
    let out = convert(path, &[]).unwrap_or_else(|fault| panic!("{}: {}", path.display(), fault.render()));
    let home = tempfile::tempdir().expect("tempdir");
    let file = home.path().join("vmdeck.toml");
    std::fs::write(&file, &out.text).expect("written");
    let setup = settings::load_without_secrets(&ConfigArgs { file: Some(file), ..ConfigArgs::default() });
    let setup = setup.unwrap_or_else(|fault| panic!("{}: {fault}\n{}", path.display(), out.text));
    (out, setup)
}

/// Returns guests with their images, and cases with their guests, as one text.
fn shape(setup: &Setup) -> String {
    let image = |guest: &Guest| match &guest.image {
        Some(Image::Named(named)) => named.name.clone(),
        Some(Image::File(path)) => path.file_name().unwrap_or_default().to_string_lossy().into_owned(),
        _ => "-".to_owned(),
    };
    let mut out = String::new();
    for guest in &setup.guests {
        let _ = writeln!(out, "{} {} {}MiB {}", guest.id, image(guest), guest.memory >> 20, guest.cpus);
    }
    for suite in &setup.suites {
        let cases: Vec<String> = suite
            .cases
            .iter()
            .map(|case| format!("{}{}", case.id, case.skip.as_ref().map_or("", |_| "(skipped)")))
            .collect();
        let guests: Vec<&str> = suite.guests.iter().map(String::as_str).collect();
        let _ = writeln!(out, "{}@{}: {}", suite.id, guests.join(","), cases.join(" "));
    }
    out
}

#[test]
fn every_sample_becomes_a_good_config_and_names_what_it_lacks() {
    for (path, wanted, notes) in [
        (
            "spread/basic",
            "ubuntu-22.04 ubuntu:22.04 2048MiB 2\nubuntu-24.04 ubuntu:24.04 2048MiB 2\ndebian-12 debian:12 2048MiB 2\n\
             tests-cli@*: import version\ntests-service@ubuntu-24.04: answers\n",
            &["backend `lxd`", "the login of the system `debian-12`"][..],
        ),
        (
            "spread/dotfile",
            "debian-sid debian-sid.qcow2 2048MiB 2\nchecks@*: hello\n",
            &["no image is known by the name `debian-sid`"],
        ),
        (
            "spread/matrix",
            "ubuntu-22.04-64 ubuntu:22.04 2048MiB 2\nubuntu-24.04-64 ubuntu:24.04 2048MiB 2\n\
             fedora-41-64 fedora-41-64.qcow2 2048MiB 2\ndebian-12 debian:12 2048MiB 2\n\
             tests-unit@ubuntu-22.04-64,ubuntu-24.04-64,fedora-41-64: sizes-huge sizes-large sizes-small\n\
             tests-kernel@ubuntu-22.04-64,ubuntu-24.04-64: load-edge load-stable\n\
             tests-upgrade@ubuntu-22.04-64,ubuntu-24.04-64: survive-stable\n",
            &["`BUILD_ID` is computed on this host", "`repack` of the project", "`allocate` of the backend `box`"],
        ),
        (
            "tmt/smoke",
            "fedora-41 fedora-41.qcow2 4096MiB 2\nfedora-41-2 registry.fedoraproject.org-fedora-41.qcow2 2048MiB 2\n\
             fedora fedora:44 2048MiB 2\nplan@fedora-41: version pack known-bad\nscript-quick@fedora-41-2: script-00\n\
             script-steps@fedora: script-00 script-01\n",
            &["by `connect`", "by `container`"],
        ),
        (
            "tmt/tree",
            "fedora fedora:44 2048MiB 2\nsrv fedora:44 2048MiB 2\ncli fedora:44 2048MiB 2\n\
             core@fedora: files-small net-clicks(skipped) net-lib net-ping net-reboots net-slow\n\
             full@fedora: alone files-large files-small net-clicks(skipped) net-lib net-old(skipped) net-ping net-reboots\n",
            &["`adjust` of the plan `/plans/full`", "by `ansible`", "beakerlib", "calls programs of tmt"],
        ),
        (
            "kitchen/shell",
            "ubuntu-22.04 ubuntu:22.04 2048MiB 2\ndebian-12 debian:12 1024MiB 2\nrockylinux-9 rocky:9 2048MiB 2\n\
             default@*: verify\ncluster_mode@ubuntu-22.04,debian-12: verify\n\
             from-host@ubuntu-22.04: verify(skipped)\n",
            &["`network` of the driver", "runs on this host"],
        ),
        (
            "kitchen/ec2",
            "amazon2 amazon2.qcow2 2048MiB 2\ndefault@*: verify(skipped)\n",
            &["Ruby code", "`serverspec`"],
        ),
        (
            "kitchen/chef",
            "ubuntu-ruby-0 ubuntu-ruby-0.qcow2 2048MiB 2\ndefault@*: verify(skipped)\ntls@*: verify(skipped)\n",
            &["`windows-2022`", "`inspec`", "line 18: Ruby code"],
        ),
        (
            "vagrant/single",
            "default debian:12 3072MiB 4\ndefault@*: hello\n",
            &["forwarded_port", "line 19: ", "not at `/vagrant`"],
        ),
        (
            "vagrant/multi",
            "db ubuntu:22.04 1024MiB 2\nweb debian:12 2048MiB 2\nspare ubuntu:22.04 2048MiB 2\ndb@db: hello\nweb@web: hello\nspare@spare: hello\n",
            &["private_network", "`spare` is not started by itself"],
        ),
        (
            "vagrant/ruby",
            "default main.qcow2 2048MiB 2\ndefault@*: hello\n",
            &["(1..NODES).each", "nothing names its image"],
        ),
        (
            "autopkgtest",
            "debian debian:13 2048MiB 2\nautopkgtest@*: tests\n",
            &["that are built of the source", "`Features` of some tests"],
        ),
        (
            "github/.github/workflows/ci.yml",
            "ubuntu-22.04 ubuntu:22.04 2048MiB 2\nubuntu-24.04 ubuntu:24.04 2048MiB 2\n\
             test@*: steps:python=3.10,db=sqlite steps:python=3.12,db=sqlite steps:python=3.12,db=postgres \
             steps:python=3.13,db=sqlite\nlint@ubuntu-24.04: steps\n",
            &[
                "the runner `windows-2022`",
                "the job `mac`: none of its runners",
                "the action `actions/setup-python@v5`",
                "the expression `secrets.TOKEN`",
                "`if` of `step 5`",
                "only add to combinations",
                "that names the system",
                "`needs` of the job `lint`",
            ],
        ),
        ("framework/old", "guest - 3072MiB 2\nsmoke@*: hello\n", &["GUEST_ROOT_PASSWORD", "executor"]),
        ("framework/new", "guest - 3072MiB 2\nsmoke@*: hello\n", &["GUEST_ROOT_PASSWORD"]),
    ] {
        let (out, setup) = converted(&sample(path));
        assert_eq!(shape(&setup), wanted, "{path}\n{}", out.text);
        for note in notes {
            assert!(out.notes.iter().any(|line| line.contains(note)), "{path}: {note}: {:#?}", out.notes);
        }
        assert!(!out.text.contains("s3cret"), "a password stays out");
        if path == "framework/old" {
            assert!(out.text.contains("\"root=/dev/vda1 rw console=hvc0 quiet\""), "{}", out.text);
        }
    }
}

fn script(case: &Case) -> &str {
    let CaseAction::Run(text) = &case.action else { panic!("a script") };
    text
}

/// Writes a project; returns the result of its first case, run by bash as a guest would with what is around it, and what it printed.
#[expect(clippy::disallowed_methods, reason = "a test acts from outside")]
fn first_case(files: &[(&str, &str)]) -> (Option<i32>, String) {
    let home = tempfile::tempdir().expect("tempdir");
    for (name, text) in files {
        let path = home.path().join(name);
        std::fs::create_dir_all(path.parent().expect("folder")).expect("made");
        std::fs::write(path, text).expect("written");
    }
    let (_, setup) = converted(home.path());
    let run = script(&setup.suites[0].cases[0]);
    // As the suite says it: `bash` stops at the first line that fails.
    let is_list = matches!(setup.suites[0].shell, Some(ScriptShell::Command(_)));
    let mut printed = String::new();
    let mut bash = |text: &str| {
        let text = format!("{}\n{text}", if is_list { "set -eu" } else { "set -eo pipefail" });
        let out = std::process::Command::new("bash")
            .args(["-c", &text])
            .envs(&setup.suites[0].env)
            .current_dir(home.path())
            .output()
            .expect("bash");
        printed += &(String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr));
        out.status.code()
    };
    let around = &setup.suites[0].cases[0].around;
    let before = around.before.as_deref().map_or(Some(0), &mut bash);
    let code = if before == Some(0) { bash(run) } else { before };
    assert_eq!(around.after.as_deref().map_or(Some(0), &mut bash), Some(0));
    (code, printed)
}

#[test]
fn scripts_mean_the_same_as_before() {
    let project = "project: p\npath: /home/p/src\nenvironment: {A: one, B: $A-two}\nbackends: {qemu: {systems: [debian-12]}}\n\
                   prepare-each: echo first; X=lost\nsuites: {t/: {summary: s, restore-each: echo last}}\n";
    for (task, code, printed) in [
        ("execute: echo \"$B ${X:-kept}\"", 0, "first\none-two kept\nlast\n"),
        ("execute: exit 7\nrestore: echo undone", 7, "first\nundone\nlast\n"),
        ("prepare: 'false'\nexecute: echo never", 1, "first\nlast\n"),
        ("execute: echo 'a b' | MATCH a", 0, "first\nlast\n"),
        ("execute: echo 'a b' | MATCH c", 1, "first\na b\nlast\n"),
        ("execute: echo 'a b' | NOMATCH a", 1, "first\nlast\n"),
        ("execute: echo ${NOSUCH}", 1, "first\nbash: line 5: NOSUCH: unbound variable\nlast\n"),
        ("execute: false | true", 0, "first\nlast\n"),
        (
            "execute: echo \"$Q $V\"\nenvironment: {Q: '\"x $A\"', V: 3.10, 'bad name': 1}",
            0,
            "first\nx one 3.10\nlast\n",
        ),
        ("execute: ERROR broken", 1, "first\nbroken\nlast\n"),
        ("execute: pwd | grep -o 't/x$'; echo $SPREAD_TASK", 0, "first\nt/x\nt/x\nlast\n"),
    ] {
        let files = [("spread.yaml", project), ("t/x/task.yaml", &format!("summary: s\n{task}\n"))];
        assert_eq!(first_case(&files), (Some(code), printed.to_owned()), "{task}");
    }
    let plan = "provision: {how: virtual, image: debian-12}\nenvironment: {A: plan}\nexecute: {how: tmt}\n";
    for (test, code, printed) in [
        ("test: echo $A $B\nenvironment: {A: test, B: b}", 0, "plan b\n"),
        ("test: |\n  false\n  echo never", 1, ""),
        ("test: |\n  false\n  true\nresult: xfail", 1, ""),
    ] {
        let files = [(".fmf/version", "1\n"), ("plan.fmf", plan), ("tests/main.fmf", test)];
        assert_eq!(first_case(&files), (Some(code), printed.to_owned()), "{test}");
    }
}

/// As tmt has it: 1 is a failure, which may be expected, and what is above it an error.
#[test]
fn what_is_expected_to_fail_has_to_fail_and_not_to_break() {
    let home = tempfile::tempdir().expect("tempdir");
    let plan = "provision: {how: virtual, image: debian-12}\nexecute: {how: tmt}\n";
    for (name, text) in
        [(".fmf/version", "1\n"), ("plan.fmf", plan), ("tests/main.fmf", "test: exit 1\nresult: xfail\n")]
    {
        std::fs::create_dir_all(home.path().join(name).parent().expect("folder")).expect("made");
        std::fs::write(home.path().join(name), text).expect("written");
    }
    let (_, setup) = converted(home.path());
    assert_eq!(setup.suites[0].cases[0].expect.exit, 1);
}

#[test]
fn what_is_no_config_of_a_known_tool_says_so() {
    let home = tempfile::tempdir().expect("tempdir");
    for (name, text, why) in [
        ("x.ini", "", "it is not known what it is of"),
        ("gone.yaml", "", "there is no such file"),
        ("spread.yaml", "a: [1\nb: }\n", "cannot read"),
        ("other.json", "{\"a\": 1}", "no group `common`"),
        ("broken.json", "{", "EOF"),
        ("empty.fmf", "summary: x\n", "no plan and no test"),
        ("spread.yaml", "", "it names no machine"),
        ("spread.yaml", "just a text", "it names no machine"),
        ("kitchen.yml", "[1, 2]", "it names no machine"),
        ("Vagrantfile", "hello", "it configures no machine"),
    ] {
        let path = home.path().join(name);
        if name != "gone.yaml" {
            std::fs::write(&path, text).expect("written");
        }
        let fault = convert(&path, &[]).expect_err(name);
        assert!(fault.render().contains(why), "{name}: {}", fault.render());
    }
}

/// Whatever stands in a file of a stranger, nothing breaks.
#[test]
fn mutated_files_never_bring_it_down() {
    let home = tempfile::tempdir().expect("tempdir");
    for (name, from) in [
        ("spread.yaml", "spread/matrix/spread.yaml"),
        ("kitchen.yml", "kitchen/shell/kitchen.yml"),
        ("Vagrantfile", "vagrant/multi/Vagrantfile"),
        ("qemu.config.json", "framework/old/qemu.config.json"),
        ("plan.fmf", "tmt/smoke/plan.fmf"),
    ] {
        let text = std::fs::read_to_string(sample(from)).expect("sample");
        let path = home.path().join(name);
        let lines: Vec<&str> = text.lines().collect();
        for n in 0..lines.len() {
            let (mut without, mut twice, mut cut) = (lines.clone(), lines.clone(), lines.clone());
            without.remove(n);
            twice.insert(n, lines[(n * 7) % lines.len()]);
            cut.truncate(n);
            for lines in [without, twice, cut] {
                std::fs::write(&path, lines.join("\n")).expect("written");
                let _ = convert(&path, &[]);
            }
        }
        std::fs::remove_file(&path).expect("removed");
    }
}
