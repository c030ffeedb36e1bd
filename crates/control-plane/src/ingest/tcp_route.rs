//! TCPRoute and TLSRoute: connections. Source: Gateway API v1.5.

use meshwork_model::mesh::{ConnectionRoute, ConnectionRouteKind, ConnectionRule, Export, Labels, Parent};

use super::metadata::Metadata;
use super::reader::{Fields, Item, Report};
use super::references::{Carried, Reference};
use super::route::{self, Reading};

/// Reads `spec`.
pub(crate) fn read(
    root: &mut Fields<'_>,
    kind: ConnectionRouteKind,
    metadata: &Metadata,
    age: u64,
    report: &mut Report<'_>,
    references: &mut Vec<Reference>,
) -> Option<ConnectionRoute> {
    let mut spec = root.required(report, "spec")?.fields(report)?;
    let reading = &mut Reading { metadata, kind: kind.name(), report, references };
    let parents = route::parents(&mut spec, Carried::Connections(kind), reading);
    let mut rules: Vec<ConnectionRule> = Vec::new();
    let server_names = match kind {
        ConnectionRouteKind::Tls => {
            spec.required(reading.report, "hostnames");
            route::hostnames(&mut spec, reading.report)
        }
        ConnectionRouteKind::Tcp | ConnectionRouteKind::Virtual => Vec::new(),
    };
    if spec.required(reading.report, "rules").is_some() {
        for item in route::limited(&mut spec, reading.report, "rules", route::MAX_RULES) {
            let Some(rule) = rule(&item, &parents, reading) else { continue };
            rules.push(ConnectionRule { server_names: server_names.clone(), ..rule });
        }
    }
    spec.not_yet(report, route::NOT_YET, "");
    spec.close(report);
    Some(ConnectionRoute { parents, export: Export::Everywhere, rules, age })
}

fn rule(item: &Item<'_>, parents: &[Parent], reading: &mut Reading<'_, '_>) -> Option<ConnectionRule> {
    let mut fields = item.fields(reading.report)?;
    fields.text(reading.report, "name");
    let backends = if fields.required(reading.report, "backendRefs").is_some() {
        route::backends(&mut fields, parents, false, reading)
    } else {
        Vec::new()
    };
    fields.close(reading.report);
    Some(ConnectionRule {
        server_names: Vec::new(),
        port: None,
        source_labels: Labels::new(),
        source_namespace: None,
        backends,
    })
}
