//! The header fields that the proxy itself writes, on their way in and out.

use std::cell::RefCell;
use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::time::SystemTime;

use fastrand::Rng;
use meshwork_model::format::TimeFormat;
use meshwork_model::head::{Fields, RequestHead, ResponseHead};
use meshwork_model::intake::{self, Came, Own, REQUEST_ID, Unfit};
use meshwork_model::proxy::{AppendAction, ClientCert, Http1, HttpConnection, ReplyHeader, ServerHeader};
use meshwork_model::reason::Reason;

use super::{client_cert, clients};
use crate::connection::Peer;
use crate::error::{Kind, ProxyError};

/// Lets a request of HTTP/1.0 in, where config says so; it may name no host.
///
/// # Errors
/// It may not, or nobody knows the host.
pub(crate) fn admit_http_10(head: &mut RequestHead, config: &Http1) -> Result<(), ProxyError> {
    if !config.accept_http_10 {
        return Err(ProxyError::fatal(Kind::Version));
    }
    if head.authority().is_empty() {
        match &config.default_host {
            Some(host) => head.set_authority(host.as_bytes()),
            None => return Err(ProxyError::fatal(Kind::Refused("no host is named"))),
        }
    }
    Ok(())
}

/// Prepares a request before it is judged, and gives the client's address, as far as it is told by those who may.
///
/// # Errors
/// The request is refused for its form, or sent elsewhere.
pub(crate) fn prepare_request(
    head: &mut RequestHead,
    config: &HttpConnection,
    peer: &Peer,
    own: &Identity<'_>,
    random: &mut Rng,
) -> Result<SocketAddr, ProxyError> {
    let came = Came {
        address: peer.address,
        port: peer.local.port(),
        is_tls: peer.is_tls,
        direction: peer.direction,
        is_proven: peer.id.is_some() || peer.proven().is_some(),
        is_scheme_said: own.is_scheme_said,
    };
    let mut own = Added { said: config.client_cert, peer, uri: own.uri, random };
    intake::prepare(head, config, &came, &mut own).map_err(|unfit| match unfit {
        Unfit::Refused(why) => ProxyError::fatal(Kind::Refused(why)),
        Unfit::Moved(path) => ProxyError::fatal(Kind::MovedPath(path.into())),
    })
}

/// Who this proxy is, and what is known of a request's form.
pub(crate) struct Identity<'a> {
    /// The URI of its own certificate.
    pub(crate) uri: Option<&'a str>,
    /// The client says the scheme itself.
    pub(crate) is_scheme_said: bool,
}

/// What is added to a request.
struct Added<'a> {
    said: ClientCert,
    peer: &'a Peer,
    uri: Option<&'a str>,
    random: &'a mut Rng,
}

impl Own for Added<'_> {
    fn address(&mut self) -> IpAddr {
        clients::own_address()
    }

    fn request_id(&mut self) -> [u8; 36] {
        request_id(self.random)
    }

    fn trace_parent(&mut self) -> [u8; 55] {
        trace_parent(self.random)
    }

    fn client_cert(&mut self) -> String {
        client_cert::text(self.said, self.peer, self.uri)
    }
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
    fn a_grpc_message_is_percent_encoded() {
        assert_eq!(percent_encode("100% of é\n"), "100%25 of %C3%A9");
    }
}
