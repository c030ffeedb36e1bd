//! The part that requests and responses share: field lines, and what they say about framing and the connection.

use crate::{
    FieldSpan, Framing, Limits, ParseError, Span, Version, class,
    cursor::{Cursor, Stop},
    fields::{self, Known, is_te_trailers, is_token, tokens},
    host::Authority,
};

/// The largest length of a body or a chunk: what fits a signed 64-bit number, as peers may use one.
pub(crate) const MAX_LENGTH: u64 = i64::MAX as u64;

/// What the known fields of a head say.
#[derive(Debug)]
pub(crate) struct Facts {
    is_request: bool,
    version: Version,
    max_options: u32,
    pub(crate) host: Option<Span>,
    content_length: Option<u64>,
    chunked: bool,
    pub(crate) options: Options,
    /// The first `Upgrade` line's value.
    upgrade: Option<Span>,
    upgrade_lines: u32,
    /// Where in the fields `Expect` stands.
    pub(crate) expect: Option<usize>,
}

/// What the `Connection` lines say.
#[derive(Debug, Default)]
pub(crate) struct Options {
    pub(crate) close: bool,
    pub(crate) keep_alive: bool,
    upgrade: bool,
    count: u32,
    /// How many of them may name a field of this head.
    names: u32,
}

/// Reads a version. Source: RFC 9112 §2.3.
pub(crate) fn version(cursor: &mut Cursor<'_>) -> Result<Version, Stop> {
    for byte in b"HTTP/" {
        cursor.expect(*byte, ParseError::BadVersion)?;
    }
    let major = digit(cursor, ParseError::BadVersion)?;
    cursor.expect(b'.', ParseError::BadVersion)?;
    match (major, digit(cursor, ParseError::BadVersion)?) {
        (b'1', b'1') => Ok(Version::Http11),
        (b'1', b'0') => Ok(Version::Http10),
        _ => Err(ParseError::UnsupportedVersion.into()),
    }
}

/// Reads one decimal digit.
pub(crate) fn digit(cursor: &mut Cursor<'_>, otherwise: ParseError) -> Result<u8, Stop> {
    cursor.accept(|byte| byte.is_ascii_digit(), otherwise)
}

/// Reads field lines up to and with the empty line; `note` looks at each, by what its name means. `is_request`: only
/// there does `te: trailers` go on.
pub(crate) fn section(
    cursor: &mut Cursor<'_>,
    fields: &mut Vec<FieldSpan>,
    max_fields: u32,
    is_request: bool,
    mut note: impl FnMut(Known, &[u8], &FieldSpan, usize) -> Result<(), ParseError>,
) -> Result<(), Stop> {
    fields.clear();
    loop {
        match cursor.peek()? {
            b'\r' | b'\n' => return cursor.line_end(ParseError::BareCr),
            b' ' | b'\t' if fields.is_empty() => return Err(ParseError::SpaceBeforeFirstField.into()),
            b' ' | b'\t' => return Err(ParseError::FoldedField.into()),
            _ if fields.len() >= max_fields as usize => return Err(ParseError::TooManyFields.into()),
            _ => {}
        }
        let mut field = field_line(cursor)?;
        let value = field.value.of(cursor.bytes);
        let known = Known::of(field.name.of(cursor.bytes));
        let goes_on = is_request && known == Known::Te && is_te_trailers(value);
        field.hop_by_hop = known.is_hop_by_hop() && !goes_on;
        note(known, value, &field, fields.len())?;
        fields.push(field);
    }
}

