//! The rate at which clients that connect are served.
//!
//! When a control plane starts anew, all of its clients come back within moments, and each needs a translation of its
//! own and most of its resources. They are let in one after the other: who waits keeps the connection, with nothing but
//! its first message read, and those that are served already are not slowed down.

use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::{Instant, sleep_until};

/// How far apart streams are let in that come at once: 400 a second. The first answers to one cost about a millisecond,
/// so that a herd leaves half of one core to others, and 1,000 clients are let in within two seconds.
const INTERVAL: Duration = Duration::from_micros(2500);
/// How many may come at once before that: what restarts together on one machine does not wait.
const BURST: u32 = 200;

/// Lets streams in: a token bucket, first come, first served.
pub(super) struct Admission {
    /// When the next one may come in, if not too far in the past.
    next: Mutex<Instant>,
}

impl Admission {
    /// With all of the burst at hand.
    pub(super) fn new() -> Self {
        Self { next: Mutex::new(Instant::now()) }
    }

    /// Waits for its turn.
    ///
    /// # Cancel safety
    /// Who stops waiting loses its place, and costs the others none.
    pub(super) async fn admit(&self) {
        let mut next = self.next.lock().await;
        // As if it had been `BURST` ago; the last of them then comes in now.
        let due = |next: Instant| next.checked_sub(INTERVAL * (BURST - 1)).unwrap_or(next);
        sleep_until(due(*next)).await;
        *next = (*next).max(Instant::now()) + INTERVAL;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    /// How long it takes until so many are in.
    async fn time_of(admission: &Arc<Admission>, streams: u32) -> Duration {
        let start = Instant::now();
        for _ in 0..streams {
            admission.admit().await;
        }
        start.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn a_burst_is_let_in_at_once_and_a_herd_at_a_bounded_rate() {
        let admission = Arc::new(Admission::new());
        assert_eq!(time_of(&admission, BURST).await, Duration::ZERO);
        let rest = time_of(&admission, 800).await;
        assert!(rest >= INTERVAL * 800 && rest < INTERVAL * 1000, "{rest:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn tokens_come_back_up_to_the_burst() {
        let admission = Arc::new(Admission::new());
        time_of(&admission, BURST).await;
        tokio::time::sleep(Duration::from_mins(1)).await;
        assert_eq!(time_of(&admission, BURST).await, Duration::ZERO);
        assert!(time_of(&admission, 1).await > Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn who_stops_waiting_costs_the_others_nothing() {
        let admission = Arc::new(Admission::new());
        time_of(&admission, BURST).await;
        let waiting: Vec<_> = (0..50)
            .map(|_| {
                let admission = Arc::clone(&admission);
                tokio::spawn(async move { admission.admit().await })
            })
            .collect();
        tokio::task::yield_now().await;
        waiting.iter().for_each(tokio::task::JoinHandle::abort);
        assert!(time_of(&admission, 1).await <= INTERVAL * 2);
    }
}
