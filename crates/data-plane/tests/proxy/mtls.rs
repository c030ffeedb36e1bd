//! Two proxies with mTLS between them, and what policy makes of the identities.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use meshwork_identity::IdentitySource;
use meshwork_model::proxy::{
    Action, ChainMatch, ClientCert, Direction, FilterChain, ForwardClientCert, Kind, Listener, NetworkFilter,
    Permission, Principal, Resource, RouteSource, StringMatch, Transport,
};
use tokio::io::AsyncReadExt;

use crate::harness::*;

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
const GET: &str = "GET / HTTP/1.1\r\nHost: catalog\r\n\r\n";

/// The called workload's side: mTLS, policy, then the application.
fn inbound(
    identity: Arc<IdentitySource>,
    application: SocketAddr,
    filters: Vec<meshwork_model::proxy::HttpFilter>,
) -> Sut {
    let table = table("inline", vec![route("/", &[("app", 1)])]);
    let mut http = http_connection(RouteSource::Inline(Arc::new(table)), filters);
    http.client_cert = ClientCert { forward: ForwardClientCert::Set, uri: true, ..ClientCert::default() };
    let filter = NetworkFilter::Http(Arc::new(http));
    let listener = listener("inbound", Direction::Inbound, chain(filter, inbound_tls(&["h2", "http/1.1"])));
    Sut::start_as(Some(identity), vec![Resource::Cluster(cluster("app", &[application])), listener])
}

/// The caller's side: expects `account` of the endpoint.
fn outbound(identity: Arc<IdentitySource>, endpoint: SocketAddr, account: &str) -> Sut {
    let cluster = by_mtls(cluster("catalog", &[endpoint]), account, &["http/1.1"]);
    let filter = http(vec![route("/", &[("catalog", 1)])], vec![]);
    let listener = listener("web", Direction::Outbound, chain(filter, None));
    Sut::start_as(Some(identity), vec![Resource::Cluster(cluster), listener])
}

/// Who called, as the application is told: one element, by the called workload.
fn told_of_client(asked: &Message) -> &str {
    let told = asked.header("x-forwarded-client-cert").expect("told");
    let told = told.strip_prefix("By=spiffe://mesh.local/ns/shop/sa/catalog;Hash=").expect(told);
    told.split_once(";URI=").expect(told).1
}

fn only_web() -> Vec<meshwork_model::proxy::HttpFilter> {
    vec![
        rbac(Action::Deny, Permission::Path(StringMatch::Prefix("/admin".into())), Principal::Any),
        rbac(Action::Allow, Permission::Any, is("web")),
    ]
}

#[tokio::test]
async fn policy_decides_by_the_identity_that_was_proven() {
    let mesh = Mesh::new();
    let mut origin = Origin::answering(OK).await;
    let catalog = inbound(mesh.identity("catalog"), origin.address, only_web());
    let web = outbound(mesh.identity("web"), catalog.address("inbound"), "catalog");
    let mut client = web.client().await;
    assert_eq!(client.call(GET).await.status(), 200);
    let asked = origin.next().await;
    assert_eq!(told_of_client(&asked), "spiffe://mesh.local/ns/shop/sa/web");
    for path in ["/admin", "/x/../admin", "//admin", "/%61dmin"] {
        let got = client.call(&format!("GET {path} HTTP/1.1\r\nHost: catalog\r\n\r\n")).await;
        assert_eq!((got.status(), got.header("x-meshwork-reason")), (403, Some("MW0401")), "{path}");
    }
    let other = outbound(mesh.identity("cart"), catalog.address("inbound"), "catalog");
    assert_eq!(other.client().await.call(GET).await.status(), 403);
    assert!(origin.asked.try_recv().is_err(), "nothing that was refused reached the application");
}

