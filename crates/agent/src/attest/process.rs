//! A process by descriptor.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use meshwork_capture::peer_process;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::sockopt::socket_peercred;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use tokio::net::UnixStream;

use super::{AttestError, UnixPeer};

/// The process that has connected, pinned. The kernel pins it when it connects, from 6.5 on; an older one gives its
/// number only, which means another process where the first has ended and its number has gone round since.
pub(super) fn peer_of(socket: &UnixStream) -> Result<UnixPeer, AttestError> {
    let (pid, uid, gid) = credentials(socket)?;
    let gone = || AttestError::Gone(pid.as_raw_nonzero().get().unsigned_abs());
    let process = match peer_process(socket) {
        Ok(process) => process,
        Err(error) if Errno::from_io_error(&error) == Some(Errno::NOPROTOOPT) => pinned(pid)?,
        Err(error) => match Errno::from_io_error(&error) {
            Some(Errno::SRCH | Errno::NODATA | Errno::INVAL) => return Err(gone()),
            _ => return Err(error.into()),
        },
    };
    let peer = UnixPeer { pid: pid.as_raw_nonzero().get().unsigned_abs(), uid, gid, process };
    if peer.is_alive() { Ok(peer) } else { Err(gone()) }
}

fn credentials(socket: &UnixStream) -> Result<(Pid, u32, u32), AttestError> {
    // Where there is none that we see, the kernel says 0, which rustix has no form for.
    let found = socket.peer_cred()?;
    let pid = found.pid().and_then(Pid::from_raw).ok_or(AttestError::Elsewhere)?;
    let certain = socket_peercred(socket).map_err(std::io::Error::from)?;
    Ok((pid, certain.uid.as_raw(), certain.gid.as_raw()))
}

fn pinned(pid: Pid) -> Result<OwnedFd, AttestError> {
    match pidfd_open(pid, PidfdFlags::empty()) {
        Ok(process) => Ok(process),
        Err(Errno::SRCH) => Err(AttestError::Gone(pid.as_raw_nonzero().get().unsigned_abs())),
        Err(errno) => Err(std::io::Error::from(errno).into()),
    }
}

/// Whether a process has not ended: its descriptor becomes readable when it does.
pub(super) fn is_alive(process: BorrowedFd<'_>) -> bool {
    let mut polled = [PollFd::from_borrowed_fd(process.as_fd(), PollFlags::IN)];
    let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
    match rustix::io::retry_on_intr(|| poll(&mut polled, Some(&at_once))) {
        Ok(_) => polled[0].revents().is_empty(),
        // Who cannot be looked at is nobody.
        Err(_) => false,
    }
}
