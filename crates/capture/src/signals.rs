//! Signals as things to read, for processes that wait for several things and have one thread.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::process::{Resource, Rlimit};

/// Those that are read. Those that stop a process do so.
const READ: [Signal; 7] = [
    Signal::SIGINT,
    Signal::SIGQUIT,
    Signal::SIGTERM,
    Signal::SIGHUP,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGCHLD,
];

/// A signal that came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Came {
    /// Its number.
    pub(crate) number: i32,
    /// Whether a process sent it; else it was the kernel, such as by a key of the terminal, and then to the whole
    /// process group.
    pub(crate) from_process: bool,
}

/// How this process was before, for the programs that it starts: its mask of signals, and how many descriptors it may
/// have.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Before {
    mask: SigSet,
    descriptors: [Option<u64>; 2],
}

impl Before {
    /// Has the calling process be as this one was. Safe between fork and exec.
    pub(crate) fn restore(self) -> io::Result<()> {
        let [current, maximum] = self.descriptors;
        rustix::process::setrlimit(Resource::Nofile, Rlimit { current, maximum })?;
        Ok(self.mask.thread_set_mask()?)
    }
}

/// Holds signals back from now on, for [`Signals`] to read them; and lets this process have as many descriptors as it may,
/// since those that are under way in messages count for all of a user's processes together.
///
/// # Errors
/// None that is known.
pub(crate) fn hold() -> io::Result<Before> {
    let mask = SigSet::thread_get_mask()?;
    set().thread_block()?;
    let Rlimit { current, maximum } = rustix::process::getrlimit(Resource::Nofile);
    rustix::process::setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })?;
    Ok(Before { mask, descriptors: [current, maximum] })
}

fn set() -> SigSet {
    READ.into_iter().collect()
}

/// The signals that came.
#[derive(Debug)]
pub(crate) struct Signals(SignalFd);

impl Signals {
    /// Opens the way to this process's signals, which must be held back.
    ///
    /// # Errors
    /// No descriptors are left.
    pub(crate) fn open() -> io::Result<Self> {
        Ok(Self(SignalFd::with_flags(&set(), SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?))
    }

    /// The next that came; `None` where none did.
    ///
    /// # Errors
    /// None that is known.
    pub(crate) fn next(&self) -> io::Result<Option<Came>> {
        let Some(read) = self.0.read_signal()? else { return Ok(None) };
        let number = i32::try_from(read.ssi_signo).unwrap_or_default();
        // Source: sigaction(2), `si_code`: what processes send is not positive.
        Ok(Some(Came { number, from_process: read.ssi_code <= 0 }))
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
