//! One function per parser of a peer's bytes, as `cargo fuzz` would call it: any bytes in, a panic where something
//! that must hold does not.

use meshwork_http1::{
    BodyDecoder, Connection, FieldSpan, Framing, Limits, ParseError, Request, RequestKind, RequestLine,
    Response, StatusLine, Version, is_token, parse_request, parse_response, write_chunk, write_last_chunk,
    write_request_head, write_response_head,
};

use super::random::{ROUNDS, Random, rounds, valid};

/// Limits that short messages meet.
const SMALL: Limits = Limits {
    head_bytes: 120,
    fields: 4,
    start_line_bytes: 40,
    chunk_extension_bytes: 6,
    trailer_bytes: 30,
    connection_options: 2,
};

type Pairs<'a> = Vec<(&'a [u8], &'a [u8])>;

/// Requests: heads and bodies.
pub(super) fn request(bytes: &[u8]) {
    let mut fields = Vec::new();
    let parse = |limits: Limits| move |b: &[u8], f: &mut Vec<FieldSpan>| parse_request(b, f, &limits);
    let small = settles(bytes, &mut fields, parse(SMALL));
    let whole = settles(bytes, &mut fields, parse(Limits::default()));
    if let Ok(Some(request)) = small {
        assert_eq!(small, whole, "{}", bytes.escape_ascii());
        assert!(request.head_len <= SMALL.head_bytes as usize && fields.len() <= SMALL.fields as usize);
    }
    let Ok(Some(request)) = whole else { return };
    is_clean(&bytes[..request.head_len], &fields);
    assert_ne!(request.body, Framing::UntilClose);
    survives_rewriting(bytes, &request, &fields);
    body(request.body, &bytes[request.head_len..]);
}

/// Responses to each kind of request: heads and bodies.
pub(super) fn response(bytes: &[u8]) {
    let mut fields = Vec::new();
    for to in [RequestKind::Other, RequestKind::Head, RequestKind::Connect] {
        let parse =
            |limits: Limits| move |b: &[u8], f: &mut Vec<FieldSpan>| parse_response(b, f, &limits, to);
        let small = settles(bytes, &mut fields, parse(SMALL));
        let whole = settles(bytes, &mut fields, parse(Limits::default()));
        assert!(!matches!(small, Ok(Some(_))) || small == whole, "{}", bytes.escape_ascii());
        let Ok(Some(response)) = whole else { continue };
        is_clean(&bytes[..response.head_len], &fields);
        answer_survives_rewriting(bytes, &response, &fields, to);
        body(response.body, &bytes[response.head_len..]);
    }
}

/// Chunked bodies with their trailers.
pub(super) fn chunked(bytes: &[u8]) {
    body(Framing::Chunked, bytes);
}

// === what must hold ===

/// Parses `bytes` whole and at many cuts: nothing is decided, and then one thing for good. `fields` is left as the
/// whole fills it.
fn settles<T: PartialEq + std::fmt::Debug>(
    bytes: &[u8],
    fields: &mut Vec<FieldSpan>,
    parse: impl Fn(&[u8], &mut Vec<FieldSpan>) -> Result<Option<T>, ParseError>,
) -> Result<Option<T>, ParseError> {
    let whole = parse(bytes, fields);
    let mut is_settled = false;
    for len in (0..bytes.len()).step_by(1 + bytes.len() / 300) {
        let part = parse(&bytes[..len], fields);
        assert!(
            part == whole || part == Ok(None) && !is_settled,
            "{} cut at {len}: {part:?}, then {whole:?}",
            bytes.escape_ascii()
        );
        is_settled |= part != Ok(None);
    }
    assert_eq!(parse(bytes, fields), whole);
    whole
}

/// A head that was accepted has no line end but CRLF, and nothing in its fields could be taken for one.
fn is_clean(head: &[u8], fields: &[FieldSpan]) {
    assert!(head.ends_with(b"\r\n\r\n"), "{}", head.escape_ascii());
    for (at, byte) in head.iter().enumerate() {
        match byte {
            b'\r' => assert_eq!(head.get(at + 1), Some(&b'\n'), "{}", head.escape_ascii()),
            b'\n' => assert_eq!(head[at - 1], b'\r', "{}", head.escape_ascii()),
            b'\t' => {}
            _ => assert!(!byte.is_ascii_control(), "{}", head.escape_ascii()),
        }
    }
    for field in fields {
        assert!(is_token(field.name.of(head)) && field.value.range().end <= head.len());
        assert_eq!(field.value.of(head).trim_ascii(), field.value.of(head));
    }
}

