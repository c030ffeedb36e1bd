//! What an exchange or connection leaves behind, written exactly once, also when it is dropped in the middle.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use meshwork_model::flag::Flags;
use meshwork_model::format::Point;
use meshwork_model::head::{Fields, RequestHead, ResponseHead};
use meshwork_model::metadata::{Metadata, Value};
use meshwork_model::policy::{Facts, Verdict};
use meshwork_model::proxy::{Direction, Route, ServiceName, Workload};
use meshwork_model::reason::Reason;
use meshwork_model::spiffe::SpiffeId;
use meshwork_telemetry::{EdgeId, EdgeKey, Entry, Protocol, Reporter, Request, Shard, Trial};
use tokio::time::Instant;

use crate::config::{Asks, Chain};
use crate::connection::Peer;
use crate::dry_run::{self, Noted};
use crate::error::{Kind, ProxyError};
use crate::facts::Seen;
use crate::http::log::{passes, write};
use crate::upstream::{Endpoint, Picked, Reach, WorkerCluster};
use crate::worker::Worker;

/// What is known of an exchange so far. Its owner writes it when it is dropped.
pub(crate) struct Record {
    /// When the request's head was complete.
    pub(crate) started: Instant,
    /// Status that was sent; 0 where none was.
    pub(crate) status: u16,
    /// gRPC status that was sent.
    pub(crate) grpc_status: Option<u8>,
    /// Why the mesh decided it.
    pub(crate) reason: Option<Reason>,
    /// Whether the request was forwarded otherwise than it was judged.
    pub(crate) is_rewritten: bool,
    /// Whether the client is told how many tries there were.
    pub(crate) tells_attempts: bool,
    /// What filters found out about it.
    pub(crate) metadata: Option<Box<Metadata>>,
    /// What policies that decide nothing say of it.
    pub(crate) noted: Option<Box<Noted>>,
    /// Bytes of the request's body.
    pub(crate) bytes_in: u64,
    /// Bytes of the response's body.
    pub(crate) bytes_out: u64,
    /// The client's address, as far as it is known behind trusted hops; `None`: the peer's.
    pub(crate) client: Option<SocketAddr>,
    /// Flags beside that of the reason.
    pub(crate) more_flags: Flags,
    /// Envoy's word for how the response came about, where it is another than that of the reason.
    pub(crate) words: Option<&'static str>,
    /// The length that the request's head declares.
    pub(crate) declared: Option<u64>,
    /// What went wrong with the endpoint's TLS, or ours with it, in words.
    pub(crate) cause: Option<Box<str>>,
    /// How often the request was sent, or would have been.
    pub(crate) attempts: u32,
    /// The version that the endpoint speaks; empty where none was asked.
    pub(crate) upstream_protocol: &'static str,
    /// Whether it is a health check of the proxy itself.
    pub(crate) is_health_check: bool,
    /// When its parts were done, where a log asks.
    pub(crate) points: Option<Box<Points>>,
    /// The response's trailers, where a log asks.
    pub(crate) trailers: Option<Box<Fields>>,
    asks: Asks,
    route: Option<Arc<str>>,
    cluster: Option<Rc<WorkerCluster>>,
    endpoint: Option<Rc<Endpoint>>,
    clock: Option<SystemTime>,
    ended: Option<Instant>,
}

/// Moments that are noted.
pub(crate) const NOTED: [Point; 9] = [
    Point::RequestEnd,
    Point::SendBegin,
    Point::SendEnd,
    Point::ResponseBegin,
    Point::ResponseEnd,
    Point::AnswerBegin,
    Point::AnswerEnd,
    Point::ConnectBegin,
    Point::ConnectEnd,
];

/// When the parts of a request were done: microseconds since it began.
#[derive(Clone, Copy)]
pub(crate) struct Points([u32; NOTED.len()]);

/// Counts a connection between two proxies as open.
pub(crate) struct OpenConnection {
    counted: Option<(Arc<Shard>, EdgeId)>,
}

impl Record {
    /// Begins now; what no log asks for is not looked up.
    pub(crate) fn begin(worker: &Worker, chain: &Chain) -> Self {
        Self {
            started: Instant::now(),
            status: 0,
            grpc_status: None,
            reason: None,
            is_rewritten: false,
            tells_attempts: false,
            metadata: None,
            noted: None,
            bytes_in: 0,
            bytes_out: 0,
            client: None,
            more_flags: Flags::NONE,
            words: None,
            declared: None,
            cause: None,
            attempts: 0,
            upstream_protocol: "",
            is_health_check: false,
            points: None,
            trailers: None,
            asks: chain.asks,
            route: None,
            cluster: None,
            endpoint: None,
            ended: None,
            clock: (worker.lane.enabled() || !chain.logs().is_empty()).then(SystemTime::now),
        }
    }

