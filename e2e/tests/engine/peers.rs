//! Real programs on either side of the proxy: curl, wrk, ab, Python's http.client; nginx as the origin.

use std::io::Write as _;
use std::process::Command;

use e2e::http::dechunk;
use e2e::nginx::Nginx;
use e2e::origin::Origin;
use e2e::program::output;
use e2e::proxy::Proxy;

/// Bytes that compress badly and repeat nowhere, the same at each call.
fn data(len: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    std::iter::repeat_with(&mut next).flatten().take(len).collect()
}

/// Files of three sizes, and how many requests a connection has carried.
fn nginx() -> Nginx {
    let nginx = Nginx::start("root $files; add_header x-requests $connection_requests;");
    for (name, len) in [("small", 1024), ("large", 1 << 20), ("huge", 8 << 20)] {
        std::fs::write(nginx.file(name), data(len)).expect("a file");
    }
    std::fs::write(nginx.file("empty"), "").expect("a file");
    nginx
}

/// An origin that answers with the method, the path and the body of each request.
fn echo() -> Origin {
    Origin::answering(|request, stream| {
        let head = request.windows(4).position(|w| w == b"\r\n\r\n").map_or(request.len(), |at| at + 4);
        let text = String::from_utf8_lossy(&request[..head]);
        let [method, path, _] = text.splitn(3, ' ').collect::<Vec<_>>()[..] else { return Ok(()) };
        let mut body = format!("{method} {path} ").into_bytes();
        body.extend(if text.contains("chunked") {
            dechunk(&request[head..]).0
        } else {
            request[head..].to_vec()
        });
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len());
        stream.write_all(head.as_bytes())?;
        if method == "HEAD" { Ok(()) } else { stream.write_all(&body) }
    })
}

/// curl with a deadline of its own; what it prints.
fn curl(arguments: &[&str]) -> String {
    let base = ["--silent", "--show-error", "--max-time", "30"];
    output(Command::new("curl").args(base).args(arguments))
}

#[test]
fn curl_downloads_whole_files() {
    let nginx = nginx();
    let proxy = Proxy::before(nginx.address());
    let out = proxy.scratch().join("out");
    let out = out.to_string_lossy();
    for options in [&["--http1.1"][..], &["--http1.0"], &["--raw"], &["--limit-rate", "20M"]] {
        for name in ["empty", "small", "large", "huge"] {
            let url = proxy.url(&format!("/{name}"));
            let code = curl(&[options, &["--output", &out, "--write-out", "%{http_code}", &url]].concat());
            assert_eq!(code, "200", "{name} {options:?}");
            let (got, wanted) =
                (std::fs::read(&*out).expect("it"), std::fs::read(nginx.file(name)).expect("it"));
            assert!(got == wanted, "{name} {options:?}: {} bytes, not {}", got.len(), wanted.len());
        }
    }
    let url = proxy.url("/large");
    let code = curl(&["--range", "1000-100999", "--output", &out, "--write-out", "%{http_code}", &url]);
    assert_eq!(
        (code.as_str(), std::fs::read(&*out).expect("it")),
        ("206", data(1 << 20)[1000..101_000].to_vec())
    );
    let head = curl(&["--head", &url]).to_ascii_lowercase();
    assert!(
        head.starts_with("http/1.1 200 ok\r\n") && head.contains("\r\ncontent-length: 1048576\r\n"),
        "{head}"
    );
    assert_eq!(curl(&["--output", &out, "--write-out", "%{http_code}", &proxy.url("/nowhere")]), "404");
}

#[test]
fn curl_keeps_its_connection_and_so_do_we_ours() {
    let nginx = nginx();
    let proxy = Proxy::before(nginx.address());
    let url = proxy.url("/small");
    let mut arguments = vec!["--write-out", "%{num_connects} %header{x-requests}\n"];
    for _ in 0..10 {
        arguments.extend([&*url, "--output", "/dev/null"]);
    }
    let said = curl(&arguments);
    let lines: Vec<_> = said.lines().collect();
    assert_eq!((lines.len(), lines[0]), (10, "1 1"), "{said}");
    for (n, line) in lines.iter().enumerate().skip(1) {
        assert_eq!(*line, format!("0 {}", n + 1), "{said}");
    }
}

