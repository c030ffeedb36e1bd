//! Medians and spread.

/// The middle of a few samples, and how far they lie apart.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) struct Spread {
    pub(crate) low: f64,
    pub(crate) median: f64,
    pub(crate) high: f64,
}

/// `None` of no samples.
pub(crate) fn spread(samples: &[f64]) -> Option<Spread> {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let (low, high) = (*sorted.first()?, *sorted.last()?);
    let middle = sorted.len() / 2;
    let median = if sorted.len() % 2 == 1 {
        sorted[middle]
    } else {
        f64::midpoint(sorted[middle - 1], sorted[middle])
    };
    Some(Spread { low, median, high })
}

/// Ratios of the same round: what slowed the machine then slowed both.
pub(crate) fn ratio(samples: &[f64], to: &[f64]) -> Option<Spread> {
    let ratios: Vec<_> = samples.iter().zip(to).map(|(a, b)| a / b).collect();
    spread(&ratios)
}

/// The value below which a share of sorted samples lies; 0 of none.
pub(crate) fn percentile(sorted: &[u32], share: f64) -> u32 {
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a share of a count"
    )]
    let at = (sorted.len() as f64 * share) as usize;
    sorted.get(at.min(sorted.len().saturating_sub(1))).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(samples: &[f64], expected: Option<(f64, f64, f64)>) {
        let expected = expected.map(|(low, median, high)| Spread { low, median, high });
        assert_eq!(spread(samples), expected);
    }

    #[test]
    fn the_median_is_the_middle() {
        check(&[], None);
        check(&[3.0], Some((3.0, 3.0, 3.0)));
        check(&[5.0, 1.0, 2.0], Some((1.0, 2.0, 5.0)));
        check(&[4.0, 1.0, 2.0, 9.0], Some((1.0, 3.0, 9.0)));
    }

    #[test]
    fn ratios_are_those_of_the_same_round() {
        // The second round ran on a slower machine, which the ratio does not see.
        let ratio = ratio(&[10.0, 20.0, 10.0], &[20.0, 40.0, 20.0]);
        assert_eq!(ratio, Some(Spread { low: 0.5, median: 0.5, high: 0.5 }));
    }

    #[test]
    fn percentiles_stay_within_the_samples() {
        let sorted: Vec<u32> = (1..=100).collect();
        assert_eq!(percentile(&sorted, 0.5), 51);
        assert_eq!(percentile(&sorted, 0.99), 100);
        assert_eq!(percentile(&sorted, 1.0), 100);
        assert_eq!(percentile(&[], 0.5), 0);
    }
}
