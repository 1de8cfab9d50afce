//! The guest's process 1: it loads modules, puts the root together from the shares, starts the agent and reaps what nobody waits for.
//!
//! It stays in the initial RAM disk, where its program is; the new root is mounted over that, and is its working directory.

#![expect(clippy::disallowed_methods, reason = "here the guest's agent is started")]

use super::{
    agent, network, port, setup,
    words::{CONSOLE_FAILED, CONSOLE_PREFIX, PROGRAM},
};
use crate::setup::{GuestSetup, GuestShare, ShareProtocol};
use rustix::{
    mount::{MountFlags, mount, mount_move},
    process::WaitOptions,
};
use std::{
    ffi::CString,
    fs,
    io::{self, Write},
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::Path,
    process::Command,
};

/// Where the shared root is mounted, below the overlay.
const LOWER: &str = "/lower";
/// Where what the guest writes is kept: in memory.
const WRITABLE: &str = "/writable";
/// Where the new root is put together.
const NEW: &str = "/new";

/// Brings the guest up, and down again when the agent has ended.
pub(super) fn run() -> u8 {
    match bring_up() {
        Ok(agent) => reap(agent),
        Err(why) => say(&format!("{CONSOLE_FAILED} {why}")),
    }
    rustix::fs::sync();
    // Process 1 must not end; where the machine cannot be switched off it waits for its host to do so.
    let _ = rustix::system::reboot(rustix::system::RebootCommand::PowerOff);
    loop {
        std::thread::park();
    }
}

/// Writes a line to the console. One that cannot be written helps nobody.
fn say(text: &str) {
    let _ = writeln!(io::stderr(), "{CONSOLE_PREFIX} {text}");
}

/// Does everything up to the agent; returns its number.
fn bring_up() -> Result<u32, String> {
    pseudo_file_systems("")?;
    say("started");
    let text = fs::read(setup::FILE).map_err(|e| format!("cannot read {}: {e}", setup::FILE))?;
    let setup: GuestSetup =
        serde_json::from_slice(&text).map_err(|e| format!("cannot understand {}: {e}", setup::FILE))?;
    setup.modules.iter().for_each(|module| load(module));
    if !port::is_there() {
        return Err("there is no virtio-serial port (CONFIG_VIRTIO_PCI, CONFIG_VIRTIO_CONSOLE)".into());
    }
    make_root(&setup)?;
    if let Err(e) = rustix::system::sethostname(setup.hostname.as_bytes()) {
        say(&format!("cannot set the host name: {e}"));
    }
    if let Err(why) = network::bring_up(setup.network) {
        say(&format!("cannot set up the network: {why}"));
    }
    if setup.network {
        name_server();
    }
    enter()?;
    let mut command = Command::new(format!("/{PROGRAM}"));
    let agent = command.arg0(PROGRAM).arg(agent::WORD).spawn().map_err(|e| format!("cannot start the agent: {e}"))?;
    Ok(agent.id())
}

/// Mounts what the kernel itself offers below `root`.
fn pseudo_file_systems(root: &str) -> Result<(), String> {
    for (kind, to) in [("devtmpfs", "/dev"), ("proc", "/proc"), ("sysfs", "/sys")] {
        let at = format!("{root}{to}");
        make_dir(&at)?;
        mount(kind, &at, kind, MountFlags::empty(), None).map_err(|e| match kind {
            "devtmpfs" => format!("cannot mount {to}: {e} (CONFIG_DEVTMPFS)"),
            _ => format!("cannot mount {to}: {e}"),
        })?;
    }
    Ok(())
}

fn make_dir(path: &str) -> Result<(), String> {
    fs::create_dir_all(path).map_err(|e| format!("cannot make {path}: {e}"))
}

/// Loads a module. One that fails is told, and what needs it fails later by its own name.
fn load(module: &str) {
    let path = Path::new(setup::MODULES).join(module);
    let loaded = fs::read(&path)
        .and_then(|image| Ok(rustix::system::init_module(&image, &CString::default())?))
        .and_then(|()| fs::remove_file(&path));
    if let Err(e) = loaded
        && e.raw_os_error() != Some(rustix::io::Errno::EXIST.raw_os_error())
    {
        say(&format!("cannot load {module}: {e}"));
    }
}

