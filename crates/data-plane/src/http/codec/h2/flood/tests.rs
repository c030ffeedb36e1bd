use std::task::Waker;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::advance;

use super::*;

const PRIORITY: u8 = 0x2;
const SETTINGS: u8 = 0x4;
const GOAWAY: u8 = 0x7;
const WINDOW_UPDATE: u8 = 0x8;
const CONTINUATION: u8 = 0x9;
const UNKNOWN: u8 = 0xfa;

fn head(kind: u8, flags: u8, length: u8) -> [u8; HEAD] {
    [0, 0, length, kind, flags, 0, 0, 0, 1]
}

fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
    let length = u8::try_from(payload.len()).expect("short");
    [&head(kind, flags, length), payload].concat()
}

/// How many of these are taken before they are a flood, and of what.
fn taken(heads: impl IntoIterator<Item = [u8; HEAD]>) -> (u32, Option<Flood>) {
    let (mut allowance, tally, mut count) = (Allowance::new(), Tally::default(), 0);
    for head in heads {
        if let Err(flood) = allowance.take(&head, &tally) {
            return (count, Some(flood));
        }
        count += 1;
    }
    (count, None)
}

#[test]
fn frames_are_found_wherever_the_bytes_are_cut() {
    let frames = [
        frame(SETTINGS, 0, &[]),
        frame(HEADERS, 0x4, b"\x82\x86\x84"),
        frame(DATA, 0, &[7; 100]),
        frame(PING, 0, b"12345678"),
        frame(WINDOW_UPDATE, 0, &[0, 0, 1, 0]),
    ];
    let bytes = [&[b'P'; PREFACE][..], &frames.concat()].concat();
    for piece in 1..=bytes.len() {
        let (mut seen, mut walk) = (Vec::new(), Frames { skip: PREFACE, ..Frames::default() });
        for piece in bytes.chunks(piece) {
            let look = walk.look(piece, |head| {
                seen.push(head[3]);
                Ok(())
            });
            assert_eq!(look, Ok(()));
        }
        assert_eq!(seen, [SETTINGS, HEADERS, DATA, PING, WINDOW_UPDATE], "in pieces of {piece}");
        assert_eq!((walk.skip, walk.begun), (0, 0));
    }
}

#[test]
fn a_frame_may_be_as_long_as_its_head_can_say() {
    let mut walk = Frames::default();
    walk.look(&[0xff, 0xff, 0xff, DATA, 0, 0, 0, 0, 1], |_| Ok(())).expect("no flood");
    assert_eq!(walk.skip, (1 << 24) - 1);
}

#[tokio::test(start_paused = true)]
async fn frames_of_each_kind_that_ask_for_nothing_are_a_flood() {
    let check = |kind: u8, flags: u8, length: u8, expected: (u32, Flood)| {
        let (count, flood) = taken(std::iter::repeat_n(head(kind, flags, length), 1_000_000));
        assert_eq!((count, flood), (expected.0, Some(expected.1)), "kind {kind}, flags {flags}");
    };
    let control = (H2_CONTROL_FRAMES, Flood::Control);
    check(PING, 0, 8, control);
    check(SETTINGS, 0, 0, control);
    check(SETTINGS, ACK, 0, control);
    check(PRIORITY, 0, 5, control);
    check(WINDOW_UPDATE, 0, 4, control);
    check(GOAWAY, 0, 8, control);
    check(CONTINUATION, 0, 10, control);
    check(UNKNOWN, 0, 0, control);
    check(DATA, 0, 0, control);
    check(PING, ACK, 8, (H2_CONTROL_FRAMES / H2_UNASKED_ANSWER, Flood::Control));
    check(RST_STREAM, 0, 4, (H2_RESETS, Flood::Resets));
}

