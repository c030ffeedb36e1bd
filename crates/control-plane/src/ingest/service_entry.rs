//! ServiceEntry: hosts outside the mesh. Source: Istio `networking.istio.io/v1`.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use meshwork_model::mesh::{
    EntryEndpoint, EntryPort, EntryProtocol, Labels, Protocol, Resolution, ServiceEntry,
};
use meshwork_model::problem::Code;
use meshwork_model::proxy::{Locality, ZONE};

use super::istio::{at_most, export};
use super::metadata::{Metadata, is_label};
use super::reader::{Fields, Item, Report, Text};

/// What `protocol` may say, in either case. Source: Istio `protocol.Parse`.
const PROTOCOLS: &[(&str, EntryProtocol)] = &[
    ("HTTP", EntryProtocol::Plain(Protocol::Http)),
    ("HTTP2", EntryProtocol::Plain(Protocol::Http2)),
    ("GRPC", EntryProtocol::Plain(Protocol::Grpc)),
    ("TCP", EntryProtocol::Plain(Protocol::Tcp)),
    ("HTTPS", EntryProtocol::Tls),
    ("TLS", EntryProtocol::Tls),
];

/// The most hosts, ports and endpoints of one entry: each host has a listener for each port.
const MAX_ITEMS: usize = 100;
/// The largest weight of an endpoint.
const MAX_WEIGHT: i64 = 1_000_000;
/// The longest name. Source: RFC 1035 §2.3.4.
const MAX_NAME_BYTES: usize = 253;

/// Reads `spec`.
pub(crate) fn read(
    root: &mut Fields<'_>,
    metadata: &Metadata,
    report: &mut Report<'_>,
) -> Option<ServiceEntry> {
    let mut spec = root.required(report, "spec")?.fields(report)?;
    let hosts = some(&mut spec, report, "hosts", host);
    let ports = some(&mut spec, report, "ports", port);
    let ports = ports.filter(|ports| are_distinct(ports, &spec, report));
    if let Some(location) = spec.text(report, "location") {
        // Each endpoint says by its service account whether it is one of the mesh.
        location.one_of(report, &[("MESH_EXTERNAL", ()), ("MESH_INTERNAL", ())], &[]);
    }
    let resolution = resolution(&mut spec, ports.as_deref().unwrap_or_default(), report);
    let export = export(&mut spec, &metadata.key.namespace, report);
    let names = spec.list(report, "subjectAltNames").unwrap_or_default();
    at_most(&names, MAX_ITEMS, report);
    let names = names.iter().take(MAX_ITEMS);
    let names = names.filter_map(|item| item.text(report)).map(|text| text.value.into()).collect();
    spec.unheeded(report, &["addresses"], "The hosts are found by name");
    spec.close(report);
    Some(ServiceEntry { hosts: hosts?, ports: ports?, resolution: resolution?, export, names })
}

/// A list of at least one; `None` where anything about it is wrong.
fn some<T>(
    fields: &mut Fields<'_>,
    report: &mut Report<'_>,
    name: &'static str,
    read: fn(&Item<'_>, &mut Report<'_>) -> Option<T>,
) -> Option<Vec<T>> {
    let place = fields.required(report, name)?.node.place;
    let items = fields.list(report, name)?;
    if !(1..=MAX_ITEMS).contains(&items.len()) {
        let message = format!("expected 1 to {MAX_ITEMS} of them, found {}", items.len());
        report.error(&fields.path_of(name), place, message, "");
        return None;
    }
    let read: Vec<Option<T>> = items.iter().map(|item| read(item, report)).collect();
    read.into_iter().collect()
}

fn host(item: &Item<'_>, report: &mut Report<'_>) -> Option<Arc<str>> {
    let text = item.text(report)?;
    let refuse = |report: &mut Report<'_>, message: &str, fix: &str| {
        text.error(report, format!("\"{}\" {message}", text.value), fix);
        None
    };
    if text.value.contains('*') {
        return refuse(report, "has a wildcard, which is not supported yet", "Name each host");
    }
    if !is_full_name(text.value) {
        return refuse(
            report,
            "is not the full name of a host",
            "Write it in lowercase with its domain, without a dot at the end: api.example.com",
        );
    }
    if text.value.ends_with(&format!(".{ZONE}")) {
        return refuse(report, "is within the mesh, not outside", "Write a Service for it");
    }
    Some(text.value.into())
}

