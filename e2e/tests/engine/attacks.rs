//! Requests that are refused: a client error or a close, not one byte to the origin, and nothing behind them is
//! looked at.
//!
//! Written as the authors of request-smuggling tool kits write them: each is a message that some server reads
//! otherwise than some other. `crates/http1` has the full tables; these are the ones that have been used in earnest,
//! and the ways in which they can be delivered.

use e2e::http::Connection;
use e2e::origin::{Origin, complete};
use e2e::proxy::Proxy;

const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

/// What an attacker hopes to get past the proxy unseen; stands behind every attack.
const SMUGGLED: &[u8] = b"GET /smuggled HTTP/1.1\r\nHost: h\r\n\r\n";

/// How an attack is cut into pieces.
#[derive(Clone, Copy, Debug)]
enum Delivery {
    /// In one write, with what follows.
    Whole,
    /// Every byte in a write of its own.
    ByteByByte,
    /// Twice, cut behind the first line.
    AfterFirstLine,
}

/// Requests whose line is broken.
const LINES: &[&[u8]] = &[
    b"GET /\r\n\r\n",
    b"GET / HTTP/0.9\r\nHost: h\r\n\r\n",
    b"GET / HTTP/1.2\r\nHost: h\r\n\r\n",
    b"GET / HTTP/2.0\r\nHost: h\r\n\r\n",
    b"GET / HTTP/3.0\r\nHost: h\r\n\r\n",
    b"GET / HTTP/1.10\r\nHost: h\r\n\r\n",
    b"GET / http/1.1\r\nHost: h\r\n\r\n",
    b"GET / HTTP/1.1 \r\nHost: h\r\n\r\n",
    b"GET / HTTP/1.1\tx\r\nHost: h\r\n\r\n",
    b"GET / HTTP/1.1 HTTP/1.1\r\nHost: h\r\n\r\n",
    b"GET  / HTTP/1.1\r\nHost: h\r\n\r\n",
    b"GET /  HTTP/1.1\r\nHost: h\r\n\r\n",
    b"GET\t/ HTTP/1.1\r\nHost: h\r\n\r\n",
    b"GET /\tHTTP/1.1\r\nHost: h\r\n\r\n",
    b"GET /\x0bHTTP/1.1\r\nHost: h\r\n\r\n",
    b" GET / HTTP/1.1\r\nHost: h\r\n\r\n",
    b"\0GET / HTTP/1.1\r\nHost: h\r\n\r\n",
    b"G\0ET / HTTP/1.1\r\nHost: h\r\n\r\n",
    b"GET: / HTTP/1.1\r\nHost: h\r\n\r\n",
    b"GET /\0 HTTP/1.1\r\nHost: h\r\n\r\n",
    b"GET /a b HTTP/1.1\r\nHost: h\r\n\r\n",
    b"GET /\xc3\xa9 HTTP/1.1\r\nHost: h\r\n\r\n",
    b"GET /\xa0 HTTP/1.1\r\nHost: h\r\n\r\n",
    b"GET /a#b HTTP/1.1\r\nHost: h\r\n\r\n",
    b"GET * HTTP/1.1\r\nHost: h\r\n\r\n",
    b"GET h:80 HTTP/1.1\r\nHost: h\r\n\r\n",
    b"GET a HTTP/1.1\r\nHost: h\r\n\r\n",
    b"GET ftp://h/ HTTP/1.1\r\nHost: h\r\n\r\n",
    b"GET http://u@h/ HTTP/1.1\r\nHost: h\r\n\r\n",
    b"GET http://u:p@h/ HTTP/1.1\r\nHost: h\r\n\r\n",
    b"GET http://evil/ HTTP/1.1\r\nHost: h\r\n\r\n",
    b"GET http://h:81/ HTTP/1.1\r\nHost: h\r\n\r\n",
    b"GET http://h?a HTTP/1.1\r\nHost: h\r\n\r\n",
    b"GET http:///a HTTP/1.1\r\nHost: h\r\n\r\n",
    b"OPTIONS ** HTTP/1.1\r\nHost: h\r\n\r\n",
    b"CONNECT / HTTP/1.1\r\nHost: h\r\n\r\n",
    b"CONNECT h HTTP/1.1\r\nHost: h\r\n\r\n",
    b"CONNECT h:0 HTTP/1.1\r\nHost: h:0\r\n\r\n",
    b"CONNECT h:443 HTTP/1.1\r\nHost: evil:443\r\n\r\n",
    b"CONNECT h:443 HTTP/1.1\r\nHost: h:443\r\nContent-Length: 3\r\n\r\nabc",
    b"TRACE / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabc",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"\r\n\r\nGET / HTTP/1.1\r\nHost: h\r\n\r\n",
    b"\nGET / HTTP/1.1\r\nHost: h\r\n\r\n",
    b"GET / HTTP/1.1\nHost: h\n\n",
    b"GET / HTTP/1.1\r\nHost: h\n\r\n",
    b"GET / HTTP/1.1\r\nHost: h\r\n\n",
    b"GET / HTTP/1.1\rHost: h\r\n\r\n",
    b"GET / HTTP/1.1\r\r\nHost: h\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: h\r\n\r\r\n",
    b"GET / HTTP/1.1\r\n\r\n",
    b"GET / HTTP/1.1\r\n Host: h\r\n\r\n",
    b"GET / HTTP/1.1\r\n\tX: y\r\nHost: h\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost:\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a, b\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: u@h\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: h/a\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: h:x\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: h:99999\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: h%00\r\n\r\n",
    b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03",
    b"HTTP/1.1 200 OK\r\n\r\n",
];

