//! What is wrong with config that is right piece by piece: rules that never act, policies that select nothing, hosts
//! that two namespaces claim.
//!
//! What may be so on purpose is a warning, and nothing is said where it is not certain.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use meshwork_model::mesh::{
    Config, Export, Key, Labels, Parent, PathMatch, Route, RouteKind, RouteMatch, SERVICE_LABEL, Target,
    UnixSelectors, WorkloadRegistration,
};
use meshwork_model::problem::{Code, Problem};

use super::Kind;

/// The most pairs of matches that are compared: what is behind them is not warned of.
const MAX_COMPARED: usize = 1_000_000;

/// A problem with the resource that it is of.
pub(super) type Found = (Kind, Key, Problem);

/// Checks all of the config together.
pub(super) fn check(config: &Config) -> Vec<Found> {
    let mut found = shadowed(config);
    found.extend(idle_policies(config));
    found.extend(claims(config));
    found.extend(taken_for_two(config));
    found.extend(foreign_agents(config));
    found
}

fn problem(kind: Kind, key: &Key, field: String, message: String, fix: &str, code: Code) -> Found {
    (kind, key.clone(), Problem::error(format!("{} {key}", kind.name()), field, message, fix).of(code))
}

// --- rules that never act ---

/// Whose requests a route acts on: of a target, by callers of one namespace, or of all where it is `None`.
type Scope<'c> = (RouteKind, &'c Target, Option<&'c Arc<str>>);

/// A match of a rule, attached to a parent.
#[derive(Clone, Copy)]
struct Candidate<'c> {
    key: &'c Key,
    route: &'c Route,
    parent: &'c Parent,
    rule: usize,
    matches: &'c RouteMatch,
}

fn shadowed(config: &Config) -> Vec<Found> {
    let mut left = MAX_COMPARED;
    let mut found = Vec::new();
    let alike = alike(config);
    for ((kind, key), route) in &config.routes {
        for rule in 0..route.rules.len() {
            let earlier = match kind {
                RouteKind::Virtual => written_earlier(route, rule, &mut left),
                _ => taken_by(*kind, key, route, rule, &alike, &mut left),
            };
            let Some(earlier) = earlier else { continue };
            let message = format!("{earlier} matches all that this rule does, and goes before it");
            let fix = "Make that one narrower, or take one of them out";
            let field = match kind {
                RouteKind::Virtual => format!("spec.http[{rule}]"),
                _ => format!("spec.rules[{rule}]"),
            };
            let (kind, key, problem) = problem(kind_of(*kind), key, field, message, fix, Code::Shadowed);
            found.push((kind, key, problem.warning()));
        }
    }
    found
}

fn kind_of(kind: RouteKind) -> Kind {
    match kind {
        RouteKind::Http => Kind::HttpRoute,
        RouteKind::Grpc => Kind::GrpcRoute,
        RouteKind::Virtual => Kind::VirtualService,
    }
}

/// Rules of VirtualServices are tried as they are written.
fn written_earlier(route: &Route, rule: usize, left: &mut usize) -> Option<String> {
    let mut first = None;
    for matches in &route.rules[rule].matches {
        let covers = |earlier: &usize| {
            route.rules[*earlier].matches.iter().any(|one| {
                *left = left.saturating_sub(1);
                *left > 0 && covers(one, matches)
            })
        };
        let covering = (0..rule).find(covers)?;
        first.get_or_insert(covering);
    }
    first.map(|earlier| name_of(route, earlier, "spec.http"))
}

fn name_of(route: &Route, rule: usize, list: &str) -> String {
    match &*route.rules[rule].name {
        "" => format!("the rule {list}[{rule}]"),
        name => format!("the rule \"{name}\""),
    }
}

