//! `delay`, `abort`: which fault a request gets.
//!
//! Source: Envoy `extensions.filters.http.fault.v3`, and its header fields.

use std::time::Duration;

use crate::fraction::Fraction;
use crate::head::RequestHead;
use crate::proxy::{AbortBy, DelayBy, Fault};
use crate::route::matches_header;

/// How long the request is to wait, in milliseconds.
const DELAY: &[u8] = b"x-envoy-fault-delay-request";
/// The most of the share of requests that wait.
const DELAY_SHARE: &[u8] = b"x-envoy-fault-delay-request-percentage";
/// The HTTP status that the request is to get.
const ABORT: &[u8] = b"x-envoy-fault-abort-request";
/// The gRPC status that the request is to get.
const ABORT_GRPC: &[u8] = b"x-envoy-fault-abort-grpc-request";
/// The most of the share of requests that get it.
const ABORT_SHARE: &[u8] = b"x-envoy-fault-abort-request-percentage";
/// Which program asks, as programs behind Envoy say.
const NODE: &[u8] = b"x-envoy-downstream-service-node";

/// A status in the service's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Abort {
    /// HTTP status.
    pub status: u16,
    /// gRPC status for a gRPC call; `None` is that of the HTTP status.
    pub grpc_status: Option<u32>,
}

/// Whether the filter has anything to do with a request that goes to this cluster, if it goes to one at all.
pub fn concerns(fault: &Fault, head: &RequestHead, cluster: Option<&str>) -> bool {
    let is_node = || {
        let node = head.fields.find(NODE);
        fault.downstream_nodes.iter().any(|known| node == Some(known.as_bytes()))
    };
    (fault.upstream_cluster.is_empty() || cluster == Some(&*fault.upstream_cluster))
        && (fault.downstream_nodes.is_empty() || is_node())
        && fault.headers.iter().all(|test| matches_header(test, head))
}

/// How long a request waits; `random` is any number, uniformly drawn.
pub fn delay(fault: &Fault, head: &RequestHead, random: u64) -> Option<Duration> {
    let delay = fault.delay.as_ref()?;
    let share = match delay.by {
        DelayBy::Fixed(_) => delay.share,
        DelayBy::Header => share(delay.share, head, DELAY_SHARE),
    };
    let wait = match delay.by {
        _ if !share.hits(random) => None,
        DelayBy::Fixed(wait) => Some(wait),
        DelayBy::Header => number(head, DELAY).map(Duration::from_millis),
    };
    wait.filter(|wait| wait.as_millis() > 0)
}

/// With what a request is answered; `random` is any number, uniformly drawn.
pub fn abort(fault: &Fault, head: &RequestHead, random: u64) -> Option<Abort> {
    let abort = fault.abort.as_ref()?;
    let share = match abort.by {
        AbortBy::Http(_) | AbortBy::Grpc(_) => abort.share,
        AbortBy::Header => share(abort.share, head, ABORT_SHARE),
    };
    match abort.by {
        _ if !share.hits(random) => None,
        AbortBy::Http(status) => Some(Abort { status, grpc_status: None }),
        AbortBy::Grpc(status) => Some(Abort { status: 200, grpc_status: Some(status) }),
        AbortBy::Header => by_header(head),
    }
}

/// An HTTP status, where the request names one; else a gRPC status.
fn by_header(head: &RequestHead) -> Option<Abort> {
    let status = number(head, ABORT).and_then(|status| u16::try_from(status).ok());
    if let Some(status) = status.filter(|status| (200..600).contains(status)) {
        return Some(Abort { status, grpc_status: None });
    }
    let status = number(head, ABORT_GRPC).and_then(|status| u32::try_from(status).ok())?;
    Some(Abort { status: 200, grpc_status: Some(status) })
}

/// What a request asks for is a share of what config allows, and never more.
fn share(allowed: Fraction, head: &RequestHead, name: &[u8]) -> Fraction {
    let asked = number(head, name).and_then(|asked| u32::try_from(asked).ok());
    Fraction { numerator: asked.unwrap_or(allowed.numerator).min(allowed.numerator), ..allowed }
}