/// Whether a text is a host's name with a domain. An address is none: its last label is a number.
fn is_full_name(text: &str) -> bool {
    let numeric = text.rsplit('.').next().is_some_and(|last| last.bytes().all(|b| b.is_ascii_digit()));
    text.len() <= MAX_NAME_BYTES && text.contains('.') && !numeric && text.split('.').all(is_label)
}

fn port(item: &Item<'_>, report: &mut Report<'_>) -> Option<EntryPort> {
    let mut fields = item.fields(report)?;
    let name = fields.required_text(report, "name");
    let number = fields.required(report, "number").and_then(|_| fields.port(report, "number"));
    let target_port = fields.port(report, "targetPort");
    let protocol = fields.required_text(report, "protocol");
    let protocol = protocol.and_then(|text| text.one_of_any_case(report, PROTOCOLS, &["MONGO"]));
    fields.close(report);
    let number = number?;
    Some(EntryPort {
        name: name?.value.into(),
        number,
        target_port: target_port.unwrap_or(number),
        protocol: protocol?,
    })
}

fn are_distinct(ports: &[EntryPort], spec: &Fields<'_>, report: &mut Report<'_>) -> bool {
    let same = |a: &EntryPort, b: &EntryPort| a.number == b.number || a.name == b.name;
    let twice = ports.iter().enumerate().find(|(i, port)| ports[..*i].iter().any(|p| same(p, port)));
    if let Some((i, _)) = twice {
        let message = "another port has the same number or name";
        report.error(
            &format!("{}[{i}]", spec.path_of("ports")),
            spec.place_of("ports"),
            message,
            "Change one of them",
        );
    }
    twice.is_none()
}

/// Where a host really is. Nothing said is what Istio calls NONE: wherever the program sends it. Here that is the host's
/// virtual address, so the proxy asks where the host is.
fn resolution(spec: &mut Fields<'_>, ports: &[EntryPort], report: &mut Report<'_>) -> Option<Resolution> {
    let said = spec.text(report, "resolution");
    let honoured = [("DNS", true), ("DNS_ROUND_ROBIN", true), ("STATIC", false), ("NONE", true)];
    let is_dns = match &said {
        Some(text) => text.one_of(report, &honoured, &["DYNAMIC_DNS"]),
        None => Some(true),
    };
    if said.as_ref().is_none_or(|text| text.value == "NONE") {
        let (path, place) =
            (spec.path_of("resolution"), said.as_ref().map_or(spec.place(), |text| text.place));
        let message = "the host is asked for by DNS, wherever the program connects by itself";
        report.warning(&path, place, message, "Write resolution: DNS");
    }
    let place = spec.place();
    let selector = selector(spec, is_dns == Some(true), report);
    let items = spec.list(report, "endpoints").unwrap_or_default();
    let path = spec.path_of("endpoints");
    if is_dns? {
        at_most(&items, MAX_ITEMS, report);
        let read: Vec<Option<_>> =
            items.iter().take(MAX_ITEMS).map(|item| endpoint(item, ports, report, name_of_host)).collect();
        return read.into_iter().collect::<Option<Vec<_>>>().map(Resolution::Dns);
    }
    if spec.optional("workloadSelector").is_some() {
        if let Some(item) = items.first() {
            let message = "of `endpoints` and `workloadSelector` there is one";
            report.error_of(Code::Conflict, &item.path, item.node.place, message, "Leave the other out");
        }
        return selector.map(Resolution::Workloads);
    }
    if !(1..=MAX_ITEMS).contains(&items.len()) {
        let message = format!("STATIC asks for 1 to {MAX_ITEMS} endpoints, found {}", items.len());
        report.error(&path, place, message, "Give the host's addresses");
        return None;
    }
    let read: Vec<Option<_>> = items.iter().map(|item| endpoint(item, ports, report, ip)).collect();
    read.into_iter().collect::<Option<Vec<_>>>().map(Resolution::Static)
}

