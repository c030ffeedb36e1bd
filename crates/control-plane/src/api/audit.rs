//! The audit log: a line of JSON for each write that somebody asked for, done or refused.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use serde::Serialize;
use tracing::error;

/// The log, in the state directory.
#[derive(Debug)]
pub(crate) struct Audit {
    path: PathBuf,
    file: Mutex<Option<File>>,
}

/// What somebody asked for, and what came of it.
#[derive(Debug, Serialize)]
pub(super) struct Line<'l> {
    pub(super) at: String,
    pub(super) by: &'l str,
    pub(super) action: &'l str,
    pub(super) note: &'l str,
    /// `created HTTPRoute/shop/cart`; what was meant to be, where it is refused.
    pub(super) resources: Vec<String>,
    pub(super) result: String,
}

/// The size at which the log is put aside, in the place of the one before: years of changes by hand.
const MAX_BYTES: u64 = 64 << 20;

impl Audit {
    pub(crate) fn new(state: &Path) -> Self {
        Self { path: state.join("audit.jsonl"), file: Mutex::new(None) }
    }

    /// Writes a line. That it fails keeps nobody from working; it is told in the log.
    pub(super) fn write(&self, line: &Line<'_>) {
        if let Err(error) = self.append(line) {
            error!(%error, by = line.by, action = line.action, result = line.result, "the audit log is not written");
        }
    }

    /// Writes that somebody was refused what they asked for.
    pub(crate) fn refused(&self, by: &str, action: &str, note: &str, resources: Vec<String>, why: &str) {
        self.write(&Line { at: now(), by, action, note, resources, result: format!("refused: {why}") });
    }

    fn append(&self, line: &Line<'_>) -> std::io::Result<()> {
        let mut text = serde_json::to_vec(line)?;
        text.push(b'\n');
        let mut held = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(file) = &*held
            && file.metadata()?.len() >= MAX_BYTES
        {
            *held = None;
            std::fs::rename(&self.path, self.path.with_extension("jsonl.1"))?;
        }
        let file = match held.take() {
            Some(file) => file,
            None => OpenOptions::new().append(true).create(true).mode(0o600).open(&self.path)?,
        };
        let file = held.insert(file);
        file.write_all(&text)?;
        file.sync_data()
    }
}

/// RFC 3339, in UTC.
pub(super) fn now() -> String {
    jiff::Timestamp::try_from(SystemTime::now()).map(|now| now.to_string()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_follow_each_other_across_restarts() {
        let dir = tempfile::tempdir().expect("a directory");
        for result in ["revision 1", "refused"] {
            let line = Line {
                at: now(),
                by: "uid 0",
                action: "apply",
                note: "",
                resources: vec!["created Service/shop/cart".to_owned()],
                result: result.to_owned(),
            };
            Audit::new(dir.path()).write(&line);
        }
        let text = std::fs::read_to_string(dir.path().join("audit.jsonl")).expect("there");
        let lines: Vec<serde_json::Value> =
            text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
        assert_eq!(
            (lines.len(), &lines[1]["result"], &lines[0]["by"]),
            (2, &"refused".into(), &"uid 0".into())
        );
    }
}
