//! `authorize`: whether a request or a connection may pass, and which rule said so.

use std::net::IpAddr;
use std::sync::Arc;

use crate::cidr::Cidr;
use crate::head::RequestHead;
use crate::metadata::{Metadata, matches_metadata};
use crate::proxy::{Action, Permission, Principal, Rbac, Rule, StringMatch};
use crate::route::{matches_header, matches_text};
use crate::spiffe::SpiffeId;

/// What policy looks at. What is not known is `None`, and no test but its negation takes that.
#[derive(Clone, Copy, Debug, Default)]
pub struct Facts<'a> {
    /// The identity that the peer proved by mTLS.
    pub peer: Option<&'a SpiffeId>,
    /// Names in the certificate that the peer showed, where it showed one.
    pub names: Option<Names<'a>>,
    /// The address that the connection was made to.
    pub destination: Option<IpAddr>,
    /// The port that the connection was made to.
    pub destination_port: u16,
    /// Who opened the connection.
    pub direct: Option<IpAddr>,
    /// On whose behalf it was opened.
    pub source: Option<IpAddr>,
    /// On whose behalf the request comes.
    pub remote: Option<IpAddr>,
    /// The server name that the connection asked for.
    pub server_name: Option<&'a str>,
    /// What filters have found out.
    pub metadata: Option<&'a Metadata>,
    /// The request, its path already normalised; `None` for a TCP connection.
    pub head: Option<&'a RequestHead>,
}

