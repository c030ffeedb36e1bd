use super::*;

/// What a decoder made of its input: the data, the trailers as `name=value` (`-name=value` where they are not
/// forwarded), and what was left over.
type Outcome = Result<(Vec<u8>, Vec<String>, Vec<u8>), ParseError>;

/// Feeds `input` in pieces of `step` bytes, as a caller with a buffer does; an input that stops short is closed.
fn run(framing: Framing, limits: &Limits, input: &[u8], step: usize) -> Outcome {
    let mut decoder = BodyDecoder::new(framing, limits);
    let (mut buffer, mut data, mut trailers) = (Vec::new(), Vec::new(), Vec::new());
    let mut pieces = input.chunks(step);
    loop {
        let decoded = decoder.decode(&buffer, &mut trailers)?;
        assert!(decoded.data.end <= decoded.consumed && decoded.consumed <= buffer.len());
        assert_eq!(decoded.ended, decoder.is_ended());
        data.extend_from_slice(&buffer[decoded.data.clone()]);
        if decoded.ended {
            let lines = trailers.iter().map(|t| {
                let text = |span: crate::Span| String::from_utf8_lossy(span.of(&buffer)).into_owned();
                let sign = if t.hop_by_hop { "-" } else { "" };
                format!("{sign}{}={}", text(t.name), text(t.value))
            });
            let lines = lines.collect();
            buffer.drain(..decoded.consumed);
            buffer.extend(pieces.flatten());
            return Ok((data, lines, buffer));
        }
        buffer.drain(..decoded.consumed);
        if decoded.consumed == 0 || buffer.is_empty() {
            let Some(piece) = pieces.next() else {
                decoder.close()?;
                return Ok((data, Vec::new(), buffer));
            };
            buffer.extend_from_slice(piece);
        }
    }
}

fn check_with(
    limits: &Limits,
    framing: Framing,
    input: &str,
    expected: Result<(&str, &[&str], &str), ParseError>,
) {
    let expected = expected.map(|(data, trailers, rest)| {
        (
            data.as_bytes().to_vec(),
            trailers.iter().map(ToString::to_string).collect(),
            rest.as_bytes().to_vec(),
        )
    });
    for step in [1, 2, 3, 5, 7, 16, input.len().max(1)] {
        assert_eq!(run(framing, limits, input.as_bytes(), step), expected, "{input:?} by {step}");
    }
}

fn check(framing: Framing, input: &str, expected: Result<(&str, &[&str], &str), ParseError>) {
    check_with(&Limits::default(), framing, input, expected);
}

fn check_refused(inputs: &[&str], error: ParseError) {
    for input in inputs {
        check(Framing::Chunked, input, Err(error));
    }
}

#[test]
fn lengths_are_counted() {
    check(Framing::None, "next", Ok(("", &[], "next")));
    check(Framing::Length(0), "next", Ok(("", &[], "next")));
    check(Framing::Length(3), "abcnext", Ok(("abc", &[], "next")));
    check(Framing::Length(8), "abc", Err(ParseError::Truncated));
    check(Framing::UntilClose, "abc", Ok(("abc", &[], "")));
    check(Framing::UntilClose, "", Ok(("", &[], "")));
}

#[test]
fn chunks_are_taken_apart() {
    check(Framing::Chunked, "0\r\n\r\nnext", Ok(("", &[], "next")));
    check(Framing::Chunked, "3\r\nabc\r\n0\r\n\r\n", Ok(("abc", &[], "")));
    check(Framing::Chunked, "1\r\na\r\nA\r\n0123456789\r\n000\r\n\r\nGET", Ok(("a0123456789", &[], "GET")));
    check(Framing::Chunked, "000000000000000a\r\n0123456789\r\n0\r\n\r\n", Ok(("0123456789", &[], "")));
    check(Framing::Chunked, "2\r\n\r\n\r\n0\r\n\r\n", Ok(("\r\n", &[], "")));
    check(Framing::Chunked, "1;a\r\nx\r\n0;b=\"c d\";\te\r\n\r\n", Ok(("x", &[], "")));
}

