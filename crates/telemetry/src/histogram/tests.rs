#![expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "estimates are compared as floats"
)]

use super::*;

const MICRO: u64 = 1_000;
const MILLI: u64 = 1_000_000;
const SECOND: u64 = 1_000_000_000;

#[test]
fn bounds_ascend_within_the_error_bound() {
    for bounds in [&DURATION_BOUNDS[..], &SIZE_BOUNDS[..]] {
        assert!(bounds.windows(2).all(|pair| pair[0] < pair[1]));
    }
    assert_eq!(DURATION_BOUNDS[0], MICRO);
    assert_eq!(DURATION_BOUNDS[DURATION_BOUND_COUNT - 1], 1000 * SECOND);
    for pair in DURATION_BOUNDS.windows(2) {
        assert!(pair[1] * 10 <= pair[0] * 12, "{pair:?} is more than 1.2 times");
    }
}

#[test]
fn istio_bounds_are_bounds_here() {
    let istio =
        [0.5, 1.0, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1e3, 2.5e3, 5e3, 1e4, 3e4, 6e4, 3e5, 6e5];
    for le in istio {
        assert!(
            DURATION_BOUNDS.iter().any(|bound| (*bound as f64 / MILLI as f64 - le).abs() < 1e-9),
            "{le} ms"
        );
    }
}

fn check_bucket(nanos: u64, upper: Option<u64>) {
    let i = bucket(&DURATION_BOUNDS, &DURATION_STARTS, nanos);
    assert_eq!(DURATION_BOUNDS.get(i).copied(), upper, "{nanos} ns");
}

#[test]
fn buckets_are_closed_above() {
    check_bucket(0, Some(MICRO));
    check_bucket(1, Some(MICRO));
    check_bucket(MICRO, Some(MICRO));
    check_bucket(MICRO + 1, Some(1_100));
    check_bucket(MILLI, Some(MILLI));
    check_bucket(MILLI + 1, Some(1_100_000));
    check_bucket(2_500 * MICRO, Some(2_500 * MICRO));
    check_bucket(1000 * SECOND, Some(1000 * SECOND));
    check_bucket(1000 * SECOND + 1, None);
    check_bucket(u64::MAX, None);
}

/// Values spread evenly over the logarithm, where the buckets' edges lie.
fn some_nanos(random: &mut fastrand::Rng) -> u64 {
    random.u64(..) >> random.u32(0..64)
}

#[test]
fn the_table_of_starts_agrees_with_a_search() {
    let mut random = fastrand::Rng::with_seed(7);
    let edges = DURATION_BOUNDS.iter().flat_map(|b| [b - 1, *b, b + 1]);
    for value in edges.chain((0..20_000).map(|_| some_nanos(&mut random))) {
        let expected = DURATION_BOUNDS.partition_point(|bound| *bound < value);
        assert_eq!(bucket(&DURATION_BOUNDS, &DURATION_STARTS, value), expected, "{value}");
        let expected = SIZE_BOUNDS.partition_point(|bound| *bound < value);
        assert_eq!(bucket(&SIZE_BOUNDS, &SIZE_STARTS, value), expected, "{value}");
    }
}

#[test]
fn quantiles_stay_within_the_error_bound() {
    for seed in 0..200 {
        let mut random = fastrand::Rng::with_seed(seed);
        let durations = Durations::default();
        let count = random.usize(1..500);
        let mut values: Vec<u64> = (0..count).map(|_| some_nanos(&mut random).min(1000 * SECOND)).collect();
        for value in &values {
            durations.record(Duration::from_nanos(*value));
        }
        values.sort_unstable();
        let mut histogram = Histogram::durations();
        durations.add_to(&mut histogram);
        assert_eq!(histogram.count(), count as u64);
        for q in [0.01, 0.5, 0.9, 0.99, 1.0] {
            let rank = ((q * count as f64).ceil() as usize).clamp(1, count);
            let truth = values[rank - 1] as f64;
            let estimate = histogram.quantile(q).expect("there are values");
            let bound = (truth * MAX_RELATIVE_ERROR).max(MICRO as f64) + 1e-3;
            assert!((estimate - truth).abs() <= bound, "seed {seed} q {q}: {estimate} for {truth}");
        }
    }
}

#[test]
fn a_quantile_of_nothing_is_none_and_of_the_longest_is_the_last_bound() {
    let mut histogram = Histogram::durations();
    assert_eq!(histogram.quantile(0.5), None);
    histogram.record(u64::MAX, 1);
    assert_eq!(histogram.quantile(0.5), Some(1e12));
}

#[test]
fn at_most_is_cumulative() {
    let mut histogram = Histogram::sizes();
    for size in [0, 1, 2, 10, 11, 5_000_000_000] {
        histogram.record(size, 1);
    }
    for (bound, expected) in [(1, 2), (5, 3), (10, 4), (25, 5), (1_000_000_000, 5)] {
        assert_eq!(histogram.at_most(bound), expected, "{bound}");
    }
    assert_eq!(histogram.count(), 6);
}
