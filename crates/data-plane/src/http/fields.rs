//! The header fields that the proxy itself writes, on their way in and out.

use std::cell::RefCell;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::time::SystemTime;

use fastrand::Rng;
use meshwork_model::client;
use meshwork_model::format::TimeFormat;
use meshwork_model::head::{Fields, RequestHead, ResponseHead};
use meshwork_model::proxy::{AppendAction, HttpConnection, ReplyHeader, Scheme, ServerHeader, Underscores};
use meshwork_model::reason::Reason;

use super::{client_cert, clients};
use crate::connection::Peer;
use crate::error::{Kind, ProxyError};

/// How the request came to the mesh, as told to applications. Source: Envoy `x-forwarded-proto`.
const FORWARDED_PROTO: &[u8] = b"x-forwarded-proto";
const FORWARDED_PORT: &[u8] = b"x-forwarded-port";
const REQUEST_ID: &[u8] = b"x-request-id";
/// The trace that a request is part of. Source: W3C Trace Context §3.2; B3 propagation, single and multiple header.
const TRACE_PARENT: &[u8] = b"traceparent";
const B3: [&[u8]; 2] = [b"b3", b"x-b3-traceid"];
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

/// Writes the fields that a request gets before it is judged, and gives the client's address, as far as it is told by
/// those who may. `is_h2`: the client says the scheme.
///
/// Source: Envoy `ConnectionManagerUtility::mutateRequestHeaders`.
pub(crate) fn prepare_request(
    head: &mut RequestHead,
    config: &HttpConnection,
    peer: &Peer,
    own: &Identity<'_>,
    random: &mut Rng,
) -> SocketAddr {
    let clients = &config.clients;
    sanitize_referer(head);
    let told = client::told(head, clients, peer.address);
    if clients.is_edge && !clients.skip_append {
        clients::append(head, peer);
    }
    let protocol: &[u8] = if peer.is_tls { b"https" } else { b"http" };
    let trusts = !clients.is_edge || clients.trusted_hops > 0;
    if !trusts || head.fields.find(FORWARDED_PROTO).is_none() {
        head.fields.set(FORWARDED_PROTO, protocol);
    }
    if clients.append_port && (!trusts || head.fields.find(FORWARDED_PORT).is_none()) {
        head.fields.set(FORWARDED_PORT, itoa::Buffer::new().format(peer.local.port()).as_bytes());
    }
    set_scheme(head, config, own.is_scheme_said);
    let is_internal = told.is_internal(clients);
    let is_edge = clients.is_edge && !is_internal;
    clean(head, is_internal, is_edge);
    if !config.via.is_empty() {
        head.fields.append(b"via", b", ", config.via.as_bytes());
    }
    let client = told.address.unwrap_or(peer.address);
    if is_edge {
        head.fields.set(b"x-envoy-external-address", client.ip().to_string().as_bytes());
    }
    let forces_id = is_edge && !config.keep_request_id;
    if config.generate_request_id && (forces_id || head.fields.find(REQUEST_ID).is_none()) {
        head.fields.set(REQUEST_ID, &request_id(random));
    }
    if config.tracing && is_untraced(head) {
        head.fields.push(TRACE_PARENT, &trace_parent(random));
    }
    client_cert::forward(head, config.client_cert, peer, own.uri);
    client
}

/// Refuses, or drops, fields with `_` in their names, where config asks.
///
/// # Errors
/// There is such a field, and config refuses those.
pub(crate) fn judge_names(head: &mut RequestHead, underscores: Underscores) -> Result<(), ProxyError> {
    let has_none = |name: &[u8]| !name.contains(&b'_');
    match underscores {
        Underscores::Allow => {}
        Underscores::Drop => head.fields.retain(has_none),
        Underscores::Reject if head.fields.iter().all(|(name, _)| has_none(name)) => {}
        Underscores::Reject => {
            return Err(ProxyError::fatal(Kind::Refused("a header's name has an underscore")));
        }
    }
    Ok(())
}

/// Who this proxy is, and what is known of a request's form.
pub(crate) struct Identity<'a> {
    /// The URI of its own certificate.
    pub(crate) uri: Option<&'a str>,
    /// The client says the scheme itself.
    pub(crate) is_scheme_said: bool,
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

