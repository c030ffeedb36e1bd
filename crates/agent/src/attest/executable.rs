//! What a process runs: the file behind `/proc/PID/exe`, its path and its hash.
//!
//! The file is opened through the link, so that what is hashed is what runs, whatever stands at its path by now. The path
//! counts only where it leads to that same file for us: a process in a mount namespace of its own can have any file at
//! any path. Before and after, it is looked whether the process lives and runs that file.

use std::collections::HashMap;
use std::fs::{File, Metadata};
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use aws_lc_rs::digest::{Context, SHA256};

use super::{AttestError, Attestor, FileId, Selectors, UnixPeer, link_of};
use crate::hex::hex;

/// Executables whose hashes are kept: more than a host runs of those that ask for identities.
const MAX_HASHES: usize = 1024;
/// The largest executable that is hashed: it takes some seconds, where one of 100 MiB takes a fraction of one.
const MAX_BYTES: u64 = 4 << 30;
/// A file that was changed a moment ago may be changed again without its times telling.
const SETTLED: Duration = Duration::from_secs(2);
/// How much is read at a time.
const CHUNK: usize = 128 * 1024;

/// Attests processes of this host by `/proc`.
#[derive(Default)]
pub(crate) struct UnixAttestor {
    hashes: Mutex<HashMap<Version, Arc<str>>>,
}

/// One content of a file. The time of the last change of its inode cannot be set by its owner, the other one can.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Version {
    file: FileId,
    bytes: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

/// What is known of an executable.
#[derive(Default)]
struct Executable {
    file: Option<FileId>,
    path: Option<Arc<str>>,
    sha256: Option<Arc<str>>,
    unknown: Option<String>,
}

impl Attestor for UnixAttestor {
    fn attest(&self, peer: &UnixPeer) -> Result<Selectors, AttestError> {
        let executable = self.look(peer)?;
        let selectors = Selectors {
            uid: peer.uid,
            gid: peer.gid,
            executable: executable.path,
            sha256: executable.sha256,
            unknown: executable.unknown.map(Into::into),
            file: executable.file,
        };
        self.look_again(peer, &selectors)?;
        Ok(selectors)
    }

    fn look_again(&self, peer: &UnixPeer, before: &Selectors) -> Result<(), AttestError> {
        if let Some(file) = before.file {
            match std::fs::metadata(link_of(peer.pid)) {
                Ok(now) if FileId::of(&now) == file => {}
                Ok(_) => return Err(AttestError::Replaced(peer.pid)),
                // It ended, or dropped out of our sight by becoming another program.
                Err(_) if peer.is_alive() => return Err(AttestError::Replaced(peer.pid)),
                Err(_) => return Err(AttestError::Gone(peer.pid)),
            }
        }
        // Last: what was looked at by its number was this process, since it has lived all the while.
        if peer.is_alive() { Ok(()) } else { Err(AttestError::Gone(peer.pid)) }
    }
}

impl UnixAttestor {
    fn look(&self, peer: &UnixPeer) -> Result<Executable, AttestError> {
        let link = link_of(peer.pid);
        let opened = File::open(&link).and_then(|file| Ok((file.metadata()?, file)));
        let (facts, file) = match opened {
            Ok(opened) => opened,
            Err(_) if !peer.is_alive() => return Err(AttestError::Gone(peer.pid)),
            Err(error) => return Ok(Executable::unknown(unreadable(&error))),
        };
        if !facts.is_file() {
            return Ok(Executable::unknown("its executable is no file".to_owned()));
        }
        let mut found = Executable { file: Some(FileId::of(&facts)), ..Executable::default() };
        match path_of_link(&link, &facts) {
            Ok(path) => found.path = Some(path),
            Err(why) => found.unknown = Some(why),
        }
        match self.hash(&file, &facts) {
            Ok(sha256) => found.sha256 = Some(sha256),
            Err(error) => found.unknown = Some(format!("its executable cannot be hashed: {error}")),
        }
        Ok(found)
    }

    pub(super) fn hash(&self, file: &File, facts: &Metadata) -> io::Result<Arc<str>> {
        let version = Version::of(facts);
        if let Some(known) = self.known().get(&version) {
            return Ok(Arc::clone(known));
        }
        let sha256: Arc<str> = hash(file)?.into();
        let is_same = Version::of(&file.metadata()?) == version;
        if !is_same {
            return Err(io::Error::other("it is being written"));
        }
        if version.is_settled(SystemTime::now()) {
            let mut known = self.known();
            if known.len() >= MAX_HASHES {
                known.clear();
            }
            known.insert(version, Arc::clone(&sha256));
        }
        Ok(sha256)
    }

    /// How many hashes are kept.
    #[cfg(test)]
    pub(super) fn remembered(&self) -> usize {
        self.known().len()
    }

    fn known(&self) -> std::sync::MutexGuard<'_, HashMap<Version, Arc<str>>> {
        // Whoever panicked while holding it left a whole map.
        self.hashes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Executable {
    fn unknown(why: String) -> Self {
        Self { unknown: Some(why), ..Self::default() }
    }
}

impl FileId {
    fn of(facts: &Metadata) -> Self {
        Self { device: facts.dev(), inode: facts.ino() }
    }
}

impl Version {
    fn of(facts: &Metadata) -> Self {
        Self {
            file: FileId::of(facts),
            bytes: facts.len(),
            modified: (facts.mtime(), facts.mtime_nsec()),
            changed: (facts.ctime(), facts.ctime_nsec()),
        }
    }

    /// Whether its last change is long enough ago that another one would have another time.
    fn is_settled(&self, now: SystemTime) -> bool {
        let seconds = u64::try_from(self.changed.0).unwrap_or_default();
        let changed = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        now.duration_since(changed).is_ok_and(|age| age > SETTLED)
    }
}

/// The path of an executable, where it leads to the same file for us.
pub(super) fn path_of_link(link: &Path, facts: &Metadata) -> Result<Arc<str>, String> {
    let path = std::fs::read_link(link).map_err(|error| unreadable(&error))?;
    let Some(text) = path.to_str() else { return Err("the path of its executable is no text".to_owned()) };
    match std::fs::metadata(&path) {
        Ok(here) if FileId::of(&here) == FileId::of(facts) => Ok(text.into()),
        _ => Err(format!("its executable calls itself {text:?}, where the agent finds another file or none")),
    }
}

fn unreadable(error: &io::Error) -> String {
    if error.kind() == io::ErrorKind::PermissionDenied {
        return "its executable is hidden from the agent, which must be root, have CAP_SYS_PTRACE or be the same user"
            .to_owned();
    }
    format!("its executable cannot be read: {error}")
}

fn hash(file: &File) -> io::Result<String> {
    let mut digest = Context::new(&SHA256);
    let mut chunk = vec![0; CHUNK];
    let mut rest = file.take(MAX_BYTES + 1);
    let mut bytes = 0_u64;
    loop {
        match rest.read(&mut chunk)? {
            0 => break,
            read => {
                digest.update(&chunk[..read]);
                bytes += u64::try_from(read).unwrap_or(u64::MAX);
            }
        }
    }
    if bytes > MAX_BYTES {
        return Err(io::Error::other("it is larger than 4 GiB"));
    }
    Ok(hex(digest.finish().as_ref()))
}
