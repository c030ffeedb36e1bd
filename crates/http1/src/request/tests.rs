use super::*;

/// Parses `input` whole and as every prefix of it, and compares with a summary: method, path, authority, version,
/// body, what becomes of the connection, and the names of the fields that are not forwarded.
fn check(input: &str, expected: Result<&str, ParseError>) {
    check_bytes(input.as_bytes(), &Limits::default(), expected);
}

fn check_bytes(input: &[u8], limits: &Limits, expected: Result<&str, ParseError>) {
    let shown = String::from_utf8_lossy(input);
    let mut fields = Vec::new();
    let whole = parse_request(input, &mut fields, limits);
    let summary = whole.map(|request| request.map_or("partial".to_owned(), |r| describe(&r, input, &fields)));
    assert_eq!(summary, expected.map(str::to_owned), "{shown:?}");
    let mut settled = false;
    for len in 0..input.len() {
        let part = parse_request(&input[..len], &mut fields, limits);
        // Nothing is decided, and then decided once and for all.
        assert!(part == whole || part == Ok(None) && !settled, "{shown:?} cut at {len}: {part:?}");
        settled |= part != Ok(None);
        if let Ok(Some(request)) = whole {
            assert_eq!(part.unwrap().is_some(), len >= request.head_len, "{shown:?} cut at {len}");
        }
    }
}

fn describe(request: &Request, bytes: &[u8], fields: &[FieldSpan]) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let mut parts = vec![
        text(request.method.of(bytes)),
        text(request.path_and_query(bytes)),
        text(request.authority().map_or(b"-", |a| a.of(bytes))),
        format!("{:?}", request.version),
        format!("{:?}", request.body),
        if request.keep_alive { "keep" } else { "close" }.to_owned(),
    ];
    parts.extend(request.upgrade.map(|u| format!("upgrade={}", text(u.of(bytes)))));
    parts.extend(request.expect_continue.then(|| "expect".to_owned()));
    parts.extend(fields.iter().filter(|f| f.hop_by_hop).map(|f| format!("-{}", text(f.name.of(bytes)))));
    parts.join(" ")
}

/// A GET with these field lines besides `Host`.
fn check_fields(lines: &str, expected: Result<&str, ParseError>) {
    check(&format!("GET / HTTP/1.1\r\nHost: a\r\n{lines}\r\n"), expected);
}

fn check_refused(inputs: &[&str], error: ParseError) {
    for input in inputs {
        check(input, Err(error));
    }
}

#[test]
fn request_lines_are_read() {
    check("GET / HTTP/1.1\r\nHost: a\r\n\r\n", Ok("GET / a Http11 None keep"));
    check("GET /a/b?c=d HTTP/1.1\r\nhost:b:80\r\n\r\nrest", Ok("GET /a/b?c=d b:80 Http11 None keep"));
    check("\r\nHEAD / HTTP/1.1\r\nHost: a\r\n\r\n", Ok("HEAD / a Http11 None keep"));
    check(
        "get /%zz\"<>[\\]^`{|} HTTP/1.1\r\nHost: a\r\n\r\n",
        Ok("get /%zz\"<>[\\]^`{|} a Http11 None keep"),
    );
    check("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", Ok("OPTIONS * a Http11 None keep"));
    check("!#$%&'*+-.^_`|~ / HTTP/1.1\r\nHost: a\r\n\r\n", Ok("!#$%&'*+-.^_`|~ / a Http11 None keep"));
    check("GET / HTTP/1.0\r\n\r\n", Ok("GET / - Http10 None close"));
    check("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", Ok("GET / - Http10 None close -Connection"));
    check("", Ok("partial"));
    check("\r", Ok("partial"));
    check("GET / HTTP/1.1\r\nHost: a\r\n\r", Ok("partial"));
}

