//! Looking rules up says the same as looking through them: for random rules and requests, and for rules by the thousand.

use super::*;
use crate::metadata::Value;
use crate::policy::index::FEW;
use crate::regex::Regex;

/// Random numbers that follow from one. Source: `SplitMix64`.
struct Draws(u64);

impl Draws {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, count: usize) -> usize {
        let high = (u128::from(self.next()) * count as u128) >> 64;
        usize::try_from(high).expect("below the count")
    }

    fn one<'t>(&mut self, of: &[&'t str]) -> &'t str {
        of[self.below(of.len())]
    }

    fn some<T>(&mut self, most: usize, make: impl Fn(&mut Self) -> T) -> Vec<T> {
        (0..self.below(most + 1)).map(|_| make(self)).collect()
    }

    fn maybe<T>(&mut self, make: impl FnOnce(&mut Self) -> T) -> Option<T> {
        (self.below(3) > 0).then(|| make(self))
    }
}

// Few enough, that rules and requests meet; some begin or end with others.
const IDS: &[&str] = &[
    "spiffe://td/ns/a/sa/x",
    "spiffe://td/ns/a/sa/xy",
    "spiffe://td/ns/ab/sa/x",
    "spiffe://tdd/ns/a/sa/x",
    "CN=x",
    "",
];
const PARTS: &[&str] = &["spiffe://td/ns/a/", "spiffe://td", "/sa/x", "x", "spiffe://", "", "y", "ns"];
const PATHS: &[&str] = &["/", "/a", "/a/", "/a/b", "/a/b/c", "/ab", "/b.css", "*", "", "/a/b?q=1", "/A"];
const PATH_PARTS: &[&str] = &["/", "/a", "/a/", "/a/b", ".css", "b", "", "c", "/a/b?q"];
const HOSTS: &[&str] = &["a.test", "A.Test", "b.a.test", "a.test:80", "", "a.test."];
const HOST_PARTS: &[&str] = &["a.", ".test", "a.test", "b", "", ":80"];
const METHODS: &[&str] = &["GET", "POST", "get", ""];
const VALUES: &[&str] = &["1", "12", "2", "", "a", "1,2", "-5"];
const NAMES: &[&str] = &["x-a", "x-b", "x-c", "x-d", "x-e", "x-f"];
const PATTERNS: &[&str] = &[r"/a\/[^/]+", "/a|/b", ".*x", "spiffe://td/.*", "(?i)/A", "1+", "/ab*", ""];

fn text(draws: &mut Draws, whole: &[&str], parts: &[&str]) -> StringMatch {
    match draws.below(9) {
        0..=2 => StringMatch::Exact(draws.one(whole).into()),
        3 | 4 => StringMatch::Prefix(draws.one(parts).into()),
        5 => StringMatch::Suffix(draws.one(parts).into()),
        6 => StringMatch::Contains(draws.one(parts).into()),
        7 => StringMatch::Regex(Regex::new(draws.one(PATTERNS)).expect("valid")),
        _ => {
            let lower: Arc<str> = draws.one(whole).to_ascii_lowercase().into();
            StringMatch::AnyCase(Box::new(if draws.below(2) == 0 {
                StringMatch::Exact(lower)
            } else {
                StringMatch::Prefix(lower)
            }))
        }
    }
}

fn header(draws: &mut Draws) -> HeaderMatch {
    let (name, value) = match draws.below(8) {
        0 => (":method", text(draws, METHODS, METHODS)),
        1 => (":path", text(draws, PATHS, PATH_PARTS)),
        2 => (":authority", text(draws, HOSTS, HOST_PARTS)),
        3 => (":scheme", text(draws, &["http", "https"], &["http"])),
        _ => (draws.one(NAMES), text(draws, VALUES, VALUES)),
    };
    let test = match draws.below(8) {
        0 => HeaderTest::Present,
        1 => HeaderTest::Range { start: -10, end: 5 },
        2 => HeaderTest::OrMissing(Box::new(HeaderTest::Value(value))),
        _ => HeaderTest::Value(value),
    };
    HeaderMatch { name: name.into(), test, invert: draws.below(5) == 0 }
}

