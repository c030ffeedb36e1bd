use super::*;
use std::sync::mpsc;

use serde_json::{Value, json};

/// A sink that hands over what it is given, and blocks until it is taken.
struct Handover(mpsc::SyncSender<Vec<u8>>);

impl Write for Handover {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.send(bytes.to_vec()).map_err(io::Error::other)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn registry() -> Arc<Registry> {
    Registry::new(SystemTime::UNIX_EPOCH)
}

fn lines(bytes: &[u8]) -> Vec<Value> {
    let text = std::str::from_utf8(bytes).expect("UTF-8");
    text.lines().map(|line| serde_json::from_str(line).expect(line)).collect()
}

fn line(entry: &Entry<'_>) -> Value {
    let (mut writer, mut bytes) = (LineWriter::default(), Vec::new());
    writer.push(entry);
    writer.swap(&mut bytes);
    lines(&bytes).remove(0)
}

#[test]
fn a_line_tells_everything() {
    let entry = Entry {
        start: SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_042),
        duration: Duration::from_micros(12_345),
        direction: "inbound",
        protocol: "HTTP/1.1",
        method: b"GET",
        authority: b"cart.shop",
        path: b"/items?id=1",
        status: 403,
        grpc_status: None,
        reason: Some(Reason::Denied),
        bytes_in: 0,
        bytes_out: 19,
        request_id: b"5f3c",
        downstream: Some(([127, 0, 0, 1], 40000).into()),
        meant_for: Some("240.0.0.7:80".parse().expect("an address")),
        downstream_peer: "spiffe://mesh.local/ns/shop/sa/web",
        route: "default",
        cluster: "inbound|8080||",
        upstream: None,
        upstream_peer: "",
        upstream_failure: "",
        dry_run: "",
        audit: "",
        config_version: "9a41",
    };
    let expected = json!({
        "start_time": "2023-11-14T22:13:20.042Z",
        "direction": "inbound",
        "protocol": "HTTP/1.1",
        "method": "GET",
        "authority": "cart.shop",
        "path": "/items?id=1",
        "response_code": 403,
        "response_flags": "-",
        "reason_code": "MW0401",
        "reason": "An AuthorizationPolicy refused the request.",
        "duration": 12.345,
        "bytes_received": 0,
        "bytes_sent": 19,
        "request_id": "5f3c",
        "downstream_remote_address": "127.0.0.1:40000",
        "downstream_local_address": "240.0.0.7:80",
        "downstream_peer": "spiffe://mesh.local/ns/shop/sa/web",
        "route_name": "default",
        "upstream_cluster": "inbound|8080||",
        "upstream_host": null,
        "upstream_peer": null,
        "config_version": "9a41",
    });
    assert_eq!(line(&entry), expected);
}

#[test]
fn what_policies_say_that_decide_nothing_is_told() {
    let (dry_run, audit) = ("ns[shop]-policy[a]=denied", "ns[shop]-policy[b]-rule[0]");
    let line = line(&Entry { dry_run, audit, upstream_failure: "revoked", ..Entry::default() });
    assert_eq!((&line["policy_dry_run"], &line["policy_audit"]), (&dry_run.into(), &audit.into()));
    assert_eq!(line["upstream_transport_failure_reason"], "revoked");
}

#[test]
fn addresses_are_as_they_are_written() {
    for text in ["127.0.0.1:1", "203.0.113.255:65535", "[::1]:80", "[2001:db8::1]:15006"] {
        let upstream = Some(text.parse().expect("an address"));
        let line = line(&Entry { upstream, ..Entry::default() });
        assert_eq!(line["upstream_host"], text);
        assert!(line.get("downstream_local_address").is_none(), "it was not redirected");
    }
}

fn check_path(path: &[u8], expected: &str) {
    assert_eq!(line(&Entry { path, ..Entry::default() })["path"], expected);
}

#[test]
fn a_peers_bytes_are_made_safe() {
    check_path(b"/plain", "/plain");
    check_path(b"/\"quoted\"\\", "/\"quoted\"\\");
    check_path(b"/a\r\n{\"method\":\"X\"}\x00\x1f\x7f", "/a\r\n{\"method\":\"X\"}\u{0}\u{1f}\u{7f}");
    check_path("/grün/日本".as_bytes(), "/grün/日本");
    check_path(b"/\xff\xfe/\xe6\x97", "/\u{fffd}\u{fffd}/\u{fffd}");
    check_path(&[b'a'; 9000], &format!("{}…", "a".repeat(8192)));
    check_path("é".repeat(8000).as_bytes(), &format!("{}…", "é".repeat(4096)));
    check_path(&[b"x", "é".repeat(8000).as_bytes()].concat(), &format!("x{}\u{fffd}…", "é".repeat(4095)));
}

