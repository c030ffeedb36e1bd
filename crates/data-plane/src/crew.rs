//! The workers of a proxy among each other: how many connections each has, and the way over for one that another
//! worker has accepted.
//!
//! The kernel spreads connections over the workers' sockets by a hash, so that few connections may all meet one
//! worker. A connection moves at most once, when it is accepted: one wake-up for its whole life, none per request.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

use tokio::sync::mpsc;

use crate::limits::{IMBALANCE, IMBALANCE_SHARE, MOVED_CONNECTIONS};

/// All workers of a proxy.
pub(crate) struct Crew {
    stations: Box<[Station]>,
}

/// What others may know of one worker. On cache lines of its own: each worker writes its own most of the time.
#[repr(align(128))]
struct Station {
    connections: AtomicUsize,
    version: AtomicU64,
    inbox: mpsc::Sender<Moved>,
}

/// A connection on its way to another worker.
pub(crate) struct Moved {
    /// The connection.
    pub(crate) stream: std::net::TcpStream,
    /// Who opened it.
    pub(crate) remote: SocketAddr,
    /// The listener's address.
    pub(crate) listener: SocketAddr,
    /// It counts as the other worker's already.
    pub(crate) counted: Counted,
}

/// A connection counts as a worker's until this is dropped.
pub(crate) struct Counted {
    crew: Arc<Crew>,
    worker: usize,
}

impl Crew {
    /// A crew, and where each of its workers gets connections from.
    pub(crate) fn new(workers: usize) -> (Arc<Self>, Vec<mpsc::Receiver<Moved>>) {
        let channels = (0..workers).map(|_| mpsc::channel(MOVED_CONNECTIONS));
        let (stations, inboxes): (Vec<_>, Vec<_>) = channels
            .map(|(inbox, moved)| {
                let station = Station { connections: AtomicUsize::new(0), version: AtomicU64::new(0), inbox };
                (station, moved)
            })
            .unzip();
        (Arc::new(Self { stations: stations.into() }), inboxes)
    }

    /// Counts a connection as a worker's.
    pub(crate) fn count(self: &Arc<Self>, worker: usize) -> Counted {
        self.stations[worker].connections.fetch_add(1, Relaxed);
        Counted { crew: Arc::clone(self), worker }
    }

    /// How many connections a worker has.
    pub(crate) fn connections(&self, worker: usize) -> usize {
        self.stations[worker].connections.load(Relaxed)
    }

    /// A worker runs this version of the config.
    pub(crate) fn note_version(&self, worker: usize, version: u64) {
        self.stations[worker].version.store(version, Relaxed);
    }

    /// Whom a connection that `worker` has accepted under `version` should go to; `None` where it stays.
    ///
    /// Nobody gets one who has not taken the config over under which it was accepted.
    pub(crate) fn place(&self, worker: usize, version: u64) -> Option<usize> {
        let candidates = self.stations.iter().enumerate();
        let (least, connections) = candidates
            .filter(|(_, station)| station.version.load(Relaxed) >= version)
            .map(|(index, station)| (index, station.connections.load(Relaxed)))
            .min_by_key(|(_, connections)| *connections)?;
        let is_apart = self.connections(worker) >= connections + IMBALANCE + connections / IMBALANCE_SHARE;
        (least != worker && is_apart).then_some(least)
    }

    /// Room in a worker's inbox; `None` where it is full or the worker has ended.
    pub(crate) fn reserve(&self, worker: usize) -> Option<mpsc::Permit<'_, Moved>> {
        self.stations[worker].inbox.try_reserve().ok()
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.crew.stations[self.worker].connections.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_moves_to_the_least_loaded_past_the_bound() {
        let check = |loads: [usize; 3], versions: [u64; 3], expected: Option<usize>| {
            let (crew, _inboxes) = Crew::new(3);
            let mut counted = Vec::new();
            for (worker, (load, version)) in loads.into_iter().zip(versions).enumerate() {
                counted.extend((0..load).map(|_| crew.count(worker)));
                crew.note_version(worker, version);
            }
            assert_eq!(crew.place(0, 2), expected, "{loads:?} {versions:?}");
        };
        check([0, 0, 0], [2, 2, 2], None);
        check([IMBALANCE - 1, 0, 0], [2, 2, 2], None);
        check([IMBALANCE, 0, 0], [2, 2, 2], Some(1));
        check([IMBALANCE + 1, 1, 0], [2, 2, 2], Some(2));
        check([IMBALANCE, 0, 0], [2, 1, 3], Some(2));
        check([IMBALANCE, 0, 0], [2, 1, 1], None);
        check([100 + IMBALANCE, 100, 100], [2, 2, 2], None);
        check([0, 9, 9], [2, 2, 2], None);
    }

    #[test]
    fn connections_count_until_they_end() {
        let (crew, _inboxes) = Crew::new(1);
        let counted = crew.count(0);
        assert_eq!(crew.connections(0), 1);
        drop(counted);
        assert_eq!(crew.connections(0), 0);
    }
}
