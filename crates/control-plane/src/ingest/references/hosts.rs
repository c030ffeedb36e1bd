//! Hosts, ports, subsets and targets that Istio's kinds and our own name: whether there are such, and whether somebody
//! older has them.

use std::collections::BTreeMap;
use std::sync::Arc;

use meshwork_model::mesh::{
    Config, DestinationRule, HostPattern, Key, Labels, RouteKind, ServiceEntry, Target, TrafficPolicy,
    TrafficTarget, TrafficTargetKind, TrafficTerms,
};
use meshwork_model::problem::{Code, Problem};

use super::{Reference, Referred};
use crate::ingest::istio::full_name;
use crate::ingest::words::{closest, list};

/// Whose callers a DestinationRule is for: namespace, host, selector.
type Callers<'c> = (&'c Arc<str>, &'c HostPattern, &'c Labels);

/// What there is, found once for all references.
pub(super) struct Known<'c> {
    config: &'c Config,
    entries: BTreeMap<&'c Arc<str>, &'c ServiceEntry>,
    rules: BTreeMap<&'c Target, Vec<&'c DestinationRule>>,
    /// Rules for more than one host.
    patterns: Vec<&'c DestinationRule>,
    oldest_rules: BTreeMap<Callers<'c>, (u64, &'c Key)>,
    oldest_policies: BTreeMap<&'c TrafficTarget, (u64, &'c Key)>,
    /// The first Sidecar of each namespace that selects all of it.
    sidecars: BTreeMap<&'c Arc<str>, &'c Key>,
}

impl<'c> Known<'c> {
    pub(super) fn of(config: &'c Config) -> Self {
        let mut known = Self {
            config,
            entries: BTreeMap::new(),
            rules: BTreeMap::new(),
            patterns: Vec::new(),
            oldest_rules: BTreeMap::new(),
            oldest_policies: BTreeMap::new(),
            sidecars: BTreeMap::new(),
        };
        for entry in config.service_entries.values() {
            known.entries.extend(entry.hosts.iter().map(|host| (host, entry)));
        }
        for (key, rule) in &config.destination_rules {
            match &rule.host {
                HostPattern::One(target) => known.rules.entry(target).or_default().push(rule),
                HostPattern::Below(_) => known.patterns.push(rule),
            }
            let callers = (&key.namespace, &rule.host, &rule.selector);
            let oldest = known.oldest_rules.entry(callers).or_insert((rule.age, key));
            *oldest = (*oldest).min((rule.age, key));
        }
        for (key, policy) in &config.traffic_policies {
            for target in &policy.targets {
                let oldest = known.oldest_policies.entry(target).or_insert((policy.age, key));
                *oldest = (*oldest).min((policy.age, key));
            }
        }
        for (key, _) in config.sidecars.iter().filter(|(_, sidecar)| sidecar.selector.is_empty()) {
            known.sidecars.entry(&key.namespace).or_insert(key);
        }
        known
    }

    /// What is wrong with a reference of one of these kinds.
    pub(super) fn check(&self, reference: &Reference) -> Option<Problem> {
        match &reference.target {
            Referred::Destination { target, port, subset } => {
                self.check_destination(reference, target, *port, subset.as_ref())
            }
            Referred::Host(target) => {
                let unknown = || self.unknown(reference, target).of(Code::SelectsNothing);
                self.ports(target).is_none().then(unknown)
            }
            Referred::OldestRule(key) => self.check_rule(reference, key),
            Referred::OnlySidecar(key) => self.check_sidecar(reference, key),
            Referred::Attached { target, policy } => self.check_attached(reference, target, policy),
            _ => None,
        }
    }

    /// Whether there is what a route leads to.
    fn check_destination(
        &self,
        reference: &Reference,
        target: &Target,
        port: Option<u16>,
        subset: Option<&Arc<str>>,
    ) -> Option<Problem> {
        let Some(ports) = self.ports(target) else { return Some(self.unknown(reference, target)) };
        if let Some(port) = port.filter(|port| !ports.contains(port)) {
            let numbers: Vec<String> = ports.iter().map(u16::to_string).collect();
            let fix = match &numbers[..] {
                [one] => format!("Its port is {one}"),
                several => format!("Its ports are {}", several.join(", ")),
            };
            return Some(reference.problem(format!("`{}` has no port {port}", full_name(target)), fix));
        }
        self.check_subset(reference, target, subset?)
    }

    fn check_subset(&self, reference: &Reference, target: &Target, subset: &Arc<str>) -> Option<Problem> {
        let name = full_name(target);
        let patterns = self.patterns.iter().filter(|rule| rule.host.takes(target, &name));
        let rules = self.rules.get(target).into_iter().flatten().chain(patterns);
        let names: Vec<&str> = rules.flat_map(|rule| &rule.subsets).map(|subset| &*subset.name).collect();
        if names.contains(&&**subset) {
            return None;
        }
        let fix = match closest(subset, &names) {
            Some(near) => format!("Did you mean `{near}`?"),
            None if names.is_empty() => "Write a DestinationRule with it".to_owned(),
            None => format!("Its subsets are {}", list(&names)),
        };
        Some(reference.problem(format!("no DestinationRule gives `{name}` a subset `{subset}`"), fix))
    }