fn metadata_match(draws: &mut Draws) -> MetadataMatch {
    let plain = ValueMatch::Text(text(draws, VALUES, VALUES));
    let value = match draws.below(5) {
        0 => ValueMatch::Present(draws.below(2) == 0),
        1 => ValueMatch::OneOf(Box::new(plain)),
        2 => ValueMatch::Or(vec![plain.clone(), ValueMatch::OneOf(Box::new(plain))]),
        3 => ValueMatch::Null,
        _ => plain,
    };
    let names = ["1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11"];
    let path = vec![draws.one(&names).into()];
    MetadataMatch { filter: "jwt".into(), path, value, invert: draws.below(6) == 0 }
}

fn range(draws: &mut Draws) -> Cidr {
    let networks = ["10.0.0.0", "10.0.1.0", "2001:db8::", "0.0.0.0", "::"];
    let lengths = [0, 8, 24, 32, 33, 64, 128];
    Cidr::new(draws.one(&networks).parse().expect("valid"), lengths[draws.below(lengths.len())])
}

fn permission(draws: &mut Draws, depth: usize) -> Permission {
    let within = |draws: &mut Draws| permission(draws, depth - 1);
    match draws.below(if depth == 0 { 9 } else { 13 }) {
        0 => Permission::Any,
        1 | 2 => Permission::Path(text(draws, PATHS, PATH_PARTS)),
        3 | 4 => Permission::Header(header(draws)),
        5 => Permission::DestinationAddress(range(draws)),
        6 => Permission::DestinationPort([80, 81][draws.below(2)]),
        7 => Permission::ServerName(text(draws, HOSTS, HOST_PARTS)),
        8 if draws.below(2) == 0 => Permission::DestinationPorts { start: 80, end: 81 },
        8 => Permission::Metadata(metadata_match(draws)),
        9 => Permission::Not(Box::new(permission(draws, depth - 1))),
        10 => Permission::OneOf(draws.some(3, within)),
        _ => Permission::All(draws.some(3, within)),
    }
}

fn principal(draws: &mut Draws, depth: usize) -> Principal {
    let within = |draws: &mut Draws| principal(draws, depth - 1);
    match draws.below(if depth == 0 { 11 } else { 15 }) {
        0 => Principal::Any,
        1..=3 => Principal::Authenticated(draws.maybe(|draws| text(draws, IDS, PARTS))),
        4 => Principal::DirectAddress(range(draws)),
        5 => Principal::RemoteAddress(range(draws)),
        6 => Principal::SourceAddress(range(draws)),
        7 => Principal::Header(header(draws)),
        8 => Principal::EachValue {
            name: draws.one(NAMES).into(),
            tests: draws.some(3, |draws| text(draws, VALUES, VALUES)),
        },
        9 => Principal::Path(text(draws, PATHS, PATH_PARTS)),
        10 => Principal::Metadata(metadata_match(draws)),
        11 => Principal::Not(Box::new(principal(draws, depth - 1))),
        12 => Principal::OneOf(draws.some(3, within)),
        _ => Principal::All(draws.some(3, within)),
    }
}

fn random_rules(draws: &mut Draws) -> Rbac {
    let count = FEW + 1 + draws.below(40);
    let rule = |at: usize, draws: &mut Draws| Rule {
        name: format!("rule-{at}").into(),
        permissions: draws.some(2, |draws| permission(draws, 2)),
        principals: draws.some(2, |draws| principal(draws, 2)),
    };
    Rbac { action: Action::Deny, rules: (0..count).map(|at| rule(at, draws)).collect() }
}

/// A request or connection, as facts borrow it.
struct Asked {
    peer: Option<SpiffeId>,
    uris: Vec<String>,
    subject: &'static str,
    has_names: bool,
    addresses: [Option<IpAddr>; 4],
    port: u16,
    server_name: Option<&'static str>,
    metadata: Option<Metadata>,
    head: Option<RequestHead>,
}

