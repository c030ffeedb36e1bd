//! The commands: their names, what they may be followed by, and what each writes.

use std::fmt::{self, Write as _};
use std::net::SocketAddr;
use std::time::Duration;

use super::time::TimeFormat;
use super::{Address, Call, Facts, Number, Point, Side, Text, Time, Tls, Wrote, digits};
use crate::flag::Flag;
use crate::head::{Fields, RequestHead, ResponseHead};

/// A command, compiled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Command {
    Header {
        of: Message,
        name: Name,
        other: Option<Name>,
        most: Option<usize>,
        part: Piece,
    },
    Text(Text),
    /// `RESPONSE_CODE_DETAILS`, `UPSTREAM_TRANSPORT_FAILURE_REASON`: without white space, unless it is allowed.
    Joined(Text),
    Number(Number),
    Address(Address, Form),
    Time(Time, Option<TimeFormat>),
    /// A difference, in units of so many nanoseconds.
    Between {
        from: Point,
        to: Point,
        unit: u32,
    },
    Flags {
        long: bool,
    },
    GrpcStatus {
        snake: bool,
    },
    Metadata {
        namespace: Box<str>,
        path: Box<[Box<str>]>,
        most: Option<usize>,
    },
}

/// Whose field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Message {
    Request,
    Response,
    Trailers,
}

/// Which part of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Piece {
    All,
    /// Before the `?`.
    Path,
}

/// How an address is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    Whole,
    NoPort,
    Port,
}

/// A field's name, or what the codecs keep apart from the fields.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Name {
    Method,
    Authority,
    Path,
    Scheme,
    Status,
    Length,
    Field(Box<[u8]>),
}

/// What a command may be followed by.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Takes {
    Nothing,
    Argument,
}

const MILLISECONDS: u32 = 1_000_000;

impl Command {
    pub(super) fn parse(call: &Call<'_>) -> Result<Self, String> {
        let name = call.name;
        if let Some(command) = Self::of_message(call) {
            return command;
        }
        if call.length.is_some() {
            return Err(format!("{name} does not allow a length"));
        }
        if is_never_known(name) {
            return Err(format!("the command {name} is not supported"));
        }
        let (command, takes) = Self::timed(call)
            .or_else(|| Self::with_argument(call))
            .or_else(|| simple(name).map(|command| (Ok(command), Takes::Nothing)))
            .ok_or_else(|| format!("the command {name} is not supported"))?;
        if takes == Takes::Nothing && !call.argument.is_empty() {
            return Err(format!("{name} takes no argument"));
        }
        command
    }

    /// `REQ`, `RESP`, `TRAILER` and what else allows a length.
    fn of_message(call: &Call<'_>) -> Option<Result<Self, String>> {
        let (of, part) = match call.name {
            "REQ" | "REQUEST_HEADER" => (Message::Request, Piece::All),
            "REQ_WITHOUT_QUERY" => (Message::Request, Piece::Path),
            "RESP" | "RESPONSE_HEADER" => (Message::Response, Piece::All),
            "TRAILER" | "RESPONSE_TRAILER" => (Message::Trailers, Piece::All),
            "DYNAMIC_METADATA" => return Some(Self::metadata(call)),
            _ => return None,
        };
        Some(Self::header(call, of, part))
    }

    fn header(call: &Call<'_>, of: Message, part: Piece) -> Result<Self, String> {
        let mut names = call.argument.split('?');
        let (main, other) = (names.next().unwrap_or_default(), names.next().unwrap_or_default());
        if main.is_empty() && other.is_empty() {
            return Err(format!("{} needs the name of a header", call.name));
        }
        if names.next().is_some() {
            return Err(format!("{} takes one alternative at most: {}", call.name, call.argument));
        }
        let parse =
            |name: &str| Name::parse(name, of).ok_or_else(|| format!("`{name}` is no name of a header"));
        let other = if other.is_empty() { None } else { Some(parse(other)?) };
        Ok(Self::Header { of, name: parse(main)?, other, most: call.length, part })
    }

