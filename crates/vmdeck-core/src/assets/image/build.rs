//! Builds a system from packages: Debian or Ubuntu, by mmdebstrap, without root, without a loop device, without a boot loader.
//!
//! The result is one file system on a disk without partitions, and the kernel beside it, which QEMU starts directly. As a user it
//! needs user namespaces with ids of its own (`newuidmap`, a line in /etc/subuid): files of the system belong to those ids, and only
//! the same namespace can remove them. Facts: mke2fs fills a file system from a folder; a tar with device nodes cannot be unpacked
//! by a user, so they are left out; an empty machine-id and no host keys, or every guest is the same machine.

use super::{
    System,
    digest::Hasher,
    lock,
    store::{BUILT, ImageStore, touch},
};
use crate::{
    context::CallContext,
    host::{
        files, info, packages,
        process::{Spawner, Spec, Streams},
    },
};
use serde::Serialize;
use std::{
    fs,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};
use vmdeck_model::{
    error::{Fault, Remedy, Result},
    image::Recipe,
};

/// How long one step may take.
const STEP: Duration = Duration::from_mins(30);
/// The size of the file system in the image; a guest's overlay makes it larger.
const SIZE: &str = "4G";
/// The command line that starts the kernel.
const CMDLINE: &str = "root=/dev/vda rw console=ttyS0 quiet\n";
/// What every system gets, besides what its recipe names.
const PACKAGES: [&str; 8] =
    ["systemd-sysv", "udev", "dbus", "openssh-server", "sudo", "iproute2", "ca-certificates", "initramfs-tools"];

/// A system that can be built.
struct Release {
    /// The name and version as a recipe has it.
    names: [&'static str; 2],
    /// The word for its packages' archive.
    suite: &'static str,
    kernel: &'static str,
    /// The parts of the archive that are used, where mmdebstrap's own choice is too small.
    components: Option<&'static str>,
}

const RELEASES: &[Release] = &[
    Release {
        names: ["debian:12", "debian:bookworm"],
        suite: "bookworm",
        kernel: "linux-image-cloud-ARCH",
        components: None,
    },
    Release {
        names: ["debian:13", "debian:trixie"],
        suite: "trixie",
        kernel: "linux-image-cloud-ARCH",
        components: None,
    },
    Release {
        names: ["ubuntu:22.04", "ubuntu:jammy"],
        suite: "jammy",
        kernel: "linux-image-virtual",
        components: Some("main,universe"),
    },
    Release {
        names: ["ubuntu:24.04", "ubuntu:noble"],
        suite: "noble",
        kernel: "linux-image-virtual",
        components: Some("main,universe"),
    },
];
/// What is known of a build: the base of its name, and what the cache shows of it.
#[derive(Serialize)]
struct Inputs<'a> {
    build: &'a str,
    packages: &'a [String],
    script: Option<String>,
    mirror: Option<&'a str>,
    form: u32,
}

/// Returns the folder of a build in the cache, if it was built.
pub fn find(store: &ImageStore, recipe: &Recipe) -> Result<Option<System>> {
    let folder = store.entry(BUILT, &name_of(recipe, &inputs(recipe)?));
    if !folder.is_dir() {
        return Ok(None);
    }
    touch(&folder.join("recipe.json"));
    System::open(&folder).map(Some)
}

/// Returns whether a system can be built, as far as its name goes.
pub fn knows(system: &str) -> bool {
    RELEASES.iter().any(|release| release.names.contains(&system))
}

/// Returns what this host lacks for a build, as a sentence with a remedy.
pub fn missing(recipe: &Recipe) -> Option<Fault> {
    let cannot = || Fault::host(format!("cannot build `{}`", recipe.system));
    if let Err(fault) = release(recipe) {
        return Some(fault);
    }
    let is_root = rustix::process::geteuid().is_root();
    let needed: &[&str] = if is_root {
        &["mmdebstrap", "mke2fs", "qemu-img"]
    } else {
        &["mmdebstrap", "mke2fs", "qemu-img", "newuidmap", "unshare"]
    };
    let lacks: Vec<String> =
        needed.iter().filter(|name| tool(name).is_none()).map(|name| format!("`{name}`")).collect();
    if !lacks.is_empty() {
        return Some(
            cannot()
                .because(format!("{} {} not installed", lacks.join(", "), if lacks.len() == 1 { "is" } else { "are" }))
                .remedied(packages::install(&packages::MMDEBSTRAP)),
        );
    }
    let user = info::user_name(rustix::process::geteuid().as_raw());
    let ids = vmdeck_files::read_text(Path::new("/etc/subuid"), vmdeck_files::SMALL).unwrap_or_default();
    if !is_root && !ids.lines().any(|line| line.split(':').next() == Some(&user)) {
        let words = ["usermod", "--add-subuids", "100000-165535", "--add-subgids", "100000-165535", &user];
        let command = packages::as_root(&words);
        let hint = format!("give it some: `{}`", command.join(" "));
        return Some(
            cannot()
                .because(format!("/etc/subuid has no ids for the user {user}"))
                .remedied(Remedy { hint, command: Some(command) }),
        );
    }
    None
}

