//! Connections to one endpoint, kept for the next request; one worker's own.
//!
//! HTTP/1: idle connections, the last used first, so that the surplus grows old and is closed. HTTP/2: connections
//! with streams in them, another one when those are full; one is opened at a time.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use meshwork_model::proxy::{Connections, UpstreamProtocol};
use tokio::sync::{Mutex, Notify};
use tokio::task::spawn_local;
use tokio::time::Instant;

use super::connect::in_time;
use super::host::{HostCounters, step};
use super::{Endpoint, Held, Limited, Picked, connect, explained};
use crate::error::{Kind, ProxyError};
use crate::http::codec::{Upstream, h1, h2};
use crate::limits::{
    H2_CONNECTIONS_PER_ENDPOINT, POOL_IDLE, POOL_IDLE_PER_ENDPOINT, UPSTREAM_LIFETIME, UPSTREAM_REQUESTS,
};
use crate::record::OpenConnection;
use crate::standing::Standing;
use crate::transport::Transport;

/// Connections to one endpoint.
#[derive(Default)]
pub(crate) struct Pool {
    idle: RefCell<Vec<Idle>>,
    multiplexed: RefCell<Vec<Multiplexed>>,
    /// Held while an HTTP/2 connection is opened, so that a burst of requests opens one and not many.
    opening: Mutex<()>,
    /// Attempts that failed: those who waited for one fail with it instead of each trying anew.
    failures: Cell<u64>,
    /// Whether the last connection for which that was open agreed on HTTP/2.
    agreed_on_h2: Cell<bool>,
    /// Told when a connection is free or gone: somebody may wait for it.
    freed: Rc<Notify>,
}

struct Idle {
    connection: Box<h1::ClientConnection>,
    life: Box<Life>,
    /// When it was used last.
    since: Instant,
}

/// A connection counts as open until this is dropped.
struct Life {
    _open: OpenConnection,
    /// When it has lived for long enough.
    retires: Instant,
    /// How long it is kept without a request.
    idle: Duration,
    /// How many requests it may carry.
    requests: u64,
    _counted: Counted,
}

/// A connection counts for its host and for circuit breakers until this is dropped.
pub(crate) struct Counted {
    counters: Arc<HostCounters>,
    freed: Rc<Notify>,
    _held: Option<Held>,
}

impl Counted {
    fn new(endpoint: &Endpoint, held: Option<Held>) -> Self {
        step(&endpoint.counters.cx_total, 1);
        step(&endpoint.counters.cx_active, 1);
        Self { counters: Arc::clone(&endpoint.counters), freed: Rc::clone(&endpoint.pool.freed), _held: held }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        step(&self.counters.cx_active, -1);
        self.freed.notify_one();
    }
}

impl Life {
    fn begin(picked: &Picked, open: OpenConnection, held: Option<Held>) -> Self {
        let config = picked.cluster().config();
        let Connections { idle, lifetime, requests, .. } = &config.cluster.connections;
        let idle = match idle {
            None => POOL_IDLE,
            Some(Duration::ZERO) => UPSTREAM_LIFETIME,
            Some(idle) => *idle,
        };
        let now = Instant::now();
        let retires = retirement(now);
        Self {
            _open: open,
            retires: lifetime.map_or(retires, |lifetime| retires.min(now + lifetime)),
            idle,
            requests: requests.map_or(UPSTREAM_REQUESTS, |most| UPSTREAM_REQUESTS.min(most.into())),
            _counted: Counted::new(picked.endpoint(), held),
        }
    }
}

struct Multiplexed {
    connection: h2::ClientConnection,
    used: Instant,
}

impl Idle {
    /// Whether it may serve another request: not too old, not idle for too long, not used too often.
    fn is_fit(&self, now: Instant) -> bool {
        let idle = now.saturating_duration_since(self.since);
        now < self.life.retires
            && idle < self.life.idle
            && self.connection.requests() < self.life.requests
            && is_good(self.connection.standing())
    }
}

