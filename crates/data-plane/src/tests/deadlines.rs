//! Time-outs, by a clock that jumps: each comes when it should, and no sooner.

use std::time::Duration;

use super::{GET, OK, POST, one};
use crate::limits::{
    CONNECTION_IDLE, EXCHANGE_IDLE, HANDSHAKE, HEAD_READ, POOL_IDLE, POOL_SWEEP, PROGRESS_WINDOW,
};
use crate::testing::config::{
    CONNECT_TIMEOUT, ORIGIN, ROUTE_TIMEOUT, SECOND, cluster, http, listener, tcp, web,
};
use crate::testing::{Cut, Weather, World, play, play_as, timed};
use meshwork_model::proxy::{Resource, UpstreamProtocol};
use tokio::time::sleep;

/// Timers are as exact as this.
const TICK: Duration = Duration::from_millis(5);

fn assert_about(took: Duration, wanted: Duration) {
    assert!(took >= wanted.saturating_sub(TICK) && took <= wanted + TICK, "{took:?}, not {wanted:?}");
}

#[test]
fn a_head_that_does_not_end_in_time_is_a_408() {
    one(async |world| {
        let mut client = world.connect();
        client.send("GET / HTTP/1.1\r\n").await;
        let (answer, took) = timed(client.receive()).await;
        assert_eq!(answer.status(), Some(408));
        assert_about(took, HEAD_READ);
        assert_eq!(client.rest().await, Ok(vec![]));
    });
}

#[test]
fn a_head_that_drips_has_no_more_time() {
    one(async |world| {
        let mut client = world.connect();
        let seconds = HEAD_READ.as_secs();
        for _ in 0..seconds - 1 {
            client.send("G").await;
            sleep(Duration::from_secs(1)).await;
        }
        let (answer, took) = timed(client.receive()).await;
        assert_eq!(answer.status(), Some(408));
        assert_about(took, Duration::from_secs(1));
    });
}

#[test]
fn the_next_head_has_its_own_time() {
    one(async |world| {
        let (mut client, mut upstream) = world.call(GET).await;
        sleep(HEAD_READ).await;
        upstream.receive().await;
        upstream.send(OK).await;
        client.receive().await;
        sleep(HEAD_READ).await;
        client.send("GET / HT").await;
        let (answer, took) = timed(client.receive()).await;
        assert_eq!(answer.status(), Some(408));
        assert_about(took, HEAD_READ);
    });
}

#[test]
fn a_silent_connection_is_closed_without_a_word() {
    one(async |world| {
        let mut client = world.connect();
        let (rest, took) = timed(client.rest()).await;
        assert_eq!(rest, Ok(vec![]));
        assert_about(took, CONNECTION_IDLE);
    });
}

#[test]
fn an_origin_that_does_not_answer_in_the_routes_time_is_a_504() {
    one(async |world| {
        let (mut client, mut upstream) = world.call(POST).await;
        sleep(PROGRESS_WINDOW / 2).await;
        client.send("0123456789").await;
        upstream.receive().await;
        let (answer, took) = timed(client.receive()).await;
        assert_eq!(answer.status(), Some(504));
        assert_about(took, ROUTE_TIMEOUT);
        assert!(upstream.is_over().await, "nobody waits for its answer any more");
    });
}

#[test]
fn a_response_that_does_not_end_in_the_routes_time_is_cut() {
    one(async |world| {
        let (mut client, mut upstream) = world.call(GET).await;
        upstream.receive().await;
        upstream.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n").await;
        let (answer, took) = timed(client.try_receive(false)).await;
        assert!(matches!(answer, Err(Cut::Short | Cut::Reset)));
        assert_about(took, ROUTE_TIMEOUT);
    });
}

