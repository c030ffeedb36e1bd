//! Whom we call: picks an endpoint, connects to it, and keeps connections for the next request.
//!
//! [`Hosts`] and [`Breakers`] are what all workers share of a cluster; everything else belongs to one worker: no lock, no
//! atomic but the pointer to a cluster's endpoints, and where limits are configured their counts.

mod breaker;
mod cluster;
mod connect;
mod host;
mod pool;
pub(crate) mod workload;

pub(crate) use breaker::{Breakers, Held, Limited, Overflow};
pub(crate) use cluster::{Edges, Endpoint, Picked, Reach, Wanted, WorkerCluster};
pub(crate) use connect::{connect, connect_for_check, explained};
pub(crate) use host::{EndpointSet, Flag, Host, HostState, Hosts};
pub(crate) use pool::{Lease, Pool};
pub use workload::{Workload, WorkloadSockets};
