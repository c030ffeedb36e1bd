//! Config that changes under traffic, and how a proxy ends.

use std::time::Duration;

use tokio::io::AsyncReadExt as _;

use meshwork_data_plane::Options;
use meshwork_model::proxy::{
    Answer, Cluster, Direction, Discovery, Dns, DnsHost, Endpoint, Endpoints, Kind, Listener, NameTable,
    Resource, Route, RouteAction, RouteSource,
};

use crate::harness::*;

const ONE: &str = "HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\none";
const TWO: &str = "HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\ntwo";
const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";

fn named(table: &str) -> Resource {
    let http = http_connection(RouteSource::Named(table.into()), vec![]);
    let filter = meshwork_model::proxy::NetworkFilter::Http(std::sync::Arc::new(http));
    listener("web", Direction::Unspecified, chain(filter, None))
}

fn eds(name: &str) -> Resource {
    let mut cluster = cluster(name, &[]);
    cluster.discovery = Discovery::Eds(name.into());
    Resource::Cluster(cluster)
}

fn endpoints(name: &str, addresses: &[std::net::SocketAddr]) -> Resource {
    Resource::Endpoints(Endpoints::new(name, addresses.iter().copied().map(Endpoint::new).collect()))
}

fn routes(to: &str) -> Resource {
    Resource::Routes(table("routes", vec![route("/", &[(to, 1)])]))
}

#[tokio::test]
async fn no_request_fails_while_everything_is_replaced() {
    let (one, two) = (Origin::answering(ONE).await, Origin::answering(TWO).await);
    let config = vec![
        eds("a"),
        eds("b"),
        endpoints("a", &[one.address]),
        endpoints("b", &[two.address]),
        named("routes"),
        routes("a"),
    ];
    let sut = Sut::start_with(Options { workers: 2, ..Options::default() }, None, config);
    let address = sut.address("web");
    let calling = tokio::spawn(async move {
        let mut client = Client::connect(address).await;
        let mut bodies = std::collections::HashMap::new();
        for _ in 0..2000 {
            let got = client.call(GET).await;
            assert_eq!(got.status(), 200, "{got:?}");
            *bodies.entry(got.body).or_insert(0) += 1;
        }
        bodies
    });
    let mut swaps = 0;
    while !calling.is_finished() {
        swaps += 1;
        let (to, addresses) = if swaps % 2 == 0 {
            ("a", [one.address, two.address])
        } else {
            ("b", [two.address, one.address])
        };
        assert_eq!(sut.apply(vec![endpoints(to, &addresses), routes(to), named("routes")]), []);
        tokio::task::yield_now().await;
    }
    let bodies = calling.await.expect("every call answered");
    assert!(bodies.len() == 2 && swaps > 2, "{bodies:?} {swaps}");
    assert_eq!(sut.address("web"), address);
}

#[tokio::test]
async fn endpoints_change_alone_and_connections_to_those_that_stay_are_kept() {
    let (one, two) = (Origin::answering(ONE).await, Origin::answering(TWO).await);
    let sut = Sut::start(vec![eds("a"), endpoints("a", &[one.address]), named("routes"), routes("a")]);
    let mut client = sut.client().await;
    assert_eq!(client.call(GET).await.body, "one");
    sut.apply(vec![endpoints("a", &[one.address, two.address])]);
    let mut bodies: Vec<_> = Vec::new();
    for _ in 0..4 {
        bodies.push(client.call(GET).await.body);
    }
    assert!(bodies.contains(&"one".into()) && bodies.contains(&"two".into()), "{bodies:?}");
    assert_eq!(one.connections(), 1);
    sut.remove(Kind::Endpoints, "a");
    assert_eq!(client.call(GET).await.header("x-meshwork-reason"), Some("MW0301"));
}

#[tokio::test]
async fn a_listener_waits_for_its_routes() {
    let one = Origin::answering(ONE).await;
    let sut = Sut::start(vec![eds("a"), endpoints("a", &[one.address]), named("routes")]);
    let mut client = sut.client().await;
    client.send(GET).await;
    sut.apply(vec![routes("a")]);
    assert_eq!(client.receive().await.body, "one");
    // A new version whose routes are not there yet changes nothing.
    sut.apply(vec![named("others")]);
    assert_eq!(sut.client().await.call(GET).await.body, "one");
}

