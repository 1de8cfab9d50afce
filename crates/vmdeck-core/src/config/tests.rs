//! Whole configs in, setups or lists of problems out.

use super::*;
use std::path::Path;
use std::time::Duration;
use vmdeck_model::key::Key;
use vmdeck_model::{
    division,
    job::Job,
    key::Kind,
    plan,
    secret::Secret,
    select::Selector,
    shard::Shard,
    suite::{Case, RunAs, SuiteNetwork},
};

const EXTRA: &[Key] = &[
    Key { path: "guests.*.qemu.kernel", kind: Kind::Path, default: None, doc: "" },
    Key { path: "guests.*.ssh.user", kind: Kind::Text, default: Some("\"ci\""), doc: "" },
    Key { path: "guests.*.ssh.password", kind: Kind::Secret, default: None, doc: "" },
];

fn load_with(text: &str, env: &[(&str, &str)], set: &[&str]) -> Result<(Setup, Values)> {
    let keys: Vec<Key> = keys::core().chain(EXTRA).copied().collect();
    let env = env.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    let set: Vec<String> = set.iter().map(|s| (*s).to_owned()).collect();
    load(&Sources {
        file: Some((Path::new("/p/vmdeck.toml"), text)),
        base: Path::new("/p"),
        env: &env,
        set: &set,
        keys: &keys,
        old_names: &[],
        backends: &["qemu", "local"],
        private_networks: &["qemu"],
        transports: &["ssh", "exec"],
        secret_command: Some(&|words: &[String]| Ok(format!("from {}\n", words.join(" ")))),
        secrets_of: None,
        trusts_file: true,
    })
}

fn problems(text: &str) -> String {
    load_with(text, &[], &[]).expect_err("problems").to_string()
}

const SMALL: &str =
    "[guests.deb]\nbackend = \"qemu\"\n[suites.smoke]\n[[suites.smoke.cases]]\nname = \"a\"\nrun = \"true\"\n";

#[test]
fn defaults_are_filled_in_and_overridden_in_order() {
    let text = format!("[defaults]\ncpus = 3\nmemory = \"1GiB\"\n{SMALL}");
    let (setup, values) =
        load_with(&text, &[("VMDECK_GUESTS_DEB_MEMORY", "4GiB")], &["guests.deb.disk=\"7GiB\"", "host.slots=2"])
            .expect("good");
    let guest = &setup.guests[0];
    assert_eq!((guest.cpus, guest.memory, guest.disk, setup.host.slots), (3, 4 << 30, 7 << 30, 2));
    assert_eq!(guest.boot_timeout, Duration::from_mins(5));
    assert_eq!(guest.transports, ["ssh"], "few images have QEMU's agent");
    assert_eq!(values["guests.deb.cpus"].1, "/p/vmdeck.toml:2");
    assert_eq!(values["guests.deb.memory"].1, "VMDECK_GUESTS_DEB_MEMORY");
    assert_eq!(values["host.slots"].1, "--set");
    assert_eq!(setup.suites[0].run_as, RunAs::User);
}

#[test]
fn what_all_cases_have_in_common_is_said_once() {
    let text = "[defaults.case]\ntimeout = \"90s\"\nretries = 2\nenv = { A = \"1\", B = \"1\" }\ntags = [\"all\"]\nreboot = \"allowed\"\n\
                artifacts = [\"out/*\"]\nbefore_each = \"true\"\nexpect = { skip = 77 }\n[guests.deb]\nbackend = \"qemu\"\n\
                [suites.plain]\n[[suites.plain.cases]]\nname = \"a\"\nrun = \"true\"\n\
                [suites.own]\ntimeout = \"5m\"\nenv = { B = \"2\", C = \"2\" }\ntags = [\"own\"]\nbefore_each = \"own\"\n\
                [[suites.own.cases]]\nname = \"a\"\nrun = \"true\"\n\
                [[suites.own.cases]]\nname = \"b\"\nrun = \"true\"\ntimeout = \"1s\"\nretries = 0\nreboot = \"forbidden\"\nartifacts = []\n\
                env = { A = \"3\" }\ntags = [\"b\"]\nexpect = { exit = 3 }\n";
    let (setup, values) = load_with(text, &[], &[]).expect("good");
    let [plain, own] = &setup.suites[..] else { panic!("{:?}", setup.suites) };
    let told = |case: &Case| {
        let env: Vec<String> = case.env.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let seconds = case.timeout.unwrap_or_default().as_secs();
        let tags = case.tags.join(",");
        let before = case.around.before.clone().unwrap_or_default();
        let rest = (&case.artifacts[..], case.expect.skip, case.reboot);
        format!("{seconds} {} {tags} {before} {} {rest:?}", case.retries, env.join(","))
    };
    assert_eq!(told(&plain.cases[0]), "90 2 all true  ([\"out/*\"], Some(77), Allowed)");
    assert_eq!(plain.env["A"], "1");
    assert_eq!(told(&own.cases[0]), "300 2 all,own own  ([\"out/*\"], Some(77), Allowed)");
    assert_eq!((&*own.env["A"], &*own.env["B"], &*own.env["C"]), ("1", "2", "2"));
    assert_eq!(told(&own.cases[1]), "1 0 all,b,own own A=3 ([], None, Forbidden)");
    assert!(own.artifacts.is_empty(), "they are each case's");
    assert_eq!(values["suites.plain.timeout"].1, "/p/vmdeck.toml:2");
    for (key, says) in [
        ("name = \"x\"", "`defaults.case.name`: `name` says what a case is"),
        ("matrix = { a = [\"b\"] }", "`defaults.case.matrix`: `matrix` says what a case is"),
        ("timeuot = \"1s\"", "`defaults.case.timeuot`: unknown key (did you mean `timeout`?)"),
        ("timeout = \"soon\"", "`defaults.case.timeout`: "),
    ] {
        let told = problems(&format!("[defaults.case]\n{key}\n{SMALL}"));
        assert!(told.contains(&format!("/p/vmdeck.toml:2: {says}")), "{told}");
    }
}

