//! What one resource says of another: checked when all are read.
//!
//! What leads nowhere is told and applied all the same, as in Kubernetes: resources come in any order, and a route
//! answers its share for what is not there with an error. Source: Gateway API v1, `ResolvedRefs`.

mod hosts;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use meshwork_model::address::unfetchable_host;
use meshwork_model::mesh::{
    Backend, Config, ConnectionRouteKind, Key, KeyUrl, Parent, Protocol, RouteKind, RuleAction, Service,
    ServicePort, Target, TrafficTarget,
};
use meshwork_model::problem::{Code, Place, Problem};

use hosts::Known;

use super::reader::{Item, MAX_PROBLEMS, Report};
use super::words::{closest, list};
use crate::attachment::carries;
use crate::attachment::gateways::{Candidate, attach};

/// The API group of Gateway API's kinds.
pub(crate) const GATEWAY_GROUP: &str = "gateway.networking.k8s.io";

/// A reference with the place where it is written.
#[derive(Clone, Debug)]
pub(crate) struct Reference {
    file: String,
    resource: String,
    path: String,
    place: Place,
    target: Referred,
}

/// What is referred to.
#[derive(Clone, Debug)]
pub(crate) enum Referred {
    /// What a route is attached to.
    Parent {
        /// That.
        parent: Parent,
        /// What the route carries.
        carried: Carried,
        /// The route's namespace.
        namespace: Arc<str>,
    },
    /// A service that a rule leads to.
    Backend {
        /// The service.
        service: Key,
        /// Its port.
        port: u16,
        /// The kind and the namespace of the route, where a ReferenceGrant has to allow it.
        from: Option<(&'static str, Arc<str>)>,
    },
    /// What a VirtualService leads to.
    Destination {
        /// That.
        target: Target,
        /// Its port, where one is said.
        port: Option<u16>,
        /// A subset, where one is said.
        subset: Option<Arc<str>>,
    },
    /// What a VirtualService or a DestinationRule acts on.
    Host(Target),
    /// A DestinationRule, whose terms hold where no older one is for the same callers of the same host.
    OldestRule(Key),
    /// A Sidecar that selects all workloads of its namespace, of which there is one.
    OnlySidecar(Key),
    /// What a TrafficPolicy is attached to.
    Attached {
        /// That.
        target: TrafficTarget,
        /// The policy.
        policy: Key,
    },
    /// The service account of a principal.
    ServiceAccount(Key),
    /// A provider that a policy has asked.
    Provider(Arc<str>),
    /// A service whose workloads a policy protects.
    PolicyTarget(Key),
    /// Where keys for tokens are fetched.
    Keys(KeyUrl),
}

/// What a route carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Carried {
    /// Requests.
    Requests(RouteKind),
    /// Connections.
    Connections(ConnectionRouteKind),
}

impl Carried {
    /// The name of the route's kind.
    fn name(self) -> &'static str {
        match self {
            Self::Requests(kind) => kind.name(),
            Self::Connections(kind) => kind.name(),
        }
    }

    fn fits(self, protocol: Protocol) -> bool {
        match self {
            Self::Requests(kind) => carries(kind, protocol),
            Self::Connections(ConnectionRouteKind::Virtual) => true,
            Self::Connections(_) => !protocol.is_http(),
        }
    }

    /// What it is called, and the protocols that it fits.
    fn words(self) -> (&'static str, &'static [&'static str]) {
        match self {
            Self::Requests(RouteKind::Http | RouteKind::Virtual) => ("HTTP", &["http", "http2", "grpc"]),
            Self::Requests(RouteKind::Grpc) => ("gRPC", &["grpc"]),
            Self::Connections(_) => ("TCP", &["tcp", "tls"]),
        }
    }
}

impl Reference {
    pub(crate) fn new(report: &Report<'_>, item: &Item<'_>, target: Referred) -> Self {
        Self {
            file: report.file().to_owned(),
            resource: report.resource().to_owned(),
            path: item.path.clone(),
            place: item.node.place,
            target,
        }
    }

    fn problem(&self, message: String, fix: impl Into<String>) -> Problem {
        let problem = Problem::error(&self.resource, &self.path, message, fix).of(Code::LeadsNowhere);
        problem.at(&self.file, Some(self.place)).warning()
    }
}

