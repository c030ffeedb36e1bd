//! Regular expressions as RE2 reads them: linear in time, bounded in memory.
//!
//! [`Regex`] tests a whole text, [`Rewrite`] replaces what it finds. RE2's syntax is read here and written again for
//! the `regex` crate, since the two differ in small things: RE2's `\d`, `\s` and `\w` are ASCII, its classes know no
//! sets within sets, its `{` may be a letter like any other. What only one of them knows is refused.
//!
//! Source: RE2, "Syntax" and `RE2::FullMatch`, `RE2::GlobalReplace`, `RE2::Rewrite`; Envoy `RegexMatcher`,
//! `RegexMatchAndSubstitute`. Decision record 021.

mod syntax;

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use regex::bytes::{Captures, Regex as Program, RegexBuilder};

/// The most memory that a compiled expression may take: some thousand times what those of routes do, and little
/// enough for a config with hundreds of them.
const PROGRAM_BYTES: usize = 1 << 20;
/// The most memory for states that are found while an expression runs; past it the search goes on more slowly.
const STATES_BYTES: usize = 1 << 18;

/// A test of a whole text.
#[derive(Clone)]
pub struct Regex {
    pattern: Arc<str>,
    program: Program,
}

/// Finds an expression everywhere in a text and writes something in its place.
#[derive(Clone)]
pub struct Rewrite {
    pattern: Arc<str>,
    substitution: Arc<str>,
    program: Program,
    /// `None`: it names a group that the expression does not have, so nothing is ever replaced.
    pieces: Option<Arc<[Piece]>>,
}

/// A piece of what is written.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Text(Box<str>),
    /// What a group found; 0 is all of it.
    Group(usize),
}

// === impl Regex ===

impl Regex {
    /// Reads an expression.
    ///
    /// # Errors
    /// It is none that RE2 has, or one that is too large, in words.
    pub fn new(pattern: &str) -> Result<Self, String> {
        let program = compile(&format!(r"\A(?:{})\z", syntax::translate(pattern)?))?;
        Ok(Self { pattern: pattern.into(), program })
    }

    /// Whether the whole text is such.
    pub fn matches(&self, text: &[u8]) -> bool {
        self.program.is_match(text)
    }

    /// As it was written.
    pub fn pattern(&self) -> &str {
        &self.pattern
    }

    /// A text that all that matches begins with: as long as that is plain to see, which it is not of alternatives.
    pub fn literal_start(&self) -> String {
        literal_start(&self.pattern).unwrap_or_default()
    }
}

/// `None` where an expression may begin in several ways.
fn literal_start(pattern: &str) -> Option<String> {
    let mut literal = String::new();
    let mut rest = pattern.chars().peekable();
    let mut is_plain = true;
    while let Some(c) = rest.next() {
        let said = match c {
            '|' => return None,
            '\\' => match rest.next()? {
                c if c.is_ascii_punctuation() => Some(c),
                // `\Q` quotes what looks like alternatives; what the others mean is no one character.
                'Q' => return None,
                _ => None,
            },
            '.' | '[' | ']' | '(' | ')' | '*' | '+' | '?' | '{' | '}' | '^' | '$' => None,
            c => Some(c).filter(char::is_ascii),
        };
        is_plain &= said.is_some();
        match (said, rest.peek()) {
            (Some(_), Some('*' | '?' | '{')) => is_plain = false,
            (Some(c), _) if is_plain => literal.push(c),
            _ => {}
        }
    }
    Some(literal)
}

fn compile(pattern: &str) -> Result<Program, String> {
    let mut builder = RegexBuilder::new(pattern);
    let built = builder.size_limit(PROGRAM_BYTES).dfa_size_limit(STATES_BYTES).build();
    built.map_err(|error| match error {
        regex::Error::CompiledTooBig(_) => "the expression is too large".to_owned(),
        // The parser underlines the place in what was translated; its last line says what is wrong.
        error => {
            error.to_string().lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned()
        }
    })
}

impl PartialEq for Regex {
    fn eq(&self, other: &Self) -> bool {
        self.pattern == other.pattern
    }
}

impl Eq for Regex {}

impl fmt::Debug for Regex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Regex({:?})", self.pattern)
    }
}

// === impl Rewrite ===

impl Rewrite {
    /// Reads an expression and what is written in place of what it finds: `\0` is all of that, `\1` what the first
    /// group found, `\\` a backslash.
    ///
    /// # Errors
    /// As [`Regex::new`].
    pub fn new(pattern: &str, substitution: &str) -> Result<Self, String> {
        let program = compile(&syntax::translate(pattern)?)?;
        let pieces = pieces(substitution).filter(|pieces| has_groups(&program, pieces));
        Ok(Self {
            pattern: pattern.into(),
            substitution: substitution.into(),
            program,
            pieces: pieces.map(Arc::from),
        })
    }

    /// The text with everything replaced; as it was where there is nothing to replace.
    pub fn apply<'t>(&self, text: &'t [u8]) -> Cow<'t, [u8]> {
        let Some(pieces) = &self.pieces else { return Cow::Borrowed(text) };
        self.program.replace_all(text, |found: &Captures<'_>| {
            let mut out = Vec::new();
            for piece in pieces.iter() {
                match piece {
                    Piece::Text(text) => out.extend_from_slice(text.as_bytes()),
                    Piece::Group(group) => {
                        out.extend_from_slice(found.get(*group).map_or(&[][..], |found| found.as_bytes()));
                    }
                }
            }
            out
        })
    }

    /// The expression and what is written, as they were written.
    pub fn as_written(&self) -> (&str, &str) {
        (&self.pattern, &self.substitution)
    }
}

fn has_groups(program: &Program, pieces: &[Piece]) -> bool {
    pieces.iter().all(|piece| match piece {
        Piece::Text(_) => true,
        Piece::Group(group) => *group < program.captures_len(),
    })
}

/// `None`: it is no substitution, and RE2 replaces nothing then.
fn pieces(substitution: &str) -> Option<Vec<Piece>> {
    let (mut pieces, mut text) = (Vec::new(), String::new());
    let mut rest = substitution.chars();
    while let Some(c) = rest.next() {
        if c != '\\' {
            text.push(c);
            continue;
        }
        match rest.next()? {
            '\\' => text.push('\\'),
            digit => {
                let group = digit.to_digit(10)? as usize;
                if !text.is_empty() {
                    pieces.push(Piece::Text(std::mem::take(&mut text).into()));
                }
                pieces.push(Piece::Group(group));
            }
        }
    }
    if !text.is_empty() {
        pieces.push(Piece::Text(text.into()));
    }
    Some(pieces)
}

impl PartialEq for Rewrite {
    fn eq(&self, other: &Self) -> bool {
        self.as_written() == other.as_written()
    }
}

impl Eq for Rewrite {}

impl fmt::Debug for Rewrite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Rewrite({:?} to {:?})", self.pattern, self.substitution)
    }
}

#[cfg(test)]
mod tests;
