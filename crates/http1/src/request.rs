//! Request heads. Source: RFC 9112 §3.

use crate::{
    FieldSpan, Framing, Limits, ParseError, Span, Version, class,
    cursor::{Cursor, Stop},
    head::{self, Facts},
    host::Authority,
};

/// A request's head; spans are offsets in the slice that was parsed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// Bytes of the head, its empty line included; the body begins there.
    pub head_len: usize,
    /// The method, as sent (methods are case-sensitive).
    pub method: Span,
    /// What the method means for framing: pass it to [`parse_response`](crate::parse_response).
    pub kind: RequestKind,
    /// The request target.
    pub target: Target,
    /// The version.
    pub version: Version,
    /// The `Host` field's value, checked; always there in HTTP/1.1.
    pub host: Option<Span>,
    /// How the body is delimited; never [`Framing::UntilClose`].
    pub body: Framing,
    /// Whether the client lets the connection be used again. Always false for HTTP/1.0: a proxy must not keep such
    /// a connection (RFC 9112 §9.3). Always false for CONNECT: a client may send the tunnel's bytes ahead, which are
    /// not read as requests when there is no tunnel (RFC 9931 §5).
    pub keep_alive: bool,
    /// The protocols that the client asks to upgrade to: a list, as sent. Only where `Connection` says so too, and no
    /// body stands between the head and the other protocol's bytes. A caller that does not know the protocol ignores
    /// it; above all `h2c` must not reach an origin, where it would open a channel past every policy.
    pub upgrade: Option<Span>,
    /// Whether the client waits for a 100 before it sends the body. Never without a body.
    pub expect_continue: bool,
}

/// What a request means for the framing of its response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestKind {
    /// `HEAD`: the response has no body.
    Head,
    /// `CONNECT`: a 2xx response turns the connection into a tunnel.
    Connect,
    /// Any other method.
    Other,
}

/// A request target in one of its four forms. Source: RFC 9112 §3.2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// `/path?query`.
    Origin(Span),
    /// `http://authority/path?query`.
    Absolute {
        /// Whether the scheme is `https`.
        https: bool,
        /// Host and optional port, checked, and equal to `Host`.
        authority: Span,
        /// Path and query; empty where the target ends after the authority.
        path: Span,
    },
    /// `host:port`, of CONNECT only.
    Authority(Span),
    /// `*`, of OPTIONS only.
    Asterisk,
}

/// Parses a request's head at the start of `bytes`; `None` if it is not complete yet.
///
/// `fields` is cleared and then filled with the field lines in order; what it holds after `None` or an error means
/// nothing. At most one empty line before the request line is skipped (RFC 9112 §2.2); it counts in `head_len`.
/// HTTP/2's preface is the caller's to recognise before.
///
/// # Errors
/// The first rule that is broken, also in a head that is not complete: the same one however the bytes arrive. Always
/// the client's fault.
pub fn parse_request(
    bytes: &[u8],
    fields: &mut Vec<FieldSpan>,
    limits: &Limits,
) -> Result<Option<Request>, ParseError> {
    head_of(bytes, fields, limits).map_or_else(Stop::into_result, |request| Ok(Some(request)))
}

/// The parts of a request line.
struct Line {
    method: Span,
    kind: RequestKind,
    is_trace: bool,
    target: Target,
    version: Version,
}

fn head_of(bytes: &[u8], fields: &mut Vec<FieldSpan>, limits: &Limits) -> Result<Request, Stop> {
    let (mut cursor, head_is_full) = Cursor::limited(bytes, 0, limits.head_bytes);
    let too_long = |stop: Stop| stop.or_if(head_is_full, ParseError::HeadTooLong);
    skip_empty_line(&mut cursor).map_err(too_long)?;
    let (mut first, line_is_full) = Cursor::limited(cursor.bytes, cursor.at, limits.start_line_bytes);
    let line = request_line(&mut first)
        .map_err(|stop| too_long(stop.or_if(line_is_full, ParseError::StartLineTooLong)))?;
    cursor.at = first.at;
    let mut facts = Facts::new(true, line.version, limits);
    head::section(&mut cursor, fields, limits.fields, true, |known, value, field, index| {
        facts.note(known, value, field, index)
    })
    .map_err(too_long)?;
    check_host(cursor.bytes, &line, facts.host)?;
    facts.mark_named(cursor.bytes, fields);
    Ok(request(cursor.at, &line, &facts, fields)?)
}

/// Steps over at most one empty line: some clients send one after a body. Source: RFC 9112 §2.2.
fn skip_empty_line(cursor: &mut Cursor<'_>) -> Result<(), Stop> {
    if matches!(cursor.peek()?, b'\r' | b'\n') {
        cursor.line_end(ParseError::EmptyLines)?;
        if matches!(cursor.peek()?, b'\r' | b'\n') {
            return Err(ParseError::EmptyLines.into());
        }
    }
    Ok(())
}

