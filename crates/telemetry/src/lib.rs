//! What a request leaves behind: counters and histograms per edge, an access log, and their export.
//!
//! - [`EdgeKey`]: one direction of traffic between two workloads, as one of the two proxies sees it.
//! - [`Shard`]: the counters of one worker, written by that worker alone; recording takes no lock, allocates
//!   nothing and formats nothing.
//! - [`inbound`]: what a workload's ports take by mTLS and without, by caller; [`dry_run`]: what policies that are only
//!   tried would say.
//! - [`Registry`]: all shards of a process; [`Registry::fold`] adds them up when somebody reads.
//! - [`prometheus`] and [`otlp`]: the two forms in which the sums leave; [`names`] is the one table of names.
//! - [`access_log`]: one JSON line per request, through a writer thread.
//!
//! How a worker uses it:
//!
//! ```
//! use std::time::{Duration, SystemTime};
//! use meshwork_telemetry::{EdgeKey, Registry, Request};
//!
//! let registry = Registry::new(SystemTime::now());
//! let shard = registry.shard(); // once per worker
//! let edge = shard.edge(&EdgeKey::default()); // once per endpoint or peer; keep the id
//! shard.record_request(edge, &Request { status: 200, duration: Duration::from_millis(3), ..Request::default() });
//! assert_eq!(registry.fold()[0].requests(), 1);
//! ```
//!
//! This crate stores nothing, and series that fell idle do not expire yet: an edge lives as long as its process,
//! and their number is bounded by [`edge::MAX_EDGES`].

pub mod access_log;
pub mod dry_run;
pub mod edge;
mod handshake;
pub mod histogram;
pub mod inbound;
mod labels;
pub mod names;
pub mod otlp;
mod outcome;
pub mod prometheus;
mod registry;
mod shard;

pub use access_log::{AccessLog, Entry, Lane, Sink};
pub use dry_run::Trial;
pub use edge::{EdgeId, EdgeKey, Protocol, Reporter};
pub use handshake::Unproven;
pub use inbound::{Caller, OpenFrom, Taken};
pub use otlp::{ResourceAttributes, push_otlp};
pub use outcome::Outcome;
pub use registry::{EdgeSnapshot, Refusal, Registry};
pub use shard::{Request, Shard};
