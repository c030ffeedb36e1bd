//! Numbers as they stand on a line: rates, shares, durations.

use crate::topology::{Protocol, Traffic};

/// Writes a rate: `12/s`, `1.2/s`, `3.4k/s`, `idle`. Connections for TCP, requests otherwise.
pub(crate) fn rate(per_second: f64, protocol: Protocol) -> String {
    let unit = if protocol == Protocol::Tcp { " conn/s" } else { "/s" };
    match per_second {
        r if !r.is_finite() || r <= 0.0 => "idle".to_owned(),
        r if r < 0.1 => format!("<0.1{unit}").replace('<', "#60;"),
        r if r < 9.95 => format!("{}{unit}", tenths(r)),
        r if r < 999.5 => format!("{r:.0}{unit}"),
        r if r < 999_500.0 => format!("{}k{unit}", tenths(r / 1e3)),
        r => format!("{}M{unit}", tenths(r / 1e6)),
    }
}

/// Writes a share of successes; what is not all is never rounded up to all.
pub(crate) fn share(success: f64) -> String {
    let success = if success.is_finite() { success.clamp(0.0, 1.0) } else { 0.0 };
    // An exact product such as 0.57 × 1000 may come out a hair below its whole number.
    let thousandths = (success * 1000.0 + 1e-6).floor();
    let shown = if success < 1.0 { thousandths.min(999.0) } else { 1000.0 };
    format!("{}%", tenths(shown / 10.0))
}

/// Writes a duration: `0.8 ms`, `12 ms`, `1.5 s`; nothing where it is not a number.
pub(crate) fn duration(ms: f64) -> Option<String> {
    match ms {
        ms if !ms.is_finite() || ms < 0.0 => None,
        ms if ms < 9.95 => Some(format!("{} ms", tenths(ms))),
        ms if ms < 999.5 => Some(format!("{ms:.0} ms")),
        ms => Some(format!("{} s", tenths(ms / 1e3))),
    }
}

/// Writes a number with one decimal, none where it is zero.
fn tenths(number: f64) -> String {
    let text = format!("{number:.1}");
    text.strip_suffix(".0").map_or(text.clone(), str::to_owned)
}

/// The traffic of several edges drawn as one line.
#[derive(Clone, Copy, Default)]
pub(crate) struct Sum {
    per_second: f64,
    succeeded: f64,
    p50_ms: Option<f64>,
    edges: usize,
}

impl Sum {
    /// Adds an edge's traffic. Medians do not add up: a line that stands for several edges has none.
    pub(crate) fn add(&mut self, traffic: &Traffic) {
        let rate = if traffic.per_second.is_finite() { traffic.per_second.max(0.0) } else { 0.0 };
        let success = if traffic.success.is_finite() { traffic.success.clamp(0.0, 1.0) } else { 0.0 };
        self.per_second += rate;
        self.succeeded += rate * success;
        self.edges += 1;
        self.p50_ms = if self.edges == 1 { traffic.p50_ms } else { None };
    }

    /// Returns the whole, if any edge was measured.
    pub(crate) fn traffic(&self) -> Option<Traffic> {
        let success = if self.per_second > 0.0 { self.succeeded / self.per_second } else { 1.0 };
        let whole = Traffic { per_second: self.per_second, success, p50_ms: self.p50_ms, p99_ms: None };
        (self.edges > 0).then_some(whole)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_keep_two_digits() {
        let check = |per_second, expected: &str| assert_eq!(rate(per_second, Protocol::Http), expected);
        check(0.0, "idle");
        check(f64::NAN, "idle");
        check(-1.0, "idle");
        check(0.02, "#60;0.1/s");
        check(1.25, "1.2/s");
        check(4.0, "4/s");
        check(9.96, "10/s");
        check(12.4, "12/s");
        check(999.4, "999/s");
        check(999.6, "1k/s");
        check(3_400.0, "3.4k/s");
        check(2_500_000.0, "2.5M/s");
        assert_eq!(rate(2.0, Protocol::Tcp), "2 conn/s");
    }

    #[test]
    fn shares_are_never_rounded_up_to_all() {
        let check = |success, expected: &str| assert_eq!(share(success), expected);
        check(1.0, "100%");
        check(0.999_99, "99.9%");
        check(0.98, "98%");
        check(0.57, "57%");
        check(0.0, "0%");
        check(7.0, "100%");
        check(f64::NAN, "0%");
    }

    #[test]
    fn durations_keep_two_digits() {
        let check = |ms, expected: Option<&str>| assert_eq!(duration(ms).as_deref(), expected);
        check(0.82, Some("0.8 ms"));
        check(12.3, Some("12 ms"));
        check(1_500.0, Some("1.5 s"));
        check(f64::INFINITY, None);
    }

    #[test]
    fn sums_weigh_success_by_rate_and_have_no_median() {
        let mut sum = Sum::default();
        assert!(sum.traffic().is_none());
        sum.add(&Traffic { per_second: 3.0, success: 1.0, p50_ms: Some(1.0), p99_ms: None });
        sum.add(&Traffic { per_second: 1.0, success: 0.0, p50_ms: Some(9.0), p99_ms: None });
        let whole = sum.traffic().expect("two edges");
        assert_eq!(
            (rate(whole.per_second, Protocol::Http), share(whole.success)),
            ("4/s".into(), "75%".into())
        );
        assert_eq!(whole.p50_ms, None);
    }
}
