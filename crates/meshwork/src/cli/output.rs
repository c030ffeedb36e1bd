//! Standard output and standard error, in one place.

use std::fmt::Display;
use std::io::{IsTerminal as _, Write as _};
use std::process::ExitCode;

use clap::ValueEnum;

use super::yaml;

/// How a command prints its result.
#[derive(Clone, Copy, ValueEnum, PartialEq, Eq)]
pub(crate) enum Format {
    /// For people.
    #[value(alias = "table")]
    Text,
    /// For programs.
    Json,
    /// For both.
    Yaml,
}

impl Format {
    /// Prints a value as JSON or YAML; where text is wanted, prints nothing and gives false.
    ///
    /// # Errors
    /// The value has no JSON form.
    pub(crate) fn print(self, value: &impl serde::Serialize) -> anyhow::Result<bool> {
        match self {
            Self::Text => return Ok(false),
            Self::Json => line(serde_json::to_string_pretty(value)?),
            Self::Yaml => line(yaml::text(&serde_json::to_value(value)?).trim_end()),
        }
        Ok(true)
    }
}

/// Prints a line to standard output. A closed pipe ends the program quietly, as it does others.
pub(crate) fn line(text: impl Display) {
    if writeln!(std::io::stdout().lock(), "{text}").is_err() {
        std::process::exit(0);
    }
}

/// Whether standard output shows colours: it is a terminal, and nobody asked for none. Source: no-color.org.
pub(crate) fn colours() -> bool {
    std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
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
