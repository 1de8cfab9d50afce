//! Makes machines from snapshots, and says what a snapshot of a guest depends on.

use super::{
    super::{
        Qemu, arch,
        argv::{Files, script},
        check_sockets,
        machine::QemuMachine,
    },
    EMPTY_DISK, GuestMemory, MEMORY, RECIPE, ResumeRecipe, STATE, has_memory, plain_memory, private_memory, refusal,
};
use crate::{
    backend::{
        contract::{Machine, Snapshots},
        request::CreateRequest,
    },
    context::CallContext,
    host::{files, info, process::Spec},
};
use futures_util::future::BoxFuture;
use std::{fs, io, path::Path};
use vmdeck_model::{
    error::{Fault, Result},
    guest::Guest,
};

/// The files of a snapshot that are no machine's own.
const SHARED: [&str; 6] = [STATE, MEMORY, super::DISK, EMPTY_DISK, RECIPE, "snapshot.json"];

impl Snapshots for Qemu {
    fn refusal(&self, guest: &Guest) -> Option<&'static str> {
        refusal(guest)
    }

    fn basis<'a>(&'a self, guest: &'a Guest, context: CallContext<'a>) -> BoxFuture<'a, Result<String>> {
        Box::pin(async move {
            let name = arch::binary(Some(guest));
            let binary = info::find_program(&name).ok_or_else(|| Fault::host(format!("cannot find `{name}`")))?;
            let accel = self.accel(guest, &binary).await;
            let mut parts = vec![
                format!("vmdeck {}", env!("CARGO_PKG_VERSION")),
                info::version_of(&binary),
                accel.accel,
                info::processor(),
            ];
            if let Some(system) = self.system(guest, context).await? {
                let direct = system.direct.iter();
                let files = direct.flat_map(|direct| [Some(direct.kernel.as_path()), direct.initrd.as_deref()]);
                let files = files.flatten().chain([system.disk.as_path()]);
                parts.extend(files.map(info::version_of));
            }
            Ok(parts.join("\n"))
        })
    }

    fn restore<'a>(
        &'a self,
        request: CreateRequest<'a>,
        from: &'a Path,
        _: CallContext<'a>,
    ) -> BoxFuture<'a, Result<Box<dyn Machine>>> {
        Box::pin(async move { self.restore_from(&request, from).await })
    }
}

impl Qemu {
    async fn restore_from(&self, request: &CreateRequest<'_>, from: &Path) -> Result<Box<dyn Machine>> {
        let failed = |e: io::Error| Fault::infra(format!("cannot restore guest `{}`", request.guest.id)).because(e);
        let recipe = ResumeRecipe::read(from).map_err(failed)?;
        let files = Files::of(request.private_dir, request.record_dir, recipe.has_disk, false, false);
        check_sockets(&files)?;
        files::private_dir(request.private_dir).map_err(failed)?;
        bring_files(from, request.private_dir).map_err(failed)?;
        if let Some(overlay) = &files.overlay {
            fs::copy(from.join(EMPTY_DISK), overlay).map_err(failed)?;
        }
        let memory = if request.freezable && has_memory(from) {
            let from = from.to_owned();
            // It copies hundreds of megabytes.
            let copied = tokio::task::spawn_blocking(move || GuestMemory::of_snapshot(&from)).await;
            Some(copied.map_err(|e| Fault::bug("copying a guest's memory panicked").because(e))?.map_err(failed)?)
        } else {
            None
        };
        let object = match &memory {
            Some(memory) => memory.object(),
            None if has_memory(from) => private_memory(from, recipe.memory),
            None => plain_memory(recipe.memory),
        };
        let mut words = recipe.arguments(request, &object);
        let own = ResumeRecipe::of(&recipe.binary, &words, request, Some(&object), recipe.has_disk);
        words.extend(["-incoming".to_owned(), "defer".to_owned()]);
        let text = script(&recipe.binary.to_string_lossy(), &words, request.private_dir, &files, None);
        let note =
            format!("# It goes on from the snapshot in {}: by itself it waits for that state.\n", from.display());
        vmdeck_files::write(&request.record_dir.join("qemu.cmd"), (text + &note).as_bytes()).map_err(failed)?;
        vmdeck_files::create(&files.log).map_err(failed)?;
        let spec = Spec::new(recipe.binary).args(words);
        let machine = QemuMachine::new(self.spawner.clone(), request, spec, files, Vec::new(), Vec::new());
        Ok(Box::new(machine.writable(Some(own), memory).going_on_from(from)))
    }
}

/// Gives a machine's folder what the frozen one had in its own.
fn bring_files(from: &Path, to: &Path) -> io::Result<()> {
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let name = entry.file_name();
        if !SHARED.iter().any(|shared| name == *shared) {
            fs::copy(entry.path(), to.join(&name))?;
        }
    }
    Ok(())
}
