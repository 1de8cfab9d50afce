//! A guest behind other hosts: OpenSSH's own servers, one behind the other, and the user's own settings for `ssh`.

#![expect(clippy::disallowed_methods, reason = "a test acts from outside")]

use std::fs;
use vmdeck_testkit::{
    sshd::{self, Server},
    world::{World, finish, read_until},
};

const CASES: &str =
    "[suites.s]\n[[suites.s.cases]]\nname = \"a\"\nrun = \"echo $SSH_CONNECTION; exit 3\"\nexpect = { exit = 3 }\n";

/// Three servers: two hosts on the way, and the guest's own.
struct Chain {
    world: World,
    servers: Vec<Server>,
    ports: [u16; 3],
}

impl Chain {
    fn start(keys: impl Fn([u16; 3]) -> String) -> Self {
        let ports = [0; 3].map(|_| sshd::free_port("127.0.0.1"));
        let world = World::new(&format!(
            "[guests.far]\nbackend = \"remote\"\ntransports = [\"ssh\"]\nlaunch_retries = 1\nboot_timeout = \"15s\"\n\
             [guests.far.ssh]\n{}\n{CASES}",
            keys(ports)
        ));
        let names = ["one-", "two-", ""];
        let servers = names.iter().zip(ports).map(|(name, port)| Server::start(&world, name, "127.0.0.1", port));
        let servers: Vec<Server> = servers.collect();
        let key = |name: &str| fs::read_to_string(world.path(&format!("{name}host_key.pub"))).expect("key");
        let line = |(name, port): (&&str, &u16)| format!("[127.0.0.1]:{port} {}", key(name));
        fs::write(world.path("known"), names.iter().zip(&ports).map(line).collect::<String>()).expect("write");
        Self { world, servers, ports }
    }
}

/// Returns the keys of a guest behind two hosts, with these besides.
fn behind(ports: [u16; 3], more: &str) -> String {
    let user = sshd::user();
    format!(
        "host = \"127.0.0.1\"\nport = {}\nuser = \"{user}\"\nkey = \"user_key\"\n\
         proxy_jump = [\"127.0.0.1:{}\", \"{user}@127.0.0.1:{}\"]\n{more}",
        ports[2], ports[0], ports[1]
    )
}

#[test]
fn a_guest_is_reached_over_two_hosts() {
    for more in [
        "known_hosts = \"known\"",
        "host_key = \"host_key.pub\"\njump_host_keys = [\"one-host_key.pub\", \"two-host_key.pub\"]",
    ] {
        let chain = Chain::start(|ports| behind(ports, more));
        chain.world.ci(&[]).exits(0);
        let logs: Vec<String> = ["one-", "two-"]
            .iter()
            .map(|name| fs::read_to_string(chain.world.path(&format!("{name}sshd.log"))).expect("log"))
            .collect();
        assert!(logs.iter().all(|log| log.contains("Accepted publickey")), "{logs:?}");
        chain.world.assert_nothing_left();
    }
}

#[test]
fn what_is_wrong_on_the_way_is_said_with_its_host() {
    // Nobody knows the keys.
    let chain = Chain::start(|ports| behind(ports, "host_key = \"host_key.pub\""));
    let ran = chain.world.ci(&[]).exits(5).says("its host key is unknown; it shows ecdsa-sha2-nistp256 SHA256:");
    assert!(ran.out.contains("jump_host_keys"), "{}", ran.out);
    // Another key than the known one: nothing is sent to that host.
    let chain = Chain::start(|ports| behind(ports, "host_key = \"host_key.pub\"\njump_host_keys = [\"user_key.pub\"]"));
    chain.world.ci(&[]).exits(5).says("its host key is ecdsa-sha2-nistp256 SHA256:");
    let log = fs::read_to_string(chain.world.path("one-sshd.log")).expect("log");
    assert!(!log.contains("Accepted"), "{log}");
    // The last host on the way cannot reach the guest.
    let mut chain = Chain::start(|ports| behind(ports, "known_hosts = \"known\""));
    drop(chain.servers.pop());
    let wanted = format!("`127.0.0.1` port {}: the host before it cannot reach it", chain.ports[2]);
    chain.world.ci(&["--set", "guests.far.boot_timeout=4s"]).exits(5).says(&wanted);
    // One on the way dies in mid-case.
    let mut chain = Chain::start(|ports| behind(ports, "known_hosts = \"known\""));
    let config = fs::read_to_string(chain.world.path("vmdeck.toml")).expect("config");
    let slow = config.replace("echo $SSH_CONNECTION; exit 3", "echo begun; sleep 30");
    fs::write(chain.world.path("vmdeck.toml"), slow).expect("write");
    let mut run = chain.world.start(&["--ci", "--run-dir", "record", "--verbose"]);
    read_until(&mut run, "begun");
    chain.servers.remove(0).kill_with_its_connections();
    finish(run).exits(5);
    assert_eq!(chain.world.verdict_of("s/a"), "infra");
}

