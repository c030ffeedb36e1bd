//! DestinationRule. Source: Istio `networking.istio.io/v1`.

mod balancing;
mod terms;

use std::collections::BTreeMap;
use std::sync::Arc;

use meshwork_model::mesh::{
    DestinationRule, HostPattern, Labels, OutsideTls, PortTerms, Subset, Target, TrafficTerms,
};
use meshwork_model::problem::Code;
use meshwork_model::proxy::ZONE;

use super::istio::{at_most, export, target};
use super::metadata::Metadata;
use super::reader::{Fields, Item, Report, Text};
use super::references::{Reference, Referred};
use super::resilience::retry_budget;

/// The most subsets of one rule: each is a cluster in every proxy that may lead to it.
const MAX_SUBSETS: usize = 100;
/// The most ports with terms of their own.
const MAX_PORTS: usize = 100;

/// Reads `spec`.
pub(crate) fn read(
    root: &mut Fields<'_>,
    metadata: &Metadata,
    age: u64,
    report: &mut Report<'_>,
    references: &mut Vec<Reference>,
) -> Option<DestinationRule> {
    let mut spec = root.required(report, "spec")?.fields(report)?;
    let host = host(&mut spec, metadata, report, references);
    let export = export(&mut spec, &metadata.key.namespace, report);
    let selector = workload_selector(&mut spec, report);
    // What is wrong with the host is told already; the rest is read for its own problems.
    let of = host.clone().unwrap_or(HostPattern::Below("".into()));
    let terms = traffic_policy(&mut spec, &of, report);
    let items = spec.list(report, "subsets").unwrap_or_default();
    at_most(&items, MAX_SUBSETS, report);
    let mut subsets: Vec<Subset> = Vec::new();
    for item in items.iter().take(MAX_SUBSETS) {
        let Some(subset) = subset(item, &of, report) else { continue };
        if subsets.iter().any(|earlier| earlier.name == subset.name) {
            let message = format!("the rule has a subset `{}` already", subset.name);
            report.error_of(
                Code::Duplicate,
                &item.path,
                item.node.place,
                message,
                "Rename or remove one of them",
            );
        }
        subsets.push(subset);
    }
    spec.close(report);
    Some(DestinationRule { host: host?, export, selector: selector?, terms, subsets, age })
}

fn host(
    spec: &mut Fields<'_>,
    metadata: &Metadata,
    report: &mut Report<'_>,
    references: &mut Vec<Reference>,
) -> Option<HostPattern> {
    let item = spec.required(report, "host")?;
    let text = item.text(report)?;
    let name = text.value.to_ascii_lowercase();
    let Some(end) = name.strip_prefix('*') else {
        let target = target(&name, &metadata.key.namespace);
        references.push(Reference::new(report, &item, Referred::Host(target.clone())));
        references.push(Reference::new(report, &item, Referred::OldestRule(metadata.key.clone())));
        return Some(HostPattern::One(target));
    };
    // Istio's name for all services is `*.local`, from the end of their full names.
    let is_end = end.is_empty() || end.starts_with('.') && end.len() > 1;
    if !is_end || end.contains('*') {
        let message = format!("\"{}\" is not a pattern of hosts", text.value);
        text.error(
            report,
            message,
            format!("Write `*` or `*.` with the end of a name, as in `*.shop.svc.{ZONE}`"),
        );
        return None;
    }
    Some(HostPattern::Below(end.into()))
}

/// Reads `workloadSelector.matchLabels`: the callers that hold to it.
fn workload_selector(spec: &mut Fields<'_>, report: &mut Report<'_>) -> Option<Labels> {
    let Some(item) = spec.optional("workloadSelector") else { return Some(Labels::new()) };
    let mut fields = item.fields(report)?;
    let labels = fields.labels(report, "matchLabels").unwrap_or_default();
    fields.close(report);
    Some(labels)
}

fn subset(item: &Item<'_>, of: &HostPattern, report: &mut Report<'_>) -> Option<Subset> {
    let mut fields = item.fields(report)?;
    let name = fields.required_text(report, "name");
    let labels = fields.labels(report, "labels").unwrap_or_default();
    let terms = traffic_policy(&mut fields, of, report);
    fields.close(report);
    let name = name.filter(|name| is_subset(name, report))?;
    Some(Subset { name: name.value.into(), labels, terms })
}

