//! How the traffic of an unmodified program reaches its proxy: a network namespace, nftables, DNS.

pub mod addresses;
#[cfg(target_os = "linux")]
mod descriptors;
pub mod dns;
#[cfg(target_os = "linux")]
mod inherited;
#[cfg(target_os = "linux")]
pub mod refused;
#[cfg(target_os = "linux")]
mod stock;
pub mod wire;

#[cfg(target_os = "linux")]
pub use inherited::{Inherited, Supervisor, VARIABLE};
#[cfg(target_os = "linux")]
pub use stock::Stock;
