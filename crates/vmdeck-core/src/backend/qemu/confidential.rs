//! What this host must have for guests under TDX and for devices that are passed through, each lack with its remedy.
//!
//! Everything is read below one root, so that a test can show a host that there is not. Sources: the kernel's
//! arch/x86/virt/vmx/tdx/tdx.c and Documentation/driver-api/vfio.rst; the framework's own checks.

use super::{given, tdx};
use crate::host::process::{Spawner, Spec};
use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};
use vmdeck_model::{
    event::{Finding, Severity},
    guest::{Firmware, Guest},
};

/// How long the kernel's log may take to come.
const LOG: Duration = Duration::from_secs(5);
/// The mark of the description that a firmware for TDX carries.
const DESCRIPTION: &[u8] = b"TDVF";
/// The parameters of the host's KVM.
const PARAMETERS: &str = "sys/module/kvm_intel/parameters";
/// Most bytes of a firmware that are looked at.
const FIRMWARE_MAX: u64 = 64 << 20;

/// What a host looks like.
pub(super) struct HostView {
    /// Where its `/` is.
    root: PathBuf,
    /// The kernel's log, as far as it may be read.
    log: String,
}

impl HostView {
    /// Returns the view of this host.
    pub(super) async fn of_this(spawner: &Spawner) -> Self {
        let log = spawner.output(&Spec::new("dmesg"), LOG).await.map(|out| out.stdout).unwrap_or_default();
        Self { root: "/".into(), log }
    }

    fn read(&self, path: &str) -> Option<String> {
        vmdeck_files::read_text(&self.root.join(path), vmdeck_files::LARGE).ok().map(|text| text.trim().to_owned())
    }

    fn has(&self, path: &str) -> bool {
        self.root.join(path.trim_start_matches('/')).exists()
    }

    /// Returns what this host lacks for a guest.
    pub(super) fn findings(&self, guest: &Guest) -> Vec<Finding> {
        let mut out = Findings { guest, all: Vec::new() };
        if tdx::is_wanted(guest) {
            self.tdx(&mut out);
            Self::firmware(&mut out);
            self.quotes(&mut out);
        }
        let kind = guest.options.text("vm_type").unwrap_or_default();
        let devices = devices(guest);
        if matches!(kind, "tdxio" | "vfio_pt") && devices.is_empty() {
            let hint = format!("set `guests.{}.qemu.vfio = [\"0000:41:00.1\"]`", guest.key);
            out.fatal("vfio", "names no device that is passed through", &hint);
        }
        if !devices.is_empty() {
            self.devices(&devices, &mut out);
        }
        out.all
    }

    fn tdx(&self, out: &mut Findings<'_>) {
        let mut lacks = false;
        match self.read(&format!("{PARAMETERS}/tdx")).as_deref() {
            None => {
                lacks = true;
                let what = if self.has("sys/module/kvm_intel") {
                    "needs TDX, and this host's KVM knows nothing of it: /sys/module/kvm_intel/parameters/tdx is not there"
                } else {
                    "needs TDX, and this host has no KVM for an Intel processor (the module kvm_intel)"
                };
                out.fatal("tdx", what, "boot a host kernel with CONFIG_INTEL_TDX_HOST and load kvm_intel");
            }
            Some("Y" | "1") => {}
            Some(_) => {
                lacks = true;
                let hint =
                    "load it with `modprobe -r kvm_intel && modprobe kvm_intel tdx=1`, or boot with kvm_intel.tdx=1";
                out.fatal(
                    "tdx",
                    "needs TDX, and it is off: /sys/module/kvm_intel/parameters/tdx does not read Y",
                    hint,
                );
            }
        }
        if self.read(&format!("{PARAMETERS}/ept")).is_some_and(|value| value != "Y" && value != "1") {
            out.fatal("tdx", "needs TDX, which needs EPT, and that is off", "load kvm_intel without ept=0");
        }
        let cpu = self.read("proc/cpuinfo").unwrap_or_default();
        let flags = cpu.lines().find(|line| line.starts_with("flags")).unwrap_or_default();
        // Not every kernel that has TDX shows the flag.
        if lacks && !flags.is_empty() && !flags.split_whitespace().any(|flag| flag == "tdx_host_platform") {
            let hint =
                "switch TDX on in the host's firmware (it needs memory encryption with key ids), or take another host";
            out.fatal("tdx", "needs TDX, and the processor does not offer it (no flag tdx_host_platform)", hint);
        }
        // The kernel's own words tell more than a parameter that reads N.
        if lacks && let Some(reason) = reason(&self.log) {
            out.add(
                "tdx",
                Severity::Warn,
                &format!("is refused TDX by the host's kernel: {reason}"),
                "see `dmesg | grep -i tdx`",
            );
        }
    }