    /// Why it ended as it did.
    pub(crate) fn blame(&mut self, error: &ProxyError) {
        self.reason = Some(error.reason());
        if let Kind::Identity(words) = &error.kind {
            self.cause = Some(words.as_str().into());
        }
    }

    /// Who asks was cut off in the middle of it: that they left is not what happened.
    pub(crate) fn note_cut(&mut self, peer: &Peer) {
        let is_over = match self.reason {
            None => self.ended.is_some(),
            Some(reason) => reason != Reason::DownstreamGone,
        };
        if peer.is_cut() && !is_over {
            self.reason = Some(Reason::Untrusted);
        }
    }

    /// What policies that are only tried would say.
    pub(crate) fn note_trials(&mut self, trials: Vec<(Arc<str>, Trial)>) {
        if trials.is_empty() {
            return;
        }
        let noted = self.noted.get_or_insert_default();
        noted.trials.extend(trials);
        let text = noted.text().into();
        self.metadata().set(dry_run::NAMESPACE, dry_run::TRIED, Value::Text(text));
    }

    /// What AUDIT policies say. Source: Envoy, whose `access_log_hint` is for logs of its own.
    pub(crate) fn note_audit(&mut self, verdict: &Verdict<'_>) {
        let rule = if let Verdict::Allowed(rule) = verdict { *rule } else { None };
        self.metadata().set("envoy.common", "access_log_hint", Value::Bool(rule.is_some()));
        if let Some(rule) = rule {
            self.noted.get_or_insert_default().audit = Some(Arc::clone(rule));
            self.metadata().set(dry_run::NAMESPACE, dry_run::AUDIT, Value::Text(Arc::clone(rule)));
        }
    }

    /// What filters found out about the request, to be added to.
    pub(crate) fn metadata(&mut self) -> &mut Metadata {
        self.metadata.get_or_insert_default()
    }