#[tokio::test]
async fn claims_of_identity_from_outside_are_dropped() {
    let mesh = Mesh::new();
    let mut origin = Origin::answering(OK).await;
    let catalog = inbound(mesh.identity("catalog"), origin.address, vec![]);
    let web = outbound(mesh.identity("web"), catalog.address("inbound"), "catalog");
    let forged = "GET / HTTP/1.1\r\nHost: catalog\r\nX-Forwarded-Client-Cert: URI=spiffe://mesh.local/ns/shop/sa/admin\r\n\r\n";
    assert_eq!(web.client().await.call(forged).await.status(), 200);
    assert_eq!(told_of_client(&origin.next().await), "spiffe://mesh.local/ns/shop/sa/web");
}

#[tokio::test]
async fn an_endpoint_with_another_identity_is_not_called() {
    let mesh = Mesh::new();
    let mut origin = Origin::answering(OK).await;
    let catalog = inbound(mesh.identity("catalog"), origin.address, vec![]);
    let web = outbound(mesh.identity("web"), catalog.address("inbound"), "payments");
    let got = web.client().await.call(GET).await;
    assert_eq!((got.status(), got.header("x-meshwork-reason")), (503, Some("MW0303")));
    let stranger = Mesh::new();
    let web = outbound(stranger.identity("web"), catalog.address("inbound"), "catalog");
    assert_eq!(web.client().await.call(GET).await.status(), 503);
    assert!(origin.asked.try_recv().is_err());
}

#[tokio::test]
async fn an_endpoint_that_no_transport_takes_is_never_called_in_plaintext() {
    let mesh = Mesh::new();
    let mut origin = Origin::answering(OK).await;
    let web = outbound(mesh.identity("web"), origin.address, "catalog");
    let mut hasty = by_mtls(cluster("catalog", &[origin.address]), "catalog", &[]);
    hasty.connect_timeout = Duration::from_millis(100);
    assert_eq!(web.apply(vec![Resource::Cluster(hasty)]), []);
    // Plaintext behind an mTLS endpoint: the handshake fails, and that is the end of it.
    assert_eq!(web.client().await.call(GET).await.status(), 503);
    let mut unmarked = by_mtls(cluster("catalog", &[origin.address]), "catalog", &[]);
    if let meshwork_model::proxy::Discovery::Static(endpoints) = &mut unmarked.discovery {
        endpoints.endpoints[0].transport = None;
    }
    assert_eq!(web.apply(vec![Resource::Cluster(unmarked)]), []);
    let got = web.client().await.call(GET).await;
    assert_eq!((got.status(), got.header("x-meshwork-reason")), (503, Some("MW0303")));
    assert!(origin.asked.try_recv().is_err());
}

#[tokio::test]
async fn plaintext_is_not_let_in_where_mtls_is_asked_for() {
    let mesh = Mesh::new();
    let mut origin = Origin::answering(OK).await;
    let catalog = inbound(mesh.identity("catalog"), origin.address, vec![]);
    let mut client = Client::connect(catalog.address("inbound")).await;
    client.send(GET).await;
    let got = client.rest().await.unwrap_or_default();
    assert!(!got.starts_with(b"HTTP"), "{got:?}");
    assert!(origin.asked.try_recv().is_err());
}

#[tokio::test]
async fn a_chain_is_chosen_by_the_first_bytes() {
    let mesh = Mesh::new();
    let origin = Origin::answering(OK).await;
    let catalog = inbound(mesh.identity("catalog"), origin.address, vec![]);
    let chain = |transport, tls, filters| FilterChain {
        matches: ChainMatch { transport: Some(transport), ..ChainMatch::default() },
        ..chain(http(vec![route("/", &[("app", 1)])], filters), tls)
    };
    let deny_all = vec![rbac(Action::Deny, Permission::Any, Principal::Any)];
    let chains = vec![
        chain(Transport::Tls, Some(inbound_tls(&["http/1.1"])), vec![]),
        chain(Transport::Plaintext, None, deny_all),
    ];
    let both = Listener::new("inbound", Some(LOOPBACK), Direction::Inbound, chains);
    assert_eq!(catalog.apply(vec![Resource::Listener(both)]), []);
    assert_eq!(Client::connect(catalog.address("inbound")).await.call(GET).await.status(), 403);
    let web = outbound(mesh.identity("web"), catalog.address("inbound"), "catalog");
    assert_eq!(web.client().await.call(GET).await.status(), 200);
}