    fn firmware(out: &mut Findings<'_>) {
        let guest = out.guest;
        let given = given::files(guest.options.texts("arguments")).into_iter().find(|(what, _)| *what == "firmware");
        let path = match (&guest.firmware, given) {
            (Firmware::File(path), _) => Some(path.clone()),
            (_, Some((_, path))) => Some(path),
            _ => guest.options.path("firmware").map(Path::to_owned),
        };
        let hint = format!("set `guests.{}.qemu.firmware` to an OVMF built for TDX", guest.key);
        match path {
            None => out.fatal("firmware", "is a TDX guest but has no firmware", &hint),
            Some(path) => {
                let bytes = vmdeck_files::read(&path, FIRMWARE_MAX).unwrap_or_default();
                if !bytes.is_empty() && !bytes.windows(DESCRIPTION.len()).any(|part| part == DESCRIPTION) {
                    let text = format!("has a firmware that does not describe itself for TDX: `{}`", path.display());
                    out.add("firmware", Severity::Warn, &text, &hint);
                }
            }
        }
    }

    fn quotes(&self, out: &mut Findings<'_>) {
        let Some(socket) = out.guest.options.text("quote_socket").map(str::to_owned) else { return };
        if tdx::socket_address(&socket).is_none() {
            out.fatal("quotes", &format!("has `qemu.quote_socket` = `{socket}`"), "write vsock:CID:PORT or unix:PATH");
        } else if let Some(path) = socket.strip_prefix("unix:") {
            if !self.has(path) {
                out.add(
                    "quotes",
                    Severity::Warn,
                    &format!("gets no quotes: nothing listens at `{path}`"),
                    "start the quote generation service",
                );
            }
        } else if !self.has("dev/vhost-vsock") && !self.has("dev/vsock") {
            out.add("quotes", Severity::Warn, "gets no quotes: this host has no vsock", "modprobe vhost_vsock");
        }
    }

    fn devices(&self, devices: &[String], out: &mut Findings<'_>) {
        if out.guest.options.text("vm_type") == Some("tdxio") && !self.has("dev/iommu") {
            out.fatal("vfio", "passes devices through, and this host has no /dev/iommu", "modprobe iommufd");
        }
        for device in devices {
            if !is_address(device) {
                out.fatal(
                    "vfio",
                    &format!("passes `{device}` through, which is no PCI address"),
                    "write it as `lspci -D` does: 0000:41:00.1",
                );
                continue;
            }
            let at = format!("sys/bus/pci/devices/{device}");
            if !self.has(&at) {
                out.fatal("vfio", &format!("passes {device} through, and there is no such device"), "see `lspci -D`");
                continue;
            }
            let driver = fs::read_link(self.root.join(&at).join("driver")).ok();
            let name = driver.and_then(|path| path.file_name().map(|name| name.to_string_lossy().into_owned()));
            if name.as_deref() != Some("vfio-pci") {
                let has = name.map_or("no driver".to_owned(), |name| format!("the driver `{name}`"));
                // Nothing that `doctor --fix` does by itself: the device may be this host's own disk or network.
                let hint = format!("if nothing here uses it: driverctl --nosave set-override {device} vfio-pci");
                let text = format!("passes {device} through, which has {has} instead of vfio-pci");
                out.fatal("vfio", &text, &hint);
            }
            if !self.has(&format!("{at}/iommu_group")) {
                let hint = "switch the IOMMU on: in the host's firmware, and with intel_iommu=on";
                out.fatal("vfio", &format!("passes {device} through, which is in no IOMMU group"), hint);
            }
        }
    }
}

