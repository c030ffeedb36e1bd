//! What became of a route: for each thing that it is attached to, whether it acts there, and whether all that it leads to
//! is there. Pure.
//!
//! Source: Gateway API v1.5, `RouteParentStatus`, `RouteConditionType`, `RouteConditionReason`.

use std::collections::BTreeMap;
use std::sync::Arc;

use meshwork_model::mesh::{
    Backend, Config, ConnectionRouteKind, Key, Parent, Route, RouteKind, Service, ServicePort, Target,
};

use crate::attachment;
use crate::attachment::gateways::{Candidate, attach};

/// What became of a route where it is attached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ParentStatus {
    /// Where.
    pub(crate) parent: Parent,
    /// Whether it acts there.
    pub(crate) accepted: Condition,
    /// Whether all that it leads to is there.
    pub(crate) resolved: Condition,
}

/// A condition of a status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Condition {
    /// Whether it holds.
    pub(crate) holds: bool,
    /// The specification's word for why.
    pub(crate) reason: &'static str,
    /// The same in a sentence; empty where it holds.
    pub(crate) message: String,
}

/// The services that there are: written, and implied by workloads.
#[derive(Clone, Copy)]
pub(crate) struct Known<'c> {
    /// What people wrote.
    pub(crate) config: &'c Config,
    /// What nobody wrote, and is there.
    pub(crate) implied: &'c BTreeMap<Key, Service>,
}

/// A route, whatever it carries.
struct Written<'c> {
    key: &'c Key,
    kind: &'static str,
    hostnames: &'c [Arc<str>],
    parents: &'c [Parent],
    backends: Vec<&'c Backend>,
}

/// Why a route does not act on a port; what tells more comes last.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Why {
    /// The port carries something else.
    Speaks(String),
    /// Routes of another kind have it.
    Taken(String),
}

impl Why {
    fn of_protocol(port: &ServicePort) -> Self {
        Self::Speaks(format!("port {} speaks {}", port.port, port.protocol.name()))
    }
}

impl Condition {
    /// It holds.
    pub(crate) fn good(reason: &'static str) -> Self {
        Self { holds: true, reason, message: String::new() }
    }

    /// It does not.
    pub(crate) fn bad(reason: &'static str, message: String) -> Self {
        Self { holds: false, reason, message }
    }
}

impl<'c> Known<'c> {
    /// What became of a route of requests; nothing where there is none.
    pub(crate) fn of_requests(self, kind: RouteKind, key: &Key) -> Vec<ParentStatus> {
        let Some(((_, key), route)) = self.config.routes.get_key_value(&(kind, key.clone())) else {
            return Vec::new();
        };
        let hostnames = &route.hostnames[..];
        let written =
            Written { key, kind: kind.name(), hostnames, parents: &route.parents, backends: backends(route) };
        self.each(&written, |service, port| self.acts(kind, key, service, port))
    }

    /// What became of a route of connections; nothing where there is none.
    pub(crate) fn of_connections(self, kind: ConnectionRouteKind, key: &Key) -> Vec<ParentStatus> {
        let Some(((_, key), route)) = self.config.connection_routes.get_key_value(&(kind, key.clone()))
        else {
            return Vec::new();
        };
        let backends = route.rules.iter().flat_map(|rule| &rule.backends).collect();
        let hostnames = route.rules.first().map_or(&[][..], |rule| &rule.server_names);
        let written = Written { key, kind: kind.name(), hostnames, parents: &route.parents, backends };
        self.each(&written, |_, port| {
            if port.protocol.is_http() {
                return Err(Why::of_protocol(port));
            }
            Ok(())
        })
    }

    fn each(
        self,
        written: &Written<'c>,
        acts: impl Fn(&Key, &ServicePort) -> Result<(), Why>,
    ) -> Vec<ParentStatus> {
        let resolved = self.resolved(written);
        let accepted = |parent: &Parent| match &parent.target {
            Target::Service(service) => Some(self.accepted(parent, service, &acts)),
            Target::Gateway(gateway) => Some(self.accepted_by(gateway, parent, written)),
            Target::Host(_) | Target::Unknown(_) => None,
        };
        let status = |parent: &Parent| {
            let (parent, accepted) = (parent.clone(), accepted(parent)?);
            Some(ParentStatus { parent, accepted, resolved: resolved.clone() })
        };
        written.parents.iter().filter_map(status).collect()
    }

