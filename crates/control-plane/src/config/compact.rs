//! Forgets what the store had been, a while after. Config's own history is made of keys, and not touched.

use std::sync::Arc;
use std::time::Duration;

use tracing::warn;

use super::HEAD;
use crate::store::KvError;
use crate::store::kv::{Keys, Kv, Revision};

/// How long the store keeps what was: a watch that is further behind reads anew.
const EVERY: Duration = Duration::from_mins(10);

/// Compacts the store, for as long as it is polled.
pub(crate) async fn compact(kv: &Arc<dyn Kv>) {
    let mut earlier = None;
    loop {
        let kv = Arc::clone(kv);
        match tokio::task::spawn_blocking(move || step(&*kv, earlier)).await {
            Ok(Ok(now)) => earlier = Some(now),
            Ok(Err(error)) => warn!(%error, "the store is not compacted"),
            Err(error) => warn!(%error, "the store is not compacted"),
        }
        tokio::time::sleep(EVERY).await;
    }
}

/// Forgets what was before a revision; gives the one of now.
fn step(kv: &dyn Kv, earlier: Option<Revision>) -> Result<Revision, KvError> {
    let now = kv.read(Keys::One(HEAD), None)?.revision;
    match earlier.map(|earlier| kv.compact(earlier)) {
        // Another control plane did it.
        None | Some(Ok(()) | Err(KvError::Compacted)) => Ok(now),
        Some(Err(error)) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::kv::{Operation, Transaction};
    use crate::store::sqlite::Sqlite;

    #[test]
    fn what_was_a_while_ago_is_forgotten_and_what_is_stays() {
        let dir = tempfile::tempdir().expect("a directory");
        let kv = Sqlite::open(dir.path()).expect("a store");
        let put = |value: &str| {
            let put = Operation::Put { key: "/a".to_owned(), value: value.to_owned() };
            kv.commit(&Transaction { operations: vec![put], ..Transaction::default() }).expect("written");
        };
        put("1");
        put("2");
        let earlier = step(&kv, None).expect("nothing to forget yet");
        put("3");
        let later = step(&kv, Some(earlier)).expect("forgotten");
        assert_eq!(later, earlier + 1);
        assert!(matches!(kv.read(Keys::One("/a"), Some(earlier - 1)), Err(KvError::Compacted)));
        let value = |at| kv.read(Keys::One("/a"), at).expect("read").entries[0].value.clone();
        assert_eq!((value(Some(earlier)), value(None)), ("2".to_owned(), "3".to_owned()));
        // Another control plane was faster.
        assert_eq!(step(&kv, Some(earlier)).expect("done already"), later);
    }
}
