//! What `AuthorizationPolicies` mean: each field, what is near to it, and other ways to write what a field says.
//!
//! Source: Istio, AuthorizationPolicy, "Authorization policy conditions", "Using Istio authorization on plain TCP
//! protocols".

use std::fmt::Write as _;

use super::*;
use meshwork_model::head::RequestHead;
use meshwork_model::mesh::{FederatedDomain, GATEWAY_LABEL};
use meshwork_model::metadata::{Metadata, Value};

/// A port with policies on it.
struct Port {
    http: Vec<Rules>,
    tcp: Vec<Rules>,
}

/// A request or connection; as it is written here every allowing rule below lets it in.
#[derive(Clone)]
struct Asked {
    peer: Option<&'static str>,
    from: &'static str,
    remote: Option<&'static str>,
    server_name: Option<&'static str>,
    method: &'static str,
    host: &'static str,
    path: &'static str,
    fields: Vec<(&'static str, &'static str)>,
    claims: Vec<(&'static str, &'static str)>,
    /// The claim `a`, where it is no text.
    claim: Option<Value>,
}

const WEB: &str = "spiffe://mesh.local/ns/shop/sa/web";

fn asked() -> Asked {
    Asked {
        peer: Some(WEB),
        from: "10.1.2.3",
        remote: None,
        server_name: Some("catalog.shop"),
        method: "GET",
        host: "catalog.shop",
        path: "/items",
        fields: vec![("x-role", "good")],
        claims: vec![],
        claim: None,
    }
}

const GATEWAY: &str = "apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: { name: edge, namespace: shop }
spec: { gatewayClassName: meshwork, listeners: [{ name: http, port: 80, protocol: HTTP }] }
";

impl Port {
    /// Policies by their action and rules, as YAML in one line.
    fn with(policies: &[(&str, &str)]) -> Self {
        Self::that(false, policies)
    }

    fn permissive(policies: &[(&str, &str)]) -> Self {
        Self::that(true, policies)
    }

    fn that(is_permissive: bool, policies: &[(&str, &str)]) -> Self {
        let mode = if is_permissive { "PERMISSIVE" } else { "STRICT" };
        let mut text = format!(
            "# node catalog: in=8080\n# there edge: gateway=edge {GATEWAY_LABEL}=edge\n# there plain: gateway=edge\n# \
             there liar: gateway=nobodys {GATEWAY_LABEL}=nobodys\n{GATEWAY}---\napiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {{ name: \
             default, namespace: shop }}\nspec: {{ mtls: {{ mode: {mode} }} }}\n"
        );
        for (at, (action, rules)) in policies.iter().enumerate() {
            let _ = write!(
                text,
                "---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{ name: p{at}, \
                 namespace: shop }}\nspec: {{ action: {action}{rules} }}\n"
            );
        }
        let cast = Cast::read(&text);
        let mut loaded = crate::ingest::read_texts([("a.yaml".to_owned(), text)].into());
        assert!(loaded.is_accepted(), "{:#?}", loaded.problems);
        let federated = FederatedDomain {
            trust_domain: "partner.example".into(),
            bundle: Some("".into()),
            endpoint: None,
        };
        loaded.config.defaults.federated = vec![federated];
        let mesh = Mesh::new("mesh.local", Arc::new(loaded.config), cast.workloads.clone(), BTreeMap::new());
        let node = &cast.workloads[&cast.node.expect("a node")];
        let http = policy::filters(&mesh, node, 8080);
        let http = http.iter().filter_map(|filter| filter.policy().cloned()).map(Rules::new).collect();
        let tcp = policy::gates(&mesh, node, 8080).into_iter().filter_map(|gate| match gate {
            Gate::Rbac(rbac) => Some(Rules::new(rbac)),
            _ => None,
        });
        Self { http, tcp: tcp.collect() }
    }

