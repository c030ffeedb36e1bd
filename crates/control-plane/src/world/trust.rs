//! What the authority asks of the world: who is enrolled and connected; and what it tells it: who is revoked.

use std::collections::BTreeSet;
use std::sync::Arc;

use meshwork_model::mesh::Key;
use meshwork_model::spiffe::SpiffeId;
use meshwork_xds::Dialect;
use tokio::time::Instant;
use tracing::warn;

use super::World;

/// A workload that is enrolled, and whether its proxy is connected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Enrolled {
    pub(crate) workload: Key,
    pub(crate) identity: SpiffeId,
    /// What its proxy is, where it has a discovery stream here.
    pub(crate) connected: Option<Dialect>,
    /// Whether another control plane has its stream.
    pub(crate) is_elsewhere: bool,
}

impl World {
    /// All workloads that are enrolled, but for those that are revoked.
    pub(crate) fn enrolled_workloads(&self) -> Vec<Enrolled> {
        let state = self.lock();
        let enrolled = |(key, identity): (&Key, SpiffeId)| Enrolled {
            workload: key.clone(),
            identity,
            connected: state.proxies.get(key).filter(|proxy| proxy.connected).map(|proxy| proxy.dialect),
            is_elsewhere: state.elsewhere.contains_key(key),
        };
        let all = state.enrolments.identities(&state.mesh.trust_domain);
        all.filter(|(_, identity)| !state.mesh.revoked.contains(identity)).map(enrolled).collect()
    }

    /// Who is enrolled with which identity, whether that is revoked or not.
    pub(crate) fn enrolled_identities(&self) -> Vec<(Key, SpiffeId)> {
        let state = self.lock();
        let all = state.enrolments.identities(&state.mesh.trust_domain);
        all.map(|(workload, identity)| (workload.clone(), identity)).collect()
    }

    /// Whether a workload is enrolled with this identity.
    pub(crate) fn is_enrolled_as(&self, workload: &Key, identity: &SpiffeId) -> bool {
        let state = self.lock();
        let enrolled = state.enrolments.get(workload);
        enrolled.and_then(|e| e.identity(&state.mesh.trust_domain)).as_ref() == Some(identity)
    }

    /// Nobody is to believe these identities any more, and all others again: the streams of these end, their endpoints go,
    /// and every inbound listener refuses them.
    pub(crate) fn revoke(&self, revoked: BTreeSet<SpiffeId>) {
        let mut state = self.lock();
        if *state.mesh.revoked == revoked {
            return;
        }
        let is_ours = |key: &Key| state.proxies.contains_key(key) || state.leases.is_held(key);
        let workloads = state.mesh.workloads.values();
        let gone: Vec<Key> = workloads
            .filter(|workload| revoked.contains(&workload.identity) && is_ours(&workload.key))
            .map(|workload| workload.key.clone())
            .collect();
        Arc::make_mut(&mut state.mesh).revoked = Arc::new(revoked);
        for key in &gone {
            warn!(workload = %key, "is revoked, and let go");
            state.leases.end(key);
        }
        state.take_out(&gone);
        let state = &mut *state;
        state.memo.renew();
        state.dirty.add_proxies(state.proxies.keys(), Instant::now());
        self.changed();
    }
}
