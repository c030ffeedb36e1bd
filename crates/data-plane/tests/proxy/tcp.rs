//! Bytes.

use std::net::SocketAddr;
use std::sync::Arc;

use meshwork_identity::IdentitySource;
use meshwork_model::proxy::{
    Action, Direction, DownstreamTls, Gate, Kind, NetworkFilter, Permission, Principal, Rbac, Resource,
    TcpProxy,
};

use tokio::io::AsyncReadExt;

use crate::harness::*;

pub(crate) type Rules = Vec<Rbac>;

fn tcp(cluster: &str, rules: Rules, tls: Option<DownstreamTls>) -> meshwork_model::proxy::FilterChain {
    let proxy = TcpProxy { connect_attempts: 3, ..TcpProxy::to(cluster) };
    let gates = rules.into_iter().map(|rules| Gate::Rbac(Arc::new(rules))).collect();
    let chain = chain(NetworkFilter::Tcp(Arc::new(proxy)), tls);
    meshwork_model::proxy::FilterChain { gates, ..chain }
}

pub(crate) fn inbound_tcp(identity: Arc<IdentitySource>, application: SocketAddr, rules: Rules) -> Sut {
    let listener = listener("inbound", Direction::Inbound, tcp("app", rules, Some(inbound_tls(&[]))));
    Sut::start_as(Some(identity), vec![Resource::Cluster(cluster("app", &[application])), listener])
}

pub(crate) fn outbound_tcp(identity: Arc<IdentitySource>, endpoint: SocketAddr, account: &str) -> Sut {
    let cluster = by_mtls(cluster("a", &[endpoint]), account, &[]);
    let listener = listener("web", Direction::Outbound, tcp("a", vec![], None));
    Sut::start_as(Some(identity), vec![Resource::Cluster(cluster), listener])
}

fn plain(endpoints: &[SocketAddr], rules: Rules) -> Sut {
    let listener = listener("web", Direction::Unspecified, tcp("a", rules, None));
    Sut::start(vec![Resource::Cluster(cluster("a", endpoints)), listener])
}

#[tokio::test]
async fn large_streams_pass_unchanged_both_ways_at_once() {
    let stage = Stage::open().await;
    let sut = plain(&[stage.address()], vec![]);
    let client = sut.client().await;
    let origin = stage.accept().await;
    let bytes: Vec<u8> = (0..3_000_000_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let exchange = async |mut end: Client, bytes: &[u8]| {
        let (mut read, mut write) = end.stream.split();
        let sending = async {
            tokio::io::AsyncWriteExt::write_all(&mut write, bytes).await.expect("sends");
            tokio::io::AsyncWriteExt::shutdown(&mut write).await.expect("ends");
        };
        let mut got = Vec::new();
        let receiving = tokio::io::AsyncReadExt::read_to_end(&mut read, &mut got);
        let ((), read) = tokio::join!(sending, receiving);
        read.expect("receives");
        got
    };
    let (one, two) = soon(async { tokio::join!(exchange(client, &bytes), exchange(origin, &bytes)) }).await;
    assert!(one == bytes && two == bytes);
}

#[tokio::test]
async fn a_dead_endpoint_is_passed_over_and_none_is_told_by_a_reset() {
    let stage = Stage::open().await;
    let dead = closed_port().await;
    let sut = plain(&[dead, stage.address()], vec![]);
    for _ in 0..2 {
        let mut client = sut.client().await;
        client.send("x").await;
        let mut origin = stage.accept().await;
        tokio::io::AsyncReadExt::read_u8(&mut origin.stream).await.expect("x");
        origin.send("y").await;
        drop(origin);
        tokio::io::AsyncWriteExt::shutdown(&mut client.stream).await.expect("ends");
        assert_eq!(client.rest().await.expect("answered"), b"y");
    }
    let sut = plain(&[dead], vec![]);
    let refused = async { tokio::net::TcpStream::connect(sut.address("web")).await?.read_u8().await };
    assert_eq!(soon(refused).await.map_err(|e| e.kind()), Err(std::io::ErrorKind::ConnectionReset));
}

#[tokio::test]
async fn a_side_that_breaks_is_passed_on_as_a_break() {
    let stage = Stage::open().await;
    let sut = plain(&[stage.address()], vec![]);
    let mut client = sut.client().await;
    client.send("x").await;
    let mut origin = stage.accept().await;
    tokio::io::AsyncReadExt::read_u8(&mut origin.stream).await.expect("x");
    socket2::SockRef::from(&origin.stream).set_linger(Some(std::time::Duration::ZERO)).expect("set");
    drop(origin);
    assert!(client.rest().await.is_err());
}

#[tokio::test]
async fn a_rule_that_changes_ends_connections_that_it_refuses() {
    let stage = Stage::open().await;
    let sut = plain(&[stage.address()], vec![]);
    let mut client = sut.client().await;
    client.send("x").await;
    let mut origin = stage.accept().await;
    let deny = vec![rule(Action::Deny, Permission::Any, Principal::Any)];
    assert_eq!(sut.apply(vec![listener("web", Direction::Unspecified, tcp("a", deny, None))]), []);
    assert!(client.rest().await.is_err());
    assert!(origin.rest().await.is_err());
    assert!(sut.client().await.rest().await.unwrap_or_default().is_empty());
}

#[tokio::test]
async fn connections_end_with_their_listener() {
    let stage = Stage::open().await;
    let sut = plain(&[stage.address()], vec![]);
    let mut client = sut.client().await;
    client.send("x").await;
    let _origin = stage.accept().await;
    sut.remove(Kind::Listener, "web");
    assert!(client.rest().await.is_err());
}
