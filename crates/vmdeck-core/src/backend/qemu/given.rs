//! A command line of QEMU that the config gives whole, made fit for vmdeck: only what would let the machine escape its run, harm its
//! image, or keep its console from being read is changed, and each change is said.

use super::argv::{Files, escape, path};
use crate::backend::request::Service;
use std::path::PathBuf;

/// The options of QEMU that have no value (QEMU 7.2 to 10).
const ALONE: &[&str] = &[
    "S",
    "alt-grab",
    "ctrl-grab",
    "daemonize",
    "curses",
    "enable-kvm",
    "enable-fips",
    "full-screen",
    "h",
    "help",
    "mem-prealloc",
    "no-acpi",
    "no-fd-bootchk",
    "no-hpet",
    "no-quit",
    "no-reboot",
    "no-shutdown",
    "no-user-config",
    "nodefaults",
    "nographic",
    "old-param",
    "only-migratable",
    "portrait",
    "preconfig",
    "s",
    "semihosting",
    "singlestep",
    "snapshot",
    "usb",
    "version",
    "win2k-hack",
    "async-teardown",
    "audio-help",
    "enable-sync-profile",
    "jitdump",
    "perfmap",
    "sdl",
    "show-cursor",
    "xen-attach",
    "xen-domid-restrict",
];
/// The options that make a disk to which `-snapshot` applies.
const DISKS: &[&str] = &["drive", "hda", "hdb", "hdc", "hdd", "fda", "fdb", "sd", "mtdblock", "pflash"];
/// Why a processor is emulated.
const EMULATED: &str = "guests do not run under hardware acceleration here";
/// Why a console becomes a socket.
const READ: &str = "its lines go to the record, and it can be typed on";
/// The name of a console of ours.
const CONSOLE: &str = "console";

/// What this host and this QEMU say about a command line.
#[expect(clippy::struct_excessive_bools, reason = "independent facts")]
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct HostFacts {
    /// Whether the processor is emulated.
    pub(super) emulated: bool,
    /// Whether QEMU does not know `-no-hpet` any more (from 9.0 on).
    pub(super) lacks_no_hpet: bool,
    /// Whether QEMU's tdx-guest has no property `debug`.
    pub(super) lacks_tdx_debug: bool,
    /// Whether the guest shall reach nothing, by the config's word.
    pub(super) restricted: bool,
}

/// A command line that is fit, and what was changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Fit {
    pub(super) arguments: Vec<String>,
    /// What was changed, a line each.
    pub(super) changes: Vec<String>,
    /// What stays although it opens the machine to others, a line each.
    pub(super) warnings: Vec<String>,
}

/// An option with its value.
#[derive(Clone, Debug, PartialEq, Eq)]
struct GivenOption {
    /// The name without dashes; empty = a word that is no option.
    name: String,
    value: Option<String>,
    /// What stands for the two on the command line.
    flag: String,
}

fn read(words: &[String]) -> Vec<GivenOption> {
    let mut out = Vec::new();
    let mut rest = words.iter().peekable();
    while let Some(flag) = rest.next() {
        let name = match flag.strip_prefix("--").or_else(|| flag.strip_prefix('-')) {
            Some(name) => name.to_owned(),
            None => String::new(),
        };
        // One that is not known here may have no value: then an option follows. Only a kernel's words may look like one.
        let has_value = |next: &&String| name == "append" || !next.starts_with('-') || next.len() == 1;
        let takes_value = !name.is_empty() && !ALONE.contains(&&*name) && rest.peek().is_some_and(has_value);
        let value = if takes_value { rest.next().cloned() } else { None };
        out.push(GivenOption { name, value, flag: flag.clone() });
    }
    out
}

