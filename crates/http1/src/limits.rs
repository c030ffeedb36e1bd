//! What a peer may ask us to hold or to look at.

/// Bounds of one message; sizes in bytes. Each has a default with its reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// A whole head, from its first byte to its empty line. Default 60 KiB: Envoy's default, so that what passed
    /// there passes here.
    pub head_bytes: u32,
    /// Field lines of a head, and of a trailer section. Default 100: Envoy's and Apache's default.
    pub fields: u32,
    /// A request line or status line with its line end. Default 16 KiB: RFC 9112 §3 asks for 8,000 at least; twice that
    /// leaves room for long queries and none for a target that fills the head.
    pub start_line_bytes: u32,
    /// All chunk extensions of one body together. Default 16 KiB: Node's figure; nobody uses extensions, and
    /// without a bound they are a body that no length counts.
    pub chunk_extension_bytes: u32,
    /// A trailer section with its empty line. Default 8 KiB: room for gRPC-style status, details and checksums.
    /// The caller's buffer must be able to hold this many bytes at once.
    pub trailer_bytes: u32,
    /// Options in all `Connection` lines together. Default 32: a real one has one to three, and each is looked up
    /// among all fields.
    pub connection_options: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            head_bytes: 60 * 1024,
            fields: 100,
            start_line_bytes: 16 * 1024,
            chunk_extension_bytes: 16 * 1024,
            trailer_bytes: 8 * 1024,
            connection_options: 32,
        }
    }
}
