//! Histograms with fixed bounds, and the quantiles that can be read from them.
//!
//! Durations are log-linear: every power of ten is divided at the same 18 mantissas, so that each of Istio's
//! `le` bounds is a bound here too and the exported cumulative buckets are exact. A bucket is at most 1.2 times
//! as high as it is low, so a quantile of durations between 1 µs and 1000 s is off by at most 20 % of its value
//! ([`MAX_RELATIVE_ERROR`]); shorter ones by at most 1 µs, and longer ones are told as 1000 s.
//!
//! Buckets are open below and closed above, `(lower, upper]`, as in Prometheus and OTLP.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Where a power of ten is divided, in tenths.
const MANTISSAS: [u64; 18] = [10, 11, 12, 13, 15, 17, 20, 22, 25, 30, 35, 40, 45, 50, 60, 70, 80, 90];
/// Powers of ten from 1 µs to 1000 s.
const DECADES: usize = 9;
const DURATION_BOUND_COUNT: usize = MANTISSAS.len() * DECADES + 1;

/// Upper bounds of the duration buckets, in nanoseconds; the last bucket, of longer ones, has none.
pub const DURATION_BOUNDS: [u64; DURATION_BOUND_COUNT] = duration_bounds();
/// Upper bounds of the size buckets, in bytes: Istio's, and three above. Sizes are counted, not read as
/// quantiles, so coarse ones do.
pub const SIZE_BOUNDS: [u64; 21] = [
    1,
    5,
    10,
    25,
    50,
    100,
    250,
    500,
    1_000,
    2_500,
    5_000,
    10_000,
    30_000,
    60_000,
    300_000,
    600_000,
    1_800_000,
    3_600_000,
    10_000_000,
    100_000_000,
    1_000_000_000,
];
/// How far a quantile of durations may be off, as a share of its value.
pub const MAX_RELATIVE_ERROR: f64 = 0.2;

const DURATION_BUCKETS: usize = DURATION_BOUNDS.len() + 1;
const SIZE_BUCKETS: usize = SIZE_BOUNDS.len() + 1;
static DURATION_STARTS: [u8; 65] = starts(&DURATION_BOUNDS);
static SIZE_STARTS: [u8; 65] = starts(&SIZE_BOUNDS);

/// A histogram of durations, written by one thread, read by any.
#[derive(Debug)]
pub(crate) struct Durations(Buckets<DURATION_BUCKETS>);

/// A histogram of sizes, written by one thread, read by any.
#[derive(Debug)]
pub(crate) struct Sizes(Buckets<SIZE_BUCKETS>);

#[derive(Debug)]
struct Buckets<const N: usize> {
    counts: [AtomicU64; N],
    sum: AtomicU64,
}

/// The counts of a histogram at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Histogram {
    bounds: &'static [u64],
    counts: Vec<u64>,
    sum: u64,
}

const fn duration_bounds() -> [u64; DURATION_BOUND_COUNT] {
    let mut bounds = [0; DURATION_BOUND_COUNT];
    let (mut i, mut decade) = (0, 100);
    while i + 1 < DURATION_BOUND_COUNT {
        bounds[i] = MANTISSAS[i % MANTISSAS.len()] * decade;
        i += 1;
        if i.is_multiple_of(MANTISSAS.len()) {
            decade *= 10;
        }
    }
    bounds[i] = 10 * decade;
    bounds
}

/// For each bit length, the first bucket that a value of that length can fall into.
const fn starts(bounds: &[u64]) -> [u8; 65] {
    assert!(bounds.len() < 255, "a bucket's number fits into a byte");
    let mut starts = [0; 65];
    let (mut bits, mut i) = (1_usize, 0_u8);
    while bits <= 64 {
        while (i as usize) < bounds.len() && bounds[i as usize] < 1 << (bits - 1) {
            i += 1;
        }
        starts[bits] = i;
        bits += 1;
    }
    starts
}

/// The bucket of a value: a table by its bit length, then at most one octave's bounds.
fn bucket(bounds: &[u64], starts: &[u8; 65], value: u64) -> usize {
    let mut i = usize::from(starts[64 - value.leading_zeros() as usize]);
    while i < bounds.len() && value > bounds[i] {
        i += 1;
    }
    i
}

/// Adds to a counter that only the calling thread writes: cheaper than an atomic addition, and as exact.
pub(crate) fn add(counter: &AtomicU64, n: u64) {
    counter.store(counter.load(Relaxed).wrapping_add(n), Relaxed);
}

// === impl Durations and Sizes ===

impl Durations {
    pub(crate) fn record(&self, duration: Duration) {
        let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        self.0.record(bucket(&DURATION_BOUNDS, &DURATION_STARTS, nanos), nanos);
    }

    pub(crate) fn add_to(&self, sum: &mut Histogram) {
        self.0.add_to(sum);
    }
}