fn random_head(draws: &mut Draws) -> RequestHead {
    let mut head = RequestHead::default();
    head.set_method(draws.one(METHODS).as_bytes());
    let long = "a.".repeat(200);
    let host = if draws.below(20) == 0 { long.as_str() } else { draws.one(HOSTS) };
    head.set_authority(host.as_bytes());
    head.set_path_and_query(draws.one(PATHS).as_bytes());
    head.https = draws.below(2) == 0;
    for _ in 0..draws.below(5) {
        head.fields.push(draws.one(NAMES).as_bytes(), draws.one(VALUES).as_bytes());
    }
    head
}

fn random_metadata(draws: &mut Draws) -> Metadata {
    let mut metadata = Metadata::default();
    let plain = |draws: &mut Draws| Value::Text(draws.one(VALUES).into());
    for at in 1..12 {
        let value = match draws.below(4) {
            0 => continue,
            1 => Value::List(draws.some(3, plain)),
            2 => Value::Null,
            _ => plain(draws),
        };
        metadata.set("jwt", &at.to_string(), value);
    }
    metadata
}

fn random_asked(draws: &mut Draws) -> Asked {
    let address = |draws: &mut Draws| {
        let all = ["10.0.0.1", "10.0.1.1", "::ffff:10.0.0.1", "2001:db8::1", "192.0.2.1"];
        draws.maybe(|draws| draws.one(&all).parse().expect("valid"))
    };
    let id = draws.one(&IDS[..4]);
    Asked {
        peer: draws.maybe(|_| SpiffeId::parse(id).expect("valid")),
        uris: draws.some(2, |draws| draws.one(IDS).to_owned()),
        subject: draws.one(&["", "CN=x", "x"]),
        has_names: draws.below(2) == 0,
        addresses: [address(draws), address(draws), address(draws), address(draws)],
        port: [80, 81, 82][draws.below(3)],
        server_name: draws.maybe(|draws| draws.one(HOSTS)),
        metadata: draws.maybe(random_metadata),
        head: draws.maybe(random_head),
    }
}

impl Asked {
    fn facts(&self) -> Facts<'_> {
        let [destination, direct, source, remote] = self.addresses;
        let names = Names { uris: &self.uris, dns_names: &[], subject: self.subject };
        Facts {
            peer: self.peer.as_ref(),
            names: self.has_names.then_some(names),
            destination,
            destination_port: self.port,
            direct,
            source,
            remote,
            server_name: self.server_name,
            metadata: self.metadata.as_ref(),
            head: self.head.as_ref(),
        }
    }
}

/// Both ways to find the first rule.
fn same(rules: &Rules, facts: &Facts<'_>) -> Option<Arc<str>> {
    let verdict = authorize_traced([rules.rbac()], facts, &mut ());
    assert_eq!(authorize([rules], facts), verdict, "{facts:?}");
    assert_eq!(rules.first(facts), matching(rules.rbac(), facts).next(), "{facts:?}");
    rules.first(facts).cloned()
}

#[test]
fn random_rules_are_found_as_if_all_were_looked_at() {
    let (mut found, mut missed, mut indexed) = (0, 0, 0);
    for seed in 0..3000 {
        let mut draws = Draws(seed);
        let rbac = Arc::new(random_rules(&mut draws));
        let rules = Rules::new(Arc::clone(&rbac));
        indexed += rbac.rules.len() - rules.unindexed();
        for _ in 0..20 {
            let asked = random_asked(&mut draws);
            let is_same = std::panic::catch_unwind(|| same(&rules, &asked.facts()));
            match is_same.unwrap_or_else(|_| panic!("seed {seed}: {rbac:#?}")) {
                Some(_) => found += 1,
                None => missed += 1,
            }
        }
    }
    // The test says something only where both happen, and rules are looked up at all.
    assert!(found > 1000 && missed > 1000 && indexed > 10_000, "{found} {missed} {indexed}");
}

