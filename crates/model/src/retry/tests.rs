use super::*;
use crate::proxy::{HeaderMatch, HeaderTest, RateLimitedBackOff};

fn fields(all: &[(&str, &str)]) -> Fields {
    let mut fields = Fields::default();
    for (name, value) in all {
        fields.push(name.as_bytes(), value.as_bytes());
    }
    fields
}

fn request(all: &[(&str, &str)]) -> RequestHead {
    let mut head = RequestHead::default();
    head.set_method(b"GET");
    for (name, value) in all {
        head.fields.push(name.as_bytes(), value.as_bytes());
    }
    head
}

/// What happens after a response, when the request itself asks for these conditions.
fn check(on: &str, status: u16, response: &[(&str, &str)], expected: Decision) {
    let mut policy = RetryPolicy::on(parse(on.as_bytes()));
    policy.status_codes = vec![418];
    policy.response_headers =
        vec![HeaderMatch { name: "x-again".into(), test: HeaderTest::Present, invert: false }];
    let mut retrial = Retrial::begin(Some(&policy), &request(&[])).expect("conditions");
    assert_eq!(retrial.after_response(status, &fields(response)), expected, "{on}: {status} {response:?}");
}

#[test]
fn responses_are_tried_again_on_what_is_asked_for_alone() {
    use Decision::{Again, No};
    check("5xx", 500, &[], Again);
    check("5xx", 599, &[], Again);
    check("5xx", 499, &[], No);
    check("gateway-error", 500, &[], No);
    check("gateway-error", 502, &[], Again);
    check("gateway-error", 504, &[], Again);
    check("retriable-4xx", 409, &[], Again);
    check("retriable-4xx", 404, &[], No);
    check("retriable-status-codes", 418, &[], Again);
    check("retriable-status-codes", 500, &[], No);
    check("5xx", 418, &[], No);
    check("retriable-headers", 200, &[("x-again", "")], Again);
    check("retriable-headers", 500, &[], No);
    check("connect-failure,reset,refused-stream,reset-before-request", 503, &[], No);
    check("unavailable", 200, &[("grpc-status", "14")], Again);
    check("unavailable", 200, &[("grpc-status", "13")], No);
    check("cancelled,internal", 200, &[("grpc-status", "1")], Again);
    check("cancelled, internal", 200, &[("grpc-status", "13")], Again);
    check("deadline-exceeded", 200, &[("grpc-status", "4")], Again);
    check("resource-exhausted", 200, &[("grpc-status", "8")], Again);
    check("resource-exhausted", 200, &[], No);
}

#[test]
fn a_limited_rate_has_a_condition_of_its_own() {
    let limited = [("x-envoy-ratelimited", "true")];
    check("5xx,retriable-status-codes", 503, &limited, Decision::No);
    check("envoy-ratelimited", 429, &limited, Decision::Again);
    check("envoy-ratelimited", 429, &[], Decision::No);
}

#[test]
fn resets_are_tried_again_on_what_is_asked_for_alone() {
    let check = |on: &str, expected: [bool; 5]| {
        let policy = RetryPolicy { retries: 9, ..RetryPolicy::on(parse(on.as_bytes())) };
        let mut retrial = Retrial::begin(Some(&policy), &request(&[])).expect("conditions");
        let sent = |sent| Reset::Other { sent };
        let resets = [Reset::ConnectFailure, Reset::RefusedStream, sent(false), sent(true), Reset::Overflow];
        let got = resets.map(|reset| retrial.after_reset(reset) == Decision::Again);
        assert_eq!(got, expected, "{on}");
    };
    check("5xx", [true, true, true, true, false]);
    check("gateway-error", [true, true, true, true, false]);
    check("reset", [true, true, true, true, false]);
    check("reset-before-request", [true, false, true, false, false]);
    check("connect-failure", [true, false, false, false, false]);
    check("refused-stream", [false, true, false, false, false]);
    check("retriable-4xx", [false; 5]);
}

