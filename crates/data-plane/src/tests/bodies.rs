//! Bodies of every framing, in both directions at once, through networks that are slow, stall and break.
//!
//! What arrives is what was sent, or is visibly not all of it. Each case is drawn from a number
//! ([`for_each_seed`]), and so are the requests' bodies: an upload that was paused and resumes in the wrong order is
//! seen. HTTP/2 on either side is played by `http2_tests`.

use std::cell::RefCell;
use std::rc::Rc;

use fastrand::Rng;
use tokio::io::AsyncWriteExt;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::http2_tests;
use crate::testing::config::{ORIGIN, cluster, http, listener};
use crate::testing::seeds::{bytes, for_each_seed, one};
use crate::testing::{Cut, End, Message, Origin, Weather, World, play, settle};
use meshwork_model::proxy::{Resource, UpstreamProtocol};

/// Of the extensions in one body: a proxy bounds them together.
const EXTENSION_BYTES: usize = 8 * 1024;

/// A connection's life.
pub(super) struct Case {
    pub(super) exchanges: Vec<Exchange>,
    /// Requests are sent without waiting for answers.
    is_pipelined: bool,
    /// What the connections' directions hold.
    rooms: [usize; 2],
    weather: [Weather; 2],
    broken: Option<Break>,
}

/// Which connection breaks, in which direction, after how many bytes.
struct Break {
    is_upstream: bool,
    is_towards_proxy: bool,
    after: usize,
}

pub(super) struct Exchange {
    pub(super) up: Body,
    pub(super) down: Body,
    /// The origin begins its answer before it has the request, and ends it after.
    pub(super) is_early: bool,
    pub(super) version: &'static str,
}

pub(super) struct Body {
    pub(super) framing: Framing,
    pub(super) data: Vec<u8>,
    pub(super) trailers: &'static str,
    /// With its framing, to be sent behind the head.
    wire: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Framing {
    Length,
    Chunked,
    UntilClose,
}

/// Requests that reached the origin whole: their numbers and bodies.
pub(super) type Arrived = Rc<RefCell<Vec<(usize, Message)>>>;

// === drawing ===

impl Case {
    pub(super) fn draw(random: &mut Rng, breaks: bool) -> Self {
        let most = if random.u8(..4) == 0 { 3_000_000 } else { 100_000 };
        let weather = [Weather::draw(random), Weather::draw(random)];
        let is_dripping = weather.iter().any(|w| w.piece.is_some_and(|piece| piece < 100));
        let count = random.usize(1..6);
        let exchanges = (0..count).map(|at| {
            let most = if is_dripping { 5_000 } else { most };
            Exchange::draw(random, most, at + 1 == count)
        });
        let exchanges: Vec<Exchange> = exchanges.collect();
        let bytes: usize = exchanges.iter().map(|e| e.up.wire.len().max(e.down.wire.len()) + 100).sum();
        let broken = breaks.then(|| Break {
            is_upstream: random.bool(),
            is_towards_proxy: random.bool(),
            after: random.usize(1..bytes),
        });
        Self {
            exchanges,
            is_pipelined: random.bool(),
            rooms: [random.usize(1..100_000), random.usize(1..100_000)],
            weather,
            broken,
        }
    }
}

impl Exchange {
    fn draw(random: &mut Rng, most: usize, is_last: bool) -> Self {
        let version = if is_last && random.u8(..5) == 0 { "1.0" } else { "1.1" };
        let of_request =
            if version == "1.0" { Framing::Length } else { one(random, [Framing::Length, Framing::Chunked]) };
        let of_response = one(random, [Framing::Length, Framing::Chunked, Framing::UntilClose]);
        Self {
            up: Body::draw(random, of_request, most),
            down: Body::draw(random, of_response, most),
            is_early: random.bool(),
            version,
        }
    }
}

impl Body {
    fn draw(random: &mut Rng, framing: Framing, most: usize) -> Self {
        let most = one(random, [0, 1, 300, 10_000, most]).min(most);
        let length = random.usize(..=most);
        let data = bytes(random, length);
        let has_trailers = framing == Framing::Chunked && random.bool();
        let trailers = if has_trailers { "x-sum: 1\r\nx-more: two\r\n" } else { "" };
        let wire = match framing {
            Framing::Length | Framing::UntilClose => data.clone(),
            Framing::Chunked => chunks(random, &data, trailers),
        };
        Self { framing, data, trailers, wire }
    }

