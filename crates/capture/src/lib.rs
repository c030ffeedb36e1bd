//! How the traffic of an unmodified program reaches its proxy: a network namespace, nftables, DNS.
//!
//! [`run`] is the supervisor of one program: it starts [`init`], the first process of the program's namespaces, and the
//! sidecar, which lives in the host's network and [takes over](Inherited) sockets of the program's. [`check()`] tries what
//! that takes of the system. Nothing here is on a request's path but what is handed over. Linux only.

pub mod addresses;
#[cfg(target_os = "linux")]
mod advice;
#[cfg(target_os = "linux")]
mod check;
#[cfg(target_os = "linux")]
mod descriptors;
pub mod dns;
#[cfg(target_os = "linux")]
mod inherited;
#[cfg(target_os = "linux")]
mod init;
#[cfg(target_os = "linux")]
mod mounts;
#[cfg(target_os = "linux")]
mod namespace;
#[cfg(target_os = "linux")]
mod netlink;
#[cfg(target_os = "linux")]
mod orders;
#[cfg(target_os = "linux")]
mod outcome;
#[cfg(target_os = "linux")]
mod privileges;
#[cfg(target_os = "linux")]
pub mod refused;
mod resolver;
#[cfg(target_os = "linux")]
mod rules;
#[cfg(target_os = "linux")]
mod set_up;
#[cfg(target_os = "linux")]
mod sidecar;
#[cfg(target_os = "linux")]
mod signals;
#[cfg(target_os = "linux")]
mod sockets;
#[cfg(target_os = "linux")]
mod steps;
#[cfg(target_os = "linux")]
mod stock;
#[cfg(target_os = "linux")]
mod supervisor;
#[cfg(target_os = "linux")]
mod terminal;
pub mod wire;

#[cfg(target_os = "linux")]
pub use advice::{Advice, Facts, INSTEAD};
#[cfg(target_os = "linux")]
pub use check::{Verdict, check, reachable};
#[cfg(target_os = "linux")]
pub use inherited::{Inherited, Supervisor, VARIABLE};
#[cfg(target_os = "linux")]
pub use outcome::Outcome;
#[cfg(target_os = "linux")]
pub use steps::{Failure, Missing, Step, Tried};
#[cfg(target_os = "linux")]
pub use stock::Stock;
#[cfg(target_os = "linux")]
pub use supervisor::{Run, RunError, run};
