//! What rules say, and that looking them up says the same as looking through them.

mod same;

use super::*;
use crate::cidr::Cidr;
use crate::metadata::Value;
use crate::proxy::{
    HeaderMatch, HeaderTest, MetadataMatch, Permission, Principal, Rule, StringMatch, ValueMatch,
};

fn rbac(action: Action, permission: Permission, principal: Principal) -> Rbac {
    let rule = Rule { name: "r".into(), permissions: vec![permission], principals: vec![principal] };
    Rbac { action, rules: vec![rule] }
}

fn rules(rbac: &Rbac) -> Rules {
    Rules::new(Arc::new(rbac.clone()))
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
    let (deny, allow) = (rules(&deny), rules(&allow));
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
    assert_eq!(authorize([&rules(&allow)], &facts), Verdict::Denied(None));
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
        let allow = rules(&allow);
        let verdict = authorize([&allow], &facts);
        assert_eq!(matches!(verdict, Verdict::Allowed(_)), passes, "{allow:?}");
        let log = Rbac { action: Action::Log, ..allow.rbac().clone() };
        assert!(matches!(authorize([&rules(&log)], &facts), Verdict::Allowed(_)), "{log:?}");
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

#[test]
fn each_value_of_a_field_has_to_pass() {
    let principal = Principal::EachValue {
        name: "x-role".into(),
        tests: vec![StringMatch::Exact("a".into()), StringMatch::Prefix("b".into())],
    };
    let check = |values: &[&str], passes: bool| {
        let mut head = get("/");
        for value in values {
            head.fields.push(b"X-Role", value.as_bytes());
        }
        let facts = Facts { head: Some(&head), ..Facts::default() };
        let allow = rbac(Action::Allow, Permission::Any, principal.clone());
        let allow = rules(&allow);
        let verdict = authorize([&allow], &facts);
        assert_eq!(matches!(verdict, Verdict::Allowed(_)), passes, "{values:?}");
    };
    check(&["a"], true);
    check(&["a", "bc", "a"], true);
    check(&["a", "c"], false);
    check(&["c", "a"], false);
    check(&["a,b"], false);
    check(&["a", ""], false);
    check(&[], false);
    let facts = Facts::default();
    let allow = rbac(Action::Allow, Permission::Any, principal);
    assert_eq!(authorize([&rules(&allow)], &facts), Verdict::Denied(None));
}

#[test]
fn a_mapped_address_is_one_of_ipv4() {
    let range = Cidr::new([10, 0, 0, 0].into(), 8);
    let of = |principal| rbac(Action::Deny, Permission::Any, principal);
    let mapped = "::ffff:10.1.2.3".parse().ok();
    let facts = Facts { direct: mapped, source: mapped, remote: mapped, ..Facts::default() };
    for principal in
        [Principal::DirectAddress(range), Principal::SourceAddress(range), Principal::RemoteAddress(range)]
    {
        let deny = of(principal);
        assert!(matches!(authorize([&rules(&deny)], &facts), Verdict::Denied(Some(_))), "{deny:?}");
    }
}

#[test]
fn a_trace_tells_what_failed_first() {
    #[derive(Default)]
    struct Told {
        depth: usize,
        lines: Vec<String>,
    }
    impl Trace for Told {
        fn begin(&mut self, test: Test<'_>) {
            let what = match test {
                Test::Rule(rule) => format!("rule {}", rule.name),
                Test::Permission(permission) => format!("{permission:?}"),
                Test::Principal(principal) => format!("{principal:?}"),
            };
            self.lines.push(format!("{}{what}", "  ".repeat(self.depth)));
            self.depth += 1;
        }

        fn end(&mut self, holds: bool) {
            self.depth -= 1;
            self.lines.push(format!("{}{holds}", "  ".repeat(self.depth)));
        }
    }
    let both = Permission::All(vec![Permission::DestinationPort(80), Permission::Any]);
    let deny = rbac(Action::Deny, both, Principal::Any);
    let mut told = Told::default();
    let facts = Facts { destination_port: 81, ..Facts::default() };
    assert_eq!(authorize_traced([&deny], &facts, &mut told), Verdict::Allowed(None));
    let expected = "\
rule r
  All([DestinationPort(80), Any])
    DestinationPort(80)
    false
  false
false";
    assert_eq!(told.lines.join("\n"), expected);
}
