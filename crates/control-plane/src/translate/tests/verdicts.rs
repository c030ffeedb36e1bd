//! What policies say of connections and requests.

use super::*;
use meshwork_model::head::RequestHead;
use meshwork_model::metadata::{Metadata, Value};

/// A connection or a request, as the tests change it.
struct Asked {
    account: Option<&'static str>,
    from: &'static str,
    server_name: Option<&'static str>,
    head: Option<RequestHead>,
    metadata: Metadata,
}

fn request(method: &str, host: &str, path: &str, fields: &[(&str, &str)]) -> RequestHead {
    let mut head = RequestHead::default();
    head.set_method(method.as_bytes());
    head.set_authority(host.as_bytes());
    head.set_path_and_query(path.as_bytes());
    for (name, value) in fields {
        head.fields.push(name.as_bytes(), value.as_bytes());
    }
    head
}

fn asked(account: &'static str) -> Asked {
    let head = Some(request("GET", "catalog.shop", "/", &[]));
    Asked { account: Some(account), from: "10.1.2.3", server_name: None, head, metadata: Metadata::default() }
}

/// Whether the chain of this name of the node's inbound listener lets it pass.
fn passes(feature: &str, chain: &str, asked: &Asked) -> bool {
    let resources = translate(feature);
    let chain = resources.iter().find_map(|resource| match resource {
        Resource::Listener(listener) if listener.name.starts_with("inbound") => {
            listener.chains.iter().find(|one| &*one.name == chain)
        }
        _ => None,
    });
    let chain = chain.expect("such a chain");
    let gates = chain.gates.iter().filter_map(|gate| match gate {
        Gate::Rbac(rbac) => Some(Arc::clone(rbac)),
        Gate::Tried(..) => None,
        Gate::Limit(_) => panic!("no limit"),
    });
    let filters = match &chain.filter {
        NetworkFilter::Http(http) => &http.filters[..],
        NetworkFilter::Tcp(_) => &[],
    };
    let rules: Vec<_> = gates.chain(filters.iter().filter_map(|filter| filter.policy().cloned())).collect();
    let identity = |account: &str| match account.strip_prefix("spiffe://") {
        Some(_) => SpiffeId::parse(account),
        None => SpiffeId::workload("mesh.local", "shop", account),
    };
    let peer = asked.account.map(|account| identity(account).expect("valid"));
    let address = asked.from.parse().ok();
    let facts = Facts {
        peer: peer.as_ref(),
        destination: Some([127, 0, 0, 1].into()),
        destination_port: 41000,
        direct: address,
        source: address,
        remote: address,
        server_name: asked.server_name,
        metadata: Some(&asked.metadata),
        head: asked.head.as_ref().filter(|_| matches!(chain.filter, NetworkFilter::Http(_))),
        ..Facts::default()
    };
    let rules: Vec<Rules> = rules.into_iter().map(Rules::new).collect();
    matches!(authorize(&rules, &facts), Verdict::Allowed(_))
}

#[test]
fn a_permissive_port_judges_whoever_comes() {
    let check = |chain: &str, account, from, passes: bool| {
        let asked = Asked { account, from, ..asked("web") };
        assert_eq!(
            super::verdicts::passes("permissive", chain, &asked),
            passes,
            "{chain} {account:?} {from}"
        );
    };
    check("mtls", Some("web"), "192.0.2.1", true);
    check("mtls", Some("cart"), "192.0.2.1", false);
    check("plaintext", None, "192.0.2.1", false);
    check("plaintext", None, "10.0.0.1", true);
    // Bytes have no method, so that the first rule says nothing of them.
    check("tls", None, "192.0.2.1", false);
    check("tls", None, "10.0.0.1", true);
}

#[test]
fn workloads_of_another_trust_domain_are_let_in_by_their_whole_name() {
    let check = |account: &'static str, expected: bool| {
        assert_eq!(passes("federated", "mtls", &asked(account)), expected, "{account}");
    };
    check("web", true);
    check("spiffe://partner.example/ns/x/sa/y", true);
    // A namespace of the same name elsewhere is another one to ALLOW, and the same to DENY.
    check("spiffe://partner.example/ns/shop/sa/web", false);
    check("spiffe://partner.example/ns/x/sa/z", false);
    check("spiffe://mesh.local/ns/x/sa/y", false);
    check("spiffe://third.example/ns/x/sa/y", false);
    check("spiffe://partner.example/ns/bank/sa/y", false);
    check("spiffe://mesh.local/ns/bank/sa/y", false);
}

