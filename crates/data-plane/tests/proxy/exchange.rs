//! The whole of an exchange: tunnels, expectations, half-closed connections, what an origin must not say, who is too
//! slow, and what is told of a trace.

use std::time::Duration;

use meshwork_model::proxy::{
    Direction, HttpConnection, NetworkFilter, PathMatch, Resource, Route, RouteSource,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::harness::*;

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";

/// A proxy before an origin that the test plays.
async fn staged(adjust: impl FnOnce(&mut HttpConnection, &mut Vec<Route>)) -> (Sut, Stage) {
    let stage = Stage::open().await;
    let mut routes = vec![route("/", &[("a", 1)])];
    let mut http = http_connection(RouteSource::Named("later".into()), vec![]);
    adjust(&mut http, &mut routes);
    http.routes = RouteSource::Inline(table("inline", routes).into());
    let web = listener("web", Direction::Unspecified, chain(NetworkFilter::Http(http.into()), None));
    (Sut::start(vec![Resource::Cluster(cluster("a", &[stage.address()])), web]), stage)
}

async fn plain() -> (Sut, Stage) {
    staged(|_, _| {}).await
}

fn carry_connect(http: &mut HttpConnection, routes: &mut Vec<Route>) {
    http.upgrades.push("connect".into());
    let mut tunnel = route("/", &[("a", 1)]);
    tunnel.matches.path = PathMatch::Connect;
    routes.push(tunnel);
}

// === tunnels ===

#[tokio::test]
async fn connect_makes_a_tunnel_and_what_was_sent_ahead_waits_for_it() {
    let (sut, stage) = staged(carry_connect).await;
    let mut client = sut.client().await;
    client.send("CONNECT db.example:5432 HTTP/1.1\r\nHost: db.example:5432\r\n\r\nahead").await;
    let mut origin = stage.accept().await;
    let asked = origin.receive().await;
    assert_eq!(asked.head.lines().next(), Some("CONNECT db.example:5432 HTTP/1.1"));
    assert_eq!(asked.header("host"), Some("db.example:5432"));
    assert_eq!(origin.left, b"");
    let early = tokio::time::timeout(Duration::from_millis(50), origin.stream.read_u8()).await;
    assert!(early.is_err(), "nothing is tunnelled before the answer");
    origin.send("HTTP/1.1 200 Connection Established\r\n\r\nfirst").await;
    // As to HEAD: what follows is no body.
    let answer = client.receive_head().await;
    assert_eq!((answer.status(), answer.header("content-length")), (200, None));
    client.send(" and later").await;
    client.stream.shutdown().await.expect("ends");
    assert_eq!(origin.rest().await.expect("half-closed"), b"ahead and later");
    origin.send(", last").await;
    drop(origin);
    assert_eq!(client.rest().await.expect("ends"), b"first, last");
}

#[tokio::test]
async fn what_follows_a_connect_that_is_refused_is_no_request() {
    let (sut, stage) = staged(carry_connect).await;
    let mut client = sut.client().await;
    client.send("CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let mut origin = stage.accept().await;
    origin.receive().await;
    origin.send("HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno").await;
    let got = client.receive().await;
    assert_eq!((got.status(), got.body.as_str(), got.header("connection")), (403, "no", Some("close")));
    assert_eq!(client.rest().await.unwrap_or_default(), b"");
    let more = tokio::time::timeout(Duration::from_millis(50), origin.stream.read_u8()).await;
    assert!(!matches!(more, Ok(Ok(_))), "{more:?}");
}

#[tokio::test]
async fn connect_needs_a_route_of_its_own() {
    let (sut, _stage) = staged(|http, _| http.upgrades.push("connect".into())).await;
    let got = sut.client().await.call("CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n").await;
    assert_eq!((got.status(), got.header("connection")), (404, Some("close")));
}

// === one side ends early ===

#[tokio::test]
async fn a_client_that_has_said_all_is_answered() {
    let (sut, stage) = plain().await;
    let mut client = sut.client().await;
    client.send(GET).await;
    client.stream.shutdown().await.expect("ends");
    let mut origin = stage.accept().await;
    origin.receive().await;
    origin.send(OK).await;
    assert_eq!(client.receive().await.body, "ok");
    assert_eq!(client.rest().await.expect("ends"), b"");
}

#[tokio::test]
async fn a_client_that_left_lets_the_origin_go() {
    let (sut, stage) = plain().await;
    let mut client = sut.client().await;
    client.send(GET).await;
    let mut origin = stage.accept().await;
    origin.receive().await;
    drop(client);
    assert_eq!(origin.rest().await.unwrap_or_default(), b"");
}

#[tokio::test]
async fn a_body_that_was_not_called_for_is_not_waited_for() {
    let (sut, stage) = plain().await;
    let mut client = sut.client().await;
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n").await;
    let mut origin = stage.accept().await;
    let mut head = vec![0; 512];
    assert!(origin.stream.read(&mut head).await.expect("a head") > 0);
    origin.send("HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno").await;
    let got = client.receive().await;
    assert_eq!((got.status(), got.body.as_str(), got.header("connection")), (403, "no", Some("close")));
    assert_eq!(origin.rest().await.unwrap_or_default(), b"", "the origin's connection is let go");
}

// === origins that say too much ===

#[tokio::test]
async fn a_second_answer_reaches_nobody() {
    let (sut, stage) = plain().await;
    let mut client = sut.client().await;
    client.send(GET).await;
    let mut origin = stage.accept().await;
    origin.receive().await;
    origin
        .send(
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil",
        )
        .await;
    assert_eq!(client.receive().await.body, "ok");
    client.send(GET).await;
    let mut second = stage.accept().await;
    second.receive().await;
    second.send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\nConnection: close\r\n\r\ngood").await;
    assert_eq!(client.receive().await.body, "good");
    client.send(GET).await;
    let mut third = stage.accept().await;
    third.receive().await;
    third.send(OK).await;
    assert_eq!(client.receive().await.body, "ok", "a connection that is to close is not used again");
}

#[tokio::test]
async fn endless_interim_responses_end() {
    let (sut, stage) = plain().await;
    let mut client = sut.client().await;
    client.send(GET).await;
    let mut origin = stage.accept().await;
    origin.receive().await;
    for _ in 0..100 {
        if origin.stream.write_all(b"HTTP/1.1 103 Early Hints\r\n\r\n").await.is_err() {
            break;
        }
    }
    let mut interim = 0;
    let got = loop {
        let got = client.receive().await;
        if got.status() != 103 {
            break got;
        }
        interim += 1;
    };
    assert_eq!((got.status(), interim), (502, 16));
}

// === many and slow ===

#[tokio::test]
async fn more_requests_than_are_kept_are_all_answered_in_order() {
    const REQUESTS: usize = 3000;
    let mut origin = Origin::answering(OK).await;
    let sut = Sut::start(vec![
        Resource::Cluster(cluster("a", &[origin.address])),
        web(vec![route("/", &[("a", 1)])]),
    ]);
    let client = sut.client().await;
    let (mut read, mut write) = client.stream.into_split();
    let asking = async {
        for number in 0..REQUESTS {
            let request =
                format!("GET /{number} HTTP/1.1\r\nHost: a.example\r\nX-Padding: 0123456789\r\n\r\n");
            write.write_all(request.as_bytes()).await.expect("sent");
        }
    };
    let answered = async {
        let mut left = Vec::new();
        for number in 0..REQUESTS {
            let got = soon(read_message(&mut read, &mut left, false)).await;
            assert!(got.is_some_and(|got| got.body == "ok"), "answer {number}");
        }
    };
    tokio::join!(asking, answered);
    for number in 0..REQUESTS {
        assert!(origin.next().await.head.starts_with(&format!("GET /{number} ")), "request {number}");
    }
}

#[tokio::test]
async fn a_body_that_does_not_come_is_not_waited_for_for_long() {
    let (sut, stage) = staged(|http, _| http.stream_idle_timeout = Some(SOON / 20)).await;
    let mut client = sut.client().await;
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbo").await;
    let mut origin = stage.accept().await;
    let got = client.receive().await;
    assert_eq!((got.status(), got.header("x-meshwork-reason")), (408, Some("MW0311")));
    assert_eq!(got.header("connection"), Some("close"));
    assert!(origin.rest().await.unwrap_or_default().ends_with(b"\r\n\r\nbo"));
}

#[tokio::test]
async fn an_origin_that_says_nothing_is_not_waited_for_for_ever() {
    let (sut, stage) = staged(|http, routes| {
        http.stream_idle_timeout = Some(SOON / 20);
        routes[0] = with_timeout(routes[0].clone(), Duration::from_hours(1));
    })
    .await;
    let got = sut.client().await.call(GET).await;
    assert_eq!((got.status(), got.header("x-meshwork-reason")), (504, Some("MW0311")));
    let mut origin = stage.accept().await;
    origin.rest().await.expect("let go");
}

#[tokio::test]
async fn a_client_that_does_not_read_is_cut_off() {
    let (sut, stage) = staged(|http, _| http.stream_idle_timeout = Some(SOON / 20)).await;
    let mut client = sut.client().await;
    client.send(GET).await;
    let mut origin = stage.accept().await;
    origin.receive().await;
    origin.send("HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n").await;
    let filling = async {
        let piece = vec![b'x'; 64 * 1024];
        while origin.stream.write_all(&piece).await.is_ok() {}
    };
    soon(filling).await;
    let got = client.rest().await;
    assert!(got.is_err(), "a reset says that it is not complete");
}

// === fields ===

#[tokio::test]
async fn an_http_1_0_client_is_answered_in_its_own_way() {
    let (sut, stage) = plain().await;
    let mut client = sut.client().await;
    client.send("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n").await;
    let mut origin = stage.accept().await;
    assert_eq!(origin.receive().await.header("host"), Some("old"));
    origin.send("HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nx: 1\r\n\r\n").await;
    let got = client.rest().await.expect("ends");
    let got = String::from_utf8(got).expect("text");
    assert!(got.starts_with("HTTP/1.1 200 OK\r\n") && got.ends_with("\r\n\r\nok"), "{got}");
    assert!(!got.to_lowercase().contains("transfer-encoding"), "{got}");
}

#[tokio::test]
async fn trailers_say_nothing_that_the_proxy_answers_for() {
    let (sut, stage) = plain().await;
    let mut client = sut.client().await;
    client.send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX-Forwarded-Client-Cert: me\r\nAuthorization: me\r\nX-Sum: 1\r\n\r\n").await;
    let mut origin = stage.accept().await;
    assert_eq!(origin.receive().await.trailers, "x-sum: 1\r\n");
    origin
        .send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nSet-Cookie: a=b\r\nX-Sum: 2\r\n\r\n")
        .await;
    assert_eq!(client.receive().await.trailers, "x-sum: 2\r\n");
}

#[tokio::test]
async fn what_is_said_of_a_trace_passes_unchanged() {
    let (sut, stage) = staged(|http, _| http.tracing = true).await;
    let mut client = sut.client().await;
    let mut origin = None;
    for fields in [
        &[
            ("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
            ("tracestate", "congo=t61rcWkgMzE"),
            ("baggage", "userId=alice,serverNode=DF%2028"),
        ][..],
        &[("b3", "80f198ee56343ba864fe8b2a57d3eff7-e457b5a2e4d86bd1-1-05e3ac9a4f6e3b90")],
        &[("x-b3-traceid", "80f198ee56343ba8"), ("x-b3-spanid", "e457b5a2e4d86bd1"), ("x-b3-sampled", "1")],
        &[],
    ] {
        let lines: Vec<_> = fields.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let lines = lines.concat();
        client.send(&format!("GET / HTTP/1.1\r\nHost: a\r\n{lines}\r\n")).await;
        if origin.is_none() {
            origin = Some(stage.accept().await);
        }
        let origin = origin.as_mut().expect("connected");
        let asked = origin.receive().await;
        for (name, value) in fields {
            assert_eq!(asked.header(name), Some(*value), "{name}");
        }
        let begun = asked.header("traceparent").is_some_and(|parent| parent.ends_with("-00"));
        assert_eq!(begun, fields.is_empty(), "{}", asked.head);
        origin.send(OK).await;
        client.receive().await;
    }
}
