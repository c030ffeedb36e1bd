//! The model's resources as Envoy's protobufs.
//!
//! What differs between clients is decided here and nowhere else: by [`Dialect`], and for secrets by
//! [`SdsSource`]. Goldens of every dialect are in `testdata`.

mod access_log;
mod cluster;
mod endpoint;
mod filter;
mod health;
mod http;
mod listener;
mod names;
mod policy;
mod retry;
mod route;
mod terms;
mod tls;

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::time::Duration;

use meshwork_model::proxy::{Kind, Resource};
use prost::{Message, Name};
use sha2::{Digest as _, Sha256};

use crate::canonical::canonical;
use crate::decode::NEVER;
use crate::node::Dialect;
use crate::resource::{Encoded, type_url};
use crate::{descriptors, pb};

/// Where a client gets its certificate, key and trust bundle from. No private key crosses xDS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SdsSource {
    /// Our own proxy resolves the names `default` and `ROOTCA` itself.
    Named,
    /// Envoy reads `default.yaml` and `ROOTCA.yaml` from this absolute directory.
    Directory(String),
    /// gRPC uses the certificate provider `default` of its bootstrap file.
    Grpc,
}

/// Encodes a resource for a client. The bytes are deterministic: equal resources give equal bytes.
pub fn encode(resource: &Resource, dialect: Dialect, sds: &SdsSource) -> Encoded {
    let writer = Writer { dialect, sds };
    let message = match resource {
        Resource::Listener(listener) => writer.listener(listener).encode_to_vec(),
        Resource::Names(table) => writer.names(table).encode_to_vec(),
        Resource::Routes(table) => writer.route_table(table).encode_to_vec(),
        Resource::Cluster(cluster) => writer.cluster(cluster).encode_to_vec(),
        Resource::Endpoints(endpoints) => writer.endpoints(endpoints).encode_to_vec(),
        // Secrets stay where they are: no key leaves by the stream.
        Resource::Secret(secret) => {
            crate::pb::tls::Secret { name: secret.name.to_string(), r#type: None }.encode_to_vec()
        }
    };
    encoded(resource.kind(), resource.name(), &message)
}

fn encoded(kind: Kind, name: &str, message: &[u8]) -> Encoded {
    let bytes = match descriptors::message(type_url(kind)) {
        Some(descriptor) => canonical(&descriptor, message),
        None => message.to_vec(),
    };
    Encoded { kind, name: name.into(), version: version(&bytes).into(), bytes: bytes.into() }
}

/// How many bytes of the hash make a version: enough that no two contents of one name ever meet.
const VERSION_BYTES: usize = 8;

/// The version of a content: a hash that is the same on every machine.
pub(crate) fn version(bytes: &[u8]) -> String {
    let hash = Sha256::digest(bytes);
    hash.iter().take(VERSION_BYTES).fold(String::new(), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Writes messages for one client.
struct Writer<'s> {
    dialect: Dialect,
    sds: &'s SdsSource,
}

impl Writer<'_> {
    fn is_grpc(&self) -> bool {
        self.dialect == Dialect::Grpc
    }
}

fn pack<M: Message + Name>(message: &M) -> pb::Any {
    pb::Any { type_url: M::type_url(), value: message.encode_to_vec() }
}

fn address(address: SocketAddr) -> pb::core::Address {
    socket_address(address.ip().to_string(), address.port())
}

fn socket_address(host: String, port: u16) -> pb::core::Address {
    use pb::core::socket_address::PortSpecifier;
    let socket = pb::core::SocketAddress {
        address: host,
        port_specifier: Some(PortSpecifier::PortValue(u32::from(port))),
        ..pb::core::SocketAddress::default()
    };
    pb::core::Address { address: Some(pb::core::address::Address::SocketAddress(socket)) }
}

fn duration(duration: Duration) -> pb::Duration {
    pb::Duration {
        seconds: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        // Below a thousand million, so it always fits.
        nanos: i32::try_from(duration.subsec_nanos()).unwrap_or_default(),
    }
}

/// A time-out where 0 means never.
fn timeout(timeout: Duration) -> pb::Duration {
    duration(if timeout == NEVER { Duration::ZERO } else { timeout })
}

/// Resources that come by the same stream.
fn ads() -> pb::core::ConfigSource {
    use pb::core::config_source::ConfigSourceSpecifier;
    pb::core::ConfigSource {
        resource_api_version: pb::core::ApiVersion::V3 as i32,
        config_source_specifier: Some(
            ConfigSourceSpecifier::Ads(pb::core::AggregatedConfigSource::default()),
        ),
        ..pb::core::ConfigSource::default()
    }
}

fn boolean(value: bool) -> pb::BoolValue {
    pb::BoolValue { value }
}

fn number(value: u32) -> pb::UInt32Value {
    pb::UInt32Value { value }
}

#[cfg(test)]
mod features;
#[cfg(test)]
mod random;
#[cfg(test)]
mod tests;
