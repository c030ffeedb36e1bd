//! GRPCRoute, attached to services. Source: Gateway API v1, mesh profile (GAMMA).

use meshwork_model::mesh::{Key, PathMatch, Route, RouteKind, RouteMatch, RouteRule};

use super::metadata::Metadata;
use super::reader::{Fields, Item, Report, Text};
use super::references::Reference;
use super::route;

/// Reads `spec`.
pub(crate) fn read(
    root: &mut Fields<'_>,
    metadata: &Metadata,
    age: u64,
    report: &mut Report<'_>,
    references: &mut Vec<Reference>,
) -> Option<Route> {
    let mut spec = root.required(report, "spec")?.fields(report)?;
    let parents = route::parents(&mut spec, metadata, RouteKind::Grpc, report, references);
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
    fields.not_yet(report, &["filters", "sessionPersistence"], "");
    fields.close(report);
    Some(RouteRule { name, matches, backends, timeout_ms: None })
}

fn one_match(item: &Item<'_>, report: &mut Report<'_>) -> Option<RouteMatch> {
    let mut fields = item.fields(report)?;
    let path = match fields.optional("method") {
        Some(item) => method(&item, report),
        None => Some(PathMatch::Prefix("/".into())),
    };
    let headers = route::headers(&mut fields, report);
    fields.close(report);
    Some(RouteMatch { path: path?, headers, method: None })
}

/// A call's path is `/<service>/<method>`. Source: gRPC over HTTP/2, "Path".
fn method(item: &Item<'_>, report: &mut Report<'_>) -> Option<PathMatch> {
    let mut fields = item.fields(report)?;
    if let Some(kind) = fields.text(report, "type") {
        kind.one_of(report, &[("Exact", ())], &["RegularExpression"])?;
    }
    let service = fields.text(report, "service");
    let method = fields.text(report, "method");
    fields.close(report);
    let good = [&service, &method].into_iter().flatten().all(|text| check_name(text, report));
    let path = match (service, method) {
        _ if !good => return None,
        (Some(service), Some(method)) => {
            PathMatch::Exact(format!("/{}/{}", service.value, method.value).into())
        }
        (Some(service), None) => PathMatch::Prefix(format!("/{}", service.value).into()),
        (None, Some(method)) => {
            method.error(report, "a method without its service is not supported yet", "Name the service too");
            return None;
        }
        (None, None) => {
            report.error(&item.path, item.node.place, "a method match names a service", "");
            return None;
        }
    };
    Some(path)
}

fn check_name(text: &Text<'_>, report: &mut Report<'_>) -> bool {
    let good = !text.value.is_empty()
        && text.value.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'));
    if !good {
        text.error(report, format!("\"{}\" is not the name of a gRPC service or method", text.value), "");
    }
    good
}
