//! Streams of bytes: nothing is lost, nothing moves, and a part is never taken for the whole.

use std::time::Duration;

use fastrand::Rng;
use tokio::io::AsyncWriteExt;
use tokio::time::sleep;

use crate::drain::Phase;
use crate::testing::config::{ORIGIN, tcp};
use crate::testing::seeds::{bytes, for_each_seed, one};
use crate::testing::{Cut, End, Weather, World, play};

/// One end's part: what it sends, when it begins to, and when it begins to read.
struct Part {
    bytes: Vec<u8>,
    sends_after: Duration,
    reads_after: Duration,
}

impl Part {
    fn draw(random: &mut Rng, most: usize) -> Self {
        let length = random.usize(..=most);
        let moment = |random: &mut Rng| Duration::from_millis(random.u64(..2_000));
        Self { bytes: bytes(random, length), sends_after: moment(random), reads_after: moment(random) }
    }

    /// Sends all and ends; what came back, and how that ended.
    async fn play(&self, end: End) -> (Vec<u8>, Option<Cut>) {
        let (mut reading, mut writing) = end.split();
        let sending = async {
            sleep(self.sends_after).await;
            if writing.write_all(&self.bytes).await.is_ok() {
                let _ = writing.shutdown().await;
            }
        };
        let receiving = async {
            sleep(self.reads_after).await;
            let cut = reading.read_all().await.err();
            (std::mem::take(&mut reading.left), cut)
        };
        tokio::join!(sending, receiving).1
    }
}

fn run(random: &mut Rng, breaks: bool) {
    let weather = [Weather::draw(random), Weather::draw(random)];
    let is_dripping = weather.iter().any(|w| w.piece.is_some_and(|piece| piece < 100));
    let most = if is_dripping { 20_000 } else { one(random, [100, 100_000, 2_000_000]) };
    let rooms = [random.usize(1..200_000), random.usize(1..200_000)];
    let parts = [Part::draw(random, most), Part::draw(random, most)];
    let broken = breaks.then(|| (random.bool(), random.bool(), random.usize(1..=most)));
    play(tcp(&[ORIGIN], None), async |world: &World| {
        let mut origin = world.origin_in(ORIGIN, rooms[1], weather[1]);
        let client = world.connect_in(rooms[0], weather[0]);
        let upstream = origin.accept().await;
        if let Some((of_client, is_outgoing, after)) = broken {
            let end = if of_client { &client } else { &upstream };
            end.socket.break_after(after, is_outgoing);
        }
        let (one, two) = tokio::join!(parts[0].play(client), parts[1].play(upstream));
        for ((got, cut), sent) in [(one, &parts[1].bytes), (two, &parts[0].bytes)] {
            assert!(sent.starts_with(&got), "{} of {} bytes, in order", got.len(), sent.len());
            match cut {
                None => assert_eq!(got.len(), sent.len(), "a clean end is the end"),
                Some(_) => assert!(breaks),
            }
        }
    });
}

#[test]
fn streams_arrive_as_they_were_sent() {
    for_each_seed("streams_arrive_as_they_were_sent", 60, |_, random| run(random, false));
}

#[test]
fn a_stream_that_breaks_never_ends_cleanly() {
    for_each_seed("a_stream_that_breaks_never_ends_cleanly", 60, |_, random| run(random, true));
}

#[test]
fn each_direction_ends_on_its_own() {
    play(tcp(&[ORIGIN], None), async |world| {
        let (mut client, mut upstream) = world.call("asked").await;
        client.finish().await;
        assert_eq!(upstream.rest().await.as_deref(), Ok(&b"asked"[..]));
        upstream.send("answered").await;
        assert_eq!(client.take(8).await.as_deref(), Ok(&b"answered"[..]));
        upstream.finish().await;
        assert_eq!(client.rest().await, Ok(vec![]));
        assert!(world.ended().await.is_ok());
    });
}

#[test]
fn a_reset_is_passed_on_in_both_directions() {
    for of_client in [true, false] {
        play(tcp(&[ORIGIN], None), async |world| {
            let (mut client, mut upstream) = world.call("x").await;
            upstream.take(1).await.expect("one");
            let (broken, other) = if of_client { (&client, &mut upstream) } else { (&upstream, &mut client) };
            broken.socket.reset();
            assert_eq!(other.rest().await, Err(Cut::Reset));
        });
    }
}

#[test]
fn connections_go_on_while_the_proxy_drains() {
    play(tcp(&[ORIGIN], None), async |world| {
        let (mut client, mut upstream) = world.call("x").await;
        world.order(Phase::Draining).await;
        upstream.take(1).await.expect("one");
        upstream.send("y").await;
        assert_eq!(client.take(1).await.as_deref(), Ok(&b"y"[..]));
    });
}
