//! The config of the KVM guest-test framework: `qemu.config.json`, with `common.json` beside it in the newer form.
//!
//! The guest gets the argument list that the framework would give QEMU; what it means is `app::framework`'s matter.

use super::draft::ConfigDraft;
use crate::{
    app::{framework::FrameworkMachine, guest_test::Call},
    cli::GuestTestArgs,
};
use std::path::Path;
use vmdeck_model::error::{Fault, Result};

/// The number in the place of the port: the same each time, and never used, because the guest gets one that is free.
const PORT: u16 = 10_010;

/// Takes the guest over, as the launcher would start it with these flags.
pub(super) fn convert(path: &Path, draft: &mut ConfigDraft<'_>) -> Result<()> {
    let mut args = GuestTestArgs::read(draft.flags().iter().cloned()).map_err(|e| {
        let text = e.to_string();
        let first = text.lines().next().unwrap_or_default();
        Fault::user(first.strip_prefix("error: ").unwrap_or(first)).hint("`vmdeck guest-test -h` lists the flags")
    })?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    args.qemu = args.qemu.or_else(|| path.file_name().map(|name| name.to_string_lossy().into_owned()));
    let port = args.port.unwrap_or(PORT);
    let call = Call::new(args)?;
    let config = call.config(folder)?;
    let machine = FrameworkMachine::of(&config, &call.wanted(), port, &|file| folder.join(file).is_file())?;
    let own = draft.folder().to_owned();
    let guest = draft.take_guest("guest", machine.guest(Some(Path::new(&own))));
    if machine.password.is_some() {
        let secret = toml::Table::from_iter([("env".to_owned(), "GUEST_ROOT_PASSWORD".into())]);
        draft.set(&guest, "ssh.password", secret);
        draft.note("the password of root stays out of the config: put `guest_root_passwd` into the variable GUEST_ROOT_PASSWORD");
    }
    for note in &machine.notes {
        draft.note(note);
    }
    draft.note(
        "the executor's scripts: `vmdeck guest-test` runs them as they are; in this config, write a case for each TESTCASE with the \
         commands for the guest alone",
    );
    Ok(())
}
