//! Rules of policies as tests of who asks, and for what.

use std::sync::Arc;

use meshwork_model::cidr::Cidr;
use meshwork_model::mesh::{
    Account, AuthorizationPolicy, AuthorizationRule, Condition, Key, Operation, PolicyAction, Source, Wanted,
};
use meshwork_model::proxy::{HeaderMatch, HeaderTest, Permission, Principal, Rule, StringMatch};
use meshwork_model::regex::Regex;

use crate::translate::jwt;

/// What a listener's connections are like.
pub(super) struct Judged<'m> {
    pub(super) trust_domain: &'m str,
    pub(super) port: u16,
    pub(super) http: bool,
}

/// Tests that must all hold, of one of the two kinds.
struct All<T> {
    tests: Vec<T>,
    /// Whether the connection has what is tested at all.
    http: bool,
    /// Whether a test of what it does not have fails, and with it the rule. If not it falls away, so that a policy that
    /// denies denies more, never less. Source: Istio, "Using Istio authorization on plain TCP protocols".
    is_strict: bool,
    /// Whether nothing can pass any more.
    is_void: bool,
}

/// The two kinds of tests.
trait Test: Sized {
    fn any() -> Self;
    fn all(tests: Vec<Self>) -> Self;
    fn one_of(tests: Vec<Self>) -> Self;
    fn not(test: Self) -> Self;
}

