//! TLS that is passed through by the server name that the client asks for, and protocols whose server speaks first.

use std::net::SocketAddr;
use std::sync::Arc;

use meshwork_model::proxy::{ChainMatch, Cluster, FilterChain, Listener, Resource, Transport};
use tokio_rustls::rustls::{ClientConfig, ClientConnection, RootCertStore};

use crate::testing::config::{self, ORIGIN, SECOND, address};
use crate::testing::seeds::{bytes, for_each_seed};
use crate::testing::{Weather, play, timed};

/// The first message of a client that asks for a server and offers protocols.
pub(crate) fn hello(server_name: &str, alpn: &[&str]) -> Vec<u8> {
    let config = ClientConfig::builder().with_root_certificates(RootCertStore::empty());
    let mut config = config.with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    let name = server_name.to_owned().try_into().expect("a name");
    let mut bytes = Vec::new();
    let mut client = ClientConnection::new(Arc::new(config), name).expect("made");
    client.write_tls(&mut bytes).expect("written");
    bytes
}

fn chain(matches: ChainMatch, cluster: &str) -> FilterChain {
    FilterChain { matches, ..FilterChain::new(cluster, config::tcp_filter(cluster)) }
}

fn named(names: &[&str], cluster: &str) -> FilterChain {
    let server_names = names.iter().map(|&name| name.into()).collect();
    chain(ChainMatch { server_names, ..ChainMatch::default() }, cluster)
}

/// The listener `web` with these chains; the clusters `a`, `b` and `c` at these addresses.
fn resources(chains: Vec<FilterChain>) -> Vec<Resource> {
    let cluster = |(name, address): (&str, SocketAddr)| {
        Resource::Cluster(Cluster { name: name.into(), ..config::cluster(&[address]) })
    };
    let clusters = [("a", ORIGIN), ("b", SECOND), ("c", address(3))].map(cluster);
    clusters.into_iter().chain([config::listener_of(chains)]).collect()
}

#[test]
fn the_server_name_chooses_and_all_bytes_are_passed_on() {
    let chains = || {
        // In the order that would be wrong if the first were taken.
        vec![
            chain(ChainMatch::default(), "c"),
            named(&["*.example.com"], "b"),
            named(&["api.example.com", "*.com"], "a"),
        ]
    };
    for (name, expected) in [
        ("api.example.com", ORIGIN),
        ("API.example.com", ORIGIN),
        ("other.example.com", SECOND),
        ("a.b.example.com", SECOND),
        ("example.com", ORIGIN),
        ("example.org", address(3)),
    ] {
        for piece in [None, Some(1), Some(7)] {
            play(resources(chains()), async |world| {
                let mut origin = world.origin(expected);
                let mut client = world.connect_in(64 * 1024, Weather { piece, ..Weather::default() });
                let sent = [hello(name, &[]), b"and more".to_vec()].concat();
                client.send(&sent).await;
                let mut upstream = origin.accept().await;
                assert_eq!(upstream.take(sent.len()).await, Ok(sent), "{name}");
                upstream.send("answered").await;
                assert_eq!(client.take(8).await.as_deref(), Ok(&b"answered"[..]));
                drop((client, upstream));
                world.ended().await.expect("a clean end");
            });
        }
    }
}

#[test]
fn protocols_choose_where_tls_is_passed_through() {
    let by_alpn = ChainMatch { alpn: vec!["h2".into()], ..ChainMatch::default() };
    let chains = vec![chain(by_alpn, "a"), chain(ChainMatch::default(), "b")];
    for (alpn, expected) in [(&["h2", "http/1.1"][..], ORIGIN), (&["http/1.1"], SECOND), (&[], SECOND)] {
        play(resources(chains.clone()), async |world| {
            let mut origin = world.origin(expected);
            let mut client = world.connect();
            client.send(hello("example.com", alpn)).await;
            origin.accept().await;
        });
    }
}

#[test]
fn a_name_that_no_chain_has_is_closed_and_reaches_nobody() {
    play(resources(vec![named(&["api.example.com"], "a")]), async |world| {
        let origin = world.origin(ORIGIN);
        for bytes in [hello("other.example.com", &[]), b"GET / HTTP/1.1\r\n\r\n".to_vec()] {
            let mut client = world.connect();
            client.send(bytes).await;
            assert!(client.rest().await.unwrap_or_default().is_empty());
            assert!(world.ended().await.is_err());
        }
        assert!(!origin.is_called().await);
    });
}

