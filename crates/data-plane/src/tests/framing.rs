//! Where one message ends and the next begins, for each kind of peer.

use super::{GET, OK, one};
use crate::testing::config::ORIGIN;
use crate::testing::settle;

#[test]
fn pipelined_requests_are_answered_in_order_on_one_upstream_connection() {
    one(async |world| {
        let requests = ["/1", "/2", "/3"].map(|path| GET.replace(" / ", &format!(" {path} ")));
        let (mut client, mut upstream) = world.call(&requests.concat()).await;
        for path in ["/1", "/2", "/3"] {
            assert!(upstream.receive().await.head.starts_with(&format!("GET {path} ")));
            assert!(upstream.has_nothing().await, "one at a time");
            upstream.send(format!("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{path}")).await;
        }
        for path in ["/1", "/2", "/3"] {
            assert_eq!(client.receive().await.text(), path);
        }
    });
}

#[test]
fn what_stands_behind_a_bad_request_is_never_processed() {
    for bad in
        ["GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", "\0\r\n\r\n"]
    {
        one(async |world| {
            let origin = world.origin(ORIGIN);
            let mut client = world.connect();
            client.send(format!("{bad}{GET}")).await;
            assert_eq!(client.receive().await.status(), Some(400), "{bad:?}");
            assert_eq!(client.rest().await, Ok(vec![]));
            assert!(!origin.is_called().await);
        });
    }
}

#[test]
fn a_body_whose_chunks_go_wrong_ends_both_connections() {
    one(async |world| {
        let request = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\nxyz\r\n";
        let (mut client, mut upstream) = world.call(&format!("{request}{GET}")).await;
        assert_eq!(client.receive().await.status(), Some(400));
        assert_eq!(client.rest().await, Ok(vec![]));
        assert!(upstream.try_receive(false).await.is_err(), "the request never looks complete");
    });
}

/// An answer with something behind it: the client gets `status` and `body`, and a new connection serves what follows.
fn surplus(request: &str, answer: &str, status: u16, body: &str) {
    one(async |world| {
        let mut origin = world.origin(ORIGIN);
        let mut client = world.connect();
        client.send(request).await;
        let mut upstream = origin.accept().await;
        upstream.receive().await;
        upstream.send(answer).await;
        let got = client.try_receive(request.starts_with("HEAD")).await.expect("an answer");
        assert_eq!((got.status(), got.text()), (Some(status), body), "{answer:?}");
        assert!(client.has_nothing().await, "{answer:?}");
        client.send(GET).await;
        let mut upstream = origin.accept().await;
        upstream.receive().await;
        upstream.send(OK).await;
        assert_eq!(client.receive().await.text(), "ok", "{answer:?}");
    });
}

#[test]
fn surplus_bytes_of_an_origin_reach_nobody() {
    let head = "HEAD / HTTP/1.1\r\nHost: a\r\n\r\n";
    surplus(GET, &format!("{OK}surplus"), 200, "ok");
    surplus(GET, &format!("{OK}HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"), 200, "ok");
    surplus(GET, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\nx", 200, "ok");
    surplus(GET, "HTTP/1.1 204 No Content\r\n\r\nbody", 204, "");
    surplus(GET, "HTTP/1.1 304 Not Modified\r\nContent-Length: 4\r\n\r\nbody", 304, "");
    surplus(head, "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbody", 200, "");
}

#[test]
fn an_answer_that_nobody_asked_for_reaches_nobody() {
    one(async |world| {
        let mut origin = world.origin(ORIGIN);
        let mut client = world.connect();
        client.send(GET).await;
        let mut upstream = origin.accept().await;
        upstream.receive().await;
        upstream.send(OK).await;
        client.receive().await;
        settle().await;
        upstream.send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil").await;
        client.send(GET).await;
        let mut upstream = origin.accept().await;
        upstream.receive().await;
        upstream.send(OK).await;
        assert_eq!(client.receive().await.text(), "ok");
    });
}

#[test]
fn responses_without_a_body_leave_both_connections_good() {
    let cases = [
        ("HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", Some("5")),
        ("HEAD", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", None),
        ("GET", "HTTP/1.1 204 No Content\r\n\r\n", None),
        ("GET", "HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", Some("5")),
    ];
    for (method, answer, length) in cases {
        one(async |world| {
            let (mut client, mut upstream) = world.call(&GET.replace("GET", method)).await;
            upstream.receive().await;
            upstream.send(answer).await;
            let got = client.try_receive(true).await.expect("an answer");
            assert_eq!(got.header("content-length"), length, "{answer:?}");
            client.send(GET).await;
            upstream.receive().await;
            upstream.send(OK).await;
            assert_eq!(client.receive().await.text(), "ok", "{answer:?}");
        });
    }
}

#[test]
fn an_http_1_0_client_gets_no_chunks_and_a_close() {
    one(async |world| {
        let (mut client, mut upstream) = world.call("GET / HTTP/1.0\r\n\r\n").await;
        assert!(upstream.receive().await.head.starts_with("GET / HTTP/1.1\r\n"));
        upstream
            .send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nx-a: b\r\n\r\n")
            .await;
        let answer = client.receive().await;
        assert_eq!((answer.header("transfer-encoding"), answer.text()), (None, "ok"));
    });
}

#[test]
fn a_client_that_asks_for_a_close_gets_it() {
    one(async |world| {
        let request = "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
        let (mut client, mut upstream) = world.call(request).await;
        assert_eq!(upstream.receive().await.header("connection"), None, "it is between the two of us");
        upstream.send(OK).await;
        let answer = client.receive().await;
        assert_eq!((answer.text(), answer.header("connection")), ("ok", Some("close")));
        assert_eq!(client.rest().await, Ok(vec![]));
    });
}

#[test]
fn an_origin_that_closes_does_not_close_the_client() {
    one(async |world| {
        let mut origin = world.origin(ORIGIN);
        let mut client = world.connect();
        for _ in 0..2 {
            client.send(GET).await;
            let mut upstream = origin.accept().await;
            upstream.receive().await;
            upstream.send("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nuntil the end").await;
            drop(upstream);
            let answer = client.receive().await;
            assert_eq!(answer.header("transfer-encoding"), Some("chunked"));
            assert_eq!(answer.text(), "until the end");
        }
    });
}
