//! Policy: whether a workload demands mTLS, and who may ask what of it.
//!
//! Source: Istio `security.istio.io/v1`, "Implicit enablement" and "Policy precedence". Ports are judged here, not in
//! the proxy: a listener serves one port of the workload, whatever address it is bound to.

use std::sync::Arc;

use meshwork_model::mesh::{
    AuthorizationPolicy, AuthorizationRule, Key, Labels, MtlsMode, Operation, Protocol, Source, Workload,
    selects,
};
use meshwork_model::proxy::{
    Action, HeaderMatch, HeaderTest, Permission, Principal, Rbac, Rule, StringMatch,
};

use super::Mesh;

/// Whether a workload demands mTLS: what selects it says so first, then its namespace, then the mesh. Of several on
/// one level the strictest counts, and nothing at all is strict.
pub(super) fn mtls(mesh: &Mesh, workload: &Workload) -> MtlsMode {
    let all = mesh.config.peer_authentications.iter().filter(|(k, p)| acts_on(k, &p.selector, workload));
    let level = |key: &Key, selector: &Labels| match (selector.is_empty(), is_mesh_wide(key)) {
        (false, _) => 0,
        (true, false) => 1,
        (true, true) => 2,
    };
    let strict_first = |mode| u8::from(mode == MtlsMode::Disable);
    all.map(|(key, peer)| (level(key, &peer.selector), strict_first(peer.mode), peer.mode))
        .min_by_key(|(level, strict, _)| (*level, *strict))
        .map_or(MtlsMode::Strict, |(_, _, mode)| mode)
}

/// The policies on a workload's port, in the order in which they are judged: DENY, then ALLOW.
pub(super) fn of(mesh: &Mesh, workload: &Workload, port: u16, protocol: Protocol) -> Vec<Arc<Rbac>> {
    let judged = Judged { trust_domain: &mesh.trust_domain, port, http: protocol.is_http() };
    [Action::Deny, Action::Allow].into_iter().filter_map(|a| judged.union(mesh, workload, a)).collect()
}

fn acts_on(key: &Key, selector: &Labels, workload: &Workload) -> bool {
    (key.namespace == workload.key.namespace || is_mesh_wide(key)) && selects(selector, &workload.labels)
}

fn is_mesh_wide(key: &Key) -> bool {
    &*key.namespace == crate::SYSTEM_NAMESPACE
}

/// What a listener's connections are like.
struct Judged<'m> {
    trust_domain: &'m str,
    port: u16,
    http: bool,
}

