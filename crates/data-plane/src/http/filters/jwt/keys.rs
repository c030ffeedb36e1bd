//! The keys of an issuer: those that config has, or those that are fetched.
//!
//! A set is fetched by one request for all, whichever asks first; others wait for it. One that is old stands as long as
//! no new one comes.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use meshwork_identity::jwt::KeySet;
use meshwork_model::head::RequestHead;
use meshwork_model::jwt::Failure;
use meshwork_model::proxy::{JwtKeys, JwtProvider, RemoteKeys};
use tokio::sync::watch;
use tokio::task::spawn_local;
use tokio::time::{Instant, sleep};
use tracing::{info, warn};

use crate::http::call::{Call, call};
use crate::worker::Worker;

/// The keys of an issuer.
pub(super) struct Keys {
    source: Source,
    current: ArcSwapOption<Current>,
    is_fetching: AtomicBool,
    /// Counts fetches that ended.
    fetched: watch::Sender<u64>,
}

enum Source {
    /// They are there, or will never be.
    Fixed,
    /// They come from somewhere else.
    Remote(RemoteKeys),
}

struct Current {
    keys: Arc<KeySet>,
    /// Until when they are believed; `None` for ever.
    until: Option<Instant>,
}

/// A fetch under way, until this is dropped.
struct Fetching(Arc<Keys>);

impl Keys {
    pub(super) fn of(provider: &Arc<JwtProvider>) -> Arc<Self> {
        let (source, text) = match &provider.keys {
            JwtKeys::Inline(text) => (Source::Fixed, Some(text.to_string())),
            JwtKeys::File(path) => (Source::Fixed, read(path)),
            JwtKeys::Remote(remote) => (Source::Remote(remote.clone()), None),
        };
        let current = text
            .and_then(|text| parse(&provider.name, &text))
            .map(|keys| Arc::new(Current { keys: Arc::new(keys), until: None }));
        Arc::new(Self {
            source,
            current: ArcSwapOption::new(current),
            is_fetching: AtomicBool::new(false),
            fetched: watch::Sender::new(0),
        })
    }

    /// The keys of now.
    pub(super) async fn now(self: &Arc<Self>, worker: &Rc<Worker>) -> Result<Arc<KeySet>, Failure> {
        let is_fresh = |current: &Arc<Current>| current.until.is_none_or(|until| Instant::now() < until);
        if let Some(current) = self.current.load_full().filter(is_fresh) {
            return Ok(Arc::clone(&current.keys));
        }
        let Source::Remote(remote) = &self.source else { return Err(Failure::NoValidKeys) };
        let mut fetched = self.fetched.subscribe();
        if !self.is_fetching.swap(true, Ordering::AcqRel) {
            let fetching = Fetching(Arc::clone(self));
            let (worker, remote) = (Rc::clone(worker), remote.clone());
            // It goes on for the others when the request that began it ends.
            spawn_local(async move { fetching.fetch(&worker, &remote).await });
        }
        // The sender lives as long as `self`.
        let _ = fetched.changed().await;
        let current = self.current.load_full();
        current.map(|current| Arc::clone(&current.keys)).ok_or(Failure::NoKeySet)
    }
}

impl Fetching {
    async fn fetch(self, worker: &Rc<Worker>, remote: &RemoteKeys) {
        let mut pause = remote.retry_pause;
        for left in (0..=remote.retries).rev() {
            match fetch(worker, remote).await {
                Ok(keys) => {
                    info!(from = %remote.authority, "keys were fetched");
                    let until = Instant::now() + remote.cache;
                    self.0
                        .current
                        .store(Some(Arc::new(Current { keys: Arc::new(keys), until: Some(until) })));
                    return;
                }
                Err(error) => warn!(from = %remote.authority, left, %error, "keys could not be fetched"),
            }
            if left > 0 {
                sleep(pause).await;
                pause = (pause * 2).min(Duration::from_secs(10));
            }
        }
    }
}

impl Drop for Fetching {
    fn drop(&mut self) {
        self.0.is_fetching.store(false, Ordering::Release);
        self.0.fetched.send_modify(|count| *count += 1);
    }
}

async fn fetch(worker: &Rc<Worker>, remote: &RemoteKeys) -> Result<KeySet, String> {
    let mut head = RequestHead::default();
    head.set_method(b"GET");
    head.set_authority(remote.authority.as_bytes());
    head.set_path_and_query(remote.path.as_bytes());
    let ask =
        Call { cluster: &remote.cluster, head: &head, body: bytes::Bytes::new(), timeout: remote.timeout };
    let answered = call(worker, &ask).await.map_err(|error| error.kind.to_string())?;
    if answered.head.status != 200 {
        return Err(format!("the status is {}", answered.head.status));
    }
    let text = std::str::from_utf8(&answered.body).map_err(|error| error.to_string())?;
    KeySet::parse(text)
}

fn read(path: &str) -> Option<String> {
    std::fs::read_to_string(path).inspect_err(|error| warn!(path, %error, "keys cannot be read")).ok()
}

fn parse(provider: &str, text: &str) -> Option<KeySet> {
    KeySet::parse(text).inspect_err(|error| warn!(provider, error, "the set of keys is not good")).ok()
}