fn by_the_thousand(make: impl Fn(usize) -> (Permission, Principal)) -> Rules {
    let rule = |at: usize| {
        let (permission, principal) = make(at);
        Rule { name: format!("{at}").into(), permissions: vec![permission], principals: vec![principal] }
    };
    Rules::new(Arc::new(Rbac { action: Action::Allow, rules: (0..1000).map(rule).collect() }))
}

/// How many rules of a thousand have to be looked at for every request; of those that are looked up, the one that is
/// meant is found.
fn check(make: impl Fn(usize) -> (Permission, Principal), asked: &Asked, meant: &str, unindexed: usize) {
    let rules = by_the_thousand(make);
    assert_eq!(rules.unindexed(), unindexed);
    assert_eq!(same(&rules, &asked.facts()).as_deref(), Some(meant));
    let nobody =
        Asked { peer: None, head: Some(get("/none")), metadata: None, ..random_asked(&mut Draws(1)) };
    same(&rules, &Asked { has_names: false, ..nobody }.facts());
}

#[test]
fn rules_by_the_thousand_are_told_apart_by_what_differs() {
    let exact = |text: &str| StringMatch::Exact(text.into());
    let web = || Principal::Authenticated(Some(exact("spiffe://td/ns/a/sa/x")));
    let id_of = |name: &str| Some(SpiffeId::workload("td", "a", name).expect("valid"));
    let mut head = get("/items/700/detail.css700");
    head.set_authority(b"H700.test:80");
    head.fields.push(b"x-tenant", b"t700");
    let mut metadata = Metadata::default();
    let groups = Value::List(vec![Value::Text("g9999".into()), Value::Text("g700".into())]);
    metadata.set("jwt", "groups", groups);
    let asked = Asked {
        peer: id_of("x"),
        has_names: false,
        metadata: Some(metadata),
        head: Some(head),
        ..random_asked(&mut Draws(0))
    };
    let path = |test: StringMatch| (Permission::Path(test), web());
    check(|at| path(StringMatch::Prefix(format!("/items/{at}/").into())), &asked, "700", 0);
    check(|at| path(StringMatch::Suffix(format!(".css{at}").into())), &asked, "700", 0);
    let template = |at| Regex::new(&format!(r"\/items\/{at}\/[^/]+")).expect("valid");
    check(|at| path(StringMatch::Regex(template(at))), &asked, "700", 0);
    let field = |name: &str, text: StringMatch| {
        Principal::Header(HeaderMatch { name: name.into(), test: HeaderTest::Value(text), invert: false })
    };
    let both = |principal| (Permission::Any, Principal::All(vec![web(), principal]));
    check(|at| both(field("x-tenant", exact(&format!("t{at}")))), &asked, "700", 0);
    let host = |at| StringMatch::AnyCase(Box::new(StringMatch::Prefix(format!("h{at}.").into())));
    check(|at| both(field(":authority", host(at))), &asked, "700", 0);
    let group = |at: usize| MetadataMatch {
        filter: "jwt".into(),
        path: vec!["groups".into()],
        value: ValueMatch::OneOf(Box::new(ValueMatch::Text(exact(&format!("g{at}"))))),
        invert: false,
    };
    check(|at| both(Principal::Metadata(group(at))), &asked, "700", 0);
    let id = |at| Principal::Authenticated(Some(exact(&format!("spiffe://td/ns/a/sa/{at}"))));
    let asked = Asked { peer: id_of("700"), ..asked };
    check(|at| (Permission::Any, id(at)), &asked, "700", 0);
    // What they have in common is looked up in any case; negations and parts in the middle tell nothing apart.
    let contains = |at: usize| path(StringMatch::Contains(format!("/{at}/").into()));
    let asked = Asked { peer: id_of("x"), ..asked };
    check(contains, &asked, "700", 0);
    let not = |at: usize| {
        let other = Permission::Path(exact(&format!("/items/{at}")));
        (Permission::Not(Box::new(other)), Principal::Any)
    };
    check(not, &asked, "0", 1000);
}