/// Reads one field line. Source: RFC 9112 §5.
fn field_line(cursor: &mut Cursor<'_>) -> Result<FieldSpan, Stop> {
    let name = cursor.take(class::token_len);
    match cursor.peek()? {
        b':' if !name.is_empty() => cursor.at += 1,
        b' ' | b'\t' => return Err(ParseError::SpaceBeforeColon.into()),
        b'\r' => {
            cursor.line_end(ParseError::BareCr)?;
            return Err(ParseError::MissingColon.into());
        }
        b'\n' => return Err(ParseError::BareLf.into()),
        _ => return Err(ParseError::BadFieldName.into()),
    }
    let text = cursor.take(class::value_len);
    cursor.line_end(ParseError::BadFieldValue)?;
    Ok(FieldSpan { name, value: trimmed(cursor.bytes, text), hop_by_hop: false })
}

fn trimmed(bytes: &[u8], text: Span) -> Span {
    let text = text.range();
    let is_space = |b: &u8| matches!(b, b' ' | b'\t');
    let start = bytes[text.clone()].iter().position(|b| !is_space(b)).map_or(text.end, |n| text.start + n);
    let end = bytes[start..text.end].iter().rposition(|b| !is_space(b)).map_or(start, |n| start + n + 1);
    Span::new(start, end)
}

// === impl Facts ===

impl Facts {
    pub(crate) fn new(is_request: bool, version: Version, limits: &Limits) -> Self {
        Self {
            is_request,
            version,
            max_options: limits.connection_options,
            host: None,
            content_length: None,
            chunked: false,
            options: Options::default(),
            upgrade: None,
            upgrade_lines: 0,
            expect: None,
        }
    }

    /// Takes in one field line, the `index`-th of its head.
    pub(crate) fn note(
        &mut self,
        known: Known,
        value: &[u8],
        field: &FieldSpan,
        index: usize,
    ) -> Result<(), ParseError> {
        match known {
            Known::ContentLength => self.note_content_length(value),
            Known::TransferEncoding => self.note_transfer_encoding(value),
            Known::Connection => self.note_connection(value),
            Known::Upgrade => self.note_upgrade(field.value),
            Known::Host if self.is_request => self.note_host(value, field.value),
            Known::Expect if self.is_request => self.note_expect(value, index),
            _ => Ok(()),
        }
    }

    fn note_content_length(&mut self, value: &[u8]) -> Result<(), ParseError> {
        if self.content_length.is_some() {
            return Err(ParseError::RepeatedContentLength);
        }
        if self.chunked {
            return Err(ParseError::ContentLengthWithTransferEncoding);
        }
        self.content_length = Some(content_length(value).ok_or(ParseError::BadContentLength)?);
        Ok(())
    }

    fn note_transfer_encoding(&mut self, value: &[u8]) -> Result<(), ParseError> {
        if self.version == Version::Http10 {
            return Err(ParseError::TransferEncodingInHttp10);
        }
        if self.chunked {
            return Err(ParseError::RepeatedTransferEncoding);
        }
        if self.content_length.is_some() {
            return Err(ParseError::ContentLengthWithTransferEncoding);
        }
        transfer_encoding(value)?;
        self.chunked = true;
        Ok(())
    }

    fn note_connection(&mut self, value: &[u8]) -> Result<(), ParseError> {
        for option in tokens(value) {
            if !is_token(option) {
                return Err(ParseError::BadConnectionOption);
            }
            self.options.count += 1;
            if self.options.count > self.max_options {
                return Err(ParseError::TooManyConnectionOptions);
            }
            // Whoever obeyed would lose the message's end, its host, or its client's expectation.
            if matches!(Known::of(option), Known::ContentLength | Known::Host | Known::Expect) {
                return Err(ParseError::BadConnectionOption);
            }
            self.options.note(option);
        }
        Ok(())
    }

    fn note_upgrade(&mut self, value: Span) -> Result<(), ParseError> {
        self.upgrade_lines += 1;
        // An origin may advertise what it could be upgraded to, in as many lines as it likes: read for 101 only.
        if self.is_request && (self.upgrade_lines > 1 || value.is_empty()) {
            return Err(ParseError::BadUpgrade);
        }
        self.upgrade = self.upgrade.or(Some(value));
        Ok(())
    }

