//! The server as a whole, on loopback sockets, with upstreams that lie, delay and cut short.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::{A, CNAME, SOA, TXT};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use meshwork_model::proxy::NameTable;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::*;

mod corpus;
mod forwarding;
mod replies;

/// Long enough for a machine that is busy with something else.
const PATIENCE: Duration = Duration::from_secs(20);

fn name(text: &str) -> Name {
    Name::from_ascii(text).unwrap()
}

fn address(owner: &str, ttl: u32, address: [u8; 4]) -> Record {
    Record::from_rdata(name(owner), ttl, RData::A(A(address.into())))
}

fn alias(owner: &str, ttl: u32, target: &str) -> Record {
    Record::from_rdata(name(owner), ttl, RData::CNAME(CNAME(name(target))))
}

fn soa(owner: &str, ttl: u32, minimum: u32) -> Record {
    let soa = SOA::new(name("ns.test."), name("someone.test."), 1, 2, 3, 4, minimum);
    Record::from_rdata(name(owner), ttl, RData::SOA(soa))
}

fn query(text: &str, record: RecordType) -> Message {
    let mut message = Message::query();
    message.metadata.recursion_desired = true;
    message.queries.push(Query::query(name(text), record));
    message
}

/// An honest, empty reply to a query.
fn reply(query: &Message) -> Message {
    let mut message = Message::response(query.metadata.id, OpCode::Query);
    message.metadata.recursion_available = true;
    message.queries.clone_from(&query.queries);
    message
}

fn table() -> Arc<NameTable> {
    let addresses: Vec<IpAddr> = vec!["240.0.0.1".parse().unwrap(), "fd6d:6573:6877::1".parse().unwrap()];
    Arc::new(NameTable {
        name: "names".into(),
        address: ([127, 0, 0, 1], 15053).into(),
        ttl: Duration::from_secs(30),
        names: [("catalog.shop.svc.cluster.local".into(), addresses)].into(),
    })
}

/// What an upstream says to a query: any number of packets, over UDP or TCP.
type Script = dyn Fn(Message, query::Transport) -> Vec<Vec<u8>> + Send + Sync;

/// An upstream and a server in front of it, with all that they need to live.
struct Stage {
    server: SocketAddr,
    asked: Arc<AtomicUsize>,
    _running: JoinSet<()>,
}

impl Stage {
    async fn new(script: impl Fn(Message, query::Transport) -> Vec<Vec<u8>> + Send + Sync + 'static) -> Self {
        let mut running = JoinSet::new();
        let asked = Arc::new(AtomicUsize::new(0));
        let upstream = upstream(&mut running, Arc::new(script), asked.clone()).await;
        Self { server: serve_to(&mut running, vec![upstream]), asked, _running: running }
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }

    async fn udp(&self, query: &Message) -> Message {
        let bytes = self.udp_bytes(&query.to_vec().unwrap()).await;
        Message::from_vec(&bytes).unwrap()
    }

    async fn udp_bytes(&self, query: &[u8]) -> Vec<u8> {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        socket.send_to(query, self.server).await.unwrap();
        let mut buffer = vec![0; 65_535];
        let length = timeout(PATIENCE, socket.recv(&mut buffer)).await.unwrap().unwrap();
        buffer.truncate(length);
        buffer
    }

    async fn tcp(&self, query: &Message) -> Message {
        let mut stream = TcpStream::connect(self.server).await.unwrap();
        stream.write_all(&framed(&query.to_vec().unwrap())).await.unwrap();
        Message::from_vec(&next(&mut stream).await.unwrap()).unwrap()
    }
}

fn serve_to(running: &mut JoinSet<()>, upstreams: Vec<SocketAddr>) -> SocketAddr {
    // The same port for both, as clients expect: the kernel gives one, and the other is free on it.
    let (udp, tcp) = loop {
        let udp = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        if let Ok(tcp) = std::net::TcpListener::bind(udp.local_addr().unwrap()) {
            break (udp, tcp);
        }
    };
    let server = udp.local_addr().unwrap();
    let sockets = Sockets { udp: vec![udp], tcp: vec![tcp] };
    let options = Options { resolvers: Resolvers::Fixed(upstreams) };
    let table = table();
    running.spawn(async move {
        serve(sockets, move || Some(table.clone()), options).await.unwrap();
    });
    server
}