/// Mounts the shared root, read-only, with an overlay in memory on it, and everything else in it.
fn make_root(setup: &GuestSetup) -> Result<(), String> {
    attach(&setup.root, LOWER)?;
    tmpfs(WRITABLE, "mode=0755")?;
    let (upper, work) = (format!("{WRITABLE}/upper"), format!("{WRITABLE}/work"));
    make_dir(&upper)?;
    make_dir(&work)?;
    make_dir(NEW)?;
    // The root belongs to whom it belongs on the host.
    let options = format!("lowerdir={LOWER},upperdir={upper},workdir={work}");
    let data = CString::new(options).map_err(|e| e.to_string())?;
    mount("root", NEW, "overlay", MountFlags::empty(), data.as_c_str())
        .map_err(|e| format!("cannot mount the overlay: {e} (CONFIG_OVERLAY_FS)"))?;
    pseudo_file_systems(NEW)?;
    // What is there on the host is dead here: sockets, pipes, and files of processes that do not run.
    tmpfs(&format!("{NEW}/run"), "mode=0755")?;
    tmpfs(&format!("{NEW}/tmp"), "mode=1777")?;
    tmpfs(&format!("{NEW}/dev/shm"), "mode=1777")?;
    let pts = format!("{NEW}/dev/pts");
    make_dir(&pts)?;
    if let Err(e) = mount("devpts", &pts, "devpts", MountFlags::empty(), Some(c"ptmxmode=0666,mode=0620,gid=5")) {
        say(&format!("cannot mount /dev/pts: {e}; there are no terminals (CONFIG_UNIX98_PTYS)"));
    }
    for (link, to) in [("fd", "/proc/self/fd"), ("stdin", "fd/0"), ("stdout", "fd/1"), ("stderr", "fd/2")] {
        // A kernel may have made it.
        let _ = std::os::unix::fs::symlink(to, format!("{NEW}/dev/{link}"));
    }
    for share in &setup.shares {
        attach(share, &format!("{NEW}{}", share.to))?;
    }
    Ok(())
}

fn tmpfs(at: &str, options: &str) -> Result<(), String> {
    make_dir(at)?;
    let data = CString::new(options).map_err(|e| e.to_string())?;
    mount("tmpfs", at, "tmpfs", MountFlags::empty(), data.as_c_str())
        .map_err(|e| format!("cannot mount a file system in memory on {at}: {e} (CONFIG_TMPFS)"))
}

/// Mounts a share. The host refuses writes to a read-only one, whatever is mounted here.
fn attach(share: &GuestShare, at: &str) -> Result<(), String> {
    make_dir(at)?;
    let flags = if share.read_only { MountFlags::RDONLY } else { MountFlags::empty() };
    let (options, needs) = match share.by {
        // Without a cache a share shows what the host changes; with one it is several times as fast.
        ShareProtocol::Plan9 if share.read_only => {
            ("trans=virtio,version=9p2000.L,msize=512000,cache=loose", "CONFIG_NET_9P_VIRTIO, CONFIG_9P_FS")
        }
        ShareProtocol::Plan9 => {
            ("trans=virtio,version=9p2000.L,msize=512000,cache=mmap", "CONFIG_NET_9P_VIRTIO, CONFIG_9P_FS")
        }
        ShareProtocol::Virtiofs => ("", "CONFIG_VIRTIO_FS"),
    };
    let data = CString::new(options).map_err(|e| e.to_string())?;
    let by = share.by.as_str();
    mount(share.tag.as_str(), at, by, flags, data.as_c_str())
        .map_err(|e| format!("cannot mount {} by {by}: {e} ({needs})", share.to))
}

/// Names the server of QEMU's user network for names. The host's own file may lead to a server that is not here.
fn name_server() {
    let path = format!("{NEW}/etc/resolv.conf");
    let _ = fs::remove_file(&path);
    let written = fs::write(&path, "nameserver 10.0.2.3\n")
        .and_then(|()| fs::set_permissions(&path, fs::Permissions::from_mode(0o644)));
    if let Err(e) = written {
        say(&format!("cannot write /etc/resolv.conf: {e}"));
    }
}

/// Mounts the new root over the initial RAM disk, and makes it the working directory, from where others enter it.
fn enter() -> Result<(), String> {
    std::env::set_current_dir(NEW).map_err(|e| format!("cannot enter the new root: {e}"))?;
    mount_move(".", "/").map_err(|e| format!("cannot move the new root: {e}"))
}

/// Collects every process that ends, until it is the agent.
fn reap(agent: u32) {
    loop {
        match rustix::process::wait(WaitOptions::empty()) {
            Ok(Some((pid, status))) if pid.as_raw_nonzero().get().cast_unsigned() == agent => {
                return say(&format!("{CONSOLE_FAILED} the agent ended: {status:?}"));
            }
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(e) => return say(&format!("{CONSOLE_FAILED} cannot wait for the agent: {e}")),
        }
    }
}
