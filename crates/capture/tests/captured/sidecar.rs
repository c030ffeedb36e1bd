//! The sidecar's role: tells whoever connects where they came from and where they wanted to go.
//!
//! `TEST_JOURNAL`: a file in which it notes `started`, `terminated` and probes' outcomes. `TEST_INBOUND`: an address of
//! the host whose connections it takes to port 8080 of the program. `TEST_PROBE`: a command that it asks for. `TEST_RESTART`: a file; when it is there, it asks
//! for the program to be started anew. `TEST_NEVER_READY`: it is not ready.

use std::fs::OpenOptions;
use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use meshwork_capture::wire::{FromSidecar, Probe};
use meshwork_capture::{Inherited, Stock, addresses};
use nix::sys::signal::{SigSet, Signal};
use socket2::SockRef;

pub(crate) fn serve() -> ExitCode {
    let mut terminate = SigSet::empty();
    terminate.add(Signal::SIGTERM);
    terminate.thread_block().expect("blocked");
    note("started");
    let inherited = Inherited::take().expect("inherited").expect("a supervisor");
    assert!(Inherited::take().is_err(), "descriptors are taken once");
    let outbound = inherited.outbound.into_iter().flat_map(|(_, sockets)| sockets);
    for listener in outbound.chain(inherited.names_tcp.into_iter().map(|(_, socket)| socket)) {
        thread::spawn(move || answer(&listener));
    }
    for (_, socket) in inherited.names_udp {
        socket.set_nonblocking(false).expect("blocking");
        thread::spawn(move || {
            let mut query = [0; 512];
            while let Ok((length, peer)) = socket.recv_from(&mut query) {
                let text = format!("{peer} asked {}", String::from_utf8_lossy(&query[..length]));
                let _ = socket.send_to(text.as_bytes(), peer);
            }
        });
    }
    if let Ok(address) = std::env::var("TEST_INBOUND") {
        let listener = TcpListener::bind(address).expect("bound");
        let stock = inherited.stock.clone();
        thread::spawn(move || forward(&listener, &stock));
    }
    let supervisor = Arc::new(inherited.supervisor);
    let words = BufReader::new(supervisor.stream().expect("stream"));
    thread::spawn(move || words.lines().map_while(Result::ok).for_each(|line| note(&line)));
    if std::env::var_os("TEST_NEVER_READY").is_none() {
        supervisor.ready(&own()).expect("told");
    }
    if let Ok(command) = std::env::var("TEST_PROBE") {
        let probe = Probe { id: 7, command: crate::scene::sh(&command), timeout_ms: 300 };
        supervisor.tell(&FromSidecar::Probe(probe)).expect("told");
    }
    if let Some(file) = std::env::var_os("TEST_RESTART").map(PathBuf::from) {
        let supervisor = Arc::clone(&supervisor);
        thread::spawn(move || {
            while !file.exists() {
                thread::sleep(Duration::from_millis(10));
            }
            supervisor.tell(&FromSidecar::Unwell { reason: "it is tested".to_owned() }).expect("told");
        });
    }
    terminate.wait().expect("signal");
    note("terminated");
    ExitCode::SUCCESS
}

fn own() -> [IpAddr; 2] {
    ["240.0.0.5", "fd6d:6573:6877::5"].map(|address| address.parse().expect("address"))
}

fn answer(listener: &TcpListener) {
    listener.set_nonblocking(false).expect("blocking");
    while let Ok((mut stream, peer)) = listener.accept() {
        let socket = SockRef::from(&stream);
        let original = if peer.is_ipv6() { socket.original_dst_v6() } else { socket.original_dst_v4() };
        let original = original.ok().and_then(|address| address.as_socket());
        let meant = original.map_or("nowhere".to_owned(), |address| address.to_string());
        let _ = writeln!(stream, "{} to {meant}", peer.ip());
    }
}

/// Takes connections from the host to the program, through the stock.
fn forward(listener: &TcpListener, stock: &Stock) {
    while let Ok((mut outside, _)) = listener.accept() {
        let socket = loop {
            match stock.take(false).expect("the workload lives") {
                Some(socket) => break socket,
                None => thread::yield_now(),
            }
        };
        socket.set_nonblocking(false).expect("blocking");
        socket.bind(&SocketAddr::new(addresses::SIDECAR[0], 0).into()).expect("bound");
        if socket.connect(&SocketAddr::from(([127, 0, 0, 1], 8080)).into()).is_err() {
            continue;
        }
        let mut program = TcpStream::from(socket);
        thread::spawn(move || std::io::copy(&mut program, &mut outside));
    }
}

fn note(line: &str) {
    let Some(path) = std::env::var_os("TEST_JOURNAL") else { return };
    let mut file = OpenOptions::new().create(true).append(true).open(path).expect("journal");
    writeln!(file, "{line}").expect("written");
}
