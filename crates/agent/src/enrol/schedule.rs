//! When to renew. Pure: the clocks are given.
//!
//! Two clocks count. The wall clock says until when a certificate is valid; it jumps, and it may be wrong for days. The
//! monotonic one says how long ago the certificate came; it does not know of a night's sleep. Whichever says first that
//! half of the life has passed is believed.

use std::time::{Duration, SystemTime};

use tokio::time::Instant;

/// Wall clocks jump and laptops sleep, timers know neither: the clock is looked at this often at least.
const LOOK: Duration = Duration::from_secs(10);
/// Two renewals are never closer, however short certificates live.
const MIN_INTERVAL: Duration = Duration::from_secs(1);
const FIRST_BACKOFF: Duration = Duration::from_secs(1);
/// Short against any certificate's second half, long enough to spare a control plane that is coming up.
const MAX_BACKOFF: Duration = Duration::from_mins(1);
/// Over how long those are spread that renew all at once: the issuing root was changed, or a clock has jumped.
const MAX_SPREAD: Duration = Duration::from_secs(30);
/// How long the wall clock may run ahead of the monotonic one without having jumped.
const DRIFT: Duration = Duration::from_secs(5);
/// The first pause after a renewal that did not lead to the root that it was meant to.
const FIRST_AGAIN: Duration = Duration::from_secs(10);
const MAX_AGAIN: Duration = Duration::from_mins(5);

/// A moment, by both clocks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Now {
    pub(crate) wall: SystemTime,
    pub(crate) steady: Instant,
}

/// When one certificate is renewed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    made: Now,
    begin: SystemTime,
    end: SystemTime,
    due: SystemTime,
    steady_due: Instant,
}

impl Plan {
    /// A certificate that began at `begin` is renewed at half of its life, give or take a tenth of that half, so that
    /// workloads enrolled together do not come together; a second from now at the earliest. `random` is in 0..1.
    pub(crate) fn new(begin: SystemTime, end: SystemTime, now: Now, random: f64) -> Self {
        let life = end.duration_since(begin).unwrap_or_default();
        let age = life.mul_f64(0.5 * (0.9 + 0.2 * random));
        let earliest = now.steady + MIN_INTERVAL;
        let passed = now.wall.duration_since(begin).unwrap_or_default();
        let steady_due = (now.steady + age.saturating_sub(passed)).max(earliest);
        Self { made: now, begin, end, due: (begin + age).max(now.wall + MIN_INTERVAL), steady_due }
    }

    /// Whether it is time.
    pub(crate) fn is_due(&self, now: Now) -> bool {
        now.wall >= self.due || now.steady >= self.steady_due
    }

    /// When that is, by the wall clock of when it was planned.
    pub(crate) fn due(&self) -> SystemTime {
        self.due
    }

    /// Until when nothing needs to be looked at.
    pub(crate) fn next_look(&self, now: Now) -> Duration {
        let wall = self.due.duration_since(now.wall).unwrap_or_default();
        let steady = self.steady_due.saturating_duration_since(now.steady);
        wall.min(steady).min(LOOK)
    }

    /// Whether it is time only because the wall clock has jumped: then it has for others, too.
    pub(crate) fn is_jump(&self, now: Now) -> bool {
        let wall = now.wall.duration_since(self.made.wall).unwrap_or_default();
        let steady = now.steady.saturating_duration_since(self.made.steady);
        now.steady < self.steady_due && wall > steady + DRIFT
    }

    /// How long the certificate lives.
    pub(crate) fn life(&self) -> Duration {
        self.end.duration_since(self.begin).unwrap_or_default()
    }

    /// A pause that spreads those that would renew at once.
    pub(crate) fn spread(&self, random: f64) -> Duration {
        MAX_SPREAD.min(self.life() / 8).mul_f64(random)
    }

    /// How long to wait after a number of failures in a row: doubling, with up to half taken off at random, and never
    /// more than a quarter of the time that is left; once it has passed, of the life that the certificate had.
    pub(crate) fn backoff(&self, failures: u32, now: SystemTime, random: f64) -> Duration {
        let left = self.end.duration_since(now).unwrap_or_default();
        let limit = if left.is_zero() { self.life() / 4 } else { left / 4 };
        backoff(failures, random).min(limit.max(MIN_INTERVAL))
    }
}

/// How long to wait after a number of failures in a row: doubling, with up to half taken off at random.
pub(crate) fn backoff(failures: u32, random: f64) -> Duration {
    doubled(FIRST_BACKOFF, failures, MAX_BACKOFF).mul_f64(1.0 - random / 2.0)
}

/// How long to wait after a number of renewals in a row that gave certificates under another root than the issuing one.
pub(super) fn again(renewals: u32) -> Duration {
    if renewals == 0 { Duration::ZERO } else { doubled(FIRST_AGAIN, renewals, MAX_AGAIN) }
}

