//! Bodies: which of the bytes that arrive are data, and where the message ends. Source: RFC 9112 §6 and §7.
//!
//! The caller owns the bytes and the pace; the decoder holds counters only, so that it can stop after any byte. Of
//! chunked bodies nothing but the data and the trailers reaches the next hop: sizes are written anew, extensions end
//! here.

use std::ops::Range;

use crate::{
    FieldSpan, Framing, Limits, ParseError, class,
    cursor::Cursor,
    fields::{Known, may_trail},
    head::{self, MAX_LENGTH},
};

/// Hexadecimal digits of a chunk size: those of 64 bits, so that padding cannot overflow anyone's counter.
const MAX_SIZE_DIGITS: u8 = 16;

/// Follows one body through the bytes that arrive.
#[derive(Clone, Debug)]
pub struct BodyDecoder {
    state: State,
    max_trailer_bytes: u32,
    max_trailer_fields: u32,
    /// What chunk extensions may still take.
    extension_bytes_left: u32,
}

/// What comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// So many bytes of a body with a length; at least one.
    Length(u64),
    /// A body that runs until the sender closes.
    UntilClose,
    /// A digit of a chunk size, or what ends it.
    Size { digits: u8, value: u64 },
    /// The rest of a chunk's extensions, after which come so many bytes.
    Extension(u64),
    /// The LF of a chunk's first line.
    SizeLf(u64),
    /// So many bytes of a chunk's data; at least one.
    Data(u64),
    /// The CR after a chunk's data.
    DataCr,
    /// The LF after a chunk's data.
    DataLf,
    /// The trailer section, from its start.
    Trailers,
    /// The next message.
    Ended,
}

/// What one call of [`BodyDecoder::decode`] found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Decoded {
    /// How many bytes of the slice are done with: they are not passed again.
    pub consumed: usize,
    /// The range of the slice, within `consumed`, that is body data; may be empty.
    pub data: Range<usize>,
    /// Whether the body ended with `consumed`. What follows is the next message.
    pub ended: bool,
}

// === impl BodyDecoder ===

impl BodyDecoder {
    /// Starts a body; one without bytes has ended at once.
    pub fn new(framing: Framing, limits: &Limits) -> Self {
        let state = match framing {
            Framing::None | Framing::Length(0) => State::Ended,
            Framing::Length(length) => State::Length(length),
            Framing::Chunked => State::Size { digits: 0, value: 0 },
            Framing::UntilClose => State::UntilClose,
        };
        Self {
            state,
            max_trailer_bytes: limits.trailer_bytes,
            max_trailer_fields: limits.fields,
            extension_bytes_left: limits.chunk_extension_bytes,
        }
    }

    /// Decodes a piece of the body: bytes that no earlier call consumed, and at most one range of data.
    ///
    /// The caller forwards `data` and drops `consumed` bytes. If the body has not ended: where something was consumed
    /// and bytes are left, it calls again with these; else it reads more, appends it to what is left, and calls again.
    /// Bytes are left for one of two reasons: they are a next chunk's data, or the start of a trailer section, which is
    /// parsed once it is whole (at most [`Limits::trailer_bytes`]).
    ///
    /// `trailers` is cleared, and filled by the call that ends the body: spans are offsets in that call's `bytes`. Those
    /// that come too late to mean anything ([`may_trail`]) are marked [`FieldSpan::hop_by_hop`], and not forwarded. Once
    /// ended, further calls consume nothing and leave `trailers` alone.
    ///
    /// # Errors
    /// The first rule of the chunk grammar that is broken; the sender's fault. Where the next message begins is then
    /// unknown: the connection is closed, and what was forwarded so far must not look complete to the receiver.
    pub fn decode(&mut self, bytes: &[u8], trailers: &mut Vec<FieldSpan>) -> Result<Decoded, ParseError> {
        let data_to = match self.state {
            State::Ended => 0,
            State::UntilClose => bytes.len(),
            State::Length(left) => self.take(left, bytes.len(), State::Length, State::Ended),
            _ => return self.decode_chunks(bytes, trailers),
        };
        if data_to > 0 {
            trailers.clear();
        }
        Ok(Decoded { consumed: data_to, data: 0..data_to, ended: self.is_ended() })
    }

    /// Tells the decoder that the sender closed its side: the end of a body that runs until then.
    ///
    /// # Errors
    /// [`ParseError::Truncated`] if the body had not ended; what was forwarded must not look complete to the receiver.
    pub fn close(&mut self) -> Result<(), ParseError> {
        match self.state {
            State::UntilClose | State::Ended => {
                self.state = State::Ended;
                Ok(())
            }
            _ => Err(ParseError::Truncated),
        }
    }

    /// Whether the body has ended.
    pub fn is_ended(&self) -> bool {
        self.state == State::Ended
    }

