//! Ranges of the caller's bytes: parsing copies nothing.

use std::ops::Range;

/// A range of the slice that was parsed, in bytes from its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Span {
    /// First byte.
    pub start: u32,
    /// One past the last byte.
    pub end: u32,
}

/// One field line: where its name and its value are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FieldSpan {
    /// The name, in the case in which it was sent.
    pub name: Span,
    /// The value, without surrounding white space; may be empty.
    pub value: Span,
    /// Whether the line concerns this connection only and is not forwarded: a name for which
    /// [`is_hop_by_hop`](crate::is_hop_by_hop) is true (but a request's `te: trailers` is forwarded), a name that a
    /// `Connection` line lists, an `Expect` that has no effect, or a trailer that is none
    /// ([`may_trail`](crate::may_trail)).
    pub hop_by_hop: bool,
}

// === impl Span ===

impl Span {
    /// Makes a span of offsets in a slice; parsed slices are bounded far below 4 GiB.
    pub(crate) fn new(start: usize, end: usize) -> Self {
        Self { start: offset(start), end: offset(end) }
    }

    /// The bytes of the span in `bytes`, which is the slice that was parsed (or one that begins with it); empty
    /// if the span does not lie in it.
    pub fn of(self, bytes: &[u8]) -> &[u8] {
        bytes.get(self.range()).unwrap_or_default()
    }

    /// The span as a range.
    pub fn range(self) -> Range<usize> {
        self.start as usize..self.end as usize
    }

    /// How many bytes there are.
    pub fn len(self) -> usize {
        self.end.saturating_sub(self.start) as usize
    }

    /// Whether there are none.
    pub fn is_empty(self) -> bool {
        self.len() == 0
    }
}

fn offset(at: usize) -> u32 {
    u32::try_from(at).unwrap_or(u32::MAX)
}
