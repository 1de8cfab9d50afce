//! The `qemu` backend: a machine is a QEMU process with a private folder, a control socket and an overlay disk.
//!
//! Outcomes are read from control events, never from the exit code: a guest that panics makes QEMU exit with 0.

mod accel;
mod accel_probe;
mod arch;
mod argv;
mod confidential;
mod dump;
mod exit_watch;
mod findings;
mod given;
mod guest_agent;
mod helper;
mod host_root;
mod kernel_keys;
mod machine;
mod owner;
mod parts;
mod process;
mod qemu_img;
pub(crate) mod qmp;
mod served;
mod shares;
mod snapshot;
mod tdx;

use super::{
    capabilities::{Capabilities, ConsoleKind, Reach},
    contract::{Backend, Machine, Snapshots},
    deps::BackendDeps,
    proof::Proof,
    record::MachineRecord,
    request::{CreateRequest, NetworkPort},
};
use crate::{
    assets::image::{self, System, store::ImageStore},
    command::sh_quote,
    context::CallContext,
    host::{
        files, info,
        process::{Spawner, Spec},
    },
};
use arch::Arch;
pub use arch::image_arch;
use argv::Files;
pub use argv::debugger_line;
use confidential::HostView;
use futures_util::future::BoxFuture;
use parts::MachineParts;
use snapshot::{GuestMemory, ResumeRecipe};
use std::path::{Path, PathBuf};
use tdx::TdxDialect;
use vmdeck_model::machine::MachineInfo;
use vmdeck_model::{
    error::{Fault, Result},
    event::{Finding, Severity},
    guest::{Guest, Network, ShareBy},
    image::Image,
    key::{Key, Kind},
};

