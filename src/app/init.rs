//! `vmdeck init`: a first config that runs on this host as it is, with a comment at each line that a person may change.
//!
//! What each key means is in config.example.toml.

use super::{Io, old_names};
use crate::cli::InitArgs;
use std::{io::Write, path::Path};
use vmdeck_core::{
    assets::{
        image::System,
        kernel::{Kernel, KernelNeed},
    },
    host::info,
};
use vmdeck_model::{
    error::{Fault, Result},
    exit::RunExit,
};

const FILE: &str = "vmdeck.toml";
/// Where runs leave their records.
const RECORDS: &str = ".vmdeck/";

pub(super) fn run(args: &InitArgs, io: &mut Io<'_>) -> Result<RunExit> {
    let force = args.force;
    let path = Path::new(FILE);
    let cannot = |e: std::io::Error| Fault::user(format!("cannot write `{FILE}`")).because(e);
    let test = args.test.clone().or_else(|| project_test(Path::new(".")).map(str::to_owned));
    let guest = match &args.image {
        Some(image) => with_image(image, args.sha256.as_deref())?,
        None => choose(),
    };
    let text = text(&guest, test.as_deref(), args.test.is_some(), &old_names::families_set());
    let new = || std::fs::OpenOptions::new().write(true).create_new(true).open(path);
    // Over what is there only if that is a file.
    let opened = if force && path.symlink_metadata().is_ok() { vmdeck_files::create(path) } else { new() };
    let mut file = opened.map_err(|e| match e.kind() {
        std::io::ErrorKind::AlreadyExists => cannot(e).hint("`vmdeck init --force` overwrites it"),
        _ => cannot(e),
    })?;
    file.write_all(text.as_bytes()).map_err(cannot)?;
    if let Err(e) = ignore_records() {
        io.warn(&format!("warning: cannot add `{RECORDS}` to .gitignore: {e}"));
    }
    io.say(&format!("wrote {FILE}: {}\n\nnext: `vmdeck --ci`; `vmdeck config example` shows every key", guest.what));
    Ok(RunExit::Passed)
}

/// Keeps the records of runs out of a repository: they hold what guests wrote.
fn ignore_records() -> std::io::Result<()> {
    if !Path::new(".git").exists() {
        return Ok(());
    }
    let path = Path::new(".gitignore");
    let text = match vmdeck_files::read_text(path, vmdeck_files::LARGE) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => String::new(),
        Err(e) => return Err(e),
    };
    let bare = |line: &str| line.trim().trim_start_matches('/').trim_end_matches('/').to_owned();
    if text.lines().any(|line| bare(line) == RECORDS.trim_end_matches('/')) {
        return Ok(());
    }
    let gap = if text.is_empty() || text.ends_with('\n') { "" } else { "\n" };
    let mut file = std::fs::OpenOptions::new().append(true).create(true).open(path)?;
    file.write_all(format!("{gap}{RECORDS}\n").as_bytes())
}

/// A guest for the config.
struct GuestText {
    /// What it is, for a person.
    what: String,
    /// Its tables.
    tables: String,
    /// Whether the project's own tools are in it.
    has_own_tools: bool,
}

/// Returns the guest for what this host has: the first that can run as it is.
fn choose() -> GuestText {
    let is_there = |name: &str| info::find_program(name).is_some();
    let guest =
        |what: &str, tables: &str, has_own_tools| GuestText { what: what.into(), tables: tables.into(), has_own_tools };
    let micro = Path::new("guests/micro/out/initrd.cpio").exists();
    let has_qemu = is_there("qemu-system-x86_64") || is_there("qemu-system-aarch64");
    let boots_host = || {
        let fit = |need| Kernel::find(None, None, &[KernelNeed::Agent, need]).is_ok();
        cfg!(target_os = "linux") && (fit(KernelNeed::Plan9) || (fit(KernelNeed::Virtiofs) && is_there("virtiofsd")))
    };
    match () {
        () if micro && has_qemu => guest("the micro guest of this folder", MICRO, false),
        () if is_there("utmctl") || is_there("/Applications/UTM.app/Contents/MacOS/utmctl") => {
            guest("a machine of UTM", UTM, false)
        }
        () if is_there("multipass") => guest("an Ubuntu machine of Multipass", MULTIPASS, false),
        () if has_qemu && boots_host() => guest("this host's own root, in QEMU", HOST, true),
        () if has_qemu && is_there("mmdebstrap") => {
            guest("a Debian that is built of packages first, in QEMU", BUILT, false)
        }
        () if has_qemu => {
            guest("this host itself, NOT isolated: there is no kernel and no image for QEMU yet", LOCAL, true)
        }
        () => guest("this host itself, NOT isolated: QEMU is not installed", LOCAL, true),
    }
}

