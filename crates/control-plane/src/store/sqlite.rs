//! The store in a `SQLite` file: each value of each key is a row, with its revision.
//!
//! Several processes may write it: revisions are given in transactions that hold the file's write lock. A watch is woken
//! by this process's writes, and looks from time to time whether another one wrote.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rusqlite::{Connection, OptionalExtension, Row, Transaction as Write, TransactionBehavior, params};
use tokio::sync::watch;

use super::kv::{
    Change, Changes, Entry, Found, Keys, Kv, KvError, Operation, Outcome, Revision, Transaction, Watch,
};
use super::{StoreError, file};

/// The store.
#[derive(Clone, Debug)]
pub(crate) struct Sqlite(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    path: PathBuf,
    connection: Mutex<Connection>,
    /// Counts this process's commits.
    commits: watch::Sender<u64>,
}

/// How often a watch looks whether another process wrote.
const POLL: Duration = Duration::from_secs(1);
/// Operations of a transaction; more is some seconds of a disk.
const MAX_OPERATIONS: usize = 100_000;
/// How many revisions a watch reads at once: a transaction's keys times this is what it holds.
const BATCH: Revision = 64;

impl Sqlite {
    /// Opens the store in a state directory.
    ///
    /// # Errors
    /// The directory cannot be used, or the file is damaged, foreign or newer.
    pub(crate) fn open(dir: &Path) -> Result<Self, StoreError> {
        let (path, connection) = file::open(dir)?;
        let inner = Inner { path, connection: Mutex::new(connection), commits: watch::Sender::new(0) };
        Ok(Self(Arc::new(inner)))
    }
}

impl Kv for Sqlite {
    fn read(&self, keys: Keys<'_>, at: Option<Revision>) -> Result<Found, KvError> {
        let mut connection = self.0.lock();
        // One transaction: the revision and the rows are of the same moment.
        let read = connection.transaction().map_err(|e| self.0.failed(&e))?;
        let State { revision, compacted } = state(&read).map_err(|e| self.0.failed(&e))?;
        let at = at.unwrap_or(revision);
        if at < compacted {
            return Err(KvError::Compacted);
        }
        if at > revision {
            return Err(KvError::Future);
        }
        let (from, to) = keys.bounds();
        let entries = entries(&read, &from, &to, at).map_err(|e| self.0.failed(&e))?;
        Ok(Found { entries, revision })
    }

    fn commit(&self, transaction: &Transaction) -> Result<Outcome, KvError> {
        let mut connection = self.0.lock();
        let mut commit = || -> rusqlite::Result<Outcome> {
            let write = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            for (key, expected) in &transaction.expected {
                if newest(&write, key)?.map_or(0, |(modified, _)| modified) != *expected {
                    return Ok(Outcome::Conflict);
                }
            }
            let revision = state(&write)?.revision;
            let mut changed = false;
            for operation in &transaction.operations {
                changed |= apply(&write, operation, revision + 1)?;
            }
            if !changed {
                return Ok(Outcome::Committed(revision));
            }
            write.execute("UPDATE kv_state SET revision = ?1", [revision + 1])?;
            write.commit()?;
            Ok(Outcome::Committed(revision + 1))
        };
        let outcome = commit().map_err(|e| self.0.failed(&e))?;
        drop(connection);
        self.0.commits.send_modify(|count| *count += 1);
        Ok(outcome)
    }

    fn is_shared(&self) -> bool {
        false
    }

    fn max_operations(&self) -> usize {
        MAX_OPERATIONS
    }

    fn watch(&self, prefix: &str, from: Revision) -> Box<dyn Watch> {
        let commits = self.0.commits.subscribe();
        Box::new(Follower { store: self.clone(), prefix: prefix.to_owned(), next: from, commits })
    }