/// Field lines of a POST with a `Host` before them; the body is what they say, or what one of them says.
const FIELDS: &[&[u8]] = &[
    // CL.TE, TE.CL, and both in every order and spelling.
    b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n2c\r\n",
    b"Content-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"content-length: 4\r\nX: y\r\nTRANSFER-ENCODING: Chunked\r\n\r\n0\r\n\r\n",
    // TE.TE.
    b"Transfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n\r\n0\r\n\r\n",
    b"Transfer-Encoding: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"Transfer-Encoding: chunked\r\nTransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    b"Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
    b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    b"Transfer-Encoding: identity\r\nContent-Length: 3\r\n\r\nabc",
    b"Transfer-Encoding: identity\r\n\r\n",
    b"Transfer-Encoding:\r\n\r\n0\r\n\r\n",
    b"Transfer-Encoding: chunked,\r\n\r\n0\r\n\r\n",
    b"Transfer-Encoding: ,chunked\r\n\r\n0\r\n\r\n",
    b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    b"Transfer-Encoding: \"chunked\"\r\n\r\n0\r\n\r\n",
    b"Transfer-Encoding: 'chunked'\r\n\r\n0\r\n\r\n",
    b"Transfer-Encoding: chunked;a=b\r\n\r\n0\r\n\r\n",
    b"Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
    b"Transfer-Encoding: chunked\x0b\r\n\r\n0\r\n\r\n",
    b"Transfer-Encoding: chunked\x0c\r\n\r\n0\r\n\r\n",
    b"Transfer-Encoding: chunked\0\r\n\r\n0\r\n\r\n",
    b"Transfer-Encoding: \xa0chunked\r\n\r\n0\r\n\r\n",
    b"Transfer-Encoding: \xffchunked\r\n\r\n0\r\n\r\n",
    b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
    b"Transfer-Encoding\t: chunked\r\n\r\n0\r\n\r\n",
    b"Transfer-Encoding\0: chunked\r\n\r\n0\r\n\r\n",
    b"Transfer-Encoding\x0b: chunked\r\n\r\n0\r\n\r\n",
    b"\x0bTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b" Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"X: y\r\n Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n",
    b"Transfer-Encoding\r\n : chunked\r\n\r\n0\r\n\r\n",
    b"Transfer-Encoding chunked\r\n\r\n0\r\n\r\n",
    b"X: y\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"X: y\rTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"X: y\r\n\rTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"Transfer-Encoding: chunked\n\r\n0\r\n\r\n",
    b"Transfer-Encoding: chunked\r\r\n\r\n0\r\n\r\n",
    // Lengths that are none, or two.
    b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
    b"Content-Length: 3\r\ncontent-length: 3\r\n\r\nabc",
    b"Content-Length: 3, 3\r\n\r\nabc",
    b"Content-Length: 3,4\r\n\r\nabc",
    b"Content-Length: +3\r\n\r\nabc",
    b"Content-Length: -3\r\n\r\nabc",
    b"Content-Length: 0x3\r\n\r\nabc",
    b"Content-Length: 03\r\n\r\nabc",
    b"Content-Length: 3.0\r\n\r\nabc",
    b"Content-Length: 3e0\r\n\r\nabc",
    b"Content-Length: 3 3\r\n\r\nabc",
    b"Content-Length: 1_0\r\n\r\nabc",
    b"Content-Length: \"3\"\r\n\r\nabc",
    b"Content-Length: 3\x0b\r\n\r\nabc",
    b"Content-Length: 3\0\r\n\r\nabc",
    b"Content-Length: \xc2\xb3\r\n\r\nabc",
    b"Content-Length:\r\n\r\n",
    b"Content-Length: 18446744073709551619\r\n\r\nabc",
    b"Content-Length: 9223372036854775808\r\n\r\nabc",
    b"Content-Length: 99999999999999999999999999\r\n\r\nabc",
    b"Content-Length : 3\r\n\r\nabc",
    b"Content-Length\0: 3\r\n\r\nabc",
    b"Content-Length\xa0: 3\r\n\r\nabc",
    b"Content-Length\n: 3\r\n\r\nabc",
    b"X: y\r\n Content-Length: 3\r\n\r\nabc",
    // Names and values that are none.
    b"Host: h\r\n\r\n",
    b"host: evil\r\n\r\n",
    b": y\r\n\r\n",
    b"X\r\n\r\n",
    b"X y: z\r\n\r\n",
    b"\"X\": y\r\n\r\n",
    b"X(: y\r\n\r\n",
    b"X\x7f: y\r\n\r\n",
    b"X\xe9: y\r\n\r\n",
    b"X: a\0b\r\n\r\n",
    b"X: a\x01b\r\n\r\n",
    b"X: a\x7fb\r\n\r\n",
    b"X: a\x1b[0m\r\n\r\n",
    b"X: y\r\n z\r\n\r\n",
    b"X: y\r\n\tz\r\n\r\n",
    b"X: y\r\n \r\n\r\n",
    // What belongs to the connection.
    b"Connection: content-length\r\nContent-Length: 3\r\n\r\nabc",
    b"Connection: host\r\n\r\n",
    b"Connection: close, Host\r\n\r\n",
    b"Connection: a b\r\n\r\n",
    b"Connection: \"close\"\r\n\r\n",
    b"Upgrade: a\r\nUpgrade: b\r\nConnection: upgrade\r\n\r\n",
    b"Upgrade:\r\nConnection: upgrade\r\n\r\n",
    // 0.CL: an expectation that only one of two servers waits for.
    b"Expect: y 100-continue\r\nContent-Length: 3\r\n\r\nabc",
    b"Expect: 100-continue, x\r\nContent-Length: 3\r\n\r\nabc",
    b"Expect:\r\nContent-Length: 3\r\n\r\nabc",
    b"Expect: 200-ok\r\nContent-Length: 3\r\n\r\nabc",
    b"Expect: 100-continue\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\nabc",
];