/// Returns what is built from, for a recipe that can be carried out on some host.
fn release(recipe: &Recipe) -> Result<&'static Release> {
    // They go to the command line of other programs.
    if let Some(bad) = recipe.packages.iter().find(|name| !is_package(name)) {
        return Err(Fault::user(format!("cannot build `{}`", recipe.system))
            .because(format!("`{bad}` is no name of a package")));
    }
    RELEASES.iter().find(|release| release.names.contains(&recipe.system.as_str())).ok_or_else(|| {
        let known: Vec<&str> = RELEASES.iter().map(|release| release.names[0]).collect();
        Fault::user(format!("cannot build `{}`", recipe.system))
            .because(format!("it is not known (known: {})", known.join(", ")))
    })
}

fn inputs(recipe: &Recipe) -> Result<Inputs<'_>> {
    let read = |path: &PathBuf| {
        vmdeck_files::read_text(path, vmdeck_files::LARGE)
            .map_err(|e| Fault::user(format!("cannot read the script `{}`", path.display())).because(e))
    };
    Ok(Inputs {
        build: &recipe.system,
        packages: &recipe.packages,
        script: recipe.script.as_ref().map(read).transpose()?,
        mirror: recipe.mirror.as_deref(),
        form: 1,
    })
}

fn name_of(recipe: &Recipe, inputs: &Inputs<'_>) -> String {
    let mut hasher = Hasher::like(None);
    // A structure of texts always has a form.
    hasher.update(&serde_json::to_vec(inputs).unwrap_or_default());
    let hex = hasher.finish().file_name();
    let key = hex.rsplit('-').next().unwrap_or_default();
    format!("{}-{}", recipe.system.replace([':', '.'], "-"), &key[..16])
}

/// Returns a program, which may be where only root looks.
fn tool(name: &str) -> Option<PathBuf> {
    info::find_program(name)
        .or_else(|| ["/usr/sbin", "/sbin"].iter().find_map(|dir| info::find_program(&format!("{dir}/{name}"))))
}

/// Returns a system from the cache; builds it first where it is not there. Cancelling removes what was begun.
pub async fn build(store: &ImageStore, recipe: &Recipe, spawner: &Spawner, context: CallContext<'_>) -> Result<System> {
    if let Some(system) = find(store, recipe)? {
        return Ok(system);
    }
    if let Some(fault) = missing(recipe) {
        return Err(fault);
    }
    let cannot = || Fault::infra(format!("cannot build `{}`", recipe.system));
    if store.offline {
        return Err(cannot().because("`images.offline` is set, and its packages come over the network"));
    }
    store.prepare().map_err(|e| cannot().because(e))?;
    store.sweep();
    let inputs = inputs(recipe)?;
    let name = name_of(recipe, &inputs);
    let waits = || (context.progress)(&format!("another vmdeck builds {}; waiting for it", recipe.system));
    let _alone = lock::take(&store.entry("locks", &name), waits).await.map_err(|e| cannot().because(e))?;
    if let Some(system) = find(store, recipe)? {
        return Ok(system);
    }
    let work = store.entry(BUILT, &format!(".{name}"));
    let builder = Builder { recipe, release: release(recipe)?, work, spawner, context };
    // Of a build that was killed.
    builder.remove_work().await;
    let done = async {
        files::private_dir(&builder.work).map_err(|e| cannot().because(e))?;
        builder.run(&inputs).await
    };
    let built = tokio::select! {
        built = done => built,
        () = context.cancel.cancelled() => Err(Fault::cancelled("cannot finish the build").because("it was cancelled")),
    };
    let kept = match built {
        Ok(result) => fs::rename(&result, store.entry(BUILT, &name)).map_err(|e| cannot().because(e)),
        Err(fault) => Err(cannot().caused_by(fault)),
    };
    builder.remove_work().await;
    kept?;
    find(store, recipe)?.ok_or_else(|| cannot().because("its result is not there"))
}

