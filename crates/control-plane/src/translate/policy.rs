//! Policy: whether a workload demands mTLS, and who may ask what of it.
//!
//! Source: Istio `security.istio.io/v1`, "Implicit enablement" and "Policy precedence". Ports are judged here, not in
//! the proxy: a listener serves one port of the workload, whatever address it is bound to.

mod rules;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use meshwork_model::mesh::{
    AuthorizationPolicy, AuthorizationProvider, GATEWAY_LABEL, GatewayNode, Inbound, Key, Labels, MtlsMode,
    PolicyAction, PolicyTarget, Workload, selects,
};
use meshwork_model::proxy::{
    Action, AuthHttp, AuthService, ExtAuthz, Gate, HttpFilter, HttpFilterKind, HttpRbac, MetadataMatch,
    Permission, Principal, Rbac, Rule, StringMatch, ValueMatch, ZONE,
};
use meshwork_model::spiffe::SpiffeId;

use self::rules::Judged;
use super::{Mesh, endpoints, jwt};

/// The name of the rule that denies everything to identities that are revoked.
const REVOKED: &str = "revoked";
/// Stands before the names under which a proxy notes that a provider is to be asked. Source: Istio.
const MARK: &str = "istio_ext_authz_";
/// What the names of filters that ask begin with.
const AUTHZ: &str = "envoy.filters.http.ext_authz";
/// Stand before the names under which a proxy notes what policies that are only tried would say. Source: Istio.
const TRIED_DENY: &str = "istio_dry_run_deny_";
const TRIED_ALLOW: &str = "istio_dry_run_allow_";

/// Whether a port of a workload demands mTLS: what selects the workload says so first, then its namespace, then the
/// mesh, and then its MeshConfig. Of several on one level the strictest counts, and nothing at all is strict.
pub(super) fn mtls(mesh: &Mesh, workload: &Workload, port: u16) -> MtlsMode {
    mtls_said(mesh, workload, port).0
}

/// What said whether mTLS is demanded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Said<'m> {
    /// This PeerAuthentication.
    Policy(&'m Key),
    /// The MeshConfig.
    MeshConfig,
    /// Nothing.
    Default,
}

/// The same, with what said so.
pub(crate) fn mtls_said<'m>(mesh: &'m Mesh, workload: &Workload, port: u16) -> (MtlsMode, Said<'m>) {
    let all = mesh.config.peer_authentications.iter();
    let acting = all.filter(|(key, peer)| {
        (key.namespace == workload.key.namespace || is_mesh_wide(key))
            && selects(&peer.selector, &workload.labels)
    });
    let said = acting.filter_map(|(key, peer)| {
        let level = match (peer.selector.is_empty(), is_mesh_wide(key)) {
            (false, _) => 0,
            (true, false) => 1,
            (true, true) => 2,
        };
        // A port's own mode goes before that of any workload.
        let own = peer.ports.get(&port).map(|mode| (0, true, *mode));
        let said = own.or_else(|| peer.mode.map(|mode| (level, false, mode)));
        said.map(|said| (said, key))
    });
    let nearest = said.min_by_key(|((level, own, mode), _)| (*level, Reverse(*own), *mode));
    match (nearest, mesh.config.defaults.mtls) {
        (Some(((.., mode), key)), _) => (mode, Said::Policy(key)),
        (None, Some(mode)) => (mode, Said::MeshConfig),
        (None, None) => (MtlsMode::Strict, Said::Default),
    }
}

/// What judges requests on a workload's port, in order: tokens, then AUDIT, DENY and ALLOW.
pub(super) fn filters(mesh: &Mesh, workload: &Workload, port: u16) -> Vec<HttpFilter> {
    let acting = Acting::on(mesh, workload, port, true);
    let audit = acting.rbac(&PolicyAction::Audit, false);
    let audit = audit.map(|rules| HttpRbac { rules: Some(rules), ..HttpRbac::default() });
    let deny = acting.tried(&PolicyAction::Deny, TRIED_DENY);
    let allow = acting.tried(&PolicyAction::Allow, TRIED_ALLOW);
    let mut filters: Vec<HttpFilter> = jwt::filter(mesh, workload, port).into_iter().collect();
    let (marks, asked) = acting.custom();
    for (index, rbac) in marks.into_iter().chain([audit, deny, allow].into_iter().flatten()).enumerate() {
        let name = match index {
            0 => HttpFilter::RBAC.into(),
            _ => format!("{}.{index}", HttpFilter::RBAC),
        };
        filters.push(HttpFilter::new(name, HttpFilterKind::Rbac(rbac)));
    }
    for (name, check) in asked {
        let name = format!("{AUTHZ}.{name}");
        filters.push(HttpFilter::new(name, HttpFilterKind::ExtAuthz(Arc::new(check))));
    }
    filters
}

