//! TLS handshakes of a worker, bounded twice: how much of a scheduler turn they may use, and how many may wait.
//!
//! A step of a handshake is a quarter of a millisecond of public-key work that nothing interrupts. So at most
//! [`HANDSHAKE_STEPS`] are done before everything else that is ready had its turn; who waits for a peer waits for
//! nothing here. Past [`PENDING_HANDSHAKES`] the oldest is closed: those who are silent are the oldest, and a
//! well-behaved client is done long before.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;

use tokio::sync::{Notify, Semaphore};
use tokio::task::yield_now;

use crate::limits::{HANDSHAKE_STEPS, PENDING_HANDSHAKES};

/// The handshakes of one worker.
pub(crate) struct Handshakes {
    /// Steps that may still be done in this turn. First come, first served.
    steps: Semaphore,
    done: Cell<usize>,
    stepped: Notify,
    pending: RefCell<BTreeMap<u64, Rc<Notify>>>,
    arrivals: Cell<u64>,
}

/// A handshake that has not ended, until this is dropped.
pub(crate) struct Pending<'h> {
    handshakes: &'h Handshakes,
    number: u64,
    displaced: Rc<Notify>,
}

impl Handshakes {
    pub(crate) fn new() -> Self {
        Self {
            steps: Semaphore::new(HANDSHAKE_STEPS),
            done: Cell::new(0),
            stepped: Notify::new(),
            pending: RefCell::default(),
            arrivals: Cell::new(0),
        }
    }

    /// Takes a place among those that wait; past the limit the oldest loses its own.
    pub(crate) fn enter(&self) -> Pending<'_> {
        let number = self.arrivals.get();
        self.arrivals.set(number + 1);
        let displaced = Rc::new(Notify::new());
        let mut pending = self.pending.borrow_mut();
        if pending.len() >= PENDING_HANDSHAKES
            && let Some((_, oldest)) = pending.pop_first()
        {
            oldest.notify_one();
        }
        pending.insert(number, Rc::clone(&displaced));
        Pending { handshakes: self, number, displaced }
    }

    /// Does a handshake step by step, as turns allow.
    pub(crate) async fn pace<T>(&self, handshake: impl Future<Output = T>) -> T {
        let mut handshake = pin!(handshake);
        loop {
            self.take_step().await;
            if let Poll::Ready(done) = poll_fn(|cx| Poll::Ready(handshake.as_mut().poll(cx))).await {
                return done;
            }
            woken().await;
        }
    }

    async fn take_step(&self) {
        // The semaphore is never closed.
        if let Ok(step) = self.steps.acquire().await {
            step.forget();
        }
        self.done.set(self.done.get() + 1);
        self.stepped.notify_one();
    }

    /// Gives the steps of a turn back once everything that was ready had its own; runs for ever, one per worker.
    pub(crate) async fn keep_pace(&self) {
        loop {
            self.stepped.notified().await;
            yield_now().await;
            self.steps.add_permits(self.done.take());
        }
    }
}

impl Pending<'_> {
    /// Completes when the place is lost.
    pub(crate) async fn displaced(&self) {
        self.displaced.notified().await;
    }
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        self.handshakes.pending.borrow_mut().remove(&self.number);
    }
}

/// Completes when the task is woken again.
async fn woken() {
    let mut is_first = true;
    poll_fn(|_| if std::mem::take(&mut is_first) { Poll::Pending } else { Poll::Ready(()) }).await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;
    use tokio::task::{LocalSet, spawn_local};

    #[tokio::test]
    async fn past_the_limit_the_oldest_loses_its_place() {
        let handshakes = Handshakes::new();
        let mut all: Vec<_> = (0..PENDING_HANDSHAKES).map(|_| handshakes.enter()).collect();
        // One that has ended makes room.
        all.remove(1);
        all.push(handshakes.enter());
        assert!(all[0].displaced().now_or_never().is_none());
        all.push(handshakes.enter());
        all[0].displaced().await;
        assert!(all[1].displaced().now_or_never().is_none());
    }

    #[tokio::test]
    async fn others_have_their_turn_between_steps() {
        let tasks = LocalSet::new();
        let handshakes = Rc::new(Handshakes::new());
        let steps = Rc::new(Cell::new(0));
        tasks
            .run_until(async {
                let paced = Rc::clone(&handshakes);
                spawn_local(async move { paced.keep_pace().await });
                let mut all = Vec::new();
                for _ in 0..10 * HANDSHAKE_STEPS {
                    let (handshakes, steps) = (Rc::clone(&handshakes), Rc::clone(&steps));
                    all.push(spawn_local(async move {
                        handshakes.pace(async { steps.set(steps.get() + 1) }).await;
                    }));
                }
                let mut before = 0;
                while steps.get() < 10 * HANDSHAKE_STEPS {
                    yield_now().await;
                    assert!(steps.get() - before <= HANDSHAKE_STEPS, "{before} → {}", steps.get());
                    before = steps.get();
                }
                for task in all {
                    task.await.expect("done");
                }
            })
            .await;
    }
}
