//! Who calls: a connection with the process behind it, and how much one user may have open.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::SystemTime;

use tonic::{Extensions, Status};

use crate::attest::{Attestor, Selectors, UnixPeer};

/// Connections of one user: a program has one or two.
const MAX_CONNECTIONS: usize = 256;
/// Streams of one user.
const MAX_STREAMS: usize = 1024;

/// A connection whose other end was attested.
pub(crate) struct Caller {
    pub(crate) peer: UnixPeer,
    pub(crate) selectors: Selectors,
    pub(crate) since: SystemTime,
    attestor: Arc<dyn Attestor>,
    _counted: Counted,
}

impl Caller {
    pub(crate) fn new(
        peer: UnixPeer,
        selectors: Selectors,
        since: SystemTime,
        attestor: Arc<dyn Attestor>,
        counted: Counted,
    ) -> Self {
        Self { peer, selectors, since, attestor, _counted: counted }
    }

    /// Who a request is from: a request extension, inserted by who accepted the connection.
    pub(crate) fn of(extensions: &Extensions) -> Result<Arc<Self>, Status> {
        let nobody = || Status::unauthenticated("it is not known who calls");
        extensions.get::<Arc<Self>>().cloned().ok_or_else(nobody)
    }

    /// Looks whether the process is still what was attested.
    ///
    /// # Errors
    /// It is not; the connection may have been left to somebody else.
    pub(crate) fn look_again(&self) -> Result<(), Status> {
        self.attestor
            .look_again(&self.peer, &self.selectors)
            .map_err(|error| Status::permission_denied(format!("connect anew: {error}")))
    }
}

/// How many connections and streams each user has open, and which.
#[derive(Clone, Default)]
pub(crate) struct Counts(Arc<Mutex<Open>>);

#[derive(Default)]
struct Open {
    connections: HashMap<u32, usize>,
    streams: HashMap<u32, usize>,
    callers: Vec<Weak<Caller>>,
}

#[derive(Clone, Copy)]
enum What {
    Connection,
    Stream,
}

/// One connection or stream, until it is dropped.
pub(crate) struct Counted {
    counts: Counts,
    uid: u32,
    what: What,
}

impl Counts {
    fn open(&self) -> MutexGuard<'_, Open> {
        // Whoever panicked while holding it left whole maps.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a connection; `None` where its user has as many as one may.
    pub(crate) fn connection(&self, uid: u32) -> Option<Counted> {
        self.count(uid, What::Connection, MAX_CONNECTIONS)
    }

    /// Counts a stream.
    ///
    /// # Errors
    /// Its user has as many as one may.
    pub(crate) fn stream(&self, uid: u32) -> Result<Counted, Status> {
        let full = || Status::resource_exhausted(format!("the user {uid} has {MAX_STREAMS} streams open"));
        self.count(uid, What::Stream, MAX_STREAMS).ok_or_else(full)
    }

    fn count(&self, uid: u32, what: What, limit: usize) -> Option<Counted> {
        let mut open = self.open();
        let count = open.of(what).entry(uid).or_default();
        if *count >= limit {
            return None;
        }
        *count += 1;
        Some(Counted { counts: self.clone(), uid, what })
    }

    /// Remembers who is connected, for whoever asks.
    pub(crate) fn remember(&self, caller: &Arc<Caller>) {
        let mut open = self.open();
        open.callers.retain(|caller| caller.strong_count() > 0);
        open.callers.push(Arc::downgrade(caller));
    }

    /// Who is connected.
    pub(crate) fn callers(&self) -> Vec<Arc<Caller>> {
        self.open().callers.iter().filter_map(Weak::upgrade).collect()
    }

    /// How many streams a user has open.
    pub(crate) fn streams(&self, uid: u32) -> usize {
        self.open().streams.get(&uid).copied().unwrap_or_default()
    }
}

impl Open {
    fn of(&mut self, what: What) -> &mut HashMap<u32, usize> {
        match what {
            What::Connection => &mut self.connections,
            What::Stream => &mut self.streams,
        }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let mut open = self.counts.open();
        let of = open.of(self.what);
        match of.get_mut(&self.uid) {
            Some(count) if *count > 1 => *count -= 1,
            _ => drop(of.remove(&self.uid)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_user_cannot_take_what_others_need() {
        let counts = Counts::default();
        let all: Vec<_> = (0..MAX_CONNECTIONS).map_while(|_| counts.connection(1000)).collect();
        assert_eq!(all.len(), MAX_CONNECTIONS);
        assert!(counts.connection(1000).is_none());
        assert!(counts.connection(1001).is_some());
        drop(all);
        assert!(counts.connection(1000).is_some());
        assert!(counts.open().connections.is_empty(), "who has none takes no memory");
    }

    #[test]
    fn streams_are_counted_for_each_user() {
        let counts = Counts::default();
        let streams: Vec<_> = (0..MAX_STREAMS).map_while(|_| counts.stream(7).ok()).collect();
        assert_eq!((streams.len(), counts.streams(7)), (MAX_STREAMS, MAX_STREAMS));
        assert_eq!(counts.stream(7).err().map(|status| status.code()), Some(tonic::Code::ResourceExhausted));
        drop(streams);
        assert_eq!(counts.streams(7), 0);
    }
}
