//! What becomes of open mTLS connections when trust changes; and what new ones agree on.

mod retired;

use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use meshwork_identity::{
    Bundle, CertificateAuthority, ClientCertificate, IdentitySource, Revocations, SpiffeId, Trust,
};
use meshwork_model::proxy::{
    Direction, Discovery, DownstreamTls, MeshClient, MeshServer, NetworkFilter, Resource, TransportMatch,
    UpstreamTls,
};
use meshwork_model::reason::Reason;
use meshwork_telemetry::Outcome;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::task::spawn_local;
use tokio::time::{sleep, timeout};
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{HandshakeKind, NamedGroup, ProtocolVersion};
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};

use super::{GET, OK};
use crate::limits::UNTRUSTED_END;
use crate::testing::config::{self, ORIGIN};
use crate::testing::{End, MemorySocket, Origin, World, play_as, settle, timed};

type Client = client::TlsStream<MemorySocket>;
type Server = server::TlsStream<MemorySocket>;

/// Longer than idle connections may go on.
const SOON: Duration = Duration::from_secs(1);

/// An authority of a trust domain of its own.
struct Mesh {
    authority: CertificateAuthority,
    trust_domain: &'static str,
    _dir: tempfile::TempDir,
}

impl Mesh {
    fn new(trust_domain: &'static str) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let authority = CertificateAuthority::open_or_create(dir.path(), trust_domain).expect("an authority");
        Self { authority, trust_domain, _dir: dir }
    }

    fn id(&self, account: &str) -> SpiffeId {
        SpiffeId::workload(self.trust_domain, "shop", account).expect("valid")
    }

    fn identity(&self, account: &str) -> Arc<IdentitySource> {
        let svid = self.authority.issue(&self.id(account), Duration::from_hours(1), &[]).expect("signed");
        IdentitySource::new(svid, self.authority.bundle()).expect("valid")
    }

    fn bundle(&self) -> Bundle {
        self.authority.bundle()
    }
}

fn change(identity: &IdentitySource, next: impl FnOnce(Trust) -> Trust) {
    identity.replace_trust(next((*identity.trust()).clone())).expect("of the same trust domain");
}

fn revoke(identity: &IdentitySource, id: &SpiffeId) {
    let revoked = Revocations::new([id.clone()], []);
    change(identity, |trust| trust.with_revoked(revoked));
}

fn inbound_tls(alpn: &[&str]) -> DownstreamTls {
    let tls = MeshServer {
        certificate: "default".into(),
        validation: Some("ROOTCA".into()),
        require_client_certificate: true,
        alpn: alpn.iter().map(|name| (*name).into()).collect(),
        allowed: vec![],
    };
    tls.into()
}

/// The called workload's side, as `cart`.
fn inbound(filter: NetworkFilter) -> Vec<Resource> {
    let mut listener = config::listener(filter, Some(inbound_tls(&["h2", "http/1.1"])));
    if let Resource::Listener(listener) = &mut listener {
        listener.direction = Direction::Inbound;
    }
    vec![Resource::Cluster(config::cluster(&[ORIGIN])), listener]
}

/// The caller's side: expects `cart` behind [`ORIGIN`].
fn outbound(cart: &SpiffeId, filter: NetworkFilter, alpn: &[&str]) -> Vec<Resource> {
    let mark: Arc<str> = cart.as_str().into();
    let mut cluster = config::cluster(&[ORIGIN]);
    let tls = MeshClient {
        certificate: Some("default".into()),
        validation: "ROOTCA".into(),
        identities: vec![cart.clone()],
        alpn: alpn.iter().map(|name| (*name).into()).collect(),
        sni: "".into(),
    };
    cluster.transports = vec![TransportMatch {
        name: "mtls".into(),
        transport: Some(Arc::clone(&mark)),
        labels: Vec::new(),
        tls: Some(UpstreamTls::Mesh(tls)),
    }];
    if let Discovery::Static(endpoints) = &mut cluster.discovery {
        endpoints.endpoints.iter_mut().for_each(|endpoint| endpoint.transport = Some(Arc::clone(&mark)));
    }
    vec![Resource::Cluster(cluster), config::listener(filter, None)]
}

