//! Odd requests that are legal: they arrive as they were meant, byte for byte.

use std::fmt::Write as _;

use e2e::http::{Connection, dechunk};
use e2e::origin::Origin;
use e2e::proxy::Proxy;

const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

/// Requests, and what the origin gets of each: names in lower case, `host` first, what concerns a connection gone.
/// `$P` stands for what the proxy adds.
const ODD: &[(&[u8], &[u8])] = &[
    (b"GET / HTTP/1.1\r\nHost: h\r\n\r\n", b"GET / HTTP/1.1\r\nhost: h\r\n$P\r\n"),
    (b"get /a HTTP/1.1\r\nHOST:h\r\n\r\n", b"get /a HTTP/1.1\r\nhost: h\r\n$Pcontent-length: 0\r\n\r\n"),
    (b"\r\nGET / HTTP/1.1\r\nHost: h\r\n\r\n", b"GET / HTTP/1.1\r\nhost: h\r\n$P\r\n"),
    (
        b"!#$%&'*+-.^_`|~ / HTTP/1.1\r\nHost: h\r\n!#$%&'*+-.^_`|~: 1\r\n\r\n",
        b"!#$%&'*+-.^_`|~ / HTTP/1.1\r\nhost: h\r\n!#$%&'*+-.^_`|~: 1\r\n$Pcontent-length: 0\r\n\r\n",
    ),
    (
        b"GET /%2F/../a//b?c=%00&d={e}|\"<f>\\^`[] HTTP/1.1\r\nHost: h\r\n\r\n",
        b"GET /%2F/../a//b?c=%00&d={e}|\"<f>\\^`[] HTTP/1.1\r\nhost: h\r\n$P\r\n",
    ),
    (b"GET //h/a HTTP/1.1\r\nHost: h\r\n\r\n", b"GET //h/a HTTP/1.1\r\nhost: h\r\n$P\r\n"),
    (b"GET http://h/a?b HTTP/1.1\r\nHost: h\r\n\r\n", b"GET /a?b HTTP/1.1\r\nhost: h\r\n$P\r\n"),
    (b"GET HTTP://H:80 HTTP/1.1\r\nHost: h\r\n\r\n", b"GET / HTTP/1.1\r\nhost: H:80\r\n$P\r\n"),
    (b"GET / HTTP/1.1\r\nHost: [::1]:8080\r\n\r\n", b"GET / HTTP/1.1\r\nhost: [::1]:8080\r\n$P\r\n"),
    (b"GET / HTTP/1.0\r\nHost: h\r\n\r\n", b"GET / HTTP/1.1\r\nhost: h\r\n$P\r\n"),
    // Values: empty, padded, any byte from 0x80 up, repeated and in order.
    (
        b"GET / HTTP/1.1\r\nHost: h\r\nX:\r\nX: \t \r\nx:\t a \t b \t\r\nX: \x80\xff\xc3\xa9\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: h\r\nx: \r\nx: \r\nx: a \t b\r\nx: \x80\xff\xc3\xa9\r\n$P\r\n",
    ),
    (
        b"GET / HTTP/1.1\r\nHost: h\r\nCookie: a=b; c=\"d,e\"\r\nCookie: f\r\nX-Y: :::\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: h\r\ncookie: a=b; c=\"d,e\"\r\ncookie: f\r\nx-y: :::\r\n$P\r\n",
    ),
    (
        b"GET / HTTP/1.1\r\nHost: h\r\nContent_Length: 5\r\nX-Transfer-Encoding: chunked\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: h\r\ncontent_length: 5\r\nx-transfer-encoding: chunked\r\n$P\r\n",
    ),
    // What concerns the connection goes, and what the connection names.
    (
        b"GET / HTTP/1.1\r\nHost: h\r\nConnection: x-a, keep-alive\r\nX-A: 1\r\nKeep-Alive: 5\r\nX-B: 2\r\nTE: gzip\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: h\r\nx-b: 2\r\n$P\r\n",
    ),
    (
        b"GET / HTTP/1.1\r\nHost: h\r\nConnection: TE\r\nTE: trailers\r\nProxy-Connection: close\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: h\r\nte: trailers\r\n$Pconnection: te\r\n\r\n",
    ),
    // A client may not take away what the proxy says.
    (
        b"GET / HTTP/1.1\r\nHost: h\r\nConnection: x-forwarded-proto\r\nX-Forwarded-Proto: https\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: h\r\n$P\r\n",
    ),
    // No upgrade but a WebSocket goes on, and h2c never: it would open a channel past every policy.
    (
        b"GET / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: h\r\n$P\r\n",
    ),
    (
        b"POST / HTTP/1.1\r\nHost: h\r\nConnection: upgrade\r\nUpgrade: websocket\r\nContent-Length: 2\r\n\r\nhi",
        b"POST / HTTP/1.1\r\nhost: h\r\n$Pcontent-length: 2\r\n\r\nhi",
    ),
    // Bodies.
    (
        b"GET / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabc",
        b"GET / HTTP/1.1\r\nhost: h\r\n$Pcontent-length: 3\r\n\r\nabc",
    ),
    (
        b"DELETE / HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n",
        b"DELETE / HTTP/1.1\r\nhost: h\r\n$Pcontent-length: 0\r\n\r\n",
    ),
    (b"POST / HTTP/1.1\r\nHost: h\r\n\r\n", b"POST / HTTP/1.1\r\nhost: h\r\n$Pcontent-length: 0\r\n\r\n"),
    (
        b"POST / HTTP/1.0\r\nHost: h\r\nContent-Length: 3\r\n\r\n\r\n\0",
        b"POST / HTTP/1.1\r\nhost: h\r\n$Pcontent-length: 3\r\n\r\n\r\n\0",
    ),
    (
        b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: CHUNKED\r\n\r\n000A;ext=\"a b\";c\r\n0123456789\r\n3\r\n\r\n0\r\n00\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: h\r\n$Ptransfer-encoding: chunked\r\n\r\na\r\n0123456789\r\n3\r\n\r\n0\r\n0\r\n\r\n",
    ),
    (
        b"PUT / HTTP/1.1\r\nHost: h\r\nTrailer: X-Sum\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0;e\r\nX-Sum: \xe9 1\r\nAuthorization: no\r\nX-Forwarded-Client-Cert: URI=spiffe://evil\r\nE:\r\n\r\n",
        b"PUT / HTTP/1.1\r\nhost: h\r\ntrailer: X-Sum\r\n$Ptransfer-encoding: chunked\r\n\r\n1\r\nx\r\n0\r\nx-sum: \xe9 1\r\ne: \r\n\r\n",
    ),
    // An expectation without a body means nothing.
    (
        b"GET / HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: h\r\n$P\r\n",
    ),
    (
        b"POST / HTTP/1.0\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\nx",
        b"POST / HTTP/1.1\r\nhost: h\r\n$Pcontent-length: 1\r\n\r\nx",
    ),
];