/// Returns why a command line cannot be used at all.
pub(super) fn refuse(given: &[String]) -> Option<String> {
    read(given).into_iter().find_map(|GivenOption { name, value, flag }| {
        let value = value.unwrap_or_default();
        let writes = || {
            let parts: Vec<&str> = value.split(',').collect();
            !(parts.contains(&"read-only=on") || value.replace(' ', "").contains("\"read-only\":true"))
        };
        match name.as_str() {
            // `-snapshot` does not reach it.
            "blockdev" if writes() => {
                Some(format!("`{flag} {value}` would be written to; use -drive, or read-only=on"))
            }
            "netdev" | "nic" | "chardev" if value.starts_with('{') => {
                Some(format!("`{flag} {value}` is JSON, in which nothing can be changed; write it as options"))
            }
            _ => None,
        }
    })
}

/// Returns the command line as it can be started.
pub(super) fn fit(
    given: &[String],
    host: HostFacts,
    name: &str,
    uuid: &str,
    files: &Files,
    services: &[Service],
) -> Fit {
    let mut fitting = Fitting { words: read(given), changes: Vec::new(), host };
    fitting.processor();
    fitting.old_options();
    fitting.debug();
    fitting.disks();
    fitting.monitors(files);
    fitting.console(files);
    fitting.forwards(services);
    let warnings = fitting.open_doors();
    let has_disk = fitting.words.iter().any(|word| DISKS.contains(&&*word.name));
    let has_snapshot = fitting.words.iter().any(|word| word.name == "snapshot");
    let mut own = vec!["-name".to_owned(), escape(name), "-uuid".to_owned(), uuid.to_owned()];
    own.extend(["-qmp".to_owned(), format!("unix:{},server=on,wait=off", path(&files.qmp))]);
    if has_disk && !has_snapshot {
        own.push("-snapshot".to_owned());
        fitting.changes.push("added `-snapshot`: what the guest writes goes with the machine".into());
    }
    let Fitting { words, changes, .. } = fitting;
    for word in words {
        own.push(word.flag);
        own.extend(word.value);
    }
    // The last word about it counts.
    own.extend(["-action", "panic=pause", "-S"].map(str::to_owned));
    Fit { arguments: own, changes, warnings }
}

/// Returns the files that a command line names, each with what it is.
pub(super) fn files(given: &[String]) -> Vec<(&'static str, PathBuf)> {
    let mut out = Vec::new();
    for GivenOption { name, value, .. } in read(given) {
        let Some(value) = value else { continue };
        match name.as_str() {
            "kernel" => out.push(("kernel", value.into())),
            "initrd" => out.push(("initrd", value.into())),
            "bios" => out.push(("firmware", value.into())),
            "drive" => {
                let file = value.split(',').find_map(|part| part.strip_prefix("file="));
                // One of another protocol, such as `nbd:`, is no file of this host; a doubled comma is a comma.
                let is_plain = |file: &&str| !file.contains(':') && !value.contains(",,");
                out.extend(file.filter(is_plain).map(|file| ("image", file.into())));
            }
            _ => {}
        }
    }
    out
}

/// Returns the PCI devices that a command line passes through.
pub(super) fn passed_through(given: &[String]) -> Vec<String> {
    let devices = read(given).into_iter().filter(|word| word.name == "device").filter_map(|word| word.value);
    let host = |value: String| value.split(',').find_map(|part| part.strip_prefix("host=")).map(str::to_owned);
    devices.filter(|value| is_of(value, "vfio-pci")).filter_map(host).collect()
}

/// A command line on its way.
struct Fitting {
    words: Vec<GivenOption>,
    changes: Vec<String>,
    host: HostFacts,
}

impl Fitting {
    /// Replaces the value of a word, and says so.
    fn change(&mut self, at: usize, value: String, why: &str) {
        let word = &mut self.words[at];
        let before = word.value.replace(value);
        let shown = |value: Option<&String>| value.map_or(String::new(), |value| format!(" {value}"));
        self.changes.push(format!(
            "`{}{}` became `{}{}`: {why}",
            word.flag,
            shown(before.as_ref()),
            word.flag,
            shown(word.value.as_ref())
        ));
    }

