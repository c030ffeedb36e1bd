//! An ordinary user: what must work without root is run as one, also where the tests themselves run as root.
//!
//! Such a user reads neither the repository nor root's temporary files, so what it needs is copied to where it can.

use std::os::unix::fs::{MetadataExt, chown};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

/// The user and group that root's tests use: Debian's `nobody` and `nogroup`.
const NOBODY: u32 = 65534;

/// Where an ordinary user finds programs on Debian: nothing that is only the administrator's.
const PATH: &str = "/usr/local/bin:/usr/bin:/bin";

/// Whether the tests run as root.
fn root() -> bool {
    std::fs::metadata("/proc/self").expect("/proc").uid() == 0
}

/// Makes a command the ordinary user's, with nothing of our environment.
pub fn ordinary<'a>(command: &'a mut Command, home: &Path) -> &'a mut Command {
    if root() {
        command.uid(NOBODY).gid(NOBODY);
    }
    command.env_clear().env("PATH", PATH).env("HOME", home).env("LANG", "C.UTF-8").current_dir(home)
}

/// Gives a file or folder, with all below it, to the ordinary user.
pub fn give(path: &Path) {
    if !root() {
        return;
    }
    chown(path, Some(NOBODY), Some(NOBODY)).unwrap_or_else(|e| panic!("chown {}: {e}", path.display()));
    if path.is_dir() {
        for entry in std::fs::read_dir(path).expect("a folder") {
            give(&entry.expect("an entry").path());
        }
    }
}

/// Copies a file or a folder to where the ordinary user reads it.
pub fn copy(from: &Path, to: &Path) {
    if from.is_dir() {
        std::fs::create_dir_all(to).unwrap_or_else(|e| panic!("{}: {e}", to.display()));
        for entry in std::fs::read_dir(from).expect("a folder") {
            let entry = entry.expect("an entry");
            copy(&entry.path(), &to.join(entry.file_name()));
        }
    } else {
        std::fs::copy(from, to).unwrap_or_else(|e| panic!("{} to {}: {e}", from.display(), to.display()));
    }
}