/// Matches of the Gateway API's kinds by scope and path. A narrower match goes before a broader one, so that one is
/// shadowed only by another that is the same.
fn alike(config: &Config) -> BTreeMap<(Scope<'_>, &str), Vec<Candidate<'_>>> {
    let mut alike: BTreeMap<_, Vec<Candidate<'_>>> = BTreeMap::new();
    for ((kind, key), route) in config.routes.iter().filter(|((kind, _), _)| *kind != RouteKind::Virtual) {
        for parent in &route.parents {
            for (rule, rules) in route.rules.iter().enumerate() {
                for matches in &rules.matches {
                    let candidate = Candidate { key, route, parent, rule, matches };
                    let place = (scope(*kind, key, parent), path_of(matches));
                    alike.entry(place).or_default().push(candidate);
                }
            }
        }
    }
    alike
}

fn scope<'c>(kind: RouteKind, key: &'c Key, parent: &'c Parent) -> Scope<'c> {
    let consumer = match &parent.target {
        Target::Service(service) if service.namespace != key.namespace => Some(&key.namespace),
        _ => None,
    };
    (kind, &parent.target, consumer)
}

fn path_of(matches: &RouteMatch) -> &str {
    match &matches.path {
        PathMatch::Exact(path) | PathMatch::Prefix(path) | PathMatch::Text(path) => path,
        PathMatch::Regex(regex) => regex.pattern(),
    }
}

/// Who takes all matches of a rule, on all of its parents.
fn taken_by(
    kind: RouteKind,
    key: &Key,
    route: &Route,
    rule: usize,
    alike: &BTreeMap<(Scope<'_>, &str), Vec<Candidate<'_>>>,
    left: &mut usize,
) -> Option<String> {
    let mut first = None;
    for parent in &route.parents {
        for matches in &route.rules[rule].matches {
            let candidates = alike.get(&(scope(kind, key, parent), path_of(matches)))?;
            let goes_before = |other: &&Candidate<'_>| {
                *left = left.saturating_sub(1);
                *left > 0
                    && (other.route.age, other.key, other.rule) < (route.age, key, rule)
                    && other.matches == matches
                    && acts_there(other, parent, route)
            };
            let taking = candidates.iter().find(goes_before)?;
            first.get_or_insert(taking);
        }
    }
    let Candidate { key: other, route: by, rule: earlier, .. } = first?;
    let name = name_of(by, *earlier, "spec.rules");
    Some(if *other == key { name } else { format!("{name} of the {} {other}", kind_of(kind).name()) })
}

/// Whether another route acts wherever this one does on its parent.
fn acts_there(other: &Candidate<'_>, parent: &Parent, route: &Route) -> bool {
    let takes_port = other.parent.port.is_none_or(|port| Some(port) == parent.port);
    let takes_section = other.parent.section.is_none() || other.parent.section == parent.section;
    // Only Gateways look at the hosts.
    let takes_hosts = !matches!(parent.target, Target::Gateway(_))
        || other.route.hostnames.is_empty()
        || other.route.hostnames == route.hostnames;
    takes_port && takes_section && takes_hosts
}

/// Whether one match holds for all for which another does; not certain is no.
fn covers(one: &RouteMatch, other: &RouteMatch) -> bool {
    path_covers(one, other)
        && one.headers.iter().all(|test| other.headers.contains(test))
        && one.query.iter().all(|test| other.query.contains(test))
        && (one.method.is_none() || one.method == other.method)
        && one.source_labels.iter().all(|(name, value)| other.source_labels.get(name) == Some(value))
        && (one.source_namespace.is_none() || one.source_namespace == other.source_namespace)
        && (one.port.is_none() || one.port == other.port)
}

fn path_covers(one: &RouteMatch, other: &RouteMatch) -> bool {
    if matches!(&one.path, PathMatch::Prefix(all) | PathMatch::Text(all) if &**all == "/") {
        return true;
    }
    if one.any_case != other.any_case {
        return false;
    }
    match (&one.path, &other.path) {
        (one, other) if one == other => true,
        (
            PathMatch::Text(start),
            PathMatch::Text(path) | PathMatch::Exact(path) | PathMatch::Prefix(path),
        ) => path.starts_with(&**start),
        (PathMatch::Prefix(start), PathMatch::Prefix(path) | PathMatch::Exact(path)) => {
            path.strip_prefix(&**start).is_some_and(|rest| rest.starts_with('/'))
        }
        _ => false,
    }
}

// --- policies that select nothing ---

/// Policies whose labels no Service of the namespace selects workloads by. A workload that no Service selects is called
/// by nobody; where a namespace has no such label at all, its workloads may be known otherwise.
fn idle_policies(config: &Config) -> Vec<Found> {
    let peers =
        config.peer_authentications.iter().map(|(key, p)| (Kind::PeerAuthentication, key, &p.selector));
    let access = config.authorization_policies.iter();
    let access = access.map(|(key, p)| (Kind::AuthorizationPolicy, key, &p.selector));
    let tokens = config.request_authentications.iter();
    let tokens = tokens.map(|(key, p)| (Kind::RequestAuthentication, key, &p.selector));
    let all: Vec<_> =
        peers.chain(access).chain(tokens).filter(|(.., selector)| !selector.is_empty()).collect();
    if all.is_empty() {
        return Vec::new();
    }
    let (selected, mut left) = (Selected::of(config), MAX_COMPARED);
    let idle = all.into_iter().filter(|(_, key, selector)| selected.is_idle(key, selector, &mut left));
    idle.map(|(kind, key, selector)| {
        let labels: Vec<String> = selector.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let message = format!("no Service selects workloads with the labels {}", labels.join(", "));
        let field = "spec.selector.matchLabels".to_owned();
        let fix = "Correct the labels: as it is, the policy acts on nothing that is called";
        let (kind, key, problem) = problem(kind, key, field, message, fix, Code::SelectsNothing);
        (kind, key, problem.warning())
    })
    .collect()
}

/// What Services select workloads by.
#[derive(Default)]
struct Selected<'c> {
    /// The selectors with a label, by namespace, name and value; those of all namespaces at the empty one.
    by_label: BTreeMap<(&'c str, &'c str, &'c str), Vec<&'c Labels>>,
    /// The names of labels, by namespace.
    names: BTreeSet<(&'c str, &'c str)>,
}

impl<'c> Selected<'c> {
    fn of(config: &'c Config) -> Self {
        let mut selected = Self::default();
        for (key, service) in &config.services {
            for (name, value) in &service.selector {
                for namespace in ["", &*key.namespace] {
                    let label = (namespace, name.as_str(), value.as_str());
                    selected.names.insert((namespace, name.as_str()));
                    selected.by_label.entry(label).or_default().push(&service.selector);
                }
            }
        }
        selected
    }

    fn is_idle(&self, key: &Key, selector: &Labels, left: &mut usize) -> bool {
        let here = if *key.namespace == *crate::SYSTEM_NAMESPACE { "" } else { &*key.namespace };
        let is_known = |name: &String| self.names.contains(&(here, name.as_str()));
        if selector.contains_key(SERVICE_LABEL) || !selector.keys().all(is_known) {
            return false;
        }
        let agrees = |labels: &&Labels| {
            *left = left.saturating_sub(1);
            // What is not looked at any more may agree.
            *left == 0
                || selector.iter().all(|(name, value)| labels.get(name).is_none_or(|other| other == value))
        };
        let alike = selector
            .iter()
            .filter_map(|(name, value)| self.by_label.get(&(here, name.as_str(), value.as_str())));
        !alike.flatten().any(agrees)
    }
}

// --- hosts that two namespaces claim ---

/// Hosts that VirtualServices of two namespaces say something of, to the same callers.
fn claims<'c>(config: &'c Config) -> Vec<Found> {
    /// What is claimed: a target, and of a Gateway one host.
    type Claimed<'k> = (&'k Target, Option<&'k Arc<str>>);
    let mut owners: BTreeMap<Claimed<'c>, Vec<(&'c Key, &'c Export)>> = BTreeMap::new();
    let mut found = Vec::new();
    let mut claim = |at, key: &'c Key, target: &'c Target, host: Option<&'c Arc<str>>, export: &'c Export| {
        let claimed = owners.entry((target, host)).or_default();
        let is_rival =
            |(other, to): &&(&Key, &Export)| overlap((&other.namespace, *to), (&key.namespace, export));
        if let Some((other, _)) = claimed.iter().find(is_rival) {
            found.push(claimed_twice(key, at, host, target, other));
        }
        claimed.push((key, export));
    };
    for ((_, key), route) in config.routes.iter().filter(|((kind, _), _)| *kind == RouteKind::Virtual) {
        for (i, parent) in route.parents.iter().enumerate() {
            // At a Gateway, it is the host that is claimed.
            let hosts: Vec<Option<&Arc<str>>> = match &parent.target {
                Target::Gateway(_) => route.hostnames.iter().map(Some).collect(),
                _ => vec![None],
            };
            for host in hosts {
                claim(i, key, &parent.target, host, &route.export);
            }
        }
    }
    found
}