async fn upstream(running: &mut JoinSet<()>, script: Arc<Script>, asked: Arc<AtomicUsize>) -> SocketAddr {
    let (udp, tcp) = loop {
        let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        if let Ok(tcp) = TcpListener::bind(udp.local_addr().unwrap()).await {
            break (udp, tcp);
        }
    };
    let address = udp.local_addr().unwrap();
    let (script_tcp, asked_tcp) = (script.clone(), asked.clone());
    running.spawn(async move {
        let mut buffer = vec![0; 65_535];
        loop {
            let (length, client) = udp.recv_from(&mut buffer).await.unwrap();
            asked.fetch_add(1, Ordering::Relaxed);
            for packet in script(Message::from_vec(&buffer[..length]).unwrap(), query::Transport::Udp) {
                udp.send_to(&packet, client).await.unwrap();
            }
        }
    });
    running.spawn(async move {
        loop {
            let (mut stream, _) = tcp.accept().await.unwrap();
            asked_tcp.fetch_add(1, Ordering::Relaxed);
            let Some(query) = next(&mut stream).await else { continue };
            for packet in script_tcp(Message::from_vec(&query).unwrap(), query::Transport::Tcp) {
                stream.write_all(&framed(&packet)).await.unwrap();
            }
        }
    });
    address
}

fn framed(bytes: &[u8]) -> Vec<u8> {
    [&u16::try_from(bytes.len()).unwrap().to_be_bytes()[..], bytes].concat()
}

/// The next message of a stream; `None` at its end.
async fn next(stream: &mut TcpStream) -> Option<Vec<u8>> {
    let length = timeout(PATIENCE, stream.read_u16()).await.unwrap().ok()?;
    let mut bytes = vec![0; usize::from(length)];
    timeout(PATIENCE, stream.read_exact(&mut bytes)).await.unwrap().ok()?;
    Some(bytes)
}

fn addresses(message: &Message) -> Vec<IpAddr> {
    message.answers.iter().filter_map(|record| record.data.ip_addr()).collect()
}

fn nobody(_: Message, _: query::Transport) -> Vec<Vec<u8>> {
    panic!("the upstream is not to be asked")
}

/// Counts lines of the log.
#[derive(Clone, Default)]
struct Lines(Arc<AtomicUsize>);

