//! What is tried again, and how long is waited before that: the conditions of a route together with those that the
//! request itself names.
//!
//! Pure: the caller has the clock, the randomness and the connections. Source: Envoy's router, "Retry semantics".

use std::sync::LazyLock;
use std::time::Duration;

use crate::head::{Fields, RequestHead};
use crate::proxy::{ResetFormat, ResetHeader, RetryOn, RetryPolicy};
use crate::route::{matches_header, matches_response};

/// Header fields by which a request says how it wants to be forwarded. None of them is forwarded.
pub mod asks {
    /// Conditions of HTTP.
    pub const RETRY_ON: &[u8] = b"x-envoy-retry-on";
    /// Conditions of gRPC.
    pub const RETRY_GRPC_ON: &[u8] = b"x-envoy-retry-grpc-on";
    /// How often.
    pub const MAX_RETRIES: &[u8] = b"x-envoy-max-retries";
    /// Statuses besides those of the route.
    pub const STATUS_CODES: &[u8] = b"x-envoy-retriable-status-codes";
    /// Names of response fields besides those of the route.
    pub const HEADER_NAMES: &[u8] = b"x-envoy-retriable-header-names";
    /// The whole time-out, in milliseconds.
    pub const TIMEOUT: &[u8] = b"x-envoy-upstream-rq-timeout-ms";
    /// That of one try.
    pub const TRY_TIMEOUT: &[u8] = b"x-envoy-upstream-rq-per-try-timeout-ms";
    /// How long the exchange with the endpoint may take, in milliseconds.
    pub const STREAM_DURATION: &[u8] = b"x-envoy-upstream-stream-duration-ms";
    /// A time-out is answered by 204.
    pub const ALT_RESPONSE: &[u8] = b"x-envoy-upstream-rq-timeout-alt-response";
    /// Names statistics.
    pub const ALT_STAT_NAME: &[u8] = b"x-envoy-upstream-alt-stat-name";
    /// Hedging, which is not done.
    pub const HEDGE: &[u8] = b"x-envoy-hedge-on-per-try-timeout";

    /// All of them.
    pub const ALL: [&[u8]; 11] = [
        RETRY_ON,
        RETRY_GRPC_ON,
        MAX_RETRIES,
        STATUS_CODES,
        HEADER_NAMES,
        TIMEOUT,
        TRY_TIMEOUT,
        STREAM_DURATION,
        ALT_RESPONSE,
        ALT_STAT_NAME,
        HEDGE,
    ];

    /// What the names of all of them begin with.
    pub const PREFIX: &[u8] = b"x-envoy-";
}

/// Says of a response that the endpoint, or a proxy before it, limits the rate.
const RATE_LIMITED: &[u8] = b"x-envoy-ratelimited";

/// What the tries of one request may still do.
#[derive(Clone, Debug)]
pub struct Retrial<'p> {
    policy: &'p RetryPolicy,
    on: RetryOn,
    left: u32,
    codes: Vec<u32>,
    names: Vec<Box<[u8]>>,
    /// Milliseconds that the next wait is shorter than.
    next_wait: u64,
}

/// Why a try ended without a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reset {
    /// No connection could be opened, in time or at all.
    ConnectFailure,
    /// The endpoint refused the stream unseen.
    RefusedStream,
    /// A limit of the cluster.
    Overflow,
    /// Anything else; whether anything of the request was sent.
    Other {
        /// Whether anything of the request was sent.
        sent: bool,
    },
}

/// Whether there is another try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Nothing asks for it.
    No,
    /// It is asked for, and all tries are used up.
    UsedUp,
    /// Yes.
    Again,
}

impl<'p> Retrial<'p> {
    /// Of a request, as it is forwarded; `None` where nothing is tried again whatever happens.
    pub fn begin(policy: Option<&'p RetryPolicy>, head: &RequestHead) -> Option<Self> {
        static NOTHING: LazyLock<RetryPolicy> = LazyLock::new(|| RetryPolicy::on(RetryOn::NONE));
        let (http, grpc) = (head.fields.find(asks::RETRY_ON), head.fields.find(asks::RETRY_GRPC_ON));
        let policy = match policy {
            Some(policy) => policy,
            None if http.is_none() && grpc.is_none() => return None,
            None => &NOTHING,
        };
        let tests = &policy.request_headers;
        if !tests.is_empty() && !tests.iter().any(|test| matches_header(test, head)) {
            return None;
        }
        let http = http.map_or(RetryOn::NONE, |text| parse(text).without(RetryOn::GRPC));
        let grpc = grpc.map_or(RetryOn::NONE, |text| parse(text).only(RetryOn::GRPC));
        let on = policy.on | http | grpc;
        if on.is_empty() {
            return None;
        }
        let asked = head.fields.find(asks::MAX_RETRIES).and_then(number);
        // As Envoy: 64 bits are read, 32 are kept.
        let left = asked.map_or(policy.retries, |asked| (asked & 0xffff_ffff) as u32);
        let codes = head.fields.find(asks::STATUS_CODES).map_or_else(Vec::new, |text| {
            tokens(text).filter_map(|code| u32::try_from(number(code)?).ok()).collect()
        });
        let names = head.fields.find(asks::HEADER_NAMES).map_or_else(Vec::new, |text| {
            tokens(text).map(|name| name.to_ascii_lowercase().into()).collect()
        });
        Some(Self { policy, on, left, codes, names, next_wait: millis(policy.back_off.base).max(1) })
    }

