//! What is told of requests: Istio's Telemetry.

use super::Labels;
use crate::proxy::LogFilter;

/// What the proxies of some workloads tell. Source: Istio `telemetry.istio.io/v1` Telemetry.
#[derive(Clone, Debug, PartialEq)]
pub struct Telemetry {
    /// Labels that the workload must have; empty takes all of the namespace, or of the mesh.
    pub selector: Labels,
    /// Access logs; `None` where nothing is said of them.
    pub logs: Option<LogTerms>,
}

/// Access logs.
#[derive(Clone, Debug, PartialEq)]
pub struct LogTerms {
    /// Of requests to the workload: of which, where it is logged at all.
    pub server: LogChoice,
    /// Of requests of the workload.
    pub client: LogChoice,
}

/// Which requests are logged.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum LogChoice {
    /// None.
    #[default]
    Off,
    /// All that pass this; `None` for all.
    On(Option<LogFilter>),
}
