//! Answers by question, for as long as they may be kept. Pure: the time is told.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use tokio::time::Instant;

use super::content::Content;
use super::limits::{CACHE_ANSWER_BYTES, CACHE_ANSWERS, CACHE_BYTES};
use super::query::Question;

/// What an entry takes besides the bytes of its answer: twice its question, and the maps.
const ENTRY_BYTES: usize = 256;

/// Bounded by [`CACHE_ANSWERS`] and [`CACHE_BYTES`]; what would end soonest makes room.
#[derive(Debug, Default)]
pub(super) struct Cache {
    entries: HashMap<Question, Entry>,
    /// By end; the number tells entries of the same end apart.
    ends: BTreeMap<(Instant, u64), Question>,
    bytes: usize,
    stored: u64,
}

#[derive(Debug)]
struct Entry {
    packed: Box<[u8]>,
    since: Instant,
    end: (Instant, u64),
}

impl Cache {
    /// The answer as it is now, its TTLs less by its age.
    pub(super) fn find(&self, question: &Question, now: Instant) -> Option<Content> {
        let entry = self.entries.get(question).filter(|entry| now < entry.end.0)?;
        Some(Content::unpack(&entry.packed)?.aged(now - entry.since))
    }

    /// Keeps an answer if it is short enough.
    pub(super) fn store(&mut self, question: Question, content: &Content, keep: Duration, now: Instant) {
        self.remove(&question);
        let Some(packed) = content.pack().filter(|bytes| bytes.len() <= CACHE_ANSWER_BYTES) else { return };
        self.bytes += packed.len() + ENTRY_BYTES;
        self.stored += 1;
        let end = (now + keep, self.stored);
        self.ends.insert(end, question.clone());
        self.entries.insert(question, Entry { packed, since: now, end });
        while self.entries.len() > CACHE_ANSWERS || self.bytes > CACHE_BYTES {
            let Some((_, soonest)) = self.ends.first_key_value() else { return };
            self.remove(&soonest.clone());
        }
    }

    /// Forgets everything: other servers may say something else.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    fn remove(&mut self, question: &Question) {
        if let Some(entry) = self.entries.remove(question) {
            self.ends.remove(&entry.end);
            self.bytes -= entry.packed.len() + ENTRY_BYTES;
        }
    }

    #[cfg(test)]
    pub(super) fn size(&self) -> (usize, usize) {
        assert_eq!(self.entries.len(), self.ends.len());
        (self.entries.len(), self.bytes)
    }
}