    fn note_host(&mut self, value: &[u8], span: Span) -> Result<(), ParseError> {
        if self.host.is_some() {
            return Err(ParseError::RepeatedHost);
        }
        Authority::parse(value).ok_or(ParseError::BadHost)?;
        self.host = Some(span);
        Ok(())
    }

    fn note_expect(&mut self, value: &[u8], index: usize) -> Result<(), ParseError> {
        if self.expect.is_some() || !value.eq_ignore_ascii_case(b"100-continue") {
            return Err(ParseError::BadExpectation);
        }
        self.expect = Some(index);
        Ok(())
    }

    /// The framing that the fields declare, if any does.
    pub(crate) fn framing(&self) -> Framing {
        if self.chunked {
            Framing::Chunked
        } else {
            self.content_length.map_or(Framing::None, Framing::Length)
        }
    }

    /// The protocols to upgrade to, if the head asks for one as a whole: HTTP/1.1, the option and one line that names
    /// some. Source: RFC 9110 §7.8.
    pub(crate) fn upgrade(&self) -> Option<Span> {
        let asked = self.version == Version::Http11 && self.options.upgrade && self.upgrade_lines == 1;
        self.upgrade.filter(|span| asked && !span.is_empty())
    }

    /// Marks the fields that the `Connection` lines name.
    pub(crate) fn mark_named(&self, bytes: &[u8], fields: &mut [FieldSpan]) {
        if self.options.names == 0 {
            return;
        }
        for at in 0..fields.len() {
            if Known::of(fields[at].name.of(bytes)) != Known::Connection {
                continue;
            }
            for option in tokens(fields[at].value.of(bytes)) {
                mark(bytes, fields, option);
            }
        }
    }
}

fn mark(bytes: &[u8], fields: &mut [FieldSpan], name: &[u8]) {
    // `te` is marked by its value alone: `te: trailers` must be listed, and is forwarded all the same.
    if Known::of(name) == Known::Te {
        return;
    }
    for field in fields.iter_mut().filter(|f| f.name.of(bytes).eq_ignore_ascii_case(name)) {
        field.hop_by_hop = true;
    }
}

impl Options {
    fn note(&mut self, option: &[u8]) {
        if option.eq_ignore_ascii_case(b"close") {
            self.close = true;
        } else if option.eq_ignore_ascii_case(b"keep-alive") {
            self.keep_alive = true;
        } else if option.eq_ignore_ascii_case(b"upgrade") {
            self.upgrade = true;
        } else {
            self.names += 1;
        }
    }
}

/// Reads a length: digits only, no leading zero, within [`MAX_LENGTH`].
fn content_length(value: &[u8]) -> Option<u64> {
    if value.is_empty() || value.len() > 1 && value[0] == b'0' {
        return None;
    }
    let length = value.iter().try_fold(0_u64, |sum, byte| {
        let digit = byte.is_ascii_digit().then(|| u64::from(byte - b'0'))?;
        sum.checked_mul(10)?.checked_add(digit)
    })?;
    (length <= MAX_LENGTH).then_some(length)
}

/// Accepts `chunked` alone. A list that ends in it and is otherwise well-formed is understood but not supported; any
/// other leaves the message's end unknown. Source: RFC 9112 §6.1, §6.3.
fn transfer_encoding(value: &[u8]) -> Result<(), ParseError> {
    let is_chunked = |coding: &[u8]| coding.eq_ignore_ascii_case(b"chunked");
    if is_chunked(value) {
        return Ok(());
    }
    let Some(comma) = memchr::memrchr(b',', value) else { return Err(ParseError::BadTransferEncoding) };
    let others_are_valid = value[..comma]
        .split(|b| *b == b',')
        .map(fields::trim)
        .all(|coding| is_token(coding) && !is_chunked(coding));
    if others_are_valid && is_chunked(fields::trim(&value[comma + 1..])) {
        return Err(ParseError::UnsupportedTransferCoding);
    }
    Err(ParseError::BadTransferEncoding)
}
