//! Why bytes are not an acceptable message.

use std::fmt;

/// The rule that a peer's bytes broke; one variant per rule. After any of them the connection is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ParseError {
    // --- lines ---
    /// More than one empty line stands before a request line.
    EmptyLines,
    /// A LF without its CR.
    BareLf,
    /// A CR without its LF.
    BareCr,
    // --- request line ---
    /// The method is empty or has a byte that no token may have.
    BadMethod,
    /// The request target is empty, or has a space, a control byte, a non-ASCII byte or a `#`.
    BadTarget,
    /// The target's form does not suit the method, or its authority is invalid.
    BadTargetForm,
    /// The request line or status line is longer than allowed.
    StartLineTooLong,
    /// The version is not spelt `HTTP/<digit>.<digit>`.
    BadVersion,
    /// The version is neither HTTP/1.0 nor HTTP/1.1.
    UnsupportedVersion,
    // --- status line ---
    /// The status is not three digits from 100 up, followed by a space or the line's end.
    BadStatus,
    /// The reason phrase has a control byte.
    BadReason,
    // --- field lines ---
    /// The head is longer than allowed.
    HeadTooLong,
    /// There are more field lines than allowed.
    TooManyFields,
    /// White space before the first field line.
    SpaceBeforeFirstField,
    /// A field line is continued on the next one (obs-fold).
    FoldedField,
    /// White space between a field's name and its colon.
    SpaceBeforeColon,
    /// A field line has no colon.
    MissingColon,
    /// A field's name is empty or has a byte that no token may have.
    BadFieldName,
    /// A field's value has a control byte.
    BadFieldValue,
    // --- host ---
    /// An HTTP/1.1 request without `Host`.
    MissingHost,
    /// More than one `Host` line.
    RepeatedHost,
    /// `Host` is not a host name or address with an optional port.
    BadHost,
    /// `Host` and the request target name different hosts.
    HostMismatch,
    // --- framing ---
    /// `Content-Length` is not a plain decimal number without sign or padding, or is too large.
    BadContentLength,
    /// More than one `Content-Length` line, equal or not.
    RepeatedContentLength,
    /// Both `Content-Length` and `Transfer-Encoding`.
    ContentLengthWithTransferEncoding,
    /// `Transfer-Encoding` does not end in exactly one `chunked`, or is malformed.
    BadTransferEncoding,
    /// `Transfer-Encoding` has a coding besides `chunked`.
    UnsupportedTransferCoding,
    /// More than one `Transfer-Encoding` line.
    RepeatedTransferEncoding,
    /// `Transfer-Encoding` in an HTTP/1.0 message.
    TransferEncodingInHttp10,
    /// Framing fields that announce a body on a message that cannot have one (CONNECT, TRACE, 1xx, a 2xx to CONNECT).
    BodyNotAllowed,
    // --- connection ---
    /// A `Connection` option is not a token, or names a field that every recipient needs: `Content-Length`, `Host`,
    /// `Expect`.
    BadConnectionOption,
    /// There are more `Connection` options than allowed.
    TooManyConnectionOptions,
    /// `Upgrade` is empty, or there is more than one line of it.
    BadUpgrade,
    /// `Expect` is not exactly `100-continue`, or there is more than one line of it.
    BadExpectation,
    // --- body ---
    /// A chunk size is empty or has a byte that is not a hexadecimal digit.
    BadChunkSize,
    /// A chunk size has too many digits or is too large.
    ChunkTooLarge,
    /// A chunk extension has a control byte.
    BadChunkExtension,
    /// The chunk extensions of a body are longer than allowed.
    ChunkExtensionsTooLong,
    /// A chunk's data is not followed by a line end.
    BadChunkEnd,
    /// The trailer section is longer than allowed.
    TrailersTooLong,
    /// A trailer field that would change framing, routing or the connection.
    ForbiddenTrailer,
    /// The connection closed before the end of the body.
    Truncated,
}

impl ParseError {
    /// The status that answers a request which broke the rule: 400, 414, 417, 431, 501 or 505. A response that
    /// broke it is answered with 502, whatever this says.
    pub fn status(self) -> u16 {
        match self {
            Self::StartLineTooLong => 414,
            Self::BadExpectation => 417,
            Self::HeadTooLong
            | Self::TooManyFields
            | Self::TooManyConnectionOptions
            | Self::TrailersTooLong => 431,
            Self::UnsupportedTransferCoding => 501,
            Self::UnsupportedVersion => 505,
            _ => 400,
        }
    }

    /// The broken rule in plain words, for logs and for people; names nothing that the peer sent.
    pub fn text(self) -> &'static str {
        match self {
            Self::EmptyLines => "more than one empty line before the request line",
            Self::BareLf => "a line ends in LF without CR",
            Self::BareCr => "a CR is not followed by LF",
            Self::BadMethod => "the method is empty or has an invalid character",
            Self::BadTarget => "the request target is empty or has an invalid character",
            Self::BadTargetForm => {
                "the request target's form does not suit the method, or its authority is invalid"
            }
            Self::StartLineTooLong => "the first line is too long",
            Self::BadVersion => "the HTTP version is malformed",
            Self::UnsupportedVersion => "the HTTP version is neither 1.0 nor 1.1",
            Self::BadStatus => "the status is not a three-digit number from 100 up",
            Self::BadReason => "the reason phrase has a control character",
            Self::HeadTooLong => "the message head is too long",
            Self::TooManyFields => "there are too many header fields",
            Self::SpaceBeforeFirstField => "white space before the first header field",
            Self::FoldedField => "a header field is folded over two lines",
            Self::SpaceBeforeColon => "white space between a header's name and its colon",
            Self::MissingColon => "a header line has no colon",
            Self::BadFieldName => "a header's name is empty or has an invalid character",
            Self::BadFieldValue => "a header's value has a control character",
            Self::MissingHost => "Host is missing",
            Self::RepeatedHost => "there is more than one Host",
            Self::BadHost => "Host is not a host name or address with an optional port",
            Self::HostMismatch => "Host and the request target name different hosts",
            Self::BadContentLength => "Content-Length is not a plain decimal number",
            Self::RepeatedContentLength => "there is more than one Content-Length",
            Self::ContentLengthWithTransferEncoding => {
                "both Content-Length and Transfer-Encoding are present"
            }
            Self::BadTransferEncoding => "Transfer-Encoding does not end in exactly one chunked",
            Self::UnsupportedTransferCoding => "a transfer coding other than chunked is not supported",
            Self::RepeatedTransferEncoding => "there is more than one Transfer-Encoding",
            Self::TransferEncodingInHttp10 => "Transfer-Encoding in an HTTP/1.0 message",
            Self::BodyNotAllowed => "a message that cannot have a body has framing fields",
            Self::BadConnectionOption => {
                "a Connection option is malformed or names a field that is not its own"
            }
            Self::TooManyConnectionOptions => "there are too many Connection options",
            Self::BadUpgrade => "Upgrade is empty or repeated",
            Self::BadExpectation => "Expect is not 100-continue, or is repeated",
            Self::BadChunkSize => "a chunk size is not a hexadecimal number",
            Self::ChunkTooLarge => "a chunk size is too large",
            Self::BadChunkExtension => "a chunk extension has a control character",
            Self::ChunkExtensionsTooLong => "the chunk extensions are too long",
            Self::BadChunkEnd => "a chunk's data is not followed by a line end",
            Self::TrailersTooLong => "the trailers are too long",
            Self::ForbiddenTrailer => "a trailer field may not stand in a trailer",
            Self::Truncated => "the connection closed before the end of the body",
        }
    }
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

impl std::error::Error for ParseError {}
