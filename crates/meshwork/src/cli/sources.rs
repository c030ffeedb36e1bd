//! Config that is handed over: files, folders, standard input.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use meshwork_control_plane::ingest;
use serde_json::{Value, json};

use super::problems::{self, Texts};

/// How problems name what came by standard input.
const STDIN: &str = "<stdin>";
/// The most that is read from standard input: more than one file may have, so that the reader refuses it in its words.
const MAX_STDIN_BYTES: u64 = 8 << 20;

/// What is handed over.
#[derive(clap::Args)]
pub(crate) struct Files {
    /// A file, a folder (its .yaml, .yml and .json files), or - for standard input; may be repeated
    #[arg(short = 'f', long = "filename", value_name = "FILE|DIR|-", required = true)]
    paths: Vec<PathBuf>,
}

impl Files {
    /// Reads all of it; problems with that are printed.
    ///
    /// # Errors
    /// Something cannot be read.
    pub(crate) fn read(&self) -> anyhow::Result<Texts> {
        let mut sources = Texts::new();
        let mut failed = 0;
        for (name, text) in read(&self.paths)? {
            match text {
                Ok(text) => drop(sources.insert(name, text.into())),
                Err(message) => {
                    super::output::note(format!("error: {name}: {message}"));
                    failed += 1;
                }
            }
        }
        match failed {
            0 => Ok(sources),
            1 => bail!("one of them cannot be read; nothing was sent"),
            _ => bail!("{failed} of them cannot be read; nothing was sent"),
        }
    }
}

/// Reads files, folders and standard input, each text with its name.
///
/// # Errors
/// Standard input cannot be read.
pub(crate) fn read(paths: &[PathBuf]) -> anyhow::Result<Vec<ingest::Named>> {
    let mut texts = Vec::new();
    for path in paths {
        if path == Path::new("-") {
            let mut bytes = Vec::new();
            let read = std::io::stdin().lock().take(MAX_STDIN_BYTES).read_to_end(&mut bytes);
            read.context("cannot read standard input")?;
            let text = String::from_utf8(bytes).map_err(|error| format!("this is not UTF-8: {error}"));
            texts.push((STDIN.to_owned(), text));
        } else {
            texts.extend(ingest::texts(path));
        }
    }
    Ok(texts)
}

/// The body by which texts are applied.
pub(crate) fn body(sources: &Texts, note: &str) -> Value {
    let sources: Vec<Value> =
        sources.iter().map(|(name, text)| json!({ "name": name, "text": &**text })).collect();
    json!({ "sources": sources, "note": note })
}

/// Prints the problems of an answer, or of a refusal, where they stand in what was sent.
pub(crate) fn tell(told: &[Value], sources: &Texts) {
    let problems: Vec<_> = told.iter().map(|value| problems::of_json(value, sources)).collect();
    problems::print(&problems, sources);
}
