//! The HTTP/1.1 message engine: strict, fast, without I/O, for both sides of a proxy.
//!
//! It owns the grammar of RFC 9112 and of the parts of RFC 9110 that decide where a message ends: bytes in, spans
//! and framing out; events in, bytes out. It never reads, writes, waits or looks at a clock, keeps no bytes, and
//! allocates nothing beyond the vectors that its caller lends.
//!
//! There is no lenient mode. A proxy that accepts a message which its peer reads differently hands an attacker a
//! second, unseen request ("request smuggling"), so whatever RFC 9112 lets a recipient reject is rejected, by a
//! [`ParseError`] of its own. What is written is always canonical: framing fields come from a [`Framing`], never
//! from forwarded fields, and bytes that could end a line are refused.
//!
//! # Receiving
//!
//! 1. Read into a buffer; call [`parse_request`] (or [`parse_response`]) on all of it. `None`: read more and call
//!    again with the longer slice (a head can only end at a LF, so new bytes without one need no call until the
//!    buffer holds [`Limits::head_bytes`]). `Err`: answer with [`ParseError::status`] (towards a client; a bad
//!    response from an origin is 502) and close: what follows in the buffer has no meaning any more.
//! 2. Copy what is needed out of the buffer, skipping fields marked [`FieldSpan::hop_by_hop`], drop the first
//!    `head_len` bytes, and make a [`BodyDecoder`] from `body`.
//! 3. Call [`BodyDecoder::decode`] on the unconsumed bytes: forward `data`, drop `consumed` bytes; go on while
//!    progress is made and `ended` is false. What lies after the end is the next message.
//! 4. Rules that only the caller can keep. Bytes that an *origin* sends after the end of a response, while no further
//!    request is outstanding, belong to nothing: close that connection. A connection whose message was not read to its
//!    end, or whose `keep_alive` is false, is not used again, and what it still holds is not parsed. Interim responses
//!    are counted and bounded. A 101 is accepted only if an upgrade was sent on, and nothing is tunnelled before it.
//!
//! # Sending
//!
//! [`write_request_head`], [`write_response_head`], then the body as it is ([`Framing::Length`]) or in chunks
//! ([`write_chunk_header`], data, [`CHUNK_END`], …, [`write_last_chunk`]).

mod body;
mod class;
mod cursor;
mod error;
mod fields;
mod framing;
mod head;
mod host;
mod limits;
mod request;
mod response;
mod span;
mod write;

pub use body::{BodyDecoder, Decoded};
pub use error::ParseError;
pub use fields::{connection_options, is_hop_by_hop, is_token, may_trail, tokens};
pub use framing::{Framing, Version};
pub use host::is_authority;
pub use limits::Limits;
pub use request::{Request, RequestKind, Target, parse_request};
pub use response::{Response, parse_response};
pub use span::{FieldSpan, Span};
pub use write::{
    CHUNK_END, CONTINUE, Connection, RequestLine, StatusLine, WriteError, reason_phrase, write_chunk,
    write_chunk_header, write_last_chunk, write_request_head, write_response_head,
};
