use super::*;

type Lines<'a> = &'a [(&'a str, &'a str)];

fn bytes(fields: Lines<'_>) -> impl Iterator<Item = (&[u8], &[u8])> {
    fields.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes()))
}

/// Runs a writer behind other output, and compares what it appended; after an error, nothing.
fn check(write: impl FnOnce(&mut Vec<u8>) -> Result<(), WriteError>, expected: Result<&str, WriteError>) {
    let mut out = b"before".to_vec();
    let result = write(&mut out);
    let appended = String::from_utf8_lossy(&out[b"before".len()..]).into_owned();
    assert_eq!(result.map(|()| appended.as_str()), expected);
    assert!(result.is_ok() || appended.is_empty(), "{appended:?}");
}

fn check_request(
    line: [&str; 3],
    fields: Lines<'_>,
    framing: Framing,
    connection: Connection<'_>,
    expected: Result<&str, WriteError>,
) {
    let [method, target, authority] = line.map(str::as_bytes);
    let line = RequestLine { method, target, authority };
    check(|out| write_request_head(out, &line, bytes(fields), framing, connection), expected);
}

fn check_response(
    status: u16,
    to: RequestKind,
    framing: Framing,
    connection: Connection<'_>,
    expected: Result<&str, WriteError>,
) {
    let line = StatusLine { status, to };
    check(|out| write_response_head(out, line, bytes(&[("a", "b")]), framing, connection), expected);
}

const OWNED: Lines<'static> = &[
    ("Host", "evil"),
    ("content-length", "7"),
    ("Transfer-Encoding", "chunked"),
    ("connection", "x"),
    ("keep-alive", "5"),
    ("proxy-connection", "close"),
    ("upgrade", "h2c"),
    ("te", "gzip"),
    ("http2-settings", "x"),
];

#[test]
fn request_heads_are_canonical() {
    check_request(
        ["GET", "/a?b", "c:80"],
        &[("X-Y", "z"), ("e", "")],
        Framing::None,
        Connection::KeepAlive,
        Ok("GET /a?b HTTP/1.1\r\nhost: c:80\r\nX-Y: z\r\ne: \r\n\r\n"),
    );
    check_request(
        ["POST", "/", ""],
        OWNED,
        Framing::Length(u64::MAX),
        Connection::Close,
        Ok("POST / HTTP/1.1\r\nhost: \r\ncontent-length: 18446744073709551615\r\nconnection: close\r\n\r\n"),
    );
    check_request(
        ["PUT", "/", "a"],
        &[("te", "Trailers"), ("TE", "trailers")],
        Framing::Chunked,
        Connection::KeepAlive,
        Ok(
            "PUT / HTTP/1.1\r\nhost: a\r\nte: Trailers\r\ntransfer-encoding: chunked\r\nconnection: te\r\n\r\n",
        ),
    );
    check_request(
        ["GET", "/", "a"],
        &[],
        Framing::None,
        Connection::Upgrade(b"websocket"),
        Ok("GET / HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n"),
    );
    check_request(
        ["CONNECT", "a:1", "a:1"],
        &[],
        Framing::None,
        Connection::KeepAlive,
        Ok("CONNECT a:1 HTTP/1.1\r\nhost: a:1\r\n\r\n"),
    );
    check_request(
        ["OPTIONS", "*", "a"],
        &[],
        Framing::None,
        Connection::KeepAlive,
        Ok("OPTIONS * HTTP/1.1\r\nhost: a\r\n\r\n"),
    );
}

#[test]
fn nothing_that_could_start_another_line_is_written() {
    let refuse = |line, error| {
        check_request(line, &[], Framing::None, Connection::KeepAlive, Err(error));
    };
    for method in ["", "G T", "GET\r\n", "GET:", "G\0"] {
        refuse([method, "/", "a"], WriteError::Method);
    }
    for target in
        ["", "a", "/ HTTP/1.1\r\nx: y", "/a b", "/\u{e9}", "/\0", "/#", "*", "http://b/", "/\x7f", "/\t"]
    {
        refuse(["GET", target, "a"], WriteError::Target);
    }
    refuse(["CONNECT", "/", "a"], WriteError::Target);
    refuse(["CONNECT", "a", "a"], WriteError::Target);
    for authority in ["a\r\nx: y", "a b", "a/b", "u@a", "a:", "\u{e9}"] {
        refuse(["GET", "/", authority], WriteError::Authority);
    }
    let refuse_field = |name, value, error| {
        check_request(
            ["GET", "/", "a"],
            &[("ok", "ok"), (name, value)],
            Framing::None,
            Connection::KeepAlive,
            Err(error),
        );
    };
    for name in ["", "a b", "a:", ":path", "a\r\nb", "\u{e9}", "a\0", " a"] {
        refuse_field(name, "x", WriteError::FieldName);
    }
    for value in ["a\r\nb: c", "\n", "\r", "a\0", "\x7f", "\x0b"] {
        refuse_field("x", value, WriteError::FieldValue);
    }
    for protocol in ["", "a\r\nb: c", "\0"] {
        let upgrade = Connection::Upgrade(protocol.as_bytes());
        check_request(["GET", "/", "a"], &[], Framing::None, upgrade, Err(WriteError::Upgrade));
    }
}

