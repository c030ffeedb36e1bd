//! A directory of the authority: the steps in which it is changed, each done wholly or not at all, and its lock.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use zeroize::Zeroizing;

use crate::{IdentityError, files};

/// Held around changes of the directory, by all who share it.
const LOCK: &str = "lock";
/// A change takes some milliseconds; who waits longer waits for a process that hangs.
const PATIENCE: Duration = Duration::from_secs(10);
/// Between two looks at the lock.
const PAUSE: Duration = Duration::from_millis(20);
/// The largest file that is read: keys and certificates have some kilobytes.
const MAX_BYTES: u64 = 1 << 20;

/// A directory; names are relative to it.
pub(super) struct Disk {
    dir: PathBuf,
    /// How many steps are left before all fail, as if the process had been killed.
    #[cfg(test)]
    fuse: Option<std::sync::Arc<std::sync::atomic::AtomicUsize>>,
}

impl Disk {
    pub(super) fn new(dir: &Path) -> Self {
        Self {
            dir: dir.to_owned(),
            #[cfg(test)]
            fuse: None,
        }
    }

    #[cfg(test)]
    pub(super) fn with_fuse(dir: &Path, fuse: std::sync::Arc<std::sync::atomic::AtomicUsize>) -> Self {
        Self { dir: dir.to_owned(), fuse: Some(fuse) }
    }

