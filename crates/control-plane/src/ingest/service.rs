//! `v1/Service`. Source: Kubernetes API, `Service`.

use meshwork_model::mesh::{Protocol, Service, ServicePort};

use super::reader::{Fields, Item, Report};
use super::words::list;
use super::yaml::Value;

/// What `appProtocol` may say, and what is spoken then. TLS that the application itself ends is bytes to us.
const APP_PROTOCOLS: &[(&str, Protocol)] = &[
    ("http", Protocol::Http),
    ("http2", Protocol::Http2),
    ("kubernetes.io/h2c", Protocol::Http2),
    ("grpc", Protocol::Grpc),
    ("tcp", Protocol::Tcp),
    ("https", Protocol::Tcp),
    ("tls", Protocol::Tcp),
];

/// Fields that say what is so anyway in a mesh: names resolve to workloads, not to addresses of the cluster.
const INFORMATIVE: &[&str] = &[
    "allocateLoadBalancerNodePorts",
    "clusterIP",
    "clusterIPs",
    "ipFamilies",
    "ipFamilyPolicy",
    "publishNotReadyAddresses",
];

/// The most ports of a service; each is compared with each.
const MAX_PORTS: usize = 1_000;

const NOT_YET: &[&str] = &[
    "externalIPs",
    "externalName",
    "externalTrafficPolicy",
    "healthCheckNodePort",
    "loadBalancerClass",
    "loadBalancerIP",
    "loadBalancerSourceRanges",
    "sessionAffinityConfig",
    "trafficDistribution",
];

/// Reads `spec`.
pub(crate) fn read(root: &mut Fields<'_>, report: &mut Report<'_>) -> Option<Service> {
    let mut spec = root.required(report, "spec")?.fields(report)?;
    let selector = spec.labels(report, "selector").unwrap_or_default();
    if selector.is_empty() {
        let path = spec.path_of("selector");
        let message = "the service selects no workload";
        report.warning(&path, spec.place(), message, "Give it the labels of its workloads");
    }
    let ports = ports(&mut spec, report);
    if let Some(kind) = spec.text(report, "type") {
        kind.one_of(report, &[("ClusterIP", ())], &["NodePort", "LoadBalancer", "ExternalName"]);
    }
    if let Some(affinity) = spec.text(report, "sessionAffinity") {
        affinity.one_of(report, &[("None", ())], &["ClientIP"]);
    }
    if let Some(policy) = spec.text(report, "internalTrafficPolicy") {
        policy.one_of(report, &[("Cluster", ())], &["Local"]);
    }
    spec.skip(INFORMATIVE);
    spec.not_yet(report, NOT_YET, "");
    spec.close(report);
    Some(Service { ports, selector })
}

fn ports(spec: &mut Fields<'_>, report: &mut Report<'_>) -> Vec<ServicePort> {
    let Some(items) = spec.required(report, "ports").and_then(|_| spec.list(report, "ports")) else {
        return Vec::new();
    };
    if let Some(item) = items.get(MAX_PORTS) {
        report.error(&item.path, item.node.place, format!("a service has at most {MAX_PORTS} ports"), "");
    }
    let mut ports: Vec<ServicePort> = Vec::new();
    let several = items.len() > 1;
    for item in items.iter().take(MAX_PORTS) {
        let Some(port) = port(item, report) else { continue };
        if several && port.name.is_empty() {
            let message = "each port of a service with several has a name";
            report.error(&item.path, item.node.place, message, "");
        }
        for earlier in &ports {
            if earlier.port == port.port {
                let message = format!("the service has the port {} already", port.port);
                report.error(&item.path, item.node.place, message, "Leave one of them out");
            } else if earlier.name == port.name && !port.name.is_empty() {
                let message = format!("the service has a port named \"{}\" already", port.name);
                report.error(&item.path, item.node.place, message, "Give it another name");
            }
        }
        ports.push(port);
    }
    ports
}

fn port(item: &Item<'_>, report: &mut Report<'_>) -> Option<ServicePort> {
    let mut fields = item.fields(report)?;
    let name = fields.text(report, "name").map_or("", |t| t.value);
    if fields.required(report, "port").is_none() {
        fields.skip(&["appProtocol", "protocol", "targetPort", "nodePort"]);
        fields.close(report);
        return None;
    }
    let port = fields.port(report, "port");
    let target = target(&mut fields, report);
    let protocol = protocol(&mut fields, name, report);
    if let Some(transport) = fields.text(report, "protocol") {
        transport.one_of(report, &[("TCP", ())], &["UDP", "SCTP"]);
    }
    fields.skip(&["nodePort"]);
    fields.close(report);
    let port = port?;
    Some(ServicePort { name: name.into(), port, target_port: target.unwrap_or(port), protocol })
}

fn target(fields: &mut Fields<'_>, report: &mut Report<'_>) -> Option<u16> {
    let item = fields.optional("targetPort")?;
    if let Value::Text(name) = &item.node.value {
        let message = format!("the named target port \"{name}\" is not supported yet");
        report.error(&item.path, item.node.place, message, "Write the port's number");
        return None;
    }
    fields.port(report, "targetPort")
}

/// What is spoken: `appProtocol`, else the name up to its first `-`, else bytes. Source: Istio, "Protocol Selection".
fn protocol(fields: &mut Fields<'_>, name: &str, report: &mut Report<'_>) -> Protocol {
    if let Some(text) = fields.text(report, "appProtocol") {
        let found = APP_PROTOCOLS.iter().find(|(name, _)| name.eq_ignore_ascii_case(text.value));
        if found.is_none() {
            let names: Vec<&str> = APP_PROTOCOLS.iter().map(|(name, _)| *name).collect();
            let message = format!("the protocol \"{}\" is not supported yet", text.value);
            text.error(report, message, format!("Use {}", list(&names)));
        }
        return found.map_or(Protocol::Tcp, |(_, protocol)| *protocol);
    }
    let prefix = name.split('-').next().unwrap_or_default();
    let found = APP_PROTOCOLS.iter().find(|(name, _)| *name == prefix);
    found.map_or(Protocol::Tcp, |(_, protocol)| *protocol)
}
