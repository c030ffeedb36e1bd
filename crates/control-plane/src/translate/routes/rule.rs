//! What a rule does, in a proxy's words.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use meshwork_model::format::Template;
use meshwork_model::hash::HashPolicy;
use meshwork_model::mesh::{
    Backend, FieldChanges, HeaderChanges, Protocol, RouteKind, RouteRule, RuleAction, Target,
};
use meshwork_model::mutation::{Append, HeaderChange, Mutations};
use meshwork_model::proxy::{
    ClusterTerms, DirectResponse, Forward, HeadChanges, HeaderMatch, HeaderTest, HostRewrite, HttpFilter,
    Mirror, MirrorTo, Resilience, RetryPolicy, Route, RouteAction, RouteFilter, RouteFilterKind, RouteMatch,
    RouteTerms, WeightedCluster,
};
use meshwork_xds::Dialect;

use super::{Calls, Lead, Port, Ranked, paths};
use crate::translate::Called;
use crate::translate::traffic::{self, Rules};

/// The cluster of what cannot be led to. There is none of that name, and a request that is to go there is answered with
/// the status that its route names for a cluster that is not there: of the forms that give one share of a rule a status
/// of its own, this is the one whose shares stay exact, with Envoy and with our proxy (Istio and Envoy Gateway do the
/// same). A connection that is to go there is closed.
pub(crate) const NOWHERE: &str = "no-backend";

/// A backend with the cluster that stands for it.
pub(in crate::translate) struct Found<'b> {
    backend: &'b Backend,
    pub(in crate::translate) cluster: Arc<str>,
    hash: Vec<HashPolicy>,
}