#[test]
fn conditions_hold_together() {
    let asks =
        |host: &str, path: &str, version: &str| Some(request("GET", host, path, &[("x-version", version)]));
    let check = |change: &dyn Fn(&mut Asked), expected: bool| {
        let mut asked = asked("web");
        asked.head = asks("Catalog.Shop", "/items/7/reviews/a/b", "v2.1");
        change(&mut asked);
        assert_eq!(passes("policy-conditions", "mtls", &asked), expected, "{:?}", asked.head);
    };
    check(&|_: &mut Asked| {}, true);
    check(&|asked: &mut Asked| asked.account = Some("cart"), false);
    check(&|asked: &mut Asked| asked.account = Some("guest"), false);
    check(&|asked: &mut Asked| asked.account = None, false);
    check(&|asked: &mut Asked| asked.from = "192.0.2.1", false);
    check(&|asked: &mut Asked| asked.from = "172.16.0.1", false);
    check(&|asked: &mut Asked| asked.server_name = Some("a.outside.example"), false);
    check(&|asked: &mut Asked| asked.head = asks("catalog.shop", "/items/7/reviews/", "v1"), true);
    check(&|asked: &mut Asked| asked.head = asks("a.example.com", "/items/7/reviews/x", "v1"), true);
    check(&|asked: &mut Asked| asked.head = asks("catalog.shop", "/items/7/8/reviews/", "v1"), false);
    check(&|asked: &mut Asked| asked.head = asks("catalog.bank", "/items/7/reviews/", "v1"), false);
    check(&|asked: &mut Asked| asked.head = asks("catalog.shop", "/items/7/reviews/", "v2-bad"), false);
    check(
        &|asked: &mut Asked| asked.head = Some(request("GET", "catalog.shop", "/items/7/reviews/", &[])),
        false,
    );
}

#[test]
fn bytes_are_denied_more_and_allowed_less() {
    let check = |account, from, server_name, expected: bool| {
        let asked = Asked { account, from, server_name, ..asked("web") };
        assert_eq!(
            passes("policy-conditions-on-tcp", "mtls", &asked),
            expected,
            "{account:?} {from} {server_name:?}"
        );
    };
    check(Some("web"), "127.0.0.1", None, true);
    check(Some("web"), "10.0.0.1", None, false);
    check(Some("web"), "10.0.0.1", Some("ledger"), true);
    check(Some("intern"), "127.0.0.1", None, false);
}

#[test]
fn claims_of_tokens_are_asked_for() {
    let text = |text: &str| Value::Text(text.into());
    let list = |texts: &[&str]| Value::List(texts.iter().map(|one| text(one)).collect());
    let check = |claims: Vec<(&str, Value)>, expected: bool| {
        let mut asked = asked("web");
        let claims = claims.into_iter().map(|(name, value)| (name.into(), value)).collect();
        asked.metadata.set("envoy.filters.http.jwt_authn", "payload", Value::Map(claims));
        assert_eq!(passes("tokens", "mtls", &asked), expected, "{:?}", asked.metadata);
    };
    let good = || {
        vec![
            ("iss", text("https://inline.example.com")),
            ("sub", text("alice")),
            ("groups", list(&["users", "ops-1"])),
            ("scope", text("write read")),
            ("aud", text("catalog")),
            ("azp", text("app")),
        ]
    };
    let but = |name: &'static str, value: Value| {
        let mut claims = good();
        claims.retain(|(known, _)| *known != name);
        claims.push((name, value));
        claims
    };
    check(good(), true);
    check(but("groups", text("admins")), true);
    check(but("groups", list(&["users"])), false);
    check(but("scope", list(&["read"])), true);
    check(but("scope", text("readonly")), false);
    check(vec![("iss", text("https://inline.example.com")), ("sub", text("alice"))], false);
    check(vec![("iss", text("https://fetched.example.com")), ("sub", text("bob/carol"))], true);
    check(vec![("iss", text("https://fetched.example.com"))], false);
    check(Vec::new(), false);
}

#[test]
fn what_is_tried_decides_nothing() {
    let check = |method: &str, path: &str, expected: bool| {
        let asked = Asked { head: Some(request(method, "catalog", path, &[])), ..asked("web") };
        assert_eq!(passes("audit-and-tried", "mtls", &asked), expected, "{method} {path}");
    };
    check("GET", "/old", true);
    check("DELETE", "/", true);
    check("GET", "/admin", false);
}
