//! Answers of an origin gone wrong, or turned: the client gets 502 or sees that the answer is not whole, and not a byte
//! that the origin sends uncalled for reaches any client.

use std::io::{self, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use e2e::eventually;
use e2e::http::Connection;
use e2e::origin::Origin;
use e2e::proxy::Proxy;

/// An answer that is no answer: 502, whatever the origin does next.
const NONE: &[&[u8]] = &[
    b"hello",
    b"<html></html>\r\n\r\n",
    b"\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nno",
    b" HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nno",
    b"ICY 200 OK\r\ncontent-length: 2\r\n\r\nno",
    b"http/1.1 200 OK\r\ncontent-length: 2\r\n\r\nno",
    b"HTTP/2.0 200 OK\r\ncontent-length: 2\r\n\r\nno",
    b"HTTP/0.9 200 OK\r\ncontent-length: 2\r\n\r\nno",
    b"HTTP/1.1  200 OK\r\ncontent-length: 2\r\n\r\nno",
    b"HTTP/1.1 20 OK\r\ncontent-length: 2\r\n\r\nno",
    b"HTTP/1.1 2000 OK\r\ncontent-length: 2\r\n\r\nno",
    b"HTTP/1.1 000 OK\r\ncontent-length: 2\r\n\r\nno",
    b"HTTP/1.1 OK\r\ncontent-length: 2\r\n\r\nno",
    b"HTTP/1.1 200 O\0K\r\ncontent-length: 2\r\n\r\nno",
    b"HTTP/1.1 200 OK\ncontent-length: 2\n\nno",
    b"HTTP/1.1 200 OK\rx\r\ncontent-length: 2\r\n\r\nno",
    b"HTTP/1.1 200 OK\r\n content-length: 2\r\n\r\nno",
    b"HTTP/1.1 200 OK\r\nx: a\r\n b\r\ncontent-length: 2\r\n\r\nno",
    // Splitting: a CR or LF that got into a value.
    b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nlocation: /a\nset-cookie: x\r\n\r\nno",
    b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nlocation: /a\rset-cookie: x\r\n\r\nno",
    b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nlocation: /a\0\r\n\r\nno",
    b"HTTP/1.1 200 OK\r\ncontent-length : 2\r\n\r\nno",
    b"HTTP/1.1 200 OK\r\n: x\r\ncontent-length: 2\r\n\r\nno",
    b"HTTP/1.1 200 OK\r\nx\r\ncontent-length: 2\r\n\r\nno",
    // Framing that two readers read differently.
    b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\nno!",
    b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 2\r\n\r\nno",
    b"HTTP/1.1 200 OK\r\ncontent-length: 2, 2\r\n\r\nno",
    b"HTTP/1.1 200 OK\r\ncontent-length: +2\r\n\r\nno",
    b"HTTP/1.1 200 OK\r\ncontent-length: -2\r\n\r\nno",
    b"HTTP/1.1 200 OK\r\ncontent-length: 0x2\r\n\r\nno",
    b"HTTP/1.1 200 OK\r\ncontent-length:\r\n\r\nno",
    b"HTTP/1.1 200 OK\r\ncontent-length: 18446744073709551618\r\n\r\nno",
    b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\n2\r\nno\r\n0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n2\r\nno\r\n0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked, chunked\r\n\r\n2\r\nno\r\n0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n2\r\nno\r\n0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\ntransfer-encoding: identity\r\n\r\nno",
    b"HTTP/1.1 200 OK\r\ntransfer-encoding: \x0bchunked\r\n\r\n2\r\nno\r\n0\r\n\r\n",
    b"HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nno\r\n0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nconnection: content-length\r\ncontent-length: 2\r\n\r\nno",
    // Interim answers that are none, and a switch that nobody asked for.
    b"HTTP/1.1 100 Continue\r\ncontent-length: 2\r\n\r\nnoHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nno",
    b"HTTP/1.1 103 x\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nno",
    b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\nno",
    b"HTTP/1.1 101 Switching Protocols\r\n\r\nno",
];

/// What an origin may have sent when it closes before its answer is there: 503, as Envoy says.
const INCOMPLETE: &[&[u8]] =
    &[b"", b"H", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\nx: y\r\n\r", b"HTTP/1.1 100 Continue\r\n\r\n"];

/// Answers whose body breaks off, or stops making sense: the client must see that something is missing.
const BROKEN_OFF: &[&[u8]] = &[
    b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nshor",
    b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nshor",
    b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nshort\r\n",
    b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nshort\r\n0\r\n",
    b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nshort\r\n0\r\nx: y\r\n",
    b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\nshort\r\n0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0x5\r\nshort\r\n0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5 \r\nshort\r\n0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nshort0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nshort\n0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5;\nshort\r\n0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nffffffffffffffff\r\nshort",
    b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nshort\r\n0\r\ncontent-length: 9\r\n\r\n",
    b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nshort\r\n0\r\nx: \0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nshort\r\n0\r\n x: y\r\n\r\n",
];

/// Answers with something behind their end: kind of request, the answer, its body as the client gets it.
const SURPLUS: &[(&str, &[u8], &[u8])] = &[
    ("GET", b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nokSTOLEN", b"ok"),
    (
        "GET",
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nokHTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nSTOLEN",
        b"ok",
    ),
    ("GET", b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\nSTOLEN", b""),
    ("GET", b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\nSTOLEN", b"ok"),
    (
        "GET",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nSTOLEN",
        b"",
    ),
    ("HEAD", b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nSTOLEN", b""),
    ("HEAD", b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n6\r\nSTOLEN\r\n0\r\n\r\n", b""),
    ("GET", b"HTTP/1.1 204 No Content\r\n\r\nSTOLEN", b""),
    ("GET", b"HTTP/1.1 204 No Content\r\ncontent-length: 6\r\n\r\nSTOLEN", b""),
    ("GET", b"HTTP/1.1 304 Not Modified\r\ncontent-length: 6\r\n\r\nSTOLEN", b""),
    ("GET", b"HTTP/1.1 304 Not Modified\r\ntransfer-encoding: chunked\r\n\r\n6\r\nSTOLEN\r\n0\r\n\r\n", b""),
];

/// An origin that answers `/<n>` with the n-th of `answers`, and closes where `closes` says so; `/` with `fine`.
fn origin(answers: Vec<Vec<u8>>, closes: bool) -> Origin {
    Origin::answering(move |request, stream| {
        let path = String::from_utf8_lossy(request).split(' ').nth(1).map(str::to_owned).unwrap_or_default();
        let Some(answer) = path[1..].parse::<usize>().ok().and_then(|n| answers.get(n)) else {
            return stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nfine");
        };
        stream.write_all(answer)?;
        if closes { Err(io::ErrorKind::ConnectionAborted.into()) } else { Ok(()) }
    })
}

fn request(method: &str, path: impl std::fmt::Display) -> Vec<u8> {
    format!("{method} /{path} HTTP/1.1\r\nhost: h\r\n\r\n").into_bytes()
}

/// What another client gets next must be its own answer, over a connection of which nothing is left over.
fn assert_next_is_fine(proxy: &Proxy, shown: &str) {
    for _ in 0..3 {
        let answer = e2e::http::get(proxy.address(), "/").unwrap_or_else(|e| panic!("after {shown}: {e}"));
        assert_eq!((answer.status, answer.text().as_str()), (200, "fine"), "after {shown}");
    }
}

fn check_refused(answers: &[&[u8]], closes: bool, status: u16) {
    let origin = origin(answers.iter().map(|a| a.to_vec()).collect(), closes);
    let proxy = Proxy::before(origin.address());
    for (n, bytes) in answers.iter().enumerate() {
        let shown = bytes.escape_ascii().to_string();
        let mut connection = Connection::open(proxy.address()).expect("a connection");
        connection.send(&request("GET", n)).expect("sent");
        let mut answer = connection.answer(false).unwrap_or_else(|e| panic!("{shown}: {e}"));
        if answer.status == 100 {
            answer = connection.answer(false).unwrap_or_else(|e| panic!("{shown}: {e}"));
        }
        assert_eq!(answer.status, status, "{shown}: {answer:?}");
        assert!(answer.field("x-meshwork-reason").is_some(), "{shown}: {answer:?}");
        assert_next_is_fine(&proxy, &shown);
    }
}

#[test]
fn an_answer_that_is_none_is_502() {
    check_refused(NONE, false, 502);
}

#[test]
fn an_answer_that_is_none_and_ends_is_502() {
    check_refused(NONE, true, 502);
}

#[test]
fn an_answer_that_never_comes_is_503() {
    check_refused(INCOMPLETE, true, 503);
}

#[test]
fn an_answer_that_breaks_off_is_seen_to_break_off() {
    let answers: Vec<_> = BROKEN_OFF.iter().map(|a| a.to_vec()).collect();
    let origin = origin(answers, true);
    let proxy = Proxy::before(origin.address());
    for (n, bytes) in BROKEN_OFF.iter().enumerate() {
        let shown = bytes.escape_ascii().to_string();
        let mut connection = Connection::open(proxy.address()).expect("a connection");
        connection.send(&request("GET", n)).expect("sent");
        match connection.answer(false) {
            // A head that had not left yet may be taken back.
            Ok(answer) => assert_eq!(answer.status, 502, "{shown}: {answer:?}"),
            Err(error) => {
                assert_ne!(error.kind(), io::ErrorKind::WouldBlock, "{shown}: nothing ended");
                // No second answer behind the first one's beginning.
                let rest = connection.rest().unwrap_or_default();
                assert!(rest.is_empty(), "{shown}: {}", rest.escape_ascii());
            }
        }
        assert_next_is_fine(&proxy, &shown);
    }
}

#[test]
fn what_an_origin_sends_behind_its_answer_reaches_nobody() {
    let answers: Vec<_> = SURPLUS.iter().map(|(_, answer, _)| answer.to_vec()).collect();
    let origin = origin(answers, false);
    let proxy = Proxy::before(origin.address());
    for (n, (method, bytes, body)) in SURPLUS.iter().enumerate() {
        let shown = bytes.escape_ascii().to_string();
        let mut connection = Connection::open(proxy.address()).expect("a connection");
        connection.send(&request(method, n)).expect("sent");
        let answer = connection.answer(*method == "HEAD").unwrap_or_else(|e| panic!("{shown}: {e}"));
        assert!(matches!(answer.status, 200 | 204 | 304), "{shown}: {answer:?}");
        assert_eq!(answer.body, *body, "{shown}");
        // The same client, and others.
        let before = origin.connections();
        connection.send(&request("GET", "")).expect("sent");
        let answer = connection.answer(false).unwrap_or_else(|e| panic!("next after {shown}: {e}"));
        assert_eq!((answer.status, answer.text().as_str()), (200, "fine"), "next after {shown}");
        assert_eq!(origin.connections(), before + 1, "{shown}: the connection was used again");
        assert_next_is_fine(&proxy, &shown);
    }
}

/// An answer that comes while nobody has asked ends the connection that it came on.
#[test]
fn an_answer_out_of_the_blue_reaches_nobody() {
    let late = Arc::new(AtomicUsize::new(0));
    let sent = Arc::clone(&late);
    let origin = Origin::answering(move |_, stream: &mut TcpStream| {
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nfine")?;
        let (mut stream, sent) = (stream.try_clone()?, Arc::clone(&sent));
        std::thread::spawn(move || {
            std::thread::sleep(std::time::Duration::from_millis(30));
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nSTOLEN");
            sent.fetch_add(1, Ordering::SeqCst);
        });
        Ok(())
    });
    let proxy = Proxy::before(origin.address());
    let mut connection = Connection::open(proxy.address()).expect("a connection");
    for n in 1..=10 {
        connection.send(&request("GET", n)).expect("sent");
        let answer = connection.answer(false).expect("an answer");
        assert_eq!((answer.status, answer.text().as_str()), (200, "fine"), "{n}");
        eventually("the origin has sent more", || late.load(Ordering::SeqCst) == n);
    }
    assert_eq!(origin.connections(), 10);
}

#[test]
fn interim_answers_are_passed_on_and_bounded() {
    let origin = Origin::answering(|request, stream| {
        let few = request.starts_with(b"GET /few ");
        for n in 0..if few { 10 } else { 100_000 } {
            stream.write_all(format!("HTTP/1.1 103 Early Hints\r\nlink: <{n}>\r\n\r\n").as_bytes())?;
        }
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nfine")
    });
    let proxy = Proxy::before(origin.address());
    let mut connection = Connection::open(proxy.address()).expect("a connection");
    connection.send(&request("GET", "few")).expect("sent");
    for n in 0..10 {
        let hint = connection.answer(false).expect("a hint");
        assert_eq!((hint.status, hint.field("link")), (103, Some(&*format!("<{n}>"))));
    }
    assert_eq!(connection.answer(false).expect("an answer").text(), "fine");
    connection.send(&request("GET", "many")).expect("sent");
    let mut hints = 0;
    let status = loop {
        match connection.answer(false).expect("an answer").status {
            103 => hints += 1,
            status => break status,
        }
    };
    assert_eq!(status, 502);
    assert!(hints <= 100, "{hints} interim answers");
    // An old client knows none of them.
    let answer =
        e2e::http::exchange(proxy.address(), b"GET /few HTTP/1.0\r\nhost: h\r\n\r\n").expect("an answer");
    assert_eq!((answer.status, answer.text().as_str()), (200, "fine"));
}

/// What only the close ends is passed on whole, and ends the client's connection or its chunks.
#[test]
fn an_answer_until_close_is_whole() {
    let body = "x".repeat(100_000);
    let answer = format!("HTTP/1.0 200 OK\r\nx: y\r\n\r\n{body}").into_bytes();
    let origin = origin(vec![answer], true);
    let proxy = Proxy::before(origin.address());
    for version in ["1.0", "1.1"] {
        let request = format!("GET /0 HTTP/{version}\r\nhost: h\r\n\r\n");
        let answer = e2e::http::exchange(proxy.address(), request.as_bytes()).expect("an answer");
        assert_eq!((answer.status, answer.body.len()), (200, body.len()), "{version}");
        assert_eq!(answer.field("transfer-encoding").is_some(), version == "1.1");
    }
}
