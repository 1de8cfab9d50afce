//! Follows a child process: what it writes to a sink, its end, or the wish to end it.
//!
//! Whose child it is and what its end means is its backend's matter.

use crate::{
    command::{Input, OutputSink},
    host::{clock, process::Child},
};
use std::{
    io,
    process::ExitStatus,
    sync::{Arc, OnceLock},
    time::Duration,
};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio_util::sync::CancellationToken;
use vmdeck_model::{
    error::{Fault, Result},
    event::Stream,
};

/// How long what is in the pipes already may take to be read once the child has ended.
const REST: Duration = Duration::from_millis(100);

/// Follows `child`, whose three streams are pipes, to its end. `None` = it was cancelled and still runs.
pub(crate) async fn follow(
    child: &mut Child,
    stdin: &Input,
    sink: &mut dyn OutputSink,
    cancel: &CancellationToken,
) -> Result<Option<ExitStatus>> {
    let unread: Arc<OnceLock<String>> = Arc::default();
    let lost = |e: io::Error| Fault::infra("cannot follow the command").because(e);
    let input = stdin.open().map_err(|e| stdin.unreadable(&e))?;
    if let (Some(mut pipe), Some(file)) = (child.inner.stdin.take(), input) {
        let mut file = tokio::fs::File::from(file);
        let unread = Arc::clone(&unread);
        tokio::spawn(async move {
            let mut buffer = vec![0; 64 * 1024];
            loop {
                match file.read(&mut buffer).await {
                    Ok(0) => return,
                    // A command that does not read its input is no error.
                    Ok(n) => drop(pipe.write_all(&buffer[..n]).await),
                    // Half a file must not look like a whole one.
                    Err(e) => return drop(unread.set(e.to_string())),
                }
            }
        });
    }
    let (mut out, mut err) = (child.inner.stdout.take(), child.inner.stderr.take());
    let (mut out_buffer, mut err_buffer) = (vec![0; 16 * 1024], vec![0; 16 * 1024]);
    let status = loop {
        tokio::select! {
            () = cancel.cancelled() => return Ok(None),
            n = read(&mut out, &mut out_buffer) => match n.map_err(lost)? {
                0 => out = None,
                n => sink.write(Stream::Stdout, &out_buffer[..n]),
            },
            n = read(&mut err, &mut err_buffer) => match n.map_err(lost)? {
                0 => err = None,
                n => sink.write(Stream::Stderr, &err_buffer[..n]),
            },
            ended = child.wait() => break ended.map_err(lost)?,
        }
    };
    // What is in the pipes already is still read; a grandchild may hold them open for ever.
    let rest = async {
        while out.is_some() || err.is_some() {
            tokio::select! {
                n = read(&mut out, &mut out_buffer) => match n {
                    Ok(n @ 1..) => sink.write(Stream::Stdout, &out_buffer[..n]),
                    _ => out = None,
                },
                n = read(&mut err, &mut err_buffer) => match n {
                    Ok(n @ 1..) => sink.write(Stream::Stderr, &err_buffer[..n]),
                    _ => err = None,
                },
            }
        }
    };
    let _ = clock::within(REST, rest).await;
    match unread.get() {
        Some(why) => Err(Fault::infra("cannot send the command its input").because(why)),
        None => Ok(Some(status)),
    }
}

/// Reads from a stream that may be at its end already: then it never answers.
async fn read(stream: &mut Option<impl AsyncRead + Unpin>, buffer: &mut [u8]) -> io::Result<usize> {
    match stream {
        Some(stream) => stream.read(buffer).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        command::Collected,
        host::process::{Spawner, Spec, Streams},
    };

    #[tokio::test]
    async fn what_has_ended_is_not_waited_for() {
        let spawner = Spawner::new(None).expect("spawner");
        // One stream that ends early, both at once, and neither of them before the process itself.
        for script in ["exec 2>&-; echo out", "echo out; echo err >&2", "exec >&- 2>&-"] {
            let start = clock::now();
            for _ in 0..20 {
                let spec = Spec::new("/bin/sh").args(["-c", script]);
                let mut child = spawner.spawn(&spec, Streams::piped()).await.expect("spawned");
                let (mut output, never) = (Collected::default(), CancellationToken::new());
                let status = follow(&mut child, &Input::Empty, &mut output, &never).await.expect("followed");
                assert!(status.expect("ended").success());
                assert_eq!(output.stdout, if script.contains("out") { &b"out\n"[..] } else { b"" });
            }
            assert!(start.elapsed() < REST * 20, "{script}: {:?}", start.elapsed());
        }
    }

    #[tokio::test]
    async fn a_grandchild_that_holds_the_pipes_delays_it_only_for_a_moment() {
        let spawner = Spawner::new(None).expect("spawner");
        let spec = Spec::new("/bin/sh").args(["-c", "echo out; sleep 34.5 & exit 3"]);
        let mut child = spawner.spawn(&spec, Streams::piped()).await.expect("spawned");
        let (mut output, never) = (Collected::default(), CancellationToken::new());
        let status = follow(&mut child, &Input::Empty, &mut output, &never).await.expect("followed");
        assert_eq!((status.expect("ended").code(), &output.stdout[..]), (Some(3), &b"out\n"[..]));
        child.kill_group().await.expect("killed");
    }
}