/// Chunked bodies that are broken before their end.
const CHUNKS: &[&[u8]] = &[
    b"0x3\r\nabc\r\n0\r\n\r\n",
    b"+3\r\nabc\r\n0\r\n\r\n",
    b"-3\r\nabc\r\n0\r\n\r\n",
    b" 3\r\nabc\r\n0\r\n\r\n",
    b"3 \r\nabc\r\n0\r\n\r\n",
    b"3\t\r\nabc\r\n0\r\n\r\n",
    b"3 ;a\r\nabc\r\n0\r\n\r\n",
    b"3_0\r\nabc\r\n0\r\n\r\n",
    b"\r\n3\r\nabc\r\n0\r\n\r\n",
    b";a\r\n\r\n",
    b"g\r\n\r\n",
    b"3\nabc\r\n0\r\n\r\n",
    b"3\rabc\r\n0\r\n\r\n",
    b"3\r\nabc\n0\r\n\r\n",
    b"3\r\nabc0\r\n\r\n",
    b"3\r\nabcd\r\n0\r\n\r\n",
    b"3\r\nab\r\n0\r\n\r\n",
    b"3\r\nabc\r\n\r\n0\r\n\r\n",
    b"10000000000000003\r\nabc\r\n0\r\n\r\n",
    b"00000000000000003\r\nabc\r\n0\r\n\r\n",
    b"ffffffffffffffff\r\nabc",
    b"8000000000000003\r\nabc",
    b"3;\nabc\r\n0\r\n\r\n",
    b"3;a\nb\r\nabc\r\n0\r\n\r\n",
    b"3;a\rb\r\nabc\r\n0\r\n\r\n",
    b"3;a\0\r\nabc\r\n0\r\n\r\n",
    b"3;\"\n\"\r\nabc\r\n0\r\n\r\n",
    b"2;\nxx\r\n4c\r\n0\r\n\r\n",
    b"0;\n\r\n",
    b"0\n\r\n",
    b"0\n\n",
    b"0\r\r\n\r\n",
    b"0\r\n\n",
    b"0\r\n\rX",
    b"0\r\nX: y\n\r\n",
    b"0\r\nX: y\rZ: w\r\n\r\n",
    b"0\r\n X: y\r\n\r\n",
    b"0\r\nX : y\r\n\r\n",
    b"0\r\nX: y\r\n z\r\n\r\n",
    b"0\r\nX\r\n\r\n",
    b"0\r\n: y\r\n\r\n",
    b"0\r\nX: \0\r\n\r\n",
    b"0\r\nContent-Length: 3\r\n\r\n",
    b"0\r\nTransfer-Encoding: chunked\r\n\r\n",
    b"0\r\nHost: evil\r\n\r\n",
    b"0\r\nConnection: close\r\n\r\n",
    b"0\r\nGET / HTTP/1.1\r\nHost: h\r\n\r\n",
];

