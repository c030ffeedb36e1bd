//! What only a kernel can show: connections that nftables redirects, and a workload's own network. Both in a network
//! namespace, which any user can make where the kernel lets them.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::sync::Arc;

use meshwork_data_plane::{Options, WorkloadSockets};
use meshwork_model::proxy::{
    Cluster, Direction, Discovery, Listener, Network, Resource, WORKLOAD_SOURCE_V4, WORKLOAD_SOURCE_V6,
};
use socket2::{Domain, Socket, Type};
use tokio::io::AsyncReadExt as _;
use tokio::net::{TcpListener, TcpStream};

use crate::harness::*;

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
/// Says that a test runs in its namespace.
const INSIDE: &str = "MESHWORK_TEST_INSIDE";

const NETWORK: &str = "set -e
ip link set lo up
for address in 198.18.0.1/32 198.18.0.2/32 fd6d:6573:6877:ffff::1/128 fd6d:6573:6877:ffff::2/128; do
    ip address add $address dev lo
done
ip route add default dev lo src 198.18.0.1
ip -6 route add default dev lo src fd6d:6573:6877:ffff::1
";

/// Runs a test again in a namespace of its own; `true` where it is there.
fn is_inside(test: &str) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        shell(NETWORK);
        return true;
    }
    let program = std::env::current_exe().expect("a program");
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "--net", "--"]).arg(program);
    let status = command.args(["--exact", test, "--nocapture"]).env(INSIDE, "1").status();
    assert!(status.expect("unshare (util-linux) runs").success(), "{test} in a namespace");
    false
}

fn shell(script: &str) {
    let status = Command::new("sh").args(["-c", script]).status().expect("runs");
    assert!(status.success(), "{script}");
}

/// Sockets of 127.0.0.1 and `::1` at the same port, and the rules that redirect virtual addresses there.
fn redirected() -> [std::net::TcpListener; 2] {
    let first = std::net::TcpListener::bind(LOOPBACK).expect("bound");
    let port = first.local_addr().expect("bound").port();
    let second = std::net::TcpListener::bind(("::1", port)).expect("free");
    shell(&format!(
        "nft 'table inet t {{
            chain output {{
            type nat hook output priority -100
            ip daddr 240.0.0.0/4 meta l4proto tcp redirect to :{port}
            ip daddr 169.254.169.254 meta l4proto tcp redirect to :{port}
            ip6 daddr fd6d:6573:6877::/64 meta l4proto tcp redirect to :{port}
            }}
            }}'"
    ));
    [first, second]
}

#[tokio::test]
async fn the_kernels_original_destination_chooses_the_listener() {
    if !is_inside("namespace::the_kernels_original_destination_chooses_the_listener") {
        return;
    }
    let origin = Origin::answering(OK).await;
    let sut = Sut::start(vec![Resource::Cluster(cluster("a", &[origin.address]))]);
    let sockets = redirected();
    let addresses = [0, 1].map(|at| sockets[at].local_addr().expect("bound"));
    for (address, socket) in addresses.into_iter().zip(sockets) {
        sut.proxy.adopt(address, vec![socket]).expect("taken over");
    }
    let Resource::Listener(service) = web(vec![route("/", &[("a", 1)])]) else { unreachable!() };
    let passing = Listener {
        name: "virtualOutbound".into(),
        address: Some(addresses[0]),
        additional_addresses: vec![addresses[1]],
        use_original_dst: true,
        direction: Direction::Outbound,
        chains: tcp_chains("passing"),
        ..service.clone()
    };
    let service = Listener {
        address: Some("240.0.0.7:80".parse().expect("an address")),
        additional_addresses: vec!["[fd6d:6573:6877::7]:80".parse().expect("an address")],
        bind_to_port: false,
        direction: Direction::Outbound,
        ..service
    };
    let anywhere = Cluster { discovery: Discovery::OriginalDestination, ..cluster("passing", &[]) };
    let resources =
        vec![Resource::Cluster(anywhere), Resource::Listener(passing), Resource::Listener(service)];
    assert_eq!(sut.apply(resources), []);
    for meant in ["240.0.0.7:80", "[fd6d:6573:6877::7]:80"] {
        let mut client = Client::connect(meant.parse().expect("an address")).await;
        assert_eq!(client.call(GET).await.body, "ok", "{meant}");
    }
    // No service; another port of it; near the host; and the proxy itself.
    let others =
        ["240.0.0.8:80", "240.0.0.7:81", "169.254.169.254:80"].map(|text| text.parse().expect("one"));
    for meant in others.into_iter().chain(addresses) {
        let got = async { TcpStream::connect::<SocketAddr>(meant).await?.read_u8().await };
        let got = soon(got).await.map_err(|error| error.kind());
        assert_eq!(got, Err(io::ErrorKind::ConnectionReset), "{meant}");
    }
    assert!(sut.registry.prometheus_text().contains("meshwork_destinations_refused_total 3"));
}

fn tcp_chains(cluster: &str) -> Vec<meshwork_model::proxy::FilterChain> {
    let tcp = meshwork_model::proxy::TcpProxy::to(cluster);
    vec![chain(meshwork_model::proxy::NetworkFilter::Tcp(Arc::new(tcp)), None)]
}

/// As many sockets as are asked for.
#[derive(Debug)]
struct Sockets(UnixStream);

impl WorkloadSockets for Sockets {
    fn take(&self, v6: bool) -> io::Result<Option<Socket>> {
        Socket::new(if v6 { Domain::IPV6 } else { Domain::IPV4 }, Type::STREAM, None).map(Some)
    }

    fn readable(&self, _: bool) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[tokio::test]
async fn a_workload_is_called_from_an_address_that_is_not_its_own() {
    if !is_inside("namespace::a_workload_is_called_from_an_address_that_is_not_its_own") {
        return;
    }
    for (listens, expected) in
        [("127.0.0.1:0", IpAddr::V4(WORKLOAD_SOURCE_V4)), ("[::1]:0", IpAddr::V6(WORKLOAD_SOURCE_V6))]
    {
        let program = TcpListener::bind(listens).await.expect("bound");
        let port = program.local_addr().expect("bound").port();
        let workload_sockets: Arc<dyn WorkloadSockets> =
            Arc::new(Sockets(UnixStream::pair().expect("made").0));
        let options = Options { workers: 1, workload_sockets: Some(workload_sockets), ..Options::default() };
        let inside = Cluster { network: Network::Workload, ..cluster("a", &[([127, 0, 0, 1], port).into()]) };
        let resources = vec![Resource::Cluster(inside), web(vec![route("/", &[("a", 1)])])];
        let sut = Sut::start_with(options, None, resources);
        let mut client = sut.client().await;
        client.send(GET).await;
        let (stream, remote) = soon(program.accept()).await.expect("accepts");
        assert_eq!(remote.ip(), expected);
        let mut upstream = Client { stream, left: Vec::new() };
        upstream.receive().await;
        upstream.send(OK).await;
        assert_eq!(client.receive().await.body, "ok");
    }
}
