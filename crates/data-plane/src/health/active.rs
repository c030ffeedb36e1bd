//! Active health checks: every endpoint of a cluster is asked again and again how it is.
//!
//! One task per endpoint, with at most one connection. `model::check` says what an answer means. Until its first answer
//! an endpoint counts as not well.

use std::collections::HashMap;
use std::future::poll_fn;
use std::sync::Arc;

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use meshwork_model::check::{self, Session, Verdict};
use meshwork_model::head::{Fields, RequestHead};
use meshwork_model::proxy::{CheckHeader, GrpcCheck, HealthCheck, HealthCheckKind, HttpCheck, TcpCheck};
use meshwork_model::route::matches_text;
use meshwork_model::times::{GRPC_TIMEOUT, grpc_timeout_text};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::Notify;
use tokio::task::{AbortHandle, spawn_local};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tracing::info;

use crate::config::ClusterConfig;
use crate::error::{Kind, ProxyError};
use crate::http::call::{Answered, exchange};
use crate::http::codec::{Upstream, h1, h2};
use crate::limits::CHECK_BYTES;
use crate::transport::Transport;
use crate::upstream::{Flag, Host, HostState, Hosts, connect_for_check};

/// What is said of who asks. Source: Envoy.
const USER_AGENT: &[u8] = b"Envoy/HC";

/// Asks the endpoints of a cluster, for as long as it is polled.
pub(crate) async fn keep(cluster: &Arc<ClusterConfig>, check: &Arc<HealthCheck>, unejects: bool) {
    let hosts = &cluster.hosts;
    let _done = Rebalanced(hosts);
    let mut membership = hosts.membership();
    let mut asked: HashMap<*const HostState, Asked> = HashMap::new();
    loop {
        let current = Arc::clone(&hosts.load());
        let present =
            |state: &Arc<HostState>| current.hosts.iter().any(|host| Arc::ptr_eq(&host.state, state));
        asked.retain(|_, asked| present(&asked.host.state));
        for host in current.hosts.iter().filter(|host| !host.config.check.is_disabled) {
            let key = Arc::as_ptr(&host.state);
            // One that is asked elsewhere now begins anew; what is known of it stays.
            let is_same = asked.get(&key).is_some_and(|asked| asked.host.config == host.config);
            if !is_same {
                asked.insert(key, Asked::begin(cluster, check, host, unejects));
            }
        }
        if membership.changed().await.is_err() {
            return;
        }
    }
}

/// When nobody asks any more, hosts are picked again as if nobody had.
struct Rebalanced<'h>(&'h Hosts);

impl Drop for Rebalanced<'_> {
    fn drop(&mut self) {
        self.0.rebalance();
    }
}

/// An endpoint that is asked until this is dropped.
struct Asked {
    host: Arc<Host>,
    task: AbortHandle,
}

impl Asked {
    fn begin(
        cluster: &Arc<ClusterConfig>,
        check: &Arc<HealthCheck>,
        host: &Arc<Host>,
        unejects: bool,
    ) -> Self {
        let asker = Asker {
            cluster: Arc::clone(cluster),
            check: Arc::clone(check),
            host: Arc::clone(host),
            unejects,
            connection: Connection::None,
        };
        let told = Arc::new(Notify::new());
        host.state.checked.store(Some(Arc::clone(&told)));
        let task = spawn_local(asker.run(told)).abort_handle();
        Self { host: Arc::clone(host), task }
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        self.task.abort();
        self.host.state.checked.store(None);
        // Nobody asks any more: nothing is held against it.
        for flag in [Flag::FailedCheck, Flag::DegradedCheck, Flag::Unchecked, Flag::Excluded] {
            self.host.state.set(flag, false);
        }
    }
}

struct Asker {
    cluster: Arc<ClusterConfig>,
    check: Arc<HealthCheck>,
    host: Arc<Host>,
    unejects: bool,
    connection: Connection,
}

/// A connection that is kept between checks.
enum Connection {
    None,
    Http1(Box<h1::ClientConnection>),
    Http2(h2::ClientConnection),
    Bytes(Transport),
}

impl Asker {
    async fn run(mut self, told: Arc<Notify>) {
        let mut session = Session::default();
        sleep(check::first(&self.check.intervals, fastrand::u64(..))).await;
        loop {
            let answered = timeout(self.check.timeout, self.ask()).await;
            let (verdict, fails) = answered.unwrap_or((Verdict::Silent, false));
            if verdict == Verdict::Silent || !self.check.reuse_connection {
                self.connection = Connection::None;
            }
            let was_well = session.was_asked && !session.is_failed;
            let wait =
                session.note(verdict, &self.check, self.cluster.hosts.had_traffic(), fastrand::u64(..));
            self.publish(&session, fails, was_well, verdict);
            let next = Instant::now() + wait;
            loop {
                tokio::select! {
                    () = sleep_until(next) => break,
                    () = told.notified() => {
                        session.fail_at_once();
                        self.publish(&session, true, true, Verdict::Bad);
                    }
                }
            }
        }
    }

