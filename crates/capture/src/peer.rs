//! The process that connected to a Unix socket, as a descriptor that means it whatever becomes of its number.

use std::io;
use std::mem::size_of;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};

/// Gives the process that connected to a Unix socket, pinned by the kernel at that moment. The descriptor closes on exec.
///
/// # Errors
/// `ENOPROTOOPT` where the kernel is older than 6.5, `ENODATA` and `ESRCH` where the process is gone already.
#[expect(unsafe_code, reason = "no library has it")]
pub fn peer_process(socket: impl AsFd) -> io::Result<OwnedFd> {
    let mut number: RawFd = -1;
    let mut length = libc::socklen_t::try_from(size_of::<RawFd>()).map_err(io::Error::other)?;
    // SAFETY: both pointers are to values of this frame, and `length` is the size of the first.
    let outcome = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERPIDFD,
            (&raw mut number).cast(),
            &raw mut length,
        )
    };
    if outcome != 0 {
        return Err(io::Error::last_os_error());
    }
    if number < 0 {
        return Err(io::Error::other("the kernel gave no descriptor"));
    }
    // SAFETY: the kernel has opened it for this call, and nobody else knows of it.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn a_peer_is_pinned_where_the_kernel_can() {
        let (ours, _theirs) = UnixStream::pair().expect("a pair");
        match peer_process(&ours) {
            Ok(process) => {
                let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", process.as_raw_fd()));
                let expected = format!("Pid:\t{}\n", std::process::id());
                assert!(info.expect("there").contains(&expected));
            }
            Err(error) => assert_eq!(error.raw_os_error(), Some(libc::ENOPROTOOPT), "{error}"),
        }
    }
}
