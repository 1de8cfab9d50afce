//! The stand-ins themselves, against what was read in the tools' sources: a test on a wrong stand-in would prove nothing.

use serde_json::{Value, json};
use vmdeck_testkit::desktop::{DesktopWorld, ID, machine, multipass, utm};

/// Exit code, and what standard output or standard error holds.
type Answer<'a> = (i32, &'a str, &'a str);

#[track_caller]
fn check(desk: &DesktopWorld, tool: &str, line: &str, (code, out, err): Answer<'_>) {
    let words: Vec<&str> = line.split(' ').filter(|w| !w.is_empty()).collect();
    let got = desk.call(tool, &words);
    let holds = |whole: &str, part: &str| if part.is_empty() { whole.is_empty() } else { whole.contains(part) };
    assert!(got.0 == Some(code) && holds(&got.1, out) && holds(&got.2, err), "{tool} {line}: {got:?}");
}

#[test]
fn multipass_answers_as_its_sources_say() {
    let machines = json!({ "up": { "state": "Running", "ipv4": ["10.0.0.5"], "used": 7, "snapshots": {} },
        "off": { "state": "Stopped", "ipv4": ["10.0.0.6"] }, "gone": { "state": "Deleted" }, "sus": { "state": "Suspended" },
        "odd": { "state": "Delayed Shutdown", "ipv4": [] } });
    let desk = DesktopWorld::new("", &multipass(&machines, &json!([])));
    let missing = "The following errors occurred:\ninstance \"no\" does not exist";
    for (line, answer) in [
        ("version --format json", (0, "\"multipassd\"", "")),
        ("info no --format json", (2, "", missing)),
        ("stop no", (2, "", missing)),
        ("exec no -n -- true", (2, "", missing)),
        ("exec gone -n -- true", (2, "", "is deleted")),
        ("exec up", (1, "", "Wrong number of arguments")),
        ("snapshot no", (2, "", "snapshot failed: instance \"no\" does not exist")),
        ("snapshot up", (2, "", "can only take snapshots of stopped instances")),
        ("snapshot off --name s1", (0, "Snapshot taken: off.s1", "")),
        ("snapshot off --name s1", (2, "", "Snapshot already exists: off.s1")),
        ("restore off.s1", (1, "", "Use '--destructive'")),
        ("restore off.nope --destructive", (2, "", "No such snapshot: off.nope")),
        ("restore off.s1 --destructive", (0, "Snapshot restored: off.s1", "")),
        ("start gone", (2, "", "Use 'recover' to recover it or 'purge'")),
        ("start nope", (2, "", "start failed: instance(s) missing\nInstance 'nope' does not exist.")),
        ("stop off", (0, "\u{1b}[2K", "")),
        ("stop sus", (2, "", "Use --force to power it off.")),
        ("delete sus", (2, "", "Use --purge to forcefully delete it.")),
        ("launch --name up", (2, "", "instance \"up\" already exists")),
        ("launch --name gone", (2, "", "instance \"gone\" already exists")),
        ("launch ubuntu:22.04 --name x", (2, "", "Remote \"ubuntu\" is unknown or unreachable")),
        ("launch nosuch --name x", (2, "", "Unable to find an image matching \"nosuch\"")),
        ("launch --name x --disk 1K", (2, "", "Invalid disk size value supplied: 1K.")),
        ("launch --name x_y", (2, "", "Invalid instance name supplied: x_y.")),
        ("launch --name x --timeout 0", (1, "", "--timeout value has to be a positive integer")),
        ("launch --name x --cpus many", (1, "", "invalid CPU count 'many'")),
        ("frobnicate", (1, "Unknown command or alias 'frobnicate'", "")),
    ] {
        check(&desk, "multipass", line, answer);
    }
    let (_, list, _) = desk.call("multipass", &["list", "--format", "json"]);
    let list: Value = serde_json::from_str(&list).expect("json");
    let row =
        |name: &str| list["list"].as_array().expect("list").iter().find(|r| r["name"] == name).expect("row").clone();
    assert_eq!(
        (&row("odd")["ipv4"], &row("off")["ipv4"], &row("gone")["state"]),
        (&json!(["N/A"]), &json!([]), &json!("Deleted"))
    );
    let (_, info, _) = desk.call("multipass", &["info", "up", "off", "--format", "json"]);
    let info: Value = serde_json::from_str(&info).expect("json");
    assert_eq!(
        (&info["info"]["up"]["disks"]["sda1"]["used"], &info["info"]["off"]["cpu_count"]),
        (&json!("7"), &json!(""))
    );
    // `exec` starts what is stopped, and passes codes on.
    let (code, out, _) = desk.call("multipass", &["exec", "off", "-n", "--", "sh", "-c", "echo 'a  b'; exit 9"]);
    assert_eq!((code, out.as_str()), (Some(9), "a  b\n"));
    assert_eq!(desk.multipass()["off"]["state"], "Running");
    // The global purge.
    check(&desk, "multipass", "purge", (0, "", ""));
    assert!(desk.multipass().get("gone").is_none());
    let mut down = desk.found();
    down["multipass"]["daemon"] = Value::Null;
    desk.becomes(&down);
    check(&desk, "multipass", "version --format json", (0, "\"multipass\"", ""));
    check(&desk, "multipass", "list", (2, "", "list failed: cannot connect to the multipass socket"));
}

