//! Bodies as everything past the codecs sees them: how long one is said to be, and its frames.

use bytes::Bytes;
use meshwork_model::head::Fields;

/// A piece of a body.
#[derive(Debug)]
pub(crate) enum Frame {
    /// Data; never empty.
    Data(Bytes),
    /// Trailers; nothing follows.
    Trailers(Fields),
}

/// How long a body is said to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Length {
    /// There is no body, and nothing says so.
    None,
    /// So many bytes.
    Known(u64),
    /// To be seen.
    Unknown,
}

/// What a response's head says of its body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    /// How long the body is said to be; for HEAD and 304, how long that of GET would be.
    pub(crate) declared: Length,
    /// Whether no body follows, whatever is said.
    pub(crate) empty: bool,
}

impl Length {
    /// What a head says in numbers.
    pub(crate) fn declared(self) -> Option<u64> {
        match self {
            Self::Known(bytes) => Some(bytes),
            Self::None | Self::Unknown => None,
        }
    }

    /// Whether it is certain that no byte follows.
    pub(crate) fn is_empty(self) -> bool {
        matches!(self, Self::None | Self::Known(0))
    }
}