/// When a connection that is opened now has lived for long enough.
fn retirement(now: Instant) -> Instant {
    now + UPSTREAM_LIFETIME.mul_f64(1.0 - fastrand::f64() / 4.0)
}

/// An upstream for one exchange, and where it goes back to.
pub(crate) struct Lease {
    /// The upstream.
    pub(crate) upstream: Upstream,
    /// The endpoint behind it.
    pub(crate) picked: Picked,
    /// Whether it served before: it may have gone stale.
    pub(crate) is_reused: bool,
    /// Counts an HTTP/1 connection as open. Apart, so that exchanges do not carry its memory.
    life: Option<Box<Life>>,
}

impl Lease {
    /// Takes an HTTP/1 connection that waits, unless it has to be a fresh one; hands `picked` back where none does.
    pub(crate) fn take(picked: Picked, fresh: bool) -> Result<Self, Picked> {
        let is_h2 = picked.protocol() == UpstreamProtocol::Http2;
        match if fresh || is_h2 { None } else { picked.endpoint().pool.pop() } {
            Some(Idle { connection, life, .. }) => {
                Ok(Self { upstream: Upstream::H1(connection), picked, is_reused: true, life: Some(life) })
            }
            None => Err(picked),
        }
    }

    /// Opens a connection to the picked endpoint, or a stream in one that is there.
    ///
    /// # Errors
    /// No connection could be opened; nothing was sent.
    pub(crate) async fn open(
        picked: Picked,
        opened: impl Fn(&Picked) -> OpenConnection,
    ) -> Result<Self, (ProxyError, Picked)> {
        let pool = &picked.endpoint().pool;
        // An endpoint may take the connection, but not what HTTP/2 begins with.
        let taken = match picked.protocol() {
            UpstreamProtocol::Http1 | UpstreamProtocol::Downstream => open_h1(&picked, opened).await,
            UpstreamProtocol::Auto if !pool.agreed_on_h2.get() => {
                in_time(&picked.cluster().config(), pool.open_any(&picked, opened)).await
            }
            UpstreamProtocol::Http2 | UpstreamProtocol::Auto => {
                in_time(&picked.cluster().config(), pool.take_h2(&picked, opened)).await
            }
        };
        match taken {
            Ok((upstream, life, is_reused)) => Ok(Self { upstream, picked, is_reused, life }),
            Err(error) => Err((error, picked)),
        }
    }

    /// What a failure on it was: the endpoint may not be trusted any more, or not trust us, which is told.
    pub(crate) fn explain(&self, error: ProxyError) -> ProxyError {
        let standing = match &self.upstream {
            Upstream::H1(connection) => connection.standing(),
            Upstream::H2(stream) => stream.standing(),
        };
        explained(&self.picked, standing, error)
    }

    /// Gives the connection back, if another request may follow on it; else it is closed.
    pub(crate) fn release(self, now: Instant) {
        if let (Upstream::H1(mut connection), Some(life)) = (self.upstream, self.life)
            && connection.is_reusable()
        {
            connection.rest();
            let idle = Idle { connection, life, since: now };
            if idle.is_fit(now) {
                self.picked.endpoint().pool.put(idle);
            }
        }
    }
}

type Taken = (Upstream, Option<Box<Life>>, bool);

impl Pool {
    fn pop(&self) -> Option<Idle> {
        let mut idle = self.idle.borrow_mut();
        while let Some(mut last) = idle.pop() {
            if is_good(last.connection.standing()) && last.connection.is_alive() {
                return Some(last);
            }
        }
        None
    }

    fn put(&self, connection: Idle) {
        let mut idle = self.idle.borrow_mut();
        if idle.len() < POOL_IDLE_PER_ENDPOINT {
            idle.push(connection);
            self.freed.notify_one();
        }
    }