#[tokio::test]
async fn what_is_refused_leaves_the_last_good_version() {
    let one = Origin::answering(ONE).await;
    let sut = Sut::start(vec![eds("a"), endpoints("a", &[one.address]), named("routes"), routes("a")]);
    let local = Route { action: RouteAction::Local, ..route("/", &[]) };
    let bad = Resource::Routes(table("routes", vec![local]));
    let api = Resource::Listener(Listener::new("api", None, Direction::Outbound, vec![]));
    let taken = std::net::TcpListener::bind(LOOPBACK).expect("bound");
    let unbindable = Resource::Listener(Listener::new(
        "late",
        Some(taken.local_addr().expect("bound")),
        Direction::Outbound,
        vec![],
    ));
    let refused = sut.apply(vec![bad, api, unbindable, eds("b")]);
    let names: Vec<_> = refused.iter().map(|r| (r.kind, r.name.as_str())).collect();
    assert_eq!(names, [(Kind::Listener, "api"), (Kind::Listener, "late"), (Kind::Routes, "routes")]);
    assert!(refused[1].why.contains("cannot listen on"), "{refused:?}");
    assert_eq!(sut.client().await.call(GET).await.body, "one");
}

#[tokio::test]
async fn an_address_bound_ahead_serves_once_its_listener_comes() {
    let one = Origin::answering(ONE).await;
    let sut = Sut::start(vec![Resource::Cluster(cluster("a", &[one.address]))]);
    let address = sut.proxy.bind(LOOPBACK).expect("free");
    let mut client = Client::connect(address).await;
    client.send(GET).await;
    let Resource::Listener(mut listener) = web(vec![route("/", &[("a", 1)])]) else { unreachable!() };
    listener.address = Some(address);
    assert_eq!(sut.apply(vec![Resource::Listener(listener)]), []);
    assert_eq!(client.receive().await.body, "one");
    assert_eq!(sut.address("web"), address);
}