    fn lets_in(&self, asked: &Asked, is_http: bool) -> bool {
        let mut head = RequestHead::default();
        head.set_method(asked.method.as_bytes());
        head.set_authority(asked.host.as_bytes());
        head.set_path_and_query(asked.path.as_bytes());
        for (name, value) in &asked.fields {
            head.fields.push(name.as_bytes(), value.as_bytes());
        }
        let mut metadata = Metadata::default();
        let text = |(name, value): &(&str, &str)| ((*name).into(), Value::Text((*value).into()));
        if !asked.claims.is_empty() || asked.claim.is_some() {
            let other = asked.claim.iter().map(|claim| ("a".into(), claim.clone()));
            let claims = Value::Map(asked.claims.iter().map(text).chain(other).collect());
            metadata.set("envoy.filters.http.jwt_authn", "payload", claims);
        }
        let peer = asked.peer.map(|id| SpiffeId::parse(id).expect("valid"));
        let from = asked.from.parse().ok();
        let facts = Facts {
            peer: peer.as_ref(),
            destination: Some([127, 0, 0, 1].into()),
            destination_port: 41000,
            direct: from,
            source: from,
            remote: asked.remote.map_or(from, |remote| remote.parse().ok()),
            server_name: asked.server_name,
            metadata: Some(&metadata),
            head: is_http.then_some(&head),
            ..Facts::default()
        };
        let rules = if is_http { &self.http } else { &self.tcp };
        matches!(authorize(rules, &facts), Verdict::Allowed(_))
    }

    #[track_caller]
    fn check(&self, change: impl FnOnce(&mut Asked), expected: bool) {
        let mut asked = asked();
        change(&mut asked);
        assert_eq!(self.lets_in(&asked, true), expected);
    }

    #[track_caller]
    fn check_tcp(&self, change: impl FnOnce(&mut Asked), expected: bool) {
        let mut asked = asked();
        change(&mut asked);
        assert_eq!(self.lets_in(&asked, false), expected);
    }
}

fn nothing(_: &mut Asked) {}

fn allow(rule: &str) -> Port {
    Port::with(&[("ALLOW", &format!(", rules: [{rule}]"))])
}

fn deny(rule: &str) -> Port {
    Port::with(&[("DENY", &format!(", rules: [{rule}]"))])
}

/// One rule with one source, that lets in and that keeps out whom it means.
#[track_caller]
fn source(text: &str, is_meant: &[&'static str], is_not: &[&'static str]) {
    let rule = format!("{{ from: [{{ source: {text} }}] }}");
    for (ids, meant) in [(is_meant, true), (is_not, false)] {
        for id in ids {
            allow(&rule).check(|asked| asked.peer = Some(*id).filter(|id| !id.is_empty()), meant);
            deny(&rule).check(|asked| asked.peer = Some(*id).filter(|id| !id.is_empty()), !meant);
        }
    }
}

#[test]
fn without_policies_and_without_rules() {
    Port::with(&[]).check(nothing, true);
    Port::with(&[]).check(|asked| asked.peer = None, true);
    Port::with(&[("ALLOW", "")]).check(nothing, false);
    Port::with(&[("ALLOW", "")]).check_tcp(nothing, false);
    Port::with(&[("DENY", "")]).check(nothing, true);
    Port::with(&[("AUDIT", "")]).check(nothing, true);
    allow("{}").check(|asked| asked.peer = None, true);
    deny("{}").check(nothing, false);
    deny("{}").check_tcp(nothing, false);
    Port::with(&[("AUDIT", ", rules: [{}]")]).check(nothing, true);
    // One that allows nothing takes nothing from another that does.
    Port::with(&[("ALLOW", ""), ("ALLOW", ", rules: [{}]")]).check(nothing, true);
    Port::with(&[("DENY", ", rules: [{}]"), ("ALLOW", ", rules: [{}]")]).check(nothing, false);
}