    fn metadata(call: &Call<'_>) -> Result<Self, String> {
        let mut names = call.argument.split(':').map(Box::<str>::from);
        let namespace = names.next().filter(|name| !name.is_empty());
        let namespace = namespace.ok_or_else(|| format!("{} needs a namespace", call.name))?;
        Ok(Self::Metadata { namespace, path: names.collect(), most: call.length })
    }

    /// Times and durations.
    fn timed(call: &Call<'_>) -> Option<(Result<Self, String>, Takes)> {
        let between = |from, to| (Ok(Self::Between { from, to, unit: MILLISECONDS }), Takes::Nothing);
        let time = match call.name {
            "START_TIME" => Time::Start,
            "EMIT_TIME" => Time::Emit,
            "DOWNSTREAM_PEER_CERT_V_START" => Time::PeerCertificateFrom,
            "DOWNSTREAM_PEER_CERT_V_END" => Time::PeerCertificateUntil,
            "UPSTREAM_PEER_CERT_V_START" => Time::UpstreamCertificateFrom,
            "UPSTREAM_PEER_CERT_V_END" => Time::UpstreamCertificateUntil,
            "DURATION" => return Some(between(Point::RequestBegin, Point::End)),
            "REQUEST_DURATION" => return Some(between(Point::RequestBegin, Point::RequestEnd)),
            "REQUEST_TX_DURATION" => return Some(between(Point::RequestBegin, Point::SendEnd)),
            "RESPONSE_DURATION" => return Some(between(Point::RequestBegin, Point::ResponseBegin)),
            "RESPONSE_TX_DURATION" => return Some(between(Point::ResponseBegin, Point::AnswerEnd)),
            "DOWNSTREAM_HANDSHAKE_DURATION" => {
                return Some(between(Point::RequestBegin, Point::DownstreamHandshakeEnd));
            }
            "COMMON_DURATION" => return Some((Self::common_duration(call.argument), Takes::Argument)),
            _ => return None,
        };
        let format = match call.argument {
            "" => Ok(None),
            format => TimeFormat::parse(format).map(Some),
        };
        Some((format.map(|format| Self::Time(time, format)), Takes::Argument))
    }

    fn common_duration(argument: &str) -> Result<Self, String> {
        let mut parts = argument.split(':');
        let mut point = || {
            let name = parts.next().unwrap_or_default();
            Point::of_name(name).ok_or_else(|| format!("COMMON_DURATION knows no moment `{name}`"))
        };
        let (from, to) = (point()?, point()?);
        let unit = match parts.next() {
            None | Some("ms") => MILLISECONDS,
            Some("us") => 1000,
            Some("ns") => 1,
            Some(other) => return Err(format!("COMMON_DURATION knows ms, us and ns, not `{other}`")),
        };
        match parts.next() {
            None => Ok(Self::Between { from, to, unit }),
            Some(_) => Err(format!("COMMON_DURATION takes two moments and a unit: {argument}")),
        }
    }

    fn with_argument(call: &Call<'_>) -> Option<(Result<Self, String>, Takes)> {
        let command = match (call.name, call.argument) {
            ("GRPC_STATUS", "" | "CAMEL_STRING") => Ok(Self::GrpcStatus { snake: false }),
            ("GRPC_STATUS", "SNAKE_STRING") => Ok(Self::GrpcStatus { snake: true }),
            ("GRPC_STATUS", "NUMBER") => Ok(Self::Number(Number::GrpcStatus)),
            ("GRPC_STATUS", other) => {
                Err(format!("GRPC_STATUS knows CAMEL_STRING, SNAKE_STRING and NUMBER, not `{other}`"))
            }
            ("RESPONSE_CODE_DETAILS", "ALLOW_WHITESPACES") => Ok(Self::Text(Text::Details)),
            ("RESPONSE_CODE_DETAILS", _) => Ok(Self::Joined(Text::Details)),
            _ => return None,
        };
        Some((command, Takes::Argument))
    }

