//! How the traffic of an unmodified program reaches its proxy: a network namespace, nftables, DNS.
//!
//! [`run`] is the supervisor of one program: it starts [`init`], the first process of the program's namespaces, and the
//! sidecar, which lives in the host's network and [takes over](Inherited) sockets of the program's. [`check()`] tries what
//! that takes of the system. Nothing here is on a request's path but what is handed over. Linux only.

#[cfg(not(target_os = "linux"))]
compile_error!("namespaces and nftables are Linux's: capture is there alone");

pub mod addresses;
mod advice;
mod check;
mod descriptors;
pub mod dns;
mod inherited;
mod init;
mod mounts;
mod namespace;
mod netlink;
mod orders;
mod outcome;
mod peer;
mod privileges;
pub mod refused;
mod resolver;
mod rules;
pub mod sandbox;
mod set_up;
mod sidecar;
mod signals;
mod sockets;
mod steps;
mod stock;
mod supervisor;
mod terminal;
mod threads;
pub mod wire;

pub use advice::{Advice, Facts, INSTEAD};
pub use check::{Verdict, check, reachable};
pub use inherited::{Inherited, Supervisor, VARIABLE};
pub use outcome::Outcome;
pub use peer::peer_process;
pub use steps::{Failure, Missing, Step, Tried};
pub use stock::Stock;
pub use supervisor::{Run, RunError, run};