    fn accepted_by(self, gateway: &Key, parent: &Parent, written: &Written<'_>) -> Condition {
        let Written { kind, hostnames, .. } = *written;
        let route = Candidate { kind, namespace: &written.key.namespace, hostnames };
        match attach(self.config, gateway, parent, route) {
            Ok(()) => Condition::good("Accepted"),
            Err((reason, message)) => Condition::bad(reason, message),
        }
    }

    /// A route acts where it does on one port at least.
    fn accepted(
        self,
        parent: &Parent,
        key: &Key,
        acts: impl Fn(&Key, &ServicePort) -> Result<(), Why>,
    ) -> Condition {
        let Some(service) = self.service(key) else {
            let message = format!("there is no Service {key}");
            return Condition::bad("NoMatchingParent", message);
        };
        let named: Vec<&ServicePort> = service.ports.iter().filter(|port| parent.names(port)).collect();
        if named.is_empty() {
            return Condition::bad("NoMatchingParent", format!("the Service {key} has no such port"));
        }
        let results: Vec<Result<(), Why>> = named.iter().map(|port| acts(key, port)).collect();
        let acts_somewhere = results.iter().any(Result::is_ok);
        match results.into_iter().filter_map(Result::err).max() {
            Some(Why::Speaks(message) | Why::Taken(message)) if !acts_somewhere => {
                Condition::bad("NotAllowedByListeners", message)
            }
            _ => Condition::good("Accepted"),
        }
    }

    /// Whether a route acts on a port, for callers of its own namespace at least; else why not.
    fn acts(self, kind: RouteKind, key: &Key, service: &Key, port: &ServicePort) -> Result<(), Why> {
        if !attachment::carries(kind, port.protocol) {
            return Err(Why::of_protocol(port));
        }
        let acting = attachment::of_requests(self.config.routes.iter(), service, port, &key.namespace);
        match acting.first() {
            Some(((first, owner), _)) if *first != kind => {
                let (first, port) = (first.name(), port.port);
                Err(Why::Taken(format!("{first} {owner} has port {port}, and kinds do not mix on one")))
            }
            _ => Ok(()),
        }
    }

    fn resolved(self, written: &Written<'_>) -> Condition {
        let broken = written.backends.iter().find_map(|backend| self.broken(backend, written.key));
        broken.unwrap_or_else(|| Condition::good("ResolvedRefs"))
    }

    /// Why a backend cannot be led to.
    fn broken(self, backend: &Backend, route: &Key) -> Option<Condition> {
        match &backend.target {
            Target::Service(key) if backend.forbidden => {
                let message = format!(
                    "no ReferenceGrant of {} lets routes of {} lead there",
                    key.namespace, route.namespace
                );
                Some(Condition::bad("RefNotPermitted", message))
            }
            Target::Service(key) => {
                let has_port = |service: &Service| service.ports.iter().any(|port| port.port == backend.port);
                let is_there = self.service(key).is_some_and(has_port);
                let message = || format!("there is no Service {key} with the port {}", backend.port);
                (!is_there).then(|| Condition::bad("BackendNotFound", message()))
            }
            Target::Host(host) => {
                let is_there = self.config.service_entries.values().any(|entry| entry.hosts.contains(host));
                let message = || format!("no ServiceEntry has the host {host}");
                (!is_there).then(|| Condition::bad("BackendNotFound", message()))
            }
            Target::Unknown(what) => {
                Some(Condition::bad("InvalidKind", format!("the mesh leads to no {what}")))
            }
            Target::Gateway(key) => {
                Some(Condition::bad("InvalidKind", format!("the mesh leads to no Gateway: {key}")))
            }
        }
    }