    fn remove(&mut self, at: usize, why: &str) {
        let word = self.words.remove(at);
        self.changes.push(format!("left out `{}`: {why}", word.flag));
    }

    fn add(&mut self, flag: &str, value: &str, why: &str) {
        self.words.push(GivenOption {
            name: flag.trim_start_matches('-').into(),
            value: Some(value.into()),
            flag: flag.into(),
        });
        self.changes.push(format!("added `{flag} {value}`: {why}"));
    }

    fn find(&self, name: &str) -> Option<usize> {
        self.words.iter().position(|word| word.name == name)
    }

    fn value(&self, at: usize) -> &str {
        self.words[at].value.as_deref().unwrap_or_default()
    }

    /// Lets the processor be emulated where this host cannot run guests on its own.
    fn processor(&mut self) {
        if !self.host.emulated {
            return;
        }
        for at in 0..self.words.len() {
            let value = self.value(at).to_owned();
            match self.words[at].name.as_str() {
                "accel" if is_of(&value, "kvm") || is_of(&value, "hvf") => self.change(at, "tcg".into(), EMULATED),
                "enable-kvm" => {
                    self.words[at] =
                        GivenOption { name: "accel".into(), value: Some("tcg".into()), flag: "-accel".into() };
                    self.changes.push(format!("`-enable-kvm` became `-accel tcg`: {EMULATED}"));
                }
                "machine" | "M" if value.split(',').any(|part| part.starts_with("accel=") && part != "accel=tcg") => {
                    let parts =
                        value.split(',').map(|part| if part.starts_with("accel=") { "accel=tcg" } else { part });
                    self.change(at, parts.collect::<Vec<_>>().join(","), EMULATED);
                }
                "cpu" if is_of(&value, "host") => {
                    let features = value.strip_prefix("host").unwrap_or_default();
                    self.change(at, format!("max{features}"), EMULATED);
                }
                _ => {}
            }
        }
    }

    /// Says in today's words what QEMU has no option for any more.
    fn old_options(&mut self) {
        for (name, why) in
            [("daemonize", "vmdeck watches the process itself"), ("no-shutdown", "a guest that has ended is gone")]
        {
            if let Some(at) = self.find(name) {
                self.remove(at, why);
            }
        }
        if self.host.lacks_no_hpet
            && let Some(at) = self.find("no-hpet")
        {
            self.words[at] =
                GivenOption { name: "machine".into(), value: Some("hpet=off".into()), flag: "-machine".into() };
            self.changes.push("`-no-hpet` became `-machine hpet=off`: this QEMU has no such option".into());
        }
    }

    /// Takes out a property of tdx-guest that only patched versions have.
    fn debug(&mut self) {
        if !self.host.lacks_tdx_debug {
            return;
        }
        for at in 0..self.words.len() {
            let value = self.value(at).to_owned();
            if self.words[at].name == "object"
                && let Some(without) = without_debug(&value)
            {
                self.change(at, without, "this QEMU's tdx-guest has no property `debug`");
            }
        }
    }

    /// Takes out what would let a drive be written to.
    fn disks(&mut self) {
        for at in 0..self.words.len() {
            let value = self.value(at).to_owned();
            if self.words[at].name == "drive" && value.split(',').any(|part| part == "snapshot=off") {
                let kept: Vec<&str> = value.split(',').filter(|part| *part != "snapshot=off").collect();
                self.change(at, kept.join(","), "the image is not written to");
            }
        }
    }

    /// Returns what stays although it lets others in.
    fn open_doors(&self) -> Vec<String> {
        let is_open = |word: &GivenOption| {
            let value = word.value.as_deref().unwrap_or_default();
            match word.name.as_str() {
                "s" => true,
                "gdb" | "serial" | "parallel" => value.starts_with("tcp:") || value.starts_with("telnet:"),
                "chardev" => is_of(value, "socket") && value.contains(",port="),
                "vnc" | "spice" => !value.starts_with("none") && !value.starts_with("unix:"),
                "netdev" | "nic" => value.contains("hostfwd=tcp:0.0.0.0:") || value.contains("hostfwd=udp:0.0.0.0:"),
                _ => false,
            }
        };
        let shown = |word: &GivenOption| format!("{} {}", word.flag, word.value.as_deref().unwrap_or_default());
        let open = self.words.iter().filter(|word| is_open(word));
        open.map(|word| format!("`{}` lets others in and stays as it is", shown(word).trim_end())).collect()
    }