struct Builder<'a> {
    recipe: &'a Recipe,
    release: &'static Release,
    /// The folder in which it is built; some of its files belong to other ids.
    work: PathBuf,
    spawner: &'a Spawner,
    context: CallContext<'a>,
}

impl Builder<'_> {
    /// Builds the system; returns the folder with the result.
    async fn run(&self, inputs: &Inputs<'_>) -> Result<PathBuf> {
        let path = |name: &str| self.work.join(name);
        let (tar, root, result) = (path("root.tar"), path("root"), path("result"));
        let failed = |e: std::io::Error| {
            Fault::host("cannot write the build").because(e).hint("free disk space in the cache folder")
        };
        fs::create_dir_all(&result).map_err(failed)?;
        self.step("fetching packages", self.packages(inputs, &tar)?).await?;
        fs::create_dir_all(&root).map_err(failed)?;
        let unpack = inside(
            Spec::new("tar")
                .args(["--numeric-owner", "--exclude=./dev/*", "-C"])
                .args([&root])
                .args(["-xf"])
                .args([&tar]),
        );
        self.step("unpacking", unpack).await?;
        let _ = fs::remove_file(&tar);
        // Readable by us whoever they belong to, and without the version in their names.
        let script =
            "set -e; cat \"$1\"/boot/vmlinuz-* > \"$2\"/vmlinuz; cat \"$1\"/boot/initrd.img-* > \"$2\"/initrd.img";
        let copy = inside(Spec::new("sh").args(["-c", script, "sh"]).args([&root, &result]));
        self.step("copying the kernel", copy).await?;
        let raw = path("root.raw");
        let mke2fs = tool("mke2fs").unwrap_or_else(|| "mke2fs".into());
        let make = Spec::new(mke2fs)
            .args(["-q", "-t", "ext4", "-L", "root", "-m", "0", "-E", "lazy_itable_init=1,lazy_journal_init=1", "-d"])
            .args([&root, &raw])
            .args([SIZE]);
        self.step("making the file system", inside(make)).await?;
        let convert = Spec::new("qemu-img")
            .args(["convert", "-q", "-f", "raw", "-O", "qcow2", "-c"])
            .args([&raw, &result.join("root.qcow2")]);
        self.step("compressing", convert).await?;
        fs::write(result.join("cmdline"), CMDLINE).map_err(failed)?;
        let json = serde_json::to_vec_pretty(inputs).unwrap_or_default();
        fs::write(result.join("recipe.json"), json).map_err(failed)?;
        for name in ["root.qcow2", "vmlinuz", "initrd.img", "cmdline", "recipe.json"] {
            vmdeck_files::open(&result.join(name)).and_then(|file| file.sync_all()).map_err(failed)?;
        }
        Ok(result)
    }

    fn packages(&self, inputs: &Inputs<'_>, tar: &Path) -> Result<Spec> {
        let processor = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
        let kernel = self.release.kernel.replace("ARCH", processor);
        let mut list: Vec<&str> = PACKAGES.to_vec();
        list.push(&kernel);
        list.extend(self.recipe.packages.iter().map(String::as_str));
        let mode = if rustix::process::geteuid().is_root() { "root" } else { "unshare" };
        let mut args = vec![
            "--quiet".to_owned(),
            format!("--mode={mode}"),
            "--variant=minbase".into(),
            format!("--include={}", list.join(",")),
            "--aptopt=Acquire::Languages \"none\"".into(),
        ];
        // Nothing that only people read.
        args.extend(["man", "doc", "locale"].map(|name| format!("--dpkgopt=path-exclude=/usr/share/{name}/*")));
        args.extend(HOOKS_BEFORE.map(|hook| format!("--essential-hook={hook}")));
        if let Some(script) = &inputs.script {
            let file = self.work.join("script");
            files::write_atomic(&file, script.as_bytes())
                .map_err(|e| Fault::host("cannot write the build").because(e))?;
            args.push(format!("--customize-hook=upload {} /tmp/vmdeck-script", file.display()));
            args.push("--customize-hook=chroot \"$1\" sh -e /tmp/vmdeck-script; rm \"$1/tmp/vmdeck-script\"".into());
        }
        args.extend(HOOKS_AFTER.map(|hook| format!("--customize-hook={hook}")));
        args.extend(self.release.components.map(|parts| format!("--components={parts}")));
        args.push(self.release.suite.to_owned());
        let mut spec = Spec::new(tool("mmdebstrap").unwrap_or_else(|| "mmdebstrap".into())).args(args).args([tar]);
        for source in self.sources() {
            spec = spec.args([source]);
        }
        Ok(spec)
    }

    /// Returns where the packages come from: what the recipe says, else this host's own sources where they are for the same suite.
    /// None = mmdebstrap knows the place.
    fn sources(&self) -> Vec<String> {
        if let Some(mirror) = &self.recipe.mirror {
            return vec![mirror.clone()];
        }
        let folder = fs::read_dir("/etc/apt/sources.list.d").into_iter().flatten().flatten().map(|entry| entry.path());
        let is_for = |path: &PathBuf| {
            let ending = path.extension().and_then(|e| e.to_str()).unwrap_or_default();
            let text = vmdeck_files::read_text(path, vmdeck_files::SMALL).unwrap_or_default();
            let lines = text.lines().filter(|line| !line.trim_start().starts_with('#'));
            matches!(ending, "sources" | "list")
                && lines.flat_map(str::split_whitespace).any(|word| word == self.release.suite)
        };
        let mut own: Vec<String> = [PathBuf::from("/etc/apt/sources.list")]
            .into_iter()
            .chain(folder)
            .filter(is_for)
            .map(|path| path.display().to_string())
            .collect();
        own.sort();
        own
    }

    async fn step(&self, what: &str, spec: Spec) -> Result<()> {
        (self.context.progress)(&format!("building {}: {what}", self.recipe.system));
        let cannot = || Fault::infra(format!("cannot go on with {what}"));
        let log = self.work.join("log");
        let out = vmdeck_files::create(&log).map_err(|e| cannot().because(e))?;
        let both = out.try_clone().map_err(|e| cannot().because(e))?;
        let streams = Streams { stdin: Stdio::null(), stdout: out.into(), stderr: both.into() };
        let mut child = self.spawner.spawn_tethered(&spec, streams).await.map_err(|e| cannot().because(e))?;
        let ended = tokio::select! {
            status = child.wait() => status.map_err(|e| cannot().because(e))?,
            () = self.context.cancel.cancelled() => {
                let _ = child.kill_group().await;
                return Err(Fault::cancelled("cannot finish the build").because("it was cancelled"));
            }
            () = crate::host::clock::sleep(STEP) => {
                let _ = child.kill_group().await;
                return Err(cannot().because("it took longer than 30 minutes"));
            }
        };
        if ended.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&vmdeck_files::read_tail(&log, 4096)).into_owned();
        let lines: Vec<&str> = said.lines().filter(|line| !line.trim().is_empty()).collect();
        let last = lines[lines.len().saturating_sub(4)..].join("\n    ");
        Err(cannot().because(format!("{ended}:\n    {last}")).permanent())
    }

    /// Removes the folder of the build, files of other ids included.
    async fn remove_work(&self) {
        if self.work.exists() && files::remove_dir(&self.work).is_err() {
            let remove = inside(Spec::new("rm").args(["-rf", "--"]).args([&self.work]));
            let _ = self.spawner.output(&remove, Duration::from_mins(2)).await;
            let _ = files::remove_dir(&self.work);
        }
    }
}