#[test]
fn one_from_one_to_and_all_of_when() {
    let both = "{ from: [{ source: { namespaces: [bank] } }, { source: { ipBlocks: [10.0.0.0/8] } }], \
                to: [{ operation: { methods: [POST] } }, { operation: { paths: [/items] } }], \
                when: [{ key: \"request.headers[x-role]\", values: [good] }, \
                { key: connection.sni, values: [catalog.shop] }] }";
    let port = allow(both);
    port.check(nothing, true);
    port.check(|asked| asked.peer = Some("spiffe://mesh.local/ns/bank/sa/x"), true);
    port.check(|asked| asked.from = "192.0.2.1", false);
    port.check(|asked| (asked.method, asked.path) = ("POST", "/x"), true);
    port.check(|asked| asked.path = "/x", false);
    port.check(|asked| asked.fields = vec![], false);
    port.check(|asked| asked.server_name = None, false);
}

#[test]
fn principals_are_identities_that_were_proved() {
    let all = [WEB, "spiffe://mesh.local/ns/shop/sa/webb", "spiffe://partner.example/ns/shop/sa/web", ""];
    let [web, webb, partner, nobody] = all;
    source("{ principals: [mesh.local/ns/shop/sa/web] }", &[web], &[webb, partner, nobody]);
    source("{ principals: [cluster.local/ns/shop/sa/web] }", &[web], &[webb, partner, nobody]);
    source("{ principals: [\"*\"] }", &[web, webb, partner], &[nobody]);
    source("{ principals: [\"mesh.local/*\"] }", &[web, webb], &[partner, nobody]);
    source("{ principals: [\"cluster.local/*\"] }", &[web, webb], &[partner, nobody]);
    source("{ principals: [\"mesh.local/ns/shop/sa/web*\"] }", &[web, webb], &[partner, nobody]);
    source("{ principals: [\"*/ns/shop/sa/web\"] }", &[web, partner], &[webb, nobody]);
    source("{ principals: [\"*/sa/web\"] }", &[web, partner], &[webb, nobody]);
    source("{ notPrincipals: [\"*\"] }", &[nobody], &[web, partner]);
    source("{ notPrincipals: [mesh.local/ns/shop/sa/web] }", &[webb, partner, nobody], &[web]);
    // Neither the scheme nor a pattern: texts are taken as they are.
    source("{ principals: [\"spiffe://mesh.local/ns/shop/sa/web\"] }", &[], &all);
    source("{ principals: [\"mesh.local/ns/shop/sa/w.b\"] }", &[], &all);
    source("{ principals: [\"mesh.local/ns/shop/sa/(web|webb)\"] }", &[], &all);
}

#[test]
fn a_suffix_means_an_identity_and_no_other_name_of_a_certificate() {
    let port = allow("{ from: [{ source: { principals: [\"*/sa/web\"] } }] }");
    let check = |uris: &[&str], subject: &str, expected: bool| {
        let uris: Vec<String> = uris.iter().map(|&uri| uri.to_owned()).collect();
        let head = RequestHead::default();
        let names = meshwork_model::policy::Names { uris: &uris, dns_names: &[], subject };
        let facts = Facts { names: Some(names), head: Some(&head), ..Facts::default() };
        assert_eq!(
            matches!(authorize(&port.http, &facts), Verdict::Allowed(_)),
            expected,
            "{uris:?} {subject}"
        );
    };
    check(&[WEB], "", true);
    check(&["https://evil.example/sa/web"], "CN=/sa/web", false);
    check(&[], "CN=/sa/web", false);
    let any = allow("{ from: [{ source: { principals: [\"*\"] } }] }");
    let facts = Facts {
        names: Some(meshwork_model::policy::Names { uris: &[], dns_names: &[], subject: "CN=x" }),
        ..Facts::default()
    };
    assert_eq!(authorize(&any.http, &facts), Verdict::Denied(None));
}