fn claimed_twice(key: &Key, i: usize, host: Option<&Arc<str>>, target: &Target, other: &Key) -> Found {
    let what = match (host, target) {
        (Some(host), _) | (None, Target::Host(host)) => format!("the host {host}"),
        (None, Target::Service(service)) => format!("the Service {service}"),
        (None, _) => "it".to_owned(),
    };
    let message =
        format!("the VirtualService {other} of another namespace says what becomes of {what} already");
    let fix = "Leave it to one of them, or keep them apart by `exportTo`";
    let field = if host.is_some() { "spec.hosts".to_owned() } else { format!("spec.hosts[{i}]") };
    let (kind, key, problem) = problem(Kind::VirtualService, key, field, message, fix, Code::ClaimedTwice);
    // At a Gateway, several may share a host by its paths; in which order they are tried, nobody says.
    let problem = if host.is_some() { problem.warning() } else { problem };
    (kind, key, problem)
}

/// Whether callers of some namespace are told by both: those of another namespace, for its own have the word there.
fn overlap((here, one): (&Arc<str>, &Export), (there, other): (&Arc<str>, &Export)) -> bool {
    let is_told = |namespace: &Arc<str>| namespace != here && namespace != there;
    here != there
        && match (one, other) {
            (Export::Only(one), Export::Only(other)) => one.intersection(other).any(is_told),
            (Export::Everywhere, Export::Only(some)) | (Export::Only(some), Export::Everywhere) => {
                some.iter().any(is_told)
            }
            (Export::Everywhere, Export::Everywhere) => true,
        }
}

