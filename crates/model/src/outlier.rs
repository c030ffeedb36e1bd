//! Which endpoints of a cluster are left out for what their responses are like, and when they come back.
//!
//! Pure: the caller counts, has the clock (durations since any beginning) and the randomness. One [`Detector`] judges
//! all endpoints of a cluster. Source: Envoy's outlier detection, whose arithmetic and order this follows.

use std::time::Duration;

use crate::proxy::{Enforced, OutlierDetection};

/// What came of a request or a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// A response with this status, or one that a gRPC status stands for.
    Response(u16),
    /// A connection was opened; what is carried on it says more.
    Connected,
    /// A connection of bytes was opened, and nothing more is to be learned of it.
    ConnectedFinally,
    /// No connection could be opened, or it broke.
    ConnectFailed,
    /// No answer came in time; the status that the client is told.
    TimedOut(u16),
}

/// What an outcome counts as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counted {
    /// A response with this status.
    Response(u16),
    /// A failure of the network.
    LocalFailure,
    /// Success of the network.
    LocalSuccess,
    /// Nothing.
    Nothing,
}

/// What an outcome counts as, with failures of the network told apart or not.
pub fn count(outcome: Outcome, split_local: bool) -> Counted {
    match (outcome, split_local) {
        (Outcome::Response(status), _) | (Outcome::TimedOut(status), false) => Counted::Response(status),
        (Outcome::ConnectFailed, false) => Counted::Response(503),
        (Outcome::ConnectedFinally, false) => Counted::Response(200),
        (Outcome::Connected, false) => Counted::Nothing,
        (Outcome::ConnectFailed | Outcome::TimedOut(_), true) => Counted::LocalFailure,
        (Outcome::Connected | Outcome::ConnectedFinally, true) => Counted::LocalSuccess,
    }
}

/// The HTTP status that a gRPC status stands for. Source: Envoy, after <https://cloud.google.com/apis/design/errors>.
pub fn http_status_of_grpc(status: u64) -> u16 {
    match status {
        0 => 200,
        1 => 499,
        3 | 9 | 11 => 400,
        4 => 504,
        5 => 404,
        6 | 10 => 409,
        7 => 403,
        8 => 429,
        12 => 501,
        14 => 503,
        16 => 401,
        _ => 500,
    }
}

/// Why an endpoint is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// Server errors one after the other.
    Consecutive5xx,
    /// Gateway errors one after the other.
    ConsecutiveGateway,
    /// Failures of the network one after the other.
    ConsecutiveLocal,
    /// Success far below the others'.
    SuccessRate,
    /// The same, of the network.
    SuccessRateLocal,
    /// Too many failures.
    FailurePercentage,
    /// The same, of the network.
    FailurePercentageLocal,
}

impl Cause {
    /// In how many percent of cases it has consequences.
    fn enforcing(self, config: &OutlierDetection) -> u32 {
        match self {
            Self::Consecutive5xx => config.consecutive_5xx.enforcing,
            Self::ConsecutiveGateway => config.consecutive_gateway.enforcing,
            Self::ConsecutiveLocal => config.consecutive_local.enforcing,
            Self::SuccessRate => config.success_rate.enforcing,
            Self::SuccessRateLocal => config.success_rate.enforcing_local,
            Self::FailurePercentage => config.failure_percentage.enforcing,
            Self::FailurePercentageLocal => config.failure_percentage.enforcing_local,
        }
    }
}

/// Whether a run of failures is as long as it has to be for the first time.
pub fn is_reached(limit: Enforced, run: u32) -> bool {
    limit.count == run
}

/// Requests within an interval, and how many of them went well.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// All.
    pub total: u64,
    /// Those that went well.
    pub good: u64,
}

impl Tally {
    fn success_percent(self) -> Option<f64> {
        #[expect(clippy::cast_precision_loss, reason = "counts of an interval are far below 2^52")]
        (self.total > 0).then(|| self.good as f64 * 100.0 / self.total as f64)
    }
}

