//! What holds for any bytes: nothing panics, nothing depends on how bytes arrive, and what is written is read back as
//! the same message.

use std::iter;

use meshwork_http1::{
    BodyDecoder, Connection, FieldSpan, Framing, Limits, ParseError, Request, RequestKind, RequestLine, Span,
    StatusLine, Target, is_hop_by_hop, parse_request, parse_response, write_chunk, write_last_chunk,
    write_request_head, write_response_head,
};

use super::random::{ROUNDS, Random, rounds, valid};

/// What a parser decides at every prefix: nothing, nothing, …, then one thing for good.
fn assert_prefix_stable<T: PartialEq + std::fmt::Debug>(
    bytes: &[u8],
    seed: u64,
    parse: impl Fn(&[u8], &mut Vec<FieldSpan>) -> Result<Option<T>, ParseError>,
) {
    let mut fields = Vec::new();
    let whole = parse(bytes, &mut fields);
    let mut settled = false;
    for len in 0..=bytes.len() {
        let part = parse(&bytes[..len], &mut fields);
        assert!(
            part == whole || part == Ok(None) && !settled,
            "seed {seed}, cut at {len}: {part:?}, then {whole:?}"
        );
        settled |= part != Ok(None);
    }
}

/// Decodes `input` in random pieces: data, trailers, and the rest; or the error.
#[expect(clippy::type_complexity, reason = "one result, looked at by two tests only")]
fn decode(
    framing: Framing,
    input: &[u8],
    random: &mut Random,
) -> Result<(Vec<u8>, Vec<(Vec<u8>, Vec<u8>)>, Vec<u8>), ParseError> {
    let mut decoder = BodyDecoder::new(framing, &Limits::default());
    let (mut data, mut trailers) = (Vec::new(), Vec::new());
    let (mut start, mut end) = (0, 0);
    loop {
        let decoded = decoder.decode(&input[start..end], &mut trailers)?;
        let seen = &input[start..end];
        data.extend_from_slice(&seen[decoded.data.clone()]);
        if decoded.ended {
            let lines =
                trailers.iter().map(|t| (t.name.of(seen).to_vec(), t.value.of(seen).to_vec())).collect();
            return Ok((data, lines, input[start + decoded.consumed..].to_vec()));
        }
        start += decoded.consumed;
        if decoded.consumed == 0 || start == end {
            if end == input.len() {
                decoder.close()?;
                return Ok((data, Vec::new(), Vec::new()));
            }
            end = (end + 1 + random.below(40)).min(input.len());
        }
    }
}

#[test]
fn any_bytes_are_parsed_the_same_however_they_arrive() {
    let limits = Limits { head_bytes: 120, start_line_bytes: 40, fields: 6, ..Limits::default() };
    for seed in 0..rounds(ROUNDS) {
        let mut random = Random::seeded(seed);
        let bytes = if seed % 4 == 0 { random.bytes(60) } else { random.message() };
        for limits in [limits, Limits::default()] {
            assert_prefix_stable(&bytes, seed, |bytes, fields| parse_request(bytes, fields, &limits));
            for to in [RequestKind::Head, RequestKind::Connect, RequestKind::Other] {
                assert_prefix_stable(&bytes, seed, |bytes, fields| {
                    parse_response(bytes, fields, &limits, to)
                });
            }
        }
    }
}

#[test]
fn any_bytes_are_decoded_the_same_however_they_arrive() {
    for seed in 0..rounds(ROUNDS) {
        let mut random = Random::seeded(seed);
        let bytes = if seed % 4 == 0 { random.bytes(60) } else { random.message() };
        let first = decode(Framing::Chunked, &bytes, &mut random);
        let second = decode(Framing::Chunked, &bytes, &mut random);
        assert_eq!(first, second, "seed {seed}");
    }
}