/// Names in a certificate.
#[derive(Clone, Copy, Debug)]
pub struct Names<'a> {
    /// Alternative names that are URIs.
    pub uris: &'a [String],
    /// Those that are DNS names.
    pub dns_names: &'a [String],
    /// The subject, as RFC 2253 writes it.
    pub subject: &'a str,
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
/// With `Deny`, a rule that matches refuses. With `Allow`, the absence of one does. With `Log`, nothing does.
/// Source: Envoy `config.rbac.v3.RBAC`.
pub fn authorize<'a>(policies: impl IntoIterator<Item = &'a Rbac>, facts: &Facts<'_>) -> Verdict<'a> {
    let mut allowed_by = None;
    for policy in policies {
        let matched = policy.rules.iter().find(|rule| applies(rule, facts)).map(|rule| &rule.name);
        match (policy.action, matched) {
            (Action::Deny, Some(rule)) => return Verdict::Denied(Some(rule)),
            (Action::Allow, None) => return Verdict::Denied(None),
            (Action::Allow | Action::Log, Some(rule)) => allowed_by = Some(rule),
            (Action::Deny | Action::Log, None) => {}
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
        Permission::DestinationAddress(range) => is_in(range, facts.destination),
        Permission::DestinationPort(port) => facts.destination_port == *port,
        Permission::DestinationPorts { start, end } => {
            (*start..*end).contains(&facts.destination_port.into())
        }
        Permission::ServerName(text) => matches_text(text, facts.server_name.unwrap_or_default().as_bytes()),
        Permission::Metadata(test) => matches_metadata(test, facts.metadata),
    }
}

fn is(principal: &Principal, facts: &Facts<'_>) -> bool {
    match principal {
        Principal::Any => true,
        Principal::All(all) => all.iter().all(|p| is(p, facts)),
        Principal::OneOf(any) => any.iter().any(|p| is(p, facts)),
        Principal::Not(p) => !is(p, facts),
        Principal::Authenticated(None) => facts.peer.is_some() || facts.names.is_some(),
        Principal::Authenticated(Some(text)) => is_named(text, facts),
        Principal::DirectAddress(range) => is_in(range, facts.direct),
        Principal::RemoteAddress(range) => is_in(range, facts.remote),
        Principal::SourceAddress(range) => is_in(range, facts.source),
        Principal::Header(test) => facts.head.is_some_and(|head| matches_header(test, head)),
        Principal::Path(text) => facts.head.is_some_and(|head| matches_text(text, head.path())),
        Principal::Metadata(test) => matches_metadata(test, facts.metadata),
    }
}

/// Whether one of the peer's names passes. Source: Envoy `Principal.Authenticated.principal_name`.
fn is_named(text: &StringMatch, facts: &Facts<'_>) -> bool {
    let Some(names) = &facts.names else {
        return facts.peer.is_some_and(|peer| matches_text(text, peer.as_str().as_bytes()));
    };
    let mut alternatives = names.uris.iter().chain(names.dns_names);
    alternatives.any(|name| matches_text(text, name.as_bytes()))
        || matches_text(text, names.subject.as_bytes())
}

fn is_in(range: &Cidr, address: Option<IpAddr>) -> bool {
    address.is_some_and(|address| range.contains(address))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metadata::Value;
    use crate::proxy::{HeaderMatch, HeaderTest};
    use crate::proxy::{MetadataMatch, ValueMatch};

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
            let facts = Facts { peer, destination_port: 80, head: Some(&head), ..Facts::default() };
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
        let facts = Facts { destination_port: 80, ..Facts::default() };
        assert_eq!(authorize([&allow], &facts), Verdict::Denied(None));
        assert_eq!(authorize([], &facts), Verdict::Allowed(None));
    }

    #[test]
    fn each_test_looks_at_its_own_fact() {
        let mut metadata = Metadata::default();
        metadata.set("jwt", "iss", Value::Text("me".into()));
        let head = get("/a?b");
        let (uris, dns_names) = (["urn:a".to_owned()], ["a.example.com".to_owned()]);
        let facts = Facts {
            names: Some(Names { uris: &uris, dns_names: &dns_names, subject: "CN=a" }),
            destination: Some([10, 0, 0, 1].into()),
            destination_port: 443,
            direct: Some([10, 0, 1, 1].into()),
            source: Some([10, 0, 2, 1].into()),
            remote: Some([10, 0, 3, 1].into()),
            server_name: Some("a.example.com"),
            metadata: Some(&metadata),
            head: Some(&head),
            ..Facts::default()
        };
        let check = |permission: Permission, principal: Principal, passes: bool| {
            let allow = rbac(Action::Allow, permission, principal);
            let verdict = authorize([&allow], &facts);
            assert_eq!(matches!(verdict, Verdict::Allowed(_)), passes, "{allow:?}");
            let log = Rbac { action: Action::Log, ..allow };
            assert!(matches!(authorize([&log], &facts), Verdict::Allowed(_)), "{log:?}");
        };
        let permits = |permission, passes| check(permission, Principal::Any, passes);
        let is = |principal, passes| check(Permission::Any, principal, passes);
        let exact = |text: &str| StringMatch::Exact(text.into());
        let network = |third| Cidr::new([10, 0, third, 0].into(), 24);
        let issuer = |text| MetadataMatch {
            filter: "jwt".into(),
            path: vec!["iss".into()],
            value: ValueMatch::Text(exact(text)),
            invert: false,
        };
        for (third, is_first) in [(0, true), (1, false)] {
            permits(Permission::DestinationAddress(network(third)), is_first);
            is(Principal::DirectAddress(network(third)), !is_first);
        }
        is(Principal::SourceAddress(network(2)), true);
        is(Principal::SourceAddress(network(3)), false);
        is(Principal::RemoteAddress(network(3)), true);
        is(Principal::RemoteAddress(network(1)), false);
        permits(Permission::DestinationPorts { start: 443, end: 444 }, true);
        permits(Permission::DestinationPorts { start: 442, end: 443 }, false);
        permits(Permission::ServerName(exact("a.example.com")), true);
        permits(Permission::ServerName(exact("")), false);
        permits(Permission::Metadata(issuer("me")), true);
        is(Principal::Metadata(issuer("you")), false);
        is(Principal::Path(exact("/a")), true);
        is(Principal::Path(exact("/a?b")), false);
        for (name, passes) in [("urn:a", true), ("a.example.com", true), ("CN=a", true), ("a", false)] {
            is(Principal::Authenticated(Some(exact(name))), passes);
        }
        is(Principal::Authenticated(None), true);
    }
}
