//! Format strings: texts with `%COMMAND(args):length%` in them, compiled once.
//!
//! Access logs, local replies and the values of header fields are made of them. [`Template::parse`] compiles one,
//! [`Template::write`] fills it from [`Facts`], which looks nothing up that the template does not name; [`Json`] is
//! the same for structured logs. Nothing here has a clock or allocates while it writes.
//!
//! Source: Envoy, "Access logging", "Format strings" and "Command operators".

mod command;
mod json;
mod time;

use std::borrow::Cow;
use std::net::SocketAddr;
use std::time::Duration;

use crate::flag::Flags;
use crate::head::{Fields, RequestHead, ResponseHead};

use command::Command;
pub use json::{Json, escape};
pub use time::TimeFormat;

/// What commands read. What is not known is `None`, or false where a text is asked for.
///
/// Every method may be asked at any time of a request; what has not happened yet is not known.
pub trait Facts {
    /// The request's head.
    fn request(&self) -> Option<&RequestHead> {
        None
    }

    /// The response's head.
    fn response(&self) -> Option<&ResponseHead> {
        None
    }

    /// The response's trailers.
    fn trailers(&self) -> Option<&Fields> {
        None
    }

    /// The length that the request's head declares, which is no field of it.
    fn request_length(&self) -> Option<u64> {
        None
    }

    /// The length that the response's head declares.
    fn response_length(&self) -> Option<u64> {
        None
    }

    /// Writes a text, and says whether there is one.
    fn text(&self, which: Text, out: &mut Vec<u8>) -> bool {
        let _ = (which, out);
        false
    }

    /// A number; those that count are 0 where nothing was counted.
    fn number(&self, which: Number) -> Option<u64> {
        let _ = which;
        None
    }

    /// An address.
    fn address(&self, which: Address) -> Option<SocketAddr> {
        let _ = which;
        None
    }

    /// When something was, by the calendar: since the beginning of 1970, UTC.
    fn time(&self, which: Time) -> Option<Duration> {
        let _ = which;
        None
    }

    /// When something was, counted from the request's beginning.
    fn point(&self, which: Point) -> Option<Duration> {
        let _ = which;
        None
    }

    /// Why the request ended as it did.
    fn flags(&self) -> Flags {
        Flags::NONE
    }

    /// Writes metadata that a filter left, and says what was written.
    fn metadata(&self, namespace: &str, path: &[Box<str>], out: &mut Vec<u8>) -> Wrote {
        let _ = (namespace, path, out);
        Wrote::Nothing
    }
}

/// What was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wrote {
    /// Nothing: there is no value.
    Nothing,
    /// A text, as it is.
    Text,
    /// Digits.
    Number,
    /// Something else, in JSON.
    Json,
}

/// A text that a command reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Text {
    /// `PROTOCOL`: `HTTP/1.1`.
    Protocol,
    /// `UPSTREAM_PROTOCOL`
    UpstreamProtocol,
    /// `RESPONSE_CODE_DETAILS`: `via_upstream`, `route_not_found` and so on.
    Details,
    /// `CONNECTION_TERMINATION_DETAILS`
    TerminationDetails,
    /// `UPSTREAM_TRANSPORT_FAILURE_REASON`
    UpstreamFailure,
    /// `DOWNSTREAM_TRANSPORT_FAILURE_REASON`
    DownstreamFailure,
    /// `UPSTREAM_CLUSTER`
    Cluster,
    /// `UPSTREAM_HOST_NAME`: the endpoint's name, or else its address.
    HostName,
    /// `ROUTE_NAME`
    Route,
    /// `VIRTUAL_HOST_NAME`
    VirtualHost,
    /// `VIRTUAL_CLUSTER_NAME`
    VirtualCluster,
    /// `FILTER_CHAIN_NAME`
    FilterChain,
    /// `REQUESTED_SERVER_NAME`
    ServerName,
    /// `HOSTNAME`: this machine's name.
    Machine,
    /// `STREAM_ID`: the request's id.
    StreamId,
    /// `UNIQUE_ID`: a new random UUID.
    UniqueId,
    /// `TRACE_ID`
    TraceId,
    /// `LOCAL_REPLY_BODY`
    LocalReplyBody,
    /// `ACCESS_LOG_TYPE`
    LogType,
    /// Something of TLS, at the client's or the endpoint's side.
    Tls(Side, Tls),
}

/// Which of the proxy's two sides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    /// Who called.
    Downstream,
    /// Who is called.
    Upstream,
}

