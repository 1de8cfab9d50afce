//! QEMU's command line, as pure functions of what is wanted. Nothing is started and no file is looked at here.
//!
//! Facts: QEMU 7.2 and 10; commas in a value are doubled, because QEMU splits options at single ones.

use super::{
    arch::Arch,
    helper::Helper,
    host_root::HostRoot,
    parts::{Boot, MachineParts},
    served::{Served, ShareServer},
    tdx,
};
use crate::{
    assets::image::DirectBoot,
    backend::{contract::RENEWAL_PORT, request::CreateRequest},
    command::sh_quote,
};
use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};
use vmdeck_guest::setup::PORT;
use vmdeck_model::{
    guest::{Guest, Network},
    key::Options,
};

/// The id of what leads to the guest's own agent.
const GUEST_AGENT: &str = "guest-agent";
/// The id of that port's device.
pub(super) const GUEST_AGENT_PORT: &str = "guest-agent-port";

/// The files of one machine.
#[derive(Clone, Debug)]
pub(super) struct Files {
    /// QMP's socket, in the private folder.
    pub(super) qmp: PathBuf,
    /// The console's socket, in the private folder.
    pub(super) console: PathBuf,
    /// The console's log, in the run's record.
    pub(super) log: PathBuf,
    /// The overlay over the base image, if there is an image.
    pub(super) overlay: Option<PathBuf>,
    /// The socket of the serial port to our agent, if the guest has one.
    pub(super) agent: Option<PathBuf>,
    /// The socket of the serial port to the guest's own agent, `qemu-ga`, if the guest may have one.
    pub(super) guest_agent: Option<PathBuf>,
    /// The socket of the machine's port in a private network, if it is in one.
    pub(super) network: Option<PathBuf>,
    /// The socket on which a debugger is waited for, if it is.
    pub(super) gdb: Option<PathBuf>,
    /// The socket of the serial port to the program that renews a guest which was frozen.
    pub(super) renewal: PathBuf,
}

impl Files {
    pub(super) fn of(dir: &Path, record: &Path, has_image: bool, has_agent: bool, waits_for_gdb: bool) -> Self {
        Self {
            agent: has_agent.then(|| agent_socket(dir)),
            guest_agent: has_image.then(|| guest_agent_socket(dir)),
            network: None,
            gdb: waits_for_gdb.then(|| gdb_socket(dir)),
            renewal: dir.join("renewal.sock"),
            qmp: dir.join("qmp.sock"),
            console: dir.join("console.sock"),
            log: record.join("console.log"),
            overlay: has_image.then(|| overlay(dir)),
        }
    }

    /// Returns those of a machine that is there, as far as it has them.
    pub(super) fn existing(dir: &Path, record: &Path) -> Self {
        let files = Self::of(dir, record, overlay(dir).exists(), agent_socket(dir).exists(), false);
        Self { guest_agent: files.guest_agent.filter(|socket| socket.exists()), ..files }
    }
}

/// Returns the overlay of a machine with this private folder.
fn overlay(dir: &Path) -> PathBuf {
    dir.join("overlay.qcow2")
}

/// Returns the socket of the serial port to our agent, in the private folder of a machine.
pub(super) fn agent_socket(dir: &Path) -> PathBuf {
    dir.join("agent.sock")
}

/// Returns the socket of the serial port to the guest's own agent, in the private folder of a machine.
pub(super) fn guest_agent_socket(dir: &Path) -> PathBuf {
    dir.join("guest-agent.sock")
}

/// Returns the socket on which a debugger is waited for, in the private folder of a machine.
fn gdb_socket(dir: &Path) -> PathBuf {
    dir.join("gdb.sock")
}

/// Returns the line that connects a debugger to the machine with this private folder.
pub fn debugger_line(dir: &Path) -> String {
    format!("gdb VMLINUX -ex {}", sh_quote(&format!("target remote {}", gdb_socket(dir).display())))
}