async fn shake_hands(
    end: End,
    identity: &Arc<IdentitySource>,
    server: &SpiffeId,
    alpn: &[u8],
) -> io::Result<Client> {
    let config = identity.client_config(std::slice::from_ref(server), &[alpn]);
    let name = ServerName::try_from("cart.mesh").expect("a name");
    TlsConnector::from(config).connect(name, end.socket).await
}

/// A client of the listener `web`, whose handshake is done.
async fn connect(world: &World, identity: &Arc<IdentitySource>, server: &SpiffeId, alpn: &[u8]) -> Client {
    shake_hands(world.connect(), identity, server, alpn).await.expect("agrees")
}

/// The next connection to an endpoint that ends mTLS.
async fn accept(origin: &mut Origin, identity: &Arc<IdentitySource>, alpn: &[u8]) -> Server {
    let config = identity.server_config(&[alpn], ClientCertificate::Required);
    TlsAcceptor::from(config).accept(origin.accept().await.socket).await.expect("agrees")
}

async fn send(stream: &mut (impl AsyncWrite + Unpin), text: &str) {
    stream.write_all(text.as_bytes()).await.expect("sent");
    stream.flush().await.expect("sent");
}

/// What comes until the end of a head, or of a body of two bytes behind one.
async fn receive(stream: &mut (impl AsyncRead + Unpin), end: &str) -> String {
    let mut bytes = Vec::new();
    while !bytes.ends_with(end.as_bytes()) {
        assert!(stream.read_buf(&mut bytes).await.expect("open") > 0, "{}", String::from_utf8_lossy(&bytes));
    }
    String::from_utf8(bytes).expect("text")
}

/// How a connection ends, which it does soon; `true` for cleanly.
async fn ends(stream: &mut (impl AsyncRead + Unpin)) -> bool {
    let mut rest = Vec::new();
    timeout(SOON, stream.read_to_end(&mut rest)).await.expect("it ends").is_ok()
}

/// Whether it goes on.
async fn is_open(stream: &mut (impl AsyncRead + Unpin)) -> bool {
    let mut byte = [0];
    timeout(SOON, stream.read(&mut byte)).await.is_err()
}

/// Whether a new connection does not come about. With TLS 1.3 the client learns so when it reads.
async fn is_refused(world: &World, identity: &Arc<IdentitySource>, server: &SpiffeId) -> bool {
    match shake_hands(world.connect(), identity, server, b"http/1.1").await {
        Ok(mut client) => !ends(&mut client).await,
        Err(_) => true,
    }
}

/// An endpoint whose handshakes all fail.
async fn refuse_all(origin: &mut Origin, identity: &Arc<IdentitySource>) -> ! {
    loop {
        let config = identity.server_config(&[b"http/1.1"], ClientCertificate::Required);
        let accepted = TlsAcceptor::from(config).accept(origin.accept().await.socket).await;
        assert!(accepted.is_err());
    }
}

fn reasons(world: &World) -> Vec<Option<Reason>> {
    let outcomes = world.edges().into_iter().flat_map(|edge| edge.outcomes);
    outcomes
        .map(|(outcome, _)| match outcome {
            Outcome::Exact { reason, .. } => reason,
            Outcome::Class(_) => None,
        })
        .collect()
}

/// A proxy of `cart`, and the caller `web`.
fn play_inbound(
    filter: NetworkFilter,
    script: impl AsyncFnOnce(&World, &Mesh, &IdentitySource, &Arc<IdentitySource>),
) {
    let mesh = Mesh::new("mesh.local");
    let (cart, web) = (mesh.identity("cart"), mesh.identity("web"));
    play_as(Some(Arc::clone(&cart)), inbound(filter), async |world| script(world, &mesh, &cart, &web).await);
}

// === callers ===