#[test]
fn curl_uploads_whole_files() {
    let origin = echo();
    let proxy = Proxy::before(origin.address());
    let (file, out) = (proxy.scratch().join("in"), proxy.scratch().join("out"));
    let (from, to) = (file.to_string_lossy(), out.to_string_lossy());
    let url = proxy.url("/up");
    for len in [0, 1, 5000, 3 << 20] {
        std::fs::write(&file, data(len)).expect("a file");
        for options in [
            &["--upload-file", &from][..],
            &["--upload-file", &from, "--header", "Expect: 100-continue"],
            &["--upload-file", &from, "--header", "Expect:"],
            &["--upload-file", &from, "--header", "Transfer-Encoding: chunked"],
            &[
                "--upload-file",
                &from,
                "--header",
                "Transfer-Encoding: chunked",
                "--header",
                "Expect: 100-continue",
            ],
            &["--upload-file", &from, "--http1.0"],
        ] {
            // This curl never ends the chunks of an empty file.
            if len == 0 && options.contains(&"Transfer-Encoding: chunked") {
                continue;
            }
            let code = curl(&[options, &["--output", &to, "--write-out", "%{http_code}", &url]].concat());
            assert_eq!(code, "200", "{len} {options:?}");
            let got = std::fs::read(&out).expect("it");
            assert!(got == [b"PUT /up ", &data(len)[..]].concat(), "{len} {options:?}: {} bytes", got.len());
        }
    }
}

#[test]
fn curl_reads_chunks_and_trailers() {
    let origin = Origin::start(
        b"HTTP/1.1 200 OK\r\ntrailer: x-sum\r\ntransfer-encoding: chunked\r\n\r\n5;a=b\r\nhello\r\n1\r\n!\r\n0\r\nx-sum: 7\r\nset-cookie: late\r\n\r\n",
    );
    let proxy = Proxy::before(origin.address());
    assert_eq!(curl(&[&proxy.url("/")]), "hello!");
    let raw = curl(&["--raw", &proxy.url("/")]);
    assert_eq!(dechunk(raw.as_bytes()), (b"hello!".to_vec(), &b"0\r\nx-sum: 7\r\n\r\n"[..]), "{raw}");
    // An old client has no chunks.
    assert_eq!(curl(&["--http1.0", "--raw", &proxy.url("/")]), "hello!");
}

#[test]
fn wrk_meets_no_error() {
    let nginx = nginx();
    let proxy = Proxy::before(nginx.address());
    for (path, connections) in [("/small", "16"), ("/large", "4")] {
        let said = output(Command::new("wrk").args(["-t1", "-c", connections, "-d1s", &proxy.url(path)]));
        assert!(!said.contains("Socket errors") && !said.contains("Non-2xx"), "{said}");
        assert!(said.contains(" requests in ") && !said.contains("\n  0 requests in "), "{said}");
    }
}

#[test]
fn ab_meets_no_error_in_http_1_0() {
    let nginx = nginx();
    let proxy = Proxy::before(nginx.address());
    for options in [&["-n", "300", "-c", "8"][..], &["-n", "300", "-c", "8", "-k"], &["-n", "100", "-i"]] {
        let said = output(Command::new("ab").args(["-q", "-s", "30"]).args(options).arg(proxy.url("/small")));
        let figure = |name: &str| {
            let line = said.lines().find_map(|line| line.strip_prefix(name));
            line.and_then(|value| value.trim().parse::<u32>().ok())
        };
        assert_eq!(
            figure("Complete requests:"),
            Some(if options.contains(&"-i") { 100 } else { 300 }),
            "{said}"
        );
        assert_eq!(figure("Failed requests:"), Some(0), "{said}");
        assert_eq!(figure("Non-2xx responses:"), None, "{said}");
    }
}

#[test]
fn pythons_http_client_gets_what_it_expects() {
    let origin = echo();
    let mut proxy = Proxy::before(origin.address());
    let script = e2e::root().join("e2e/peers/http_client.py");
    let said = output(Command::new("python3").arg(script).arg(proxy.address().port().to_string()));
    assert_eq!(said.trim(), "all as expected");
    assert!(proxy.alive());
}

#[test]
fn nginx_is_asked_over_connections_that_are_kept() {
    let nginx = nginx();
    let proxy = Proxy::of_workers(2, nginx.address());
    let mut opened = 0;
    for n in 1..=20 {
        // Each on a client connection of its own.
        let answer = e2e::http::get(proxy.address(), "/large").expect("an answer");
        assert_eq!((answer.status, answer.body == data(1 << 20)), (200, true), "{n}");
        opened += u32::from(answer.field("x-requests") == Some("1"));
    }
    // Each worker has its own; one may be asked again a moment before it has put its connection back.
    assert!(opened <= 4, "{opened} connections for 20 requests");
}
