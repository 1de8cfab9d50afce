//! The program `qemu-img`.

use crate::host::process::{Spawner, Spec};
use std::time::Duration;

/// How long one call may take.
const LIMIT: Duration = Duration::from_mins(1);

/// Runs it with these arguments; returns its standard output, or why it failed, in its own words.
pub(super) async fn run(spawner: &Spawner, arguments: &[String]) -> Result<String, String> {
    match spawner.output(&Spec::new("qemu-img").args(arguments), LIMIT).await {
        Ok(out) if out.status.success() => Ok(out.stdout),
        Ok(out) => Err(out.stderr.trim().to_owned()),
        Err(e) => Err(format!("qemu-img: {e}")),
    }
}