#[test]
fn trailers_are_parsed_whole() {
    check(Framing::Chunked, "0\r\nA: b\r\nc:\td \r\n\r\nnext", Ok(("", &["A=b", "c=d"], "next")));
    check(Framing::Chunked, "1\r\nx\r\n0\r\nX-Trailer: 1\r\n\r\n", Ok(("x", &["X-Trailer=1"], "")));
    check(
        Framing::Chunked,
        "0\r\nAuthorization: a\r\nt: 1\r\nSET-COOKIE: b\r\nContent-Type: c\r\nTrailer: d\r\n\r\n",
        Ok(("", &["-Authorization=a", "t=1", "-SET-COOKIE=b", "-Content-Type=c", "-Trailer=d"], "")),
    );
    check_refused(
        &[
            "0\r\nContent-Length: 5\r\n\r\n",
            "0\r\ntransfer-encoding: chunked\r\n\r\n",
            "0\r\nHost: a\r\n\r\n",
            "0\r\nConnection: close\r\n\r\n",
            "0\r\nUpgrade: a\r\n\r\n",
            "0\r\nTE: trailers\r\n\r\n",
            "0\r\nok: 1\r\nhttp2-settings: x\r\n\r\n",
            "0\r\nProxy-Authorization: x\r\n\r\n",
            "0\r\nExpect: 100-continue\r\n\r\n",
            "0\r\nKeep-Alive: 1\r\n",
        ],
        ParseError::ForbiddenTrailer,
    );
    check_refused(&["0\r\n a: b\r\n"], ParseError::SpaceBeforeFirstField);
    check_refused(&["0\r\na: b\r\n c\r\n"], ParseError::FoldedField);
    check_refused(&["0\r\na : b\r\n"], ParseError::SpaceBeforeColon);
    check_refused(&["0\r\na\r\n"], ParseError::MissingColon);
    check_refused(&["0\r\na: \0\r\n"], ParseError::BadFieldValue);
    check_refused(&["0\r\nGET / HTTP/1.1\r\n"], ParseError::SpaceBeforeColon);
}

/// Chunked bodies, each with the rule that it breaks.
const BROKEN_CHUNKS: &[(ParseError, &[&str])] = &[
    (
        ParseError::BadChunkSize,
        &[
            "\r\n",
            ";a\r\n",
            "x",
            "-1",
            "+1",
            "0x1\r\n",
            " 1",
            "1 \r\n",
            "1\t;a",
            "g",
            "1,",
            "1_0",
            "\0",
            "1\0",
            "\u{e9}",
            "1\r\na\r\n\r\n",
            "1\r\na\r\n;",
            "\u{ff11}",
            "\x0b1",
            "1\x0b\r\n",
            "1\x0c;a",
            "\u{a0}1",
            "1 ;a\r\n",
            "\"1\"",
            "1h",
            "1\u{b2}",
            "0x0\r\n",
            "-0\r\n",
            "1\r\na\r\n 0\r\n",
            "1\r\na\r\n\t0\r\n",
            "1\r\na\r\nGET / HTTP/1.1\r\n",
        ],
    ),
    (
        ParseError::BareLf,
        &[
            "1\n",
            "\n",
            "1;a\n",
            "1\r\na\n",
            "0\r\n\n",
            "0\r\na: b\n",
            "1;\"\n\"\r\n",
            "1\r\na\r\n\n",
            // "TERM.EXT" and "EXT.TERM": the line's end hidden in, or behind, an extension.
            "2;\nxx\r\n4c\r\n0\r\n\r\n",
            "2;a\nb\r\nxx\r\n0\r\n\r\n",
            "2\n;\r\nxx\r\n0\r\n\r\n",
            "0;\n\r\n",
            "0\nGET / HTTP/1.1",
            "0\r\na: b\n\r\n",
            "0\r\na\n: b\r\n",
            "0\r\na: \nb\r\n",
        ],
    ),
    (
        ParseError::BareCr,
        &[
            "1\rx",
            "1;a\rx",
            "1\r\na\rx",
            "0\r\n\rx",
            "0\r\r\n",
            "1;a\r\r\n",
            "0\r\na: b\rc\r\n",
            "2;\rxx\r\n",
            "2\r;\nxx\r\n",
            "2;a\r\0\nxx\r\n",
            "0\r\n\r\r\n",
            "0\r\na\r: b\r\n",
        ],
    ),
    (
        ParseError::BadChunkEnd,
        &["1\r\nab", "1\r\na0\r\n", "1\r\na\0", "3\r\nabcd\r\n", "1\r\na \r\n", "1\r\naGET", "1\r\na;\r\n"],
    ),
    (
        ParseError::ChunkTooLarge,
        &[
            "8000000000000000\r\n",
            "ffffffffffffffff\r\n",
            "10000000000000000",
            "00000000000000000",
            "ffffffffffffffff0",
            "fffffffffffffffff1",
        ],
    ),
    (ParseError::BadChunkExtension, &["1;\0", "1;a=\x01", "1;\x7f", "1;\x0b"]),
    (
        ParseError::Truncated,
        &[
            "",
            "1",
            "1\r",
            "1\r\n",
            "1\r\na",
            "1\r\na\r",
            "1\r\na\r\n",
            "0\r\n",
            "0\r\n\r",
            "0\r\na: b\r\n",
            "5\r\nabc",
        ],
    ),
];

