//! How renewing a certificate goes, for people: whoever renews notes it, whoever is asked tells it. Nothing is decided by it.

use std::time::SystemTime;

/// How renewing goes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Renewal {
    /// When the next certificate is asked for, about; `None` where it is not this process that asks: it follows files.
    pub due: Option<SystemTime>,
    /// When this process got the current one; `None` where it was there when the process started.
    pub last: Option<SystemTime>,
    /// When a try failed last, and why; it stays when a later one succeeds.
    pub failure: Option<(SystemTime, String)>,
}
