//! What the proxy does before the kernel does worse: it sheds load where memory runs short, and refuses connections
//! that would cost the last descriptors. Envoy's overload manager is the model.
//!
//! A thread of its own looks about once a second and writes one flag; workers read it. Memory is measured against
//! the nearest of: the limit that was given (our own resident memory), the cgroup's `memory.max` or `memory.high`, at
//! any level (its memory without what the kernel can drop), the machine's (ours).

mod memory;

use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicI32, AtomicU8, AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Weak};
use std::{io, thread};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tracing::{debug, info, warn};

use crate::error::{Kind, ProxyError};
use crate::limits::{
    CONNECTIONS_PER_WORKER, CONNECTIONS_PER_WORKER_LEAST, DESCRIPTORS_FOR_UPSTREAM, DESCRIPTORS_KEPT,
    DESCRIPTORS_LAST, MEMORY_LOOK, MEMORY_REFUSE, MEMORY_SHED, MEMORY_STEP_BACK,
};
use memory::Meter;

/// What memory is measured against.
#[derive(Clone, Debug, Default)]
pub enum Memory {
    /// What the cgroup or the machine has.
    #[default]
    Detected,
    /// This many bytes of resident memory.
    Limit(u64),
    /// Per mille of whatever the embedder knows, written by it.
    Told(Arc<AtomicU32>),
}

/// How hard it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Level {
    /// All is well.
    Normal = 0,
    /// New requests are answered that the proxy is overloaded.
    Shedding = 1,
    /// New connections are closed, besides.
    Refusing = 2,
}

/// The flag that workers read.
pub(crate) struct Overload {
    level: AtomicU8,
}

impl Overload {
    /// Begins to look, until the flag is dropped.
    ///
    /// # Errors
    /// The kernel gives no thread.
    pub(crate) fn watch(memory: Memory) -> io::Result<Arc<Self>> {
        let overload = Arc::new(Self { level: AtomicU8::new(Level::Normal as u8) });
        let flag = Arc::downgrade(&overload);
        thread::Builder::new().name("overload".into()).spawn(move || look(&flag, &Meter::new(memory)))?;
        Ok(overload)
    }

    /// Where memory never runs short.
    #[cfg(test)]
    pub(crate) fn never() -> Arc<Self> {
        Arc::new(Self { level: AtomicU8::new(Level::Normal as u8) })
    }

    /// Lets a new request in, or says why not.
    pub(crate) fn admits(&self) -> Result<(), ProxyError> {
        if self.is_shedding() {
            return Err(ProxyError::unsent(Kind::Overload("memory runs short")));
        }
        Ok(())
    }

    /// Whether new requests are refused; their connections end, too.
    pub(crate) fn is_shedding(&self) -> bool {
        self.level.load(Relaxed) >= Level::Shedding as u8
    }

    /// Whether new connections are refused.
    pub(crate) fn is_refusing(&self) -> bool {
        self.level.load(Relaxed) >= Level::Refusing as u8
    }
}

/// Looks once in a while, for as long as somebody reads the flag.
fn look(flag: &Weak<Overload>, meter: &Meter) {
    let mut level = Level::Normal;
    while let Some(overload) = flag.upgrade() {
        let used = meter.per_mille();
        let next = judge(level, used);
        if next != level {
            tell(level, next, used);
            level = next;
            overload.level.store(level as u8, Relaxed);
        }
        drop(overload);
        thread::sleep(MEMORY_LOOK);
    }
}

/// The level at a use of memory; a step back needs more room than the step forth left.
fn judge(now: Level, per_mille: u32) -> Level {
    let holds = |level: Level, at: u32| per_mille >= if now >= level { at - MEMORY_STEP_BACK } else { at };
    if holds(Level::Refusing, MEMORY_REFUSE) {
        Level::Refusing
    } else if holds(Level::Shedding, MEMORY_SHED) {
        Level::Shedding
    } else {
        Level::Normal
    }
}