impl Judged<'_> {
    /// The rules of a policy of which something can match here.
    pub(super) fn rules(&self, key: &Key, policy: &AuthorizationPolicy) -> Vec<Rule> {
        let rule = |(index, rule): (usize, &AuthorizationRule)| {
            let name = format!("ns[{}]-policy[{}]-rule[{index}]", key.namespace, key.name).into();
            let is_strict = policy.action == PolicyAction::Allow;
            let (permissions, principals) =
                (self.permissions(rule, is_strict), self.principals(rule, is_strict));
            let is_void = permissions.is_empty() || principals.is_empty();
            (!is_void).then_some(Rule { name, permissions, principals })
        };
        policy.rules.iter().enumerate().filter_map(rule).collect()
    }

    fn all<T>(&self, is_strict: bool) -> All<T> {
        All { tests: Vec::new(), http: self.http, is_strict, is_void: false }
    }

    /// What is asked for; empty where nothing on this port can match.
    fn permissions(&self, rule: &AuthorizationRule, is_strict: bool) -> Vec<Permission> {
        let anything = [Operation::default()];
        let operations = if rule.to.is_empty() { &anything[..] } else { &rule.to };
        let of = |operation| self.permission(operation, &rule.when, is_strict);
        operations.iter().filter_map(of).collect()
    }

    fn permission(&self, operation: &Operation, when: &[Condition], is_strict: bool) -> Option<Permission> {
        if !operation.ports.takes(&self.port) {
            return None;
        }
        let mut all = self.all(is_strict);
        all.of_http(&operation.hosts, host);
        all.of_http(&operation.methods, |text| Permission::Header(header(":method", text)));
        all.of_http(&operation.paths, path);
        for condition in when {
            match condition {
                Condition::DestinationIp(ranges) => {
                    all.of(ranges, |range| Permission::DestinationAddress(*range));
                }
                Condition::DestinationPort(ports) => all.is_void |= !ports.takes(&self.port),
                Condition::ServerName(names) => all.of(names, |name| Permission::ServerName(name.clone())),
                _ => {}
            }
        }
        all.finish()
    }

    /// Who asks; empty where nobody can match.
    fn principals(&self, rule: &AuthorizationRule, is_strict: bool) -> Vec<Principal> {
        let anybody = [Source::default()];
        let sources = if rule.from.is_empty() { &anybody[..] } else { &rule.from };
        sources.iter().filter_map(|source| self.principal(source, &rule.when, is_strict)).collect()
    }

    fn principal(&self, source: &Source, when: &[Condition], is_strict: bool) -> Option<Principal> {
        let mut all = self.all(is_strict);
        all.of(&source.principals, |text| self.identity(text));
        all.of_http(&source.request_principals, request_principal);
        all.of(&source.namespaces, |text| self.namespace(text));
        all.of(&source.accounts, |account| self.account(account));
        all.of(&source.ip_blocks, direct);
        all.of(&source.remote_ip_blocks, remote);
        for condition in when {
            match condition {
                Condition::Header(name, texts) => {
                    all.of_http(texts, |text| Principal::Header(header(name, text)));
                }
                Condition::SourceIp(ranges) => all.of(ranges, direct),
                Condition::RemoteIp(ranges) => all.of(ranges, remote),
                Condition::SourceNamespace(texts) => all.of(texts, |text| self.namespace(text)),
                Condition::SourcePrincipal(texts) => all.of(texts, |text| self.identity(text)),
                Condition::SourceAccount(accounts) => all.of(accounts, |account| self.account(account)),
                Condition::RequestPrincipal(texts) => all.of_http(texts, request_principal),
                Condition::Claim(path, texts) => all.of_http(texts, |text| jwt::claim(path, text)),
                Condition::DestinationIp(_) | Condition::DestinationPort(_) | Condition::ServerName(_) => {}
            }
        }
        all.finish()
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
            other => Some(other.clone()),
        })
    }

    /// A namespace is the part of the identity behind `/ns/`.
    fn namespace(&self, text: &StringMatch) -> Principal {
        let start = |text: &str, end: &str| -> Arc<str> {
            format!("spiffe://{}/ns/{text}{end}", self.trust_domain).into()
        };
        Principal::Authenticated(match text {
            StringMatch::Prefix(text) if text.is_empty() => None,
            StringMatch::Prefix(text) => Some(StringMatch::Prefix(start(text, ""))),
            StringMatch::Suffix(end) => return self.namespace_by_end(end),
            StringMatch::Exact(text) => Some(StringMatch::Prefix(start(text, "/"))),
            // Nobody can write these: ingest makes none.
            other => Some(other.clone()),
        })
    }

    fn namespace_by_end(&self, end: &str) -> Principal {
        let literal = |text: &str| -> String {
            text.chars()
                .flat_map(|char| char.is_ascii_punctuation().then_some('\\').into_iter().chain([char]))
                .collect()
        };
        let domain = literal(self.trust_domain);
        match Regex::new(&format!("spiffe://{domain}/ns/[^/]*{}/.*", literal(end))) {
            Ok(regex) => Principal::Authenticated(Some(StringMatch::Regex(regex))),
            // What is too long for an expression is no namespace.
            Err(_) => Principal::Not(Box::new(Principal::Any)),
        }
    }

    fn account(&self, Account { namespace, name }: &Account) -> Principal {
        let id = format!("spiffe://{}/ns/{namespace}/sa/{name}", self.trust_domain);
        Principal::Authenticated(Some(StringMatch::Exact(id.into())))
    }
}

fn direct(range: &Cidr) -> Principal {
    Principal::DirectAddress(*range)
}

fn remote(range: &Cidr) -> Principal {
    Principal::RemoteAddress(*range)
}

fn path(text: &StringMatch) -> Permission {
    match text {
        StringMatch::Prefix(prefix) if prefix.is_empty() => Permission::Header(header(":path", text)),
        text => Permission::Path(text.clone()),
    }
}

/// The case of a host's letters does not count; ingest has them in lowercase.
fn host(text: &StringMatch) -> Permission {
    let test = match header(":authority", text) {
        HeaderMatch { test: HeaderTest::Value(test), .. } => {
            HeaderTest::Value(StringMatch::AnyCase(test.into()))
        }
        present => present.test,
    };
    Permission::Header(HeaderMatch { name: ":authority".into(), test, invert: false })
}

/// `*` asks for presence. Source: Istio, AuthorizationPolicy `Rule`.
fn header(name: &str, text: &StringMatch) -> HeaderMatch {
    let test = match text {
        StringMatch::Prefix(prefix) if prefix.is_empty() => HeaderTest::Present,
        text => HeaderTest::Value(text.clone()),
    };
    HeaderMatch { name: name.into(), test, invert: false }
}

