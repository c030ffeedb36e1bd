//! The store in etcd, for several control planes at once.
//!
//! Its client is async and runs on a thread of its own; calls wait for it as they wait for a disk. A call that gets no
//! answer in time fails, and a write may be done then or not. Members without a leader are not asked: in a partition
//! the side with the majority goes on, the other fails.
//!
//! Source: etcd's API v3.

use std::future::Future;
use std::sync::mpsc as blocking;
use std::time::Duration;

use etcd_client::{
    Client, Compare, CompareOp, ConnectOptions, Error, Event, EventType, GetOptions, KeyValue, KvClient, Txn,
    TxnOp, WatchOptions, WatchResponse,
};
use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use tracing::warn;

use super::kv::{
    Change, Changes, Entry, Found, Keys, Kv, KvError, Operation, Outcome, Revision, Transaction, Watch,
};

/// The store.
pub(crate) struct Etcd {
    /// `None` once it is dropped.
    runtime: Option<Runtime>,
    client: Client,
}

/// How long an answer may take; an election takes a second or two.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// How often an answer is asked for at the start: of three members one may be down.
const OPEN_TRIES: usize = 3;
/// How long a connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// How often a connection is probed, and how long it may be silent then: a partition is noticed within their sum.
const PROBE_EVERY: Duration = Duration::from_secs(5);
const PROBE_TIMEOUT: Duration = Duration::from_secs(3);
/// After a watch broke, the pause before the next.
const WATCH_AGAIN: Duration = Duration::from_millis(500);
/// What etcd takes where its --max-txn-ops is not raised.
const MAX_OPERATIONS: usize = 128;
/// Keys of one answer; a longer list is read in parts.
const PAGE: i64 = 200;
/// The largest answer: a page of the largest values that etcd takes, 1.5 MiB each, is within it.
const MAX_ANSWER_BYTES: usize = 512 << 20;
/// Changes that wait to be looked at; etcd waits, too.
const WAITING_CHANGES: usize = 16;

impl Etcd {
    /// Connects to the members of a cluster, as URLs.
    ///
    /// # Errors
    /// A URL is none, or none of them answers.
    pub(crate) fn open(endpoints: &[String]) -> Result<Self, KvError> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("etcd")
            .enable_all()
            .build()
            .map_err(|error| KvError::Unavailable(error.to_string()))?;
        let options = ConnectOptions::new()
            .with_connect_timeout(CONNECT_TIMEOUT)
            .with_keep_alive(PROBE_EVERY, PROBE_TIMEOUT)
            .with_keep_alive_while_idle(true)
            .with_require_leader(true);
        let endpoints = endpoints.to_vec();
        let client = wait(&runtime, async move { Client::connect(endpoints, Some(options)).await })?;
        let store = Self { runtime: Some(runtime), client };
        // The first that is asked may be the one that is down: others are asked then.
        for _ in 1..OPEN_TRIES {
            if store.read(Keys::One("/meshwork/"), None).is_ok() {
                return Ok(store);
            }
        }
        store.read(Keys::One("/meshwork/"), None)?;
        Ok(store)
    }

    fn kv(&self) -> KvClient {
        self.client.kv_client().max_decoding_message_size(MAX_ANSWER_BYTES)
    }

    fn wait<T: Send + 'static>(
        &self,
        call: impl Future<Output = Result<T, Error>> + Send + 'static,
    ) -> Result<T, KvError> {
        match &self.runtime {
            Some(runtime) => wait(runtime, call),
            None => Err(KvError::Unavailable("it is closed".to_owned())),
        }
    }
}

/// Waits for a call, on whatever thread.
fn wait<T: Send + 'static>(
    runtime: &Runtime,
    call: impl Future<Output = Result<T, Error>> + Send + 'static,
) -> Result<T, KvError> {
    let (tell, told) = blocking::sync_channel(1);
    runtime.spawn(async move {
        // Who asked is there still: it waits without end.
        let _ = tell.send(tokio::time::timeout(ANSWER_TIMEOUT, call).await);
    });
    match told.recv() {
        Ok(Ok(answer)) => answer.map_err(|error| failed(&error)),
        Ok(Err(_)) => Err(KvError::Unavailable(format!("etcd is silent for {} s", ANSWER_TIMEOUT.as_secs()))),
        Err(_) => Err(KvError::Unavailable("etcd's client has ended".to_owned())),
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        // Dropped on a thread of another runtime, it must not wait.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl std::fmt::Debug for Etcd {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Etcd").finish_non_exhaustive()
    }
}