/// Returns the whole command line without the binary.
pub(super) fn arguments(
    request: &CreateRequest<'_>,
    accel: &str,
    arch: Arch,
    files: &Files,
    parts: &MachineParts,
) -> Vec<String> {
    let host_root = parts.host_root.as_ref();
    let guest = request.guest;
    let options = &guest.options;
    let mut out = Argv::default();
    out.two("-name", &format!("{},debug-threads=on", escape(request.name)));
    out.two("-uuid", request.uuid);
    out.words(&["-nodefaults", "-no-user-config", "-display", "none"]);
    machine(&mut out, guest, accel, arch, parts);
    // A panic pauses the guest so that its last state can still be asked for. What was made for one start is not started again.
    // A guest under TDX cannot be reset, and is closed by its restart.
    let reboot = if host_root.is_some() || tdx::is_wanted(guest) { "shutdown" } else { "reset" };
    out.two("-action", &format!("panic=pause,reboot={reboot}"));
    out.two("-device", if arch == Arch::X86 { "pvpanic" } else { "pvpanic-pci" });
    out.two("-qmp", &format!("unix:{},server=on,wait=off", path(&files.qmp)));
    // The log is written by QEMU itself and never waits for a reader; the socket is for a person who types.
    let console = format!(
        "socket,id=console,path={},server=on,wait=off,logfile={},logappend=on",
        path(&files.console),
        path(&files.log)
    );
    out.two("-chardev", &console);
    if is_on_hvc(options, parts.direct.as_ref()) {
        // What a person types goes to where the kernel's console is; what the firmware says is in the log as well.
        out.two("-chardev", &format!("file,id=serial,path={},append=on", path(&files.log)));
        out.two("-serial", "chardev:serial");
        out.two("-device", "virtio-serial-pci,id=hvc,bus=pcie.0");
        out.two("-device", "virtconsole,bus=hvc.0,chardev=console");
    } else {
        out.two("-serial", "chardev:console");
    }
    // Port 0: the kernel picks one, and it is read back; two runs can never race for it.
    if guest.network != Network::None {
        let ports: BTreeSet<u16> = request.services.iter().map(|service| service.port).collect();
        let forwards: String = ports.iter().map(|port| format!(",hostfwd=tcp:127.0.0.1:0-:{port}")).collect();
        // Forwarded ports work all the same.
        let restrict = if guest.network == Network::Restricted { ",restrict=on" } else { "" };
        out.two("-netdev", &format!("user,id=net0{restrict}{forwards}"));
        out.two("-device", "virtio-net-pci,netdev=net0,romfile=");
    }
    if let Some((port, socket)) = request.network.zip(files.network.as_deref()) {
        let socket = path(socket);
        out.two("-netdev", &format!("stream,id=private0,server=off,addr.type=unix,addr.path={socket}"));
        out.two("-device", &format!("virtio-net-pci,netdev=private0,mac={},romfile=", port.seat.mac(":")));
    }
    out.two("-device", "virtio-rng-pci");
    out.two("-device", "virtio-balloon-pci,id=balloon0");
    if let Some(overlay) = &files.overlay {
        out.two("-blockdev", &format!("driver=qcow2,node-name=disk0,file.driver=file,file.filename={}", path(overlay)));
        // Booted from before any other disk; a kernel that is given comes first.
        out.two("-device", "virtio-blk-pci,drive=disk0,bootindex=1");
    }
    if let Some(seed) = &parts.seed {
        if let Some(disk) = &seed.disk {
            let disk = path(disk);
            out.two(
                "-blockdev",
                &format!("driver=raw,node-name=seed0,read-only=on,file.driver=file,file.filename={disk}"),
            );
            out.two("-device", "virtio-blk-pci,drive=seed0");
        }
        for (name, file) in &seed.entries {
            out.two("-fw_cfg", &format!("name={name},file={}", path(file)));
        }
    }
    firmware(&mut out, &parts.firmware);
    if let Some(tpm) = &parts.tpm {
        out.two("-chardev", &format!("socket,id=tpm,path={}", path(tpm)));
        out.two("-tpmdev", "emulator,id=tpm0,chardev=tpm");
        out.two("-device", if arch == Arch::X86 { "tpm-crb,tpmdev=tpm0" } else { "tpm-tis-device,tpmdev=tpm0" });
    }
    let renewal = parts.memory.as_ref().map(|_| files.renewal.clone());
    let ports = [
        (&files.agent, "agent", PORT),
        (&files.guest_agent, GUEST_AGENT, "org.qemu.guest_agent.0"),
        (&renewal, "renewal", RENEWAL_PORT),
    ];
    for (socket, id, name) in ports {
        if let Some(socket) = socket {
            out.two("-device", &format!("virtio-serial-pci,id={id}-bus"));
            out.two("-chardev", &format!("socket,id={id},path={},server=on,wait=off", path(socket)));
            out.two("-device", &format!("virtserialport,bus={id}-bus.0,id={id}-port,chardev={id},name={name}"));
        }
    }
    if let Some(gdb) = &files.gdb {
        out.two("-chardev", &format!("socket,id=gdb,path={},server=on,wait=off", path(gdb)));
        out.two("-gdb", "chardev:gdb");
    }
    shares(&mut out, parts.served());
    match host_root {
        Some(root) => boot_host_root(&mut out, root, arch),
        None => boot(&mut out, options, parts.direct.as_ref()),
    }
    out.list(options.texts("extra_args"));
    out.words(&["-S"]);
    out.0
}

