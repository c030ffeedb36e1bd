//! What one namespace's config may say of another's: that a resource stands in a namespace is not always all that it takes
//! to write it. Pure.
//!
//! A VirtualService acts on callers of every namespace that it is exported to, whosever the host is. Who writes one has
//! the word for that host, or for all those callers. A ServiceEntry says where those callers find a host, which is nobody's:
//! who writes one has the word for the callers. At a Gateway a host is whose route had it first. What is on the hosts that
//! proxies run on is no namespace's: addresses near them, files on them. Files of the folder are their operator's, and are
//! not asked.

use std::fmt;
use std::sync::Arc;

use meshwork_model::address::{unfetchable, unfetchable_host};
use meshwork_model::mesh::{
    Config, ConnectionRouteKind, DestinationRule, Export, Key, OutsideTls, Parent, PortTerms, Resolution,
    RouteKind, Target, TrafficTerms,
};
use serde_json::Value as Json;

use super::{Change, Rights};
use crate::attachment::gateways::{Candidate, attach};

/// Looks whether whoever makes these changes may say what they say of others; `config` is as it would be.
///
/// # Errors
/// Why not, and what to do: words that follow a name.
pub(super) fn check(changes: &[Change], config: &Config, rights: &dyn Rights) -> Result<(), String> {
    for change in changes.iter().filter(|change| change.before != change.after) {
        let key = Key::new(&*change.namespace, &*change.name);
        match &*change.kind {
            "VirtualService" => check_routes(&key, config, rights)?,
            "ServiceEntry" => {
                check_entry(&key, config, rights)?;
                check_left(&key, change, config, rights)?;
            }
            "WorkloadEntry" => check_workload(&key, config, rights)?,
            "DestinationRule" => check_files(&key, config, rights)?,
            "HTTPRoute" | "GRPCRoute" | "TLSRoute" => check_at_gateways(&key, change, config, rights)?,
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
    let Some(entry) = config.service_entries.get(key) else { return Ok(()) };
    if speaks_for_callers(key, &entry.export, rights) {
        let near = match &entry.resolution {
            Resolution::Static(all) => {
                // Who has an identity there proves it: whoever else listens is not spoken to.
                let plain = all.iter().filter(|endpoint| endpoint.account.is_none());
                plain.map(|endpoint| endpoint.address).find_map(|ip| Some((ip.to_string(), unfetchable(ip)?)))
            }
            Resolution::Dns(all) => {
                let mut named = all.iter().map(|endpoint| &endpoint.address).chain(&entry.hosts);
                named.find_map(|name| Some((name.to_string(), unfetchable_host(name)?)))
            }
            Resolution::Workloads(_) => None,
        };
        return check_near("ServiceEntry", key, near, rights);
    }
    Err(format!(
        "may not have the ServiceEntry {key} say where programs of other namespaces find its hosts: write \
         `exportTo: [\".\"]`, so that it is for those of {} alone, or use a token with the role editor where else it is \
         exported to",
        key.namespace
    ))
}

/// Looks whether VirtualServices act on callers of other namespaces by a host that its owner gives up: who has it next
/// did not give them their word.
fn check_left(key: &Key, change: &Change, config: &Config, rights: &dyn Rights) -> Result<(), String> {
    let hosts = change.before.as_ref().and_then(|json| json.pointer("/spec/hosts")?.as_array());
    for host in hosts.into_iter().flatten().filter_map(Json::as_str) {
        let mut own = config.service_entries.iter().filter(|(entry, _)| entry.namespace == key.namespace);
        if own.any(|(_, entry)| entry.hosts.iter().any(|one| &**one == host)) {
            continue;
        }
        let is_meant = |parent: &&Parent| matches!(&parent.target, Target::Host(of) if &**of == host);
        let acts = |(virtual_service, parents, export): &(&Key, &[Parent], &Export)| {
            let mut meant = parents.iter().filter(is_meant);
            !speaks_for_callers(virtual_service, export, rights)
                && meant.any(|parent| !speaks_for_host(virtual_service, parent, config, rights))
        };
        if let Some((left, ..)) = virtual_services(config).find(acts) {
            let is_told = left.namespace == key.namespace || rights.may_speak_for(Some(&left.namespace));
            let which = if is_told { left.to_string() } else { "of another namespace".to_owned() };
            return Err(format!(
                "may not take the host {host} from the ServiceEntry {key} while the VirtualService {which} acts on \
                 callers of other namespaces by it: delete that, or write `exportTo: [\".\"]` there, first"
            ));
        }
    }
    Ok(())
}

fn virtual_services(config: &Config) -> impl Iterator<Item = (&Key, &[Parent], &Export)> {
    let of_requests = config.routes.iter().filter(|((kind, _), _)| *kind == RouteKind::Virtual);
    let of_requests = of_requests.map(|((_, key), route)| (key, &route.parents[..], &route.export));
    let all = config.connection_routes.iter();
    let of_connections = all.filter(|((kind, _), _)| *kind == ConnectionRouteKind::Virtual);
    let of_connections = of_connections.map(|((_, key), route)| (key, &route.parents[..], &route.export));
    of_requests.chain(of_connections)
}

/// What a route takes at gateways.
struct Taking<'c> {
    kind: &'static str,
    key: &'c Key,
    parents: &'c [Parent],
    /// None for all.
    hosts: &'c [Arc<str>],
}

fn takings(config: &Config) -> impl Iterator<Item = Taking<'_>> {
    let of_requests = config.routes.iter().filter(|((kind, _), _)| *kind != RouteKind::Virtual);
    let of_requests = of_requests.map(|((kind, key), route)| Taking {
        kind: kind.name(),
        key,
        parents: &route.parents,
        hosts: &route.hostnames,
    });
    let all = config.connection_routes.iter();
    let of_connections = all.filter(|((kind, _), _)| *kind == ConnectionRouteKind::Tls);
    let of_connections = of_connections.map(|((kind, key), route)| Taking {
        kind: kind.name(),
        key,
        parents: &route.parents,
        hosts: route.rules.first().map_or(&[][..], |rule| &rule.server_names),
    });
    of_requests.chain(of_connections)
}