    /// Writes the value, or nothing where there is none.
    pub(super) fn write<F: Facts + ?Sized>(&self, facts: &F, out: &mut Vec<u8>) -> Wrote {
        match self {
            Self::Header { of, name, other, most, part } => {
                let start = out.len();
                let mut names = [Some(name), other.as_ref()].into_iter().flatten();
                let found = names.any(|name| of.write(facts, name, out));
                finish(found, out, start, *part, *most)
            }
            Self::Text(which) => text(facts.text(*which, out)),
            Self::Joined(which) => {
                let start = out.len();
                let found = facts.text(*which, out);
                out[start..].iter_mut().filter(|b| b.is_ascii_whitespace()).for_each(|b| *b = b'_');
                text(found)
            }
            Self::Number(which) => number(facts.number(*which), out),
            Self::Address(which, form) => {
                facts.address(*which).map_or(Wrote::Nothing, |a| form.write(a, out))
            }
            Self::Time(which, format) => {
                let Some(time) = facts.time(*which) else { return Wrote::Nothing };
                match format {
                    Some(format) => format.write(time, out),
                    None => TimeFormat::write_default(time, out),
                }
                Wrote::Text
            }
            Self::Between { from, to, unit } => number(between(facts, *from, *to, *unit), out),
            Self::Flags { long } => flags(facts, *long, out),
            Self::GrpcStatus { snake } => match facts.number(Number::GrpcStatus) {
                Some(status) => grpc_status(status, *snake, out),
                None => Wrote::Nothing,
            },
            Self::Metadata { namespace, path, most } => {
                let start = out.len();
                let wrote = facts.metadata(namespace, path, out);
                out.truncate(most.map_or(usize::MAX, |most| start.saturating_add(most)));
                wrote
            }
        }
    }

    pub(super) fn reads_response(&self) -> bool {
        match self {
            Self::Header { of, .. } => *of != Message::Request,
            Self::Text(_) | Self::Joined(_) | Self::Address(..) | Self::Time(..) | Self::Metadata { .. } => {
                false
            }
            Self::Number(_) | Self::Between { .. } | Self::Flags { .. } | Self::GrpcStatus { .. } => true,
        }
    }

    pub(super) fn reads_trailers(&self) -> bool {
        matches!(self, Self::Header { of: Message::Trailers, .. })
    }

    pub(super) fn asks_when(&self, points: &[Point]) -> bool {
        matches!(self, Self::Between { from, to, .. } if points.contains(from) || points.contains(to))
    }
}

/// Whether nobody finds out what a command tells: it is refused, so that nobody waits for it in a log.
fn is_never_known(name: &str) -> bool {
    let of_connection = matches!(
        name,
        "UPSTREAM_CONNECTION_ID"
            | "UPSTREAM_LOCAL_URI_SAN"
            | "UPSTREAM_LOCAL_DNS_SAN"
            | "UPSTREAM_LOCAL_SUBJECT"
            | "DOWNSTREAM_HANDSHAKE_DURATION"
            | "DOWNSTREAM_TLS_SESSION_ID"
            | "DOWNSTREAM_PEER_FINGERPRINT_1"
            | "DOWNSTREAM_LOCAL_DNS_SAN"
            | "DOWNSTREAM_LOCAL_SUBJECT"
    );
    let of_endpoint = name.starts_with("UPSTREAM_TLS_") || name.starts_with("UPSTREAM_PEER_");
    of_connection || of_endpoint && name != "UPSTREAM_PEER_URI_SAN"
}

