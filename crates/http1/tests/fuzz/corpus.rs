//! Runs the fuzz corpora as plain tests.
//!
//! A file's name is `<outcome>.<what it is>`; the outcome is `ok`, `partial`, or the name of a [`ParseError`]. Each file
//! is parsed whole and piece by piece, and must give that outcome however its bytes arrive.

use std::{fs, path::PathBuf};

use meshwork_http1::{
    BodyDecoder, FieldSpan, Framing, Limits, ParseError, RequestKind, parse_request, parse_response,
};

use super::targets;

/// Calls `outcome` with the bytes of every file of a corpus and a piece size, and compares with the file's name.
fn check_corpus(name: &str, outcome: impl Fn(&[u8], usize) -> String) {
    let folder: PathBuf = [env!("CARGO_MANIFEST_DIR"), "..", "..", "fuzz", "corpus", name].iter().collect();
    let mut files = 0;
    for entry in fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        let file = path.file_name().unwrap().to_str().unwrap();
        let bytes = fs::read(&path).unwrap();
        // Reading a long head byte by byte takes quadratic time, and shows nothing that a short one does not.
        let smallest = 1 + bytes.len() / 1000;
        for step in [smallest, 2 * smallest, 7 * smallest, bytes.len().max(1)] {
            let expected = file.split('.').next().unwrap();
            assert_eq!(outcome(&bytes, step), expected, "{name}/{file} in pieces of {step}");
        }
        files += 1;
    }
    assert!(files > 20, "{} has {files} files", folder.display());
}

/// Parses ever longer prefixes until something is decided.
fn head_outcome<T>(
    bytes: &[u8],
    step: usize,
    parse: impl Fn(&[u8], &mut Vec<FieldSpan>) -> Result<Option<T>, ParseError>,
) -> String {
    let mut fields = Vec::new();
    let mut len = 0;
    while len < bytes.len() {
        len = (len + step).min(bytes.len());
        match parse(&bytes[..len], &mut fields) {
            Ok(None) => {}
            Ok(Some(_)) => return "ok".to_owned(),
            Err(error) => return format!("{error:?}"),
        }
    }
    "partial".to_owned()
}

fn body_outcome(bytes: &[u8], step: usize) -> String {
    let mut decoder = BodyDecoder::new(Framing::Chunked, &Limits::default());
    let (mut buffer, mut trailers) = (Vec::new(), Vec::new());
    for piece in bytes.chunks(step) {
        buffer.extend_from_slice(piece);
        loop {
            match decoder.decode(&buffer, &mut trailers) {
                Err(error) => return format!("{error:?}"),
                Ok(decoded) if decoded.ended => return "ok".to_owned(),
                Ok(decoded) if decoded.consumed == 0 => break,
                Ok(decoded) => drop(buffer.drain(..decoded.consumed)),
            }
        }
    }
    "partial".to_owned()
}

#[test]
fn request_heads_have_their_outcome() {
    let limits = Limits::default();
    check_corpus("http1-request", |bytes, step| {
        head_outcome(bytes, step, |bytes, fields| parse_request(bytes, fields, &limits))
    });
}

#[test]
fn response_heads_have_their_outcome() {
    let limits = Limits::default();
    check_corpus("http1-response", |bytes, step| {
        head_outcome(bytes, step, |bytes, fields| parse_response(bytes, fields, &limits, RequestKind::Other))
    });
}

#[test]
fn chunked_bodies_have_their_outcome() {
    check_corpus("http1-chunked", body_outcome);
}

/// Every file of every corpus, valid or not, through the target of its parser.
#[test]
fn targets_hold_for_every_file() {
    for (name, target) in [
        ("http1-request", targets::request as fn(&[u8])),
        ("http1-response", targets::response),
        ("http1-chunked", targets::chunked),
    ] {
        for bytes in super::random::all(name) {
            target(&bytes);
        }
    }
}
