//! Fetches files from a guest: the guest packs them, and what comes is unpacked here.
//!
//! What is unpacked, and what is not, is decided in `unpack`.

use super::{
    session::{FileTransfer, Received},
    spool::BESIDES,
    unpack::{FetchedArtifacts, Unpacking},
};
use crate::{command::RemoteCommand, host::clock};
use std::{
    fs::File,
    io::{self, Seek},
    path::Path,
    time::Duration,
};
use tokio_util::sync::CancellationToken;
use vmdeck_model::{
    error::{Blame, Fault, Result},
    quantity::show_duration,
};

/// How long ending a transfer that has had its time may take.
const GRACE: Duration = Duration::from_secs(5);

/// What is fetched, and how much of it.
pub struct ArtifactRequest<'a> {
    /// The globs, below the working directory of `base`.
    pub globs: &'a [String],
    /// A command of the suite: its folder and its rights.
    pub base: RemoteCommand,
    /// The folder that they come to.
    pub to: &'a Path,
    /// A folder on the same disk, for what is on its way; nothing stays in it, whatever ends us.
    pub spool: &'a Path,
    /// The most bytes of the files.
    pub bytes: u64,
    /// How long it may take.
    pub limit: Duration,
}

/// Fetches what the globs name. What comes stays, also where not everything does.
pub async fn fetch(
    files: &dyn FileTransfer,
    request: &ArtifactRequest<'_>,
    cancel: &CancellationToken,
) -> Result<FetchedArtifacts> {
    let failed = || Fault::infra("cannot fetch artifacts");
    let mut archive = tempfile::tempfile_in(request.spool).map_err(|e| failed().because(e))?;
    let received = match transfer(files, request, &archive, cancel).await {
        Ok(received) => received,
        Err(fault) if fault.blame() == Blame::Cancelled => return Err(failed().caused_by(fault)),
        // What came before that is there.
        Err(fault) => Received { complaints: vec![fault.to_string()], is_cut: true },
    };
    archive.rewind().map_err(|e| failed().because(e))?;
    let stop = cancel.child_token();
    let unpacking = Unpacking::new(request.to, request.globs, request.bytes, &received, &stop);
    // Whoever gives up on us stops it as well.
    let _stopped = stop.drop_guard();
    let unpacked = tokio::task::spawn_blocking(move || unpacking.run(io::BufReader::new(archive))).await;
    unpacked.map_err(|e| Fault::bug("the unpacking panicked").because(e))
}

/// Fills the archive as far as the time goes.
async fn transfer(
    files: &dyn FileTransfer,
    request: &ArtifactRequest<'_>,
    archive: &File,
    cancel: &CancellationToken,
) -> Result<Received> {
    let over = cancel.child_token();
    let fetching = files.fetch(request.globs, &request.base, archive, request.bytes.saturating_add(BESIDES), &over);
    tokio::pin!(fetching);
    if let Some(fetched) = clock::within(request.limit, &mut fetching).await {
        return fetched;
    }
    over.cancel();
    let _ = clock::within(GRACE, &mut fetching).await;
    let limit = show_duration(request.limit);
    let why = format!("the transfer took longer than {limit} (`artifacts_timeout`): what came until then is kept");
    Ok(Received { complaints: vec![why], is_cut: true })
}
