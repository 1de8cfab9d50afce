//! Which accelerator really runs a guest: a few bytes of machine code must answer on the serial port.
//!
//! A `/dev/kvm` that opens and even makes machines may still hang every guest (seen in nested clouds), so opening it
//! proves nothing, and neither does a boot sector that runs: memory has to be written as well. Only what was proven is kept, and
//! only for as long as nothing that it depends on has changed.

use super::{
    accel_probe::{self, Probed},
    arch::Arch,
};
use crate::host::{files, info, packages, process::Spawner};
use serde::{Deserialize, Serialize};
use std::{path::Path, time::Duration};

/// The version of the proof; what other versions have proven is discarded.
const PROOF: u32 = 2;
/// How long the probe's guest has to answer at first.
const PATIENCE: Duration = Duration::from_secs(1);
/// How long it has once it was silent: the host may be busy.
const LONG: Duration = Duration::from_secs(4);
/// How long the same guest may take under emulation, by which the silence is measured.
const EMULATED: Duration = Duration::from_secs(10);
/// The device of Linux.
pub(super) const KVM: &str = "/dev/kvm";

/// The accelerator to use, and why this one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Choice {
    /// `kvm`, `hvf` or `tcg`.
    pub(super) accel: String,
    /// The reason, for a person.
    pub(super) why: String,
    /// What a person can do about it, where there is something.
    #[serde(default)]
    pub(super) remedy: Option<String>,
    /// The command that does it.
    #[serde(default)]
    pub(super) fix: Option<Vec<String>>,
}

/// A choice, and whether it is proven or may be another one at the next look.
struct AccelFinding {
    choice: Choice,
    proven: bool,
}

#[derive(Serialize, Deserialize)]
struct Cached {
    depends: String,
    choice: Choice,
}

/// Finds the accelerator for this binary: what was proven before, or by proof.
pub(super) async fn choose(spawner: &Spawner, binary: &Path, state: &Path) -> Choice {
    let file = state.join("accel.json");
    let depends = depends(binary);
    let cached = vmdeck_files::read(&file, vmdeck_files::SMALL)
        .ok()
        .and_then(|bytes| serde_json::from_slice::<Cached>(&bytes).ok());
    if let Some(cached) = cached.filter(|cached| cached.depends == depends) {
        return cached.choice;
    }
    let AccelFinding { choice, proven } = prove(spawner, binary).await;
    if proven && let Ok(bytes) = serde_json::to_vec(&Cached { depends, choice: choice.clone() }) {
        // Without a cache the next run proves it again; that costs a second and nothing else.
        let _ = files::private_dir(state).and_then(|()| files::write_atomic(&file, &bytes));
    }
    choice
}

/// Returns everything that a proof depends on: this boot of this kernel, the program, the device and its rights, and who we are.
fn depends(binary: &Path) -> String {
    let of = |path: &Path| info::identity(path).unwrap_or_else(|| "none".into());
    let who = info::who_we_are();
    format!("{PROOF} {} {} {} {} {who}", info::boot_id(), info::kernel_version(), of(binary), of(Path::new(KVM)))
}

async fn prove(spawner: &Spawner, binary: &Path) -> AccelFinding {
    let tcg = |why: String, remedy: Option<String>| Choice { accel: "tcg".into(), why, remedy, fix: None };
    let passing = |why: String, remedy| AccelFinding { choice: tcg(why, remedy), proven: false };
    let accel = if cfg!(target_os = "macos") {
        "hvf"
    } else if cfg!(target_os = "linux") {
        "kvm"
    } else {
        return passing("this system has no accelerator that QEMU knows".into(), None);
    };
    if accel == "kvm"
        && let Err(e) = info::may_use(Path::new(KVM))
    {
        let (why, remedy) = unusable(&e);
        let mut found = passing(format!("{why}; guests are emulated, which is slow"), Some(remedy));
        if e.kind() == std::io::ErrorKind::PermissionDenied {
            let user = info::user_name(rustix::process::geteuid().as_raw());
            found.choice.fix = Some(packages::as_root(&["usermod", "-aG", &group(), &user]));
        }
        return found;
    }
    if Arch::of(&binary.to_string_lossy()) == Arch::Arm {
        let why = format!("{accel} is there (not proven on this processor)");
        return AccelFinding { choice: Choice { accel: accel.into(), why, remedy: None, fix: None }, proven: false };
    }
    let answered = |took: Duration| {
        let why = format!("a guest answered under {accel} after {} ms", took.as_millis());
        AccelFinding { choice: Choice { accel: accel.into(), why, remedy: None, fix: None }, proven: true }
    };
    match accel_probe::run(spawner, binary, accel, PATIENCE).await {
        Probed::Answered(took) => answered(took),
        Probed::Refused(why) => {
            passing(format!("QEMU cannot use {accel} ({why}); guests are emulated, which is slow"), None)
        }
        Probed::NotTried(why) => {
            passing(format!("{accel} could not be tried ({why}); guests are emulated, which is slow"), None)
        }
        // The same guest under emulation tells a broken accelerator from a busy host.
        Probed::Silent => match accel_probe::run(spawner, binary, "tcg", EMULATED).await {
            Probed::Answered(emulated) => {
                let patience = LONG.max(emulated * 3);
                let again = accel_probe::run(spawner, binary, accel, patience).await;
                match late_answer(&again, emulated, patience) {
                    Ok(took) => answered(took),
                    Err(seen) => AccelFinding {
                        choice: tcg(
                            format!(
                                "{accel} does not run guests here ({seen}, and one answered under emulation after {} ms); they \
                                 are emulated, which is slow",
                                emulated.as_millis()
                            ),
                            None,
                        ),
                        proven: true,
                    },
                }
            }
            _ => passing(
                format!("no guest answered within {} s; the host may be busy; guests are emulated", EMULATED.as_secs()),
                None,
            ),
        },
    }
}

