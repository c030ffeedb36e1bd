use super::*;

/// Parses `input` as the answer to GET, whole and as every prefix of it, and compares with a summary: status,
/// version, body, declared framing where it is another, what becomes of the connection.
fn check(input: &str, expected: Result<&str, ParseError>) {
    check_answer(input, RequestKind::Other, expected);
}

fn check_answer(input: &str, to: RequestKind, expected: Result<&str, ParseError>) {
    let (bytes, limits, mut fields) = (input.as_bytes(), Limits::default(), Vec::new());
    let whole = parse_response(bytes, &mut fields, &limits, to);
    let summary = whole.map(|response| response.map_or("partial".to_owned(), |r| describe(&r, bytes)));
    assert_eq!(summary, expected.map(str::to_owned), "{input:?} to {to:?}");
    let mut settled = false;
    for len in 0..bytes.len() {
        let part = parse_response(&bytes[..len], &mut fields, &limits, to);
        assert!(part == whole || part == Ok(None) && !settled, "{input:?} cut at {len}: {part:?}");
        settled |= part != Ok(None);
        if let Ok(Some(response)) = whole {
            assert_eq!(part.unwrap().is_some(), len >= response.head_len, "{input:?} cut at {len}");
        }
    }
}

fn describe(response: &Response, bytes: &[u8]) -> String {
    let mut parts =
        vec![response.status.to_string(), format!("{:?}", response.version), format!("{:?}", response.body)];
    if response.declared != response.body {
        parts.push(format!("declares {:?}", response.declared));
    }
    parts.push(if response.keep_alive { "keep" } else { "close" }.to_owned());
    parts.extend(response.upgrade.map(|u| format!("upgrade={}", String::from_utf8_lossy(u.of(bytes)))));
    parts.join(" ")
}

/// The answer with this status and these field lines, to a request of this kind.
fn check_status(status: u16, lines: &str, to: RequestKind, expected: Result<&str, ParseError>) {
    check_answer(&format!("HTTP/1.1 {status} x\r\n{lines}\r\n"), to, expected);
}

#[test]
fn status_lines_are_read() {
    check("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", Ok("200 Http11 Length(2) keep"));
    check("HTTP/1.1 200 \r\nContent-Length: 0\r\n\r\n", Ok("200 Http11 Length(0) keep"));
    check("HTTP/1.1 999\r\nContent-Length: 0\r\n\r\n", Ok("999 Http11 Length(0) keep"));
    check("HTTP/1.1 200 D\u{e9}j\u{e0} \t vu\r\n\r\n", Ok("200 Http11 UntilClose close"));
    check("HTTP/1.1 200 OK\r", Ok("partial"));
    check("", Ok("partial"));
}

#[test]
fn broken_status_lines_are_refused() {
    for (error, inputs) in [
        (
            ParseError::BadVersion,
            &["\r\nHTTP/1.1", " HTTP", "http/1.1", "ICY 200", "HTTP/1 ", "\0", "<html>"][..],
        ),
        (ParseError::UnsupportedVersion, &["HTTP/2.0 200", "HTTP/1.2 200", "HTTP/0.9 200"]),
        (
            ParseError::BadStatus,
            &[
                "HTTP/1.1  200",
                "HTTP/1.1\t200",
                "HTTP/1.1\r\n",
                "HTTP/1.10 200",
                "HTTP/1.1 099",
                "HTTP/1.1 2x0",
                "HTTP/1.1 20 OK",
                "HTTP/1.1 2000",
                "HTTP/1.1 +20",
                "HTTP/1.1 200\tOK",
                "HTTP/1.1 200OK",
            ],
        ),
        (ParseError::BadReason, &["HTTP/1.1 200 \0", "HTTP/1.1 200 O\x7fK", "HTTP/1.1 200 \x1b"]),
        (
            ParseError::BareLf,
            &["\n", "HTTP/1.1\n", "HTTP/1.1 200\n", "HTTP/1.1 200 OK\n", "HTTP/1.1 200 OK\r\n\n"],
        ),
        (ParseError::BareCr, &["HTTP/1.1 200\rx", "HTTP/1.1 200 OK\rHTTP/1.1", "HTTP/1.1 200 OK\r\n\rx"]),
        (ParseError::FoldedField, &["HTTP/1.1 200 OK\r\nA: b\r\n c"]),
        (ParseError::SpaceBeforeColon, &["HTTP/1.1 200 OK\r\nContent-Length : 5"]),
    ] {
        for input in inputs {
            check(input, Err(error));
        }
    }
}