    /// Gives no user of this host a monitor over the network, and none to our own standard input.
    fn monitors(&mut self, files: &Files) {
        let mut has_one = false;
        for at in 0..self.words.len() {
            let value = self.value(at).to_owned();
            let is_monitor = ["monitor", "qmp", "qmp-pretty"].contains(&self.words[at].name.as_str());
            if !is_monitor {
                continue;
            }
            let is_open = ["telnet:", "tcp:", "websocket:"].iter().any(|kind| value.starts_with(kind));
            if is_open && !has_one {
                has_one = true;
                let socket = files.qmp.with_file_name("monitor.sock");
                self.change(
                    at,
                    format!("unix:{},server=on,wait=off", path(&socket)),
                    "a private socket is for this user alone",
                );
            } else if is_open || value == "stdio" {
                self.change(at, "none".into(), "nobody types there");
            }
        }
    }

    /// Lets the console be written to our log; a console on standard output becomes a socket, where a person can type.
    fn console(&mut self, files: &Files) {
        let log = format!("logfile={},logappend=on", path(&files.log));
        let socket = format!("socket,id={CONSOLE},path={},server=on,wait=off,{log}", path(&files.console));
        // What names a device of its own.
        if let Some(at) = self
            .words
            .iter()
            .position(|word| word.name == "chardev" && word.value.as_deref().is_some_and(|value| is_of(value, "stdio")))
        {
            let value = self.value(at).to_owned();
            let kept = value.split(',').skip(1).filter(|part| !part.starts_with("signal="));
            let kept: String = kept.map(|part| format!(",{part}")).collect();
            let value = format!("socket{kept},path={},server=on,wait=off,{log}", path(&files.console));
            return self.change(at, value, READ);
        }
        let serial = self.find("serial");
        let named = serial.and_then(|at| self.value(at).strip_prefix("chardev:").map(str::to_owned)).or_else(|| {
            let consoles = self.words.iter().filter(|word| word.name == "device");
            let mut values = consoles.filter_map(|word| word.value.as_deref());
            let console = values.find(|value| is_of(value, "virtconsole"))?;
            console.split(',').find_map(|part| part.strip_prefix("chardev=")).map(str::to_owned)
        });
        if let Some(id) = named {
            let is_it = |word: &GivenOption| {
                let ids = word.value.as_deref().unwrap_or_default().split(',');
                word.name == "chardev" && ids.clone().any(|part| part.strip_prefix("id=") == Some(&*id))
            };
            if let Some(at) = self.words.iter().position(is_it) {
                let value = self.value(at).to_owned();
                let kept =
                    value.split(',').filter(|part| !part.starts_with("logfile=") && !part.starts_with("logappend="));
                let value = format!("{},{log}", kept.collect::<Vec<_>>().join(","));
                return self.change(at, value, "its lines go to the record");
            }
        }
        match serial {
            Some(at) => self.change(at, format!("chardev:{CONSOLE}"), READ),
            None => self.add("-serial", &format!("chardev:{CONSOLE}"), "the guest's console is read"),
        }
        // Before the option that names it: QEMU does not mind, a reader does.
        self.words.insert(0, GivenOption { name: "chardev".into(), value: Some(socket), flag: "-chardev".into() });
        let is_on_hvc = self.find("append").is_some_and(|at| {
            let mut words = self.value(at).split_whitespace().filter_map(|word| word.strip_prefix("console="));
            words.next_back().is_some_and(|name| name.starts_with("hvc"))
        });
        if is_on_hvc {
            let serial_log = format!("file,id=serial,path={},append=on", path(&files.log));
            let at = self.find("serial").unwrap_or_default();
            self.words[at].value = Some("chardev:serial".into());
            self.add("-chardev", &serial_log, "what the firmware says goes to the record");
            self.add("-device", "virtio-serial", "the kernel's console is a virtio one");
            self.add("-device", &format!("virtconsole,chardev={CONSOLE}"), "the kernel's console is a virtio one");
        }
        // With no word about it QEMU would put a monitor on our standard input.
        if self.find("monitor").is_none() && self.find("nodefaults").is_none() {
            self.add("-monitor", "none", "nobody types there");
        }
    }

