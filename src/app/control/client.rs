//! A cockpit's end of a run's control socket.

use super::{Greeting, address};
use std::{
    io::{self, BufRead},
    os::unix::net::UnixStream as BlockingStream,
    path::Path,
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    sync::mpsc,
};
use vmdeck_model::{
    command::DETACH,
    error::{Fault, Result},
};

/// How long a run may take to greet: it does so at once.
const GREETS: Duration = Duration::from_millis(500);

/// A connection to a run.
#[derive(Debug)]
pub(in crate::app) struct Control {
    /// Takes commands, a line of JSON each.
    pub(in crate::app) lines: mpsc::UnboundedSender<String>,
    /// Is closed when the run has ended.
    pub(in crate::app) ended: mpsc::Receiver<()>,
}

/// Returns whether the run of a record is there to be joined.
pub(in crate::app) fn answers(record: &Path) -> bool {
    BlockingStream::connect(address(record)).is_ok()
}

/// Joins the run of a record; `steers` = also one that is only to be watched. Blocks for a moment.
pub(in crate::app) fn join(record: &Path, steers: bool) -> Result<Control> {
    let cannot = || Fault::infra(format!("cannot join the run of `{}`", record.display()));
    let (stream, greeting) = greeted(record).map_err(|e| cannot().because(e))?;
    if !greeting.steered && !steers {
        return Err(cannot().because("it is only to be watched").hint("`vmdeck attach --allow-control` steers it"));
    }
    let stream = UnixStream::from_std(stream).map_err(|e| cannot().because(e))?;
    let (lines, wanted) = mpsc::unbounded_channel();
    let (alive, ended) = mpsc::channel(1);
    tokio::spawn(pass_on(stream, wanted, alive));
    Ok(Control { lines, ended })
}

fn greeted(record: &Path) -> io::Result<(BlockingStream, Greeting)> {
    let stream = BlockingStream::connect(address(record))?;
    stream.set_read_timeout(Some(GREETS))?;
    let mut line = String::new();
    // It says nothing more: no byte is lost in this reader.
    io::BufReader::new(io::Read::take(&stream, 4096)).read_line(&mut line)?;
    let greeting = serde_json::from_str(&line)?;
    stream.set_nonblocking(true)?;
    Ok((stream, greeting))
}

/// Passes commands on until the run ends, or this end is not wanted any more.
async fn pass_on(mut stream: UnixStream, mut wanted: mpsc::UnboundedReceiver<String>, _alive: mpsc::Sender<()>) {
    let mut nothing = [0; 64];
    loop {
        tokio::select! {
            read = stream.read(&mut nothing) => if !matches!(read, Ok(1..)) { return },
            line = wanted.recv() => {
                let Some(line) = line else { return };
                let written = stream.write_all(format!("{line}\n").as_bytes()).await;
                if written.is_err() {
                    return;
                }
                if line == DETACH {
                    // Not told as an end: the run goes on.
                    return std::future::pending().await;
                }
            }
        }
    }
}