    fn compact(&self, at: Revision) -> Result<(), KvError> {
        let mut connection = self.0.lock();
        let write = connection.transaction_with_behavior(TransactionBehavior::Immediate);
        let write = write.map_err(|e| self.0.failed(&e))?;
        let State { revision, compacted } = state(&write).map_err(|e| self.0.failed(&e))?;
        if at <= compacted {
            return Err(KvError::Compacted);
        }
        if at > revision {
            return Err(KvError::Future);
        }
        forget_before(&write, at).and_then(|()| write.commit()).map_err(|e| self.0.failed(&e))?;
        Ok(())
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, Connection> {
        // A panic elsewhere rolled its transaction back: the connection itself is sound.
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn failed(&self, error: &rusqlite::Error) -> StoreError {
        file::failed(&self.path, error)
    }

    /// The changes from a revision on, of some revisions, and the revision to go on with.
    fn changes(&self, prefix: &str, from: Revision) -> Result<(Vec<Change>, Revision), KvError> {
        let mut connection = self.lock();
        let read = connection.transaction().map_err(|e| self.failed(&e))?;
        let State { revision, compacted } = state(&read).map_err(|e| self.failed(&e))?;
        if from < compacted {
            return Err(KvError::Compacted);
        }
        let last = revision.min(from.saturating_add(BATCH - 1));
        if last < from {
            return Ok((Vec::new(), from));
        }
        let changes = changes(&read, prefix, from, last).map_err(|e| self.failed(&e))?;
        Ok((changes, last + 1))
    }
}

struct State {
    revision: Revision,
    compacted: Revision,
}

fn state(connection: &Connection) -> rusqlite::Result<State> {
    let mut statement = connection.prepare_cached("SELECT revision, compacted FROM kv_state")?;
    statement.query_row([], |row| Ok(State { revision: row.get(0)?, compacted: row.get(1)? }))
}

/// A key's last change, and when the key came to be; `None` where there is no such key.
fn newest(connection: &Connection, key: &str) -> rusqlite::Result<Option<(Revision, Revision)>> {
    let newest =
        "SELECT revision, created, value IS NULL FROM kv WHERE key = ?1 ORDER BY revision DESC LIMIT 1";
    let read = |row: &Row<'_>| Ok((row.get(0)?, row.get(1)?, row.get(2)?));
    let found: Option<(Revision, Revision, bool)> =
        connection.prepare_cached(newest)?.query_row([key], read).optional()?;
    Ok(found.filter(|(.., is_deleted)| !is_deleted).map(|(modified, created, _)| (modified, created)))
}

/// Does one operation; says whether it changes anything.
fn apply(write: &Write<'_>, operation: &Operation, revision: Revision) -> rusqlite::Result<bool> {
    let earlier = newest(write, operation.key())?;
    let (created, value) = match (operation, earlier) {
        (Operation::Put { value, .. }, earlier) => (earlier.map_or(revision, |(_, c)| c), Some(value)),
        (Operation::Delete { .. }, Some((_, created))) => (created, None),
        (Operation::Delete { .. }, None) => return Ok(false),
    };
    let insert = "INSERT INTO kv (key, revision, created, value) VALUES (?1, ?2, ?3, ?4)";
    write.prepare_cached(insert)?.execute(params![operation.key(), revision, created, value])?;
    Ok(true)
}

fn entries(connection: &Connection, from: &str, to: &str, at: Revision) -> rusqlite::Result<Vec<Entry>> {
    // With max(), SQLite takes the other columns from the row that has the maximum.
    let newest = "SELECT key, value, created, modified FROM (
            SELECT key, value, created, max(revision) AS modified FROM kv
            WHERE key >= ?1 AND key < ?2 AND revision <= ?3 GROUP BY key
        ) WHERE value IS NOT NULL ORDER BY key";
    connection.prepare_cached(newest)?.query_map(params![from, to, at], entry)?.collect()
}

fn entry(row: &Row<'_>) -> rusqlite::Result<Entry> {
    Ok(Entry { key: row.get(0)?, value: row.get(1)?, created: row.get(2)?, modified: row.get(3)? })
}

fn changes(
    connection: &Connection,
    prefix: &str,
    from: Revision,
    last: Revision,
) -> rusqlite::Result<Vec<Change>> {
    let (first_key, end_key) = Keys::Under(prefix).bounds();
    let rows = "SELECT key, value, created, revision FROM kv
        WHERE revision >= ?1 AND revision <= ?2 AND key >= ?3 AND key < ?4 ORDER BY revision, key";
    let change = |row: &Row<'_>| {
        let value: Option<String> = row.get(1)?;
        let (key, created, modified) = (row.get(0)?, row.get(2)?, row.get(3)?);
        Ok(match value {
            Some(value) => Change::Put(Entry { key, value, created, modified }),
            None => Change::Deleted { key, modified },
        })
    };
    connection.prepare_cached(rows)?.query_map(params![from, last, first_key, end_key], change)?.collect()
}

