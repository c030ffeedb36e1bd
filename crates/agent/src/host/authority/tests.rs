//! Frames of clients, in pieces of any size.

use super::hpack::Field;
use super::*;

fn field(name: &str, value: &str) -> Field {
    Field { name: name.as_bytes().to_vec(), value: value.as_bytes().to_vec() }
}

fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    write_frame(&mut out, kind, flags, [0, 0, 0, stream], payload);
    out
}

fn rewritten(input: &[u8], piece: usize) -> Result<Vec<u8>, Malformed> {
    let (mut rewriter, mut out) = (Rewriter::new(), Vec::new());
    for part in input.chunks(piece) {
        rewriter.push(part, &mut out)?;
    }
    Ok(out)
}

/// A call as gRPC in Python makes it, by a table of its own.
fn call() -> (Vec<u8>, Vec<u8>) {
    let path = "tmp%2Fa%2Fagent.sock";
    let block = [&[0x83, 0x41, 20][..], path.as_bytes()].concat();
    let fields = [field(":method", "POST"), field(":authority", "localhost")];
    let expected = encode(&fields);
    let input = [
        PREFACE.to_vec(),
        frame(4, 0, 0, &[0; 6]),
        frame(HEADERS, END_HEADERS, 1, &block),
        frame(0, 1, 1, b"message"),
        // Again, by the table's first entry; padded and with a priority.
        frame(
            HEADERS,
            END_HEADERS | END_STREAM | PADDED | PRIORITY,
            3,
            &[2, 0, 0, 0, 0, 0, 0x83, 0xbe, 9, 9],
        ),
    ];
    let output = [
        PREFACE.to_vec(),
        frame(4, 0, 0, &[0; 6]),
        frame(HEADERS, END_HEADERS, 1, &expected),
        frame(0, 1, 1, b"message"),
        frame(HEADERS, END_HEADERS | END_STREAM, 3, &expected),
    ];
    (input.concat(), output.concat())
}

#[test]
fn the_sockets_path_gives_way_to_localhost_and_nothing_else_changes() {
    let (input, output) = call();
    for piece in [1, 2, 3, 7, 64, 100_000] {
        assert_eq!(rewritten(&input, piece).as_deref(), Ok(output.as_slice()), "{piece}");
    }
}

#[test]
fn blocks_in_several_frames_are_joined_and_large_ones_parted() {
    let long = field("x", &"y".repeat(20_000));
    let block = encode(&[field(":authority", "a/b"), long.clone()]);
    let (first, rest) = block.split_at(10_000);
    let input = [
        PREFACE.to_vec(),
        frame(HEADERS, END_STREAM, 1, first),
        frame(CONTINUATION, 0, 1, &[]),
        frame(CONTINUATION, END_HEADERS, 1, rest),
    ];
    let expected = encode(&[field(":authority", "localhost"), long]);
    let output = [
        PREFACE.to_vec(),
        frame(HEADERS, END_STREAM, 1, &expected[..MAX_FRAME]),
        frame(CONTINUATION, END_HEADERS, 1, &expected[MAX_FRAME..]),
    ];
    assert_eq!(rewritten(&input.concat(), 4096), Ok(output.concat()));
}

#[test]
fn what_is_no_http2_passes() {
    for other in ["GET /status HTTP/1.1\r\nhost: agent\r\n\r\n", "PRI * HTTP/1.1\r\n", "P", ""] {
        assert_eq!(rewritten(other.as_bytes(), 3).as_deref(), Ok(other.as_bytes()), "{other}");
    }
}

#[test]
fn what_breaks_the_rules_ends_the_connection() {
    let check = |frames: &[Vec<u8>]| {
        let input = [PREFACE.to_vec(), frames.concat()].concat();
        assert!(rewritten(&input, 1000).is_err(), "{frames:?}");
    };
    check(&[frame(CONTINUATION, END_HEADERS, 1, &[0x83])]);
    check(&[frame(HEADERS, 0, 1, &[0x83]), frame(0, 0, 1, b"data")]);
    check(&[frame(HEADERS, 0, 1, &[0x83]), frame(HEADERS, END_HEADERS, 3, &[0x83])]);
    check(&[frame(HEADERS, 0, 1, &[0x83]), frame(CONTINUATION, END_HEADERS, 3, &[0x83])]);
    check(&[frame(HEADERS, END_HEADERS | PADDED, 1, &[])]);
    check(&[frame(HEADERS, END_HEADERS | PADDED, 1, &[9, 0x83])]);
    check(&[frame(HEADERS, END_HEADERS | PRIORITY, 1, &[0, 0, 0])]);
    check(&[frame(HEADERS, END_HEADERS, 1, &[0xff])]);
    check(&[frame(HEADERS, END_HEADERS, 1, &vec![0x83; MAX_FRAME + 1])]);
    let mut endless = vec![frame(HEADERS, 0, 1, &[])];
    endless.extend((0..8).map(|_| frame(CONTINUATION, 0, 1, &vec![0; MAX_FRAME])));
    check(&endless);
}

#[test]
fn any_bytes_pass_or_end_the_connection() {
    let mut random = fastrand::Rng::with_seed(11);
    let (good, _) = call();
    for _ in 0..5_000 {
        let mut input = good.clone();
        for _ in 0..random.usize(1..6) {
            let at = random.usize(PREFACE.len()..input.len());
            input[at] = random.u8(..);
        }
        // Whatever comes of it: no panic.
        drop(rewritten(&input, random.usize(1..50)));
    }
}
