//! What filters do to an exchange.

use std::sync::Arc;
use std::time::Duration;

use meshwork_model::fraction::Fraction;
use meshwork_model::proxy::{
    AbortBy, DelayBy, Fault, FaultAbort, FaultDelay, HeaderMatch, HeaderTest, HealthCheckFilter, HttpFilter,
    HttpFilterKind, LocalRateLimit, NetworkFilter, Resource, StringMatch, TokenBucket,
};

use super::{GET, OK, POST};
use crate::testing::config::{ORIGIN, cluster, http_connection, listener};
use crate::testing::{World, play, settle, timed};

fn with(kind: HttpFilterKind, script: impl AsyncFnOnce(&World)) {
    let mut http = http_connection(None);
    http.filters = vec![HttpFilter::new("filter", kind)];
    let listener = listener(NetworkFilter::Http(Arc::new(http)), None);
    play(vec![Resource::Cluster(cluster(&[ORIGIN])), listener], script);
}

fn fault(delay: Option<u64>, abort: Option<u16>) -> HttpFilterKind {
    let share = Fraction::ALL;
    let delay = delay.map(Duration::from_millis).map(|wait| FaultDelay { by: DelayBy::Fixed(wait), share });
    let abort = abort.map(|status| FaultAbort { by: AbortBy::Http(status), share, body: None });
    HttpFilterKind::Fault(Arc::new(Fault { delay, abort, max_active: Some(1), ..Fault::default() }))
}

#[test]
fn a_request_waits_and_goes_on() {
    with(fault(Some(1500), None), async |world| {
        let mut origin = world.origin(ORIGIN);
        let mut client = world.connect();
        client.send(GET).await;
        let (mut upstream, after) = timed(origin.accept()).await;
        assert!(after >= Duration::from_millis(1500), "{after:?}");
        upstream.receive().await;
        upstream.send(OK).await;
        assert_eq!(client.receive().await.status(), Some(200));
    });
}

#[test]
fn a_client_that_leaves_is_not_waited_for() {
    with(fault(Some(3_600_000), None), async |world| {
        let mut client = world.connect();
        client.send(GET).await;
        settle().await;
        drop(client);
        let (_, after) = timed(world.ended()).await;
        assert!(after < Duration::from_hours(1), "{after:?}");
    });
}

#[test]
fn a_request_is_failed_on_purpose_but_not_more_than_so_many() {
    with(fault(Some(1000), Some(418)), async |world| {
        let (mut client, mut other) = (world.connect(), world.connect());
        let mut origin = world.origin(ORIGIN);
        client.send(GET).await;
        settle().await;
        other.send(GET).await;
        let mut upstream = origin.accept().await;
        upstream.receive().await;
        upstream.send(OK).await;
        assert_eq!(other.receive().await.status(), Some(200));
        assert_eq!(client.receive().await.status(), Some(418));
        // Its end is another's beginning.
        client.send(GET).await;
        assert_eq!(client.receive().await.status(), Some(418));
    });
}

#[test]
fn a_limit_refuses_and_says_how_many_tokens_are_left() {
    let limit = LocalRateLimit {
        status: 429,
        bucket: Some(TokenBucket { most: 1, per_second: 0.1 }),
        descriptors: vec![],
        enabled: Fraction::ALL,
        enforced: Fraction::ALL,
        per_connection: false,
        always_consume_default: true,
        tells: true,
        resource_exhausted: false,
    };
    with(HttpFilterKind::LocalRateLimit(Arc::new(limit)), async |world| {
        let (mut client, mut upstream) = world.call(GET).await;
        upstream.receive().await;
        upstream.send(OK).await;
        let answer = client.receive().await;
        assert_eq!((answer.status(), answer.header("x-ratelimit-remaining")), (Some(200), Some("0")));
        client.send(GET).await;
        let answer = client.receive().await;
        assert_eq!((answer.status(), answer.header("x-ratelimit-limit")), (Some(429), Some("1")));
        tokio::time::sleep(Duration::from_secs(11)).await;
        client.send(GET).await;
        upstream.receive().await;
    });
}

#[test]
fn a_body_is_forwarded_once_it_is_whole() {
    with(HttpFilterKind::Buffer(10), async |world| {
        let mut origin = world.origin(ORIGIN);
        let mut client = world.connect();
        client.send(&format!("{POST}01234")).await;
        settle().await;
        client.send("56789").await;
        let mut upstream = origin.accept().await;
        assert_eq!(upstream.receive().await.text(), "0123456789");
        upstream.send(OK).await;
        assert_eq!(client.receive().await.status(), Some(200));
        client.send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n").await;
        client.send("3\r\nabc\r\n").await;
        settle().await;
        client.send("0\r\n\r\n").await;
        let request = upstream.receive().await;
        assert_eq!((request.header("content-length"), request.text()), (Some("3"), "abc"));
        upstream.send(OK).await;
        assert_eq!(client.receive().await.status(), Some(200));
        client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 11\r\n\r\n01234567890").await;
        assert_eq!(client.receive().await.status(), Some(413));
    });
}

#[test]
fn the_proxy_says_whether_it_is_healthy() {
    let asks = HeaderMatch {
        name: ":path".into(),
        test: HeaderTest::Value(StringMatch::Exact("/healthy".into())),
        invert: false,
    };
    let filter = |least: f64| HealthCheckFilter {
        pass_through: false,
        cache: None,
        headers: vec![asks.clone()],
        least_healthy: vec![("a".into(), least)],
    };
    with(HttpFilterKind::HealthCheck(Arc::new(filter(50.0))), async |world| {
        let mut client = world.connect();
        client.send("GET /healthy HTTP/1.1\r\nHost: a\r\n\r\n").await;
        let answer = client.receive().await;
        assert_eq!((answer.status(), answer.text()), (Some(200), ""));
    });
}
