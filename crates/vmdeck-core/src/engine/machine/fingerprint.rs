//! What a guest's machine is made from, in one word: a machine that was kept is used again only where this is the same.

use crate::host::info;
use sha2::{Digest, Sha256};
use std::time::Duration;
use vmdeck_model::{
    digest::hex,
    guest::{ConsolePatterns, CrashPolicy, Fresh, Guest, Shutdown, SurvivorPolicy},
    image::Image,
    snapshot::Checkpoint,
    suite::ScriptShell,
    workers::Workers,
};

/// Returns the fingerprint of a guest's machine, in hexadecimal: of all that shapes it, and not of what is done with it. Files count by
/// their size and time.
pub(super) fn fingerprint(guest: &Guest) -> String {
    let shape = Guest {
        source: None,
        vmlinux: None,
        trouble: Vec::new(),
        save_disk: None,
        transport_turn: Duration::ZERO,
        fresh: Fresh::Run,
        snapshot: None,
        workers: Workers::Count(1),
        checkpoint: Checkpoint::Never,
        id: guest.told_as().clone(),
        one_more_of: None,
        launch_retries: 0,
        boot_timeout: Duration::ZERO,
        case_timeout: Duration::ZERO,
        shell: ScriptShell::Sh,
        crash: CrashPolicy::Failed,
        survivors: SurvivorPolicy::Replace,
        shutdown: Shutdown::Quit,
        shutdown_timeout: Duration::ZERO,
        boot: ConsolePatterns::default(),
        ..guest.clone()
    };
    let mut hash = Sha256::new();
    // Secrets are not in it: their text never is.
    hash.update(format!("{shape:?}"));
    let image = guest.image.as_ref().and_then(Image::file);
    for path in guest.options.paths().chain(image).chain(guest.user_data.as_deref()) {
        hash.update(info::version_of(path));
    }
    hex(&hash.finalize()[..16])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::sample;

    #[test]
    fn only_what_shapes_the_machine_counts() {
        let home = tempfile::tempdir().expect("tempdir");
        let image = home.path().join("disk.qcow2");
        std::fs::write(&image, "one").expect("write");
        let guest = Guest { image: Some(Image::File(image.clone())), ..sample::guest(&[]) };
        let first = fingerprint(&guest);
        let tested_otherwise = Guest { case_timeout: Duration::from_secs(9), fresh: Fresh::Case, ..guest.clone() };
        assert_eq!(fingerprint(&tested_otherwise), first);
        assert_ne!(fingerprint(&Guest { memory: guest.memory + 1, ..guest.clone() }), first);
        assert_ne!(fingerprint(&Guest { transports: vec!["exec".into()], ..guest.clone() }), first);
        std::fs::write(&image, "other").expect("write");
        assert_ne!(fingerprint(&guest), first, "another image of the same name");
    }
}
