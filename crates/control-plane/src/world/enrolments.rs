//! Who is enrolled.

use std::collections::BTreeMap;
use std::sync::Arc;

use meshwork_model::mesh::{Key, SERVICE_LABEL};
use meshwork_model::spiffe::SpiffeId;

use crate::store::Enrolment;

/// Enrolments by workload, with what the world asks of all of them counted.
#[derive(Debug, Default)]
pub(super) struct Enrolments {
    of: BTreeMap<Key, Enrolment>,
    /// How many name a service by their label.
    behind: BTreeMap<Key, usize>,
}

impl Enrolments {
    pub(super) fn new(enrolments: Vec<Enrolment>) -> Self {
        let mut all = Self::default();
        for enrolment in enrolments {
            all.put(enrolment);
        }
        all
    }

    pub(super) fn get(&self, workload: &Key) -> Option<&Enrolment> {
        self.of.get(workload)
    }

    /// Puts an enrolment in, or in the place of the workload's earlier one, which it gives back.
    pub(super) fn put(&mut self, enrolment: Enrolment) -> Option<Enrolment> {
        if let Some(service) = service_of(&enrolment) {
            *self.behind.entry(service).or_default() += 1;
        }
        let earlier = self.of.insert(enrolment.workload.clone(), enrolment);
        if let Some(service) = earlier.as_ref().and_then(service_of)
            && let Some(count) = self.behind.get_mut(&service)
        {
            *count -= 1;
            if *count == 0 {
                self.behind.remove(&service);
            }
        }
        earlier
    }

    /// Whether any workload is enrolled that names the service.
    pub(super) fn has_behind(&self, service: &Key) -> bool {
        self.behind.contains_key(service)
    }

    /// Everybody who is enrolled, with the identity.
    pub(super) fn identities<'e>(
        &'e self,
        trust_domain: &'e str,
    ) -> impl Iterator<Item = (&'e Key, SpiffeId)> {
        self.of.iter().filter_map(move |(key, e)| Some((key, e.identity(trust_domain)?)))
    }

    /// Whether any workload is enrolled with an identity.
    pub(super) fn has_identity(&self, trust_domain: &str, identity: &SpiffeId) -> bool {
        self.of.values().any(|e| e.identity(trust_domain).as_ref() == Some(identity))
    }
}

/// The service that an enrolment's label names.
pub(super) fn service_of(enrolment: &Enrolment) -> Option<Key> {
    let name = enrolment.labels.get(SERVICE_LABEL)?;
    Some(Key::new(Arc::clone(&enrolment.workload.namespace), name.as_str()))
}