/// Heads and bodies that are too large in one way.
fn oversized() -> Vec<(&'static str, Vec<u8>)> {
    let get = "GET / HTTP/1.1\r\nHost: h\r\n";
    let post = "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n";
    vec![
        ("a target", format!("GET /{} HTTP/1.1\r\nHost: h\r\n\r\n", "a".repeat(17_000))),
        ("a method", format!("{} / HTTP/1.1\r\nHost: h\r\n\r\n", "M".repeat(17_000))),
        ("a value", format!("{get}X: {}\r\n\r\n", "y".repeat(62_000))),
        ("a name", format!("{get}{}: y\r\n\r\n", "X".repeat(62_000))),
        ("all fields", format!("{get}{}\r\n", format!("X: {}\r\n", "y".repeat(700)).repeat(90))),
        ("the number of fields", format!("{get}{}\r\n", "X: y\r\n".repeat(100))),
        ("the number of options", format!("{get}Connection: {}\r\n\r\n", "a,".repeat(33))),
        ("one extension", format!("{post}1;{}\r\nx\r\n0\r\n\r\n", "a".repeat(17_000))),
        (
            "all extensions",
            format!("{post}{}0\r\n\r\n", format!("1;{}\r\nx\r\n", "a".repeat(200)).repeat(90)),
        ),
        ("a trailer", format!("{post}0\r\nX: {}\r\n\r\n", "y".repeat(9_000))),
        ("the number of trailers", format!("{post}0\r\n{}\r\n", "X: y\r\n".repeat(101))),
    ]
    .into_iter()
    .map(|(name, text)| (name, text.into_bytes()))
    .collect()
}

