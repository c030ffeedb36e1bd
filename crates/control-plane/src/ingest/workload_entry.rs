//! WorkloadEntry: the address of a workload that has not enrolled. Source: Istio `networking.istio.io/v1`.

use std::net::IpAddr;

use meshwork_model::mesh::EntryEndpoint;
use meshwork_model::problem::Code;

use super::reader::{Fields, Report};
use super::service_entry::{endpoint_fields, ip};

/// Reads `spec`.
pub(crate) fn read(root: &mut Fields<'_>, report: &mut Report<'_>) -> Option<EntryEndpoint<IpAddr>> {
    let mut spec = root.required(report, "spec")?.fields(report)?;
    let endpoint = endpoint_fields(&mut spec, report, ip);
    if endpoint.as_ref().is_some_and(|endpoint| endpoint.labels.is_empty()) {
        let message = "it has no label, so that no Service and no ServiceEntry selects it";
        let fix = "Give it the labels that they select by";
        report.warning_of(
            Code::SelectsNothing,
            &spec.path_of("labels"),
            spec.place_of("labels"),
            message,
            fix,
        );
    }
    spec.close(report);
    endpoint
}