/// The config keys of the backend.
pub const KEYS: &[Key] = &[
    Key { path: "guests.*.qemu.kernel", kind: Kind::Path, default: None, doc: "kernel to boot directly" },
    Key { path: "guests.*.qemu.initrd", kind: Kind::Path, default: None, doc: "initial RAM disk for that kernel" },
    Key { path: "guests.*.qemu.append", kind: Kind::Text, default: None, doc: "kernel command line" },
    Key {
        path: "guests.*.qemu.modules",
        kind: Kind::Path,
        default: None,
        doc: "folder that holds lib/modules/VERSION for that kernel, for `image = \"host\"`; default: beside the kernel, else of this host",
    },
    Key {
        path: "guests.*.qemu.root",
        kind: Kind::Path,
        default: Some("\"/\""),
        doc: "folder that becomes the root of a guest with `image = \"host\"`",
    },
    Key {
        path: "guests.*.qemu.by",
        kind: Kind::Choice(ShareBy::WORDS),
        default: Some("\"auto\""),
        doc: "how that root is shared: 9p, virtiofs, or auto = what this host and the kernel have",
    },
    Key {
        path: "guests.*.qemu.unpack",
        kind: Kind::Choice(&["auto", "never"]),
        default: Some("\"auto\""),
        doc: "auto: where the processor is emulated, this host unpacks the kernel of `image = \"host\"`, which saves seconds; never: it \
              unpacks itself",
    },
    Key {
        path: "guests.*.qemu.gdb",
        kind: Kind::Bool,
        default: Some("false"),
        doc: "do not start the guest before a debugger has connected to gdb.sock in the machine's folder",
    },
    Key {
        path: "guests.*.qemu.image",
        kind: Kind::Path,
        default: None,
        doc: "base disk image; never written: each machine writes to an overlay",
    },
    Key {
        path: "guests.*.qemu.image_format",
        kind: Kind::Choice(&["qcow2", "raw"]),
        default: Some("\"qcow2\""),
        doc: "format of the base image",
    },
    Key {
        path: "guests.*.qemu.agent_user",
        kind: Kind::Text,
        default: None,
        doc: "user who runs commands sent through the guest agent (by `su`); default: root, the agent's own user",
    },
    Key { path: "guests.*.qemu.firmware", kind: Kind::Path, default: None, doc: "firmware image (-bios)" },
    Key {
        path: "guests.*.qemu.accel",
        kind: Kind::Choice(&["auto", "kvm", "hvf", "tcg"]),
        default: Some("\"auto\""),
        doc: "accelerator; auto uses kvm or hvf if it proves to run guests, else tcg",
    },
    Key {
        path: "guests.*.qemu.vm_type",
        kind: Kind::Choice(&["legacy", "tdx", "tdxio", "vfio_pt"]),
        default: Some("\"legacy\""),
        doc: "machine type: legacy, a guest under tdx or tdxio, or vfio_pt = a plain one with devices that are passed through",
    },
    Key { path: "guests.*.qemu.sockets", kind: Kind::Int(1, 64), default: None, doc: "processor sockets" },
    Key {
        path: "guests.*.qemu.pmu",
        kind: Kind::Choice(&["on", "off"]),
        default: None,
        doc: "performance counters in the guest",
    },
    Key {
        path: "guests.*.qemu.debug",
        kind: Kind::Choice(&["on", "off"]),
        default: None,
        doc: "debug property of a tdx guest; only some QEMU versions have it",
    },
    Key {
        path: "guests.*.qemu.vfio",
        kind: Kind::Texts,
        default: Some("[]"),
        doc: "PCI devices of this host that the guest gets, such as \"0000:41:00.1\"; for tdxio and vfio_pt",
    },
    Key {
        path: "guests.*.qemu.quote_socket",
        kind: Kind::Text,
        default: None,
        doc: "where a tdx guest gets its quotes: vsock:CID:PORT or unix:PATH",
    },
    Key {
        path: "guests.*.qemu.binary",
        kind: Kind::Program,
        default: None,
        doc: "QEMU binary; default: the one for this host's processor",
    },
    Key {
        path: "guests.*.qemu.arguments",
        kind: Kind::Texts,
        default: Some("[]"),
        doc: "QEMU's whole argument list, instead of vmdeck's own; only what keeps the machine in its run is changed: the image is not \
              written, ports are free ones of this host, the console is read",
    },
    Key {
        path: "guests.*.qemu.dir",
        kind: Kind::Path,
        default: None,
        doc: "folder in which a QEMU with `arguments` runs, where they name files by relative paths",
    },
    Key {
        path: "guests.*.qemu.dump",
        kind: Kind::Choice(&["never", "panic"]),
        default: Some("\"never\""),
        doc: "panic: the memory of a guest whose kernel panics is saved as memory.kdump in its folder of the record",
    },
    Key {
        path: "guests.*.qemu.dump_size",
        kind: Kind::Size,
        default: Some("\"4GiB\""),
        doc: "the memory of a larger guest is not saved",
    },
    Key { path: "guests.*.qemu.extra_args", kind: Kind::Texts, default: Some("[]"), doc: "extra arguments for QEMU" },
];

/// The longest path of a Unix socket on the systems that vmdeck runs on (macOS: 104 with the final NUL).
const SOCKET_PATH_MAX: usize = 103;

/// What the backend can do.
pub const CAPABILITIES: Capabilities = Capabilities {
    isolated: true,
    network: Reach::ForwardedPorts,
    guest_exec: true,
    console: ConsoleKind::Interactive,
    sized: true,
    runs_here: true,
    restricts_network: true,
    joins_switch: true,
    takes_uuid: true,
    ..Capabilities::NONE
};

/// The backend; see the module.
#[derive(Debug)]
pub struct Qemu {
    spawner: Spawner,
    state: PathBuf,
    images: ImageStore,
}

impl Qemu {
    /// Makes the backend; [`Backend::check`] looks for the program.
    pub fn new(deps: &BackendDeps) -> Self {
        Self { spawner: deps.spawner.clone(), state: deps.state.clone(), images: deps.images.clone() }
    }

    async fn accel(&self, guest: &Guest, binary: &Path) -> accel::Choice {
        match guest.options.text("accel") {
            Some(accel) if accel != "auto" => {
                accel::Choice { accel: accel.into(), why: "the config says so".into(), remedy: None, fix: None }
            }
            _ => accel::choose(&self.spawner, binary, &self.state).await,
        }
    }