/// Sends an attack and returns all that comes back until the proxy closes.
fn attack(proxy: &Proxy, attack: &[u8], delivery: Delivery) -> Vec<u8> {
    let mut connection = Connection::open(proxy.address()).expect("a connection");
    let mut bytes = attack.to_vec();
    bytes.extend_from_slice(SMUGGLED);
    let cut = match delivery {
        Delivery::Whole => bytes.len(),
        Delivery::ByteByByte => 1,
        Delivery::AfterFirstLine => bytes.iter().position(|b| *b == b'\n').map_or(1, |at| at + 1),
    };
    // Once it has answered, the proxy may refuse to take more.
    match delivery {
        Delivery::ByteByByte => {
            for piece in bytes.chunks(cut) {
                if connection.send(piece).is_err() {
                    break;
                }
            }
        }
        _ => {
            let _ = connection.send(&bytes[..cut]).and_then(|()| connection.send(&bytes[cut..]));
        }
    }
    connection.rest().unwrap_or_else(|e| panic!("{:?} {delivery:?}: {e}", attack.escape_ascii().to_string()))
}

/// Whether what came back is one refusal and nothing else.
fn is_refusal(answer: &[u8]) -> bool {
    let text = String::from_utf8_lossy(answer);
    let statuses: Vec<_> = text.match_indices("HTTP/1.1 ").map(|(at, _)| &text[at + 9..at + 12]).collect();
    let [status] = statuses[..] else { return false };
    text.starts_with("HTTP/1.1 ") && (status.starts_with('4') || matches!(status, "501" | "505"))
}