#[test]
fn the_users_own_settings_say_where_a_host_is_and_over_which() {
    let chain = Chain::start(|_| "host = \"far-guest\"\nconfig = \"ssh_config\"".into());
    let (home, user) = (chain.world.home.path().display().to_string(), sshd::user());
    let [one, two, far] = chain.ports;
    let settings = format!(
        "Include {home}/more_config\nHost far-*\n  HostName 127.0.0.1\n  Port {far}\n  ProxyJump two\n\
         Host two\n  HostName 127.0.0.1\n  Port {two}\n  ProxyJump one\nHost one\n  HostName 127.0.0.1\n  Port {one}\n\
         Match originalhost far-guest,one,two\n  User {user}\n"
    );
    fs::write(chain.world.path("ssh_config"), settings).expect("write");
    let common = format!(
        "Host *\n  IdentityFile {home}/locked\n  IdentityFile {home}/user_key\n  IdentitiesOnly yes\n  UserKnownHostsFile {home}/known\n"
    );
    fs::write(chain.world.path("more_config"), common).expect("write");
    // A key that cannot be used is passed over, as `ssh` does.
    let locked = ["-q", "-t", "ed25519", "-N", "a passphrase", "-f", "locked"];
    let made = std::process::Command::new("ssh-keygen").args(locked).current_dir(chain.world.home.path()).status();
    assert!(made.expect("ssh-keygen").success());
    chain.world.ci(&[]).exits(0);
    for name in ["one-", "two-"] {
        let log = fs::read_to_string(chain.world.path(&format!("{name}sshd.log"))).expect("log");
        assert!(log.contains("Accepted publickey"), "{name}: {log}");
    }
    // A user that the config names wins.
    let other = ["--ci", "--set", "guests.far.ssh.user=nobody-at-all", "--set", "guests.far.boot_timeout=4s"];
    chain.world.run(&other).exits(5).says("as `nobody-at-all`");
}

#[test]
fn a_certificate_beside_the_key_is_offered() {
    let chain = Chain::start(|ports| {
        let user = sshd::user();
        format!(
            "host = \"127.0.0.1\"\nport = {}\nuser = \"{user}\"\nkey = \"signed\"\nhost_key = \"host_key.pub\"",
            ports[2]
        )
    });
    let run = |args: &[&str]| {
        let made = std::process::Command::new("ssh-keygen").args(args).current_dir(chain.world.home.path()).output();
        assert!(made.expect("ssh-keygen").status.success(), "{args:?}");
    };
    run(&["-q", "-t", "ed25519", "-N", "", "-f", "ca"]);
    run(&["-q", "-t", "ed25519", "-N", "", "-f", "signed"]);
    run(&["-q", "-s", "ca", "-I", "test", "-n", &sshd::user(), "signed.pub"]);
    // The server knows the authority and not the key.
    let authority = fs::read_to_string(chain.world.path("ca.pub")).expect("ca");
    fs::write(chain.world.path("authorized"), format!("cert-authority {authority}")).expect("write");
    chain.world.ci(&[]).exits(0);
    fs::remove_file(chain.world.path("signed-cert.pub")).expect("removed");
    chain.world.run(&["--ci", "--set", "guests.far.boot_timeout=4s"]).exits(5).says("it refused the key");
}

#[test]
fn a_way_that_cannot_be_is_said_before_anything_is_started() {
    for (keys, says) in [
        ("host = \"h\"\nproxy_jump = \"-oProxyCommand=x\"", "is no host to jump over"),
        ("host = \"h\"\nproxy_jump = \"a\"\njump_host_keys = [\"nonsense\"]", "neither a host key nor a readable file"),
        ("host = \"h\"\nknown_hosts = \"missing\"\nproxy_jump = \"a\"", "cannot read the known hosts"),
        ("host = \"h\"\nconfig = \"missing\"", "cannot read"),
        ("proxy_jump = \"a\"", "nothing is searched for behind others"),
    ] {
        let world = World::new(&format!(
            "[guests.far]\nbackend = \"remote\"\ntransports = [\"ssh\"]\n[guests.far.ssh]\nagent = true\n{keys}\n{CASES}"
        ));
        world.ci(&[]).exits(3).says(says);
    }
}

/// The store counts for a guest that is reached directly as well, and a withdrawn key is none, wherever else it is named.
#[test]
fn a_store_says_which_key_a_guest_has() {
    let chain = Chain::start(|ports| {
        let user = sshd::user();
        format!(
            "host = \"127.0.0.1\"\nport = {}\nuser = \"{user}\"\nkey = \"user_key\"\nknown_hosts = \"known\"",
            ports[2]
        )
    });
    let run = |text: String| {
        fs::write(chain.world.path("known"), text).expect("write");
        chain.world.run(&["--ci", "--set", "guests.far.boot_timeout=4s"])
    };
    let key = fs::read_to_string(chain.world.path("host_key.pub")).expect("key");
    let place = format!("[127.0.0.1]:{}", chain.ports[2]);
    run(format!("{place} {key}")).exits(0);
    run(format!("other {key}")).exits(5).says("its host key is unknown");
    run(format!("{place} {key}@revoked {place} {key}")).exits(5).says("its host key is unknown");
    let other = fs::read_to_string(chain.world.path("user_key.pub")).expect("key");
    run(format!("{place} {other}")).exits(5).says("expected ssh-ed25519");
}