fn number(head: &RequestHead, name: &[u8]) -> Option<u64> {
    std::str::from_utf8(head.fields.find(name)?).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::{FaultAbort, FaultDelay};

    fn head(fields: &[(&str, &str)]) -> RequestHead {
        let mut head = RequestHead::default();
        for (name, value) in fields {
            head.fields.push(name.as_bytes(), value.as_bytes());
        }
        head
    }

    #[test]
    fn a_delay_is_that_of_config_or_of_the_request() {
        let check = |by, numerator, fields: &[(&str, &str)], random, expected: Option<u64>| {
            let share = Fraction { numerator, denominator: 100 };
            let fault = Fault { delay: Some(FaultDelay { by, share }), ..Fault::default() };
            let got = delay(&fault, &head(fields), random);
            assert_eq!(got, expected.map(Duration::from_millis), "{by:?} {numerator} {fields:?} {random}");
        };
        let fixed = DelayBy::Fixed(Duration::from_millis(5));
        check(fixed, 100, &[], 99, Some(5));
        check(fixed, 30, &[], 29, Some(5));
        check(fixed, 30, &[], 30, None);
        check(fixed, 0, &[], 0, None);
        check(fixed, 100, &[("x-envoy-fault-delay-request-percentage", "1")], 99, Some(5));
        let asked = ("x-envoy-fault-delay-request", "7");
        check(DelayBy::Header, 100, &[asked], 99, Some(7));
        check(DelayBy::Header, 100, &[], 99, None);
        check(DelayBy::Header, 100, &[("x-envoy-fault-delay-request", "x")], 99, None);
        check(DelayBy::Header, 100, &[("x-envoy-fault-delay-request", "0")], 99, None);
        check(DelayBy::Header, 100, &[asked, ("x-envoy-fault-delay-request-percentage", "50")], 50, None);
        check(DelayBy::Header, 20, &[asked, ("x-envoy-fault-delay-request-percentage", "50")], 20, None);
        check(DelayBy::Header, 20, &[asked, ("x-envoy-fault-delay-request-percentage", "50")], 19, Some(7));
    }

    #[test]
    fn an_abort_is_that_of_config_or_of_the_request() {
        let check = |by, fields: &[(&str, &str)], expected: Option<(u16, Option<u32>)>| {
            let fault = Fault {
                abort: Some(FaultAbort { by, share: Fraction::ALL, body: None }),
                ..Fault::default()
            };
            let expected = expected.map(|(status, grpc_status)| Abort { status, grpc_status });
            assert_eq!(abort(&fault, &head(fields), 0), expected, "{by:?} {fields:?}");
        };
        check(AbortBy::Http(503), &[], Some((503, None)));
        check(AbortBy::Grpc(14), &[], Some((200, Some(14))));
        check(AbortBy::Header, &[], None);
        check(AbortBy::Header, &[("x-envoy-fault-abort-request", "418")], Some((418, None)));
        check(AbortBy::Header, &[("x-envoy-fault-abort-request", "199")], None);
        check(AbortBy::Header, &[("x-envoy-fault-abort-request", "600")], None);
        check(AbortBy::Header, &[("x-envoy-fault-abort-grpc-request", "5")], Some((200, Some(5))));
    }

    #[test]
    fn a_fault_concerns_whom_it_names() {
        let fault = Fault {
            upstream_cluster: "a".into(),
            downstream_nodes: vec!["canary".into()],
            ..Fault::default()
        };
        let canary = head(&[("x-envoy-downstream-service-node", "canary")]);
        assert!(concerns(&fault, &canary, Some("a")));
        assert!(!concerns(&fault, &canary, Some("b")));
        assert!(!concerns(&fault, &canary, None));
        assert!(!concerns(&fault, &head(&[]), Some("a")));
        assert!(concerns(&Fault::default(), &head(&[]), None));
    }
}