#[test]
fn a_request_may_ask_for_itself() {
    let begun = |policy: Option<&RetryPolicy>, asked: &[(&str, &str)]| {
        Retrial::begin(policy, &request(asked)).map(|r| (r.on.names().collect::<Vec<_>>().join(","), r.left))
    };
    let check = |asked: &[(&str, &str)], expected: Option<(&str, u32)>| {
        assert_eq!(begun(None, asked), expected.map(|(on, left)| (on.to_owned(), left)), "{asked:?}");
    };
    check(&[], None);
    check(&[("x-envoy-max-retries", "3")], None);
    check(&[("x-envoy-retry-on", "5xx")], Some(("5xx", 1)));
    check(&[("x-envoy-retry-on", "5xx, connect-failure,nonsense")], Some(("5xx,connect-failure", 1)));
    check(&[("x-envoy-retry-on", "nonsense")], None);
    check(&[("x-envoy-retry-on", "unavailable")], None);
    check(&[("x-envoy-retry-grpc-on", "unavailable,5xx")], Some(("unavailable", 1)));
    check(&[("x-envoy-retry-on", "5xx"), ("x-envoy-max-retries", "7")], Some(("5xx", 7)));
    check(&[("x-envoy-retry-on", "5xx"), ("x-envoy-max-retries", "x")], Some(("5xx", 1)));

    let mut policy = RetryPolicy { retries: 2, ..RetryPolicy::on(RetryOn::RESET) };
    assert_eq!(begun(Some(&policy), &[("x-envoy-retry-on", "5xx")]), Some(("5xx,reset".to_owned(), 2)));
    assert_eq!(begun(Some(&policy), &[("x-envoy-max-retries", "0")]), Some(("reset".to_owned(), 0)));
    policy.request_headers =
        vec![HeaderMatch { name: "x-yes".into(), test: HeaderTest::Present, invert: false }];
    assert_eq!(begun(Some(&policy), &[]), None);
    assert_eq!(begun(Some(&policy), &[("x-yes", "")]), Some(("reset".to_owned(), 2)));
}

#[test]
fn a_request_may_add_statuses_and_fields() {
    let asked = [
        ("x-envoy-retry-on", "retriable-status-codes,retriable-headers"),
        ("x-envoy-retriable-status-codes", "429, 404,x"),
        ("x-envoy-retriable-header-names", "X-One, x-two"),
        ("x-envoy-max-retries", "9"),
    ];
    let mut retrial = Retrial::begin(None, &request(&asked)).expect("conditions");
    let mut check = |status, response: &[(&str, &str)], expected| {
        assert_eq!(retrial.after_response(status, &fields(response)), expected, "{status} {response:?}");
    };
    check(429, &[], Decision::Again);
    check(404, &[], Decision::Again);
    check(500, &[], Decision::No);
    check(200, &[("x-one", "1")], Decision::Again);
    check(200, &[("x-three", "1")], Decision::No);
}

#[test]
fn tries_are_used_up() {
    let policy = RetryPolicy { retries: 1, ..RetryPolicy::on(RetryOn::ANY_5XX) };
    let mut retrial = Retrial::begin(Some(&policy), &request(&[])).expect("conditions");
    let none = Fields::default();
    assert_eq!(retrial.after_response(500, &none), Decision::Again);
    assert_eq!(retrial.after_response(200, &none), Decision::No);
    assert_eq!(retrial.after_response(500, &none), Decision::UsedUp);
}

#[test]
fn waits_grow_to_their_most() {
    let policy = RetryPolicy::on(RetryOn::ANY_5XX);
    let mut retrial = Retrial::begin(Some(&policy), &request(&[])).expect("conditions");
    // The largest remainders.
    let bounds = [25, 50, 100, 200, 250, 250];
    for bound in bounds {
        assert_eq!(retrial.wait(bound - 1), Duration::from_millis(bound - 1));
    }
    assert_eq!(retrial.wait(250), Duration::ZERO);
}

#[test]
fn a_response_may_say_how_long_to_wait() {
    let header = |name: &str, format| ResetHeader { name: name.into(), format };
    let policy = RetryPolicy {
        rate_limited: Some(RateLimitedBackOff {
            headers: vec![
                header("retry-after", ResetFormat::Seconds),
                header("reset", ResetFormat::UnixTimestamp),
            ],
            most: Duration::from_secs(10),
        }),
        ..RetryPolicy::on(RetryOn::ANY_5XX)
    };
    let retrial = Retrial::begin(Some(&policy), &request(&[])).expect("conditions");
    let check = |response: &[(&str, &str)], expected: Option<u64>| {
        let wait = retrial.told_to_wait(&fields(response), 1000, 0);
        assert_eq!(wait, expected.map(Duration::from_secs), "{response:?}");
    };
    check(&[], None);
    check(&[("retry-after", "3")], Some(3));
    check(&[("retry-after", "30"), ("reset", "1004")], Some(4));
    check(&[("retry-after", "soon")], None);
    check(&[("retry-after", "0")], None);
    check(&[("reset", "999")], None);
    check(&[("reset", "1011")], None);
    assert_eq!(
        retrial.told_to_wait(&fields(&[("retry-after", "2")]), 0, 1999),
        Some(Duration::from_millis(2999))
    );
}

#[test]
fn strict_lists_have_known_conditions_only() {
    assert!(is_valid_list(b"5xx,reset", false) && is_valid_list(b"cancelled", true));
    assert!(
        !is_valid_list(b"5xx,x", false)
            && !is_valid_list(b"5xx", true)
            && !is_valid_list(b"cancelled", false)
    );
}