fn request_line(cursor: &mut Cursor<'_>) -> Result<Line, Stop> {
    let method = cursor.take(class::token_len);
    if method.is_empty() {
        cursor.peek()?;
        return Err(ParseError::BadMethod.into());
    }
    cursor.expect(b' ', ParseError::BadMethod)?;
    let text = cursor.take(class::target_len);
    if cursor.peek()? == b'\r' {
        // HTTP/0.9: a line without a version.
        cursor.line_end(ParseError::BareCr)?;
        return Err(ParseError::BadVersion.into());
    }
    cursor.expect(b' ', ParseError::BadTarget)?;
    if text.is_empty() {
        return Err(ParseError::BadTarget.into());
    }
    let version = head::version(cursor)?;
    cursor.line_end(ParseError::BadVersion)?;
    let kind = match method.of(cursor.bytes) {
        b"HEAD" => RequestKind::Head,
        b"CONNECT" => RequestKind::Connect,
        _ => RequestKind::Other,
    };
    let is_trace = method.of(cursor.bytes) == b"TRACE";
    let target = target(cursor.bytes, method, kind, text).ok_or(ParseError::BadTargetForm)?;
    Ok(Line { method, kind, is_trace, target, version })
}

/// Tells the four forms apart by the method and the first bytes.
fn target(bytes: &[u8], method: Span, kind: RequestKind, span: Span) -> Option<Target> {
    match span.of(bytes) {
        authority if kind == RequestKind::Connect => {
            Authority::parse(authority)?.port?;
            Some(Target::Authority(span))
        }
        [b'/', ..] => Some(Target::Origin(span)),
        b"*" => (method.of(bytes) == b"OPTIONS").then_some(Target::Asterisk),
        absolute => absolute_form(absolute, span),
    }
}

fn absolute_form(text: &[u8], span: Span) -> Option<Target> {
    let (https, scheme_len) = if starts_with(text, b"http://") {
        (false, b"http://".len())
    } else if starts_with(text, b"https://") {
        (true, b"https://".len())
    } else {
        return None;
    };
    let rest = &text[scheme_len..];
    // A query right after the authority is refused with it: peers disagree on what path it has.
    let authority_len = memchr::memchr(b'/', rest).unwrap_or(rest.len());
    Authority::parse(&rest[..authority_len])?;
    let (whole, start) = (span.range(), span.range().start + scheme_len);
    let path = start + authority_len;
    Some(Target::Absolute { https, authority: Span::new(start, path), path: Span::new(path, whole.end) })
}

fn starts_with(text: &[u8], scheme: &[u8]) -> bool {
    text.get(..scheme.len()).is_some_and(|start| start.eq_ignore_ascii_case(scheme))
}

/// Checks that there is a host, and one only. A proxy may overrule `Host` by the target (RFC 9112 §3.2.2); a request
/// that names two is refused instead, so that nobody behind us can prefer the other.
fn check_host(bytes: &[u8], line: &Line, host: Option<Span>) -> Result<(), ParseError> {
    let Some(host) = host else {
        return if line.version == Version::Http11 { Err(ParseError::MissingHost) } else { Ok(()) };
    };
    let (target, default_port) = match line.target {
        Target::Absolute { https, authority, .. } => (authority, if https { 443 } else { 80 }),
        // Some clients leave the port out of `Host` here, whatever it is.
        Target::Authority(authority) => {
            let port = Authority::parse(authority.of(bytes)).and_then(|a| a.port);
            (authority, port.unwrap_or_default())
        }
        Target::Origin(_) | Target::Asterisk => return Ok(()),
    };
    let same = Authority::parse(target.of(bytes))
        .zip(Authority::parse(host.of(bytes)))
        .is_some_and(|(target, host)| target.is_same(&host, default_port));
    if same { Ok(()) } else { Err(ParseError::HostMismatch) }
}

fn request(
    head_len: usize,
    line: &Line,
    facts: &Facts,
    fields: &mut [FieldSpan],
) -> Result<Request, ParseError> {
    let body = facts.framing();
    let has_body = !matches!(body, Framing::None | Framing::Length(0));
    if line.kind == RequestKind::Connect && body != Framing::None || line.is_trace && has_body {
        return Err(ParseError::BodyNotAllowed);
    }
    let is_http11 = line.version == Version::Http11;
    let expect_continue = is_http11 && has_body;
    if let (Some(index), false) = (facts.expect, expect_continue) {
        // An expectation that must be ignored must not come alive at the next hop.
        fields[index].hop_by_hop = true;
    }
    Ok(Request {
        head_len,
        method: line.method,
        kind: line.kind,
        target: line.target,
        version: line.version,
        host: facts.host,
        body,
        keep_alive: is_http11 && !facts.options.close && line.kind != RequestKind::Connect,
        upgrade: facts.upgrade().filter(|_| !has_body),
        expect_continue: expect_continue && facts.expect.is_some(),
    })
}

// === impl Request ===

impl Request {
    /// Host and port as the client named them: of the target where it has them, else of `Host`; `None` only in
    /// HTTP/1.0.
    pub fn authority(&self) -> Option<Span> {
        match self.target {
            Target::Absolute { authority, .. } | Target::Authority(authority) => Some(authority),
            Target::Origin(_) | Target::Asterisk => self.host,
        }
    }

    /// Path and query in origin form, `*`, or empty for CONNECT; `bytes` is the slice that was parsed.
    pub fn path_and_query<'a>(&self, bytes: &'a [u8]) -> &'a [u8] {
        match self.target {
            Target::Origin(path) => path.of(bytes),
            Target::Absolute { path, .. } if !path.is_empty() => path.of(bytes),
            // RFC 9112 §3.2.4: OPTIONS for a whole server, as a proxy receives it.
            Target::Absolute { .. } if self.method.of(bytes) == b"OPTIONS" => b"*",
            Target::Absolute { .. } => b"/",
            Target::Authority(_) => b"",
            Target::Asterisk => b"*",
        }
    }
}

#[cfg(test)]
mod tests;
