//! The last files of the config folder that were good, on disk: what a control plane starts with when the folder is broken.
//!
//! Without it a restart under broken config would take every service from every proxy.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use meshwork_identity::{IdentityError, files};

/// The file in the state directory.
#[derive(Clone, Debug)]
pub(crate) struct LastGood(PathBuf);

impl LastGood {
    /// The file in a state directory.
    pub(crate) fn new(state: &Path) -> Self {
        Self(state.join("last-good-config.json"))
    }

    /// Keeps files that were accepted, by name.
    ///
    /// # Errors
    /// The file cannot be written.
    pub(crate) fn keep(&self, files: &BTreeMap<String, Arc<str>>) -> Result<(), IdentityError> {
        files::write_private(&self.0, &serde_json::to_vec(files).unwrap_or_default())
    }

    /// Reads them again, if there are any.
    pub(crate) fn read(&self) -> Option<BTreeMap<String, Arc<str>>> {
        serde_json::from_slice(&std::fs::read(&self.0).ok()?).ok()
    }
}
