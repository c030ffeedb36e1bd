//! PeerAuthentication. Source: Istio `security.istio.io/v1`.

use meshwork_model::mesh::{Labels, MtlsMode, PeerAuthentication};

use super::reader::{Fields, Report};

/// Reads `spec`; a resource that says nothing demands mTLS, as the mesh does by itself.
pub(crate) fn read(root: &mut Fields<'_>, report: &mut Report<'_>) -> Option<PeerAuthentication> {
    let Some(item) = root.optional("spec") else {
        return Some(PeerAuthentication { selector: Labels::new(), mode: MtlsMode::Strict });
    };
    let mut spec = item.fields(report)?;
    let selector = selector(&mut spec, report);
    let mode = mode(&mut spec, report);
    spec.not_yet(report, &["portLevelMtls"], "");
    spec.close(report);
    Some(PeerAuthentication { selector: selector?, mode: mode? })
}

fn mode(spec: &mut Fields<'_>, report: &mut Report<'_>) -> Option<MtlsMode> {
    let Some(item) = spec.optional("mtls") else { return Some(MtlsMode::Strict) };
    let mut fields = item.fields(report)?;
    let modes = [("STRICT", MtlsMode::Strict), ("DISABLE", MtlsMode::Disable)];
    let mode = match fields.text(report, "mode") {
        Some(text) => text.one_of(report, &modes, &["PERMISSIVE", "UNSET"]),
        None => Some(MtlsMode::Strict),
    };
    fields.close(report);
    mode
}

/// Reads `selector.matchLabels`; absent or empty selects every workload of the namespace.
pub(crate) fn selector(spec: &mut Fields<'_>, report: &mut Report<'_>) -> Option<Labels> {
    let Some(item) = spec.optional("selector") else { return Some(Labels::new()) };
    let mut fields = item.fields(report)?;
    let labels = fields.labels(report, "matchLabels").unwrap_or_default();
    fields.close(report);
    Some(labels)
}
