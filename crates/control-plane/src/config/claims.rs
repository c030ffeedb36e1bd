//! What one namespace's config may say of another's: that a resource stands in a namespace is not always all that it takes
//! to write it. Pure.
//!
//! A VirtualService acts on callers of every namespace that it is exported to, whosever the host is. Who writes one has
//! the word for that host, or for all those callers. A ServiceEntry says where those callers find a host, which is nobody's:
//! who writes one has the word for the callers. Files of the folder are their operator's, and are not asked.

use meshwork_model::mesh::{Config, ConnectionRouteKind, Export, Key, Parent, RouteKind, Target};

use super::{Change, Rights};

/// Looks whether whoever makes these changes may say what they say of others; `config` is as it would be.
///
/// # Errors
/// Why not, and what to do: words that follow a name.
pub(super) fn check(changes: &[Change], config: &Config, rights: &dyn Rights) -> Result<(), String> {
    for change in changes.iter().filter(|change| change.before != change.after) {
        let key = Key::new(&*change.namespace, &*change.name);
        match &*change.kind {
            "VirtualService" => check_routes(&key, config, rights)?,
            "ServiceEntry" => check_entry(&key, config, rights)?,
            _ => {}
        }
    }
    Ok(())
}

fn check_routes(key: &Key, config: &Config, rights: &dyn Rights) -> Result<(), String> {
    let of_requests = config.routes.get(&(RouteKind::Virtual, key.clone()));
    let of_requests = of_requests.map(|route| (&route.parents, &route.export));
    let of_connections = config.connection_routes.get(&(ConnectionRouteKind::Virtual, key.clone()));
    let of_connections = of_connections.map(|route| (&route.parents, &route.export));
    for (parents, export) in of_requests.into_iter().chain(of_connections) {
        let is_foreign = |parent: &&Parent| !speaks_for_host(key, parent, config, rights);
        if !speaks_for_callers(key, export, rights)
            && let Some(parent) = parents.iter().find(is_foreign)
        {
            return Err(refusal(key, &parent.target));
        }
    }
    Ok(())
}

fn check_entry(key: &Key, config: &Config, rights: &dyn Rights) -> Result<(), String> {
    let entry = config.service_entries.get(key);
    if entry.is_none_or(|entry| speaks_for_callers(key, &entry.export, rights)) {
        return Ok(());
    }
    Err(format!(
        "may not have the ServiceEntry {key} say where programs of other namespaces find its hosts: write \
         `exportTo: [\".\"]`, so that it is for those of {} alone, or use a token with the role editor where else it is \
         exported to",
        key.namespace
    ))
}

/// Whether all callers that a resource acts on are those of namespaces whose writer this is.
fn speaks_for_callers(key: &Key, export: &Export, rights: &dyn Rights) -> bool {
    match export {
        Export::Everywhere => rights.may_speak_for(None),
        Export::Only(namespaces) => {
            namespaces.iter().all(|name| *name == key.namespace || rights.may_speak_for(Some(name)))
        }
    }
}

/// Whether what a VirtualService acts on is of a namespace whose writer this is.
fn speaks_for_host(key: &Key, parent: &Parent, config: &Config, rights: &dyn Rights) -> bool {
    let is_own = |namespace: &str| namespace == &*key.namespace || rights.may_speak_for(Some(namespace));
    match &parent.target {
        Target::Service(of) | Target::Gateway(of) => is_own(&of.namespace),
        Target::Host(host) => {
            let mut entries = config.service_entries.iter();
            entries.any(|(entry, of)| of.hosts.contains(host) && is_own(&entry.namespace))
        }
        Target::Unknown(_) => true,
    }
}

fn refusal(key: &Key, target: &Target) -> String {
    let (host, owner) = match target {
        Target::Service(service) | Target::Gateway(service) => (
            format!("the Service {service}"),
            format!("the role editor of the namespace {}", service.namespace),
        ),
        Target::Host(host) | Target::Unknown(host) => {
            (format!("the host {host}"), "that role in the namespace of its ServiceEntry".to_owned())
        }
    };
    format!(
        "may not have the VirtualService {key} say what becomes of calls of other namespaces to {host}: write \
         `exportTo: [\".\"]`, so that it acts on callers of {} alone, or use a token with {owner}",
        key.namespace
    )
}
