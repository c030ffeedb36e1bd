//! Requests that are tried again, and the time that each try has.

use std::sync::Arc;
use std::time::Duration;

use meshwork_model::cidr::Cidr;
use meshwork_model::proxy::{
    AvoidedHosts, BackOff, NetworkFilter, RateLimitedBackOff, ResetFormat, ResetHeader, Resilience, Resource,
    RetryOn, RetryPolicy, Router, StreamDuration,
};
use tokio::time::sleep;

use super::{GET, OK, POST};
use crate::testing::config::{ORIGIN, ROUTE_TIMEOUT, SECOND, cluster, http_connection_with, listener};
use crate::testing::{Cut, End, Origin, World, play, settle, timed};

const UNAVAILABLE: &str = "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 2\r\n\r\nno";
const SECOND_LONG: Duration = Duration::from_secs(1);

fn policy(on: RetryOn, retries: u32) -> RetryPolicy {
    RetryPolicy { retries, back_off: BackOff::of(Duration::from_millis(1)), ..RetryPolicy::on(on) }
}

/// Plays a script with one endpoint and a route that is so resilient; what the router adds is seen.
fn with(resilience: Resilience, script: impl AsyncFnOnce(&World)) {
    let router = Router { is_silent: false, ..Router::default() };
    let mut http = http_connection_with(Some(ROUTE_TIMEOUT), resilience);
    http.router = router;
    // Clients whose word counts.
    http.clients.internal = vec![Cidr::new([0, 0, 0, 0].into(), 0)];
    http.clients.is_edge = true;
    let filter = NetworkFilter::Http(Arc::new(http));
    play(vec![Resource::Cluster(cluster(&[ORIGIN])), listener(filter, None)], script);
}

fn retrying(policy: RetryPolicy, script: impl AsyncFnOnce(&World)) {
    with(Resilience { retry: Some(Arc::new(policy)), ..Resilience::default() }, script);
}

/// A client, and an origin that has answered so to its request `request`.
async fn answered(world: &World, request: &str, answer: &str) -> (End, Origin) {
    let mut origin = world.origin(ORIGIN);
    let mut client = world.connect();
    client.send(request).await;
    let mut upstream = origin.accept().await;
    upstream.receive().await;
    upstream.send(answer).await;
    (client, origin)
}

#[test]
fn a_response_that_is_asked_for_again_is_never_seen() {
    retrying(policy(RetryOn::ANY_5XX, 1), async |world| {
        let (mut client, mut origin) = answered(world, GET, UNAVAILABLE).await;
        let mut upstream = origin.accept().await;
        upstream.receive().await;
        upstream.send(OK).await;
        let answer = client.receive().await;
        assert_eq!((answer.status(), answer.text()), (Some(200), "ok"));
        assert_eq!(world.requests(), 1);
    });
}

#[test]
fn the_last_response_is_passed_on_when_tries_are_used_up() {
    retrying(policy(RetryOn::ANY_5XX, 1), async |world| {
        let (mut client, mut origin) = answered(world, GET, UNAVAILABLE).await;
        let mut upstream = origin.accept().await;
        upstream.receive().await;
        upstream.send(UNAVAILABLE).await;
        let answer = client.receive().await;
        assert_eq!((answer.status(), answer.text()), (Some(503), "no"));
        assert!(!origin.is_called().await);
    });
}

#[test]
fn what_is_not_asked_for_is_not_tried_again() {
    retrying(policy(RetryOn::CONNECT_FAILURE, 3), async |world| {
        let (mut client, origin) = answered(world, GET, UNAVAILABLE).await;
        assert_eq!(client.receive().await.status(), Some(503));
        assert!(!origin.is_called().await);
    });
}

#[test]
fn a_request_may_ask_for_tries_itself_and_that_is_not_passed_on() {
    with(Resilience::default(), async |world| {
        let mut origin = world.origin(ORIGIN);
        let mut client = world.connect();
        client
            .send("GET / HTTP/1.1\r\nHost: a\r\nx-envoy-retry-on: 5xx\r\nx-envoy-max-retries: 2\r\n\r\n")
            .await;
        for answer in [UNAVAILABLE, UNAVAILABLE, OK] {
            let mut upstream = origin.accept().await;
            let asked = upstream.receive().await;
            assert_eq!((asked.header("x-envoy-retry-on"), asked.header("x-envoy-max-retries")), (None, None));
            upstream.send(answer).await;
        }
        assert_eq!(client.receive().await.status(), Some(200));
    });
}