/// What is known of a TLS connection. Several values of one kind are joined by `,`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Tls {
    /// `TLS_VERSION`: `TLSv1.3`.
    Version,
    /// `TLS_CIPHER`: `TLS_AES_128_GCM_SHA256`.
    Cipher,
    /// `TLS_SESSION_ID`
    SessionId,
    /// `PEER_URI_SAN`
    PeerUriSans,
    /// `PEER_DNS_SAN`
    PeerDnsSans,
    /// `PEER_IP_SAN`
    PeerIpSans,
    /// `PEER_EMAIL_SAN`
    PeerEmailSans,
    /// `PEER_SUBJECT`: RFC 2253.
    PeerSubject,
    /// `PEER_ISSUER`: RFC 2253.
    PeerIssuer,
    /// `PEER_FINGERPRINT_256`: lowercase hexadecimal.
    PeerFingerprint256,
    /// `PEER_FINGERPRINT_1`
    PeerFingerprint1,
    /// `PEER_SERIAL`: lowercase hexadecimal.
    PeerSerial,
    /// `PEER_CERT`: PEM, percent-encoded.
    PeerCertificate,
    /// `LOCAL_URI_SAN`
    LocalUriSans,
    /// `LOCAL_DNS_SAN`
    LocalDnsSans,
    /// `LOCAL_SUBJECT`
    LocalSubject,
}

/// A number that a command reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Number {
    /// `RESPONSE_CODE`; 0 where none was sent.
    Status,
    /// `BYTES_RECEIVED`: of the request's body.
    BytesReceived,
    /// `BYTES_SENT`: of the response's body.
    BytesSent,
    /// `CONNECTION_ID`
    ConnectionId,
    /// `UPSTREAM_CONNECTION_ID`
    UpstreamConnectionId,
    /// `UPSTREAM_REQUEST_ATTEMPT_COUNT`
    Attempts,
    /// `GRPC_STATUS_NUMBER`; of calls of gRPC only.
    GrpcStatus,
}

/// An address that a command reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Address {
    /// `DOWNSTREAM_REMOTE_ADDRESS`: the client's, as far as it is known behind trusted hops.
    Remote,
    /// `DOWNSTREAM_DIRECT_REMOTE_ADDRESS`: the other end of the connection.
    DirectRemote,
    /// `DOWNSTREAM_LOCAL_ADDRESS`: what the client meant to connect to.
    Local,
    /// `DOWNSTREAM_DIRECT_LOCAL_ADDRESS`: our end of the connection.
    DirectLocal,
    /// `UPSTREAM_HOST`: the endpoint's, as config has it.
    UpstreamHost,
    /// `UPSTREAM_REMOTE_ADDRESS`: the other end of the connection to it.
    UpstreamRemote,
    /// `UPSTREAM_LOCAL_ADDRESS`: our end of that connection.
    UpstreamLocal,
}

/// A time that a command reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Time {
    /// `START_TIME`
    Start,
    /// `EMIT_TIME`: now.
    Emit,
    /// `DOWNSTREAM_PEER_CERT_V_START`
    PeerCertificateFrom,
    /// `DOWNSTREAM_PEER_CERT_V_END`
    PeerCertificateUntil,
    /// `UPSTREAM_PEER_CERT_V_START`
    UpstreamCertificateFrom,
    /// `UPSTREAM_PEER_CERT_V_END`
    UpstreamCertificateUntil,
}

/// A moment of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Point {
    /// `DS_RX_BEG`: the request's first byte came.
    RequestBegin,
    /// `DS_RX_END`: its last.
    RequestEnd,
    /// `US_CX_BEG`: a connection to the endpoint was begun.
    ConnectBegin,
    /// `US_CX_END`: it was there.
    ConnectEnd,
    /// `US_HS_END`: its TLS handshake was over.
    HandshakeEnd,
    /// `US_TX_BEG`: the request's first byte went to the endpoint.
    SendBegin,
    /// `US_TX_END`: its last.
    SendEnd,
    /// `US_RX_BEG`: the response's first byte came.
    ResponseBegin,
    /// `US_RX_END`: its last.
    ResponseEnd,
    /// `DS_TX_BEG`: its first byte went to the client.
    AnswerBegin,
    /// `DS_TX_END`: its last.
    AnswerEnd,
    /// The client's TLS handshake was over.
    DownstreamHandshakeEnd,
    /// The request is over; now, where it is not.
    End,
}

/// A compiled format string; equal to whatever says the same.
#[derive(Clone, Debug, Default)]
pub struct Template {
    parts: Box<[Part]>,
    /// As it was written; empty where there is no command in it.
    written: Box<str>,
}

impl PartialEq for Template {
    fn eq(&self, other: &Self) -> bool {
        self.parts == other.parts
    }
}

impl Eq for Template {}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Constant(Box<str>),
    Command(Command),
}

/// What is written where a value is missing. Source: Envoy `DefaultUnspecifiedValueString`.
const MISSING: &[u8] = b"-";

