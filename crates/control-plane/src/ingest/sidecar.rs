//! Sidecar, of which one is read: the mesh-wide one, for what captured workloads may reach outside. Source: Istio
//! `networking.istio.io/v1`.

use meshwork_model::mesh::OutsidePolicy;

use super::metadata::Metadata;
use super::reader::{Fields, Report};

/// The name of the one that is read, in the namespace of the control plane.
const NAME: &str = "default";
const NOT_YET: &[&str] = &["egress", "inboundConnectionPool", "ingress", "workloadSelector"];

/// Reads `spec`; one that says nothing allows everything, as the mesh does by itself.
pub(crate) fn read(
    root: &mut Fields<'_>,
    metadata: &Metadata,
    report: &mut Report<'_>,
) -> Option<OutsidePolicy> {
    let key = &metadata.key;
    let is_mesh_wide = *key.namespace == *crate::SYSTEM_NAMESPACE && &*key.name == NAME;
    if !is_mesh_wide {
        let message = "a Sidecar of some workloads is not supported yet";
        let fix = format!(
            "Name it `{NAME}` in the namespace `{}`: it acts on the whole mesh",
            crate::SYSTEM_NAMESPACE
        );
        report.error("metadata.name", metadata.place, message, fix);
    }
    let Some(item) = root.optional("spec") else { return Some(OutsidePolicy::Allow) };
    let mut spec = item.fields(report)?;
    let policy = policy(&mut spec, report);
    spec.not_yet(report, NOT_YET, "Leave it out");
    spec.close(report);
    policy
}

fn policy(spec: &mut Fields<'_>, report: &mut Report<'_>) -> Option<OutsidePolicy> {
    let Some(item) = spec.optional("outboundTrafficPolicy") else { return Some(OutsidePolicy::Allow) };
    let mut fields = item.fields(report)?;
    let modes = [("ALLOW_ANY", OutsidePolicy::Allow), ("REGISTRY_ONLY", OutsidePolicy::Deny)];
    // Istio's own default for this field, unlike that of the mesh, is REGISTRY_ONLY: it is to be said.
    let mode = fields.required_text(report, "mode").and_then(|text| text.one_of(report, &modes, &[]));
    fields.not_yet(report, &["egressProxy"], "Leave it out");
    fields.close(report);
    mode
}
