//! HTTPRoute. Source: Gateway API v1.5; in a mesh, GAMMA.

use std::sync::Arc;
use std::time::Duration;

use meshwork_model::mesh::{
    Parent, PathMatch, PathModifier, Route, RouteKind, RouteMatch, RouteRule, RuleAction,
};
use meshwork_model::path::with_normal_escapes;
use meshwork_model::problem::Code;
use meshwork_model::proxy::{BackOff, RetryOn, RetryPolicy, StringMatch};

use super::metadata::Metadata;
use super::reader::{Fields, Item, Report, Text};
use super::references::Reference;
use super::route::{self, Filters, Reading};

/// Methods that a match may name. Source: Gateway API, `HTTPMethod`.
const METHODS: &[(&str, &str)] = &[
    ("GET", "GET"),
    ("HEAD", "HEAD"),
    ("POST", "POST"),
    ("PUT", "PUT"),
    ("DELETE", "DELETE"),
    ("CONNECT", "CONNECT"),
    ("OPTIONS", "OPTIONS"),
    ("TRACE", "TRACE"),
    ("PATCH", "PATCH"),
];

/// How often a request is tried again where `retry` does not say it: as the mesh does by itself.
const RETRIES: u32 = 2;

/// Reads `spec`.
pub(crate) fn read(
    root: &mut Fields<'_>,
    metadata: &Metadata,
    age: u64,
    report: &mut Report<'_>,
    references: &mut Vec<Reference>,
) -> Option<Route> {
    let kind = RouteKind::Http;
    let reading = &mut Reading { metadata, kind: kind.name(), report, references };
    route::requests(root, kind, age, reading, rule)
}

fn rule(item: &Item<'_>, parents: &[Parent], reading: &mut Reading<'_, '_>) -> Option<RouteRule> {
    let mut fields = item.fields(reading.report)?;
    let name = fields.text(reading.report, "name").map_or("", |t| t.value);
    let matches = route::rule_matches(&mut fields, reading.report, one_match);
    let filters = Filters::of_http(&mut fields, parents, reading);
    let backends = route::backends(&mut fields, parents, true, reading);
    let report = &mut *reading.report;
    let (timeout, try_timeout) = timeouts(&mut fields, report);
    let retry = retry(&mut fields, report);
    route::refuse_sessions(&mut fields, report);
    check_filters(&fields, &filters, !backends.is_empty(), &matches, report);
    fields.close(report);
    let forward = RouteRule::forward(name, matches, backends);
    Some(RouteRule {
        action: filters.redirect.map_or(forward.action, RuleAction::Redirect),
        changes: filters.changes,
        path: filters.path,
        host: filters.host,
        mirrors: filters.mirrors,
        cors: filters.cors,
        timeout,
        try_timeout,
        retry: retry.map(Arc::new),
        ..RouteRule::forward(forward.name, forward.matches, Vec::new())
    })
}

/// What of a rule does not go together. Source: Gateway API's CRDs, validations of `HTTPRouteRule`.
fn check_filters(
    rule: &Fields<'_>,
    filters: &Filters,
    has_backends: bool,
    matches: &[RouteMatch],
    report: &mut Report<'_>,
) {
    let path = rule.path_of("filters");
    if filters.redirect.is_some() && has_backends {
        let message = "a rule that redirects leads to no backend";
        report.error_of(
            Code::Conflict,
            &path,
            rule.place(),
            message,
            "Leave out `backendRefs` or the filter",
        );
    }
    let is_prefix = matches!(matches, [one] if matches!(one.path, PathMatch::Prefix(_)));
    if matches!(filters.path, Some(PathModifier::Prefix(_))) && !is_prefix {
        let message = "ReplacePrefixMatch needs a rule with exactly one match, whose path is a PathPrefix";
        report.error_of(Code::Conflict, &path, rule.place(), message, "Split the rule");
    }
}

fn one_match(item: &Item<'_>, report: &mut Report<'_>) -> Option<RouteMatch> {
    let mut fields = item.fields(report)?;
    let path = match fields.optional("path") {
        Some(item) => path(&item, report),
        None => Some(PathMatch::Prefix("/".into())),
    };
    let headers = route::headers(&mut fields, report);
    let query = route::query(&mut fields, report);
    let method = fields.text(report, "method").and_then(|t| t.one_of(report, METHODS, &[]));
    let method = method.map(|method| StringMatch::Exact(method.into()));
    fields.close(report);
    Some(RouteMatch { headers, query, method, ..RouteMatch::path(path?) })
}

#[derive(Clone, Copy)]
enum PathKind {
    Exact,
    Prefix,
    Regex,
}

fn path(item: &Item<'_>, report: &mut Report<'_>) -> Option<PathMatch> {
    let mut fields = item.fields(report)?;
    let kinds = [
        ("Exact", PathKind::Exact),
        ("PathPrefix", PathKind::Prefix),
        ("RegularExpression", PathKind::Regex),
    ];
    let kind = match fields.text(report, "type") {
        Some(text) => text.one_of(report, &kinds, &[]),
        None => Some(PathKind::Prefix),
    };
    let value = fields.text(report, "value");
    fields.close(report);
    if let (Some(PathKind::Regex), Some(value)) = (kind, &value) {
        return route::regex(value, report).map(PathMatch::Regex);
    }
    let value: Arc<str> = match value {
        Some(text) => with_normal_escapes(check_path(&text, report)?).into(),
        None => "/".into(),
    };
    Some(match kind? {
        PathKind::Exact | PathKind::Regex => PathMatch::Exact(value),
        PathKind::Prefix => PathMatch::Prefix(trim(&value)),
    })
}