#[test]
fn namespaces_and_accounts_are_our_own_to_let_in_and_anybodys_to_keep_out() {
    let partner = "spiffe://partner.example/ns/shop/sa/web";
    let other = "spiffe://mesh.local/ns/shopping/sa/web";
    for text in [
        "namespaces: [shop]",
        "namespaces: [\"shop\"]",
        "serviceAccounts: [web]",
        "serviceAccounts: [shop/web]",
    ] {
        let rule = format!("{{ from: [{{ source: {{ {text} }} }}] }}");
        allow(&rule).check(nothing, true);
        allow(&rule).check(|asked| asked.peer = Some(partner), false);
        allow(&rule).check(|asked| asked.peer = Some(other), false);
        allow(&rule).check(|asked| asked.peer = None, false);
        deny(&rule).check(nothing, false);
        deny(&rule).check(|asked| asked.peer = Some(partner), false);
        deny(&rule).check(|asked| asked.peer = Some(other), true);
        let not =
            rule.replace("namespaces", "notNamespaces").replace("serviceAccounts", "notServiceAccounts");
        allow(&not).check(nothing, false);
        allow(&not).check(|asked| asked.peer = Some(partner), false);
        allow(&not).check(|asked| asked.peer = Some(other), true);
        // Who is not ours is not "our shop", and so kept out.
        deny(&not).check(nothing, true);
        deny(&not).check(|asked| asked.peer = Some(partner), false);
    }
    source("{ namespaces: [\"sho*\"] }", &[WEB, other], &["spiffe://mesh.local/ns/a/sa/shop", ""]);
    source("{ namespaces: [\"*op\"] }", &[WEB], &[other, "spiffe://mesh.local/ns/a/sa/shop", ""]);
}

#[test]
fn trust_domains_are_told_apart() {
    let (partner, near) =
        ("spiffe://partner.example/ns/shop/sa/web", "spiffe://mesh.local.evil/ns/shop/sa/web");
    source("{ trustDomains: [mesh.local] }", &[WEB], &[partner, near, ""]);
    source("{ trustDomains: [cluster.local] }", &[WEB], &[partner, near, ""]);
    source("{ trustDomains: [partner.example] }", &[partner], &[WEB, near, ""]);
    source("{ trustDomains: [\"*.example\"] }", &[partner], &[WEB, near, ""]);
    source("{ trustDomains: [\"mesh.*\"] }", &[WEB, near], &[partner, ""]);
    source("{ trustDomains: [\"*\"] }", &[WEB, partner], &[""]);
    source("{ notTrustDomains: [mesh.local] }", &[partner, near, ""], &[WEB]);
    // With a trust domain a namespace is that of the trust domain.
    source("{ trustDomains: [partner.example], namespaces: [shop] }", &[partner], &[WEB, near, ""]);
    source("{ trustDomains: [partner.example], serviceAccounts: [shop/web] }", &[partner], &[WEB, near, ""]);
}

#[test]
fn addresses_are_those_of_one_family() {
    let port = allow("{ from: [{ source: { ipBlocks: [\"10.0.0.0/8\", \"2001:db8::/32\"] } }] }");
    port.check(|asked| asked.from = "::ffff:10.1.2.3", true);
    port.check(|asked| asked.from = "2001:db8::1", true);
    port.check(|asked| asked.from = "::ffff:192.0.2.1", false);
    port.check(|asked| asked.from = "::10.1.2.3", false);
    deny("{ from: [{ source: { ipBlocks: [\"10.1.2.3\"] } }] }")
        .check(|asked| asked.from = "::ffff:10.1.2.3", false);
    deny("{ from: [{ source: { ipBlocks: [\"::ffff:10.1.2.3\"] } }] }").check(nothing, false);
    deny("{ when: [{ key: source.ip, values: [\"::ffff:10.0.0.0/104\"] }] }").check(nothing, false);
    allow("{ from: [{ source: { notIpBlocks: [10.0.0.0/8] } }] }")
        .check(|asked| asked.from = "::ffff:10.1.2.3", false);
}