    async fn take_h2(
        &self,
        picked: &Picked,
        opened: impl Fn(&Picked) -> OpenConnection,
    ) -> Result<Taken, ProxyError> {
        if let Some(stream) = self.open_stream() {
            return ready(stream, true).await;
        }
        let failures = self.failures.get();
        let _opening = self.opening.lock().await;
        if let Some(stream) = self.open_stream() {
            return ready(stream, true).await;
        }
        if self.failures.get() != failures {
            let refused = std::io::ErrorKind::ConnectionRefused.into();
            return Err(ProxyError::unsent(Kind::Connect(refused)));
        }
        if self.multiplexed.borrow().len() >= H2_CONNECTIONS_PER_ENDPOINT {
            return Err(ProxyError::unsent(Kind::Overload("HTTP/2 connections to the endpoint")));
        }
        let stream = Box::pin(self.open_h2(picked, opened)).await;
        let stream = stream.inspect_err(|_| self.failures.set(self.failures.get() + 1))?;
        ready(stream, false).await
    }

    async fn open_h2(
        &self,
        picked: &Picked,
        opened: impl Fn(&Picked) -> OpenConnection,
    ) -> Result<h2::ClientStream, ProxyError> {
        let transport = connect(picked).await?;
        if transport.alpn().is_some_and(|spoken| spoken != b"h2") || transport.is_tls_without_alpn() {
            self.agreed_on_h2.set(false);
            return Err(ProxyError::unsent(Kind::Identity("it does not speak HTTP/2 (ALPN)".into())));
        }
        let held = picked.enter(Limited::Connections).or_else(|overflow| {
            // One there may always be.
            if self.multiplexed.borrow().is_empty() { Ok(picked.force_connection()) } else { Err(overflow) }
        })?;
        self.begin_h2(picked, transport, opened, held).await
    }

    /// Opens a connection on which TLS agrees on what is spoken.
    async fn open_any(
        &self,
        picked: &Picked,
        opened: impl Fn(&Picked) -> OpenConnection,
    ) -> Result<Taken, ProxyError> {
        let held = match admit(picked).await? {
            Admitted::Free(taken) => return Ok(taken),
            Admitted::New(held) => held,
        };
        let transport = connect(picked).await?;
        if transport.alpn() != Some(b"h2") {
            return Ok(begin_h1(picked, transport, opened, held));
        }
        self.agreed_on_h2.set(true);
        let stream = Box::pin(self.begin_h2(picked, transport, opened, held)).await?;
        ready(stream, false).await
    }

    async fn begin_h2(
        &self,
        picked: &Picked,
        transport: Transport,
        opened: impl Fn(&Picked) -> OpenConnection,
        held: Option<Held>,
    ) -> Result<h2::ClientStream, ProxyError> {
        let h2::Connected { connection, driver } = h2::ClientConnection::begin(transport).await?;
        let open = (opened(picked), Counted::new(picked.endpoint(), held));
        let (cluster, address) = (Rc::clone(picked.cluster()), picked.endpoint().config.address);
        spawn_local(async move {
            if let Some(flood) = driver.await {
                cluster.note_flood(address, flood);
            }
            drop(open);
        });
        let stream = connection.open();
        self.multiplexed.borrow_mut().push(Multiplexed { connection, used: Instant::now() });
        Ok(stream)
    }

    fn open_stream(&self) -> Option<h2::ClientStream> {
        let mut all = self.multiplexed.borrow_mut();
        all.retain_mut(|m| m.connection.is_open());
        let with_room = all.iter_mut().find_map(|m| m.connection.has_room().then_some(m))?;
        with_room.used = Instant::now();
        Some(with_room.connection.open())
    }

    /// Closes what was idle for too long, or was closed by the endpoint.
    pub(crate) fn sweep(&self) {
        let now = Instant::now();
        let is_fresh = |used: Instant| now.saturating_duration_since(used) < POOL_IDLE;
        let mut kept = Vec::new();
        for mut idle in self.idle.take() {
            if idle.is_fit(now) && idle.connection.is_alive() {
                kept.push(idle);
            } else {
                spawn_local(idle.connection.close());
            }
        }
        self.idle.replace(kept);
        self.multiplexed
            .borrow_mut()
            .retain_mut(|m| m.connection.is_open() && (!m.connection.is_idle() || is_fresh(m.used)));
    }
}

