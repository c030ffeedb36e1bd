//! Watching a directory: says when its files differ from what was read last.
//!
//! The kernel tells at once; that it tells everything cannot be relied on (network file systems, replaced
//! directories), so the files are also looked at from time to time. Editors write in several steps: a change counts
//! when it has been quiet for a moment.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::watch;
use tokio::time::{Instant, timeout, timeout_at};
use tracing::warn;

/// How long it must be quiet after a change.
const QUIET: Duration = Duration::from_millis(100);
/// How long a change waits for quiet at most.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often files are looked at beside what the kernel tells.
const POLL: Duration = Duration::from_secs(5);
/// The same where the kernel tells nothing: a change is then still live within a second.
const POLL_ALONE: Duration = Duration::from_millis(500);

/// A watched directory, or file.
#[derive(Debug)]
pub(crate) struct Watch {
    path: PathBuf,
    seen: Fingerprint,
    events: watch::Receiver<u64>,
    poll: Duration,
    _watcher: Option<RecommendedWatcher>,
}

type Fingerprint = BTreeMap<PathBuf, (Option<SystemTime>, u64)>;

impl Watch {
    /// Begins to watch; what is there now counts as read.
    pub(crate) fn new(path: &Path) -> Self {
        let (count, events) = watch::channel(0_u64);
        let watcher = watcher(path, count).inspect_err(|error| {
            warn!(path = %path.display(), %error, "cannot be watched, and is looked at twice a second instead");
        });
        let poll = if watcher.is_ok() { POLL } else { POLL_ALONE };
        Self { path: path.to_owned(), seen: fingerprint(path), events, poll, _watcher: watcher.ok() }
    }

    /// Waits until the files differ from what was read last.
    ///
    /// # Cancel safety
    /// Nothing is lost: the next call notices the same change.
    pub(crate) async fn changed(&mut self) {
        loop {
            match timeout(self.poll, self.events.changed()).await {
                Ok(Ok(())) => self.quiet().await,
                // Without a watcher there are no events: the pause is the poll.
                Ok(Err(_)) => tokio::time::sleep(self.poll).await,
                Err(_) => {}
            }
            let path = self.path.clone();
            let Ok(now) = tokio::task::spawn_blocking(move || fingerprint(&path)).await else { continue };
            if now != self.seen {
                self.seen = now;
                return;
            }
        }
    }

    async fn quiet(&mut self) {
        let end = Instant::now() + PATIENCE;
        while let Ok(Ok(())) = timeout_at(end.min(Instant::now() + QUIET), self.events.changed()).await {
            if Instant::now() >= end {
                break;
            }
        }
    }
}

fn watcher(path: &Path, count: watch::Sender<u64>) -> notify::Result<RecommendedWatcher> {
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        // That somebody reads a file is no change; we do so ourselves.
        if !event.is_ok_and(|event| matches!(event.kind, EventKind::Access(_))) {
            count.send_modify(|count| *count += 1);
        }
    })?;
    // A file that is replaced is another file: its directory has the same name still.
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let dir = if path.is_file() { parent.unwrap_or(Path::new(".")) } else { path };
    watcher.watch(dir, RecursiveMode::NonRecursive)?;
    Ok(watcher)
}

fn fingerprint(path: &Path) -> Fingerprint {
    let files = super::files(path).unwrap_or_default();
    let look = |file: PathBuf| {
        let metadata = std::fs::metadata(&file).ok()?;
        Some((file, (metadata.modified().ok(), metadata.len())))
    };
    files.into_iter().filter_map(look).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn notices(watch: &mut Watch) -> bool {
        timeout(Duration::from_secs(20), watch.changed()).await.is_ok()
    }

    #[tokio::test]
    async fn a_file_that_is_written_replaced_or_removed_is_noticed() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("a.yaml");
        let mut watch = Watch::new(dir.path());
        std::fs::write(&file, "a: 1").expect("written");
        assert!(notices(&mut watch).await);
        let aside = dir.path().join(".a.yaml.new");
        std::fs::write(&aside, "a: 22").expect("written");
        std::fs::rename(&aside, &file).expect("renamed");
        assert!(notices(&mut watch).await);
        std::fs::remove_file(&file).expect("removed");
        assert!(notices(&mut watch).await);
    }

    #[tokio::test]
    async fn what_is_no_config_goes_unnoticed() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("a.yaml");
        std::fs::write(&file, "a: 1").expect("written");
        let mut watch = Watch::new(dir.path());
        for name in [".a.yaml.swp", "a.yaml~", "README.md"] {
            std::fs::write(dir.path().join(name), "x").expect("written");
        }
        std::fs::read(&file).expect("read");
        assert!(timeout(Duration::from_millis(400), watch.changed()).await.is_err());
    }
}
