//! What workers are told, and how it is known that they did it: taking a config over, draining, stopping.
//!
//! Draining: no connection is accepted any more, idle ones are closed, busy ones are told to end with their
//! answers (`connection: close`, GOAWAY), and TCP connections run until the deadline.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use crate::config::RuntimeConfig;

/// The newest orders; a worker that was busy skips those in between.
#[derive(Clone, Default)]
pub(crate) struct Orders {
    /// What to run.
    pub(crate) config: Arc<RuntimeConfig>,
    /// Whether to go on.
    pub(crate) phase: Phase,
}

/// Where a proxy is in its life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    /// It serves.
    #[default]
    Running,
    /// It ends what it has begun.
    Draining,
    /// It ends at once.
    Stopped,
}

/// Which config each worker runs.
pub(crate) struct Applied {
    versions: Mutex<Vec<u64>>,
    changed: Condvar,
}

impl Applied {
    pub(crate) fn new(workers: usize) -> Arc<Self> {
        Arc::new(Self { versions: Mutex::new(vec![0; workers]), changed: Condvar::new() })
    }

    /// A worker runs a version.
    pub(crate) fn report(&self, worker: usize, version: u64) {
        let mut versions = self.versions.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(mine) = versions.get_mut(worker) {
            *mine = version;
        }
        self.changed.notify_all();
    }

    /// Waits until all workers run a version, or newer; `false` if one did not within the limit.
    pub(crate) fn wait(&self, version: u64, limit: Duration) -> bool {
        let versions = self.versions.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.changed.wait_timeout_while(versions, limit, |versions| {
            versions.iter().any(|running| *running < version)
        });
        !waited.unwrap_or_else(PoisonError::into_inner).1.timed_out()
    }
}
