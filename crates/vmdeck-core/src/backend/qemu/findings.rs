//! What this host has and lacks for QEMU and for one guest of it, each with its remedy.

use super::{
    accel,
    arch::{Arch, binary, image_arch},
    given, parts,
};
use crate::{
    assets::{
        firmware::find_uefi,
        image::{self, ImagePlace, store::ImageStore},
        seed,
    },
    host::{
        info, packages,
        process::{Spawner, Spec},
    },
};
use std::{path::Path, time::Duration};
use vmdeck_model::{
    error::{Fault, Remedy},
    event::{Finding, Severity},
    guest::{Firmware, Guest, Network, Seed},
    image::Image,
};

/// Returns how QEMU is installed here.
pub(super) fn install() -> Remedy {
    packages::install(&packages::QEMU)
}

/// Returns the finding of something that a package brings.
pub(super) fn missing(check: &str, severity: Severity, text: String, remedy: Remedy) -> Finding {
    Finding { check: check.into(), severity, text, hint: Some(remedy.hint), fix: remedy.command }
}

fn fatal(check: &str, text: String, hint: &str) -> Finding {
    Finding { check: check.into(), severity: Severity::Fatal, text, hint: Some(hint.into()), fix: None }
}

pub(super) async fn version(spawner: &Spawner, binary: &Path) -> Finding {
    let broken = |why: String| {
        missing("qemu", Severity::Fatal, format!("`{}` does not run: {why}", binary.display()), install())
    };
    match spawner.output(&Spec::new(binary).args(["--version"]), Duration::from_secs(10)).await {
        Ok(out) if out.status.success() => {
            let text = out.stdout.lines().next().unwrap_or("?").to_owned();
            Finding { check: "qemu".into(), severity: Severity::Ok, text, hint: None, fix: None }
        }
        Ok(out) => broken(out.stderr.trim().to_owned()),
        Err(e) => broken(e.to_string()),
    }
}

/// Returns what the binary says of its options.
pub(super) async fn help(spawner: &Spawner, binary: &Path) -> String {
    let out = spawner.output(&Spec::new(binary).args(["-help"]), Duration::from_secs(10)).await;
    out.map(|out| out.stdout).unwrap_or_default()
}

pub(super) fn accel(choice: &accel::Choice) -> Finding {
    let emulated = choice.accel == "tcg" && choice.why != "the config says so";
    Finding {
        check: "accelerator".into(),
        severity: if emulated { Severity::Warn } else { Severity::Ok },
        text: format!("{}: {}", choice.accel, choice.why),
        hint: emulated.then(|| {
            let or_else = || "give longer timeouts, or run on a host whose KVM works".to_owned();
            choice.remedy.clone().unwrap_or_else(or_else)
        }),
        fix: choice.fix.clone(),
    }
}

/// Says that a guest under TDX cannot be emulated.
pub(super) fn no_emulated_tdx(guest: &Guest, choice: &accel::Choice) -> Finding {
    let text = format!("guest `{}` needs TDX, which needs KVM: {}", guest.id, choice.why);
    fatal("accelerator", text, choice.remedy.as_deref().unwrap_or("run on a host whose KVM works"))
}

/// Says where an image comes from that is not a file of the user's.
pub(super) fn image(images: &ImageStore, guest: &Guest) -> Option<Finding> {
    let finding = |text: String| Finding { check: "image".into(), severity: Severity::Ok, text, hint: None, fix: None };
    let image = guest.image.as_ref()?;
    let place = match image::place(images, image, image_arch(Some(guest))) {
        Ok(ImagePlace::Own) => return None,
        Ok(place) => place,
        Err(fault) => return Some(Finding::of_fault("image", Severity::Fatal, &fault)),
    };
    if let Some(fault) = image::hindrance(images, &place) {
        let fault = Fault::host(format!("guest `{}`", guest.id)).caused_by(fault);
        return Some(Finding::of_fault("image", Severity::Fatal, &fault));
    }
    let text = match place {
        ImagePlace::Own | ImagePlace::Cached => "the image is in the cache".to_owned(),
        ImagePlace::Elsewhere(wanted) => format!("the image {} will be fetched first", wanted.url),
        ImagePlace::Unknown => "the image will be looked up and fetched first".to_owned(),
        ImagePlace::Unbuilt(recipe) => format!("{} will be built first", recipe.system),
    };
    Some(finding(format!("guest `{}`: {text}", guest.id)))
}

/// Opens what a guest boots from: a regular file, or a disk of this host.
fn can_open(path: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::FileTypeExt;
    if std::fs::metadata(path)?.file_type().is_block_device() {
        return std::fs::OpenOptions::new().read(true).open(path).map(drop);
    }
    vmdeck_files::open(path).map(drop)
}

/// The keys that say something which a given command line says as well.
const SAID_TWICE: [&str; 10] =
    ["kernel", "initrd", "append", "image", "firmware", "extra_args", "sockets", "pmu", "debug", "gdb"];

