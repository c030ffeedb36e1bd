//! ServiceEntry: hosts outside the mesh. Source: Istio `networking.istio.io/v1`.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use meshwork_model::mesh::{EntryEndpoint, EntryPort, EntryProtocol, Protocol, Resolution, ServiceEntry};
use meshwork_model::proxy::ZONE;

use super::metadata::is_label;
use super::reader::{Fields, Item, Report, Text};

/// What `protocol` may say.
const PROTOCOLS: &[(&str, EntryProtocol)] = &[
    ("HTTP", EntryProtocol::Plain(Protocol::Http)),
    ("HTTP2", EntryProtocol::Plain(Protocol::Http2)),
    ("GRPC", EntryProtocol::Plain(Protocol::Grpc)),
    ("TCP", EntryProtocol::Plain(Protocol::Tcp)),
    ("HTTPS", EntryProtocol::Tls),
    ("TLS", EntryProtocol::Tls),
];
const NOT_YET: &[&str] = &["addresses", "exportTo", "subjectAltNames", "workloadSelector"];
const ENDPOINT_NOT_YET: &[&str] = &["labels", "locality", "network", "serviceAccount", "weight"];

/// The most hosts, ports and endpoints of one entry: each host has a listener for each port.
const MAX_ITEMS: usize = 100;
/// The longest name. Source: RFC 1035 §2.3.4.
const MAX_NAME_BYTES: usize = 253;

/// Reads `spec`.
pub(crate) fn read(root: &mut Fields<'_>, report: &mut Report<'_>) -> Option<ServiceEntry> {
    let mut spec = root.required(report, "spec")?.fields(report)?;
    let hosts = some(&mut spec, report, "hosts", host);
    let ports = some(&mut spec, report, "ports", port);
    let ports = ports.filter(|ports| are_distinct(ports, &spec, report));
    if let Some(location) = spec.text(report, "location") {
        location.one_of(report, &[("MESH_EXTERNAL", ())], &["MESH_INTERNAL"]);
    }
    let resolution = resolution(&mut spec, ports.as_deref().unwrap_or_default(), report);
    spec.not_yet(report, NOT_YET, "Leave it out");
    spec.close(report);
    Some(ServiceEntry { hosts: hosts?, ports: ports?, resolution: resolution? })
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
    let protocol = protocol.and_then(|text| text.one_of(report, PROTOCOLS, &["MONGO"]));
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
        report.error(&format!("{}[{i}]", spec.path_of("ports")), spec.place(), message, "Change one of them");
    }
    twice.is_none()
}

/// Where a host really is. Nothing said is what Istio calls NONE: wherever the program sends it, which could be elsewhere.
fn resolution(spec: &mut Fields<'_>, ports: &[EntryPort], report: &mut Report<'_>) -> Option<Resolution> {
    let said = spec.required_text(report, "resolution");
    let not_yet = &["NONE", "DNS_ROUND_ROBIN", "DYNAMIC_DNS"];
    let is_dns = said.as_ref()?.one_of(report, &[("DNS", true), ("STATIC", false)], not_yet);
    let place = spec.place();
    let items = spec.list(report, "endpoints").unwrap_or_default();
    let path = spec.path_of("endpoints");
    if is_dns? {
        return match &items[..] {
            [] => Some(Resolution::Dns(None)),
            [one] => {
                Some(Resolution::Dns(Some(endpoint(one, ports, report, |text, _| Some(text.value.into()))?)))
            }
            [_, second, ..] => {
                let message = "several endpoints by DNS are not supported yet";
                report.error(&second.path, second.node.place, message, "Leave one, or none: the host itself");
                None
            }
        };
    }
    if !(1..=MAX_ITEMS).contains(&items.len()) {
        let message = format!("STATIC asks for 1 to {MAX_ITEMS} endpoints, found {}", items.len());
        report.error(&path, place, message, "Give the host's addresses");
        return None;
    }
    let read: Vec<Option<_>> = items.iter().map(|item| endpoint(item, ports, report, ip)).collect();
    read.into_iter().collect::<Option<Vec<_>>>().map(Resolution::Static)
}

fn ip(text: &Text<'_>, report: &mut Report<'_>) -> Option<IpAddr> {
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
    let address = fields.required_text(report, "address").and_then(|text| address(&text, report));
    let mut named = BTreeMap::new();
    if let Some(mapping) = fields.mapping(report, "ports") {
        for port in mapping.ports(report) {
            if ports.iter().any(|p| *p.name == *port.0) {
                named.insert(port.0.into(), port.1);
            } else {
                let message = format!("the entry has no port named \"{}\"", port.0);
                report.error(&mapping.path_of(port.0), mapping.place(), message, "Use a name of spec.ports");
            }
        }
    }
    fields.not_yet(report, ENDPOINT_NOT_YET, "Leave it out");
    fields.close(report);
    Some(EntryEndpoint { address: address?, ports: named })
}