fn machine(out: &mut Argv, guest: &Guest, accel: &str, arch: Arch, parts: &MachineParts) {
    let options = &guest.options;
    let kind = options.text("vm_type").unwrap_or_default();
    // A BIOS then says on the console that it finds nothing to boot; without a screen it would tell nobody.
    let has_kernel = options.path("kernel").is_some() || parts.direct.is_some() || parts.host_root.is_some();
    let screen = if arch == Arch::X86 && !has_kernel { ",graphics=off" } else { "" };
    let needs_smm = matches!(parts.firmware, Boot::Uefi { needs_smm: true, .. });
    let base = match arch {
        Arch::X86 if needs_smm => "q35,smm=on",
        Arch::X86 => "q35",
        Arch::Arm => "virt",
    };
    if needs_smm {
        // Only the firmware itself may write its variables.
        out.two("-global", "driver=cfi.pflash01,property=secure,value=on");
    }
    if tdx::is_wanted(guest) {
        out.two("-machine", &format!("{base},kernel_irqchip=split,confidential-guest-support=tdx,memory-backend=ram1"));
        for object in parts.tdx.objects(options, guest.memory) {
            out.two("-object", &object);
        }
    } else if parts.served().any(|served| served.helper().is_some()) {
        out.two("-object", &format!("memory-backend-memfd,id=ram1,size={},share=on", guest.memory));
        out.two("-machine", &format!("{base},memory-backend=ram1"));
    } else if let Some(memory) = &parts.memory {
        out.two("-object", memory);
        out.two("-machine", &format!("{base},memory-backend=ram1{screen}"));
        if arch == Arch::X86 {
            // Tells the guest's kernel that it was copied, where it knows the device: its random numbers are others then.
            out.two("-device", "vmgenid");
        }
    } else {
        out.two("-machine", &format!("{base}{screen}"));
    }
    if kind == "tdxio" {
        out.two("-object", "iommufd,id=iommufd0");
    }
    for device in options.texts("vfio") {
        let mode = match kind {
            "tdxio" if parts.tdx.secure_mode => ",x-secure-mode=on",
            "tdxio" => ",iommufd=iommufd0",
            _ => "",
        };
        out.two("-device", &format!("vfio-pci,host={}{mode}", escape(device)));
    }
    out.two("-accel", accel);
    // `host` exists only under hardware acceleration; `max` is everything that emulation can do.
    let model = if accel == "tcg" { "max" } else { "host" };
    let pmu = options.text("pmu").map(|pmu| format!(",pmu={pmu}")).unwrap_or_default();
    out.two("-cpu", &format!("{model}{pmu}"));
    let sockets = options.int("sockets").map(|n| format!(",sockets={n}")).unwrap_or_default();
    out.two("-smp", &format!("cpus={}{sockets}", guest.cpus));
    out.two("-m", &format!("{}M", (guest.memory >> 20).max(1)));
}

fn firmware(out: &mut Argv, firmware: &Boot) {
    match firmware {
        Boot::Own => {}
        Boot::File(file) => out.two("-bios", &file.to_string_lossy()),
        Boot::Uefi { code, variables, .. } => {
            out.two("-drive", &format!("if=pflash,unit=0,format=raw,readonly=on,file={}", path(code)));
            out.two("-drive", &format!("if=pflash,unit=1,format=raw,file={}", path(variables)));
        }
    }
}

/// Returns the kernel's command line: what came with the disk, and what the config adds.
fn kernel_words<'a>(options: &'a Options, direct: Option<&'a DirectBoot>) -> Vec<&'a str> {
    [direct.map(|direct| direct.append.as_str()), options.text("append")].into_iter().flatten().collect()
}