/// Findings about one guest.
struct Findings<'a> {
    guest: &'a Guest,
    all: Vec<Finding>,
}

impl Findings<'_> {
    fn add(&mut self, check: &str, severity: Severity, text: &str, hint: &str) {
        let text = format!("guest `{}` {text}", self.guest.id);
        self.all.push(Finding { check: check.into(), severity, text, hint: Some(hint.into()), fix: None });
    }

    fn fatal(&mut self, check: &str, text: &str, hint: &str) {
        self.add(check, Severity::Fatal, text, hint);
    }
}

/// Returns the devices that a guest gets: by its key, or by its own command line.
pub(super) fn devices(guest: &Guest) -> Vec<String> {
    let own = guest.options.texts("vfio").iter().cloned();
    own.chain(given::passed_through(guest.options.texts("arguments"))).collect()
}

/// Returns whether this is the address of a PCI device, as sysfs writes it.
fn is_address(text: &str) -> bool {
    let is_hex = |part: &str, length: usize| part.len() == length && part.bytes().all(|byte| byte.is_ascii_hexdigit());
    let parts: Vec<&str> = text.split([':', '.']).collect();
    let [domain, bus, device, function] = parts[..] else { return false };
    is_hex(domain, 4) && is_hex(bus, 2) && is_hex(device, 2) && matches!(function.as_bytes(), [b'0'..=b'7'])
}

