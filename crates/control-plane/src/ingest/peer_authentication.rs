//! PeerAuthentication. Source: Istio `security.istio.io/v1`.

use std::collections::BTreeMap;

use meshwork_model::mesh::{MtlsMode, PeerAuthentication};

use super::policy_target::selector;
use super::reader::{Fields, Item, Report};
use super::yaml::Value;

/// What a mode says; `None` leaves it to what stands above.
const MODES: &[(&str, Option<MtlsMode>)] = &[
    ("STRICT", Some(MtlsMode::Strict)),
    ("PERMISSIVE", Some(MtlsMode::Permissive)),
    ("DISABLE", Some(MtlsMode::Disable)),
    ("UNSET", None),
];

/// Reads `spec`; a resource that says nothing leaves everything as it is.
pub(crate) fn read(root: &mut Fields<'_>, report: &mut Report<'_>) -> Option<PeerAuthentication> {
    let Some(item) = root.optional("spec") else { return Some(PeerAuthentication::default()) };
    let mut spec = item.fields(report)?;
    let selector = selector(&mut spec, report);
    let mode = match spec.optional("mtls") {
        Some(item) => mode(&item, report),
        None => Ok(None),
    };
    let ports = spec.optional("portLevelMtls");
    let modes = ports.as_ref().map(|item| port_modes(item, report)).unwrap_or_default();
    if let (Some(item), Some(true)) = (ports, selector.as_ref().map(BTreeMap::is_empty)) {
        let message = "ports are of workloads, and none are selected";
        report.error(&item.path, item.node.place, message, "Select workloads by `selector`");
    }
    spec.close(report);
    Some(PeerAuthentication { selector: selector?, mode: mode.ok()?, ports: modes })
}

/// What is wrong, and was reported.
struct Wrong;

fn mode(item: &Item<'_>, report: &mut Report<'_>) -> Result<Option<MtlsMode>, Wrong> {
    let mut fields = item.fields(report).ok_or(Wrong)?;
    let mode = match fields.text(report, "mode") {
        Some(text) => text.one_of(report, MODES, &[]).ok_or(Wrong),
        None => Ok(None),
    };
    fields.close(report);
    mode
}

fn port_modes(item: &Item<'_>, report: &mut Report<'_>) -> BTreeMap<u16, MtlsMode> {
    let Some(fields) = item.fields(report) else { return BTreeMap::new() };
    let mut modes = BTreeMap::new();
    for (key, item) in fields.entries() {
        let port = match &key.value {
            Value::Integer(port) => u16::try_from(*port).ok(),
            Value::Text(text) => text.parse().ok(),
            _ => None,
        };
        let Some(port @ 1..) = port else {
            let message = "expected a port from 1 to 65535";
            report.error(&item.path, key.place, message, "Write the workload's port, as `8080:`");
            continue;
        };
        // UNSET leaves the port to the workload.
        modes.extend(mode(&item, report).ok().flatten().map(|mode| (port, mode)));
    }
    modes
}