    /// Returns what a guest boots, unless the config names only a kernel or firmware; fetches or builds it where it is not here.
    async fn system(&self, guest: &Guest, context: CallContext<'_>) -> Result<Option<System>> {
        if let Some(image) = &guest.image {
            return image::obtain(&self.images, image, arch::image_arch(Some(guest)), &self.spawner, context).await;
        }
        let format = if guest.options.text("image_format") == Some("raw") { "raw" } else { "qcow2" };
        let disk = guest.options.path("image").map(Path::to_owned);
        Ok(disk.map(|disk| System { disk, format, direct: None }))
    }

    async fn create(&self, request: &CreateRequest<'_>, context: CallContext<'_>) -> Result<Box<dyn Machine>> {
        let failed = || Fault::infra(format!("cannot create guest `{}`", request.guest.id));
        let name = arch::binary(Some(request.guest));
        let binary = info::find_program(&name)
            .ok_or_else(|| Fault::host(format!("cannot find `{name}`")).remedied(findings::install()))?;
        let guest = request.guest;
        if !guest.options.texts("arguments").is_empty() {
            return self.create_given(request, &binary, context).await;
        }
        let system = self.system(guest, context).await?;
        let image = system.as_ref().map(|system| system.disk.as_path());
        let boots_host = guest.image == Some(Image::Host);
        let waits_for_gdb = guest.options.flag("gdb");
        let mut files = Files::of(request.private_dir, request.record_dir, image.is_some(), boots_host, waits_for_gdb);
        files.network = request.network.map(|_| request.private_dir.join("network.sock"));
        check_sockets(&files).map_err(|fault| failed().caused_by(fault))?;
        files::private_dir(request.private_dir).map_err(|e| failed().because(e))?;
        if let Some((port, socket)) = request.network.zip(files.network.as_deref()) {
            self.plug_in(port, socket, &binary).await.map_err(|fault| failed().caused_by(fault))?;
        }
        let format = system.as_ref().map_or("qcow2", |system| system.format);
        let overlay = match image.zip(files.overlay.as_deref()) {
            Some((base, overlay)) => {
                let size = self
                    .grown(base, request.guest.disk)
                    .await
                    .map_err(|cause| failed().because(cause).remedied(findings::install()))?;
                let arguments = argv::overlay_arguments(base, format, overlay, size);
                qemu_img::run(&self.spawner, &arguments).await.map_err(|cause| failed().because(cause))?;
                Some([vec!["qemu-img".to_owned()], arguments].concat())
            }
            None => None,
        };
        let accel = self.accel(guest, &binary).await;
        let arch = Arch::of(&name);
        let is_emulated = accel.accel == "tcg";
        let mut parts =
            MachineParts::make(guest, system.as_ref(), arch, is_emulated, request.private_dir, &self.spawner).await?;
        if tdx::is_wanted(guest) {
            parts.tdx = TdxDialect::ask(&self.spawner, &binary).await.unwrap_or_default();
        }
        let memory = request.freezable.then(|| GuestMemory::empty((guest.memory >> 20).max(1) << 20)).transpose();
        let memory = memory.map_err(|e| failed().because(format!("its memory: {e}")))?;
        parts.memory = memory.as_ref().map(GuestMemory::object);
        if files.gdb.is_some() {
            let line = argv::debugger_line(request.private_dir);
            (context.progress)(&format!("guest `{}` waits for a debugger: {line}", guest.id));
        }
        let argv = argv::arguments(request, &accel.accel, arch, &files, &parts);
        let script = argv::script(&binary.to_string_lossy(), &argv, request.private_dir, &files, overlay.as_deref());
        vmdeck_files::write(&request.record_dir.join("qemu.cmd"), script.as_bytes())
            .map_err(|e| failed().because(e))?;
        // Made by us: QEMU would let others read it.
        vmdeck_files::create(&files.log).map_err(|e| failed().because(e))?;
        let recipe = snapshot::refusal(guest)
            .is_none()
            .then(|| ResumeRecipe::of(&binary, &argv, request, parts.memory.as_deref(), files.overlay.is_some()));
        let spec = Spec::new(binary).args(argv);
        let (spawner, folders) = (self.spawner.clone(), parts.shares.folders);
        let machine = machine::QemuMachine::new(spawner, request, spec, files, parts.helpers, folders);
        Ok(Box::new(machine.writable(recipe, memory)))
    }
}

