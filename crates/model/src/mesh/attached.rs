//! Our own two kinds: what neither Gateway API nor Istio can say of traffic, and what holds for the mesh as a whole.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::{AuthorizationProvider, Key, KeyUrl, MtlsMode, OutsidePolicy};
use crate::proxy::{Fault, HealthCheck, RetryBudget, RetryPolicy, TokenBucket};
use crate::spiffe::SpiffeId;

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
    /// Trust domains whose identities are believed, each by its own bundle; no two have one name.
    pub federated: Vec<FederatedDomain>,
    /// How keys for tokens are fetched.
    pub key_fetching: KeyFetching,
}

/// Another trust domain, and where its bundle comes from: at least one of the two is there. Source: SPIFFE Federation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FederatedDomain {
    /// Its name, lowercase, without `spiffe://`.
    pub trust_domain: Arc<str>,
    /// Its bundle, as it was written: a SPIFFE bundle document, or certificates as PEM.
    pub bundle: Option<Arc<str>>,
    /// Where newer ones are fetched.
    pub endpoint: Option<BundleEndpoint>,
}

/// Where a trust domain serves its bundle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BundleEndpoint {
    /// An `https:` URL.
    pub url: KeyUrl,
    /// How it proves who it is.
    pub proof: BundleProof,
}

/// How a bundle endpoint proves who it is. Source: SPIFFE Federation §5.2.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BundleProof {
    /// `https_web`: by a certificate for its host, under the roots of the system.
    Web,
    /// `https_spiffe`: by this identity, under the bundle that is known of its trust domain.
    Spiffe(SpiffeId),
}

/// How keys for tokens are fetched.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KeyFetching {
    /// Whether hosts outside the mesh may be at loopback and link-local addresses.
    pub allows_local: bool,
    /// How long fetched keys are believed before they are asked for again.
    pub cache: Option<Duration>,
}

impl TrafficTarget {
    /// All of a service.
    pub fn service(key: Key) -> Self {
        Self { kind: TrafficTargetKind::Service, key, section: None }
    }
}