/// The commands that stand alone.
fn simple(name: &str) -> Option<Command> {
    let text = match name {
        "PROTOCOL" => Text::Protocol,
        "UPSTREAM_PROTOCOL" => Text::UpstreamProtocol,
        "CONNECTION_TERMINATION_DETAILS" => Text::TerminationDetails,
        "UPSTREAM_TRANSPORT_FAILURE_REASON" => return Some(Command::Joined(Text::UpstreamFailure)),
        "DOWNSTREAM_TRANSPORT_FAILURE_REASON" => return Some(Command::Joined(Text::DownstreamFailure)),
        "UPSTREAM_CLUSTER" | "UPSTREAM_CLUSTER_RAW" => Text::Cluster,
        "UPSTREAM_HOST_NAME" => Text::HostName,
        "ROUTE_NAME" => Text::Route,
        "VIRTUAL_HOST_NAME" => Text::VirtualHost,
        "VIRTUAL_CLUSTER_NAME" => Text::VirtualCluster,
        "FILTER_CHAIN_NAME" => Text::FilterChain,
        "REQUESTED_SERVER_NAME" => Text::ServerName,
        "HOSTNAME" => Text::Machine,
        "STREAM_ID" => Text::StreamId,
        "UNIQUE_ID" => Text::UniqueId,
        "TRACE_ID" => Text::TraceId,
        "LOCAL_REPLY_BODY" => Text::LocalReplyBody,
        "ACCESS_LOG_TYPE" => Text::LogType,
        _ => return counted(name).or_else(|| address(name)).or_else(|| tls(name)),
    };
    Some(Command::Text(text))
}

fn counted(name: &str) -> Option<Command> {
    let number = match name {
        "RESPONSE_FLAGS" => return Some(Command::Flags { long: false }),
        "RESPONSE_FLAGS_LONG" => return Some(Command::Flags { long: true }),
        "RESPONSE_CODE" => Number::Status,
        "BYTES_RECEIVED" => Number::BytesReceived,
        "BYTES_SENT" => Number::BytesSent,
        "CONNECTION_ID" => Number::ConnectionId,
        "UPSTREAM_CONNECTION_ID" => Number::UpstreamConnectionId,
        "UPSTREAM_REQUEST_ATTEMPT_COUNT" => Number::Attempts,
        "GRPC_STATUS_NUMBER" => Number::GrpcStatus,
        _ => return None,
    };
    Some(Command::Number(number))
}

fn address(name: &str) -> Option<Command> {
    let (which, form) = match name {
        "UPSTREAM_HOST" => (Address::UpstreamHost, Form::Whole),
        "UPSTREAM_LOCAL_PORT" => (Address::UpstreamLocal, Form::Port),
        "UPSTREAM_REMOTE_PORT" => (Address::UpstreamRemote, Form::Port),
        "DOWNSTREAM_REMOTE_PORT" => (Address::Remote, Form::Port),
        "DOWNSTREAM_DIRECT_REMOTE_PORT" => (Address::DirectRemote, Form::Port),
        "DOWNSTREAM_LOCAL_PORT" => (Address::Local, Form::Port),
        "DOWNSTREAM_DIRECT_LOCAL_PORT" => (Address::DirectLocal, Form::Port),
        _ => {
            let (name, form) = match name.strip_suffix("_WITHOUT_PORT") {
                Some(name) => (name, Form::NoPort),
                None => (name, Form::Whole),
            };
            let which = match name {
                "DOWNSTREAM_REMOTE_ADDRESS" => Address::Remote,
                "DOWNSTREAM_DIRECT_REMOTE_ADDRESS" => Address::DirectRemote,
                "DOWNSTREAM_LOCAL_ADDRESS" => Address::Local,
                "DOWNSTREAM_DIRECT_LOCAL_ADDRESS" => Address::DirectLocal,
                "UPSTREAM_REMOTE_ADDRESS" => Address::UpstreamRemote,
                "UPSTREAM_LOCAL_ADDRESS" => Address::UpstreamLocal,
                _ => return None,
            };
            (which, form)
        }
    };
    Some(Command::Address(which, form))
}

