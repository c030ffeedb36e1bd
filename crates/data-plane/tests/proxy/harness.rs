//! Both ends of a proxy under test, and its config.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use meshwork_data_plane::{NodeLabels, Options, Proxy};
use meshwork_identity::{CertificateAuthority, IdentitySource, Svid};
use meshwork_model::proxy::*;
use meshwork_model::spiffe::SpiffeId;
use meshwork_telemetry::Registry;
use meshwork_xds::{Rejection, Update};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

/// Within this everything on loopback has happened, or never will.
pub(crate) const SOON: Duration = Duration::from_secs(20);

pub(crate) async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(SOON, future).await.expect("in time")
}

pub(crate) const LOOPBACK: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

// === identities ===

/// A certificate authority of the tests' own.
pub(crate) struct Mesh {
    pub(crate) authority: CertificateAuthority,
    _dir: tempfile::TempDir,
}

impl Mesh {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let authority = CertificateAuthority::open_or_create(dir.path(), "mesh.local").expect("an authority");
        Self { authority, _dir: dir }
    }

    pub(crate) fn identity(&self, account: &str) -> Arc<IdentitySource> {
        IdentitySource::new(self.svid(account), self.authority.bundle()).expect("valid")
    }

    pub(crate) fn svid(&self, account: &str) -> Svid {
        self.authority.issue(&id(account), Duration::from_hours(1), &[]).expect("signed")
    }
}

pub(crate) fn id(account: &str) -> SpiffeId {
    SpiffeId::workload("mesh.local", "shop", account).expect("valid")
}

// === the proxy ===

pub(crate) struct Sut {
    pub(crate) proxy: Proxy,
    pub(crate) registry: Arc<Registry>,
}

impl Sut {
    pub(crate) fn start(resources: Vec<Resource>) -> Self {
        Self::start_as(None, resources)
    }

    pub(crate) fn start_as(identity: Option<Arc<IdentitySource>>, resources: Vec<Resource>) -> Self {
        Self::start_with(Options { workers: 1, ..Options::default() }, identity, resources)
    }

    pub(crate) fn start_with(
        mut options: Options,
        identity: Option<Arc<IdentitySource>>,
        resources: Vec<Resource>,
    ) -> Self {
        let registry = Registry::new(SystemTime::UNIX_EPOCH);
        let account = identity.as_ref().map(|i| i.id().clone());
        let name: Arc<str> =
            account.as_ref().map_or("sut", |id| id.namespace_and_account().expect("ours").1).into();
        let workload =
            Workload { name: name.clone(), namespace: "shop".into(), app: name, version: "v1".into() };
        options.node = NodeLabels { workload, identity: account, ..NodeLabels::default() };
        let proxy = Proxy::start(options, identity, Arc::clone(&registry)).expect("starts");
        let sut = Self { proxy, registry };
        assert_eq!(sut.apply(resources), []);
        sut
    }

    pub(crate) fn apply(&self, resources: Vec<Resource>) -> Vec<Rejection> {
        self.proxy.apply(Update { upserts: resources, ..Update::default() })
    }

    pub(crate) fn remove(&self, kind: Kind, name: &str) {
        let removed = vec![(kind, name.to_owned())];
        assert_eq!(self.proxy.apply(Update { removed, ..Update::default() }), []);
    }

    pub(crate) fn address(&self, listener: &str) -> SocketAddr {
        self.proxy.listener_address(listener).expect("bound")
    }

    pub(crate) async fn client(&self) -> Client {
        Client::connect(self.address("web")).await
    }
}

// === config ===

pub(crate) fn listener(name: &str, direction: Direction, chain: FilterChain) -> Resource {
    Resource::Listener(Listener::new(name, Some(LOOPBACK), direction, vec![chain]))
}

pub(crate) fn chain(filter: NetworkFilter, tls: impl Into<Option<DownstreamTls>>) -> FilterChain {
    FilterChain { tls: tls.into(), ..FilterChain::new("chain", filter) }
}

/// A plain HTTP listener `web` with these routes.
pub(crate) fn web(routes: Vec<Route>) -> Resource {
    listener("web", Direction::Unspecified, chain(http(routes, vec![]), None))
}

pub(crate) fn http(routes: Vec<Route>, filters: Vec<HttpFilter>) -> NetworkFilter {
    NetworkFilter::Http(Arc::new(http_connection(
        RouteSource::Inline(Arc::new(table("inline", routes))),
        filters,
    )))
}

pub(crate) fn http_connection(routes: RouteSource, filters: Vec<HttpFilter>) -> HttpConnection {
    HttpConnection {
        filters,
        paths: PathNormalization {
            rfc3986: true,
            merge_slashes: true,
            escaped_slashes: EscapedSlashes::Reject,
        },
        upgrades: vec!["websocket".into()],
        request_headers_timeout: Some(SOON / 2),
        http1: Http1 { accept_http_10: true, default_host: Some("old".into()), trailers: true },
        ..HttpConnection::new("test", routes)
    }
}

pub(crate) fn table(name: &str, routes: Vec<Route>) -> RouteTable {
    RouteTable::new(name, vec![VirtualHost::new("all", vec![Domain::Any], routes)])
}

