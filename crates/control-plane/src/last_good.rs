//! The last config that was good, on disk: what a control plane starts with when the directory's is broken.
//!
//! Without it a restart under broken config would take every service from every proxy.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use meshwork_identity::{IdentityError, files};

use crate::ingest::{self, Loaded};

/// The file in the state directory.
#[derive(Clone, Debug)]
pub(crate) struct LastGood(PathBuf);

impl LastGood {
    /// The file in a state directory.
    pub(crate) fn new(state: &Path) -> Self {
        Self(state.join("last-good-config.json"))
    }

    /// Keeps config that was accepted.
    ///
    /// # Errors
    /// The file cannot be written.
    pub(crate) fn keep(&self, sources: &BTreeMap<String, String>) -> Result<(), IdentityError> {
        files::write_private(&self.0, &serde_json::to_vec(sources).unwrap_or_default())
    }

    /// Reads it again, if there is one that this program still accepts.
    pub(crate) fn read(&self) -> Option<Loaded> {
        let text = std::fs::read(&self.0).ok()?;
        let loaded = ingest::read_texts(serde_json::from_slice(&text).ok()?);
        loaded.is_accepted().then_some(loaded)
    }
}