    /// Binds what is forwarded to this host alone, and our services to ports that are free.
    fn forwards(&mut self, services: &[Service]) {
        let is_user = |word: &GivenOption| {
            ["netdev", "nic", "net"].contains(&word.name.as_str())
                && word.value.as_deref().is_some_and(|value| is_of(value, "user"))
        };
        let mut missing: Vec<u16> = services.iter().map(|service| service.port).collect();
        let mut first = None;
        for at in 0..self.words.len() {
            if !is_user(&self.words[at]) {
                continue;
            }
            first.get_or_insert(at);
            let value = self.value(at).to_owned();
            let parts: Vec<String> = value
                .split(',')
                .map(|part| match part.strip_prefix("hostfwd=") {
                    Some(rule) => format!("hostfwd={}", bound(rule, services, &mut missing)),
                    None => part.to_owned(),
                })
                .collect();
            let mut changed = parts.join(",");
            if changed != value {
                self.change(at, changed.clone(), "only this host reaches it, at a port that is free");
            }
            if self.host.restricted && !parts.iter().any(|part| part == "restrict=on") {
                changed.push_str(",restrict=on");
                self.change(at, changed, "the config restricts its network");
            }
        }
        if let Some(at) = first.filter(|_| !missing.is_empty()) {
            let rules: String = missing.iter().map(|port| format!(",hostfwd=tcp:127.0.0.1:0-:{port}")).collect();
            let value = format!("{}{rules}", self.value(at));
            self.change(at, value, "vmdeck reaches the guest by it");
        }
    }
}

/// Returns whether a value is of this kind: its first part.
fn is_of(value: &str, kind: &str) -> bool {
    value.split(',').next() == Some(kind)
}

/// Returns a rule `PROTOCOL:ADDRESS:PORT-GUEST:PORT` bound to this host; a rule of another form stays.
fn bound(rule: &str, services: &[Service], missing: &mut Vec<u16>) -> String {
    let Some((host, guest)) = rule.split_once('-') else { return rule.to_owned() };
    let parts: Vec<&str> = host.split(':').collect();
    let to: Option<u16> = guest.rsplit(':').next().and_then(|port| port.parse().ok());
    let [protocol, address, port] = parts[..] else { return rule.to_owned() };
    let is_ours = protocol != "udp" && to.is_some_and(|to| services.iter().any(|service| service.port == to));
    if is_ours {
        missing.retain(|port| Some(*port) != to);
        return format!("tcp:127.0.0.1:0-{guest}");
    }
    let address = if address.is_empty() { "127.0.0.1" } else { address };
    format!("{protocol}:{address}:{port}-{guest}")
}