#[test]
fn a_revoked_caller_loses_an_idle_connection() {
    play_inbound(config::http(None), async |world, mesh, cart, web| {
        let mut origin = world.origin(ORIGIN);
        let mut client = connect(world, web, cart.id(), b"http/1.1").await;
        send(&mut client, GET).await;
        let mut upstream = origin.accept().await;
        upstream.receive().await;
        upstream.send(OK).await;
        receive(&mut client, "ok").await;
        revoke(cart, &mesh.id("web"));
        assert!(!ends(&mut client).await, "it is reset");
        assert!(is_refused(world, web, cart.id()).await);
        let told = world.metrics();
        assert!(told.contains("meshwork_handshakes_refused_total{why=\"revoked\"} 1"), "{told}");
        assert!(told.contains("meshwork_connections_untrusted_total 1"), "{told}");
    });
}

#[test]
fn a_revoked_caller_loses_the_request_under_way() {
    play_inbound(config::http(None), async |world, mesh, cart, web| {
        let mut origin = world.origin(ORIGIN);
        let mut client = connect(world, web, cart.id(), b"http/1.1").await;
        send(&mut client, GET).await;
        let mut upstream = origin.accept().await;
        upstream.receive().await;
        revoke(cart, &mesh.id("web"));
        assert!(!ends(&mut client).await, "it is reset");
        assert!(upstream.is_over().await, "nobody waits for the answer");
        assert_eq!(reasons(world), [Some(Reason::Untrusted)]);
    });
}

#[test]
fn what_a_revoked_caller_has_sent_ahead_is_not_served() {
    play_inbound(config::http(None), async |world, mesh, cart, web| {
        let mut origin = world.origin(ORIGIN);
        let mut client = connect(world, web, cart.id(), b"http/1.1").await;
        send(&mut client, &format!("{GET}{GET}")).await;
        let mut upstream = origin.accept().await;
        upstream.receive().await;
        revoke(cart, &mesh.id("web"));
        settle().await;
        assert!(!ends(&mut client).await);
        assert_eq!(world.requests(), 1);
        assert!(!origin.is_called().await);
    });
}

#[test]
fn a_revoked_caller_loses_streams_of_http2() {
    play_inbound(config::http(None), async |world, mesh, cart, web| {
        let mut origin = world.origin(ORIGIN);
        let client = connect(world, web, cart.id(), b"h2").await;
        let (requests, connection) = h2::client::handshake(client).await.expect("speaks HTTP/2");
        let driving = spawn_local(connection);
        let ask = async |requests: &h2::client::SendRequest<Bytes>| {
            let mut requests = requests.clone().ready().await?;
            let request = http::Request::get("http://a/").body(()).expect("valid");
            requests.send_request(request, true)?.0.await
        };
        let asking = spawn_local({
            let requests = requests.clone();
            async move { ask(&requests).await.map(drop) }
        });
        let mut upstream = origin.accept().await;
        upstream.receive().await;
        revoke(cart, &mesh.id("web"));
        let asked = timeout(SOON, asking).await.expect("it ends").expect("no panic");
        assert!(asked.is_err());
        assert!(timeout(SOON, driving).await.expect("it ends").expect("no panic").is_err());
        assert!(upstream.is_over().await);
        assert_eq!(reasons(world), [Some(Reason::Untrusted)]);
    });
}

#[test]
fn a_revoked_caller_loses_a_connection_of_bytes() {
    play_inbound(config::tcp_filter("a"), async |world, mesh, cart, web| {
        let mut origin = world.origin(ORIGIN);
        let mut client = connect(world, web, cart.id(), b"http/1.1").await;
        send(&mut client, "question").await;
        let mut upstream = origin.accept().await;
        upstream.take(8).await.expect("the question");
        revoke(cart, &mesh.id("web"));
        assert!(!ends(&mut client).await, "it is reset");
        assert_eq!(upstream.rest().await, Err(crate::testing::Cut::Reset));
        assert_eq!(reasons(world), [Some(Reason::Untrusted)]);
    });
}

#[test]
fn one_whose_certificate_alone_is_revoked_goes_too() {
    play_inbound(config::tcp_filter("a"), async |world, _, cart, web| {
        let mut origin = world.origin(ORIGIN);
        let mut client = connect(world, web, cart.id(), b"http/1.1").await;
        let _upstream = origin.accept().await;
        let revoked = Revocations::new([], [web.svid().serial()]);
        change(cart, |trust| trust.with_revoked(revoked));
        assert!(!ends(&mut client).await);
    });
}

