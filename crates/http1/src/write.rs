//! Writing messages, always in one canonical form.
//!
//! Whatever could change where a message ends is written from typed arguments and dropped from the fields that are
//! forwarded; whatever could end a line is refused, wherever it comes from (HTTP/2 lets more bytes through than
//! HTTP/1.1 can carry).

use std::{fmt, num::NonZeroUsize};

use crate::{
    Framing, RequestKind, class,
    fields::{Known, is_te_trailers, is_token},
    host::Authority,
};

/// What ends each chunk's data.
pub const CHUNK_END: &[u8] = b"\r\n";

const LINE_END: &[u8] = b"\r\n";
const DIGITS: &[u8; 16] = b"0123456789abcdef";

/// The interim response that lets a client send its body.
pub const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// The first line of a request, with its host.
#[derive(Clone, Copy, Debug)]
pub struct RequestLine<'a> {
    /// The method: a token.
    pub method: &'a [u8],
    /// The target as it is to be sent: `/path?query`, `*`, or `host:port` for CONNECT.
    pub target: &'a [u8],
    /// What `Host` says: host and optional port. Empty writes an empty `Host`: only for a client that named none.
    pub authority: &'a [u8],
}

/// The first line of a response, with what it answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StatusLine {
    /// Status code, 100 to 999.
    pub status: u16,
    /// What kind of request it answers: decides whether a client expects a body.
    pub to: RequestKind,
}

/// What the `Connection` line of a message says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Connection<'a> {
    /// The connection stays open: HTTP/1.1's default, so nothing is written.
    KeepAlive,
    /// The sender closes after this message.
    Close,
    /// The sender asks for, or switches to, this protocol.
    Upgrade(&'a [u8]),
}

/// Why a message cannot be written; nothing of it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum WriteError {
    /// The method is not a token.
    Method,
    /// The target's form does not suit the method, or it has a space, a control byte, a non-ASCII byte or a `#`.
    Target,
    /// The authority is not a host with an optional port.
    Authority,
    /// The status is not from 100 to 999.
    Status,
    /// A field's name is not a token.
    FieldName,
    /// A field's value has a control byte.
    FieldValue,
    /// The protocol to upgrade to is missing (in a 101), empty, or has a control byte.
    Upgrade,
    /// The framing does not suit the message: a request until close, or a body where none may be.
    Framing,
}

/// Appends a request's head: HTTP/1.1, `host`, the fields, then framing and connection.
///
/// Of `fields`, those that this engine answers for are dropped: `host`, `content-length` and all for which
/// [`is_hop_by_hop`](crate::is_hop_by_hop) is true (`te: trailers` is kept, and announced in `Connection`). An `expect`
/// is dropped where no body follows that could be waited for; elsewhere it must be `100-continue`.
///
/// # Errors
/// The part that cannot be written; `out` is then as it was. The fault of whoever made the part.
pub fn write_request_head<'a>(
    out: &mut Vec<u8>,
    line: &RequestLine<'_>,
    fields: impl IntoIterator<Item = (&'a [u8], &'a [u8])>,
    framing: Framing,
    connection: Connection<'_>,
) -> Result<(), WriteError> {
    check_line(line)?;
    let is_connect = line.method == b"CONNECT";
    if framing == Framing::UntilClose || is_connect && framing != Framing::None {
        return Err(WriteError::Framing);
    }
    let has_body = !matches!(framing, Framing::None | Framing::Length(0));
    whole(out, |out| {
        put(out, &[line.method, b" ", line.target, b" HTTP/1.1\r\nhost: ", line.authority, b"\r\n"]);
        let te_trailers = write_fields(out, fields, |known, _, value| match known {
            Known::Host => Ok(false),
            // Whoever reads an odd expectation otherwise than we do waits for a body when we do not.
            Known::Expect if has_body && !value.eq_ignore_ascii_case(b"100-continue") => {
                Err(WriteError::FieldValue)
            }
            Known::Expect => Ok(has_body),
            _ => Ok(true),
        })?;
        write_framing(out, framing);
        write_connection(out, connection, te_trailers)?;
        put(out, &[LINE_END]);
        Ok(())
    })
}

