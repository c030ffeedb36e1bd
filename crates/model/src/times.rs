//! What time an exchange has: what its route says, what the request asks for, and what is told to the endpoint.
//!
//! Pure. Source: Envoy's router, "Timeouts"; gRPC over HTTP/2, "Timeout".

use std::time::Duration;

use crate::head::{Fields, RequestHead};
use crate::proxy::{Resilience, StreamDuration};
use crate::retry::{asks, number};

/// What a proxy tells the one behind it: how many milliseconds it waits.
pub const EXPECTED: &[u8] = b"x-envoy-expected-rq-timeout-ms";
/// The time of a gRPC call.
pub const GRPC_TIMEOUT: &[u8] = b"grpc-timeout";

/// Limits of one exchange; `None` is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Times {
    /// From the request's end to the response's end, all tries together.
    pub whole: Option<Duration>,
    /// From the request's end to the response's head, for one try.
    pub per_try: Option<Duration>,
    /// How long nothing may come of one try's response.
    pub per_try_idle: Option<Duration>,
    /// Whether `whole` is answered with 204 rather than 504.
    pub alt_response: bool,
    /// How long the exchange with the endpoint may take.
    pub upstream: Option<Duration>,
}

impl Times {
    /// What counts for a request.
    ///
    /// `timeout` is the route's; `respects_expected` whether what a proxy before this one expects counts.
    pub fn of(
        timeout: Option<Duration>,
        resilience: &Resilience,
        head: &RequestHead,
        respects_expected: bool,
    ) -> Self {
        let retry = resilience.retry.as_deref();
        let limit = |limit: Option<Duration>| limit.filter(|limit| !limit.is_zero());
        let route = match (&resilience.stream_duration, &resilience.grpc_timeout) {
            (Some(_), _) => None,
            (None, Some(grpc)) if head.is_grpc() => {
                let asked = grpc_timeout(&head.fields).unwrap_or_default();
                let earlier = grpc.offset.filter(|offset| *offset < asked).unwrap_or_default();
                let asked = asked.saturating_sub(earlier);
                let is_over = asked.is_zero() || asked > grpc.most;
                limit(Some(if !grpc.most.is_zero() && is_over { grpc.most } else { asked }))
            }
            (None, _) => limit(timeout),
        };
        let asked = |name| millis(head.fields.find(name));
        let whole = if respects_expected && head.fields.find(EXPECTED).is_some() {
            asked(EXPECTED)
        } else {
            asked(asks::TIMEOUT)
        };
        let whole = whole.map_or(route, |asked| limit(Some(asked)));
        let of_route = retry.and_then(|retry| retry.per_try_timeout);
        let per_try = limit(asked(asks::TRY_TIMEOUT).or(of_route));
        Self {
            whole,
            // One that cannot end before the whole does says nothing.
            per_try: per_try.filter(|per_try| whole.is_none_or(|whole| *per_try < whole)),
            per_try_idle: limit(retry.and_then(|retry| retry.per_try_idle_timeout)),
            alt_response: head.fields.find(asks::ALT_RESPONSE).is_some(),
            upstream: limit(asked(asks::STREAM_DURATION)),
        }
    }

    /// What the endpoint is told to expect of a try that begins so long after the request's end.
    pub fn expected(&self, elapsed: Duration) -> Option<Duration> {
        let expected = self.per_try.or(self.whole)?;
        // Nothing would mean no limit.
        let left = self.whole.map(|whole| whole.saturating_sub(elapsed).max(Duration::from_millis(1)));
        Some(left.map_or(expected, |left| left.min(expected)))
    }
}

/// How long a whole exchange may take, where that is limited: what the route says, or the connection, or the call
/// itself.
pub fn stream_duration(
    of_connection: Option<Duration>,
    of_route: Option<&StreamDuration>,
    fields: &Fields,
) -> Option<Duration> {
    let usual = || {
        let most = of_route.and_then(|route| route.most).or(of_connection);
        most.filter(|most| !most.is_zero())
    };
    let Some(grpc_most) = of_route.and_then(|route| route.grpc_most) else { return usual() };
    let Some(asked) = grpc_timeout(fields) else { return usual() };
    let asked = if grpc_most.is_zero() { asked } else { asked.min(grpc_most) };
    let earlier = of_route.and_then(|route| route.grpc_offset).unwrap_or_default();
    Some(asked.saturating_sub(earlier))
}