/// The services that policies on a workload have asked, with their ports.
pub(super) fn asked(mesh: &Mesh, workload: &Workload) -> BTreeSet<(Key, u16)> {
    // What acts on a gateway acts on all of its ports.
    let any = workload.gateway.is_some().then_some(0);
    let ports = workload.inbound.iter().map(|inbound| inbound.port).chain(any);
    let all = ports.flat_map(|port| Acting::on(mesh, workload, port, true).providers());
    all.map(|(_, provider)| (provider.service.clone(), provider.port)).collect()
}

/// Whether policies on a workload ask on whose behalf requests come: what that means depends on which gateways there are.
pub(super) fn asks_for_clients(mesh: &Mesh, workload: &Workload) -> bool {
    let acts = |key: &Key, policy: &AuthorizationPolicy| {
        let attached = (&policy.selector, &policy.targets[..]);
        workload.inbound.iter().any(|inbound| acts_on(mesh, key, attached, workload, inbound.port))
    };
    let mut all = mesh.config.authorization_policies.iter();
    all.any(|(key, policy)| rules::asks_for_clients(policy) && acts(key, policy))
}

/// The identities of the mesh's gateways: of workloads that serve a Gateway of their namespace, and were enrolled to. That
/// a workload calls itself one is nobody's proof.
fn gateways(mesh: &Mesh) -> BTreeSet<&SpiffeId> {
    let is_believed =
        |workload: &&Arc<Workload>| serves_a_gateway(mesh, workload) && is_enrolled_to(workload);
    mesh.workloads.values().filter(is_believed).map(|workload| &workload.identity).collect()
}

fn serves_a_gateway(mesh: &Mesh, workload: &Workload) -> bool {
    let key = |node: &GatewayNode| Key::new(Arc::clone(&workload.key.namespace), Arc::clone(&node.name));
    workload.gateway.as_ref().is_some_and(|node| mesh.config.gateways.contains_key(&key(node)))
}

fn is_enrolled_to(workload: &Workload) -> bool {
    let named = workload.labels.get(GATEWAY_LABEL);
    named.is_some_and(|name| workload.gateway.as_ref().is_some_and(|node| *node.name == **name))
}

/// Whether a workload serves a gateway, and is not believed on whose behalf it asks though policies want to know that.
pub(crate) fn is_disbelieved(mesh: &Mesh, workload: &Workload) -> bool {
    serves_a_gateway(mesh, workload)
        && !is_enrolled_to(workload)
        && mesh.config.authorization_policies.values().any(rules::asks_for_clients)
}

/// What judges connections on a workload's port, in order: AUDIT, DENY and ALLOW, those that are only tried ahead of each.
pub(super) fn gates(mesh: &Mesh, workload: &Workload, port: u16) -> Vec<Gate> {
    let acting = Acting::on(mesh, workload, port, false);
    let tried = |action, prefix: &str| Some(Gate::Tried(acting.rbac(action, true)?, prefix.into()));
    let enforced = |action| acting.rbac(action, false).map(Gate::Rbac);
    let (deny, allow) = (&PolicyAction::Deny, &PolicyAction::Allow);
    let all = [
        enforced(&PolicyAction::Audit),
        tried(deny, TRIED_DENY),
        enforced(deny),
        tried(allow, TRIED_ALLOW),
        enforced(allow),
    ];
    all.into_iter().flatten().collect()
}