#[test]
fn a_body_is_sent_again_whole() {
    retrying(policy(RetryOn::ANY_5XX | RetryOn::RESET, 2), async |world| {
        let mut origin = world.origin(ORIGIN);
        let mut client = world.connect();
        client.send(format!("{POST}01234")).await;
        // The first one goes in the middle of the request, the second one answers badly, the third one well.
        let mut first = origin.accept().await;
        first.receive_head_and(5).await;
        drop(first);
        let mut second = origin.accept().await;
        second.receive_head_and(5).await;
        client.send("56789").await;
        settle().await;
        second.send(UNAVAILABLE).await;
        let mut third = origin.accept().await;
        assert_eq!(third.receive().await.text(), "0123456789");
        third.send(OK).await;
        assert_eq!(client.receive().await.status(), Some(200));
    });
}

#[test]
fn a_body_that_is_too_large_is_not_sent_again() {
    let retry = Some(Arc::new(policy(RetryOn::ANY_5XX, 2)));
    with(Resilience { retry, replay_bytes: Some(9), ..Resilience::default() }, async |world| {
        let (mut client, origin) = answered(world, &format!("{POST}0123456789"), UNAVAILABLE).await;
        assert_eq!(client.receive().await.status(), Some(503));
        assert!(!origin.is_called().await);
    });
}