fn millis(field: Option<&[u8]>) -> Option<Duration> {
    field.and_then(number).map(Duration::from_millis)
}

/// The largest number that a `grpc-timeout` may have.
const MOST: u64 = 99_999_999;

/// The time that a gRPC call names; what is below a millisecond counts as one.
pub fn grpc_timeout(fields: &Fields) -> Option<Duration> {
    let (unit, digits) = fields.find(GRPC_TIMEOUT)?.split_last()?;
    let count = digits.iter().all(u8::is_ascii_digit).then(|| number(digits)).flatten()?;
    if count > MOST {
        return None;
    }
    let millis = match unit {
        b'H' => count * 3_600_000,
        b'M' => count * 60_000,
        b'S' => count * 1000,
        b'm' => count,
        b'u' => count.div_ceil(1000),
        b'n' => count.div_ceil(1_000_000),
        _ => return None,
    };
    Some(Duration::from_millis(millis))
}

/// The text of a `grpc-timeout`: a number of eight digits at most, and its unit.
pub fn grpc_timeout_text(timeout: Duration) -> (u64, u8) {
    let millis = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
    let units = [(millis, b'm'), (millis / 1000, b'S'), (millis / 60_000, b'M')];
    let fits = units.into_iter().find(|(count, _)| *count <= MOST);
    fits.unwrap_or(((millis / 3_600_000).min(MOST), b'H'))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::proxy::{GrpcTimeout, RetryOn, RetryPolicy};

    const fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    fn request(all: &[(&str, &str)]) -> RequestHead {
        let mut head = RequestHead::default();
        for (name, value) in all {
            head.fields.push(name.as_bytes(), value.as_bytes());
        }
        head
    }

    fn with_try(per_try: u64) -> Resilience {
        let per_try_timeout = Some(ms(per_try));
        let policy = RetryPolicy { per_try_timeout, ..RetryPolicy::on(RetryOn::RESET) };
        Resilience { retry: Some(Arc::new(policy)), ..Resilience::default() }
    }

    #[test]
    fn what_the_request_asks_for_comes_before_the_route() {
        let check = |resilience: &Resilience, asked: &[(&str, &str)], whole: u64, per_try: u64| {
            let times = Times::of(Some(ms(15_000)), resilience, &request(asked), false);
            let got = (times.whole.unwrap_or_default(), times.per_try.unwrap_or_default());
            assert_eq!(got, (ms(whole), ms(per_try)), "{asked:?}");
        };
        let plain = Resilience::default();
        check(&plain, &[], 15_000, 0);
        check(&plain, &[("x-envoy-upstream-rq-timeout-ms", "100")], 100, 0);
        check(&plain, &[("x-envoy-upstream-rq-timeout-ms", "0")], 0, 0);
        check(&plain, &[("x-envoy-upstream-rq-timeout-ms", "x")], 15_000, 0);
        check(&plain, &[("x-envoy-upstream-rq-per-try-timeout-ms", "50")], 15_000, 50);
        check(&plain, &[("x-envoy-expected-rq-timeout-ms", "5")], 15_000, 0);
        check(&with_try(200), &[], 15_000, 200);
        check(&with_try(15_000), &[], 15_000, 0);
        check(&with_try(200), &[("x-envoy-upstream-rq-per-try-timeout-ms", "0")], 15_000, 0);
        check(&with_try(200), &[("x-envoy-upstream-rq-timeout-ms", "0")], 0, 200);
        let stream = Resilience { stream_duration: Some(StreamDuration::default()), ..plain };
        check(&stream, &[], 0, 0);
    }

    #[test]
    fn what_a_proxy_before_expects_counts_where_config_says_so() {
        let check = |asked: &[(&str, &str)], whole: u64| {
            let times = Times::of(Some(ms(15_000)), &Resilience::default(), &request(asked), true);
            assert_eq!(times.whole, Some(ms(whole)), "{asked:?}");
        };
        let (expected, own) = ("x-envoy-expected-rq-timeout-ms", "x-envoy-upstream-rq-timeout-ms");
        check(&[(expected, "5"), (own, "7")], 5);
        check(&[(own, "7")], 7);
        check(&[(expected, "x"), (own, "7")], 15_000);
    }

    #[test]
    fn grpc_calls_say_their_own_time_where_config_believes_them() {
        let check = |most: u64, offset: Option<u64>, said: Option<&str>, expected: u64| {
            let grpc_timeout = Some(GrpcTimeout { most: ms(most), offset: offset.map(ms) });
            let resilience = Resilience { grpc_timeout, ..Resilience::default() };
            let mut head = request(&[("content-type", "application/grpc")]);
            if let Some(said) = said {
                head.fields.push(GRPC_TIMEOUT, said.as_bytes());
            }
            let times = Times::of(Some(ms(15_000)), &resilience, &head, false);
            assert_eq!(times.whole.unwrap_or_default(), ms(expected), "{most} {offset:?} {said:?}");
        };
        check(0, None, None, 0);
        check(0, None, Some("2S"), 2000);
        check(1000, None, Some("2S"), 1000);
        check(1000, None, None, 1000);
        check(0, Some(500), Some("2S"), 1500);
        check(0, Some(2000), Some("2S"), 2000);
    }

    #[test]
    fn the_endpoint_is_told_what_is_left() {
        let check = |whole: Option<u64>, per_try: Option<u64>, elapsed: u64, expected: Option<u64>| {
            let times = Times { whole: whole.map(ms), per_try: per_try.map(ms), ..Times::default() };
            assert_eq!(times.expected(ms(elapsed)), expected.map(ms), "{whole:?} {per_try:?} {elapsed}");
        };
        check(None, None, 0, None);
        check(Some(100), None, 0, Some(100));
        check(Some(100), Some(40), 0, Some(40));
        check(Some(100), Some(40), 70, Some(30));
        check(Some(100), Some(40), 200, Some(1));
        check(None, Some(40), 200, Some(40));
    }

    #[test]
    fn a_whole_exchange_is_limited_by_the_closest_word() {
        let check = |connection: Option<u64>,
                     route: Option<(Option<u64>, Option<u64>, Option<u64>)>,
                     said: &str,
                     expected| {
            let route = route.map(|(most, grpc_most, offset)| StreamDuration {
                most: most.map(ms),
                grpc_most: grpc_most.map(ms),
                grpc_offset: offset.map(ms),
            });
            let fields = request(&[("grpc-timeout", said)]).fields;
            let got = stream_duration(connection.map(ms), route.as_ref(), &fields);
            assert_eq!(got, expected, "{connection:?} {route:?} {said}");
        };
        check(None, None, "1S", None);
        check(Some(100), None, "1S", Some(ms(100)));
        check(Some(0), None, "1S", None);
        check(Some(100), Some((Some(50), None, None)), "1S", Some(ms(50)));
        check(Some(100), Some((Some(0), None, None)), "1S", None);
        check(Some(100), Some((None, None, None)), "1S", Some(ms(100)));
        check(Some(100), Some((Some(50), Some(0), None)), "1S", Some(ms(1000)));
        check(Some(100), Some((Some(50), Some(700), None)), "1S", Some(ms(700)));
        check(Some(100), Some((Some(50), Some(700), Some(100))), "1S", Some(ms(600)));
        check(None, Some((None, Some(0), Some(2000))), "1S", Some(ms(0)));
        check(Some(100), Some((None, Some(0), None)), "soon", Some(ms(100)));
    }

    #[test]
    fn grpc_timeouts_are_read_and_written() {
        let check = |text: &str, expected: Option<u64>| {
            let got = grpc_timeout(&request(&[("grpc-timeout", text)]).fields);
            assert_eq!(got, expected.map(ms), "{text}");
        };
        check("1H", Some(3_600_000));
        check("2M", Some(120_000));
        check("99999999m", Some(99_999_999));
        check("100000000m", None);
        check("1u", Some(1));
        check("1001u", Some(2));
        check("1n", Some(1));
        for bad in ["", "S", "-1S", "1", "1s", "1.5S", " 1S"] {
            check(bad, None);
        }
        assert_eq!(grpc_timeout_text(ms(1500)), (1500, b'm'));
        assert_eq!(grpc_timeout_text(ms(100_000_000)), (100_000, b'S'));
        assert_eq!(grpc_timeout_text(Duration::from_secs(100_000_000)), (1_666_666, b'M'));
        assert_eq!(grpc_timeout_text(Duration::MAX), (99_999_999, b'H'));
    }
}
