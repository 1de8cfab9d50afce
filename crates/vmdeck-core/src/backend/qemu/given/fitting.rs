//! A command line that is being made fit, one concern after the other.

use super::{
    HostFacts,
    option::{GivenOption, is_of, property},
};
use crate::backend::{
    qemu::argv::{Files, path},
    request::Service,
};

/// Why a processor is emulated.
const EMULATED: &str = "guests do not run under hardware acceleration here";
/// Why a console becomes a socket.
const READ: &str = "its lines go to the record, and it can be typed on";
/// The name of a console of ours.
const CONSOLE: &str = "console";

/// A command line on its way.
pub(super) struct Fitting {
    pub(super) words: Vec<GivenOption>,
    pub(super) changes: Vec<String>,
    pub(super) host: HostFacts,
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
        self.words[at].text()
    }

    /// Lets the processor be emulated where this host cannot run guests on its own.
    pub(super) fn processor(&mut self) {
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
    pub(super) fn old_options(&mut self) {
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
    pub(super) fn debug(&mut self) {
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
    pub(super) fn disks(&mut self) {
        for at in 0..self.words.len() {
            let value = self.value(at).to_owned();
            if self.words[at].name == "drive" && value.split(',').any(|part| part == "snapshot=off") {
                let kept: Vec<&str> = value.split(',').filter(|part| *part != "snapshot=off").collect();
                self.change(at, kept.join(","), "the image is not written to");
            }
        }
    }

    /// Returns what stays although it lets others in.
    pub(super) fn open_doors(&self) -> Vec<String> {
        let is_open = |word: &GivenOption| {
            let value = word.text();
            match word.name.as_str() {
                "s" => true,
                "gdb" | "serial" | "parallel" => value.starts_with("tcp:") || value.starts_with("telnet:"),
                "chardev" => is_of(value, "socket") && value.contains(",port="),
                "vnc" | "spice" => !value.starts_with("none") && !value.starts_with("unix:"),
                "netdev" | "nic" => value.contains("hostfwd=tcp:0.0.0.0:") || value.contains("hostfwd=udp:0.0.0.0:"),
                _ => false,
            }
        };
        let shown = |word: &GivenOption| format!("{} {}", word.flag, word.text());
        let open = self.words.iter().filter(|word| is_open(word));
        open.map(|word| format!("`{}` lets others in and stays as it is", shown(word).trim_end())).collect()
    }

    /// Gives no user of this host a monitor over the network, and none to our own standard input.
    pub(super) fn monitors(&mut self, files: &Files) {
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
    pub(super) fn console(&mut self, files: &Files) {
        let log = format!("logfile={},logappend=on", path(&files.log));
        let socket = format!("socket,id={CONSOLE},path={},server=on,wait=off,{log}", path(&files.console));
        // What names a device of its own.
        if let Some(at) = self.words.iter().position(|word| word.name == "chardev" && is_of(word.text(), "stdio")) {
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
            property(console, "chardev=").map(str::to_owned)
        });
        if let Some(id) = named {
            let is_it = |word: &GivenOption| word.name == "chardev" && property(word.text(), "id=") == Some(&*id);
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
    pub(super) fn forwards(&mut self, services: &[Service]) {
        let is_user =
            |word: &GivenOption| ["netdev", "nic", "net"].contains(&word.name.as_str()) && is_of(word.text(), "user");
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
