//! nginx as a judge behind the proxy: what is forwarded is never a bad request to it, and it counts as many requests as
//! were forwarded.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use e2e::nginx::{Logged, Nginx};
use e2e::proxy::Proxy;

use super::random::{Random, rounds};

/// Ends each input, where it is well-formed up to here.
const LAST: &[u8] = b"GET /last HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";

/// How long an input may stay silent that waits for a body that will not come: longer than a busy machine is.
const PATIENCE: Duration = Duration::from_secs(4);
/// Inputs at a time: few wait, but those wait long.
const AT_ONCE: u64 = 24;

/// Sends an input and returns what came back, and whether the proxy closed behind it.
fn converse(at: SocketAddr, bytes: &[u8]) -> (Vec<u8>, bool) {
    let mut stream = TcpStream::connect(at).expect("a connection");
    stream.set_read_timeout(Some(PATIENCE)).expect("a time-out");
    let _ = stream.write_all(bytes);
    let (mut answers, mut buffer) = (Vec::new(), [0; 16_384]);
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return (answers, true),
            Ok(n) => answers.extend_from_slice(&buffer[..n]),
            Err(_) => return (answers, false),
        }
    }
}

/// nginx has rules of its own that RFC 9110 has not: methods in capitals, escapes that are escapes, no NUL in a path;
/// and a client of HTTP/1.0 that named no host is passed on with an empty one (RFC 9112 §3.2), which it refuses.
fn is_beyond_nginx(logged: &Logged) -> bool {
    let method = logged.line.split(' ').next().unwrap_or_default();
    let is_usual = method.bytes().all(|b| b.is_ascii_uppercase() || matches!(b, b'_' | b'-'));
    !is_usual || logged.line.contains('%') || logged.host.is_empty()
}

#[test]
fn what_is_forwarded_is_good_to_nginx_and_counted_alike() {
    let nginx = Nginx::start("add_header x-judge yes always; location / { return 200 ok; }");
    let mut proxy = Proxy::before(nginx.address());
    let before = nginx.log().len();
    let at = proxy.address();
    let some = |first: u64| {
        let (mut forwarded, mut cut) = (0, 0);
        for seed in (first..rounds(600)).step_by(usize::try_from(AT_ONCE).expect("a small number")) {
            let mut bytes = Random::seeded(seed).requests();
            bytes.extend_from_slice(LAST);
            let (answers, is_closed) = converse(at, &bytes);
            cut += usize::from(!is_closed);
            forwarded += String::from_utf8_lossy(&answers).matches("\r\nx-judge: yes\r\n").count();
        }
        (forwarded, cut)
    };
    let all: Vec<(usize, usize)> = std::thread::scope(|scope| {
        let asking: Vec<_> = (0..AT_ONCE).map(|first| scope.spawn(move || some(first))).collect();
        asking.into_iter().map(|thread| thread.join().expect("no panic")).collect()
    });
    let forwarded: usize = all.iter().map(|(forwarded, _)| forwarded).sum();
    let cut: usize = all.iter().map(|(_, cut)| cut).sum();
    assert!(forwarded > 500, "only {forwarded} were forwarded");
    // It is logged a moment after it is answered; one of which the body never came may have been logged, or not.
    e2e::eventually("nginx has logged all", || nginx.log().len() - before >= forwarded);
    let log = nginx.log().split_off(before);
    assert!((forwarded..=forwarded + cut).contains(&log.len()), "{forwarded} + {cut}, nginx {}", log.len());
    let is_bad = |l: &&Logged| (400..500).contains(&l.status) && !is_beyond_nginx(l);
    let bad: Vec<_> = log.iter().filter(is_bad).collect();
    assert!(bad.is_empty(), "{} bad of {}, {cut} cut: {bad:#?}", bad.len(), log.len());
    assert!(proxy.alive());
}
