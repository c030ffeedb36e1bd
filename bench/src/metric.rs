//! What is measured, in which unit, and which way is better.

use serde::{Deserialize, Serialize};

/// A figure of one contender in one round.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Metric {
    /// User and system time per request.
    CpuPerRequest,
    /// The user part of it.
    UserPerRequest,
    /// User and system time per request of load and origin, where they are part of what is measured.
    ProgramsPerRequest,
    /// CPU time per GiB that passes, both directions counted.
    CpuPerGib,
    /// TLS handshakes for a second of CPU time.
    HandshakesPerCpuSecond,
    /// Requests (round trips, handshakes) per second.
    PerSecond,
    /// Half of the requests took less.
    P50,
    /// Nine of ten took less.
    P90,
    /// All but one in a hundred took less.
    P99,
    /// Resident memory after the load.
    Memory,
    /// Resident memory before any connection.
    MemoryIdle,
    /// Memory for each of 1,000 idle connections, beyond the idle process.
    MemoryPerConnection1k,
    /// The same with 10,000.
    MemoryPerConnection10k,
    /// Resident memory with 1,000 idle connections.
    Memory1k,
}

impl Metric {
    /// What a column is called, with its unit.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::CpuPerRequest => "CPU µs/request",
            Self::UserPerRequest => "user µs",
            Self::ProgramsPerRequest => "programs’ µs",
            Self::CpuPerGib => "CPU ms/GiB",
            Self::HandshakesPerCpuSecond => "handshakes/CPU-s",
            Self::PerSecond => "per second",
            Self::P50 => "p50 ms",
            Self::P90 => "p90 ms",
            Self::P99 => "p99 ms",
            Self::Memory => "RSS MiB",
            Self::MemoryIdle => "idle MiB",
            Self::MemoryPerConnection1k => "KiB/conn at 1,000",
            Self::MemoryPerConnection10k => "KiB/conn at 10,000",
            Self::Memory1k => "MiB at 1,000",
        }
    }

    /// Digits behind the point.
    pub(crate) fn digits(self) -> usize {
        match self {
            Self::CpuPerGib | Self::HandshakesPerCpuSecond | Self::PerSecond => 0,
            Self::P50 | Self::P90 | Self::P99 => 2,
            _ => 1,
        }
    }

    /// Whether more is better.
    pub(crate) fn more_is_better(self) -> bool {
        matches!(self, Self::HandshakesPerCpuSecond | Self::PerSecond)
    }

    /// A value of this metric as something of which less is better.
    pub(crate) fn cost(self, value: f64) -> f64 {
        if self.more_is_better() { -value } else { value }
    }

    /// A value with the metric's digits.
    pub(crate) fn format(self, value: f64) -> String {
        let text = format!("{value:.*}", self.digits());
        let (whole, fraction) = text.split_at(text.find('.').unwrap_or(text.len()));
        let mut grouped = String::new();
        for (index, digit) in whole.chars().enumerate() {
            if index > 0 && (whole.len() - index).is_multiple_of(3) {
                grouped.push(',');
            }
            grouped.push(digit);
        }
        grouped + fraction
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_have_their_digits_and_groups() {
        assert_eq!(Metric::PerSecond.format(1_234_567.4), "1,234,567");
        assert_eq!(Metric::P99.format(123.456), "123.46");
        assert_eq!(Metric::CpuPerRequest.format(8.04), "8.0");
    }
}
