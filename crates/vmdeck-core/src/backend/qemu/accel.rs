//! Which accelerator really runs a guest: a few bytes of machine code must answer on the serial port within a second.
//!
//! A `/dev/kvm` that opens and even makes machines may still hang every guest (seen in nested clouds), so opening it
//! proves nothing, and neither does a boot sector that runs: memory has to be written as well. The answer is kept for the current boot of this host.

use super::argv::Arch;
use crate::host::{
    clock, files, info,
    process::{Spawner, Spec, Streams},
};
use serde::{Deserialize, Serialize};
use std::{fs, path::Path, time::Duration};
use tokio::io::AsyncReadExt;

/// How long the probe's guest has to answer.
const PATIENCE: Duration = Duration::from_secs(1);
/// Fresh memory that it writes first, in bytes.
const TOUCHED: u32 = 32 << 20;
/// What it says.
const WORD: &[u8] = b"vmdeck-accel-ok";

/// The accelerator to use, and why this one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Choice {
    /// `kvm`, `hvf` or `tcg`.
    pub(super) accel: String,
    /// For a person.
    pub(super) why: String,
}

#[derive(Serialize, Deserialize)]
struct Cached {
    boot: String,
    binary: String,
    choice: Choice,
}

/// Finds the accelerator for this binary, from the cache of this boot or by proof.
pub(super) async fn choose(spawner: &Spawner, binary: &Path, state: &Path) -> Choice {
    let file = state.join("accel.json");
    let (boot, name) = (info::boot_id(), binary.to_string_lossy().into_owned());
    let cached = fs::read(&file).ok().and_then(|bytes| serde_json::from_slice::<Cached>(&bytes).ok());
    if let Some(cached) = cached.filter(|c| c.boot == boot && c.binary == name) {
        return cached.choice;
    }
    let choice = prove(spawner, binary).await;
    if let Ok(bytes) = serde_json::to_vec(&Cached { boot, binary: name, choice: choice.clone() }) {
        // Without a cache the next run proves it again; that costs a second and nothing else.
        let _ = files::private_dir(state).and_then(|()| files::write_atomic(&file, &bytes));
    }
    choice
}

async fn prove(spawner: &Spawner, binary: &Path) -> Choice {
    let tcg = |why: String| Choice { accel: "tcg".into(), why };
    let Some(accel) = (if cfg!(target_os = "macos") {
        Some("hvf")
    } else if cfg!(target_os = "linux") {
        Some("kvm")
    } else {
        None
    }) else {
        return tcg("this system has no accelerator that QEMU knows".into());
    };
    if accel == "kvm"
        && let Err(e) = info::may_use(Path::new("/dev/kvm"))
    {
        return tcg(format!("/dev/kvm cannot be used ({e}); guests are emulated, which is slow"));
    }
    if Arch::of(&binary.to_string_lossy()) == Arch::Arm {
        return Choice { accel: accel.into(), why: format!("{accel} is there (not proven on this processor)") };
    }
    match execute(spawner, binary, accel).await {
        Ok(took) => {
            Choice { accel: accel.into(), why: format!("a guest answered under {accel} after {} ms", took.as_millis()) }
        }
        Err(why) => tcg(format!("{accel} does not run guests here ({why}); they are emulated, which is slow")),
    }
}

async fn execute(spawner: &Spawner, binary: &Path, accel: &str) -> Result<Duration, String> {
    let rom = tempfile::NamedTempFile::new().map_err(|e| e.to_string())?;
    fs::write(rom.path(), firmware()).map_err(|e| e.to_string())?;
    // The processor model is the one that guests get: some fail on it alone.
    let cpu = if accel == "tcg" { "max" } else { "host" };
    let words = [
        "-machine",
        "q35",
        "-cpu",
        cpu,
        "-m",
        "64",
        "-nodefaults",
        "-no-user-config",
        "-display",
        "none",
        "-serial",
        "stdio",
        "-accel",
        accel,
    ];
    let spec = Spec::new(binary).args(words).args(["-bios".as_ref(), rom.path().as_os_str()]);
    let start = clock::now();
    let mut child = spawner.spawn_tethered(&spec, Streams::piped_out()).await.map_err(|e| e.to_string())?;
    let (stdout, stderr) = (child.inner.stdout.take(), child.inner.stderr.take());
    let answer = clock::within(PATIENCE, async {
        let mut seen = Vec::new();
        let mut stdout = stdout?;
        while !seen.windows(WORD.len()).any(|w| w == WORD) {
            if stdout.read_buf(&mut seen).await.ok()? == 0 {
                return None;
            }
        }
        Some(start.elapsed())
    })
    .await;
    let _ = child.kill_group().await;
    match answer {
        Some(Some(took)) => Ok(took),
        Some(None) => {
            let mut text = String::new();
            if let Some(mut stderr) = stderr {
                let _ = stderr.read_to_string(&mut text).await;
            }
            let first = text.lines().find(|l| !l.contains("warning")).unwrap_or("QEMU ended at once");
            Err(first.split_once(": ").map_or(first, |(_, rest)| rest).trim().to_owned())
        }
        None => Err(format!("a guest was started and stayed silent for {} s", PATIENCE.as_secs())),
    }
}

