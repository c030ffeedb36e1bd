//! Whom we call: picks an endpoint, connects to it, and keeps connections for the next request.
//!
//! All of it belongs to one worker: no lock, no atomic but the pointer to a cluster's endpoints.

mod cluster;
mod connect;
mod pool;
pub(crate) mod workload;

pub(crate) use cluster::{Edges, Endpoint, Picked, Reach, WorkerCluster};
pub(crate) use connect::connect;
pub(crate) use pool::{Lease, Pool};
pub(crate) use workload::Workload;
pub use workload::WorkloadSockets;
