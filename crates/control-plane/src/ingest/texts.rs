//! Config as people hand it over: files, folders and texts by name, read by the same code as the control plane's own.

use std::path::Path;
use std::sync::Arc;

use meshwork_model::mesh::Key;
use meshwork_model::problem::{Code, Problem};

use super::library::Piece;
use super::reader::Room;
use super::{Library, Loaded, documents, files, read_text};

/// A text by its name, or why it cannot be read.
pub type Named = (String, Result<String, String>);

/// The texts of a folder's config files (not of folders in it), or of one file.
pub fn texts(path: &Path) -> Vec<Named> {
    let name = path.display().to_string();
    match files(path) {
        Err(error) => vec![(name, Err(format!("this cannot be read: {error}")))],
        Ok(files) if files.is_empty() => vec![(name, Err("there is no .yaml file here".to_owned()))],
        Ok(files) => files.iter().map(|file| (file.display().to_string(), read_text(file))).collect(),
    }
}

/// Reads all texts as if they were the whole config.
pub fn read_named(texts: Vec<Named>) -> Loaded {
    let mut room = Room::default();
    let read = |(name, text): Named| {
        let piece = match text {
            Ok(text) => Piece::read(&name, text.into(), &mut room),
            Err(message) => {
                let problem = Problem::error("", "", message, "").of(Code::Unreadable);
                Piece::unreadable(problem.at(&*name, None))
            }
        };
        (name, Some(Arc::new(piece)))
    };
    Library::default().with_pieces(texts.into_iter().map(read).collect()).loaded()
}

/// Which resources a text has, by kind and key; the namespace is empty for kinds without one.
pub fn resources(text: &str) -> Vec<(String, Key)> {
    documents(text).into_iter().map(|document| (document.id.kind, document.id.key)).collect()
}