#[test]
fn bodies_end_as_method_status_and_fields_say() {
    use RequestKind::{Connect, Head, Other};
    let (length, chunked) = ("Content-Length: 5\r\n", "Transfer-Encoding: chunked\r\n");
    for (status, lines, to, expected) in [
        (200, length, Other, "200 Http11 Length(5) keep"),
        (200, chunked, Other, "200 Http11 Chunked keep"),
        (200, "", Other, "200 Http11 UntilClose close"),
        (500, "", Other, "500 Http11 UntilClose close"),
        (205, length, Other, "205 Http11 Length(5) keep"),
        (200, length, Head, "200 Http11 None declares Length(5) keep"),
        (200, chunked, Head, "200 Http11 None declares Chunked keep"),
        (200, "", Head, "200 Http11 None keep"),
        (304, length, Other, "304 Http11 None declares Length(5) keep"),
        (304, "", Other, "304 Http11 None keep"),
        (204, "", Other, "204 Http11 None keep"),
        (204, "Content-Length: 0\r\n", Other, "204 Http11 None keep"),
        (204, length, Other, "204 Http11 None close"),
        (204, chunked, Other, "204 Http11 None close"),
        (100, "", Other, "100 Http11 None keep"),
        (103, "Link: x\r\n", Other, "103 Http11 None keep"),
        (200, "", Connect, "200 Http11 None close"),
        (204, "Content-Length: 0\r\n", Connect, "204 Http11 None close"),
        (407, length, Connect, "407 Http11 Length(5) keep"),
        (502, "", Connect, "502 Http11 UntilClose close"),
    ] {
        check_status(status, lines, to, Ok(expected));
    }
    for lines in [length, chunked] {
        check_status(100, lines, Other, Err(ParseError::BodyNotAllowed));
        check_status(200, lines, Connect, Err(ParseError::BodyNotAllowed));
        check_status(
            101,
            &format!("Connection: upgrade\r\nUpgrade: a\r\n{lines}"),
            Other,
            Err(ParseError::BodyNotAllowed),
        );
    }
}

#[test]
fn framing_is_as_strict_as_in_requests() {
    for (lines, error) in [
        ("Content-Length: 5\r\nContent-Length: 5\r\n", ParseError::RepeatedContentLength),
        ("Content-Length: 5, 5\r\n", ParseError::BadContentLength),
        ("Content-Length: +5\r\n", ParseError::BadContentLength),
        (
            "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
            ParseError::ContentLengthWithTransferEncoding,
        ),
        ("Transfer-Encoding: gzip\r\n", ParseError::BadTransferEncoding),
        ("Transfer-Encoding: gzip, chunked\r\n", ParseError::UnsupportedTransferCoding),
        (
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
            ParseError::RepeatedTransferEncoding,
        ),
        ("Content-Length: 5\r\nContent-Length: 6\r\n", ParseError::RepeatedContentLength),
        ("Content-Length: -1\r\n", ParseError::BadContentLength),
        ("Content-Length: 0x5\r\n", ParseError::BadContentLength),
        ("Content-Length: 05\r\n", ParseError::BadContentLength),
        ("Content-Length:\r\n", ParseError::BadContentLength),
        ("Content-Length: 9223372036854775808\r\n", ParseError::BadContentLength),
        ("Transfer-Encoding: identity\r\n", ParseError::BadTransferEncoding),
        ("Transfer-Encoding: chunked, chunked\r\n", ParseError::BadTransferEncoding),
        ("Transfer-Encoding: chunked;a\r\n", ParseError::BadTransferEncoding),
        ("Transfer-Encoding\r\n", ParseError::MissingColon),
        ("Connection: content-length\r\n", ParseError::BadConnectionOption),
        ("Connection: a b\r\n", ParseError::BadConnectionOption),
        ("X: a\nSet-Cookie: b\r\n", ParseError::BareLf),
        ("X: a\rSet-Cookie: b\r\n", ParseError::BareCr),
        ("X: a\r\n b\r\n", ParseError::FoldedField),
        (" X: a\r\n", ParseError::SpaceBeforeFirstField),
        (": a\r\n", ParseError::BadFieldName),
        ("X: \0\r\n", ParseError::BadFieldValue),
    ] {
        for (status, to) in [(200, RequestKind::Other), (200, RequestKind::Head), (304, RequestKind::Other)] {
            check_status(status, lines, to, Err(error));
        }
    }
    check("HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", Err(ParseError::TransferEncodingInHttp10));
}