impl Taking<'_> {
    /// Whether both act on one listener of a gateway, to which this one is attached.
    fn meets(&self, other: &Self, config: &Config) -> bool {
        let is_tls = |kind| kind == ConnectionRouteKind::Tls.name();
        let own = Candidate { kind: self.kind, namespace: &self.key.namespace, hostnames: self.hosts };
        let is_attached = |one: &Parent| match &one.target {
            Target::Gateway(gateway) => attach(config, gateway, one, own).is_ok(),
            Target::Service(_) | Target::Host(_) | Target::Unknown(_) => false,
        };
        let is_one = |one: &Parent, other: &Parent| {
            one.target == other.target
                && one.port.zip(other.port).is_none_or(|(one, other)| one == other)
                && one.section.as_ref().zip(other.section.as_ref()).is_none_or(|(one, other)| one == other)
        };
        is_tls(self.kind) == is_tls(other.kind)
            && self
                .parents
                .iter()
                .any(|one| other.parents.iter().any(|other| is_one(one, other)) && is_attached(one))
    }

    /// The hosts that both take, `*` for all; which of the two gets a request, its path would say.
    fn shares(&self, other: &Self) -> Vec<&str> {
        match (self.hosts, other.hosts) {
            ([], []) => vec!["*"],
            (own, others) => own.iter().filter(|host| others.contains(host)).map(|host| &**host).collect(),
        }
    }
}

/// Looks whether a route begins to take requests for a host at a gateway that a route of another namespace has there.
fn check_at_gateways(key: &Key, change: &Change, config: &Config, rights: &dyn Rights) -> Result<(), String> {
    let mut all = takings(config);
    let Some(own) = all.find(|one| one.kind == change.kind && one.key == key) else { return Ok(()) };
    let is_foreign =
        |other: &&Key| other.namespace != key.namespace && !rights.may_speak_for(Some(&other.namespace));
    let others = takings(config).filter(|other| is_foreign(&other.key) && other.meets(&own, config));
    let had = hosts_before(change);
    let is_new = |host: &&str| !had.iter().any(|had| had == host);
    let Some(host) = others.flat_map(|other| own.shares(&other)).find(is_new) else { return Ok(()) };
    Err(format!(
        "may not have the {} {key} take requests for {host} at a Gateway where a route of another namespace has them: \
         take another host, or use a token with the role editor there, too",
        change.kind
    ))
}

/// The hosts that a route took at the same gateways before.
fn hosts_before(change: &Change) -> Vec<String> {
    let parents = |json: Option<&Json>| json?.pointer("/spec/parentRefs").cloned();
    if parents(change.before.as_ref()) != parents(change.after.as_ref()) {
        return Vec::new();
    }
    let hosts = change.before.as_ref().and_then(|json| json.pointer("/spec/hostnames")?.as_array());
    match hosts.map(Vec::as_slice) {
        None | Some([]) => vec!["*".to_owned()],
        Some(hosts) => hosts.iter().filter_map(Json::as_str).map(str::to_ascii_lowercase).collect(),
    }
}

fn check_workload(key: &Key, config: &Config, rights: &dyn Rights) -> Result<(), String> {
    let entry = config.workload_entries.get(key).filter(|entry| entry.account.is_none());
    let near = entry.and_then(|entry| Some((entry.address, unfetchable(entry.address)?)));
    check_near("WorkloadEntry", key, near, rights)
}

/// What listens near the hosts of callers trusts whoever can connect, and belongs to the operators of those hosts.
fn check_near(
    kind: &str,
    key: &Key,
    near: Option<(impl fmt::Display, &str)>,
    rights: &dyn Rights,
) -> Result<(), String> {
    let Some((address, what)) = near.filter(|_| !rights.may_speak_for(None)) else { return Ok(()) };
    Err(format!(
        "may not have the {kind} {key} lead callers to {address}, which is {what}: name another host's address, or use \
         a token with the role editor in all namespaces"
    ))
}

/// A proxy reads files as its own user: those of other workloads of the host may be among them, with their keys.
fn check_files(key: &Key, config: &Config, rights: &dyn Rights) -> Result<(), String> {
    let rule = config.destination_rules.get(key).filter(|_| !rights.may_speak_for(None));
    if !rule.is_some_and(names_keys) {
        return Ok(());
    }
    Err(format!(
        "may not have the DestinationRule {key} name files with private keys on the hosts of callers: have the hosts' \
         operator put it into the config folder, or use a token with the role editor in all namespaces"
    ))
}

fn names_keys(rule: &DestinationRule) -> bool {
    let has_keys = |terms: &PortTerms| match &terms.tls {
        Some(OutsideTls::On(context)) => !context.common.certificates.is_empty(),
        Some(OutsideTls::Off) | None => false,
    };
    let has_any = |terms: &TrafficTerms| has_keys(&terms.all) || terms.ports.values().any(has_keys);
    has_any(&rule.terms) || rule.subsets.iter().any(|subset| has_any(&subset.terms))
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
