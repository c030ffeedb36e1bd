//! Where a message ends.

/// How a body is delimited. Source: RFC 9112 §6.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Framing {
    /// No body follows, and no framing field says so.
    #[default]
    None,
    /// Exactly so many bytes follow (`Content-Length`), 0 included.
    Length(u64),
    /// Chunks follow (`Transfer-Encoding: chunked`), then trailers.
    Chunked,
    /// All until the connection closes; responses only.
    UntilClose,
}

/// The version of a message; no other is accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// HTTP/1.0.
    Http10,
    /// HTTP/1.1.
    Http11,
}

impl Framing {
    /// The framing towards a peer of a version: HTTP/1.0 knows no chunks, so a response of unknown length runs until we
    /// close.
    #[must_use]
    pub fn towards(self, version: Version) -> Self {
        match (self, version) {
            (Self::Chunked, Version::Http10) => Self::UntilClose,
            (framing, _) => framing,
        }
    }
}