#[test]
fn changes_that_concern_others_harm_nobody() {
    play_inbound(config::http(None), async |world, mesh, cart, web| {
        let (mut origin, other) = (world.origin(ORIGIN), Mesh::new("other.local"));
        let mut client = connect(world, web, cart.id(), b"http/1.1").await;
        let ask = async |client: &mut Client| {
            send(client, GET).await;
            settle().await;
        };
        ask(&mut client).await;
        let mut upstream = origin.accept().await;
        for step in 0..3 {
            upstream.receive().await;
            match step {
                0 => revoke(cart, &mesh.id("bank")),
                1 => change(cart, |trust| trust.with_federated([other.bundle()])),
                _ => change(cart, |trust| trust.with_federated([])),
            }
            settle().await;
            upstream.send(OK).await;
            receive(&mut client, "ok").await;
            assert!(is_open(&mut client).await);
            // The connection to the application, in plaintext, is used again, too.
            ask(&mut client).await;
        }
    });
}

#[test]
fn callers_of_a_trust_domain_that_is_let_go_of_end_in_their_time() {
    let (mesh, other) = (Mesh::new("mesh.local"), Mesh::new("other.local"));
    let (cart, foreign) = (mesh.identity("cart"), other.identity("web"));
    change(&foreign, |trust| trust.with_federated([mesh.bundle()]));
    play_as(Some(Arc::clone(&cart)), inbound(config::http(None)), async |world| {
        let mut origin = world.origin(ORIGIN);
        assert!(is_refused(world, &foreign, cart.id()).await);
        let told = world.metrics();
        assert!(told.contains("meshwork_handshakes_refused_total{why=\"unknown_trust_domain\"} 1"), "{told}");
        change(&cart, |trust| trust.with_federated([other.bundle()]));
        let mut idle = connect(world, &foreign, cart.id(), b"http/1.1").await;
        let mut busy = connect(world, &foreign, cart.id(), b"http/1.1").await;
        let mut slow = connect(world, &foreign, cart.id(), b"http/1.1").await;
        send(&mut busy, GET).await;
        let mut of_busy = origin.accept().await;
        of_busy.receive().await;
        send(&mut slow, GET).await;
        let mut of_slow = origin.accept().await;
        of_slow.receive().await;
        change(&cart, |trust| trust.with_federated([]));
        assert!(ends(&mut idle).await, "it ends cleanly");
        // What is under way may end, and then the connection does.
        of_busy.send(OK).await;
        receive(&mut busy, "ok").await;
        assert!(ends(&mut busy).await);
        // But not for as long as it likes.
        let (over, took) = timed(async { slow.read(&mut [0]).await }).await;
        assert!(over.is_err());
        assert!(took <= UNTRUSTED_END, "{took:?}");
        assert!(of_slow.is_over().await);
    });
}

#[test]
fn a_session_is_resumed_until_trust_changes() {
    play_inbound(config::tcp_filter("a"), async |world, mesh, cart, web| {
        let mut origin = world.origin(ORIGIN);
        // Who keeps the configuration keeps its tickets.
        let _tickets = web.client_config(&[cart.id().clone()], &[b"http/1.1"]);
        let mut kinds = Vec::new();
        for step in 0..4 {
            if step == 2 {
                revoke(cart, &mesh.id("bank"));
            }
            let mut client = connect(world, web, cart.id(), b"http/1.1").await;
            let mut upstream = origin.accept().await;
            upstream.send("x").await;
            // With it comes the ticket.
            client.read_u8().await.expect("a byte");
            kinds.push(client.get_ref().1.handshake_kind().expect("done"));
        }
        let (full, resumed) = (HandshakeKind::Full, HandshakeKind::Resumed);
        assert_eq!(kinds, [full, resumed, full, resumed]);
        revoke(cart, &mesh.id("web"));
        assert!(is_refused(world, web, cart.id()).await);
        assert!(!origin.is_called().await);
    });
}

