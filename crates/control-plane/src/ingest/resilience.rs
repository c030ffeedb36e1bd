//! What is tried again, and what is made to go wrong, as Istio writes both. Source: Istio `HTTPRetry`,
//! `HTTPFaultInjection`.

use std::sync::Arc;

use meshwork_model::fraction::Fraction;
use meshwork_model::problem::Code;
use meshwork_model::proxy::{
    AbortBy, AvoidedHosts, BackOff, DelayBy, Fault, FaultAbort, FaultDelay, RetryBudget, RetryOn, RetryPolicy,
};

use super::istio::{duration, share};
use super::reader::{Fields, Report};
use super::words::list;

/// The most tries beside the first: each multiplies the load of who is failing already.
const MAX_RETRIES: i64 = 100;
/// What Istio tries again where only the number of tries is said.
const RETRY_ON: &str = "connect-failure,refused-stream,unavailable,cancelled,503";
/// How often an endpoint is picked anew where the picked one was tried already. Source: Istio `HostSelectionRetry`.
const HOST_ATTEMPTS: u32 = 5;

/// The codes of gRPC by their names. Source: gRPC, "Status codes and their use in gRPC".
const GRPC_CODES: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];

/// Reads `retries`. Source: Istio `ConvertPolicy`.
pub(crate) fn retries(fields: &mut Fields<'_>, report: &mut Report<'_>) -> Option<Arc<RetryPolicy>> {
    let mut fields = fields.mapping(report, "retries")?;
    let attempts = fields.integer(report, "attempts", 0..=MAX_RETRIES).unwrap_or(0);
    let per_try_timeout = duration(&mut fields, report, "perTryTimeout");
    let conditions = fields.text(report, "retryOn").filter(|text| !text.value.is_empty());
    let (on, status_codes) = match &conditions {
        Some(text) => conditions_of(text.value, |unknown| {
            let message = format!("\"{unknown}\" is nothing that is tried again");
            let names: Vec<&str> = RetryOn::NAMES.iter().map(|(name, _)| *name).collect();
            let fix = format!("Use a status, or {}", list(&names));
            text.error_of(Code::NotOneOf, report, message, fix);
        }),
        None => conditions_of(RETRY_ON, |_| {}),
    };
    let back_off = duration(&mut fields, report, "backoff").map(BackOff::of).unwrap_or_default();
    let previous = fields.boolean(report, "retryIgnorePreviousHosts").unwrap_or(true);
    if fields.boolean(report, "retryRemoteLocalities") == Some(true) {
        let path = fields.path_of("retryRemoteLocalities");
        let message = "every locality is tried in any case";
        report.warning(&path, fields.place_of("retryRemoteLocalities"), message, "");
    }
    fields.close(report);
    let avoid = AvoidedHosts { previous, ..AvoidedHosts::default() };
    Some(Arc::new(RetryPolicy {
        retries: u32::try_from(attempts).unwrap_or(0),
        per_try_timeout,
        back_off,
        status_codes,
        avoid,
        host_attempts: if previous { HOST_ATTEMPTS } else { 1 },
        ..RetryPolicy::on(on)
    }))
}

/// Reads `fault`. A share that is not said is none. Source: Istio `HTTPFaultInjection`.
pub(crate) fn fault(fields: &mut Fields<'_>, report: &mut Report<'_>) -> Option<Arc<Fault>> {
    let mut fields = fields.mapping(report, "fault")?;
    let delay = fields.mapping(report, "delay").and_then(|mut fields| {
        let share = fault_share(&mut fields, report);
        let fixed = duration(&mut fields, report, "fixedDelay");
        fields.not_yet(report, &["exponentialDelay"], "Write `fixedDelay`");
        fields.close(report);
        Some(FaultDelay { by: DelayBy::Fixed(fixed?), share: share? })
    });
    let abort = fields.mapping(report, "abort").and_then(|mut fields| {
        let share = fault_share(&mut fields, report);
        let by = abort_by(&mut fields, report);
        fields.not_yet(report, &["http2Error"], "Write `httpStatus`");
        fields.close(report);
        Some(FaultAbort { by: by?, share: share?, body: None })
    });
    fields.close(report);
    let fault = Fault { delay, abort, ..Fault::default() };
    (fault.delay.is_some() || fault.abort.is_some()).then(|| Arc::new(fault))
}

fn fault_share(fields: &mut Fields<'_>, report: &mut Report<'_>) -> Option<Fraction> {
    let share = share(fields, report, "percentage", "percent");
    if share.is_none() {
        let message = "no share of requests is said, so that the fault hits none";
        let fix = "Write `percentage: { value: 100 }`";
        report.warning_of(Code::SelectsNothing, &fields.path_of("percentage"), fields.place(), message, fix);
    }
    share
}

fn abort_by(fields: &mut Fields<'_>, report: &mut Report<'_>) -> Option<AbortBy> {
    let http = fields.integer(report, "httpStatus", 200..=599);
    let grpc = fields.text(report, "grpcStatus").and_then(|text| {
        let code = GRPC_CODES.iter().position(|name| *name == text.value);
        if code.is_none() {
            let message = format!("there is no gRPC status \"{}\"", text.value);
            text.error_of(Code::NotOneOf, report, message, "");
        }
        u32::try_from(code?).ok()
    });
    match (http, grpc) {
        (Some(status), None) => u16::try_from(status).ok().map(AbortBy::Http),
        (None, Some(code)) => Some(AbortBy::Grpc(code)),
        (both, _) => {
            let message = "of `httpStatus` and `grpcStatus` there is one";
            let code = if both.is_some() { Code::Conflict } else { Code::MissingField };
            report.error_of(code, &fields.path_of("httpStatus"), fields.place_of("httpStatus"), message, "");
            None
        }
    }
}

/// Reads how many retries there may be: `percent` of the requests under way, and so many at any rate.
pub(crate) fn retry_budget(
    mut fields: Fields<'_>,
    least: &'static str,
    report: &mut Report<'_>,
) -> RetryBudget {
    /// Envoy's. Source: Envoy `RetryBudget`.
    const USUAL: RetryBudget = RetryBudget { percent: 20.0, least: 3 };
    let percent = fields.number(report, "percent", 0.0..=100.0);
    let least = fields.integer(report, least, 0..=1_000_000);
    fields.close(report);
    RetryBudget {
        percent: percent.unwrap_or(USUAL.percent),
        least: least.and_then(|least| u32::try_from(least).ok()).unwrap_or(USUAL.least),
    }
}

/// The conditions of a list with commas; numbers in it are statuses.
fn conditions_of(text: &str, mut unknown: impl FnMut(&str)) -> (RetryOn, Vec<u32>) {
    let (mut on, mut codes) = (RetryOn::NONE, Vec::new());
    for word in text.split(',').map(str::trim).filter(|word| !word.is_empty()) {
        match (word.parse::<u32>(), RetryOn::named(word)) {
            (Ok(code @ 100..=599), _) => {
                on = on.and(RetryOn::STATUS_CODES);
                codes.push(code);
            }
            (_, Some(condition)) => on = on.and(condition),
            _ => unknown(word),
        }
    }
    (on, codes)
}
