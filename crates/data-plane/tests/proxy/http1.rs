//! HTTP/1.1 on both sides.

use meshwork_model::proxy::{DirectResponse, Resource, RouteAction};
use tokio::io::AsyncReadExt;

use crate::harness::*;

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\nserver: origin\r\n\r\nok";

async fn one_hop(answer: &'static str) -> (Sut, Origin) {
    let origin = Origin::answering(answer).await;
    let sut =
        Sut::start(vec![cluster("a", &[origin.address]).into_resource(), web(vec![route("/", &[("a", 1)])])]);
    (sut, origin)
}

async fn staged() -> (Sut, Stage) {
    let stage = Stage::open().await;
    let sut = Sut::start(vec![
        cluster("a", &[stage.address()]).into_resource(),
        web(vec![route("/", &[("a", 1)])]),
    ]);
    (sut, stage)
}

trait IntoResource {
    fn into_resource(self) -> Resource;
}

impl IntoResource for meshwork_model::proxy::Cluster {
    fn into_resource(self) -> Resource {
        Resource::Cluster(self)
    }
}

#[tokio::test]
async fn a_request_reaches_the_origin_and_its_answer_the_client() {
    let (sut, mut origin) = one_hop(OK).await;
    let mut client = sut.client().await;
    let got = client.call("GET /a//b/../c?d=e HTTP/1.1\r\nHost: shop.example\r\nX-Test: 1\r\nConnection: x-hop\r\nX-Hop: 1\r\n\r\n").await;
    assert_eq!((got.status(), got.body.as_str()), (200, "ok"));
    assert_eq!(got.header("server"), Some("origin"));
    let asked = origin.next().await;
    assert_eq!(asked.head.lines().next(), Some("GET /a/c?d=e HTTP/1.1"));
    assert_eq!(asked.header("host"), Some("shop.example"));
    assert_eq!(asked.header("x-test"), Some("1"));
    assert_eq!((asked.header("x-hop"), asked.header("connection")), (None, None));
}

