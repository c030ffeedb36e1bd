//! A log file that survives being rotated away.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// How often the path is compared with the open file.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// The operator and their group: lines hold paths and peers' addresses.
const MODE: u32 = 0o640;

/// A file opened for appending, and opened anew once its path leads elsewhere.
#[derive(Debug)]
pub(super) struct LogFile {
    path: PathBuf,
    open: fs::File,
    checked: Instant,
}

impl LogFile {
    pub(super) fn open(path: PathBuf) -> io::Result<Self> {
        let open = append(&path)?;
        Ok(Self { path, open, checked: Instant::now() })
    }

    /// Opens the path again where it leads to another file, or to none. What cannot be opened again is kept, so
    /// that lines go on into the moved file.
    fn follow_path(&mut self) {
        if self.checked.elapsed() < CHECK_INTERVAL {
            return;
        }
        self.checked = Instant::now();
        let id = |m: fs::Metadata| (m.dev(), m.ino());
        let same = match (fs::metadata(&self.path), self.open.metadata()) {
            (Ok(path), Ok(file)) => id(path) == id(file),
            _ => false,
        };
        if !same && let Ok(file) = append(&self.path) {
            self.open = file;
        }
    }
}

fn append(path: &PathBuf) -> io::Result<fs::File> {
    fs::OpenOptions::new().append(true).create(true).mode(MODE).open(path)
}

impl Write for LogFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.follow_path();
        self.open.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.open.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moved_file_is_left_for_a_new_one() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let path = dir.path().join("access.log");
        let mut file = LogFile::open(path.clone()).expect("opens");
        file.write_all(b"one\n").expect("writes");
        fs::rename(&path, dir.path().join("access.log.1")).expect("moves");
        file.checked =
            Instant::now().checked_sub(2 * CHECK_INTERVAL).expect("the machine is up for long enough");
        file.write_all(b"two\n").expect("writes");
        assert_eq!(fs::read_to_string(&path).expect("new file"), "two\n");
        assert_eq!(fs::read_to_string(dir.path().join("access.log.1")).expect("old file"), "one\n");
    }
}