impl Judged<'_> {
    /// The rules of every policy with this action; `None` where no policy with it acts on the workload. With ALLOW
    /// and no rule left, nothing passes.
    fn union(&self, mesh: &Mesh, workload: &Workload, action: Action) -> Option<Arc<Rbac>> {
        let policies = mesh.config.authorization_policies.iter();
        let acting: Vec<(&Key, &AuthorizationPolicy)> = policies
            .filter(|(key, policy)| policy.action == action && acts_on(key, &policy.selector, workload))
            .collect();
        if acting.is_empty() {
            return None;
        }
        let mut rules: Vec<Rule> =
            acting.into_iter().flat_map(|(key, policy)| self.rules(key, policy)).collect();
        if rules.is_empty() && action == Action::Deny {
            return None;
        }
        rules.sort_by(|a, b| a.name.cmp(&b.name));
        Some(Arc::new(Rbac { action, rules }))
    }

    fn rules(&self, key: &Key, policy: &AuthorizationPolicy) -> Vec<Rule> {
        let rule = |(index, rule): (usize, &AuthorizationRule)| {
            let permissions = self.permissions(&rule.to, policy.action);
            let name = format!("ns[{}]-policy[{}]-rule[{index}]", key.namespace, key.name).into();
            (!permissions.is_empty()).then(|| Rule {
                name,
                permissions,
                principals: self.principals(&rule.from),
            })
        };
        policy.rules.iter().enumerate().filter_map(rule).collect()
    }

    /// What is asked for; empty where nothing on this port can match.
    fn permissions(&self, operations: &[Operation], action: Action) -> Vec<Permission> {
        if operations.is_empty() {
            return vec![Permission::Any];
        }
        operations.iter().filter_map(|operation| self.permission(operation, action)).collect()
    }

    fn permission(&self, operation: &Operation, action: Action) -> Option<Permission> {
        let other_port = !operation.ports.is_empty() && !operation.ports.contains(&self.port);
        if other_port || operation.not_ports.contains(&self.port) {
            return None;
        }
        let mut all = Vec::new();
        if self.http {
            one_of(&mut all, &operation.methods, method);
            none_of(&mut all, &operation.not_methods, method);
            one_of(&mut all, &operation.paths, path);
            none_of(&mut all, &operation.not_paths, path);
        } else if asks_for_http(operation) && action == Action::Allow {
            // Bytes have no method and no path: such a rule allows nothing. In DENY what it says of HTTP falls away, so
            // that it denies more, never less. Source: Istio, "Using Istio authorization on plain TCP protocols".
            return None;
        }
        Some(match all.len() {
            0 => Permission::Any,
            1 => all.swap_remove(0),
            _ => Permission::All(all),
        })
    }

    fn principals(&self, sources: &[Source]) -> Vec<Principal> {
        if sources.is_empty() {
            return vec![Principal::Any];
        }
        sources.iter().map(|source| self.principal(source)).collect()
    }

    fn principal(&self, source: &Source) -> Principal {
        let mut all = Vec::new();
        let identity = |text: &StringMatch| self.identity(text);
        let namespace = |text: &StringMatch| self.namespace(text);
        if !source.principals.is_empty() {
            all.push(any_principal(source.principals.iter().map(identity).collect()));
        }
        if !source.not_principals.is_empty() {
            let any = any_principal(source.not_principals.iter().map(identity).collect());
            all.push(Principal::Not(Box::new(any)));
        }
        if !source.namespaces.is_empty() {
            all.push(any_principal(source.namespaces.iter().map(namespace).collect()));
        }
        if !source.not_namespaces.is_empty() {
            let any = any_principal(source.not_namespaces.iter().map(namespace).collect());
            all.push(Principal::Not(Box::new(any)));
        }
        match all.len() {
            0 => Principal::Any,
            1 => all.swap_remove(0),
            _ => Principal::All(all),
        }
    }

    /// A principal is a SPIFFE ID without its scheme; Istio's name for "our trust domain" is `cluster.local`.
    fn identity(&self, text: &StringMatch) -> Principal {
        let full = |text: &str| -> Arc<str> {
            match text.strip_prefix("cluster.local/") {
                Some(path) => format!("spiffe://{}/{path}", self.trust_domain).into(),
                None => format!("spiffe://{text}").into(),
            }
        };
        Principal::Authenticated(match text {
            StringMatch::Exact(text) => Some(StringMatch::Exact(full(text))),
            StringMatch::Prefix(text) if text.is_empty() => None,
            StringMatch::Prefix(text) => Some(StringMatch::Prefix(full(text))),
            StringMatch::Suffix(text) => Some(StringMatch::Suffix(Arc::clone(text))),
            StringMatch::Contains(text) => Some(StringMatch::Contains(Arc::clone(text))),
            // Nobody can write these: ingest makes none.
            StringMatch::Regex(_) | StringMatch::AnyCase(_) => Some(text.clone()),
        })
    }

    /// A namespace is the part of the identity behind `/ns/`; ingest lets in no test of its end.
    fn namespace(&self, text: &StringMatch) -> Principal {
        let start = |text: &str, end: &str| -> Arc<str> {
            format!("spiffe://{}/ns/{text}{end}", self.trust_domain).into()
        };
        Principal::Authenticated(match text {
            StringMatch::Prefix(text) if text.is_empty() => None,
            StringMatch::Prefix(text) => Some(StringMatch::Prefix(start(text, ""))),
            StringMatch::Exact(text) | StringMatch::Suffix(text) | StringMatch::Contains(text) => {
                Some(StringMatch::Prefix(start(text, "/")))
            }
            StringMatch::Regex(_) | StringMatch::AnyCase(_) => Some(text.clone()),
        })
    }
}

fn asks_for_http(operation: &Operation) -> bool {
    let lists = [&operation.methods, &operation.not_methods, &operation.paths, &operation.not_paths];
    lists.iter().any(|list| !list.is_empty())
}

fn any_principal(mut any: Vec<Principal>) -> Principal {
    if any.len() == 1 { any.swap_remove(0) } else { Principal::OneOf(any) }
}

fn one_of(all: &mut Vec<Permission>, texts: &[StringMatch], test: fn(&StringMatch) -> Permission) {
    if !texts.is_empty() {
        all.push(any_permission(texts.iter().map(test).collect()));
    }
}

fn none_of(all: &mut Vec<Permission>, texts: &[StringMatch], test: fn(&StringMatch) -> Permission) {
    if !texts.is_empty() {
        all.push(Permission::Not(Box::new(any_permission(texts.iter().map(test).collect()))));
    }
}

fn any_permission(mut any: Vec<Permission>) -> Permission {
    if any.len() == 1 { any.swap_remove(0) } else { Permission::OneOf(any) }
}

fn method(text: &StringMatch) -> Permission {
    header(":method", text)
}

fn path(text: &StringMatch) -> Permission {
    match text {
        StringMatch::Prefix(prefix) if prefix.is_empty() => header(":path", text),
        text => Permission::Path(text.clone()),
    }
}

/// `*` asks for presence. Source: Istio, AuthorizationPolicy `Rule`.
fn header(name: &str, text: &StringMatch) -> Permission {
    let test = match text {
        StringMatch::Prefix(prefix) if prefix.is_empty() => HeaderTest::Present,
        text => HeaderTest::Value(text.clone()),
    };
    Permission::Header(HeaderMatch { name: name.into(), test, invert: false })
}