/// Checks every reference.
pub(crate) fn check(references: &[&Reference], config: &Config, accounts: &BTreeSet<Key>) -> Vec<Problem> {
    let kinds = kinds_of_ports(config);
    let known = Known::of(config);
    let mut problems = Vec::new();
    for reference in references {
        if problems.len() >= MAX_PROBLEMS {
            break;
        }
        match &reference.target {
            Referred::Backend { service, port, from } => {
                check_backend(reference, service, *port, from.as_ref(), config, &mut problems);
            }
            Referred::Parent {
                parent: parent @ Parent { target: Target::Gateway(key), .. },
                carried,
                namespace,
            } => {
                // Its hostnames are no matter of references.
                let route = Candidate { kind: carried.name(), namespace, hostnames: &[] };
                if let Err((_, why)) = attach(config, key, parent, route) {
                    problems.push(reference.problem(why, ""));
                }
            }
            Referred::Parent { parent, carried, namespace } => {
                if let Some(ports) = check_parent(reference, parent, *carried, config, &mut problems) {
                    let mixed = check_mixed(reference, parent, *carried, namespace, &ports, &kinds);
                    problems.extend(mixed);
                }
            }
            Referred::Destination { .. }
            | Referred::OldestRule(_)
            | Referred::OnlySidecar(_)
            | Referred::Attached { .. } => problems.extend(known.check(reference)),
            Referred::Host(target) => {
                problems.extend(known.check(reference));
                problems.extend(check_replaced(reference, target, config, &kinds));
            }
            Referred::ServiceAccount(account) => {
                problems.extend(check_account(reference, account, accounts));
            }
            Referred::Provider(name) => {
                let names: Vec<&str> = config.defaults.providers.keys().map(|name| &**name).collect();
                if !names.contains(&&**name) {
                    let message = format!(
                        "the MeshConfig has no extension provider `{name}`, so that what it would be asked about is refused"
                    );
                    let fix = closest(name, &names).map(|name| format!("Did you mean `{name}`?"));
                    problems.push(reference.problem(message, fix.unwrap_or_default()));
                }
            }
            Referred::PolicyTarget(service) => {
                find_service(reference, service, config, &mut problems);
            }
            Referred::Keys(url) => problems.extend(check_keys(reference, url, config)),
        }
    }
    problems
}

/// Who may write a policy is not to have every proxy ask what listens near it.
fn check_keys(reference: &Reference, url: &KeyUrl, config: &Config) -> Option<Problem> {
    let why = unfetchable_host(&url.host).filter(|_| !config.defaults.key_fetching.allows_local)?;
    let message = format!("keys are not fetched from {}: it is {why}", url.host);
    let fix = "Serve them as a Service of the mesh, or write `jwks: { allowLocalAddresses: true }` in the MeshConfig";
    let problem = Problem::error(&reference.resource, &reference.path, message, fix);
    Some(problem.at(&reference.file, Some(reference.place)))
}

fn find_service<'c>(
    reference: &Reference,
    key: &Key,
    config: &'c Config,
    problems: &mut Vec<Problem>,
) -> Option<&'c Service> {
    let found = config.services.get(key);
    if found.is_none() {
        let here = config.services.keys().filter(|k| k.namespace == key.namespace);
        let names: Vec<&str> = here.map(|k| &*k.name).collect();
        let fix =
            closest(&key.name, &names).map(|name| format!("Did you mean `{name}`?")).unwrap_or_default();
        let message = format!("there is no Service `{}` in the namespace `{}`", key.name, key.namespace);
        problems.push(reference.problem(message, fix));
    }
    found
}

/// The ports of a service that are named, and why there is none.
fn ports<'c>(
    reference: &Reference,
    service: (&Key, &'c Service),
    named: &Parent,
    problems: &mut Vec<Problem>,
) -> Vec<&'c ServicePort> {
    let (key, service) = service;
    let found: Vec<&ServicePort> = service.ports.iter().filter(|port| named.names(port)).collect();
    if found.is_empty() {
        let each = |port: &ServicePort| match &*port.name {
            "" => port.port.to_string(),
            name if named.section.is_some() => format!("{} ({name})", port.port),
            _ => port.port.to_string(),
        };
        let ports: Vec<String> = service.ports.iter().map(each).collect();
        let fix = match &*ports {
            [] => String::new(),
            [one] => format!("Its port is {one}"),
            several => format!("Its ports are {}", several.join(", ")),
        };
        let what = match (named.port, &named.section) {
            (Some(port), None) => format!("no port {port}"),
            (None, Some(name)) => format!("no port named `{name}`"),
            (Some(port), Some(name)) => format!("no port {port} named `{name}`"),
            (None, None) => "no port".to_owned(),
        };
        problems.push(reference.problem(format!("the Service `{}` has {what}", key.name), fix));
    }
    found
}

