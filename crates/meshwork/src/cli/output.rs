//! Standard output and standard error, in one place.

use std::fmt::Display;
use std::io::Write;
use std::process::ExitCode;

use clap::ValueEnum;

/// How a command prints its result.
#[derive(Clone, Copy, ValueEnum, PartialEq, Eq)]
pub(crate) enum Format {
    /// For people.
    Text,
    /// For programs.
    Json,
}

/// Prints a line to standard output. A closed pipe ends the program quietly, as it does others.
pub(crate) fn line(text: impl Display) {
    if writeln!(std::io::stdout().lock(), "{text}").is_err() {
        std::process::exit(0);
    }
}

/// Prints a value as indented JSON.
///
/// # Errors
/// The value has no JSON form.
pub(crate) fn json(value: &impl serde::Serialize) -> anyhow::Result<()> {
    line(serde_json::to_string_pretty(value)?);
    Ok(())
}

/// Prints a line for people to standard error.
pub(crate) fn note(text: impl Display) {
    // Nobody is left to tell where standard error is gone.
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}

/// Prints an error with its causes, one a line.
pub(crate) fn fail(error: &anyhow::Error) -> ExitCode {
    let mut stderr = std::io::stderr().lock();
    // Nobody is left to tell where standard error is gone.
    let _ = writeln!(stderr, "error: {error}");
    for cause in error.chain().skip(1) {
        let _ = writeln!(stderr, "  because: {cause}");
    }
    ExitCode::FAILURE
}
