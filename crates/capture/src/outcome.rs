//! How a program ended, and ending in the same way.

use std::process::ExitCode;

use nix::sys::signal::{SigHandler, SigSet, Signal};
use rustix::process::{Resource, Rlimit};
use serde::{Deserialize, Serialize};

/// How a program ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// By itself, with this code.
    Code(u8),
    /// By this signal.
    Signal(i32),
}

impl Outcome {
    /// By its code or its signal; `None` where there is neither: the process has only stopped.
    pub(crate) fn of(code: Option<i32>, signal: Option<i32>) -> Option<Self> {
        let code = code.map(|code| Self::Code(u8::try_from(code & 0xff).unwrap_or(u8::MAX)));
        code.or(signal.map(Self::Signal))
    }

    /// Ends this process in the same way, or says by which code it should.
    pub fn pass_on(self) -> ExitCode {
        match self {
            Self::Code(code) => ExitCode::from(code),
            Self::Signal(number) => {
                die_of(number);
                // As shells say it, where a signal does not do.
                ExitCode::from(u8::try_from(128 + number).unwrap_or(u8::MAX))
            }
        }
    }
}

#[expect(unsafe_code, reason = "no crate sets a signal's disposition without")]
fn die_of(number: i32) {
    let Ok(signal) = Signal::try_from(number) else { return };
    // The program has left its own image of memory, if any; this process has nothing to say.
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    let _ = rustix::process::setrlimit(Resource::Core, none);
    // SAFETY: the default is no handler, so that no code runs. SIGKILL and SIGSTOP are refused, and need none.
    let _ = unsafe { nix::sys::signal::signal(signal, SigHandler::SigDfl) };
    let mut set = SigSet::empty();
    set.add(signal);
    let _ = set.thread_unblock();
    let _ = nix::sys::signal::raise(signal);
}
