//! The terminal's foreground, given back as it was found.

use std::fs::File;

use nix::sys::signal::{SigSet, Signal};

/// The controlling terminal, where this process's group was in its foreground.
#[derive(Debug)]
pub(crate) struct Terminal(Option<File>);

impl Terminal {
    /// Remembers whether this process's group has the terminal.
    pub(crate) fn here() -> Self {
        let terminal = File::options().read(true).write(true).open("/dev/tty").ok();
        Self(terminal.filter(has_foreground))
    }

    /// Takes the terminal back from a group that the program, such as a shell, had put into the foreground.
    pub(crate) fn take_back(&self) {
        let Some(terminal) = self.0.as_ref().filter(|terminal| !has_foreground(terminal)) else { return };
        // A group in the background is stopped for it, unless it holds that signal back.
        let mut set = SigSet::empty();
        set.add(Signal::SIGTTOU);
        if set.thread_block().is_ok() {
            // A terminal that is gone needs no foreground.
            let _ = rustix::termios::tcsetpgrp(terminal, rustix::process::getpgrp());
            let _ = set.thread_unblock();
        }
    }
}

fn has_foreground(terminal: &File) -> bool {
    rustix::termios::tcgetpgrp(terminal).is_ok_and(|group| group == rustix::process::getpgrp())
}
