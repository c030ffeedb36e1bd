//! Memory that a worker lends to whoever has a message in hand.
//!
//! A connection that waits holds none of it: buffers and heads are taken when bytes are there, and given back when the
//! last of them has been dealt with. So the same few stay warm in the processor's cache, a request allocates nothing,
//! and an idle connection costs little more than its socket. Each worker has its own shelf; there is no lock.

use std::cell::RefCell;
use std::ops::{Deref, DerefMut};

use bytes::BytesMut;
use meshwork_model::head::{RequestHead, ResponseHead};

use crate::limits::{BUFFER_BYTES, LENT_BYTES_KEPT, LENT_KEPT};

/// The heads of one exchange. Lent; given back when dropped.
#[derive(Default)]
pub(crate) struct Heads {
    /// The request's.
    pub(crate) request: RequestHead,
    /// The response's.
    pub(crate) response: ResponseHead,
    /// The request's as it is forwarded, where that is another one than was judged.
    pub(crate) outgoing: RequestHead,
}

/// [`Heads`] of the worker, given back when dropped.
#[derive(Default)]
pub(crate) struct LentHeads(Heads);

/// What lies unused.
struct Shelf {
    inboxes: Vec<BytesMut>,
    texts: Vec<Vec<u8>>,
    heads: Vec<Heads>,
}

thread_local! {
    static SHELF: RefCell<Shelf> =
        const { RefCell::new(Shelf { inboxes: Vec::new(), texts: Vec::new(), heads: Vec::new() }) };
}

/// Takes something off the shelf, or makes it.
fn take<T: Default>(from: impl FnOnce(&mut Shelf) -> &mut Vec<T>) -> T {
    SHELF.try_with(|shelf| from(&mut shelf.borrow_mut()).pop()).ok().flatten().unwrap_or_default()
}

/// Puts something back, unless there is enough of it. (While a thread ends there is no shelf.)
fn put<T>(thing: T, into: impl FnOnce(&mut Shelf) -> &mut Vec<T>) {
    let _ = SHELF.try_with(|shelf| {
        let mut shelf = shelf.borrow_mut();
        let kept = into(&mut shelf);
        if kept.len() < LENT_KEPT {
            kept.push(thing);
        }
    });
}

/// Lends a buffer to read into.
pub(crate) fn inbox() -> BytesMut {
    let mut inbox = take(|shelf| &mut shelf.inboxes);
    inbox.reserve(BUFFER_BYTES);
    inbox
}

/// Takes a buffer back. One of which a piece is still on its way is left to that.
pub(crate) fn give_inbox(mut inbox: BytesMut) {
    inbox.clear();
    if inbox.try_reclaim(BUFFER_BYTES) && inbox.capacity() <= LENT_BYTES_KEPT {
        put(inbox, |shelf| &mut shelf.inboxes);
    }
}

/// Lends a buffer to write into.
pub(crate) fn text() -> Vec<u8> {
    let mut text = take(|shelf| &mut shelf.texts);
    text.reserve(BUFFER_BYTES);
    text
}

/// Takes it back.
pub(crate) fn give_text(mut text: Vec<u8>) {
    text.clear();
    if text.capacity() > 0 && text.capacity() <= LENT_BYTES_KEPT {
        put(text, |shelf| &mut shelf.texts);
    }
}

/// Lends the heads of an exchange, both empty.
pub(crate) fn heads() -> LentHeads {
    LentHeads(take(|shelf| &mut shelf.heads))
}

impl Drop for LentHeads {
    fn drop(&mut self) {
        let mut heads = std::mem::take(&mut self.0);
        let Heads { request, response, outgoing } = &mut heads;
        let all = [&request.fields, &response.fields, &outgoing.fields];
        if all.iter().map(|fields| fields.memory_bytes()).sum::<usize>() <= BUFFER_BYTES {
            request.clear();
            response.clear();
            outgoing.clear();
            put(heads, |shelf| &mut shelf.heads);
        }
    }
}

impl Deref for LentHeads {
    type Target = Heads;

    fn deref(&self) -> &Heads {
        &self.0
    }
}

impl DerefMut for LentHeads {
    fn deref_mut(&mut self) -> &mut Heads {
        &mut self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn on_shelf() -> (usize, usize, usize) {
        SHELF.with_borrow(|shelf| (shelf.inboxes.len(), shelf.texts.len(), shelf.heads.len()))
    }

    #[test]
    fn what_was_given_back_is_lent_again() {
        let (mut inbox, mut text) = (inbox(), text());
        inbox.extend_from_slice(b"in");
        text.extend_from_slice(b"out");
        let places = (inbox.as_ptr(), text.as_ptr());
        give_inbox(inbox);
        give_text(text);
        let mut lent = heads();
        lent.request.set_method(b"GET");
        drop(lent);
        assert_eq!(on_shelf(), (1, 1, 1));
        let (inbox, text) = (super::inbox(), super::text());
        assert_eq!((inbox.as_ptr(), text.as_ptr()), places);
        assert_eq!((&inbox[..], &text[..], heads().request.method()), (&b""[..], &b""[..], &b""[..]));
    }

    #[test]
    fn a_buffer_with_a_piece_on_its_way_is_not_lent_again() {
        let mut inbox = inbox();
        inbox.extend_from_slice(b"piece");
        let piece = inbox.split_to(5).freeze();
        give_inbox(inbox);
        assert_eq!(on_shelf().0, 0);
        assert_eq!(piece, "piece");
    }

    #[test]
    fn no_more_is_kept_than_a_few_of_modest_size() {
        (0..2 * LENT_KEPT).for_each(|_| give_text(Vec::with_capacity(BUFFER_BYTES)));
        assert_eq!(on_shelf().1, LENT_KEPT);
        give_inbox(BytesMut::with_capacity(2 * LENT_BYTES_KEPT));
        assert_eq!(on_shelf().0, 0);
    }
}