#[test]
fn only_gateways_are_believed_on_whose_behalf_they_ask() {
    const EDGE: Option<&str> = Some("spiffe://mesh.local/ns/shop/sa/edge");
    const LIAR: Option<&str> = Some("spiffe://mesh.local/ns/shop/sa/liar");
    const PLAIN: Option<&str> = Some("spiffe://mesh.local/ns/shop/sa/plain");
    let rule = "{ from: [{ source: { remoteIpBlocks: [192.0.2.0/24] } }] }";
    let says = |peer| move |asked: &mut Asked| (asked.peer, asked.remote) = (peer, Some("192.0.2.7"));
    let honest = |peer| move |asked: &mut Asked| (asked.peer, asked.from) = (peer, "192.0.2.7");
    let hidden = |peer| {
        move |asked: &mut Asked| {
            (asked.peer, asked.from, asked.remote) = (peer, "192.0.2.7", Some("10.9.9.9"));
        }
    };
    let rules = format!(", rules: [{rule}]");
    let when = ", rules: [{ when: [{ key: remote.ip, values: [192.0.2.0/24] }] }]";
    for rules in [rules.as_str(), when] {
        let (allow, deny) = (Port::permissive(&[("ALLOW", rules)]), Port::with(&[("DENY", rules)]));
        allow.check(says(EDGE), true);
        allow.check(hidden(EDGE), false);
        deny.check(says(EDGE), false);
        deny.check(hidden(EDGE), true);
        // Whoever calls itself the node of a Gateway that nobody wrote, or that it was not enrolled to serve, is none.
        for peer in [Some(WEB), LIAR, PLAIN, None] {
            allow.check(says(peer), false);
            allow.check(honest(peer), true);
            deny.check(says(peer), false);
            deny.check(honest(peer), false);
            deny.check(hidden(peer), false);
        }
        allow.check(nothing, false);
        deny.check(nothing, true);
    }
    let not = rules.replace("remoteIpBlocks", "notRemoteIpBlocks");
    Port::with(&[("ALLOW", &not)]).check(hidden(Some(WEB)), false);
    Port::with(&[("ALLOW", &not)]).check(hidden(EDGE), true);
    Port::with(&[("ALLOW", &not)]).check(says(EDGE), false);
    Port::with(&[("ALLOW", &not)]).check(nothing, true);
}

#[test]
fn hosts_are_kept_out_however_they_are_written() {
    let operation = |hosts: &str| format!("{{ to: [{{ operation: {hosts} }}] }}");
    let written =
        ["admin.shop", "ADMIN.shop", "Admin.Shop.", "admin.shop:80", "admin.shop.:8080", "admin.shop:"];
    for host in written {
        deny(&operation("{ hosts: [admin.shop] }")).check(|asked| asked.host = host, false);
        deny(&operation("{ hosts: [Admin.Shop.] }")).check(|asked| asked.host = host, false);
        deny(&operation("{ hosts: [\"admin*\"] }")).check(|asked| asked.host = host, false);
        deny(&operation("{ hosts: [\"*min.shop\"] }")).check(|asked| asked.host = host, false);
        allow(&operation("{ notHosts: [admin.shop] }")).check(|asked| asked.host = host, false);
        allow(&operation("{ notHosts: [\"*min.shop\"] }")).check(|asked| asked.host = host, false);
    }
    for host in ["admin.shop.evil", "xadmin.shop.evil", "admin.shopx", "admin-shop", "a.admin.shop.x", ""] {
        deny(&operation("{ hosts: [admin.shop] }")).check(|asked| asked.host = host, true);
        deny(&operation("{ hosts: [\"*min.shop\"] }")).check(|asked| asked.host = host, true);
        allow(&operation("{ notHosts: [admin.shop] }")).check(|asked| asked.host = host, true);
    }
    // To let in, a host is what it says, whatever its case.
    let port = allow(&operation("{ hosts: [admin.shop] }"));
    for (host, expected) in written.into_iter().zip([true, true, false, false, false, false]) {
        port.check(|asked| asked.host = host, expected);
    }
    let port = deny(&operation("{ hosts: [\"admin.shop:8080\"] }"));
    for (host, expected) in [
        ("admin.shop:8080", false),
        ("ADMIN.shop.:8080", false),
        ("admin.shop", true),
        ("admin.shop:80", true),
    ] {
        port.check(|asked| asked.host = host, expected);
    }
    deny(&operation("{ hosts: [\"*\"] }")).check(nothing, false);
    deny(&operation("{ hosts: [\"[::1]\"] }")).check(|asked| asked.host = "[::1]:80", false);
}