#[test]
fn utmctl_answers_as_its_sources_say() {
    let apple = json!({ "uuid": "22222222-195C-499E-BDC9-066470BCA5C9", "name": "mac os", "status": "started", "backend": "Apple" });
    let desk = DesktopWorld::new("", &utm(&json!([machine("ci-linux", "stopped"), apple]), &json!([])));
    let event = "OSStatus error -2700.)\n";
    let refused = |why: &str| format!("{event}{why}");
    for (line, code, out, err) in [
        (
            "list",
            0,
            "UUID                                 Status   Name\nFC379EA4-195C-499E-BDC9-066470BCA5C9 stopped  ci-linux\n",
            String::new(),
        ),
        ("status ci-linux", 0, "stopped\n", String::new()),
        ("status fc379ea4-195c-499e-bdc9-066470bca5c9", 1, "", "Error: Virtual machine not found.".into()),
        ("ip-address ci-linux", 0, "", refused("The virtual machine is not running.")),
        ("exec ci-linux --cmd true", 0, "", refused("The virtual machine is not running.")),
        ("exec ci-linux", 64, "", "Missing expected argument".into()),
        ("stop ci-linux", 0, "", refused("The virtual machine is not running.")),
        ("stop --kill --force ci-linux", 1, "", "You can only specify one of".into()),
        ("--version", 64, "", "Error: Unknown option '--version'".into()),
        ("frob", 64, "", "Error: Unexpected argument 'frob'".into()),
        ("start ci-linux", 0, "", String::new()),
        ("start ci-linux", 0, "", refused("Operation not available.")),
        ("clone ci-linux --name x", 0, "", refused("The virtual machine must be stopped")),
        ("delete ci-linux", 0, "", refused("The virtual machine must be stopped")),
        ("ip-address ci-linux", 0, "192.0.2.4\n", String::new()),
        ("suspend ci-linux", 0, "", String::new()),
        ("stop --request ci-linux", 0, "", refused("The virtual machine is not running.")),
        ("stop --kill ci-linux", 0, "", String::new()),
        ("clone ci-linux --name x", 0, "", String::new()),
    ] {
        check(&desk, "utmctl", line, (code, out, &err));
    }
    check(
        &desk,
        "utmctl",
        "exec 22222222-195C-499E-BDC9-066470BCA5C9 --cmd true",
        (0, "", &refused("Operation not supported by the backend.")),
    );
    assert_eq!(desk.utm().as_array().map(Vec::len), Some(3));
    check(&desk, "utmctl", &format!("start {ID}"), (0, "", ""));
    let (code, out, err) =
        desk.call("utmctl", &["exec", "--hide", ID, "--cmd", "sh", "-c", "echo out; echo err >&2; exit 7"]);
    assert_eq!((code, out.as_str(), err.as_str()), (Some(7), "out\n", "err\n"));
    assert_eq!(desk.call("utmctl", &["exec", ID, "--cmd", "sh", "-c", "kill -9 $$"]).0, Some(0));
    let mut denied = desk.found();
    denied["utm"]["denied"] = json!(true);
    desk.becomes(&denied);
    check(&desk, "utmctl", "list", (0, "UUID", "OSStatus error -1743.)\nNOTE: utmctl does not work from SSH sessions"));
    check(&desk, "utmctl", "status ci-linux", (1, "", "Error: Virtual machine not found."));
}
