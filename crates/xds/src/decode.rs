//! Envoy's protobufs as the model's resources.
//!
//! The support table has judged a message before it is decoded, so decoders read the honoured fields only and
//! refuse only values.

mod access_log;
mod cluster;
mod endpoint;
mod filter;
mod health;
mod http;
mod listener;
mod local_reply;
mod names;
mod policy;
mod retry;
mod route;
mod terms;
mod tls;

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use meshwork_model::problem::{Code, Problem};
use meshwork_model::proxy::{Kind, Resource};
use prost::{Message, Name};
use prost_reflect::DynamicMessage;

use crate::path::{Path, Problems};
use crate::resource::{kind_of_type_url, name_of_kind};
use crate::{descriptors, pb, support};

pub(crate) use cluster::{HTTP_OPTIONS, WORKLOAD_NETWORK, cluster};
pub(crate) use listener::listener;
pub(crate) use policy::EACH_VALUE;
pub(crate) use tls::{CIPHER_SUITES, GROUPS, REFUSAL, static_secret};

/// Decodes a resource, and refuses by name what is not honoured.
///
/// # Errors
/// Everything that is wrong with it, each with its field path.
pub fn decode(type_url: &str, bytes: &[u8]) -> Result<Resource, Vec<Problem>> {
    let Some(kind) = kind_of_type_url(type_url) else {
        return Err(vec![unknown(type_url)]);
    };
    let reflected = descriptors::message(type_url).map(|message| DynamicMessage::decode(message, bytes));
    let message = match reflected {
        Some(Ok(message)) => message,
        Some(Err(error)) => return Err(vec![garbled(kind, &error)]),
        None => {
            return Err(vec![unknown(type_url)]);
        }
    };
    let name_field = if kind == Kind::Endpoints { "cluster_name" } else { "name" };
    let name = message.get_field_by_name(name_field);
    let name = name.as_ref().and_then(|value| value.as_str()).unwrap_or_default();
    let mut problems = Problems::of(format!("{} {name}", name_of_kind(kind)));
    support::judge(&message, &mut problems);
    let resource = match of_kind(kind, bytes, &mut problems) {
        Ok(resource) => resource,
        Err(error) => return Err(vec![garbled(kind, &error)]),
    };
    match resource {
        Some(resource) if !problems.has_errors() => Ok(resource),
        _ => Err(problems.into_list()),
    }
}

fn unknown(type_url: &str) -> Problem {
    Problem::error(type_url, "", "resources of this type are not supported", "").of(Code::Refused)
}

fn garbled(kind: Kind, error: &prost::DecodeError) -> Problem {
    Problem::error(name_of_kind(kind), "", format!("the bytes are not such a message: {error}"), "")
        .of(Code::Refused)
}

fn of_kind(
    kind: Kind,
    bytes: &[u8],
    problems: &mut Problems,
) -> Result<Option<Resource>, prost::DecodeError> {
    let at = Path::Root;
    Ok(match kind {
        Kind::Cluster => cluster(&pb::cluster::Cluster::decode(bytes)?, &at, problems).map(Resource::Cluster),
        Kind::Endpoints => {
            let message = pb::endpoint::ClusterLoadAssignment::decode(bytes)?;
            endpoint::endpoints(&message, &at, problems).map(Resource::Endpoints)
        }
        Kind::Listener => listener(&pb::listener::Listener::decode(bytes)?, &at, problems),
        Kind::Routes => {
            let message = pb::route::RouteConfiguration::decode(bytes)?;
            route::table(&message, &at, problems).map(Resource::Routes)
        }
        Kind::Secret => tls::secret(&pb::tls::Secret::decode(bytes)?, &at, problems).map(Resource::Secret),
    })
}

/// What a decoder reads, also where that may be absent; `None` is what was refused, and noted.
type Read<T> = Option<T>;