/// A subset's name is part of a cluster's.
fn is_subset(name: &Text<'_>, report: &mut Report<'_>) -> bool {
    let good = super::is_label(&name.value.to_ascii_lowercase());
    if !good {
        let fix = "Use letters, digits and '-', with a letter or digit at both ends";
        name.error(report, format!("\"{}\" is not a name", name.value), fix);
    }
    good
}

fn traffic_policy(fields: &mut Fields<'_>, of: &HostPattern, report: &mut Report<'_>) -> TrafficTerms {
    let Some(mut fields) = fields.mapping(report, "trafficPolicy") else { return TrafficTerms::default() };
    let mut all = port_terms(&mut fields, of, report);
    let budget = fields.mapping(report, "retryBudget");
    all.retry_budget = budget.map(|fields| retry_budget(fields, "minRetryConcurrency", report));
    let mut ports = BTreeMap::new();
    let items = fields.list(report, "portLevelSettings").unwrap_or_default();
    at_most(&items, MAX_PORTS, report);
    for item in items.iter().take(MAX_PORTS) {
        let Some(mut fields) = item.fields(report) else { continue };
        let number =
            fields.required(report, "port").and_then(|port| port.fields(report)).and_then(|mut port| {
                port.required(report, "number");
                let number = port.port(report, "number");
                port.close(report);
                number
            });
        let terms = port_terms(&mut fields, of, report);
        fields.close(report);
        // Ports have no word for it.
        let terms = PortTerms { retry_budget: all.retry_budget, ..terms };
        ports.extend(number.map(|number| (number, terms)));
    }
    fields.not_yet(report, &["tunnel", "proxyProtocol"], "Leave it out");
    fields.close(report);
    TrafficTerms { all, ports }
}

fn port_terms(fields: &mut Fields<'_>, of: &HostPattern, report: &mut Report<'_>) -> PortTerms {
    PortTerms {
        balancing: fields.mapping(report, "loadBalancer").and_then(|fields| balancing::read(fields, report)),
        pool: fields.mapping(report, "connectionPool").map(|fields| terms::pool(fields, report)),
        outliers: fields.mapping(report, "outlierDetection").map(|fields| terms::outliers(fields, report)),
        tls: fields.mapping(report, "tls").and_then(|fields| tls(fields, of, report)),
        retry_budget: None,
    }
}

/// What `tls.mode` may say.
#[derive(Clone, Copy, PartialEq)]
enum Mode {
    Disable,
    Simple,
    Mutual,
    IstioMutual,
}

/// Services are called with the mesh's identities, whatever a rule says; hosts outside as it says.
fn tls(mut fields: Fields<'_>, of: &HostPattern, report: &mut Report<'_>) -> Option<OutsideTls> {
    let modes = [
        ("DISABLE", Mode::Disable),
        ("SIMPLE", Mode::Simple),
        ("MUTUAL", Mode::Mutual),
        ("ISTIO_MUTUAL", Mode::IstioMutual),
    ];
    let text = fields.text(report, "mode");
    let mode = match &text {
        Some(text) => text.one_of(report, &modes, &[]),
        None => Some(Mode::Disable),
    };
    let is_outside = matches!(of, HostPattern::One(Target::Host(_)));
    let place = text.as_ref().map_or(fields.place(), |text| text.place);
    let path = fields.path_of("mode");
    let client = terms::client_context(&mut fields, mode == Some(Mode::Mutual), report);
    fields.close(report);
    match mode? {
        Mode::IstioMutual if is_outside => {
            let message = "a host outside the mesh has no identity of the mesh";
            report.error_of(Code::Conflict, &path, place, message, "Use SIMPLE, MUTUAL or DISABLE");
            None
        }
        Mode::IstioMutual => None,
        Mode::Disable if is_outside => Some(OutsideTls::Off),
        Mode::Disable => {
            let message = "a workload is called in plaintext only where its PeerAuthentication says so";
            report.warning(&path, place, message, "Write a PeerAuthentication with the mode DISABLE");
            None
        }
        Mode::Simple | Mode::Mutual if is_outside => client.map(|client| OutsideTls::On(Arc::new(client))),
        Mode::Simple | Mode::Mutual => {
            let message = "services of the mesh are called with its identities";
            report.error_of(Code::Conflict, &path, place, message, "Use ISTIO_MUTUAL, or leave `tls` out");
            None
        }
    }
}
