//! Guests whose root is this host's own: `vmdeck boot` and `image = "host"`, under real kernels.
//!
//! They need the kernels in guests/kernels/out (`make guest`); `make test` fetches them first. Without them they fail. By virtiofs
//! they are tried where this host has a daemon that may be used, else by 9P.

#![expect(clippy::disallowed_methods, reason = "a test acts from outside")]

use parking_lot::{Mutex, MutexGuard};
use std::{
    fs,
    io::Write,
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    time::Duration,
};
use vmdeck_testkit::{
    kernel::TestKernel,
    world::{World, eventually, finish, signal},
};

/// Emulated guests share two processors: one test at a time.
static ONE: Mutex<()> = Mutex::new(());

fn turn() -> MutexGuard<'static, ()> {
    ONE.lock()
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Returns the kernel whose way of sharing can be served here: the daemon of Debian 12 needs root.
fn kernel() -> TestKernel {
    if is_root() && Path::new("/usr/lib/qemu/virtiofsd").exists() { TestKernel::Cloud } else { TestKernel::Generic }
}

/// Returns the words of `vmdeck boot` with this kernel.
fn boot(kernel: TestKernel) -> Vec<String> {
    ["boot", "--no-lock", "--boot-timeout", "60s", "-k"]
        .map(str::to_owned)
        .into_iter()
        .chain([kernel.file().display().to_string()])
        .collect()
}

fn command(world: &World, words: &[String], more: &[&str]) -> Command {
    let all: Vec<&str> = words.iter().map(String::as_str).chain(more.iter().copied()).collect();
    world.vmdeck(&all)
}

fn run(world: &World, words: &[String], more: &[&str]) -> Output {
    command(world, words, more).output().expect("vmdeck runs")
}