impl Lines {
    fn count(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

impl tracing::Subscriber for Lines {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        *metadata.level() <= tracing::Level::INFO
    }

    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::Id {
        tracing::Id::from_u64(1)
    }

    fn record(&self, _: &tracing::Id, _: &tracing::span::Record<'_>) {}

    fn record_follows_from(&self, _: &tracing::Id, _: &tracing::Id) {}

    fn event(&self, _: &tracing::Event<'_>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    fn enter(&self, _: &tracing::Id) {}

    fn exit(&self, _: &tracing::Id) {}
}

#[tokio::test]
async fn names_of_the_mesh_are_answered_in_the_case_in_which_they_were_asked() {
    let stage = Stage::new(nobody).await;
    let asked = query("CataLog.Shop.svc.Cluster.Local.", RecordType::A);
    for said in [stage.udp(&asked).await, stage.tcp(&asked).await] {
        assert_eq!(said.id, asked.id);
        assert!(said.authoritative && said.recursion_available && said.recursion_desired);
        assert_eq!(addresses(&said), [IpAddr::from([240, 0, 0, 1])]);
        assert_eq!(said.answers[0].ttl, 30);
        assert_eq!(said.queries[0].name.to_ascii(), "CataLog.Shop.svc.Cluster.Local.");
        assert_eq!(said.answers[0].name.to_ascii(), "CataLog.Shop.svc.Cluster.Local.");
        assert!(said.edns.is_none(), "it was not asked with EDNS");
    }
    let mut asked = query("catalog.shop.svc.cluster.local.", RecordType::AAAA);
    asked.edns = Some(Edns::new());
    let said = stage.udp(&asked).await;
    assert_eq!(addresses(&said), ["fd6d:6573:6877::1".parse::<IpAddr>().unwrap()]);
    assert!(said.edns.is_some());
    let said = stage.udp(&query("cart.shop.svc.cluster.local.", RecordType::A)).await;
    assert_eq!(said.response_code, ResponseCode::NXDomain);
    assert_eq!(said.authorities[0].record_type(), RecordType::SOA);
}

#[tokio::test]
async fn other_names_are_asked_of_the_host_s_resolver_once_and_then_kept() {
    let stage = Stage::new(|query, _| {
        let mut message = reply(&query);
        message.answers.push(alias("www.example.com.", 300, "example.net."));
        message.answers.push(address("example.net.", 60, [192, 0, 2, 1]));
        vec![message.to_vec().unwrap()]
    })
    .await;
    for asked in ["www.example.com.", "WWW.example.com.", "www.example.com."] {
        let said = stage.udp(&query(asked, RecordType::A)).await;
        assert_eq!(addresses(&said), [IpAddr::from([192, 0, 2, 1])]);
        assert_eq!(said.answers[0].name.to_ascii(), asked, "the case in which it was asked");
        assert!(!said.authoritative && said.recursion_available);
    }
    assert_eq!(stage.asked(), 1);
}

#[tokio::test]
async fn any_record_type_is_forwarded_with_its_bytes() {
    let text = RData::TXT(TXT::new(vec!["v=spf1 -all".into()]));
    let strange = RData::Unknown {
        code: RecordType::Unknown(65_280),
        rdata: hickory_proto::rr::rdata::NULL::with(vec![1, 2, 3]),
    };
    let data = [text, strange];
    let known = data.clone();
    let stage = Stage::new(move |query, _| {
        let mut message = reply(&query);
        let asked = query.queries[0].query_type;
        let data = known.iter().find(|data| data.record_type() == asked).unwrap();
        message.answers.push(Record::from_rdata(name("example.com."), 60, data.clone()));
        vec![message.to_vec().unwrap()]
    })
    .await;
    for data in data {
        let said = stage.udp(&query("example.com.", data.record_type())).await;
        assert_eq!(said.answers[0].data, data);
    }
}

#[tokio::test]
async fn lies_are_passed_over_until_the_answer_comes() {
    let stage = Stage::new(|query, _| {
        let mut honest = reply(&query);
        honest.answers.push(address("example.com.", 60, [192, 0, 2, 1]));
        let lie = |change: &dyn Fn(&mut Message)| {
            let mut message = reply(&query);
            message.answers.push(address("example.com.", 60, [192, 0, 2, 66]));
            change(&mut message);
            message.to_vec().unwrap()
        };
        vec![
            lie(&|m| m.metadata.id ^= 1),
            lie(&|m| m.queries[0].name = name("example.net.")),
            lie(&|m| m.queries[0].query_type = RecordType::AAAA),
            lie(&|m| m.metadata.message_type = MessageType::Query),
            lie(&|m| m.metadata.op_code = OpCode::Update),
            Vec::new(),
            honest.to_vec().unwrap(),
        ]
    })
    .await;
    let said = stage.udp(&query("example.com.", RecordType::A)).await;
    assert_eq!(addresses(&said), [IpAddr::from([192, 0, 2, 1])]);
}

#[tokio::test]
async fn a_server_under_a_flood_of_guesses_is_asked_over_tcp() {
    let stage = Stage::new(|query, transport| {
        let mut message = reply(&query);
        message.answers.push(address("example.com.", 60, [192, 0, 2, 1]));
        if transport == query::Transport::Udp {
            message.metadata.id ^= 1;
            return vec![message.to_vec().unwrap(); 100];
        }
        vec![message.to_vec().unwrap()]
    })
    .await;
    let said = stage.udp(&query("example.com.", RecordType::A)).await;
    assert_eq!(addresses(&said), [IpAddr::from([192, 0, 2, 1])]);
}

#[tokio::test]
async fn what_another_address_sends_does_not_arrive() {
    // The one that is asked stays silent; another socket answers in its place.
    let stage_upstream = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let mut running = JoinSet::new();
    let server = serve_to(&mut running, vec![stage_upstream.local_addr().unwrap()]);
    let stage = Stage { server, asked: Arc::default(), _running: running };
    let asked = query("example.com.", RecordType::A);
    let other = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let answers = async {
        let mut buffer = vec![0; 512];
        let (length, client) = stage_upstream.recv_from(&mut buffer).await.unwrap();
        let mut message = reply(&Message::from_vec(&buffer[..length]).unwrap());
        message.answers.push(address("example.com.", 60, [192, 0, 2, 66]));
        other.send_to(&message.to_vec().unwrap(), client).await.unwrap();
        message.answers[0] = address("example.com.", 60, [192, 0, 2, 1]);
        stage_upstream.send_to(&message.to_vec().unwrap(), client).await.unwrap();
    };
    let (said, ()) = tokio::join!(stage.udp(&asked), answers);
    assert_eq!(addresses(&said), [IpAddr::from([192, 0, 2, 1])]);
}

/// Many addresses, more than UDP takes.
fn long(query: &Message) -> Message {
    let mut message = reply(query);
    message.answers.extend((0..120).map(|i| address("example.com.", 60, [192, 0, 2, i])));
    message
}

#[tokio::test]
async fn what_is_too_long_for_udp_comes_over_tcp_on_both_sides() {
    let stage = Stage::new(|query, transport| {
        let mut message = long(&query);
        if transport == query::Transport::Udp {
            message = message.truncate();
        }
        vec![message.to_vec().unwrap()]
    })
    .await;
    let mut asked = query("example.com.", RecordType::A);
    let bytes = stage.udp_bytes(&asked.to_vec().unwrap()).await;
    let said = Message::from_vec(&bytes).unwrap();
    assert!(bytes.len() <= 512 && said.truncation && !said.answers.is_empty(), "{}", bytes.len());
    let said = stage.tcp(&asked).await;
    assert!(!said.truncation);
    assert_eq!(said.answers.len(), 120);
    let mut edns = Edns::new();
    edns.set_max_payload(4096);
    asked.edns = Some(edns);
    let said = stage.udp(&asked).await;
    assert_eq!((said.truncation, said.answers.len()), (false, 120), "the client takes that much");
    assert_eq!(stage.asked(), 2, "once over UDP, once over TCP");
}

#[tokio::test]
async fn a_connection_carries_queries_in_a_row_and_is_answered_as_answers_come() {
    let stage = Stage::new(|_, _| Vec::new()).await;
    let mut stream = TcpStream::connect(stage.server).await.unwrap();
    let slow = query("example.com.", RecordType::A);
    let fast = query("catalog.shop.svc.cluster.local.", RecordType::A);
    let both = [framed(&slow.to_vec().unwrap()), framed(&fast.to_vec().unwrap())].concat();
    let (first, rest) = both.split_at(7);
    stream.write_all(first).await.unwrap();
    stream.write_all(rest).await.unwrap();
    stream.shutdown().await.unwrap();
    let said = Message::from_vec(&next(&mut stream).await.unwrap()).unwrap();
    assert_eq!(said.id, fast.id, "the one whose answer is there");
    let said = Message::from_vec(&next(&mut stream).await.unwrap()).unwrap();
    assert_eq!((said.id, said.response_code), (slow.id, ResponseCode::ServFail));
    assert!(next(&mut stream).await.is_none(), "closed after the last answer");
}

#[tokio::test]
async fn a_frame_that_is_longer_than_any_query_ends_the_connection() {
    let stage = Stage::new(nobody).await;
    let mut stream = TcpStream::connect(stage.server).await.unwrap();
    stream.write_all(&[0xff, 0xff, 0]).await.unwrap();
    assert!(next(&mut stream).await.is_none());
}

#[tokio::test]
async fn a_server_that_does_not_listen_is_known_at_once() {
    let closed = std::net::UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut running = JoinSet::new();
    let server = serve_to(&mut running, vec![closed]);
    let stage = Stage { server, asked: Arc::default(), _running: running };
    let said = stage.udp(&query("example.com.", RecordType::A)).await;
    assert_eq!(said.response_code, ResponseCode::ServFail);
}

#[tokio::test]
async fn a_server_that_does_not_know_edns_is_asked_without() {
    let stage = Stage::new(|query, _| {
        let mut message = reply(&query);
        if query.edns.is_some() {
            message.metadata.response_code = ResponseCode::FormErr;
        } else {
            message.answers.push(address("example.com.", 60, [192, 0, 2, 1]));
        }
        vec![message.to_vec().unwrap()]
    })
    .await;
    let said = stage.udp(&query("example.com.", RecordType::A)).await;
    assert_eq!(addresses(&said), [IpAddr::from([192, 0, 2, 1])]);
}

#[tokio::test]
async fn the_system_s_own_tools_understand_it() {
    let stage = Stage::new(|query, _| {
        let mut message = reply(&query);
        message.answers.push(address("example.com.", 60, [192, 0, 2, 1]));
        vec![message.to_vec().unwrap()]
    })
    .await;
    // A judge where there is one; the other tests need none.
    let dig = |name: &'static str| {
        let port = stage.server.port().to_string();
        tokio::process::Command::new("dig")
            .args(["@127.0.0.1", "-p", &port, "+short", "+tries=1", name])
            .output()
    };
    for (name, expected) in
        [("catalog.shop.svc.cluster.local", "240.0.0.1\n"), ("example.com", "192.0.2.1\n")]
    {
        match timeout(PATIENCE, dig(name)).await.unwrap() {
            Ok(output) => assert_eq!(String::from_utf8_lossy(&output.stdout), expected),
            Err(error) => println!("there is no dig here: {error}"),
        }
    }
}

#[tokio::test]
async fn of_all_connections_only_so_many_are_open_and_one_that_ends_makes_room() {
    let stage = Stage::new(nobody).await;
    let mut open = Vec::new();
    for _ in 0..limits::CONNECTIONS {
        open.push(TcpStream::connect(stage.server).await.unwrap());
    }
    let asked = query("catalog.shop.svc.cluster.local.", RecordType::A);
    drop(open.pop());
    assert_eq!(addresses(&stage.tcp(&asked).await), [IpAddr::from(Ipv4Addr::new(240, 0, 0, 1))]);
}

#[tokio::test(start_paused = true)]
async fn an_idle_connection_is_closed() {
    let stage = Stage::new(nobody).await;
    let start = tokio::time::Instant::now();
    let mut stream = TcpStream::connect(stage.server).await.unwrap();
    assert!(next(&mut stream).await.is_none());
    assert!(start.elapsed() >= limits::CONNECTION_IDLE);
}
