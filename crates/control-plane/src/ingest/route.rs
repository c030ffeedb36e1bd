//! What Gateway API's kinds of routes have in common: parents, hostnames, backends. Source: Gateway API v1.5.

mod cors;
mod filters;
mod matches;

use std::sync::Arc;

use meshwork_model::mesh::{
    Backend, Export, HeaderChanges, Key, Parent, Route, RouteKind, RouteMatch, RouteRule, Target,
};
use meshwork_model::problem::Code;

pub(crate) use filters::Filters;
pub(crate) use matches::{headers, query, regex};

use super::metadata::{Metadata, is_label};
use super::reader::{Fields, Item, Report};
use super::references::{Carried, GATEWAY_GROUP, Reference, Referred, needs_grant};

/// The largest weight. Source: Gateway API, `BackendRef.weight`.
const MAX_WEIGHT: i64 = 1_000_000;
/// The most parents. Source: Gateway API, `CommonRouteSpec.parentRefs`.
const MAX_PARENTS: usize = 32;
/// The most hostnames of a route.
const MAX_HOSTNAMES: usize = 16;
/// The most backends of a rule.
const MAX_BACKENDS: usize = 16;
/// The most rules. Source: Gateway API, `HTTPRouteSpec.rules`.
pub(crate) const MAX_RULES: usize = 16;
/// The most matches of a rule, and of all rules.
const MAX_MATCHES: (usize, usize) = (64, 128);
/// Fields of a route that are no part of a rule and are not honoured yet.
pub(crate) const NOT_YET: &[&str] = &["useDefaultGateways"];

/// Which route is read, and where what is found goes.
pub(crate) struct Reading<'r, 'f> {
    pub(crate) metadata: &'r Metadata,
    /// The kind's name.
    pub(crate) kind: &'static str,
    pub(crate) report: &'r mut Report<'f>,
    pub(crate) references: &'r mut Vec<Reference>,
}

/// The items of a list that has at most so many, as Gateway API says.
pub(crate) fn limited<'n>(
    fields: &mut Fields<'n>,
    report: &mut Report<'_>,
    name: &'static str,
    most: usize,
) -> Vec<Item<'n>> {
    let mut items = fields.list(report, name).unwrap_or_default();
    if let Some(item) = items.get(most) {
        let message = format!("`{name}` has at most {most} entries");
        report.error_of(Code::OverLimit, &item.path, item.node.place, message, "");
    }
    items.truncate(most);
    items
}

/// A kind with its group, as people write it.
fn words_of(group: &str, kind: &str) -> String {
    if group.is_empty() { kind.to_owned() } else { format!("{group}/{kind}") }
}