impl Template {
    /// Compiles a format string; `%%` stands for `%`.
    ///
    /// # Errors
    /// What is wrong with it, and the name of a command that is not known.
    pub fn parse(format: &str) -> Result<Self, String> {
        let mut parts = Vec::new();
        let mut constant = String::new();
        let mut rest = format;
        while let Some(at) = rest.find('%') {
            constant.push_str(&rest[..at]);
            rest = &rest[at..];
            if let Some(behind) = rest.strip_prefix("%%") {
                constant.push('%');
                rest = behind;
                continue;
            }
            let position = format.len() - rest.len();
            let (call, behind) = Call::read(rest).ok_or_else(|| {
                format!("there is no command of the form %COMMAND(args):length% at byte {position}")
            })?;
            if !constant.is_empty() {
                parts.push(Part::Constant(std::mem::take(&mut constant).into()));
            }
            parts.push(Part::Command(Command::parse(&call)?));
            rest = behind;
        }
        constant.push_str(rest);
        if !constant.is_empty() {
            parts.push(Part::Constant(constant.into()));
        }
        let has_command = parts.iter().any(|part| matches!(part, Part::Command(_)));
        let written = if has_command { format.into() } else { Box::default() };
        Ok(Self { parts: parts.into(), written })
    }

    /// A text without commands, taken as it is.
    pub fn constant(text: &str) -> Self {
        let parts: Box<[Part]> =
            if text.is_empty() { Box::default() } else { [Part::Constant(text.into())].into() };
        Self { parts, written: Box::default() }
    }

    /// A format string that makes it.
    pub fn as_written(&self) -> Cow<'_, str> {
        match self.as_constant() {
            Some(text) if text.contains('%') => Cow::Owned(text.replace('%', "%%")),
            Some(text) => Cow::Borrowed(text),
            None => Cow::Borrowed(&self.written),
        }
    }

    /// The text, where there is no command in it.
    pub fn as_constant(&self) -> Option<&str> {
        match &*self.parts {
            [] => Some(""),
            [Part::Constant(text)] => Some(text),
            _ => None,
        }
    }

    /// Appends the text; a missing value is `-`.
    pub fn write<F: Facts + ?Sized>(&self, facts: &F, out: &mut Vec<u8>) {
        self.write_or(facts, MISSING, out);
    }

    /// Appends the text; a missing value is left out. So are the values of header fields made.
    pub fn write_omitting<F: Facts + ?Sized>(&self, facts: &F, out: &mut Vec<u8>) {
        self.write_or(facts, b"", out);
    }

    fn write_or<F: Facts + ?Sized>(&self, facts: &F, missing: &[u8], out: &mut Vec<u8>) {
        for part in &self.parts {
            match part {
                Part::Constant(text) => out.extend_from_slice(text.as_bytes()),
                Part::Command(command) => {
                    if command.write(facts, out) == Wrote::Nothing {
                        out.extend_from_slice(missing);
                    }
                }
            }
        }
    }

    /// Whether it names the response, or what comes after it: it says more once that is there.
    pub fn reads_response(&self) -> bool {
        self.commands().any(Command::reads_response)
    }

    /// Whether it names the response's trailers.
    pub fn reads_trailers(&self) -> bool {
        self.commands().any(Command::reads_trailers)
    }

    /// Whether a command asks for one of these moments.
    pub fn asks_when(&self, points: &[Point]) -> bool {
        self.commands().any(|command| command.asks_when(points))
    }

    fn commands(&self) -> impl Iterator<Item = &Command> {
        self.parts.iter().filter_map(|part| match part {
            Part::Command(command) => Some(command),
            Part::Constant(_) => None,
        })
    }
}

/// A command as it is written.
struct Call<'f> {
    name: &'f str,
    /// What stands in parentheses; empty where there are none.
    argument: &'f str,
    length: Option<usize>,
}

impl<'f> Call<'f> {
    /// Reads one at the beginning of `text`, where a `%` stands; gives it and what stands behind.
    fn read(text: &'f str) -> Option<(Self, &'f str)> {
        let text = text.strip_prefix('%')?;
        let is_name = |b: &u8| b.is_ascii_uppercase() || b.is_ascii_digit() || *b == b'_';
        let end = text.bytes().position(|b| !is_name(&b)).filter(|end| *end > 0)?;
        let (name, mut rest) = text.split_at(end);
        let mut argument = "";
        if let Some(inside) = rest.strip_prefix('(') {
            (argument, rest) = inside.split_once(')')?;
        }
        let mut length = None;
        if let Some(digits) = rest.strip_prefix(':') {
            let (number, behind) = digits.split_at(digits.find('%')?);
            if !number.bytes().all(|b| b.is_ascii_digit()) {
                return None;
            }
            length = Some(number.parse().ok()?);
            rest = behind;
        }
        Some((Self { name, argument, length }, rest.strip_prefix('%')?))
    }
}

/// Appends a number in decimal.
fn digits(mut number: u64, out: &mut Vec<u8>) {
    let mut text = [0; 20];
    let mut at = text.len();
    loop {
        at -= 1;
        text[at] = b"0123456789"[(number % 10) as usize];
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(&text[at..]);
}

#[cfg(test)]
mod tests;