#[test]
fn reuse_follows_version_and_options() {
    for (version, connection, expected) in [
        ("1.1", "keep-alive", "200 Http11 Length(0) keep"),
        ("1.1", "Close", "200 Http11 Length(0) close"),
        ("1.1", "keep-alive, close", "200 Http11 Length(0) close"),
        ("1.0", "x", "200 Http10 Length(0) close"),
        ("1.0", "Keep-Alive", "200 Http10 Length(0) keep"),
        ("1.0", "keep-alive, close", "200 Http10 Length(0) close"),
    ] {
        check(
            &format!("HTTP/{version} 200 OK\r\nContent-Length: 0\r\nConnection: {connection}\r\n\r\n"),
            Ok(expected),
        );
    }
    check("HTTP/1.0 200 OK\r\nConnection: keep-alive\r\n\r\n", Ok("200 Http10 UntilClose close"));
}

#[test]
fn protocols_switch_only_with_a_whole_upgrade() {
    let switch = |lines: &str, expected| check_status(101, lines, RequestKind::Other, expected);
    switch("Connection: Upgrade\r\nUpgrade: websocket\r\n", Ok("101 Http11 None close upgrade=websocket"));
    for lines in [
        "",
        "Upgrade: websocket\r\n",
        "Connection: upgrade\r\n",
        "Connection: upgrade\r\nUpgrade:\r\n",
        "Connection: upgrade\r\nUpgrade: a\r\nUpgrade: b\r\n",
    ] {
        switch(lines, Err(ParseError::BadUpgrade));
    }
    // Others may advertise protocols, which means nothing here.
    check(
        "HTTP/1.1 426 x\r\nConnection: upgrade\r\nUpgrade: a\r\nUpgrade: b\r\nContent-Length: 0\r\n\r\n",
        Ok("426 Http11 Length(0) keep"),
    );
}

#[test]
fn request_fields_mean_nothing_in_a_response() {
    check(
        "HTTP/1.1 200 OK\r\nHost: a b\r\nHost: c\r\nExpect: x\r\nContent-Length: 0\r\n\r\n",
        Ok("200 Http11 Length(0) keep"),
    );
}

#[test]
fn reasons_and_fields_are_where_the_spans_say() {
    let head = b"HTTP/1.1 200 All right\r\nConnection: X\r\nTE: trailers\r\nx: 1\r\nY: 2\r\nContent-Length: 3\r\n\r\n";
    let mut fields = Vec::new();
    let response =
        parse_response(head, &mut fields, &Limits::default(), RequestKind::Other).unwrap().unwrap();
    assert_eq!(response.reason.of(head), b"All right");
    let forwarded: Vec<_> = fields.iter().filter(|f| !f.hop_by_hop).map(|f| f.name.of(head)).collect();
    assert_eq!(forwarded, [&b"Y"[..], b"Content-Length"]);
}
