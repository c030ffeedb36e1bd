//! The sidecar as its supervisor sees it: started, heard, ended, started again.

use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal};

use crate::descriptors::bequeath;
use crate::inherited::VARIABLE;
use crate::outcome::Outcome;
use crate::signals::Before;
use crate::sockets::Held;
use crate::wire::{FromSidecar, LINE_LIMIT, ToSidecar};

/// Before it is started again: doubled each time that it was not ready in between, up to the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// How long a message to it may take. One that does not read is not waited for.
const TELL_TIMEOUT: Duration = Duration::from_secs(1);

/// How a sidecar is started.
#[derive(Clone, Debug)]
pub(crate) struct Recipe {
    pub(crate) program: PathBuf,
    pub(crate) arguments: Vec<OsString>,
    /// Variables of this process that it does not have.
    pub(crate) without: Vec<OsString>,
    pub(crate) before: Before,
}

/// One that runs.
#[derive(Debug)]
pub(crate) struct Sidecar {
    child: Child,
    stream: UnixStream,
    unread: Vec<u8>,
}

/// How long to wait after so many failures in a row.
pub(crate) fn pause(failures: u32) -> Duration {
    FIRST_PAUSE.saturating_mul(2_u32.saturating_pow(failures.saturating_sub(1))).min(LONGEST_PAUSE)
}

impl Sidecar {
    /// Starts one, in a session of its own: what the terminal sends is for the program.
    ///
    /// # Errors
    /// It cannot be started.
    pub(crate) fn start(recipe: &Recipe, held: &Held) -> io::Result<Self> {
        let (ours, theirs) = UnixStream::pair()?;
        bequeath(&theirs)?;
        let numbers = serde_json::to_string(&held.bequest(theirs.as_raw_fd())?)?;
        let mut command = Command::new(&recipe.program);
        command.arg0("meshwork").args(&recipe.arguments).env(VARIABLE, numbers).stdin(Stdio::null());
        for variable in &recipe.without {
            command.env_remove(variable);
        }
        let child = detach(&mut command, recipe.before).spawn()?;
        ours.set_nonblocking(true)?;
        ours.set_write_timeout(Some(TELL_TIMEOUT))?;
        Ok(Self { child, stream: ours, unread: Vec::new() })
    }

    /// What it says; nothing where it says nothing more just now. Lines that are none are left out.
    ///
    /// # Errors
    /// It talks too much at once.
    pub(crate) fn hear(&mut self) -> io::Result<Vec<FromSidecar>> {
        let mut bytes = [0; 4096];
        loop {
            match self.stream.read(&mut bytes) {
                Ok(0) => break,
                Ok(count) => self.unread.extend_from_slice(&bytes[..count]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // Its end is told by the kernel.
                Err(_) => break,
            }
            if self.unread.len() > 2 * LINE_LIMIT {
                return Err(io::Error::other("the proxy says too much"));
            }
        }
        let Some(end) = self.unread.iter().rposition(|byte| *byte == b'\n') else { return Ok(Vec::new()) };
        let lines: Vec<u8> = self.unread.drain(..=end).collect();
        Ok(lines.split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok()).collect())
    }

    /// Says something to it.
    ///
    /// # Errors
    /// It is gone, or does not read.
    pub(crate) fn tell(&mut self, message: &ToSidecar) -> io::Result<()> {
        let mut line = serde_json::to_vec(message)?;
        line.push(b'\n');
        self.stream.set_nonblocking(false)?;
        let told = self.stream.write_all(&line);
        self.stream.set_nonblocking(true)?;
        told
    }

    /// Its process.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Its way here, for waiting.
    pub(crate) fn stream(&self) -> &UnixStream {
        &self.stream
    }

    /// How it ended; `None` while it runs.
    ///
    /// # Errors
    /// None that is known.
    pub(crate) fn ended(&mut self) -> io::Result<Option<Outcome>> {
        use std::os::unix::process::ExitStatusExt;
        let Some(status) = self.child.try_wait()? else { return Ok(None) };
        Ok(Outcome::of(status.code(), status.signal()))
    }

    /// Sends it a signal. It is a child that was not waited for, so that nobody else has its number.
    pub(crate) fn signal(&self, signal: Signal) {
        if let Some(pid) = Pid::from_raw(self.child.id().cast_signed()) {
            // It may just have ended.
            let _ = rustix::process::kill_process(pid, signal);
        }
    }

    /// Ends it at once.
    pub(crate) fn kill(mut self) {
        // It may just have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[expect(unsafe_code, reason = "sessions and parents' deaths can only be arranged in the child")]
fn detach(command: &mut Command, before: Before) -> &mut Command {
    let parent = rustix::process::getpid();
    let arrange = move || {
        rustix::process::setsid()?;
        // When the supervisor dies, the sidecar ends what it has begun, and itself.
        rustix::process::set_parent_process_death_signal(Some(Signal::TERM))?;
        if rustix::process::getppid() != Some(parent) {
            return Err(rustix::io::Errno::SRCH.into());
        }
        before.restore()
    };
    // SAFETY: system calls only, none of which allocates or locks.
    unsafe { command.pre_exec(arrange) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_bound() {
        let check = |failures, milliseconds| assert_eq!(pause(failures), Duration::from_millis(milliseconds));
        check(0, 100);
        check(1, 100);
        check(2, 200);
        check(5, 1600);
        check(7, 5000);
        check(u32::MAX, 5000);
    }
}