/// Reads `workloadSelector.labels`.
fn selector(spec: &mut Fields<'_>, is_dns: bool, report: &mut Report<'_>) -> Option<Labels> {
    let mut fields = spec.mapping(report, "workloadSelector")?;
    fields.required(report, "labels");
    let labels = fields.labels(report, "labels");
    let (place, path) = (fields.place(), fields.path_of("labels"));
    fields.close(report);
    if labels.as_ref().is_some_and(Labels::is_empty) {
        report.error_of(Code::MissingField, &path, place, "no label is named", "Name those of the workloads");
        return None;
    }
    if is_dns {
        let message = "workloads are found by their labels, not by DNS";
        report.error_of(Code::Conflict, &path, place, message, "Use resolution: STATIC");
    }
    labels
}

fn name_of_host(text: &Text<'_>, report: &mut Report<'_>) -> Option<Arc<str>> {
    let name = text.value.to_ascii_lowercase();
    let is_host = name.len() <= MAX_NAME_BYTES && name.split('.').all(is_label);
    if !is_host && name.parse::<IpAddr>().is_err() {
        text.error(report, format!("\"{}\" is not the name of a host", text.value), "");
        return None;
    }
    Some(name.into())
}

pub(super) fn ip(text: &Text<'_>, report: &mut Report<'_>) -> Option<IpAddr> {
    let ip = text.value.parse().ok();
    if ip.is_none() {
        text.error(
            report,
            format!("\"{}\" is not an IP address", text.value),
            "For a name, use resolution: DNS",
        );
    }
    ip
}

fn endpoint<A>(
    item: &Item<'_>,
    ports: &[EntryPort],
    report: &mut Report<'_>,
    address: fn(&Text<'_>, &mut Report<'_>) -> Option<A>,
) -> Option<EntryEndpoint<A>> {
    let mut fields = item.fields(report)?;
    let endpoint = endpoint_fields(&mut fields, report, address);
    let place = fields.place();
    let path = fields.path_of("ports");
    fields.close(report);
    let endpoint = endpoint?;
    if let Some(name) = endpoint.ports.keys().find(|name| !ports.iter().any(|port| port.name == **name)) {
        let message = format!("the entry has no port named \"{name}\"");
        report.error(&format!("{path}.{name}"), place, message, "Use a name of spec.ports");
    }
    Some(endpoint)
}

/// The fields of an endpoint, which are those of a WorkloadEntry.
pub(super) fn endpoint_fields<A>(
    fields: &mut Fields<'_>,
    report: &mut Report<'_>,
    address: fn(&Text<'_>, &mut Report<'_>) -> Option<A>,
) -> Option<EntryEndpoint<A>> {
    let address = fields.required_text(report, "address").and_then(|text| address(&text, report));
    let ports = fields.mapping(report, "ports").map(|mapping| mapping.ports(report)).unwrap_or_default();
    let ports: BTreeMap<Arc<str>, u16> = ports.into_iter().map(|(name, port)| (name.into(), port)).collect();
    let labels = fields.labels(report, "labels").unwrap_or_default();
    let account = fields.text(report, "serviceAccount").filter(|text| !text.value.is_empty());
    let account = account.filter(|text| {
        let good = is_label(text.value);
        if !good {
            text.error(report, format!("\"{}\" is not a name", text.value), "");
        }
        good
    });
    let weight = fields.integer(report, "weight", 0..=MAX_WEIGHT).and_then(|n| u32::try_from(n).ok());
    let locality = fields.text(report, "locality").map(|text| locality(text.value)).unwrap_or_default();
    fields.unheeded(report, &["network"], "All addresses are called directly");
    let account = account.map(|text| text.value.into());
    Some(EntryEndpoint {
        address: address?,
        ports,
        labels,
        account,
        weight: weight.unwrap_or(1).max(1),
        locality,
    })
}

/// `region/zone/sub-zone`
fn locality(text: &str) -> Locality {
    let mut parts = text.splitn(3, '/').map(Into::into);
    let mut next = || parts.next().unwrap_or_default();
    Locality { region: next(), zone: next(), sub_zone: next() }
}
