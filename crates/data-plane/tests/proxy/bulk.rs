//! Much: bytes, connections. Memory does not follow either.
//!
//! What `cargo test` runs is small; the soak runs the ignored tests, which also say what things cost.

use std::time::Duration;

use meshwork_data_plane::Options;
use meshwork_model::proxy::{Direction, NetworkFilter, Resource, TcpProxy};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::harness::*;

const MIB: u64 = 1024 * 1024;
/// What may be held anywhere between two ends, sockets aside: buffers, pipes' pages, an allocator's reserve.
const FLAT_BYTES: u64 = 64 * MIB;
/// The pattern's length is prime, so that no power of two in the way can be a multiple of it.
const PATTERN: usize = 65_521;

/// The bytes of a stream, piece by piece, wherever it is cut.
struct Pattern {
    bytes: Vec<u8>,
    at: u64,
}

impl Pattern {
    fn new() -> Self {
        let one: Vec<u8> = (0..PATTERN).map(|i| i.wrapping_mul(2_654_435_761).to_le_bytes()[2]).collect();
        Self { bytes: one.repeat(5), at: 0 }
    }

    fn next(&mut self, most: u64) -> &[u8] {
        let begin = usize::try_from(self.at % PATTERN as u64).expect("small");
        let piece = &self.bytes[begin..][..usize::try_from(most.min(200_000)).expect("small")];
        self.at += piece.len() as u64;
        piece
    }

    fn check(&mut self, got: &[u8]) {
        for piece in got.chunks(200_000) {
            let at = self.at;
            assert!(self.next(piece.len() as u64) == piece, "other bytes near {at}");
        }
    }
}

async fn send(to: &mut (impl AsyncWrite + Unpin), bytes: u64) {
    let mut pattern = Pattern::new();
    while pattern.at < bytes {
        let left = bytes - pattern.at;
        to.write_all(pattern.next(left)).await.expect("sends");
    }
}

/// Receives and compares; now and then it takes a rest, so that what comes backs up.
async fn receive(from: &mut (impl AsyncRead + Unpin), bytes: u64, before: &[u8]) {
    let mut pattern = Pattern::new();
    pattern.check(before);
    let mut buffer = vec![0; 200_000];
    let mut rests = 0;
    while pattern.at < bytes {
        if pattern.at > rests * (bytes / 4) {
            rests += 1;
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let most = usize::try_from((bytes - pattern.at).min(200_000)).expect("small");
        let read = from.read(&mut buffer[..most]).await.expect("receives");
        assert!(read > 0, "ended after {} of {bytes}", pattern.at);
        pattern.check(&buffer[..read]);
    }
}

fn tcp_proxy(endpoint: std::net::SocketAddr) -> Sut {
    let chain = chain(NetworkFilter::Tcp(std::sync::Arc::new(TcpProxy::to("a"))), None);
    let listener = listener("web", Direction::Unspecified, chain);
    Sut::start(vec![Resource::Cluster(cluster("a", &[endpoint])), listener])
}

/// So many bytes in each direction, one after the other, then at once.
async fn over_tcp(bytes: u64) {
    let stage = Stage::open().await;
    let sut = tcp_proxy(stage.address());
    let mut client = sut.client().await.stream;
    client.write_u8(0).await.expect("sends");
    let mut origin = stage.accept().await.stream;
    origin.read_u8().await.expect("receives");
    let before = memory();
    tokio::join!(send(&mut client, bytes), receive(&mut origin, bytes, b""));
    tokio::join!(send(&mut origin, bytes), receive(&mut client, bytes, b""));
    let (mut client_in, mut client_out) = client.split();
    let (mut origin_in, mut origin_out) = origin.split();
    tokio::join!(
        async {
            send(&mut client_out, bytes).await;
            client_out.shutdown().await.expect("ends");
        },
        async {
            receive(&mut origin_in, bytes, b"").await;
            assert_eq!(origin_in.read(&mut [0]).await.expect("an end"), 0);
            // The other direction goes on.
            send(&mut origin_out, bytes).await;
            origin_out.shutdown().await.expect("ends");
        },
        async {
            receive(&mut client_in, bytes, b"").await;
            assert_eq!(client_in.read(&mut [0]).await.expect("an end"), 0);
        },
    );
    let counted = || {
        let edges = sut.registry.fold();
        edges.iter().fold((0, 0), |sum, edge| (sum.0 + edge.tcp_received, sum.1 + edge.tcp_sent))
    };
    // What was written is counted a moment later.
    while counted() != (bytes * 2 + 1, bytes * 2) {
        tokio::task::yield_now().await;
    }
    report("TCP", bytes * 4);
    assert!(memory() < before + FLAT_BYTES, "{} KiB more", memory().saturating_sub(before) / 1024);
}

/// So many bytes up and down, with a length and in chunks.
async fn over_http(bytes: u64) {
    let stage = Stage::open().await;
    let sut = Sut::start(vec![
        Resource::Cluster(cluster("a", &[stage.address()])),
        web(vec![with_timeout(route("/", &[("a", 1)]), Duration::from_mins(10))]),
    ]);
    let mut client = sut.client().await.stream;
    let head = format!("PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: {bytes}\r\n\r\n");
    client.write_all(head.as_bytes()).await.expect("sends");
    let mut origin = stage.accept().await.stream;
    let begun = past_head(&mut origin).await;
    let before = memory();
    tokio::join!(send(&mut client, bytes), receive(&mut origin, bytes, &begun));
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {bytes}\r\n\r\n");
    origin.write_all(head.as_bytes()).await.expect("sends");
    tokio::join!(send(&mut origin, bytes), async {
        let begun = past_head(&mut client).await;
        receive(&mut client, bytes, &begun).await;
    });
    report("HTTP", bytes * 2);
    assert!(memory() < before + FLAT_BYTES, "{} KiB more", memory().saturating_sub(before) / 1024);
}

/// Reads a head; what was read behind it.
async fn past_head(stream: &mut TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        stream.read_buf(&mut bytes).await.expect("receives");
        if let Some(at) = bytes.windows(4).position(|w| w == b"\r\n\r\n") {
            return bytes.split_off(at + 4);
        }
    }
}

