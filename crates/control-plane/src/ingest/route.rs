//! What HTTPRoute and GRPCRoute have in common: parents, backends, header matches. Source: Gateway API v1.

use std::sync::Arc;

use meshwork_model::mesh::{Backend, Key, RouteKind};

use super::metadata::Metadata;
use super::reader::{Fields, Item, Report};
use super::references::{Reference, Target};

/// The largest weight. Source: Gateway API, `BackendRef.weight`.
const MAX_WEIGHT: i64 = 1_000_000;
/// Fields of a route that are no part of a rule and are not honoured yet.
pub(crate) const NOT_YET: &[&str] = &["hostnames", "useDefaultGateways"];
/// The most header tests of one match. Source: Gateway API, `HTTPRouteMatch.headers`.
const MAX_HEADERS: usize = 16;

/// Reads a route's `parentRefs`.
pub(crate) fn parents(
    spec: &mut Fields<'_>,
    route: &Metadata,
    kind: RouteKind,
    report: &mut Report<'_>,
    references: &mut Vec<Reference>,
) -> Vec<(Key, Option<u16>)> {
    let mut parents = Vec::new();
    if spec.required(report, "parentRefs").is_none() {
        return parents;
    }
    for item in spec.list(report, "parentRefs").unwrap_or_default() {
        let Some((service, port)) = parent(&item, route, report) else { continue };
        references.push(Reference::new(
            report,
            &item,
            Target::Parent { service: service.clone(), port, kind },
        ));
        parents.push((service, port));
    }
    parents
}

fn parent(item: &Item<'_>, route: &Metadata, report: &mut Report<'_>) -> Option<(Key, Option<u16>)> {
    let mut fields = item.fields(report)?;
    let service = service(&mut fields, route, ParentOrBackend::Parent, &[], report);
    let port = fields.port(report, "port");
    fields.not_yet(report, &["sectionName"], "Name the port by `port`");
    fields.close(report);
    Some((service?, port))
}

/// Reads a rule's `backendRefs`.
pub(crate) fn backends(
    rule: &mut Fields<'_>,
    route: &Metadata,
    parents: &[(Key, Option<u16>)],
    report: &mut Report<'_>,
    references: &mut Vec<Reference>,
) -> Vec<Backend> {
    let path = rule.path_of("backendRefs");
    let items = rule.list(report, "backendRefs").unwrap_or_default();
    let mut backends = Vec::new();
    for item in &items {
        let Some(backend) = backend(item, route, parents, report) else { continue };
        let target = Target::Backend { service: backend.service.clone(), port: backend.port };
        references.push(Reference::new(report, item, target));
        backends.push(backend);
    }
    if !backends.is_empty() && backends.iter().all(|b| b.weight == 0) {
        let message = "all weights are 0, so that no request could be forwarded";
        report.error(&path, items[0].node.place, message, "Give one backend a weight over 0");
    }
    backends
}

fn backend(
    item: &Item<'_>,
    route: &Metadata,
    parents: &[(Key, Option<u16>)],
    report: &mut Report<'_>,
) -> Option<Backend> {
    let mut fields = item.fields(report)?;
    let service = service(&mut fields, route, ParentOrBackend::Backend, parents, report);
    let port = fields.required(report, "port").and_then(|_| fields.port(report, "port"));
    let weight = fields.integer(report, "weight", 0..=MAX_WEIGHT).unwrap_or(1);
    fields.not_yet(report, &["filters"], "");
    fields.close(report);
    Some(Backend { service: service?, port: port?, weight: u32::try_from(weight).unwrap_or(0) })
}

#[derive(Clone, Copy, PartialEq)]
enum ParentOrBackend {
    Parent,
    Backend,
}

/// Reads the fields that name a service. A parent's default kind is Gateway, a backend's is Service.
fn service(
    fields: &mut Fields<'_>,
    route: &Metadata,
    role: ParentOrBackend,
    parents: &[(Key, Option<u16>)],
    report: &mut Report<'_>,
) -> Option<Key> {
    const GATEWAY_GROUP: &str = "gateway.networking.k8s.io";
    let group = fields.text(report, "group").map(|t| t.value);
    let kind = fields.text(report, "kind").map(|t| t.value);
    let (default_group, default_kind) = match role {
        ParentOrBackend::Parent => (GATEWAY_GROUP, "Gateway"),
        ParentOrBackend::Backend => ("", "Service"),
    };
    let group = group.unwrap_or(default_group);
    let kind = kind.unwrap_or(default_kind);
    let name = fields.required_text(report, "name");
    let namespace = fields.text(report, "namespace");
    if kind != "Service" || !matches!(group, "" | "core") {
        let what = if group.is_empty() { kind.to_owned() } else { format!("{group}/{kind}") };
        let message = format!("a reference to a {what} is not supported yet");
        let fix = "Refer to a Service: write `group: \"\"` and `kind: Service`";
        report.error(&fields.path_of("kind"), fields.place(), message, fix);
        return None;
    }
    let here = &*route.key.namespace;
    if let Some(other) =
        namespace.as_ref().filter(|n| role == ParentOrBackend::Backend && !grants(n.value, here, parents))
    {
        let message = format!(
            "a backend in the namespace {} is not supported yet: it needs a ReferenceGrant there",
            other.value
        );
        other.error(report, message, format!("Lead to a Service of {here}"));
        return None;
    }
    Some(Key::new(namespace.map_or(here, |n| n.value), name?.value))
}

/// A backend of the route's own namespace, or of one whose service it is attached to: its callers may call there
/// anyway.
fn grants(namespace: &str, route: &str, parents: &[(Key, Option<u16>)]) -> bool {
    namespace == route || parents.iter().any(|(parent, _)| *parent.namespace == *namespace)
}

/// Reads the header tests of a match: lowercase names and exact values.
pub(crate) fn headers(fields: &mut Fields<'_>, report: &mut Report<'_>) -> Vec<(Arc<str>, Arc<str>)> {
    let mut headers: Vec<(Arc<str>, Arc<str>)> = Vec::new();
    let items = fields.list(report, "headers").unwrap_or_default();
    if let Some(item) = items.get(MAX_HEADERS) {
        let message = format!("a match has at most {MAX_HEADERS} header tests");
        report.error(&item.path, item.node.place, message, "");
    }
    for item in items.iter().take(MAX_HEADERS) {
        let Some((name, value)) = header(item, report) else { continue };
        if headers.iter().any(|(earlier, _)| *earlier == name) {
            let message = format!("the header {name} is tested already in this match");
            report.error(&item.path, item.node.place, message, "Leave one of the tests out");
        }
        headers.push((name, value));
    }
    headers
}

fn header(item: &Item<'_>, report: &mut Report<'_>) -> Option<(Arc<str>, Arc<str>)> {
    let mut fields = item.fields(report)?;
    let exact = match fields.text(report, "type") {
        Some(kind) => kind.one_of(report, &[("Exact", ())], &["RegularExpression"]),
        None => Some(()),
    };
    let name = fields.required_text(report, "name");
    let value = fields.required_text(report, "value");
    fields.close(report);
    let name = name?;
    if !is_token(name.value) {
        name.error(report, format!("\"{}\" is not a header's name", name.value), "");
        return None;
    }
    exact?;
    Some((name.value.to_ascii_lowercase().into(), value?.value.into()))
}

/// Whether a text is a token. Source: RFC 9110 §5.6.2.
pub(crate) fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
}