#[tokio::test]
async fn a_removed_listener_closes_its_idle_connections_and_its_port() {
    let one = Origin::answering(ONE).await;
    let sut =
        Sut::start(vec![Resource::Cluster(cluster("a", &[one.address])), web(vec![route("/", &[("a", 1)])])]);
    let address = sut.address("web");
    let mut client = sut.client().await;
    assert_eq!(client.call(GET).await.status(), 200);
    sut.remove(Kind::Listener, "web");
    assert_eq!(client.rest().await.expect("closes"), b"");
    soon(async {
        while tokio::net::TcpStream::connect(address).await.is_ok() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn draining_answers_what_has_begun_and_closes_the_rest() {
    let stage = Stage::open().await;
    let sut = Sut::start(vec![
        Resource::Cluster(cluster("a", &[stage.address()])),
        web(vec![route("/", &[("a", 1)])]),
    ]);
    assert!(sut.proxy.ready());
    let mut idle = sut.client().await;
    idle.send(GET).await;
    let mut origin = stage.accept().await;
    origin.receive().await;
    origin.send(ONE).await;
    idle.receive().await;
    let mut busy = sut.client().await;
    busy.send(GET).await;
    origin.receive().await;
    let answering = async {
        assert_eq!(idle.rest().await.expect("closes"), b"");
        assert!(!sut.proxy.ready());
        origin.send(ONE).await;
        let got = busy.receive().await;
        assert_eq!((got.body.as_str(), got.header("connection")), ("one", Some("close")));
        drop((idle, busy));
    };
    let ((), ()) = tokio::join!(answering, soon(sut.proxy.drain(SOON)));
}

#[tokio::test]
async fn draining_ends_at_its_deadline() {
    let stage = Stage::open().await;
    let sut = Sut::start(vec![
        Resource::Cluster(cluster("a", &[stage.address()])),
        web(vec![route("/", &[("a", 1)])]),
    ]);
    let mut busy = sut.client().await;
    busy.send(GET).await;
    let mut origin = stage.accept().await;
    origin.receive().await;
    soon(sut.proxy.drain(Duration::from_millis(10))).await;
    assert!(busy.rest().await.unwrap_or_default().is_empty());
}

#[tokio::test]
async fn names_are_read_by_whoever_holds_them_and_there_is_one_table() {
    let table = |name: &str, last: u8| NameTable {
        name: name.into(),
        address: LOOPBACK,
        ttl: NameTable::TTL,
        names: [("catalog.shop".into(), vec![[240, 0, 0, last].into()])].into(),
    };
    let sut = Sut::start(vec![]);
    let names = sut.proxy.names();
    assert!(names.load().is_none());
    for last in [1, 2] {
        assert_eq!(sut.apply(vec![Resource::Names(table("names", last))]), []);
        let known = names.load_full().expect("applied");
        assert_eq!(known.resolve("Catalog.shop."), Answer::Known(&[[240, 0, 0, last].into()]));
    }
    let refused = sut.apply(vec![Resource::Names(table("others", 3))]);
    assert!(refused[0].why.contains("there can be one"), "{refused:?}");
    sut.remove(Kind::Listener, "names");
    assert!(names.load().is_none());
    assert_eq!(sut.apply(vec![Resource::Names(table("others", 3))]), []);
    // The name may come to stand for a listener of connections.
    let Resource::Listener(web) = web(vec![route("/", &[("a", 1)])]) else { unreachable!() };
    assert_eq!(sut.apply(vec![Resource::Listener(Listener { name: "others".into(), ..web })]), []);
    assert!(names.load().is_none());
}

#[tokio::test]
async fn sockets_that_others_made_are_shared_among_the_workers_and_survive_a_drain() {
    for count in 1..=3 {
        let one = Origin::answering(ONE).await;
        let options = Options { workers: 2, ..Options::default() };
        let sut = Sut::start_with(options, None, vec![Resource::Cluster(cluster("a", &[one.address]))]);
        let shared = |address: std::net::SocketAddr| {
            let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
            socket.set_reuse_port(true)?;
            socket.bind(&address.into())?;
            socket.listen(16)?;
            std::io::Result::Ok(std::net::TcpListener::from(socket))
        };
        let mut sockets = vec![shared(LOOPBACK).expect("bound")];
        let address = sockets[0].local_addr().expect("bound");
        sockets.extend((1..count).map(|_| shared(address).expect("bound")));
        let kept = sockets[0].try_clone().expect("cloned");
        // Config may mean them by another address than theirs: they are of another network.
        let meant = ([192, 0, 2, 1], 15001).into();
        sut.proxy.adopt(meant, sockets).expect("taken over");
        let Resource::Listener(mut listener) = web(vec![route("/", &[("a", 1)])]) else { unreachable!() };
        listener.address = Some(meant);
        assert_eq!(sut.apply(vec![Resource::Listener(listener)]), []);
        for _ in 0..8 {
            assert_eq!(Client::connect(address).await.call(GET).await.body, "one", "{count}");
        }
        soon(sut.proxy.drain(SOON)).await;
        drop(sut);
        // Whoever comes now waits for the next who takes the socket over.
        let _late = Client::connect(address).await;
        assert!(count > 1 || soon(async { kept.accept() }).await.is_ok());
    }
    let sut = Sut::start(vec![]);
    assert!(sut.proxy.adopt(LOOPBACK, vec![]).is_err());
}

#[tokio::test]
async fn a_listener_serves_all_its_addresses() {
    let one = Origin::answering(ONE).await;
    let sut = Sut::start(vec![Resource::Cluster(cluster("a", &[one.address]))]);
    let addresses = [LOOPBACK, "[::1]:0".parse().expect("an address")];
    let addresses = addresses.map(|address| sut.proxy.bind(address).expect("free"));
    let Resource::Listener(mut listener) = web(vec![route("/", &[("a", 1)])]) else { unreachable!() };
    (listener.address, listener.additional_addresses) = (Some(addresses[0]), vec![addresses[1]]);
    assert_eq!(sut.apply(vec![Resource::Listener(listener.clone())]), []);
    let mut clients = Vec::new();
    for address in addresses {
        let mut client = Client::connect(address).await;
        assert_eq!(client.call(GET).await.body, "one");
        clients.push(client);
    }
    // One that goes takes its connections along, and leaves the others.
    listener.additional_addresses.clear();
    assert_eq!(sut.apply(vec![Resource::Listener(listener.clone())]), []);
    assert_eq!(clients[0].call(GET).await.body, "one");
    assert_eq!(clients[1].rest().await.expect("closes"), b"");
    listener.additional_addresses = vec![addresses[0]];
    let refused = sut.apply(vec![Resource::Listener(listener)]);
    assert!(refused[0].why.contains("listed twice"), "{refused:?}");
}

#[tokio::test]
async fn what_was_not_redirected_is_refused_and_counted() {
    let one = Origin::answering(ONE).await;
    let Resource::Listener(listener) = web(vec![route("/", &[("a", 1)])]) else { unreachable!() };
    // Whose direction is not said may be called by its own address.
    let redirecting = Listener { use_original_dst: true, direction: Direction::Outbound, ..listener };
    let sut =
        Sut::start(vec![Resource::Cluster(cluster("a", &[one.address])), Resource::Listener(redirecting)]);
    // The reset may come before the connection is there for the client.
    let asking = async { tokio::net::TcpStream::connect(sut.address("web")).await?.read_u8().await };
    let got = soon(asking).await.map_err(|error| error.kind());
    assert_eq!(got, Err(std::io::ErrorKind::ConnectionReset));
    assert!(sut.registry.prometheus_text().contains("meshwork_destinations_refused_total 1"));
}

#[tokio::test]
async fn listeners_without_sockets_are_one_for_each_address() {
    let Resource::Listener(listener) = web(vec![route("/", &[("a", 1)])]) else { unreachable!() };
    let meant_for = |name: &str, address: &str| {
        let address = Some(address.parse().expect("an address"));
        Resource::Listener(Listener { name: name.into(), address, bind_to_port: false, ..listener.clone() })
    };
    let sut = Sut::start(vec![meant_for("one", "240.0.0.1:80"), meant_for("two", "240.0.0.2:80")]);
    assert_eq!(sut.address("one"), "240.0.0.1:80".parse().expect("an address"));
    let refused = sut.apply(vec![meant_for("three", "240.0.0.1:80"), meant_for("four", "240.0.0.4:0")]);
    let whys: Vec<_> = refused.iter().map(|rejection| rejection.why.as_str()).collect();
    assert!(whys[0].contains("is taken over by the listener one"), "{whys:?}");
    assert!(whys[1].contains("needs a port"), "{whys:?}");
    assert_eq!(sut.apply(vec![meant_for("one", "240.0.0.1:81"), meant_for("two", "240.0.0.2:80")]), []);
    assert_eq!(sut.apply(vec![meant_for("three", "240.0.0.1:80")]), []);
}

#[tokio::test]
async fn the_network_of_a_workload_is_never_taken_for_the_proxys_own() {
    let one = Origin::answering(ONE).await;
    let sut = Sut::start(vec![]);
    let mut inside = cluster("a", &[one.address]);
    inside.network = meshwork_model::proxy::Network::Workload;
    let refused = sut.apply(vec![Resource::Cluster(inside), web(vec![route("/", &[("a", 1)])])]);
    assert!(refused[0].why.starts_with("upstream_bind_config:"), "{refused:?}");
    assert_eq!(sut.client().await.call(GET).await.header("x-meshwork-reason"), Some("MW0202"));
    assert_eq!(one.connections(), 0);
}

#[tokio::test]
async fn a_host_is_looked_up_and_called() {
    let one = Origin::answering(ONE).await;
    let by_name = |name: &str| {
        let host = DnsHost { host: name.into(), port: one.address.port() };
        let discovery = Discovery::Dns(Dns::all_of(host));
        Resource::Cluster(Cluster { discovery, service: None, ..cluster("a", &[]) })
    };
    let sut = Sut::start(vec![by_name("name.invalid"), web(vec![route("/", &[("a", 1)])])]);
    let mut client = sut.client().await;
    assert_eq!(client.call(GET).await.header("x-meshwork-reason"), Some("MW0301"));
    assert_eq!(sut.apply(vec![by_name("localhost")]), []);
    soon(async {
        while client.call(GET).await.status() != 200 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    assert_eq!(client.call(GET).await.body, "one");
    let metrics = sut.registry.prometheus_text();
    assert!(metrics.contains("destination_service=\"localhost\""), "{metrics}");
}
