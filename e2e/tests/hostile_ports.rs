//! Ports that somebody fills, or holds on to: who has proven an identity, and who enrols, get through all the same.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use e2e::captured::Mesh;
use e2e::forge::Shown;
use e2e::http;
use e2e::issuance::{P256, Wanted, ask, request};
use e2e::{eventually, free_address, tls};

/// What an HTTP/2 client begins with: the preface, and settings that set nothing.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
/// A frame that asks for an answer and for nothing else.
const PING: &[u8] = b"\0\0\x08\x06\0\0\0\0\x0012345678";

/// Connections that say nothing, as far as descriptors go.
fn silent(at: SocketAddr, count: usize) -> Vec<TcpStream> {
    (0..count).map_while(|_| TcpStream::connect(at).ok()).collect()
}

/// A metric of the control plane.
fn metric(mesh: &Mesh, name: &str) -> u64 {
    let answer = http::get(mesh.api_address(), "/metrics").expect("metrics");
    let line = format!("meshwork_control_plane_{name} ");
    let text = answer.text();
    let value = text.lines().find_map(|told| told.strip_prefix(&line)).expect("told");
    value.parse().expect("a number")
}

#[test]
fn a_port_full_of_silence_is_open_to_others() {
    let mesh = Mesh::start("");
    let at = mesh.listen_address();
    let outbound = format!("cart.shop:80={}", free_address());
    let mut cart = mesh.explicit("cart", &["--outbound", &outbound]);
    let state = mesh.state_of("cart");
    eventually("the cart has enrolled", || state.join("identity.pem").exists());
    eventually("the cart is connected", || mesh.proxy("cart").is_some());
    let token = mesh.token("web", &[]);
    let (csr, own) = (request(mesh.scratch(), P256, &[]).0, Shown::of(&state));
    // Again and again: what is closed for others comes back.
    let held = silent(at, 6_000);
    assert!(held.len() > 500, "{} connections", held.len());
    let first = Wanted { csr: &csr, token: Some(&token), ..Wanted::default() };
    eventually("somebody enrols", || ask(at, None, &first).is_ok());
    let again = Wanted { csr: &csr, ..Wanted::default() };
    eventually("somebody renews", || ask(at, Some(&own), &again).is_ok());
    assert!(cart.alive() && metric(&mesh, "connected_nodes") == 1);
    drop(held);
    eventually("nobody shakes hands", || metric(&mesh, "connections_handshaking") == 0);
}

#[test]
fn the_api_is_open_to_others_while_somebody_holds_its_connections() {
    let mesh = Mesh::start("");
    let held = silent(mesh.api_address(), 400);
    assert!(held.len() > 256);
    eventually("it answers", || mesh.api("/api/v1/proxies").is_some());
    assert!(metric(&mesh, "connections_displaced_total") > 0);
    let token = mesh.token("web", &[]);
    assert!(!token.is_empty());
}

#[test]
fn who_proves_nothing_has_little_of_everything() {
    let mesh = Mesh::start("");
    let at = mesh.listen_address();
    // A client without a certificate that asks for nothing.
    let mut idle = tls::connect(at, None, &[b"h2"]).expect("a handshake");
    idle.write_all(PREFACE).expect("sent");
    let begin = Instant::now();
    // However it ends.
    let _ = idle.read_to_end(&mut Vec::new());
    // Ended by the other side, and not by the patience of this one.
    assert!(begin.elapsed() < Duration::from_secs(45), "it stayed for {:?}", begin.elapsed());
    assert_eq!(metric(&mesh, "connections_overdue_total"), 1);
    // One that sends more than a request for a certificate needs.
    let mut loud = tls::connect(at, None, &[b"h2"]).expect("a handshake");
    loud.write_all(PREFACE).expect("sent");
    let pings = PING.repeat(256);
    let mut sent = 0;
    while sent < 64 << 20 && loud.write_all(&pings).and_then(|()| loud.flush()).is_ok() {
        sent += pings.len();
    }
    assert!(sent < 64 << 20, "it was never stopped");
    eventually("it is counted", || metric(&mesh, "connections_overdue_total") == 2);
    eventually("both are gone", || metric(&mesh, "connections_anonymous") == 0);
}