    /// Whether its terms hold: subsets of several rules are put together, their terms are not.
    fn check_rule(&self, reference: &Reference, key: &Key) -> Option<Problem> {
        let rule = self.config.destination_rules.get(key)?;
        let (_, oldest) = self.oldest_rules.get(&(&key.namespace, &rule.host, &rule.selector))?;
        let message = format!(
            "DestinationRule {oldest} is for the same host, and older: of this one only the subsets hold"
        );
        let is_idle = *oldest != key && rule.terms != TrafficTerms::default();
        is_idle.then(|| reference.problem(message, "Write both as one").of(Code::Conflict))
    }

    /// Whether it is the first of its namespace.
    fn check_sidecar(&self, reference: &Reference, key: &Key) -> Option<Problem> {
        let first = *self.sidecars.get(&key.namespace)?;
        let message =
            format!("Sidecar {first} is for all workloads of the namespace, too: this one is not used");
        (first != key).then(|| reference.problem(message, "Give it a `workloadSelector`").of(Code::Conflict))
    }

    /// Whether there is what a TrafficPolicy is attached to, and whether it is the oldest there.
    fn check_attached(&self, reference: &Reference, target: &TrafficTarget, policy: &Key) -> Option<Problem> {
        let TrafficTarget { key, section, .. } = target;
        let (kind, sections) = match target.kind {
            TrafficTargetKind::Service => ("Service", self.port_names(key)),
            TrafficTargetKind::HttpRoute => ("HTTPRoute", self.rule_names(RouteKind::Http, key)),
            TrafficTargetKind::GrpcRoute => ("GRPCRoute", self.rule_names(RouteKind::Grpc, key)),
        };
        let Some(sections) = sections else {
            let message = format!("there is no {kind} `{}` in the namespace `{}`", key.name, key.namespace);
            return Some(reference.problem(message, "").of(Code::SelectsNothing));
        };
        if let Some(section) = section.as_ref().filter(|section| !sections.contains(&&***section)) {
            let fix = closest(section, &sections).map(|near| format!("Did you mean `{near}`?"));
            let message = format!("the {kind} `{}` has nothing named `{section}`", key.name);
            return Some(reference.problem(message, fix.unwrap_or_default()).of(Code::SelectsNothing));
        }
        let (_, oldest) = self.oldest_policies.get(target)?;
        if *oldest != policy {
            let message = format!(
                "TrafficPolicy {oldest} is attached to it already, and older: this one is not used there"
            );
            return Some(reference.problem(message, "Write both as one").of(Code::Conflict));
        }
        self.check_limit(reference, target, self.config.traffic_policies.get(policy)?)
    }

    /// Only requests are limited, and bytes are none.
    fn check_limit(
        &self,
        reference: &Reference,
        target: &TrafficTarget,
        policy: &TrafficPolicy,
    ) -> Option<Problem> {
        let service = self.config.services.get(&target.key).filter(|_| policy.rate_limit.is_some())?;
        let is_meant = |name: &Arc<str>| target.section.as_ref().is_none_or(|section| section == name);
        let mut meant = service.ports.iter().filter(|port| is_meant(&port.name));
        if meant.any(|port| port.protocol.is_http()) {
            return None;
        }
        let message =
            format!("no port of the Service `{}` speaks HTTP, so that nothing is limited", target.key.name);
        let fix = format!("Set the port's `appProtocol` to {}", list(&["http", "http2", "grpc"]));
        Some(reference.problem(message, fix).of(Code::WrongProtocol))
    }

    fn unknown(&self, reference: &Reference, target: &Target) -> Problem {
        let services = &self.config.services;
        let (message, fix) = match target {
            Target::Service(key) | Target::Gateway(key) => {
                let here = services.keys().filter(|known| known.namespace == key.namespace);
                let names: Vec<&str> = here.map(|known| &*known.name).collect();
                let fix = closest(&key.name, &names).map(|name| format!("Did you mean `{name}`?"));
                (format!("there is no Service `{}` in the namespace `{}`", key.name, key.namespace), fix)
            }
            Target::Host(host) => {
                let parts = host.split_once('.').map(|(name, namespace)| Key::new(namespace, name));
                let fix = parts
                    .filter(|key| services.contains_key(key))
                    .map(|_| format!("For the service, write `{host}.svc.{}`", meshwork_model::proxy::ZONE));
                (format!("no ServiceEntry has the host `{host}`"), fix)
            }
            Target::Unknown(what) => (format!("there is no {what}"), None),
        };
        reference.problem(message, fix.unwrap_or_default())
    }

    fn port_names(&self, service: &Key) -> Option<Vec<&'c str>> {
        let service = self.config.services.get(service)?;
        Some(service.ports.iter().map(|port| &*port.name).collect())
    }

    fn rule_names(&self, kind: RouteKind, key: &Key) -> Option<Vec<&'c str>> {
        let route = self.config.routes.get(&(kind, key.clone()))?;
        Some(route.rules.iter().map(|rule| &*rule.name).collect())
    }

    /// The ports of what is called; `None` where there is no such thing.
    fn ports(&self, target: &Target) -> Option<Vec<u16>> {
        match target {
            Target::Service(key) => {
                let service = self.config.services.get(key)?;
                Some(service.ports.iter().map(|port| port.port).collect())
            }
            Target::Host(host) => {
                let entry = self.entries.get(host)?;
                Some(entry.ports.iter().map(|port| port.number).collect())
            }
            Target::Gateway(_) | Target::Unknown(_) => None,
        }
    }
}
