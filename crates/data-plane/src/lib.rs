//! The proxy: listeners, connections, exchanges, policy and upstreams.
//!
//! One request, in the order of the files: `listener` accepts → `connection` chooses the filter chain and ends
//! mTLS → `http::exchange` `Exchange::run`: route → authenticate → authorize → forward → respond → record.
//! **Open `http/exchange.rs` first.** `tcp` has the same shape for bytes.
//!
//! - `proxy`: the handle that everything outside holds: start, apply, drain.
//! - `config`: builds the immutable `RuntimeConfig` off the hot path and says why a resource is refused.
//! - `worker`: a thread with its own runtime, sockets, pools, balancer state and metric shard.
//! - `crew`: what workers know of each other, and how a connection moves; `overload`: what is shed before the kernel
//!   kills; `handshakes`: how much TLS may delay everything else.
//! - `destination`: where redirected connections were meant to go, and what nobody is taken to.
//! - `standing`: whether those at the other ends of open mTLS connections are still trusted; `unproven`: why handshakes
//!   fail.
//! - `resolver`: keeps the addresses of hosts that clusters name; `hello`: what a TLS client asks for.
//! - `upstream`: picks, connects and pools; `policy` makes the proof without which nothing is forwarded.
//! - `dry_run`: what policies that are only tried would say.
//! - `error`: the one place that turns a failure into a `Reason`, a status and an answer; `limits`: every bound.
//! - `dial`: connections of the proxy's own, to its control plane.
//! - `admin`: readiness, config names and metrics; `drain`: how it all ends.
//!
//! It never parses config or protobufs, keeps no keys, and knows nothing of a control plane: whoever has an
//! `xds::Update` may apply it.

mod admin;
mod config;
mod connection;
mod crew;
mod destination;
mod dial;
mod drain;
mod dry_run;
mod error;
mod facts;
mod handshakes;
mod health;
mod hello;
mod http;
mod inspect;
mod limits;
mod listener;
mod occasion;
mod overload;
mod peer;
mod places;
mod policy;
mod proxy;
mod record;
mod resolver;
mod standing;
mod tcp;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod timer;
mod transport;
mod unproven;
mod upstream;
mod worker;

pub use dial::{Connection, Dialer};
pub use overload::Memory;
pub use proxy::{About, NodeLabels, Options, Proxy, SetLog, StartError, default_workers};
pub use upstream::{Workload as WorkloadNetwork, WorkloadSockets};
