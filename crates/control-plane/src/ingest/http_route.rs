//! HTTPRoute, attached to services. Source: Gateway API v1, mesh profile (GAMMA).

use std::sync::Arc;

use meshwork_model::mesh::{Key, PathMatch, Route, RouteKind, RouteMatch, RouteRule};

use super::metadata::Metadata;
use super::reader::{Fields, Item, Report, Text};
use super::references::Reference;
use super::route;

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

/// Reads `spec`.
pub(crate) fn read(
    root: &mut Fields<'_>,
    metadata: &Metadata,
    age: u64,
    report: &mut Report<'_>,
    references: &mut Vec<Reference>,
) -> Option<Route> {
    let mut spec = root.required(report, "spec")?.fields(report)?;
    let parents = route::parents(&mut spec, metadata, RouteKind::Http, report, references);
    let mut rules = Vec::new();
    for item in spec.list(report, "rules").unwrap_or_default() {
        rules.extend(rule(&item, metadata, &parents, report, references));
    }
    spec.not_yet(report, route::NOT_YET, "");
    spec.close(report);
    Some(Route { parents, rules, age })
}

fn rule(
    item: &Item<'_>,
    metadata: &Metadata,
    parents: &[(Key, Option<u16>)],
    report: &mut Report<'_>,
    references: &mut Vec<Reference>,
) -> Option<RouteRule> {
    let mut fields = item.fields(report)?;
    let name = fields.text(report, "name").map_or("", |t| t.value).into();
    let items = fields.list(report, "matches").unwrap_or_default();
    let mut matches: Vec<RouteMatch> = items.iter().filter_map(|item| one_match(item, report)).collect();
    if items.is_empty() {
        matches.push(RouteMatch { path: PathMatch::Prefix("/".into()), headers: Vec::new(), method: None });
    }
    let backends = route::backends(&mut fields, metadata, parents, report, references);
    let timeout_ms = timeouts(&mut fields, report);
    fields.not_yet(report, &["filters", "retry", "sessionPersistence"], "");
    fields.close(report);
    Some(RouteRule { name, matches, backends, timeout_ms })
}

fn one_match(item: &Item<'_>, report: &mut Report<'_>) -> Option<RouteMatch> {
    let mut fields = item.fields(report)?;
    let path = match fields.optional("path") {
        Some(item) => path(&item, report),
        None => Some(PathMatch::Prefix("/".into())),
    };
    let headers = route::headers(&mut fields, report);
    let method = fields.text(report, "method").and_then(|t| t.one_of(report, METHODS, &[])).map(Into::into);
    fields.not_yet(report, &["queryParams"], "");
    fields.close(report);
    Some(RouteMatch { path: path?, headers, method })
}

#[derive(Clone, Copy)]
enum PathKind {
    Exact,
    Prefix,
}

fn path(item: &Item<'_>, report: &mut Report<'_>) -> Option<PathMatch> {
    let mut fields = item.fields(report)?;
    let kinds = [("Exact", PathKind::Exact), ("PathPrefix", PathKind::Prefix)];
    let kind = match fields.text(report, "type") {
        Some(text) => text.one_of(report, &kinds, &["RegularExpression"]),
        None => Some(PathKind::Prefix),
    };
    let value: Option<Arc<str>> = match fields.text(report, "value") {
        Some(text) => check_path(&text, report).map(Into::into),
        None => Some("/".into()),
    };
    fields.close(report);
    Some(match (kind?, value?) {
        (PathKind::Exact, value) => PathMatch::Exact(value),
        (PathKind::Prefix, value) => PathMatch::Prefix(trim(&value)),
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

/// Reads `timeouts.request` in milliseconds.
fn timeouts(rule: &mut Fields<'_>, report: &mut Report<'_>) -> Option<u64> {
    let mut fields = rule.mapping(report, "timeouts")?;
    let request = fields.text(report, "request").and_then(|text| {
        let duration = duration_ms(text.value);
        if duration.is_none() {
            let fix = "Write it as 500ms, 10s or 1m30s";
            text.error(report, format!("\"{}\" is not a duration", text.value), fix);
        }
        duration
    });
    fields.not_yet(report, &["backendRequest"], "");
    fields.close(report);
    request
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