#[test]
fn methods_and_paths() {
    let operation = |text: &str| format!("{{ to: [{{ operation: {text} }}] }}");
    deny(&operation("{ methods: [DELETE] }")).check(|asked| asked.method = "delete", false);
    allow(&operation("{ methods: [DELETE] }")).check(|asked| asked.method = "delete", false);
    allow(&operation("{ methods: [DELETE] }")).check(|asked| asked.method = "DELETE", true);
    allow(&operation("{ notMethods: [DELETE] }")).check(|asked| asked.method = "dELETE", false);
    allow(&operation("{ methods: [\"*\"] }")).check(nothing, true);
    let check = |paths: &str, path: &'static str, expected: bool| {
        allow(&operation(&format!("{{ paths: [{paths}] }}"))).check(|asked| asked.path = path, expected);
        deny(&operation(&format!("{{ paths: [{paths}] }}"))).check(|asked| asked.path = path, !expected);
        allow(&operation(&format!("{{ notPaths: [{paths}] }}"))).check(|asked| asked.path = path, !expected);
    };
    check("/admin", "/admin", true);
    check("/admin", "/admin?x=/y", true);
    check("/admin", "/admin/", false);
    check("/admin", "/ADMIN", false);
    check("\"/admin*\"", "/admin;x", true);
    check("\"/admin*\"", "/administrator", true);
    check("\"*.css\"", "/a/b.css", true);
    check("\"*.css\"", "/a/b.css?x", true);
    check("\"*.css\"", "/admin?x.css", false);
    check("\"*\"", "/x", true);
    check("\"/a.b\"", "/axb", false);
    check("\"/a[b]\"", "/ab", false);
    check("\"/(a|b)\"", "/a", false);
    check("\"/items/{*}/reviews\"", "/items/7/reviews", true);
    check("\"/items/{*}/reviews\"", "/items/7/8/reviews", false);
    check("\"/items/{**}\"", "/items/7/8/reviews?x", true);
}

#[test]
fn a_port_is_the_workloads() {
    let operation = |text: &str| format!("{{ to: [{{ operation: {text} }}] }}");
    allow(&operation("{ ports: [\"8080\"] }")).check(nothing, true);
    allow(&operation("{ ports: [\"80\"] }")).check(nothing, false);
    deny(&operation("{ ports: [\"8080\"] }")).check_tcp(nothing, false);
    deny(&operation("{ notPorts: [\"80\"] }")).check_tcp(nothing, false);
    allow("{ when: [{ key: destination.port, notValues: [\"8080\"] }] }").check(nothing, false);
}