    /// What rules look at: the peer, and the client on whose behalf it asks, as far as trusted hops tell.
    pub(crate) fn facts<'p>(&self, peer: &'p Peer) -> Facts<'p> {
        let facts = peer.facts();
        Facts { remote: self.client.map(|client| client.ip()).or(facts.remote), ..facts }
    }

    /// The route that takes the request, for the log, and for fields that tell its name.
    pub(crate) fn note_route(&mut self, route: &Route) {
        if self.clock.is_some() || route.terms.is_some() {
            self.route = Some(Arc::clone(&route.name));
        }
    }

    /// The cluster that the request goes to.
    pub(crate) fn note_cluster(&mut self, cluster: &Rc<WorkerCluster>) {
        self.cluster = Some(Rc::clone(cluster));
        self.endpoint = None;
        self.attempts = self.attempts.max(1);
    }

    /// The endpoint that it goes to.
    pub(crate) fn note_endpoint(&mut self, picked: &Picked) {
        self.endpoint = Some(Rc::clone(picked.endpoint()));
    }

    /// When it ended: now, the first time that this is asked. What happens at an exchange's end needs one look at the
    /// clock.
    pub(crate) fn end(&mut self) -> Instant {
        *self.ended.get_or_insert_with(Instant::now)
    }

    /// A moment of the request has come; the clock is looked at only where a log asks for such.
    pub(crate) fn note(&mut self, point: Point) {
        if self.asks.times {
            self.points.get_or_insert_default().note(point, self.started.elapsed());
        }
    }

    /// The response's trailers have come.
    pub(crate) fn note_trailers(&mut self, trailers: &Fields) {
        self.grpc_status = grpc_status(trailers).or(self.grpc_status);
        if self.asks.trailers {
            self.trailers = Some(Box::new(trailers.clone()));
        }
    }

    /// The cluster's name.
    pub(crate) fn cluster_name(&self, read: impl FnOnce(&str) -> bool) -> bool {
        self.cluster.as_ref().is_some_and(|cluster| read(&cluster.config().cluster.name))
    }

    /// The route's name; empty where there is none.
    pub(crate) fn route_name(&self) -> &str {
        self.route.as_deref().unwrap_or_default()
    }

    /// The identity that the endpoint proved; empty where there is none.
    pub(crate) fn upstream_principal(&self) -> &str {
        self.endpoint.as_ref().map_or("", |endpoint| principal(endpoint))
    }

    /// Why no connection to the endpoint could be opened, where that was so.
    pub(crate) fn failure(&self, read: impl FnOnce(&str) -> bool) -> bool {
        match self.reason {
            Some(Reason::UpstreamIdentity) if self.cause.is_some() => self.cause.as_deref().is_some_and(read),
            Some(reason @ (Reason::ConnectFailed | Reason::UpstreamIdentity)) => read(reason.words().what),
            _ => false,
        }
    }

    /// When the request came, by the calendar.
    pub(crate) fn began(&self) -> SystemTime {
        self.clock.unwrap_or_else(|| {
            SystemTime::now().checked_sub(self.started.elapsed()).unwrap_or(SystemTime::UNIX_EPOCH)
        })
    }

    /// Why it ended as it did.
    pub(crate) fn flags(&self) -> Flags {
        self.reason.map_or(Flags::NONE, Flags::from).union(self.more_flags)
    }

    /// Envoy's word for how the response came about; empty where there is none.
    pub(crate) fn details(&self) -> &str {
        match (self.words, self.reason) {
            (Some(words), _) => words,
            (None, Some(reason)) => details(reason),
            (None, None) if self.status != 0 => "via_upstream",
            (None, None) => "",
        }
    }

    /// How long it took, or has taken so far.
    pub(crate) fn duration(&self) -> Duration {
        self.ended.unwrap_or_else(Instant::now).duration_since(self.started)
    }

    /// Writes the record of a request. Called once. `outgoing` is the request as it was forwarded, where that was
    /// otherwise than it was judged: the config's own logs tell of that one, as Envoy's do.
    pub(crate) fn write_request(
        &self,
        worker: &Worker,
        peer: &Peer,
        chain: &Chain,
        (head, outgoing, response): (&RequestHead, &RequestHead, &ResponseHead),
        protocol: &str,
    ) {
        let is_grpc = head.is_grpc();
        let duration = self.duration();
        let kind = if is_grpc { Protocol::Grpc } else { Protocol::Http };
        let edge = self.edge(worker, peer, chain.service.as_ref(), kind);
        if let Some(taken) = &peer.taken {
            taken.request();
        }
        self.count_trials(worker);
        worker.shard.record_request(
            edge,
            &Request {
                status: self.status,
                grpc_status: self.grpc_status.filter(|_| is_grpc),
                duration,
                bytes_in: self.bytes_in,
                bytes_out: self.bytes_out,
                reason: self.reason,
            },
        );
        if let Some(start) = self.clock {
            let entry = Entry {
                start,
                duration,
                protocol,
                method: head.method(),
                authority: head.authority(),
                path: head.path_and_query(),
                request_id: head.fields.find(b"x-request-id").unwrap_or_default(),
                ..Entry::default()
            };
            self.write_line(worker, peer, &entry);
            let request = Some(if self.is_rewritten { outgoing } else { head });
            let response = Some(response);
            let seen = Seen { worker, peer, chain, record: self, request, response, protocol, body: b"" };
            write_logs(chain, &seen);
        }
    }

    /// Writes the record of a connection of bytes. Called once.
    pub(crate) fn write_connection(&self, worker: &Worker, peer: &Peer, chain: &Chain, edge: EdgeId) {
        let duration = self.duration();
        self.count_trials(worker);
        worker.shard.tcp_closed(edge, duration, self.reason);
        if let Some(start) = self.clock {
            let entry = Entry { start, duration, protocol: "TCP", ..Entry::default() };
            self.write_line(worker, peer, &entry);
            let seen = Seen {
                worker,
                peer,
                chain,
                record: self,
                request: None,
                response: None,
                protocol: "",
                body: b"",
            };
            write_logs(chain, &seen);
        }
    }

    fn count_trials(&self, worker: &Worker) {
        for (policy, trial) in self.noted.iter().flat_map(|noted| &noted.trials) {
            worker.shard.tried(policy, *trial);
        }
    }

    fn write_line(&self, worker: &Worker, peer: &Peer, entry: &Entry<'_>) {
        if !worker.lane.enabled() {
            return;
        }
        let config = self.cluster.as_ref().map(|cluster| cluster.config());
        let version = worker.config_version();
        let noted = self.noted.as_deref();
        let trials = noted.map(Noted::text).unwrap_or_default();
        let line = Entry {
            direction: if peer.direction == Direction::Inbound { "inbound" } else { "outbound" },
            status: self.status,
            grpc_status: self.grpc_status,
            reason: self.reason,
            bytes_in: self.bytes_in,
            bytes_out: self.bytes_out,
            downstream: Some(peer.address),
            meant_for: peer.meant_for,
            downstream_peer: peer.id.as_ref().map_or("", SpiffeId::as_str),
            route: self.route.as_deref().unwrap_or_default(),
            cluster: config.as_ref().map_or("", |config| &config.cluster.name),
            upstream: self.upstream_address(),
            upstream_peer: self.endpoint.as_ref().map_or("", |endpoint| principal(endpoint)),
            upstream_failure: self.cause.as_deref().unwrap_or_default(),
            dry_run: &trials,
            audit: noted.and_then(|noted| noted.audit.as_deref()).unwrap_or_default(),
            config_version: &version,
            ..*entry
        };
        worker.lane.write(&line);
    }

    /// The endpoint's address.
    pub(crate) fn upstream_address(&self) -> Option<SocketAddr> {
        self.endpoint.as_ref().map(|endpoint| endpoint.config.address)
    }

    /// The edge that is reported: at a workload's inbound side that from the peer, else that to the endpoint.
    pub(crate) fn edge(
        &self,
        worker: &Worker,
        peer: &Peer,
        service: Option<&ServiceName>,
        protocol: Protocol,
    ) -> EdgeId {
        if peer.direction == Direction::Inbound {
            return peer
                .edges
                .edge(protocol, || worker.shard.edge(&inbound(worker, peer, service, protocol)));
        }
        let (edges, endpoint) = match (&self.endpoint, &self.cluster) {
            (Some(endpoint), _) => (&endpoint.edges, Some(&**endpoint)),
            (None, Some(cluster)) => (&cluster.edges, None),
            (None, None) => (&worker.unrouted, None),
        };
        edges.edge(protocol, || {
            worker.shard.edge(&outbound(worker, self.cluster.as_deref(), endpoint, protocol))
        })
    }
}