#[tokio::test]
async fn connections_are_kept_on_both_sides() {
    let (sut, mut origin) = one_hop(OK).await;
    let mut client = sut.client().await;
    for _ in 0..3 {
        assert_eq!(client.call("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.status(), 200);
        origin.next().await;
    }
    let mut other = sut.client().await;
    assert_eq!(other.call("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await.status(), 200);
    assert_eq!(other.rest().await.expect("closes"), b"");
    assert_eq!(origin.connections(), 1);
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let (sut, mut origin) = one_hop(OK).await;
    let mut client = sut.client().await;
    client.send("GET /1 HTTP/1.1\r\nHost: a\r\n\r\nGET /2 HTTP/1.1\r\nHost: a\r\n\r\n").await;
    for path in ["/1", "/2"] {
        assert_eq!(client.receive().await.body, "ok");
        assert!(origin.next().await.head.contains(path));
    }
}

#[tokio::test]
async fn bodies_pass_with_a_length_and_in_chunks_with_trailers() {
    const CHUNKED: &str = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: x-sum\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\nx-sum: 5\r\n\r\n";
    let (sut, mut origin) = one_hop(CHUNKED).await;
    let mut client = sut.client().await;
    let got = client.call("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello").await;
    assert_eq!((got.body.as_str(), got.trailers.as_str()), ("abcde", "x-sum: 5\r\n"));
    assert_eq!(origin.next().await.body, "hello");
    client.call("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n6\r\n world\r\n0\r\nx-t: 1\r\n\r\n").await;
    let asked = origin.next().await;
    assert_eq!((asked.body.as_str(), asked.trailers.as_str()), ("hello world", "x-t: 1\r\n"));
}

#[tokio::test]
async fn large_bodies_pass_unchanged_both_ways() {
    let (sut, stage) = staged().await;
    let body: String =
        (0..400_000).map(|i: u32| char::from(b'a' + u8::try_from(i * 7 % 26).expect("small"))).collect();
    let mut client = sut.client().await;
    let head = format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", body.len());
    let answering = async {
        let mut origin = stage.accept().await;
        let asked = origin.receive().await;
        origin
            .send(&format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n", asked.body.len()))
            .await;
        origin.send(&asked.body).await;
        origin.send("\r\n0\r\n\r\n").await;
        asked.body
    };
    let calling = async {
        client.send(&head).await;
        client.call(&body).await.body
    };
    let (asked, answered) = tokio::join!(answering, calling);
    assert!(asked == body, "request");
    assert!(answered == body, "response");
}

#[tokio::test]
async fn head_and_bodyless_statuses_have_no_body() {
    let (sut, stage) = staged().await;
    let mut client = sut.client().await;
    client.send("HEAD / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let mut origin = stage.accept().await;
    origin.receive().await;
    origin.send("HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n").await;
    assert_eq!(client.receive_head().await.header("content-length"), Some("1000"));
    for answer in
        ["HTTP/1.1 204 No Content\r\n\r\n", "HTTP/1.1 304 Not Modified\r\nContent-Length: 7\r\n\r\n"]
    {
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        origin.receive().await;
        origin.send(answer).await;
        assert_eq!(client.receive().await.body, "");
    }
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    origin.receive().await;
    origin.send(OK).await;
    assert_eq!(client.receive().await.body, "ok");
}

#[tokio::test]
async fn a_body_until_close_becomes_chunks_and_the_connection_stays() {
    let (sut, stage) = staged().await;
    let mut client = sut.client().await;
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let mut origin = stage.accept().await;
    origin.receive().await;
    origin.send("HTTP/1.1 200 OK\r\n\r\nall of it").await;
    drop(origin);
    let got = client.receive().await;
    assert_eq!((got.header("transfer-encoding"), got.body.as_str()), (Some("chunked"), "all of it"));
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    stage.accept().await.send(OK).await;
    assert_eq!(client.receive().await.body, "ok");
}

#[tokio::test]
async fn an_http_1_0_client_gets_bodies_until_close() {
    const CHUNKED: &str = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n";
    let (sut, mut origin) = one_hop(CHUNKED).await;
    let mut client = sut.client().await;
    let got = client.call("GET / HTTP/1.0\r\nHost: a\r\n\r\n").await;
    assert_eq!((got.header("transfer-encoding"), got.body.as_str()), (None, "abc"));
    assert!(origin.next().await.head.starts_with("GET / HTTP/1.1\r\n"));
}

#[tokio::test]
async fn ambiguous_messages_are_refused_and_nothing_reaches_the_origin() {
    let (sut, mut origin) = one_hop(OK).await;
    for (request, status) in [
        ("GET / HTTP/1.1\nHost: a\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a\r\n folded\r\n\r\n", 400),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            400,
        ),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +3\r\n\r\nabc", 400),
        ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501),
        ("GET /a%2fb HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        ("CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n", 404),
    ] {
        let mut client = sut.client().await;
        let got = client.call(request).await;
        assert_eq!(got.status(), status, "{request:?}: {got:?}");
        assert!(got.body.starts_with("MW0"), "{got:?}");
        assert!(got.header("x-meshwork-reason").is_some_and(|code| got.body.starts_with(code)), "{got:?}");
    }
    let mut many = String::from("GET / HTTP/1.1\r\nHost: a\r\n");
    many += &"x-many: 1\r\n".repeat(200);
    assert_eq!(sut.client().await.call(&(many + "\r\n")).await.status(), 431);
    assert_eq!(sut.client().await.call("GET /last HTTP/1.1\r\nHost: a\r\n\r\n").await.status(), 200);
    assert!(origin.next().await.head.starts_with("GET /last "), "nothing came before");
}

#[tokio::test]
async fn a_bad_chunk_is_not_taken_for_the_end() {
    let (sut, stage) = staged().await;
    let mut client = sut.client().await;
    client.send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nzz\r\n").await;
    let mut origin = stage.accept().await;
    assert_eq!(client.receive().await.status(), 400);
    let got = String::from_utf8(origin.rest().await.unwrap_or_default()).expect("text");
    assert!(!got.ends_with("0\r\n\r\n"), "{got}");
}

#[tokio::test]
async fn what_no_route_takes_is_answered_with_a_reason() {
    let (sut, _origin) = one_hop(OK).await;
    sut.apply(vec![web(vec![route("/only", &[("gone", 1)])])]);
    let mut client = sut.client().await;
    let got = client.call("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert_eq!((got.status(), got.header("x-meshwork-reason")), (404, Some("MW0201")));
    let got = client.call("GET /only HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert_eq!((got.status(), got.header("x-meshwork-reason")), (503, Some("MW0202")));
    let got = client
        .call("POST / HTTP/1.1\r\nHost: a\r\ncontent-length: 0\r\ncontent-type: application/grpc\r\n\r\n")
        .await;
    assert_eq!((got.status(), got.header("grpc-status")), (200, Some("12")));
}

#[tokio::test]
async fn a_direct_response_needs_no_origin() {
    let mut answer = route("/", &[]);
    answer.action = RouteAction::Direct(DirectResponse { status: 418, body: "teapot".into() });
    let sut = Sut::start(vec![web(vec![answer])]);
    let mut client = sut.client().await;
    let got = client.call("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert_eq!((got.status(), got.body.as_str()), (418, "teapot"));
    client.send("HEAD / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert_eq!(client.receive_head().await.header("content-length"), Some("6"));
    assert_eq!(client.call("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.status(), 418);
}

#[tokio::test]
async fn an_endpoint_that_refuses_is_passed_over() {
    let origin = Origin::answering(OK).await;
    let dead = closed_port().await;
    let sut = Sut::start(vec![
        cluster("a", &[dead, origin.address]).into_resource(),
        cluster("dead", &[dead]).into_resource(),
        cluster("empty", &[]).into_resource(),
        web(vec![route("/dead", &[("dead", 1)]), route("/empty", &[("empty", 1)]), route("/", &[("a", 1)])]),
    ]);
    let mut client = sut.client().await;
    for _ in 0..4 {
        assert_eq!(
            client.call("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx").await.status(),
            200
        );
    }
    for (path, reason) in [("/dead", "MW0302"), ("/empty", "MW0301")] {
        let got = client.call(&format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n")).await;
        assert_eq!((got.status(), got.header("x-meshwork-reason")), (503, Some(reason)), "{path}");
    }
}

#[tokio::test]
async fn requests_are_split_by_weight() {
    let (one, two) = (Origin::answering(OK).await, Origin::answering(OK).await);
    let (a, b) = (cluster("a", &[one.address]), cluster("b", &[two.address]));
    let sut =
        Sut::start(vec![a.into_resource(), b.into_resource(), web(vec![route("/", &[("a", 9), ("b", 1)])])]);
    let mut client = sut.client().await;
    for _ in 0..400 {
        client.call("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    }
    let (mut one, mut two) = (one, two);
    let count = |origin: &mut Origin| std::iter::from_fn(|| origin.asked.try_recv().ok()).count();
    let (a, b) = (count(&mut one), count(&mut two));
    assert_eq!(a + b, 400);
    assert!((15..80).contains(&b), "{b} of 400 for a tenth");
}

#[tokio::test]
async fn a_stale_connection_is_replaced_without_the_client_noticing() {
    let (sut, stage) = staged().await;
    let mut client = sut.client().await;
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let mut first = stage.accept().await;
    first.receive().await;
    first.send(OK).await;
    client.receive().await;
    // Read the next request on the old connection, and hang up on it: a race that a proxy has to bear.
    client.send("GET /again HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert!(first.receive().await.head.contains("/again"));
    drop(first);
    let mut second = stage.accept().await;
    assert!(second.receive().await.head.contains("/again"));
    second.send(OK).await;
    assert_eq!(client.receive().await.status(), 200);
    // What may have had an effect is not sent twice.
    client.send("POST /effect HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx").await;
    second.receive().await;
    drop(second);
    let got = client.receive().await;
    assert_eq!((got.status(), got.header("x-meshwork-reason")), (503, Some("MW0304")));
}

#[tokio::test]
async fn a_connection_closed_while_idle_is_not_used() {
    let (sut, stage) = staged().await;
    let mut client = sut.client().await;
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx").await;
    let mut first = stage.accept().await;
    first.receive().await;
    first.send(OK).await;
    client.receive().await;
    drop(first);
    // The proxy has seen the close once another connection through it has been served.
    let mut other = sut.client().await;
    let _ = other.call("GET /nothing%2f HTTP/1.1\r\nHost: a\r\n\r\n").await;
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\ny").await;
    let mut second = stage.accept().await;
    assert_eq!(second.receive().await.body, "y");
    second.send(OK).await;
    assert_eq!(client.receive().await.status(), 200);
}

#[tokio::test]
async fn an_answer_before_the_end_of_the_request_arrives_whole() {
    let (sut, stage) = staged().await;
    let mut client = sut.client().await;
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\nstart").await;
    let mut origin = stage.accept().await;
    let mut start = [0; 8];
    origin.stream.read_exact(&mut start).await.expect("begins");
    origin.send("HTTP/1.1 413 Content Too Large\r\nContent-Length: 3\r\n\r\nbig").await;
    let got = client.receive().await;
    assert_eq!((got.status(), got.body.as_str()), (413, "big"));
    client.stream.shutdown_write().await;
    assert_eq!(client.rest().await.expect("closes"), b"");
    assert!(!origin.rest().await.unwrap_or_default().is_empty(), "the rest of what was sent");
}

trait ShutdownWrite {
    async fn shutdown_write(&mut self);
}

impl ShutdownWrite for tokio::net::TcpStream {
    async fn shutdown_write(&mut self) {
        tokio::io::AsyncWriteExt::shutdown(self).await.expect("shuts down");
    }
}

#[tokio::test]
async fn interim_responses_pass_and_the_body_follows_100_continue() {
    let (sut, stage) = staged().await;
    let mut client = sut.client().await;
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n").await;
    let mut origin = stage.accept().await;
    let mut head = vec![0; 1024];
    let read = origin.stream.read(&mut head).await.expect("a head");
    assert!(String::from_utf8_lossy(&head[..read]).to_lowercase().contains("expect: 100-continue"));
    origin.send("HTTP/1.1 100 Continue\r\n\r\n").await;
    assert_eq!(client.receive().await.status(), 100);
    client.send("body").await;
    origin.stream.read_exact(&mut head[..4]).await.expect("the body");
    origin.send("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n").await;
    assert_eq!(client.receive().await.status(), 103);
    origin.send(OK).await;
    assert_eq!(client.receive().await.status(), 200);
}

#[tokio::test]
async fn when_the_client_leaves_the_origin_is_let_go() {
    let (sut, stage) = staged().await;
    let mut client = sut.client().await;
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let mut origin = stage.accept().await;
    origin.receive().await;
    drop(client);
    assert_eq!(origin.rest().await.unwrap_or_default(), b"");
}

#[tokio::test]
async fn an_origin_that_dies_in_the_middle_leaves_a_visible_gap() {
    let (sut, stage) = staged().await;
    for (answer, is_reset) in [
        ("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf", false),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n", false),
    ] {
        let mut client = sut.client().await;
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        let mut origin = stage.accept().await;
        origin.receive().await;
        origin.send(answer).await;
        drop(origin);
        let got = client.rest().await;
        assert_eq!(got.is_err(), is_reset, "{answer}");
        let got = String::from_utf8(got.unwrap_or_default()).expect("text");
        assert!(got.contains("half") && !got.ends_with("0\r\n\r\n"), "{got}");
    }
}

#[tokio::test]
async fn an_answer_that_is_not_http_is_a_bad_gateway() {
    let (sut, stage) = staged().await;
    for answer in [
        "SSH-2.0\r\n\r\n",
        "HTTP/1.1 200 OK\nContent-Length: 0\n\n",
        "HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
    ] {
        let mut client = sut.client().await;
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        let mut origin = stage.accept().await;
        origin.receive().await;
        origin.send(answer).await;
        let got = client.receive().await;
        assert_eq!((got.status(), got.header("x-meshwork-reason")), (502, Some("MW0305")), "{answer}");
    }
}

#[tokio::test]
async fn an_origin_that_is_silent_for_too_long_is_given_up() {
    let stage = Stage::open().await;
    let slow = with_timeout(route("/", &[("a", 1)]), SOON / 20);
    let sut = Sut::start(vec![cluster("a", &[stage.address()]).into_resource(), web(vec![slow])]);
    let mut client = sut.client().await;
    let got = client.call("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert_eq!((got.status(), got.header("x-meshwork-reason")), (504, Some("MW0306")));
    let mut origin = stage.accept().await;
    origin.rest().await.expect("closes");
}

#[tokio::test]
async fn a_websocket_is_carried_with_what_was_sent_ahead() {
    let (sut, stage) = staged().await;
    let mut client = sut.client().await;
    client.send("GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: k\r\n\r\nahead").await;
    let mut origin = stage.accept().await;
    let asked = origin.receive().await;
    assert_eq!((asked.header("upgrade"), asked.header("connection")), (Some("websocket"), Some("upgrade")));
    origin
        .send("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nfirst")
        .await;
    let got = client.receive().await;
    assert_eq!((got.status(), got.header("upgrade")), (101, Some("websocket")));
    let mut bytes = [0; 5];
    origin.stream.read_exact(&mut bytes).await.expect("ahead");
    assert_eq!(&bytes, b"ahead");
    origin.stream.shutdown_write().await;
    client.send("more").await;
    client.stream.shutdown_write().await;
    assert_eq!(origin.rest().await.expect("half-closed"), b"more");
    assert_eq!(client.rest().await.expect("ends"), b"first");
}

#[tokio::test]
async fn other_upgrades_are_ignored() {
    let (sut, mut origin) = one_hop(OK).await;
    let request = "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA\r\n\r\n";
    assert_eq!(sut.client().await.call(request).await.status(), 200);
    let asked = origin.next().await;
    assert_eq!((asked.header("upgrade"), asked.header("http2-settings")), (None, None));
}

#[tokio::test]
async fn peers_that_send_noise_harm_nobody() {
    let (sut, mut origin) = one_hop(OK).await;
    let noise = Stage::open().await;
    sut.apply(vec![
        cluster("noise", &[noise.address()]).into_resource(),
        web(vec![route("/noise", &[("noise", 1)]), route("/", &[("a", 1)])]),
    ]);
    let mut random = fastrand::Rng::with_seed(7);
    let beginnings: [&[u8]; 6] = [
        b"",
        b"GET / HTTP/1.1\r\nHost: a\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0",
        b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03",
    ];
    for round in 0..120 {
        let mut bytes = beginnings[round % beginnings.len()].to_vec();
        bytes.extend((0..random.usize(0..2000)).map(|_| random.u8(..)));
        let mut client = sut.client().await;
        let _ = tokio::io::AsyncWriteExt::write_all(&mut client.stream, &bytes).await;
        drop(client);
        if round % 4 == 0 {
            let mut client = sut.client().await;
            client.send("GET /noise HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await;
            let mut origin = noise.accept().await;
            origin.receive().await;
            let answer = if round % 8 == 0 {
                &b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"[..]
            } else {
                b""
            };
            let _ = tokio::io::AsyncWriteExt::write_all(&mut origin.stream, &[answer, &bytes].concat()).await;
            drop(origin);
            let _ = client.rest().await;
        }
    }
    while origin.asked.try_recv().is_ok() {}
    assert_eq!(sut.client().await.call("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.status(), 200);
}