    fn service(self, key: &Key) -> Option<&'c Service> {
        self.config.services.get(key).or_else(|| self.implied.get(key))
    }
}

/// All that a route leads to.
fn backends(route: &Route) -> Vec<&Backend> {
    let rules = route.rules.iter();
    rules
        .flat_map(|rule| rule.backends().iter().chain(rule.mirrors.iter().map(|mirror| &mirror.to)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A route's conditions, each as `Reason` or as `!Reason`.
    fn check(routes: &str, id: (RouteKind, &str), expected: &[(&str, &str)]) {
        let services = "apiVersion: v1\nkind: Service\nmetadata: { name: s, namespace: shop }\n\
             spec: { selector: { a: b }, ports: [{ name: http, port: 80 }, { name: tcp, port: 90 }, { name: grpc, port: \
             70 }] }\n";
        let text = format!("{services}{routes}");
        let loaded = crate::ingest::read_texts([("a.yaml".to_owned(), text)].into());
        assert!(loaded.is_accepted(), "{:#?}", loaded.problems);
        let implied = BTreeMap::new();
        let known = Known { config: &loaded.config, implied: &implied };
        let words =
            |condition: &Condition| format!("{}{}", if condition.holds { "" } else { "!" }, condition.reason);
        let statuses = known.of_requests(id.0, &Key::new("shop", id.1));
        let got: Vec<_> = statuses.iter().map(|s| (words(&s.accepted), words(&s.resolved))).collect();
        let expected: Vec<_> = expected.iter().map(|(a, r)| ((*a).to_owned(), (*r).to_owned())).collect();
        assert_eq!(got, expected, "{routes}");
    }

    fn route(kind: &str, name: &str, parents: &str, backend: &str) -> String {
        format!(
            "---\napiVersion: gateway.networking.k8s.io/v1\nkind: {kind}\nmetadata: {{ name: {name}, namespace: shop }}\n\
             spec: {{ parentRefs: [{parents}], rules: [{{ backendRefs: [{backend}] }}] }}\n"
        )
    }

    #[test]
    fn each_parent_is_told_of() {
        let parent = |rest: &str| format!("{{ group: \"\", kind: Service, name: s{rest} }}");
        let http = |parents: &str, backend: &str, expected: &[(&str, &str)]| {
            check(&route("HTTPRoute", "r", parents, backend), (RouteKind::Http, "r"), expected);
        };
        let there = "{ name: s, port: 80 }";
        http(&parent(""), there, &[("Accepted", "ResolvedRefs")]);
        let both = format!("{}, {}", parent(", port: 80"), parent(", port: 1"));
        http(&both, there, &[("Accepted", "ResolvedRefs"), ("!NoMatchingParent", "ResolvedRefs")]);
        http(&parent(", port: 90"), there, &[("!NotAllowedByListeners", "ResolvedRefs")]);
        http(&parent(""), "{ name: x, port: 80 }", &[("Accepted", "!BackendNotFound")]);
        http(&parent(""), "{ name: s, port: 81 }", &[("Accepted", "!BackendNotFound")]);
        http(&parent(""), "{ name: s, namespace: bank, port: 80 }", &[("Accepted", "!RefNotPermitted")]);
        http(&parent(""), "{ name: s, group: x, kind: Y }", &[("Accepted", "!InvalidKind")]);
        http("{ group: \"\", kind: Service, name: none }", there, &[("!NoMatchingParent", "ResolvedRefs")]);
    }

    #[test]
    fn of_two_kinds_on_one_port_one_is_refused() {
        let parent = "{ group: \"\", kind: Service, name: s, port: 70 }";
        let backend = "{ name: s, port: 70 }";
        let both = route("HTTPRoute", "r", parent, backend) + &route("GRPCRoute", "r", parent, backend);
        check(&both, (RouteKind::Http, "r"), &[("Accepted", "ResolvedRefs")]);
        check(&both, (RouteKind::Grpc, "r"), &[("!NotAllowedByListeners", "ResolvedRefs")]);
        assert!(Why::Taken(String::new()) > Why::Speaks("port".to_owned()));
    }
}