#[test]
fn an_open_connection_outlives_its_certificate_and_a_new_one_does_not_begin() {
    let mesh = Mesh::new("mesh.local");
    let cart = mesh.identity("cart");
    let svid = mesh.authority.issue(&mesh.id("web"), Duration::from_secs(2), &[]).expect("signed");
    let expires = svid.not_after();
    let web = IdentitySource::new(svid, mesh.bundle()).expect("valid");
    play_as(Some(Arc::clone(&cart)), inbound(config::tcp_filter("a")), async |world| {
        let mut origin = world.origin(ORIGIN);
        let mut client = connect(world, &web, cart.id(), b"http/1.1").await;
        let mut upstream = origin.accept().await;
        // The calendar is the one clock that does not stand still here.
        while let Ok(left) = expires.duration_since(SystemTime::now()) {
            std::thread::sleep(left + Duration::from_millis(1100));
        }
        revoke(&cart, &mesh.id("bank"));
        settle().await;
        send(&mut client, "x").await;
        assert_eq!(upstream.take(1).await.as_deref(), Ok(&b"x"[..]));
        assert!(is_refused(world, &web, cart.id()).await);
        assert!(!origin.is_called().await);
        let told = world.metrics();
        assert!(told.contains("meshwork_handshakes_refused_total{why=\"expired\"} 1"), "{told}");
    });
}

// === endpoints ===

#[test]
fn a_revoked_endpoint_is_never_called_on_a_connection_that_waits() {
    let mesh = Mesh::new("mesh.local");
    let (cart, web) = (mesh.identity("cart"), mesh.identity("web"));
    let resources = outbound(cart.id(), config::http(None), &["http/1.1"]);
    play_as(Some(Arc::clone(&web)), resources, async |world| {
        let mut origin = world.origin(ORIGIN);
        let mut client = world.connect();
        client.send(GET).await;
        let mut upstream = accept(&mut origin, &cart, b"http/1.1").await;
        receive(&mut upstream, "\r\n\r\n").await;
        send(&mut upstream, OK).await;
        client.receive().await;
        // What concerns others leaves it in the pool.
        revoke(&web, &mesh.id("bank"));
        settle().await;
        client.send(GET).await;
        receive(&mut upstream, "\r\n\r\n").await;
        send(&mut upstream, OK).await;
        client.receive().await;
        revoke(&web, &mesh.id("cart"));
        settle().await;
        client.send(GET).await;
        ends(&mut upstream).await;
        let answer = tokio::select! {
            answer = client.receive() => answer,
            _ = refuse_all(&mut origin, &cart) => unreachable!("it goes on for ever"),
        };
        assert_eq!((answer.status(), answer.header("x-meshwork-reason")), (Some(503), Some("MW0303")));
    });
}

#[test]
fn a_revoked_endpoint_loses_the_request_under_way() {
    let mesh = Mesh::new("mesh.local");
    let (cart, web) = (mesh.identity("cart"), mesh.identity("web"));
    for alpn in ["http/1.1", "h2"] {
        let resources = outbound(cart.id(), config::http(None), &[alpn]);
        let resources: Vec<Resource> = resources
            .into_iter()
            .map(|resource| match resource {
                Resource::Cluster(mut cluster) if alpn == "h2" => {
                    cluster.protocol = meshwork_model::proxy::UpstreamProtocol::Http2;
                    Resource::Cluster(cluster)
                }
                other => other,
            })
            .collect();
        play_as(Some(Arc::clone(&web)), resources, async |world| {
            let mut origin = world.origin(ORIGIN);
            let mut client = world.connect();
            // One that is not sent again by itself.
            client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n").await;
            let mut upstream = accept(&mut origin, &cart, alpn.as_bytes()).await;
            let serving = spawn_local(async move {
                if alpn == "h2" {
                    let mut connection = h2::server::handshake(upstream).await.expect("HTTP/2");
                    // The request comes, and is not answered.
                    let _asked = connection.accept().await.expect("asked").expect("whole");
                    poll_fn(|cx| connection.poll_closed(cx)).await.is_err()
                } else {
                    receive(&mut upstream, "\r\n\r\n").await;
                    upstream.read_to_end(&mut Vec::new()).await.is_err()
                }
            });
            sleep(Duration::from_millis(10)).await;
            revoke(&web, &mesh.id("cart"));
            let answer = timeout(SOON, client.receive()).await.expect("at once");
            let code = answer.header("x-meshwork-reason");
            assert_eq!((answer.status(), code), (Some(503), Some("MW0303")), "{alpn}");
            assert!(serving.await.expect("no panic"), "{alpn}: it is reset");
        });
        revoke_nobody(&web);
    }
}

