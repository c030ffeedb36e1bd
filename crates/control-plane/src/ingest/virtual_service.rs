//! VirtualService, for callers in the mesh. Source: Istio `networking.istio.io/v1`.
//!
//! Its rules are tried as they are written. What is for gateways alone is left out with a warning.

mod action;
mod connections;
mod matches;

use std::sync::Arc;

use meshwork_model::mesh::{Backend, ConnectionRoute, HeaderChanges, Parent, Route, RouteMatch, RouteRule};
use meshwork_model::problem::Code;

use super::istio::{at_most, duration, export, header_changes, target};
use super::metadata::Metadata;
use super::reader::{Fields, Item, Report};
use super::references::{Reference, Referred};
use super::resilience::{fault, retries};

/// The most hosts, rules, matches of a rule and destinations of a rule: each request is tried on all of them.
const MAX_ITEMS: usize = 500;
/// The name by which Istio calls all sidecars.
const MESH: &str = "mesh";

/// What a VirtualService is to callers in the mesh.
#[derive(Debug, Default)]
pub(crate) struct VirtualService {
    /// `http`
    pub(crate) route: Option<Route>,
    /// `tls` and `tcp`
    pub(crate) connections: Option<ConnectionRoute>,
}

/// What is read, and where its problems and references go.
struct Reading<'r, 'f> {
    namespace: &'r Arc<str>,
    /// Whether it acts in the mesh; where it does not, nothing that it leads to is looked for.
    acts: bool,
    report: &'r mut Report<'f>,
    references: &'r mut Vec<Reference>,
}

/// Reads `spec`.
pub(crate) fn read(
    root: &mut Fields<'_>,
    metadata: &Metadata,
    age: u64,
    report: &mut Report<'_>,
    references: &mut Vec<Reference>,
) -> Option<VirtualService> {
    let mut spec = root.required(report, "spec")?.fields(report)?;
    let acts = is_for_the_mesh(&mut spec, report);
    let export = export(&mut spec, &metadata.key.namespace, report);
    let mut reading = Reading { namespace: &metadata.key.namespace, acts, report, references };
    let parents = reading.hosts(&mut spec);
    let rules = reading.each(&mut spec, "http", Reading::rule);
    let mut connections = reading.each(&mut spec, "tls", |r, item| Some(r.connection(item, true))).concat();
    connections.extend(reading.each(&mut spec, "tcp", |r, item| Some(r.connection(item, false))).concat());
    spec.close(reading.report);
    if !acts || parents.is_empty() {
        return Some(VirtualService::default());
    }
    let route = (!rules.is_empty()).then(|| Route {
        parents: parents.clone(),
        export: export.clone(),
        hostnames: Vec::new(),
        rules,
        age,
    });
    let has_connections = !connections.is_empty();
    let connections = ConnectionRoute { parents, export, rules: connections, age };
    let connections = Some(connections).filter(|_| has_connections);
    Some(VirtualService { route, connections })
}

/// Whether `gateways` has the mesh among them; nothing said is the mesh.
fn is_for_the_mesh(fields: &mut Fields<'_>, report: &mut Report<'_>) -> bool {
    let Some(items) = fields.list(report, "gateways") else { return true };
    let mut acts = items.is_empty();
    for item in &items {
        let Some(text) = item.text(report) else { continue };
        if text.value == MESH {
            acts = true;
            continue;
        }
        let message = format!("the gateway \"{}\" is not honoured: only `{MESH}` is", text.value);
        report.warning(&text.path, text.place, message, "Write an HTTPRoute for a Gateway");
    }
    acts
}

impl Reading<'_, '_> {
    /// Reads every item of a list.
    fn each<'n, T>(
        &mut self,
        fields: &mut Fields<'n>,
        name: &'static str,
        read: impl Fn(&mut Self, &Item<'n>) -> Option<T>,
    ) -> Vec<T> {
        let items = fields.list(self.report, name).unwrap_or_default();
        at_most(&items, MAX_ITEMS, self.report);
        items.iter().take(MAX_ITEMS).filter_map(|item| read(self, item)).collect()
    }

    fn hosts(&mut self, spec: &mut Fields<'_>) -> Vec<Parent> {
        spec.required(self.report, "hosts");
        self.each(spec, "hosts", Self::host)
    }

    fn host(&mut self, item: &Item<'_>) -> Option<Parent> {
        let text = item.text(self.report)?;
        if !self.acts {
            return None;
        }
        if text.value.contains('*') {
            let message = format!("\"{}\" has a wildcard, which is not supported in the mesh", text.value);
            text.error_of(Code::Unsupported, self.report, message, "Name each host");
            return None;
        }
        let target = target(text.value, self.namespace);
        self.refer(item, Referred::Host(target.clone()));
        Some(Parent::all_of(target))
    }

    fn rule(&mut self, item: &Item<'_>) -> Option<RouteRule> {
        let mut fields = item.fields(self.report)?;
        let name = fields.text(self.report, "name").map_or("", |text| text.value);
        let matches = match fields.optional("match") {
            None => Some(vec![RouteMatch::everything()]),
            Some(_) => self.matches(&mut fields),
        };
        let mut rule = RouteRule::forward(name, Vec::new(), Vec::new());
        rule.changes = self.changes(&mut fields);
        let action = self.action(&mut fields, item);
        rule.mirrors = self.mirrors(&mut fields);
        self.rewrite(&mut fields, &mut rule);
        take_host(&mut rule);
        rule.timeout = duration(&mut fields, self.report, "timeout");
        rule.retry = retries(&mut fields, self.report);
        rule.fault = fault(&mut fields, self.report);
        rule.cors = self.cors(&mut fields);
        fields.not_yet(self.report, &["delegate"], "Write its rules here");
        fields.close(self.report);
        rule.matches = matches?;
        rule.action = action?;
        Some(rule).filter(|rule| !rule.matches.is_empty())
    }

    fn changes(&mut self, fields: &mut Fields<'_>) -> HeaderChanges {
        header_changes(fields, self.report)
    }

    /// Reads `host`, `port` and `subset`; the port is 0 where none is said.
    fn destination(&mut self, item: &Item<'_>) -> Option<Backend> {
        let mut fields = item.fields(self.report)?;
        let host = fields.required_text(self.report, "host");
        let subset = fields.text(self.report, "subset").filter(|text| !text.value.is_empty());
        let port = self.port(&mut fields);
        fields.close(self.report);
        let target = target(host?.value, self.namespace);
        let subset = subset.map(|text| Arc::from(text.value));
        let refers = Referred::Destination { target: target.clone(), port, subset: subset.clone() };
        self.refer(item, refers);
        let changes = HeaderChanges::default();
        Some(Backend { target, port: port.unwrap_or(0), subset, weight: 1, changes, forbidden: false })
    }

    fn port(&mut self, fields: &mut Fields<'_>) -> Option<u16> {
        let mut port = fields.mapping(self.report, "port")?;
        let number = port.port(self.report, "number");
        port.close(self.report);
        number
    }

    fn refer(&mut self, item: &Item<'_>, referred: Referred) {
        if self.acts {
            self.references.push(Reference::new(self.report, item, referred));
        }
    }
}

/// A request's header `Host` that is set is the host that it is sent on with. Source: Istio `translateAppendHeaders`.
fn take_host(rule: &mut RouteRule) {
    let is_host = |name: &Arc<str>| matches!(&**name, "host" | ":authority");
    let set = &mut rule.changes.request.set;
    if let Some(index) = set.iter().position(|(name, _)| is_host(name)) {
        let (_, value) = set.remove(index);
        rule.host.get_or_insert(value);
    }
}
