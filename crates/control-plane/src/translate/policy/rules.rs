//! Rules of policies as tests of who asks, and for what.
//!
//! Where a caller could write the same in another way, a test has two readings: what lets somebody in is read narrowly,
//! what keeps somebody out widely. So a way of writing that nobody thought of is refused by both.

use std::collections::BTreeSet;
use std::sync::Arc;

use meshwork_model::cidr::Cidr;
use meshwork_model::mesh::{
    Account, AuthorizationPolicy, AuthorizationRule, Condition, Key, Operation, PolicyAction, Source, Wanted,
};
use meshwork_model::proxy::{HeaderMatch, HeaderTest, Permission, Principal, Rule, StringMatch};
use meshwork_model::regex::Regex;
use meshwork_model::spiffe::SpiffeId;

use crate::translate::jwt;

/// What a listener's connections are like.
pub(super) struct Judged<'m> {
    pub(super) trust_domain: &'m str,
    /// Other trust domains whose identities are believed.
    pub(super) federated: Vec<&'m str>,
    pub(super) port: u16,
    pub(super) http: bool,
    /// The identities of those who are believed on whose behalf they ask: gateways. `None` where nobody is asked, since
    /// clients come themselves.
    pub(super) tellers: Option<BTreeSet<&'m SpiffeId>>,
}

/// How a test is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reading {
    /// It holds of what is surely meant.
    Narrow,
    /// It holds of all that may be meant.
    Wide,
}