fn expected(pattern: &[u8]) -> Vec<u8> {
    let at = pattern.windows(2).position(|w| w == b"$P").expect("a place for the proxy's own");
    [&pattern[..at], b"x-forwarded-proto: http\r\n", &pattern[at + 2..]].concat()
}

/// A message whose chunks are joined: where they are cut means nothing.
fn in_one_chunk(message: &[u8]) -> Vec<u8> {
    let end = message.windows(4).position(|w| w == b"\r\n\r\n").map_or(message.len(), |at| at + 4);
    let (head, body) = message.split_at(end);
    if !head.windows(26).any(|w| w == b"transfer-encoding: chunked") {
        return message.to_vec();
    }
    let (data, last) = dechunk(body);
    let size = format!("{:x}\r\n", data.len());
    [head, size.as_bytes(), &data, b"\r\n", last].concat()
}

/// Sends a request in pieces of `step` bytes and compares what reaches the origin.
fn check(proxy: &Proxy, origin: &Origin, request: &[u8], wanted: &[u8], step: usize) {
    let shown = request[..request.len().min(200)].escape_ascii().to_string();
    let mut connection = Connection::open(proxy.address()).expect("a connection");
    for piece in request.chunks(step) {
        connection.send(piece).unwrap_or_else(|e| panic!("{shown}: {e}"));
    }
    let answer = connection.answer(false).unwrap_or_else(|e| panic!("{shown}: {e}"));
    assert_eq!((answer.status, answer.text().as_str()), (200, "ok"), "{shown}");
    let seen = origin.take();
    assert_eq!(seen.len(), 1, "{shown}: {seen:?}");
    let (seen, wanted) = (in_one_chunk(&seen[0]), in_one_chunk(wanted));
    assert!(seen == wanted, "{shown}\n got {}\nwant {}", seen.escape_ascii(), wanted.escape_ascii());
}

#[test]
fn odd_but_legal_requests_arrive_as_they_were_meant() {
    let origin = Origin::start(ANSWER);
    let proxy = Proxy::before(origin.address());
    for (request, wanted) in ODD {
        check(&proxy, &origin, request, &expected(wanted), request.len());
    }
}

#[test]
fn requests_arrive_the_same_when_every_byte_comes_alone() {
    let origin = Origin::start(ANSWER);
    let proxy = Proxy::before(origin.address());
    for (request, wanted) in ODD {
        check(&proxy, &origin, request, &expected(wanted), 1);
    }
}

#[test]
fn long_lines_and_many_chunks_arrive_whole() {
    let origin = Origin::start(ANSWER);
    let proxy = Proxy::before(origin.address());
    let value = "v".repeat(50_000);
    let path = "p".repeat(15_000);
    let request = format!("GET /{path} HTTP/1.1\r\nHost: h\r\nX: {}\r\n\r\n", &value[..40_000]);
    let wanted = format!(
        "GET /{path} HTTP/1.1\r\nhost: h\r\nx: {}\r\nx-forwarded-proto: http\r\n\r\n",
        &value[..40_000]
    );
    for step in [request.len(), 4096, 1000] {
        check(&proxy, &origin, request.as_bytes(), wanted.as_bytes(), step);
    }
    let mut request = String::from("POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n");
    let mut body = String::new();
    for n in 1..2000 {
        let data = "x".repeat(n % 23 + 1);
        let _ = write!(request, "{:X};n={}\r\n{data}\r\n", data.len(), n % 7);
        body += &data;
    }
    request += "0\r\nx-end: yes\r\n\r\n";
    let mut connection = Connection::open(proxy.address()).expect("a connection");
    connection.send(request.as_bytes()).expect("sent");
    assert_eq!(connection.answer(false).expect("an answer").status, 200);
    let seen = String::from_utf8(origin.take().remove(0)).expect("ASCII");
    let (_, chunks) = seen.split_once("\r\n\r\n").expect("a body");
    let (data, last) = dechunk(chunks.as_bytes());
    assert_eq!((data, last), (body.into_bytes(), &b"0\r\nx-end: yes\r\n\r\n"[..]));
}