pub(crate) fn route(prefix: &str, clusters: &[(&str, u32)]) -> Route {
    let clusters =
        clusters.iter().map(|(name, weight)| WeightedCluster { name: (*name).into(), weight: *weight });
    let action = RouteAction::Forward(Forward {
        clusters: clusters.collect(),
        timeout: Some(SOON),
        resilience: resilience(),
    });
    Route::new("route", RouteMatch::new(PathMatch::Prefix(prefix.into()), vec![]), action)
}

/// What never reached the application is tried again, at once.
fn resilience() -> Resilience {
    let back_off = BackOff::of(Duration::from_millis(1));
    let retry = RetryPolicy { back_off, ..RetryPolicy::unreached(2) };
    Resilience { retry: Some(Arc::new(retry)), ..Resilience::default() }
}

pub(crate) fn with_timeout(mut route: Route, limit: Duration) -> Route {
    if let RouteAction::Forward(forward) = &mut route.action {
        forward.timeout = Some(limit);
    }
    route
}

pub(crate) fn cluster(name: &str, addresses: &[SocketAddr]) -> Cluster {
    let endpoints = addresses.iter().map(|address| Endpoint {
        workload: Some(Workload { name: name.into(), ..Workload::default() }),
        ..Endpoint::new(*address)
    });
    Cluster {
        service: Some(ServiceName { name: name.into(), namespace: "shop".into() }),
        ..Cluster::new(name, Discovery::Static(Endpoints::new(name, endpoints.collect())))
    }
}

pub(crate) fn rbac(action: Action, permission: Permission, principal: Principal) -> HttpFilter {
    HttpFilter::rbac(HttpFilter::RBAC, Arc::new(rule(action, permission, principal)))
}

pub(crate) fn rule(action: Action, permission: Permission, principal: Principal) -> Rbac {
    let rule = Rule { name: "rule".into(), permissions: vec![permission], principals: vec![principal] };
    Rbac { action, rules: vec![rule] }
}

pub(crate) fn is(account: &str) -> Principal {
    Principal::Authenticated(Some(StringMatch::Exact(id(account).as_str().into())))
}

/// The mTLS that a mesh's inbound side ends.
pub(crate) fn inbound_tls(alpn: &[&str]) -> DownstreamTls {
    DownstreamTls::Mesh(MeshServer {
        certificate: "default".into(),
        validation: Some("ROOTCA".into()),
        require_client_certificate: true,
        alpn: alpn.iter().map(|name| (*name).into()).collect(),
        allowed: vec![],
    })
}

/// The cluster, reached by mTLS as `account`.
pub(crate) fn by_mtls(mut cluster: Cluster, account: &str, alpn: &[&str]) -> Cluster {
    let mark: Arc<str> = id(account).as_str().into();
    cluster.transports = vec![TransportMatch {
        name: "mtls".into(),
        transport: Some(mark.clone()),
        labels: Vec::new(),
        tls: Some(UpstreamTls::Mesh(MeshClient {
            certificate: Some("default".into()),
            validation: "ROOTCA".into(),
            identities: vec![id(account)],
            alpn: alpn.iter().map(|name| (*name).into()).collect(),
            sni: "".into(),
        })),
    }];
    if let Discovery::Static(endpoints) = &mut cluster.discovery {
        endpoints.endpoints.iter_mut().for_each(|endpoint| endpoint.transport = Some(mark.clone()));
    }
    cluster
}

// === the client ===

/// A client that writes and reads bytes.
pub(crate) struct Client {
    pub(crate) stream: TcpStream,
    /// What was read past the last message.
    pub(crate) left: Vec<u8>,
}

impl Client {
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        Self { stream: soon(TcpStream::connect(address)).await.expect("connects"), left: Vec::new() }
    }

    pub(crate) async fn send(&mut self, text: &str) {
        soon(self.stream.write_all(text.as_bytes())).await.expect("sends");
    }

    /// Reads one message: its head, and its body as its framing says.
    pub(crate) async fn receive(&mut self) -> Message {
        soon(read_message(&mut self.stream, &mut self.left, false)).await.expect("a message")
    }

    /// As [`Self::receive`], for the answer to HEAD.
    pub(crate) async fn receive_head(&mut self) -> Message {
        soon(read_message(&mut self.stream, &mut self.left, true)).await.expect("a message")
    }

    pub(crate) async fn call(&mut self, text: &str) -> Message {
        self.send(text).await;
        self.receive().await
    }

    /// What comes next, as far as one read gives it; empty where the proxy closed or reset.
    pub(crate) async fn next_bytes(&mut self) -> String {
        let read = soon(self.stream.read_buf(&mut self.left)).await;
        let _ = read.unwrap_or(0);
        String::from_utf8_lossy(&std::mem::take(&mut self.left)).into_owned()
    }

    /// Reads until the proxy closes; `Err` where it resets.
    pub(crate) async fn rest(&mut self) -> std::io::Result<Vec<u8>> {
        let mut rest = std::mem::take(&mut self.left);
        soon(self.stream.read_to_end(&mut rest)).await?;
        Ok(rest)
    }
}