fn tls(name: &str) -> Option<Command> {
    let (side, name) = match (name.strip_prefix("DOWNSTREAM_"), name.strip_prefix("UPSTREAM_")) {
        (Some(name), _) => (Side::Downstream, name),
        (_, Some(name)) => (Side::Upstream, name),
        (None, None) => return None,
    };
    let which = match name {
        "TLS_VERSION" => Tls::Version,
        "TLS_CIPHER" => Tls::Cipher,
        "TLS_SESSION_ID" => Tls::SessionId,
        "PEER_URI_SAN" => Tls::PeerUriSans,
        "PEER_DNS_SAN" => Tls::PeerDnsSans,
        "PEER_IP_SAN" => Tls::PeerIpSans,
        "PEER_EMAIL_SAN" => Tls::PeerEmailSans,
        "PEER_SUBJECT" => Tls::PeerSubject,
        "PEER_ISSUER" => Tls::PeerIssuer,
        "PEER_FINGERPRINT_256" => Tls::PeerFingerprint256,
        "PEER_FINGERPRINT_1" => Tls::PeerFingerprint1,
        "PEER_SERIAL" => Tls::PeerSerial,
        "PEER_CERT" => Tls::PeerCertificate,
        "LOCAL_URI_SAN" => Tls::LocalUriSans,
        "LOCAL_DNS_SAN" => Tls::LocalDnsSans,
        "LOCAL_SUBJECT" => Tls::LocalSubject,
        _ => return None,
    };
    Some(Command::Text(Text::Tls(side, which)))
}

fn text(found: bool) -> Wrote {
    if found { Wrote::Text } else { Wrote::Nothing }
}

fn number(value: Option<u64>, out: &mut Vec<u8>) -> Wrote {
    let Some(value) = value else { return Wrote::Nothing };
    digits(value, out);
    Wrote::Number
}

/// Cuts what was written of a field to what is asked for.
fn finish(found: bool, out: &mut Vec<u8>, start: usize, part: Piece, most: Option<usize>) -> Wrote {
    if !found {
        return Wrote::Nothing;
    }
    if part == Piece::Path {
        let end = out[start..].iter().position(|b| *b == b'?');
        out.truncate(end.map_or(out.len(), |end| start + end));
    }
    out.truncate(most.map_or(usize::MAX, |most| start.saturating_add(most)));
    Wrote::Text
}

fn between<F: Facts + ?Sized>(facts: &F, from: Point, to: Point, unit: u32) -> Option<u64> {
    let from = if from == Point::RequestBegin { Duration::ZERO } else { facts.point(from)? };
    let nanos = facts.point(to)?.checked_sub(from)?.as_nanos() / u128::from(unit);
    u64::try_from(nanos).ok()
}

fn flags<F: Facts + ?Sized>(facts: &F, long: bool, out: &mut Vec<u8>) -> Wrote {
    let start = out.len();
    for flag in facts.flags().iter() {
        if out.len() > start {
            out.push(b',');
        }
        let name = if long { Flag::long(flag) } else { Flag::short(flag) };
        out.extend_from_slice(name.as_bytes());
    }
    if out.len() == start {
        // A text of its own to Envoy, also where missing values are left out.
        out.push(b'-');
    }
    Wrote::Text
}

/// Source: grpc `statuscodes.md`.
const GRPC_STATUSES: [(&str, &str); 17] = [
    ("OK", "OK"),
    ("Canceled", "CANCELLED"),
    ("Unknown", "UNKNOWN"),
    ("InvalidArgument", "INVALID_ARGUMENT"),
    ("DeadlineExceeded", "DEADLINE_EXCEEDED"),
    ("NotFound", "NOT_FOUND"),
    ("AlreadyExists", "ALREADY_EXISTS"),
    ("PermissionDenied", "PERMISSION_DENIED"),
    ("ResourceExhausted", "RESOURCE_EXHAUSTED"),
    ("FailedPrecondition", "FAILED_PRECONDITION"),
    ("Aborted", "ABORTED"),
    ("OutOfRange", "OUT_OF_RANGE"),
    ("Unimplemented", "UNIMPLEMENTED"),
    ("Internal", "INTERNAL"),
    ("Unavailable", "UNAVAILABLE"),
    ("DataLoss", "DATA_LOSS"),
    ("Unauthenticated", "UNAUTHENTICATED"),
];

fn grpc_status(status: u64, snake: bool, out: &mut Vec<u8>) -> Wrote {
    match usize::try_from(status).ok().and_then(|status| GRPC_STATUSES.get(status)) {
        Some((camel, name)) => out.extend_from_slice(if snake { name } else { camel }.as_bytes()),
        None => digits(status, out),
    }
    Wrote::Text
}

// === impl Form ===