    fn header(&self) -> String {
        match self.framing {
            Framing::Length => format!("Content-Length: {}\r\n", self.data.len()),
            Framing::Chunked => "Transfer-Encoding: chunked\r\n".into(),
            Framing::UntilClose => String::new(),
        }
    }
}

fn chunks(random: &mut Rng, data: &[u8], trailers: &str) -> Vec<u8> {
    let most = one(random, [1, 10, 1_000, 100_000]).max(data.len() / 2_000).max(1);
    let (mut wire, mut left) = (Vec::new(), data);
    let mut extensions = 0;
    while !left.is_empty() {
        let (chunk, rest) = left.split_at(random.usize(1..=most).min(left.len()));
        let extension = one(random, ["", "", ";a", ";a=b", ";q=\"x;\\\" y\""]);
        extensions += extension.len();
        let extension = if extensions < EXTENSION_BYTES { extension } else { "" };
        let size = match random.u8(..3) {
            0 => format!("{:x}{extension}\r\n", chunk.len()),
            1 => format!("{:X}{extension}\r\n", chunk.len()),
            _ => format!("00{:x}{extension}\r\n", chunk.len()),
        };
        wire.extend(size.as_bytes());
        wire.extend(chunk);
        wire.extend(b"\r\n");
        left = rest;
    }
    wire.extend(format!("0\r\n{trailers}\r\n").as_bytes());
    wire
}

// === both ends ===

/// Plays a case; whether client and origin speak HTTP/2.
pub(super) fn run(case: Case, is_h2: [bool; 2]) {
    let mut cluster = cluster(&[ORIGIN]);
    cluster.protocol = if is_h2[1] { UpstreamProtocol::Http2 } else { UpstreamProtocol::Http1 };
    play(vec![Resource::Cluster(cluster), listener(http(None), None)], async |world| {
        let case = Rc::new(case);
        let arrived = Arrived::default();
        let origin = world.origin_in(ORIGIN, case.rooms[1], case.weather[1]);
        let mut serving = JoinSet::new();
        serving.spawn_local(serve_all(origin, is_h2[1], Rc::clone(&case), Rc::clone(&arrived)));
        let client = begin(world, &case);
        let answers =
            if is_h2[0] { http2_tests::call_all(client, &case).await } else { call_all(client, &case).await };
        settle().await;
        while let Some(ended) = serving.try_join_next() {
            ended.expect("no panic");
        }
        judge(&case, &answers, &arrived.borrow());
    });
}

fn begin(world: &World, case: &Case) -> End {
    let mut client = world.connect_in(case.rooms[0], case.weather[0]);
    if let Some(broken) = case.broken.as_ref().filter(|broken| !broken.is_upstream) {
        client.socket.break_after(broken.after, broken.is_towards_proxy);
    }
    client.socket = client.socket.under(Weather { seed: !case.weather[0].seed, ..case.weather[0] });
    client
}

async fn call_all(client: End, case: &Case) -> Vec<Result<Message, Cut>> {
    let (mut reading, mut writing) = client.split();
    let turns = Semaphore::new(if case.is_pipelined { case.exchanges.len() } else { 1 });
    let sending = async {
        for (at, Exchange { up, version, .. }) in case.exchanges.iter().enumerate() {
            turns.acquire().await.expect("open").forget();
            let head = format!("PUT /{at} HTTP/{version}\r\nHost: a\r\n{}\r\n", up.header());
            let sent = async {
                writing.write_all(head.as_bytes()).await?;
                writing.write_all(&up.wire).await
            };
            if sent.await.is_err() {
                break;
            }
        }
        writing
    };
    let receiving = async {
        let mut answers = Vec::new();
        for _ in &case.exchanges {
            let answer = reading.try_receive(false).await;
            let is_over = answer.is_err();
            answers.push(answer);
            if is_over {
                break;
            }
            turns.add_permits(1);
        }
        // Whoever waits for a turn that never comes.
        turns.add_permits(case.exchanges.len());
        answers
    };
    // Until the answers are there, the client does not leave.
    tokio::join!(sending, receiving).1
}

async fn serve_all(mut origin: Origin, is_h2: bool, case: Rc<Case>, arrived: Arrived) {
    let mut serving = JoinSet::new();
    loop {
        tokio::select! {
            end = origin.accept() => {
                if let Some(broken) = case.broken.as_ref().filter(|broken| broken.is_upstream) {
                    end.socket.break_after(broken.after, broken.is_towards_proxy);
                }
                let (case, arrived) = (Rc::clone(&case), Rc::clone(&arrived));
                if is_h2 {
                    serving.spawn_local(http2_tests::serve(end, case, arrived));
                } else {
                    serving.spawn_local(serve(end, case, arrived));
                }
            }
            Some(ended) = serving.join_next() => ended.expect("no panic"),
        }
    }
}

async fn serve(end: End, case: Rc<Case>, arrived: Arrived) {
    let (mut reading, mut writing) = end.split();
    while let Ok(mut message) = reading.receive_head().await {
        let at = message.head.strip_prefix("PUT /").expect("ours").split(' ').next().expect("a path");
        let at: usize = at.parse().expect("a number");
        let Exchange { down, is_early, .. } = &case.exchanges[at];
        let head = format!("HTTP/1.1 200 OK\r\n{}\r\n", down.header());
        let answer = [head.as_bytes(), &down.wire].concat();
        let early = if *is_early { answer.len() - 1 } else { 0 };
        let (early, late) = answer.split_at(early);
        let (received, sent) = tokio::join!(reading.receive_body(&mut message), writing.write_all(early));
        if received.is_err() || sent.is_err() {
            return;
        }
        arrived.borrow_mut().push((at, message));
        if writing.write_all(late).await.is_err() || down.framing == Framing::UntilClose {
            return;
        }
    }
}

fn judge(case: &Case, answers: &[Result<Message, Cut>], arrived: &[(usize, Message)]) {
    for (at, message) in arrived {
        let up = &case.exchanges[*at].up;
        assert!(message.body == up.data, "upload {at}: {} of {} bytes", message.body.len(), up.data.len());
        assert_eq!(message.trailers.to_lowercase(), up.trailers, "upload {at}");
    }
    for (at, (answer, Exchange { down, version, .. })) in answers.iter().zip(&case.exchanges).enumerate() {
        match answer {
            Ok(message) if message.status() == Some(200) => {
                let (got, sent) = (message.body.len(), down.data.len());
                assert!(
                    message.body == down.data,
                    "download {at}, {:?}: {got} of {sent} bytes",
                    down.framing
                );
                let trailers = if *version == "1.1" { down.trailers } else { "" };
                assert_eq!(message.trailers.to_lowercase(), trailers, "download {at}");
            }
            other => assert!(case.broken.is_some(), "answer {at}: {other:?}"),
        }
    }
    if case.broken.is_none() {
        assert_eq!((answers.len(), arrived.len()), (case.exchanges.len(), case.exchanges.len()));
    }
}

#[test]
fn bodies_arrive_as_they_were_sent() {
    for_each_seed("bodies_arrive_as_they_were_sent", 60, |_, random| {
        run(Case::draw(random, false), [false; 2]);
    });
}

#[test]
fn a_connection_that_breaks_never_leaves_a_message_that_looks_complete() {
    let name = "a_connection_that_breaks_never_leaves_a_message_that_looks_complete";
    for_each_seed(name, 60, |_, random| run(Case::draw(random, true), [false; 2]));
}
