//! What the answers to health checks make of an endpoint, and when it is asked next.
//!
//! Pure: the caller asks, and has the clock and the randomness. Source: Envoy's active health checking.

use std::time::Duration;

use crate::proxy::{CheckIntervals, HealthCheck, HttpCheck};

/// What is known of an endpoint by asking it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Session {
    /// It counts as not well.
    pub is_failed: bool,
    /// It serves, and says that it would rather not.
    pub is_degraded: bool,
    /// It has been asked.
    pub was_asked: bool,
    good: u32,
    bad: u32,
}

impl Default for Session {
    /// It is not well before it has said otherwise.
    fn default() -> Self {
        Self { is_failed: true, is_degraded: false, was_asked: false, good: 0, bad: 0 }
    }
}

/// What came of asking.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is well.
    Good,
    /// It is well enough for when nobody is better.
    Degraded,
    /// It says that it is not.
    Bad,
    /// It says something that counts as one failure of several.
    Doubtful,
    /// It says nothing.
    Silent,
}

/// Whether anything has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Transition {
    Unchanged,
    Pending,
    Changed,
}

impl Session {
    /// Takes a verdict in; returns how long until it is asked again.
    ///
    /// `has_traffic` is whether anything was ever sent to its cluster; `random` is any number, uniformly drawn.
    pub fn note(
        &mut self,
        verdict: Verdict,
        check: &HealthCheck,
        has_traffic: bool,
        random: u64,
    ) -> Duration {
        let is_first = !self.was_asked;
        let is_good = matches!(verdict, Verdict::Good | Verdict::Degraded);
        let mut transition = if is_good {
            self.succeed(verdict == Verdict::Degraded, is_first, check.healthy_threshold)
        } else {
            self.fail(verdict == Verdict::Bad, check.unhealthy_threshold)
        };
        if is_first {
            transition = Transition::Changed;
        }
        self.was_asked = true;
        next(&check.intervals, is_good, transition, has_traffic, random)
    }

    fn succeed(&mut self, is_degraded: bool, is_first: bool, threshold: u32) -> Transition {
        self.bad = 0;
        let mut transition = Transition::Unchanged;
        if self.is_failed {
            self.good += 1;
            if is_first || self.good == threshold {
                self.is_failed = false;
                transition = Transition::Changed;
            } else {
                transition = Transition::Pending;
            }
        }
        if is_degraded != self.is_degraded {
            self.is_degraded = is_degraded;
            if transition == Transition::Unchanged {
                transition = Transition::Changed;
            }
        }
        transition
    }

    fn fail(&mut self, at_once: bool, threshold: u32) -> Transition {
        self.good = 0;
        if self.is_failed {
            return Transition::Unchanged;
        }
        self.bad += u32::from(!at_once);
        if at_once || self.bad == threshold {
            self.is_failed = true;
            Transition::Changed
        } else {
            Transition::Pending
        }
    }

    /// It said itself, in answer to a request, that it is not well.
    pub fn fail_at_once(&mut self) {
        self.good = 0;
        self.is_failed = true;
        self.was_asked = true;
    }
}

fn next(
    intervals: &CheckIntervals,
    is_good: bool,
    transition: Transition,
    has_traffic: bool,
    random: u64,
) -> Duration {
    let is_pending = transition == Transition::Pending;
    let base = match (has_traffic, is_good, is_pending) {
        (false, true, false) => intervals.no_traffic_healthy,
        (false, ..) => intervals.no_traffic,
        (true, false, true) => intervals.unhealthy_edge,
        (true, false, false) => intervals.unhealthy,
        (true, true, true) => intervals.healthy_edge,
        (true, true, false) => intervals.usual,
    };
    jittered(base, intervals, random)
}

fn jittered(base: Duration, intervals: &CheckIntervals, random: u64) -> Duration {
    let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let percent = millis(base).saturating_mul(u64::from(intervals.jitter_percent)) / 100;
    let (first, second) = (random & 0xffff_ffff, random >> 32);
    let jitter =
        first.checked_rem(percent).unwrap_or(0) + second.checked_rem(millis(intervals.jitter)).unwrap_or(0);
    // Never at once, or it would go on for ever.
    (base + Duration::from_millis(jitter)).max(Duration::from_millis(1))
}

/// How long until an endpoint is asked for the first time.
pub fn first(intervals: &CheckIntervals, random: u64) -> Duration {
    let most = u64::try_from(intervals.initial_jitter.as_millis()).unwrap_or(u64::MAX);
    Duration::from_millis(random.checked_rem(most).unwrap_or(0))
}

/// What the head of an answer means; `name_fits` is whether the name that it gives its service, if any is wanted, is
/// the right one, and `body_fits` the same of its body.
pub fn judge(check: &HttpCheck, status: u16, is_degraded: bool, name_fits: bool, body_fits: bool) -> Verdict {
    let within = |ranges: &[(u16, u16)]| ranges.iter().any(|(from, to)| (*from..*to).contains(&status));
    match () {
        () if !body_fits => Verdict::Bad,
        () if !within(&check.expected) && within(&check.retriable) => Verdict::Doubtful,
        () if !within(&check.expected) || !name_fits => Verdict::Bad,
        () if is_degraded => Verdict::Degraded,
        () => Verdict::Good,
    }
}