    /// Sets the host's flags, and has it picked by them if they changed.
    fn publish(&self, session: &Session, fails: bool, was_well: bool, verdict: Verdict) {
        let state = &self.host.state;
        let is_good = matches!(verdict, Verdict::Good | Verdict::Degraded);
        let mut has_changed = state.set(Flag::Unchecked, false);
        has_changed |= state.set(Flag::FailedCheck, session.is_failed);
        has_changed |= state.set(Flag::DegradedCheck, session.is_degraded);
        if fails || !session.is_failed {
            has_changed |= state.set(Flag::Excluded, fails && session.is_failed);
        }
        if self.unejects && is_good && !session.is_failed {
            has_changed |= state.set(Flag::Ejected, false);
        }
        if session.is_failed == was_well {
            let (cluster, address) = (&self.cluster.cluster.name, self.host.config.address);
            info!(%cluster, %address, healthy = !session.is_failed, ?verdict, "health check");
        }
        if has_changed {
            self.cluster.hosts.rebalance();
        }
    }

    /// Asks once; with whether the endpoint wants to be left out at once.
    async fn ask(&mut self) -> (Verdict, bool) {
        let check = Arc::clone(&self.check);
        let asked = match &check.kind {
            HealthCheckKind::Http(http) => Box::pin(self.ask_http(http)).await,
            HealthCheckKind::Tcp(tcp) => self.ask_bytes(tcp).await.map(|verdict| (verdict, false)),
            HealthCheckKind::Grpc(grpc) => {
                Box::pin(self.ask_grpc(grpc)).await.map(|verdict| (verdict, false))
            }
        };
        asked.unwrap_or((Verdict::Silent, false))
    }

    async fn connect(&self) -> Result<Transport, ProxyError> {
        connect_for_check(&self.cluster, &self.host, &self.check).await
    }

    // --- HTTP ---

    async fn ask_http(&mut self, http: &HttpCheck) -> Result<(Verdict, bool), ProxyError> {
        let mut head = RequestHead::default();
        head.set_method(http.method.as_bytes());
        head.set_authority(self.authority(&http.host).as_bytes());
        head.set_path_and_query(http.path.as_bytes());
        head.fields.push(b"user-agent", USER_AGENT);
        add(&mut head.fields, &http.add);
        http.remove.iter().for_each(|name| head.fields.remove(name.as_bytes()));
        let answered = self.exchange(&head, Bytes::copy_from_slice(&http.send), http.http2).await?;
        let fields = &answered.head.fields;
        let says = |name: &[u8]| fields.find(name).unwrap_or_default();
        let name_fits = http
            .service_name
            .as_ref()
            .is_none_or(|test| matches_text(test, says(b"x-envoy-upstream-healthchecked-cluster")));
        let most = usize::try_from(http.response_bytes).ok().filter(|most| *most > 0).unwrap_or(usize::MAX);
        let body = &answered.body[..answered.body.len().min(most)];
        let body_fits = check::holds(&http.receive, body);
        let is_degraded = fields.find(b"x-envoy-degraded").is_some();
        let verdict = check::judge(http, answered.head.status, is_degraded, name_fits, body_fits);
        let fails = verdict != Verdict::Good && fields.find(b"x-envoy-immediate-health-check-fail").is_some();
        Ok((verdict, fails))
    }

    /// Whom the endpoint is asked for: its own name, what the check says, or the cluster's name.
    fn authority<'a>(&'a self, said: &'a str) -> &'a str {
        let own = &self.host.config.check.hostname;
        [own, said].into_iter().find(|name| !name.is_empty()).unwrap_or(&self.cluster.cluster.name)
    }

    async fn exchange(
        &mut self,
        head: &RequestHead,
        body: Bytes,
        http2: bool,
    ) -> Result<Answered, ProxyError> {
        let mut upstream = self.upstream(http2).await?;
        let answered = exchange(&mut upstream, head, &body).await?;
        if let Upstream::H1(mut connection) = upstream
            && connection.is_reusable()
        {
            connection.rest();
            self.connection = Connection::Http1(connection);
        }
        Ok(answered)
    }

    async fn upstream(&mut self, http2: bool) -> Result<Upstream, ProxyError> {
        let kept = std::mem::replace(&mut self.connection, Connection::None);
        if !http2 {
            if let Connection::Http1(mut connection) = kept
                && connection.is_alive()
            {
                return Ok(Upstream::H1(connection));
            }
            let transport = self.connect().await?;
            return Ok(Upstream::H1(Box::new(h1::ClientConnection::new(transport))));
        }
        if let Connection::Http2(mut connection) = kept
            && connection.is_open()
        {
            let stream = connection.open();
            self.connection = Connection::Http2(connection);
            return ready(stream).await;
        }
        let transport = self.connect().await?;
        let h2::Connected { connection, driver } = h2::ClientConnection::begin(transport).await?;
        spawn_local(driver);
        let stream = connection.open();
        self.connection = Connection::Http2(connection);
        ready(stream).await
    }

