//! Files that must stay private and whole: 0600, written aside, synced and renamed.
//!
//! A reader sees the old content or the new one, never a part, also after a power cut.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use crate::IdentityError;

/// Creates a directory and its missing parents, for the owner only (0700). One that exists is left as it is.
pub fn create_private_dir(dir: &Path) -> Result<(), IdentityError> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(IdentityError::file("create", dir))
}

/// Writes a file that only its owner may read (0600), atomically and durably.
pub fn write_private(path: &Path, content: &[u8]) -> Result<(), IdentityError> {
    write_atomically(path, content, 0o600)
}

/// Writes a file that everybody may read (0644), atomically and durably.
pub fn write_public(path: &Path, content: &[u8]) -> Result<(), IdentityError> {
    write_atomically(path, content, 0o644)
}

fn write_atomically(path: &Path, content: &[u8], mode: u32) -> Result<(), IdentityError> {
    let aside = aside(path);
    let written = write_synced(&aside, content, mode).and_then(|()| fs::rename(&aside, path));
    if let Err(source) = written {
        // What is left aside may hold a key. That it cannot be removed says nothing new.
        drop(fs::remove_file(&aside));
        return Err(IdentityError::file("write", path)(source));
    }
    sync_dir(parent(path))
}

fn write_synced(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
    file.write_all(content)?;
    file.sync_all()
}

/// Makes renames in a directory durable.
pub(crate) fn sync_dir(dir: &Path) -> Result<(), IdentityError> {
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(IdentityError::file("sync", dir))
}

/// The directory of a path, `.` where it names none.
pub(crate) fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// One name per target: a leftover of a killed process is replaced, not added to.
fn aside(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.new"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn private_files_are_replaced_whole_and_readable_by_their_owner_only() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let inner = dir.path().join("a/b");
        create_private_dir(&inner).expect("created");
        let path = inner.join("key.pem");
        fs::write(inner.join(".key.pem.new"), "left by a killed process").expect("written");
        for content in ["first", "second"] {
            write_private(&path, content.as_bytes()).expect("written");
            assert_eq!(fs::read_to_string(&path).expect("read"), content);
        }
        assert_eq!(fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::metadata(&inner).expect("there").permissions().mode() & 0o777, 0o700);
        assert_eq!(fs::read_dir(&inner).expect("listed").count(), 1);
    }

    #[test]
    fn a_failed_write_names_the_file() {
        let error = write_private(Path::new("/nonexistent/key.pem"), b"x").expect_err("refused");
        assert!(error.to_string().contains("/nonexistent/key.pem"), "{error}");
    }
}
