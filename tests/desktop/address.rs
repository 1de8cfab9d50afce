//! Finding the address of a machine of UTM: each way leads to a real sshd, and nobody is told anything before they are proven to
//! be the machine.

use serde_json::{Value, json};
use std::{fs, os::unix::fs::PermissionsExt};
use vmdeck_testkit::{
    desktop::{DesktopWorld, ID, utm, utm_guest},
    sshd::{self, Server},
};

/// Where the guest's own sshd listens: an address of this host that is not the usual one.
const IP: &str = "127.0.0.9";
const MAC: &str = "<key>Mode</key><string>Shared</string><key>MacAddress</key><string>52:54:00:01:02:03</string>";

/// Returns a running machine of Apple's virtualization: UTM itself can tell nothing about it.
fn silent() -> Value {
    json!({ "uuid": ID, "name": "ci-linux", "status": "started", "backend": "Apple" })
}

fn desk(machine: &Value, port: u16, ssh: &str, of_utm: &str, top: &str) -> DesktopWorld {
    let own =
        format!("{top}\n[guests.linux.ssh]\nport = {port}\nuser = \"{}\"\nkey = \"user_key\"\n{ssh}", sshd::user());
    DesktopWorld::new(
        &utm_guest(&own, of_utm).replace("leases = \"/nowhere\"", "leases = \"leases\""),
        &utm(&json!([machine]), &json!([])),
    )
}

/// Returns the ways that were tried, with their addresses and reasons, as the record has them.
fn tried(desk: &DesktopWorld) -> Vec<(String, String, String)> {
    let text = |e: &Value, key: &str| e[key].as_str().unwrap_or_default().to_owned();
    let ways = desk.of_kind("route_tried").into_iter().filter(|e| e["way"].is_string());
    ways.map(|e| (text(&e, "way"), text(&e, "address"), text(&e, "why"))).collect()
}

/// A key that only its owner can read, and that nobody knows.
fn private_key(world: &DesktopWorld) {
    fs::write(world.path("user_key"), "x").expect("key");
    fs::set_permissions(world.path("user_key"), fs::Permissions::from_mode(0o600)).expect("mode");
}

fn lease(name: &str, hardware: &str) -> String {
    format!(
        "{{\n\tname={name}\n\tip_address={IP}\n\thw_address={hardware}\n\tidentifier={hardware}\n\tlease=0x7fffffff\n}}\n"
    )
}

#[test]
fn every_way_leads_to_the_machine_and_tells_its_reason() {
    let pinned = "host_key = \"host_key.pub\"";
    let arp = format!("? ({IP}) at 52:54:0:1:2:3 on bridge100 ifscope [bridge]\n");
    let ff = "ff,f1:f5:dd:7f:0:2:0:0:ab:11:cb:fb:30:b0:97:b6:3a:67";
    for (way, machine, of_utm, leases, table) in [
        (
            "ip-address",
            json!({ "uuid": ID, "name": "ci-linux", "status": "started", "ips": ["fe80::1", IP] }),
            "",
            String::new(),
            "",
        ),
        ("leases", silent(), "", lease("other", "1,52:54:0:1:2:3"), ""),
        ("leases", silent(), "dhcp_names = [\"box\"]", lease("box.local", ff), ""),
        ("arp", silent(), "", lease("other", ff), arp.as_str()),
        ("scan", silent(), "networks = [\"127.0.0.8/29\"]", String::new(), ""),
    ] {
        let port = sshd::free_port(IP);
        let of_utm = if of_utm.contains("networks") { of_utm.to_owned() } else { format!("networks = []\n{of_utm}") };
        let desk = desk(&machine, port, pinned, &of_utm, "transports = [\"ssh\"]");
        let _server = Server::start(&desk, "", IP, port);
        desk.bundle("ci-linux", ID, MAC);
        fs::write(desk.path("leases"), leases).expect("leases");
        let mut found = desk.found();
        found["arp"] = json!(table);
        desk.becomes(&found);
        desk.ci(&[]).exits(0);
        let ways = tried(&desk);
        let (last, before) = ways.split_last().expect("ways");
        assert_eq!((last.0.as_str(), last.1.as_str()), (way, format!("{IP}:{port}").as_str()), "{ways:?}");
        assert!(before.iter().all(|(_, _, why)| !why.is_empty()), "each of the others has a reason: {before:?}");
        let reached =
            desk.of_kind("route_tried").into_iter().find(|e| e["way"].is_null() && e["ok"] == true).expect("reached");
        assert_eq!(
            (reached["transport"].as_str(), reached["address"].as_str()),
            (Some("ssh"), Some(format!("{IP}:{port}").as_str()))
        );
    }
}

#[test]
fn an_emulated_network_is_reached_by_its_forwarded_port() {
    let port = sshd::free_port("127.0.0.1");
    let desk = desk(&silent(), 22, "host_key = \"host_key.pub\"", "", "transports = [\"ssh\"]");
    let _server = Server::start(&desk, "", "127.0.0.1", port);
    let forward = format!(
        "<key>Mode</key><string>Emulated</string><key>PortForward</key><array><dict><key>GuestPort</key><integer>22</integer>\
         <key>HostPort</key><integer>{port}</integer></dict></array>"
    );
    desk.bundle("ci-linux", ID, &forward);
    desk.ci(&[]).exits(0);
    assert_eq!(tried(&desk), [("forward".to_owned(), format!("127.0.0.1:{port}"), String::new())]);
}

