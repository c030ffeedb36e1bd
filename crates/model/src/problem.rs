//! What is wrong with a piece of config, and where.
//!
//! Problems are collected, never only the first; the binary shows them as a compiler would.

mod code;

use std::fmt;

pub use code::{Code, CodeWords};

/// How bad a [`Problem`] is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, PartialOrd, Ord)]
pub enum Severity {
    /// The config works, but not as its writer may expect.
    Warning,
    /// The config is refused.
    Error,
}

/// A place in a source text: 1-based line and column, and the bytes it covers.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Place {
    /// 1-based line.
    pub line: usize,
    /// 1-based column, in characters.
    pub column: usize,
    /// Byte offset of the first byte.
    pub start: usize,
    /// Byte offset behind the last byte.
    pub end: usize,
}

/// One problem in config.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Problem {
    /// Whether the config is refused.
    pub severity: Severity,
    /// What kind of problem it is.
    pub code: Code,
    /// The file, as the user named it; empty where the config did not come from a file.
    pub file: String,
    /// Where in the file, when known.
    pub place: Option<Place>,
    /// The resource: `HTTPRoute shop/catalog`, or an xDS resource's type and name.
    pub resource: String,
    /// The field's path: `spec.rules[0].backendRefs[1].weight`.
    pub field: String,
    /// What is wrong, one sentence without a full stop.
    pub message: String,
    /// What to do: one imperative sentence without a full stop. Empty where the message says it.
    pub fix: String,
}

impl Problem {
    /// Makes an error about a field of a resource.
    pub fn error(
        resource: impl Into<String>,
        field: impl Into<String>,
        message: impl Into<String>,
        fix: impl Into<String>,
    ) -> Self {
        Self {
            severity: Severity::Error,
            code: Code::Invalid,
            file: String::new(),
            place: None,
            resource: resource.into(),
            field: field.into(),
            message: message.into(),
            fix: fix.into(),
        }
    }

    /// The same problem as a warning.
    #[must_use]
    pub fn warning(mut self) -> Self {
        self.severity = Severity::Warning;
        self
    }

    /// The same problem, of a kind.
    #[must_use]
    pub fn of(mut self, code: Code) -> Self {
        self.code = code;
        self
    }

    /// The same problem, located in a file.
    #[must_use]
    pub fn at(mut self, file: impl Into<String>, place: Option<Place>) -> Self {
        self.file = file.into();
        self.place = place;
        self
    }
}

impl fmt::Display for Problem {
    /// One line: `file:line:column: resource: field: message; fix`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.file.is_empty() {
            write!(f, "{}:", self.file)?;
            if let Some(place) = self.place {
                write!(f, "{}:{}:", place.line, place.column)?;
            }
            f.write_str(" ")?;
        }
        for part in [&self.resource, &self.field] {
            if !part.is_empty() {
                write!(f, "{part}: ")?;
            }
        }
        f.write_str(&self.message)?;
        if !self.fix.is_empty() {
            write!(f, "; {}", self.fix)?;
        }
        Ok(())
    }
}