impl Kv for Etcd {
    fn read(&self, keys: Keys<'_>, at: Option<Revision>) -> Result<Found, KvError> {
        let (from, to) = keys.bounds();
        let mut kv = self.kv();
        let (pairs, revision) = self.wait(async move { pages(&mut kv, from, to, at).await })?;
        let entries = pairs.iter().map(entry).collect::<Result<_, _>>()?;
        Ok(Found { entries, revision })
    }

    fn commit(&self, transaction: &Transaction) -> Result<Outcome, KvError> {
        let compare = |(key, at): &(String, Revision)| Compare::mod_revision(&**key, CompareOp::Equal, *at);
        let operation = |operation: &Operation| match operation {
            Operation::Put { key, value } => TxnOp::put(&**key, &**value, None),
            Operation::Delete { key } => TxnOp::delete(&**key, None),
        };
        let compares: Vec<_> = transaction.expected.iter().map(compare).collect();
        let operations: Vec<_> = transaction.operations.iter().map(operation).collect();
        let (mut kv, transaction) = (self.kv(), Txn::new().when(compares).and_then(operations));
        let answer = self.wait(async move { kv.txn(transaction).await })?;
        if !answer.succeeded() {
            return Ok(Outcome::Conflict);
        }
        Ok(Outcome::Committed(answer.header().map_or(0, etcd_client::ResponseHeader::revision)))
    }

    fn is_shared(&self) -> bool {
        true
    }

    fn max_operations(&self) -> usize {
        MAX_OPERATIONS
    }

    fn watch(&self, prefix: &str, from: Revision) -> Box<dyn Watch> {
        let (lines, told) = mpsc::channel(WAITING_CHANGES);
        if let Some(runtime) = &self.runtime {
            runtime.spawn(follow(self.client.clone(), prefix.to_owned(), from, lines));
        }
        Box::new(Follower(told))
    }

    fn compact(&self, at: Revision) -> Result<(), KvError> {
        let mut kv = self.kv();
        self.wait(async move { kv.compact(at, None).await }).map(drop)
    }
}

/// Reads a range in parts, all as of one revision.
async fn pages(
    kv: &mut KvClient,
    from: String,
    to: String,
    at: Option<Revision>,
) -> Result<(Vec<KeyValue>, Revision), Error> {
    let (mut next, mut pairs) = (from.into_bytes(), Vec::new());
    let (mut at, mut newest) = (at.unwrap_or(0), 0);
    loop {
        let options = GetOptions::new().with_range(&*to).with_limit(PAGE).with_revision(at);
        let mut answer = kv.get(next, Some(options)).await?;
        let revision = answer.header().map_or(0, etcd_client::ResponseHeader::revision);
        if newest == 0 {
            newest = revision;
        }
        if at == 0 {
            at = revision;
        }
        let has_more = answer.more();
        pairs.append(&mut answer.take_kvs());
        let Some(last) = pairs.last().filter(|_| has_more) else { return Ok((pairs, newest)) };
        next = [last.key(), b"\0"].concat();
    }
}

/// Passes changes on until nobody listens, or what is to be told is compacted. A broken watch begins anew.
async fn follow(
    mut client: Client,
    prefix: String,
    from: Revision,
    lines: mpsc::Sender<Result<Vec<Change>, KvError>>,
) {
    let mut next = from;
    loop {
        tokio::select! {
            () = lines.closed() => return,
            told = stream(&mut client, &prefix, &mut next, &lines) => match told {
                Err(error @ KvError::Compacted) => {
                    // Nobody listens: then nobody misses it.
                    let _ = lines.send(Err(error)).await;
                    return;
                }
                Err(error) => warn!(%error, "the watch of etcd begins anew"),
                Ok(()) => {}
            }
        }
        tokio::time::sleep(WATCH_AGAIN).await;
    }
}

