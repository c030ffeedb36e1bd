//! Who is at the other end of a Unix socket, by the kernel's word.
//!
//! A [`UnixPeer`] is the process that connected, pinned when it did: its number may be given to another process later,
//! the descriptor means this one for ever. User and group are those of that moment, too: a process that becomes another
//! one by `exec` of a set-user-ID program has not become its owner for us.
//!
//! An [`Attestor`] says what holds for it. What it says of the executable is true of that process at one moment. A
//! process of the same user may have started that very program to ask in its name, so the boundary between hostile
//! programs is the user; path and hash keep honest ones apart.

mod executable;
mod process;

use std::fmt;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use meshwork_model::mesh::UnixSelectors;
use tokio::net::UnixStream;

pub(crate) use executable::UnixAttestor;

/// The process that connected to a Unix socket.
#[derive(Debug)]
pub struct UnixPeer {
    /// Its number, as this process sees it.
    pub pid: u32,
    /// Its user when it connected.
    pub uid: u32,
    /// Its group when it connected.
    pub gid: u32,
    /// It itself.
    process: OwnedFd,
}

/// What holds for a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selectors {
    /// Its user.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// The path of its executable: the same file has it for this process.
    pub executable: Option<Arc<str>>,
    /// SHA-256 of its executable, 64 digits, lowercase.
    pub sha256: Option<Arc<str>>,
    /// Why the executable or its path is not known, where one is not.
    pub unknown: Option<Arc<str>>,
    /// The executable, where it is known.
    file: Option<FileId>,
}

/// A file, by device and inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct FileId {
    device: u64,
    inode: u64,
}

/// Says what holds for the process at the other end of a socket.
pub trait Attestor: Send + Sync + 'static {
    /// Looks at a process. May block, and read files.
    ///
    /// # Errors
    /// It cannot be told for certain who it is: it is gone, or became another program meanwhile.
    fn attest(&self, peer: &UnixPeer) -> Result<Selectors, AttestError>;

    /// Looks whether a process is still what it was. Does not block.
    ///
    /// # Errors
    /// It is gone, or another program.
    fn look_again(&self, peer: &UnixPeer, before: &Selectors) -> Result<(), AttestError>;
}

/// Why a process is nobody.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AttestError {
    /// It lives in another PID namespace, where this one cannot look at it.
    #[error("the process lives in a PID namespace that the agent does not see")]
    Elsewhere,
    /// It has ended.
    #[error("the process {0} has ended")]
    Gone(u32),
    /// It became another program.
    #[error("the process {0} became another program while it was looked at, or since")]
    Replaced(u32),
    /// The system refuses to tell.
    #[error("the system does not tell who has connected: {0}")]
    System(#[from] std::io::Error),
}

impl UnixPeer {
    /// The process that has connected to this socket.
    ///
    /// # Errors
    /// It is gone already, or of another PID namespace.
    pub fn of(socket: &UnixStream) -> Result<Self, AttestError> {
        process::peer_of(socket)
    }

    /// Whether it has not ended.
    pub fn is_alive(&self) -> bool {
        process::is_alive(self.process.as_fd())
    }
}

impl Selectors {
    /// Whether a registration is about this process: all that it asks for holds. One that asks for nothing is about
    /// nobody.
    pub fn satisfy(&self, wanted: &UnixSelectors) -> bool {
        let holds = |wanted: Option<&Arc<str>>, found: Option<&Arc<str>>| {
            wanted.is_none_or(|wanted| found == Some(wanted))
        };
        !wanted.is_empty()
            && wanted.uid.is_none_or(|uid| uid == self.uid)
            && wanted.gid.is_none_or(|gid| gid == self.gid)
            && holds(wanted.executable.as_ref(), self.executable.as_ref())
            && holds(wanted.sha256.as_ref(), self.sha256.as_ref())
    }
}

/// In the form in which a registration says it.
impl fmt::Display for Selectors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{{uid: {}, gid: {}", self.uid, self.gid)?;
        if let Some(executable) = &self.executable {
            write!(f, ", executable: {executable:?}")?;
        }
        if let Some(sha256) = &self.sha256 {
            write!(f, ", sha256: {sha256}")?;
        }
        f.write_str("}")?;
        match &self.unknown {
            Some(unknown) => write!(f, " ({unknown})"),
            None => Ok(()),
        }
    }
}

/// What a process that nobody needs to look at is: for those who know it already.
#[cfg(test)]
pub(crate) fn selectors(uid: u32, gid: u32, executable: Option<&str>, sha256: Option<&str>) -> Selectors {
    let (executable, sha256) = (executable.map(Into::into), sha256.map(Into::into));
    Selectors { uid, gid, executable, sha256, unknown: None, file: None }
}

fn link_of(pid: u32) -> std::path::PathBuf {
    Path::new("/proc").join(pid.to_string()).join("exe")
}

#[cfg(test)]
mod tests;