fn doubled(first: Duration, times: u32, limit: Duration) -> Duration {
    first.saturating_mul(1 << times.saturating_sub(1).min(10)).min(limit)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_hours(1);
    const TWO_DAYS: Duration = Duration::from_hours(48);

    fn now() -> Now {
        Now { wall: SystemTime::UNIX_EPOCH + 1000 * HOUR, steady: Instant::now() }
    }

    fn after(now: Now, wall: Duration, steady: Duration) -> Now {
        Now { wall: now.wall + wall, steady: now.steady + steady }
    }

    fn plan(life: Duration, random: f64) -> Plan {
        Plan::new(now().wall, now().wall + life, now(), random)
    }

    #[test]
    fn renewal_is_due_around_half_of_life() {
        let check = |life: u64, random: f64, expected: u64| {
            let start = now();
            let plan = Plan::new(start.wall, start.wall + Duration::from_secs(life), start, random);
            let at = |seconds: u64| after(start, Duration::from_secs(seconds), Duration::from_secs(seconds));
            assert!(plan.is_due(at(expected)) && !plan.is_due(at(expected - 1)), "{life} {random}");
        };
        check(86_400, 0.0, 38_880);
        check(86_400, 0.5, 43_200);
        check(86_400, 1.0, 47_520);
        check(0, 0.5, 1);
    }

    #[test]
    fn one_that_is_past_its_half_is_due_a_second_from_now() {
        let start = now();
        let plan = Plan::new(start.wall - HOUR, start.wall + HOUR / 2, start, 0.5);
        assert!(!plan.is_due(start));
        assert_eq!(plan.next_look(start), MIN_INTERVAL);
        assert!(plan.is_due(after(start, MIN_INTERVAL, MIN_INTERVAL)));
        assert!(!plan.is_jump(after(start, MIN_INTERVAL, MIN_INTERVAL)));
    }

    #[test]
    fn a_clock_that_jumps_ahead_is_noticed_and_the_renewals_are_spread() {
        let plan = plan(24 * HOUR, 0.5);
        let later = after(plan.made, HOUR, HOUR);
        assert!(!plan.is_due(later));
        assert_eq!(plan.next_look(later), LOOK);
        let jumped = after(plan.made, TWO_DAYS, HOUR);
        assert!(plan.is_due(jumped) && plan.is_jump(jumped));
        assert_eq!((plan.spread(0.0), plan.spread(1.0)), (Duration::ZERO, MAX_SPREAD));
        let back = after(plan.made, HOUR + LOOK, HOUR + LOOK);
        assert!(!plan.is_due(back), "all is as it was");
    }

    #[test]
    fn a_clock_that_jumps_back_does_not_keep_a_certificate_from_being_renewed() {
        let plan = plan(24 * HOUR, 0.5);
        let mut later = after(plan.made, Duration::ZERO, 12 * HOUR);
        later.wall -= TWO_DAYS;
        assert!(plan.is_due(later) && !plan.is_jump(later));
    }

    #[test]
    fn a_night_of_sleep_is_noticed_by_the_wall_clock() {
        let plan = plan(HOUR, 0.5);
        assert!(plan.is_due(after(plan.made, 8 * HOUR, Duration::from_secs(2))));
    }

    #[test]
    fn pauses_grow_to_a_limit() {
        let check = |failures: u32, random: f64, expected_ms: u128| {
            assert_eq!(backoff(failures, random).as_millis(), expected_ms, "{failures} {random}");
        };
        check(1, 0.0, 1_000);
        check(1, 1.0, 500);
        check(3, 0.0, 4_000);
        check(7, 0.0, 60_000);
        check(u32::MAX, 0.0, 60_000);
    }

    #[test]
    fn pauses_leave_several_tries_before_the_end_and_are_no_storm_after_it() {
        let plan = plan(HOUR, 0.5);
        let check = |passed: Duration, expected: Duration| {
            assert_eq!(plan.backoff(100, plan.begin + passed, 0.0), expected, "{passed:?}");
        };
        check(HOUR / 2, MAX_BACKOFF);
        check(HOUR.checked_sub(Duration::from_secs(40)).unwrap(), Duration::from_secs(10));
        check(HOUR.checked_sub(Duration::from_secs(2)).unwrap(), MIN_INTERVAL);
        check(HOUR, MAX_BACKOFF);
        check(TWO_DAYS, MAX_BACKOFF);
        let short = self::plan(Duration::from_mins(1), 0.5);
        assert_eq!(short.backoff(100, short.end, 0.0), Duration::from_secs(15));
    }

    #[test]
    fn renewals_that_lead_to_another_root_come_slower_each_time() {
        let found: Vec<u64> = [0, 1, 2, 3, 30].map(|times| again(times).as_secs()).to_vec();
        assert_eq!(found, [0, 10, 20, 40, 300]);
    }
}
