//! The cases in which an exchange does not simply go there and back.
//!
//! Of the ten that the design names, one is not here: mirrors, which are not built.

use std::time::Duration;

use tokio::time::sleep;

use super::{GET, OK, POST, one};
use crate::drain::Phase;
use crate::limits::{HALF_CLOSED_QUIET, INTERIM_RESPONSES, LINGER};
use crate::testing::config::{ORIGIN, SECOND, http, listener, web};
use crate::testing::{Cut, End, Origin, World, play, settle, timed};

const UPGRADE: &str = "GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n";
const SWITCHED: &str =
    "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n";

/// An exchange in the middle of its response.
async fn begun(world: &World) -> (End, End) {
    let (mut client, mut upstream) = world.call(GET).await;
    upstream.receive().await;
    upstream.send("HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nbegun").await;
    client.receive_head_and(5).await;
    (client, upstream)
}

// === 1: a response before the request's end ===

#[test]
fn a_response_before_the_requests_end_is_passed_on_and_ends_both_connections() {
    one(async |world| {
        let (mut client, mut upstream) = world.call(&format!("{POST}half.")).await;
        upstream.send("HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\n\r\nno.").await;
        let answer = client.receive().await;
        assert_eq!((answer.status(), answer.text()), (Some(413), "no."));
        let (rest, after) = timed(client.rest()).await;
        assert_eq!(rest, Ok(vec![]));
        assert!(after <= LINGER, "{after:?}");
        assert_eq!(upstream.receive_head_and(5).await, "half.");
        assert!(upstream.rest().await.is_ok_and(|rest| rest.is_empty()));
    });
}

#[test]
fn what_a_client_sends_after_an_early_response_is_never_taken_for_a_request() {
    one(async |world| {
        let (mut client, mut upstream) = world.call(POST).await;
        upstream.send(OK).await;
        assert_eq!(client.receive().await.status(), Some(200));
        client.send(GET).await;
        assert_eq!(client.rest().await, Ok(vec![]));
        assert_eq!(world.requests(), 1);
    });
}

#[test]
fn an_early_response_passes_while_the_request_still_comes() {
    one(async |world| {
        let (mut client, mut upstream) = world.call(POST).await;
        upstream.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n").await;
        settle().await;
        client.send("0123456789").await;
        assert_eq!(upstream.receive().await.text(), "0123456789");
        upstream.send("0\r\n\r\n").await;
        assert_eq!(client.receive().await.text(), "ok");
        client.send(GET).await;
        assert!(upstream.receive().await.head.starts_with("GET "), "both connections are still good");
    });
}

// === 2: interim responses ===

#[test]
fn a_client_that_expects_100_is_told_by_the_origin_alone() {
    one(async |world| {
        let head = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n";
        let (mut client, mut upstream) = world.call(head).await;
        settle().await;
        assert!(client.has_nothing().await);
        upstream.send("HTTP/1.1 100 Continue\r\n\r\n").await;
        assert_eq!(client.receive().await.status(), Some(100));
        client.send("body").await;
        let asked = upstream.receive().await;
        assert_eq!((asked.header("expect"), asked.text()), (Some("100-continue"), "body"));
        upstream.send(OK).await;
        assert_eq!(client.receive().await.status(), Some(200));
    });
}

#[test]
fn an_origin_that_refuses_what_was_expected_ends_the_connection() {
    one(async |world| {
        let head = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n";
        let (mut client, mut upstream) = world.call(head).await;
        upstream.send("HTTP/1.1 417 Expectation Failed\r\nContent-Length: 0\r\n\r\n").await;
        assert_eq!(client.receive().await.status(), Some(417));
        assert_eq!(client.rest().await, Ok(vec![]));
    });
}

#[test]
fn interim_responses_are_passed_on_with_their_fields() {
    one(async |world| {
        let (mut client, mut upstream) = world.call(GET).await;
        upstream.send(format!("HTTP/1.1 103 Early Hints\r\nLink: </s.css>\r\n\r\n{OK}")).await;
        let hints = client.receive().await;
        assert_eq!((hints.status(), hints.header("link")), (Some(103), Some("</s.css>")));
        assert_eq!(client.receive().await.text(), "ok");
    });
}