#[test]
fn tokens_in_a_query_are_not_told() {
    check_path(b"/a?access_token=eyJ.x.y&b=c", "/a?access_token=(hidden)&b=c");
    check_path(
        b"/a?b=c&access_token=eyJ&access_token=",
        "/a?b=c&access_token=(hidden)&access_token=(hidden)",
    );
    check_path(b"/access_token=x?no_access_token=y", "/access_token=x?no_access_token=y");
    check_path(b"/a?", "/a?");
}

#[test]
fn every_string_of_bytes_is_one_line_of_json() {
    let mut random = fastrand::Rng::with_seed(3);
    for _ in 0..500 {
        let bytes: Vec<u8> = (0..random.usize(0..40)).map(|_| random.u8(..)).collect();
        let entry = Entry { path: &bytes, method: &bytes, request_id: &bytes, ..Entry::default() };
        let path = &line(&entry)["path"];
        assert_eq!(path.as_str().unwrap_or(""), String::from_utf8_lossy(&bytes));
    }
}

#[test]
fn seconds_follow_each_other() {
    let (mut writer, mut bytes) = (LineWriter::default(), Vec::new());
    for millis in [1_000, 1_999, 2_000, 1_000, 0] {
        let start = SystemTime::UNIX_EPOCH + Duration::from_millis(millis);
        writer.push(&Entry { start, ..Entry::default() });
    }
    writer.swap(&mut bytes);
    let times: Vec<_> =
        lines(&bytes).iter().map(|l| l["start_time"].as_str().unwrap_or("").to_owned()).collect();
    let expected = ["01.000Z", "01.999Z", "02.000Z", "01.000Z", "00.000Z"];
    assert!(times.iter().zip(expected).all(|(t, e)| t.ends_with(e)), "{times:?}");
}

#[test]
fn a_log_that_is_off_is_not_enabled() {
    let log = AccessLog::open(&Sink::Off, &registry()).expect("nothing to open");
    let lane = log.lane();
    assert!(!lane.enabled());
    lane.write(&Entry::default());
}

#[test]
fn dropping_the_log_writes_the_rest() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let path = dir.path().join("access.log");
    std::fs::write(&path, "{\"before\":1}\n").expect("writes");
    let log = AccessLog::open(&Sink::File(path.clone()), &registry()).expect("opens");
    let lanes = [log.lane(), log.lane()];
    assert!(lanes[0].enabled());
    for (i, lane) in lanes.iter().cycle().take(100).enumerate() {
        lane.write(&Entry { bytes_in: i as u64, ..Entry::default() });
    }
    drop((log, lanes));
    let lines = lines(&std::fs::read(&path).expect("reads"));
    assert_eq!(lines.len(), 101, "what was there is kept");
    let mut numbers: Vec<_> = lines[1..].iter().filter_map(|l| l["bytes_received"].as_u64()).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, (0..100).collect::<Vec<_>>());
}

#[test]
fn a_file_that_cannot_be_opened_is_an_error() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let sink = Sink::File(dir.path().join("missing/access.log"));
    assert_eq!(
        AccessLog::open(&sink, &registry()).expect_err("no directory").kind(),
        io::ErrorKind::NotFound
    );
}

#[test]
fn a_sink_that_hangs_costs_lines_and_never_time() {
    let registry = registry();
    let (sender, receiver) = mpsc::sync_channel(0);
    let log = AccessLog::to(Box::new(Handover(sender)), &registry).expect("starts");
    let lane = log.lane();
    let path = [b'p'; 8000];
    let written = 1000_u64;
    for _ in 0..written {
        lane.write(&Entry { path: &path, ..Entry::default() });
    }
    let dropped = registry.own.log_lines_dropped.load(Relaxed);
    assert!(dropped > 0, "8 MB do not fit");
    let reader = thread::spawn(move || receiver.iter().map(|bytes| lines(&bytes).len() as u64).sum::<u64>());
    drop((log, lane));
    assert_eq!(reader.join().expect("reads to the end"), written - dropped);
}

#[test]
fn a_broken_sink_is_counted() {
    let registry = registry();
    let (sender, receiver) = mpsc::sync_channel(0);
    drop(receiver);
    let log = AccessLog::to(Box::new(Handover(sender)), &registry).expect("starts");
    log.lane().write(&Entry::default());
    drop(log);
    assert_eq!(registry.own.log_write_errors.load(Relaxed), 1);
}