/// Returns a QEMU guest that boots what was named.
fn with_image(image: &str, digest: Option<&str>) -> Result<GuestText> {
    let quoted = |text: &str| toml::Value::String(text.to_owned()).to_string();
    let guest = |what: String, lines: String| GuestText {
        what,
        tables: format!("[guests.guest]\nbackend = \"qemu\"\n{lines}"),
        has_own_tools: false,
    };
    if image == "host" {
        return Ok(GuestText {
            what: "this host's own root, in QEMU".into(),
            tables: HOST.into(),
            has_own_tools: true,
        });
    }
    if image.contains("://") {
        let proof = match digest {
            Some(digest) => format!("image_sha256 = {}\n", quoted(digest)),
            None => {
                "image_unverified = true              # believes what comes first; better: image_sha256 = \"...\"\n"
                    .into()
            }
        };
        return Ok(guest(format!("the image {image}"), format!("image = {}\n{proof}", quoted(image))));
    }
    let path = Path::new(image);
    if path.exists() {
        let real = std::path::absolute(path).map_err(|e| Fault::user(format!("cannot use `{image}`")).because(e))?;
        System::open(&real)?;
        let text = real
            .to_str()
            .ok_or_else(|| Fault::user(format!("cannot use `{image}`")).because("its path is not UTF-8"))?;
        return Ok(guest(
            format!("the image {image}"),
            format!("image = {}   # never written: each machine writes to an overlay\n", quoted(text)),
        ));
    }
    if image.contains(':') && !image.contains('/') {
        let lines = format!("image = {{ build = {} }}          # built of packages the first time\n", quoted(image));
        return Ok(guest(format!("{image}, which is built of packages first"), lines));
    }
    Err(Fault::user(format!("cannot use the image `{image}`"))
        .because("there is no such file")
        .hint("--image takes a disk image, a folder of `vmdeck image build`, an address, a system to build such as debian:12, or host"))
}

/// Returns the command that tests the project in a folder, by its build files.
fn project_test(folder: &Path) -> Option<&'static str> {
    let has = |name: &str| folder.join(name).is_file();
    let makes = |target: &str| {
        let text = vmdeck_files::read_text(&folder.join("Makefile"), vmdeck_files::SMALL).unwrap_or_default();
        text.lines().any(|line| line.starts_with(&format!("{target}:")))
    };
    match () {
        () if makes("check") => Some("make check"),
        () if makes("test") => Some("make test"),
        () if has("Cargo.toml") => Some("cargo test"),
        () if has("go.mod") => Some("go test ./..."),
        () if has("package.json") => Some("npm test"),
        () if has("pyproject.toml") || has("setup.py") => Some("python3 -m pytest"),
        () => None,
    }
}

/// Returns the file with this guest; old variables that are set keep working. A test that nobody has named is only proposed: the guest
/// may lack what it needs.
fn text(guest: &GuestText, test: Option<&str>, is_named: bool, families: &[&str]) -> String {
    let compat = if families.is_empty() {
        String::new()
    } else {
        let list = families.iter().map(|family| format!("\"{family}\"")).collect::<Vec<_>>().join(", ");
        format!(
            "[compat]                             # variables of the old system that are set here keep working\nenv = [{list}]\n\n"
        )
    };
    let case = test.map(|test| {
        let off = if is_named { "" } else { "# " };
        let needs = match (is_named, guest.has_own_tools) {
            (true, _) => "",
            (false, true) => "# The project's own test, as its build files suggest:\n",
            (false, false) => "# The project's own test, as its build files suggest; the guest needs its tools:\n",
        };
        let run = toml::Value::String(test.to_owned());
        format!("{needs}{off}[[suites.smoke.cases]]\n{off}name = \"test\"\n{off}run = {run}\n")
    });
    format!(
        "# vmdeck.toml - `vmdeck config example` prints every key with its default\n\n[host]\nmin_free_disk = \"2GiB\"\n\n{compat}{}\n{SUITE}{}",
        guest.tables,
        case.unwrap_or_default()
    )
}