/// Reads `spec` of a route of requests; `rule` reads one of its rules.
pub(crate) fn requests(
    root: &mut Fields<'_>,
    kind: RouteKind,
    age: u64,
    reading: &mut Reading<'_, '_>,
    rule: fn(&Item<'_>, &[Parent], &mut Reading<'_, '_>) -> Option<RouteRule>,
) -> Option<Route> {
    let mut spec = root.required(reading.report, "spec")?.fields(reading.report)?;
    let parents = parents(&mut spec, Carried::Requests(kind), reading);
    let hostnames = hostnames(&mut spec, reading.report);
    let mut rules: Vec<RouteRule> = Vec::new();
    for item in limited(&mut spec, reading.report, "rules", MAX_RULES) {
        let Some(rule) = rule(&item, &parents, reading) else { continue };
        check_name(&item, &rule.name, rules.iter().map(|rule| &*rule.name), reading.report);
        rules.push(rule);
    }
    check_matches(&spec, &rules, reading.report);
    spec.not_yet(reading.report, NOT_YET, "");
    spec.close(reading.report);
    Some(Route { parents, export: Export::Everywhere, hostnames, rules, age })
}

/// Reads `matches` of a rule; one without any takes everything.
pub(crate) fn rule_matches(
    rule: &mut Fields<'_>,
    report: &mut Report<'_>,
    one: fn(&Item<'_>, &mut Report<'_>) -> Option<RouteMatch>,
) -> Vec<RouteMatch> {
    let items = limited(rule, report, "matches", MAX_MATCHES.0);
    if items.is_empty() {
        return vec![RouteMatch::everything()];
    }
    items.iter().filter_map(|item| one(item, report)).collect()
}

/// Reads a route's `parentRefs`.
pub(crate) fn parents(spec: &mut Fields<'_>, carried: Carried, reading: &mut Reading<'_, '_>) -> Vec<Parent> {
    let items = limited(spec, reading.report, "parentRefs", MAX_PARENTS);
    if items.is_empty() {
        let message = "the route is attached to nothing, so it acts on nobody";
        let path = spec.path_of("parentRefs");
        reading.report.warning_of(Code::SelectsNothing, &path, spec.place(), message, "Name a Service");
    }
    let mut parents: Vec<Parent> = Vec::new();
    for item in &items {
        let Some(parent) = parent(item, reading) else { continue };
        if parents.contains(&parent) {
            let message = "the route is attached there already";
            reading.report.error_of(Code::Duplicate, &item.path, item.node.place, message, "Leave it out");
            continue;
        }
        let namespace = reading.metadata.key.namespace.clone();
        let referred = Referred::Parent { parent: parent.clone(), carried, namespace };
        reading.references.push(Reference::new(reading.report, item, referred));
        parents.push(parent);
    }
    parents
}

fn parent(item: &Item<'_>, reading: &mut Reading<'_, '_>) -> Option<Parent> {
    let report = &mut *reading.report;
    let mut fields = item.fields(report)?;
    let group = fields.text(report, "group").map_or(GATEWAY_GROUP, |t| t.value);
    let kind = fields.text(report, "kind").map_or("Gateway", |t| t.value);
    let name = fields.required_text(report, "name");
    let namespace = namespace(&mut fields, reading.metadata, report);
    let port = fields.port(report, "port");
    let section = fields.text(report, "sectionName").map(|t| t.value.into());
    fields.close(report);
    let key = Key::new(namespace?, name?.value);
    let target = match (group, kind) {
        ("" | "core", "Service") => Target::Service(key),
        (GATEWAY_GROUP, "Gateway") => Target::Gateway(key),
        (GATEWAY_GROUP, "Service") => {
            let fix = "Write `group: \"\"` beside `kind: Service`: without it a kind of Gateway API is meant";
            report.error(&item.path, item.node.place, format!("there is no {GATEWAY_GROUP}/Service"), fix);
            return None;
        }
        _ => {
            let message = format!("the mesh attaches no routes to a {}", words_of(group, kind));
            let fix = "Attach it to a Service: write `group: \"\"` and `kind: Service`";
            report.warning_of(Code::NotHonoured, &item.path, item.node.place, message, fix);
            return None;
        }
    };
    Some(Parent { target, port, section })
}

/// The namespace that a reference names, or the route's own.
fn namespace(fields: &mut Fields<'_>, metadata: &Metadata, report: &mut Report<'_>) -> Option<Arc<str>> {
    match fields.text(report, "namespace") {
        None => Some(Arc::clone(&metadata.key.namespace)),
        Some(text) if is_label(text.value) => Some(text.value.into()),
        Some(text) => {
            text.error(report, format!("\"{}\" is not a name of a namespace", text.value), "");
            None
        }
    }
}

/// Reads `hostnames`, in lowercase.
pub(crate) fn hostnames(spec: &mut Fields<'_>, report: &mut Report<'_>) -> Vec<Arc<str>> {
    let mut names = Vec::new();
    for item in limited(spec, report, "hostnames", MAX_HOSTNAMES) {
        let Some(text) = item.text(report) else { continue };
        let name = text.value.to_ascii_lowercase();
        if is_hostname(name.strip_prefix("*.").unwrap_or(&name)) {
            names.push(name.into());
        } else {
            let fix = "Write a name as shop.example.com or *.example.com";
            text.error(report, format!("\"{}\" is not a hostname", text.value), fix);
        }
    }
    names
}

/// Whether a text is a name of DNS, and no address.
pub(crate) fn is_hostname(text: &str) -> bool {
    /// The longest name. Source: RFC 1035.
    const MAX_NAME_BYTES: usize = 253;
    text.len() <= MAX_NAME_BYTES
        && text.split('.').all(is_label)
        && text.parse::<std::net::Ipv4Addr>().is_err()
}

/// Reads a rule's `backendRefs`; `takes_filters` is whether each may have filters of its own.
pub(crate) fn backends(
    rule: &mut Fields<'_>,
    parents: &[Parent],
    takes_filters: bool,
    reading: &mut Reading<'_, '_>,
) -> Vec<Backend> {
    let path = rule.path_of("backendRefs");
    let items = limited(rule, reading.report, "backendRefs", MAX_BACKENDS);
    let read = |item| backend(item, parents, takes_filters, reading);
    let backends: Vec<Backend> = items.iter().filter_map(read).collect();
    if !backends.is_empty() && backends.iter().all(|b| b.weight == 0) {
        let message = "all weights are 0, so that every request is answered with an error";
        let fix = "Give one backend a weight over 0";
        reading.report.warning_of(Code::LeadsNowhere, &path, items[0].node.place, message, fix);
    }
    backends
}

fn backend(
    item: &Item<'_>,
    parents: &[Parent],
    takes_filters: bool,
    reading: &mut Reading<'_, '_>,
) -> Option<Backend> {
    let mut fields = item.fields(reading.report)?;
    let object = object(item, &mut fields, parents, reading);
    let weight = fields.integer(reading.report, "weight", 0..=MAX_WEIGHT).unwrap_or(1);
    let changes =
        if takes_filters { filters::of_backend(&mut fields, reading) } else { HeaderChanges::default() };
    fields.close(reading.report);
    let (target, port) = object?;
    let weight = u32::try_from(weight).unwrap_or(0);
    Some(Backend { target, port, subset: None, weight, changes, forbidden: false })
}

/// Reads the fields that name what a rule leads to. What the mesh does not know is told, and answers with an error.
fn object(
    item: &Item<'_>,
    fields: &mut Fields<'_>,
    parents: &[Parent],
    reading: &mut Reading<'_, '_>,
) -> Option<(Target, u16)> {
    let report = &mut *reading.report;
    let group = fields.text(report, "group").map_or("", |t| t.value);
    let kind = fields.text(report, "kind").map_or("Service", |t| t.value);
    let name = fields.required_text(report, "name");
    let namespace = namespace(fields, reading.metadata, report);
    let port = match (group, kind) {
        ("" | "core", "Service") | (_, "Hostname") => {
            fields.required(report, "port").and_then(|_| fields.port(report, "port"))
        }
        _ => Some(fields.port(report, "port").unwrap_or(0)),
    };
    let (name, namespace, port) = (name?.value, namespace?, port?);
    let target = match (group, kind) {
        ("" | "core", "Service") => {
            let service = Key::new(namespace, name);
            let here = &reading.metadata.key.namespace;
            let from = needs_grant(here, parents, &service).then(|| (reading.kind, here.clone()));
            let referred = Referred::Backend { service: service.clone(), port, from };
            reading.references.push(Reference::new(report, item, referred));
            Target::Service(service)
        }
        ("networking.istio.io", "Hostname") => Target::Host(name.to_ascii_lowercase().into()),
        _ => {
            let message = format!("the mesh leads to no {}", words_of(group, kind));
            let fix = "Lead to a Service";
            report.warning_of(Code::LeadsNowhere, &item.path, item.node.place, message, fix);
            Target::Unknown(format!("{} {name}", words_of(group, kind)).into())
        }
    };
    Some((target, port))
}

/// Sessions that stick to an endpoint need endpoints that say who they are; what the mesh can do is a hash, which
/// moves some sessions whenever an endpoint comes or goes.
pub(crate) fn refuse_sessions(rule: &mut Fields<'_>, report: &mut Report<'_>) {
    if let Some(item) = rule.optional("sessionPersistence") {
        let message = "the mesh keeps no sessions at an endpoint";
        let fix = "Use a DestinationRule with `consistentHash`, which holds while no endpoint comes or goes";
        report.error_of(Code::Unsupported, &item.path, item.node.place, message, fix);
    }
}

/// Refuses a name of a rule that an earlier rule has. Source: Gateway API, `HTTPRouteRule.name`.
fn check_name<'r>(
    rule: &Item<'_>,
    name: &str,
    mut earlier: impl Iterator<Item = &'r str>,
    report: &mut Report<'_>,
) {
    if !name.is_empty() && earlier.any(|earlier| earlier == name) {
        let message = format!("there is a rule named \"{name}\" already");
        report.error_of(Code::Duplicate, &rule.path, rule.node.place, message, "Give it another name");
    }
}

/// Refuses a route with more matches than there may be.
fn check_matches(spec: &Fields<'_>, rules: &[RouteRule], report: &mut Report<'_>) {
    let most = MAX_MATCHES.1;
    if rules.iter().map(|rule| rule.matches.len()).sum::<usize>() > most {
        let message = format!("the rules of a route have at most {most} matches together");
        report.error_of(Code::OverLimit, &spec.path_of("rules"), spec.place(), message, "Split the route");
    }
}

/// Whether a text is a token. Source: RFC 9110 §5.6.2.
pub(crate) fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
}
