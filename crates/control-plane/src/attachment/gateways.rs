//! Which routes are attached to a gateway's listeners, and why others are not. Pure.
//!
//! Source: Gateway API v1, `ParentReference`, `AllowedRoutes`, "Attaching to Gateways".

use std::collections::BTreeSet;
use std::sync::Arc;

use meshwork_model::mesh::{
    Config, Gateway, GatewayListener, GatewayProtocol, Key, Parent, RouteNamespaces, Target, selects,
};

/// The API group of Gateway.
const GATEWAY_GROUP: &str = "gateway.networking.k8s.io";
/// The name that Kubernetes gives every namespace's own name as a label.
const NAMESPACE_LABEL: &str = "kubernetes.io/metadata.name";

/// A route that wants to be attached.
#[derive(Clone, Copy)]
pub(crate) struct Candidate<'c> {
    /// Its kind's name.
    pub(crate) kind: &'c str,
    /// Its namespace.
    pub(crate) namespace: &'c Arc<str>,
    /// Its hostnames, or server names; empty for all.
    pub(crate) hostnames: &'c [Arc<str>],
}

/// Why a route is not attached: the specification's word, and a sentence.
pub(crate) type Refusal = (&'static str, String);

/// Whether a route is attached to a gateway by one of its parents, and to which of its listeners' names at least.
///
/// # Errors
/// It is attached to none.
pub(crate) fn attach(
    config: &Config,
    key: &Key,
    parent: &Parent,
    route: Candidate<'_>,
) -> Result<(), Refusal> {
    let Some(gateway) = config.gateways.get(key) else {
        let message = format!("there is no Gateway `{}` in the namespace `{}`", key.name, key.namespace);
        return Err(("NoMatchingParent", message));
    };
    let meant = meant(gateway, parent);
    if meant.is_empty() {
        return Err(("NoMatchingParent", format!("the Gateway `{}` has no such listener", key.name)));
    }
    let let_in: Vec<_> = meant
        .into_iter()
        .filter(|listener| lets_in(config, key, listener, route.kind, route.namespace))
        .collect();
    if let_in.is_empty() {
        let message = format!(
            "no listener of the Gateway `{}` takes {}s of `{}`",
            key.name, route.kind, route.namespace
        );
        return Err(("NotAllowedByListeners", message));
    }
    if let_in.iter().all(|listener| met(listener.hostname.as_ref(), route.hostnames).is_empty()) {
        let message = format!("no listener of the Gateway `{}` has a hostname of the route's", key.name);
        return Err(("NoMatchingListenerHostname", message));
    }
    Ok(())
}

/// How many routes are attached to a listener.
pub(crate) fn attached_routes(config: &Config, key: &Key, listener: &GatewayListener) -> usize {
    let is_met = |hostnames: &[Arc<str>]| !met(listener.hostname.as_ref(), hostnames).is_empty();
    let requests = config.routes.iter().filter(|((kind, id), route)| {
        is_attached(config, key, listener, &route.parents, (kind.name(), &id.namespace))
            && is_met(&route.hostnames)
    });
    let connections = config.connection_routes.iter().filter(|((kind, id), route)| {
        let names = route.rules.first().map_or(&[][..], |rule| &rule.server_names);
        is_attached(config, key, listener, &route.parents, (kind.name(), &id.namespace)) && is_met(names)
    });
    requests.count() + connections.count()
}

/// The kinds of routes that a listener takes.
pub(crate) fn supported(listener: &GatewayListener) -> Vec<&'static str> {
    let is_named = |kind: &&'static str| {
        listener.kinds.is_empty() || listener.kinds.iter().any(|named| **named == **kind)
    };
    carried(&listener.protocol).iter().copied().filter(is_named).collect()
}

fn carried(protocol: &GatewayProtocol) -> &'static [&'static str] {
    match protocol {
        GatewayProtocol::Http | GatewayProtocol::Https(_) => &["HTTPRoute", "GRPCRoute"],
        GatewayProtocol::TlsPassthrough => &["TLSRoute"],
        GatewayProtocol::TlsTerminate(_) => &["TLSRoute", "TCPRoute"],
        GatewayProtocol::Tcp => &["TCPRoute"],
    }
}

