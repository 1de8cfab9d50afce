//! The guests that `vmdeck init` can write: those that this host can run as it is, and the one that was named.

use super::template::Template;
use crate::app::settings;
use std::path::{Path, PathBuf};
use vmdeck_core::{
    assets::{
        image::{System, build},
        kernel::{Kernel, KernelNeed},
    },
    host::info,
};
use vmdeck_model::{
    catalogue::Catalogue,
    digest::Digest,
    error::{Fault, Result},
    image::Recipe,
};

/// Where a guest has the code.
pub(super) const CODE: &str = "/var/tmp/vmdeck/src";

/// A guest for the config.
#[derive(Clone, Debug)]
pub(super) struct GuestText {
    /// What it is, for a person.
    pub what: String,
    /// The table's name.
    pub name: &'static str,
    /// Its tables.
    pub tables: String,
    /// What of this host is in it.
    pub tools: GuestTools,
}

/// Which programs a guest has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum GuestTools {
    /// Those of this host, in a guest.
    OfThisHost,
    /// Those of this host, on this host.
    Here,
    /// Those of the packages that its config names.
    OfPackages,
    /// The same, of Debian 12.
    OfDebian12,
    /// Nobody knows.
    Unknown,
}

/// Returns the guests that this host can run as it is, the best one first.
pub(super) fn choices(template: Template) -> Vec<GuestText> {
    let is_there = |name: &str| info::find_program(name).is_some();
    let has_qemu = is_there("qemu-system-x86_64") || is_there("qemu-system-aarch64");
    let guest =
        |what: &str, name, tables: &str, tools| GuestText { what: what.into(), name, tables: tables.into(), tools };
    let mut out = Vec::new();
    if has_qemu && Path::new("guests/micro/out/initrd.cpio").exists() {
        out.push(guest("the micro guest of this folder", "micro", MICRO, GuestTools::Unknown));
    }
    if is_there("utmctl") || is_there("/Applications/UTM.app/Contents/MacOS/utmctl") {
        out.push(guest("a machine of UTM", "linux", UTM, GuestTools::Unknown));
    }
    if is_there("multipass") {
        out.push(guest("an Ubuntu machine of Multipass", "ubuntu", MULTIPASS, GuestTools::Unknown));
    }
    if has_qemu && boots_host() {
        out.push(host_root(template));
    }
    if has_qemu && can_build("debian:12") {
        out.push(built("debian:12", template));
    }
    let why = match (has_qemu, out.is_empty()) {
        (false, _) => ": QEMU is not installed",
        (true, true) => ": there is no kernel and no image for QEMU yet",
        (true, false) => "",
    };
    out.push(guest(&format!("this host itself, NOT isolated{why}"), "here", LOCAL, GuestTools::Here));
    out
}

/// Returns whether a kernel here is fit for this host's own root.
fn boots_host() -> bool {
    let fit = |need| Kernel::find(None, None, &[KernelNeed::Agent, need]).is_ok();
    cfg!(target_os = "linux")
        && (fit(KernelNeed::Plan9) || (fit(KernelNeed::Virtiofs) && info::find_program("virtiofsd").is_some()))
}

fn can_build(system: &str) -> bool {
    build::missing(&Recipe { system: system.to_owned(), ..Recipe::default() }).is_none()
}

/// Returns the guest on this host's own root; for a kernel tree under the tree's kernel, where that is built.
fn host_root(template: Template) -> GuestText {
    let mut tables = HOST.to_owned();
    if template == Template::Kernel {
        let is_built = ["arch/x86/boot/bzImage", "arch/arm64/boot/Image"].iter().any(|file| Path::new(file).exists());
        let off = if is_built { "" } else { "# " };
        tables.push_str(&format!("{off}[guests.host.qemu]\n{off}kernel = \".\"                         # the kernel of this tree, once it is built\n"));
    }
    GuestText { what: "this host's own root, in QEMU".into(), name: "host", tables, tools: GuestTools::OfThisHost }
}

