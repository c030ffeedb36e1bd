//! How many certificates and tokens are signed at once.
//!
//! After an outage, or when a clock jumps, a whole mesh asks in one moment. As many are served at once as there are
//! cores, some wait for their turn, and the rest is told to come back: who asks again after a pause with some chance in
//! it, as our agents do, is served within seconds. Those who have proven nothing yet have turns of their own, so that
//! they keep nobody from renewing.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;
use tonic::Status;
use tonic::metadata::MetadataValue;

/// Calls that wait, for each that is served: at some thousand signatures a second, well within the patience below.
const WAITING_PER_TURN: usize = 64;
/// Who waited for that long is told to come back: clients give up after 10 s.
const PATIENCE: Duration = Duration::from_secs(3);
/// When to come back, at the earliest.
const COME_BACK: Duration = Duration::from_secs(1);
/// Where clients look for that. Source: gRFC A6.
const PUSHBACK: &str = "grpc-retry-pushback-ms";

/// The turns of a control plane.
#[derive(Clone, Debug)]
pub(crate) struct Turns {
    proven: Lane,
    anonymous: Lane,
}

#[derive(Clone, Debug)]
struct Lane {
    serving: Arc<Semaphore>,
    /// Those who are served, and those who wait.
    inside: Arc<Semaphore>,
}

/// Somebody's turn, for as long as it is kept.
#[derive(Debug)]
pub(super) struct Turn {
    _serving: OwnedSemaphorePermit,
    _inside: OwnedSemaphorePermit,
}

impl Turns {
    pub(super) fn new(cores: usize) -> Self {
        Self { proven: Lane::new(cores.max(2)), anonymous: Lane::new((cores / 2).max(1)) }
    }

    /// Waits for a turn.
    ///
    /// # Errors
    /// There are too many before it: come back.
    ///
    /// # Cancel safety
    /// Whoever goes leaves the place to others.
    pub(super) async fn take(&self, is_proven: bool) -> Result<Turn, Status> {
        let lane = if is_proven { &self.proven } else { &self.anonymous };
        let inside = Arc::clone(&lane.inside).try_acquire_owned().map_err(|_| come_back())?;
        match timeout(PATIENCE, Arc::clone(&lane.serving).acquire_owned()).await {
            Ok(Ok(serving)) => Ok(Turn { _serving: serving, _inside: inside }),
            _ => Err(come_back()),
        }
    }
}

impl Lane {
    fn new(serving: usize) -> Self {
        let inside = serving * (1 + WAITING_PER_TURN);
        Self { serving: Arc::new(Semaphore::new(serving)), inside: Arc::new(Semaphore::new(inside)) }
    }
}

fn come_back() -> Status {
    let words = "the control plane has too many requests for certificates at once; ask again in some seconds";
    let mut status = Status::unavailable(words);
    if let Ok(pause) = MetadataValue::try_from(COME_BACK.as_millis().to_string()) {
        status.metadata_mut().insert(PUSHBACK, pause);
    }
    status
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn beyond_what_waits_callers_are_told_to_come_back() {
        let turns = Turns::new(4);
        let mut served = Vec::new();
        for _ in 0..4 {
            served.push(turns.take(true).await.expect("at once"));
        }
        let waiting: Vec<_> = (0..4 * WAITING_PER_TURN)
            .map(|_| {
                let turns = turns.clone();
                tokio::spawn(async move { turns.take(true).await.map(drop) })
            })
            .collect();
        while turns.proven.inside.available_permits() > 0 {
            tokio::task::yield_now().await;
        }
        let status = turns.take(true).await.expect_err("too many");
        assert_eq!(status.code(), tonic::Code::Unavailable);
        assert_eq!(status.metadata().get(PUSHBACK).expect("told"), "1000");
        // Who has proven nothing is not in their way, nor they in its.
        turns.take(false).await.expect("a turn of its own");
        served.clear();
        for one in waiting {
            one.await.expect("ran").expect("its turn came");
        }
        turns.take(true).await.expect("at once again");
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_for_long() {
        let turns = Turns::new(1);
        let _served = (turns.take(true).await, turns.take(true).await);
        let begin = tokio::time::Instant::now();
        assert_eq!(turns.take(true).await.expect_err("too long").code(), tonic::Code::Unavailable);
        assert_eq!(begin.elapsed(), PATIENCE);
    }

    #[tokio::test]
    async fn a_storm_is_over_within_some_tries() {
        let turns = Turns::new(4);
        let busy = Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let callers: Vec<_> = (0..2000)
            .map(|number: u64| {
                let (turns, busy) = (turns.clone(), Arc::clone(&busy));
                tokio::spawn(async move {
                    for attempt in 0..20 {
                        if let Ok(_turn) = turns.take(true).await {
                            let now = busy.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                            assert!(now < 4, "{now} at once");
                            tokio::task::yield_now().await;
                            busy.fetch_sub(1, std::sync::atomic::Ordering::SeqCst);
                            return attempt;
                        }
                        tokio::time::sleep(Duration::from_millis(number % 97)).await;
                    }
                    panic!("never served");
                })
            })
            .collect();
        for caller in callers {
            caller.await.expect("served");
        }
    }
}
