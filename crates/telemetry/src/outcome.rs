//! How requests ended: a small table per edge and worker, from (status, gRPC status, reason) to a count.
//!
//! Open addressing with linear probing. Its worker is the only writer and never removes; a reader sees an
//! outcome once its slot's key is published, then reads the count.

use std::sync::atomic::{
    AtomicU32, AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
};

use meshwork_model::reason::{self, Reason};

use crate::histogram::add;

/// How many outcomes an edge tells apart on one worker; a service answers with a handful. Further ones are
/// counted by the class of their status.
const SLOTS: usize = 32;
/// Classes of a status: none, 1xx to 5xx.
const CLASSES: usize = 6;
/// Marks a slot as taken, so that no outcome is packed as 0.
const TAKEN: u32 = 1 << 31;

/// How a request or connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// An outcome of its own.
    Exact {
        /// HTTP status; 0 where none was sent (TCP, or a client that left).
        status: u16,
        /// gRPC status, where there is one.
        grpc_status: Option<u8>,
        /// Why the mesh decided it, where it did.
        reason: Option<Reason>,
    },
    /// One of those that had no room in the table: the hundreds of its status (0 to 5).
    Class(u8),
}

/// The counts of one edge on one worker.
#[derive(Debug)]
pub(crate) struct Outcomes {
    keys: [AtomicU32; SLOTS],
    counts: [AtomicU64; SLOTS],
    classes: [AtomicU64; CLASSES],
}

impl Default for Outcomes {
    fn default() -> Self {
        Self {
            keys: [const { AtomicU32::new(0) }; SLOTS],
            counts: [const { AtomicU64::new(0) }; SLOTS],
            classes: [const { AtomicU64::new(0) }; CLASSES],
        }
    }
}

impl Outcomes {
    /// Counts an outcome. Called by the table's one worker.
    pub(crate) fn record(&self, status: u16, grpc_status: Option<u8>, reason: Option<Reason>) {
        let key = pack(status, grpc_status, reason);
        let start = hash(key);
        for probe in 0..SLOTS {
            let slot = (start + probe) % SLOTS;
            match self.keys[slot].load(Relaxed) {
                0 => {
                    self.counts[slot].store(1, Relaxed);
                    self.keys[slot].store(key, Release);
                    return;
                }
                taken if taken == key => return add(&self.counts[slot], 1),
                _ => {}
            }
        }
        add(&self.classes[class(status)], 1);
    }

    /// Every outcome that happened, with its count.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (Outcome, u64)> {
        let exact = self.keys.iter().zip(&self.counts).filter_map(|(key, count)| {
            let key = key.load(Acquire);
            (key != 0).then(|| (unpack(key), count.load(Relaxed)))
        });
        let classes = (0..).zip(&self.classes).filter_map(|(class, count)| {
            let count = count.load(Relaxed);
            (count != 0).then_some((Outcome::Class(class), count))
        });
        exact.chain(classes)
    }
}

/// Status in the low 16 bits, then gRPC status and reason, each 7 bits with 0 for none.
fn pack(status: u16, grpc_status: Option<u8>, reason: Option<Reason>) -> u32 {
    let grpc = grpc_status.map_or(0, |code| u32::from(code.min(GRPC_OTHER)) + 1);
    let reason = reason.map_or(0, |reason| reason as u32 + 1);
    TAKEN | reason << 23 | grpc << 16 | u32::from(status)
}

/// gRPC codes end at 16; a peer's larger one is told as this.
const GRPC_OTHER: u8 = 99;

fn unpack(key: u32) -> Outcome {
    let grpc = u8::try_from(key >> 16 & 0x7f).unwrap_or(0);
    let reason = key >> 23 & 0xff;
    Outcome::Exact {
        status: u16::try_from(key & 0xffff).unwrap_or(0),
        grpc_status: grpc.checked_sub(1),
        reason: reason::ALL.iter().copied().find(|r| *r as u32 + 1 == reason),
    }
}

fn hash(key: u32) -> usize {
    (key.wrapping_mul(0x9E37_79B9) >> 27) as usize
}

fn class(status: u16) -> usize {
    usize::from(status / 100).min(CLASSES - 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    fn exact(status: u16, grpc_status: Option<u8>, reason: Option<Reason>) -> Outcome {
        Outcome::Exact { status, grpc_status, reason }
    }

    #[test]
    fn every_outcome_survives_packing() {
        for status in [0, 101, 200, 404, 599, 999, u16::MAX] {
            for grpc in [None, Some(0), Some(16), Some(GRPC_OTHER)] {
                for reason in reason::ALL.iter().copied().map(Some).chain([None]) {
                    assert_eq!(unpack(pack(status, grpc, reason)), exact(status, grpc, reason));
                }
            }
        }
        assert_eq!(unpack(pack(200, Some(255), None)), exact(200, Some(GRPC_OTHER), None));
    }

    #[test]
    fn equal_outcomes_share_a_count() {
        let outcomes = Outcomes::default();
        for _ in 0..3 {
            outcomes.record(200, None, None);
        }
        outcomes.record(503, None, Some(Reason::ConnectFailed));
        outcomes.record(503, None, Some(Reason::NoEndpoint));
        let counts: HashMap<_, _> = outcomes.iter().collect();
        assert_eq!(counts.len(), 3);
        assert_eq!(counts[&exact(200, None, None)], 3);
        assert_eq!(counts[&exact(503, None, Some(Reason::NoEndpoint))], 1);
    }

    #[test]
    fn a_full_table_counts_by_class() {
        let outcomes = Outcomes::default();
        for status in 400..500 {
            outcomes.record(status, None, None);
        }
        outcomes.record(503, None, None);
        outcomes.record(400, None, None);
        let counts: HashMap<_, _> = outcomes.iter().collect();
        assert_eq!(counts[&exact(400, None, None)], 2);
        assert_eq!(counts[&Outcome::Class(4)], 100 - SLOTS as u64);
        assert_eq!(counts[&Outcome::Class(5)], 1);
        assert_eq!(counts.values().sum::<u64>(), 102);
    }
}
