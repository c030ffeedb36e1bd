//! `take`: whether there is a token for a request.
//!
//! A bucket's state is one number: the time at which it was empty, if it has filled ever since. So workers share it by
//! one atomic. Source: Envoy `local_ratelimit`, whose buckets fill bit by bit.

use crate::proxy::TokenBucket;

/// The state of a bucket that is full at `now`; times are seconds since whenever.
pub fn full(bucket: &TokenBucket, now: f64) -> f64 {
    now - f64::from(bucket.most) / bucket.per_second
}

/// How many tokens there are at `now`, and parts of one.
pub fn tokens(bucket: &TokenBucket, empty_at: f64, now: f64) -> f64 {
    ((now - empty_at) * bucket.per_second).clamp(0.0, f64::from(bucket.most))
}

/// Takes a token: gives the bucket's next state, or `None` where there is no whole one.
pub fn take(bucket: &TokenBucket, empty_at: f64, now: f64) -> Option<f64> {
    let tokens = tokens(bucket, empty_at, now);
    (tokens >= 1.0).then(|| now - (tokens - 1.0) / bucket.per_second)
}

/// Seconds until there is a token, a part of one counted as one; 0 where there is a token.
pub fn reset_seconds(bucket: &TokenBucket, empty_at: f64, now: f64) -> f64 {
    let missing = 1.0 - tokens(bucket, empty_at, now);
    let millis = (missing.max(0.0) / bucket.per_second * 1000.0).ceil();
    (millis / 1000.0).ceil()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_taken_and_come_back_bit_by_bit() {
        let bucket = TokenBucket { most: 2, per_second: 0.5 };
        let mut state = full(&bucket, 100.0);
        let mut check = |now: f64, passes: bool, left: f64| {
            let taken = take(&bucket, state, now);
            assert_eq!(taken.is_some(), passes, "at {now}");
            state = taken.unwrap_or(state);
            assert!((tokens(&bucket, state, now) - left).abs() < 1e-9, "at {now}: {state}");
        };
        check(100.0, true, 1.0);
        check(100.0, true, 0.0);
        check(100.0, false, 0.0);
        check(101.0, false, 0.5);
        check(102.0, true, 0.0);
        check(1000.0, true, 1.0);
    }

    #[test]
    fn the_next_token_is_announced() {
        let bucket = TokenBucket { most: 2, per_second: 0.1 };
        let full = full(&bucket, 0.0);
        assert!(reset_seconds(&bucket, full, 0.0).abs() < 1e-9);
        let empty = 0.0;
        assert!((reset_seconds(&bucket, empty, 0.0) - 10.0).abs() < 1e-9);
        assert!((reset_seconds(&bucket, empty, 4.5) - 6.0).abs() < 1e-9);
        assert!(reset_seconds(&bucket, empty, 10.5).abs() < 1e-9);
    }
}