fn forwarded<'a>(bytes: &'a [u8], fields: &[FieldSpan]) -> Pairs<'a> {
    fields.iter().filter(|f| !f.hop_by_hop).map(|f| (f.name.of(bytes), f.value.of(bytes))).collect()
}

/// Without those that a writer answers for.
fn others<'a>(bytes: &'a [u8], fields: &[FieldSpan]) -> Pairs<'a> {
    let is = |name: &[u8], other: &[u8]| name.eq_ignore_ascii_case(other);
    let mut te_lines = 0;
    let mut keep = |name: &[u8]| {
        // Once is enough to say it.
        te_lines += u32::from(is(name, b"te"));
        !(is(name, b"content-length") || is(name, b"host") || is(name, b"te") && te_lines > 1)
    };
    forwarded(bytes, fields).into_iter().filter(|(name, _)| keep(name)).collect()
}

/// What is sent on is read as the same request, and sent on from there as the same bytes.
fn survives_rewriting(bytes: &[u8], request: &Request, fields: &[FieldSpan]) {
    let out = rewrite(bytes, request, fields);
    if request.authority().is_none() {
        assert_eq!(request.version, Version::Http10);
        return;
    }
    let mut again = Vec::new();
    let second = parse_request(&out, &mut again, &Limits::default());
    let second = second.unwrap_or_else(|e| panic!("{}: {e}", out.escape_ascii())).unwrap();
    assert_eq!(second.head_len, out.len());
    assert_eq!(second.method.of(&out), request.method.of(bytes));
    assert_eq!(second.path_and_query(&out), request.path_and_query(bytes));
    assert_eq!(second.authority().unwrap().of(&out), request.authority().unwrap().of(bytes));
    assert_eq!((second.body, second.kind), (request.body, request.kind));
    assert_eq!(second.expect_continue, request.expect_continue && named(&others(bytes, fields), b"expect"));
    assert_eq!(others(&out, &again), others(bytes, fields), "{}", bytes.escape_ascii());
    assert_eq!(rewrite(&out, &second, &again), out, "{}", out.escape_ascii());
}

fn named(fields: &Pairs<'_>, wanted: &[u8]) -> bool {
    fields.iter().any(|(name, _)| name.eq_ignore_ascii_case(wanted))
}

fn rewrite(bytes: &[u8], request: &Request, fields: &[FieldSpan]) -> Vec<u8> {
    let authority = request.authority().map_or(&b""[..], |span| span.of(bytes));
    let is_connect = request.kind == RequestKind::Connect;
    let target = if is_connect { authority } else { request.path_and_query(bytes) };
    let line = RequestLine { method: request.method.of(bytes), target, authority };
    let mut out = Vec::new();
    let connection = Connection::KeepAlive;
    write_request_head(&mut out, &line, forwarded(bytes, fields), request.body, connection)
        .unwrap_or_else(|e| panic!("{}: {e}", bytes.escape_ascii()));
    out
}

fn answer_survives_rewriting(bytes: &[u8], response: &Response, fields: &[FieldSpan], to: RequestKind) {
    let out = rewrite_answer(bytes, response, fields, to);
    let mut again = Vec::new();
    let second = parse_response(&out, &mut again, &Limits::default(), to);
    let second = second.unwrap_or_else(|e| panic!("{}: {e}", out.escape_ascii())).unwrap();
    assert_eq!((second.head_len, second.status), (out.len(), response.status));
    assert_eq!(second.body, response.body, "{}", bytes.escape_ascii());
    assert_eq!(others(&out, &again), others(bytes, fields), "{}", bytes.escape_ascii());
    assert_eq!(rewrite_answer(&out, &second, &again, to), out, "{}", out.escape_ascii());
}

