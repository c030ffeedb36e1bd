//! Virtual hosts of a gateway: which names its listeners and routes have in common, and who serves each.
//!
//! A request is for the listener whose hostname is nearest to its own; of that listener's routes those with the nearest
//! hostname are tried first, then others. Source: Gateway API v1, `Listener.hostname`, `HTTPRoute.hostnames`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use meshwork_model::mesh::{GatewayListener, GatewayProtocol, Key, Route, RouteKind};
use meshwork_model::proxy::{Domain, VirtualHost};

use super::Front;
use crate::attachment::Acting;
use crate::attachment::gateways::{covers, met};
use crate::translate::routes::Lead;

/// The hostnames, empty for any, with the listener and what is attached there.
type Hosts<'m> = BTreeMap<(usize, Arc<str>), Acting<'m>>;

impl Front<'_> {
    /// The virtual hosts of listeners of requests.
    pub(super) fn hosts(
        &self,
        listeners: &[&GatewayListener],
        leads: &mut BTreeSet<Lead>,
    ) -> Vec<VirtualHost> {
        let mut hosts = self.attached(listeners);
        // What a listener is for it is for alone, also where nobody is attached to it.
        for (index, listener) in listeners.iter().enumerate() {
            hosts.entry((index, listener.hostname.clone().unwrap_or_default())).or_default();
        }
        let is_tls = listeners.iter().any(|listener| matches!(listener.protocol, GatewayProtocol::Https(_)));
        let names: BTreeSet<Arc<str>> = hosts.keys().map(|(_, name)| Arc::clone(name)).collect();
        let mut made = Vec::new();
        for name in names {
            let Some(owner) = owner(listeners, &name) else { continue };
            let own = hosts.iter().filter(|((index, host), _)| *index == owner && covers(host, &name));
            let mut own: Vec<_> = own.map(|((_, host), acting)| (host, acting)).collect();
            own.sort_by_key(|(host, _)| std::cmp::Reverse(precision(host)));
            // A route of several names is tried once, by the nearest of them.
            let mut tried: BTreeSet<&(RouteKind, Key)> = BTreeSet::new();
            let mut routes = Vec::new();
            for (_, acting) in own {
                let fresh: Acting<'_> = acting.iter().filter(|(id, _)| tried.insert(id)).copied().collect();
                routes.extend(self.calls.of_gateway(&fresh, (self.port, is_tls), leads));
            }
            let label: Arc<str> = if name.is_empty() { "*".into() } else { Arc::clone(&name) };
            made.push(VirtualHost::new(label, vec![domain(&name)], routes));
        }
        made
    }

    fn attached<'m>(&'m self, listeners: &[&GatewayListener]) -> Hosts<'m> {
        let mut hosts = Hosts::new();
        for (index, listener) in listeners.iter().enumerate() {
            let routes = self.calls.mesh.config.routes.iter().filter(|((kind, key), route)| {
                *kind != RouteKind::Virtual
                    && self.attaches(listener, kind.name(), &key.namespace, &route.parents)
            });
            let mut routes: Vec<(&(RouteKind, Key), &Route)> = routes.collect();
            routes.sort_by_key(|(id, route)| (route.age, &id.1, id.0));
            for (id, route) in routes {
                for name in met(listener.hostname.as_ref(), &route.hostnames) {
                    hosts.entry((index, name.unwrap_or_default())).or_default().push((id, route));
                }
            }
        }
        hosts
    }
}

/// The listener that is nearest to a name.
fn owner(listeners: &[&GatewayListener], name: &str) -> Option<usize> {
    let near = listeners
        .iter()
        .enumerate()
        .filter(|(_, listener)| listener.hostname.as_ref().is_none_or(|hostname| covers(hostname, name)));
    let nearest = near.max_by_key(|(index, listener)| {
        (precision(listener.hostname.as_deref().unwrap_or_default()), std::cmp::Reverse(*index))
    });
    nearest.map(|(index, _)| index)
}

/// How near a name is: a whole one before wildcards, and longer ones before shorter ones.
fn precision(name: &str) -> (bool, usize) {
    (!name.is_empty() && !name.starts_with('*'), name.len())
}

fn domain(name: &Arc<str>) -> Domain {
    match name.strip_prefix('*') {
        _ if name.is_empty() => Domain::Any,
        Some(end) => Domain::Suffix(end.into()),
        None => Domain::Exact(Arc::clone(name)),
    }
}
