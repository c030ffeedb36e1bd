//! Bodies that filters need whole, or the beginning of.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::task::Poll;

use bytes::{BufMut as _, Bytes, BytesMut};
use meshwork_model::head::{Fields, RequestHead, ResponseHead};
use meshwork_model::reason::Reason;
use tokio::time::timeout;

use super::{LocalReply, Scene};
use crate::error::{Kind, ProxyError};
use crate::http::body::{Frame, Length};
use crate::http::codec::Side as _;
use crate::limits::PROGRESS_WINDOW;

/// Waits for the whole body, so that it is forwarded with its length.
pub(super) async fn hold(
    scene: &mut Scene<'_, '_>,
    head: &mut RequestHead,
    most: usize,
) -> Result<(), ProxyError> {
    let part = read(scene, head, most, false).await?;
    if part.is_whole {
        scene.length = Length::Known(part.received as u64);
    }
    Ok(())
}

/// What was read of a body.
pub(super) struct Part {
    /// Its first bytes, as many as were asked for.
    pub(super) bytes: Bytes,
    /// How many have come.
    pub(super) received: usize,
    /// Whether nothing follows, trailers either.
    is_whole: bool,
}

/// Reads a body of `most` bytes, and gives it; it is forwarded all the same. A longer one is refused, or read as far as
/// that where `is_part_enough`.
pub(super) async fn read(
    scene: &mut Scene<'_, '_>,
    head: &mut RequestHead,
    most: usize,
    is_part_enough: bool,
) -> Result<Part, ProxyError> {
    if scene.length.is_empty() {
        return Ok(Part { bytes: Bytes::new(), received: 0, is_whole: false });
    }
    go_on(scene, head)?;
    let mut frames = VecDeque::new();
    let mut whole = BytesMut::new();
    let (mut is_ended, mut has_trailers) = (false, false);
    while !is_ended {
        if is_part_enough && whole.len() >= most {
            break;
        }
        match next(scene).await? {
            None => is_ended = true,
            Some(frame) => {
                match &frame {
                    Frame::Data(data) => whole.put_slice(data),
                    Frame::Trailers(_) => has_trailers = true,
                }
                frames.push_back(frame);
            }
        }
        if whole.len() > most && !is_part_enough {
            return Err(LocalReply::new(Reason::BodyTooLarge, 413).into());
        }
    }
    scene.downstream.put_back(frames);
    let received = whole.len();
    whole.truncate(most);
    Ok(Part { bytes: whole.freeze(), received, is_whole: is_ended && !has_trailers })
}

/// Tells a client that waits to be told that its body is wanted.
fn go_on(scene: &mut Scene<'_, '_>, head: &mut RequestHead) -> Result<(), ProxyError> {
    let waits = |value: &[u8]| value.eq_ignore_ascii_case(b"100-continue");
    if head.fields.find(b"expect").is_some_and(waits) {
        head.fields.remove(b"expect");
        scene.downstream.send_interim(&ResponseHead { status: 100, fields: Fields::default() })?;
    }
    Ok(())
}

async fn next(scene: &mut Scene<'_, '_>) -> Result<Option<Frame>, ProxyError> {
    let downstream = &mut *scene.downstream;
    let next = poll_fn(|cx| match downstream.poll_frame(cx) {
        // What the client was told may still have to leave.
        Poll::Pending if downstream.poll_flush(cx)?.is_pending() => Poll::Pending,
        Poll::Pending if downstream.tells_when_gone() => downstream.poll_gone(cx).map(Err),
        polled => polled,
    });
    timeout(PROGRESS_WINDOW, next).await.unwrap_or_else(|_| Err(ProxyError::fatal(Kind::RequestTimeout)))
}