fn rewrite_answer(bytes: &[u8], response: &Response, fields: &[FieldSpan], to: RequestKind) -> Vec<u8> {
    let protocol = response.upgrade.map(|span| span.of(bytes));
    let connection = protocol.map_or(Connection::KeepAlive, Connection::Upgrade);
    let line = StatusLine { status: response.status, to };
    let mut out = Vec::new();
    write_response_head(&mut out, line, forwarded(bytes, fields), response.declared, connection)
        .unwrap_or_else(|e| panic!("{}: {e}", bytes.escape_ascii()));
    out
}

/// A body that was decoded to its end: the data, the trailers with what becomes of each, and where it ended.
#[derive(Debug, PartialEq)]
pub(super) struct Body {
    pub(super) data: Vec<u8>,
    pub(super) trailers: Vec<(Vec<u8>, Vec<u8>, bool)>,
    pub(super) end: usize,
}

/// Decodes in pieces of `step` bytes; `None`: it has no end yet.
pub(super) fn decode(
    framing: Framing,
    limits: &Limits,
    bytes: &[u8],
    step: usize,
) -> Result<Option<Body>, ParseError> {
    let mut decoder = BodyDecoder::new(framing, limits);
    let (mut data, mut spans) = (Vec::new(), Vec::new());
    let (mut start, mut end) = (0, 0);
    loop {
        let seen = &bytes[start..end];
        let decoded = decoder.decode(seen, &mut spans)?;
        data.extend_from_slice(&seen[decoded.data.clone()]);
        start += decoded.consumed;
        if decoded.ended {
            let trailer =
                |t: &FieldSpan| (t.name.of(seen).to_vec(), t.value.of(seen).to_vec(), !t.hop_by_hop);
            let trailers = spans.iter().map(trailer).collect();
            return Ok(Some(Body { data, trailers, end: start }));
        }
        if decoded.consumed == 0 || start == end {
            if end == bytes.len() {
                return Ok(None);
            }
            end = (end + step).min(bytes.len());
        }
    }
}

fn body(framing: Framing, bytes: &[u8]) {
    let limits = Limits::default();
    let whole = decode(framing, &limits, bytes, bytes.len().max(1));
    for step in [1, 2, 7, 1 + bytes.len() / 2] {
        let step = step.max(bytes.len() / 5000);
        assert_eq!(decode(framing, &limits, bytes, step), whole, "{} by {step}", bytes.escape_ascii());
    }
    let small = decode(framing, &SMALL, bytes, 3);
    assert!(!matches!(small, Ok(Some(_))) || small == whole, "{}", bytes.escape_ascii());
    let Ok(Some(body)) = whole else { return };
    if framing != Framing::Chunked {
        return;
    }
    let mut out = Vec::new();
    write_chunk(&mut out, &body.data);
    let wanted = body.trailers.iter().filter(|(_, _, wanted)| *wanted);
    write_last_chunk(&mut out, wanted.map(|(name, value, _)| (&name[..], &value[..]))).unwrap();
    let again = decode(framing, &limits, &out, out.len()).unwrap().unwrap();
    let kept: Vec<_> = body.trailers.iter().filter(|(_, _, wanted)| *wanted).cloned().collect();
    assert_eq!((again.data, again.trailers, again.end), (body.data, kept, out.len()));
}

// === runs ===

/// Inputs of three kinds in turn: mutations of a corpus, messages from a grammar, and noise.
fn run(corpus: &str, target: fn(&[u8]), grammar: fn(&mut Random) -> Vec<u8>) {
    let corpus = valid(corpus);
    for seed in 0..rounds(ROUNDS) {
        let mut random = Random::seeded(seed);
        let bytes = match seed % 8 {
            0 => random.message(),
            1 => random.bytes(80),
            2..5 => random.mutated(&corpus),
            _ => grammar(&mut random),
        };
        target(&bytes);
    }
}

#[test]
fn requests_hold() {
    run("http1-request", request, Random::requests);
}

#[test]
fn responses_hold() {
    run("http1-response", response, Random::response);
}

#[test]
fn chunked_bodies_hold() {
    run("http1-chunked", chunked, |random| {
        let (data, mut out) = (random.bytes(60), Vec::new());
        random.chunks(&data, &mut out);
        random.spoil(&mut out);
        out
    });
}
