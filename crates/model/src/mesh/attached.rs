//! Our own two kinds: what neither Gateway API nor Istio can say of traffic, and what holds for the mesh as a whole.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::{AuthorizationProvider, Key, MtlsMode, OutsidePolicy};
use crate::proxy::{Fault, HealthCheck, RetryBudget, RetryPolicy, TokenBucket};

/// What holds for calls of a service, or for requests of a route. Source: `meshwork.dev/v1alpha1` TrafficPolicy; Gateway
/// API GEP-713, direct attachment.
#[derive(Clone, Debug, PartialEq)]
pub struct TrafficPolicy {
    /// What it is attached to; never empty.
    pub targets: Vec<TrafficTarget>,
    /// How many requests each workload behind the service serves.
    pub rate_limit: Option<TokenBucket>,
    /// How endpoints are asked whether they are well.
    pub check: Option<Arc<HealthCheck>>,
    /// What is made to go wrong.
    pub fault: Option<Arc<Fault>>,
    /// How many retries there may be.
    pub retry_budget: Option<RetryBudget>,
    /// When it was made, for precedence.
    pub age: u64,
}

/// What a policy is attached to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TrafficTarget {
    /// The kind.
    pub kind: TrafficTargetKind,
    /// The resource, of the policy's namespace.
    pub key: Key,
    /// The name of a service's port, or of a route's rule; `None` for all.
    pub section: Option<Arc<str>>,
}

/// The kinds that a policy is attached to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TrafficTargetKind {
    /// `v1/Service`
    Service,
    /// HTTPRoute
    HttpRoute,
    /// GRPCRoute
    GrpcRoute,
}

/// What holds for the mesh as a whole; `None` is the mesh's own default. Source: `meshwork.dev/v1alpha1` MeshConfig.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct MeshDefaults {
    /// The trust domain that its writer takes the mesh to have.
    pub trust_domain: Option<Arc<str>>,
    /// What captured workloads may reach that the mesh does not know.
    pub outside: Option<OutsidePolicy>,
    /// How long a request may take where no route says so; zero for ever.
    pub timeout: Option<Duration>,
    /// What is tried again where no route says so.
    pub retry: Option<Arc<RetryPolicy>>,
    /// Whether workloads demand mTLS where no PeerAuthentication says so.
    pub mtls: Option<MtlsMode>,
    /// Services that CUSTOM policies have asked, by name.
    pub providers: BTreeMap<Arc<str>, Arc<AuthorizationProvider>>,
}

impl TrafficTarget {
    /// All of a service.
    pub fn service(key: Key) -> Self {
        Self { kind: TrafficTargetKind::Service, key, section: None }
    }
}
