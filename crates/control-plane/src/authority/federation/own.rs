//! Our own bundle as a document for others, with a sequence number that grows with each change. The store has the number,
//! so that control planes of one mesh serve the same, and a restart goes on with it.

use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use serde::{Deserialize, Serialize};

use super::super::{Authority, now};
use crate::store::KvError;
use crate::store::kv::{Keys, Kv, Operation, Outcome, Transaction};
use crate::store::{hash, hex};

/// Where the number is kept.
const OWN: &str = "/meshwork/federation/own";
/// How often the number is written anew that another control plane wrote in between.
const MAX_TRIES: usize = 8;

/// A document as it was made.
#[derive(Clone, Debug)]
pub(super) struct OwnDocument {
    /// Of all but the number.
    hash: String,
    text: String,
    /// When it became so, in seconds since 1970.
    since: i64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Numbered {
    sequence: u64,
    hash: String,
    since: i64,
}

impl Authority {
    /// Our own bundle as a SPIFFE bundle document: JSON. Blocks where it has changed.
    ///
    /// # Errors
    /// The store fails.
    pub(crate) fn own_document(&self) -> Result<String, KvError> {
        self.document_of_now().map(|document| document.text)
    }

    /// Whether other trust domains know our bundle as it is: they look again at their time. Yes where none is told.
    pub(in super::super) fn is_known_to_others(&self) -> bool {
        if !self.federation.is_served.load(Ordering::Relaxed) {
            return true;
        }
        let wait = i64::try_from(self.federation.refresh.as_secs() * 2).unwrap_or(i64::MAX);
        self.document_of_now().is_ok_and(|document| now() - document.since >= wait)
    }

    fn document_of_now(&self) -> Result<OwnDocument, KvError> {
        let bundle = self.published.borrow().trust.own().clone();
        let hash = hex(&hash(bundle.to_document(0, None).to_string().as_bytes()));
        let mut own = self.federation.own.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = own.as_ref().filter(|known| known.hash == hash) {
            return Ok(known.clone());
        }
        let Numbered { sequence, hash, since } = number(&*self.kv, &hash, now())?;
        let text = format!("{:#}\n", bundle.to_document(sequence, Some(self.federation.refresh)));
        Ok(own.insert(OwnDocument { hash, text, since }).clone())
    }
}

/// The number of a document with this hash: the last one where it has not changed, else the next.
fn number(kv: &dyn Kv, hash: &str, now: i64) -> Result<Numbered, KvError> {
    for _ in 0..MAX_TRIES {
        let found = kv.read(Keys::One(OWN), None)?.entries.into_iter().next();
        let (last, modified): (Numbered, _) = match &found {
            Some(entry) => (serde_json::from_str(&entry.value).unwrap_or_default(), entry.modified),
            None => (Numbered::default(), 0),
        };
        if last.hash == hash {
            return Ok(last);
        }
        let next = Numbered { sequence: last.sequence + 1, hash: hash.to_owned(), since: now };
        let value = serde_json::to_string(&next).map_err(|error| KvError::Unavailable(error.to_string()))?;
        let transaction = Transaction {
            expected: vec![(OWN.to_owned(), modified)],
            operations: vec![Operation::Put { key: OWN.to_owned(), value }],
        };
        if let Outcome::Committed(_) = kv.commit(&transaction)? {
            return Ok(next);
        }
    }
    Err(KvError::Unavailable("others keep writing the number of the bundle".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::sqlite::Sqlite;

    #[test]
    fn the_number_grows_with_each_change_and_with_nothing_else() {
        let dir = tempfile::tempdir().expect("a directory");
        let kv = Sqlite::open(dir.path()).expect("a store");
        let check = |kv: &Sqlite, hash: &str, now: i64, sequence: u64, since: i64| {
            let expected = Numbered { sequence, hash: hash.to_owned(), since };
            assert_eq!(number(kv, hash, now).expect("numbered"), expected);
        };
        check(&kv, "a", 10, 1, 10);
        check(&kv, "a", 20, 1, 10);
        check(&kv, "b", 30, 2, 30);
        check(&kv, "a", 40, 3, 40);
        drop(kv);
        let kv = Sqlite::open(dir.path()).expect("a store");
        check(&kv, "a", 50, 3, 40);
    }
}
