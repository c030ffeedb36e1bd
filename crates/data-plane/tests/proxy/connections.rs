//! Connections as such: handshakes that stall, clients that are slow, workers that share, overload, and the end.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use meshwork_data_plane::{Memory, Options};
use meshwork_identity::IdentitySource;
use meshwork_model::proxy::{Direction, HttpConnection, Kind, NetworkFilter, Resource, RouteSource};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::pki_types::ServerName;

use crate::harness::*;

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
const GET: &str = "GET / HTTP/1.1\r\nHost: catalog\r\n\r\n";

/// More than all handshakes that may wait at one worker would be many; this many would stall one that lets them.
const SILENT: usize = 200;

fn plain(origin: SocketAddr) -> Vec<Resource> {
    vec![Resource::Cluster(cluster("app", &[origin])), web(vec![route("/", &[("app", 1)])])]
}

fn inbound(identity: &Arc<IdentitySource>, origin: SocketAddr) -> Sut {
    let filter = http(vec![route("/", &[("app", 1)])], vec![]);
    let listener = listener("web", Direction::Inbound, chain(filter, inbound_tls(&["http/1.1"])));
    Sut::start_as(Some(Arc::clone(identity)), vec![Resource::Cluster(cluster("app", &[origin])), listener])
}

/// A handshake with the workload `catalog`.
async fn mtls(identity: &Arc<IdentitySource>, address: SocketAddr) -> TlsStream<TcpStream> {
    let config = identity.client_config(&[id("catalog")], &[b"http/1.1"]);
    let stream = soon(TcpStream::connect(address)).await.expect("connects");
    let name = ServerName::IpAddress(address.ip().into());
    soon(TlsConnector::from(config).connect(name, stream)).await.expect("agrees")
}

async fn call(stream: &mut TlsStream<TcpStream>) -> Message {
    soon(stream.write_all(GET.as_bytes())).await.expect("sends");
    soon(read_message(stream, &mut Vec::new(), false)).await.expect("an answer")
}

/// What a counter of the process says.
fn counter(sut: &Sut, name: &str) -> u64 {
    let text = sut.registry.prometheus_text();
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.expect("the metric").parse().expect("a number")
}

