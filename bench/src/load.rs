//! The loads, all closed loops: a connection sends its next request when it has its answer.
//!
//! wrk and h2load where they can, a small client of our own where TLS with client certificates, new connections,
//! bodies or plain TCP are wanted. Each is bounded in time.

pub(crate) mod client;
mod h2load;
pub(crate) mod remote;
mod tls;
mod wrk;

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::statistics::percentile;

/// What is asked of a contender.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Load {
    /// HTTP/1.1 keep-alive, 1 KiB answers, by wrk.
    Wrk { connections: usize },
    /// HTTP/2 in plaintext, 1 KiB answers, by h2load.
    H2 { connections: usize, streams: usize },
    /// HTTP/1.1 by our own client.
    Requests { connections: usize, request: Request, tls: bool },
    /// Full TLS handshakes, each on a new connection that ends right after it.
    Handshakes { connections: usize, hybrid: bool },
    /// Small messages over TCP, each sent back before the next.
    Echo { connections: usize },
    /// TCP both ways, as fast as it goes.
    Bulk { connections: usize },
    /// Connections that are open and idle after one request each.
    Idle { connections: &'static [usize] },
}

/// A request of our own client.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Request {
    /// 1 KiB answer, on a connection that stays.
    Small,
    /// 1 KiB answer, on a connection of its own.
    SmallOnNewConnection,
    /// 1 MiB answer.
    Download,
    /// 1 MiB of request.
    Upload,
}

/// What a load has counted. Any failure is an error instead.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Done {
    /// Requests, round trips or handshakes.
    pub(crate) operations: u64,
    /// Bytes of bodies or of TCP, both ways.
    pub(crate) bytes: u64,
    pub(crate) per_second: f64,
    /// Where the load tells them.
    pub(crate) latencies: Option<Latencies>,
}

/// Milliseconds.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
pub(crate) struct Latencies {
    pub(crate) p50: f64,
    pub(crate) p90: f64,
    pub(crate) p99: f64,
}

impl Load {
    /// Runs the load. `dir` has the TLS material; `ready` is called when connections that stay are open.
    pub(crate) fn run(
        self,
        address: SocketAddr,
        time: Duration,
        dir: &Path,
        ready: impl FnOnce() -> anyhow::Result<()>,
    ) -> anyhow::Result<Done> {
        match self {
            Self::Wrk { connections } => ready().and_then(|()| wrk::run(address, connections, time)),
            Self::H2 { connections, streams } => {
                ready().and_then(|()| h2load::run(address, connections, streams, time))
            }
            own => runtime()?.block_on(client::run(own, address, time, dir, ready)),
        }
    }
}

impl Latencies {
    /// Of microseconds.
    fn of(mut samples: Vec<u32>) -> Option<Self> {
        samples.sort_unstable();
        let at = |share| f64::from(percentile(&samples, share)) / 1000.0;
        (!samples.is_empty()).then(|| Self { p50: at(0.5), p90: at(0.9), p99: at(0.99) })
    }
}

/// A runtime on this thread.
pub(crate) fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}