/// Checks attacks of which not one byte may reach the origin.
fn check(attacks: impl IntoIterator<Item = Vec<u8>>, deliveries: &[Delivery]) {
    let origin = Origin::start(ANSWER);
    let mut proxy = Proxy::before(origin.address());
    let mut failures = Vec::new();
    for bytes in attacks {
        let shown = bytes[..bytes.len().min(300)].escape_ascii().to_string();
        for delivery in deliveries {
            let answer = attack(&proxy, &bytes, *delivery);
            if !is_refusal(&answer) {
                failures.push(format!("{shown} {delivery:?}: {}", answer.escape_ascii()));
            }
            let seen = origin.bytes();
            if seen > 0 {
                let text: Vec<_> = origin.take().iter().map(|r| r.escape_ascii().to_string()).collect();
                panic!(
                    "{shown} {delivery:?}: the origin got {seen} bytes: {text:?}\n{}",
                    failures.join("\n")
                );
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    // It still works, and nothing arrives late.
    let answer = e2e::http::get(proxy.address(), "/fine").expect("an answer");
    assert_eq!(answer.status, 200);
    let seen = origin.take();
    assert!(seen.len() == 1 && seen[0].starts_with(b"GET /fine "), "{seen:?}");
    assert!(proxy.alive());
}

fn with_fields(fields: &[u8]) -> Vec<u8> {
    [b"POST /a HTTP/1.1\r\nHost: h\r\n", fields].concat()
}

fn with_chunks(chunks: &[u8]) -> Vec<u8> {
    [b"POST /a HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n", chunks].concat()
}

const ALL: &[Delivery] = &[Delivery::Whole, Delivery::ByteByByte, Delivery::AfterFirstLine];

#[test]
fn broken_request_lines_reach_nobody() {
    check(LINES.iter().map(|line| line.to_vec()), ALL);
}

#[test]
fn broken_fields_and_framing_reach_nobody() {
    check(FIELDS.iter().map(|fields| with_fields(fields)), ALL);
}

#[test]
fn the_same_is_refused_in_http_1_0() {
    let old = |fields: &&[u8]| {
        String::from_utf8(with_fields(fields)).ok().map(|t| t.replace("HTTP/1.1", "HTTP/1.0").into_bytes())
    };
    let more = [b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".to_vec()];
    // An old client's expectations mean nothing, right or wrong ones: but wrong ones are refused all the same.
    check(FIELDS.iter().filter_map(old).chain(more), &[Delivery::Whole]);
}

#[test]
fn broken_chunks_that_come_with_their_head_reach_nobody() {
    check(CHUNKS.iter().map(|chunks| with_chunks(chunks)), &[Delivery::Whole]);
}

#[test]
fn what_is_too_large_reaches_nobody() {
    check(
        oversized()
            .into_iter()
            .filter(|(name, _)| !name.contains("extension") && !name.contains("trailer"))
            .map(|(_, b)| b),
        &[Delivery::Whole, Delivery::AfterFirstLine],
    );
}

/// Where the head had gone on before the body broke, the origin must see that the request is not complete.
#[test]
fn broken_chunks_never_complete_a_request() {
    let origin = Origin::start(ANSWER);
    let proxy = Proxy::before(origin.address());
    let large =
        oversized().into_iter().filter(|(name, _)| name.contains("extension") || name.contains("trailer"));
    let attacks: Vec<_> = CHUNKS
        .iter()
        .map(|chunks| (with_chunks(chunks), Delivery::ByteByByte))
        .chain(large.map(|(_, bytes)| (bytes, Delivery::Whole)))
        .collect();
    for (bytes, delivery) in attacks {
        let shown = bytes[..bytes.len().min(300)].escape_ascii().to_string();
        let answer = attack(&proxy, &bytes, delivery);
        assert!(is_refusal(&answer), "{shown}: {}", answer.escape_ascii());
    }
    // A request behind them all, so that the record of what came before is complete.
    let answer = e2e::http::get(proxy.address(), "/fine").expect("an answer");
    assert_eq!(answer.status, 200);
    let (fine, broken): (Vec<_>, Vec<_>) = origin.take().into_iter().partition(|r| complete(r).is_some());
    assert_eq!(fine.len(), 1, "{:?}", fine.iter().map(|r| r.escape_ascii().to_string()).collect::<Vec<_>>());
    for request in broken {
        assert!(!request.windows(8).any(|w| w == b"smuggled"), "{}", request.escape_ascii());
    }
}

#[test]
fn what_stands_behind_a_refused_request_is_never_processed() {
    let origin = Origin::start(ANSWER);
    let proxy = Proxy::before(origin.address());
    for bad in
        [LINES[2], LINES[43], &with_fields(FIELDS[0]), &with_fields(FIELDS[40]), &with_chunks(CHUNKS[0])]
    {
        let good = b"GET /good HTTP/1.1\r\nHost: h\r\n\r\n";
        let mut connection = Connection::open(proxy.address()).expect("a connection");
        connection.send(&[good, good, bad, good, SMUGGLED].concat()).expect("sent");
        let statuses: Vec<_> = (0..3).map(|_| connection.answer(false).expect("an answer").status).collect();
        assert!(statuses[..2] == [200, 200] && (400..600).contains(&statuses[2]), "{statuses:?}");
        assert_eq!(connection.rest().expect("closed"), b"");
        let seen = origin.take();
        assert_eq!(seen.len(), 2, "{}", bad.escape_ascii());
        assert!(seen.iter().all(|request| request.starts_with(b"GET /good ")));
    }
}