/// Whether all pieces are in some bytes, one after the other, with anything between them.
pub fn holds(pieces: &[impl AsRef<[u8]>], mut bytes: &[u8]) -> bool {
    pieces.iter().map(AsRef::as_ref).all(|piece| {
        let at = if piece.is_empty() { Some(0) } else { bytes.windows(piece.len()).position(|w| w == piece) };
        let Some(at) = at else { return false };
        bytes = &bytes[at + piece.len()..];
        true
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::{HealthCheckKind, TcpCheck};

    const fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn check_of(unhealthy_threshold: u32, healthy_threshold: u32) -> HealthCheck {
        HealthCheck {
            kind: HealthCheckKind::Tcp(TcpCheck::default()),
            timeout: s(1),
            intervals: CheckIntervals {
                usual: s(10),
                no_traffic: s(60),
                no_traffic_healthy: s(70),
                unhealthy: s(20),
                unhealthy_edge: s(2),
                healthy_edge: s(3),
                initial_jitter: s(0),
                jitter: s(0),
                jitter_percent: 0,
            },
            unhealthy_threshold,
            healthy_threshold,
            reuse_connection: true,
            alpn: None,
            transport: None,
        }
    }

    /// Each verdict, with whether it counts as well then, and in how many seconds it is asked again.
    fn run(thresholds: (u32, u32), steps: &[(Verdict, bool, u64)]) {
        let (check, mut session) = (check_of(thresholds.0, thresholds.1), Session::default());
        for (index, (verdict, well, next)) in steps.iter().enumerate() {
            let wait = session.note(*verdict, &check, true, 0);
            assert_eq!((!session.is_failed, wait), (*well, s(*next)), "step {index} of {steps:?}");
        }
    }

    #[test]
    fn thresholds_decide_but_for_the_first_time() {
        use Verdict::{Bad, Doubtful, Good, Silent};
        run(
            (3, 3),
            &[
                (Good, true, 10),
                (Silent, true, 2),
                (Silent, true, 2),
                (Silent, false, 20),
                (Silent, false, 20),
            ],
        );
        run((3, 3), &[(Silent, false, 20), (Good, false, 3), (Good, false, 3), (Good, true, 10)]);
        run((3, 2), &[(Good, true, 10), (Bad, false, 20), (Good, false, 3), (Good, true, 10)]);
        run(
            (2, 2),
            &[
                (Good, true, 10),
                (Doubtful, true, 2),
                (Good, true, 10),
                (Doubtful, true, 2),
                (Doubtful, false, 20),
            ],
        );
        run(
            (2, 2),
            &[(Silent, false, 20), (Good, false, 3), (Silent, false, 20), (Good, false, 3), (Good, true, 10)],
        );
        run((1, 1), &[(Good, true, 10), (Silent, false, 20), (Good, true, 10)]);
    }

    #[test]
    fn without_traffic_it_is_asked_less_often() {
        let (check, mut session) = (check_of(1, 1), Session::default());
        assert_eq!(session.note(Verdict::Good, &check, false, 0), s(70));
        assert_eq!(session.note(Verdict::Silent, &check, false, 0), s(60));
    }

    #[test]
    fn degradation_comes_and_goes() {
        let (check, mut session) = (check_of(1, 1), Session::default());
        session.note(Verdict::Degraded, &check, true, 0);
        assert!(!session.is_failed && session.is_degraded);
        session.note(Verdict::Good, &check, true, 0);
        assert!(!session.is_failed && !session.is_degraded);
    }

    #[test]
    fn jitter_makes_it_later() {
        let mut check = check_of(1, 1);
        (check.intervals.jitter, check.intervals.jitter_percent) = (s(1), 50);
        let wait = Session::default().note(Verdict::Good, &check, true, (999 << 32) + 4999);
        assert_eq!(wait, s(10) + Duration::from_millis(5998));
        assert_eq!(first(&check.intervals, 7), s(0));
        check.intervals.initial_jitter = s(5);
        assert_eq!(first(&check.intervals, 5001), Duration::from_millis(1));
    }

    #[test]
    fn answers_are_judged() {
        let http = HttpCheck {
            host: "".into(),
            path: "/".into(),
            method: "GET".into(),
            send: [].into(),
            receive: vec![],
            response_bytes: 0,
            add: vec![],
            remove: vec![],
            expected: vec![(200, 300)],
            retriable: vec![(299, 400)],
            http2: false,
            service_name: None,
        };
        let check = |status, degraded, name, body, expected| {
            assert_eq!(
                judge(&http, status, degraded, name, body),
                expected,
                "{status} {degraded} {name} {body}"
            );
        };
        check(200, false, true, true, Verdict::Good);
        check(299, false, true, true, Verdict::Good);
        check(200, true, true, true, Verdict::Degraded);
        check(302, false, true, true, Verdict::Doubtful);
        check(503, false, true, true, Verdict::Bad);
        check(200, false, false, true, Verdict::Bad);
        check(200, false, true, false, Verdict::Bad);
    }

    #[test]
    fn pieces_are_found_in_their_order() {
        let check = |pieces: &[&str], bytes: &str, expected: bool| {
            assert_eq!(holds(pieces, bytes.as_bytes()), expected, "{pieces:?} {bytes}");
        };
        check(&[], "", true);
        check(&["ab", "cd"], "xabycdz", true);
        check(&["cd", "ab"], "xabycdz", false);
        check(&["ab", "bc"], "abc", false);
        check(&["a"], "", false);
    }
}