fn forget_before(write: &Write<'_>, at: Revision) -> rusqlite::Result<()> {
    write.execute(
        "DELETE FROM kv WHERE revision < ?1 AND (value IS NULL OR EXISTS (
            SELECT 1 FROM kv AS later
            WHERE later.key = kv.key AND later.revision > kv.revision AND later.revision <= ?1
        ))",
        [at],
    )?;
    write.execute("UPDATE kv_state SET compacted = ?1", [at])?;
    Ok(())
}

/// A watch.
struct Follower {
    store: Sqlite,
    prefix: String,
    next: Revision,
    commits: watch::Receiver<u64>,
}

impl Watch for Follower {
    fn next(&mut self) -> Changes<'_> {
        Box::pin(async {
            loop {
                self.commits.mark_unchanged();
                let (inner, prefix, next) = (Arc::clone(&self.store.0), self.prefix.clone(), self.next);
                let read = tokio::task::spawn_blocking(move || inner.changes(&prefix, next)).await;
                let (changes, next) = read.map_err(|e| KvError::Unavailable(e.to_string()))??;
                let moved = next > self.next;
                self.next = next;
                if !changes.is_empty() {
                    return Ok(changes);
                }
                if !moved {
                    // Whether it was woken or it is time: both times it looks.
                    drop(tokio::time::timeout(POLL, self.commits.changed()).await);
                }
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::kv::suite;

    fn open() -> (tempfile::TempDir, Sqlite) {
        let dir = tempfile::tempdir().expect("a directory");
        let store = Sqlite::open(dir.path()).expect("a new store");
        (dir, store)
    }

    #[tokio::test]
    async fn it_has_etcds_semantics() {
        let (_dir, store) = open();
        suite::check(&store, "/suite/").await;
    }

    #[tokio::test]
    async fn a_watch_sees_what_another_process_writes() {
        let (dir, store) = open();
        let other = Sqlite::open(dir.path()).expect("the same store");
        let now = store.read(Keys::One("/a"), None).expect("read").revision;
        let mut watch = store.watch("/a", now + 1);
        let put = Operation::Put { key: "/a".to_owned(), value: "1".to_owned() };
        other.commit(&Transaction { operations: vec![put], ..Transaction::default() }).expect("written");
        let [Change::Put(entry)] = &watch.next().await.expect("told")[..] else { panic!("one change") };
        assert_eq!((&*entry.key, entry.modified), ("/a", now + 1));
    }

    #[test]
    fn what_is_not_committed_was_never_there() {
        let (dir, store) = open();
        let before = store.read(Keys::Under("/"), None).expect("read");
        {
            let mut connection = store.0.lock();
            let write = connection.transaction().expect("begun");
            let put = Operation::Put { key: "/a".to_owned(), value: "1".to_owned() };
            assert!(apply(&write, &put, before.revision + 1).expect("written"));
            // The process ends here: nothing of it was committed.
        }
        drop(store);
        let store = Sqlite::open(dir.path()).expect("the store");
        assert_eq!(store.read(Keys::Under("/"), None).expect("read"), before);
    }
}
