//! The clocks by which certificates are renewed; tests set the wall clock.

use std::sync::Arc;
use std::time::SystemTime;

use tokio::time::Instant;

use super::schedule::Now;

/// The wall clock.
#[derive(Clone)]
pub(crate) struct Clock(Arc<dyn Fn() -> SystemTime + Send + Sync>);

impl Clock {
    /// The system's.
    pub(crate) fn system() -> Self {
        Self(Arc::new(SystemTime::now))
    }

    /// One that is set by its maker.
    #[cfg(test)]
    pub(crate) fn set_by(read: impl Fn() -> SystemTime + Send + Sync + 'static) -> Self {
        Self(Arc::new(read))
    }

    /// What both clocks say.
    pub(crate) fn now(&self) -> Now {
        Now { wall: (self.0)(), steady: Instant::now() }
    }
}