/// A message, its body decoded.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Message {
    pub(crate) head: String,
    pub(crate) body: String,
    pub(crate) trailers: String,
}

impl Message {
    pub(crate) fn status(&self) -> u16 {
        self.head.split(' ').nth(1).and_then(|s| s.parse().ok()).unwrap_or(0)
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().skip(1).find_map(|line| {
            let (field, value) = line.split_once(':')?;
            field.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }
}

/// Reads one message; `None` at a clean end before it.
pub(crate) async fn read_message(
    stream: &mut (impl AsyncRead + Unpin),
    left: &mut Vec<u8>,
    is_head: bool,
) -> Option<Message> {
    let end = loop {
        if let Some(at) = left.windows(4).position(|w| w == b"\r\n\r\n") {
            break at + 4;
        }
        if stream.read_buf(left).await.ok()? == 0 {
            return None;
        }
    };
    let head = String::from_utf8(left.drain(..end).collect()).expect("text");
    let mut message = Message { head, ..Message::default() };
    let length = message.header("content-length").map(|l| l.parse::<usize>().expect("a number"));
    let is_chunked = message.header("transfer-encoding") == Some("chunked");
    if is_head || matches!(message.status(), 100..200 | 204 | 304) {
        return Some(message);
    }
    if is_chunked {
        read_chunks(stream, left, &mut message).await?;
    } else if let Some(length) = length {
        while left.len() < length {
            if stream.read_buf(left).await.ok()? == 0 {
                return None;
            }
        }
        message.body = String::from_utf8(left.drain(..length).collect()).expect("text");
    } else if message.head.starts_with("HTTP/") {
        stream.read_to_end(left).await.ok()?;
        message.body = String::from_utf8(std::mem::take(left)).expect("text");
    }
    Some(message)
}

async fn read_chunks(
    stream: &mut (impl AsyncRead + Unpin),
    left: &mut Vec<u8>,
    message: &mut Message,
) -> Option<()> {
    loop {
        let line = read_line(stream, left).await?;
        let size = usize::from_str_radix(line.trim(), 16).expect("a chunk size");
        if size == 0 {
            loop {
                let line = read_line(stream, left).await?;
                if line == "\r\n" {
                    return Some(());
                }
                message.trailers += &line;
            }
        }
        while left.len() < size + 2 {
            if stream.read_buf(left).await.ok()? == 0 {
                return None;
            }
        }
        let chunk: Vec<u8> = left.drain(..size + 2).collect();
        message.body += std::str::from_utf8(&chunk[..size]).expect("text");
    }
}

async fn read_line(stream: &mut (impl AsyncRead + Unpin), left: &mut Vec<u8>) -> Option<String> {
    loop {
        if let Some(at) = left.iter().position(|b| *b == b'\n') {
            return String::from_utf8(left.drain(..=at).collect()).ok();
        }
        if stream.read_buf(left).await.ok()? == 0 {
            return None;
        }
    }
}

// === the origin ===

/// A server whose every answer is the same text, and which tells what it was asked.
pub(crate) struct Origin {
    pub(crate) address: SocketAddr,
    pub(crate) asked: mpsc::UnboundedReceiver<Message>,
    connections: Arc<Mutex<usize>>,
}

impl Origin {
    /// Answers every request with `answer`, keeping connections.
    pub(crate) async fn answering(answer: &'static str) -> Self {
        let listener = TcpListener::bind(LOOPBACK).await.expect("bound");
        let address = listener.local_addr().expect("bound");
        let (tell, asked) = mpsc::unbounded_channel();
        let connections = Arc::new(Mutex::new(0));
        let count = Arc::clone(&connections);
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                *count.lock().expect("whole") += 1;
                let tell = tell.clone();
                tokio::spawn(async move {
                    let mut left = Vec::new();
                    while let Some(message) = read_message(&mut stream, &mut left, false).await {
                        let _ = tell.send(message);
                        if stream.write_all(answer.as_bytes()).await.is_err() {
                            return;
                        }
                    }
                });
            }
        });
        Self { address, asked, connections }
    }

    /// What it was asked next.
    pub(crate) async fn next(&mut self) -> Message {
        soon(self.asked.recv()).await.expect("asked")
    }

    /// How many connections it has accepted.
    pub(crate) fn connections(&self) -> usize {
        *self.connections.lock().expect("whole")
    }
}

/// An origin that the test plays itself.
pub(crate) struct Stage {
    listener: TcpListener,
}

impl Stage {
    pub(crate) async fn open() -> Self {
        Self { listener: TcpListener::bind(LOOPBACK).await.expect("bound") }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.listener.local_addr().expect("bound")
    }

    /// The proxy's next connection.
    pub(crate) async fn accept(&self) -> Client {
        let (stream, _) = soon(self.listener.accept()).await.expect("accepts");
        Client { stream, left: Vec::new() }
    }
}

/// A port on which nobody listens.
pub(crate) async fn closed_port() -> SocketAddr {
    Stage::open().await.address()
}