/// Returns whether the kernel's console is a virtio one: the last word counts.
fn is_on_hvc(options: &Options, direct: Option<&DirectBoot>) -> bool {
    let direct = direct.filter(|_| options.path("kernel").is_none());
    let words = kernel_words(options, direct).into_iter().flat_map(str::split_whitespace);
    words.filter_map(|word| word.strip_prefix("console=")).next_back().is_some_and(|name| name.starts_with("hvc"))
}

/// A kernel of the config, else the one that came with the disk.
fn boot(out: &mut Argv, options: &Options, direct: Option<&DirectBoot>) {
    let direct = direct.filter(|_| options.path("kernel").is_none());
    let kernel = options.path("kernel").or(direct.map(|direct| direct.kernel.as_path()));
    let initrd = options.path("initrd").or(direct.and_then(|direct| direct.initrd.as_deref()));
    for (flag, file) in [("-kernel", kernel), ("-initrd", initrd)] {
        if let Some(file) = file {
            out.two(flag, &file.to_string_lossy());
        }
    }
    if kernel.is_some() {
        out.two("-append", &kernel_words(options, direct).join(" "));
    }
}

/// A kernel with our own initial RAM disk, and the folders that it mounts.
fn boot_host_root(out: &mut Argv, root: &HostRoot, arch: Arch) {
    out.two("-kernel", &root.kernel.to_string_lossy());
    out.two("-initrd", &root.initrd.to_string_lossy());
    let console = if arch == Arch::X86 { "ttyS0" } else { "ttyAMA0" };
    out.two("-append", &format!("console={console} {}", root.append));
}

/// The devices of folders that the guest can mount.
fn shares<'a>(out: &mut Argv, served: impl Iterator<Item = &'a Served>) {
    for served in served {
        let tag = &served.tag;
        match &served.server {
            // `remap`: files of two file systems of this host must not look like one file.
            ShareServer::Qemu => {
                let read_only = if served.read_only { ",readonly=on" } else { "" };
                let folder = path(&served.path);
                out.two(
                    "-fsdev",
                    &format!("local,id={tag},path={folder},security_model=none,multidevs=remap{read_only}"),
                );
                out.two("-device", &format!("virtio-9p-pci,fsdev={tag},mount_tag={tag}"));
            }
            ShareServer::Daemon(Helper { socket, .. }) => {
                out.two("-chardev", &format!("socket,id={tag},path={}", path(socket)));
                out.two("-device", &format!("vhost-user-fs-pci,chardev={tag},tag={tag}"));
            }
        }
    }
}

/// Returns the command as a script that a person can run again: it makes its own private folder and overlay.
pub(super) fn script(binary: &str, argv: &[String], dir: &Path, files: &Files, overlay: Option<&[String]>) -> String {
    let own = |text: &str| {
        let text = text.replace(&*files.log.to_string_lossy(), "\0/console.log").replace(&*dir.to_string_lossy(), "\0");
        // The private folder becomes a variable, outside of the quotes; a NUL makes sure that there are quotes.
        sh_quote(&text).replace('\0', "'\"$DIR\"'")
    };
    let mut out = String::from(
        "#!/bin/sh\n# The machine as vmdeck starts it (there it also has -S, and QMP sends `cont`), in a folder of its own.\n",
    );
    if files.agent.is_some() {
        out.push_str(
            "# Its initial RAM disk and the servers of its folders are gone with it; `vmdeck boot` makes them anew.\n",
        );
    }
    out.push_str("set -eu\nDIR=$(mktemp -d)\necho \"console: socat - UNIX-CONNECT:$DIR/console.sock\"\n");
    if let Some(overlay) = overlay {
        let words: Vec<String> = overlay.iter().map(|w| own(w)).collect();
        out.push_str(&words.join(" "));
        out.push('\n');
    }
    out.push_str(&format!("exec {}", sh_quote(binary)));
    for word in argv.iter().filter(|w| *w != "-S") {
        let separator = if word.starts_with('-') { " \\\n  " } else { " " };
        out.push_str(separator);
        out.push_str(&own(word));
    }
    out.push('\n');
    out
}

/// Arguments of `qemu-img` that make the overlay; the base image is opened for reading only.
pub(super) fn overlay_arguments(base: &Path, format: &str, overlay: &Path, size: Option<u64>) -> Vec<String> {
    let mut out: Vec<String> = ["create", "-q", "-f", "qcow2", "-F", format, "-b"].map(str::to_owned).into();
    out.push(base.to_string_lossy().into_owned());
    out.push(overlay.to_string_lossy().into_owned());
    out.extend(size.map(|bytes| bytes.to_string()));
    out
}