    /// The policy that it began with.
    pub fn policy(&self) -> &'p RetryPolicy {
        self.policy
    }

    /// Decides after a response's head.
    pub fn after_response(&mut self, status: u16, fields: &Fields) -> Decision {
        let wanted = self.wants(status, fields);
        self.spend(wanted)
    }

    /// Decides after a try that brought no response.
    pub fn after_reset(&mut self, reset: Reset) -> Decision {
        let wanted = self.wants_after(reset);
        self.spend(wanted)
    }

    fn spend(&mut self, wanted: bool) -> Decision {
        match (wanted, self.left) {
            (false, _) => Decision::No,
            (true, 0) => Decision::UsedUp,
            (true, _) => {
                self.left -= 1;
                Decision::Again
            }
        }
    }

    fn wants(&self, status: u16, fields: &Fields) -> bool {
        if fields.find(RATE_LIMITED).is_some() {
            return self.on.has(RetryOn::RATE_LIMITED);
        }
        let has = |on| self.on.has(on);
        has(RetryOn::ANY_5XX) && (500..600).contains(&status)
            || has(RetryOn::GATEWAY_ERROR) && is_gateway_error(status)
            || has(RetryOn::RETRIABLE_4XX) && status == 409
            || has(RetryOn::STATUS_CODES) && self.lists(u32::from(status))
            || has(RetryOn::HEADERS) && self.tests(status, fields)
            || self.on.has_any(RetryOn::GRPC) && self.wants_grpc(fields)
    }

    fn lists(&self, status: u32) -> bool {
        self.policy.status_codes.contains(&status) || self.codes.contains(&status)
    }

    fn tests(&self, status: u16, fields: &Fields) -> bool {
        self.policy.response_headers.iter().any(|test| matches_response(test, status, fields))
            || self.names.iter().any(|name| fields.find(name).is_some())
    }

    fn wants_grpc(&self, fields: &Fields) -> bool {
        let status = fields.find(b"grpc-status").and_then(number);
        let on = match status {
            Some(1) => RetryOn::GRPC_CANCELLED,
            Some(4) => RetryOn::GRPC_DEADLINE_EXCEEDED,
            Some(8) => RetryOn::GRPC_RESOURCE_EXHAUSTED,
            Some(13) => RetryOn::GRPC_INTERNAL,
            Some(14) => RetryOn::GRPC_UNAVAILABLE,
            _ => return false,
        };
        self.on.has(on)
    }

    fn wants_after(&self, reset: Reset) -> bool {
        let any = RetryOn::RESET | RetryOn::ANY_5XX | RetryOn::GATEWAY_ERROR;
        match reset {
            Reset::Overflow => false,
            Reset::ConnectFailure => {
                self.on.has_any(any | RetryOn::CONNECT_FAILURE | RetryOn::RESET_BEFORE_REQUEST)
            }
            Reset::RefusedStream => self.on.has_any(any | RetryOn::REFUSED_STREAM),
            Reset::Other { sent } => {
                self.on.has_any(any) || !sent && self.on.has(RetryOn::RESET_BEFORE_REQUEST)
            }
        }
    }

    /// How long to wait before the next try; `random` is any number, uniformly drawn.
    pub fn wait(&mut self, random: u64) -> Duration {
        let (bound, most) = (self.next_wait, millis(self.policy.back_off.most).max(1));
        self.next_wait = if bound < most / 2 { bound * 2 } else { most };
        Duration::from_millis(random % bound)
    }

    /// How long to wait because a response says so; `now` is in seconds since 1970.
    pub fn told_to_wait(&self, fields: &Fields, now: u64, random: u64) -> Option<Duration> {
        let limited = self.policy.rate_limited.as_ref()?;
        let told = limited
            .headers
            .iter()
            .filter_map(|header| told_seconds(header, fields, now))
            .find(|seconds| Duration::from_secs(*seconds) <= limited.most)?;
        let wait = told.saturating_mul(1000);
        (wait > 1).then(|| Duration::from_millis(wait + random % (wait / 2)))
    }
}

fn told_seconds(header: &ResetHeader, fields: &Fields, now: u64) -> Option<u64> {
    let said = fields.find(header.name.as_bytes()).and_then(number)?;
    match header.format {
        ResetFormat::Seconds => Some(said),
        ResetFormat::UnixTimestamp => said.checked_sub(now),
    }
}

/// The conditions in a list; unknown ones are passed over.
fn parse(list: &[u8]) -> RetryOn {
    let known = |name: &[u8]| RetryOn::named(std::str::from_utf8(name).ok()?);
    tokens(list).filter_map(known).fold(RetryOn::NONE, RetryOn::and)
}

/// Whether every condition in a list is a known one, of gRPC or of HTTP.
pub fn is_valid_list(list: &[u8], grpc: bool) -> bool {
    let known = |name: &[u8]| RetryOn::named(std::str::from_utf8(name).ok()?);
    tokens(list).all(|name| known(name).is_some_and(|on| on.has_any(RetryOn::GRPC) == grpc))
}

fn tokens(list: &[u8]) -> impl Iterator<Item = &[u8]> {
    list.split(|byte| *byte == b',').map(<[u8]>::trim_ascii).filter(|token| !token.is_empty())
}

/// A number in decimal digits.
pub fn number(text: &[u8]) -> Option<u64> {
    std::str::from_utf8(text).ok()?.trim_ascii().parse().ok()
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Whether a status is one of those that gateways answer with.
pub fn is_gateway_error(status: u16) -> bool {
    matches!(status, 502..=504)
}

#[cfg(test)]
mod tests;
