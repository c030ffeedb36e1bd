//! What listeners do before a chain takes a connection, and what chains ask of it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use meshwork_model::cidr::Cidr;
use meshwork_model::proxy::{
    Action, ChainMatch, Cluster, ConnectionLimit, FilterChain, Gate, Listener, ListenerFilterKind,
    NetworkFilter, Permission, PortTest, Principal, ProxyProtocol, Rbac, Resource, Rule, TcpCluster,
    TcpProxy, TlsInspector,
};

use super::GET;
use crate::testing::config::{self, ORIGIN, SECOND, address};
use crate::testing::{World, play, settle, timed};

fn chain(matches: ChainMatch, cluster: &str) -> FilterChain {
    FilterChain { matches, ..FilterChain::new(cluster, config::tcp_filter(cluster)) }
}

/// The listener `web` with these filters and chains; the clusters `a`, `b` and `c`.
fn resources(filters: Vec<ListenerFilterKind>, chains: Vec<FilterChain>) -> Vec<Resource> {
    let filters = filters.into_iter().map(ListenerFilterKind::always).collect();
    with(chains, |listener| Listener { filters, ..listener })
}

fn with(chains: Vec<FilterChain>, change: impl FnOnce(Listener) -> Listener) -> Vec<Resource> {
    let Resource::Listener(listener) = config::listener_of(chains) else { unreachable!() };
    let cluster = |(name, address): (&str, SocketAddr)| {
        Resource::Cluster(Cluster { name: name.into(), ..config::cluster(&[address]) })
    };
    let clusters = [("a", ORIGIN), ("b", SECOND), ("c", address(3))].map(cluster);
    clusters.into_iter().chain([Resource::Listener(change(listener))]).collect()
}

const PROXY: ListenerFilterKind = ListenerFilterKind::ProxyProtocol(ProxyProtocol {
    optional: false,
    refuses_v1: false,
    refuses_v2: false,
});
const TLS: ListenerFilterKind = ListenerFilterKind::Tls(TlsInspector { only_tls: false });

fn from(range: &str, length: u32) -> ChainMatch {
    let range = Cidr::new(range.parse().expect("an address"), length);
    ChainMatch { sources: vec![range], ..ChainMatch::default() }
}

/// Sends bytes; the place of the upstream that the rest arrives at.
async fn arrives(world: &World, sent: &[u8], rest: &str) -> Option<usize> {
    let mut origins = [ORIGIN, SECOND, address(3)].map(|at| world.origin(at));
    let mut client = world.connect();
    client.send(sent).await;
    settle().await;
    for (at, origin) in origins.iter_mut().enumerate() {
        if origin.is_called().await {
            let mut upstream = origin.accept().await;
            assert_eq!(upstream.take(rest.len()).await.as_deref(), Ok(rest.as_bytes()));
            return Some(at);
        }
    }
    None
}