#[test]
fn every_problem_is_told_at_once_with_its_place() {
    let text = "[host]\nlokc = \"/x\"\n[guests.deb]\nbackend = \"quemu\"\nmemroy = \"1GiB\"\n[guests.\"-x\"]\nbackend = \"qemu\"\n\
                [guests.ok]\nbackend = \"qemu\"\ncpus = 0\nmemory = \"lots\"\nboot = { pattern = \"/(/\" }\n\
                [suites.s]\nguests = [\"nosuch\"]\n[[suites.s.cases]]\nrun = \"x\"\n[[suites.s.cases]]\nname = \"a\"\n";
    let told = problems(text);
    for part in [
        "/p/vmdeck.toml:2: `host.lokc`: unknown key (did you mean `lock`?)",
        "/p/vmdeck.toml:5: `guests.deb.memroy`: unknown key (did you mean `memory`?)",
        "/p/vmdeck.toml:4: `guests.deb.backend`: unknown backend `quemu` (known: qemu, local)",
        "`-x` is not a name",
        "`guests.ok.cpus`: 0 is out of range: 1 to 512",
        "`guests.ok.memory`: `lots` is not a unit of size",
        "`guests.ok.boot.pattern`: `/(/` is not a regular expression",
        "/p/vmdeck.toml:14: `suites.s.guests`: `nosuch` is not a guest (known: ",
        "/p/vmdeck.toml:15: `suites.s.cases[0]`: `name` is missing",
        "case `a` needs exactly one of `run`, `script`, `steps`, `discover` and `manual`",
    ] {
        assert!(told.contains(part), "{part:?} not in\n{told}");
    }
}

#[test]
fn broken_toml_names_its_line() {
    let told = problems("[host]\nslots = = 3\n");
    assert!(told.contains("/p/vmdeck.toml:2: "), "{told}");
}

#[test]
fn a_table_where_a_value_belongs_and_the_other_way_round() {
    let told = problems("host = 3\n[guests.deb.cpus]\nx = 1\n");
    assert!(told.contains("`host`: expected a table (`[...]`), found a whole number"), "{told}");
    assert!(told.contains("`guests.deb.cpus`: expected a whole number from 1 to 512, found a table"), "{told}");
}

#[test]
fn secrets_come_from_where_they_are_kept_and_plain_ones_are_noted() {
    let with = |value: &str| {
        let text = format!("{SMALL}[guests.deb.ssh]\npassword = {value}\n");
        load_with(&text, &[("PW", "from-env")], &[])
    };
    let secret = |value: &str| {
        with(value).expect("good").0.guests[0].transport_options["ssh"]
            .secret("password")
            .map(Secret::expose)
            .map(str::to_owned)
    };
    assert_eq!(secret("{ env = \"PW\" }").as_deref(), Some("from-env"));
    assert_eq!(secret("{ command = [\"pass\", \"ci\"] }").as_deref(), Some("from pass ci"));
    assert!(with("\"plain-text\"").expect("good").0.notes[0].contains("in plain text"));
    assert!(with("{ env = \"NOT_SET\" }").expect_err("unset").to_string().contains("`NOT_SET` is not set"));
    assert!(with("{ env = \"PW\", file = \"x\" }").expect_err("two").to_string().contains("exactly one"));
    let shown = show::render(&with("\"plain-text\"").expect("good").1);
    assert!(shown.contains("guests.deb.ssh.password = \"***\"") && !shown.contains("plain-text"), "{shown}");
}