    // --- gRPC ---

    async fn ask_grpc(&mut self, grpc: &GrpcCheck) -> Result<Verdict, ProxyError> {
        let mut head = RequestHead::default();
        head.set_method(b"POST");
        head.set_authority(self.authority(&grpc.authority).as_bytes());
        head.set_path_and_query(b"/grpc.health.v1.Health/Check");
        head.fields.push(b"te", b"trailers");
        head.fields.push(b"content-type", b"application/grpc");
        head.fields.push(b"user-agent", USER_AGENT);
        add(&mut head.fields, &grpc.metadata);
        let (count, unit) = grpc_timeout_text(self.check.timeout);
        head.fields.set(GRPC_TIMEOUT, format!("{count}{}", char::from(unit)).as_bytes());
        let answered = self.exchange(&head, health_request(&grpc.service), true).await?;
        let is_serving = answered.grpc_message().is_ok_and(|message| is_serving(&message));
        Ok(if is_serving { Verdict::Good } else { Verdict::Bad })
    }

    // --- bytes ---

    async fn ask_bytes(&mut self, tcp: &TcpCheck) -> Result<Verdict, ProxyError> {
        let mut transport = match std::mem::replace(&mut self.connection, Connection::None) {
            Connection::Bytes(transport) => transport,
            _ => self.connect().await?,
        };
        let broken = |error: std::io::Error| ProxyError::upstream(&error);
        if !tcp.send.is_empty() {
            transport.write_all(&tcp.send).await.map_err(broken)?;
            transport.flush().await.map_err(broken)?;
        }
        if tcp.receive.is_empty() {
            // That there is a connection is enough; it is not kept.
            return Ok(Verdict::Good);
        }
        let mut got = BytesMut::new();
        while !check::holds(&tcp.receive, &got) {
            if got.len() > CHECK_BYTES {
                return Err(ProxyError::fatal(Kind::BadResponse("more than is looked at".into())));
            }
            if transport.read_buf(&mut got).await.map_err(broken)? == 0 {
                return Err(ProxyError::upstream(&std::io::ErrorKind::UnexpectedEof.into()));
            }
        }
        self.connection = Connection::Bytes(transport);
        Ok(Verdict::Good)
    }
}

async fn ready(mut stream: h2::ClientStream) -> Result<Upstream, ProxyError> {
    poll_fn(|cx| stream.poll_room(cx)).await?;
    Ok(Upstream::H2(Box::new(stream)))
}

fn add(fields: &mut Fields, headers: &[CheckHeader]) {
    for CheckHeader { name, value, append } in headers {
        if *append {
            fields.push(name.as_bytes(), value.as_bytes());
        } else {
            fields.set(name.as_bytes(), value.as_bytes());
        }
    }
}

/// A `grpc.health.v1.HealthCheckRequest` with its frame: field 1 is the service.
fn health_request(service: &str) -> Bytes {
    let mut message = BytesMut::new();
    if !service.is_empty() {
        message.put_u8(1 << 3 | 2);
        let mut length = service.len();
        while length >= 0x80 {
            message.put_u8(length.to_le_bytes()[0] | 0x80);
            length >>= 7;
        }
        message.put_u8(length.to_le_bytes()[0]);
        message.put_slice(service.as_bytes());
    }
    let mut framed = BytesMut::with_capacity(message.len() + 5);
    framed.put_u8(0);
    framed.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    framed.put_slice(&message);
    framed.freeze()
}

/// Whether a `grpc.health.v1.HealthCheckResponse` says SERVING: field 1 is 1.
fn is_serving(message: &[u8]) -> bool {
    let mut message = message;
    let mut status = 0;
    while message.has_remaining() {
        // There is one field, a number; whatever else stands here is not understood.
        let (Some(8), Some(value)) = (varint(&mut message), varint(&mut message)) else { return false };
        status = value;
    }
    status == 1
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (first, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(first & 0x7f) << shift;
        if first & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_grpc_health_protocol_is_spoken() {
        assert_eq!(&health_request("")[..], [0, 0, 0, 0, 0]);
        assert_eq!(&health_request("ab")[..], [0, 0, 0, 0, 4, 0x0a, 2, b'a', b'b']);
        let long = "x".repeat(200);
        assert_eq!(health_request(&long)[5..8], [0x0a, 0xc8, 1]);
        for (message, expected) in
            [(&[8, 1][..], true), (&[8, 2], false), (&[], false), (&[8], false), (&[16, 1], false)]
        {
            assert_eq!(is_serving(message), expected, "{message:?}");
        }
    }
}