async fn eventually(mut holds: impl AsyncFnMut() -> bool) {
    soon(async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
}

// === handshakes ===

#[tokio::test]
async fn clients_that_are_silent_delay_nobodys_handshake() {
    let mesh = Mesh::new();
    let origin = Origin::answering(OK).await;
    let catalog = inbound(&mesh.identity("catalog"), origin.address);
    let address = catalog.address("web");
    let mut silent = Vec::new();
    for n in 0..SILENT {
        let mut stream = soon(TcpStream::connect(address)).await.expect("connects");
        if n % 2 == 0 {
            // The head of a record whose content never comes.
            stream.write_all(&[22, 3, 1, 2, 0, 1]).await.expect("sends");
        }
        silent.push(stream);
    }
    let web = mesh.identity("web");
    // Well below the time after which the silent ones are closed.
    let served = tokio::time::timeout(Duration::from_secs(8), async {
        assert_eq!(call(&mut mtls(&web, address).await).await.status(), 200);
    });
    served.await.expect("at once");
}

#[tokio::test]
async fn a_handshake_that_does_not_end_is_closed() {
    let mesh = Mesh::new();
    let origin = Origin::answering(OK).await;
    let catalog = inbound(&mesh.identity("catalog"), origin.address);
    let mut silent = Client::connect(catalog.address("web")).await;
    let mut half = Client::connect(catalog.address("web")).await;
    half.stream.write_all(&[22, 3, 1, 2, 0, 1]).await.expect("sends");
    let (silent, half) = tokio::join!(silent.rest(), half.rest());
    assert!(silent.unwrap_or_default().is_empty() && half.unwrap_or_default().is_empty());
    // It is closed a moment before it is counted.
    eventually(async || counter(&catalog, "meshwork_handshakes_failed_total") == 2).await;
}

#[tokio::test]
async fn plaintext_where_mtls_is_asked_for_is_counted() {
    let mesh = Mesh::new();
    let origin = Origin::answering(OK).await;
    let catalog = inbound(&mesh.identity("catalog"), origin.address);
    let mut client = Client::connect(catalog.address("web")).await;
    client.send(GET).await;
    assert!(client.rest().await.unwrap_or_default().is_empty());
    // It is closed a moment before it is counted.
    eventually(async || counter(&catalog, "meshwork_plaintext_refused_total") == 1).await;
}

#[tokio::test]
async fn a_certificate_that_is_swapped_under_traffic_costs_no_connection() {
    let mesh = Mesh::new();
    let origin = Origin::answering(OK).await;
    let (own, web) = (mesh.identity("catalog"), mesh.identity("web"));
    let catalog = inbound(&own, origin.address);
    let mut old = mtls(&web, catalog.address("web")).await;
    let shown = |stream: &TlsStream<TcpStream>| {
        stream.get_ref().1.peer_certificates().expect("a certificate")[0].to_vec()
    };
    assert_eq!(call(&mut old).await.status(), 200);
    for _ in 0..3 {
        let before = shown(&mtls(&web, catalog.address("web")).await);
        own.replace_svid(mesh.svid("catalog")).expect("replaced");
        assert_eq!(call(&mut old).await.status(), 200);
        let mut new = mtls(&web, catalog.address("web")).await;
        assert_ne!(shown(&new), before);
        assert_eq!(call(&mut new).await.status(), 200);
    }
}

// === slow clients ===

#[tokio::test]
async fn a_head_that_does_not_end_is_answered_408() {
    let origin = Origin::answering(OK).await;
    let sut = Sut::start(plain(origin.address));
    let mut slow = sut.client().await;
    slow.send("GET / HTTP/1.1\r\nHos").await;
    let got = slow.receive().await;
    assert_eq!((got.status(), got.header("connection")), (408, Some("close")));
    assert_eq!(origin.connections(), 0);
}

/// An answer larger than what kernel and proxy take from the origin for a client that reads nothing.
const LARGE: usize = 16 * 1024 * 1024;

/// An origin that answers `/large` with [`LARGE`] bytes, and everything else with two; bodies are not read.
async fn origin_of_any_size() -> SocketAddr {
    let listener = tokio::net::TcpListener::bind(LOOPBACK).await.expect("bound");
    let address = listener.local_addr().expect("bound");
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut left = Vec::new();
                while let Some(asked) = read_message(&mut stream, &mut left, false).await {
                    if !asked.head.starts_with("GET /large") {
                        if stream.write_all(OK.as_bytes()).await.is_err() {
                            return;
                        }
                        continue;
                    }
                    let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {LARGE}\r\n\r\n");
                    if stream.write_all(head.as_bytes()).await.is_err() {
                        return;
                    }
                    for _ in 0..LARGE / 8192 {
                        if stream.write_all(&[0; 8192]).await.is_err() {
                            return;
                        }
                    }
                }
            });
        }
    });
    address
}

#[tokio::test]
async fn five_hundred_slow_clients_cost_nobody_else_anything() {
    let origin = origin_of_any_size().await;
    let sut = Sut::start(plain(origin));
    let address = sut.address("web");
    let mut slow = Vec::new();
    for n in 0..500 {
        let mut stream = soon(TcpStream::connect(address)).await.expect("connects");
        let begin = match n % 3 {
            0 => "GET / HTTP/1.1\r\nHost: catalog\r\nX-Slow: ",
            1 => "POST / HTTP/1.1\r\nHost: catalog\r\nContent-Length: 1000\r\n\r\nten bytes.",
            _ => "GET /large HTTP/1.1\r\nHost: catalog\r\n\r\n",
        };
        stream.write_all(begin.as_bytes()).await.expect("sends");
        slow.push(stream);
    }
    let mut good = sut.client().await;
    for round in 0..50 {
        // Each gives another byte now and then, and the readers take one.
        for (n, stream) in slow.iter_mut().enumerate().skip(round).step_by(50) {
            if n % 3 == 2 {
                stream.read_exact(&mut [0]).await.expect("a byte");
            } else {
                // Whose time is over is closed: that is theirs to bear.
                let _ = stream.write_all(b"a").await;
            }
        }
        assert_eq!(good.call(GET).await.status(), 200);
        assert_eq!(sut.client().await.call(GET).await.status(), 200);
    }
    // Those whose heads are late lose their connections; the good one has its own still.
    let mut late = Client { stream: slow.swap_remove(0), left: Vec::new() };
    assert_eq!(late.receive().await.status(), 408);
    assert_eq!(good.call(GET).await.status(), 200);
}

// === overload ===

