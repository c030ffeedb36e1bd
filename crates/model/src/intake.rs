//! `prepare`: what a proxy makes of a request's head before anything judges it.
//!
//! Path and host come into the one form; fields that only proxies may say are gone where nobody is believed who says
//! them, and those that a proxy says itself are there. Source: Envoy `ConnectionManagerUtility::mutateRequestHeaders`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::client::{self, FORWARDED_FOR};
use crate::head::RequestHead;
use crate::path::{Form, form, normal_host};
use crate::proxy::{
    ClientCert, Direction, ForwardClientCert, HostNormalization, HttpConnection, Scheme, Underscores,
};

/// How the request came to the mesh, as told to applications. Source: Envoy `x-forwarded-proto`.
const FORWARDED_PROTO: &[u8] = b"x-forwarded-proto";
const FORWARDED_PORT: &[u8] = b"x-forwarded-port";
/// A request's name.
pub const REQUEST_ID: &[u8] = b"x-request-id";
/// The trace that a request is part of. Source: W3C Trace Context §3.2; B3 propagation, single and multiple header.
const TRACE_PARENT: &[u8] = b"traceparent";
const B3: [&[u8]; 2] = [b"b3", b"x-b3-traceid"];
/// Fields that say something of the connection, and are gone before a request is judged. Not so `upgrade`,
/// `transfer-encoding` and `content-length`. Source: RFC 9110 §7.6.1.
pub const OF_CONNECTION: [&str; 7] = [
    "connection",
    "http2-settings",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authentication-info",
    "proxy-authorization",
    "proxy-connection",
];
const CLIENT_CERT: &[u8] = b"x-forwarded-client-cert";
/// What the names of fields begin with that proxies tell each other.
const ENVOY: &[u8] = b"x-envoy-";
/// Those, behind `x-envoy-`, that only requests of our own may have. Source: Envoy `cleanInternalHeaders`.
const INTERNAL: [&[u8]; 15] = [
    b"internal",
    b"retriable-status-codes",
    b"retriable-header-names",
    b"retry-on",
    b"retry-grpc-on",
    b"max-retries",
    b"upstream-alt-stat-name",
    b"upstream-rq-timeout-ms",
    b"upstream-rq-per-try-timeout-ms",
    b"upstream-rq-timeout-alt-response",
    b"expected-rq-timeout-ms",
    b"force-trace",
    b"ip-tags",
    b"original-url",
    b"hedge-on-per-try-timeout",
];
/// Those that clients at the edge may not have, either.
const EDGE: [&[u8]; 3] = [b"decorator-operation", b"downstream-service-cluster", b"downstream-service-node"];

/// The connection that a request came by.
#[derive(Clone, Copy, Debug)]
pub struct Came {
    /// On whose behalf it was opened.
    pub address: SocketAddr,
    /// The port that it came to.
    pub port: u16,
    /// Whether it is encrypted.
    pub is_tls: bool,
    /// Which side of a workload it came to.
    pub direction: Direction,
    /// Whether its opener proved who they are.
    pub is_proven: bool,
    /// Whether the client says the scheme itself, as by HTTP/2.
    pub is_scheme_said: bool,
}

/// What a proxy says of itself, or draws.
pub trait Own {
    /// The address by which this machine reaches others.
    fn address(&mut self) -> IpAddr;

    /// A new name for a request: a UUID.
    fn request_id(&mut self) -> [u8; 36];

    /// The beginning of a trace.
    fn trace_parent(&mut self) -> [u8; 55];

    /// The client's certificate as one element of `x-forwarded-client-cert`.
    fn client_cert(&mut self) -> String;
}

