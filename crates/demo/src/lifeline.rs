//! The bond between the demo and its children: a pipe whose write end only the demo holds.
//!
//! Each child's standard input is the pipe's read end. Nothing is ever written to it; when the demo is gone, also
//! by SIGKILL, the kernel closes the write end and each child reads the end of the file. A parent-death signal
//! would not do: it fires when the spawning *thread* ends.

use std::io::{PipeReader, PipeWriter, Read};
use std::process::Stdio;

/// The variable that tells a child that its standard input is a lifeline.
pub const VARIABLE: &str = "MESHWORK_LIFELINE";
/// The value of [`VARIABLE`].
pub const STDIN: &str = "stdin";

/// The demo's end; children live until it is dropped.
#[derive(Debug)]
pub struct Lifeline {
    reader: PipeReader,
    _writer: PipeWriter,
}

impl Lifeline {
    /// Opens a lifeline; both ends close on exec, so that no child holds the write end.
    ///
    /// # Errors
    /// The process has no file descriptor left.
    pub fn open() -> std::io::Result<Self> {
        let (reader, writer) = std::io::pipe()?;
        Ok(Self { reader, _writer: writer })
    }

    /// A child's standard input. The child needs [`VARIABLE`] set to [`STDIN`] too.
    ///
    /// # Errors
    /// The process has no file descriptor left.
    pub fn stdin(&self) -> std::io::Result<Stdio> {
        Ok(Stdio::from(self.reader.try_clone()?))
    }
}

/// Whether this process's standard input is a lifeline.
pub fn is_given() -> bool {
    std::env::var_os(VARIABLE).is_some_and(|value| value == STDIN)
}

/// Ends this process when the demo that started it ends. Does nothing in a process that no demo started.
///
/// Call it first thing in `main`, before a runtime exists.
pub fn watch() {
    if !is_given() {
        return;
    }
    let started = std::thread::Builder::new().name("lifeline".to_owned()).spawn(|| {
        until_closed(std::io::stdin());
        std::process::exit(1);
    });
    if started.is_err() {
        // Without its watch the process could outlive the demo.
        std::process::exit(1);
    }
}

/// Returns when the other end is closed.
fn until_closed(mut pipe: impl Read) {
    let mut byte = [0];
    loop {
        match pipe.read(&mut byte) {
            Ok(1..) => {}
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Ok(0) | Err(_) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn a_child_reads_the_end_when_the_demo_lets_go() {
        let lifeline = Lifeline::open().expect("pipe");
        // `cat` ends when its standard input does.
        let mut child = Command::new("cat").stdin(lifeline.stdin().expect("stdin")).spawn().expect("cat");
        let mut sibling = Command::new("cat").stdin(lifeline.stdin().expect("stdin")).spawn().expect("cat");
        assert!(child.try_wait().expect("wait").is_none());
        drop(lifeline);
        assert!(child.wait().expect("wait").success());
        assert!(sibling.wait().expect("wait").success());
    }

    #[test]
    fn the_watch_outlives_bytes_and_ends_with_the_pipe() {
        until_closed(&b"noise"[..]);
    }
}