/// What is remembered of an endpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct History {
    ejected: Option<Ejection>,
    /// How often lately, which makes the next time longer.
    times: u32,
    /// How often ever.
    pub ejections: u32,
    came_back: Option<Duration>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Ejection {
    at: Duration,
    jitter: Duration,
}

impl History {
    /// Whether it is left out now.
    pub fn is_ejected(&self) -> bool {
        self.ejected.is_some()
    }

    /// Lets it come back, sooner than its time.
    pub fn bring_back(&mut self, now: Duration) {
        if self.ejected.take().is_some() {
            self.came_back = Some(now);
        }
    }
}

/// Judges the endpoints of one cluster.
#[derive(Clone, Debug)]
pub struct Detector {
    config: OutlierDetection,
}

impl Detector {
    /// By this config.
    pub fn new(config: OutlierDetection) -> Self {
        Self { config }
    }

    /// The config.
    pub fn config(&self) -> &OutlierDetection {
        &self.config
    }

    /// Leaves an endpoint out, if as many as may be are not out already and chance wants it; `all` has every
    /// endpoint of the cluster. Returns whether it is out now and was not before.
    pub fn eject(&self, all: &mut [History], index: usize, cause: Cause, now: Duration, random: u64) -> bool {
        let out = all.iter().filter(|host| host.is_ejected()).count();
        if all.get(index).is_none_or(History::is_ejected) || !self.has_room(out, all.len()) {
            return false;
        }
        let (chance, jitter) = (random % 100, random / 100);
        if chance >= u64::from(cause.enforcing(&self.config)) {
            return false;
        }
        let most = u64::try_from(self.config.max_ejection_jitter.as_millis()).unwrap_or(u64::MAX - 1);
        let host = &mut all[index];
        host.ejected = Some(Ejection { at: now, jitter: Duration::from_millis(jitter % (most + 1)) });
        host.ejections = host.ejections.saturating_add(1);
        if self.config.base_ejection * host.times < self.config.max_ejection + self.config.base_ejection {
            host.times += 1;
        }
        true
    }

    /// Whether one more may be left out.
    fn has_room(&self, out: usize, all: usize) -> bool {
        let percent = u64::from(self.config.max_ejection_percent.min(100));
        let with_it = 100 * (out as u64 + 1);
        with_it <= percent * all as u64 || self.config.always_eject_one && out == 0
    }

    /// Whether an endpoint's time is over.
    pub fn is_over(&self, host: &History, now: Duration) -> bool {
        let Some(ejection) = host.ejected else { return false };
        let time = (self.config.base_ejection * host.times).min(self.config.max_ejection);
        time + ejection.jitter <= now.saturating_sub(ejection.at)
    }

    /// The endpoints whose success is far below the others', then those that fail too often. `tallies` has one for
    /// each endpoint; those of endpoints that are left out are not looked at.
    pub fn outliers(&self, all: &[History], tallies: &[Tally], local: bool) -> Vec<(usize, Cause)> {
        let (rate, percentage) = (&self.config.success_rate, &self.config.failure_percentage);
        let count = all.len() as u64;
        if count < u64::from(rate.minimum_hosts) && count < u64::from(percentage.minimum_hosts) {
            return Vec::new();
        }
        let judged = |volume: u32| -> Vec<(usize, f64)> {
            let judged = all.iter().zip(tallies).enumerate().filter_map(|(index, (host, tally))| {
                let enough = tally.total >= u64::from(volume);
                (enough && !host.is_ejected()).then(|| Some((index, tally.success_percent()?))).flatten()
            });
            judged.collect()
        };
        let mut found = Vec::new();
        let hosts = judged(rate.request_volume);
        if !hosts.is_empty() && hosts.len() as u64 >= u64::from(rate.minimum_hosts) {
            let least = least_success(&hosts, f64::from(rate.stdev_factor) / 1000.0);
            let cause = if local { Cause::SuccessRateLocal } else { Cause::SuccessRate };
            found.extend(
                hosts.iter().filter(|(_, success)| *success < least).map(|(index, _)| (*index, cause)),
            );
        }
        let hosts = judged(percentage.request_volume);
        if !hosts.is_empty() && hosts.len() as u64 >= u64::from(percentage.minimum_hosts) {
            let most = f64::from(percentage.threshold);
            let cause = if local { Cause::FailurePercentageLocal } else { Cause::FailurePercentage };
            let fails = |(_, success): &&(usize, f64)| 100.0 - success >= most;
            found.extend(hosts.iter().filter(fails).map(|(index, _)| (*index, cause)));
        }
        found
    }