/// Returns a firmware of 64 KiB: into protected mode, [`TOUCHED`] bytes of fresh memory written, [`WORD`] to COM1, halt.
///
/// The memory is the point: where nested virtualisation is broken, the first instructions run and every fresh page takes
/// so long that a kernel seems to hang (seen: 2 to 8 MB/s).
fn firmware() -> Vec<u8> {
    const CODE: usize = 0xff00;
    const CODE32: usize = 0xff20;
    const TABLE: usize = 0xff60;
    const TABLE_AT: usize = 0xff80;
    const TEXT: usize = 0xff90;
    let linear = |place: usize| (0xffff_0000_u32 + u32::try_from(place).unwrap_or(0)).to_le_bytes();
    let mut rom = vec![0xf4; 0x1_0000];
    let mut put = |at: usize, parts: &[&[u8]]| {
        let bytes = parts.concat();
        rom[at..at + bytes.len()].copy_from_slice(&bytes);
    };
    put(
        CODE,
        &[
            &[0xfa, 0x2e, 0x66, 0x0f, 0x01, 0x16, 0x80, 0xff], // cli; lgdt cs:[TABLE_AT]
            &[0x0f, 0x20, 0xc0, 0x0c, 0x01, 0x0f, 0x22, 0xc0], // cr0 |= protection
            &[0x66, 0xea],
            &linear(CODE32),
            &[0x08, 0x00], // jmp 8:CODE32
        ],
    );
    put(
        CODE32,
        &[
            &[0x66, 0xb8, 0x10, 0x00, 0x8e, 0xd8, 0x8e, 0xc0, 0xfc], // ds = es = flat data; cld
            &[0xbf, 0x00, 0x00, 0x10, 0x00, 0xb9],
            &(TOUCHED / 4).to_le_bytes(),                // edi = 1 MiB, ecx = double words
            &[0xb8, 0xa5, 0xa5, 0xa5, 0xa5, 0xf3, 0xab], // rep stosd
            &[0x66, 0xba, 0xf8, 0x03, 0xbe],
            &linear(TEXT),                                     // dx = COM1, esi = TEXT
            &[0xac, 0x84, 0xc0, 0x74, 0x03, 0xee, 0xeb, 0xf8], // until the NUL: out dx, [esi++]
            &[0xf4, 0xeb, 0xfd],                               // hlt, for ever
        ],
    );
    // Nothing; flat code; flat data.
    put(TABLE, &[&[0; 8], &[0xff, 0xff, 0, 0, 0, 0x9b, 0xcf, 0], &[0xff, 0xff, 0, 0, 0, 0x93, 0xcf, 0]]);
    put(TABLE_AT, &[&[23, 0], &linear(TABLE)]);
    put(TEXT, &[WORD, &[0]]);
    put(0xfff0, &[&[0xe9, 0x0d, 0xff]]); // the reset vector: jmp CODE
    rom
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_firmware_answers_under_emulation_and_a_wrong_accelerator_is_told() {
        let Some(qemu) = info::find_program("qemu-system-x86_64") else { return };
        let spawner = Spawner::new(None).expect("spawner");
        assert!(execute(&spawner, &qemu, "tcg").await.is_ok());
        let why = execute(&spawner, &qemu, "nosuch").await.expect_err("no such accelerator");
        assert!(why.contains("invalid accelerator"), "{why}");
    }

    #[tokio::test]
    async fn the_answer_is_kept_for_this_boot_only() {
        let state = tempfile::tempdir().expect("tempdir");
        let spawner = Spawner::new(None).expect("spawner");
        let binary = Path::new("/none/qemu-system-x86_64");
        let choice = Choice { accel: "hvf".into(), why: "planted".into() };
        let plant = |boot: String| {
            let cached = Cached { boot, binary: binary.to_string_lossy().into_owned(), choice: choice.clone() };
            fs::write(state.path().join("accel.json"), serde_json::to_vec(&cached).expect("json")).expect("write");
        };
        plant(info::boot_id());
        assert_eq!(choose(&spawner, binary, state.path()).await, choice);
        plant("another boot".into());
        assert_eq!(choose(&spawner, binary, state.path()).await.accel, "tcg");
    }
}