/// A resource's name, which must not be empty.
pub(crate) fn required<'t>(text: &'t str, at: &Path<'_>, problems: &mut Problems) -> Option<&'t str> {
    if text.is_empty() { problems.error(at, "this must not be empty", "") } else { Some(text) }
}

/// A duration that is not negative.
fn duration(value: pb::Duration, at: &Path<'_>, problems: &mut Problems) -> Option<Duration> {
    match (u64::try_from(value.seconds), u32::try_from(value.nanos)) {
        (Ok(seconds), Ok(nanos)) if nanos < 1_000_000_000 => Some(Duration::new(seconds, nanos)),
        _ => problems.error(at, "this is no duration", "write a number of seconds, such as `5s`"),
    }
}

/// Stands for "never" where Envoy writes 0: a hundred years.
pub(crate) const NEVER: Duration = Duration::from_hours(100 * 365 * 24);

/// A time-out where 0 means never, and nothing means our default.
fn timeout(value: Option<pb::Duration>, at: &Path<'_>, problems: &mut Problems) -> Option<Duration> {
    let timeout = duration(value?, at, problems)?;
    Some(if timeout.is_zero() { NEVER } else { timeout })
}

/// An IP address and port of TCP.
pub(crate) fn address(
    address: Option<&pb::core::Address>,
    at: &Path<'_>,
    problems: &mut Problems,
) -> Option<SocketAddr> {
    let Some(socket) = socket(address) else {
        return problems.error(at, "an address is missing", "write `socket_address`");
    };
    let at = at.field("socket_address");
    if socket.protocol != pb::core::socket_address::Protocol::Tcp as i32 {
        return problems.error(&at.field("protocol"), "only TCP is supported", "");
    }
    socket_address(socket, &at, problems)
}

fn socket(address: Option<&pb::core::Address>) -> Option<&pb::core::SocketAddress> {
    match address?.address.as_ref()? {
        pb::core::address::Address::SocketAddress(socket) => Some(socket),
        _ => None,
    }
}

/// An IP address and port in the proxy's own network.
fn socket_address(
    socket: &pb::core::SocketAddress,
    at: &Path<'_>,
    problems: &mut Problems,
) -> Option<SocketAddr> {
    if !socket.network_namespace_filepath.is_empty() {
        let fix = "only `upstream_bind_config` may name one";
        return problems.error(&at.field("network_namespace_filepath"), "this is not supported", fix);
    }
    let Ok(ip) = socket.address.parse::<IpAddr>() else {
        let text = format!("`{}` is not an IP address", socket.address);
        return problems.error(&at.field("address"), text, "");
    };
    let Some(pb::core::socket_address::PortSpecifier::PortValue(port)) = socket.port_specifier else {
        return problems.error(at, "the port is missing", "write `port_value`");
    };
    match u16::try_from(port) {
        Ok(port) => Some(SocketAddr::new(ip, port)),
        Err(_) => problems.error(&at.field("port_value"), format!("{port} is no port"), ""),
    }
}

/// The content of an `Any`, if it is an `M`. Its bytes were judged before; if they are garbled, that was said.
fn unpack<M: Message + Name + Default>(any: &pb::Any) -> Option<M> {
    is::<M>(any).then(|| M::decode(any.value.as_slice()).ok()).flatten()
}

/// Whether an `Any` holds an `M`.
fn is<M: Name>(any: &pb::Any) -> bool {
    any.type_url.rsplit('/').next().is_some_and(|name| name == M::full_name())
}

/// Only resources from the stream that the resource itself came by.
pub(crate) fn only_ads(
    source: Option<&pb::core::ConfigSource>,
    at: &Path<'_>,
    problems: &mut Problems,
) -> Option<()> {
    use pb::core::config_source::ConfigSourceSpecifier::Ads;
    match source.and_then(|source| source.config_source_specifier.as_ref()) {
        Some(Ads(_)) => Some(()),
        _ => problems.error(at, "only ADS is supported", "write `ads: {}`"),
    }
}

#[cfg(test)]
mod tests;