#[test]
fn bodies_survive_being_written_and_decoded() {
    for seed in 0..rounds(ROUNDS) / 10 {
        let mut random = Random::seeded(seed);
        let (mut wire, mut body) = (Vec::new(), Vec::new());
        for _ in 0..random.below(8) {
            let data = random.bytes(300);
            write_chunk(&mut wire, &data);
            body.extend(data);
        }
        let trailers: Vec<_> =
            (0..random.below(3)).map(|n| (format!("t-{n}").into_bytes(), b"v".to_vec())).collect();
        write_last_chunk(&mut wire, trailers.iter().map(|(n, v)| (&n[..], &v[..]))).unwrap();
        wire.extend_from_slice(b"next");
        let decoded = decode(Framing::Chunked, &wire, &mut random);
        assert_eq!(decoded, Ok((body.clone(), trailers, b"next".to_vec())), "seed {seed}");

        let length = Framing::Length(body.len() as u64);
        let plain: Vec<u8> = body.iter().chain(b"next").copied().collect();
        let decoded = decode(length, &plain, &mut random);
        assert_eq!(decoded, Ok((body, Vec::new(), b"next".to_vec())), "seed {seed}");
    }
}

/// Fields as a writer may be given them, and as a reader must then find them among its own.
fn random_fields(random: &mut Random) -> Vec<(Vec<u8>, Vec<u8>)> {
    iter::repeat_with(|| (random.name(), random.text(12, b"abcXYZ019-_.:, \t\xe9"))).take(5).collect()
}

fn forwarded(fields: &[(Vec<u8>, Vec<u8>)]) -> Vec<(&[u8], &[u8])> {
    let lines = fields.iter().map(|(name, value)| (&name[..], value.trim_ascii()));
    lines.filter(|(name, _)| !is_hop_by_hop(name) && !is_own(name)).collect()
}

fn found<'a>(bytes: &'a [u8], fields: &[FieldSpan]) -> Vec<(&'a [u8], &'a [u8])> {
    let lines = fields.iter().filter(|f| !f.hop_by_hop).map(|f| (f.name.of(bytes), f.value.of(bytes)));
    lines.filter(|(name, _)| !is_own(name)).collect()
}

fn is_own(name: &[u8]) -> bool {
    name.eq_ignore_ascii_case(b"host") || name.eq_ignore_ascii_case(b"content-length")
}

#[test]
fn requests_are_refused_or_read_back_as_they_were_meant() {
    let mut written = 0;
    for seed in 0..rounds(ROUNDS) {
        let mut random = Random::seeded(seed);
        let fields = random_fields(&mut random);
        let (method, mut target) = (random.text(4, b"GETgetX-"), random.text(8, b"/aB?=&%20;@"));
        target.insert(0, b'/');
        let framing = [Framing::None, Framing::Length(seed), Framing::Chunked][random.below(3)];
        let line = RequestLine { method: &method, target: &target, authority: b"a" };
        let mut out = Vec::new();
        let pairs = fields.iter().map(|(n, v)| (&n[..], &v[..]));
        if write_request_head(&mut out, &line, pairs, framing, Connection::KeepAlive).is_err() {
            assert!(out.is_empty(), "seed {seed}");
            continue;
        }
        written += 1;
        let head_len = out.len();
        out.extend_from_slice(b"body");
        let mut spans = Vec::new();
        let request = parse_request(&out, &mut spans, &Limits::default()).unwrap().unwrap();
        assert_eq!(request.head_len, head_len, "seed {seed}");
        assert_eq!(request.method.of(&out), method, "seed {seed}");
        assert_eq!(request.path_and_query(&out), target, "seed {seed}");
        assert_eq!((request.body, request.keep_alive), (framing, true), "seed {seed}");
        assert_eq!(found(&out, &spans), forwarded(&fields), "seed {seed}");
    }
    assert!(written > 500, "only {written} requests could be written");
}

#[test]
fn responses_are_refused_or_read_back_as_they_were_meant() {
    let mut written = 0;
    for seed in 0..rounds(ROUNDS) {
        let mut random = Random::seeded(seed);
        let fields = random_fields(&mut random);
        let status = u16::try_from(200 + random.below(400)).unwrap();
        let to = [RequestKind::Head, RequestKind::Other][random.below(2)];
        let framing = [Framing::Length(seed), Framing::Chunked, Framing::UntilClose][random.below(3)];
        let mut out = Vec::new();
        let pairs = fields.iter().map(|(n, v)| (&n[..], &v[..]));
        let line = StatusLine { status, to };
        if write_response_head(&mut out, line, pairs, framing, Connection::KeepAlive).is_err() {
            assert!(out.is_empty(), "seed {seed}");
            continue;
        }
        written += 1;
        let mut spans = Vec::new();
        let response = parse_response(&out, &mut spans, &Limits::default(), to).unwrap().unwrap();
        let has_body = to == RequestKind::Other && !matches!(status, 204 | 304);
        assert_eq!(response.status, status, "seed {seed}");
        assert_eq!(response.body, if has_body { framing } else { Framing::None }, "seed {seed}");
        assert_eq!(found(&out, &spans), forwarded(&fields), "seed {seed}");
    }
    assert!(written > 500, "only {written} responses could be written");
}