/// What of this process, both ends included, is in memory. Source: proc(5), `statm`.
fn memory() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").expect("Linux");
    let pages: u64 = text.split(' ').nth(1).and_then(|pages| pages.parse().ok()).expect("a number");
    pages * rustix::param::page_size() as u64
}

/// CPU of the workers alone, in seconds. Source: proc(5), `stat`.
fn workers_cpu() -> Duration {
    let threads = std::fs::read_dir("/proc/self/task").expect("Linux");
    let ticks = threads.filter_map(|thread| {
        let stat = std::fs::read_to_string(thread.ok()?.path().join("stat")).ok()?;
        let (name, rest) = stat.split_once(") ")?;
        let numbers: Vec<&str> = rest.split(' ').collect();
        let both = numbers[11].parse::<u32>().ok()? + numbers[12].parse::<u32>().ok()?;
        name.contains("(worker-").then_some(both)
    });
    Duration::from_secs(ticks.sum::<u32>().into())
        / u32::try_from(rustix::param::clock_ticks_per_second()).expect("small")
}

/// For those who run one of these alone.
fn report(what: &str, bytes: u64) {
    let cpu = workers_cpu().as_millis() * u128::from(1024 * MIB) / u128::from(bytes);
    say(&format!("{what}: {cpu} ms of CPU per GiB, {} MiB resident", memory() / MIB));
}

#[expect(clippy::print_stdout, reason = "figures of a soak")]
fn say(line: &str) {
    println!("{line}");
}

#[tokio::test]
async fn tcp_carries_much_with_little() {
    soon(over_tcp(16 * MIB)).await;
}

