//! A log line that says something at most once a second, and how often it was held back.

use std::cell::Cell;

use tokio::time::Instant;

use crate::limits::TELL_EVERY;

/// Events of one kind.
#[derive(Default)]
pub(crate) struct Occasion {
    told: Cell<Option<Instant>>,
    untold: Cell<u64>,
}

impl Occasion {
    /// Whether this event is told, and how many were not since the last that was.
    pub(crate) fn arises(&self) -> Option<u64> {
        let now = Instant::now();
        if self.told.get().is_some_and(|told| now.duration_since(told) < TELL_EVERY) {
            self.untold.set(self.untold.get() + 1);
            return None;
        }
        self.told.set(Some(now));
        Some(self.untold.take())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_is_held_back_is_counted() {
        let occasion = Occasion::default();
        assert_eq!(occasion.arises(), Some(0));
        assert_eq!(occasion.arises(), None);
        assert_eq!(occasion.arises(), None);
        tokio::time::advance(TELL_EVERY).await;
        assert_eq!(occasion.arises(), Some(2));
        tokio::time::advance(TELL_EVERY).await;
        assert_eq!(occasion.arises(), Some(0));
    }
}
