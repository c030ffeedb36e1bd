//! What a change would change: whose proxies would be given something else.

use std::collections::BTreeSet;
use std::sync::Arc;

use meshwork_model::address::VirtualAddress;
use meshwork_model::mesh::{Config, Key, Workload};
use meshwork_xds::Dialect;

use super::World;
use crate::snapshot::{Parts, Published};
use crate::translate::{self, Memo, Mesh};
use crate::{addresses, implied};

struct Node {
    workload: Arc<Workload>,
    dialect: Dialect,
    wanted: BTreeSet<String>,
    parts: Parts,
}

impl World {
    /// The workloads whose proxies would run something else under this config than what they have been given.
    pub(crate) fn concerned(&self, config: &Config) -> Vec<Key> {
        let (now, nodes) = self.nodes(config);
        if nodes.is_empty() {
            return Vec::new();
        }
        let (then, mut memo) = (under(&now, config), Memo::default());
        let differs = |node: &&Node| {
            let Node { workload, dialect, wanted, parts } = node;
            let translated = translate::translate(&then, workload, *dialect, wanted, &mut memo);
            !Published::is(parts, &translated.resources)
        };
        nodes.iter().filter(differs).map(|node| node.workload.key.clone()).collect()
    }

    /// The proxies that may be concerned: where only slices differ, those that use a service of these.
    fn nodes(&self, config: &Config) -> (Arc<Mesh>, Vec<Node>) {
        let state = self.lock();
        let mut keys: Option<BTreeSet<&Key>> = None;
        if let Some(slices) = config.differing_slices(&state.mesh.config) {
            let services = [config, &*state.mesh.config].into_iter().flat_map(|config| {
                slices.iter().filter_map(|key| {
                    let service = config.endpoint_slices.get(key)?.service.clone()?;
                    Some(Key::new(Arc::clone(&key.namespace), service))
                })
            });
            let services: BTreeSet<Key> = services.collect();
            keys = Some(services.iter().flat_map(|service| state.users.of(service)).collect());
        }
        let node = |(key, proxy): (&Key, &super::Proxy)| {
            let workload = Arc::clone(state.mesh.workloads.get(key)?);
            let (dialect, wanted, parts) = (proxy.dialect, proxy.wanted.clone(), proxy.published.parts());
            Some(Node { workload, dialect, wanted, parts })
        };
        let nodes = match keys {
            None => state.proxies.iter().filter_map(node).collect(),
            Some(keys) => {
                keys.into_iter().filter_map(|key| node(state.proxies.get_key_value(key)?)).collect()
            }
        };
        (Arc::clone(&state.mesh), nodes)
    }
}

/// The mesh as it would be. New names have addresses that stand for those that they would be given.
fn under(now: &Mesh, config: &Config) -> Mesh {
    let mut then = now.clone();
    if let Some(slices) = config.differing_slices(&now.config) {
        then.put_slices(Arc::new(config.clone()), &slices);
        return then;
    }
    let mut number = VirtualAddress::LAST;
    for name in addresses::of_config(config) {
        if !now.addresses.contains_key(&name)
            && let Some(address) = VirtualAddress::of_number(number)
        {
            Arc::make_mut(&mut then.addresses).insert(name, address);
            number -= 1;
        }
    }
    then.implied = Arc::new(implied::services(config, &now.workloads, &now.implied));
    then.put_config(Arc::new(config.clone()));
    then
}