#[tokio::test]
async fn sessions_and_connections_are_used_again() {
    let mesh = Mesh::new();
    let origin = Origin::answering(OK).await;
    let catalog = inbound(mesh.identity("catalog"), origin.address, only_web());
    let web = outbound(mesh.identity("web"), catalog.address("inbound"), "catalog");
    for _ in 0..5 {
        assert_eq!(web.client().await.call(GET).await.status(), 200);
    }
    let edges = web.registry.fold();
    let opened: u64 = edges.iter().map(|edge| edge.connections_opened).sum();
    assert_eq!(opened, 1);
    assert!(edges.iter().all(|edge| edge.key.mtls));
}

#[tokio::test]
async fn a_listener_with_tls_and_no_identity_is_refused() {
    let sut = Sut::start(vec![]);
    let filter = http(vec![], vec![]);
    let secure = listener("inbound", Direction::Inbound, chain(filter, inbound_tls(&[])));
    let refused = sut.apply(vec![secure, Resource::Cluster(by_mtls(cluster("a", &[]), "a", &[]))]);
    let refused: Vec<_> =
        refused.iter().map(|r| (r.kind, r.name.as_str(), r.why.contains("identity"))).collect();
    assert_eq!(refused, [(Kind::Cluster, "a", true), (Kind::Listener, "inbound", true)]);
    assert_eq!(sut.proxy.listener_address("inbound"), None);
}

#[tokio::test]
async fn a_policy_that_changes_holds_for_open_connections() {
    let mesh = Mesh::new();
    let origin = Origin::answering(OK).await;
    let catalog = inbound(mesh.identity("catalog"), origin.address, only_web());
    let web = outbound(mesh.identity("web"), catalog.address("inbound"), "catalog");
    let mut client = web.client().await;
    assert_eq!(client.call(GET).await.status(), 200);
    let closed = vec![rbac(Action::Allow, Permission::Any, is("admin"))];
    let filter = http(vec![route("/", &[("app", 1)])], closed);
    let stricter = listener("inbound", Direction::Inbound, chain(filter, inbound_tls(&["h2", "http/1.1"])));
    assert_eq!(catalog.apply(vec![stricter]), []);
    assert_eq!(client.call(GET).await.status(), 403);
}

#[tokio::test]
async fn bytes_pass_by_mtls_and_each_direction_ends_on_its_own() {
    use crate::tcp::{Rules, inbound_tcp, outbound_tcp};
    let mesh = Mesh::new();
    let stage = Stage::open().await;
    let rules: Rules = vec![rule(Action::Allow, Permission::Any, is("web"))];
    let catalog = inbound_tcp(mesh.identity("catalog"), stage.address(), rules);
    let web = outbound_tcp(mesh.identity("web"), catalog.address("inbound"), "catalog");
    let mut client = web.client().await;
    client.send("question").await;
    tokio::io::AsyncWriteExt::shutdown(&mut client.stream).await.expect("half-closes");
    let mut origin = stage.accept().await;
    assert_eq!(origin.rest().await.expect("the whole question"), b"question");
    origin.send("answer").await;
    drop(origin);
    assert_eq!(client.rest().await.expect("the whole answer"), b"answer");

    let other = outbound_tcp(mesh.identity("cart"), catalog.address("inbound"), "catalog");
    let mut refused = other.client().await;
    let mut byte = [0];
    let read = soon(refused.stream.read(&mut byte)).await;
    assert!(!matches!(read, Ok(1)), "nothing comes back");
}
