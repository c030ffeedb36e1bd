//! `authorize`: whether a request or a connection may pass, and which rule said so.

use std::sync::Arc;

use crate::head::RequestHead;
use crate::proxy::{Action, Permission, Principal, Rbac, Rule};
use crate::route::{matches_header, matches_text};
use crate::spiffe::SpiffeId;

/// What policy looks at.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// The identity that the peer proved by mTLS.
    pub peer: Option<&'a SpiffeId>,
    /// The port that the connection was made to.
    pub destination_port: u16,
    /// The request, its path already normalised; `None` for a TCP connection.
    pub head: Option<&'a RequestHead>,
}

/// The outcome, with its proof.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict<'a> {
    /// It may pass; the last ALLOW rule that matched, if there was any policy.
    Allowed(Option<&'a Arc<str>>),
    /// It may not; the DENY rule that matched, or `None` where no ALLOW rule did.
    Denied(Option<&'a Arc<str>>),
}

/// Judges by each policy in order; the first refusal ends it.
///
/// With `Deny`, a rule that matches refuses. With `Allow`, the absence of one does.
/// Source: Envoy `config.rbac.v3.RBAC`.
pub fn authorize<'a>(policies: impl IntoIterator<Item = &'a Rbac>, facts: &Facts<'_>) -> Verdict<'a> {
    let mut allowed_by = None;
    for policy in policies {
        let matched = policy.rules.iter().find(|rule| applies(rule, facts)).map(|rule| &rule.name);
        match (policy.action, matched) {
            (Action::Deny, Some(rule)) => return Verdict::Denied(Some(rule)),
            (Action::Allow, None) => return Verdict::Denied(None),
            (Action::Allow, Some(rule)) => allowed_by = Some(rule),
            (Action::Deny, None) => {}
        }
    }
    Verdict::Allowed(allowed_by)
}

fn applies(rule: &Rule, facts: &Facts<'_>) -> bool {
    rule.permissions.iter().any(|p| permits(p, facts)) && rule.principals.iter().any(|p| is(p, facts))
}

fn permits(permission: &Permission, facts: &Facts<'_>) -> bool {
    match permission {
        Permission::Any => true,
        Permission::All(all) => all.iter().all(|p| permits(p, facts)),
        Permission::OneOf(any) => any.iter().any(|p| permits(p, facts)),
        Permission::Not(p) => !permits(p, facts),
        Permission::Path(text) => facts.head.is_some_and(|head| matches_text(text, head.path())),
        Permission::Header(test) => facts.head.is_some_and(|head| matches_header(test, head)),
        Permission::DestinationPort(port) => facts.destination_port == *port,
    }
}

fn is(principal: &Principal, facts: &Facts<'_>) -> bool {
    match principal {
        Principal::Any => true,
        Principal::All(all) => all.iter().all(|p| is(p, facts)),
        Principal::OneOf(any) => any.iter().any(|p| is(p, facts)),
        Principal::Not(p) => !is(p, facts),
        Principal::Authenticated(None) => facts.peer.is_some(),
        Principal::Authenticated(Some(text)) => {
            facts.peer.is_some_and(|peer| matches_text(text, peer.as_str().as_bytes()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::{HeaderMatch, HeaderTest, StringMatch};

    fn rbac(action: Action, permission: Permission, principal: Principal) -> Rbac {
        let rule = Rule { name: "r".into(), permissions: vec![permission], principals: vec![principal] };
        Rbac { action, rules: vec![rule] }
    }

    fn get(path: &str) -> RequestHead {
        let mut head = RequestHead::default();
        head.set_method(b"GET");
        head.set_path_and_query(path.as_bytes());
        head
    }

    #[test]
    fn deny_wins_over_allow_and_absence_denies() {
        let web = SpiffeId::workload("td", "shop", "web").expect("valid");
        let other = SpiffeId::workload("td", "shop", "other").expect("valid");
        let only_web = Principal::Authenticated(Some(StringMatch::Exact(web.as_str().into())));
        let allow = rbac(Action::Allow, Permission::Any, only_web);
        let deny = rbac(Action::Deny, Permission::Path(StringMatch::Prefix("/admin".into())), Principal::Any);
        let check = |peer: Option<&SpiffeId>, path: &str, passes: bool| {
            let head = get(path);
            let facts = Facts { peer, destination_port: 80, head: Some(&head) };
            let verdict = authorize([&deny, &allow], &facts);
            assert_eq!(matches!(verdict, Verdict::Allowed(_)), passes, "{peer:?} {path}: {verdict:?}");
        };
        check(Some(&web), "/", true);
        check(Some(&web), "/admin", false);
        check(Some(&other), "/", false);
        check(None, "/", false);
    }

    #[test]
    fn http_attributes_never_match_a_tcp_connection() {
        let method = HeaderMatch {
            name: ":method".into(),
            test: HeaderTest::Value(StringMatch::Exact("GET".into())),
            invert: false,
        };
        let allow = rbac(Action::Allow, Permission::Header(method), Principal::Any);
        let facts = Facts { peer: None, destination_port: 80, head: None };
        assert_eq!(authorize([&allow], &facts), Verdict::Denied(None));
        assert_eq!(authorize([], &facts), Verdict::Allowed(None));
    }
}
