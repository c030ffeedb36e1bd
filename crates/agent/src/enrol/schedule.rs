//! When to renew. Pure, except for [`until`].

use std::time::{Duration, SystemTime};

/// Wall clocks jump and laptops sleep, timers know neither: the clock is looked at this often.
const LOOK: Duration = Duration::from_secs(30);
/// Two renewals are never closer, however short certificates live.
const MIN_INTERVAL: Duration = Duration::from_secs(1);
const FIRST_BACKOFF: Duration = Duration::from_secs(1);
/// Short against any certificate's second half, long enough to spare a control plane that is coming up.
const MAX_BACKOFF: Duration = Duration::from_secs(30);

/// When a certificate that began at `begin` is renewed: at half of its life, give or take a tenth of that half, so
/// that workloads enrolled together do not come together. `random` is in 0..1.
pub(super) fn due(begin: SystemTime, end: SystemTime, random: f64) -> SystemTime {
    let life = end.duration_since(begin).unwrap_or_default();
    let share = 0.5 * (0.9 + 0.2 * random);
    begin + life.mul_f64(share)
}

/// How long to wait after a number of failures in a row: doubling, with up to half taken off at random.
pub(super) fn backoff(failures: u32, random: f64) -> Duration {
    let doublings = failures.saturating_sub(1).min(10);
    let full = FIRST_BACKOFF.saturating_mul(1 << doublings).min(MAX_BACKOFF);
    full.mul_f64(1.0 - random / 2.0)
}

/// Waits until a time of the wall clock, and [`MIN_INTERVAL`] at least.
pub(super) async fn until(due: SystemTime) {
    tokio::time::sleep(MIN_INTERVAL).await;
    while let Ok(left) = due.duration_since(SystemTime::now()) {
        if left.is_zero() {
            return;
        }
        tokio::time::sleep(left.min(LOOK)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn renewal_is_due_around_half_of_life() {
        let check = |life: u64, random: f64, expected: u64| {
            let begin = SystemTime::UNIX_EPOCH + Duration::from_hours(1);
            let got = due(begin, begin + Duration::from_secs(life), random);
            assert_eq!(got.duration_since(begin).expect("later").as_secs(), expected, "{life} {random}");
        };
        check(86_400, 0.0, 38_880);
        check(86_400, 0.5, 43_200);
        check(86_400, 1.0, 47_520);
        check(0, 0.5, 0);
    }

    #[test]
    fn pauses_grow_to_a_limit() {
        let check = |failures: u32, random: f64, expected_ms: u128| {
            assert_eq!(backoff(failures, random).as_millis(), expected_ms, "{failures} {random}");
        };
        check(1, 0.0, 1_000);
        check(1, 1.0, 500);
        check(3, 0.0, 4_000);
        check(6, 0.0, 30_000);
        check(u32::MAX, 0.0, 30_000);
    }
}