fn check_backend(
    reference: &Reference,
    key: &Key,
    port: u16,
    from: Option<&(&'static str, Arc<str>)>,
    config: &Config,
    problems: &mut Vec<Problem>,
) {
    if let Some((kind, namespace)) = from
        && !config.grants((GATEWAY_GROUP, kind), namespace, ("", "Service"), key)
    {
        let message = format!(
            "no ReferenceGrant of the namespace `{}` allows a {kind} of `{namespace}` to lead to its Service `{}`",
            key.namespace, key.name
        );
        let fix = "Add one there, or lead to a Service of the route's own namespace";
        problems.push(reference.problem(message, fix).of(Code::NotAllowed));
        // What others have is not told to who may not refer to it.
        return;
    }
    if let Some(service) = find_service(reference, key, config, problems) {
        let named = Parent { port: Some(port), ..Parent::all_of(Target::Service(key.clone())) };
        ports(reference, (key, service), &named, problems);
    }
}

/// The ports that a route acts on.
fn check_parent<'c>(
    reference: &Reference,
    parent: &Parent,
    carried: Carried,
    config: &'c Config,
    problems: &mut Vec<Problem>,
) -> Option<Vec<&'c ServicePort>> {
    let key = parent.target.as_service()?;
    let service = find_service(reference, key, config, problems)?;
    let named = ports(reference, (key, service), parent, problems);
    let fitting: Vec<_> = named.iter().copied().filter(|port| carried.fits(port.protocol)).collect();
    if fitting.is_empty() && !named.is_empty() {
        let (what, protocols) = carried.words();
        let message = match *named {
            [port] if parent.port.is_some() || parent.section.is_some() => {
                format!("port {} of the Service `{}` does not speak {what}", port.port, key.name)
            }
            _ => format!("no port of the Service `{}` speaks {what}", key.name),
        };
        let fix = format!("Set the port's `appProtocol` to {}", list(protocols));
        problems.push(reference.problem(message, fix).of(Code::WrongProtocol));
    }
    Some(fitting)
}

/// A typing error in a principal would shut out a caller, or let one in: said as a warning, for service accounts
/// need not be declared. Where a namespace declares none, nothing is said.
fn check_account(reference: &Reference, account: &Key, accounts: &BTreeSet<Key>) -> Option<Problem> {
    let here = accounts.iter().filter(|a| a.namespace == account.namespace);
    let names: Vec<&str> = here.map(|a| &*a.name).collect();
    if names.is_empty() || names.contains(&&*account.name) {
        return None;
    }
    let fix =
        closest(&account.name, &names).map(|name| format!("Did you mean `{name}`?")).unwrap_or_default();
    let message =
        format!("the namespace `{}` declares no ServiceAccount `{}`", account.namespace, account.name);
    Some(reference.problem(message, fix))
}

/// The kind of routes that has a service's port, for each namespace of routes: that of the oldest.
type KindsOfPorts<'c> = BTreeMap<(&'c Key, u16, &'c Arc<str>), (u64, &'c Key, RouteKind)>;

fn kinds_of_ports(config: &Config) -> KindsOfPorts<'_> {
    let mut kinds = KindsOfPorts::new();
    for ((kind, key), route) in config.routes.iter().filter(|((kind, _), _)| *kind != RouteKind::Virtual) {
        for parent in &route.parents {
            let Some(service) = parent.target.as_service() else { continue };
            let Some(found) = config.services.get(service) else { continue };
            let this = (route.age, key, *kind);
            for port in found.ports.iter().filter(|p| parent.names(p) && carries(*kind, p.protocol)) {
                let first = kinds.entry((service, port.port, &key.namespace)).or_insert(this);
                *first = this.min(*first);
            }
        }
    }
    kinds
}

/// The two kinds of routes may not share a service's port. Source: Gateway API v1, `GRPCRoute`, "accept exactly one of
/// these two routes".
fn check_mixed(
    reference: &Reference,
    parent: &Parent,
    carried: Carried,
    namespace: &Arc<str>,
    ports: &[&ServicePort],
    kinds: &KindsOfPorts<'_>,
) -> Option<Problem> {
    let Carried::Requests(kind) = carried else { return None };
    let service = parent.target.as_service()?;
    ports.iter().find_map(|port| {
        let (_, owner, first) = kinds.get(&(service, port.port, namespace))?;
        let message = format!(
            "{} {owner} has port {} of the Service `{}`, and HTTPRoutes and GRPCRoutes do not mix on one: this one is \
             not used there",
            first.name(),
            port.port,
            service.name
        );
        let fix = "Use one kind for all of its routes";
        (*first != kind && kind != RouteKind::Virtual)
            .then(|| reference.problem(message, fix).of(Code::Conflict))
    })
}