impl Form {
    fn write(self, address: SocketAddr, out: &mut Vec<u8>) -> Wrote {
        if self == Self::Port {
            return number(Some(address.port().into()), out);
        }
        let mut out = Bytes(out);
        // Writing to a Vec does not fail.
        let _ = match (self, address) {
            (Self::NoPort, _) => write!(out, "{}", address.ip()),
            (_, SocketAddr::V4(address)) => write!(out, "{address}"),
            (_, SocketAddr::V6(address)) => write!(out, "[{}]:{}", address.ip(), address.port()),
        };
        Wrote::Text
    }
}

/// Bytes that what is for people can be written to.
struct Bytes<'v>(&'v mut Vec<u8>);

impl fmt::Write for Bytes<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.extend_from_slice(text.as_bytes());
        Ok(())
    }
}

// === impl Point ===

impl Point {
    /// Those of connecting, and when sending begins, nobody notes: they have no name.
    fn of_name(name: &str) -> Option<Self> {
        Some(match name {
            "DS_RX_BEG" => Self::RequestBegin,
            "DS_RX_END" => Self::RequestEnd,
            "US_TX_END" => Self::SendEnd,
            "US_RX_BEG" => Self::ResponseBegin,
            "US_RX_END" => Self::ResponseEnd,
            "DS_TX_BEG" => Self::AnswerBegin,
            "DS_TX_END" => Self::AnswerEnd,
            _ => return None,
        })
    }
}

// === impl Name ===

impl Name {
    fn parse(name: &str, of: Message) -> Option<Self> {
        let name = name.to_ascii_lowercase();
        Some(match (of, &*name) {
            (Message::Request, ":method") => Self::Method,
            (Message::Request, ":authority" | "host") => Self::Authority,
            (Message::Request, ":path") => Self::Path,
            (Message::Request, ":scheme") => Self::Scheme,
            (Message::Response, ":status") => Self::Status,
            (Message::Request | Message::Response, "content-length") => Self::Length,
            _ => {
                let bare = name.strip_prefix(':').unwrap_or(&name);
                if bare.is_empty() || !bare.bytes().all(is_token) {
                    return None;
                }
                Self::Field(name.into_bytes().into())
            }
        })
    }
}

/// Source: RFC 9110 §5.6.2.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

// === impl Message ===

impl Message {
    /// Writes a field's first value, and says whether there is one.
    fn write<F: Facts + ?Sized>(self, facts: &F, name: &Name, out: &mut Vec<u8>) -> bool {
        match self {
            Self::Request => {
                facts.request().is_some_and(|head| of_request(head, facts.request_length(), name, out))
            }
            Self::Response => {
                facts.response().is_some_and(|head| of_response(head, facts.response_length(), name, out))
            }
            Self::Trailers => facts.trailers().is_some_and(|fields| of_fields(fields, name, out)),
        }
    }
}

fn of_request(head: &RequestHead, length: Option<u64>, name: &Name, out: &mut Vec<u8>) -> bool {
    let value = match name {
        Name::Method => head.method(),
        Name::Authority => head.authority(),
        Name::Path => head.path_and_query(),
        Name::Scheme => scheme(head),
        Name::Length => return number(length, out) != Wrote::Nothing,
        Name::Status | Name::Field(_) => return of_fields(&head.fields, name, out),
    };
    out.extend_from_slice(value);
    !value.is_empty()
}

fn scheme(head: &RequestHead) -> &'static [u8] {
    if head.https { b"https" } else { b"http" }
}

fn of_response(head: &ResponseHead, length: Option<u64>, name: &Name, out: &mut Vec<u8>) -> bool {
    match name {
        Name::Status if head.status == 0 => false,
        Name::Status => number(Some(head.status.into()), out) != Wrote::Nothing,
        Name::Length => number(length, out) != Wrote::Nothing,
        _ => of_fields(&head.fields, name, out),
    }
}

fn of_fields(fields: &Fields, name: &Name, out: &mut Vec<u8>) -> bool {
    let Name::Field(name) = name else { return false };
    let value = fields.find(name);
    out.extend_from_slice(value.unwrap_or_default());
    value.is_some()
}
