//! The agent's socket: made whole, never taken from somebody who answers on it, removed at the end.

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use tokio::net::UnixListener;
use tracing::warn;

use super::Socket;

/// Others than the owner.
const OTHERS: u32 = 0o077;
/// Others may write, without the bit by which each may remove only what is its own.
const WRITABLE: u32 = 0o022;
const STICKY: u32 = 0o1000;
/// The longest path of a socket, bytes. Source: unix(7), `sun_path`.
const MAX_PATH: usize = 107;

/// Why there is no socket.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SocketError {
    /// Somebody answers on it.
    #[error("somebody answers on {} already: an agent that runs, or give another --socket", .0.display())]
    Busy(PathBuf),
    /// Something else stands at its path.
    #[error("{} is there and is no socket: remove it, or give another --socket", .0.display())]
    NoSocket(PathBuf),
    /// Its path does not fit.
    #[error("the path {} is longer than the {MAX_PATH} bytes that a socket's may have", .0.display())]
    TooLong(PathBuf),
    /// The system refuses.
    #[error("cannot {action} {}: {source}", path.display())]
    System {
        /// What was tried.
        action: &'static str,
        /// With what.
        path: PathBuf,
        /// What came of it.
        source: io::Error,
    },
    /// Nobody is there.
    #[error("no agent answers on {}: start one by `meshwork agent`, or name its socket by --socket", path.display())]
    Nobody {
        /// The socket.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// What answers is no agent.
    #[error("what answers on {} is no agent: {problem}", path.display())]
    Answer {
        /// The socket.
        path: PathBuf,
        /// What it said.
        problem: String,
    },
}

/// A socket that is listened on; its file is removed when it is dropped.
pub(super) struct Listener {
    pub(super) socket: UnixListener,
    path: PathBuf,
    file: (u64, u64),
}

/// Makes the socket. To be called within a tokio runtime.
///
/// # Errors
/// Somebody answers on it, something else is there, or the system refuses.
pub(super) fn listen(wanted: &Socket) -> Result<Listener, SocketError> {
    let path = wanted.path.as_path();
    let name = path.file_name().ok_or_else(|| SocketError::NoSocket(path.to_owned()))?;
    let aside = path.with_file_name(format!(".{}.new", name.to_string_lossy()));
    if aside.as_os_str().len() > MAX_PATH {
        return Err(SocketError::TooLong(path.to_owned()));
    }
    wanted.make_folder()?;
    check_free(path)?;
    match fs::remove_file(&aside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(failed("remove", &aside)(error));
        }
        _ => {}
    }
    let socket = UnixListener::bind(&aside).map_err(failed("listen on", path))?;
    fs::set_permissions(&aside, Permissions::from_mode(wanted.mode))
        .map_err(failed("set the mode of", path))?;
    let facts = fs::symlink_metadata(&aside).map_err(failed("read", path))?;
    // Nobody sees it half made, and one that somebody left is replaced in the same moment.
    fs::rename(&aside, path).map_err(failed("make", path))?;
    Ok(Listener { socket, path: path.to_owned(), file: (facts.dev(), facts.ino()) })
}

/// Makes the folder where it is missing, and says where others could take the socket's place.
pub(super) fn make_folder(socket: &Socket) -> Result<(), SocketError> {
    let (folder, mode) = (socket.folder(), socket.mode);
    if !folder.exists() {
        let mode = if mode & OTHERS == 0 { 0o700 } else { 0o755 };
        let made = DirBuilder::new().recursive(true).mode(mode).create(folder);
        made.and_then(|()| fs::set_permissions(folder, Permissions::from_mode(mode)))
            .map_err(failed("make", folder))?;
    }
    let facts = fs::metadata(folder).map_err(failed("read", folder))?;
    if facts.mode() & WRITABLE != 0 && facts.mode() & STICKY == 0 {
        warn!(
            "others may write to {}: they could put a socket of their own in this one's place",
            folder.display()
        );
    }
    Ok(())
}

/// Makes sure that nobody answers there.
fn check_free(path: &Path) -> Result<(), SocketError> {
    let facts = match fs::symlink_metadata(path) {
        Ok(facts) => facts,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed("read", path)(error)),
    };
    if !facts.file_type().is_socket() {
        return Err(SocketError::NoSocket(path.to_owned()));
    }
    match connect_at_once(path) {
        // Where its queue is full, somebody has it who does not get on.
        Ok(()) | Err(Errno::WOULDBLOCK) => Err(SocketError::Busy(path.to_owned())),
        // It was left by one that was killed.
        Err(Errno::CONNREFUSED | Errno::NOENT) => Ok(()),
        // It is somebody else's.
        Err(errno) => Err(failed("use", path)(errno.into())),
    }
}

