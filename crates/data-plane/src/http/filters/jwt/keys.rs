//! The keys of an issuer: those that config has, or those that are fetched, or read from a file.
//!
//! A set that comes from elsewhere is asked for again before it is old, in the background, once for all workers; no
//! request waits for that while the last good set holds. Where no new one comes, the last one stands for a while longer
//! ([`KEYS_GRACE`]); then there are no keys, and no token is good. A key that is not in a new set does not count any more. A token
//! that names a key which nobody knows has the set asked for early, since issuers begin with a new key at once.

use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use meshwork_identity::jwt::KeySet;
use meshwork_model::head::RequestHead;
use meshwork_model::jwt::Failure;
use meshwork_model::proxy::{JwtKeys, JwtProvider, RemoteKeys};
use tokio::io::AsyncReadExt as _;
use tokio::sync::{Notify, watch};
use tokio::task::spawn_local;
use tokio::time::{Instant, sleep, timeout};
use tracing::{debug, info, warn};

use crate::http::call::{Call, call};
use crate::limits::{
    CALL_BYTES, KEYS_APART_LEAST, KEYS_EARLY_APART, KEYS_FAILED_APART, KEYS_FAILED_APART_MOST,
    KEYS_FILE_LOOK, KEYS_GRACE, KEYS_GRACE_TIMES, KEYS_RETRY_PAUSE_MOST,
};
use crate::worker::Worker;

/// The keys of an issuer.
pub(in crate::http::filters) struct Keys {
    /// Whose they are, for logs.
    name: Arc<str>,
    source: JwtKeys,
    current: ArcSwapOption<Current>,
    /// Whether somebody asks for newer ones from time to time.
    is_followed: AtomicBool,
    turn: Mutex<Turn>,
    /// Wakes who asks for newer ones.
    wake: Arc<Notify>,
    /// Counts attempts that ended.
    ended: watch::Sender<u64>,
}

struct Current {
    text: String,
    keys: Arc<KeySet>,
    /// Until when they stand; `None` for ever.
    until: Option<Instant>,
}

/// Where asking stands.
#[derive(Default)]
struct Turn {
    /// An attempt is under way, or about to be.
    is_asking: bool,
    /// When the last one ended.
    ended_at: Option<Instant>,
}

/// Who asks for newer keys, until it is dropped.
struct Following(Weak<Keys>);

impl Keys {
    pub(in crate::http::filters) fn of(provider: &JwtProvider) -> Arc<Self> {
        let text = match &provider.keys {
            JwtKeys::Inline(text) => Some(text.to_string()),
            // As Envoy does when it takes the config over.
            JwtKeys::File(path) => std::fs::read_to_string(&**path)
                .inspect_err(|error| warn!(%path, %error, "keys cannot be read"))
                .ok(),
            JwtKeys::Remote(_) => None,
        };
        let keys = Self {
            name: Arc::clone(&provider.name),
            source: provider.keys.clone(),
            current: ArcSwapOption::empty(),
            is_followed: AtomicBool::new(false),
            turn: Mutex::default(),
            wake: Arc::default(),
            ended: watch::Sender::new(0),
        };
        if let Some(Err(error)) = text.map(|text| keys.keep(text)) {
            warn!(issuer = %keys.name, error, "the set of keys is not good");
        }
        Arc::new(keys)
    }

    /// Whether they come from there.
    pub(in crate::http::filters) fn are_of(&self, source: &JwtKeys) -> bool {
        self.source == *source
    }

    /// The keys of now.
    ///
    /// # Errors
    /// There are none: config has none, or they cannot be had.
    ///
    /// # Cancel safety
    /// What was begun goes on for others.
    pub(super) async fn now(self: &Arc<Self>, worker: &Rc<Worker>) -> Result<Arc<KeySet>, Failure> {
        if let Some(keys) = self.at_hand(worker) {
            return keys;
        }
        self.attempt(self.retry_pause()).await;
        self.good().ok_or(Failure::NoKeySet)
    }

