//! Envoy protobufs to and from the model, and the ADS sessions as state machines without I/O.
//!
//! - [`bootstrap`]: an Envoy v3 bootstrap file, YAML or JSON, as the model's resources.
//! - [`encode()`] and [`decode()`]: one resource to and from Envoy's protobufs, in one of three [`Dialect`]s.
//! - [`support`]: the one table of what is honoured, harmless or refused; it judges files and wire alike.
//! - [`server`] and [`client`]: both ends of ADS as state machines; [`grpc`] is the thin shell with sockets.
//! - [`sds`]: secrets by Envoy's SDS, both ends.
//! - [`last_good`]: accepted resources as bytes that outlive the process.
//!
//! Protobuf types do not leave this crate.

pub mod bootstrap;
mod canonical;
pub mod client;
pub mod config_dump;
mod decode;
mod descriptors;
mod dump;
mod encode;
pub mod grpc;
mod json;
pub mod last_good;
mod metadata;
mod node;
mod path;
mod pb;
mod resource;
pub mod sds;
pub mod server;
pub mod services;
pub mod support;
mod yaml;

pub use decode::decode;
pub use descriptors::unload as unload_descriptors;
pub use dump::{dump, to_yaml};
pub use encode::{SdsSource, encode};
pub use node::{Dialect, Node, USER_AGENT};
pub use resource::{Encoded, Raw, Rejection, Snapshot, Update, kind_of_type_url, type_url};