/// Returns when a guest answered that was silent at first, or what was seen of it where it is no better than one that is emulated: a
/// broken accelerator may answer in the end, and a kernel under it takes minutes (seen: 2.8 s for the probe, and no kernel's line).
fn late_answer(again: &Probed, emulated: Duration, patience: Duration) -> std::result::Result<Duration, String> {
    match again {
        // A busy host makes neither of the two exact; a broken accelerator is slower by far.
        Probed::Answered(took) if *took <= emulated * 3 => Ok(*took),
        Probed::Answered(took) => Err(format!("one took {} ms", took.as_millis())),
        _ => Err(format!("one was silent for {} s", patience.as_secs())),
    }
}

/// Returns the group that may use the device.
fn group() -> String {
    info::group_of(Path::new(KVM)).unwrap_or_else(|| "kvm".into())
}

/// Returns why the device cannot be used, and what to do: a missing right is no broken accelerator.
fn unusable(error: &std::io::Error) -> (String, String) {
    match error.kind() {
        std::io::ErrorKind::NotFound => (
            format!("there is no {KVM}"),
            "turn virtualisation on in the firmware, or run on a host (or a CI runner) that has KVM".into(),
        ),
        std::io::ErrorKind::PermissionDenied => {
            let group = group();
            (
                format!("you may not use {KVM}"),
                format!(
                    "join its group: `sudo usermod -aG {group} $USER`, then log in again; where everybody may: a udev rule \
                     `KERNEL==\"kvm\", GROUP=\"{group}\", MODE=\"0666\"`; on a CI runner: `sudo chmod 666 {KVM}`"
                ),
            )
        }
        _ => (format!("{KVM} cannot be used ({error})"), "look at the kernel's log: `dmesg | grep -i kvm`".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn an_accelerator_that_is_slower_than_emulation_is_none() {
        let ms = Duration::from_millis;
        for (again, expected) in [
            (Probed::Answered(ms(300)), Ok(ms(300))),
            (Probed::Answered(ms(1100)), Ok(ms(1100))),
            (Probed::Answered(ms(2790)), Err("one took 2790 ms".to_owned())),
            (Probed::Silent, Err("one was silent for 4 s".to_owned())),
            (Probed::Refused("x".into()), Err("one was silent for 4 s".to_owned())),
        ] {
            assert_eq!(late_answer(&again, ms(400), LONG), expected, "{again:?}");
        }
    }

    #[tokio::test]
    async fn the_firmware_answers_under_emulation_and_a_wrong_accelerator_is_told() {
        let Some(qemu) = info::find_program("qemu-system-x86_64") else { return };
        let spawner = Spawner::new(None).expect("spawner");
        assert!(matches!(accel_probe::run(&spawner, &qemu, "tcg", EMULATED).await, Probed::Answered(_)));
        match accel_probe::run(&spawner, &qemu, "nosuch", EMULATED).await {
            Probed::Refused(why) => assert!(why.contains("invalid accelerator"), "{why}"),
            other => panic!("{other:?}"),
        }
        assert_eq!(accel_probe::run(&spawner, &qemu, "tcg", Duration::from_millis(1)).await, Probed::Silent);
    }

    #[tokio::test]
    async fn only_what_was_proven_is_kept_and_only_as_long_as_nothing_changed() {
        let state = tempfile::tempdir().expect("tempdir");
        let spawner = Spawner::new(None).expect("spawner");
        let binary = Path::new("/none/qemu-system-x86_64");
        let choice = Choice { accel: "hvf".into(), why: "planted".into(), remedy: None, fix: None };
        let plant = |depends: String| {
            let cached = Cached { depends, choice: choice.clone() };
            fs::write(state.path().join("accel.json"), serde_json::to_vec(&cached).expect("json")).expect("write");
        };
        plant(depends(binary));
        assert_eq!(choose(&spawner, binary, state.path()).await, choice);
        plant(depends(binary).replace(&info::boot_id(), "another boot"));
        assert_eq!(choose(&spawner, binary, state.path()).await.accel, "tcg");
        let kept = fs::read_to_string(state.path().join("accel.json")).expect("cache");
        assert!(kept.contains("planted"), "what could not be tried is not remembered: {kept}");
    }

    #[test]
    fn a_missing_right_has_its_own_remedy() {
        for (kind, why, remedy) in [
            (std::io::ErrorKind::PermissionDenied, "you may not use", "usermod"),
            (std::io::ErrorKind::NotFound, "there is no", "firmware"),
            (std::io::ErrorKind::ResourceBusy, "cannot be used", "dmesg"),
        ] {
            let (text, hint) = unusable(&kind.into());
            assert!(text.contains(why) && hint.contains(remedy), "{text} {hint}");
            assert!(!text.contains("broken") && !text.contains("does not run"), "{text}");
        }
    }
}
