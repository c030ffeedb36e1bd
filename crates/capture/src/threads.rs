//! Threads of this process, of which some steps allow only one.

use std::time::{Duration, Instant};
use std::{fs, io};

/// How long the kernel may count a thread whose end was waited for: it tells of the end before it has cleaned up.
const PATIENCE: Duration = Duration::from_secs(1);
const LOOK: Duration = Duration::from_millis(1);

/// How many there are, once those that have ended are gone.
///
/// # Errors
/// `/proc` is not there.
pub(crate) fn count() -> io::Result<usize> {
    let start = Instant::now();
    loop {
        let threads = fs::read_dir("/proc/self/task")?.count();
        if threads == 1 || start.elapsed() > PATIENCE {
            return Ok(threads);
        }
        std::thread::sleep(LOOK);
    }
}
