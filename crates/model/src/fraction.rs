//! A share of requests, as Envoy writes it: so many of a hundred, ten thousand or a million.
//!
//! Source: Envoy `FractionalPercent`, `RuntimeFractionalPercent`.

/// A share of requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fraction {
    /// How many of `denominator`; at or above it, all.
    pub numerator: u32,
    /// Of how many: 100, 10,000 or 1,000,000.
    pub denominator: u32,
}

impl Fraction {
    /// Every request.
    pub const ALL: Self = Self { numerator: 100, denominator: 100 };

    /// Whether a request is one of the share; `random` is any number, uniformly drawn.
    pub fn hits(self, random: u64) -> bool {
        random % u64::from(self.denominator.max(1)) < u64::from(self.numerator)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_are_hit_as_it_says() {
        let check = |numerator, denominator, of, expected| {
            let fraction = Fraction { numerator, denominator };
            assert_eq!((0..of).filter(|random| fraction.hits(*random)).count(), expected, "{fraction:?}");
        };
        check(0, 100, 1000, 0);
        check(30, 100, 1000, 300);
        check(25, 10_000, 20_000, 50);
        check(1, 1_000_000, 2_000_000, 2);
        check(100, 100, 1000, 1000);
        check(200, 100, 1000, 1000);
    }
}
