//! Questions that others know the answer to: from the cache, together with who asks the same already, or from the host's
//! resolvers, one after the other.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, WeakShared};
use hickory_proto::op::ResponseCode;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout, timeout_at};
use tracing::warn;

use super::Resolvers;
use super::cache::Cache;
use super::content::Content;
use super::exchange::{self, Failure};
use super::limits::{QUESTION, ROUNDS, SERVER_REST, TELL_EVERY, TRY, UPSTREAM_QUESTIONS, WAITING};
use super::query::Question;
use super::resolvers::Followed;

/// A question that is being asked. Whoever waits for it drives it; it ends with the last of them.
type Flight = WeakShared<BoxFuture<'static, Arc<Content>>>;

/// Asks one server: [`exchange::ask`], but for tests.
type Ask = dyn Fn(SocketAddr, Question) -> BoxFuture<'static, Result<Content, Failure>> + Send + Sync;

/// Asks the host's resolvers.
pub(super) struct Forwarder {
    ask: Box<Ask>,
    state: Mutex<State>,
    /// One permit per query that waits for an upstream.
    waiting: Semaphore,
    /// One permit per question that is being asked.
    asking: Semaphore,
}

struct State {
    resolvers: Followed,
    cache: Cache,
    flights: HashMap<Question, Flight>,
    /// A server that answered when those before it did not, and until when it is asked first.
    preferred: Option<(SocketAddr, Instant)>,
    told: Option<Instant>,
}

impl Forwarder {
    pub(super) fn new(resolvers: Resolvers) -> Arc<Self> {
        Self::asking(resolvers, Box::new(|server, question| exchange::ask(server, question).boxed()))
    }

    pub(super) fn asking(resolvers: Resolvers, ask: Box<Ask>) -> Arc<Self> {
        let state = State {
            resolvers: Followed::new(resolvers),
            cache: Cache::default(),
            flights: HashMap::new(),
            preferred: None,
            told: None,
        };
        Arc::new(Self {
            ask,
            state: Mutex::new(state),
            waiting: Semaphore::new(WAITING),
            asking: Semaphore::new(UPSTREAM_QUESTIONS),
        })
    }

    /// The answer to a question; SERVFAIL where nobody gives one in time.
    ///
    /// # Cancel safety
    ///
    /// Others who wait for the same question go on.
    pub(super) async fn look_up(self: &Arc<Self>, question: Question) -> Arc<Content> {
        let now = Instant::now();
        let flight = {
            let mut state = self.state();
            if state.resolvers.refresh(now) {
                state.cache.clear();
                state.preferred = None;
            }
            if let Some(content) = state.cache.find(&question, now) {
                return Arc::new(content);
            }
            let Ok(place) = self.waiting.try_acquire() else {
                return Arc::new(Content::empty(ResponseCode::ServFail));
            };
            let under_way = state.flights.get(&question).and_then(WeakShared::upgrade);
            let flight = under_way.unwrap_or_else(|| {
                let flight = self.clone().fly(question.clone(), now + QUESTION).boxed().shared();
                state.flights.extend(flight.downgrade().map(|weak| (question, weak)));
                flight
            });
            (flight, place)
        };
        flight.0.await
    }

    /// Asks, and keeps the answer. The question is off the list of flights when the future ends or is dropped.
    fn fly(
        self: Arc<Self>,
        question: Question,
        deadline: Instant,
    ) -> impl Future<Output = Arc<Content>> + Send + 'static {
        let landing = Landing { forwarder: self, question };
        async move {
            let (forwarder, question) = (&*landing.forwarder, &landing.question);
            let servers = forwarder.servers();
            let content = forwarder.ask_in_time(&servers, question, deadline).await;
            forwarder.keep(&servers, question, &content);
            Arc::new(content)
        }
    }

    async fn ask_in_time(&self, servers: &[SocketAddr], question: &Question, deadline: Instant) -> Content {
        let asked = async {
            let _place = self.asking.acquire().await;
            self.ask(servers, question).await
        };
        match timeout_at(deadline, asked).await {
            Ok(Ok(content)) => content,
            Ok(Err(why)) => self.failed(servers, &why),
            Err(_) => self.failed(servers, "no answer in time"),
        }
    }

    /// Keeps an answer, unless others are to be asked by now, who may say something else.
    fn keep(&self, servers: &[SocketAddr], question: &Question, content: &Content) {
        let Some(keep) = content.keep(question) else { return };
        let mut state = self.state();
        if *state.resolvers.servers() == *servers {
            state.cache.store(question.clone(), content, keep, Instant::now());
        }
    }

    /// Asks one server after the other, and all of them again.
    async fn ask(&self, servers: &[SocketAddr], question: &Question) -> Result<Content, String> {
        let mut why = "there is no server".to_owned();
        let mut order = self.order(servers);
        for _ in 0..ROUNDS {
            let mut silent = Vec::new();
            for server in order {
                match timeout(TRY, (self.ask)(server, question.clone())).await {
                    Ok(Ok(content)) => {
                        self.prefer(servers, server);
                        return Ok(content);
                    }
                    // It has spoken; asking it again would change nothing.
                    Ok(Err(failure @ (Failure::Declined(_) | Failure::Unreadable))) => {
                        why = format!("{server}: {failure}");
                    }
                    Ok(Err(Failure::Unreachable(error))) => why = format!("{server}: {error}"),
                    Err(_) => {
                        why = format!("{server}: no answer in time");
                        silent.push(server);
                    }
                }
            }
            order = silent;
        }
        Err(why)
    }

    fn order(&self, servers: &[SocketAddr]) -> Vec<SocketAddr> {
        let preferred = self.state().preferred.filter(|(_, until)| Instant::now() < *until);
        let mut order = servers.to_vec();
        if let Some(at) = preferred.and_then(|(server, _)| servers.iter().position(|s| *s == server)) {
            order[..=at].rotate_right(1);
        }
        order
    }

    fn prefer(&self, servers: &[SocketAddr], server: SocketAddr) {
        let mut state = self.state();
        if servers.first() == Some(&server) {
            state.preferred = None;
        } else if state.preferred.is_none_or(|(known, until)| known != server || until <= Instant::now()) {
            state.preferred = Some((server, Instant::now() + SERVER_REST));
        }
    }

    /// The servers to ask.
    fn servers(&self) -> Arc<[SocketAddr]> {
        self.state().resolvers.servers()
    }

    /// Says so in the log, but not each time.
    fn failed(&self, servers: &[SocketAddr], why: &str) -> Content {
        let now = Instant::now();
        let mut state = self.state();
        if state.told.is_none_or(|told| now >= told + TELL_EVERY) {
            state.told = Some(now);
            let place = state.resolvers.said_in();
            warn!(?servers, "no DNS server answers ({why}): the workload gets SERVFAIL; see {place}");
        }
        Content::empty(ResponseCode::ServFail)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing that holds it can be half done.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[cfg(test)]
    pub(super) fn flights(&self) -> usize {
        self.state().flights.len()
    }
}

/// Takes a flight off the list, whether it has ended or nobody waits for it any more.
struct Landing {
    forwarder: Arc<Forwarder>,
    question: Question,
}

impl Drop for Landing {
    fn drop(&mut self) {
        self.forwarder.state().flights.remove(&self.question);
    }
}