/// Looks at a command line that the config gives whole.
fn given_arguments(guest: &Guest, arguments: &[String]) -> Vec<Finding> {
    let mut out = Vec::new();
    let is_set = |key: &&str| match *key {
        "extra_args" => !guest.options.texts(key).is_empty(),
        "gdb" => guest.options.flag(key),
        key => guest.options.get(key).is_some(),
    };
    let own = [
        ("image", guest.image.is_some()),
        ("tpm", guest.tpm),
        ("seed", guest.seed != Seed::None),
        ("shares", !guest.shares.is_empty()),
    ];
    let keys = SAID_TWICE.iter().filter(|key| is_set(key)).map(|key| format!("qemu.{key}"));
    let own = own.into_iter().filter(|(_, is_set)| *is_set).map(|(key, _)| key.to_owned());
    for key in keys.chain(own) {
        let text = format!("guest `{}` has `qemu.arguments`, so `{key}` would not be heard", guest.id);
        out.push(fatal("arguments", text, "remove one of the two"));
    }
    if let Some(why) = given::refuse(arguments) {
        out.push(fatal("arguments", format!("guest `{}`: {why}", guest.id), "change the argument"));
    }
    for (what, file) in given::files(arguments) {
        let file = guest.options.path("dir").map_or_else(|| file.clone(), |dir| dir.join(&file));
        if let Err(e) = can_open(&file) {
            let text = format!("guest `{}`: cannot open the {what} `{}`: {e}", guest.id, file.display());
            out.push(fatal("image", text, "create the file, or correct the argument"));
        }
    }
    out
}

/// Files and host features that this guest needs.
pub(super) fn guest(guest: &Guest) -> Vec<Finding> {
    let mut out = Vec::new();
    let boots_host = guest.image == Some(Image::Host);
    let named = |key: &str| match key {
        // The other key is looked at where it is read.
        "image" if guest.image.is_some() => None,
        // It may be named by its version, and is looked for elsewhere.
        "kernel" if boots_host => None,
        "firmware" => match &guest.firmware {
            Firmware::File(path) => Some(path.as_path()),
            _ => guest.options.path("firmware"),
        },
        key => guest.options.path(key),
    };
    for key in ["kernel", "initrd", "image", "firmware"] {
        if let Some(path) = named(key)
            && path.to_str().is_none()
        {
            let text = format!("guest `{}`: the path of the {key} is not UTF-8: `{}`", guest.id, path.display());
            out.push(fatal("image", text, "rename the folder or file"));
            continue;
        }
        if let Some(path) = named(key)
            && let Err(e) = can_open(path)
        {
            let hint = format!("create the file, or correct `guests.{}.qemu.{key}`", guest.key);
            out.push(fatal(
                "image",
                format!("guest `{}`: cannot open the {key} `{}`: {e}", guest.id, path.display()),
                &hint,
            ));
        }
    }
    let append = guest.options.text("append").unwrap_or_default();
    if !guest.trouble.is_empty() && append.split_whitespace().any(|word| word == "quiet") {
        out.push(Finding {
            check: "console".into(),
            severity: Severity::Warn,
            text: format!("guest `{}`: `quiet` keeps the kernel's warnings off the console", guest.id),
            hint: Some(format!("take it out of `guests.{}.qemu.append` to see them; docs/trouble.md", guest.key)),
            fix: None,
        });
    }
    if guest.network == Network::User {
        out.push(Finding {
            check: "network".into(),
            severity: Severity::Warn,
            text: format!("guest `{}` reaches every service of this host, by the address 10.0.2.2", guest.id),
            hint: Some(format!("set `guests.{}.network = \"restricted\"` if its tests need no network", guest.key)),
            fix: None,
        });
    }
    let arguments = guest.options.texts("arguments");
    if !arguments.is_empty() {
        out.extend(given_arguments(guest, arguments));
    } else if guest.image.is_none() && ["kernel", "image", "firmware"].iter().all(|key| named(key).is_none()) {
        let hint = format!("set `guests.{0}.image`, or `guests.{0}.qemu.kernel` and `initrd`", guest.key);
        out.push(fatal("image", format!("guest `{}` has nothing to boot", guest.id), &hint));
    }
    let has_disk = named("image").is_some() || guest.image.as_ref().is_some_and(|image| *image != Image::Host);
    if has_disk && info::find_program("qemu-img").is_none() {
        let text = format!("guest `{}` has an image but `qemu-img` is not installed", guest.id);
        out.push(missing("qemu-img", Severity::Fatal, text, install()));
    }
    if matches!(guest.firmware, Firmware::Uefi | Firmware::UefiSecure) {
        let secure = guest.firmware == Firmware::UefiSecure;
        if find_uefi(Arch::of(&binary(Some(guest))).name(), secure).is_none() {
            let fault = parts::no_uefi(guest, secure);
            out.push(Finding::of_fault("firmware", Severity::Fatal, &fault));
        }
    }
    if let Some(file) = &guest.user_data
        && let Some(why) = seed::refuse_user_data(guest.seed, file)
    {
        let text = format!("guest `{}`: cannot use `user_data` `{}`: {why}", guest.id, file.display());
        out.push(fatal("seed", text, "begin it with `#cloud-config`, or with `#!` for a script"));
    }
    if guest.tpm && info::find_program("swtpm").is_none() {
        let fault = parts::no_swtpm(guest);
        out.push(Finding::of_fault("tpm", Severity::Fatal, &fault));
    }
    out
}