/// Returns a guest that is built of packages, with those that the project's test needs.
fn built(system: &str, template: Template) -> GuestText {
    let of_debian_12 = matches!(system, "debian:12" | "debian:bookworm");
    let packages: Vec<String> = template
        .test(Path::new("."))
        .map(|test| test.packages.iter().map(|name| format!("\"{name}\"")).collect())
        .unwrap_or_default();
    let system = quoted(system);
    let more = if packages.is_empty() { String::new() } else { format!(", packages = [{}]", packages.join(", ")) };
    let image = format!("image = {{ build = {system}{more} }}");
    GuestText {
        what: format!("{}, built of packages the first time, in QEMU", system.trim_matches('"')),
        name: "guest",
        tables: format!("[guests.guest]\nbackend = \"qemu\"\n{image:<36} # built the first time, in about a minute\n"),
        tools: if of_debian_12 { GuestTools::OfDebian12 } else { GuestTools::OfPackages },
    }
}

/// Returns a QEMU guest that boots what was named.
pub(super) fn with_image(image: &str, digest: Option<&str>, template: Template) -> Result<GuestText> {
    let guest = |what: String, lines: String| GuestText {
        what,
        name: "guest",
        tables: format!("[guests.guest]\nbackend = \"qemu\"\n{lines}"),
        tools: GuestTools::Unknown,
    };
    let cannot = || Fault::user(format!("cannot use the image `{image}`"));
    if digest.is_some() && !image.contains("://") {
        return Err(
            Fault::user("cannot use `--sha256`").because("only an image that is fetched by its address has one")
        );
    }
    if image == "host" {
        return Ok(host_root(template));
    }
    if image.contains("://") {
        let is_taken = image.starts_with("https://") || (image.starts_with("http://") && digest.is_some());
        if !is_taken {
            return Err(cannot()
                .because("it is no address of the kind https")
                .hint("plain http takes an image only with its digest: --sha256"));
        }
        if let Some(Err(why)) = digest.map(Digest::parse) {
            return Err(Fault::user("cannot use `--sha256`").because(why));
        }
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
        let real = std::path::absolute(path).map_err(|e| cannot().because(e))?;
        System::open(&real)?;
        let text = real.to_str().ok_or_else(|| cannot().because("its path is not UTF-8"))?;
        return Ok(guest(
            format!("the image {image}"),
            format!("image = {}   # never written: each machine writes to an overlay\n", quoted(text)),
        ));
    }
    if Catalogue::is_name(image) {
        // Of packages where that can be: the test's own are in it then.
        if can_build(image) {
            return Ok(built(image, template));
        }
        let known = settings::built_in()?.host.images.catalogue.find(image, PathBuf::new());
        known.map_err(|why| cannot().because(why).hint("`vmdeck image list --names` lists the names"))?;
        let line = format!("image = {}", quoted(image));
        return Ok(guest(
            format!("the cloud image {image}"),
            format!("{line:<36} # looked up and fetched the first time; see vmdeck.images.lock\n"),
        ));
    }
    Err(cannot().because("there is no such file").hint(
        "--image takes a disk image, a folder of `vmdeck image build`, an address, a name such as debian:12, or host",
    ))
}

fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
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
memory = "2GiB"                      # what the guest writes is in it as well
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

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Returns every guest that can be written, whatever this host has.
    pub(crate) fn all(template: Template) -> Vec<GuestText> {
        let guest = |name, tables: &str, tools| GuestText { what: String::new(), name, tables: tables.into(), tools };
        vec![
            guest("micro", MICRO, GuestTools::Unknown),
            guest("linux", UTM, GuestTools::Unknown),
            guest("ubuntu", MULTIPASS, GuestTools::Unknown),
            host_root(template),
            built("debian:12", template),
            guest("here", LOCAL, GuestTools::Here),
        ]
    }

    #[test]
    fn a_wrong_image_says_what_is_right() {
        let fault = with_image("none.qcow2", None, Template::Plain).map(drop).expect_err("no such file");
        assert!(fault.render().contains("a name such as debian:12"), "{}", fault.render());
    }
}