impl Qemu {
    /// Opens the port at which a machine is plugged into a private network.
    async fn plug_in(&self, port: NetworkPort<'_>, socket: &Path, binary: &Path) -> Result<()> {
        let cannot = || Fault::host("cannot plug the machine into the private network of its suite").permanent();
        if !findings::help(&self.spawner, binary).await.contains("-netdev stream") {
            let why = format!("`{}` has no `-netdev stream`", binary.display());
            return Err(cannot().because(why).hint("install QEMU 7.2 or newer"));
        }
        port.switch.open_port(port.seat, socket).map_err(|e| cannot().because(e))
    }

    /// Makes a machine whose command line the config gives whole.
    async fn create_given(
        &self,
        request: &CreateRequest<'_>,
        binary: &Path,
        context: CallContext<'_>,
    ) -> Result<Box<dyn Machine>> {
        let guest = request.guest;
        let failed = || Fault::infra(format!("cannot create guest `{}`", guest.id));
        let files = Files::of(request.private_dir, request.record_dir, false, false, false);
        check_sockets(&files).map_err(|fault| failed().caused_by(fault))?;
        files::private_dir(request.private_dir).map_err(|e| failed().because(e))?;
        let words = guest.options.texts("arguments");
        let host = given::HostFacts {
            emulated: self.accel(guest, binary).await.accel == "tcg",
            lacks_no_hpet: words.iter().any(|word| word == "-no-hpet")
                && !findings::help(&self.spawner, binary).await.contains("-no-hpet"),
            restricted: guest.network != Network::User,
            lacks_tdx_debug: tdx::is_wanted(guest)
                && !TdxDialect::ask(&self.spawner, binary).await.unwrap_or_default().debug,
        };
        let fit = given::fit(words, host, request.name, request.uuid, &files, request.services);
        for line in fit.changes.iter().chain(&fit.warnings) {
            (context.progress)(&format!("QEMU's arguments: {line}"));
        }
        let mut script = argv::script(&binary.to_string_lossy(), &fit.arguments, request.private_dir, &files, None);
        script.push_str("\n# As the config has it:\n");
        let plain: Vec<String> = words.iter().map(|word| sh_quote(word)).collect();
        script.push_str(&format!("# {} {}\n", sh_quote(&binary.to_string_lossy()), plain.join(" ").replace('\n', " ")));
        for change in &fit.changes {
            script.push_str(&format!("# {}\n", change.replace('\n', " ")));
        }
        vmdeck_files::write(&request.record_dir.join("qemu.cmd"), script.as_bytes())
            .map_err(|e| failed().because(e))?;
        vmdeck_files::create(&files.log).map_err(|e| failed().because(e))?;
        // Where QEMU keeps what the guest writes.
        let mut spec = Spec::new(binary).args(fit.arguments).env("TMPDIR", request.private_dir);
        spec.dir = guest.options.path("dir").map(Path::to_owned);
        Ok(Box::new(machine::QemuMachine::new(self.spawner.clone(), request, spec, files, Vec::new(), Vec::new())))
    }

    /// Returns the overlay's size where the config wants a larger disk than the image has; an overlay never shrinks one.
    async fn grown(&self, base: &Path, wanted: u64) -> Result<Option<u64>, String> {
        let base = base.to_string_lossy().into_owned();
        let arguments =
            ["info", "-U", "--output=json"].map(str::to_owned).into_iter().chain([base]).collect::<Vec<_>>();
        let text = qemu_img::run(&self.spawner, &arguments).await?;
        let info: serde_json::Value = serde_json::from_str(&text).map_err(|e| format!("qemu-img info: {e}"))?;
        Ok(info["virtual-size"].as_u64().filter(|size| *size < wanted).map(|_| wanted))
    }
}

/// Refuses sockets whose paths are too long.
fn check_sockets(files: &Files) -> Result<()> {
    let optional = [&files.agent, &files.guest_agent, &files.gdb, &files.network].into_iter().flatten();
    let too_long = |path: &&PathBuf| path.as_os_str().len() > SOCKET_PATH_MAX;
    let Some(path) = [&files.console, &files.qmp].into_iter().chain(optional).find(too_long) else { return Ok(()) };
    Err(Fault::infra(format!("cannot use the socket path `{}`", path.display()))
        .because(format!("it is longer than {SOCKET_PATH_MAX} bytes"))
        .hint("set XDG_STATE_HOME to a shorter path"))
}

