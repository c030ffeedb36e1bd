//! EndpointSlice: addresses behind a service. Source: Kubernetes `discovery.k8s.io/v1`.
//!
//! Whoever answers at an address is known by `targetRef`, as the workload of that name, or by the annotation
//! [`ACCOUNT`], as any workload of that service account; otherwise the address is called in plaintext.

use std::net::IpAddr;
use std::sync::Arc;

use meshwork_model::address::nearness;
use meshwork_model::mesh::{EndpointSlice, SliceEndpoint, SlicePort};
use meshwork_model::problem::Code;
use meshwork_model::proxy::Locality;

use super::metadata::is_label;
use super::reader::{Fields, Item, Report};

/// The label that names the service. Source: Kubernetes, "Well-Known Labels".
const SERVICE: &str = "kubernetes.io/service-name";
/// The annotation that names the service account of whoever answers.
const ACCOUNT: &str = "meshwork.dev/service-account";
/// The most addresses of a slice, and the most ports. Source: Kubernetes, `EndpointSlice.endpoints` and `ports`.
const MAX_ENDPOINTS: usize = 1_000;
const MAX_PORTS: usize = 100;

/// Reads the resource, which has no `spec`.
pub(crate) fn read(root: &mut Fields<'_>, report: &mut Report<'_>) -> Option<EndpointSlice> {
    let (service, service_account) = said_of(root, report);
    let kind = root.required_text(report, "addressType");
    let kinds = [("IPv4", ()), ("IPv6", ())];
    let is_ip = kind.and_then(|kind| kind.one_of(report, &kinds, &["FQDN"]));
    let endpoints = items(root, report, "endpoints", MAX_ENDPOINTS, endpoint);
    let ports = items(root, report, "ports", MAX_PORTS, port);
    let ports = ports.into_iter().filter(|(_, is_carried)| *is_carried).map(|(port, _)| port).collect();
    is_ip?;
    Some(EndpointSlice { service, ports, endpoints, service_account })
}

/// The service, and the service account, from the metadata.
fn said_of(root: &mut Fields<'_>, report: &mut Report<'_>) -> (Option<Arc<str>>, Option<Arc<str>>) {
    let Some(mut metadata) = root.mapping(report, "metadata") else { return (None, None) };
    let mut labels = metadata.labels(report, "labels").unwrap_or_default();
    let service = labels.remove(SERVICE);
    if service.is_none() {
        let message = format!("it is behind no service: it has no label {SERVICE}");
        let path = metadata.path_of("labels");
        report.warning_of(Code::SelectsNothing, &path, metadata.place(), message, "Add the label");
    }
    let mut annotations = metadata.labels(report, "annotations").unwrap_or_default();
    let account = annotations.remove(ACCOUNT).filter(|account| {
        let good = account.split('.').all(is_label);
        if !good {
            let path = format!("{}[{ACCOUNT:?}]", metadata.path_of("annotations"));
            let message = format!("\"{account}\" is not the name of a service account");
            report.error(&path, metadata.place(), message, "Use a-z, 0-9, '-' and '.'");
        }
        good
    });
    (service.map(Into::into), account.map(Into::into))
}

fn items<T>(
    fields: &mut Fields<'_>,
    report: &mut Report<'_>,
    name: &'static str,
    most: usize,
    read: fn(&Item<'_>, &mut Report<'_>) -> Option<T>,
) -> Vec<T> {
    let items = fields.list(report, name).unwrap_or_default();
    if let Some(item) = items.get(most) {
        let message = format!("a slice has at most {most} {name}");
        report.error_of(Code::OverLimit, &item.path, item.node.place, message, "Write several slices");
    }
    items.iter().take(most).filter_map(|item| read(item, report)).collect()
}

fn endpoint(item: &Item<'_>, report: &mut Report<'_>) -> Option<SliceEndpoint> {
    let mut fields = item.fields(report)?;
    let addresses = fields.required(report, "addresses").and_then(|_| fields.list(report, "addresses"));
    let address = address(&addresses.unwrap_or_default(), item, report);
    let (ready, serving) = conditions(&mut fields, report);
    let zone = fields.text(report, "zone").map_or("", |text| text.value);
    let workload = target(&mut fields, report);
    fields.skip(&["deprecatedTopology", "hints", "hostname", "nodeName"]);
    fields.close(report);
    let locality = Locality { zone: zone.into(), ..Locality::default() };
    Some(SliceEndpoint { address: address?, ready, serving, workload, locality })
}

/// The first address is the one that counts. Source: Kubernetes, `Endpoint.addresses`.
fn address(items: &[Item<'_>], endpoint: &Item<'_>, report: &mut Report<'_>) -> Option<IpAddr> {
    if let Some(more) = items.get(1) {
        let message = "only the first address of an endpoint is called";
        report.warning(&more.path, more.node.place, message, "Make an endpoint of each address");
    }
    let Some(first) = items.first() else {
        let message = "an endpoint has an address";
        report.error(&format!("{}.addresses", endpoint.path), endpoint.node.place, message, "");
        return None;
    };
    let text = first.text(report)?;
    let Ok(address) = text.value.parse::<IpAddr>() else {
        text.error(report, format!("\"{}\" is not the address of anybody", text.value), "");
        return None;
    };
    // Every caller's proxy would connect to what listens near it. Source: Kubernetes, `ValidateEndpointIP`.
    if let Some(why) = nearness(address) {
        text.error(
            report,
            format!("nobody is called at {}: it is {why}", text.value),
            "Write the host's own address",
        );
        return None;
    }
    Some(address)
}

/// Whether it takes requests, and whether it still answers; what is not said is so.
fn conditions(fields: &mut Fields<'_>, report: &mut Report<'_>) -> (bool, bool) {
    let Some(mut fields) = fields.mapping(report, "conditions") else { return (true, true) };
    let ready = fields.boolean(report, "ready").unwrap_or(true);
    let serving = fields.boolean(report, "serving").unwrap_or(ready);
    let terminating = fields.boolean(report, "terminating").unwrap_or(false);
    fields.close(report);
    (ready && !terminating, serving)
}

fn target(fields: &mut Fields<'_>, report: &mut Report<'_>) -> Option<Arc<str>> {
    let mut fields = fields.mapping(report, "targetRef")?;
    let kind = fields.text(report, "kind").map_or("Pod", |text| text.value);
    let name = fields.text(report, "name").map(|text| text.value);
    fields.skip(&["apiVersion", "fieldPath", "namespace", "resourceVersion", "uid"]);
    fields.close(report);
    name.filter(|_| kind == "Pod").map(Into::into)
}

/// A port, and whether the mesh carries what is spoken below.
fn port(item: &Item<'_>, report: &mut Report<'_>) -> Option<(SlicePort, bool)> {
    let mut fields = item.fields(report)?;
    let name = fields.text(report, "name").map_or("", |text| text.value);
    let port = fields.port(report, "port");
    let transport = fields.text(report, "protocol").map_or("TCP", |text| text.value);
    // What is spoken is the service's to say.
    fields.skip(&["appProtocol"]);
    fields.close(report);
    let is_carried = transport == "TCP";
    if !is_carried {
        let message = format!("the port is left out: {transport} is not carried by the mesh");
        report.warning(&item.path, item.node.place, message, "");
    }
    Some((SlicePort { name: name.into(), port }, is_carried))
}