/// A test of `ISSUER/SUBJECT`, both of which may have a `/` in them: each way to cut it is one to pass.
fn request_principal(text: &StringMatch) -> Principal {
    let issuer = |text: StringMatch| jwt::claim(&["iss".into()], &text);
    let subject = |text: StringMatch| jwt::claim(&["sub".into()], &text);
    let something = || StringMatch::Prefix("".into());
    let cuts = |text: &str| -> Vec<(Arc<str>, Arc<str>)> {
        text.match_indices('/').map(|(at, _)| (text[..at].into(), text[at + 1..].into())).collect()
    };
    let both = |issuer, subject| Principal::All(vec![issuer, subject]);
    match text {
        StringMatch::Exact(text) => one_of(
            cuts(text)
                .into_iter()
                .map(|(iss, sub)| both(issuer(StringMatch::Exact(iss)), subject(StringMatch::Exact(sub)))),
        ),
        StringMatch::Prefix(text) => {
            let longer = both(issuer(StringMatch::Prefix(Arc::clone(text))), subject(something()));
            let cut = cuts(text)
                .into_iter()
                .map(|(iss, sub)| both(issuer(StringMatch::Exact(iss)), subject(StringMatch::Prefix(sub))));
            one_of([longer].into_iter().chain(cut))
        }
        StringMatch::Suffix(text) => {
            let longer = both(issuer(something()), subject(StringMatch::Suffix(Arc::clone(text))));
            let cut = cuts(text)
                .into_iter()
                .map(|(iss, sub)| both(issuer(StringMatch::Suffix(iss)), subject(StringMatch::Exact(sub))));
            one_of([longer].into_iter().chain(cut))
        }
        // Nobody can write these: ingest makes none.
        _ => Principal::Not(Box::new(Principal::Any)),
    }
}

fn one_of(tests: impl Iterator<Item = Principal>) -> Principal {
    any_of(tests.collect())
}

fn any_of<T: Test>(mut tests: Vec<T>) -> T {
    if tests.len() == 1 { tests.swap_remove(0) } else { T::one_of(tests) }
}

// === impl All ===

impl<T: Test> All<T> {
    /// One of those that may be, and none of those that may not.
    fn of<V>(&mut self, wanted: &Wanted<V>, test: impl Fn(&V) -> T) {
        if !wanted.one_of.is_empty() {
            self.tests.push(any_of(wanted.one_of.iter().map(&test).collect()));
        }
        if !wanted.none_of.is_empty() {
            self.tests.push(T::not(any_of(wanted.none_of.iter().map(&test).collect())));
        }
    }

    /// The same, of what only requests have.
    fn of_http<V>(&mut self, wanted: &Wanted<V>, test: impl Fn(&V) -> T) {
        if self.http {
            self.of(wanted, test);
        } else if !wanted.is_empty() {
            self.is_void |= self.is_strict;
        }
    }

    /// All of it as one test; `None` where nothing can pass.
    fn finish(mut self) -> Option<T> {
        (!self.is_void).then(|| match self.tests.len() {
            0 => T::any(),
            1 => self.tests.swap_remove(0),
            _ => T::all(self.tests),
        })
    }
}

impl Test for Permission {
    fn any() -> Self {
        Self::Any
    }

    fn all(tests: Vec<Self>) -> Self {
        Self::All(tests)
    }

    fn one_of(tests: Vec<Self>) -> Self {
        Self::OneOf(tests)
    }

    fn not(test: Self) -> Self {
        Self::Not(Box::new(test))
    }
}

impl Test for Principal {
    fn any() -> Self {
        Self::Any
    }

    fn all(tests: Vec<Self>) -> Self {
        Self::All(tests)
    }

    fn one_of(tests: Vec<Self>) -> Self {
        Self::OneOf(tests)
    }

    fn not(test: Self) -> Self {
        Self::Not(Box::new(test))
    }
}