// --- processes with two identities ---

/// Registrations that take the same processes of one agent's host for different workloads: the process is told both
/// identities.
fn taken_for_two(config: &Config) -> Vec<Found> {
    let mut left = MAX_COMPARED;
    let mut alike: BTreeMap<&UnixSelectors, Vec<&WorkloadRegistration>> = BTreeMap::new();
    let mut found = Vec::new();
    for (key, registration) in &config.registrations {
        let others = alike.entry(&registration.selectors).or_default();
        let is_rival = |other: &&&WorkloadRegistration| {
            left = left.saturating_sub(registration.agents.len());
            let identity =
                |one: &WorkloadRegistration| (one.key.namespace.clone(), one.service_account.clone());
            left > 0
                && identity(other) != identity(registration)
                && registration.agents.iter().any(|agent| other.agents.contains(agent))
        };
        if let Some(other) = others.iter().find(is_rival) {
            let message = format!(
                "the WorkloadRegistration {} has the same selectors for one of these agents: its processes are told both \
                 identities, that one first",
                other.key
            );
            let fix = "Select them by something that only one of the two has, as its executable";
            let field = "spec.selectors".to_owned();
            let (kind, key, problem) =
                problem(Kind::WorkloadRegistration, key, field, message, fix, Code::Conflict);
            found.push((kind, key, problem.warning()));
        }
        others.push(registration);
    }
    found
}

/// Registrations that name an agent of a namespace that did not grant it.
fn foreign_agents(config: &Config) -> Vec<Found> {
    let mut found = Vec::new();
    for (key, registration) in &config.registrations {
        for (at, (namespace, account)) in registration.agents.iter().enumerate() {
            let agent = Key::new(Arc::clone(namespace), Arc::clone(account));
            if config.lets_name_agent(&key.namespace, &agent) {
                continue;
            }
            let message = format!(
                "no ReferenceGrant of the namespace `{namespace}` lets a WorkloadRegistration of `{}` name its agent \
                 `{account}`, so that the agent is not told",
                key.namespace
            );
            let fix = "Add one there, from WorkloadRegistration (group meshwork.dev) to ServiceAccount (group \"\")";
            let field = format!("spec.agents[{at}]");
            let (kind, key, problem) =
                problem(Kind::WorkloadRegistration, key, field, message, fix, Code::NotAllowed);
            found.push((kind, key, problem.warning()));
        }
    }
    found
}

#[cfg(test)]
mod tests;