/// Writes the fields that a response to a request gets.
///
/// Source: Envoy `ConnectionManagerUtility::mutateResponseHeaders`.
pub(crate) fn prepare_response(head: &mut ResponseHead, config: &HttpConnection, request: &RequestHead) {
    if head.fields.find(b"date").is_none() {
        DATE.with_borrow_mut(|date| head.fields.push(b"date", date.now()));
    }
    match &config.server {
        ServerHeader::Set(name) => head.fields.set(b"server", name.as_bytes()),
        ServerHeader::IfAbsent(name) if head.fields.find(b"server").is_none() => {
            head.fields.push(b"server", name.as_bytes());
        }
        ServerHeader::IfAbsent(_) | ServerHeader::Keep => {}
    }
    if !config.via.is_empty() {
        head.fields.append(b"via", b", ", config.via.as_bytes());
    }
    if config.answer_request_id
        && let Some(id) = request.fields.find(REQUEST_ID)
    {
        head.fields.set(REQUEST_ID, id);
    }
}

thread_local! {
    static DATE: RefCell<Date> = const { RefCell::new(Date { second: 0, text: Vec::new() }) };
}

/// The date in words, which many responses share.
struct Date {
    second: u64,
    text: Vec<u8>,
}

impl Date {
    /// Source: RFC 9110 §5.6.7.
    fn now(&mut self) -> &[u8] {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let second = now.as_secs();
        if self.second != second || self.text.is_empty() {
            self.second = second;
            self.text.clear();
            if let Ok(format) = TimeFormat::parse("%a, %d %b %Y %H:%M:%S GMT") {
                format.write(now, &mut self.text);
            }
        }
        &self.text
    }
}

/// Fills the head of an answer that the proxy gives itself.
pub(crate) fn local_answer(head: &mut ResponseHead, status: u16, reason: Reason) {
    head.clear();
    head.status = status;
    head.fields.push(b"content-type", b"text/plain");
    head.fields.push(b"x-meshwork-reason", reason.words().code.as_bytes());
}

/// Makes of an answer one to a gRPC call: trailers only.
///
/// Source: gRPC over HTTP/2, "Responses" (Trailers-Only).
pub(crate) fn as_grpc_answer(head: &mut ResponseHead, grpc_status: u8, text: &str) {
    head.status = 200;
    head.fields.set(b"content-type", b"application/grpc");
    let mut digits = itoa::Buffer::new();
    head.fields.push(b"grpc-status", digits.format(grpc_status).as_bytes());
    if !text.is_empty() {
        head.fields.push(b"grpc-message", percent_encode(text).as_bytes());
    }
}

/// Writes a field beside others of its name.
pub(crate) fn add(fields: &mut Fields, header: &ReplyHeader, value: &[u8]) {
    if value.is_empty() && !header.keep_empty {
        return;
    }
    let name = header.name.as_bytes();
    let is_there = fields.find(name).is_some();
    match header.action {
        AppendAction::Append => fields.push(name, value),
        AppendAction::IfAbsent if !is_there => fields.push(name, value),
        AppendAction::Overwrite => fields.set(name, value),
        AppendAction::OverwriteIfExists if is_there => fields.set(name, value),
        AppendAction::IfAbsent | AppendAction::OverwriteIfExists => {}
    }
}

