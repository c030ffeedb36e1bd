//! A deadline that is cheap to move.
//!
//! Setting a later deadline touches nothing: the timer fires early once, sees that it is not time yet, and is armed
//! again. So a busy connection arms the runtime's timer once per time-out, not once per request.

use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use tokio::time::{Instant, Sleep, sleep_until};

/// A deadline, or none. Its memory is kept from use to use.
#[derive(Default)]
pub(crate) struct Timer {
    deadline: Option<Instant>,
    sleep: Option<Pin<Box<Sleep>>>,
    /// Who will be woken. Asking again on the same one's behalf costs a look, not a registration.
    waker: Option<Waker>,
}

impl Timer {
    /// Moves the deadline; `None` never comes.
    pub(crate) fn set(&mut self, deadline: Option<Instant>) {
        self.deadline = deadline;
    }

    /// Moves the deadline to an earlier one; a later one changes nothing.
    pub(crate) fn hasten(&mut self, deadline: Instant) {
        self.deadline = Some(self.deadline.map_or(deadline, |known| known.min(deadline)));
    }

    /// Ready once the deadline has passed.
    pub(crate) fn poll_expired(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(deadline) = self.deadline else { return Poll::Pending };
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        if sleep.deadline() > deadline {
            sleep.as_mut().reset(deadline);
            self.waker = None;
        }
        if !sleep.is_elapsed() && self.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            return Poll::Pending;
        }
        while sleep.as_mut().poll(cx).is_ready() {
            if sleep.deadline() >= deadline {
                return Poll::Ready(());
            }
            sleep.as_mut().reset(deadline);
        }
        self.waker = Some(cx.waker().clone());
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;
    use std::time::Duration;

    #[tokio::test(start_paused = true)]
    async fn a_deadline_may_move_both_ways() {
        let start = Instant::now();
        let mut timer = Timer::default();
        let expired = async |timer: &mut Timer| poll_fn(|cx| timer.poll_expired(cx)).await;
        for (armed, moved) in [(10, 20), (20, 10), (10, 10)] {
            timer.set(Some(Instant::now() + Duration::from_secs(armed)));
            let _ = futures_util::poll!(poll_fn(|cx| timer.poll_expired(cx)));
            let until = Instant::now() + Duration::from_secs(moved);
            timer.set(Some(until));
            expired(&mut timer).await;
            assert_eq!(Instant::now().duration_since(until), Duration::ZERO);
        }
        assert_eq!(start.elapsed(), Duration::from_secs(40));
    }
}