/// Appends a response's head: HTTP/1.1, the status with its usual phrase, the fields, then framing and connection.
///
/// Of `fields`, those that this engine answers for are dropped: `content-length` and all for which
/// [`is_hop_by_hop`](crate::is_hop_by_hop) is true.
///
/// `framing` says what follows, or for HEAD and 304 what would follow. [`Framing::None`] is written as
/// `content-length: 0` wherever a client would otherwise wait for a body; with [`Framing::UntilClose`],
/// `connection: close` is written whatever `connection` says. For an HTTP/1.0 client, see [`Framing::towards`].
///
/// # Errors
/// The part that cannot be written; `out` is then as it was. The fault of whoever made the part.
pub fn write_response_head<'a>(
    out: &mut Vec<u8>,
    line: StatusLine,
    fields: impl IntoIterator<Item = (&'a [u8], &'a [u8])>,
    framing: Framing,
    connection: Connection<'_>,
) -> Result<(), WriteError> {
    if !(100..1000).contains(&line.status) {
        return Err(WriteError::Status);
    }
    if line.status == 101 && !matches!(connection, Connection::Upgrade(_)) {
        return Err(WriteError::Upgrade);
    }
    let framing = response_framing(line, framing)?;
    let connection = if framing == Framing::UntilClose { Connection::Close } else { connection };
    whole(out, |out| {
        put(out, &[b"HTTP/1.1 "]);
        write_number::<10>(out, u64::from(line.status));
        put(out, &[b" ", reason_phrase(line.status).as_bytes(), LINE_END]);
        write_fields(out, fields, |known, _, _| Ok(known != Known::Te))?;
        write_framing(out, framing);
        write_connection(out, connection, false)?;
        put(out, &[LINE_END]);
        Ok(())
    })
}

/// What to declare, so that the client ends the message where we do. Source: RFC 9112 §6.3.
fn response_framing(line: StatusLine, framing: Framing) -> Result<Framing, WriteError> {
    let is_tunnel = line.to == RequestKind::Connect && (200..300).contains(&line.status);
    let never_has_body = is_tunnel || matches!(line.status, 100..200 | 204);
    match framing {
        Framing::None | Framing::Length(0) | Framing::UntilClose if never_has_body => Ok(Framing::None),
        _ if never_has_body => Err(WriteError::Framing),
        Framing::UntilClose if line.status == 304 || line.to == RequestKind::Head => Ok(Framing::None),
        Framing::None if line.status != 304 && line.to != RequestKind::Head => Ok(Framing::Length(0)),
        framing => Ok(framing),
    }
}

/// Appends what stands before a chunk of `len` bytes of data. ([`CHUNK_END`] stands after it. A chunk of nothing would
/// end the body, so there is none.)
pub fn write_chunk_header(out: &mut Vec<u8>, len: NonZeroUsize) {
    write_number::<16>(out, len.get() as u64);
    put(out, &[LINE_END]);
}

/// Appends data as one whole chunk; nothing if there is no data.
pub fn write_chunk(out: &mut Vec<u8>, data: &[u8]) {
    if let Some(len) = NonZeroUsize::new(data.len()) {
        write_chunk_header(out, len);
        put(out, &[data, CHUNK_END]);
    }
}

/// Appends the end of a chunked body with its trailers, of which those are dropped for which
/// [`may_trail`](crate::may_trail) is false.
///
/// # Errors
/// The trailer that cannot be written; `out` is then as it was.
pub fn write_last_chunk<'a>(
    out: &mut Vec<u8>,
    trailers: impl IntoIterator<Item = (&'a [u8], &'a [u8])>,
) -> Result<(), WriteError> {
    whole(out, |out| {
        put(out, &[b"0\r\n"]);
        write_fields(out, trailers, |known, name, _| Ok(known.may_trail(name)))?;
        put(out, &[LINE_END]);
        Ok(())
    })
}

/// The usual phrase of a status; empty for one without.
pub fn reason_phrase(status: u16) -> &'static str {
    match status {
        100 => "Continue",
        101 => "Switching Protocols",
        103 => "Early Hints",
        200 => "OK",
        201 => "Created",
        202 => "Accepted",
        203 => "Non-Authoritative Information",
        204 => "No Content",
        205 => "Reset Content",
        206 => "Partial Content",
        300 => "Multiple Choices",
        301 => "Moved Permanently",
        302 => "Found",
        303 => "See Other",
        304 => "Not Modified",
        307 => "Temporary Redirect",
        308 => "Permanent Redirect",
        400..500 => client_error_phrase(status),
        500 => "Internal Server Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        _ => "",
    }
}

fn client_error_phrase(status: u16) -> &'static str {
    match status {
        400 => "Bad Request",
        401 => "Unauthorized",
        402 => "Payment Required",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        406 => "Not Acceptable",
        407 => "Proxy Authentication Required",
        408 => "Request Timeout",
        409 => "Conflict",
        410 => "Gone",
        411 => "Length Required",
        412 => "Precondition Failed",
        413 => "Content Too Large",
        414 => "URI Too Long",
        415 => "Unsupported Media Type",
        416 => "Range Not Satisfiable",
        417 => "Expectation Failed",
        421 => "Misdirected Request",
        422 => "Unprocessable Content",
        425 => "Too Early",
        426 => "Upgrade Required",
        428 => "Precondition Required",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        451 => "Unavailable For Legal Reasons",
        _ => "",
    }
}

