//! WebSocket and its kin: nothing is switched before both sides agree, and then nothing is lost.

use std::io::{Read, Write};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use e2e::http::Connection;
use e2e::origin::Origin;
use e2e::program::{Program, output};
use e2e::proxy::Proxy;

const ASK: &[u8] = b"GET /chat HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
const SWITCH: &[u8] =
    b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";

/// Frames of every length form, pings and a close, by Python's standard library on both sides.
#[test]
fn a_websocket_echoes_through_the_proxy() {
    let dir = tempfile::tempdir().expect("a folder");
    let script = e2e::root().join("e2e/peers/websocket.py");
    let address = e2e::free_address();
    let mut serve = Command::new("python3");
    serve.arg(&script).args(["serve", &address.port().to_string()]);
    let mut server = Program::start("websocket", dir.path(), &mut serve);
    server.listens(address);
    let proxy = Proxy::before(address);
    let said =
        output(Command::new("python3").arg(&script).args(["call", &proxy.address().port().to_string()]));
    assert_eq!(said.trim(), "all echoed");
}

/// What stands behind the request waits for the 101: until then it is nobody's.
#[test]
fn bytes_behind_an_upgrade_wait_for_the_101() {
    let early = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&early);
    let origin = Origin::answering(move |_, stream| {
        stream.set_read_timeout(Some(Duration::from_millis(200)))?;
        let mut buffer = [0; 64];
        seen.store(matches!(stream.read(&mut buffer), Ok(1..)), Ordering::SeqCst);
        stream.write_all(&[SWITCH, b"welcome"].concat())?;
        stream.set_read_timeout(Some(e2e::DEADLINE))?;
        let read = stream.read(&mut buffer)?;
        stream.write_all(&buffer[..read])?;
        Err(std::io::ErrorKind::ConnectionAborted.into())
    });
    let proxy = Proxy::before(origin.address());
    let mut connection = Connection::open(proxy.address()).expect("a connection");
    connection.send(&[ASK, b"\x81\x05hello"].concat()).expect("sent");
    let answer = connection.answer(false).expect("an answer");
    assert_eq!((answer.status, answer.field("upgrade")), (101, Some("websocket")));
    assert_eq!(connection.rest().expect("the echo"), b"welcome\x81\x05hello");
    assert!(!early.load(Ordering::SeqCst), "bytes came before the 101");
    let request = origin.take().remove(0).to_ascii_lowercase();
    assert!(String::from_utf8_lossy(&request).contains("\r\nconnection: upgrade\r\nupgrade: websocket\r\n"));
}

/// Where the origin does not switch, it stays HTTP: what stands behind is a request, or refused as one.
#[test]
fn without_a_101_it_stays_http() {
    let origin = Origin::start(b"HTTP/1.1 426 Upgrade Required\r\ncontent-length: 2\r\n\r\nno");
    let proxy = Proxy::before(origin.address());
    let mut connection = Connection::open(proxy.address()).expect("a connection");
    connection.send(&[ASK, b"\x81\x05hello\r\n\r\n"].concat()).expect("sent");
    assert_eq!(connection.answer(false).expect("an answer").status, 426);
    assert_eq!(connection.answer(false).expect("an answer").status, 400);
    assert_eq!(connection.rest().expect("closed"), b"");
    assert_eq!(origin.take().len(), 1);
}

/// The other side's end is passed on, each direction for itself.
#[test]
fn a_switched_connection_ends_by_halves() {
    let origin = Origin::answering(|_, stream| {
        stream.write_all(SWITCH)?;
        let mut all = Vec::new();
        stream.read_to_end(&mut all)?;
        stream.write_all(format!("{} bytes", all.len()).as_bytes())?;
        Err(std::io::ErrorKind::ConnectionAborted.into())
    });
    let proxy = Proxy::before(origin.address());
    let mut stream = std::net::TcpStream::connect(proxy.address()).expect("a connection");
    stream.set_read_timeout(Some(e2e::DEADLINE)).expect("a time-out");
    stream.write_all(ASK).expect("sent");
    let mut head = vec![0; 1024];
    let mut at = 0;
    while !head[..at].ends_with(b"\r\n\r\n") {
        let read = stream.read(&mut head[at..]).expect("the 101");
        assert!(read > 0, "{:?}", head[..at].escape_ascii().to_string());
        at += read;
    }
    for _ in 0..100 {
        stream.write_all(&[7; 10_000]).expect("sent");
    }
    stream.shutdown(std::net::Shutdown::Write).expect("half a close");
    let mut said = String::new();
    stream.read_to_string(&mut said).expect("the origin's word");
    assert_eq!(said, "1000000 bytes");
}

/// An origin that switches to something else than was asked for.
#[test]
fn an_origin_cannot_switch_to_what_nobody_asked_for() {
    let origin = Origin::start(
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n\0\0\0\x04\0\0\0\0\0",
    );
    let proxy = Proxy::before(origin.address());
    let mut connection = Connection::open(proxy.address()).expect("a connection");
    connection.send(ASK).expect("sent");
    assert_eq!(connection.answer(false).expect("an answer").status, 502);
}
