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
    /// How many have a service account: a whole mesh that renews at once asks for each of them.
    accounts: BTreeMap<Key, usize>,
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
        *self.accounts.entry(account_of(&enrolment)).or_default() += 1;
        let earlier = self.of.insert(enrolment.workload.clone(), enrolment);
        if let Some(earlier) = &earlier {
            if let Some(service) = service_of(earlier) {
                one_less(&mut self.behind, &service);
            }
            one_less(&mut self.accounts, &account_of(earlier));
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
        let account = identity.namespace_and_account().map(|(namespace, name)| Key::new(namespace, name));
        identity.trust_domain() == trust_domain
            && account.is_some_and(|account| self.accounts.contains_key(&account))
    }
}

/// The service account of an enrolment.
fn account_of(enrolment: &Enrolment) -> Key {
    Key::new(Arc::clone(&enrolment.workload.namespace), enrolment.service_account.as_str())
}

fn one_less(counts: &mut BTreeMap<Key, usize>, of: &Key) {
    if let Some(count) = counts.get_mut(of) {
        *count -= 1;
        if *count == 0 {
            counts.remove(of);
        }
    }
}

/// The service that an enrolment's label names.
pub(super) fn service_of(enrolment: &Enrolment) -> Option<Key> {
    let name = enrolment.labels.get(SERVICE_LABEL)?;
    Some(Key::new(Arc::clone(&enrolment.workload.namespace), name.as_str()))
}

#[cfg(test)]
mod tests {
    use meshwork_model::mesh::Labels;

    use super::*;

    fn enrolment(workload: &str, account: &str) -> Enrolment {
        let workload = Key::new("shop", workload);
        Enrolment { workload, service_account: account.to_owned(), labels: Labels::default() }
    }

    #[test]
    fn an_identity_is_known_while_a_workload_is_enrolled_with_it() {
        let mut all = Enrolments::new(vec![enrolment("web-1", "web"), enrolment("web-2", "web")]);
        let check = |all: &Enrolments, id: &str, expected: bool| {
            let id = SpiffeId::parse(id).expect("valid");
            assert_eq!(all.has_identity("mesh.local", &id), expected, "{id}");
            // The same as what all of them say.
            assert_eq!(all.identities("mesh.local").any(|(_, known)| known == id), expected, "{id}");
        };
        let web = "spiffe://mesh.local/ns/shop/sa/web";
        check(&all, web, true);
        for other in [
            "spiffe://other.org/ns/shop/sa/web",
            "spiffe://mesh.local/ns/bank/sa/web",
            "spiffe://mesh.local/ns/shop/sa/web-1",
            "spiffe://mesh.local/ns/shop/sa/web/x",
            "spiffe://mesh.local/web",
        ] {
            check(&all, other, false);
        }
        all.put(enrolment("web-1", "cart"));
        check(&all, web, true);
        all.put(enrolment("web-2", "cart"));
        check(&all, web, false);
        check(&all, "spiffe://mesh.local/ns/shop/sa/cart", true);
        assert_eq!(all.accounts.len(), 1);
    }
}
