//! A place in the bytes that have arrived, and the two ways in which reading on from it can stop.

use crate::{ParseError, Span};

/// Why parsing stopped before its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    /// All that has arrived is valid; more is needed.
    Partial,
    /// A rule is broken.
    Broken(ParseError),
}

/// A place in `bytes`, never past their end.
#[derive(Clone, Debug)]
pub(crate) struct Cursor<'a> {
    /// All that may be looked at.
    pub(crate) bytes: &'a [u8],
    /// The next byte.
    pub(crate) at: usize,
}

impl From<ParseError> for Stop {
    fn from(error: ParseError) -> Self {
        Self::Broken(error)
    }
}

impl Stop {
    /// Turns "more is needed" into `error` if no more may come.
    pub(crate) fn or_if(self, full: bool, error: ParseError) -> Self {
        if full && self == Self::Partial { Self::Broken(error) } else { self }
    }

    /// Turns a stop into what the crate's entry points return: nothing yet, or an error.
    pub(crate) fn into_result<T>(self) -> Result<Option<T>, ParseError> {
        match self {
            Self::Partial => Ok(None),
            Self::Broken(error) => Err(error),
        }
    }
}

impl<'a> Cursor<'a> {
    /// A cursor at `at` that sees at most `limit` bytes from there, and whether it sees that many.
    pub(crate) fn limited(bytes: &'a [u8], at: usize, limit: u32) -> (Self, bool) {
        let end = at.saturating_add(limit as usize);
        (Self { bytes: &bytes[..end.min(bytes.len())], at }, bytes.len() >= end)
    }

    /// The next byte, which stays.
    pub(crate) fn peek(&self) -> Result<u8, Stop> {
        self.bytes.get(self.at).copied().ok_or(Stop::Partial)
    }

    /// What is left.
    pub(crate) fn rest(&self) -> &'a [u8] {
        &self.bytes[self.at..]
    }

    /// Steps over as many bytes as `len` says and returns where they are.
    pub(crate) fn take(&mut self, len: impl Fn(&[u8]) -> usize) -> Span {
        let start = self.at;
        self.at += len(self.rest());
        Span::new(start, self.at)
    }

    /// Steps over one byte that is `valid` and returns it; any other breaks the rule `otherwise`, except that a LF is
    /// always a bare one here.
    pub(crate) fn accept(&mut self, valid: impl Fn(u8) -> bool, otherwise: ParseError) -> Result<u8, Stop> {
        match self.peek()? {
            byte if valid(byte) => {
                self.at += 1;
                Ok(byte)
            }
            b'\n' => Err(ParseError::BareLf.into()),
            _ => Err(otherwise.into()),
        }
    }

    /// Steps over `wanted`, as [`Cursor::accept`] does.
    pub(crate) fn expect(&mut self, wanted: u8, otherwise: ParseError) -> Result<(), Stop> {
        self.accept(|byte| byte == wanted, otherwise).map(|_| ())
    }

    /// Steps over a line end; anything else breaks the rule `otherwise`.
    pub(crate) fn line_end(&mut self, otherwise: ParseError) -> Result<(), Stop> {
        self.expect(b'\r', otherwise)?;
        match self.peek()? {
            b'\n' => self.at += 1,
            _ => return Err(ParseError::BareCr.into()),
        }
        Ok(())
    }
}
