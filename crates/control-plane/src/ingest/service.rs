//! `v1/Service`. Source: Kubernetes API, `Service`.

use meshwork_model::mesh::{Protocol, Service, ServicePort};
use meshwork_model::problem::Code;

use super::reader::{Fields, Item, Report};
use super::words::list;

/// What `appProtocol` may say, and what is spoken then. TLS that the application itself ends is bytes to us.
const APP_PROTOCOLS: &[(&str, Protocol)] = &[
    ("http", Protocol::Http),
    ("http2", Protocol::Http2),
    ("kubernetes.io/h2c", Protocol::Http2),
    ("grpc", Protocol::Grpc),
    // Over HTTP/1.1, as browsers do.
    ("grpc-web", Protocol::Http),
    ("kubernetes.io/ws", Protocol::Http),
    ("kubernetes.io/wss", Protocol::Tcp),
    ("tcp", Protocol::Tcp),
    ("https", Protocol::Tcp),
    ("tls", Protocol::Tcp),
    ("mongo", Protocol::Tcp),
    ("mysql", Protocol::Tcp),
    ("redis", Protocol::Tcp),
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

/// Fields without which a service means the same within the mesh.
const UNHEEDED: &[&str] = &[
    "externalIPs",
    "externalTrafficPolicy",
    "healthCheckNodePort",
    "loadBalancerClass",
    "loadBalancerIP",
    "loadBalancerSourceRanges",
    "sessionAffinityConfig",
    "trafficDistribution",
];

/// The most ports of a service; each is compared with each.
const MAX_PORTS: usize = 1_000;

/// Reads `spec`.
pub(crate) fn read(root: &mut Fields<'_>, report: &mut Report<'_>) -> Option<Service> {
    let mut spec = root.required(report, "spec")?.fields(report)?;
    let is_outside = kind(&mut spec, report) == Some(Reach::Outside);
    let selector = spec.labels(report, "selector").unwrap_or_default();
    if is_outside {
        spec.skip(&["externalName", "ports"]);
    } else {
        spec.not_yet(report, &["externalName"], "Write a ServiceEntry for a host outside the mesh");
    }
    let ports = if is_outside { Vec::new() } else { ports(&mut spec, report) };
    if let Some(affinity) = spec.text(report, "sessionAffinity")
        && affinity.one_of(report, &[("None", false), ("ClientIP", true)], &[]) == Some(true)
    {
        let message = "clients are not kept with one endpoint: what they call is balanced anew each time";
        affinity.warning(report, message, "Balance by a hash of the source address in a DestinationRule");
    }
    if let Some(policy) = spec.text(report, "internalTrafficPolicy")
        && policy.one_of(report, &[("Cluster", false), ("Local", true)], &[]) == Some(true)
    {
        policy.warning(report, "endpoints of other nodes are called, too", "");
    }
    spec.skip(INFORMATIVE);
    spec.unheeded(report, UNHEEDED, "");
    spec.close(report);
    (!is_outside).then_some(Service { ports, selector })
}

/// From where a service is called.
#[derive(Clone, Copy, PartialEq)]
enum Reach {
    Mesh,
    /// From outside, too.
    Everywhere,
    /// It is a name for a host outside.
    Outside,
}

fn kind(spec: &mut Fields<'_>, report: &mut Report<'_>) -> Option<Reach> {
    let kinds = [
        ("ClusterIP", Reach::Mesh),
        ("NodePort", Reach::Everywhere),
        ("LoadBalancer", Reach::Everywhere),
        ("ExternalName", Reach::Outside),
    ];
    let text = spec.text(report, "type")?;
    let reach = text.one_of(report, &kinds, &[])?;
    match reach {
        Reach::Mesh => {}
        Reach::Everywhere => {
            let message = "the service is called within the mesh only";
            text.warning(report, message, "Let clients from outside in by a Gateway");
        }
        Reach::Outside => {
            let message = "the service is left out: it is a name for a host outside the mesh";
            text.warning(report, message, "Write a ServiceEntry for that host");
        }
    }
    Some(reach)
}

fn ports(spec: &mut Fields<'_>, report: &mut Report<'_>) -> Vec<ServicePort> {
    let Some(items) = spec.required(report, "ports").and_then(|_| spec.list(report, "ports")) else {
        return Vec::new();
    };
    if let Some(item) = items.get(MAX_PORTS) {
        let message = format!("a service has at most {MAX_PORTS} ports");
        report.error_of(Code::OverLimit, &item.path, item.node.place, message, "");
    }
    let mut ports: Vec<ServicePort> = Vec::new();
    let several = items.len() > 1;
    for item in items.iter().take(MAX_PORTS) {
        let Some((port, true)) = port(item, report) else { continue };
        if several && port.name.is_empty() {
            let message = "each port of a service with several has a name";
            report.error(&item.path, item.node.place, message, "");
        }
        for earlier in &ports {
            if earlier.port == port.port {
                let message = format!("the service has the port {} already", port.port);
                report.error_of(
                    Code::Duplicate,
                    &item.path,
                    item.node.place,
                    message,
                    "Leave one of them out",
                );
            } else if earlier.name == port.name && !port.name.is_empty() {
                let message = format!("the service has a port named \"{}\" already", port.name);
                report.error_of(
                    Code::Duplicate,
                    &item.path,
                    item.node.place,
                    message,
                    "Give it another name",
                );
            }
        }
        ports.push(port);
    }
    ports
}

/// A port, and whether the mesh carries what is spoken below.
fn port(item: &Item<'_>, report: &mut Report<'_>) -> Option<(ServicePort, bool)> {
    let mut fields = item.fields(report)?;
    let name = fields.text(report, "name").map_or("", |t| t.value);
    if fields.required(report, "port").is_none() {
        fields.skip(&["appProtocol", "protocol", "targetPort", "nodePort"]);
        fields.close(report);
        return None;
    }
    let port = fields.port(report, "port");
    let target = target(&mut fields, report);
    let is_carried = is_carried(&mut fields, report);
    let protocol = protocol(&mut fields, name, report);
    fields.skip(&["nodePort"]);
    fields.close(report);
    let port = port?;
    let (target_port, is_named_target) = match target {
        Target::Same => (port, false),
        Target::Number(number) => (number, false),
        Target::Named => (port, true),
    };
    let port = ServicePort { name: name.into(), port, target_port, is_named_target, protocol };
    Some((port, is_carried))
}

/// Whether the mesh carries what is spoken below.
fn is_carried(fields: &mut Fields<'_>, report: &mut Report<'_>) -> bool {
    let Some(text) = fields.text(report, "protocol") else { return true };
    let carried = text.one_of(report, &[("TCP", true), ("UDP", false), ("SCTP", false)], &[]);
    if carried == Some(false) {
        let message = format!("the port is left out: {} is not carried by the mesh", text.value);
        text.warning(report, message, "");
    }
    carried != Some(false)
}

enum Target {
    /// The service's own number.
    Same,
    Number(u16),
    /// A port of the container, by its name.
    Named,
}

fn target(fields: &mut Fields<'_>, report: &mut Report<'_>) -> Target {
    match fields.optional("targetPort") {
        None => Target::Same,
        Some(item) if item.is_text() => Target::Named,
        Some(_) => fields.port(report, "targetPort").map_or(Target::Same, Target::Number),
    }
}

/// What is spoken: `appProtocol`, else the name up to its first `-`, else bytes. Source: Istio, "Protocol Selection".
fn protocol(fields: &mut Fields<'_>, name: &str, report: &mut Report<'_>) -> Protocol {
    if let Some(text) = fields.text(report, "appProtocol") {
        let found = APP_PROTOCOLS.iter().find(|(name, _)| name.eq_ignore_ascii_case(text.value));
        if found.is_none() {
            let names: Vec<&str> = APP_PROTOCOLS.iter().map(|(name, _)| *name).collect();
            let message = format!("\"{}\" is carried as bytes", text.value);
            text.warning(report, message, format!("Known are {}", list(&names)));
        }
        return found.map_or(Protocol::Tcp, |(_, protocol)| *protocol);
    }
    let is_prefix = |protocol: &str| {
        name.strip_prefix(protocol).is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
    };
    // The longest: `grpc-web` is not `grpc`.
    let found = APP_PROTOCOLS.iter().filter(|(name, _)| is_prefix(name)).max_by_key(|(name, _)| name.len());
    found.map_or(Protocol::Tcp, |(_, protocol)| *protocol)
}