#[test]
fn of_several_values_of_a_field_each_lets_in_and_any_keeps_out() {
    let rule =
        |key: &str, lists: &str| format!("{{ when: [{{ key: \"request.headers[{key}]\", {lists} }}] }}");
    let check = |port: &Port, values: &[&'static str], expected: bool| {
        let fields = values.iter().map(|value| ("X-Role", *value)).collect();
        port.check(|asked| asked.fields = fields, expected);
    };
    let port = allow(&rule("x-role", "values: [good, \"fine*\"]"));
    for (values, expected) in [
        (&["good"][..], true),
        (&["good", "finest"], true),
        (&["good", "bad"], false),
        (&["bad", "good"], false),
        (&["good", ""], false),
        (&["good,bad"], false),
        (&[], false),
    ] {
        check(&port, values, expected);
    }
    let port = deny(&rule("X-Role", "values: [bad]"));
    for (values, expected) in
        [(&["good", "bad"][..], false), (&["bad"], false), (&["good"], true), (&[], true)]
    {
        check(&port, values, expected);
    }
    let port = allow(&rule("x-role", "notValues: [bad]"));
    for (values, expected) in
        [(&["good", "bad"][..], false), (&["bad"], false), (&["good"], true), (&[], true)]
    {
        check(&port, values, expected);
    }
    // Kept out is whoever has another value than these, or none.
    let port = deny(&rule("x-role", "notValues: [good]"));
    for (values, expected) in
        [(&["good"][..], true), (&["good", "good"], true), (&["good", "bad"], false), (&[], false)]
    {
        check(&port, values, expected);
    }
    let port = allow(&rule("x-role", "values: [\"*\"]"));
    for (values, expected) in [(&["good", ""][..], true), (&[""], true), (&[], false)] {
        check(&port, values, expected);
    }
    let literal = allow(&rule("x-role", "values: [\"a.c\", \"[ab]\", \"a|b\"]"));
    for (values, expected) in [(&["a.c"][..], true), (&["abc"], false), (&["a"], false), (&["a|b"], true)] {
        check(&literal, values, expected);
    }
}

#[test]
fn fields_that_look_like_the_one_that_is_asked_about_are_refused() {
    let port = allow("{ when: [{ key: \"request.headers[x-user-role]\", values: [good] }] }");
    let with = |name: &'static str| {
        move |asked: &mut Asked| {
            asked.fields = vec![("x-user-role", "good"), (name, "bad")];
        }
    };
    port.check(|asked| asked.fields = vec![("x-user-role", "good")], true);
    port.check(with("x_user_role"), false);
    port.check(with("X_User-Role"), false);
    port.check(with("x-user_role"), false);
    port.check(with("x_other"), true);
    let port = deny("{ when: [{ key: \"request.headers[x_role]\", values: [bad] }] }");
    port.check(|asked| asked.fields = vec![("x-role", "bad")], false);
    port.check(|asked| asked.fields = vec![("x_role", "good")], true);
    Port::with(&[("AUDIT", ", rules: [{ when: [{ key: \"request.headers[x-role]\", values: [good] }] }]")])
        .check(with("x_role"), true);
    // Nothing is asked of a field, and none is refused.
    allow("{}").check(with("x_user_role"), true);
    let long = allow("{ when: [{ key: \"request.headers[a-b-c-d-e-f]\", values: [good] }] }");
    let with = |name: &'static str| {
        move |asked: &mut Asked| {
            asked.fields = vec![("a-b-c-d-e-f", "good"), (name, "bad")];
        }
    };
    long.check(with("a_b_c_d_e_f"), false);
    long.check(with("a-b-c_d-e-f"), false);
    long.check(with("a-b-c-d-e-g"), true);
}

#[test]
fn server_names() {
    let rule = |lists: &str| format!("{{ when: [{{ key: connection.sni, {lists} }}] }}");
    allow(&rule("values: [\"*\"]")).check(nothing, true);
    allow(&rule("values: [\"*\"]")).check(|asked| asked.server_name = None, false);
    allow(&rule("notValues: [\"*\"]")).check(|asked| asked.server_name = None, true);
    allow(&rule("values: [\"*.shop\"]")).check_tcp(nothing, true);
    deny(&rule("values: [catalog.shop]")).check_tcp(nothing, false);
    deny(&rule("values: [Catalog.SHOP]")).check_tcp(nothing, false);
}

