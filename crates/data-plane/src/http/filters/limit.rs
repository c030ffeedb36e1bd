//! Rate limits that are counted here: tokens, which all workers take from.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use meshwork_model::head::ResponseHead;
use meshwork_model::limit;
use meshwork_model::proxy::{LocalRateLimit, TokenBucket};
use meshwork_model::reason::Reason;
use tokio::time::Instant;

use super::{Kept, LocalReply, Scene};
use crate::error::ProxyError;

/// The filter on a route.
pub(super) struct LocalLimit {
    config: Arc<LocalRateLimit>,
    tokens: Arc<Tokens>,
}

/// The tokens of a limit.
pub(crate) struct Tokens {
    begun: Instant,
    default: Option<Bucket>,
    by_descriptor: Vec<Bucket>,
}

/// A bucket and its state, a number of 64 bits.
struct Bucket {
    config: TokenBucket,
    empty_at: AtomicU64,
}

/// Which bucket a request took its token from, or found empty.
pub(super) struct Told {
    tokens: Arc<Tokens>,
    descriptor: Option<usize>,
}

impl LocalLimit {
    pub(super) fn new(config: &Arc<LocalRateLimit>, kept: &mut Kept) -> Self {
        Self { config: Arc::clone(config), tokens: kept.state(config, Tokens::new) }
    }

    /// Takes a token, or refuses.
    pub(super) fn ask(&self, scene: &mut Scene<'_, '_>) -> Result<(), ProxyError> {
        let Scene { place, .. } = scene;
        let (worker, peer) = (place.worker, place.peer);
        if !self.config.enabled.hits(worker.random()) {
            return Ok(());
        }
        let tokens = if self.config.per_connection {
            // As with Envoy, the first limit that a connection meets makes its tokens.
            peer.tokens.get_or_init(|| Arc::new(Tokens::new(&self.config)))
        } else {
            &self.tokens
        };
        let (is_allowed, descriptor) = tokens.take(&[], self.config.always_consume_default);
        if self.config.tells && (descriptor.is_some() || tokens.default.is_some()) {
            scene.passed().limit = Some(Told { tokens: Arc::clone(tokens), descriptor });
        }
        if is_allowed || !self.config.enforced.hits(worker.random()) {
            return Ok(());
        }
        let mut reply = LocalReply::new(Reason::RateLimited, self.config.status);
        reply.grpc_status = self.config.resource_exhausted.then_some(8);
        Err(reply.into())
    }
}

impl Tokens {
    fn new(config: &LocalRateLimit) -> Self {
        Self {
            begun: Instant::now(),
            default: config.bucket.map(Bucket::new),
            by_descriptor: config
                .descriptors
                .iter()
                .map(|descriptor| Bucket::new(descriptor.bucket))
                .collect(),
        }
    }

    /// Takes a token of each of these descriptors, of which the slowest counts first, and then a common one. Gives
    /// whether there was one each time, and whose bucket tells about it.
    fn take(&self, descriptors: &[usize], always_default: bool) -> (bool, Option<usize>) {
        let now = self.begun.elapsed().as_secs_f64();
        let mut matched: Vec<usize> = descriptors.to_vec();
        matched.sort_by(|a, b| self.rate(*a).total_cmp(&self.rate(*b)));
        for index in &matched {
            if self.by_descriptor.get(*index).is_some_and(|bucket| !bucket.take(now)) {
                return (false, Some(*index));
            }
        }
        let first = matched.first().copied();
        match &self.default {
            Some(default) if first.is_none() || always_default => {
                let is_taken = default.take(now);
                (is_taken, first.filter(|_| is_taken))
            }
            _ => (true, first),
        }
    }

    fn rate(&self, descriptor: usize) -> f64 {
        self.by_descriptor.get(descriptor).map_or(0.0, |bucket| bucket.config.per_second)
    }
}

impl Bucket {
    /// Full when time begins.
    fn new(config: TokenBucket) -> Self {
        let full = limit::full(&config, 0.0);
        Self { config, empty_at: AtomicU64::new(full.to_bits()) }
    }

    fn take(&self, now: f64) -> bool {
        // Nothing else is ordered by it.
        let next = |state| limit::take(&self.config, f64::from_bits(state), now).map(f64::to_bits);
        self.empty_at.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next).is_ok()
    }
}

impl Told {
    /// Says how many tokens there are, and when there is the next. Source: Envoy `enable_x_ratelimit_headers`.
    pub(super) fn tell(&self, response: &mut ResponseHead) {
        let bucket = match self.descriptor {
            Some(index) => self.tokens.by_descriptor.get(index),
            None => self.tokens.default.as_ref(),
        };
        let Some(Bucket { config, empty_at }) = bucket else { return };
        let (now, state) =
            (self.tokens.begun.elapsed().as_secs_f64(), f64::from_bits(empty_at.load(Ordering::Relaxed)));
        let left = limit::tokens(config, state, now).floor();
        let reset = limit::reset_seconds(config, state, now);
        let fields = &mut response.fields;
        fields.push(b"x-ratelimit-limit", config.most.to_string().as_bytes());
        fields.push(b"x-ratelimit-remaining", left.to_string().as_bytes());
        fields.push(b"x-ratelimit-reset", reset.to_string().as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use meshwork_model::fraction::Fraction;
    use meshwork_model::proxy::LocalDescriptor;

    use super::*;

    fn limit(bucket: Option<u32>, descriptors: &[u32], always_consume_default: bool) -> LocalRateLimit {
        let bucket_of = |most: u32| TokenBucket { most, per_second: 0.001 * f64::from(most) };
        LocalRateLimit {
            status: 429,
            bucket: bucket.map(bucket_of),
            descriptors: descriptors
                .iter()
                .map(|most| LocalDescriptor { entries: vec![], bucket: bucket_of(*most) })
                .collect(),
            enabled: Fraction::ALL,
            enforced: Fraction::ALL,
            per_connection: false,
            always_consume_default,
            tells: false,
            resource_exhausted: false,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_takes_a_token_of_each_bucket() {
        let check = |config: LocalRateLimit, descriptors: &[usize], expected: &[bool]| {
            let tokens = Tokens::new(&config);
            let got: Vec<bool> =
                expected.iter().map(|_| tokens.take(descriptors, config.always_consume_default).0).collect();
            assert_eq!(got, expected, "{config:?} {descriptors:?}");
        };
        check(limit(Some(2), &[], true), &[], &[true, true, false]);
        check(limit(None, &[], true), &[], &[true, true, true]);
        check(limit(Some(2), &[1], true), &[0], &[true, false, false]);
        check(limit(Some(1), &[3], true), &[0], &[true, false, false]);
        check(limit(Some(1), &[3], false), &[0], &[true, true, true, false]);
        check(limit(Some(5), &[3, 2], false), &[0, 1], &[true, true, false]);
    }
}