/// A VirtualService does not act on a port that a route of Gateway API beside the service has.
fn check_replaced(
    reference: &Reference,
    target: &Target,
    config: &Config,
    kinds: &KindsOfPorts<'_>,
) -> Option<Problem> {
    let service =
        target.as_service().filter(|_| reference.resource.starts_with(RouteKind::Virtual.name()))?;
    let ports = &config.services.get(service)?.ports;
    ports.iter().find_map(|port| {
        let (_, owner, kind) = kinds.get(&(service, port.port, &service.namespace))?;
        let message = format!(
            "{} {owner} has port {} of the Service `{}`, so this is not used there",
            kind.name(),
            port.port,
            service.name
        );
        Some(reference.problem(message, "Use one of them for each port").of(Code::Conflict))
    })
}

/// Whether a route of a namespace needs a ReferenceGrant to lead to a service. Callers of services that it is attached to
/// may call their namespace anyway: a consumer's route leads where its callers already go. A gateway's callers, and those of
/// services elsewhere, do not.
pub(crate) fn needs_grant(namespace: &str, parents: &[Parent], service: &Key) -> bool {
    let stands_there =
        |parent: &Parent| parent.target.as_service().is_some_and(|of| of.namespace == service.namespace);
    *service.namespace != *namespace && (parents.is_empty() || !parents.iter().all(stands_there))
}

/// Marks the backends that no ReferenceGrant allows.
pub(crate) fn forbid(config: &mut Config) {
    forbid_of_requests(config);
    forbid_of_connections(config);
}

fn forbid_of_requests(config: &mut Config) {
    let mut routes = Vec::new();
    for ((kind, key), route) in &config.routes {
        let rules = route.rules.iter();
        let backends =
            rules.flat_map(|rule| rule.backends().iter().chain(rule.mirrors.iter().map(|m| &m.to)));
        if *kind != RouteKind::Virtual && differs(config, kind.name(), key, &route.parents, backends) {
            routes.push((*kind, key.clone()));
        }
    }
    for id in routes {
        let Some(mut route) = config.routes.get(&id).cloned() else { continue };
        let allowed = |backend: &Backend| is_allowed(config, id.0.name(), &id.1, &route.parents, backend);
        for rule in &mut route.rules {
            if let RuleAction::Forward(backends) = &mut rule.action {
                for backend in backends {
                    backend.forbidden = !allowed(backend);
                }
            }
            for mirror in &mut rule.mirrors {
                mirror.to.forbidden = !allowed(&mirror.to);
            }
        }
        config.routes.insert(id, route);
    }
}

fn forbid_of_connections(config: &mut Config) {
    let mut routes = Vec::new();
    for ((kind, key), route) in &config.connection_routes {
        let backends = route.rules.iter().flat_map(|rule| &rule.backends);
        if *kind != ConnectionRouteKind::Virtual
            && differs(config, kind.name(), key, &route.parents, backends)
        {
            routes.push((*kind, key.clone()));
        }
    }
    for id in routes {
        let Some(mut route) = config.connection_routes.get(&id).cloned() else { continue };
        let allowed = |backend: &Backend| is_allowed(config, id.0.name(), &id.1, &route.parents, backend);
        for rule in &mut route.rules {
            for backend in &mut rule.backends {
                backend.forbidden = !allowed(backend);
            }
        }
        config.connection_routes.insert(id, route);
    }
}

/// Whether one of a route's backends is marked otherwise than it should be.
fn differs<'b>(
    config: &Config,
    kind: &str,
    route: &Key,
    parents: &[Parent],
    mut backends: impl Iterator<Item = &'b Backend>,
) -> bool {
    backends.any(|backend| backend.forbidden == is_allowed(config, kind, route, parents, backend))
}

fn is_allowed(config: &Config, kind: &str, route: &Key, parents: &[Parent], backend: &Backend) -> bool {
    backend.target.as_service().is_none_or(|service| {
        !needs_grant(&route.namespace, parents, service)
            || config.grants((GATEWAY_GROUP, kind), &route.namespace, ("", "Service"), service)
    })
}
