//! Gives a QEMU that was started for it the state of the machine that it goes on from.

use super::{
    super::{exit_watch::Migration, qmp::Qmp},
    STATE,
    freeze::capabilities,
    has_memory,
};
use crate::host::clock;
use serde_json::json;
use std::{io, path::Path, time::Duration};
use tokio::{io::AsyncWriteExt, net::UnixStream, sync::watch};
use vmdeck_model::error::{Fault, Result};

/// How long taking the state in may take.
const READS: Duration = Duration::from_mins(1);

/// Hands the state in a snapshot over; returns when the machine could go on.
pub(in super::super) async fn take_in(
    qmp: &Qmp,
    from: &Path,
    private_dir: &Path,
    mut migration: watch::Receiver<Migration>,
) -> Result<()> {
    let cannot = || Fault::infra("cannot give the machine the state of the snapshot");
    qmp.execute("migrate-set-capabilities", capabilities(has_memory(from))).await?;
    let socket = private_dir.join("state.sock");
    qmp.execute("migrate-incoming", json!({ "uri": format!("unix:{}", socket.display()) })).await?;
    let handed = async {
        let mut state = tokio::fs::File::from_std(vmdeck_files::open(&from.join(STATE))?);
        let mut stream = UnixStream::connect(&socket).await?;
        tokio::io::copy(&mut state, &mut stream).await?;
        stream.shutdown().await?;
        Ok::<(), io::Error>(())
    };
    let taken = async {
        handed.await.map_err(|e| cannot().because(e))?;
        migration.wait_for(|now| now.has_ended()).await.map(|end| *end).map_err(|_| cannot().because("QEMU has ended"))
    };
    let end = clock::within(READS, taken).await;
    let _ = std::fs::remove_file(&socket);
    match end {
        Some(Ok(Migration::Completed)) => Ok(()),
        Some(Ok(_)) => Err(cannot().because("QEMU does not take it")),
        Some(Err(fault)) => Err(fault),
        None => Err(cannot().because("it took too long")),
    }
}