impl OpenConnection {
    /// Counts a connection that the peer opened to us, if both ends are proxies.
    pub(crate) fn accepted(
        worker: &Worker,
        peer: &Peer,
        service: Option<&ServiceName>,
        protocol: Protocol,
    ) -> Self {
        // What an application opens to its own proxy is not between proxies.
        if peer.direction != Direction::Inbound {
            return Self { counted: None };
        }
        let edge = peer.edges.edge(protocol, || worker.shard.edge(&inbound(worker, peer, service, protocol)));
        Self::count(worker, edge)
    }

    /// Counts a connection that we opened to an endpoint for `peer`, if both ends are proxies.
    pub(crate) fn opened(worker: &Worker, peer: &Peer, picked: &Picked, protocol: Protocol) -> Self {
        if peer.direction == Direction::Inbound {
            return Self { counted: None };
        }
        let endpoint = picked.endpoint();
        let edge = endpoint.edges.edge(protocol, || {
            worker.shard.edge(&outbound(worker, Some(picked.cluster()), Some(endpoint), protocol))
        });
        Self::count(worker, edge)
    }

    /// Of a connection that nobody counts, such as the proxy's own.
    pub(crate) fn uncounted() -> Self {
        Self { counted: None }
    }

    fn count(worker: &Worker, edge: EdgeId) -> Self {
        worker.shard.connection_opened(edge);
        Self { counted: Some((Arc::clone(&worker.shard), edge)) }
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        if let Some((shard, edge)) = &self.counted {
            shard.connection_closed(*edge);
        }
    }
}

/// Writes the lines of the config's own logs.
fn write_logs(chain: &Chain, seen: &Seen<'_>) {
    for log in chain.logs() {
        if log.config.filter.as_ref().is_none_or(|filter| passes(filter, seen)) {
            seen.worker.chain_lane(log).append(|out| write(&log.config.format, seen, out));
        }
    }
}

/// The status of a call, as its head or trailers say.
pub(crate) fn grpc_status(fields: &Fields) -> Option<u8> {
    std::str::from_utf8(fields.find(b"grpc-status")?).ok()?.parse().ok()
}