    /// The same, where nobody has to wait for it; `None` where keys have to be asked for first.
    pub(super) fn at_hand(self: &Arc<Self>, worker: &Rc<Worker>) -> Option<Result<Arc<KeySet>, Failure>> {
        if let JwtKeys::Inline(_) = self.source {
            return Some(self.good().ok_or(Failure::NoValidKeys));
        }
        if !self.is_followed.load(Ordering::Relaxed) {
            self.follow(worker);
        }
        self.good().map(Ok)
    }

    /// Keys that are newer than these, which lack one that a token names; asked for once in [`KEYS_EARLY_APART`] at most.
    ///
    /// # Cancel safety
    /// As of [`Self::now`].
    pub(super) async fn newer(&self, than: &Arc<KeySet>) -> Option<Arc<KeySet>> {
        let newer = || self.good().filter(|keys| !Arc::ptr_eq(keys, than));
        if let JwtKeys::Inline(_) = self.source {
            return None;
        }
        if newer().is_none() {
            self.attempt(KEYS_EARLY_APART).await;
        }
        newer()
    }

    /// The last good set, where it still stands.
    fn good(&self) -> Option<Arc<KeySet>> {
        let current = self.current.load_full()?;
        let stands = current.until.is_none_or(|until| Instant::now() < until);
        stands.then(|| Arc::clone(&current.keys))
    }

    /// Waits for the attempt that is under way, or for a new one, where the last one is so long ago.
    async fn attempt(&self, apart: Duration) {
        let mut ended = self.ended.subscribe();
        {
            let mut turn = self.turn();
            if !turn.is_asking {
                if turn.ended_at.is_some_and(|at| at.elapsed() < apart) {
                    return;
                }
                turn.is_asking = true;
                self.wake.notify_one();
            }
        }
        // The sender lives as long as `self`.
        let _ = ended.changed().await;
    }

    /// Begins to ask for newer keys from time to time.
    fn follow(self: &Arc<Self>, worker: &Rc<Worker>) {
        if self.is_followed.swap(true, Ordering::AcqRel) {
            return;
        }
        self.turn().is_asking = true;
        let (source, worker, name) = (self.source.clone(), Rc::clone(worker), Arc::clone(&self.name));
        let ask = async move || match &source {
            JwtKeys::Remote(remote) => fetch_patiently(&worker, remote, &name).await,
            JwtKeys::File(path) => read(path).await,
            JwtKeys::Inline(text) => Ok(text.to_string()),
        };
        // It goes on for the others when the request that began it ends.
        spawn_local(run(Following(Arc::downgrade(self)), Arc::clone(&self.wake), ask));
    }

    /// Takes a set in.
    fn keep(&self, text: String) -> Result<(), String> {
        let until = self.lifetime().map(|lifetime| Instant::now() + lifetime);
        let known = self.current.load_full().filter(|known| known.text == text);
        let keys = if let Some(known) = known {
            Arc::clone(&known.keys)
        } else {
            let keys = match self.source {
                JwtKeys::Remote(_) => KeySet::parse_public(&text)?,
                JwtKeys::File(_) | JwtKeys::Inline(_) => KeySet::parse(&text)?,
            };
            info!(issuer = %self.name, "there are new keys for tokens");
            Arc::new(keys)
        };
        self.current.store(Some(Arc::new(Current { text, keys, until })));
        Ok(())
    }

    /// For how long a set is believed.
    fn cache(&self) -> Duration {
        match &self.source {
            JwtKeys::Remote(remote) => remote.cache,
            JwtKeys::File(_) | JwtKeys::Inline(_) => KEYS_FILE_LOOK,
        }
    }

    /// How long it stands, at most.
    fn lifetime(&self) -> Option<Duration> {
        if let JwtKeys::Inline(_) = self.source {
            return None;
        }
        let grace = self.cache().saturating_mul(KEYS_GRACE_TIMES).min(KEYS_GRACE);
        Some(self.cache().saturating_add(grace))
    }

    fn retry_pause(&self) -> Duration {
        match &self.source {
            JwtKeys::Remote(remote) => remote.retry_pause.max(KEYS_APART_LEAST),
            JwtKeys::File(_) | JwtKeys::Inline(_) => KEYS_APART_LEAST,
        }
    }