/// Doubles the commas of a value.
pub(super) fn escape(value: &str) -> String {
    value.replace(',', ",,")
}

/// Returns a path as a value of an option.
pub(super) fn path(path: &Path) -> String {
    escape(&path.to_string_lossy())
}

#[derive(Default)]
struct Argv(Vec<String>);

impl Argv {
    fn two(&mut self, flag: &str, value: &str) {
        self.0.extend([flag.to_owned(), value.to_owned()]);
    }

    fn words(&mut self, words: &[&str]) {
        self.0.extend(words.iter().map(|w| (*w).to_owned()));
    }

    fn list(&mut self, words: &[String]) {
        self.0.extend(words.iter().cloned());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        assets::seed::SeedFiles,
        backend::{
            qemu::tdx::TdxDialect,
            request::{Lifetime, Service},
            sample::guest,
        },
        host::net::Probe,
    };
    use vmdeck_model::key::Value;

    fn words(set: &[(&str, Value)], accel: &str, files: &Files, ports: &[u16]) -> Vec<String> {
        words_of(set, accel, files, ports, &MachineParts::default())
    }

    fn words_of(set: &[(&str, Value)], accel: &str, files: &Files, ports: &[u16], parts: &MachineParts) -> Vec<String> {
        let service = |port: &u16| Service { name: "s", port: *port, probe: Probe::Banner(b"S") };
        let services: Vec<Service> = ports.iter().map(service).collect();
        let request = CreateRequest {
            guest: &guest(set),
            name: "vmdeck-1-2",
            uuid: "u-u",
            private_dir: Path::new("/m"),
            record_dir: Path::new("/r"),
            lifetime: Lifetime::TiedToUs,
            services: &services,
            network: None,
            freezable: false,
            memory: None,
        };
        arguments(&request, accel, Arch::X86, files, parts)
    }

    fn argv(set: &[(&str, Value)], accel: &str, image: bool) -> String {
        let files = Files::of(Path::new("/m"), Path::new("/r"), image, false, false);
        words(set, accel, &files, &[22]).join(" ")
    }

    #[test]
    fn the_port_of_each_service_is_forwarded_once() {
        let files = Files::of(Path::new("/m"), Path::new("/r"), false, false, false);
        let line = words(&[], "tcg", &files, &[5985, 2222, 2222]).join(" ");
        assert!(line.contains("user,id=net0,hostfwd=tcp:127.0.0.1:0-:2222,hostfwd=tcp:127.0.0.1:0-:5985 "), "{line}");
        assert!(words(&[], "tcg", &files, &[]).contains(&"user,id=net0".to_owned()));
    }

    #[test]
    fn a_direct_kernel_boot() {
        insta::assert_snapshot!(argv(
            &[
                ("kernel", Value::Path("/k".into())),
                ("initrd", Value::Path("/i".into())),
                ("append", Value::Text("console=ttyS0 x=1,2".into())),
            ],
            "tcg",
            false
        ));
    }

    #[test]
    fn an_image_is_never_opened_directly() {
        let line = argv(&[("image", Value::Path("/base.qcow2".into()))], "kvm", true);
        assert!(!line.contains("/base.qcow2"), "{line}");
        assert!(line.contains("file.filename=/m/overlay.qcow2") && line.contains("-cpu host"));
    }

    #[test]
    fn a_console_on_virtio_has_its_device_and_the_log_has_both() {
        for (append, on_hvc) in [
            ("console=hvc0", true),
            ("root=/dev/vda console=ttyS0 console=hvc0,115200 quiet", true),
            ("console=hvc0 console=ttyS0", false),
            ("x=console=hvc0", false),
            ("", false),
        ] {
            let line = argv(&[("append", Value::Text(append.into()))], "tcg", false);
            assert_eq!(line.contains("virtconsole,bus=hvc.0,chardev=console"), on_hvc, "{append}");
            assert_eq!(line.contains("-serial chardev:console"), !on_hvc, "{append}");
            assert_eq!(line.contains("file,id=serial,path=/r/console.log,append=on"), on_hvc, "{append}");
        }
    }

