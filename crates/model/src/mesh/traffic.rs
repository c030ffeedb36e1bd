//! What callers hold to when they call a service or a host: how endpoints are picked, how many connections there may
//! be, when an endpoint is left out. Istio's DestinationRule, whose subsets are part of it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::{Labels, Target};
use crate::hash::HashPolicy;
use crate::proxy::{Balancing, ClientContext, Keepalive, OutlierDetection, RetryBudget};

/// The namespaces that see a resource. Source: Istio `exportTo`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Export {
    /// All of them.
    #[default]
    Everywhere,
    /// These.
    Only(BTreeSet<Arc<str>>),
}

/// What callers of some hosts hold to. Source: Istio `networking.istio.io/v1` DestinationRule.
#[derive(Clone, Debug, PartialEq)]
pub struct DestinationRule {
    /// Whose callers.
    pub host: HostPattern,
    /// The namespaces whose callers hold to it.
    pub export: Export,
    /// Labels that the caller's workload must have; empty takes all.
    pub selector: Labels,
    /// What holds where no subset says otherwise.
    pub terms: TrafficTerms,
    /// Subsets of the endpoints.
    pub subsets: Vec<Subset>,
    /// When it was made, for precedence.
    pub age: u64,
}

/// What a DestinationRule is for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum HostPattern {
    /// One service, or one host of a ServiceEntry.
    One(Target),
    /// All whose full name ends so: `.shop.svc.cluster.local`; empty for all.
    Below(Arc<str>),
}

/// Endpoints with some labels in common.
#[derive(Clone, Debug, PartialEq)]
pub struct Subset {
    /// Name, by which routes lead to it.
    pub name: Arc<str>,
    /// Labels that its workloads have.
    pub labels: Labels,
    /// What goes before the rule's own terms.
    pub terms: TrafficTerms,
}

/// Terms for all ports, and those of single ports, which do without the former.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TrafficTerms {
    /// For ports without terms of their own.
    pub all: PortTerms,
    /// By the port that is called.
    pub ports: BTreeMap<u16, PortTerms>,
}

/// Terms; `None` where nothing is said of it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PortTerms {
    /// How an endpoint is picked.
    pub balancing: Option<BalancingTerms>,
    /// How many connections and requests there may be.
    pub pool: Option<PoolTerms>,
    /// When an endpoint is left out.
    pub outliers: Option<OutlierTerms>,
    /// TLS with hosts outside the mesh.
    pub tls: Option<OutsideTls>,
    /// How many retries there may be beside requests.
    pub retry_budget: Option<RetryBudget>,
}

/// How an endpoint is picked.
#[derive(Clone, Debug, PartialEq)]
pub struct BalancingTerms {
    /// The method; `None` for the mesh's own.
    pub method: Option<Balancing>,
    /// What requests are hashed by, where the method asks for it.
    pub hash: Option<HashPolicy>,
}

/// How many connections and requests there may be; `None` is no limit, or the mesh's own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PoolTerms {
    /// Connections.
    pub connections: Option<u32>,
    /// Requests that wait for a connection.
    pub pending: Option<u32>,
    /// Requests under way.
    pub requests: Option<u32>,
    /// Retries under way.
    pub retries: Option<u32>,
    /// Requests that one connection carries in its life.
    pub requests_per_connection: Option<u32>,
    /// Requests that one HTTP/2 connection carries at the same time.
    pub streams: Option<u32>,
    /// How long opening a connection may take.
    pub connect_timeout: Option<Duration>,
    /// How long a connection of requests is kept without one.
    pub idle_timeout: Option<Duration>,
    /// How long a connection of bytes may be silent.
    pub bytes_idle_timeout: Option<Duration>,
    /// How long a connection lives.
    pub lifetime: Option<Duration>,
    /// How the kernel probes a silent connection.
    pub keepalive: Option<Keepalive>,
}

/// When an endpoint is left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutlierTerms {
    /// When.
    pub detection: Arc<OutlierDetection>,
    /// Below which per cent of healthy endpoints all are used; 0 never.
    pub least_healthy_percent: u32,
}

/// TLS with a host outside the mesh.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OutsideTls {
    /// None: what the application sends goes on as it is.
    Off,
    /// The proxy speaks it. An empty server name stands for the host's own.
    On(Arc<ClientContext>),
}