impl Backend for Qemu {
    fn check<'a>(&'a self, guest: Option<&'a Guest>, _: CallContext<'a>) -> BoxFuture<'a, Result<Vec<Finding>>> {
        Box::pin(async move {
            let mut out = Vec::new();
            let name = arch::binary(guest);
            let Some(binary) = info::find_program(&name) else {
                let severity = if guest.is_some() { Severity::Fatal } else { Severity::Warn };
                out.push(findings::missing(
                    "qemu",
                    severity,
                    format!("`{name}` is not installed"),
                    findings::install(),
                ));
                return Ok(out);
            };
            out.push(findings::version(&self.spawner, &binary).await);
            if let Some(guest) = guest {
                out.extend(findings::guest(guest));
                if tdx::is_wanted(guest) {
                    out.extend(tdx::findings(&self.spawner, &binary, guest).await);
                }
                let is_special = guest.options.text("vm_type").is_some_and(|kind| kind != "legacy");
                if is_special || !confidential::devices(guest).is_empty() {
                    out.extend(HostView::of_this(&self.spawner).await.findings(guest));
                }
                out.extend(findings::image(&self.images, guest));
                out.extend(shares::findings(guest, &self.spawner).await);
                if guest.image == Some(Image::Host) {
                    match host_root::choose(guest, &self.spawner).await {
                        Ok(choice) => out.extend(choice.findings(guest)),
                        Err(fault) => out.push(Finding::of_fault("kernel", Severity::Fatal, &fault)),
                    }
                }
                let accel = self.accel(guest, &binary).await;
                if tdx::is_wanted(guest) && accel.accel == "tcg" {
                    out.push(findings::no_emulated_tdx(guest, &accel));
                } else {
                    out.push(findings::accel(&accel));
                }
            } else {
                out.push(findings::accel(&accel::choose(&self.spawner, &binary, &self.state).await));
            }
            Ok(out)
        })
    }

    fn snapshots(&self) -> Option<&dyn Snapshots> {
        Some(self)
    }

    fn list<'a>(&'a self, _: CallContext<'a>) -> BoxFuture<'a, Result<Vec<MachineInfo>>> {
        Box::pin(async { Ok(process::list()) })
    }

    fn create<'a>(
        &'a self,
        request: CreateRequest<'a>,
        context: CallContext<'a>,
    ) -> BoxFuture<'a, Result<Box<dyn Machine>>> {
        Box::pin(async move { self.create(&request, context).await })
    }

    fn reap<'a>(&'a self, record: &'a MachineRecord, _: CallContext<'a>) -> BoxFuture<'a, Proof> {
        Box::pin(async move { Proof::gone(process::reap(record).await) })
    }

    fn reattach<'a>(
        &'a self,
        guest: &'a Guest,
        record: &'a MachineRecord,
        _: CallContext<'a>,
    ) -> BoxFuture<'a, Result<Option<Box<dyn Machine>>>> {
        Box::pin(async move { Ok(process::reattach(guest, record)) })
    }

    fn take_over<'a>(
        &'a self,
        request: CreateRequest<'a>,
        record: &'a MachineRecord,
        _: CallContext<'a>,
    ) -> BoxFuture<'a, Result<Option<Box<dyn Machine>>>> {
        Box::pin(async move {
            let gone = || Fault::infra(format!("cannot use `{}` again", record.name)).because("its process is gone");
            let (pid, started) = process::of_record(record).ok_or_else(gone)?;
            let files = Files::existing(request.private_dir, request.record_dir);
            let spec = Spec::new(arch::binary(Some(request.guest)));
            // What it shares with this host is mounted in it.
            let mut machine =
                machine::QemuMachine::new(self.spawner.clone(), &request, spec, files, Vec::new(), Vec::new());
            machine.take_over(pid, started).await?;
            Ok(Some(Box::new(machine) as Box<dyn Machine>))
        })
    }
}