#[test]
fn a_client_that_does_not_say_what_it_asks_for_is_closed_in_time() {
    let whole = hello("api.example.com", &[]);
    for sent in [0, 1, 5, whole.len() - 1] {
        play(resources(vec![named(&["api.example.com"], "a")]), async |world| {
            let mut client = world.connect();
            client.send(&whole[..sent]).await;
            let (_, took) = timed(client.rest()).await;
            assert!(took <= Listener::FILTERS_TIMEOUT, "{sent} {took:?}");
            assert!(world.ended().await.is_err());
        });
    }
}

#[test]
fn whatever_comes_in_place_of_a_first_message_is_refused() {
    for_each_seed("whatever_comes_in_place_of_a_first_message_is_refused", 200, |_, random| {
        let mut sent = hello("api.example.com", &["h2"]);
        match random.u8(..3) {
            0 => {
                let length = random.usize(1..40_000);
                sent = [vec![22], bytes(random, length)].concat();
            }
            1 => {
                let at = random.usize(..sent.len());
                sent[at] = random.u8(..);
            }
            _ => sent.truncate(random.usize(1..sent.len())),
        }
        play(resources(vec![named(&["api.example.com"], "a")]), async |world| {
            // Some are still what they were; that nothing hangs and nothing panics is all that is said of them.
            let mut client = world.connect();
            client.send(&sent).await;
            client.finish().await;
            let _ = world.ended().await;
        });
    });
}

#[test]
fn a_server_may_speak_first_where_no_chain_needs_the_clients_bytes() {
    play(resources(vec![chain(ChainMatch::default(), "a")]), async |world| {
        let mut origin = world.origin(ORIGIN);
        let mut client = world.connect();
        origin.accept().await.send("220 ready").await;
        assert_eq!(client.take(9).await.as_deref(), Ok(&b"220 ready"[..]));
    });
}

#[test]
fn plaintext_beside_server_names_takes_the_chain_without_one() {
    let plain = ChainMatch { transport: Some(Transport::Plaintext), ..ChainMatch::default() };
    play(resources(vec![named(&["api.example.com"], "a"), chain(plain, "b")]), async |world| {
        let mut second = world.origin(SECOND);
        let mut client = world.connect();
        client.send("HELO").await;
        assert_eq!(second.accept().await.take(4).await.as_deref(), Ok(&b"HELO"[..]));
    });
}

/// mTLS, TLS of the application, and plaintext, as the control plane has them on a permissive port of bytes.
fn permissive() -> Vec<Resource> {
    let mesh =
        ChainMatch { alpn: vec!["istio".into()], transport: Some(Transport::Tls), ..ChainMatch::default() };
    let own = ChainMatch { transport: Some(Transport::Tls), ..ChainMatch::default() };
    let plain = ChainMatch { transport: Some(Transport::Plaintext), ..ChainMatch::default() };
    let mut resources = resources(vec![chain(mesh, "a"), chain(own, "b"), chain(plain, "c")]);
    if let Some(Resource::Listener(listener)) = resources.last_mut() {
        listener.filters_timeout = Some(std::time::Duration::from_millis(300));
        listener.continue_on_filters_timeout = true;
    }
    resources
}

#[test]
fn a_permissive_port_tells_the_mesh_from_others_by_what_they_offer() {
    for (sent, expected) in [
        (hello("catalog", &["istio"]), ORIGIN),
        (hello("catalog", &["http/1.1"]), SECOND),
        (hello("catalog", &[]), SECOND),
        (b"GET / HTTP/1.1\r\n\r\n".to_vec(), address(3)),
    ] {
        play(permissive(), async |world| {
            let mut origin = world.origin(expected);
            let mut client = world.connect();
            client.send(&sent).await;
            assert_eq!(origin.accept().await.take(sent.len()).await, Ok(sent));
        });
    }
}

#[test]
fn who_is_silent_on_a_permissive_port_is_served_in_plaintext_after_a_moment() {
    play(permissive(), async |world| {
        let mut origin = world.origin(address(3));
        let mut client = world.connect();
        let (mut upstream, took) = timed(origin.accept()).await;
        assert!(took.as_millis() >= 300, "{took:?}");
        upstream.send("220 ready").await;
        assert_eq!(client.take(9).await.as_deref(), Ok(&b"220 ready"[..]));
    });
}