/// Returns the object of a TDX guest without its property `debug`; `None` = it is none, or has none.
fn without_debug(value: &str) -> Option<String> {
    if let Ok(serde_json::Value::Object(mut object)) = serde_json::from_str(value) {
        let is_tdx = object.get("qom-type").is_some_and(|kind| kind == "tdx-guest");
        let had = is_tdx && object.shift_remove("debug").is_some();
        return had.then(|| serde_json::Value::Object(object).to_string());
    }
    let parts: Vec<&str> = value.split(',').collect();
    let kept: Vec<&str> = parts.iter().filter(|part| !part.starts_with("debug=")).copied().collect();
    (is_of(value, "tdx-guest") && kept.len() < parts.len()).then(|| kept.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::net::Probe;
    use std::path::Path;

    fn files() -> Files {
        Files::of(Path::new("/m"), Path::new("/r"), false, false, false)
    }

    fn made(line: &str, host: HostFacts) -> Fit {
        let words = shlex::split(line).expect("words");
        let services = [Service { name: "ssh", port: 22, probe: Probe::Banner(b"SSH-") }];
        fit(&words, host, "vmdeck-a-1", "u-u", &files(), &services)
    }

    /// Returns what is not ours of a command line, as text.
    fn rest(fit: &Fit) -> String {
        let own = ["-name", "vmdeck-a-1", "-uuid", "u-u", "-qmp", "unix:/m/qmp.sock,server=on,wait=off"];
        assert_eq!(&fit.arguments[..own.len()], own);
        let mut rest = fit.arguments[own.len()..].to_vec();
        let end = rest.split_off(rest.len() - 3);
        assert_eq!(end, ["-action", "panic=pause", "-S"]);
        rest.join(" ")
    }

    #[test]
    fn only_what_must_change_changes() {
        let emulated = HostFacts { emulated: true, ..HostFacts::default() };
        let new = HostFacts { lacks_no_hpet: true, lacks_tdx_debug: true, ..HostFacts::default() };
        let console =
            "-chardev socket,id=console,path=/m/console.sock,server=on,wait=off,logfile=/r/console.log,logappend=on";
        let plain = HostFacts::default();
        for (host, given, made_of) in [
            (emulated, "-nodefaults -accel kvm -cpu host,pmu=off", format!("{console} -nodefaults -accel tcg -cpu max,pmu=off -serial chardev:console")),
            (emulated, "-nodefaults -enable-kvm -M q35,accel=kvm:tcg", format!("{console} -nodefaults -accel tcg -M q35,accel=tcg -serial chardev:console")),
            (plain, "-nodefaults -accel kvm -cpu host", format!("{console} -nodefaults -accel kvm -cpu host -serial chardev:console")),
            (
                plain,
                "-chardev stdio,id=mux,mux=on,signal=off -serial chardev:mux -monitor chardev:mux -monitor pty",
                "-chardev socket,id=mux,mux=on,path=/m/console.sock,server=on,wait=off,logfile=/r/console.log,logappend=on -serial chardev:mux -monitor chardev:mux -monitor pty".into(),
            ),
            (
                plain,
                "-nodefaults -chardev file,id=a,path=/x,logfile=/y -serial chardev:a",
                "-nodefaults -chardev file,id=a,path=/x,logfile=/r/console.log,logappend=on -serial chardev:a".into(),
            ),
            (plain, "-nographic -serial mon:stdio", format!("{console} -nographic -serial chardev:console -monitor none")),
            (
                plain,
                "-nodefaults -append 'root=/dev/vda1 console=hvc0 quiet'",
                format!("{console} -nodefaults -append root=/dev/vda1 console=hvc0 quiet -serial chardev:serial -chardev file,id=serial,path=/r/console.log,append=on -device virtio-serial -device virtconsole,chardev=console"),
            ),
            (
                plain,
                "-nodefaults -monitor telnet:127.0.0.1:9432,server,nowait -daemonize",
                format!("{console} -nodefaults -monitor unix:/m/monitor.sock,server=on,wait=off -serial chardev:console"),
            ),
            (
                plain,
                "-nodefaults -netdev user,id=n0,hostfwd=tcp::10432-:22,hostfwd=tcp::80-:80,hostfwd=udp:1.2.3.4:5-:22",
                format!("{console} -nodefaults -netdev user,id=n0,hostfwd=tcp:127.0.0.1:0-:22,hostfwd=tcp:127.0.0.1:80-:80,hostfwd=udp:1.2.3.4:5-:22 -serial chardev:console"),
            ),
            (
                HostFacts { restricted: true, ..plain },
                "-nodefaults -nic user",
                format!(
                    "{console} -nodefaults -nic user,restrict=on,hostfwd=tcp:127.0.0.1:0-:22 -serial chardev:console"
                ),
            ),
            (plain, "-nodefaults -nic user", format!("{console} -nodefaults -nic user,hostfwd=tcp:127.0.0.1:0-:22 -serial chardev:console")),
            (plain, "-nodefaults -drive file=/d,if=virtio", format!("-snapshot {console} -nodefaults -drive file=/d,if=virtio -serial chardev:console")),
            (plain, "-nodefaults -snapshot -hda /d", format!("{console} -nodefaults -snapshot -hda /d -serial chardev:console")),
            (
                new,
                "-nodefaults -no-hpet -object tdx-guest,id=tdx,debug=off,sept-ve-disable=on",
                format!("{console} -nodefaults -machine hpet=off -object tdx-guest,id=tdx,sept-ve-disable=on -serial chardev:console"),
            ),
            (
                new,
                "-nodefaults -object '{\"qom-type\":\"tdx-guest\",\"id\":\"tdx\",\"debug\":true}' -object iothread,debug=1",
                format!("{console} -nodefaults -object {{\"qom-type\":\"tdx-guest\",\"id\":\"tdx\"}} -object iothread,debug=1 -serial chardev:console"),
            ),
        ] {
            let fit = made(given, host);
            assert_eq!(rest(&fit), made_of, "{given}");
        }
    }

    #[test]
    fn each_change_is_said() {
        let fit =
            made("-nodefaults -serial stdio -netdev user,id=n,hostfwd=tcp::1-:22 -drive file=/d", HostFacts::default());
        assert_eq!(fit.changes.len(), 3, "{:?}", fit.changes);
        assert!(fit.changes[1].starts_with("`-netdev user,id=n,hostfwd=tcp::1-:22` became "), "{:?}", fit.changes);
        assert!(made("-nodefaults -snapshot", HostFacts::default()).changes.len() == 1, "the console");
    }

    #[test]
    fn no_option_hides_another_and_no_drive_is_written_to() {
        for line in [
            "-nodefaults -async-teardown -drive file=/d,snapshot=off",
            "-nodefaults -no-such-option -drive file=/d",
            "-nodefaults -no-shutdown -fda /d",
        ] {
            let fit = made(line, HostFacts::default());
            let has = |word: &str| fit.arguments.iter().any(|own| own == word);
            assert!(has("-snapshot") && !has("-no-shutdown"), "{line}: {fit:?}");
            assert!(fit.arguments.iter().all(|word| !word.contains("snapshot=off")), "{line}");
        }
        let kernel = made("-nodefaults -append -x=1 -drive file=/d", HostFacts::default());
        assert!(kernel.arguments.windows(2).any(|two| two == ["-append", "-x=1"]), "{kernel:?}");
    }

    #[test]
    fn what_cannot_be_made_fit_is_refused_and_open_doors_are_told() {
        let words = |line: &str| shlex::split(line).expect("words");
        for (line, refused) in [
            ("-blockdev driver=qcow2,node-name=a,file.filename=/d", true),
            ("-blockdev driver=raw,node-name=a,read-only=on,file.filename=/d", false),
            ("-blockdev '{\"driver\":\"raw\",\"read-only\": true}'", false),
            ("-netdev '{\"type\":\"user\",\"id\":\"n\"}'", true),
            ("-netdev user,id=n -drive file=/d", false),
        ] {
            assert_eq!(refuse(&words(line)).is_some(), refused, "{line}");
        }
        for (line, doors) in [
            ("-nodefaults -s", 1),
            ("-nodefaults -gdb tcp::1234 -vnc :1", 2),
            ("-nodefaults -chardev socket,id=m,host=0.0.0.0,port=5,server=on -mon m", 1),
            ("-nodefaults -vnc none -gdb unix:/x", 0),
        ] {
            assert_eq!(made(line, HostFacts::default()).warnings.len(), doors, "{line}");
        }
    }
}