async fn open_h1(picked: &Picked, opened: impl Fn(&Picked) -> OpenConnection) -> Result<Taken, ProxyError> {
    match admit(picked).await? {
        Admitted::Free(taken) => Ok(taken),
        Admitted::New(held) => Ok(begin_h1(picked, connect(picked).await?, opened, held)),
    }
}

enum Admitted {
    /// A connection became free meanwhile.
    Free(Taken),
    /// A new one may be opened.
    New(Option<Held>),
}

/// Waits until a connection may be opened, or one is free. There may always be one to each endpoint.
async fn admit(picked: &Picked) -> Result<Admitted, ProxyError> {
    let _pending = picked.enter(Limited::Pending)?;
    let endpoint = picked.endpoint();
    loop {
        match picked.enter(Limited::Connections) {
            Ok(held) => return Ok(Admitted::New(held)),
            Err(_) if endpoint.counters.cx_active.load(Relaxed) == 0 => {
                return Ok(Admitted::New(picked.force_connection()));
            }
            Err(_) => endpoint.pool.freed.notified().await,
        }
        if let Some(Idle { connection, life, .. }) = endpoint.pool.pop() {
            return Ok(Admitted::Free((Upstream::H1(connection), Some(life), true)));
        }
    }
}

fn begin_h1(
    picked: &Picked,
    transport: Transport,
    opened: impl Fn(&Picked) -> OpenConnection,
    held: Option<Held>,
) -> Taken {
    let connection = Box::new(h1::ClientConnection::new(transport));
    let life = Box::new(Life::begin(picked, opened(picked), held));
    (Upstream::H1(connection), Some(life), false)
}

/// Whether an endpoint may be called on a connection that is open: it is trusted still.
fn is_good(standing: Option<&Rc<Standing>>) -> bool {
    standing.is_none_or(|standing| standing.is_good())
}

/// Waits until the connection takes the stream.
async fn ready(mut stream: h2::ClientStream, is_reused: bool) -> Result<Taken, ProxyError> {
    poll_fn(|cx| stream.poll_room(cx)).await?;
    Ok((Upstream::H2(Box::new(stream)), None, is_reused))
}

#[cfg(test)]
mod tests {
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    async fn idle(now: Instant) -> Idle {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let stream = TcpStream::connect(listener.local_addr().expect("bound")).await.expect("connected");
        let connection = Box::new(h1::ClientConnection::new(Transport::Plain(stream.into())));
        let counted = Counted { counters: Arc::default(), freed: Rc::default(), _held: None };
        let life = Life {
            _open: OpenConnection::uncounted(),
            retires: retirement(now),
            idle: POOL_IDLE,
            requests: UPSTREAM_REQUESTS,
            _counted: counted,
        };
        Idle { connection, life: Box::new(life), since: now }
    }

    #[tokio::test]
    async fn a_connection_is_kept_for_a_while() {
        let now = Instant::now();
        let mut idle = idle(now).await;
        assert!(idle.is_fit(now + POOL_IDLE - Duration::from_secs(1)));
        assert!(!idle.is_fit(now + POOL_IDLE));
        // Used all the time, it still has an end, and not all have the same.
        let ends: std::collections::HashSet<_> = (0..20).map(|_| retirement(now)).collect();
        assert!(ends.len() > 1);
        for end in ends {
            assert!((UPSTREAM_LIFETIME * 3 / 4..=UPSTREAM_LIFETIME).contains(&(end - now)));
        }
        idle.since = now + UPSTREAM_LIFETIME;
        assert!(!idle.is_fit(idle.since));
    }

    #[tokio::test]
    async fn a_connection_serves_so_many_requests() {
        let now = Instant::now();
        let mut idle = idle(now).await;
        let mut request = meshwork_model::head::RequestHead::default();
        request.set_method(b"GET");
        request.set_authority(b"a");
        request.set_path_and_query(b"/");
        for _ in 0..UPSTREAM_REQUESTS {
            assert!(idle.is_fit(now));
            idle.connection.send_head(&request, crate::http::body::Length::None, None).expect("taken");
        }
        assert!(!idle.is_fit(now));
    }
}
