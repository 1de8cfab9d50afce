//! The engine of a cockpit's run: this binary with `--ci --commands`, in a process of its own.
//!
//! Its input carries commands, a line of JSON each. One that is left without [`DETACH`] gets a last one, which ends its run; one whose
//! cockpit has died gets none, and waits for another cockpit to join it (`control`).

use crate::{
    app::{Io, plan, runs},
    cli::{KeepArg, RunArgs},
};
use parking_lot::Mutex;
use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    time::Duration,
};
use tokio::{
    io::AsyncWriteExt,
    sync::{mpsc, oneshot},
};
use vmdeck_core::host::{clock, files, process, random};
use vmdeck_model::{
    command::{Command, DETACH},
    error::{Fault, Result},
    exit::RunExit,
    ids::RunId,
    outcome::CancelReason,
};
use vmdeck_tui::{model::RunRequest, services::Engine};

/// How long a run waits for another cockpit where this one has died.
const ORPHANED: &str = "2m";

/// The engines that this cockpit started and still owns.
#[derive(Default)]
pub(super) struct Engines(Mutex<Vec<tokio::task::JoinHandle<Option<RunExit>>>>);

impl Engines {
    /// Starts an engine for this request; `config_args` are the arguments that name the config.
    pub(super) fn start(&self, request: &RunRequest, args: &RunArgs, config_args: Vec<OsString>) -> Result<Engine> {
        let cannot = |e: std::io::Error| Fault::host("cannot start the engine").because(e);
        let id = RunId::from_bits(random::u64());
        let home = args.report.run_dir.as_deref().unwrap_or(Path::new(runs::RECORDS));
        let dir = home.join(plan::record_name(&id));
        let dir = std::path::absolute(dir).map_err(cannot)?;
        vmdeck_files::make_folders(&dir).map_err(cannot)?;
        let words = dir.join("engine.log");
        let log = files::open_private(&words).map_err(cannot)?;
        let binary = std::env::current_exe().map_err(cannot)?;
        let words_of_engine = arguments(request, args, config_args, &id, &dir);
        let child = process::spawn_apart(&binary, &words_of_engine, log).map_err(cannot)?;
        let (commands, lines) = mpsc::unbounded_channel();
        let (done, ended) = oneshot::channel();
        self.0.lock().push(tokio::spawn(serve(child.inner, lines, words, done)));
        Ok(Engine { dir, commands, ended })
    }

    /// Waits for the engines that clean up because the cockpit closes, and returns how the last of them ended; detached
    /// ones are not among them.
    pub(super) async fn hang_up(&self, io: &mut Io<'_>) -> Option<RunExit> {
        let engines = std::mem::take(&mut *self.0.lock());
        let mut last = None;
        for mut engine in engines.into_iter().filter(|e| !e.is_finished()) {
            // One that was just let go on ends within a moment.
            if let Some(ended) = clock::within(Duration::from_millis(300), &mut engine).await {
                last = ended.ok().flatten().or(last);
                continue;
            }
            io.warn("ending the run and cleaning up ...");
            match clock::within(Duration::from_mins(2), engine).await {
                Some(ended) => {
                    last = ended.ok().flatten().or(last);
                    if let Some(exit) = last {
                        io.warn(&format!("the run has ended: exit {}", exit.code()));
                    }
                }
                None => io.warn("the run is still cleaning up; `vmdeck lock status` shows its process"),
            }
        }
        last
    }
}

/// Returns the arguments of an engine's process.
fn arguments(
    request: &RunRequest,
    args: &RunArgs,
    config_args: Vec<OsString>,
    run: &RunId,
    dir: &Path,
) -> Vec<OsString> {
    let mut out: Vec<OsString> = ["--ci", "--commands", "--run-id", run.as_str(), "--run-dir"].map(Into::into).into();
    out.push(dir.into());
    out.extend(["--orphaned", ORPHANED].map(Into::into));
    out.extend(config_args);
    // What was kept is used again; the screen says so.
    out.push("--reuse".into());
    if request.hold {
        out.push("--hold".into());
    }
    if let Some(record) = &request.rerun_of {
        let mut flag = OsString::from("--rerun-failed=");
        flag.push(record);
        out.push(flag);
    }
    if let Some(pause) = request.pause {
        out.extend(["--pause".into(), format!("{}ms", pause.as_millis()).into()]);
    }
    let keep = match args.keep {
        Some(KeepArg::Always) => "always",
        _ if request.keep_all => "always",
        _ if request.keep_failed => "failed",
        _ => "never",
    };
    out.extend(["--keep".into(), keep.into()]);
    if let Some(time) = args.lock.lock_timeout {
        out.extend(["--lock-timeout".into(), format!("{}ms", time.as_millis()).into()]);
    }
    if let Some(retries) = args.retries {
        out.extend(["--retries".into(), retries.to_string().into()]);
    }
    for (on, flag) in [(args.lock.no_lock, "--no-lock"), (args.fail_fast, "--fail-fast")] {
        if on {
            out.push(flag.into());
        }
    }
    for (file, flag) in [(&args.report.junit, "--junit"), (&args.report.events, "--events")] {
        if let Some(file) = file {
            out.extend([flag.into(), file.into()]);
        }
    }
    if let Some(tag) = &args.tag {
        out.extend(["--tag".into(), tag.into()]);
    }
    if let Some(shard) = args.shard {
        out.extend(["--shard".into(), shard.to_string().into()]);
    }
    if let Some(by) = &args.shard_by {
        out.extend(["--shard-by".into(), by.to_string().into()]);
    }
    if let Some(group) = &args.group {
        out.extend(["--group".into(), group.into()]);
    }
    if args.repeat > 1 {
        out.extend(["--repeat".into(), args.repeat.to_string().into()]);
    }
    let select = if request.select.is_empty() { &args.select } else { &request.select };
    out.push("--".into());
    out.extend(select.iter().map(Into::into));
    out
}

/// Returns the line that ends a run whose cockpit is left. If a cockpit dies, nobody writes it.
fn hang_up() -> String {
    serde_json::to_string(&Command::Cancel { reason: CancelReason::Hangup }).unwrap_or_default()
}

/// Passes commands to an engine and waits for its end; returns at once when the engine is to continue alone.
async fn serve(
    mut child: tokio::process::Child,
    mut lines: mpsc::UnboundedReceiver<String>,
    words: PathBuf,
    done: oneshot::Sender<(Option<RunExit>, String)>,
) -> Option<RunExit> {
    let mut stdin = child.stdin.take();
    loop {
        tokio::select! {
            status = child.wait() => {
                let code = status.ok().and_then(|s| s.code()).and_then(|c| u8::try_from(c).ok());
                let text = String::from_utf8_lossy(&vmdeck_files::read_tail(&words, 8192)).into_owned();
                let exit = code.and_then(|c| RunExit::try_from(c).ok());
                // The cockpit may be gone.
                let _ = done.send((exit, text));
                return exit;
            }
            line = lines.recv(), if stdin.is_some() => match (line, &mut stdin) {
                (Some(line), Some(pipe)) => {
                    let written = pipe.write_all(format!("{line}\n").as_bytes()).await;
                    if line == DETACH || written.is_err() {
                        // Its end comes by itself; this one is not waited for.
                        if line == DETACH { return None }
                        stdin = None;
                    }
                }
                // The person leaves, and the run with them.
                (None, Some(pipe)) => {
                    let _ = pipe.write_all(format!("{}\n", hang_up()).as_bytes()).await;
                    stdin = None;
                }
                (_, None) => {}
            },
        }
    }
}