#[tokio::test]
async fn bulk_that_breaks_is_passed_on_and_leaves_nothing_behind() {
    let stage = Stage::open().await;
    let sut = tcp_proxy(stage.address());
    for breaks_client in [true, false] {
        let mut client = sut.client().await.stream;
        client.write_u8(0).await.expect("sends");
        let mut origin = stage.accept().await.stream;
        origin.read_u8().await.expect("receives");
        let (mut sender, mut other) = if breaks_client { (client, origin) } else { (origin, client) };
        // Nobody reads: bytes stand in both sockets and in between.
        let stuck = timeout(Duration::from_millis(300), send(&mut sender, 1024 * MIB)).await;
        assert!(stuck.is_err());
        socket2::SockRef::from(&sender).set_linger(Some(Duration::ZERO)).expect("set");
        drop(sender);
        let mut buffer = vec![0; 200_000];
        let end = soon(async {
            loop {
                match other.read(&mut buffer).await {
                    Ok(0) => break Ok(()),
                    Ok(_) => {}
                    Err(error) => break Err(error.kind()),
                }
            }
        });
        assert_eq!(end.await, Err(std::io::ErrorKind::ConnectionReset));
    }
    let mut client = sut.client().await.stream;
    let sending = send(&mut client, 4 * MIB);
    let receiving = async {
        let mut origin = stage.accept().await.stream;
        receive(&mut origin, 4 * MIB, b"").await;
    };
    soon(async { tokio::join!(sending, receiving) }).await;
}

#[tokio::test]
async fn http_carries_much_with_little() {
    soon(over_http(16 * MIB)).await;
}

#[tokio::test]
#[ignore = "a soak: a gibibyte each way"]
async fn a_gibibyte_passes_over_tcp_with_flat_memory() {
    timeout(Duration::from_mins(5), over_tcp(1024 * MIB)).await.expect("in time");
}

#[tokio::test]
#[ignore = "a soak: a gibibyte each way"]
async fn a_gibibyte_passes_over_http_with_flat_memory() {
    timeout(Duration::from_mins(5), over_http(1024 * MIB)).await.expect("in time");
}

/// Opens so many connections of which each has had an answer, or has moved a byte; then each has another.
async fn idle(sut: &Sut, count: usize, call: &str, answer_bytes: usize) {
    let begun = memory();
    let mut connections = Vec::new();
    let mut answer = vec![0; answer_bytes];
    for _ in 0..count {
        let mut stream = TcpStream::connect(sut.address("web")).await.expect("connects");
        stream.write_all(call.as_bytes()).await.expect("sends");
        stream.read_exact(&mut answer).await.expect("answers");
        connections.push(stream);
    }
    // Of tests beside this one memory may have gone meanwhile.
    let each = memory().saturating_sub(begun) / count as u64;
    say(&format!("{count} idle connections: {each} bytes each, the test's own end included"));
    for stream in &mut connections {
        stream.write_all(call.as_bytes()).await.expect("sends");
        stream.read_exact(&mut answer).await.expect("answers");
    }
}

fn two_workers(resources: Vec<Resource>) -> Sut {
    Sut::start_with(Options { workers: 2, ..Options::default() }, None, resources)
}

/// Lets this process have so many descriptors, or as many as it may.
fn allow_descriptors(wanted: u64) -> u64 {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    let allowed = wanted.min(maximum.unwrap_or(wanted));
    let _ = setrlimit(Resource::Nofile, Rlimit { current: Some(allowed), maximum });
    getrlimit(Resource::Nofile).current.unwrap_or(wanted)
}

const CALL: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";

async fn idle_http(count: usize) {
    let origin = Origin::answering("HTTP/1.1 204 No Content\r\n\r\n").await;
    let sut = two_workers(vec![
        Resource::Cluster(cluster("a", &[origin.address])),
        web(vec![route("/", &[("a", 1)])]),
    ]);
    let answer = sut.client().await.call(CALL).await;
    idle(&sut, count, CALL, answer.head.len()).await;
}

#[tokio::test]
async fn idle_connections_are_still_served() {
    soon(idle_http(100)).await;
}

#[tokio::test]
#[ignore = "a soak: ten thousand connections"]
async fn ten_thousand_idle_connections_are_still_served() {
    let count = 10_000.min(usize::try_from(allow_descriptors(25_000)).expect("small") / 2 - 100);
    timeout(Duration::from_mins(5), idle_http(count)).await.expect("in time");
}