    /// How long after this many failures in a row the next attempt is made.
    fn pause(&self, failures: u32) -> Duration {
        let pause = match (&self.source, failures) {
            // Well before they are old.
            (JwtKeys::Remote(remote), 0) => remote.cache / 4 * 3,
            (_, 0) => self.cache(),
            (_, failures) => {
                let doubled = KEYS_FAILED_APART.saturating_mul(2_u32.saturating_pow(failures - 1));
                // Keys that are believed for less come back as soon.
                doubled.min(KEYS_FAILED_APART_MOST).min(self.cache())
            }
        };
        // Those of many proxies do not come together; a tenth more or less.
        pause.max(KEYS_APART_LEAST).mul_f64(0.9 + 0.2 * fastrand::f64())
    }

    fn end_attempt(&self) {
        let mut turn = self.turn();
        turn.is_asking = false;
        turn.ended_at = Some(Instant::now());
        drop(turn);
        self.ended.send_modify(|count| *count += 1);
    }

    fn turn(&self) -> MutexGuard<'_, Turn> {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Keys {
    fn drop(&mut self) {
        // Who follows finds nobody, and ends.
        self.wake.notify_one();
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        if let Some(keys) = self.0.upgrade() {
            keys.is_followed.store(false, Ordering::Release);
            keys.end_attempt();
        }
    }
}

/// Asks again and again, as long as somebody wants to know.
async fn run(following: Following, wake: Arc<Notify>, mut ask: impl AsyncFnMut() -> Result<String, String>) {
    let mut failures = 0;
    loop {
        let Some(keys) = following.0.upgrade() else { return };
        keys.turn().is_asking = true;
        match ask().await.and_then(|text| keys.keep(text)) {
            Ok(()) => failures = 0,
            Err(error) => {
                failures += 1;
                // The first of a series is told, and what it comes to.
                if failures == 1 {
                    warn!(issuer = %keys.name, error, "no new keys for tokens; the last ones stand for now");
                } else if keys.good().is_none() {
                    warn!(issuer = %keys.name, error, "there are no keys for tokens: none is good");
                } else {
                    debug!(issuer = %keys.name, error, "still no new keys for tokens");
                }
            }
        }
        keys.end_attempt();
        let pause = keys.pause(failures);
        drop(keys);
        let _ = timeout(pause, wake.notified()).await;
    }
}

/// Fetches, and tries again as often as config says.
async fn fetch_patiently(worker: &Rc<Worker>, remote: &RemoteKeys, name: &str) -> Result<String, String> {
    let mut pause = remote.retry_pause;
    for left in (1..=remote.retries).rev() {
        match fetch(worker, remote).await {
            Ok(text) => return Ok(text),
            Err(error) => {
                debug!(issuer = name, from = %remote.authority, left, error, "keys are fetched again");
            }
        }
        sleep(pause).await;
        pause = (pause * 2).min(KEYS_RETRY_PAUSE_MOST);
    }
    fetch(worker, remote).await
}

async fn fetch(worker: &Rc<Worker>, remote: &RemoteKeys) -> Result<String, String> {
    let mut head = RequestHead::default();
    head.set_method(b"GET");
    head.set_authority(remote.authority.as_bytes());
    head.set_path_and_query(remote.path.as_bytes());
    let ask =
        Call { cluster: &remote.cluster, head: &head, body: bytes::Bytes::new(), timeout: remote.timeout };
    let answered = call(worker, &ask).await.map_err(|error| error.kind.to_string())?;
    match answered.head.status {
        200 => {}
        status @ 300..400 => return Err(format!("the status is {status}, and redirects are not followed")),
        status => return Err(format!("the status is {status}")),
    }
    let text = std::str::from_utf8(&answered.body).map_err(|error| error.to_string())?;
    // What is no set is a failure to be tried again, as Envoy has it.
    KeySet::parse_public(text)?;
    Ok(text.to_owned())
}

async fn read(path: &str) -> Result<String, String> {
    let file = tokio::fs::File::open(path).await.map_err(|error| error.to_string())?;
    let mut text = String::new();
    let most = CALL_BYTES as u64 + 1;
    file.take(most).read_to_string(&mut text).await.map_err(|error| error.to_string())?;
    if text.len() > CALL_BYTES { Err("the file is too long".to_owned()) } else { Ok(text) }
}

#[cfg(test)]
mod tests;