/// Whether what a policy selects, or is attached to, has a workload's port in it.
pub(super) fn acts_on(
    mesh: &Mesh,
    key: &Key,
    (selector, targets): (&Labels, &[PolicyTarget]),
    workload: &Workload,
    port: u16,
) -> bool {
    let is_near = key.namespace == workload.key.namespace;
    if targets.is_empty() {
        return (is_near || is_mesh_wide(key)) && selects(selector, &workload.labels);
    }
    let is_meant = |target: &PolicyTarget| match target {
        PolicyTarget::Service(name) => {
            let service = mesh.service(&Key::new(Arc::clone(&key.namespace), Arc::clone(name)));
            service.is_some_and(|(_, service)| {
                let leads = |inbound: &Inbound| inbound.port == port;
                endpoints::serves(service, workload)
                    && service.ports.iter().any(|p| p.inbound(workload).is_some_and(leads))
            })
        }
        PolicyTarget::Gateway(name) => workload.gateway.as_ref().is_some_and(|gateway| gateway.name == *name),
    };
    is_near && targets.iter().any(is_meant)
}

/// The rule that denies everything to identities that are revoked. Our own proxies know of those by what they trust, and
/// refuse them earlier; this is for Envoy and gRPC.
fn revoked(mesh: &Mesh) -> Option<Rule> {
    let principal = |id: &SpiffeId| Principal::Authenticated(Some(StringMatch::Exact(id.as_str().into())));
    let principals: Vec<Principal> = mesh.revoked.iter().map(principal).collect();
    (!principals.is_empty()).then(|| Rule {
        name: REVOKED.into(),
        permissions: vec![Permission::Any],
        principals,
    })
}

fn matches_nothing(name: &str) -> Rule {
    let never = Permission::Not(Box::new(Permission::Any));
    Rule {
        name: format!("{name}-rule[none]").into(),
        permissions: vec![never],
        principals: vec![Principal::Any],
    }
}

fn is_mesh_wide(key: &Key) -> bool {
    &*key.namespace == crate::SYSTEM_NAMESPACE
}

/// The policies that act on a port.
struct Acting<'m> {
    policies: Vec<(&'m Key, &'m AuthorizationPolicy)>,
    revoked: Option<Rule>,
    providers: &'m BTreeMap<Arc<str>, Arc<AuthorizationProvider>>,
    judged: Judged<'m>,
}

impl<'m> Acting<'m> {
    fn on(mesh: &'m Mesh, workload: &Workload, port: u16, http: bool) -> Self {
        let all = mesh.config.authorization_policies.iter();
        let acts = |(key, policy): &(&Key, &AuthorizationPolicy)| {
            acts_on(mesh, key, (&policy.selector, &policy.targets), workload, port)
        };
        let policies: Vec<_> = all.filter(acts).collect();
        let believed = mesh.config.defaults.federated.iter().map(|domain| &*domain.trust_domain);
        let is_asked = policies.iter().any(|(_, policy)| rules::asks_for_clients(policy));
        let judged = Judged {
            trust_domain: &mesh.trust_domain,
            federated: believed.collect(),
            port,
            http,
            // Gateways know who opened the connection, and believe nobody else.
            tellers: workload
                .gateway
                .is_none()
                .then(|| if is_asked { gateways(mesh) } else { BTreeSet::new() }),
        };
        let revoked = revoked(mesh);
        Self { policies, revoked, providers: &mesh.config.defaults.providers, judged }
    }

    /// The providers that can be asked, by name.
    fn providers(&self) -> BTreeMap<Arc<str>, Arc<AuthorizationProvider>> {
        let named = self.policies.iter().filter_map(|(_, policy)| match &policy.action {
            PolicyAction::Custom(name) => Some(name),
            _ => None,
        });
        let known = named.filter_map(|name| Some((Arc::clone(name), Arc::clone(self.providers.get(name)?))));
        known.collect()
    }

