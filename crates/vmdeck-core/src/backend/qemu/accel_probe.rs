//! Runs a few bytes of machine code under an accelerator: they must answer on the serial port.
//!
//! What follows from the answer is `accel`'s matter.

use crate::host::{
    clock,
    process::{Spawner, Spec, Streams},
};
use std::{fs, path::Path, time::Duration};
use tokio::io::AsyncReadExt;

/// Fresh memory that the probe's guest writes first, in bytes.
const TOUCHED: u32 = 32 << 20;
/// What it says.
const WORD: &[u8] = b"vmdeck-accel-ok";

/// What came of a probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Probed {
    /// It answered after this time.
    Answered(Duration),
    /// It was started and stayed silent.
    Silent,
    /// QEMU did not start it, and says why.
    Refused(String),
    /// It could not be tried, for a reason that has nothing to do with the accelerator.
    NotTried(String),
}

/// Runs the probe; it has `patience` to answer.
pub(super) async fn run(spawner: &Spawner, binary: &Path, accel: &str, patience: Duration) -> Probed {
    let rom = tempfile::NamedTempFile::new().and_then(|rom| fs::write(rom.path(), firmware()).map(|()| rom));
    let rom = match rom {
        Ok(rom) => rom,
        Err(e) => return Probed::NotTried(format!("cannot write a temporary file: {e}")),
    };
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
    let mut child = match spawner.spawn_tethered(&spec, Streams::piped_out()).await {
        Ok(child) => child,
        Err(e) => return Probed::NotTried(e.to_string()),
    };
    let (stdout, stderr) = (child.inner.stdout.take(), child.inner.stderr.take());
    let answer = clock::within(patience, async {
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
        Some(Some(took)) => Probed::Answered(took),
        Some(None) => {
            let mut text = String::new();
            if let Some(mut stderr) = stderr {
                let _ = stderr.read_to_string(&mut text).await;
            }
            let first = text.lines().find(|l| !l.contains("warning")).unwrap_or("QEMU ended at once");
            Probed::Refused(first.split_once(": ").map_or(first, |(_, rest)| rest).trim().to_owned())
        }
        None => Probed::Silent,
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
