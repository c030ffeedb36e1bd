//! GRPCRoute. Source: Gateway API v1.5; in a mesh, GAMMA.

use meshwork_model::mesh::{Parent, PathMatch, Route, RouteKind, RouteMatch, RouteRule};
use meshwork_model::problem::Code;
use meshwork_model::regex::Regex;

use super::metadata::Metadata;
use super::reader::{Fields, Item, Report, Text};
use super::references::Reference;
use super::route::{self, Filters, Reading};

/// What stands for a service or a method that is not named.
pub(crate) const ANY_NAME: &str = "[^/]+";

/// Reads `spec`.
pub(crate) fn read(
    root: &mut Fields<'_>,
    metadata: &Metadata,
    age: u64,
    report: &mut Report<'_>,
    references: &mut Vec<Reference>,
) -> Option<Route> {
    let kind = RouteKind::Grpc;
    let reading = &mut Reading { metadata, kind: kind.name(), report, references };
    route::requests(root, kind, age, reading, rule)
}

fn rule(item: &Item<'_>, parents: &[Parent], reading: &mut Reading<'_, '_>) -> Option<RouteRule> {
    let mut fields = item.fields(reading.report)?;
    let name = fields.text(reading.report, "name").map_or("", |t| t.value);
    let matches = route::rule_matches(&mut fields, reading.report, one_match);
    let filters = Filters::of_grpc(&mut fields, parents, reading);
    let backends = route::backends(&mut fields, parents, true, reading);
    route::refuse_sessions(&mut fields, reading.report);
    fields.close(reading.report);
    let forward = RouteRule::forward(name, matches, backends);
    Some(RouteRule { changes: filters.changes, mirrors: filters.mirrors, ..forward })
}

fn one_match(item: &Item<'_>, report: &mut Report<'_>) -> Option<RouteMatch> {
    let mut fields = item.fields(report)?;
    let path = match fields.optional("method") {
        Some(item) => method(&item, report),
        None => Some(PathMatch::Prefix("/".into())),
    };
    let headers = route::headers(&mut fields, report);
    fields.close(report);
    Some(RouteMatch { headers, ..RouteMatch::path(path?) })
}

/// A call's path is `/<service>/<method>`. Source: gRPC over HTTP/2, "Path".
fn method(item: &Item<'_>, report: &mut Report<'_>) -> Option<PathMatch> {
    let mut fields = item.fields(report)?;
    let is_regex = match fields.text(report, "type") {
        Some(kind) => kind.one_of(report, &[("Exact", false), ("RegularExpression", true)], &[]),
        None => Some(false),
    };
    let service = fields.text(report, "service");
    let method = fields.text(report, "method");
    fields.close(report);
    if service.is_none() && method.is_none() {
        let message = "a method match names a service, a method, or both";
        report.error_of(Code::MissingField, &item.path, item.node.place, message, "");
        return None;
    }
    if is_regex? {
        return by_regex(service.as_ref(), method.as_ref(), report);
    }
    let good = [&service, &method].into_iter().flatten().all(|text| check_name(text, report));
    match (service, method) {
        _ if !good => None,
        (Some(service), Some(method)) => {
            Some(PathMatch::Exact(format!("/{}/{}", service.value, method.value).into()))
        }
        (Some(service), None) => Some(PathMatch::Prefix(format!("/{}", service.value).into())),
        (None, method) => {
            let method = method?.value.replace('.', r"\.");
            Regex::new(&format!("/{ANY_NAME}/{method}")).ok().map(PathMatch::Regex)
        }
    }
}

/// Each of the two is an expression of its own, so that neither reaches into the other.
fn by_regex(
    service: Option<&Text<'_>>,
    method: Option<&Text<'_>>,
    report: &mut Report<'_>,
) -> Option<PathMatch> {
    let mut part = |text: Option<&Text<'_>>| match text {
        None => Some(ANY_NAME.to_owned()),
        Some(text) => route::regex(text, report).map(|regex| format!("(?:{})", regex.pattern())),
    };
    let (service, method) = (part(service), part(method));
    Regex::new(&format!("/{}/{}", service?, method?)).ok().map(PathMatch::Regex)
}

fn check_name(text: &Text<'_>, report: &mut Report<'_>) -> bool {
    let good = !text.value.is_empty()
        && text.value.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'));
    if !good {
        text.error(report, format!("\"{}\" is not the name of a gRPC service or method", text.value), "");
    }
    good
}
