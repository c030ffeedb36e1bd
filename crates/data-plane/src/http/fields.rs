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

/// A random UUID (version 4), as Envoy generates.
fn request_id(random: &mut Rng) -> [u8; 36] {
    const HEX: &[u8; 16] = b"0123456789abcdef";
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
    fn a_grpc_message_is_percent_encoded() {
        assert_eq!(percent_encode("100% of é\n"), "100%25 of %C3%A9");
    }
}
