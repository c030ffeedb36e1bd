//! What a node is to those that it calls.

use std::sync::Arc;

use meshwork_model::mesh::{Config, Labels, Workload};
use meshwork_xds::Dialect;

use super::Mesh;

/// What a node is as a caller: all of it that the routes and clusters of what it calls depend on. Nodes that are the
/// same callers share them.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Caller {
    pub(crate) dialect: Dialect,
    pub(crate) namespace: Arc<str>,
    /// Its labels; empty where no config asks for those of callers ([`asks_for_labels`]).
    pub(crate) labels: Arc<Labels>,
}

impl Caller {
    pub(crate) fn of(mesh: &Mesh, node: &Workload, dialect: Dialect) -> Self {
        let labels = if mesh.asks_for_labels { node.labels.clone() } else { Labels::new() };
        Self { dialect, namespace: Arc::clone(&node.key.namespace), labels: Arc::new(labels) }
    }
}

/// Whether any config acts on callers by their labels.
pub(super) fn asks_for_labels(config: &Config) -> bool {
    let matches = config.routes.values().flat_map(|route| &route.rules).flat_map(|rule| &rule.matches);
    let connections = config.connection_routes.values().flat_map(|route| &route.rules);
    matches.into_iter().any(|one| !one.source_labels.is_empty())
        || connections.into_iter().any(|rule| !rule.source_labels.is_empty())
        || config.destination_rules.values().any(|rule| !rule.selector.is_empty())
}
