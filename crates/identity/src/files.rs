//! Files that must stay private and whole: 0600, written aside, synced and renamed.
//!
//! A reader sees the old content or the new one, never a part, also after a power cut.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use crate::IdentityError;

/// Permission bits by which others than the owner write.
const WRITABLE: u32 = 0o022;
/// A file that is made to find out whose a directory is, and removed at once.
const PROBE: &str = ".probe";

/// Creates a directory and its missing parents, for the owner only (0700), durably. One that exists is left as it is.
pub fn create_private_dir(dir: &Path) -> Result<(), IdentityError> {
    let is_missing = |one: &&Path| !one.as_os_str().is_empty() && !one.exists();
    let missing: Vec<&Path> = dir.ancestors().take_while(is_missing).collect();
    DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(IdentityError::file("create", dir))?;
    for made in missing {
        // Where the one above cannot be read it is somebody else's, who makes it last.
        drop(sync_dir(parent(made)));
    }
    Ok(())
}

/// Creates a directory as [`create_private_dir`], or takes one that is there and where nobody else could have put
/// anything: what stands in it is believed, be it a key or whom to trust.
///
/// # Errors
/// It cannot be made; others may write to it; it is somebody else's.
pub fn open_private_dir(dir: &Path) -> Result<(), IdentityError> {
    create_private_dir(dir)?;
    check_private_dir(dir)?;
    // Where nobody else may write, who can make a file is the owner, or root.
    let probe = dir.join(PROBE);
    let made = write_synced(&probe, b"", 0o600).and_then(|()| fs::remove_file(&probe));
    made.map_err(IdentityError::file("write to", dir))
}

/// Checks that nobody but its owner may write to a directory.
pub(crate) fn check_private_dir(dir: &Path) -> Result<(), IdentityError> {
    let facts = fs::metadata(dir).map_err(IdentityError::file("read", dir))?;
    if facts.permissions().mode() & WRITABLE == 0 {
        return Ok(());
    }
    Err(IdentityError::SharedDirectory(dir.to_owned()))
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
    fn a_directory_that_others_may_write_to_is_not_used() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let inner = dir.path().join("a/b");
        open_private_dir(&inner).expect("made");
        open_private_dir(&inner).expect("as it was made");
        assert_eq!(fs::read_dir(&inner).expect("listed").count(), 0);
        // A probe that a killed process left, or a link that somebody put in its place.
        std::os::unix::fs::symlink(dir.path().join("elsewhere"), inner.join(PROBE)).expect("linked");
        open_private_dir(&inner).expect("replaced");
        assert!(!dir.path().join("elsewhere").exists());
        for (mode, is_private) in
            [(0o755, true), (0o711, true), (0o720, false), (0o777, false), (0o1777, false)]
        {
            fs::set_permissions(&inner, fs::Permissions::from_mode(mode)).expect("set");
            let opened = open_private_dir(&inner);
            assert_eq!(opened.is_ok(), is_private, "{mode:o}: {opened:?}");
            if let Err(error) = opened {
                assert!(error.to_string().contains("others may write to"), "{error}");
            }
        }
    }

    #[test]
    fn a_failed_write_names_the_file() {
        let error = write_private(Path::new("/nonexistent/key.pem"), b"x").expect_err("refused");
        assert!(error.to_string().contains("/nonexistent/key.pem"), "{error}");
    }
}