#[track_caller]
fn check(out: &Output, code: i32, stdout: &str, stderr: &[&str]) {
    let (seen, said) = (String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    assert_eq!(out.status.code(), Some(code), "{seen}\n{said}");
    assert_eq!(seen, stdout, "{said}");
    for part in stderr {
        assert!(said.contains(part), "{part:?} in {said}");
    }
}

#[test]
fn a_command_has_its_own_streams_status_and_folder_and_changes_nothing_here() {
    let _turn = turn();
    let world = World::new("");
    fs::create_dir(world.path("out")).expect("folder");
    let script = "cat; echo err >&2; pwd; uname -r; test -x /bin/sh && echo root; echo x > /etc/vmdeck-test && echo written; \
                  mount -o remount,rw . 2>/dev/null; echo no > here; echo yes > out/made; exit 7";
    let mut child = command(&world, &boot(kernel()), &["--rw-share", "out", "--", "sh", "-c", script])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("vmdeck starts");
    child.stdin.take().expect("pipe").write_all(b"from the host\n").expect("written");
    let out = child.wait_with_output().expect("ends");
    let here = fs::canonicalize(world.home.path()).expect("path");
    let written = if is_root() { "written\n" } else { "" };
    let stdout = format!("from the host\n{}\n{}\nroot\n{written}", here.display(), kernel().version());
    check(&out, 7, &stdout, &["err\n", "Read-only file system"]);
    assert!(!Path::new("/etc/vmdeck-test").exists() && !world.path("here").exists());
    assert_eq!(fs::read_to_string(world.path("out/made")).expect("on the host"), "yes\n");
    world.assert_nothing_left();
}

#[test]
fn another_user_boots_by_9p_with_its_own_rights_and_much_input_comes_back_whole() {
    let _turn = turn();
    let world = World::new("");
    let (kernel, folder) = (TestKernel::Generic, world.path("mine"));
    fs::create_dir(&folder).expect("folder");
    let noise: Vec<u8> = (0u32..3_000_000).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    fs::write(folder.join("input"), &noise).expect("written");
    // What another user may not enter is not for it: a copy where it may.
    let open = |path: &Path| fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("chmod");
    let program = world.path("vmdeck");
    fs::copy(vmdeck_testkit::world::binary(), &program).expect("copied");
    for path in [world.home.path(), &folder, &program] {
        open(path);
    }
    let copied = copy_kernel(kernel, &world.path("kernel"));
    let user = if is_root() { 4711 } else { rustix::process::geteuid().as_raw() };
    let mut vmdeck = Command::new(&program);
    vmdeck.args(["boot", "--no-lock", "--boot-timeout", "60s", "--by", "9p", "-k"]).arg(&copied);
    vmdeck.args(["--", "id -u >&2; cat; kill -9 $$"]).current_dir(&folder).env_remove("XDG_RUNTIME_DIR");
    vmdeck
        .env("HOME", &folder)
        .env("XDG_STATE_HOME", world.path("mine/state"))
        .env("XDG_CONFIG_HOME", world.path("none"));
    vmdeck.stdin(fs::File::open(folder.join("input")).expect("open"));
    if is_root() {
        std::os::unix::fs::chown(&folder, Some(user), Some(user)).expect("chown");
        vmdeck.uid(user).gid(user);
    }
    let out = vmdeck.output().expect("vmdeck runs");
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert_eq!(out.status.code(), Some(137), "{said}");
    assert!(said.contains(&format!("{user}\n")), "{said}");
    assert!(out.stdout == noise, "{} bytes of {}", out.stdout.len(), noise.len());
}

/// Copies a kernel with the modules that it needs to a place that everybody may read; returns the file of it.
fn copy_kernel(kernel: TestKernel, to: &Path) -> PathBuf {
    let copied = Command::new("cp").arg("-r").arg(kernel.folder()).arg(to).status().expect("cp runs");
    assert!(copied.success());
    to.join("boot").join(kernel.file().file_name().expect("name"))
}

#[test]
fn what_does_not_come_to_the_command_is_125_and_says_why() {
    let _turn = turn();
    let world = World::new("");
    let text = |kernel: TestKernel| fs::read(kernel.file()).expect("kernel");
    fs::write(world.path("text"), "no kernel ".repeat(200)).expect("written");
    fs::write(world.path("cut"), &text(TestKernel::Cloud)[..1_000_000]).expect("written");
    fs::create_dir_all(world.path("alone")).expect("folder");
    fs::write(world.path("alone/vmlinuz"), text(TestKernel::Cloud)).expect("written");
    let config = format!("boot/config-{}", TestKernel::Cloud.version());
    fs::copy(TestKernel::Cloud.folder().join(&config), world.path("alone/config")).expect("copied");
    let generic = TestKernel::Generic.folder().display().to_string();
    let cases: [(&[&str], &[&str]); 8] = [
        (&["-k", "none"], &["none`: No such file"]),
        (&["-k", "text"], &["it is not a kernel: neither a bzImage nor a vmlinux"]),
        (&["-k", "cut"], &["it is cut off: 1000000 bytes"]),
        (&["-k", "alone"], &["holds no built kernel", "build one with `make`"]),
        (
            &["-k", "alone/vmlinuz"],
            &["CONFIG_VIRTIO_CONSOLE=m, and its modules were not found: there is no way to send"],
        ),
        (&["-k", "alone/vmlinuz", "--by", "9p"], &["CONFIG_NET_9P: no folder of the host can be mounted by 9p"]),
        (&["-k", "alone/vmlinuz", "--modules", &generic], &["are for", "and the kernel is"]),
        (&["-k", "alone/vmlinuz", "--share", "gone"], &["cannot share `gone`: No such file"]),
    ];
    for (words, said) in cases {
        let words: Vec<&str> = [&["boot", "--no-lock"], words, &["--", "true"]].concat();
        let out = world.vmdeck(&words).output().expect("vmdeck runs");
        check(&out, 125, "", said);
    }
    // A kernel of which nothing is known is started, and its console tells.
    fs::remove_file(world.path("alone/config")).expect("removed");
    let out = world.vmdeck(&["boot", "--no-lock", "-k", "alone/vmlinuz", "--", "true"]).output().expect("vmdeck runs");
    check(&out, 125, "", &["there is no virtio-serial port (CONFIG_VIRTIO_PCI, CONFIG_VIRTIO_CONSOLE)"]);
    // It panics, and it is silent.
    let out = run(&world, &boot(kernel()), &["--append", "rdinit=/none root=/dev/none", "--", "true"]);
    check(&out, 125, "", &["console"]);
    // The root that is not there is told first; the panic may be on the console by then or not.
    let told = String::from_utf8_lossy(&out.stderr);
    assert!(told.contains("`no-root`") || told.contains("Kernel panic"), "{told}");
    let file = kernel().file().display().to_string();
    let words = ["boot", "--no-lock", "--boot-timeout", "1s", "-k", &file, "--", "true"];
    let out = world.vmdeck(&words).output().expect("vmdeck runs");
    check(&out, 125, "", &["within 1.0s"]);
    world.assert_nothing_left();
}

#[test]
fn a_crash_under_the_command_is_1_and_too_long_is_124() {
    let _turn = turn();
    let world = World::new("");
    let crash = "echo begun; sync; echo 1 > /proc/sys/kernel/sysrq; echo c > /proc/sysrq-trigger; sleep 60";
    let out = run(&world, &boot(kernel()), &["--user", "root", "--", crash]);
    check(&out, 1, "begun\n", &["Kernel panic - not syncing: sysrq triggered crash"]);
    let out = run(&world, &boot(kernel()), &["--timeout", "1s", "--", "echo begun; sleep 60 & sleep 60"]);
    check(&out, 124, "begun\n", &["the command took longer than 1.0s and was ended"]);
    world.assert_nothing_left();
}

#[test]
fn whatever_ends_vmdeck_ends_the_guest_and_the_servers_of_its_folders() {
    let _turn = turn();
    let world = World::new("");
    for (name, code) in [("INT", 130), ("KILL", -9)] {
        let script = "touch out/begun; sleep 120";
        fs::create_dir(world.path("out")).expect("folder");
        let child = command(&world, &boot(kernel()), &["--rw-share", "out", "--", script])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("vmdeck starts");
        eventually("the command", Duration::from_mins(1), || world.path("out/begun").exists());
        signal(&child, name);
        finish(child).exits(code);
        // The guardian finishes what a killed vmdeck cannot.
        let machines = || fs::read_dir(world.state().join("machines")).into_iter().flatten().count();
        eventually("the clean-up", Duration::from_secs(30), || machines() == 0);
        world.assert_nothing_left();
        fs::remove_dir_all(world.path("out")).expect("removed");
    }
}

#[test]
fn a_guest_of_the_config_has_suites_root_artifacts_and_can_be_kept() {
    let _turn = turn();
    let kernel = kernel();
    let world = World::new(&format!(
        "[guests.h]\nbackend = \"qemu\"\nimage = \"host\"\nmemory = \"512MiB\"\nnetwork = \"none\"\nlaunch_retries = 1\n\
         [[guests.h.shares]]\npath = \"code\"\nto = \"/opt/code\"\n[[guests.h.shares]]\npath = \"out\"\nread_only = false\n\
         [guests.h.qemu]\nkernel = \"{}\"\n[guests.h.serial]\nuser = \"root\"\n\
         [suites.s]\ndir = \"/opt/code\"\nartifacts = [\"/tmp/result/*.txt\"]\nenv = {{ WORDS = \"two words; $(id)\" }}\n\
         [[suites.s.cases]]\nname = \"reads\"\nrun = \"cat code.txt; echo $WORDS; mkdir /tmp/result; echo kept > /tmp/result/a.txt\"\n\
         expect = {{ stdout = \"/^two words; .\\\\(id\\\\)$/\" }}\n\
         [[suites.s.cases]]\nname = \"fails\"\nrun = \"echo no >&2; exit 3\"\n\
         [[suites.s.cases]]\nname = \"late\"\nrun = \"sleep 120\"\ntimeout = \"1s\"\n\
         [[suites.s.cases]]\nname = \"after\"\nrun = \"! pgrep -x sleep\"\n",
        kernel.file().display()
    ));
    for folder in ["code", "out"] {
        fs::create_dir(world.path(folder)).expect("folder");
    }
    fs::write(world.path("code/code.txt"), "from the host\n").expect("written");
    world.ci(&["--keep", "always"]).exits(1);
    world.assert_verdicts(&[("s/reads", "passed"), ("s/fails", "failed"), ("s/late", "failed"), ("s/after", "passed")]);
    assert_eq!(world.record("artifacts/h/s/tmp/result/a.txt"), "kept\n");
    // It is reached again over the same port.
    world.run(&["shell", "h", "--", "cat /tmp/result/a.txt; exit 4"]).exits(4).says("kept");
    world.run(&["cleanup", "--force"]).exits(0);
    world.assert_nothing_left();
}

#[test]
fn a_config_that_cannot_be_says_so() {
    for (text, said) in [
        ("backend = \"local\"\nimage = \"host\"\n", "does not boot images"),
        ("backend = \"qemu\"\nimage = \"host\"\nqemu.image = \"x\"\n", "say two things"),
        (
            "backend = \"qemu\"\nos = \"windows\"\nimage = \"x\"\n[[guests.h.shares]]\npath = \"a\"\n",
            "only Linux guests of the backend `qemu` have shares",
        ),
        ("backend = \"qemu\"\nimage = \"host\"\n[[guests.h.shares]]\nto = \"/a\"\n", "`path` is missing"),
        (
            "backend = \"qemu\"\nimage = \"host\"\n[[guests.h.shares]]\npath = \"a\"\nto = \"a/..\"\n",
            "not a folder to mount at",
        ),
        ("backend = \"qemu\"\nimage = \"host\"\ntransports = [\"ssh\", \"telnet\"]\n", "unknown transport `telnet`"),
    ] {
        let world = World::new(&format!("[guests.h]\n{text}"));
        world.run(&["config", "check"]).exits(2).complains(said);
    }
}