#[test]
fn nothing_is_sent_to_a_scanned_host_that_does_not_prove_itself() {
    // Without a pinned key nobody can prove anything.
    let port = sshd::free_port(IP);
    let scan = "networks = [\"127.0.0.8/29\"]";
    let short = "transports = [\"ssh\"]\nlaunch_retries = 1\nboot_timeout = \"6s\"";
    let unpinned = |config: &str| config.replace("launch_retries = 2\nboot_timeout = \"20s\"\n", "");
    let own = format!("{short}\n[guests.linux.ssh]\nport = {port}\nuser = \"{}\"\nkey = \"user_key\"\n", sshd::user());
    let agent = json!({ "uuid": ID, "name": "ci-linux", "status": "started" });
    let world = DesktopWorld::new(&unpinned(&utm_guest(&own, scan)), &utm(&json!([agent]), &json!([])));
    let server = Server::start(&world, "", IP, port);
    world.ci(&[]).exits(5);
    let scan_of =
        |world: &DesktopWorld| tried(world).into_iter().find(|(way, ..)| way == "scan").expect("a scan was made");
    assert!(scan_of(&world).1.contains(IP) && scan_of(&world).2.contains("nothing proves that this is the machine"));
    let log = fs::read_to_string(world.path("sshd.log")).unwrap_or_default();
    assert!(!log.contains("Accepted") && !log.contains("Failed") && !log.contains("publickey"), "{log}");
    drop(server);

    // With one, the first to answer is passed over if it shows another, and the right one is found behind it.
    let port = sshd::free_port("127.0.0.14");
    let world = desk(&silent(), port, "host_key = \"host_key.pub\"", scan, "transports = [\"ssh\"]");
    let _stranger = Server::start(&world, "strange_", IP, port);
    let _right = Server::start(&world, "", "127.0.0.14", port);
    world.ci(&[]).exits(0);
    let log = fs::read_to_string(world.path("strange_sshd.log")).unwrap_or_default();
    assert!(!log.contains("Accepted") && !log.contains("Failed publickey"), "{log}");
    assert!(fs::read_to_string(world.path("sshd.log")).expect("log").contains("Accepted publickey"));
}

#[test]
fn the_host_key_of_a_machine_of_others_is_learned_by_the_hypervisor_or_not_at_all() {
    let port = sshd::free_port(IP);
    let machine = json!({ "uuid": ID, "name": "ci-linux", "status": "started", "ips": [IP] });
    let world = desk(&machine, port, "", "networks = []", "transports = [\"ssh\"]\ntransport_turn = \"5s\"");
    let _server = Server::start(&world, "", IP, port);
    // What the guest's own `cat` shows: its host keys.
    let bin = world.path("desk/guests/ci-linux/bin");
    fs::create_dir_all(&bin).expect("bin");
    let script = |file: &str| {
        fs::write(bin.join("cat"), format!("#!/bin/sh\nexec /bin/cat {}\n", world.path(file).display())).expect("cat");
        fs::set_permissions(bin.join("cat"), fs::Permissions::from_mode(0o755)).expect("mode");
    };
    script("host_key.pub");
    world.ci(&[]).exits(0);
    // Another key than the one that the guest itself names: somebody else answers there.
    script("user_key.pub");
    world
        .run(&["--ci", "--run-dir", "other", "--set", "guests.linux.boot_timeout=4s"])
        .exits(5)
        .says("cannot trust the guest's host key");

    let port = sshd::free_port(IP);
    let world = desk(&silent(), port, "", "networks = []", "transports = [\"ssh\"]");
    private_key(&world);
    world.ci(&["--set", "guests.linux.boot_timeout=4s"]).exits(5);
}

#[test]
fn a_guest_whose_ssh_does_not_answer_is_used_by_its_agent() {
    let machine = json!({ "uuid": ID, "name": "ci-linux", "status": "started", "ips": [IP] });
    let port = sshd::free_port(IP);
    let world = desk(
        &machine,
        port,
        "host_key = \"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJdD7y3aLq454yWBdwLWbieU1ebz9/cu7/QEXn9OIeZJ\"",
        "networks = []",
        "transport_turn = \"700ms\"",
    );
    private_key(&world);
    world.ci(&[]).exits(0);
    let kinds: Vec<(String, bool)> = world
        .of_kind("route_tried")
        .iter()
        .filter(|e| e["way"].is_null())
        .map(|e| (e["transport"].as_str().expect("kind").to_owned(), e["ok"] == true))
        .collect();
    assert_eq!(kinds, [("ssh".to_owned(), false), ("exec".to_owned(), true)]);
}

#[test]
fn doctor_shows_the_chain_and_what_each_way_says_now() {
    let machine = json!({ "uuid": ID, "name": "ci-linux", "status": "started", "ips": ["192.168.64.4"] });
    let world = desk(&machine, 22, "host_key = \"host_key.pub\"", "", "");
    let ran = world.run(&["doctor"]);
    for line in [
        "is `ci-linux`, running; its address is looked up by: ip-address, agent, leases, arp, scan",
        "ip-address: 192.168.64.4:22",
        "leases: cannot find the address this way",
        "arp: cannot find the address this way: its MAC is not known",
    ] {
        assert!(ran.out.contains(line), "{line:?} not in\n{}", ran.out);
    }
}

#[test]
fn without_a_login_a_named_machine_is_found_on_disk_and_used_as_it_is() {
    let port = sshd::free_port(IP);
    let world = desk(
        &silent(),
        port,
        &format!("host = \"{IP}\"\nhost_key = \"host_key.pub\""),
        "networks = []",
        "machine = \"ci-linux\"",
    );
    let _server = Server::start(&world, "", IP, port);
    world.bundle("ci-linux", ID, MAC);
    let mut found = world.found();
    found["utm"]["denied"] = json!(true);
    world.becomes(&found);
    world.ci(&[]).exits(0).says("-1743").says("put back to how it was found");
    assert_eq!(world.count("utmctl start") + world.count("utmctl stop"), 0, "nothing about it is changed");
}