/// `/a/` and `/a` are one prefix. Source: Gateway API, `PathMatchPathPrefix`.
fn trim(prefix: &str) -> Arc<str> {
    match prefix.trim_end_matches('/') {
        "" => "/".into(),
        trimmed => trimmed.into(),
    }
}

/// A path that the proxy's normalisation would never let through matches nothing: better said than lived with.
fn check_path<'t>(text: &Text<'t>, report: &mut Report<'_>) -> Option<&'t str> {
    /// The longest path. Source: Gateway API, `HTTPPathMatch.value`.
    const MAX_PATH_BYTES: usize = 1024;
    let path = text.value;
    let lower = path.to_ascii_lowercase();
    let dots = path.split('/').any(|segment| matches!(segment, "." | ".."));
    let why = if !path.starts_with('/') {
        "a path starts with \"/\""
    } else if path.len() > MAX_PATH_BYTES {
        "a path has at most 1024 bytes"
    } else if path.contains("//") || dots || lower.contains("%2f") || lower.contains("%5c") {
        "requests never have a path with \"//\", \"/./\", \"/../\", \"%2f\" or \"%5c\": it is normalised or refused before"
    } else if !path.bytes().all(|b| b.is_ascii_graphic()) || path.contains(['?', '#', '\\']) {
        "a path has no space, \"?\", \"#\" or \"\\\", and only ASCII"
    } else {
        return Some(path);
    };
    text.error(report, why, "");
    None
}

/// Reads `timeouts`: those of a request and of one try. Zero of a try is no limit of its own.
fn timeouts(rule: &mut Fields<'_>, report: &mut Report<'_>) -> (Option<Duration>, Option<Duration>) {
    let Some(mut fields) = rule.mapping(report, "timeouts") else { return (None, None) };
    let request = duration(&mut fields, "request", report);
    let one_try = duration(&mut fields, "backendRequest", report);
    if let (Some(request), Some(one_try)) = (request, one_try)
        && one_try > request
        && !request.is_zero()
    {
        let (path, place) = (fields.path_of("backendRequest"), fields.place());
        let message = "one try may not take longer than the whole request";
        report.error_of(Code::Conflict, &path, place, message, "Make it at most `request`");
    }
    fields.close(report);
    (request, one_try.filter(|one_try| !one_try.is_zero()))
}

fn duration(fields: &mut Fields<'_>, name: &'static str, report: &mut Report<'_>) -> Option<Duration> {
    let text = fields.text(report, name)?;
    let duration = duration_ms(text.value);
    if duration.is_none() {
        let fix = "Write it as 500ms, 10s or 1m30s";
        text.error(report, format!("\"{}\" is not a duration", text.value), fix);
    }
    duration.map(Duration::from_millis)
}

/// Reads `retry`: besides the codes, whatever gave no answer is tried again. Source: Gateway API GEP-1731.
fn retry(rule: &mut Fields<'_>, report: &mut Report<'_>) -> Option<RetryPolicy> {
    /// The most codes, each from 400 to 599.
    const MAX_CODES: usize = 200;
    /// The most tries again; more would be a storm.
    const MAX_ATTEMPTS: i64 = 100;
    let mut fields = rule.mapping(report, "retry")?;
    let mut status_codes = Vec::new();
    for item in route::limited(&mut fields, report, "codes", MAX_CODES) {
        status_codes.extend(item.integer(report, 400..=599).and_then(|code| u32::try_from(code).ok()));
    }
    let attempts = fields.integer(report, "attempts", 0..=MAX_ATTEMPTS);
    let back_off = duration(&mut fields, "backoff", report).filter(|time| !time.is_zero());
    fields.close(report);
    let no_answer = RetryOn::CONNECT_FAILURE | RetryOn::REFUSED_STREAM | RetryOn::RESET;
    let on = if status_codes.is_empty() { no_answer } else { no_answer | RetryOn::STATUS_CODES };
    Some(RetryPolicy {
        on,
        retries: attempts.and_then(|n| u32::try_from(n).ok()).unwrap_or(RETRIES),
        status_codes,
        back_off: back_off.map_or_else(BackOff::default, BackOff::of),
        ..RetryPolicy::unreached(RETRIES)
    })
}

/// Source: Gateway API GEP-2257: `^([0-9]{1,5}(h|m|s|ms)){1,4}$`.
fn duration_ms(text: &str) -> Option<u64> {
    let mut rest = text;
    let mut total = 0;
    for _ in 0..4 {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        if !(1..=5).contains(&digits) {
            return None;
        }
        let number: u64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let unit = rest.bytes().take_while(u8::is_ascii_alphabetic).count();
        total += number
            * match &rest[..unit] {
                "h" => 3_600_000,
                "m" => 60_000,
                "s" => 1_000,
                "ms" => 1,
                _ => return None,
            };
        rest = &rest[unit..];
        if rest.is_empty() {
            return Some(total);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_follow_gep_2257() {
        let check = |text: &str, expected: Option<u64>| assert_eq!(duration_ms(text), expected, "{text}");
        check("0s", Some(0));
        check("500ms", Some(500));
        check("1m30s", Some(90_000));
        check("1h1m1s1ms", Some(3_661_001));
        check("", None);
        check("10", None);
        check("1.5s", None);
        check("-1s", None);
        check("100000s", None);
        check("1s1s1s1s1s", None);
        check("1d", None);
    }
}