/// Returns the last words of the kernel about TDX.
fn reason(log: &str) -> Option<String> {
    let said = |line: &&str| line.contains("virt/tdx:") || line.contains("kvm_intel: TDX");
    let line = log.lines().rfind(said)?;
    let text = line.split_once("] ").map_or(line, |(_, text)| text);
    Some(vmdeck_model::text::one_line(text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::sample::guest;
    use std::os::unix::fs::symlink;
    use vmdeck_model::key::Value;

    /// A host of files.
    struct HostTree(tempfile::TempDir);

    impl HostTree {
        fn with(files: &[(&str, &str)]) -> Self {
            let dir = tempfile::tempdir().expect("folder");
            for (path, text) in files {
                let path = dir.path().join(path);
                fs::create_dir_all(path.parent().expect("parent")).expect("folder");
                match text.strip_prefix("-> ") {
                    Some(target) => symlink(target, path).expect("link"),
                    None => fs::write(path, text).expect("file"),
                }
            }
            Self(dir)
        }

        /// Returns what it lacks for a guest with these keys, a line each.
        fn lacks(&self, set: &[(&str, Value)], log: &str) -> String {
            let view = HostView { root: self.0.path().to_owned(), log: log.into() };
            let found = view.findings(&guest(set));
            found.iter().map(|f| format!("{} {}\n", f.severity.word().trim(), f.text)).collect()
        }
    }

    fn text(value: &str) -> Value {
        Value::Text(value.into())
    }

    const GOOD: [(&str, &str); 4] = [
        ("sys/module/kvm_intel/parameters/tdx", "Y\n"),
        ("sys/module/kvm_intel/parameters/ept", "Y\n"),
        ("proc/cpuinfo", "flags\t\t: fpu tdx_host_platform\n"),
        ("OVMF.fd", "..TDVF.."),
    ];

    #[test]
    fn each_lack_for_tdx_is_named() {
        let with = |changed: (&'static str, &'static str)| {
            let files: Vec<(&str, &str)> =
                GOOD.into_iter().filter(|(path, _)| *path != changed.0).chain([changed]).collect();
            HostTree::with(&files)
        };
        let rows = [
            (HostTree::with(&GOOD), "", ""),
            (
                with(("sys/module/kvm_intel/parameters/tdx", "N\n")),
                "[    1.0] virt/tdx: BIOS not enabled\n",
                "FATAL guest `deb` needs TDX, and it is off: /sys/module/kvm_intel/parameters/tdx does not read Y\nwarn guest `deb` is refused TDX by the host's kernel: virt/tdx: BIOS not enabled\n",
            ),
            (
                HostTree::with(&GOOD[1..]),
                "",
                "FATAL guest `deb` needs TDX, and this host's KVM knows nothing of it: /sys/module/kvm_intel/parameters/tdx is not there\n",
            ),
            (
                HostTree::with(&GOOD[2..]),
                "",
                "FATAL guest `deb` needs TDX, and this host has no KVM for an Intel processor (the module kvm_intel)\n",
            ),
            (
                with(("sys/module/kvm_intel/parameters/ept", "N")),
                "",
                "FATAL guest `deb` needs TDX, which needs EPT, and that is off\n",
            ),
            (with(("proc/cpuinfo", "flags : fpu\n")), "", ""),
            (
                with(("OVMF.fd", "plain")),
                "",
                "warn guest `deb` has a firmware that does not describe itself for TDX: `OVMF`\n",
            ),
        ];
        for (host, log, expected) in rows {
            let firmware = host.0.path().join("OVMF.fd");
            let set = [("vm_type", text("tdx")), ("firmware", Value::Path(firmware.clone()))];
            let said = host.lacks(&set, log).replace(&*firmware.to_string_lossy(), "OVMF");
            assert_eq!(said, expected);
        }
        let said = HostTree::with(&GOOD).lacks(&[("vm_type", text("tdx"))], "");
        assert_eq!(said, "FATAL guest `deb` is a TDX guest but has no firmware\n");
        assert_eq!(HostTree::with(&[]).lacks(&[], ""), "", "a guest of the usual kind needs nothing");
    }

    #[test]
    fn quotes_and_devices_are_looked_for() {
        let at = |file: &'static str| format!("sys/bus/pci/devices/0000:41:00.1/{file}");
        let (driver, group) = (at("driver"), at("iommu_group"));
        let devices = |names: &[&str]| Value::Texts(names.iter().map(|name| (*name).to_owned()).collect());
        let good = [(driver.as_str(), "-> ../../drivers/vfio-pci"), (group.as_str(), "")];
        let set = |names: &[&str]| [("vm_type", text("vfio_pt")), ("vfio", devices(names))];
        assert_eq!(HostTree::with(&good).lacks(&set(&["0000:41:00.1"]), ""), "");
        for (host, names, expected) in [
            (HostTree::with(&[]), vec![], "FATAL guest `deb` names no device that is passed through\n"),
            (
                HostTree::with(&[]),
                vec!["tee_bdf1"],
                "FATAL guest `deb` passes `tee_bdf1` through, which is no PCI address\n",
            ),
            (
                HostTree::with(&[]),
                vec!["0000:41:00.1"],
                "FATAL guest `deb` passes 0000:41:00.1 through, and there is no such device\n",
            ),
            (
                HostTree::with(&[(driver.as_str(), "-> ../../drivers/ixgbe"), (group.as_str(), "")]),
                vec!["0000:41:00.1"],
                "FATAL guest `deb` passes 0000:41:00.1 through, which has the driver `ixgbe` instead of vfio-pci\n",
            ),
            (
                HostTree::with(&good[..1]),
                vec!["0000:41:00.1"],
                "FATAL guest `deb` passes 0000:41:00.1 through, which is in no IOMMU group\n",
            ),
        ] {
            assert_eq!(host.lacks(&set(&names), ""), expected);
        }
        let words = ["-device", "vfio-pci,host=tee_bdf1,id=a"].map(str::to_owned).to_vec();
        let given = [("arguments", Value::Texts(words))];
        assert!(
            HostTree::with(&[]).lacks(&given, "").contains("`tee_bdf1` through"),
            "of its own command line as well"
        );
        let host = HostTree::with(&GOOD);
        let firmware = ("firmware", Value::Path(host.0.path().join("OVMF.fd")));
        for (socket, expected) in [
            ("vsock:2:4050", "warn guest `deb` gets no quotes: this host has no vsock\n"),
            ("unix:/run/qgs", "warn guest `deb` gets no quotes: nothing listens at `/run/qgs`\n"),
            ("tcp:1", "FATAL guest `deb` has `qemu.quote_socket` = `tcp:1`\n"),
        ] {
            let set = [("vm_type", text("tdx")), firmware.clone(), ("quote_socket", text(socket))];
            assert_eq!(host.lacks(&set, ""), expected);
        }
    }
}