/// Source: gRPC over HTTP/2, "Status-Message": bytes outside `0x20..=0x7e`, and `%`, are escaped.
fn percent_encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.trim_end().bytes() {
        if matches!(byte, b' '..=b'~') && byte != b'%' {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

const HEX: &[u8; 16] = b"0123456789abcdef";

/// The beginning of a trace that nobody has begun: version 00, random ids that are not all zero, not sampled, since no
/// span is exported. It lets the applications behind it log one id.
fn trace_parent(random: &mut Rng) -> [u8; 55] {
    let mut text = *b"00-................................-................-00";
    let (trace, span) = (random.u128(1..), random.u64(1..));
    write_hex(&mut text[3..35], trace);
    write_hex(&mut text[36..52], u128::from(span));
    text
}

/// Writes the lowest digits of a number, as many as there is room for.
fn write_hex(out: &mut [u8], mut number: u128) {
    for digit in out.iter_mut().rev() {
        *digit = HEX[(number & 0xf) as usize];
        number >>= 4;
    }
}

/// A random UUID (version 4), as Envoy generates.
pub(crate) fn request_id(random: &mut Rng) -> [u8; 36] {
    let mut bits = random.u128(..);
    bits = bits & !(0xf << 76) | 4 << 76;
    bits = bits & !(0x3 << 62) | 2 << 62;
    let mut text = [b'-'; 36];
    let digits = (0..36).filter(|at| !matches!(at, 8 | 13 | 18 | 23));
    for (digit, at) in digits.enumerate() {
        text[at] = HEX[(bits >> (124 - 4 * digit) & 0xf) as usize];
    }
    text
}

#[cfg(test)]
mod tests {
    use meshwork_model::proxy::{Direction, RouteSource};

    use super::*;

    #[test]
    fn a_request_id_is_a_uuid_of_version_4() {
        let id = String::from_utf8(request_id(&mut Rng::with_seed(1)).to_vec()).expect("ASCII");
        let parts: Vec<_> = id.split('-').map(str::len).collect();
        assert_eq!(parts, [8, 4, 4, 4, 12], "{id}");
        assert_eq!(id.as_bytes()[14], b'4', "{id}");
        assert!(matches!(id.as_bytes()[19], b'8' | b'9' | b'a' | b'b'), "{id}");
    }

    #[test]
    fn a_trace_parent_is_of_version_0_and_not_sampled() {
        let text = String::from_utf8(trace_parent(&mut Rng::with_seed(1)).to_vec()).expect("ASCII");
        let parts: Vec<_> = text.split('-').collect();
        assert_eq!(parts.iter().map(|part| part.len()).collect::<Vec<_>>(), [2, 32, 16, 2], "{text}");
        assert_eq!((parts[0], parts[3]), ("00", "00"), "{text}");
        assert!(parts.iter().all(|part| part.bytes().all(|b| HEX.contains(&b))), "{text}");
    }

    #[test]
    fn a_trace_is_begun_only_where_config_asks_and_nobody_did() {
        let peer = Peer::sample(Direction::Outbound);
        for (tracing, given, expected) in [
            (true, None, true),
            (false, None, false),
            (true, Some(("traceparent", "00-x")), true),
            (true, Some(("b3", "0")), false),
            (true, Some(("x-b3-traceid", "1")), false),
            (true, Some(("tracestate", "a=b")), true),
        ] {
            let config =
                HttpConnection { tracing, ..HttpConnection::new("test", RouteSource::Named("r".into())) };
            let mut head = RequestHead::default();
            if let Some((name, value)) = given {
                head.fields.push(name.as_bytes(), value.as_bytes());
            }
            let own = Identity { uri: None, is_scheme_said: false };
            prepare_request(&mut head, &config, &peer, &own, &mut Rng::with_seed(1));
            assert_eq!(head.fields.find(TRACE_PARENT).is_some(), expected, "{tracing} {given:?}");
            if let Some((name, value)) = given {
                assert_eq!(head.fields.all(name.as_bytes()).collect::<Vec<_>>(), [value.as_bytes()]);
            }
        }
    }

    #[test]
    fn what_proxies_tell_each_other_is_for_requests_of_our_own() {
        let check = |is_internal, is_edge, expected: &[&str]| {
            let mut head = RequestHead::default();
            for name in
                ["x-envoy-internal", "x-envoy-max-retries", "x-envoy-decorator-operation", "x-envoy-other"]
            {
                head.fields.push(name.as_bytes(), b"true");
            }
            clean(&mut head, is_internal, is_edge);
            let left: Vec<_> = head.fields.iter().map(|(name, _)| String::from_utf8_lossy(name)).collect();
            assert_eq!(left, expected, "{is_internal} {is_edge}");
        };
        check(false, true, &["x-envoy-other"]);
        check(false, false, &["x-envoy-decorator-operation", "x-envoy-other"]);
        check(
            true,
            false,
            &["x-envoy-max-retries", "x-envoy-decorator-operation", "x-envoy-other", "x-envoy-internal"],
        );
    }

    #[test]
    fn a_referer_is_an_address_or_a_path() {
        for referer in ["http://a/b", "https://a:80/b?c", "nonsense", "", "/a:b", "http://a/b,http://a/b"] {
            assert!(is_referer(referer.as_bytes()), "{referer}");
        }
        for referer in ["x:y", "https://a b/", "http://a/b#c", "a\"b"] {
            assert!(!is_referer(referer.as_bytes()), "{referer}");
        }
    }

    #[test]
    fn a_grpc_message_is_percent_encoded() {
        assert_eq!(percent_encode("100% of é\n"), "100%25 of %C3%A9");
    }
}
