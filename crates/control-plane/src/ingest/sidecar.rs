//! Sidecar: what the proxies of some workloads, or of all, know of the mesh and may reach outside. Source: Istio
//! `networking.istio.io/v1`.

use std::sync::Arc;

use meshwork_model::mesh::{
    Config, Labels, OutsidePolicy, SeenHosts, SeenName, SeenNamespace, Sidecar, Target,
};

use super::istio::{at_most, full_name, target};
use super::metadata::Metadata;
use super::reader::{Fields, Item, Report};
use super::references::{Reference, Referred};

/// The most hosts of one resource; each is looked at for each service of the mesh.
const MAX_HOSTS: usize = 500;
/// What `outboundTrafficPolicy.mode` may say.
pub(super) const OUTSIDE_MODES: [(&str, OutsidePolicy); 2] =
    [("ALLOW_ANY", OutsidePolicy::Allow), ("REGISTRY_ONLY", OutsidePolicy::Deny)];

/// Reads `spec`; one that says nothing changes nothing.
pub(crate) fn read(
    root: &mut Fields<'_>,
    metadata: &Metadata,
    report: &mut Report<'_>,
    references: &mut Vec<Reference>,
) -> Option<Sidecar> {
    let nothing = Sidecar { selector: Labels::new(), egress: None, outside: None };
    let Some(item) = root.optional("spec") else { return Some(nothing) };
    let mut spec = item.fields(report)?;
    let selector = spec.mapping(report, "workloadSelector").map(|mut fields| {
        let labels = fields.labels(report, "labels").unwrap_or_default();
        fields.close(report);
        labels
    });
    let selector = selector.unwrap_or_default();
    if selector.is_empty() {
        references.push(Reference::new(report, &item, Referred::OnlySidecar(metadata.key.clone())));
    }
    let egress = spec.list(report, "egress").map(|items| egress(&items, metadata, report));
    let outside = policy(&mut spec, report);
    spec.not_yet(report, &["ingress"], "A workload says its ports when it enrols");
    spec.unheeded(report, &["inboundConnectionPool"], "");
    spec.close(report);
    Some(Sidecar { selector, egress, outside })
}

fn egress(items: &[Item<'_>], metadata: &Metadata, report: &mut Report<'_>) -> Vec<SeenHosts> {
    let mut seen = Vec::new();
    for item in items {
        let Some(mut fields) = item.fields(report) else { continue };
        let port = fields.mapping(report, "port").and_then(|mut port| {
            let number = port.port(report, "number");
            port.skip(&["protocol", "name", "targetPort"]);
            port.close(report);
            number
        });
        fields.required(report, "hosts");
        let hosts = fields.list(report, "hosts").unwrap_or_default();
        at_most(&hosts, MAX_HOSTS, report);
        for item in hosts.iter().take(MAX_HOSTS) {
            seen.extend(hosts_of(item, metadata, report).map(|(namespace, name)| SeenHosts {
                namespace,
                name,
                port,
            }));
        }
        fields.not_yet(report, &["bind"], "Every service has an address of its own");
        fields.unheeded(
            report,
            &["captureMode"],
            "How traffic reaches the proxy is said where it is started",
        );
        fields.close(report);
    }
    seen
}

/// `namespace/name`, each of which may be `*`.
fn hosts_of(
    item: &Item<'_>,
    metadata: &Metadata,
    report: &mut Report<'_>,
) -> Option<(SeenNamespace, SeenName)> {
    let text = item.text(report)?;
    let Some((namespace, name)) = text.value.split_once('/') else {
        let fix = "Write it as `./*`, `*/*`, `NAMESPACE/*` or `NAMESPACE/NAME`";
        text.error(report, format!("\"{}\" names no namespace", text.value), fix);
        return None;
    };
    let namespace = match namespace {
        "*" => SeenNamespace::Any,
        "." => SeenNamespace::Own,
        "~" => SeenNamespace::Nobody,
        other => SeenNamespace::One(other.into()),
    };
    let name = match name.strip_prefix('*') {
        Some("") => SeenName::Any,
        Some(end) => SeenName::Below(end.to_ascii_lowercase().into()),
        None => {
            let of = match &namespace {
                SeenNamespace::One(one) => Arc::clone(one),
                _ => Arc::clone(&metadata.key.namespace),
            };
            let target: Target = target(name, &of);
            SeenName::One(full_name(&target).into())
        }
    };
    Some((namespace, name))
}

fn policy(spec: &mut Fields<'_>, report: &mut Report<'_>) -> Option<OutsidePolicy> {
    let mut fields = spec.mapping(report, "outboundTrafficPolicy")?;
    // Istio's own default for this field, unlike that of the mesh, is REGISTRY_ONLY: it is to be said.
    let mode = fields.required_text(report, "mode").and_then(|text| text.one_of(report, &OUTSIDE_MODES, &[]));
    fields.not_yet(report, &["egressProxy"], "Leave it out");
    fields.close(report);
    mode
}

/// Puts down what holds for the mesh: its own Sidecar says so, else its MeshConfig.
pub(crate) fn settle(config: &mut Config) {
    let own = config
        .sidecars
        .iter()
        .find(|(key, sidecar)| &*key.namespace == crate::SYSTEM_NAMESPACE && sidecar.selector.is_empty());
    let said = own.and_then(|(_, sidecar)| sidecar.outside).or(config.defaults.outside);
    config.outside = said.unwrap_or_default();
}