/// Envoy's words for the same events. Source: Envoy `ResponseCodeDetailValues`.
fn details(reason: Reason) -> &'static str {
    match reason {
        Reason::BadRequest | Reason::HeadTooLarge => "http1.codec_error",
        Reason::RequestTimeout => "request_overall_timeout",
        Reason::DownstreamGone => "downstream_remote_disconnect",
        Reason::SlowReader | Reason::StreamIdle => "stream_idle_timeout",
        Reason::Unsupported | Reason::UpgradeRefused => "upgrade_failed",
        Reason::Version => "low_version",
        Reason::NoRoute => "route_not_found",
        Reason::NoCluster => "cluster_not_found",
        Reason::DirectResponse => "direct_response",
        Reason::NoEndpoint => "no_healthy_upstream",
        Reason::ConnectFailed | Reason::UpstreamIdentity => {
            "upstream_reset_before_response_started{remote_connection_failure}"
        }
        Reason::UpstreamReset => "upstream_reset_before_response_started{connection_termination}",
        Reason::BadResponse => "upstream_reset_before_response_started{protocol_error}",
        Reason::Timeout => "response_timeout",
        Reason::StreamReset => "upstream_reset_before_response_started{remote_reset}",
        Reason::StreamDuration => "max_duration_timeout",
        Reason::UpstreamDuration => "upstream_max_stream_duration_reached",
        Reason::InvalidField => "request_headers_failed_strict_check",
        Reason::Denied => "rbac_access_denied_matched_policy[none]",
        Reason::UpstreamOverflow => "upstream_reset_before_response_started{overflow}",
        Reason::Shed => "drop_overload",
        Reason::Overload => "overload",
        Reason::Unauthenticated | Reason::NoTokenKeys => "jwt_authn_access_denied",
        Reason::Fault => "fault_filter_abort",
        Reason::RefusedExternally => "ext_authz_denied",
        Reason::AuthorizationFailed => "ext_authz_error",
        Reason::RateLimited => "request_rate_limited",
        Reason::RateLimitFailed => "rate_limiter_error",
        Reason::BodyTooLarge => "request_payload_too_large",
        Reason::Unhealthy => "health_check_failed",
        Reason::Destination | Reason::Untrusted | Reason::Flood => "",
    }
}

// === impl Points ===

impl Points {
    fn note(&mut self, point: Point, after: Duration) {
        let micros = u32::try_from(after.as_micros()).unwrap_or(u32::MAX - 1).min(u32::MAX - 1);
        if let Some(slot) = slot(point).and_then(|slot| self.0.get_mut(slot)) {
            *slot = micros;
        }
    }

    /// When it was, counted from the request's beginning.
    pub(crate) fn at(&self, point: Point) -> Option<Duration> {
        let micros = *self.0.get(slot(point)?)?;
        (micros != u32::MAX).then(|| Duration::from_micros(micros.into()))
    }
}

impl Default for Points {
    fn default() -> Self {
        Self([u32::MAX; NOTED.len()])
    }
}

fn slot(point: Point) -> Option<usize> {
    NOTED.iter().position(|noted| *noted == point)
}

fn outbound(
    worker: &Worker,
    cluster: Option<&WorkerCluster>,
    endpoint: Option<&Endpoint>,
    protocol: Protocol,
) -> EdgeKey {
    EdgeKey {
        reporter: Reporter::Source,
        source: worker.node.workload.clone(),
        source_principal: own_principal(worker),
        service: cluster.and_then(|cluster| cluster.config().service()),
        destination: endpoint.and_then(|e| e.config.workload.clone()).unwrap_or_default(),
        destination_principal: endpoint.map_or_else(Arc::default, |e| principal(e).into()),
        protocol,
        mtls: endpoint.is_some_and(|e| matches!(e.reach, Reach::Tls(_))),
    }
}

fn inbound(worker: &Worker, peer: &Peer, service: Option<&ServiceName>, protocol: Protocol) -> EdgeKey {
    let own = &worker.node.workload;
    let own_service = || ServiceName { name: own.app.clone(), namespace: own.namespace.clone() };
    let namespace = peer.id.as_ref().and_then(|id| Some(id.namespace_and_account()?.0.into()));
    EdgeKey {
        reporter: Reporter::Destination,
        source: Workload { namespace: namespace.unwrap_or_default(), ..Workload::default() },
        source_principal: peer.id.as_ref().map_or_else(Arc::default, |id| id.as_str().into()),
        service: Some(service.cloned().unwrap_or_else(own_service)),
        destination: own.clone(),
        destination_principal: if peer.is_tls { own_principal(worker) } else { Arc::default() },
        protocol,
        mtls: peer.id.is_some(),
    }
}

fn own_principal(worker: &Worker) -> Arc<str> {
    worker.node.identity.as_ref().map_or_else(Arc::default, |id| id.as_str().into())
}

/// The identity that an endpoint proves: its mark, where it is reached by mTLS.
fn principal(endpoint: &Endpoint) -> &str {
    match endpoint.reach {
        Reach::Tls(_) => endpoint.config.transport.as_deref().unwrap_or_default(),
        Reach::Plaintext | Reach::Nowhere => "",
    }
}