#[test]
fn interim_responses_are_not_for_http_1_0() {
    one(async |world| {
        let (mut client, mut upstream) = world.call("GET / HTTP/1.0\r\nHost: a\r\n\r\n").await;
        upstream.send(format!("HTTP/1.1 103 Early Hints\r\n\r\n{OK}")).await;
        assert_eq!(client.receive().await.status(), Some(200));
    });
}

#[test]
fn endless_interim_responses_end_in_502() {
    one(async |world| {
        let (mut client, mut upstream) = world.call(GET).await;
        for _ in 0..=INTERIM_RESPONSES {
            upstream.send("HTTP/1.1 102 Processing\r\n\r\n").await;
        }
        for _ in 0..INTERIM_RESPONSES {
            assert_eq!(client.receive().await.status(), Some(102));
        }
        assert_eq!(client.receive().await.status(), Some(502));
        assert!(upstream.is_over().await);
    });
}

// === 3: trailers ===

#[test]
fn trailers_pass_both_ways() {
    one(async |world| {
        let request = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n\
                       4\r\nbody\r\n0\r\nx-sum: 1\r\n\r\n";
        let (mut client, mut upstream) = world.call(request).await;
        let asked = upstream.receive().await;
        assert_eq!((asked.text(), asked.trailers.to_lowercase().as_str()), ("body", "x-sum: 1\r\n"));
        let answer = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nx-sum: 2\r\n\r\n";
        upstream.send(answer).await;
        let answer = client.receive().await;
        assert_eq!((answer.text(), answer.trailers.to_lowercase().as_str()), ("ok", "x-sum: 2\r\n"));
    });
}

// === 4: the client gone ===

/// As long as a client that says nothing more may have something taken from it, and a moment.
async fn half_closed() {
    sleep(HALF_CLOSED_QUIET).await;
    settle().await;
}

#[test]
fn a_client_that_leaves_while_it_waits_takes_its_upstream_along() {
    one(async |world| {
        let (client, mut upstream) = world.call(GET).await;
        upstream.receive().await;
        drop(client);
        half_closed().await;
        assert!(upstream.is_over().await);
        assert_eq!(world.requests(), 1);
    });
}

#[test]
fn a_client_that_ends_its_direction_has_a_moment_for_its_answer() {
    // Nothing tells it from one that has closed, until something is sent to it.
    one(async |world| {
        let (mut client, mut upstream) = world.call(GET).await;
        upstream.receive().await;
        client.finish().await;
        sleep(HALF_CLOSED_QUIET / 2).await;
        upstream.send(OK).await;
        assert_eq!(client.receive().await.text(), "ok");
    });
}

#[test]
fn a_client_that_leaves_while_connecting_waits_for_nothing() {
    one(async |world| {
        world.silence(ORIGIN);
        let mut client = world.connect();
        client.send(GET).await;
        settle().await;
        drop(client);
        let (_, after) = timed(world.ended()).await;
        assert!(after <= HALF_CLOSED_QUIET + LINGER, "{after:?}");
    });
}

#[test]
fn a_client_that_breaks_off_within_its_body_takes_its_upstream_along() {
    one(async |world| {
        let (client, mut upstream) = world.call(&format!("{POST}half.")).await;
        settle().await;
        client.socket.reset();
        assert!(upstream.try_receive(false).await.is_err(), "the request never looks complete");
    });
}

#[test]
fn a_client_that_leaves_within_the_response_takes_its_upstream_along() {
    one(async |world| {
        let (client, mut upstream) = begun(world).await;
        drop(client);
        half_closed().await;
        assert!(upstream.is_over().await);
    });
}

// === 5: the origin gone ===

/// An answer that breaks off after `sent`, by a clean end and by a reset.
fn broken(sent: &'static str, judge: &impl AsyncFn(&mut End)) {
    for resets in [false, true] {
        one(async |world| {
            let (mut client, mut upstream) = world.call(GET).await;
            upstream.receive().await;
            upstream.send(sent).await;
            settle().await;
            if resets {
                upstream.socket.reset();
            }
            drop(upstream);
            judge(&mut client).await;
        });
    }
}

