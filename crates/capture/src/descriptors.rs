//! Descriptors sent over Unix sockets, and those that were inherited.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use rustix::io::FdFlags;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags,
};

/// Most descriptors in one message. Source: unix(7), `SCM_MAX_FD`.
pub(crate) const MAX_SENT: usize = 253;

/// Sends bytes with descriptors, as one message.
///
/// # Errors
/// The other end is gone, or, on a socket that does not block, full.
pub(crate) fn send(socket: impl AsFd, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_SENT))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(io::Error::other("too many descriptors for one message"));
    }
    rustix::io::retry_on_intr(|| {
        rustix::net::sendmsg(&socket, &[IoSlice::new(bytes)], &mut ancillary, SendFlags::NOSIGNAL)
    })?;
    Ok(())
}

/// Receives a message with its descriptors, which close on exec. An empty one is the end.
///
/// # Errors
/// There is none yet, on a socket that does not block.
pub(crate) fn receive(socket: impl AsFd, buffer: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_SENT))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let received = rustix::io::retry_on_intr(|| {
        rustix::net::recvmsg(&socket, &mut [IoSliceMut::new(buffer)], &mut ancillary, RecvFlags::CMSG_CLOEXEC)
    })?;
    let descriptors = ancillary.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
        _ => None,
    });
    Ok((received.bytes, descriptors.flatten().collect()))
}

/// Takes over a descriptor that the parent process left open, and has it close on exec.
///
/// # Errors
/// There is no such descriptor.
#[expect(unsafe_code, reason = "descriptors come over an exec as numbers")]
pub(crate) fn inherit(number: RawFd) -> io::Result<OwnedFd> {
    if number <= 2 {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "standard streams are not handed over"));
    }
    // SAFETY: the parent opened it for this process and told nobody else its number; each number is taken once, since
    // taking sets the flag that is looked at below. The borrow ends before the descriptor is owned.
    let (borrowed, owned) = unsafe { (BorrowedFd::borrow_raw(number), || OwnedFd::from_raw_fd(number)) };
    if rustix::io::fcntl_getfd(borrowed)?.contains(FdFlags::CLOEXEC) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "that descriptor is this process's own"));
    }
    rustix::io::fcntl_setfd(borrowed, FdFlags::CLOEXEC)?;
    Ok(owned())
}

/// Lets a descriptor stay open when this process becomes another program.
///
/// # Errors
/// None that is known.
pub(crate) fn bequeath(descriptor: impl AsFd) -> io::Result<()> {
    Ok(rustix::io::fcntl_setfd(descriptor, FdFlags::empty())?)
}

/// Lets nothing that this process was started with, beside the standard streams, reach whoever it starts.
///
/// # Errors
/// The kernel is older than 5.11.
#[expect(unsafe_code, reason = "no library has it")]
pub(crate) fn keep_inherited() -> io::Result<()> {
    const FIRST: libc::c_uint = 3;
    // SAFETY: it only sets a flag of descriptors; nothing is closed, and no memory is passed.
    let set =
        unsafe { libc::syscall(libc::SYS_close_range, FIRST, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    if set == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
