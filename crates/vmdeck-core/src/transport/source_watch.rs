//! Tells when the code that guests get has changed: files that would be sent, and no others.
//!
//! The system's notices only say that it is worth a look: what has changed is seen by comparing the trees, as git sees them. Where notices
//! do not come, as from another host's file system, the trees are looked at once a second.

use super::{source, source_delta::TreeState};
use crate::host::{clock, files};
use notify::{RecursiveMode, Watcher};
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};
use tokio::sync::Notify;
use vmdeck_model::{error::Result, guest::Source};

/// How often the trees are looked at where no notices come.
const POLL: Duration = Duration::from_secs(1);
/// How often they are looked at all the same: a notice can be lost.
const RECHECK: Duration = Duration::from_secs(30);
/// How long after a notice there must be none for the change to be whole: an editor writes in several steps.
const SETTLE: Duration = Duration::from_millis(40);
/// How often that may be put off.
const PUT_OFF: usize = 25;

/// Watches the sources of guests; see the module.
pub struct SourceWatch {
    sources: Vec<Source>,
    files: Vec<PathBuf>,
    apart: Vec<PathBuf>,
    before: SourceState,
    told: Arc<Notify>,
    polls: bool,
    _watcher: Option<notify::RecommendedWatcher>,
}

/// What was there at one time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct SourceState {
    trees: BTreeMap<PathBuf, TreeState>,
    files: BTreeMap<PathBuf, Option<(u64, SystemTime)>>,
}

impl SourceWatch {
    /// Begins to watch these sources, and these files besides; what lies `apart`, at a path that begins like one of these, is no change: the
    /// runs themselves write there.
    pub async fn begin(mut sources: Vec<Source>, files: Vec<PathBuf>, apart: Vec<PathBuf>) -> Result<Self> {
        sources.sort_by(|a, b| a.path.cmp(&b.path));
        sources.dedup_by(|a, b| a.path == b.path && a.exclude == b.exclude);
        let told = Arc::new(Notify::new());
        let wake = Arc::clone(&told);
        let folders = sources.iter().map(|source| (source.path.as_path(), RecursiveMode::Recursive));
        let of_files = files.iter().filter_map(|file| Some((file.parent()?, RecursiveMode::NonRecursive)));
        let all: Vec<(&Path, RecursiveMode)> = folders.chain(of_files).collect();
        let is_read = |event: &notify::Event| matches!(event.kind, notify::EventKind::Access(_));
        let is_ours = |event: &notify::Event| {
            // What we and git write there is no code.
            let inner = |path: &PathBuf| {
                path.components().any(|part| [".git", ".vmdeck"].iter().any(|own| part.as_os_str() == *own))
            };
            event.paths.iter().all(inner) && !event.paths.is_empty()
        };
        let tell = move |event: notify::Result<notify::Event>| {
            if !event.is_ok_and(|event| is_read(&event) || is_ours(&event)) {
                wake.notify_one();
            }
        };
        let watcher = notify::recommended_watcher(tell).and_then(|mut watcher| {
            all.iter().try_for_each(|(folder, mode)| watcher.watch(folder, *mode))?;
            Ok(watcher)
        });
        let watcher = watcher.ok();
        let polls = watcher.is_none() || sources.iter().any(|source| files::is_remote(&source.path));
        let mut watch = Self { sources, files, apart, before: SourceState::default(), told, polls, _watcher: watcher };
        watch.before = watch.look().await?;
        Ok(watch)
    }

    /// Waits until something has changed; returns the names of what has.
    pub async fn changed(&mut self) -> Vec<String> {
        loop {
            let wait = if self.polls { POLL } else { RECHECK };
            if clock::within(wait, self.told.notified()).await.is_some() {
                self.settle().await;
            }
            // While git is at work, say, the list cannot be had; the next look has it.
            let Ok(now) = self.look().await else { continue };
            let changed = self.before.differences(&now, &self.apart);
            self.before = now;
            if !changed.is_empty() {
                return changed;
            }
        }
    }

    async fn settle(&self) {
        for _ in 0..PUT_OFF {
            if clock::within(SETTLE, self.told.notified()).await.is_none() {
                return;
            }
        }
    }

    async fn look(&self) -> Result<SourceState> {
        let mut seen = SourceState::default();
        for source in &self.sources {
            seen.trees.insert(source.path.clone(), source::look(source).await?.unwrap_or_default());
        }
        for file in &self.files {
            let about = std::fs::metadata(file).and_then(|meta| Ok((meta.len(), meta.modified()?))).ok();
            seen.files.insert(file.clone(), about);
        }
        Ok(seen)
    }
}

impl SourceState {
    fn differences(&self, now: &Self, apart: &[PathBuf]) -> Vec<String> {
        let begins = |path: &Path, apart: &PathBuf| {
            path.as_os_str().as_encoded_bytes().starts_with(apart.as_os_str().as_encoded_bytes())
        };
        let none = TreeState::default();
        let of_trees = now.trees.iter().flat_map(|(root, tree)| {
            let names = self.trees.get(root).unwrap_or(&none).differences(tree);
            names.into_iter().filter(move |name| !apart.iter().any(|apart| begins(&root.join(name), apart)))
        });
        // One that is part of the code is told as such.
        let in_tree =
            |path: &Path| now.trees.iter().any(|(root, tree)| path.strip_prefix(root).is_ok_and(|name| tree.has(name)));
        let of_files = now.files.iter().filter(|(path, about)| self.files.get(*path) != Some(about) && !in_tree(path));
        of_trees.chain(of_files.map(|(path, _)| path.display().to_string())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[tokio::test]
    async fn what_would_be_sent_is_told_and_nothing_else() {
        let home = tempfile::tempdir().expect("tempdir");
        let root = home.path();
        fs::write(root.join(".gitignore"), "*.o\n").expect("write");
        fs::write(root.join("main.c"), "1").expect("write");
        let config = root.join("vmdeck.toml");
        let source = Source { path: root.to_owned(), to: "/home/x/src".into(), exclude: vec!["docs".into()] };
        let watch =
            SourceWatch::begin(vec![source.clone(), source], vec![config.clone()], vec![root.join("lock")]).await;
        let mut watch = watch.expect("watched");
        assert_eq!(watch.sources.len(), 1);
        let limit = Duration::from_secs(10);
        // An ignored file and one that is left out wake it, and are no change.
        fs::write(root.join("x.o"), "").expect("write");
        fs::create_dir(root.join("docs")).expect("mkdir");
        fs::write(root.join("docs/a"), "").expect("write");
        fs::create_dir(root.join("lock.d")).expect("mkdir");
        fs::write(root.join("lock.d/pid"), "7").expect("write");
        fs::write(root.join("main.c"), "22").expect("write");
        assert_eq!(clock::within(limit, watch.changed()).await.expect("told"), ["main.c"]);
        fs::create_dir(root.join("sub")).expect("mkdir");
        fs::write(root.join("sub/new.c"), "").expect("write");
        fs::remove_file(root.join("main.c")).expect("removed");
        let mut names = clock::within(limit, watch.changed()).await.expect("told");
        if names.len() == 1 {
            // The system may tell in two parts.
            names.extend(clock::within(limit, watch.changed()).await.expect("told"));
        }
        names.sort();
        assert_eq!(names, ["main.c", "sub/new.c"]);
        fs::write(&config, "x").expect("write");
        let names = clock::within(limit, watch.changed()).await.expect("told");
        assert!(names.iter().any(|name| name.ends_with("vmdeck.toml")), "{names:?}");
    }
}
