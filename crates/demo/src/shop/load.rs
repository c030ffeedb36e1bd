//! The customers: requests at a steady rate, each answer checked, and an honest count of how they went.
//!
//! The load is open-loop up to a limit: a slow shop does not slow it down until [`MAX_PENDING`] requests wait.
//! Nothing is retried. Some customers try what policy must refuse; a request that gets through is counted as such.

mod customer;
mod tally;

use std::sync::Arc;
use std::time::Duration;

use http::uri::Authority;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, interval_at, timeout_at};

use customer::{Customer, Errand};
pub(crate) use tally::Tally;

use super::server::Stop;

/// Requests under way at once. Over it they are left out, and counted: the machine is too slow for the rate.
const MAX_PENDING: usize = 256;
/// How often requests that are due are sent; their batches stay small at any rate that a laptop bears.
const BEAT: Duration = Duration::from_millis(5);
/// How often the count is reported.
const REPORT: Duration = Duration::from_secs(1);
/// How long requests under way may take after the load was told to stop; what is not answered then has failed.
pub(crate) const FINISH: Duration = Duration::from_secs(10);

/// Where the shop is reached.
#[derive(Clone)]
pub(crate) struct Targets {
    /// The shop's front.
    pub(crate) web: Authority,
    /// The cart, which customers must not reach.
    pub(crate) cart: Authority,
    /// Payments, which customers must not reach.
    pub(crate) payments: Authority,
}

/// Sends requests until told to stop; reports its count each second, once when the first request was served, and
/// at the end.
pub(super) async fn run(targets: &Targets, rate: u32, mut report: impl FnMut(&Tally), mut stop: Stop) {
    let customer = Arc::new(Customer::new(targets));
    let (mut tally, mut pending) = (Tally::default(), JoinSet::new());
    let (start, mut sent) = (Instant::now(), 0);
    let (mut beat, mut each) = (interval(BEAT), interval_at(start + REPORT, REPORT));
    beat.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        tokio::select! {
            () = stop.wait() => break,
            now = beat.tick() => {
                let due = due(now - start, rate);
                for _ in std::mem::replace(&mut sent, due)..due {
                    if pending.len() == MAX_PENDING {
                        tally.skipped += 1;
                    } else {
                        let customer = Arc::clone(&customer);
                        pending.spawn(async move { customer.run(Errand::any()).await });
                    }
                }
            }
            Some(Ok(outcome)) = pending.join_next(), if !pending.is_empty() => {
                if tally.count(outcome) {
                    report(&tally);
                }
            }
            _ = each.tick() => report(&tally),
        }
    }
    finish(pending, &mut tally).await;
    report(&tally);
}

/// How many requests are due after a time.
fn due(elapsed: Duration, rate: u32) -> u64 {
    let due = elapsed.as_micros() * u128::from(rate) / 1_000_000;
    u64::try_from(due).unwrap_or(u64::MAX)
}

/// Counts what is still under way.
async fn finish(mut pending: JoinSet<tally::Outcome>, tally: &mut Tally) {
    let deadline = Instant::now() + FINISH;
    while let Ok(Some(outcome)) = timeout_at(deadline, pending.join_next()).await {
        if let Ok(outcome) = outcome {
            tally.count(outcome);
        }
    }
    for _ in 0..pending.len() {
        tally.count(tally::Outcome::Failed("no answer when the load ended".to_owned()));
    }
    tally.finished = true;
}

/// Writes a count to standard output, as a line of JSON. Ends the process where nobody reads it any more.
pub(super) fn print(tally: &Tally) {
    use std::io::Write;
    let written = serde_json::to_string(tally)
        .map_err(std::io::Error::other)
        .and_then(|line| writeln!(std::io::stdout().lock(), "{line}"));
    if written.is_err() {
        std::process::exit(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_due_at_the_rate() {
        assert_eq!(due(Duration::ZERO, 150), 0);
        assert_eq!(due(Duration::from_millis(6), 150), 0);
        assert_eq!(due(Duration::from_millis(7), 150), 1);
        assert_eq!(due(Duration::from_secs(20), 150), 3000);
        assert_eq!(due(Duration::from_hours(1), 0), 0);
    }
}