#[test]
fn pipelined_requests_are_forwarded_one_by_one_and_answered_in_order() {
    let origin = Origin::answering(|request, stream| {
        use std::io::Write as _;
        let path = String::from_utf8_lossy(&request[5..8]).into_owned();
        stream
            .write_all(format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{path}", path.len()).as_bytes())
    });
    let proxy = Proxy::before(origin.address());
    let mut all = String::new();
    for n in 100..200 {
        let _ = match n % 3 {
            0 => write!(all, "GET /{n} HTTP/1.1\r\nHost: h\r\n\r\n"),
            1 => write!(
                all,
                "PUT /{n} HTTP/1.1\r\nHost: h\r\nContent-Length: 19\r\n\r\nGET /x HTTP/1.1\r\n\r\n"
            ),
            _ => write!(
                all,
                "PUT /{n} HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nGET /\r\n0\r\nt: 1\r\n\r\n\r\n"
            ),
        };
    }
    for step in [all.len(), 1000, 7] {
        let mut connection = Connection::open(proxy.address()).expect("a connection");
        for piece in all.as_bytes().chunks(step) {
            connection.send(piece).expect("sent");
        }
        for n in 100..200 {
            let answer = connection.answer(false).unwrap_or_else(|e| panic!("{n} by {step}: {e}"));
            assert_eq!((answer.status, answer.text()), (200, n.to_string()), "by {step}");
        }
        assert_eq!(origin.take().len(), 100, "by {step}");
    }
}

/// The body is not asked for by us, but by the origin.
#[test]
fn an_expectation_waits_for_the_origins_word() {
    let origin = Origin::start(ANSWER);
    let proxy = Proxy::before(origin.address());
    let mut connection = Connection::open(proxy.address()).expect("a connection");
    for framing in ["Content-Length: 5", "Transfer-Encoding: chunked"] {
        let head = format!("PUT / HTTP/1.1\r\nHost: h\r\nExpect: 100-Continue\r\n{framing}\r\n\r\n");
        connection.send(head.as_bytes()).expect("sent");
        assert_eq!(connection.answer(false).expect("an answer").status, 100, "{framing}");
        let body: &[u8] = if framing.starts_with('C') { b"hello" } else { b"5\r\nhello\r\n0\r\n\r\n" };
        connection.send(body).expect("sent");
        assert_eq!(connection.answer(false).expect("an answer").text(), "ok", "{framing}");
        let seen = origin.take();
        assert_eq!(seen.len(), 1, "{framing}");
        assert!(String::from_utf8_lossy(&seen[0]).contains("\r\nexpect: 100-Continue\r\n"), "{framing}");
    }
}

/// A client that asks first may hear that its body is not wanted; the connection then ends, since it may send it.
#[test]
fn a_body_that_is_not_wanted_is_not_read_as_a_request() {
    let origin = Origin::answering(|_, _| Ok(()));
    let proxy = Proxy::before(origin.address());
    let mut connection = Connection::open(proxy.address()).expect("a connection");
    connection
        .send(b"PUT / HTTP/1.1\r\nHost: h\r\nExpect: 100-continue, no\r\nContent-Length: 36\r\n\r\n")
        .expect("sent");
    assert_eq!(connection.answer(false).expect("an answer").status, 417);
    let _ = connection.send(b"GET /smuggled HTTP/1.1\r\nHost: h\r\n\r\n");
    assert_eq!(connection.rest().unwrap_or_default(), b"");
    assert_eq!(origin.bytes(), 0);
}

/// The default: a mesh forwards to services, not to whatever a client names.
#[test]
fn connect_is_refused_in_words() {
    let origin = Origin::start(ANSWER);
    let proxy = Proxy::before(origin.address());
    let mut connection = Connection::open(proxy.address()).expect("a connection");
    connection
        .send(b"CONNECT h:443 HTTP/1.1\r\nHost: h:443\r\n\r\nGET /x HTTP/1.1\r\nHost: h\r\n\r\n")
        .expect("sent");
    let answer = connection.answer(false).expect("an answer");
    assert_eq!((answer.status, answer.field("x-meshwork-reason").is_some()), (404, true), "{answer:?}");
    assert!(!answer.body.is_empty());
    // Whatever stood behind it was meant for a tunnel.
    assert_eq!(connection.rest().expect("closed"), b"", "{answer:?}");
    assert_eq!(origin.bytes(), 0);
}