    #[test]
    fn confidential_guests_get_their_objects() {
        let set = [
            ("vm_type", Value::Text("tdxio".into())),
            ("debug", Value::Text("on".into())),
            ("vfio", Value::Texts(vec!["0000:41:00.1".into()])),
        ];
        let files = Files::of(Path::new("/m"), Path::new("/r"), false, false, false);
        // Only a patched QEMU has `debug`; with it another one would not start.
        for (debug, secure_mode, object, device) in [
            (true, true, "tdx-guest,id=tdx,debug=on,sept-ve-disable=on", "vfio-pci,host=0000:41:00.1,x-secure-mode=on"),
            (false, false, r#""sept-ve-disable":true}"#, "vfio-pci,host=0000:41:00.1,iommufd=iommufd0"),
        ] {
            let tdx = TdxDialect { debug, secure_mode, ..TdxDialect::default() };
            let parts = MachineParts { tdx, ..MachineParts::default() };
            let line = words_of(&set, "kvm", &files, &[22], &parts).join(" ");
            for part in ["confidential-guest-support=tdx", object, "iommufd,id=iommufd0", "size=2147483648", device] {
                assert!(line.contains(part), "{part} in {line}");
            }
        }
        let set = [("vm_type", Value::Text("vfio_pt".into())), set[2].clone()];
        let line = words_of(&set, "kvm", &files, &[22], &MachineParts::default()).join(" ");
        assert!(line.contains("-device vfio-pci,host=0000:41:00.1 ") && !line.contains("iommufd"), "{line}");
    }

    #[test]
    fn a_machine_has_variables_a_seed_and_a_tpm_of_its_own() {
        let files = Files::of(Path::new("/m"), Path::new("/r"), true, false, false);
        let seed = SeedFiles {
            disk: Some("/m/seed,1.iso".into()),
            entries: vec![("opt/io.systemd.credentials/tmpfiles.extra".into(), "/m/c,1".into())],
        };
        let uefi = Boot::Uefi { code: "/code".into(), variables: "/m/variables.fd".into(), needs_smm: true };
        let parts = MachineParts {
            seed: Some(seed),
            firmware: uefi,
            tpm: Some("/m/tpm.sock".into()),
            ..MachineParts::default()
        };
        let line = words_of(&[], "tcg", &files, &[22], &parts).join(" ");
        for part in [
            "-machine q35,smm=on,graphics=off ",
            "if=pflash,unit=0,format=raw,readonly=on,file=/code ",
            "if=pflash,unit=1,format=raw,file=/m/variables.fd ",
            "read-only=on,file.driver=file,file.filename=/m/seed,,1.iso ",
            "-fw_cfg name=opt/io.systemd.credentials/tmpfiles.extra,file=/m/c,,1 ",
            "-tpmdev emulator,id=tpm0,chardev=tpm ",
        ] {
            assert!(line.contains(part), "{part} in {line}");
        }
        assert!(line.find("drive=disk0") < line.find("drive=seed0"), "the guest's own disk is the first");
        let parts = MachineParts { firmware: Boot::File("/OVMF.fd".into()), ..MachineParts::default() };
        assert!(words_of(&[], "tcg", &files, &[], &parts).join(" ").contains("-bios /OVMF.fd"));
    }

    #[test]
    fn a_comma_in_a_path_is_no_option() {
        let files = Files::of(Path::new("/m,readonly=on"), Path::new("/r"), true, false, false);
        let line = words(&[], "tcg", &files, &[22]).join(" ");
        assert!(
            line.contains("path=/m,,readonly=on/qmp.sock") || line.contains("unix:/m,,readonly=on/qmp.sock"),
            "{line}"
        );
        assert!(line.contains("file.filename=/m,,readonly=on/overlay.qcow2"));
    }

    #[test]
    fn the_script_uses_a_folder_of_its_own() {
        let files = Files::of(Path::new("/m"), Path::new("/r x"), true, false, false);
        let argv = words(&[], "tcg", &files, &[22]);
        let overlay = overlay_arguments(Path::new("/it's"), "raw", Path::new("/m/overlay.qcow2"), None);
        let text = script("qemu", &argv, Path::new("/m"), &files, Some(&[vec!["qemu-img".into()], overlay].concat()));
        assert!(!text.contains("/m/") && !text.contains("/r x/console.log"), "{text}");
        assert!(text.contains(r#"'/it'\''s' ''"$DIR"'/overlay.qcow2'"#), "{text}");
    }
}
