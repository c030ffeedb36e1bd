//! ReferenceGrant: what other namespaces may refer to. Source: Gateway API v1.5.

use meshwork_model::mesh::{GrantFrom, GrantTo, ReferenceGrant};

use super::reader::{Fields, Report};
use super::route::limited;

/// The most entries of each list. Source: Gateway API, `ReferenceGrantSpec`.
const MAX_ENTRIES: usize = 16;

/// Reads `spec`.
pub(crate) fn read(root: &mut Fields<'_>, report: &mut Report<'_>) -> Option<ReferenceGrant> {
    let mut spec = root.required(report, "spec")?.fields(report)?;
    for name in ["from", "to"] {
        spec.required(report, name);
    }
    let mut from = Vec::new();
    for item in limited(&mut spec, report, "from", MAX_ENTRIES) {
        let Some(mut fields) = item.fields(report) else { continue };
        let group = fields.required_text(report, "group");
        let kind = fields.required_text(report, "kind");
        let namespace = fields.required_text(report, "namespace");
        fields.close(report);
        if let (Some(group), Some(kind), Some(namespace)) = (group, kind, namespace) {
            let (group, kind) = (group.value.into(), kind.value.into());
            from.push(GrantFrom { group, kind, namespace: namespace.value.into() });
        }
    }
    let mut to = Vec::new();
    for item in limited(&mut spec, report, "to", MAX_ENTRIES) {
        let Some(mut fields) = item.fields(report) else { continue };
        let group = fields.required_text(report, "group");
        let kind = fields.required_text(report, "kind");
        let name = fields.text(report, "name").map(|text| text.value.into());
        fields.close(report);
        if let (Some(group), Some(kind)) = (group, kind) {
            to.push(GrantTo { group: core(group.value).into(), kind: kind.value.into(), name });
        }
    }
    spec.close(report);
    Some(ReferenceGrant { from, to })
}

/// The core group, which people also write out.
fn core(group: &str) -> &str {
    if group == "core" { "" } else { group }
}