fn lines<'a>(bytes: &'a [u8], fields: &[FieldSpan]) -> Vec<(&'a [u8], &'a [u8])> {
    fields.iter().map(|f| (f.name.of(bytes), f.value.of(bytes))).collect()
}

fn their_lines<'a>(headers: &[httparse::Header<'a>]) -> Vec<(&'a [u8], &'a [u8])> {
    headers.iter().map(|header| (header.name.as_bytes(), header.value)).collect()
}

/// The request target put together again.
fn target(request: &Request, bytes: &[u8]) -> String {
    let text = |span: Span| str::from_utf8(span.of(bytes)).unwrap();
    match request.target {
        Target::Origin(whole) | Target::Authority(whole) => text(whole).to_owned(),
        Target::Absolute { https, authority, path } => {
            format!("{}://{}{}", if https { "https" } else { "http" }, text(authority), text(path))
        }
        Target::Asterisk => "*".to_owned(),
    }
}

#[test]
fn accepted_requests_are_read_the_same_by_another_parser() {
    let (corpus, mut fields, mut accepted) = (valid("http1-request"), Vec::new(), 0);
    for seed in 0..rounds(10 * ROUNDS) {
        let bytes = Random::seeded(seed).mutated(&corpus);
        let ours = parse_request(&bytes, &mut fields, &Limits::default());
        if seed % 10 == 0 {
            assert_prefix_stable(&bytes, seed, |bytes, fields| {
                parse_request(bytes, fields, &Limits::default())
            });
        }
        let Ok(Some(ours)) = ours else { continue };
        accepted += 1;
        let mut headers = [httparse::EMPTY_HEADER; 100];
        let mut theirs = httparse::Request::new(&mut headers);
        let parsed = theirs.parse(&bytes);
        assert_eq!(parsed, Ok(httparse::Status::Complete(ours.head_len)), "seed {seed}");
        assert_eq!(theirs.method.unwrap().as_bytes(), ours.method.of(&bytes), "seed {seed}");
        assert!(theirs.path.unwrap().eq_ignore_ascii_case(&target(&ours, &bytes)), "seed {seed}");
        assert_eq!(lines(&bytes, &fields), their_lines(theirs.headers), "seed {seed}");
    }
    assert!(accepted > 500, "only {accepted} requests were accepted");
}

#[test]
fn accepted_responses_are_read_the_same_by_another_parser() {
    let (corpus, mut fields, mut accepted) = (valid("http1-response"), Vec::new(), 0);
    for seed in 0..rounds(10 * ROUNDS) {
        let bytes = Random::seeded(seed).mutated(&corpus);
        let Ok(Some(ours)) = parse_response(&bytes, &mut fields, &Limits::default(), RequestKind::Other)
        else {
            continue;
        };
        accepted += 1;
        let mut headers = [httparse::EMPTY_HEADER; 100];
        let mut theirs = httparse::Response::new(&mut headers);
        let parsed = theirs.parse(&bytes);
        assert_eq!(parsed, Ok(httparse::Status::Complete(ours.head_len)), "seed {seed}");
        assert_eq!(theirs.code, Some(ours.status), "seed {seed}");
        assert_eq!(lines(&bytes, &fields), their_lines(theirs.headers), "seed {seed}");
    }
    assert!(accepted > 500, "only {accepted} responses were accepted");
}

#[test]
fn mutated_chunks_are_decoded_the_same_however_they_arrive() {
    let corpus = valid("http1-chunked");
    for seed in 0..rounds(10 * ROUNDS) {
        let mut random = Random::seeded(seed);
        let bytes = random.mutated(&corpus);
        let first = decode(Framing::Chunked, &bytes, &mut random);
        let second = decode(Framing::Chunked, &bytes, &mut random);
        assert_eq!(first, second, "seed {seed}");
    }
}