#[test]
fn nothing_is_tried_again_once_the_client_has_seen_something() {
    retrying(policy(RetryOn::ANY_5XX | RetryOn::RESET, 2), async |world| {
        let (mut client, origin) =
            answered(world, GET, "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n")
                .await;
        assert_eq!(client.receive().await.status(), Some(100));
        assert_eq!(client.receive().await.status(), Some(503));
        assert!(!origin.is_called().await);
    });
    retrying(policy(RetryOn::RESET, 2), async |world| {
        let (mut client, origin) =
            answered(world, GET, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nbe").await;
        assert!(matches!(client.try_receive(false).await, Err(Cut::Short | Cut::Reset)));
        assert!(!origin.is_called().await);
    });
}

#[test]
fn another_endpoint_is_tried_where_the_policy_says_so() {
    let avoid = AvoidedHosts { previous: true, ..AvoidedHosts::default() };
    let retry = RetryPolicy { avoid, host_attempts: 5, ..policy(RetryOn::ANY_5XX, 1) };
    let resilience = Resilience { retry: Some(Arc::new(retry)), ..Resilience::default() };
    let filter = NetworkFilter::Http(Arc::new(http_connection_with(Some(ROUTE_TIMEOUT), resilience)));
    play(vec![Resource::Cluster(cluster(&[ORIGIN, SECOND])), listener(filter, None)], async |world| {
        let (mut first, mut second) = (world.origin(ORIGIN), world.origin(SECOND));
        for _ in 0..4 {
            let mut client = world.connect();
            client.send(GET).await;
            let mut called = Vec::new();
            for _ in 0..2 {
                let (name, mut upstream) = tokio::select! {
                    upstream = first.accept() => (1, upstream),
                    upstream = second.accept() => (2, upstream),
                };
                upstream.receive().await;
                upstream.send(UNAVAILABLE).await;
                called.push(name);
            }
            called.sort_unstable();
            assert_eq!(called, [1, 2]);
            assert_eq!(client.receive().await.status(), Some(503));
        }
    });
}

#[test]
fn a_try_that_is_too_slow_is_repeated_and_the_route_has_the_last_word() {
    let retry = RetryPolicy { per_try_timeout: Some(SECOND_LONG), ..policy(RetryOn::GATEWAY_ERROR, 1) };
    retrying(retry, async |world| {
        let mut origin = world.origin(ORIGIN);
        let mut client = world.connect();
        client.send(GET).await;
        let (_first, (second, took)) = (origin.accept().await, timed(origin.accept()).await);
        assert!(took >= SECOND_LONG && took < SECOND_LONG * 2, "{took:?}");
        let (answer, took) = timed(client.receive()).await;
        assert_eq!(answer.status(), Some(504));
        assert!(took + Duration::from_millis(5) >= SECOND_LONG && took < SECOND_LONG * 2, "{took:?}");
        drop(second);
    });
}

#[test]
fn a_response_that_has_begun_is_no_longer_too_slow_for_one_try() {
    let retry = RetryPolicy { per_try_timeout: Some(SECOND_LONG), ..policy(RetryOn::ANY_5XX, 1) };
    retrying(retry, async |world| {
        let (mut client, mut upstream) = world.call(GET).await;
        upstream.receive().await;
        upstream.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n").await;
        let (answer, took) = timed(client.try_receive(false)).await;
        assert!(answer.is_err());
        assert!(took + Duration::from_millis(5) >= ROUTE_TIMEOUT, "{took:?}");
    });
}

#[test]
fn a_try_of_which_nothing_comes_for_too_long_is_repeated() {
    let retry = RetryPolicy { per_try_idle_timeout: Some(SECOND_LONG), ..policy(RetryOn::ANY_5XX, 1) };
    retrying(retry, async |world| {
        let mut origin = world.origin(ORIGIN);
        let mut client = world.connect();
        client.send(GET).await;
        let _first = origin.accept().await;
        let (mut second, took) = timed(origin.accept()).await;
        assert!(took >= SECOND_LONG && took < SECOND_LONG * 2, "{took:?}");
        second.receive().await;
        second.send("HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\n").await;
        for _ in 0..3 {
            sleep(SECOND_LONG * 3 / 4).await;
            second.send("x").await;
        }
        let (answer, took) = timed(client.try_receive(false)).await;
        assert!(answer.is_err(), "broken off");
        assert!(took < SECOND_LONG * 2, "{took:?}");
    });
}

#[test]
fn the_endpoint_is_told_which_try_it_is_and_how_long_is_waited() {
    let retry = RetryPolicy { per_try_timeout: Some(SECOND_LONG), ..policy(RetryOn::ANY_5XX, 1) };
    let resilience = Resilience {
        retry: Some(Arc::new(retry)),
        tells_attempts_upstream: true,
        tells_attempts_downstream: true,
        tells_timeout_retries: true,
        ..Resilience::default()
    };
    with(resilience, async |world| {
        let mut origin = world.origin(ORIGIN);
        let mut client = world.connect();
        client.send(GET).await;
        let mut first = origin.accept().await;
        let asked = first.receive().await;
        assert_eq!(asked.header("x-envoy-attempt-count"), Some("1"));
        assert_eq!(asked.header("x-envoy-expected-rq-timeout-ms"), Some("1000"));
        assert_eq!(asked.header("x-envoy-is-timeout-retry"), None);
        let mut second = origin.accept().await;
        let asked = second.receive().await;
        assert_eq!(asked.header("x-envoy-attempt-count"), Some("2"));
        assert_eq!(asked.header("x-envoy-is-timeout-retry"), Some("true"));
        second.send(OK).await;
        let answer = client.receive().await;
        assert_eq!(answer.header("x-envoy-attempt-count"), Some("2"));
        assert!(answer.header("x-envoy-upstream-service-time").is_some());
    });
}

#[test]
fn a_response_may_say_when_to_come_back() {
    let headers = vec![ResetHeader { name: "retry-after".into(), format: ResetFormat::Seconds }];
    let limited = RateLimitedBackOff { headers, most: Duration::from_secs(9) };
    let retry = RetryPolicy { rate_limited: Some(limited), ..policy(RetryOn::ANY_5XX, 1) };
    retrying(retry, async |world| {
        let (_client, mut origin) =
            answered(world, GET, "HTTP/1.1 503 No\r\nRetry-After: 4\r\nContent-Length: 0\r\n\r\n").await;
        let (_, took) = timed(origin.accept()).await;
        assert!(took >= Duration::from_secs(4) && took <= Duration::from_secs(6), "{took:?}");
    });
}

#[test]
fn a_client_that_leaves_while_a_try_is_waited_for_ends_it() {
    let headers = vec![ResetHeader { name: "retry-after".into(), format: ResetFormat::Seconds }];
    let limited = RateLimitedBackOff { headers, most: Duration::from_secs(9) };
    let retry = RetryPolicy { rate_limited: Some(limited), ..policy(RetryOn::ANY_5XX, 1) };
    retrying(retry, async |world| {
        let (client, origin) =
            answered(world, GET, "HTTP/1.1 503 No\r\nRetry-After: 4\r\nContent-Length: 0\r\n\r\n").await;
        settle().await;
        drop(client);
        sleep(Duration::from_secs(10)).await;
        assert!(!origin.is_called().await);
    });
}

#[test]
fn a_request_may_shorten_its_own_time() {
    with(Resilience::default(), async |world| {
        let mut client = world.connect();
        let mut origin = world.origin(ORIGIN);
        client.send("GET / HTTP/1.1\r\nHost: a\r\nx-envoy-upstream-rq-timeout-ms: 200\r\n\r\n").await;
        let mut upstream = origin.accept().await;
        let asked = upstream.receive().await;
        assert_eq!(asked.header("x-envoy-upstream-rq-timeout-ms"), None);
        assert_eq!(asked.header("x-envoy-expected-rq-timeout-ms"), Some("200"));
        let (answer, took) = timed(client.receive()).await;
        assert_eq!(answer.status(), Some(504));
        assert!(took < Duration::from_millis(210), "{took:?}");
    });
}

#[test]
fn the_routes_time_counts_while_a_connection_is_opened() {
    with(Resilience::default(), async |world| {
        world.silence(ORIGIN);
        let mut client = world.connect();
        client.send("GET / HTTP/1.1\r\nHost: a\r\nx-envoy-upstream-rq-timeout-ms: 200\r\n\r\n").await;
        let (answer, took) = timed(client.receive()).await;
        assert_eq!(answer.status(), Some(504));
        assert!(took < Duration::from_millis(210), "{took:?}");
    });
}

#[test]
fn a_whole_exchange_may_be_limited() {
    let most = Some(SECOND_LONG);
    let stream_duration = Some(StreamDuration { most, ..StreamDuration::default() });
    with(Resilience { stream_duration, ..Resilience::default() }, async |world| {
        let (mut client, _upstream) = world.call(GET).await;
        let (answer, took) = timed(client.receive()).await;
        assert_eq!(answer.status(), Some(504));
        assert!(took + Duration::from_millis(5) >= SECOND_LONG && took < SECOND_LONG * 2, "{took:?}");
    });
    with(
        Resilience {
            stream_duration: Some(StreamDuration { most, ..StreamDuration::default() }),
            ..Resilience::default()
        },
        async |world| {
            let (mut client, _upstream) = world.call(&format!("{POST}half.")).await;
            assert_eq!(client.receive().await.status(), Some(408), "the request had not come");
        },
    );
}

#[test]
fn an_idle_time_out_of_the_route_is_exact() {
    with(Resilience { idle_timeout: Some(SECOND_LONG * 3), ..Resilience::default() }, async |world| {
        let (mut client, mut upstream) = world.call(GET).await;
        upstream.receive().await;
        sleep(SECOND_LONG * 2).await;
        upstream.send("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n").await;
        sleep(SECOND_LONG * 2).await;
        upstream.send("x").await;
        let (answer, took) = timed(client.try_receive(false)).await;
        assert!(answer.is_err());
        assert!(took >= SECOND_LONG * 2 && took < SECOND_LONG * 4, "{took:?}");
    });
    with(Resilience { idle_timeout: Some(SECOND_LONG * 3), ..Resilience::default() }, async |world| {
        let (mut client, _upstream) = world.call(GET).await;
        let (answer, took) = timed(client.receive()).await;
        assert_eq!(answer.status(), Some(504));
        assert!(took + Duration::from_millis(5) >= SECOND_LONG * 3 && took < SECOND_LONG * 4, "{took:?}");
    });
}