#[test]
fn an_origin_gone_before_the_end_of_its_head_is_a_503() {
    for sent in
        ["", "HTTP/1.1 200 O", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n", "HTTP/1.1 100 Continue\r\n\r\n"]
    {
        broken(sent, &async |client| {
            let mut answer = client.receive().await;
            if answer.status() == Some(100) {
                answer = client.receive().await;
            }
            assert_eq!(answer.status(), Some(503), "{sent:?}");
        });
    }
}

#[test]
fn an_origin_gone_within_its_body_leaves_a_response_that_is_visibly_cut() {
    let length = "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf.";
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhalf.\r\n";
    let in_chunk = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\na\r\nhalf.";
    for sent in [length, chunked, in_chunk] {
        broken(sent, &async |client| {
            let cut = client.try_receive(false).await;
            assert!(matches!(cut, Err(Cut::Short | Cut::Reset)), "{sent:?}: {cut:?}");
        });
    }
}

#[test]
fn a_body_until_close_ends_with_a_clean_end_and_not_with_a_reset() {
    for (resets, version) in [(false, "1.1"), (true, "1.1"), (false, "1.0"), (true, "1.0")] {
        one(async |world| {
            let (mut client, mut upstream) =
                world.call(&format!("GET / HTTP/{version}\r\nHost: a\r\n\r\n")).await;
            upstream.receive().await;
            upstream.send("HTTP/1.1 200 OK\r\n\r\nwhole").await;
            settle().await;
            if resets {
                upstream.socket.reset();
            }
            drop(upstream);
            let answer = client.try_receive(false).await;
            if resets {
                assert!(matches!(answer, Err(Cut::Short | Cut::Reset)), "{version}: {answer:?}");
            } else {
                assert_eq!(answer.expect("whole").text(), "whole", "{version}");
            }
        });
    }
}

#[test]
fn an_answer_that_is_no_http_is_a_502() {
    for sent in ["SSH-2.0-OpenSSH\r\n", "HTTP/1.1 200 OK\nContent-Length: 0\n\n", "\0\0\0", SWITCHED] {
        broken(sent, &async |client| assert_eq!(client.receive().await.status(), Some(502), "{sent:?}"));
    }
}

// === 6: upgrades ===

#[test]
fn bytes_around_a_switch_arrive_once_and_after_it() {
    one(async |world| {
        let (mut client, mut upstream) = world.call(&format!("{UPGRADE}early")).await;
        let asked = upstream.receive().await;
        assert_eq!(asked.header("upgrade"), Some("websocket"));
        assert!(upstream.has_nothing().await, "nothing before the 101");
        upstream.send(format!("{SWITCHED}hello")).await;
        assert_eq!(client.receive().await.status(), Some(101));
        assert_eq!(client.take(5).await.as_deref(), Ok(&b"hello"[..]));
        assert_eq!(upstream.take(5).await.as_deref(), Ok(&b"early"[..]));
        client.finish().await;
        assert_eq!(upstream.rest().await, Ok(vec![]));
        upstream.send("the other half goes on").await;
        upstream.finish().await;
        assert_eq!(client.rest().await.as_deref(), Ok(&b"the other half goes on"[..]));
    });
}

#[test]
fn what_stands_behind_a_refused_upgrade_is_the_next_request() {
    one(async |world| {
        let (mut client, mut upstream) = world.call(&format!("{UPGRADE}{GET}")).await;
        upstream.receive().await;
        upstream.send(OK).await;
        assert_eq!(client.receive().await.text(), "ok");
        assert_eq!(upstream.receive().await.header("upgrade"), None);
        upstream.send(OK).await;
        assert_eq!(client.receive().await.text(), "ok");
    });
}

#[test]
fn only_a_websocket_is_upgraded_to() {
    one(async |world| {
        let (_client, mut upstream) = world.call(&UPGRADE.replace("websocket", "h2c")).await;
        let asked = upstream.receive().await;
        assert_eq!((asked.header("upgrade"), asked.header("connection")), (None, None));
    });
}

#[test]
fn a_switched_connection_that_breaks_is_passed_on_as_a_break() {
    one(async |world| {
        let (mut client, mut upstream) = world.call(UPGRADE).await;
        upstream.receive().await;
        upstream.send(SWITCHED).await;
        client.receive().await;
        upstream.socket.reset();
        assert_eq!(client.rest().await, Err(Cut::Reset));
    });
}

// === 7: replay ===

/// The first request leaves a connection in the pool; the origin drops it as the second arrives on it.
async fn stale(world: &World, second: &str) -> (End, Origin) {
    let mut origin = world.origin(ORIGIN);
    let mut client = world.connect();
    client.send(GET).await;
    let mut upstream = origin.accept().await;
    upstream.receive().await;
    upstream.send(OK).await;
    client.receive().await;
    client.send(second).await;
    upstream.receive().await;
    drop(upstream);
    (client, origin)
}

#[test]
fn a_stale_connection_costs_an_idempotent_request_nothing() {
    for method in ["GET", "HEAD", "PUT", "DELETE", "OPTIONS"] {
        one(async |world| {
            let request = format!("{method} / HTTP/1.1\r\nHost: a\r\n\r\n");
            let (mut client, mut origin) = stale(world, &request).await;
            let mut upstream = origin.accept().await;
            assert!(upstream.receive().await.head.starts_with(method));
            upstream.send("HTTP/1.1 204 No Content\r\n\r\n").await;
            assert_eq!(client.try_receive(true).await.expect("answered").status(), Some(204));
        });
    }
}

#[test]
fn a_request_that_may_have_had_an_effect_is_not_sent_again() {
    let with_body = |method| format!("{method} / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody");
    let without = "POST / HTTP/1.1\r\nHost: a\r\n\r\n".to_owned();
    for request in [with_body("POST"), with_body("PUT"), without] {
        one(async |world| {
            let (mut client, origin) = stale(world, &request).await;
            assert_eq!(client.receive().await.status(), Some(503), "{request}");
            assert!(!origin.is_called().await);
        });
    }
}

#[test]
fn a_request_is_sent_again_once() {
    one(async |world| {
        let (mut client, mut origin) = stale(world, GET).await;
        origin.accept().await.receive().await;
        assert_eq!(client.receive().await.status(), Some(503));
        assert!(!origin.is_called().await);
    });
}

#[test]
fn a_connection_that_ended_in_the_pool_is_not_used() {
    one(async |world| {
        let mut origin = world.origin(ORIGIN);
        let mut client = world.connect();
        client.send(GET).await;
        let mut upstream = origin.accept().await;
        upstream.receive().await;
        upstream.send(OK).await;
        client.receive().await;
        drop(upstream);
        client.send(format!("{POST}0123456789")).await;
        let mut upstream = origin.accept().await;
        assert_eq!(upstream.receive().await.text(), "0123456789");
    });
}

#[test]
fn a_request_that_could_not_be_sent_goes_to_another_endpoint() {
    play(web(&[ORIGIN, SECOND]), async |world| {
        let mut second = world.origin(SECOND);
        for _ in 0..2 {
            let mut client = world.connect();
            client.send(format!("{POST}0123456789")).await;
            assert_eq!(second.accept().await.receive().await.text(), "0123456789");
        }
    });
}

// === 9: drain ===

#[test]
fn draining_ends_what_is_idle_and_finishes_what_is_not() {
    one(async |world| {
        let mut idle = world.connect();
        let (mut client, mut upstream) = world.call(GET).await;
        upstream.receive().await;
        world.order(Phase::Draining).await;
        assert_eq!(idle.rest().await, Ok(vec![]));
        upstream.send(OK).await;
        let answer = client.receive().await;
        assert_eq!((answer.text(), answer.header("connection")), ("ok", Some("close")));
        assert_eq!(client.rest().await, Ok(vec![]));
    });
}

#[test]
fn a_change_of_config_disturbs_no_exchange() {
    one(async |world| {
        let (mut client, mut upstream) = world.call(POST).await;
        world.apply(vec![listener(http(Some(Duration::from_secs(1))), None)]).await;
        client.send("0123456789").await;
        upstream.receive().await;
        upstream.send(OK).await;
        assert_eq!(client.receive().await.text(), "ok");
        client.send(GET).await;
        upstream.receive().await;
        assert_eq!(client.receive().await.status(), Some(504), "the next one follows the new config");
    });
}

// === 10: drop ===

#[test]
fn an_exchange_that_is_dropped_is_recorded_and_leaves_nothing_open() {
    one(async |world| {
        let (mut client, mut upstream) = begun(world).await;
        world.kill();
        settle().await;
        assert_eq!(world.requests(), 1);
        assert!(upstream.is_over().await);
        assert!(client.is_over().await);
    });
}