async fn stream(
    client: &mut Client,
    prefix: &str,
    next: &mut Revision,
    lines: &mpsc::Sender<Result<Vec<Change>, KvError>>,
) -> Result<(), KvError> {
    let options = WatchOptions::new().with_prefix().with_start_revision(*next);
    let mut stream = client.watch(prefix, Some(options)).await.map_err(|error| failed(&error))?;
    while let Some(answer) = stream.message().await.map_err(|error| failed(&error))? {
        let changes = changes(&answer)?;
        let Some(last) = changes.last().map(Change::modified) else { continue };
        if lines.send(Ok(changes)).await.is_err() {
            return Ok(());
        }
        *next = last + 1;
    }
    Ok(())
}

fn changes(answer: &WatchResponse) -> Result<Vec<Change>, KvError> {
    if answer.compact_revision() > 0 {
        return Err(KvError::Compacted);
    }
    if answer.canceled() {
        return Err(KvError::Unavailable(answer.cancel_reason().to_owned()));
    }
    answer.events().iter().filter_map(change).collect()
}

fn change(event: &Event) -> Option<Result<Change, KvError>> {
    let pair = event.kv()?;
    Some(match event.event_type() {
        EventType::Put => entry(pair).map(Change::Put),
        EventType::Delete => {
            text(pair.key()).map(|key| Change::Deleted { key, modified: pair.mod_revision() })
        }
    })
}

fn entry(pair: &KeyValue) -> Result<Entry, KvError> {
    Ok(Entry {
        key: text(pair.key())?,
        value: text(pair.value())?,
        created: pair.create_revision(),
        modified: pair.mod_revision(),
    })
}

/// What we write is text; what is none was written by somebody else.
fn text(bytes: &[u8]) -> Result<String, KvError> {
    let not_ours =
        |_| KvError::Unavailable("there is something under /meshwork/ that is not text".to_owned());
    String::from_utf8(bytes.to_vec()).map_err(not_ours)
}

/// etcd tells these apart by their words. Source: etcd `api/v3rpc/rpctypes`.
fn failed(error: &Error) -> KvError {
    let Error::GRpcStatus(status) = error else { return KvError::Unavailable(error.to_string()) };
    let why = status.message();
    if why.contains("revision has been compacted") {
        KvError::Compacted
    } else if why.contains("is a future revision") {
        KvError::Future
    } else if why.contains("too many operations") {
        KvError::TooLarge(format!("{why}; start etcd with a larger --max-txn-ops"))
    } else if why.contains("too large") {
        KvError::TooLarge(format!("{why}; start etcd with a larger --max-request-bytes"))
    } else {
        KvError::Unavailable(why.to_owned())
    }
}

/// A watch.
struct Follower(mpsc::Receiver<Result<Vec<Change>, KvError>>);

impl Watch for Follower {
    fn next(&mut self) -> Changes<'_> {
        Box::pin(async {
            let told = self.0.recv().await;
            told.unwrap_or_else(|| Err(KvError::Unavailable("the watch is over".to_owned())))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::kv::suite;

    /// The etcd that tests may write to, if there is one.
    fn open() -> Option<Etcd> {
        let endpoint = std::env::var("MESHWORK_TEST_ETCD").ok()?;
        Some(Etcd::open(&[endpoint]).expect("it answers"))
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn it_has_etcds_semantics() {
        let Some(store) = open() else { return };
        let prefix = format!("/suite/{}/", std::process::id());
        suite::check(&store, &prefix).await;
    }

    #[test]
    fn a_long_list_is_read_in_parts() {
        let Some(store) = open() else { return };
        let prefix = format!("/long/{}/", std::process::id());
        let puts: Vec<_> = (0..450)
            .map(|i| Operation::Put { key: format!("{prefix}{i:03}"), value: i.to_string() })
            .collect();
        for operations in puts.chunks(100) {
            let operations = operations.to_vec();
            store.commit(&Transaction { operations, ..Transaction::default() }).expect("written");
        }
        let found = store.read(Keys::Under(&prefix), None).expect("read");
        assert_eq!(found.entries.len(), 450);
        let too_many = store.commit(&Transaction { operations: puts, ..Transaction::default() });
        assert!(matches!(too_many, Err(KvError::TooLarge(_))), "{too_many:?}");
    }

    #[test]
    fn an_etcd_that_is_not_there_is_told() {
        let error = Etcd::open(&["http://127.0.0.1:1".to_owned()]).expect_err("not there");
        assert!(matches!(error, KvError::Unavailable(_)), "{error}");
    }
}