#[test]
fn a_secret_file_that_others_can_read_or_that_is_no_file_is_refused() {
    use std::os::unix::fs::PermissionsExt;
    let home = tempfile::tempdir().expect("tempdir");
    let path = home.path().join("pw");
    let load = || {
        let text = format!("{SMALL}[guests.deb.ssh]\npassword = {{ file = {path:?} }}\n");
        load_with(&text, &[], &[]).map(|(setup, _)| {
            setup.guests[0].transport_options["ssh"].secret("password").map(|s| s.expose().to_owned())
        })
    };
    std::fs::write(&path, "from-file\n").expect("file");
    for mode in [0o666, 0o644, 0o640, 0o602] {
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).expect("chmod");
        let told = load().expect_err("open to others").to_string();
        assert!(told.contains("run `chmod 600") && told.contains("guests.deb.ssh.password"), "{mode:o}: {told}");
    }
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).expect("chmod");
    assert_eq!(load().expect("good").as_deref(), Some("from-file"));
    std::fs::remove_file(&path).expect("rm");
    std::fs::create_dir(&path).expect("mkdir");
    assert!(load().expect_err("a folder").to_string().contains("a folder, not a regular file"));
}

#[test]
fn a_folder_that_is_replaced_must_be_deep_enough() {
    for to in ["/", "/home", "home/ci", "/home/../etc"] {
        let told = problems(&format!("{SMALL}[guests.deb.source]\npath = \".\"\nto = \"{to}\"\n"));
        assert!(told.contains("not a safe folder"), "{to}: {told}");
    }
}

#[test]
fn an_unknown_variable_is_noted_and_the_config_still_loads() {
    let (setup, _) = load_with(SMALL, &[("VMDECK_GUESTS_DEB_MEMROY", "1")], &[]).expect("good");
    assert!(setup.notes[0].contains("VMDECK_GUESTS_DEB_MEMROY"));
}

#[test]
fn the_old_lock_turns_its_guards_on() {
    let shared =
        |line: &str| load_with(&format!("[host]\n{line}\n{SMALL}"), &[], &[]).expect("good").0.host.lock_shared;
    assert!(!shared(""));
    assert!(shared("lock = \"/tmp/redoubt-vm-tests.lock.d\""));
    assert!(shared("lock_shared = true"));
}

#[test]
fn what_a_shell_leaves_of_quotes_and_homes_is_understood() {
    let set = ["guests.deb.ssh.user=22.04", "guests.deb.qemu.kernel=~/vmlinux", "suites.smoke.cases.0.timeout=2s"];
    let (setup, _) = load_with(SMALL, &[], &set).expect("good");
    let guest = &setup.guests[0];
    assert_eq!(guest.transport_options["ssh"].text("user"), Some("22.04"));
    assert!(!guest.options.path("kernel").expect("kernel").to_string_lossy().contains('~'));
    assert_eq!(setup.suites[0].cases[0].timeout, Some(Duration::from_secs(2)));
}

#[test]
fn the_old_scripts_know_one_slot_only() {
    let set = ["host.slots=2", "host.lock=/tmp/redoubt-vm-tests.lock.d"];
    let told = load_with(SMALL, &[], &set).expect_err("slots").to_string();
    assert!(told.contains("the lock of the old scripts has only one slot"), "{told}");
}

