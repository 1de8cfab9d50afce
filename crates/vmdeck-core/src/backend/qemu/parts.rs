//! What belongs to one machine besides its disk: its firmware with variables of its own, its TPM, its seed, its host root.

use super::{
    arch::Arch,
    helper::Helper,
    host_root::{self, HostRoot},
    served::Served,
    shares::{self, OfferedShares},
    tdx::TdxDialect,
};
use crate::{
    assets::{
        firmware,
        image::{DirectBoot, System},
        seed::{self, SeedFiles, SeedRequest},
    },
    host::{
        files, info, packages,
        process::{Spawner, Spec},
    },
};
use std::{
    path::{Path, PathBuf},
    time::Duration,
};
use vmdeck_model::{
    error::{Fault, Result},
    guest::{Firmware, Guest},
    image::Image,
};

/// How long reading the first sector of an image may take.
const READ: Duration = Duration::from_secs(20);
/// The shell of a user who is made, where the image is not known to lack it.
const SHELL: &str = "/bin/bash";
/// Bytes of a disk's first sector.
const SECTOR: usize = 512;

/// The parts of one machine.
#[derive(Debug, Default)]
pub(super) struct MachineParts {
    pub(super) host_root: Option<HostRoot>,
    /// The folders that a guest with a disk can mount.
    pub(super) shares: OfferedShares,
    pub(super) seed: Option<SeedFiles>,
    pub(super) firmware: Boot,
    /// A kernel that came with the disk.
    pub(super) direct: Option<DirectBoot>,
    /// The socket of the TPM.
    pub(super) tpm: Option<PathBuf>,
    /// The processes beside QEMU.
    pub(super) helpers: Vec<Helper>,
    /// The guest's memory as an object, where it is a file.
    pub(super) memory: Option<String>,
    /// What the binary knows of TDX guests.
    pub(super) tdx: TdxDialect,
}

/// The firmware of one machine.
#[derive(Debug, Default)]
pub(super) enum Boot {
    /// What the machine brings.
    #[default]
    Own,
    /// One file.
    File(PathBuf),
    /// A UEFI, with variables of this machine.
    Uefi { code: PathBuf, variables: PathBuf, needs_smm: bool },
}

impl MachineParts {
    /// Returns every folder of this host that the guest sees.
    pub(super) fn served(&self) -> impl Iterator<Item = &Served> {
        self.host_root.iter().flat_map(|root| &root.served).chain(&self.shares.served)
    }

    /// Makes what the guest wants in the machine's private folder.
    pub(super) async fn make(
        guest: &Guest,
        system: Option<&System>,
        arch: Arch,
        is_emulated: bool,
        dir: &Path,
        spawner: &Spawner,
    ) -> Result<Self> {
        let mut out = Self::default();
        if guest.image == Some(Image::Host) {
            let choice = host_root::choose(guest, spawner).await?;
            let (of, to) = (guest.clone(), dir.to_owned());
            // It reads and writes tens of megabytes.
            let prepared = tokio::task::spawn_blocking(move || choice.prepare(&of, is_emulated, &to)).await;
            let root = prepared.map_err(|e| Fault::bug("cannot prepare the host root").because(e))??;
            out.helpers.extend(root.helpers().cloned());
            out.host_root = Some(root);
        } else {
            out.shares = shares::offer(guest, spawner, dir).await?;
            out.helpers.extend(out.shares.served.iter().filter_map(Served::helper).cloned());
        }
        let user = guest.transport_options.get("ssh").and_then(|options| options.text("user")).unwrap_or_default();
        let named = guest.image.as_ref().and_then(Image::named);
        let shell = named.and_then(|named| named.entry.shell.as_deref());
        let wanted = SeedRequest {
            seed: guest.seed,
            user,
            shell: shell.unwrap_or(SHELL),
            name: guest.id.as_str(),
            user_data: guest.user_data.as_deref(),
        };
        out.seed = seed::write(&wanted, dir).map_err(|e| {
            Fault::infra(format!("cannot make the seed of guest `{}`", guest.id))
                .because(e)
                .hint("free disk space in the state folder")
        })?;
        out.firmware = boot(guest, system, arch, dir, spawner).await?;
        out.direct = system.and_then(|system| system.direct.clone()).filter(|_| guest.firmware == Firmware::Auto);
        if guest.tpm {
            let socket = dir.join("tpm.sock");
            out.helpers.push(tpm(guest, dir, &socket)?);
            out.tpm = Some(socket);
        }
        Ok(out)
    }
}