/// Connects to a socket, without waiting for a place in its queue.
fn connect_at_once(path: &Path) -> Result<(), Errno> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    connect(&socket, &SocketAddrUnix::new(path)?)
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> SocketError {
    let path = path.to_owned();
    move |source| SocketError::System { action, path, source }
}

impl Drop for Listener {
    fn drop(&mut self) {
        // Another one may stand there by now.
        let is_ours =
            fs::symlink_metadata(&self.path).is_ok_and(|facts| (facts.dev(), facts.ino()) == self.file);
        if is_ours {
            // Nobody is left who could do better.
            drop(fs::remove_file(&self.path));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(path: PathBuf, mode: u32) -> Socket {
        Socket { path, mode }
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).expect("there").mode() & 0o777
    }

    #[tokio::test]
    async fn its_folder_is_as_open_as_it_and_it_is_gone_at_the_end() {
        let dir = tempfile::tempdir().expect("a directory");
        for (socket, folder) in [(0o666, 0o755), (0o600, 0o700)] {
            let path = dir.path().join(format!("{socket:o}/agent.sock"));
            let listener = listen(&wanted(path.clone(), socket)).expect("made");
            assert_eq!((mode(&path), mode(path.parent().expect("a folder"))), (socket, folder));
            drop(listener);
            assert!(!path.exists());
            assert_eq!(fs::read_dir(path.parent().expect("a folder")).expect("listed").count(), 0);
        }
    }

    #[tokio::test]
    async fn one_that_somebody_answers_on_is_not_taken_and_one_that_was_left_is() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("agent.sock");
        let first = listen(&wanted(path.clone(), 0o600)).expect("made");
        let busy = listen(&wanted(path.clone(), 0o600)).err().expect("refused");
        assert!(matches!(busy, SocketError::Busy(_)), "{busy}");
        drop(first);
        // As a process that was killed leaves it.
        drop(std::os::unix::net::UnixListener::bind(&path).expect("bound"));
        let second = listen(&wanted(path.clone(), 0o600)).expect("taken over");
        // The end of an earlier one does not take the later one's away.
        fs::remove_file(&path).expect("removed");
        let third = listen(&wanted(path.clone(), 0o600)).expect("made");
        drop(second);
        assert!(path.exists());
        drop(third);
    }

    #[tokio::test]
    async fn one_whose_owner_does_not_get_on_is_not_waited_for() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("agent.sock");
        let stuck = rustix::net::socket(AddressFamily::UNIX, SocketType::STREAM, None).expect("a socket");
        rustix::net::bind(&stuck, &SocketAddrUnix::new(&path).expect("a path")).expect("bound");
        rustix::net::listen(&stuck, 0).expect("listens");
        let begun = std::time::Instant::now();
        let mut waiting = Vec::new();
        while let Ok(stream) = nonblocking(&path) {
            waiting.push(stream);
        }
        let busy = listen(&wanted(path, 0o600)).err().expect("refused");
        assert!(matches!(busy, SocketError::Busy(_)), "{busy}");
        assert!(!waiting.is_empty() && begun.elapsed() < std::time::Duration::from_secs(30));
    }

    fn nonblocking(path: &Path) -> Result<std::os::fd::OwnedFd, Errno> {
        let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::NONBLOCK, None)?;
        connect(&socket, &SocketAddrUnix::new(path)?).map(|()| socket)
    }

    #[tokio::test]
    async fn what_is_no_socket_is_left_alone() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("agent.sock");
        fs::write(&path, "somebody's").expect("written");
        let refusal = listen(&wanted(path.clone(), 0o600)).err().expect("refused");
        assert!(matches!(refusal, SocketError::NoSocket(_)), "{refusal}");
        assert_eq!(fs::read_to_string(&path).expect("there"), "somebody's");
        let long = dir.path().join("x".repeat(MAX_PATH));
        let refusal = listen(&wanted(long, 0o600)).err().expect("refused");
        assert!(matches!(refusal, SocketError::TooLong(_)), "{refusal}");
    }
}