impl Calls<'_> {
    /// A match of a rule as routes: several where one test of a path does not say it.
    pub(super) fn to_routes(self, one: &Ranked<'_>, port: Port, leads: &mut BTreeSet<Lead>) -> Vec<Route> {
        let (action, terms) = self.action(one, port, leads);
        let tests = paths::tests(&one.matches.path, one.kind, self.dialect);
        let route = |path| {
            let matches = RouteMatch {
                any_case: one.matches.any_case,
                query: one.matches.query.clone(),
                ..RouteMatch::new(path, headers(one))
            };
            let route = Route::new(Arc::clone(&one.name), matches, action.clone());
            Route { terms: terms.clone(), ..route }
        };
        tests.into_iter().map(route).collect()
    }

    fn action(
        self,
        one: &Ranked<'_>,
        port: Port,
        leads: &mut BTreeSet<Lead>,
    ) -> (RouteAction, Option<Box<RouteTerms>>) {
        let rule = one.rule;
        let mut terms = terms(rule, one.kind);
        let action = match &rule.action {
            RuleAction::Redirect(redirect) => {
                let (path, matched) = (rule.path.as_ref(), &one.matches.path);
                RouteAction::Redirect(paths::redirect(
                    redirect,
                    path,
                    matched,
                    one.kind,
                    (port.number, port.is_tls),
                ))
            }
            RuleAction::Respond(status, body) => {
                RouteAction::Direct(DirectResponse { status: *status, body: Arc::clone(body) })
            }
            RuleAction::Forward(backends) => {
                terms.path = rule.path.as_ref().and_then(|path| paths::rewrite(path, &one.matches.path));
                terms.host = rule.host.clone().map(HostRewrite::Literal);
                terms.mirrors =
                    rule.mirrors.iter().filter_map(|m| self.mirror(m, one.kind, port, leads)).collect();
                self.forward(one, backends, port, &mut terms, leads)
            }
        };
        (action, (terms != RouteTerms::default()).then(|| Box::new(terms)))
    }

    /// Where nothing can be led to, an error. Source: Gateway API, `HTTPRouteRule.backendRefs`: 500, and
    /// `GRPCRouteRule.backendRefs`: UNAVAILABLE, which is 503 by HTTP.
    fn forward(
        self,
        one: &Ranked<'_>,
        backends: &[Backend],
        port: Port,
        terms: &mut RouteTerms,
        leads: &mut BTreeSet<Lead>,
    ) -> RouteAction {
        let status = if one.kind == RouteKind::Http { 500 } else { 503 };
        let weighted = || backends.iter().filter(|backend| backend.weight > 0);
        let found: Vec<Found<'_>> = weighted().filter_map(|b| self.find(b, port, leads)).collect();
        if found.is_empty() {
            let body = "the route has no backend\n".into();
            return RouteAction::Direct(DirectResponse { status, body });
        }
        let mut clusters: Vec<WeightedCluster> = found.iter().map(Found::weighted).collect();
        let mut of_clusters: Vec<ClusterTerms> = found.iter().map(|found| found.terms(one.kind)).collect();
        let all: u32 = weighted().map(|backend| backend.weight).sum();
        let missing = all - clusters.iter().map(|cluster| cluster.weight).sum::<u32>();
        if missing > 0 {
            clusters.push(WeightedCluster { name: NOWHERE.into(), weight: missing });
            of_clusters.push(ClusterTerms::default());
            terms.unknown_cluster_status = (status != 503).then_some(status);
            leads.insert(Lead::Nowhere);
        }
        if of_clusters.iter().any(|terms| *terms != ClusterTerms::default()) {
            terms.clusters = of_clusters;
        }
        for policy in found.into_iter().flat_map(|found| found.hash) {
            if !terms.hash.contains(&policy) {
                terms.hash.push(policy);
            }
        }
        let timeout = match one.rule.timeout {
            // Whatever the port says that it carries, as a gateway's does.
            None if one.kind == RouteKind::Grpc => self.usual_timeout(Protocol::Grpc),
            None => self.usual_timeout(port.protocol),
            Some(timeout) => Some(timeout).filter(|timeout| !timeout.is_zero()),
        };
        let resilience = Resilience { retry: retry(one.rule, self.usual_retry()), ..Resilience::default() };
        RouteAction::Forward(Forward { clusters, timeout, resilience })
    }

    /// What a backend stands for; `None` where there is no such thing, or it may not be led to.
    pub(in crate::translate) fn find<'b>(
        self,
        backend: &'b Backend,
        called: Port,
        leads: &mut BTreeSet<Lead>,
    ) -> Option<Found<'b>> {
        if backend.forbidden {
            return None;
        }
        let subset = backend.subset.as_deref();
        let (port, cluster, hash) = match &backend.target {
            Target::Service(key) => {
                let (_, service) = self.mesh.service(key)?;
                let port = backend.port_of(service.ports.iter().map(|port| port.port), called.number);
                let found = Called::find(self.mesh, key, port)?;
                let hash = traffic::hash_policies(self.mesh, &found, subset, self.node);
                (port, found.cluster_of(subset), hash)
            }
            Target::Host(host) => {
                let mut entries = self.mesh.config.service_entries.iter();
                let (key, entry) = entries.find(|(_, entry)| entry.hosts.contains(host))?;
                let ports = || entry.ports.iter().map(|port| port.number);
                let port = backend.port_of(ports(), called.number);
                ports().find(|number| *number == port)?;
                let rules = Rules::of_host(self.mesh, host, &key.namespace, self.node);
                let balancing = rules.terms(port, subset).balancing;
                let hash = balancing.and_then(|balancing| balancing.hash).into_iter().collect();
                (port, format!("outbound|{port}|{}|{host}", subset.unwrap_or_default()).into(), hash)
            }
            Target::Gateway(_) | Target::Unknown(_) => return None,
        };
        let (target, subset) = (backend.target.clone(), backend.subset.clone());
        leads.insert(Lead::To { target, port, subset });
        Some(Found { backend, cluster, hash })
    }

    /// A copy to what is not there is none.
    fn mirror(
        self,
        mirror: &meshwork_model::mesh::RuleMirror,
        kind: RouteKind,
        port: Port,
        leads: &mut BTreeSet<Lead>,
    ) -> Option<Mirror> {
        // gRPC's core makes no copies, and would take a cluster for nothing.
        if mirror.share.numerator == 0 || self.dialect == Dialect::Grpc {
            return None;
        }
        let found = self.find(&mirror.to, port, leads)?;
        let keeps_host = kind != RouteKind::Virtual;
        Some(Mirror { cluster: MirrorTo::Cluster(found.cluster), fraction: mirror.share, keeps_host })
    }
}