/// Returns a program inside of the namespace to which the system's files belong.
fn inside(spec: Spec) -> Spec {
    if rustix::process::geteuid().is_root() {
        return spec;
    }
    Spec::new("unshare").args(["--user", "--map-root-user", "--map-auto", "--"]).args([spec.program]).args(spec.args)
}

/// Returns whether a text can be the name of a package, and so stands in a list of them as one.
pub(super) fn is_package(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "+-.:".contains(c);
    name.len() > 1 && name.starts_with(|c: char| c.is_ascii_alphanumeric()) && name.chars().all(plain)
}

/// Before the packages: an initial RAM disk with the drivers of virtual machines, whatever this host is.
const HOOKS_BEFORE: [&str; 1] = [
    "mkdir -p \"$1/etc/initramfs-tools/conf.d\"; echo MODULES=list > \"$1/etc/initramfs-tools/conf.d/vmdeck\"; \
     printf '%s\\n' virtio_pci virtio_blk virtio_scsi virtio_net virtio_console virtio_rng ext4 vfat > \"$1/etc/initramfs-tools/modules\"",
];

/// After them: a network, a console, no timers that disturb tests, and nothing that would make every guest the same machine.
const HOOKS_AFTER: [&str; 5] = [
    "echo vmdeck > \"$1/etc/hostname\"; printf '127.0.0.1 localhost\\n127.0.1.1 vmdeck\\n::1 localhost\\n' > \"$1/etc/hosts\"; \
     echo '/dev/vda / ext4 defaults,x-systemd.growfs 0 1' > \"$1/etc/fstab\"",
    "printf '[Match]\\nName=en* eth*\\n[Network]\\nDHCP=yes\\n' > \"$1/etc/systemd/network/80-dhcp.network\"; \
     chroot \"$1\" systemctl -q enable systemd-networkd ssh serial-getty@ttyS0",
    "printf 'nameserver 10.0.2.3\\n' > \"$1/etc/resolv.conf\"",
    "for t in apt-daily.timer apt-daily-upgrade.timer man-db.timer e2scrub_all.timer fstrim.timer; do \
     chroot \"$1\" systemctl -q mask $t; done",
    ": > \"$1/etc/machine-id\"; rm -f \"$1\"/etc/ssh/ssh_host_*; printf '[Unit]\\nBefore=ssh.service\\n\
     ConditionPathExists=!/etc/ssh/ssh_host_ed25519_key\\n[Service]\\nType=oneshot\\nExecStart=/usr/bin/ssh-keygen -q -t ed25519 -N \"\" \
     -f /etc/ssh/ssh_host_ed25519_key\\n[Install]\\nWantedBy=multi-user.target\\n' > \"$1/etc/systemd/system/vmdeck-hostkey.service\"; \
     chroot \"$1\" systemctl -q enable vmdeck-hostkey",
];

