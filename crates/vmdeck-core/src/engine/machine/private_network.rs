//! Brings a guest into the private network of its job once it is up: its interface has its address, and the roles resolve as host names.
//! After every boot, since a restart forgets what was set by hand.
//!
//! Most systems have their address by then, since the switch gives it; others look at no interface that nobody told them of.

use crate::{
    backend::request::NetworkPort,
    command::{Collected, CommandExit, RemoteCommand, Shell, powershell, sh_quote},
    host::{
        clock,
        switch::{PREFIX, Seat, Switch},
    },
    transport::session::Session,
};
use std::{fmt::Write, net::Ipv4Addr, sync::Arc, time::Duration};
use tokio_util::sync::CancellationToken;
use vmdeck_model::{
    error::{Fault, Result},
    suite::RunAs,
    text::one_line,
};

/// How long it may take.
const LIMIT: Duration = Duration::from_mins(1);
/// Exit status of our text where the network is there and the names are not.
const NO_NAMES: i32 = 73;
/// What marks our lines among the host names of a guest.
const MARK: &str = "# vmdeck";

/// The place of a machine in the private network of its job.
#[derive(Clone, Debug)]
pub(in crate::engine) struct NetworkPlace {
    switch: Arc<Switch>,
    seat: Seat,
    /// The host names in the network, each with its address.
    hosts: Arc<[(String, Ipv4Addr)]>,
}

impl NetworkPlace {
    /// Makes a network for machines that are called so; returns their places, in the same order.
    pub(in crate::engine) fn make(names: &[&str]) -> Vec<Self> {
        let switch = Arc::new(Switch::new());
        let seats: Vec<Seat> = (0..names.len()).map(Seat::of).collect();
        let hosts: Arc<[_]> = names.iter().zip(&seats).map(|(name, seat)| ((*name).to_owned(), seat.address)).collect();
        let place = |seat: Seat| Self { switch: Arc::clone(&switch), seat, hosts: Arc::clone(&hosts) };
        seats.into_iter().map(place).collect()
    }

    /// Returns the address in the network.
    pub(in crate::engine) fn address(&self) -> Ipv4Addr {
        self.seat.address
    }

    /// Returns where the machine is plugged in.
    pub(super) fn port(&self) -> NetworkPort<'_> {
        NetworkPort { switch: &self.switch, seat: self.seat }
    }
}

/// Brings a guest into its network, if it has one; returns a note of what it has to do without.
pub(super) async fn join(session: &dyn Session, place: Option<&NetworkPlace>) -> Result<Option<String>> {
    let Some(place) = place else { return Ok(None) };
    let cannot = || Fault::infra("cannot bring the guest into the private network of its suite").permanent();
    let script = match session.shell() {
        Shell::Posix => posix(place),
        Shell::PowerShell => windows(place),
    };
    let command = RemoteCommand { run_as: RunAs::Root, ..RemoteCommand::new(script) };
    let (mut said, token) = (Collected::default(), CancellationToken::new());
    let ran = clock::within(LIMIT, session.run(&command, &mut said, &token)).await;
    let words = one_line(&String::from_utf8_lossy(&said.stderr));
    match ran.ok_or_else(|| cannot().because("it took longer than 60 s"))?.map_err(|fault| cannot().caused_by(fault))? {
        CommandExit::Code(0) => Ok(None),
        CommandExit::Code(NO_NAMES) => Ok(Some(format!("the names of the roles are no host names here: {words}"))),
        exit => Err(cannot()
            .because(if words.is_empty() { exit.to_string() } else { words })
            .hint("it needs root or sudo in the guest, `ip` or `ifconfig`, and a driver for virtio-net")),
    }
}