/// What the names of a policy's rules begin with.
pub(super) fn name_of(key: &Key) -> String {
    format!("ns[{}]-policy[{}]", key.namespace, key.name)
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
            let name = format!("{}-rule[{index}]", name_of(key)).into();
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
        all.of_http(&operation.hosts, each(host));
        all.of_http(&operation.methods, each(method));
        all.of_http(&operation.paths, each(|text, _| path(text)));
        for condition in when {
            match condition {
                Condition::DestinationIp(ranges) => {
                    all.of(ranges, each(|range: &Cidr, _| Permission::DestinationAddress(*range)));
                }
                Condition::DestinationPort(ports) => all.is_void |= !ports.takes(&self.port),
                Condition::ServerName(names) => all.of(names, each(|name, _| server_name(name))),
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
        let is_of_any = !source.trust_domains.is_empty();
        let namespace = |text: &StringMatch, reading| self.namespace(text, reading, is_of_any);
        let account = |name: &Account, reading| self.account(name, reading, is_of_any);
        all.of(&source.principals, each(|text, _| self.identity(text)));
        all.of(&source.trust_domains, each(|text, _| self.domain(text)));
        all.of_http(&source.request_principals, each(|text, _| request_principal(text)));
        all.of(&source.namespaces, each(namespace));
        all.of(&source.accounts, each(account));
        all.of(&source.ip_blocks, each(|range, _| direct(range)));
        all.of(&source.remote_ip_blocks, each(|range, reading| self.remote(range, reading)));
        for condition in when {
            match condition {
                Condition::Header(name, texts) => {
                    all.of_http(texts, |texts: &[StringMatch], reading| field(name, texts, reading));
                }
                Condition::SourceIp(ranges) => all.of(ranges, each(|range, _| direct(range))),
                Condition::RemoteIp(ranges) => {
                    all.of(ranges, each(|range, reading| self.remote(range, reading)));
                }
                Condition::SourceNamespace(texts) => all.of(texts, each(namespace)),
                Condition::SourcePrincipal(texts) => all.of(texts, each(|text, _| self.identity(text))),
                Condition::SourceAccount(accounts) => all.of(accounts, each(account)),
                Condition::RequestPrincipal(texts) => {
                    all.of_http(texts, each(|text, _| request_principal(text)));
                }
                Condition::Claim(path, texts) => {
                    let is_wide = |reading| reading == Reading::Wide;
                    all.of_http(texts, each(|text, reading| jwt::claim(path, text, is_wide(reading))));
                }
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
        match text {
            StringMatch::Exact(text) => named(StringMatch::Exact(full(text))),
            StringMatch::Prefix(text) => named(StringMatch::Prefix(full(text))),
            // A certificate may have other names that end so: those are nobody's in a mesh.
            other => Principal::All(vec![named(other.clone()), named(StringMatch::Prefix(full("")))]),
        }
    }

    /// The trust domain is the part of an identity before its path.
    fn domain(&self, text: &StringMatch) -> Principal {
        let start = |text: &str, end: &str| StringMatch::Prefix(format!("spiffe://{text}{end}").into());
        match text {
            StringMatch::Exact(text) if &**text == "cluster.local" => named(start(self.trust_domain, "/")),
            StringMatch::Exact(text) => named(start(text, "/")),
            StringMatch::Prefix(text) => named(start(text, "")),
            StringMatch::Suffix(end) => expression(&format!("spiffe://[^/]*{}/.*", literal(end))),
            // Nobody can write these: ingest makes none.
            _ => nobody(),
        }
    }

    /// The trust domains that a namespace may be of where nothing is said of them: our own, and in the wide reading all
    /// that are known.
    fn domains(&self, reading: Reading, is_of_any: bool) -> impl Iterator<Item = &str> {
        let others = if is_of_any || reading == Reading::Wide { &self.federated[..] } else { &[] };
        [self.trust_domain].into_iter().chain(others.iter().copied())
    }

    /// A namespace is the part of the identity behind `/ns/`.
    fn namespace(&self, text: &StringMatch, reading: Reading, is_of_any: bool) -> Principal {
        any_of(self.domains(reading, is_of_any).map(|domain| namespace_of(domain, text)).collect())
    }

    fn account(&self, Account { namespace, name }: &Account, reading: Reading, is_of_any: bool) -> Principal {
        let of = |domain| format!("spiffe://{domain}/ns/{namespace}/sa/{name}");
        let each = self.domains(reading, is_of_any).map(of);
        any_of(each.map(|id| named(StringMatch::Exact(id.into()))).collect())
    }

    /// On whose behalf a request comes. That is believed of gateways; of all others their own address has to be in the
    /// range, too, in the narrow reading, and in the wide one it is enough.
    fn remote(&self, range: &Cidr, reading: Reading) -> Principal {
        let (told, own) = (Principal::RemoteAddress(*range), direct(range));
        let Some(tellers) = self.tellers.as_ref().filter(|_| self.http) else { return told };
        let is_teller = || {
            let each = tellers.iter().map(|id| named(StringMatch::Exact(id.as_str().into())));
            each.collect::<Vec<_>>()
        };
        match reading {
            Reading::Narrow => {
                Principal::All(vec![told, any_of(is_teller().into_iter().chain([own]).collect())])
            }
            Reading::Wide if tellers.is_empty() => Principal::OneOf(vec![told, own]),
            Reading::Wide => {
                let nobodys = Principal::Not(Box::new(any_of(is_teller())));
                Principal::OneOf(vec![told, Principal::All(vec![nobodys, own])])
            }
        }
    }
}

/// Whether a policy asks on whose behalf requests come.
pub(super) fn asks_for_clients(policy: &AuthorizationPolicy) -> bool {
    let in_source = |source: &Source| !source.remote_ip_blocks.is_empty();
    let in_condition = |condition: &Condition| matches!(condition, Condition::RemoteIp(_));
    policy.rules.iter().any(|rule| rule.from.iter().any(in_source) || rule.when.iter().any(in_condition))
}

/// Rules that refuse requests with fields that are, to an application that takes `_` for `-`, the ones that a policy
/// asks about: what the application sees would be another value than the one that was judged.
pub(super) fn look_alikes(key: &Key, policy: &AuthorizationPolicy) -> Option<Rule> {
    let conditions = policy.rules.iter().flat_map(|rule| &rule.when);
    let names: BTreeSet<&Arc<str>> = conditions
        .filter_map(|condition| if let Condition::Header(name, _) = condition { Some(name) } else { None })
        .collect();
    let present = |name: String| {
        Permission::Header(HeaderMatch { name: name.into(), test: HeaderTest::Present, invert: false })
    };
    let permissions: Vec<Permission> = names.iter().flat_map(|name| spellings(name)).map(present).collect();
    (!permissions.is_empty()).then(|| Rule {
        name: format!("{}-underscores", name_of(key)).into(),
        permissions,
        principals: vec![Principal::Any],
    })
}

/// A name with `_` for `-`, or the other way round, at each of its places; of one with more than [`MOST_MARKS`] those at
/// one place, and at all.
fn spellings(name: &str) -> Vec<String> {
    let marks: Vec<usize> = name.match_indices(['-', '_']).map(|(at, _)| at).take(31).collect();
    let all = (1_u32 << marks.len()) - 1;
    let turned: Vec<u32> = match marks.len() {
        0 => Vec::new(),
        1..=MOST_MARKS => (1..=all).collect(),
        count => (0..count).map(|at| 1 << at).chain([all]).collect(),
    };
    let spelled = |turned: u32| {
        let turn = |(at, c): (usize, char)| match marks.iter().position(|mark| *mark == at) {
            Some(mark) if turned & (1 << mark) != 0 && c == '-' => '_',
            Some(mark) if turned & (1 << mark) != 0 => '-',
            _ => c,
        };
        name.char_indices().map(turn).collect()
    };
    turned.into_iter().map(spelled).collect()
}

/// Of names with more marks than these not every spelling is looked for: they double with each.
const MOST_MARKS: usize = 4;

fn named(text: StringMatch) -> Principal {
    Principal::Authenticated(Some(text))
}

fn nobody() -> Principal {
    Principal::Not(Box::new(Principal::Any))
}

/// A text as an expression.
fn literal(text: &str) -> String {
    let escape = |char: char| char.is_ascii_punctuation().then_some('\\').into_iter().chain([char]);
    text.chars().flat_map(escape).collect()
}

/// Whose identity is such; nobody's where the expression is too long, since nothing else has that form.
fn expression(pattern: &str) -> Principal {
    Regex::new(pattern).map_or_else(|_| nobody(), |regex| named(StringMatch::Regex(regex)))
}

fn namespace_of(domain: &str, text: &StringMatch) -> Principal {
    let start =
        |text: &str, end: &str| StringMatch::Prefix(format!("spiffe://{domain}/ns/{text}{end}").into());
    match text {
        StringMatch::Prefix(text) => named(start(text, "")),
        StringMatch::Exact(text) => named(start(text, "/")),
        StringMatch::Suffix(end) => {
            expression(&format!("spiffe://{}/ns/[^/]*{}/.*", literal(domain), literal(end)))
        }
        // Nobody can write these: ingest makes none.
        _ => nobody(),
    }
}

fn direct(range: &Cidr) -> Principal {
    Principal::DirectAddress(*range)
}

/// A header field of which there may be several. To let somebody in, each value has to pass: the application may take any
/// of them. To keep somebody out, one value is enough.
fn field(name: &Arc<str>, texts: &[StringMatch], reading: Reading) -> Principal {
    let is_any = |text: &StringMatch| matches!(text, StringMatch::Prefix(prefix) if prefix.is_empty());
    if reading == Reading::Narrow && !texts.iter().any(is_any) {
        return Principal::EachValue { name: Arc::clone(name), tests: texts.to_vec() };
    }
    any_of(texts.iter().map(|text| Principal::Header(header(name, text))).collect())
}

/// Methods have a case; there are applications that do not look at it.
fn method(text: &StringMatch, reading: Reading) -> Permission {
    let test = match reading {
        Reading::Narrow => text.clone(),
        Reading::Wide => lowercase(text),
    };
    Permission::Header(header(":method", &test))
}

/// As a test that takes every case.
fn lowercase(text: &StringMatch) -> StringMatch {
    let lower = |text: &str| text.to_ascii_lowercase().into();
    match text {
        StringMatch::Prefix(text) if text.is_empty() => StringMatch::Prefix("".into()),
        StringMatch::Exact(text) => StringMatch::AnyCase(Box::new(StringMatch::Exact(lower(text)))),
        StringMatch::Prefix(text) => StringMatch::AnyCase(Box::new(StringMatch::Prefix(lower(text)))),
        StringMatch::Suffix(text) => StringMatch::AnyCase(Box::new(StringMatch::Suffix(lower(text)))),
        other => other.clone(),
    }
}

/// `*` asks for a name.
fn server_name(text: &StringMatch) -> Permission {
    match text {
        StringMatch::Prefix(prefix) if prefix.is_empty() => {
            Permission::Not(Box::new(Permission::ServerName(StringMatch::Exact("".into()))))
        }
        text => Permission::ServerName(text.clone()),
    }
}

fn path(text: &StringMatch) -> Permission {
    match text {
        StringMatch::Prefix(prefix) if prefix.is_empty() => Permission::Header(header(":path", text)),
        text => Permission::Path(text.clone()),
    }
}

/// The case of a host's letters does not count. The narrow reading is the host as it is written; the wide one is also that
/// host with a dot at its end, and with any port where none is written.
fn host(text: &StringMatch, reading: Reading) -> Permission {
    let tests = match reading {
        Reading::Narrow => vec![lowercase(text)],
        Reading::Wide => hosts(text),
    };
    any_of(tests.iter().map(|test| Permission::Header(header(":authority", test))).collect())
}

fn hosts(text: &StringMatch) -> Vec<StringMatch> {
    let all = |tests: Vec<StringMatch>| tests.iter().map(lowercase).collect();
    match text {
        StringMatch::Exact(whole) => {
            let (name, port) = cut_port(whole);
            let exact = |dot: &str| StringMatch::Exact(format!("{name}{dot}{port}").into());
            let any_port = |dot: &str| StringMatch::Prefix(format!("{name}{dot}:").into());
            let mut tests = vec![exact(""), exact(".")];
            if port.is_empty() {
                tests.extend([any_port(""), any_port(".")]);
            }
            all(tests)
        }
        StringMatch::Suffix(whole) => {
            let (name, port) = cut_port(whole);
            let end = |dot: &str| StringMatch::Suffix(format!("{name}{dot}{port}").into());
            let mut tests = vec![end(""), end(".")];
            if port.is_empty() {
                let any_port = Regex::new(&format!(r"(?i).*{}\.?:[0-9]*", literal(name)));
                tests.extend(any_port.map(StringMatch::Regex));
            }
            all(tests)
        }
        // A beginning is the same whatever follows.
        other => vec![lowercase(other)],
    }
}

/// A host and its port, with the colon; dots at the name's end are cut off.
fn cut_port(host: &str) -> (&str, &str) {
    let colon = host.rfind(':').filter(|colon| host.rfind(']').is_none_or(|bracket| bracket < *colon));
    let (name, port) = host.split_at(colon.unwrap_or(host.len()));
    (name.trim_end_matches('.'), port)
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
    let issuer = |text: StringMatch| jwt::claim(&["iss".into()], &text, false);
    let subject = |text: StringMatch| jwt::claim(&["sub".into()], &text, false);
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
        _ => nobody(),
    }
}

fn one_of(tests: impl Iterator<Item = Principal>) -> Principal {
    any_of(tests.collect())
}

fn any_of<T: Test>(mut tests: Vec<T>) -> T {
    if tests.len() == 1 { tests.swap_remove(0) } else { T::one_of(tests) }
}

/// A test of a list by one of each value.
fn each<V, T: Test>(test: impl Fn(&V, Reading) -> T) -> impl Fn(&[V], Reading) -> T {
    move |values, reading| any_of(values.iter().map(|value| test(value, reading)).collect())
}

// === impl All ===

impl<T: Test> All<T> {
    /// One of those that may be, and none of those that may not: `test` says whether it is one of some.
    fn of<V>(&mut self, wanted: &Wanted<V>, test: impl Fn(&[V], Reading) -> T) {
        // What is not to be is read the other way: to let less in is to keep more out.
        let (reading, of_others) =
            if self.is_strict { (Reading::Narrow, Reading::Wide) } else { (Reading::Wide, Reading::Narrow) };
        if !wanted.one_of.is_empty() {
            self.tests.push(test(&wanted.one_of, reading));
        }
        if !wanted.none_of.is_empty() {
            self.tests.push(T::not(test(&wanted.none_of, of_others)));
        }
    }

    /// The same, of what only requests have.
    fn of_http<V>(&mut self, wanted: &Wanted<V>, test: impl Fn(&[V], Reading) -> T) {
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