#[test]
fn claims_that_are_no_texts_keep_out_and_let_nobody_in() {
    let check = |value: &str, claim: Value, allowed: bool, denied: bool| {
        let rule = format!("{{ when: [{{ key: \"request.auth.claims[a]\", values: [\"{value}\"] }}] }}");
        allow(&rule).check(|asked| asked.claim = Some(claim.clone()), allowed);
        deny(&rule).check(|asked| asked.claim = Some(claim), !denied);
    };
    check("true", Value::Bool(true), false, true);
    check("false", Value::Bool(false), false, true);
    check("true", Value::Bool(false), false, false);
    check("7", Value::Number(7.0), false, true);
    check("7.5", Value::Number(7.5), false, true);
    check("7", Value::Number(70.0), false, false);
    check("nan", Value::Number(1.0), false, false);
    check("true", Value::List(vec![Value::Number(1.0), Value::Bool(true)]), false, true);
    check("7", Value::Text("7".into()), true, true);
}

#[test]
fn principals_of_tokens() {
    let source = |text: &str| format!("{{ from: [{{ source: {text} }}] }}");
    let token = |asked: &mut Asked| asked.claims = vec![("iss", "https://i.example"), ("sub", "alice")];
    let any = allow(&source("{ requestPrincipals: [\"*\"] }"));
    any.check(token, true);
    any.check(nothing, false);
    any.check(|asked| asked.claims = vec![("sub", "alice")], false);
    allow(&source("{ requestPrincipals: [\"https://i.example/alice\"] }")).check(token, true);
    allow(&source("{ requestPrincipals: [\"https://i.example/*\"] }")).check(token, true);
    allow(&source("{ requestPrincipals: [\"*/alice\"] }")).check(token, true);
    allow(&source("{ requestPrincipals: [\"https://i.example/bob\"] }")).check(token, false);
    allow(&source("{ requestPrincipals: [\"https://i.example\"] }")).check(token, false);
    deny(&source("{ notRequestPrincipals: [\"*\"] }")).check(nothing, false);
    deny(&source("{ notRequestPrincipals: [\"*\"] }")).check(token, true);
}

#[test]
fn bytes_have_nothing_of_requests() {
    for rule in [
        "{ to: [{ operation: { methods: [GET] } }] }",
        "{ to: [{ operation: { hosts: [catalog.shop] } }] }",
        "{ to: [{ operation: { paths: [/items] } }] }",
        "{ to: [{ operation: { notPaths: [/admin] } }] }",
        "{ when: [{ key: \"request.headers[x-role]\", values: [good] }] }",
        "{ when: [{ key: \"request.headers[x-role]\", notValues: [bad] }] }",
        "{ from: [{ source: { requestPrincipals: [\"*\"] } }] }",
        "{ from: [{ source: { notRequestPrincipals: [\"*\"] } }] }",
        "{ when: [{ key: \"request.auth.claims[a]\", values: [b] }] }",
    ] {
        allow(rule).check_tcp(nothing, false);
        deny(rule).check_tcp(nothing, false);
    }
    allow("{ to: [{ operation: { methods: [GET] } }] }, {}").check_tcp(nothing, true);
    let with = "{ from: [{ source: { namespaces: [bank] } }], to: [{ operation: { methods: [GET] } }] }";
    deny(with).check_tcp(nothing, true);
}

#[test]
fn a_thousand_policies_are_one_list_of_rules_that_are_looked_up() {
    let rule = |at: usize| {
        format!(
            ", rules: [{{ from: [{{ source: {{ principals: [mesh.local/ns/shop/sa/web, mesh.local/ns/a{at}/sa/x] }} }}], \
             to: [{{ operation: {{ methods: [GET], paths: [\"/items/{at}/*\"] }} }}] }}]"
        )
    };
    let rules: Vec<String> = (0..1000).map(rule).collect();
    for action in ["ALLOW", "DENY"] {
        let policies: Vec<(&str, &str)> = rules.iter().map(|rule| (action, rule.as_str())).collect();
        let port = Port::with(&policies);
        let [only] = &port.http[..] else { panic!("{} lists", port.http.len()) };
        assert_eq!((only.rbac().rules.len(), only.unindexed()), (1000, 0), "{action}");
        port.check(|asked| asked.path = "/items/700/x", action == "ALLOW");
        port.check(|asked| asked.path = "/items/1000/x", action == "DENY");
    }
}