    /// How many bytes of data are still to come, where that is known: after a length, not in chunks.
    pub fn remaining(&self) -> Option<u64> {
        match self.state {
            State::Length(left) => Some(left),
            State::Ended => Some(0),
            _ => None,
        }
    }

    /// Takes up to `left` of `available` bytes, and moves on to the state for what is then left.
    fn take(&mut self, left: u64, available: usize, more: fn(u64) -> State, done: State) -> usize {
        let taken = usize::try_from(left).map_or(available, |left| left.min(available));
        let still = left.saturating_sub(taken as u64);
        self.state = if still == 0 { done } else { more(still) };
        taken
    }

    fn decode_chunks(&mut self, bytes: &[u8], trailers: &mut Vec<FieldSpan>) -> Result<Decoded, ParseError> {
        trailers.clear();
        // Spans count in 32 bits; no read is as long, and of one that is the rest is left for the next call.
        let bytes = &bytes[..bytes.len().min(u32::MAX as usize)];
        let (mut at, mut data) = (0, 0..0);
        while at < bytes.len() && self.state != State::Ended {
            match self.state {
                State::Data(_) if !data.is_empty() => break,
                State::Data(left) => {
                    let taken = self.take(left, bytes.len() - at, State::Data, State::DataCr);
                    data = at..at + taken;
                    at += taken;
                }
                State::Trailers => match self.read_trailers(bytes, at, trailers)? {
                    Some(end) => (at, self.state) = (end, State::Ended),
                    None => break,
                },
                _ => {
                    self.state = self.step(bytes[at])?;
                    at += 1;
                }
            }
        }
        Ok(Decoded { consumed: at, data, ended: self.is_ended() })
    }

    /// The state after one byte of what stands between the data of chunks. Source: RFC 9112 §7.1.
    fn step(&mut self, byte: u8) -> Result<State, ParseError> {
        match (self.state, byte) {
            (State::Size { digits: 1.., value } | State::Extension(value), b'\r') => Ok(State::SizeLf(value)),
            (State::Size { digits: 1.., value }, b';') => self.extension(byte, value),
            (State::Size { digits, value }, byte) => size(digits, value, byte),
            (State::Extension(value), byte) => self.extension(byte, value),
            (State::SizeLf(0), b'\n') => Ok(State::Trailers),
            (State::SizeLf(value), b'\n') => Ok(State::Data(value)),
            (State::DataCr, b'\r') => Ok(State::DataLf),
            (State::DataLf, b'\n') => Ok(State::Size { digits: 0, value: 0 }),
            (State::DataCr, b'\n') => Err(ParseError::BareLf),
            (State::DataCr, _) => Err(ParseError::BadChunkEnd),
            (State::SizeLf(_) | State::DataLf, _) => Err(ParseError::BareCr),
            // No other state is stepped through.
            (state, _) => Ok(state),
        }
    }

    fn extension(&mut self, byte: u8, value: u64) -> Result<State, ParseError> {
        if byte == b'\n' {
            return Err(ParseError::BareLf);
        }
        if !class::is_value_byte(byte) {
            return Err(ParseError::BadChunkExtension);
        }
        self.extension_bytes_left =
            self.extension_bytes_left.checked_sub(1).ok_or(ParseError::ChunkExtensionsTooLong)?;
        Ok(State::Extension(value))
    }

    /// Parses the trailer section if it is whole, and says where it ends.
    fn read_trailers(
        &self,
        bytes: &[u8],
        at: usize,
        trailers: &mut Vec<FieldSpan>,
    ) -> Result<Option<usize>, ParseError> {
        let (mut cursor, is_full) = Cursor::limited(bytes, at, self.max_trailer_bytes);
        let section =
            head::section(&mut cursor, trailers, self.max_trailer_fields, false, |known, _, field, _| {
                if known == Known::Other && !field.hop_by_hop {
                    Ok(())
                } else {
                    Err(ParseError::ForbiddenTrailer)
                }
            });
        if let Err(stop) = section {
            trailers.clear();
            return stop.or_if(is_full, ParseError::TrailersTooLong).into_result();
        }
        for trailer in trailers {
            trailer.hop_by_hop = !may_trail(trailer.name.of(bytes));
        }
        Ok(Some(cursor.at))
    }
}

/// The state after a digit of a chunk size.
fn size(digits: u8, value: u64, byte: u8) -> Result<State, ParseError> {
    let Some(digit) = char::from(byte).to_digit(16) else {
        return Err(if byte == b'\n' { ParseError::BareLf } else { ParseError::BadChunkSize });
    };
    // Checked before the shift: up to here nothing can have overflowed.
    if digits == MAX_SIZE_DIGITS || value > MAX_LENGTH >> 4 {
        return Err(ParseError::ChunkTooLarge);
    }
    Ok(State::Size { digits: digits + 1, value: value << 4 | u64::from(digit) })
}

#[cfg(test)]
mod tests;