#[test]
fn roles_make_a_job_of_several_guests() {
    let text = "[guests.deb]\nbackend = \"qemu\"\n[guests.other]\nbackend = \"qemu\"\n[suites.net]\n\
                roles = { server = \"deb\", client = \"deb\", probe = \"other\" }\n\
                [[suites.net.cases]]\nname = \"a\"\non = \"server\"\nrun = \"true\"\n\
                [[suites.net.cases]]\nname = \"b\"\non = [\"client\", \"probe\"]\nrun = \"true\"\n\
                [suites.plain]\n[[suites.plain.cases]]\nname = \"c\"\nrun = \"true\"\n";
    let (setup, _) = load_with(text, &[], &[]).expect("good");
    let cases = |words: &[&str], shard: Option<&str>| -> Vec<String> {
        let words: Vec<Selector> = words.iter().map(|word| Selector::parse(word).expect("word")).collect();
        let mut jobs = plan::select(&setup, &words);
        if let Some(shard) = shard {
            jobs = division::divide(jobs, Shard::parse(shard).expect("shard"), None, 1).jobs;
        }
        let names = |job: &Job| -> Vec<String> {
            job.cases().map(|(guest, suite, case)| format!("{}/{}@{}", suite.id, case.id, guest.id)).collect()
        };
        jobs.iter().flat_map(names).collect()
    };
    let with_roles = ["net/a@net.server", "net/b@net.client", "net/b@net.probe"];
    let plain = ["plain/c@deb", "plain/c@other"];
    assert_eq!(cases(&[], None), [&plain[..], &with_roles].concat());
    assert_eq!(cases(&["net"], None), with_roles);
    assert_eq!(cases(&["@net.client"], None), ["net/b@net.client"]);
    assert_eq!(cases(&["@other"], None), ["plain/c@other", "net/b@net.probe"]);
    let shards = [cases(&[], Some("1/2")), cases(&[], Some("2/2"))];
    assert_eq!(shards[0], [&plain[..1], &with_roles].concat(), "a suite with roles is one piece");
    assert_eq!(shards[1], plain[1..]);
    assert_eq!(setup.suites[0].network, SuiteNetwork::Private);
    let names: Vec<String> = setup.machine_names().iter().map(ToString::to_string).collect();
    assert_eq!(names, ["deb", "other", "net.client", "net.probe", "net.server"]);
    let held = |words: &[&str]| -> Vec<String> {
        let words: Vec<Selector> = words.iter().map(|word| Selector::parse(word).expect("word")).collect();
        let jobs = plan::select_guests(&setup, &words);
        jobs.iter().flat_map(Job::guests).map(|guest| guest.id.to_string()).collect()
    };
    assert_eq!(held(&[]), ["deb", "other"]);
    assert_eq!(held(&["@net.client"]), ["net.client", "net.probe", "net.server"]);
    assert_eq!(held(&["@*"]), ["deb", "other"]);
    assert_eq!(held(&["@deb", "@net.*"]), ["deb", "net.client", "net.probe", "net.server"]);
    let guest = setup.guest_named("net.probe").expect("a role");
    assert_eq!((guest.id.as_str(), guest.key.as_str()), ("net.probe", "other"));
}

#[test]
fn roles_that_cannot_be_are_told() {
    let metal = "[guests.metal]\nbackend = \"local\"\n";
    let once = "[guests.once]\nbackend = \"qemu\"\nmachine = \"ci-linux\"\n";
    for (guests, suite, on, told) in [
        ("", "roles = { a = \"deb\" }", "", "nothing says where case `x` is run"),
        ("", "roles = { a = \"deb\" }", "on = \"b\"", "`b` is not a role (known: a)"),
        ("", "roles = { a = \"deb\" }", "on = [\"a\", \"a\"]", "`a` is there twice"),
        ("", "roles = {}", "", "there are no roles"),
        ("", "roles = { a = \"\" }", "on = \"a\"", "`` is not a guest (known: deb)"),
        ("", "roles = { a = \"debian\" }", "on = \"a\"", "`debian` is not a guest (known: deb)"),
        ("", "roles = { a_b = \"deb\" }", "on = \"a_b\"", "`a_b` cannot be a host name"),
        ("", "roles = { localhost = \"deb\" }", "on = \"localhost\"", "`localhost` cannot be a host name"),
        ("", "roles = { a-B = \"deb\", A-b = \"deb\" }", "on = \"a-B\"", "have the same variable: VMDECK_A_B_ADDR"),
        (
            "[guests.'net.a']\nbackend = \"qemu\"\n",
            "roles = { a = \"deb\" }",
            "on = \"a\"",
            "would be called like guest `net.a`",
        ),
        ("", "guests = [\"deb\"]\nroles = { a = \"deb\" }", "on = \"a\"", "a suite has `roles` or `guests`"),
        ("", "", "on = \"a\"", "it has no effect in a suite without `roles`"),
        ("", "network = \"private\"", "", "it has no effect without `roles`"),
        (
            metal,
            "roles = { a = \"deb\", b = \"metal\" }\nnetwork = \"private\"",
            "on = \"a\"",
            "guest `metal` (backend local) cannot be",
        ),
        ("", "roles = \"deb\"", "", "roles"),
        (once, "roles = { a = \"once\", b = \"once\" }", "on = \"a\"", "`once` is one machine, and is `a` already"),
        ("", "env = { VMDECK_ROLE = \"x\" }", "", "`VMDECK_ROLE` is one of those that vmdeck sets itself"),
    ] {
        let text = format!(
            "[guests.deb]\nbackend = \"qemu\"\n{guests}[suites.net]\n{suite}\n[[suites.net.cases]]\nname = \"x\"\n{on}\nrun = \"true\"\n"
        );
        let said = problems(&text);
        assert!(said.contains(told), "{suite} {on}: {said}");
        assert!(
            !told.contains("is not a guest") || !said.contains("is not a role"),
            "what follows from it is not told: {said}"
        );
    }
}