/// Beginnings of requests, each with the rule that it breaks.
const BROKEN_REQUEST_LINES: &[(ParseError, &[&str])] = &[
    (ParseError::EmptyLines, &["\r\n\r\nGET", "\r\n\r", "\r\n\n"]),
    (
        ParseError::BareLf,
        &[
            "\n",
            "G\n",
            "GET\n",
            "GET \n",
            "GET /\n",
            "GET / \n",
            "GET / HTTP/1.1\n",
            "GET / HTTP/1.1\r\n\n",
            "GET / HTTP/1.1\r\nHost: a\nX: b",
            "GET / HTTP/1.1\r\nHost\n",
            "GET / HTTP/1.1\r\nHost: a\r\n\n",
        ],
    ),
    (
        ParseError::BareCr,
        &[
            "\rG",
            "GET /\rx",
            "GET / HTTP/1.1\rx",
            "GET / HTTP/1.1\r\n\rx",
            "GET / HTTP/1.1\r\nHost: a\rb",
            "\r\r",
        ],
    ),
    (
        ParseError::BadMethod,
        &[
            " GET",
            "\t",
            "\0",
            "\x16\x03\x01",
            "G(T",
            "GET\t/",
            "GET\r\n",
            "GE\u{e9}",
            "\"",
            "GET:",
            "{",
            "\x0bGET",
            "GET\x0b/",
            "GET\x0c/",
            "GET\0/",
            "GET\u{a0}/",
            "GET/index HTTP/1.1\r\n",
            "/",
            "\u{feff}GET",
            "\x7f",
            "\r\n GET",
            "HTTP/1.1 200 OK\r\n",
        ],
    ),
    (
        ParseError::BadTarget,
        &[
            "GET  / HTTP",
            "GET \t/",
            "GET /\tx",
            "GET /\0",
            "GET /\u{e9}",
            "GET /\x7f",
            "GET /a#b",
            "GET #",
            "GET /\tHTTP/1.1\r\n",
            "GET /\x0bHTTP/1.1\r\n",
            "GET /\u{a0}HTTP/1.1\r\n",
            "GET /\x1b[0m",
            "GET http://a/#b",
        ],
    ),
    (
        ParseError::BadVersion,
        &[
            "GET /\r\n",
            "GET / \r\n",
            "GET /  HTTP/1.1",
            "GET / /b HTTP",
            "GET / http/1.1",
            "GET / HTTPS/1.1",
            "GET / HTTP/1\r",
            "GET / HTTP/1.1 ",
            "GET / HTTP/1.10",
            "GET / HTTP/11",
            "GET / HTTP/a.1",
            "GET / HTTP/-1.1",
            "GET / HTTP/1,1",
            "GET / HTTP/1.x",
            "GET / XTTP",
            "GET / HTTP /1.1",
            "GET / HTTP/ 1.1",
            "GET / HTTP/1 .1",
            "GET / HTTP/1. 1",
            "GET / HTTP/1.1\t\r\n",
            "GET / HTTP/1.1\0",
            "GET / HTTP/1.1;a",
            "GET / HTTP/01.1",
            "GET / HTTP/1.01",
            "GET / Http/1.1",
            "GET / HTTP\\1.1",
            "GET / HTTP/\u{ff11}.1",
            "GET / HTTP/1.1 HTTP/1.1\r\n",
            "GET /a b HTTP/1.1\r\n",
            "GET \r\n",
        ],
    ),
    (
        ParseError::UnsupportedVersion,
        &[
            "GET / HTTP/1.2",
            "GET / HTTP/2.0",
            "GET / HTTP/0.9",
            "GET / HTTP/3.0",
            "GET / HTTP/1.9",
            "GET / HTTP/0.0",
            "GET / HTTP/9.9",
            "GET / HTTP/2.1",
            "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        ],
    ),
];

#[test]
fn broken_request_lines_are_refused() {
    for (error, inputs) in BROKEN_REQUEST_LINES {
        check_refused(inputs, *error);
    }
}

#[test]
fn target_forms_suit_their_methods() {
    let line = |line: &str, host: &str| format!("{line} HTTP/1.1\r\nHost: {host}\r\n\r\n");
    for (request, host, expected) in [
        ("GET http://a/b?c", "a", "GET /b?c a Http11 None keep"),
        ("GET HTTPS://A:8443", "a:8443", "GET / A:8443 Http11 None keep"),
        ("GET http://a", "a:80", "GET / a Http11 None keep"),
        ("GET https://a:443/", "a", "GET / a:443 Http11 None keep"),
        ("OPTIONS http://a", "a", "OPTIONS * a Http11 None keep"),
        ("OPTIONS http://a/", "a", "OPTIONS / a Http11 None keep"),
        ("GET http://[::1]:80/", "[::1]:80", "GET / [::1]:80 Http11 None keep"),
        ("CONNECT a:443", "a:443", "CONNECT  a:443 Http11 None close"),
        ("CONNECT a:443", "a", "CONNECT  a:443 Http11 None close"),
    ] {
        check(&line(request, host), Ok(expected));
    }
    for request in [
        "GET *",
        "GET a",
        "GET a:80",
        "GET ftp://a/",
        "GET http:/a",
        "GET http:///a",
        "GET http://",
        "GET http://u@a/",
        "GET http://a?b",
        "GET http://a:b/",
        "GET ?x",
        "OPTIONS **",
        "OPTIONS a",
        "CONNECT /",
        "CONNECT a",
        "CONNECT http://a:80/",
        "CONNECT *",
        "CONNECT a:0",
        "CONNECT a:80/",
        "connect a:80",
        "GET http://a\\b/",
        "GET http://a%2f/",
        "GET http://a:/",
        "GET http://a:80:80/",
        "GET http://a@b:80/",
        "GET http://a:pw@a/",
        "GET http://[::1/",
        "GET http://a,b/",
        "GET http:a",
        "GET httpx://a/",
        "GET ws://a/",
        "GET file:///etc/passwd",
        "GET .",
        "GET **",
        "POST *",
        "CONNECT a:",
        "CONNECT a:65536",
        "CONNECT u@a:80",
        "CONNECT :80",
        "OPTIONS */",
        "OPTIONS *?a",
    ] {
        check(&line(request, "a"), Err(ParseError::BadTargetForm));
    }
    for (request, host) in [
        ("GET http://a/", "b"),
        ("GET http://a/", "a:81"),
        ("GET http://a:443/", "a"),
        ("GET https://a/", "a:80"),
        ("CONNECT a:443", "b:443"),
        ("CONNECT a:443", "a:80"),
    ] {
        check(&line(request, host), Err(ParseError::HostMismatch));
    }
}

#[test]
fn one_valid_host_is_demanded() {
    check("GET / HTTP/1.1\r\n\r\n", Err(ParseError::MissingHost));
    check("GET http://a/ HTTP/1.1\r\n\r\n", Err(ParseError::MissingHost));
    check("GET http://a/ HTTP/1.0\r\n\r\n", Ok("GET / a Http10 None close"));
    check_fields("HOST: a\r\n", Err(ParseError::RepeatedHost));
    check_fields("host: b\r\n", Err(ParseError::RepeatedHost));
    for host in ["", "a b", "a, b", "a/b", "u@a", "a:", "a:x", "a:80:80", "ä", "a%2e", "[::1", "a;b", "a#"] {
        check(&format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n"), Err(ParseError::BadHost));
        check(&format!("GET / HTTP/1.0\r\nHost: {host}\r\n\r\n"), Err(ParseError::BadHost));
    }
}

#[test]
fn field_lines_follow_the_grammar() {
    check_fields("X:\r\nY:  \t\r\nZ: \u{e9}\t b \r\n~:1\r\n", Ok("GET / a Http11 None keep"));
    check_refused(
        &["GET / HTTP/1.1\r\n Host: a", "GET / HTTP/1.1\r\n\tHost: a", "GET / HTTP/1.1\r\n \r\n"],
        ParseError::SpaceBeforeFirstField,
    );
    for line in [" b", "\tb", " \r\n", " X: y", "\t\r\n", " Transfer-Encoding: chunked\r\n", "X:\r\n y\r\n"] {
        check_fields(line, Err(ParseError::FoldedField));
    }
    for line in
        ["X : b", "X\t:b", "Content-Length : 5", "X y", "Transfer-Encoding\t: chunked", "Host : a", "X y: z"]
    {
        check_fields(line, Err(ParseError::SpaceBeforeColon));
    }
    for line in ["X\r\n", "GET\r\n", "chunked\r\n"] {
        check_fields(line, Err(ParseError::MissingColon));
    }
    for line in [
        ":b",
        "::",
        ": Content-Length: 5",
        "X\0:",
        "X(:",
        "X\u{e9}:",
        "\"X\":",
        "X\x0b:",
        "X/y:",
        "X\x7f:",
        "[:",
        "X;:",
        "\x0bX:",
        "\x0cX:",
        "\u{a0}X:",
        "\0:",
        "X\x08:",
        "X=y:",
        "X,Y:",
        "X@y:",
        "{X}:",
        "Content-Length\0: 5",
        "Transfer-Encoding\x0b: chunked",
        "\x1fTransfer-Encoding: chunked",
    ] {
        check_fields(line, Err(ParseError::BadFieldName));
    }
    for value in ["\0", "a\x01", "a\x0bb", "a\x0cb", "\x1f", "\x7f", "a\x08", "\x1b[0m", "a\0\r\n"] {
        check_fields(&format!("X: {value}"), Err(ParseError::BadFieldValue));
    }
    for lines in ["X: a\nY: b\r\n", "X: a\n\r\n", "X:\n", "\nX: b", "X: \"\n\"\r\n", "X\n: b"] {
        check_fields(lines, Err(ParseError::BareLf));
    }
    for lines in ["X: a\rY: b\r\n", "X: a\r\r\n", "X:\r\r\n", "\rX: b", "X\r: b", "X: a\r b\r\n"] {
        check_fields(lines, Err(ParseError::BareCr));
    }
}

#[test]
fn spans_name_trimmed_values() {
    let head = b"GET / HTTP/1.1\r\nHost:\t a \t\r\nX:\r\nYy: b c\r\n\r\n";
    let mut fields = Vec::new();
    let request = parse_request(head, &mut fields, &Limits::default()).unwrap().unwrap();
    assert_eq!(request.host.unwrap().of(head), b"a");
    let lines: Vec<_> = fields.iter().map(|f| (f.name.of(head), f.value.of(head))).collect();
    assert_eq!(lines, [(&b"Host"[..], &b"a"[..]), (b"X", b""), (b"Yy", b"b c")]);
}

/// Values of `Content-Length` that some peer reads as another number than some other, or not at all.
const BAD_LENGTHS: &[&str] = &[
    "",
    "+5",
    "-5",
    "0x5",
    "5 5",
    "5,5",
    "5, 5",
    "05",
    "00",
    "5.",
    "5e1",
    "a",
    "5;",
    "\"5\"",
    "٥",
    "5\u{a0}",
    "5\t5",
    "5,",
    ",5",
    "5, 6",
    "0,5",
    "5h",
    "0b101",
    "0o5",
    "5_0",
    "1_000",
    "1,000",
    "5 , 5",
    "-0",
    "+0",
    " +5",
    "5e0",
    "5.0",
    "''",
    "0000000000000005",
    "18446744073709551621",
    "340282366920938463463374607431768211461",
    "9223372036854775808",
    "18446744073709551616",
    "99999999999999999999999",
];

#[test]
fn framing_is_certain_or_refused() {
    check_fields("Content-Length: 5\r\n", Ok("GET / a Http11 Length(5) keep"));
    check_fields("content-length:0\r\n", Ok("GET / a Http11 Length(0) keep"));
    check_fields(
        "Content-Length: 9223372036854775807\r\n",
        Ok("GET / a Http11 Length(9223372036854775807) keep"),
    );
    check_fields("TRANSFER-ENCODING:\tChunked \r\n", Ok("GET / a Http11 Chunked keep -TRANSFER-ENCODING"));
    for value in BAD_LENGTHS {
        check_fields(&format!("Content-Length: {value}\r\n"), Err(ParseError::BadContentLength));
    }
    for second in ["5", "6", "x"] {
        check_fields(
            &format!("Content-Length: 5\r\nX: y\r\ncontent-length: {second}\r\n"),
            Err(ParseError::RepeatedContentLength),
        );
    }
    for lines in [
        "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
    ] {
        check_fields(lines, Err(ParseError::ContentLengthWithTransferEncoding));
    }
    for framing in ["Content-Length: 0", "Content-Length: 5", "Transfer-Encoding: chunked"] {
        check(
            &format!("CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n{framing}\r\n\r\n"),
            Err(ParseError::BodyNotAllowed),
        );
    }
    // These names are others, however alike they look.
    check_fields("Content_Length: 5\r\nTransfer-Encodin: chunked\r\n", Ok("GET / a Http11 None keep"));
    check_fields(
        "Content-Length-: 5\r\nX-Transfer-Encoding: chunked\r\nTransfer_Encoding: x\r\n",
        Ok("GET / a Http11 None keep"),
    );
    // Spaces and tabs around a value are not part of it, however many.
    check_fields("Content-Length:\t \t5 \t\r\n", Ok("GET / a Http11 Length(5) keep"));
}

#[test]
fn trace_carries_no_body() {
    let trace = |line| format!("TRACE / HTTP/1.1\r\nHost: a\r\n{line}\r\n");
    check(&trace(""), Ok("TRACE / a Http11 None keep"));
    check(&trace("Content-Length: 0\r\n"), Ok("TRACE / a Http11 Length(0) keep"));
    check(&trace("Content-Length: 1\r\n"), Err(ParseError::BodyNotAllowed));
    check(&trace("Transfer-Encoding: chunked\r\n"), Err(ParseError::BodyNotAllowed));
}

#[test]
fn chunked_is_the_only_transfer_coding() {
    for value in [
        "",
        "gzip",
        "identity",
        "xchunked",
        "chunked,",
        ",chunked",
        "chunked, chunked",
        "chunked, gzip",
        "chunked, identity",
        "gzip, chunked, chunked",
        "chunked;a=b",
        "gzip;q=1, chunked",
        "\"chunked\"",
        "chunked chunked",
        "chunk",
        "chunked\u{a0}",
        ", chunked",
        "gzip, ,chunked",
        "\u{a0}chunked",
        "chunked;",
        "chunked; ",
        "chunked ;a=b",
        "chunked,\tchunked",
        "chunked\tchunked",
        "CHUNKED, chunked",
        "chunked, x",
        "x chunked",
        "'chunked'",
        "chunkedchunked",
        "chunked-x",
        "chunked=1",
        "Content-Length: 5",
        "cow",
        "gzip, chunked;a",
        "gzip;a=\"b, chunked\"",
        "deflate",
        "\"a\", chunked",
        ",,",
    ] {
        check_fields(&format!("Transfer-Encoding: {value}\r\n"), Err(ParseError::BadTransferEncoding));
    }
    for value in ["gzip, chunked", "identity ,\tchunked", "gzip,deflate,CHUNKED"] {
        check_fields(&format!("Transfer-Encoding: {value}\r\n"), Err(ParseError::UnsupportedTransferCoding));
    }
    for second in ["chunked", "gzip", "identity"] {
        check_fields(
            &format!("Transfer-Encoding: chunked\r\nTransfer-Encoding: {second}\r\n"),
            Err(ParseError::RepeatedTransferEncoding),
        );
    }
    check("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", Err(ParseError::TransferEncodingInHttp10));
    check("POST / HTTP/1.0\r\nTransfer-Encoding: x\r\n\r\n", Err(ParseError::TransferEncodingInHttp10));
    check("POST / HTTP/1.0\r\nContent-Length: 3\r\n\r\n", Ok("POST / - Http10 Length(3) close"));
}

#[test]
fn connection_fields_are_not_forwarded() {
    check_fields("Connection: close\r\n", Ok("GET / a Http11 None close -Connection"));
    check_fields("Connection: keep-alive, CLOSE\r\n", Ok("GET / a Http11 None close -Connection"));
    check_fields(
        "A: 1\r\nConnection: b\r\nB: 2\r\nb: 3\r\nConnection: ,A\r\nC: 4\r\n",
        Ok("GET / a Http11 None keep -A -Connection -B -b -Connection"),
    );
    check_fields("Connection: te\r\nTE: trailers\r\n", Ok("GET / a Http11 None keep -Connection"));
    check_fields("Connection: te\r\nTE: trailers, gzip\r\n", Ok("GET / a Http11 None keep -Connection -TE"));
    check_fields(
        "Keep-Alive: 5\r\nProxy-Connection: close\r\nProxy-Authorization: x\r\n",
        Ok("GET / a Http11 None keep -Keep-Alive -Proxy-Connection -Proxy-Authorization"),
    );
    check_fields(
        "Connection: close, cookie\r\nCookie: a=b\r\nX-Forwarded-For: c\r\nConnection: X-Forwarded-For\r\n",
        Ok("GET / a Http11 None close -Connection -Cookie -X-Forwarded-For -Connection"),
    );
    // What the message itself needs is nobody's to take away.
    for name in ["host", "Content-Length", "CONTENT-LENGTH, close", "close, Host", "expect"] {
        check_fields(
            &format!("Content-Length: 5\r\nConnection: {name}\r\n"),
            Err(ParseError::BadConnectionOption),
        );
    }
    check_fields(
        "Transfer-Encoding: chunked\r\nConnection: Transfer-Encoding\r\n",
        Ok("GET / a Http11 Chunked keep -Transfer-Encoding -Connection"),
    );
    for value in [
        "a b",
        "\"close\"",
        "close; a",
        "a/b",
        "\u{e9}",
        "close:",
        "close\tx",
        "close=1",
        "(close)",
        "close, a b",
    ] {
        check_fields(&format!("Connection: {value}\r\n"), Err(ParseError::BadConnectionOption));
    }
    let most = vec!["close"; 32].join(",");
    check_fields(&format!("Connection: {most}\r\n"), Ok("GET / a Http11 None close -Connection"));
    check_fields(
        &format!("Connection: {most}\r\nConnection: x\r\n"),
        Err(ParseError::TooManyConnectionOptions),
    );
}

#[test]
fn upgrade_counts_only_when_asked_for_as_a_whole() {
    check_fields(
        "Connection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n",
        Ok("GET / a Http11 None keep upgrade=websocket -Connection -Upgrade"),
    );
    check_fields("Upgrade: websocket\r\n", Ok("GET / a Http11 None keep -Upgrade"));
    check_fields("Connection: upgrade\r\n", Ok("GET / a Http11 None keep -Connection"));
    check_fields(
        "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: x\r\n",
        Ok("GET / a Http11 None keep upgrade=h2c -Connection -Upgrade -HTTP2-Settings"),
    );
    check(
        "GET / HTTP/1.0\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
        Ok("GET / - Http10 None close -Connection -Upgrade"),
    );
    // Where a body stands before the other protocol, it stays HTTP.
    check_fields(
        "Connection: upgrade\r\nUpgrade: websocket\r\nContent-Length: 5\r\n",
        Ok("GET / a Http11 Length(5) keep -Connection -Upgrade"),
    );
    check_fields(
        "Connection: upgrade\r\nUpgrade: websocket\r\nTransfer-Encoding: chunked\r\n",
        Ok("GET / a Http11 Chunked keep -Connection -Upgrade -Transfer-Encoding"),
    );
    check_fields(
        "Connection: upgrade\r\nUpgrade: websocket\r\nContent-Length: 0\r\n",
        Ok("GET / a Http11 Length(0) keep upgrade=websocket -Connection -Upgrade"),
    );
    check_fields("Upgrade:\r\n", Err(ParseError::BadUpgrade));
    check_fields("Upgrade: a\r\nUpgrade: b\r\n", Err(ParseError::BadUpgrade));
}

#[test]
fn expectations_are_exact_and_need_a_body() {
    check_fields("Expect: 100-Continue\r\nContent-Length: 5\r\n", Ok("GET / a Http11 Length(5) keep expect"));
    check_fields(
        "Transfer-Encoding: chunked\r\nExpect: 100-continue\r\n",
        Ok("GET / a Http11 Chunked keep expect -Transfer-Encoding"),
    );
    check_fields("Expect: 100-continue\r\n", Ok("GET / a Http11 None keep -Expect"));
    check_fields(
        "Expect: 100-continue\r\nContent-Length: 0\r\n",
        Ok("GET / a Http11 Length(0) keep -Expect"),
    );
    check(
        "POST / HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n",
        Ok("POST / - Http10 Length(5) close -Expect"),
    );
    for lines in [
        "Expect:\r\n",
        "Expect: y 100-continue\r\n",
        "Expect: 100-continue, x\r\n",
        "Expect: 200-ok\r\n",
        "Expect: 100-continue;a=b\r\n",
        "Expect: \"100-continue\"\r\n",
        "Expect: 100-continue 100-continue\r\n",
        "Expect: 100\r\n",
        "Expect: \u{a0}100-continue\r\n",
        "Expect: 100-continue\r\nExpect: 100-continue\r\n",
    ] {
        check_fields(lines, Err(ParseError::BadExpectation));
    }
}

#[test]
fn sizes_are_limited_wherever_the_bytes_stop() {
    let limits = Limits { head_bytes: 60, fields: 2, start_line_bytes: 20, ..Limits::default() };
    let check = |input: &str, expected| check_bytes(input.as_bytes(), &limits, expected);
    check("GET /45678 HTTP/1.1\r\n", Err(ParseError::StartLineTooLong));
    check("GET /4567890123456789", Err(ParseError::StartLineTooLong));
    check("GETGETGETGETGETGETGETGET", Err(ParseError::StartLineTooLong));
    check("\r\nGET /567 HTTP/1.1\r\n", Ok("partial"));
    check("GET / HTTP/1.1\r\nHost: a\r\nB: c\r\n\r\n", Ok("GET / a Http11 None keep"));
    check("GET / HTTP/1.1\r\nHost: a\r\nB: c\r\nD", Err(ParseError::TooManyFields));
    let padded = |n: usize| format!("GET / HTTP/1.1\r\nHost: a\r\nB: {}\r\n\r\n", "c".repeat(n));
    check(&padded(60 - padded(0).len()), Ok("GET / a Http11 None keep"));
    check(&padded(61 - padded(0).len()), Err(ParseError::HeadTooLong));
    // What lies past a limit is not looked at.
    check("GET /4567890123456789\0", Err(ParseError::StartLineTooLong));
    check(&padded(100).replace("\r\n\r\n", "\0"), Err(ParseError::HeadTooLong));
}

#[test]
fn default_limits_hold() {
    let mut fields = Vec::new();
    let mut parse = |text: String| parse_request(text.as_bytes(), &mut fields, &Limits::default());
    assert_eq!(parse("G".repeat(16 * 1024 - 1)), Ok(None));
    assert_eq!(parse("G".repeat(16 * 1024)), Err(ParseError::StartLineTooLong));
    let head = "GET / HTTP/1.1\r\nHost: a\r\nX: ";
    assert_eq!(parse(format!("{head}{}", "x".repeat(61_440 - head.len() - 1))), Ok(None));
    assert_eq!(parse(format!("{head}{}", "x".repeat(61_440 - head.len()))), Err(ParseError::HeadTooLong));
    let lines = |n: usize| format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "x:\r\n".repeat(n));
    assert!(parse(lines(99)).unwrap().is_some());
    assert_eq!(parse(lines(100)), Err(ParseError::TooManyFields));
}

#[test]
fn kinds_follow_the_exact_method() {
    for (method, kind) in
        [("HEAD", RequestKind::Head), ("head", RequestKind::Other), ("GET", RequestKind::Other)]
    {
        let text = format!("{method} / HTTP/1.1\r\nHost: a\r\n\r\n");
        let request = parse_request(text.as_bytes(), &mut Vec::new(), &Limits::default());
        assert_eq!(request.unwrap().unwrap().kind, kind);
    }
}
