//! The last good config on disk, so that a proxy that is restarted while its control plane is down serves again.
//!
//! One file in the state directory, `last-good`, for its owner only; replaced whole, some moments after something
//! changed. It holds private keys where secrets come from a control plane. A directory belongs to one process.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, bail};
use meshwork_identity::files;
use meshwork_xds::last_good::LastGood;
use meshwork_xds::{Rejection, Update};
use rustix::fs::{FlockOperation, flock};
use tokio::sync::Notify;
use tracing::{error, info, warn};
use zeroize::Zeroizing;

const FILE: &str = "last-good";
const LOCK: &str = "lock";
/// How long changes are gathered: config comes in pieces, each of which would be a write.
const GATHER: Duration = Duration::from_millis(200);
/// After a failed write, the pause until the next attempt: a full disk is not emptied in less.
const WRITE_AGAIN: Duration = Duration::from_secs(10);

/// The last good config of a proxy.
pub(crate) struct Kept {
    path: PathBuf,
    last_good: Mutex<LastGood>,
    changed: Notify,
    is_written: AtomicBool,
    /// Held open: the lock ends with it, also when the process is killed.
    _lock: Option<File>,
}

impl Kept {
    /// Opens a directory of the proxy's own, and locks it; reads what an earlier process of this owner left.
    ///
    /// # Errors
    /// The directory cannot be made or locked, or another process uses it.
    pub(crate) fn open(dir: &Path, owner: &str) -> anyhow::Result<Self> {
        files::open_private_dir(dir)?;
        let path = dir.join(LOCK);
        let mut options = OpenOptions::new();
        let lock = options.write(true).create(true).truncate(false).mode(0o600).open(&path);
        let lock = lock.with_context(|| format!("cannot open {}", path.display()))?;
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            bail!("another process uses {}: give each proxy a state directory of its own", dir.display());
        }
        Ok(Self { _lock: Some(lock), ..Self::within(dir, owner) })
    }

    /// The same in a directory that is locked already.
    pub(crate) fn within(dir: &Path, owner: &str) -> Self {
        let path = dir.join(FILE);
        let last_good = read(&path, owner).unwrap_or_else(|| LastGood::new(owner));
        Self {
            path,
            last_good: Mutex::new(last_good),
            changed: Notify::new(),
            is_written: AtomicBool::new(true),
            _lock: None,
        }
    }

    fn held(&self) -> MutexGuard<'_, LastGood> {
        // Whoever panicked while holding it left a whole map.
        self.last_good.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What an earlier process left.
    pub(crate) fn last_good(&self) -> LastGood {
        self.held().clone()
    }

    /// Takes in what was applied.
    pub(crate) fn note(&self, update: &Update, rejections: &[Rejection]) {
        if self.held().note(update, rejections) {
            self.is_written.store(false, Ordering::Relaxed);
            self.changed.notify_one();
        }
    }

    /// Writes what changed, for ever.
    ///
    /// # Cancel safety
    /// May be dropped at any time: the file is replaced whole. What was gathered then is lost, unless
    /// [`Kept::flush`] follows.
    pub(crate) async fn write_on_change(&self) {
        loop {
            self.changed.notified().await;
            tokio::time::sleep(GATHER).await;
            while let Err(error) = self.flush() {
                error!("the last good config is not kept: {error}");
                tokio::time::sleep(WRITE_AGAIN).await;
            }
        }
    }

    /// Writes what changed, now.
    ///
    /// # Errors
    /// The file cannot be written.
    pub(crate) fn flush(&self) -> anyhow::Result<()> {
        if self.is_written.load(Ordering::Relaxed) {
            return Ok(());
        }
        let bytes = Zeroizing::new(self.held().to_bytes());
        files::write_private(&self.path, &bytes)?;
        self.is_written.store(true, Ordering::Relaxed);
        Ok(())
    }
}

/// What is damaged is left where it is, for people, until the next good config replaces it.
fn read(path: &Path, owner: &str) -> Option<LastGood> {
    let bytes = match fs::read(path) {
        Ok(bytes) => Zeroizing::new(bytes),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
        Err(error) => {
            warn!("{} cannot be read ({error}); begins without config", path.display());
            return None;
        }
    };
    match LastGood::read(&bytes, owner) {
        Ok(last_good) => {
            info!("begins with the last good config in {}", path.display());
            Some(last_good)
        }
        Err(error) => {
            warn!("{} is not usable: {error}; begins without config", path.display());
            None
        }
    }
}