impl Found<'_> {
    fn weighted(&self) -> WeightedCluster {
        WeightedCluster { name: Arc::clone(&self.cluster), weight: self.backend.weight }
    }

    fn terms(&self, kind: RouteKind) -> ClusterTerms {
        ClusterTerms { changes: changes(&self.backend.changes, kind), ..ClusterTerms::default() }
    }
}

fn headers(one: &Ranked<'_>) -> Vec<HeaderMatch> {
    let method = one.matches.method.as_ref().map(|method| HeaderMatch {
        name: ":method".into(),
        test: HeaderTest::Value(method.clone()),
        invert: false,
    });
    method.into_iter().chain(one.matches.headers.iter().cloned()).collect()
}

/// What is said of a rule's requests besides where they go.
fn terms(rule: &RouteRule, kind: RouteKind) -> RouteTerms {
    let on = |name: &str, kind| RouteFilter { name: name.into(), disabled: false, kind: Some(kind) };
    let fault =
        rule.fault.as_ref().map(|fault| on(HttpFilter::FAULT, RouteFilterKind::Fault(Arc::clone(fault))));
    let cors = rule.cors.as_ref().map(|cors| on(HttpFilter::CORS, RouteFilterKind::Cors(Arc::clone(cors))));
    RouteTerms {
        changes: changes(&rule.changes, kind),
        filters: fault.into_iter().chain(cors).collect(),
        ..RouteTerms::default()
    }
}

fn changes(changes: &HeaderChanges, kind: RouteKind) -> HeadChanges {
    let of = |changes: &FieldChanges| (!changes.is_empty()).then(|| Arc::new(mutations(changes, kind)));
    HeadChanges {
        request: of(&changes.request).into_iter().collect(),
        response: of(&changes.response).into_iter().collect(),
    }
}

fn mutations(changes: &FieldChanges, kind: RouteKind) -> Mutations {
    let change = |(name, value): &(Arc<str>, Arc<str>), append| HeaderChange {
        name: Arc::clone(name),
        value: value_of(value, kind),
        append,
        keep_empty: false,
    };
    let set = changes.set.iter().map(|field| change(field, Append::Set));
    let add = changes.add.iter().map(|field| change(field, Append::Add));
    Mutations { remove: changes.remove.clone(), add: set.chain(add).collect() }
}

/// A value of Gateway API's is taken as it is; one of Istio's may have Envoy's commands in it.
fn value_of(text: &str, kind: RouteKind) -> Template {
    let constant = || Template::constant(text);
    if kind == RouteKind::Virtual { Template::parse(text).unwrap_or_else(|_| constant()) } else { constant() }
}

/// What is tried again: what the rule says, or what never reached an application.
fn retry(rule: &RouteRule, usual: Option<Arc<RetryPolicy>>) -> Option<Arc<RetryPolicy>> {
    let limits = |policy: &RetryPolicy| -> Option<Duration> { rule.try_timeout.or(policy.per_try_timeout) };
    match &rule.retry {
        Some(policy) => {
            let per_try_timeout = limits(policy);
            let says_nothing = policy.retries == 0 && per_try_timeout.is_none();
            (!says_nothing).then(|| Arc::new(RetryPolicy { per_try_timeout, ..(**policy).clone() }))
        }
        None => match (usual, rule.try_timeout) {
            (usual, None) => usual,
            (Some(policy), limit) => {
                Some(Arc::new(RetryPolicy { per_try_timeout: limit, ..(*policy).clone() }))
            }
            (None, limit) => {
                let nothing = RetryPolicy::unreached(0);
                Some(Arc::new(RetryPolicy { per_try_timeout: limit, ..nothing }))
            }
        },
    }
}
