//! The file of times: read by every shard, added to by `vmdeck times` and `vmdeck merge`, also by several at once.

use crate::host::{clock, files, lockdir};
use sha2::{Digest as _, Sha256};
use std::{fs::File, io, path::Path, time::Duration};
use vmdeck_model::{digest::hex, times::CaseTimes};

/// How long somebody else may write the file.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often it is looked whether the file is free.
const TURN: Duration = Duration::from_millis(10);

/// Reads a file of times; returns it with its digest, by which shards that were divided by other times are found out. The error is a
/// sentence.
pub fn read(path: &Path) -> Result<(CaseTimes, String), String> {
    let text = vmdeck_files::read_text(path, vmdeck_files::LARGE).map_err(|e| e.to_string())?;
    Ok((CaseTimes::parse(&text)?, hex(&Sha256::digest(&text))))
}

/// Adds times to a file, which is made where there is none; returns what it holds then. Others may do the same at the same time.
pub async fn add(path: &Path, add: impl FnOnce(&mut CaseTimes)) -> io::Result<CaseTimes> {
    let busy = || io::Error::new(io::ErrorKind::ResourceBusy, "another process writes it");
    // The file itself, where the name is a link to it.
    let real = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let path = real.as_path();
    let _held = clock::within(PATIENCE, hold(path)).await.ok_or_else(busy)??;
    let text = vmdeck_files::read_text(path, vmdeck_files::LARGE)?;
    let invalid = |why| io::Error::new(io::ErrorKind::InvalidData, why);
    let mut times = if text.is_empty() { CaseTimes::default() } else { CaseTimes::parse(&text).map_err(invalid)? };
    add(&mut times);
    if let Err(e) = files::write_shared(path, times.render().as_bytes()) {
        if text.is_empty() {
            // Made a moment ago; an empty file is none that could be read.
            let _ = std::fs::remove_file(path);
        }
        return Err(e);
    }
    Ok(times)
}

/// Holds the file that has this name, and not one that somebody has put another in the place of.
async fn hold(path: &Path) -> io::Result<File> {
    loop {
        let file = match vmdeck_files::create_new(path) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => vmdeck_files::open(path)?,
            made => made?,
        };
        if lockdir::try_flock(&file)? && lockdir::inode_at(path)? == Some(lockdir::inode_of(&file)?) {
            return Ok(file);
        }
        clock::sleep(TURN).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vmdeck_model::{event::Event, run_view::RunView, times::RunTimes};

    fn run(case: &str) -> RunTimes {
        let mut times = RunTimes::default();
        let lines = [
            r#"{"seq":1,"at":"2026-11-21T08:00:00Z","elapsed_ms":0,"kind":"run_started","run":"RUN","version":"0.1.0","host":"h","dir":"","selection":[],"guests":[{"guest":"g","backend":"fake","os":"linux","isolated":true,"cases":1}],"cases":1}"#.replace("RUN", &format!("{:x<16}", format!("{case}-"))),
            format!(r#"{{"seq":2,"at":"2026-11-21T08:00:01Z","elapsed_ms":9,"kind":"case_ended","guest":"g","suite":"s","case":"{case}","round":1,"verdict":"passed","exit":0,"took_ms":7,"message":"","stdout_tail":"","stderr_tail":""}}"#),
        ];
        let mut view = RunView::default();
        for line in lines {
            let event: Event = serde_json::from_str(&line).expect("event");
            view.apply(&event);
            times.take(&event, &view);
        }
        times
    }

    #[tokio::test]
    async fn what_several_add_at_once_is_all_there() {
        let home = tempfile::tempdir().expect("tempdir");
        let file = home.path().join("times.json");
        let all = (0..16).map(|at| {
            let file = file.clone();
            tokio::spawn(async move { add(&file, |times| times.add_run(&run(&format!("c{at}")))).await })
        });
        for added in all.collect::<Vec<_>>() {
            added.await.expect("no panic").expect("added");
        }
        let (times, digest) = read(&file).expect("read");
        assert_eq!((times.len(), digest.len()), (16, 64));
        assert_eq!(std::fs::read_dir(home.path()).expect("folder").count(), 1, "nothing beside it");
    }

    #[tokio::test]
    async fn what_is_no_file_of_times_is_said_and_left_as_it_is() {
        let home = tempfile::tempdir().expect("tempdir");
        let file = home.path().join("times.json");
        assert!(read(&file).is_err());
        std::fs::write(&file, "[1]").expect("written");
        assert!(read(&file).expect_err("bad").contains("no file of times"));
        assert!(add(&file, |times| times.add_run(&run("a"))).await.is_err());
        assert_eq!(std::fs::read_to_string(&file).expect("text"), "[1]");
    }
}
