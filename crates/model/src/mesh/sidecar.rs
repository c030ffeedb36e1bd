//! What a workload's proxy knows of the mesh: Istio's Sidecar.

use std::sync::Arc;

use super::{Labels, OutsidePolicy};

/// What the proxies of some workloads know of. Source: Istio `networking.istio.io/v1` Sidecar.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sidecar {
    /// Labels that the workload must have; empty takes all of the namespace, or of the mesh.
    pub selector: Labels,
    /// What it may call, one of these; `None` for everything.
    pub egress: Option<Vec<SeenHosts>>,
    /// What it may reach that the mesh does not know; `None` for what holds for the mesh.
    pub outside: Option<OutsidePolicy>,
}

/// Hosts that a proxy knows of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeenHosts {
    /// Of which namespace.
    pub namespace: SeenNamespace,
    /// Their full names end so: `.example.com`, or all of one; empty for all.
    pub name: SeenName,
    /// Only this port of theirs.
    pub port: Option<u16>,
}

/// A namespace that a proxy knows of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SeenNamespace {
    /// Any: `*`
    Any,
    /// The workload's own: `.`
    Own,
    /// This one.
    One(Arc<str>),
    /// None: `~`
    Nobody,
}

/// A name that a proxy knows of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SeenName {
    /// Any: `*`
    Any,
    /// Those that end so: `.example.com`
    Below(Arc<str>),
    /// This one.
    One(Arc<str>),
}

impl SeenHosts {
    /// Whether a host of a namespace is one of them, to a workload of the namespace `own`.
    pub fn take(&self, own: &str, namespace: &str, host: &str) -> bool {
        let here = match &self.namespace {
            SeenNamespace::Any => true,
            SeenNamespace::Own => own == namespace,
            SeenNamespace::One(one) => **one == *namespace,
            SeenNamespace::Nobody => false,
        };
        here && match &self.name {
            SeenName::Any => true,
            SeenName::Below(end) => host.ends_with(&**end),
            SeenName::One(one) => **one == *host,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_seen_by_namespace_and_name() {
        let check = |namespace: SeenNamespace, name: SeenName, expected| {
            let hosts = SeenHosts { namespace, name, port: None };
            assert_eq!(hosts.take("shop", "bank", "b.bank.svc.cluster.local"), expected, "{hosts:?}");
        };
        check(SeenNamespace::Any, SeenName::Any, true);
        check(SeenNamespace::Own, SeenName::Any, false);
        check(SeenNamespace::Nobody, SeenName::Any, false);
        check(SeenNamespace::One("bank".into()), SeenName::Below(".cluster.local".into()), true);
        check(SeenNamespace::One("bank".into()), SeenName::Below(".example.com".into()), false);
        check(SeenNamespace::Any, SeenName::One("b.bank.svc.cluster.local".into()), true);
        check(SeenNamespace::Any, SeenName::One("c.bank.svc.cluster.local".into()), false);
    }
}
