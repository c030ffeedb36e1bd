//! Who would be there if config ran: for each service its workloads, and for each caller that policies name one.
//!
//! The account of a workload is guessed by its label `app`, as `meshwork diagram` does; its ports are those that services
//! lead to.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use meshwork_model::mesh::{
    Config, HostPattern, Inbound, Key, Labels, PolicyAction, Target, Workload, selects,
};
use meshwork_model::proxy::{Locality, StringMatch};
use meshwork_model::spiffe::SpiffeId;

use crate::translate::Mesh;

/// The trust domain of config that names none.
const TRUST_DOMAIN: &str = "mesh.local";
/// The first of the addresses that workloads are given, one each.
const FIRST: u32 = 0x0A00_0001;

/// The mesh that config would make. `caller` is there in any case, where it is a name.
pub(super) fn mesh(config: &Config, caller: &str, called: &str) -> Mesh {
    let trust_domain = config.defaults.trust_domain.as_deref().unwrap_or(TRUST_DOMAIN);
    let mut there = There { config, trust_domain, workloads: BTreeMap::new() };
    there.behind_services();
    there.named_by_policies();
    there.caller(caller, called);
    Mesh::new(trust_domain, Arc::new(config.clone()), there.workloads, BTreeMap::new())
}

struct There<'c> {
    config: &'c Config,
    trust_domain: &'c str,
    workloads: BTreeMap<Key, Arc<Workload>>,
}

impl There<'_> {
    /// One workload for each service that no narrower one stands for; one for each subset where it has such.
    fn behind_services(&mut self) {
        let services = &self.config.services;
        for (key, service) in services {
            let is_wider = services.iter().any(|(other, narrower)| {
                other.namespace == key.namespace
                    && narrower.selector.len() > service.selector.len()
                    && selects(&service.selector, &narrower.selector)
            });
            if service.selector.is_empty() || is_wider {
                continue;
            }
            let subsets = self.subsets(key);
            if subsets.is_empty() {
                self.add(&key.namespace, &key.name, service.selector.clone());
            }
            for (name, labels) in subsets {
                let all: Labels = service.selector.clone().into_iter().chain(labels).collect();
                self.add(&key.namespace, &format!("{}-{name}", key.name), all);
            }
        }
    }

    fn subsets(&self, service: &Key) -> Vec<(Arc<str>, Labels)> {
        let target = HostPattern::One(Target::Service(service.clone()));
        let rules = self.config.destination_rules.values().filter(|rule| rule.host == target);
        let subsets = rules.flat_map(|rule| &rule.subsets).filter(|subset| !subset.labels.is_empty());
        subsets.map(|subset| (Arc::clone(&subset.name), subset.labels.clone())).collect()
    }

    /// Callers that ALLOW policies name in full.
    fn named_by_policies(&mut self) {
        let policies = self.config.authorization_policies.values();
        let allowing = policies.filter(|policy| policy.action == PolicyAction::Allow);
        let sources = allowing.flat_map(|policy| &policy.rules).flat_map(|rule| &rule.from);
        for source in sources {
            for principal in &source.principals.one_of {
                let StringMatch::Exact(text) = principal else { continue };
                if let [_, "ns", namespace, "sa", account] = text.split('/').collect::<Vec<_>>()[..] {
                    self.account(namespace, account);
                }
            }
            for account in &source.accounts.one_of {
                self.account(&account.namespace, &account.name);
            }
        }
    }

    /// Somebody under an account, where nobody has it yet.
    fn account(&mut self, namespace: &str, account: &str) {
        let Ok(id) = SpiffeId::workload(self.trust_domain, namespace, account) else { return };
        if !self.workloads.values().any(|workload| workload.identity == id) {
            self.add(namespace, account, Labels::from([("app".to_owned(), account.to_owned())]));
        }
    }

    /// The caller, where it is a name that nobody has, or an identity of our own trust domain.
    fn caller(&mut self, caller: &str, called: &str) {
        if let Ok(id) = SpiffeId::parse(caller) {
            if let (true, Some((namespace, account))) = (id.trust_domain() == self.trust_domain, parts(&id)) {
                self.account(&namespace, &account);
            }
            return;
        }
        let (name, namespace) = caller.split_once('.').unwrap_or((caller, ""));
        let is_there = |workload: &Workload| {
            (namespace.is_empty() || namespace == &*workload.key.namespace)
                && (&*workload.key.name == name || workload.labels.get("app").is_some_and(|app| app == name))
        };
        if self.workloads.values().any(|workload| is_there(workload)) {
            return;
        }
        let host = called.rsplit_once(':').map_or(called, |(host, _)| host);
        let host = host.strip_suffix(".svc.cluster.local").unwrap_or(host);
        let of_called = host.split_once('.').map(|(_, namespace)| namespace);
        let of_service = || {
            let named = self.config.services.keys().find(|key| &*key.name == host);
            named.map(|key| key.namespace.to_string())
        };
        let namespace = match namespace {
            "" => of_called.map(str::to_owned).or_else(of_service).unwrap_or_else(|| "default".to_owned()),
            said => said.to_owned(),
        };
        self.add(&namespace, name, Labels::from([("app".to_owned(), name.to_owned())]));
    }

    fn add(&mut self, namespace: &str, name: &str, labels: Labels) {
        let account = labels.get("app").map_or(name, String::as_str);
        let Ok(identity) = SpiffeId::workload(self.trust_domain, namespace, account) else { return };
        let number = u32::try_from(self.workloads.len()).unwrap_or(0);
        let address = Ipv4Addr::from_bits(FIRST.saturating_add(number));
        let key = Key::new(namespace, name);
        let workload = Workload {
            key: key.clone(),
            identity,
            inbound: self.ports(namespace, &labels, address),
            labels,
            outbound: Vec::new(),
            capture: None,
            gateway: None,
            unready: None,
            locality: Locality::default(),
        };
        self.workloads.insert(key, Arc::new(workload));
    }

    fn ports(&self, namespace: &str, labels: &Labels, address: Ipv4Addr) -> Vec<Inbound> {
        let here = self.config.services.iter().filter(|(key, service)| {
            &*key.namespace == namespace && !service.selector.is_empty() && selects(&service.selector, labels)
        });
        let mut ports: BTreeMap<u16, Inbound> = BTreeMap::new();
        for port in here.flat_map(|(_, service)| &service.ports) {
            let number = port.target_port;
            ports.entry(number).or_insert_with(|| Inbound {
                port: number,
                bind: SocketAddr::from((address, number)),
                application: SocketAddr::from((Ipv4Addr::LOCALHOST, number)),
                protocol: Some(port.protocol),
            });
        }
        ports.into_values().collect()
    }
}

/// Namespace and service account of an identity of a mesh.
fn parts(id: &SpiffeId) -> Option<(String, String)> {
    let rest = id.as_str().split_once("/ns/")?.1;
    let (namespace, account) = rest.split_once("/sa/")?;
    Some((namespace.to_owned(), account.to_owned()))
}
