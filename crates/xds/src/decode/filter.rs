//! HTTP filters, which stand in one order.

use std::sync::Arc;

use meshwork_model::proxy::HttpFilter;

use super::{is, policy, unpack};
use crate::path::{Path, Problems};
use crate::pb;

/// Filters before the router, which must be the last one.
pub(super) fn filters(
    filters: &[pb::hcm::HttpFilter],
    at: &Path<'_>,
    problems: &mut Problems,
) -> Vec<HttpFilter> {
    use pb::hcm::http_filter::ConfigType::TypedConfig;
    let mut found = Vec::new();
    let mut routed = false;
    for (index, filter) in filters.iter().enumerate() {
        let at = at.index(index);
        let config = match &filter.config_type {
            Some(TypedConfig(any)) => Some(any),
            _ => None,
        };
        if routed {
            problems.error::<()>(&at, "the router must be the last filter", "");
        } else if config.is_some_and(is::<pb::Router>) {
            routed = true;
        } else if let Some(message) = config.and_then(unpack::<pb::HttpRbac>) {
            let typed = at.field("typed_config");
            let rules = message.rules.as_ref();
            let rbac = rules.and_then(|rules| policy::rbac(rules, &typed.field("rules"), problems));
            found.extend(rbac.map(Arc::new).map(HttpFilter::Rbac));
        } else if !filter.is_optional {
            problems.error::<()>(&at, "this HTTP filter is not supported", "only rbac and router are");
        }
    }
    if !routed {
        problems.error::<()>(at, "the router is missing", "end with `envoy.filters.http.router`");
    }
    found
}
