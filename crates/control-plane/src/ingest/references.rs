//! What one resource says of another: checked when all are read.

use std::collections::{BTreeMap, BTreeSet};

use meshwork_model::mesh::{Config, Key, Protocol, RouteKind, Service};
use meshwork_model::problem::{Place, Problem};

use super::reader::{Item, MAX_PROBLEMS, Report};
use super::words::{closest, list};

/// A reference with the place where it is written.
#[derive(Debug)]
pub(crate) struct Reference {
    file: String,
    resource: String,
    path: String,
    place: Place,
    target: Target,
}

/// What is referred to.
#[derive(Debug)]
pub(crate) enum Target {
    /// A service whose callers a route acts on.
    Parent { service: Key, port: Option<u16>, kind: RouteKind },
    /// A service that a rule leads to.
    Backend { service: Key, port: u16 },
    /// The service account of a principal.
    ServiceAccount(Key),
}

impl Reference {
    pub(crate) fn new(report: &Report<'_>, item: &Item<'_>, target: Target) -> Self {
        Self {
            file: report.file().to_owned(),
            resource: report.resource().to_owned(),
            path: item.path.clone(),
            place: item.node.place,
            target,
        }
    }

    fn problem(&self, message: String, fix: String) -> Problem {
        Problem::error(&self.resource, &self.path, message, fix).at(&self.file, Some(self.place))
    }
}

/// Checks every reference.
pub(crate) fn check(references: &[Reference], config: &Config, accounts: &BTreeSet<Key>) -> Vec<Problem> {
    let mut problems = Vec::new();
    let mut warnings = Vec::new();
    for reference in references {
        if problems.len() >= MAX_PROBLEMS {
            break;
        }
        match &reference.target {
            Target::Backend { service, port } => {
                find_port(reference, service, *port, config, &mut problems);
            }
            Target::Parent { service, port, kind } => {
                check_parent(reference, service, *port, *kind, config, &mut problems);
            }
            Target::ServiceAccount(account) if warnings.len() < MAX_PROBLEMS => {
                warnings.extend(check_account(reference, account, accounts));
            }
            Target::ServiceAccount(_) => {}
        }
    }
    problems.extend(check_parents(references, config));
    problems.extend(warnings);
    problems
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

fn find_port(
    reference: &Reference,
    key: &Key,
    port: u16,
    config: &Config,
    problems: &mut Vec<Problem>,
) -> Option<Protocol> {
    let service = find_service(reference, key, config, problems)?;
    let found = service.ports.iter().find(|p| p.port == port).map(|p| p.protocol);
    if found.is_none() {
        let ports: Vec<String> = service.ports.iter().map(|p| p.port.to_string()).collect();
        let fix = match &*ports {
            [] => String::new(),
            [one] => format!("Its port is {one}"),
            several => format!("Its ports are {}", several.join(", ")),
        };
        problems.push(reference.problem(format!("the Service `{}` has no port {port}", key.name), fix));
    }
    found
}

fn check_parent(
    reference: &Reference,
    key: &Key,
    port: Option<u16>,
    kind: RouteKind,
    config: &Config,
    problems: &mut Vec<Problem>,
) {
    let (what, protocols): (_, &[&str]) = match kind {
        RouteKind::Http => ("HTTP", &["http", "http2", "grpc"]),
        RouteKind::Grpc => ("gRPC", &["grpc"]),
    };
    let carries = |protocol: Protocol| match kind {
        RouteKind::Http => protocol.is_http(),
        RouteKind::Grpc => protocol.is_http2(),
    };
    let message = if let Some(port) = port {
        let Some(protocol) = find_port(reference, key, port, config, problems) else { return };
        (!carries(protocol))
            .then(|| format!("port {port} of the Service `{}` does not speak {what}", key.name))
    } else {
        let Some(service) = find_service(reference, key, config, problems) else { return };
        let any = service.ports.iter().any(|p| carries(p.protocol));
        (!any).then(|| format!("no port of the Service `{}` speaks {what}", key.name))
    };
    let fix = format!("Set the port's `appProtocol` to {}", list(protocols));
    problems.extend(message.map(|message| reference.problem(message, fix)));
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
    Some(reference.problem(message, fix).warning())
}

/// The two kinds of routes may not share a service's port. Source: Gateway API, "Cross Serving and Listener Isolation".
fn check_parents(references: &[Reference], config: &Config) -> Vec<Problem> {
    let mut owners: BTreeMap<(&Key, u16), &Reference> = BTreeMap::new();
    let mut problems = Vec::new();
    for reference in references {
        let Target::Parent { service, port, kind } = &reference.target else { continue };
        let Some(found) = config.services.get(service) else { continue };
        let http = found.ports.iter().filter(|p| p.protocol.is_http() && port.is_none_or(|n| n == p.port));
        for port in http {
            let owner = owners.entry((service, port.port)).or_insert(reference);
            if !matches!(&owner.target, Target::Parent { kind: other, .. } if other == kind) {
                let message = format!(
                    "{} is attached to port {} of the Service `{}`, and HTTPRoutes and GRPCRoutes do not mix on one",
                    owner.resource, port.port, service.name
                );
                problems.push(reference.problem(message, "Use one kind for all of its routes".to_owned()));
            }
        }
    }
    problems
}