    pub(super) fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.dir.join(name)
    }

    pub(super) fn has(&self, name: impl AsRef<Path>) -> bool {
        self.path(name).exists()
    }

    /// The names in a directory, sorted; none where it is not there.
    pub(super) fn names(&self, dir: &str) -> Result<Vec<String>, IdentityError> {
        let dir = self.path(dir);
        let entries = match fs::read_dir(&dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(IdentityError::file("read", &dir)(error)),
        };
        let names: Result<Vec<_>, _> =
            entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect();
        let mut names = names.map_err(IdentityError::file("read", &dir))?;
        names.sort();
        Ok(names)
    }

    /// Reads a file of the authority.
    ///
    /// # Errors
    /// It is missing, cannot be read, or does not parse; each by name.
    pub(super) fn read<T>(
        &self,
        name: impl AsRef<Path>,
        parse: impl FnOnce(&str) -> Result<T, IdentityError>,
    ) -> Result<T, IdentityError> {
        let file = self.path(name);
        match text(&file).and_then(|text| parse(&text).map_err(|error| format!("damaged ({error})"))) {
            Ok(parsed) => Ok(parsed),
            Err(problem) => Err(IdentityError::AuthorityFile { file, problem }),
        }
    }

    /// Makes a directory and those above it, for its owner only; one that is there must be the owner's alone.
    pub(super) fn create_dir(&self, name: &str) -> Result<(), IdentityError> {
        let dir = self.path(name);
        if dir.is_dir() {
            return files::check_private_dir(&dir);
        }
        #[cfg(test)]
        self.step(&dir)?;
        files::create_private_dir(&dir)?;
        files::sync_dir(files::parent(&dir))
    }

    /// Writes a file for its owner only, in the place of the one before.
    pub(super) fn write(&self, name: impl AsRef<Path>, content: &[u8]) -> Result<(), IdentityError> {
        let path = self.path(name);
        #[cfg(test)]
        self.step(&path)?;
        files::write_private(&path, content)
    }

    /// Gives a file or directory another name in the same directory.
    pub(super) fn rename(&self, from: &Path, to: &Path) -> Result<(), IdentityError> {
        let (from, to) = (self.path(from), self.path(to));
        #[cfg(test)]
        self.step(&from)?;
        fs::rename(&from, &to).map_err(IdentityError::file("rename", &from))?;
        files::sync_dir(files::parent(&to))
    }

    /// Removes a file; it may be gone already.
    pub(super) fn remove_file(&self, name: impl AsRef<Path>) -> Result<(), IdentityError> {
        let path = self.path(name);
        #[cfg(test)]
        self.step(&path)?;
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(IdentityError::file("remove", &path)(error))
            }
            _ => files::sync_dir(files::parent(&path)),
        }
    }

    /// Removes a directory that has only files.
    pub(super) fn remove_dir(&self, name: &Path) -> Result<(), IdentityError> {
        let dir = self.path(name);
        for entry in fs::read_dir(&dir).map_err(IdentityError::file("read", &dir))? {
            let entry = entry.map_err(IdentityError::file("read", &dir))?;
            self.remove_file(name.join(entry.file_name()))?;
        }
        #[cfg(test)]
        self.step(&dir)?;
        fs::remove_dir(&dir).map_err(IdentityError::file("remove", &dir))?;
        files::sync_dir(files::parent(&dir))
    }

    /// Waits until nobody changes the directory, and keeps others from it.
    pub(super) fn lock_shared(&self) -> Result<Lock, IdentityError> {
        self.lock(File::try_lock_shared)
    }

    /// Waits until nobody else reads or changes the directory.
    pub(super) fn lock_exclusive(&self) -> Result<Lock, IdentityError> {
        self.lock(File::try_lock)
    }

    fn lock(&self, lock: impl Fn(&File) -> Result<(), TryLockError>) -> Result<Lock, IdentityError> {
        let path = self.path(LOCK);
        let Some(file) = open_lock(&path)? else { return Ok(Lock { _file: None }) };
        let begin = Instant::now();
        loop {
            match lock(&file) {
                Ok(()) => return Ok(Lock { _file: Some(file) }),
                Err(TryLockError::WouldBlock) if begin.elapsed() < PATIENCE => std::thread::sleep(PAUSE),
                Err(TryLockError::WouldBlock) => return Err(IdentityError::AuthorityBusy(self.dir.clone())),
                Err(TryLockError::Error(error)) => return Err(IdentityError::file("lock", &path)(error)),
            }
        }
    }

    /// Fails once the fuse has burnt, and from then on: a process that is killed cleans nothing up either. What was to
    /// be written is there in part, under the name that parts have.
    #[cfg(test)]
    fn step(&self, path: &Path) -> Result<(), IdentityError> {
        use std::sync::atomic::Ordering::Relaxed;
        let Some(fuse) = &self.fuse else { return Ok(()) };
        if fuse.load(Relaxed) > 0 {
            fuse.fetch_sub(1, Relaxed);
            return Ok(());
        }
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.contains('.') && !name.starts_with('.') {
            drop(files::write_private(&path.with_file_name(format!(".{name}.new")), b"-----BEGIN"));
        }
        Err(IdentityError::file("write", path)(io::ErrorKind::Interrupted.into()))
    }
}

/// The lock, held for as long as this is kept.
pub(super) struct Lock {
    /// None where the directory can only be read: nobody changes anything then.
    _file: Option<File>,
}

fn open_lock(path: &Path) -> Result<Option<File>, IdentityError> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let mut options = File::options();
    match options.create(true).truncate(false).read(true).write(true).mode(0o600).open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied
            ) =>
        {
            Ok(File::open(path).ok())
        }
        Err(error) => Err(IdentityError::file("open", path)(error)),
    }
}

/// The text of a file, wiped after use; in words what keeps it from being read.
pub(super) fn text(file: &Path) -> Result<Zeroizing<String>, String> {
    let unreadable = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => "missing".to_owned(),
        _ => format!("not readable ({error})"),
    };
    let size = fs::metadata(file).map_err(unreadable)?.len();
    if size > MAX_BYTES {
        return Err(format!("too large: {size} bytes, and {MAX_BYTES} at most are read"));
    }
    fs::read_to_string(file).map(Zeroizing::new).map_err(unreadable)
}

/// Whether a name in a directory is that of its lock.
pub(super) fn is_lock(name: &str) -> bool {
    name == LOCK
}