/// Returns the firmware of one machine; a UEFI gets its variables.
async fn boot(guest: &Guest, system: Option<&System>, arch: Arch, dir: &Path, spawner: &Spawner) -> Result<Boot> {
    let secure = match &guest.firmware {
        Firmware::File(path) => return Ok(Boot::File(path.clone())),
        Firmware::Bios => return Ok(Boot::Own),
        Firmware::Auto => match (guest.options.path("firmware"), guest.options.path("kernel"), system) {
            (Some(path), ..) => return Ok(Boot::File(path.to_owned())),
            (None, None, Some(System { disk, format, direct: None }))
                if needs_uefi(disk, format, arch, dir, spawner).await =>
            {
                false
            }
            _ => return Ok(Boot::Own),
        },
        Firmware::Uefi => false,
        Firmware::UefiSecure => true,
    };
    let uefi = firmware::find_uefi(arch.name(), secure).ok_or_else(|| no_uefi(guest, secure))?;
    let variables = dir.join("variables.fd");
    let copied = vmdeck_files::read(&uefi.variables, vmdeck_files::LARGE)
        .and_then(|bytes| files::write_atomic(&variables, &bytes));
    copied.map_err(|e| Fault::infra(format!("cannot make the UEFI variables of guest `{}`", guest.id)).because(e))?;
    Ok(Boot::Uefi { code: uefi.code, variables, needs_smm: uefi.needs_smm })
}

/// Returns the fault of a host without such a firmware.
pub(super) fn no_uefi(guest: &Guest, secure: bool) -> Fault {
    let what = if secure { "a UEFI firmware with the keys for Secure Boot" } else { "a UEFI firmware" };
    let folders: Vec<String> = firmware::folders().map(|folder| format!("`{}`", folder.display())).collect();
    Fault::host(format!("cannot start guest `{}` with {what}", guest.id))
        .because(format!("no description of one is in {}", folders.join(" or ")))
        .remedied(packages::install(&packages::UEFI))
}

/// Returns whether the first sector of a disk has no program for a BIOS and says that its partitions are in a GPT.
async fn needs_uefi(image: &Path, format: &str, arch: Arch, dir: &Path, spawner: &Spawner) -> bool {
    if arch == Arch::Arm {
        return true;
    }
    let copy = dir.join("first-sector");
    let words = [
        "dd".to_owned(),
        "-U".into(),
        "-f".into(),
        format.into(),
        "-O".into(),
        "raw".into(),
        "bs=512".into(),
        "count=1".into(),
    ];
    let [mut from, mut to] = ["if=", "of="].map(std::ffi::OsString::from);
    from.push(image);
    to.push(&copy);
    let spec = Spec::new("qemu-img").args(words).args([from, to]);
    let read = spawner.output(&spec, READ).await;
    let sector = vmdeck_files::read(&copy, vmdeck_files::SMALL).unwrap_or_default();
    let _ = std::fs::remove_file(&copy);
    read.is_ok_and(|out| out.status.success()) && is_only_for_uefi(&sector)
}

fn is_only_for_uefi(sector: &[u8]) -> bool {
    let is_protective = |entry: usize| sector[446 + 16 * entry + 4] == 0xee;
    sector.len() >= SECTOR
        && sector[510..512] == [0x55, 0xaa]
        && (0..4).any(is_protective)
        && sector[..440].iter().all(|byte| *byte == 0)
}

/// Returns the process that is a machine's TPM.
fn tpm(guest: &Guest, dir: &Path, socket: &Path) -> Result<Helper> {
    let program = info::find_program("swtpm").ok_or_else(|| no_swtpm(guest))?;
    let state = dir.join("tpm");
    files::private_dir(&state)
        .map_err(|e| Fault::infra(format!("cannot make the TPM of guest `{}`", guest.id)).because(e))?;
    let [mut dir_word, mut socket_word] = ["dir=", "type=unixio,path="].map(std::ffi::OsString::from);
    dir_word.push(&state);
    socket_word.push(socket);
    let spec = Spec::new(program)
        .args(["socket", "--tpm2", "--terminate", "--tpmstate"])
        .args([dir_word])
        .args(["--ctrl"])
        .args([socket_word]);
    Ok(Helper {
        purpose: format!("give guest `{}` a TPM", guest.id),
        spec,
        socket: socket.to_owned(),
        log: "swtpm.log".into(),
    })
}

/// Returns the fault of a host without the program for a TPM.
pub(super) fn no_swtpm(guest: &Guest) -> Fault {
    Fault::host(format!("cannot give guest `{}` a TPM", guest.id))
        .because("`swtpm` is not installed")
        .remedied(packages::install(&packages::SWTPM))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_is_for_uefi_alone_if_it_has_a_gpt_and_no_program() {
        let sector = |program: u8, kind: u8, signature: bool| {
            let mut out = vec![0; SECTOR];
            (out[100], out[450]) = (program, kind);
            if signature {
                out[510..].copy_from_slice(&[0x55, 0xaa]);
            }
            out
        };
        for (disk, only_uefi) in [
            (sector(0, 0xee, true), true),
            (sector(1, 0xee, true), false),
            (sector(0, 0x83, true), false),
            (sector(0, 0xee, false), false),
            (Vec::new(), false),
        ] {
            assert_eq!(is_only_for_uefi(&disk), only_uefi);
        }
    }
}
