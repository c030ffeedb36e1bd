//! The header fields that the proxy itself writes, on their way in and out.

use std::fmt::Write as _;

use fastrand::Rng;
use meshwork_model::head::{RequestHead, ResponseHead};
use meshwork_model::proxy::{Direction, HttpConnection};
use meshwork_model::reason::Reason;

use crate::connection::Peer;

/// Who the client is, as told to applications. Source: Envoy `x-forwarded-client-cert`.
const CLIENT_CERT: &[u8] = b"x-forwarded-client-cert";
/// What CGI and its successors take for the same field.
const CLIENT_CERT_FOLDED: &[u8] = b"x_forwarded_client_cert";
/// How the request came to the mesh, as told to applications. Source: Envoy `x-forwarded-proto`.
const FORWARDED_PROTO: &[u8] = b"x-forwarded-proto";
const REQUEST_ID: &[u8] = b"x-request-id";
/// The trace that a request is part of. Source: W3C Trace Context §3.2; B3 propagation, single and multiple header.
const TRACE_PARENT: &[u8] = b"traceparent";
const B3: [&[u8]; 2] = [b"b3", b"x-b3-traceid"];

/// Writes the fields that a request gets before it is judged.
///
/// What a client says about its own certificate is never passed on by a workload's inbound side; what mTLS proved
/// is.
pub(crate) fn prepare_request(
    head: &mut RequestHead,
    config: &HttpConnection,
    peer: &Peer,
    random: &mut Rng,
) {
    if peer.direction != Direction::Outbound {
        head.fields.remove(CLIENT_CERT);
        head.fields.remove(CLIENT_CERT_FOLDED);
        if let Some(id) = &peer.id {
            head.fields.push(CLIENT_CERT, format!("URI={id}").as_bytes());
        }
    }
    if head.fields.find(FORWARDED_PROTO).is_none() {
        head.fields.push(FORWARDED_PROTO, if peer.is_tls { b"https" } else { b"http" });
    }
    if config.generate_request_id && head.fields.find(REQUEST_ID).is_none() {
        head.fields.push(REQUEST_ID, &request_id(random));
    }
    if config.tracing && is_untraced(head) {
        head.fields.push(TRACE_PARENT, &trace_parent(random));
    }
}

fn is_untraced(head: &RequestHead) -> bool {
    head.fields.find(TRACE_PARENT).is_none() && B3.iter().all(|name| head.fields.find(name).is_none())
}

/// Writes the fields that a response gets.
pub(crate) fn prepare_response(head: &mut ResponseHead, config: &HttpConnection) {
    if let Some(name) = &config.server_name {
        head.fields.set(b"server", name.as_bytes());
    }
}

/// Fills the head of an answer that the proxy gives itself.
pub(crate) fn local_answer(head: &mut ResponseHead, status: u16, reason: Reason) {
    head.clear();
    head.status = status;
    head.fields.push(b"content-type", b"text/plain");
    head.fields.push(b"x-meshwork-reason", reason.words().code.as_bytes());
}

/// Fills the head of an answer to a gRPC call that the proxy gives itself: trailers only.
///
/// Source: gRPC over HTTP/2, "Responses" (Trailers-Only).
pub(crate) fn local_grpc_answer(head: &mut ResponseHead, reason: Reason, grpc_status: u8, text: &str) {
    head.clear();
    head.status = 200;
    head.fields.push(b"content-type", b"application/grpc");
    let mut digits = itoa::Buffer::new();
    head.fields.push(b"grpc-status", digits.format(grpc_status).as_bytes());
    head.fields.push(b"grpc-message", percent_encode(text).as_bytes());
    head.fields.push(b"x-meshwork-reason", reason.words().code.as_bytes());
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
fn request_id(random: &mut Rng) -> [u8; 36] {
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
    use meshwork_model::proxy::RouteSource;

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
            prepare_request(&mut head, &config, &peer, &mut Rng::with_seed(1));
            assert_eq!(head.fields.find(TRACE_PARENT).is_some(), expected, "{tracing} {given:?}");
            if let Some((name, value)) = given {
                assert_eq!(head.fields.all(name.as_bytes()).collect::<Vec<_>>(), [value.as_bytes()]);
            }
        }
    }

    #[test]
    fn a_grpc_message_is_percent_encoded() {
        assert_eq!(percent_encode("100% of é\n"), "100%25 of %C3%A9");
    }
}