#[test]
fn broken_chunk_grammar_is_refused() {
    for (error, inputs) in BROKEN_CHUNKS {
        check_refused(inputs, *error);
    }
    check(Framing::Chunked, "7fffffffffffffff\r\nab", Err(ParseError::Truncated));
}

#[test]
fn extensions_and_trailers_are_limited() {
    let limits = Limits { chunk_extension_bytes: 4, trailer_bytes: 10, fields: 2, ..Limits::default() };
    let check = |input: &str, expected| check_with(&limits, Framing::Chunked, input, expected);
    check("0;abc\r\n\r\n", Ok(("", &[], "")));
    check("0;abcd\r\n\r\n", Err(ParseError::ChunkExtensionsTooLong));
    // All chunks of a body together.
    check("1;a\r\nx\r\n1;b\r\ny\r\n0\r\n\r\n", Ok(("xy", &[], "")));
    check("1;a\r\nx\r\n1;b\r\ny\r\n0;\r\n\r\n", Err(ParseError::ChunkExtensionsTooLong));
    check("0\r\na: 4567\r\n\r\n", Err(ParseError::TrailersTooLong));
    check("0\r\na: 456\r\n\r\n", Ok(("", &["a=456"], "")));
    check("0\r\na:1\r\nb:2\r\n", Err(ParseError::TrailersTooLong));
    let limits = Limits { fields: 2, ..Limits::default() };
    check_with(&limits, Framing::Chunked, "0\r\na:1\r\nb:2\r\n\r\n", Ok(("", &["a=1", "b=2"], "")));
    check_with(&limits, Framing::Chunked, "0\r\na:1\r\nb:2\r\nc:3\r\n\r\n", Err(ParseError::TooManyFields));
}

#[test]
fn one_call_takes_a_whole_small_body() {
    let mut trailers = Vec::new();
    let bytes = b"3\r\nabc\r\n0\r\n\r\nnext";
    let decoded =
        BodyDecoder::new(Framing::Chunked, &Limits::default()).decode(bytes, &mut trailers).unwrap();
    assert_eq!(decoded, Decoded { consumed: 13, data: 3..6, ended: true });
}

#[test]
fn what_is_still_to_come_is_known_after_a_length() {
    let remaining = |framing| BodyDecoder::new(framing, &Limits::default()).remaining();
    assert_eq!(remaining(Framing::None), Some(0));
    assert_eq!(remaining(Framing::Length(7)), Some(7));
    assert_eq!(remaining(Framing::Chunked), None);
    assert_eq!(remaining(Framing::UntilClose), None);
    let mut decoder = BodyDecoder::new(Framing::Length(7), &Limits::default());
    decoder.decode(b"abc", &mut Vec::new()).unwrap();
    assert_eq!(decoder.remaining(), Some(4));
}