impl Sizes {
    pub(crate) fn record(&self, bytes: u64) {
        self.0.record(bucket(&SIZE_BOUNDS, &SIZE_STARTS, bytes), bytes);
    }

    pub(crate) fn add_to(&self, sum: &mut Histogram) {
        self.0.add_to(sum);
    }
}

impl Default for Durations {
    fn default() -> Self {
        Self(Buckets::new())
    }
}

impl Default for Sizes {
    fn default() -> Self {
        Self(Buckets::new())
    }
}

impl<const N: usize> Buckets<N> {
    fn new() -> Self {
        Self { counts: [const { AtomicU64::new(0) }; N], sum: AtomicU64::new(0) }
    }

    fn record(&self, bucket: usize, value: u64) {
        add(&self.counts[bucket], 1);
        add(&self.sum, value);
    }

    fn add_to(&self, sum: &mut Histogram) {
        for (total, count) in sum.counts.iter_mut().zip(&self.counts) {
            *total += count.load(Relaxed);
        }
        sum.sum = sum.sum.wrapping_add(self.sum.load(Relaxed));
    }
}

// === impl Histogram ===

impl Histogram {
    /// An empty histogram of durations, in nanoseconds.
    pub fn durations() -> Self {
        Self::empty(&DURATION_BOUNDS)
    }

    /// An empty histogram of sizes, in bytes.
    pub fn sizes() -> Self {
        Self::empty(&SIZE_BOUNDS)
    }

    fn empty(bounds: &'static [u64]) -> Self {
        Self { bounds, counts: vec![0; bounds.len() + 1], sum: 0 }
    }

    /// Upper bounds of the buckets; the last bucket has none.
    pub fn bounds(&self) -> &'static [u64] {
        self.bounds
    }

    /// Values in each bucket, one bucket more than bounds.
    pub fn counts(&self) -> &[u64] {
        &self.counts
    }

    /// Number of values.
    pub fn count(&self) -> u64 {
        self.counts.iter().fold(0, |sum, n| sum.saturating_add(*n))
    }

    /// Sum of the values.
    pub fn sum(&self) -> u64 {
        self.sum
    }

    /// How many values are at most `bound`; exact where `bound` is one of [`Histogram::bounds`].
    pub fn at_most(&self, bound: u64) -> u64 {
        let up_to = self.bounds.iter().zip(&self.counts).take_while(|(b, _)| **b <= bound);
        up_to.fold(0, |sum, (_, n)| sum.saturating_add(*n))
    }

    /// Counts `n` values into the bucket of `value`; the sum grows by `n` times the value.
    pub fn record(&mut self, value: u64, n: u64) {
        let bucket = self.bounds.partition_point(|bound| *bound < value);
        self.counts[bucket] = self.counts[bucket].saturating_add(n);
        self.sum = self.sum.saturating_add(value.saturating_mul(n));
    }

    /// Counts `n` values into a bucket by its number; numbers past the last bucket count into the last.
    pub fn record_bucket(&mut self, bucket: usize, n: u64) {
        let bucket = bucket.min(self.bounds.len());
        self.counts[bucket] = self.counts[bucket].saturating_add(n);
    }

    /// Adds another histogram's values; of the same bounds.
    pub fn add(&mut self, other: &Self) {
        for (total, count) in self.counts.iter_mut().zip(&other.counts) {
            *total = total.saturating_add(*count);
        }
        self.sum = self.sum.saturating_add(other.sum);
    }

    /// The value below which a share `q` (0 to 1) of the values lies, interpolated within its bucket; `None`
    /// without values.
    #[expect(clippy::cast_precision_loss, reason = "an estimate; counts and bounds fit 52 bits long enough")]
    pub fn quantile(&self, q: f64) -> Option<f64> {
        let count = self.count();
        if count == 0 {
            return None;
        }
        let rank = q.clamp(0.0, 1.0) * count as f64;
        let mut below = 0.0;
        for (i, n) in self.counts.iter().enumerate().filter(|(_, n)| **n > 0) {
            let n = *n as f64;
            if below + n >= rank {
                return Some(self.within(i, (rank - below) / n));
            }
            below += n;
        }
        self.counts.iter().rposition(|n| *n > 0).map(|i| self.within(i, 1.0))
    }

    #[expect(clippy::cast_precision_loss, reason = "as in `quantile`")]
    fn within(&self, bucket: usize, share: f64) -> f64 {
        let last = self.bounds[self.bounds.len() - 1];
        let Some(&upper) = self.bounds.get(bucket) else { return last as f64 };
        let lower = if bucket == 0 { 0 } else { self.bounds[bucket - 1] };
        lower as f64 + (upper - lower) as f64 * share
    }
}

#[cfg(test)]
mod tests;