/// Returns the text that gives an interface its address, unless it has it already, and names the others.
fn posix(place: &NetworkPlace) -> String {
    let (mac, address) = (place.seat.mac(":"), place.seat.address);
    let find = format!(
        "find() {{ for d in /sys/class/net/*; do [ \"$(cat \"$d/address\" 2>/dev/null)\" = {mac} ] && d=${{d##*/}} && return; done; false; }}"
    );
    let mut out = format!(
        "{find}
find || {{ modprobe virtio_net 2>/dev/null; find; }} || {{ echo 'no interface has the address {mac}' >&2; exit 1; }}
if command -v ip >/dev/null; then
  ip link set dev \"$d\" up || exit
  ip addr show dev \"$d\" | grep -q 'inet {address}/' || ip addr add {address}/{PREFIX} dev \"$d\" || exit
else
  ifconfig \"$d\" {address} netmask 255.255.255.0 up || exit
fi
h=/etc/hosts; {{ :"
    );
    for (name, address) in &*place.hosts {
        let _ = write!(out, "; echo {}", sh_quote(&format!("{address} {name} {MARK}")));
    }
    // Before the others, since the first line counts: a guest may call itself like a role. In place: in a container or an overlay it may
    // be a mount of its own.
    let _ = write!(
        out,
        "; grep -v '{MARK}$' $h || :; }} >$h.vmdeck && cat $h.vmdeck >$h && rm -f $h.vmdeck || exit {NO_NAMES}"
    );
    out
}

/// The same for Windows, which asks for its address by itself.
fn windows(place: &NetworkPlace) -> String {
    let (mac, address) = (place.seat.mac("-"), place.seat.address);
    let lines: Vec<String> =
        place.hosts.iter().map(|(name, address)| powershell::quote(&format!("{address} {name} {MARK}"))).collect();
    format!(
        "$n=Get-NetAdapter|Where-Object MacAddress -eq '{mac}'
if(!$n){{[Console]::Error.WriteLine('no interface has the address {mac}');exit 1}}
for($i=0;$i -lt 100 -and !(Get-NetIPAddress -InterfaceIndex $n.ifIndex -IPAddress {address} -ErrorAction SilentlyContinue);$i++){{
 if($i -eq 50){{New-NetIPAddress -InterfaceIndex $n.ifIndex -IPAddress {address} -PrefixLength {PREFIX}|Out-Null}}
 Start-Sleep -Milliseconds 200}}
if($i -eq 100){{[Console]::Error.WriteLine('the interface has no address');exit 1}}
$h=\"$env:SystemRoot\\System32\\drivers\\etc\\hosts\"
try{{$l=@({})+@(Get-Content $h|Where-Object{{$_ -notlike '*{MARK}'}});Set-Content $h $l -Encoding ascii -ErrorAction Stop}}
catch{{[Console]::Error.WriteLine(\"$_\");exit {NO_NAMES}}}",
        lines.join(",")
    )
}

#[cfg(test)]
mod tests {
    #![expect(clippy::disallowed_methods, reason = "a test acts from outside")]

    use super::*;
    use std::process::Command;

    /// Runs our text in a folder of this host in place of a guest: with a tree of interfaces and a file of host names.
    fn run(interfaces: &[(&str, &str)], hosts: Option<&str>, ip: &str) -> (i32, String, String, String) {
        let dir = tempfile::tempdir().expect("folder");
        let root = dir.path();
        std::fs::create_dir_all(root.join("bin")).expect("folder");
        std::fs::create_dir_all(root.join("net")).expect("folder");
        for (name, mac) in interfaces {
            std::fs::create_dir_all(root.join("net").join(name)).expect("folder");
            std::fs::write(root.join("net").join(name).join("address"), format!("{mac}\n")).expect("file");
        }
        if let Some(hosts) = hosts {
            std::fs::write(root.join("hosts"), hosts).expect("file");
        }
        program(&root.join("bin/ip"), &format!("#!/bin/sh\necho \"$*\" >>{}/log\n{ip}\n", root.display()));
        let text = posix(&NetworkPlace::make(&["db", "web"])[1])
            .replace("/sys/class/net", &root.join("net").to_string_lossy())
            .replace("/etc/hosts", &root.join("hosts").to_string_lossy())
            .replace("modprobe", "false");
        let path = format!("{}:/usr/bin:/bin", root.join("bin").display());
        let out = Command::new("sh").args(["-c", &text]).env("PATH", path).output().expect("sh");
        let read = |name: &str| std::fs::read_to_string(root.join(name)).unwrap_or_default();
        let words = String::from_utf8_lossy(&out.stderr).into_owned();
        (out.status.code().unwrap_or(-1), read("log"), read("hosts"), words)
    }

    fn program(path: &std::path::Path, text: &str) {
        use std::os::unix::fs::PermissionsExt;
        std::fs::write(path, text).expect("file");
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).expect("mode");
    }

    const OURS: (&str, &str) = ("enp0s9", "52:54:00:d3:4d:0c");

    #[test]
    fn the_interface_is_found_by_its_hardware_address_and_gets_its_address_once() {
        let others = [("enp0s2", "52:54:00:12:34:56"), OURS, ("lo", "00:00:00:00:00:00")];
        let (status, log, hosts, _) = run(&others, Some("127.0.0.1 localhost\n10.213.77.99 db # vmdeck\n"), "");
        assert_eq!(status, 0);
        assert_eq!(log, "link set dev enp0s9 up\naddr show dev enp0s9\naddr add 10.213.77.12/24 dev enp0s9\n");
        assert_eq!(hosts, "10.213.77.11 db # vmdeck\n10.213.77.12 web # vmdeck\n127.0.0.1 localhost\n");
        let (status, log, ..) = run(&others, Some(""), "[ \"$2\" != show ] || echo '  inet 10.213.77.12/24 brd'");
        assert_eq!((status, log.contains("add ")), (0, false), "{log}");
    }

    #[test]
    fn what_is_missing_is_said() {
        let (status, _, _, words) = run(&[("eth0", "52:54:00:12:34:56")], Some(""), "");
        assert_eq!((status, words.as_str()), (1, "no interface has the address 52:54:00:d3:4d:0c\n"));
        let (status, ..) = run(&[OURS], Some(""), "echo 'not permitted' >&2; exit 2");
        assert_eq!(status, 2);
        let (status, ..) = run(&[OURS], None, "");
        assert_eq!(status, 0, "a system without the file gets one");
    }

    #[test]
    fn windows_gets_the_same_names() {
        let text = windows(&NetworkPlace::make(&["db", "it's"])[0]);
        assert!(text.contains("MacAddress -eq '52-54-00-d3-4d-0b'"), "{text}");
        assert!(text.contains("'10.213.77.12 it''s # vmdeck'"), "{text}");
    }
}
