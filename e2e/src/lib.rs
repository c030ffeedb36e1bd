//! Black-box tests of the binary, with the real peers.
//!
//! What the tests share: running programs that end with the test, ports, an origin that records what reaches it
//! byte by byte, a client that sends what it is told byte by byte, and where the peers are installed
//! (`cargo xtask peers`).

#![expect(
    clippy::panic,
    clippy::missing_panics_doc,
    reason = "tests' own code: to panic is how a test fails"
)]
#![expect(clippy::print_stderr, reason = "a failed test shows what the programs beside it said")]

pub mod captured;
pub mod differential;
pub mod drill;
pub mod echo;
pub mod forge;
pub mod grpc;
pub mod http;
pub mod inside;
pub mod issuance;
pub mod jwt;
pub mod leftovers;
pub mod load;
pub mod mesh;
pub mod nginx;
pub mod origin;
mod ports;
pub mod program;
pub mod proxy;
pub mod tls;
pub mod user;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long anything may take before a test calls it dead. Generous: tests assert liveness, never speed.
pub const DEADLINE: Duration = Duration::from_mins(2);

/// Nearly a second: what a timer of a second waits at least, whose clock ticks in milliseconds and began before ours.
pub const SECOND: Duration = Duration::from_millis(950);

/// The repository's root.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("a parent").to_path_buf()
}

/// The binary under test: `MESHWORK_BINARY`, or the one beside the tests.
pub fn binary() -> PathBuf {
    if let Some(path) = std::env::var_os("MESHWORK_BINARY") {
        return path.into();
    }
    // target/debug/deps/<test> → target/debug/meshwork
    let test = std::env::current_exe().expect("this program");
    let path = test.ancestors().nth(2).expect("a target folder").join("meshwork");
    assert!(path.exists(), "{} is not built: cargo build", path.display());
    path
}

/// A Python peer's environment, or another file below `target/peers`.
pub fn peer(path: &str) -> PathBuf {
    let path = root().join("target/peers").join(path);
    assert!(path.exists(), "{} is not installed: cargo xtask peers", path.display());
    path
}

/// A loopback address whose port is nobody else's.
pub fn free_address() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, ports::free()).into()
}

/// Reads what a program has printed as JSON.
pub fn json(text: &str) -> serde_json::Value {
    serde_json::from_str(text).unwrap_or_else(|e| panic!("{e}: {text}"))
}

/// Waits until `what` holds, and panics with its name where it does not within [`DEADLINE`].
pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < DEADLINE, "not within {DEADLINE:?}: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
