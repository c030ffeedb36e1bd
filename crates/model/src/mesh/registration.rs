//! Workloads of a host, and who may be told to be one of them.

use std::sync::Arc;

use super::Key;
use crate::spiffe::{SpiffeId, SpiffeIdError};

/// Which process of a host has an identity, and which agents may say so. Source: `meshwork.dev/v1alpha1`
/// WorkloadRegistration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkloadRegistration {
    /// Its name; its namespace is the identity's.
    pub key: Key,
    /// The service account that the workload is.
    pub service_account: Arc<str>,
    /// Namespace and service account of the agents that may attest it; at least one.
    pub agents: Vec<(Arc<str>, Arc<str>)>,
    /// What must hold for a process.
    pub selectors: UnixSelectors,
    /// Which of its identities this is, for a workload that has several.
    pub hint: Option<Arc<str>>,
}

/// What must hold for the process at the other end of a Unix socket, as the kernel tells it; at least one is there,
/// and all that are there must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UnixSelectors {
    /// Its user.
    pub uid: Option<u32>,
    /// Its group.
    pub gid: Option<u32>,
    /// The path of its executable, absolute.
    pub executable: Option<Arc<str>>,
    /// SHA-256 of its executable: 64 digits, lowercase.
    pub sha256: Option<Arc<str>>,
}

impl WorkloadRegistration {
    /// The identity of the workload.
    ///
    /// # Errors
    /// A name that no SPIFFE ID may have.
    pub fn identity(&self, trust_domain: &str) -> Result<SpiffeId, SpiffeIdError> {
        SpiffeId::workload(trust_domain, &self.key.namespace, &self.service_account)
    }

    /// Whether an agent may attest the workload. Only one of the mesh's own trust domain may.
    pub fn names(&self, agent: &SpiffeId, trust_domain: &str) -> bool {
        let is_named = |(namespace, account): (&str, &str)| {
            self.agents.iter().any(|(of, name)| **of == *namespace && **name == *account)
        };
        agent.trust_domain() == trust_domain && agent.namespace_and_account().is_some_and(is_named)
    }
}

impl super::Config {
    /// Whether an agent may attest a workload: it is named, and where it is of another namespace, it may be.
    pub fn may_attest(
        &self,
        registration: &WorkloadRegistration,
        agent: &SpiffeId,
        trust_domain: &str,
    ) -> bool {
        registration.names(agent, trust_domain)
            && agent.namespace_and_account().is_some_and(|(namespace, account)| {
                self.lets_name_agent(&registration.key.namespace, &Key::new(namespace, account))
            })
    }

    /// Whether registrations of a namespace may name an agent, which is a ServiceAccount: of their own namespace, or by a
    /// ReferenceGrant beside it. Otherwise whoever writes one namespace could have processes of others take its identities.
    pub fn lets_name_agent(&self, namespace: &str, agent: &Key) -> bool {
        self.grants(("meshwork.dev", "WorkloadRegistration"), namespace, ("", "ServiceAccount"), agent)
    }
}

impl UnixSelectors {
    /// Whether nothing is said.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agents_are_named_by_their_whole_identity() {
        let registration = WorkloadRegistration {
            key: Key::new("shop", "web"),
            service_account: "web".into(),
            agents: vec![("shop".into(), "host-agent".into())],
            selectors: UnixSelectors { uid: Some(1000), ..UnixSelectors::default() },
            hint: None,
        };
        let check = |agent: &str, expected: bool| {
            let id = SpiffeId::parse(agent).expect("an identity");
            assert_eq!(registration.names(&id, "mesh.local"), expected, "{agent}");
        };
        check("spiffe://mesh.local/ns/shop/sa/host-agent", true);
        check("spiffe://partner.example/ns/shop/sa/host-agent", false);
        check("spiffe://mesh.local/ns/bank/sa/host-agent", false);
        check("spiffe://mesh.local/ns/shop/sa/web", false);
        check("spiffe://mesh.local/ns/shop/sa/host-agent/more", false);
        check("spiffe://mesh.local/host-agent", false);
        let id = registration.identity("mesh.local").expect("an identity");
        assert_eq!(id.as_str(), "spiffe://mesh.local/ns/shop/sa/web");
    }
}