/// Whether a gateway may use a certificate: its own namespace's, or one that a ReferenceGrant lets it.
pub(crate) fn may_use(config: &Config, key: &Key, certificate: &Key) -> bool {
    config.grants((GATEWAY_GROUP, "Gateway"), &key.namespace, ("", "Secret"), certificate)
}

/// The listeners that a parent names.
fn meant<'c>(gateway: &'c Gateway, parent: &Parent) -> Vec<&'c GatewayListener> {
    gateway.listeners.iter().filter(|listener| names(parent, listener)).collect()
}

fn names(parent: &Parent, listener: &GatewayListener) -> bool {
    parent.port.is_none_or(|port| port == listener.port)
        && parent.section.as_ref().is_none_or(|name| *name == listener.name)
}

/// Whether a route of a kind and a namespace is attached to a gateway's listener, but for its hostnames.
pub(crate) fn is_attached(
    config: &Config,
    key: &Key,
    listener: &GatewayListener,
    parents: &[Parent],
    (kind, namespace): (&str, &Arc<str>),
) -> bool {
    let is_meant = |parent: &Parent| {
        matches!(&parent.target, Target::Gateway(meant) if meant == key) && names(parent, listener)
    };
    parents.iter().any(is_meant) && lets_in(config, key, listener, kind, namespace)
}

fn lets_in(config: &Config, key: &Key, listener: &GatewayListener, kind: &str, namespace: &Arc<str>) -> bool {
    let is_let_in = match &listener.from {
        RouteNamespaces::Same => *namespace == key.namespace,
        RouteNamespaces::All => true,
        RouteNamespaces::None => false,
        RouteNamespaces::Selected(selector) => {
            let mut labels = config.namespaces.get(namespace).cloned().unwrap_or_default();
            labels.insert(NAMESPACE_LABEL.to_owned(), namespace.to_string());
            selects(selector, &labels)
        }
    };
    is_let_in && supported(listener).contains(&kind)
}

/// The names that a listener and a route have in common, `None` for any; nothing where they have none.
pub(crate) fn met(listener: Option<&Arc<str>>, route: &[Arc<str>]) -> Vec<Option<Arc<str>>> {
    let Some(own) = listener else {
        return if route.is_empty() { vec![None] } else { route.iter().cloned().map(Some).collect() };
    };
    if route.is_empty() {
        return vec![Some(Arc::clone(own))];
    }
    let meet = |name: &Arc<str>| {
        if covers(own, name) { Some(Arc::clone(name)) } else { covers(name, own).then(|| Arc::clone(own)) }
    };
    let names: BTreeSet<Arc<str>> = route.iter().filter_map(meet).collect();
    names.into_iter().map(Some).collect()
}

/// Whether every host of a name is one of another name: empty is any, `*.` in front all below.
pub(crate) fn covers(wide: &str, name: &str) -> bool {
    match wide.strip_prefix('*') {
        _ if wide.is_empty() || wide == name => true,
        // `*.a` has `*.b.a` in it, and `b.a`, but not `a`.
        Some(end) => name.strip_prefix('*').unwrap_or(name).len() > end.len() && name.ends_with(end),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listeners_and_routes_meet_at_names() {
        let check = |listener: Option<&str>, route: &[&str], expected: &[Option<&str>]| {
            let listener = listener.map(Arc::from);
            let route: Vec<Arc<str>> = route.iter().map(|&name| name.into()).collect();
            let found = met(listener.as_ref(), &route);
            let found: Vec<Option<&str>> = found.iter().map(Option::as_deref).collect();
            assert_eq!(found, expected, "{listener:?} {route:?}");
        };
        check(None, &[], &[None]);
        check(None, &["a.example"], &[Some("a.example")]);
        check(Some("a.example"), &[], &[Some("a.example")]);
        check(Some("*.example"), &["a.example", "b.other"], &[Some("a.example")]);
        check(Some("a.example"), &["*.example"], &[Some("a.example")]);
        check(Some("*.example"), &["*.a.example"], &[Some("*.a.example")]);
        check(Some("*.a.example"), &["*.example"], &[Some("*.a.example")]);
        check(Some("*.example"), &["example"], &[]);
        check(Some("a.example"), &["b.example"], &[]);
    }
}