// === impl Export ===

impl Export {
    /// Whether a namespace sees it.
    pub fn reaches(&self, namespace: &str) -> bool {
        match self {
            Self::Everywhere => true,
            Self::Only(namespaces) => namespaces.contains(namespace),
        }
    }
}

// === impl HostPattern ===

impl HostPattern {
    /// Whether it is for what has this full name; `target` is the same, as a target.
    pub fn takes(&self, target: &Target, full_name: &str) -> bool {
        match self {
            Self::One(one) => one == target,
            Self::Below(end) => full_name.ends_with(&**end),
        }
    }

    /// How precise it is; one host goes before patterns, and longer ones before shorter ones.
    pub fn precision(&self) -> usize {
        match self {
            Self::One(_) => usize::MAX,
            Self::Below(end) => end.len(),
        }
    }
}

// === impl TrafficTerms ===

impl TrafficTerms {
    /// The terms of a port.
    pub fn of(&self, port: u16) -> &PortTerms {
        self.ports.get(&port).unwrap_or(&self.all)
    }
}

// === impl PortTerms ===

impl PortTerms {
    /// These, and of what they do not say the others'.
    #[must_use]
    pub fn or(&self, others: &Self) -> Self {
        Self {
            balancing: self.balancing.clone().or_else(|| others.balancing.clone()),
            pool: self.pool.clone().or_else(|| others.pool.clone()),
            outliers: self.outliers.clone().or_else(|| others.outliers.clone()),
            tls: self.tls.clone().or_else(|| others.tls.clone()),
            retry_budget: self.retry_budget.or(others.retry_budget),
        }
    }
}

// === impl DestinationRule ===

impl DestinationRule {
    /// A subset by its name.
    pub fn subset(&self, name: &str) -> Option<&Subset> {
        self.subsets.iter().find(|subset| *subset.name == *name)
    }

    /// The terms of a port, for all endpoints or for those of a subset. Source: Istio `MergeSubsetTrafficPolicy`.
    pub fn terms(&self, port: u16, subset: Option<&str>) -> PortTerms {
        let own = self.terms.of(port);
        match subset.and_then(|name| self.subset(name)) {
            Some(subset) => subset.terms.of(port).or(own),
            None => own.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(connections: u32) -> PortTerms {
        let pool = PoolTerms { connections: Some(connections), ..PoolTerms::default() };
        PortTerms { pool: Some(pool), ..PortTerms::default() }
    }

    #[test]
    fn a_ports_terms_stand_alone_and_a_subsets_go_before_the_rules() {
        let random = BalancingTerms { method: Some(Balancing::Random), hash: None };
        let all = PortTerms { balancing: Some(random.clone()), ..pool(1) };
        let subset = TrafficTerms { all: pool(3), ports: [(90, pool(4))].into() };
        let rule = DestinationRule {
            host: HostPattern::Below("".into()),
            export: Export::Everywhere,
            selector: Labels::new(),
            terms: TrafficTerms { all, ports: [(80, pool(2))].into() },
            subsets: vec![Subset { name: "v1".into(), labels: Labels::new(), terms: subset }],
            age: 0,
        };
        let check = |port, subset, connections, balancing: Option<&BalancingTerms>| {
            let terms = rule.terms(port, subset);
            assert_eq!(terms.pool.and_then(|pool| pool.connections), Some(connections), "{port} {subset:?}");
            assert_eq!(terms.balancing.as_ref(), balancing, "{port} {subset:?}");
        };
        check(70, None, 1, Some(&random));
        check(80, None, 2, None);
        check(70, Some("v1"), 3, Some(&random));
        check(80, Some("v1"), 3, None);
        check(90, Some("v1"), 4, Some(&random));
        check(80, Some("v2"), 2, None);
    }

    #[test]
    fn a_pattern_takes_what_ends_so() {
        let target = Target::Host("api.example.com".into());
        let check = |pattern: HostPattern, expected| {
            assert_eq!(pattern.takes(&target, "api.example.com"), expected, "{pattern:?}");
        };
        check(HostPattern::One(target.clone()), true);
        check(HostPattern::One(Target::Host("www.example.com".into())), false);
        check(HostPattern::Below(".example.com".into()), true);
        check(HostPattern::Below(".example.org".into()), false);
        check(HostPattern::Below("".into()), true);
    }
}