    /// At an interval's end: what went well for a while makes the next ejection shorter again.
    pub fn forgive(&self, host: &mut History, now: Duration) {
        let long_ago = |back: Duration| now.saturating_sub(back) >= self.config.interval;
        if !host.is_ejected() && host.came_back.is_some_and(long_ago) {
            host.times = host.times.saturating_sub(1);
        }
    }
}

/// The success below which an endpoint is an outlier: so many standard deviations below the mean.
fn least_success(hosts: &[(usize, f64)], factor: f64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "clusters are far smaller than 2^52 endpoints")]
    let count = hosts.len() as f64;
    let mean = hosts.iter().map(|(_, success)| success).sum::<f64>() / count;
    let variance = hosts.iter().map(|(_, success)| (success - mean).powi(2)).sum::<f64>() / count;
    mean - factor * variance.sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::{FailurePercentage, SuccessRate};

    const fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn outcomes_count_as_envoy_maps_them() {
        use Counted::{LocalFailure, LocalSuccess, Nothing, Response};
        let check = |outcome, together, split| {
            assert_eq!((count(outcome, false), count(outcome, true)), (together, split), "{outcome:?}");
        };
        check(Outcome::Response(404), Response(404), Response(404));
        check(Outcome::Connected, Nothing, LocalSuccess);
        check(Outcome::ConnectedFinally, Response(200), LocalSuccess);
        check(Outcome::ConnectFailed, Response(503), LocalFailure);
        check(Outcome::TimedOut(504), Response(504), LocalFailure);
    }

    #[test]
    fn a_share_of_the_endpoints_may_be_left_out() {
        let check = |percent, always, all: usize, expected: usize| {
            let config = OutlierDetection {
                max_ejection_percent: percent,
                always_eject_one: always,
                ..OutlierDetection::default()
            };
            let detector = Detector::new(config);
            let mut hosts = vec![History::default(); all];
            let out =
                (0..all).filter(|i| detector.eject(&mut hosts, *i, Cause::Consecutive5xx, s(0), 0)).count();
            assert_eq!(out, expected, "{percent} % of {all}, {always}");
        };
        check(10, false, 10, 1);
        check(10, false, 9, 0);
        check(10, true, 9, 1);
        check(10, true, 1, 1);
        check(0, false, 100, 0);
        check(50, false, 3, 1);
        check(100, false, 3, 3);
    }

    #[test]
    fn chance_decides_in_so_many_percent() {
        let detector = Detector::new(OutlierDetection {
            max_ejection_percent: 100,
            consecutive_5xx: Enforced { count: 5, enforcing: 40 },
            ..OutlierDetection::default()
        });
        for (random, expected) in [(0, true), (39, true), (40, false), (99, false), (100, true)] {
            let mut hosts = vec![History::default(); 2];
            assert_eq!(
                detector.eject(&mut hosts, 0, Cause::Consecutive5xx, s(0), random),
                expected,
                "{random}"
            );
        }
        let mut hosts = vec![History::default(); 2];
        assert!(!detector.eject(&mut hosts, 0, Cause::ConsecutiveGateway, s(0), 0), "0 % by default");
    }

    #[test]
    fn each_time_is_longer_and_good_times_make_it_shorter_again() {
        let config = OutlierDetection { max_ejection_percent: 100, ..OutlierDetection::default() };
        let detector = Detector::new(config);
        let mut hosts = vec![History::default()];
        let mut now = s(0);
        for expected in [30, 60, 90] {
            assert!(detector.eject(&mut hosts, 0, Cause::Consecutive5xx, now, 0));
            assert!(!detector.is_over(&hosts[0], now + s(expected - 1)));
            now += s(expected);
            assert!(detector.is_over(&hosts[0], now));
            hosts[0].bring_back(now);
            assert!(!hosts[0].is_ejected());
        }
        assert_eq!(hosts[0].ejections, 3);
        detector.forgive(&mut hosts[0], now + s(9));
        detector.forgive(&mut hosts[0], now + s(10));
        detector.forgive(&mut hosts[0], now + s(20));
        assert!(detector.eject(&mut hosts, 0, Cause::Consecutive5xx, now, 0));
        assert!(detector.is_over(&hosts[0], now + s(60)) && !detector.is_over(&hosts[0], now + s(59)));
    }

    #[test]
    fn a_time_out_has_its_most_and_its_jitter() {
        let config = OutlierDetection {
            max_ejection_percent: 100,
            max_ejection: s(40),
            max_ejection_jitter: s(5),
            ..OutlierDetection::default()
        };
        let detector = Detector::new(config);
        let mut hosts = vec![History::default()];
        for _ in 0..9 {
            detector.eject(&mut hosts, 0, Cause::Consecutive5xx, s(0), 0);
            hosts[0].bring_back(s(0));
        }
        detector.eject(&mut hosts, 0, Cause::Consecutive5xx, s(0), 500_000);
        assert!(!detector.is_over(&hosts[0], s(44)) && detector.is_over(&hosts[0], s(45)));
    }

    fn tallies(good: &[u64]) -> Vec<Tally> {
        good.iter().map(|good| Tally { total: 100, good: *good }).collect()
    }

    #[test]
    fn success_far_below_the_mean_is_an_outlier() {
        let check = |good: &[u64], expected: &[usize]| {
            let detector = Detector::new(OutlierDetection::default());
            let found = detector.outliers(&vec![History::default(); good.len()], &tallies(good), false);
            let expected: Vec<_> = expected.iter().map(|index| (*index, Cause::SuccessRate)).collect();
            assert_eq!(found, expected, "{good:?}");
        };
        // Mean 90, standard deviation 20: the least is 52.
        check(&[50, 100, 100, 100, 100], &[0]);
        check(&[60, 100, 100, 100, 100], &[0]);
        check(&[100; 5], &[]);
        check(&[99, 98, 100, 97, 96], &[]);
        check(&[50, 100, 100, 100], &[]);
    }

    #[test]
    fn too_few_requests_say_nothing() {
        let detector = Detector::new(OutlierDetection::default());
        let mut tallies = tallies(&[50, 100, 100, 100, 100]);
        tallies[4].total = 99;
        assert_eq!(detector.outliers(&[History::default(); 5], &tallies, false), []);
    }

    #[test]
    fn those_that_fail_too_often_are_outliers() {
        let rate = SuccessRate { minimum_hosts: 100, ..OutlierDetection::default().success_rate };
        let failure_percentage = FailurePercentage {
            minimum_hosts: 2,
            threshold: 20,
            ..OutlierDetection::default().failure_percentage
        };
        let detector = Detector::new(OutlierDetection {
            success_rate: rate,
            failure_percentage,
            ..OutlierDetection::default()
        });
        let found = detector.outliers(&[History::default(); 3], &tallies(&[80, 81, 0]), true);
        assert_eq!(found, [(0, Cause::FailurePercentageLocal), (2, Cause::FailurePercentageLocal)]);
    }
}
