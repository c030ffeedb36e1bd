//! Floods of HTTP/2 frames, by raw bytes: who sends them is let go and counted, who needs many is not.

use meshwork_model::proxy::{Cluster, Resource, UpstreamProtocol};
use tokio::io::AsyncWriteExt as _;
use tokio::task::{spawn_local, yield_now};

use super::{OK, POST, one};
use crate::error::{Kind, ProxyError};
use crate::limits::{H2_CONTROL_FRAMES, H2_RESETS};
use crate::testing::config::{ORIGIN, ROUTE_TIMEOUT, cluster, http, listener};
use crate::testing::{End, World, play, settle};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const HEADERS: u8 = 0x1;
const PRIORITY: u8 = 0x2;
const RST_STREAM: u8 = 0x3;
const SETTINGS: u8 = 0x4;
const PING: u8 = 0x6;
const GOAWAY: u8 = 0x7;
const WINDOW_UPDATE: u8 = 0x8;
/// The stream and the head end with this frame.
const WHOLE: u8 = 0x5;
/// `GET http://a/` by HPACK's static table.
const ASK: &[u8] = b"\x82\x86\x84\x41\x01a";
/// `ENHANCE_YOUR_CALM`. Source: RFC 9113 §7.
const CALM: u32 = 0xb;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u8::try_from(payload.len()).expect("short");
    [&[0, 0, length, kind, flags], &stream.to_be_bytes()[..], payload].concat()
}

/// Frames of a connection: kind, stream, payload.
fn frames(mut bytes: &[u8]) -> Vec<(u8, u32, Vec<u8>)> {
    let mut frames = Vec::new();
    while let Some((head, rest)) = bytes.split_first_chunk::<9>() {
        let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        frames.push((head[3], stream, rest[..length].to_vec()));
        bytes = &rest[length..];
    }
    frames
}

/// Why the proxy ended the connection.
fn goaway(bytes: &[u8]) -> Option<u32> {
    let (_, _, payload) = frames(bytes).into_iter().find(|(kind, ..)| *kind == GOAWAY)?;
    Some(u32::from_be_bytes(payload[4..8].try_into().expect("four bytes")))
}

async fn begin(world: &World) -> End {
    let mut client = world.connect();
    client.send([PREFACE, &frame(SETTINGS, 0, 0, &[])].concat()).await;
    client
}

fn counted(world: &World) -> bool {
    world.metrics().contains("meshwork_connections_flooded_total 1\n")
}

#[test]
fn a_client_that_floods_is_told_to_be_calm() {
    for (kind, payload) in
        [(PING, &b"12345678"[..]), (SETTINGS, b""), (PRIORITY, b"\0\0\0\x02\x01"), (0xfa, b"any")]
    {
        one(async |world| {
            let mut client = begin(world).await;
            let stream = u32::from(kind == PRIORITY);
            // One went with the preface.
            for _ in 1..=H2_CONTROL_FRAMES {
                client.send(frame(kind, 0, stream, payload)).await;
            }
            // What is left unread takes nothing of what is said away.
            client.send(frame(kind, 0, stream, payload).repeat(1_000)).await;
            let said = client.rest().await.expect("ended in order");
            assert_eq!(goaway(&said), Some(CALM), "kind {kind}");
            assert!(matches!(world.ended().await, Err(ProxyError { kind: Kind::Flood(_), .. })));
            assert!(counted(world));
        });
    }
}

#[test]
fn a_client_that_resets_all_that_it_asks_is_told_to_be_calm() {
    one(async |world| {
        let mut origin = world.origin(ORIGIN);
        let mut client = begin(world).await;
        let serving = spawn_local(async move {
            let mut silent = Vec::new();
            loop {
                silent.push(origin.accept().await);
            }
        });
        for stream in (1..).step_by(2).take(usize::try_from(H2_RESETS).expect("small") + 1) {
            client.send(frame(HEADERS, WHOLE, stream, ASK)).await;
            yield_now().await;
            client.send(frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes())).await;
            yield_now().await;
        }
        let said = client.rest().await.expect("ended in order");
        assert_eq!(goaway(&said), Some(CALM));
        assert!(counted(world));
        serving.abort();
    });
}

#[test]
fn requests_of_a_connection_that_is_flooded_end_with_it() {
    one(async |world| {
        let mut origin = world.origin(ORIGIN);
        let mut client = begin(world).await;
        client.send(frame(HEADERS, WHOLE, 1, ASK)).await;
        let mut upstream = origin.accept().await;
        upstream.receive().await;
        // The request has earned some.
        for _ in 0..2 * H2_CONTROL_FRAMES {
            client.send(frame(PING, 0, 0, b"12345678")).await;
            yield_now().await;
            if counted(world) {
                break;
            }
        }
        settle().await;
        assert!(counted(world));
        assert!(upstream.is_over().await);
        assert_eq!(world.requests(), 1);
        assert!(world.metrics().contains("MW0109"));
    });
}

#[test]
fn a_client_that_is_busy_may_send_many() {
    one(async |world| {
        let mut origin = world.origin(ORIGIN);
        let mut client = begin(world).await;
        let serving = spawn_local(async move {
            let mut upstream = origin.accept().await;
            loop {
                upstream.receive().await;
                upstream.send(OK).await;
            }
        });
        let mut answers = 0;
        for stream in (1..).step_by(2).take(500) {
            client.send(frame(HEADERS, WHOLE, stream, ASK)).await;
            // Both windows after each answer, measurements of the network, and then some.
            for _ in 0..3 {
                client.send(frame(WINDOW_UPDATE, 0, 0, &1_u32.to_be_bytes())).await;
                client.send(frame(PING, 0, 0, b"12345678")).await;
            }
            while !client.has_nothing().await {
                let head = client.take(9).await.expect("a frame");
                let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
                client.take(length).await.expect("whole");
                answers += u32::from(head[3] == HEADERS);
            }
        }
        assert_eq!(answers, 500);
        assert!(!counted(world));
        serving.abort();
    });
}

#[test]
fn an_endpoint_that_floods_is_left() {
    let cluster = Cluster { protocol: UpstreamProtocol::Http2, ..cluster(&[ORIGIN]) };
    let resources = vec![Resource::Cluster(cluster), listener(http(Some(ROUTE_TIMEOUT)), None)];
    play(resources, async |world| {
        let mut origin = world.origin(ORIGIN);
        let mut client = world.connect();
        // One that is not sent again.
        client.send(format!("{POST}0123456789")).await;
        let mut upstream = origin.accept().await;
        upstream.send(frame(SETTINGS, 0, 0, &[])).await;
        let flooding = spawn_local(async move {
            while upstream.socket.write_all(&frame(PING, 0, 0, b"12345678")).await.is_ok() {
                yield_now().await;
            }
        });
        let answer = client.receive().await;
        assert_eq!((answer.status(), answer.header("x-meshwork-reason")), (Some(502), Some("MW0305")));
        flooding.await.expect("it was cut off");
        assert!(counted(world));
    });
}