/// Checks a request line: what is written must be read back as the same method, target and host by anyone.
fn check_line(line: &RequestLine<'_>) -> Result<(), WriteError> {
    if !is_token(line.method) {
        return Err(WriteError::Method);
    }
    let form_fits = match line.target {
        authority if line.method == b"CONNECT" => {
            Authority::parse(authority).is_some_and(|a| a.port.is_some())
        }
        [b'/', ..] => true,
        target => target == b"*" && line.method == b"OPTIONS",
    };
    if !form_fits || class::target_len(line.target) != line.target.len() {
        return Err(WriteError::Target);
    }
    if !line.authority.is_empty() && Authority::parse(line.authority).is_none() {
        return Err(WriteError::Authority);
    }
    Ok(())
}

/// Runs `write`, and takes back what it wrote if it fails.
fn whole(
    out: &mut Vec<u8>,
    write: impl FnOnce(&mut Vec<u8>) -> Result<(), WriteError>,
) -> Result<(), WriteError> {
    let start = out.len();
    write(out).inspect_err(|_| out.truncate(start))
}

/// Appends the fields that may be forwarded and that `wanted` lets through; returns whether `te: trailers` was among
/// them.
fn write_fields<'a>(
    out: &mut Vec<u8>,
    fields: impl IntoIterator<Item = (&'a [u8], &'a [u8])>,
    wanted: impl Fn(Known, &[u8], &[u8]) -> Result<bool, WriteError>,
) -> Result<bool, WriteError> {
    let mut te_trailers = false;
    for (name, value) in fields {
        let known = Known::of(name);
        let is_te_trailers = known == Known::Te && is_te_trailers(value);
        if known == Known::ContentLength || known.is_hop_by_hop() && !is_te_trailers {
            continue;
        }
        if !wanted(known, name, value)? {
            continue;
        }
        if !is_token(name) {
            return Err(WriteError::FieldName);
        }
        if class::value_len(value) != value.len() {
            return Err(WriteError::FieldValue);
        }
        if !(is_te_trailers && te_trailers) {
            put(out, &[name, b": ", value, LINE_END]);
        }
        te_trailers |= is_te_trailers;
    }
    Ok(te_trailers)
}

fn write_framing(out: &mut Vec<u8>, framing: Framing) {
    match framing {
        Framing::None | Framing::UntilClose => {}
        Framing::Length(length) => {
            put(out, &[b"content-length: "]);
            write_number::<10>(out, length);
            put(out, &[LINE_END]);
        }
        Framing::Chunked => put(out, &[b"transfer-encoding: chunked\r\n"]),
    }
}

fn write_connection(out: &mut Vec<u8>, connection: Connection<'_>, te: bool) -> Result<(), WriteError> {
    match connection {
        Connection::KeepAlive if te => put(out, &[b"connection: te\r\n"]),
        Connection::KeepAlive => {}
        Connection::Close if te => put(out, &[b"connection: close, te\r\n"]),
        Connection::Close => put(out, &[b"connection: close\r\n"]),
        Connection::Upgrade(protocol) => {
            if protocol.is_empty() || class::value_len(protocol) != protocol.len() {
                return Err(WriteError::Upgrade);
            }
            let options: &[u8] = if te { b"connection: upgrade, te\r\n" } else { b"connection: upgrade\r\n" };
            put(out, &[options, b"upgrade: ", protocol, LINE_END]);
        }
    }
    Ok(())
}

fn put(out: &mut Vec<u8>, parts: &[&[u8]]) {
    out.reserve(parts.iter().map(|part| part.len()).sum());
    for part in parts {
        out.extend_from_slice(part);
    }
}

/// Appends a number without padding, in base 10 or 16.
fn write_number<const BASE: u64>(out: &mut Vec<u8>, mut value: u64) {
    // The most digits that 64 bits can have, in base 10.
    let mut digits = [0; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = DIGITS[usize::try_from(value % BASE).unwrap_or_default()];
        value /= BASE;
        if value == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

impl fmt::Display for WriteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Method => "the method cannot be sent over HTTP/1.1",
            Self::Target => "the request target cannot be sent over HTTP/1.1",
            Self::Authority => "the authority is not a host name or address with an optional port",
            Self::Status => "the status is not from 100 to 999",
            Self::FieldName => "a header's name cannot be sent over HTTP/1.1",
            Self::FieldValue => "a header's value has a control character",
            Self::Upgrade => "the protocol to upgrade to is malformed",
            Self::Framing => "the message cannot be delimited this way",
        })
    }
}

impl std::error::Error for WriteError {}

#[cfg(test)]
mod tests;