fn tell(before: Level, now: Level, per_mille: u32) {
    let percent = per_mille / 10;
    match now {
        Level::Normal => info!(percent, "memory suffices again; requests are served"),
        Level::Shedding if now < before => info!(percent, "memory: connections are accepted again"),
        Level::Shedding => warn!(percent, "memory runs short: new requests are answered 503 (MW0501)"),
        Level::Refusing => warn!(percent, "memory is almost used up: new connections are closed"),
    }
}

// === descriptors ===

/// The number from which on descriptors are kept: the kernel gives the lowest that is free, so that whoever gets one of
/// these knows that all others are taken. Of the process, as its limit is.
static KEPT_FROM: AtomicI32 = AtomicI32::new(i32::MAX);

/// Who wants a descriptor.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// A new connection of a client.
    Downstream,
    /// A connection to an endpoint, for a client that is let in.
    Upstream,
}

/// Whether a connection's descriptor is one of the last: then it is closed, so that what is open, the admin interface
/// and the control plane never lack one.
pub(crate) fn is_kept(socket: &impl AsRawFd, wanted: Wanted) -> bool {
    let kept_from = KEPT_FROM.load(Relaxed);
    let for_upstream = if wanted == Wanted::Downstream { DESCRIPTORS_FOR_UPSTREAM } else { 0 };
    socket.as_raw_fd() >= kept_from - for_upstream.min(kept_from / 4)
}

/// Raises the process's soft limit of descriptors to the hard one; gives how many connections each worker may have
/// so that some descriptors are left for everything else.
pub(crate) fn connections_per_worker(workers: usize) -> usize {
    let descriptors = raise_descriptor_limit();
    if let Some(limit) = descriptors {
        let limit = i32::try_from(limit).unwrap_or(i32::MAX);
        KEPT_FROM.store(limit - DESCRIPTORS_LAST.min(limit / 8), Relaxed);
    }
    let connections = descriptors.map_or(CONNECTIONS_PER_WORKER, |limit| connections_within(limit, workers));
    debug!(?descriptors, connections, "connections per worker, at most");
    connections
}

fn raise_descriptor_limit() -> Option<u64> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    // `None` is "no limit", to which no process gets in practice.
    if current != maximum && setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).is_ok() {
        return maximum;
    }
    current
}

/// Three of four descriptors may be downstream's: connections upstream are pooled, so that they are fewer.
fn connections_within(descriptors: u64, workers: usize) -> usize {
    let free = usize::try_from(descriptors).unwrap_or(usize::MAX).saturating_sub(DESCRIPTORS_KEPT);
    let each = free / 4 * 3 / workers.max(1);
    each.clamp(CONNECTIONS_PER_WORKER_LEAST, CONNECTIONS_PER_WORKER)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_have_hysteresis() {
        use Level::{Normal, Refusing, Shedding};
        let check = |now: Level, per_mille: u32, expected: Level| {
            assert_eq!(judge(now, per_mille), expected, "{now:?} at {per_mille}");
        };
        check(Normal, 0, Normal);
        check(Normal, MEMORY_SHED - 1, Normal);
        check(Normal, MEMORY_SHED, Shedding);
        check(Normal, MEMORY_REFUSE, Refusing);
        check(Shedding, MEMORY_SHED - 1, Shedding);
        check(Shedding, MEMORY_SHED - MEMORY_STEP_BACK - 1, Normal);
        check(Shedding, MEMORY_REFUSE - 1, Shedding);
        check(Shedding, MEMORY_REFUSE, Refusing);
        check(Refusing, MEMORY_REFUSE - MEMORY_STEP_BACK, Refusing);
        check(Refusing, MEMORY_REFUSE - MEMORY_STEP_BACK - 1, Shedding);
        check(Refusing, 0, Normal);
        check(Normal, u32::MAX, Refusing);
    }

    #[test]
    fn some_descriptors_are_left_for_everything_else() {
        for (descriptors, workers, expected) in [
            (0, 1, CONNECTIONS_PER_WORKER_LEAST),
            (64, 1, CONNECTIONS_PER_WORKER_LEAST),
            (1024, 1, 720),
            (1024, 2, 360),
            (20_000, 1, 14_952),
            (u64::MAX, 2, CONNECTIONS_PER_WORKER),
        ] {
            assert_eq!(connections_within(descriptors, workers), expected, "{descriptors} {workers}");
        }
    }
}