#[tokio::test]
async fn requests_are_shed_then_connections_and_both_come_back() {
    let origin = Origin::answering(OK).await;
    let used = Arc::new(AtomicU32::new(0));
    let options = Options { workers: 1, memory: Memory::Told(Arc::clone(&used)), ..Options::default() };
    let sut = Sut::start_with(options, None, plain(origin.address));
    assert_eq!(sut.client().await.call(GET).await.status(), 200);
    let mut kept = sut.client().await;
    assert_eq!(kept.call(GET).await.status(), 200);

    used.store(920, Ordering::Relaxed);
    eventually(async || sut.client().await.call(GET).await.status() == 503).await;
    let got = kept.call(GET).await;
    let facts = (got.status(), got.header("connection"), got.header("x-meshwork-reason"));
    assert_eq!(facts, (503, Some("close"), Some("MW0501")));
    assert!(kept.rest().await.expect("closes").is_empty());

    used.store(1000, Ordering::Relaxed);
    eventually(async || {
        let mut client = sut.client().await;
        let _ = client.stream.write_all(GET.as_bytes()).await;
        client.rest().await.unwrap_or_default().is_empty()
    })
    .await;
    assert!(counter(&sut, "meshwork_connections_shed_total") > 0);

    used.store(100, Ordering::Relaxed);
    eventually(async || {
        let mut client = sut.client().await;
        let _ = client.stream.write_all(GET.as_bytes()).await;
        client.next_bytes().await.starts_with("HTTP/1.1 200")
    })
    .await;
}

// === workers ===

#[tokio::test]
async fn connections_are_shared_among_workers_and_none_is_lost_when_listeners_change() {
    let origin = Origin::answering(OK).await;
    let options = Options { workers: 3, ..Options::default() };
    // Some ask when all have come, however long that takes.
    let patient = || {
        let routes = RouteSource::Inline(Arc::new(table("inline", vec![route("/", &[("app", 1)])])));
        let http = http_connection(routes, vec![]);
        let request_headers_timeout = Some(Duration::from_mins(10));
        chain(NetworkFilter::Http(Arc::new(HttpConnection { request_headers_timeout, ..http })), None)
    };
    let listening = listener("web", Direction::Unspecified, patient());
    let resources = vec![Resource::Cluster(cluster("app", &[origin.address])), listening];
    let sut = Sut::start_with(options, None, resources);
    let address = sut.address("web");
    let mut clients = Vec::new();
    for n in 0..120 {
        clients.push(Client::connect(address).await);
        if n % 10 == 0 {
            // The same address under another name, within one update.
            let (old, new) = if n % 20 == 0 { ("web", "other") } else { ("other", "web") };
            let mut renamed = listener(new, Direction::Unspecified, patient());
            if let Resource::Listener(listener) = &mut renamed {
                listener.address = Some(address);
            }
            let removed = vec![(Kind::Listener, old.to_owned())];
            let update = meshwork_xds::Update { upserts: vec![renamed], removed, ..Default::default() };
            assert_eq!(sut.proxy.apply(update), []);
        }
        let mut client = Client::connect(address).await;
        assert_eq!(client.call(GET).await.status(), 200, "{n}");
    }
    // Those that were opened on the way and not used are idle; each is served, or was closed before it asked.
    let mut served = 0;
    for client in &mut clients {
        let _ = client.stream.write_all(GET.as_bytes()).await;
        served += usize::from(client.next_bytes().await.starts_with("HTTP/1.1 200"));
    }
    assert!(served >= 110, "{served}");
}

// === the end ===

#[tokio::test]
async fn a_drain_refuses_new_connections_and_ends_at_once_where_all_are_silent() {
    let mesh = Mesh::new();
    let origin = Origin::answering(OK).await;
    let catalog = inbound(&mesh.identity("catalog"), origin.address);
    let address = catalog.address("web");
    let mut silent = Client::connect(address).await;
    // It has been accepted once a later one was served.
    assert_eq!(call(&mut mtls(&mesh.identity("web"), address).await).await.status(), 200);
    // Far below both the deadline and the handshakes' time-out.
    tokio::time::timeout(Duration::from_secs(8), catalog.proxy.drain(Duration::from_mins(10)))
        .await
        .expect("nothing to wait for");
    assert!(silent.rest().await.unwrap_or_default().is_empty());
    assert!(TcpStream::connect(address).await.is_err(), "nobody waits in a queue that nobody empties");
}