#[test]
fn a_route_without_a_limit_waits_while_something_moves() {
    play(vec![web(&[ORIGIN]).remove(0), listener(http(None), None)], async |world| {
        let (mut client, mut upstream) = world.call(GET).await;
        upstream.receive().await;
        upstream.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await;
        for _ in 0..3 {
            sleep(EXCHANGE_IDLE / 2).await;
            upstream.send("2\r\nok\r\n").await;
        }
        let (answer, took) = timed(client.try_receive(false)).await;
        assert!(matches!(answer, Err(Cut::Short | Cut::Reset)));
        assert!(took >= EXCHANGE_IDLE && took <= EXCHANGE_IDLE + PROGRESS_WINDOW, "{took:?}");
    });
}

#[test]
fn connecting_has_its_time_per_endpoint_and_goes_on_to_the_next() {
    play(web(&[ORIGIN, SECOND]), async |world| {
        world.silence(ORIGIN);
        let mut second = world.origin(SECOND);
        let mut took = [Duration::ZERO; 2];
        for took in &mut took {
            let mut client = world.connect();
            client.send(GET).await;
            *took = timed(second.accept()).await.1;
        }
        for took in took {
            assert_about(took, if took < CONNECT_TIMEOUT / 2 { Duration::ZERO } else { CONNECT_TIMEOUT });
        }
        assert!(took.iter().any(|took| *took >= CONNECT_TIMEOUT.saturating_sub(TICK)), "{took:?}");
    });
}

/// A request is answered that no endpoint could be reached, after three tries.
async fn assert_given_up(world: &World) {
    let mut client = world.connect();
    client.send(GET).await;
    let (answer, took) = timed(client.receive()).await;
    assert_eq!(answer.status(), Some(503));
    assert_about(took, CONNECT_TIMEOUT * 3);
}

#[test]
fn endpoints_that_are_all_silent_are_a_503() {
    one(async |world| {
        world.silence(ORIGIN);
        assert_given_up(world).await;
    });
}

#[test]
fn an_endpoint_that_takes_a_connection_but_nothing_on_it_is_given_up_in_the_same_time() {
    let mut cluster = cluster(&[ORIGIN]);
    cluster.protocol = UpstreamProtocol::Http2;
    let listener = listener(http(Some(ROUTE_TIMEOUT)), None);
    play(vec![Resource::Cluster(cluster), listener], async |world| {
        // Too little room for what HTTP/2 begins with, and nobody reads.
        let _origin = world.origin_in(ORIGIN, 7, Weather::default());
        assert_given_up(world).await;
    });
}

#[test]
fn a_pooled_connection_is_closed_when_it_was_idle_for_long() {
    one(async |world| {
        let (mut client, mut upstream) = world.call(GET).await;
        upstream.receive().await;
        upstream.send(OK).await;
        client.receive().await;
        let (rest, took) = timed(upstream.rest()).await;
        assert_eq!(rest, Ok(vec![]));
        assert!(took >= POOL_IDLE && took <= POOL_IDLE + POOL_SWEEP, "{took:?}");
    });
}

#[test]
fn a_handshake_that_does_not_come_is_not_waited_for() {
    let (identity, tls) = crate::testing::config::identity();
    let resources = vec![web(&[ORIGIN]).remove(0), listener(http(None), Some(tls))];
    play_as(Some(identity), resources, async |world| {
        for sent in [&b""[..], &[22, 3, 1, 0, 200, 1]] {
            let mut client = world.connect();
            client.send(sent).await;
            let (rest, took) = timed(client.rest()).await;
            assert!(rest.is_ok_and(|rest| rest.is_empty()));
            assert_about(took, HANDSHAKE);
        }
    });
}

#[test]
fn a_tcp_connection_on_which_nothing_moves_is_closed() {
    let limit = Duration::from_secs(20);
    play(tcp(&[ORIGIN], Some(limit)), async |world| {
        let (mut client, mut upstream) = world.call("x").await;
        for _ in 0..3 {
            sleep(limit / 2).await;
            upstream.send("y").await;
        }
        client.take(3).await.expect("three");
        let (rest, took) = timed(client.rest()).await;
        // As in Envoy: closed, not reset.
        assert!(rest.is_ok_and(|rest| rest.is_empty()));
        assert_about(took, limit);
        assert!(upstream.rest().await.is_ok());
    });
}