#[test]
fn a_proxy_header_says_on_whose_behalf_and_is_not_passed_on() {
    let chains = || vec![chain(from("203.0.113.0", 24), "a"), chain(ChainMatch::default(), "b")];
    let check = |header: &[u8], expected: Option<usize>| {
        let sent = [header, b"HELO"].concat();
        play(resources(vec![PROXY], chains()), async |world| {
            assert_eq!(arrives(world, &sent, "HELO").await, expected, "{header:?}");
        });
    };
    check(b"PROXY TCP4 203.0.113.9 192.0.2.1 8080 80\r\n", Some(0));
    check(b"PROXY TCP4 192.0.2.9 192.0.2.1 8080 80\r\n", Some(1));
    check(b"PROXY UNKNOWN\r\n", Some(1));
    check(b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xcb\0\x71\x09\xc0\0\x02\x01\x1f\x90\0\x50", Some(0));
    check(b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0", Some(1));
    check(b"", None);
    check(b"PROXY TCP4 203.0.113.9\r\n", None);
}

#[test]
fn only_trusted_peers_are_believed_where_chains_name_those_who_open_connections() {
    // Clients of this world are 198.51.100.1.
    let trusted = |range: &str| ChainMatch {
        direct_sources: vec![Cidr::new(range.parse().expect("an address"), 24)],
        ..ChainMatch::default()
    };
    for (range, expected) in [("198.51.100.0", Some(0)), ("10.0.0.0", None)] {
        play(resources(vec![PROXY], vec![chain(trusted(range), "a")]), async |world| {
            let sent = b"PROXY TCP4 10.0.0.9 192.0.2.1 8080 80\r\nHELO";
            assert_eq!(arrives(world, sent, "HELO").await, expected, "{range}");
        });
    }
}

#[test]
fn the_version_of_http_is_a_protocol() {
    let by =
        |alpn: &str, cluster| chain(ChainMatch { alpn: vec![alpn.into()], ..ChainMatch::default() }, cluster);
    let chains = || vec![by("http/1.1", "a"), by("h2c", "b"), chain(ChainMatch::default(), "c")];
    let check = |sent: &str, expected: usize| {
        play(resources(vec![TLS, ListenerFilterKind::Http], chains()), async |world| {
            assert_eq!(arrives(world, sent.as_bytes(), sent).await, Some(expected), "{sent:?}");
        });
    };
    check(GET, 0);
    check("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 1);
    check("GET / HTTP/1.0\r\n\r\n", 2);
    check("EHLO a\r\n", 2);
}

#[test]
fn http_goes_on_with_what_was_looked_at() {
    let http = FilterChain::new("http", config::http(None));
    let alpn = ChainMatch { alpn: vec!["http/1.1".into()], ..ChainMatch::default() };
    let chains = vec![FilterChain { matches: alpn, ..http }];
    play(resources(vec![PROXY, ListenerFilterKind::Http], chains), async |world| {
        let mut origin = world.origin(ORIGIN);
        let mut client = world.connect();
        client.send([b"PROXY TCP4 203.0.113.9 192.0.2.1 8080 80\r\n", GET.as_bytes()].concat()).await;
        let mut upstream = origin.accept().await;
        upstream.receive().await;
        upstream.send("HTTP/1.1 204 No Content\r\n\r\n").await;
        assert_eq!(client.receive().await.status(), Some(204));
    });
}

#[test]
fn looking_has_a_time_after_which_the_connection_is_closed_or_goes_on() {
    let limit = Duration::from_millis(50);
    for goes_on in [true, false] {
        let change = |listener| Listener {
            filters: vec![TLS.always()],
            filters_timeout: Some(limit),
            continue_on_filters_timeout: goes_on,
            ..listener
        };
        play(with(vec![chain(ChainMatch::default(), "a")], change), async |world| {
            let mut origin = world.origin(ORIGIN);
            let mut client = world.connect();
            if goes_on {
                // The server speaks first.
                let (mut upstream, took) = timed(origin.accept()).await;
                assert!(took >= limit && took < 2 * limit, "{took:?}");
                upstream.send("220 ready").await;
                assert_eq!(client.take(9).await.as_deref(), Ok(&b"220 ready"[..]));
            } else {
                let (_, took) = timed(client.rest()).await;
                assert!(took >= limit && took < 2 * limit, "{took:?}");
                assert!(!origin.is_called().await);
            }
        });
    }
}

#[test]
fn a_filter_leaves_ports_alone_that_it_is_disabled_for() {
    for disabled in [true, false] {
        let test = if disabled { PortTest::Any } else { PortTest::Range(0, 1) };
        let mut filter = PROXY.always();
        filter.disabled = Some(test);
        let change = |listener| Listener { filters: vec![filter], ..listener };
        play(with(vec![chain(ChainMatch::default(), "a")], change), async |world| {
            let arrived =
                arrives(world, b"PROXY UNKNOWN\r\n", if disabled { "PROXY UNKNOWN\r\n" } else { "" });
            assert_eq!(arrived.await, Some(0));
        });
    }
}

#[test]
fn the_default_chain_takes_what_no_chain_does() {
    let change = |listener| Listener { default_chain: Some(chain(ChainMatch::default(), "b")), ..listener };
    play(with(vec![chain(from("203.0.113.0", 24), "a")], change), async |world| {
        assert_eq!(arrives(world, b"HELO", "HELO").await, Some(1));
    });
}

#[test]
fn a_chain_has_so_many_connections_and_one_more_waits_to_be_closed() {
    let delay = Duration::from_secs(3);
    let limit = ConnectionLimit { most: 1, delay: Some(delay) };
    let chain = FilterChain { gates: vec![Gate::Limit(limit)], ..chain(ChainMatch::default(), "a") };
    play(resources(vec![], vec![chain]), async |world| {
        let mut origin = world.origin(ORIGIN);
        let first = world.connect();
        let upstream = origin.accept().await;
        let mut second = world.connect();
        let (_, took) = timed(second.rest()).await;
        assert!(took >= delay, "{took:?}");
        assert!(!origin.is_called().await);
        drop((first, upstream));
        settle().await;
        let _third = world.connect();
        origin.accept().await;
    });
}

fn deny_all() -> Gate {
    let rule =
        Rule { name: "all".into(), permissions: vec![Permission::Any], principals: vec![Principal::Any] };
    Gate::Rbac(Arc::new(Rbac { action: Action::Deny, rules: vec![rule] }))
}

#[test]
fn a_connection_that_may_not_is_closed_before_http_is_spoken() {
    let allowed = FilterChain::new("http", config::http(None));
    let denied = FilterChain { gates: vec![deny_all()], ..allowed.clone() };
    play(resources(vec![], vec![denied.clone()]), async |world| {
        let mut client = world.connect();
        client.send(GET).await;
        assert!(client.rest().await.unwrap_or_default().is_empty());
    });
    // One that might is closed when it may no more.
    play(resources(vec![], vec![allowed]), async |world| {
        let mut origin = world.origin(ORIGIN);
        let mut client = world.connect();
        client.send(GET).await;
        let mut upstream = origin.accept().await;
        upstream.receive().await;
        upstream.send("HTTP/1.1 204 No Content\r\n\r\n").await;
        assert_eq!(client.receive().await.status(), Some(204));
        world.apply(resources(vec![], vec![denied])).await;
        assert!(client.rest().await.unwrap_or_default().is_empty());
    });
}

#[test]
fn connections_of_chains_that_stay_are_kept_wherever_these_stand() {
    let (kept, gone) = (chain(ChainMatch::default(), "a"), chain(from("203.0.113.0", 24), "b"));
    play(resources(vec![PROXY], vec![gone.clone(), kept.clone()]), async |world| {
        let (mut origin, mut second) = (world.origin(ORIGIN), world.origin(SECOND));
        let mut staying = world.connect();
        staying.send("PROXY UNKNOWN\r\n").await;
        let mut upstream = origin.accept().await;
        let mut going = world.connect();
        going.send("PROXY TCP4 203.0.113.9 192.0.2.1 8080 80\r\n").await;
        second.accept().await;
        world.apply(resources(vec![PROXY], vec![kept])).await;
        staying.send("x").await;
        assert_eq!(upstream.take(1).await.as_deref(), Ok(&b"x"[..]));
        assert!(going.rest().await.unwrap_or_default().is_empty());
    });
}

#[test]
fn a_connection_of_bytes_ends_when_it_has_lived_long_enough() {
    let longest = Duration::from_secs(5);
    let proxy = TcpProxy { longest: Some(longest), ..config::proxy("a") };
    let chain = FilterChain::new("tcp", NetworkFilter::Tcp(Arc::new(proxy)));
    play(resources(vec![], vec![chain]), async |world| {
        let mut origin = world.origin(ORIGIN);
        let mut client = world.connect();
        let mut upstream = origin.accept().await;
        for _ in 0..4 {
            tokio::time::sleep(Duration::from_secs(1)).await;
            client.send("x").await;
        }
        let (_, took) = timed(upstream.rest()).await;
        assert!(took <= Duration::from_secs(2), "{took:?}");
    });
}

#[test]
fn connections_of_bytes_are_spread_by_weight() {
    let cluster = |name: &str, weight| TcpCluster { name: name.into(), weight };
    let proxy = TcpProxy { clusters: vec![cluster("a", 1), cluster("b", 3)], ..config::proxy("a") };
    let chain = FilterChain::new("tcp", NetworkFilter::Tcp(Arc::new(proxy)));
    play(resources(vec![], vec![chain]), async |world| {
        let mut counts = [0, 0];
        for _ in 0..200 {
            let at = arrives(world, b"x", "x").await.expect("somewhere");
            counts[at] += 1;
        }
        assert!((25..=75).contains(&counts[0]), "{counts:?}");
    });
}