#[cfg(test)]
mod tests {
    use super::*;

    fn recipe(system: &str) -> Recipe {
        Recipe { system: system.into(), ..Recipe::default() }
    }

    #[test]
    fn a_build_is_known_by_all_that_it_is_made_of() {
        let name = |recipe: &Recipe| name_of(recipe, &inputs(recipe).expect("readable"));
        let plain = recipe("debian:12");
        assert_eq!(name(&plain), name(&plain.clone()));
        assert!(name(&plain).starts_with("debian-12-"));
        let home = tempfile::tempdir().expect("tempdir");
        let script = home.path().join("script");
        fs::write(&script, "a").expect("written");
        let scripted = Recipe { script: Some(script.clone()), ..plain.clone() };
        let first = name(&scripted);
        fs::write(&script, "b").expect("written");
        let all =
            [name(&plain), first, name(&scripted), name(&Recipe { packages: vec!["git".into()], ..plain.clone() })];
        assert_eq!(all.iter().collect::<std::collections::BTreeSet<_>>().len(), 4, "{all:?}");
        fs::remove_file(&script).expect("removed");
        assert!(inputs(&scripted).is_err(), "a script that is not there is no part of a name");
    }

    #[test]
    fn what_cannot_be_built_says_what_can() {
        let fault = release(&recipe("debian:1")).map(|release| release.suite).expect_err("unknown");
        assert!(fault.to_string().contains("known: debian:12, debian:13, ubuntu:22.04"), "{fault}");
        assert_eq!(release(&recipe("ubuntu:noble")).expect("known").suite, "noble");
        let wrong = Recipe { packages: vec!["git".into(), "a b".into()], ..recipe("debian:12") };
        // Said by every host, whatever it lacks besides.
        assert!(missing(&wrong).expect("wrong").to_string().contains("`a b` is no name of a package"));
        for (name, good) in
            [("g++", true), ("libc6:amd64", true), ("a b", false), ("-x", false), ("x,y", false), ("$(id)", false)]
        {
            assert_eq!(is_package(name), good, "{name}");
        }
    }
}