#[tokio::test(start_paused = true)]
async fn who_is_busy_is_never_cut_off() {
    let per_message = usize::try_from(H2_CONTROL_FRAMES_PER_MESSAGE).expect("small");
    for message in [head(HEADERS, 0x4, 9), head(DATA, 0, 1), head(DATA, END_STREAM, 0)] {
        let around = std::iter::repeat_n(head(WINDOW_UPDATE, 0, 4), per_message);
        let all = std::iter::once(message).chain(around);
        let (_, flood) = taken(std::iter::repeat_n(all, 10_000).flatten());
        assert_eq!(flood, None);
    }
    // The same for what we sent.
    let (mut allowance, tally) = (Allowance::new(), Tally::default());
    for _ in 0..10_000 {
        tally.sent_frames(1);
        for _ in 0..per_message {
            allowance.take(&head(WINDOW_UPDATE, 0, 4), &tally).expect("no flood");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn who_gives_up_what_was_answered_is_never_cut_off() {
    let (mut allowance, tally) = (Allowance::new(), Tally::default());
    for _ in 0..10 * H2_RESETS {
        tally.sent_head();
        allowance.take(&head(RST_STREAM, 0, 4), &tally).expect("no flood");
    }
    let unanswered =
        (0..10 * H2_RESETS).take_while(|_| allowance.take(&head(RST_STREAM, 0, 4), &tally).is_ok());
    assert_eq!(unanswered.count(), usize::try_from(H2_RESETS).expect("small"));
}

#[tokio::test(start_paused = true)]
async fn more_is_allowed_as_time_passes() {
    let (mut allowance, tally) = (Allowance::new(), Tally::default());
    for (kind, fresh, window) in
        [(PING, H2_CONTROL_FRAMES, H2_CONTROL_WINDOW), (RST_STREAM, H2_RESETS, H2_RESET_WINDOW)]
    {
        for _ in 0..3 {
            for _ in 0..fresh {
                allowance.take(&head(kind, 0, 8), &tally).expect("no flood");
            }
            advance(window).await;
        }
        for _ in 0..fresh {
            allowance.take(&head(kind, 0, 8), &tally).expect("no flood");
        }
        advance(window.saturating_sub(Duration::from_millis(1))).await;
        assert!(allowance.take(&head(kind, 0, 8), &tally).is_err());
    }
}

#[tokio::test(start_paused = true)]
async fn not_all_that_was_earned_can_be_saved_up() {
    let (mut allowance, tally) = (Allowance::new(), Tally::default());
    for _ in 0..H2_CONTROL_FRAMES_MOST {
        allowance.take(&head(HEADERS, 0x4, 9), &tally).expect("no flood");
        tally.sent_frames(1);
    }
    let pings = (0..u32::MAX).take_while(|_| allowance.take(&head(PING, 0, 8), &tally).is_ok());
    // Once of what came, once of what was sent.
    assert_eq!(pings.count(), 2 * usize::try_from(H2_CONTROL_FRAMES_MOST).expect("small"));
}

#[tokio::test(start_paused = true)]
async fn a_server_that_floods_is_read_no_further() {
    let (transport, mut peer) = tokio::io::duplex(1 << 20);
    let tally = Rc::<Tally>::default();
    let mut guarded = Guarded::of_server(transport, &tally);
    let allowed = usize::try_from(H2_CONTROL_FRAMES).expect("small");
    let ping = frame(PING, 0, b"12345678");
    peer.write_all(&ping.repeat(allowed)).await.expect("room");
    let mut bytes = vec![0; ping.len() * allowed];
    guarded.read_exact(&mut bytes).await.expect("no flood yet");
    assert_eq!(bytes, ping.repeat(allowed));
    peer.write_all(&ping).await.expect("room");
    for _ in 0..2 {
        let error = guarded.read(&mut bytes).await.expect_err("a flood").to_string();
        assert!(error.starts_with(WORDS) && error.contains("PING"), "{error}");
    }
    assert_eq!(tally.flood(), Some(Flood::Control));
}

#[tokio::test(start_paused = true)]
async fn a_client_that_floods_is_told_of_by_the_tally() {
    let (transport, mut peer) = tokio::io::duplex(1 << 20);
    let tally = Rc::<Tally>::default();
    let mut guarded = Guarded::of_client(transport, &tally);
    let resets = usize::try_from(H2_RESETS).expect("small") + 1;
    let bytes = [vec![0; PREFACE], frame(RST_STREAM, 0, &[0, 0, 0, 8]).repeat(resets)].concat();
    peer.write_all(&bytes).await.expect("room");
    let mut room = vec![0; bytes.len()];
    let (mut cx, mut room) = (Context::from_waker(Waker::noop()), ReadBuf::new(&mut room));
    assert!(Pin::new(&mut guarded).poll_read(&mut cx, &mut room).is_pending());
    assert_eq!(tally.flood(), Some(Flood::Resets));
}
