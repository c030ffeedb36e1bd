//! Rate limits that are counted here.

use std::sync::Arc;
use std::time::Duration;

use meshwork_model::proxy::{LocalDescriptor, LocalRateLimit, TokenBucket};

use super::super::duration;
use super::{failure_status, runtime_share};
use crate::path::{Path, Problems};
use crate::pb;

/// Envoy's shortest time between tokens.
const LEAST_INTERVAL: Duration = Duration::from_millis(50);

/// The filter, or what a route has in its place.
pub(super) fn local(
    message: &pb::local_ratelimit::LocalRateLimit,
    is_route: bool,
    at: &Path<'_>,
    problems: &mut Problems,
) -> Option<Arc<LocalRateLimit>> {
    let bucket = match &message.token_bucket {
        Some(message) => Some(token_bucket(message, &at.field("token_bucket"), problems)?),
        None if is_route => return problems.error(&at.field("token_bucket"), "the bucket is missing", ""),
        None => None,
    };
    let mut descriptors: Vec<LocalDescriptor> = Vec::new();
    for (index, message) in message.descriptors.iter().enumerate() {
        let at = at.field("descriptors");
        let at = at.index(index);
        let Some(bucket) = &message.token_bucket else {
            return problems.error(&at.field("token_bucket"), "the bucket is missing", "");
        };
        let bucket = token_bucket(bucket, &at.field("token_bucket"), problems)?;
        let entry = |entry: &pb::ratelimit::rate_limit_descriptor::Entry| {
            (Arc::from(entry.key.as_str()), Arc::from(entry.value.as_str()))
        };
        let entries: Vec<(Arc<str>, Arc<str>)> = message.entries.iter().map(entry).collect();
        if descriptors.iter().any(|other| other.entries == entries) {
            return problems.error(&at.field("entries"), "the descriptor is there already", "");
        }
        descriptors.push(LocalDescriptor { entries, bucket });
    }
    Some(Arc::new(LocalRateLimit {
        status: failure_status(message.status.as_ref(), 429),
        bucket,
        descriptors,
        enabled: runtime_share(message.filter_enabled.as_ref()),
        enforced: runtime_share(message.filter_enforced.as_ref()),
        per_connection: message.local_rate_limit_per_downstream_connection,
        always_consume_default: message.always_consume_default_token_bucket.is_none_or(|always| always.value),
        tells: message.enable_x_ratelimit_headers
            == pb::ratelimit::XRateLimitHeadersRfcVersion::DraftVersion03 as i32,
        resource_exhausted: message.rate_limited_as_resource_exhausted,
    }))
}

fn token_bucket(message: &pb::TokenBucket, at: &Path<'_>, problems: &mut Problems) -> Option<TokenBucket> {
    if message.max_tokens == 0 {
        return problems.error(&at.field("max_tokens"), "this must be more than 0", "");
    }
    let per_fill = message.tokens_per_fill.map_or(1, |tokens| tokens.value);
    if per_fill == 0 {
        return problems.error(&at.field("tokens_per_fill"), "this must be more than 0", "");
    }
    let at = at.field("fill_interval");
    let Some(interval) = message.fill_interval else { return problems.error(&at, "this is missing", "") };
    let interval = duration(interval, &at, problems)?;
    if interval < LEAST_INTERVAL {
        return problems.error(&at, "this is less than 0.05s", "");
    }
    Some(TokenBucket { most: message.max_tokens, per_second: f64::from(per_fill) / interval.as_secs_f64() })
}