fn revoke_nobody(identity: &IdentitySource) {
    change(identity, |trust| trust.with_revoked(Revocations::default()));
}

#[test]
fn a_revoked_endpoint_loses_a_connection_of_bytes() {
    let mesh = Mesh::new("mesh.local");
    let (cart, web) = (mesh.identity("cart"), mesh.identity("web"));
    play_as(
        Some(Arc::clone(&web)),
        outbound(cart.id(), config::tcp_filter("a"), &["istio"]),
        async |world| {
            let mut origin = world.origin(ORIGIN);
            let mut client = world.connect();
            client.send("question").await;
            let mut upstream = accept(&mut origin, &cart, b"istio").await;
            upstream.read_exact(&mut [0; 8]).await.expect("the question");
            revoke(&web, &mesh.id("cart"));
            assert!(!ends(&mut upstream).await);
            assert_eq!(client.rest().await, Err(crate::testing::Cut::Reset));
            assert_eq!(reasons(world), [Some(Reason::UpstreamIdentity)]);
        },
    );
}

#[test]
fn a_server_that_refuses_us_is_told_of_as_such() {
    let mesh = Mesh::new("mesh.local");
    let (cart, web) = (mesh.identity("cart"), mesh.identity("web"));
    revoke(&cart, web.id());
    let resources = outbound(cart.id(), config::http(None), &["http/1.1"]);
    play_as(Some(Arc::clone(&web)), resources, async |world| {
        let mut origin = world.origin(ORIGIN);
        let mut client = world.connect();
        client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n").await;
        let answer = tokio::select! {
            answer = client.receive() => answer,
            _ = refuse_all(&mut origin, &cart) => unreachable!("it goes on for ever"),
        };
        assert_eq!((answer.status(), answer.header("x-meshwork-reason")), (Some(503), Some("MW0303")));
    });
}

// === what is agreed on ===

#[test]
fn sidecars_agree_on_tls_1_3_and_a_key_exchange_that_outlasts_quantum_computers() {
    let check = |session: &tokio_rustls::rustls::CommonState| {
        let group = session.negotiated_key_exchange_group().expect("agreed on").name();
        assert_eq!(group, NamedGroup::X25519MLKEM768);
        assert_eq!(session.protocol_version(), Some(ProtocolVersion::TLSv1_3));
    };
    // As who is called.
    play_inbound(config::tcp_filter("a"), async |world, _, cart, web| {
        check(connect(world, web, cart.id(), b"http/1.1").await.get_ref().1);
    });
    // As who calls.
    let mesh = Mesh::new("mesh.local");
    let (cart, web) = (mesh.identity("cart"), mesh.identity("web"));
    play_as(Some(web), outbound(cart.id(), config::tcp_filter("a"), &["istio"]), async |world| {
        let mut origin = world.origin(ORIGIN);
        let _client = world.connect();
        check(accept(&mut origin, &cart, b"istio").await.get_ref().1);
    });
}

#[test]
fn who_speaks_an_older_tls_is_refused_with_a_clear_word() {
    use tokio_rustls::rustls::{ClientConfig, RootCertStore, version};
    play_inbound(config::tcp_filter("a"), async |world, _, _, _| {
        let config = ClientConfig::builder_with_protocol_versions(&[&version::TLS12])
            .with_root_certificates(RootCertStore::empty())
            .with_no_client_auth();
        let name = ServerName::try_from("cart.mesh").expect("a name");
        let refused = TlsConnector::from(Arc::new(config)).connect(name, world.connect().socket).await;
        let words = refused.err().expect("refused").to_string();
        assert!(words.contains("ProtocolVersion"), "{words}");
        let ended = world.ended().await.expect_err("refused").kind.to_string();
        assert!(ended.contains("TLS 1.3 alone"), "{ended}");
        let told = world.metrics();
        assert!(told.contains("meshwork_handshakes_refused_total{why=\"version\"} 1"), "{told}");
    });
}
