//! Keys and values with a history: what config is kept in, with etcd's semantics.
//!
//! A store has one revision, which each transaction that changes something raises by one. It answers for the newest
//! revision or an earlier one, tells of changes from a revision on, and forgets what is before one when it is compacted.
//! A transaction is all or nothing, and compares first: writers that did not see each other do not overwrite each other.
//!
//! Calls block, for as long as a write to disk or an answer over the network takes; a watch waits.
//! Source: etcd's API v3 (`KV`, `Watch`).

use std::fmt;
use std::future::Future;
use std::pin::Pin;

use super::StoreError;

/// A store's revision; the first is 1.
pub(crate) type Revision = i64;

/// A key with its value at some revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) key: String,
    pub(crate) value: String,
    /// The revision at which the key came to be.
    pub(crate) created: Revision,
    /// The revision of this value.
    pub(crate) modified: Revision,
}

/// Which keys.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Keys<'k> {
    /// This one.
    One(&'k str),
    /// All that begin so.
    Under(&'k str),
}

/// What was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    /// In the order of their keys.
    pub(crate) entries: Vec<Entry>,
    /// The store's newest revision.
    pub(crate) revision: Revision,
}

/// A part of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    Put { key: String, value: String },
    Delete { key: String },
}

/// Changes that happen together or not at all.
#[derive(Clone, Debug, Default)]
pub(crate) struct Transaction {
    /// Keys with the revision that each must have been changed at last; 0 where there must be none.
    pub(crate) expected: Vec<(String, Revision)>,
    /// What is done; each key at most once.
    pub(crate) operations: Vec<Operation>,
}

/// What became of a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It is done and on disk; the store's revision since.
    Committed(Revision),
    /// A key was not as expected, so nothing is done.
    Conflict,
}

/// One change of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    Put(Entry),
    Deleted { key: String, modified: Revision },
}

/// Why a store does not do what it is asked.
#[derive(Debug, thiserror::Error)]
pub enum KvError {
    /// What is asked for was before the last compaction.
    #[error("what the store was at that revision is compacted")]
    Compacted,
    /// The revision is not there yet.
    #[error("the store has not come to that revision yet")]
    Future,
    /// The store does not take a transaction of this size.
    #[error("the store refuses the transaction: {0}")]
    TooLarge(String),
    /// The store did not answer; a write may be done or not.
    #[error("the store does not answer: {0}")]
    Unavailable(String),
    /// The file failed.
    #[error(transparent)]
    File(#[from] StoreError),
}

/// What a watch waits for.
pub(crate) type Changes<'w> = Pin<Box<dyn Future<Output = Result<Vec<Change>, KvError>> + Send + 'w>>;

/// Follows the changes of some keys.
pub(crate) trait Watch: Send {
    /// Waits for the next changes, in the order of their revisions; those of one revision are never parted.
    ///
    /// # Errors
    /// The store fails, or what is to be told was compacted: the watch is then over.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    fn next(&mut self) -> Changes<'_>;
}

/// A store.
pub(crate) trait Kv: fmt::Debug + Send + Sync {
    /// Reads keys as they are, or as they were at a revision.
    ///
    /// # Errors
    /// The store fails, or the revision is compacted or not there yet.
    fn read(&self, keys: Keys<'_>, at: Option<Revision>) -> Result<Found, KvError>;

    /// Compares, and does it all or nothing.
    ///
    /// # Errors
    /// The store fails.
    fn commit(&self, transaction: &Transaction) -> Result<Outcome, KvError>;

    /// Whether others may write it, who are not this program's commands on the same host.
    fn is_shared(&self) -> bool;

    /// How many operations and comparisons a transaction may have.
    fn max_operations(&self) -> usize;

    /// Follows the changes of the keys that begin so, from a revision on.
    fn watch(&self, prefix: &str, from: Revision) -> Box<dyn Watch>;

    /// Forgets what was before a revision, but for the values that still count at it.
    ///
    /// # Errors
    /// The store fails, or the revision is compacted or not there yet.
    fn compact(&self, at: Revision) -> Result<(), KvError>;
}

impl Keys<'_> {
    /// The first key, and the one behind the last.
    pub(super) fn bounds(self) -> (String, String) {
        match self {
            Self::One(key) => (key.to_owned(), format!("{key}\0")),
            Self::Under(prefix) => (prefix.to_owned(), behind(prefix)),
        }
    }
}

/// The first key behind all that begin so. Prefixes of ours end in ASCII.
fn behind(prefix: &str) -> String {
    let mut text = prefix.to_owned();
    match text.pop() {
        Some(last) if last < char::MAX => {
            text.push(char::from_u32(u32::from(last) + 1).unwrap_or(char::MAX));
            text
        }
        _ => char::MAX.to_string(),
    }
}

impl Operation {
    pub(super) fn key(&self) -> &str {
        match self {
            Self::Put { key, .. } | Self::Delete { key } => key,
        }
    }
}

#[cfg(feature = "etcd")]
impl Change {
    /// At which revision it was.
    pub(super) fn modified(&self) -> Revision {
        match self {
            Self::Put(entry) => entry.modified,
            Self::Deleted { modified, .. } => *modified,
        }
    }
}

#[cfg(test)]
pub(super) mod suite;