#[test]
fn expectations_are_written_only_where_a_body_can_be_waited_for() {
    let check = |value, framing, expected| {
        check_request(["PUT", "/", "a"], &[("Expect", value)], framing, Connection::KeepAlive, expected);
    };
    check(
        "100-continue",
        Framing::Length(3),
        Ok("PUT / HTTP/1.1\r\nhost: a\r\nExpect: 100-continue\r\ncontent-length: 3\r\n\r\n"),
    );
    check("100-continue", Framing::None, Ok("PUT / HTTP/1.1\r\nhost: a\r\n\r\n"));
    check("x", Framing::Length(0), Ok("PUT / HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\n\r\n"));
    for odd in ["", "x", "y 100-continue", "100-continue, x"] {
        check(odd, Framing::Chunked, Err(WriteError::FieldValue));
    }
}

#[test]
fn requests_have_a_certain_end() {
    let get = ["GET", "/", "a"];
    check_request(get, &[], Framing::UntilClose, Connection::Close, Err(WriteError::Framing));
    for framing in [Framing::Length(0), Framing::Chunked] {
        check_request(["CONNECT", "a:1", "a"], &[], framing, Connection::KeepAlive, Err(WriteError::Framing));
    }
}

#[test]
fn response_heads_say_where_the_client_must_stop() {
    use Framing::{Chunked, Length, None, UntilClose};
    use RequestKind::{Connect, Head, Other};
    for (status, to, framing, expected) in [
        (200, Other, Length(5), "HTTP/1.1 200 OK\r\na: b\r\ncontent-length: 5\r\n\r\n"),
        (200, Other, Chunked, "HTTP/1.1 200 OK\r\na: b\r\ntransfer-encoding: chunked\r\n\r\n"),
        (200, Other, UntilClose, "HTTP/1.1 200 OK\r\na: b\r\nconnection: close\r\n\r\n"),
        (503, Other, None, "HTTP/1.1 503 Service Unavailable\r\na: b\r\ncontent-length: 0\r\n\r\n"),
        (299, Other, None, "HTTP/1.1 299 \r\na: b\r\ncontent-length: 0\r\n\r\n"),
        (200, Head, None, "HTTP/1.1 200 OK\r\na: b\r\n\r\n"),
        (200, Head, Length(9), "HTTP/1.1 200 OK\r\na: b\r\ncontent-length: 9\r\n\r\n"),
        (200, Head, UntilClose, "HTTP/1.1 200 OK\r\na: b\r\n\r\n"),
        (304, Other, Length(9), "HTTP/1.1 304 Not Modified\r\na: b\r\ncontent-length: 9\r\n\r\n"),
        (304, Other, None, "HTTP/1.1 304 Not Modified\r\na: b\r\n\r\n"),
        (204, Other, Length(0), "HTTP/1.1 204 No Content\r\na: b\r\n\r\n"),
        (103, Other, None, "HTTP/1.1 103 Early Hints\r\na: b\r\n\r\n"),
        (200, Connect, UntilClose, "HTTP/1.1 200 OK\r\na: b\r\n\r\n"),
        (502, Connect, None, "HTTP/1.1 502 Bad Gateway\r\na: b\r\ncontent-length: 0\r\n\r\n"),
    ] {
        check_response(status, to, framing, Connection::KeepAlive, Ok(expected));
    }
    for (status, to, framing) in [(204, Other, Length(1)), (100, Other, Chunked), (200, Connect, Chunked)] {
        check_response(status, to, framing, Connection::KeepAlive, Err(WriteError::Framing));
    }
    // Nothing is offered towards a client, and `te` is a request's.
    let line = StatusLine { status: 200, to: Other };
    let fields = [("te", "trailers"), ("upgrade", "h2c"), ("x", "y")];
    check(
        |out| write_response_head(out, line, bytes(&fields), Length(0), Connection::KeepAlive),
        Ok("HTTP/1.1 200 OK\r\nx: y\r\ncontent-length: 0\r\n\r\n"),
    );
    for status in [0, 99, 1000] {
        check_response(status, Other, None, Connection::KeepAlive, Err(WriteError::Status));
    }
    check_response(101, Other, None, Connection::KeepAlive, Err(WriteError::Upgrade));
    check_response(101, Other, Length(2), Connection::Upgrade(b"a"), Err(WriteError::Framing));
    check_response(
        101,
        Other,
        None,
        Connection::Upgrade(b"websocket"),
        Ok("HTTP/1.1 101 Switching Protocols\r\na: b\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n"),
    );
}

#[test]
fn chunks_and_trailers_are_canonical() {
    let mut out = Vec::new();
    write_chunk(&mut out, b"");
    write_chunk(&mut out, &[b'x'; 26]);
    assert_eq!(out, format!("1a\r\n{}\r\n", "x".repeat(26)).into_bytes());
    check(|out| write_last_chunk(out, bytes(&[])), Ok("0\r\n\r\n"));
    check(|out| write_last_chunk(out, bytes(&[("a", "b"), ("expect", "x")])), Ok("0\r\na: b\r\n\r\n"));
    check(|out| write_last_chunk(out, bytes(&[("Authorization", "x"), ("a", "")])), Ok("0\r\na: \r\n\r\n"));
    check(|out| write_last_chunk(out, bytes(OWNED)), Ok("0\r\n\r\n"));
    check(|out| write_last_chunk(out, bytes(&[("te", "trailers")])), Ok("0\r\n\r\n"));
    check(|out| write_last_chunk(out, bytes(&[("a", "b"), ("c", "\r\n")])), Err(WriteError::FieldValue));
}

#[test]
fn framing_towards_an_old_client_needs_no_chunks() {
    use crate::Version::{Http10, Http11};
    assert_eq!(Framing::Chunked.towards(Http10), Framing::UntilClose);
    assert_eq!(Framing::Chunked.towards(Http11), Framing::Chunked);
    assert_eq!(Framing::Length(1).towards(Http10), Framing::Length(1));
}