const MICRO: &str = r#"[guests.micro]                       # the micro guest of guests/micro: boots in seconds
backend = "qemu"
cpus = 1
memory = "256MiB"
[guests.micro.boot]
pattern = "login:"
[guests.micro.ssh]
user = "ci"
key = "guests/micro/out/id_ed25519"
host_key = "guests/micro/out/host_key"
[guests.micro.qemu]
kernel = "guests/micro/out/vmlinux"
initrd = "guests/micro/out/initrd.cpio"
append = "console=ttyS0 panic=-1 sysrq_always_enabled"
"#;

const HOST: &str = r#"[guests.host]                        # this host's own root under its own kernel, read-only below memory
backend = "qemu"
image = "host"
network = "none"                     # or "user": it reaches what this host reaches
memory = "1GiB"
[[guests.host.shares]]
path = "."                           # read-only, at the same path as here
"#;

const BUILT: &str = r#"[guests.debian]
backend = "qemu"
image = { build = "debian:12" }      # built of packages the first time, in about a minute; packages = ["git"] adds some
"#;

const UTM: &str = r#"[guests.linux]                       # the UTM machine `ci-os-linux...` or `ci-linux...`; or set `machine`
backend = "utm"
[guests.linux.ssh]                   # without a key or password commands go by the guest agent
user = "ci"
"#;

const MULTIPASS: &str = r#"[guests.ubuntu]
backend = "multipass"
fresh = "suite"                      # one machine for each suite, deleted afterwards
[guests.ubuntu.multipass]
image = "24.04"
"#;

const LOCAL: &str = r#"[guests.here]                        # NOT isolated: commands run on this host; install QEMU for real guests
backend = "local"
"#;

const SUITE: &str = r#"[suites.smoke]
[[suites.smoke.cases]]
name = "hello"
run = "uname -a"
"#;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::settings;

    #[test]
    fn what_it_writes_is_a_good_config() {
        let families: [&[&str]; 2] = [&[], &["trustinstall", "vm-tests"]];
        let tests = [None, Some("make \"all\" # test"), Some("cargo test")];
        let all = [MICRO, UTM, MULTIPASS, HOST, BUILT, LOCAL];
        for ((tables, families), test) in
            all.into_iter().zip(families.into_iter().cycle()).zip(tests.into_iter().cycle())
        {
            for is_named in [true, false] {
                let guest = GuestText { what: String::new(), tables: tables.into(), has_own_tools: is_named };
                let text = text(&guest, test, is_named, families);
                let setup =
                    settings::load_text(Path::new(FILE), &text).unwrap_or_else(|fault| panic!("{fault}\n{text}"));
                let cases = if test.is_some() && is_named { 2 } else { 1 };
                assert_eq!((setup.guests.len(), setup.suites[0].cases.len()), (1, cases), "{text}");
            }
        }
    }

    #[test]
    fn every_kind_of_image_is_a_good_config_and_a_wrong_one_says_what_is_right() {
        let home = tempfile::tempdir().expect("tempdir");
        let disk = home.path().join("a \"disk\".qcow2");
        std::fs::write(&disk, b"QFI\xfb\0\0\0\x03").expect("written");
        let path = disk.to_str().expect("text");
        for (image, digest) in [
            ("host", None),
            (path, None),
            ("debian:12", None),
            ("https://x/y.img", None),
            ("https://x/y", Some("ab".repeat(32))),
        ] {
            let guest = with_image(image, digest.as_deref()).expect(image);
            let text = text(&guest, None, false, &[]);
            settings::load_text(Path::new(FILE), &text).unwrap_or_else(|fault| panic!("{fault}\n{text}"));
        }
        let fault = with_image("none.qcow2", None).map(|guest| guest.what).expect_err("no such file");
        assert!(fault.render().contains("a system to build such as debian:12"), "{}", fault.render());
    }

    #[test]
    fn the_test_of_a_project_is_known_by_its_build_files() {
        let home = tempfile::tempdir().expect("tempdir");
        assert_eq!(project_test(home.path()), None);
        for (name, content, test) in [
            ("go.mod", "", "go test ./..."),
            ("Cargo.toml", "", "cargo test"),
            ("Makefile", "all:\ntest: all\n", "make test"),
        ] {
            std::fs::write(home.path().join(name), content).expect("written");
            assert_eq!(project_test(home.path()), Some(test), "{name}");
        }
    }
}