    /// Rules that mark requests for each provider, and the filters that ask it about those. It is asked after other
    /// policies have judged: about what they refuse nobody is asked. Source: Istio, whose CUSTOM policies mark so, too.
    fn custom(&self) -> (Vec<HttpRbac>, Vec<(Arc<str>, ExtAuthz)>) {
        let (mut marks, mut asked) = (Vec::new(), Vec::new());
        for (name, provider) in self.providers() {
            let of =
                self.policies.iter().filter(|(_, p)| p.action == PolicyAction::Custom(Arc::clone(&name)));
            let rules: Vec<Rule> = of.flat_map(|(key, policy)| self.judged.rules(key, policy)).collect();
            let shadow_prefix: Arc<str> = format!("{MARK}{name}_").into();
            let key = format!("{shadow_prefix}shadow_engine_result").into();
            let marked = MetadataMatch {
                filter: HttpFilter::RBAC.into(),
                path: vec![key],
                value: ValueMatch::Text(StringMatch::Exact("denied".into())),
                invert: false,
            };
            let shadow = Some(Arc::new(Rbac { action: Action::Deny, rules }));
            marks.push(HttpRbac { rules: None, shadow, shadow_prefix });
            let cluster: Arc<str> = {
                let service = &provider.service;
                format!("outbound|{}||{}.{}.svc.{ZONE}", provider.port, service.name, service.namespace)
                    .into()
            };
            let service = match &provider.check.service {
                AuthService::Grpc { authority, .. } => {
                    AuthService::Grpc { cluster, authority: authority.clone() }
                }
                AuthService::Http(http) => AuthService::Http(AuthHttp { cluster, ..http.clone() }),
            };
            asked
                .push((name, ExtAuthz { service, enabled_metadata: Some(marked), ..provider.check.clone() }));
        }
        (marks, asked)
    }

    /// The policies of an action with those that are only tried beside them.
    fn tried(&self, action: &PolicyAction, prefix: &str) -> Option<HttpRbac> {
        let (rules, shadow) = (self.rbac(action, false), self.rbac(action, true));
        let shadow_prefix = if shadow.is_some() { prefix.into() } else { Arc::default() };
        (rules.is_some() || shadow.is_some()).then_some(HttpRbac { rules, shadow, shadow_prefix })
    }

    /// What is denied whatever policies say: identities that are revoked, and fields that look like those that policies
    /// ask about.
    fn denied(&self) -> Vec<Rule> {
        let decides = |policy: &AuthorizationPolicy| !policy.dry_run && policy.action != PolicyAction::Audit;
        let enforced = self.policies.iter().filter(|(_, policy)| self.judged.http && decides(policy));
        let look_alikes = enforced.filter_map(|(key, policy)| rules::look_alikes(key, policy));
        self.revoked.iter().cloned().chain(look_alikes).collect()
    }

    /// The rules of every policy with this action; `None` where no policy with it acts. With ALLOW and no rule left,
    /// nothing passes. A provider that nobody can ask refuses what it would be asked about.
    fn rbac(&self, action: &PolicyAction, dry_run: bool) -> Option<Arc<Rbac>> {
        let is_of = |policy: &AuthorizationPolicy| match &policy.action {
            PolicyAction::Custom(name) => {
                let is_asked = self.judged.http && self.providers.contains_key(name);
                *action == PolicyAction::Deny && !is_asked
            }
            own => own == action,
        };
        let of = self.policies.iter().filter(|(_, policy)| is_of(policy) && policy.dry_run == dry_run);
        let of: Vec<_> = of.collect();
        let more = if *action == PolicyAction::Deny && !dry_run { self.denied() } else { Vec::new() };
        if of.is_empty() && more.is_empty() {
            return None;
        }
        let mut rules: Vec<Rule> =
            of.iter().flat_map(|(key, policy)| self.judged.rules(key, policy)).chain(more).collect();
        let action = match action {
            PolicyAction::Allow => Action::Allow,
            PolicyAction::Deny | PolicyAction::Custom(_) => Action::Deny,
            PolicyAction::Audit => Action::Log,
        };
        if rules.is_empty() && action != Action::Allow {
            return None;
        }
        if dry_run {
            // One that lets nothing pass is told of by its name, too.
            let has_none = |name: &str| !rules.iter().any(|rule| rule.name.starts_with(name));
            let nothing = of.iter().map(|(key, _)| rules::name_of(key)).filter(|name| has_none(name));
            let nothing: Vec<Rule> = nothing.map(|name| matches_nothing(&name)).collect();
            rules.extend(nothing);
        }
        rules.sort_by(|a, b| a.name.cmp(&b.name));
        Some(Arc::new(Rbac { action, rules }))
    }
}