/// Why a request goes no further.
#[derive(Debug, PartialEq, Eq)]
pub enum Unfit {
    /// It is refused.
    Refused(&'static str),
    /// Its path has another form, which the client is sent to.
    Moved(Vec<u8>),
}

/// Prepares a request, and gives the client's address, as far as it is told by those who may.
///
/// # Errors
/// The request is refused for its form, or sent elsewhere.
pub fn prepare(
    head: &mut RequestHead,
    config: &HttpConnection,
    came: &Came,
    own: &mut impl Own,
) -> Result<SocketAddr, Unfit> {
    judge_names(head, config.limits.underscores)?;
    normalize_host(head, config.hosts, came.port);
    match form(config.paths, head.path_and_query()) {
        Form::Normal => {}
        Form::Other(normal) => head.set_path_and_query(&normal),
        Form::Redirect(normal) => return Err(Unfit::Moved(normal)),
        Form::Refused(why) => return Err(Unfit::Refused(why)),
    }
    Ok(write_own(head, config, came, own))
}

/// Writes the fields that a request gets, and removes those that it may not have.
fn write_own(head: &mut RequestHead, config: &HttpConnection, came: &Came, own: &mut impl Own) -> SocketAddr {
    let clients = &config.clients;
    sanitize_referer(head);
    let told = client::told(head, clients, came.address);
    if clients.is_edge && !clients.skip_append {
        append_opener(head, came.address.ip(), own);
    }
    let protocol: &[u8] = if came.is_tls { b"https" } else { b"http" };
    let trusts = !clients.is_edge || clients.trusted_hops > 0;
    if !trusts || head.fields.find(FORWARDED_PROTO).is_none() {
        head.fields.set(FORWARDED_PROTO, protocol);
    }
    if clients.append_port && (!trusts || head.fields.find(FORWARDED_PORT).is_none()) {
        head.fields.set(FORWARDED_PORT, came.port.to_string().as_bytes());
    }
    set_scheme(head, config, came.is_scheme_said);
    let is_internal = told.is_internal(clients);
    let is_edge = clients.is_edge && !is_internal;
    clean(head, is_internal, is_edge);
    if !config.via.is_empty() {
        head.fields.append(b"via", b", ", config.via.as_bytes());
    }
    let client = told.address.unwrap_or(came.address);
    if is_edge {
        head.fields.set(b"x-envoy-external-address", client.ip().to_string().as_bytes());
    }
    let forces_id = is_edge && !config.keep_request_id;
    if config.generate_request_id && (forces_id || head.fields.find(REQUEST_ID).is_none()) {
        head.fields.set(REQUEST_ID, &own.request_id());
    }
    if config.tracing && is_untraced(head) {
        head.fields.push(TRACE_PARENT, &own.trace_parent());
    }
    forward_certificate(head, config.client_cert, came, own);
    client
}

/// Refuses, or drops, fields with `_` in their names, where config asks.
fn judge_names(head: &mut RequestHead, underscores: Underscores) -> Result<(), Unfit> {
    let has_none = |name: &[u8]| !name.contains(&b'_');
    match underscores {
        Underscores::Allow => {}
        Underscores::Drop => head.fields.retain(has_none),
        Underscores::Reject if head.fields.iter().all(|(name, _)| has_none(name)) => {}
        Underscores::Reject => return Err(Unfit::Refused("a header's name has an underscore")),
    }
    Ok(())
}

/// Brings the authority into normal form; `own` is the port that the client connected to.
fn normalize_host(head: &mut RequestHead, rules: HostNormalization, own: u16) {
    if rules == HostNormalization::default() {
        return;
    }
    let is_connect = head.method() == b"CONNECT";
    if let Some(normal) = normal_host(head.authority(), rules, own, is_connect) {
        head.set_authority(&normal);
    }
}

/// Appends who opened the connection; this machine's address, where that is the loopback address itself.
fn append_opener(head: &mut RequestHead, opener: IpAddr, own: &mut impl Own) {
    let is_loopback = opener == Ipv4Addr::LOCALHOST || opener == Ipv6Addr::LOCALHOST;
    append_client(head, if is_loopback { own.address() } else { opener });
}

/// Whether a client that names these protocols in `upgrade` is taken to ask for one of them. HTTP/2 is not switched to: it
/// would open a channel past every policy, and a client that asks for it gets an answer all the same.
pub fn asks_to_switch(protocols: &[u8]) -> bool {
    let protocols = protocols.trim_ascii();
    !protocols.is_empty() && !protocols.eq_ignore_ascii_case(b"h2c")
}

/// Says at the end of `x-forwarded-for` on whose behalf a request comes.
pub fn append_client(head: &mut RequestHead, ip: IpAddr) {
    head.fields.append(FORWARDED_FOR, b",", ip.to_string().as_bytes());
}

/// HTTP/1 says no scheme: it is that of whoever ended TLS.
fn set_scheme(head: &mut RequestHead, config: &HttpConnection, is_said: bool) {
    if let Some(scheme) = config.scheme {
        let text: &[u8] = if scheme == Scheme::Https { b"https" } else { b"http" };
        head.fields.set(FORWARDED_PROTO, text);
        head.https = scheme == Scheme::Https;
    } else if !is_said {
        head.https |=
            head.fields.find(FORWARDED_PROTO).is_some_and(|said| said.eq_ignore_ascii_case(b"https"));
    }
}

/// Removes what only proxies of our own say; one pass, since nearly no request has any.
fn clean(head: &mut RequestHead, is_internal: bool, is_edge: bool) {
    let is_ours = |name: &[u8]| {
        let Some(name) = name.strip_prefix(ENVOY) else { return true };
        if is_internal {
            name != INTERNAL[0]
        } else {
            !(INTERNAL.contains(&name) || (is_edge && EDGE.contains(&name)))
        }
    };
    head.fields.retain(is_ours);
    if is_internal {
        head.fields.push(b"x-envoy-internal", b"true");
    }
}

/// Removes a `referer` that is none. Source: Envoy `Utility::isValidRefererValue`.
fn sanitize_referer(head: &mut RequestHead) {
    if head.fields.find(b"referer").is_some_and(|referer| !is_referer(referer)) {
        head.fields.remove(b"referer");
    }
}

fn is_referer(value: &[u8]) -> bool {
    if let Some(at) = value.windows(3).position(|window| window == b"://") {
        let rest = &value[at + 3..];
        let host = &rest[..rest.iter().position(|b| b"/?".contains(b)).unwrap_or(rest.len())];
        let is_scheme = at > 0 && value[..at].iter().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(b));
        let is_host =
            !host.is_empty() && host.iter().all(|b| b.is_ascii_alphanumeric() || b"-._~:[]%".contains(b));
        if is_scheme && is_host {
            return !rest.contains(&b'#') && rest.iter().all(|b| (0x21..0x7f).contains(b));
        }
    }
    let first = value.split(|b| *b == b'/').next().unwrap_or_default();
    let is_plain = |b: &u8| b.is_ascii_alphanumeric() || b"-._~:/?@!$&'()*+,;=%[]".contains(b);
    !first.contains(&b':') && value.iter().all(is_plain)
}

fn is_untraced(head: &RequestHead) -> bool {
    head.fields.find(TRACE_PARENT).is_none() && B3.iter().all(|name| head.fields.find(name).is_none())
}

/// Removes, keeps or writes what is told of the client's certificate.
///
/// Source: Envoy `forward_client_cert_details`, `set_current_client_cert_details`.
fn forward_certificate(head: &mut RequestHead, said: ClientCert, came: &Came, own: &mut impl Own) {
    let mode = said.forward;
    if mode == ForwardClientCert::AlwaysForwardOnly {
        return;
    }
    if came.direction == Direction::Inbound {
        head.fields.remove_look_alikes(CLIENT_CERT);
    }
    if mode == ForwardClientCert::Sanitize || !came.is_proven {
        head.fields.remove(CLIENT_CERT);
        return;
    }
    match mode {
        ForwardClientCert::Append => head.fields.append(CLIENT_CERT, b",", own.client_cert().as_bytes()),
        ForwardClientCert::Set => head.fields.set(CLIENT_CERT, own.client_cert().as_bytes()),
        ForwardClientCert::Sanitize
        | ForwardClientCert::ForwardOnly
        | ForwardClientCert::AlwaysForwardOnly => {}
    }
}

#[cfg(test)]
mod tests;
