//! Response heads. Source: RFC 9112 §4 and §6.3.

use crate::{
    FieldSpan, Framing, Limits, ParseError, RequestKind, Span, Version, class,
    cursor::{Cursor, Stop},
    head::{self, Facts},
};

/// A response's head; spans are offsets in the slice that was parsed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Response {
    /// Bytes of the head, its empty line included; the body begins there.
    pub head_len: usize,
    /// Status code, 100 to 999. Below 200 the final response is still to come, except after 101, which the caller
    /// accepts only if it sent an upgrade on.
    pub status: u16,
    /// The reason phrase, as sent; may be empty.
    pub reason: Span,
    /// The version.
    pub version: Version,
    /// How the body that follows is delimited, the request's method and the status considered. `None` for 1xx, 204,
    /// 304, answers to HEAD, and where the connection becomes a tunnel (101, 2xx to CONNECT).
    pub body: Framing,
    /// What the fields say: other than `body` for HEAD and 304, where they describe what GET would have brought. Pass
    /// this to [`write_response_head`](crate::write_response_head).
    pub declared: Framing,
    /// Whether the connection can be used again once the body has ended; never after a tunnel.
    pub keep_alive: bool,
    /// The protocol that a 101 switches to, as sent.
    pub upgrade: Option<Span>,
}

/// Parses the head of a response to a request of kind `to` at the start of `bytes`; `None` if it is not complete yet.
///
/// `fields` is cleared and then filled with the field lines in order; what it holds after `None` or an error means
/// nothing.
///
/// # Errors
/// The first rule that is broken, also in a head that is not complete: the same one however the bytes arrive. Always
/// the origin's fault: answer 502 and close the origin's connection.
pub fn parse_response(
    bytes: &[u8],
    fields: &mut Vec<FieldSpan>,
    limits: &Limits,
    to: RequestKind,
) -> Result<Option<Response>, ParseError> {
    head_of(bytes, fields, limits, to).map_or_else(Stop::into_result, |response| Ok(Some(response)))
}

/// The parts of a status line.
struct Line {
    version: Version,
    status: u16,
    reason: Span,
}

fn head_of(
    bytes: &[u8],
    fields: &mut Vec<FieldSpan>,
    limits: &Limits,
    to: RequestKind,
) -> Result<Response, Stop> {
    let (mut cursor, head_is_full) = Cursor::limited(bytes, 0, limits.head_bytes);
    let too_long = |stop: Stop| stop.or_if(head_is_full, ParseError::HeadTooLong);
    let (mut first, line_is_full) = Cursor::limited(cursor.bytes, 0, limits.start_line_bytes);
    let line = status_line(&mut first)
        .map_err(|stop| too_long(stop.or_if(line_is_full, ParseError::StartLineTooLong)))?;
    cursor.at = first.at;
    let mut facts = Facts::new(false, line.version, limits);
    head::section(&mut cursor, fields, limits.fields, false, |known, value, field, index| {
        facts.note(known, value, field, index)
    })
    .map_err(too_long)?;
    facts.mark_named(cursor.bytes, fields);
    Ok(response(cursor.at, &line, &facts, to)?)
}

fn status_line(cursor: &mut Cursor<'_>) -> Result<Line, Stop> {
    let version = head::version(cursor)?;
    cursor.expect(b' ', ParseError::BadStatus)?;
    let mut status = 0;
    for _ in 0..3 {
        status = status * 10 + u16::from(head::digit(cursor, ParseError::BadStatus)? - b'0');
        if status == 0 {
            return Err(ParseError::BadStatus.into());
        }
    }
    // Widely sent without the space that precedes an empty phrase; nothing depends on it.
    if cursor.peek()? != b'\r' {
        cursor.expect(b' ', ParseError::BadStatus)?;
    }
    let reason = cursor.take(class::value_len);
    cursor.line_end(ParseError::BadReason)?;
    Ok(Line { version, status, reason })
}

fn response(head_len: usize, line: &Line, facts: &Facts, to: RequestKind) -> Result<Response, ParseError> {
    let fields_say = facts.framing();
    let is_tunnel = line.status == 101 || to == RequestKind::Connect && (200..300).contains(&line.status);
    let says_body = !matches!(fields_say, Framing::None | Framing::Length(0));
    if (line.status < 200 || is_tunnel) && says_body {
        return Err(ParseError::BodyNotAllowed);
    }
    let upgrade = facts.upgrade().filter(|_| line.status == 101);
    if line.status == 101 && upgrade.is_none() {
        return Err(ParseError::BadUpgrade);
    }
    let (body, declared) = match line.status {
        _ if is_tunnel => (Framing::None, Framing::None),
        100..200 | 204 => (Framing::None, Framing::None),
        304 => (Framing::None, fields_say),
        _ if to == RequestKind::Head => (Framing::None, fields_say),
        _ if fields_say == Framing::None => (Framing::UntilClose, Framing::UntilClose),
        _ => (fields_say, fields_say),
    };
    let allows_reuse = match line.version {
        Version::Http11 => !facts.options.close,
        Version::Http10 => facts.options.keep_alive && !facts.options.close,
    };
    // A 204 that promises a body has none (RFC 9112 §6.3), but its sender may think otherwise: what it sends next
    // must not be read as another response.
    let is_certain = body != Framing::UntilClose && !(line.status == 204 && says_body);
    Ok(Response {
        head_len,
        status: line.status,
        reason: line.reason,
        version: line.version,
        body,
        declared,
        keep_alive: allows_reuse && is_certain && !is_tunnel,
        upgrade,
    })
}

#[cfg(test)]
mod tests;
