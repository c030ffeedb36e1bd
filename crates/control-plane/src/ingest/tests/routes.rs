//! Routes of Gateway API: what is honoured, what is told, what is refused.

use meshwork_model::fraction::Fraction;
use meshwork_model::mesh::{ConnectionRouteKind, Key, PathMatch, PathModifier, Route, RuleAction, Target};
use meshwork_model::proxy::RetryOn;

use super::*;

/// An HTTPRoute that is attached to the cart.
fn route(spec: &str) -> String {
    of_kind("HTTPRoute", spec)
}

fn of_kind(kind: &str, spec: &str) -> String {
    with_cart(&format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: {kind}\nmetadata: {{ name: r, namespace: shop }}\n\
         spec:\n  parentRefs: [{{ group: \"\", kind: Service, name: cart, port: 80 }}]\n{spec}"
    ))
}

/// A problem without file and resource.
fn short(problem: &Problem) -> String {
    let mark = if problem.severity == Severity::Error { "" } else { "(warning) " };
    format!("{mark}{}: {}", problem.field, problem.message)
}

/// Reads config; compares its problems.
fn check_text(text: &str, expected: &[&str]) {
    let loaded = load(&[("a.yaml", text)]);
    assert_eq!(loaded.problems.iter().map(short).collect::<Vec<_>>(), expected, "{text}");
}

fn check(spec: &str, expected: &[&str]) {
    check_text(&route(spec), expected);
}

/// The one rule's part that is written as a flow mapping's entries.
fn check_rule(rule: &str, expected: &[&str]) {
    let prefixed: Vec<String> = expected
        .iter()
        .map(|text| match text.strip_prefix("(warning) ") {
            Some(rest) => format!("(warning) spec.rules[0].{rest}"),
            None => format!("spec.rules[0].{text}"),
        })
        .collect();
    check(&format!("  rules: [{{ {rule} }}]\n"), &prefixed.iter().map(String::as_str).collect::<Vec<_>>());
}

/// The route that is read from one rule.
fn read(rule: &str) -> Route {
    let loaded = load(&[("a.yaml", &route(&format!("  rules: [{{ {rule} }}]\n")))]);
    assert!(loaded.is_accepted(), "{rule}: {:#?}", loaded.problems);
    loaded.config.routes[&(RouteKind::Http, Key::new("shop", "r"))].clone()
}

const BACKEND: &str = "backendRefs: [{ name: cart, port: 80 }]";

#[test]
fn matches_are_honoured_or_refused() {
    let check =
        |matches: &str, expected: &[&str]| check_rule(&format!("matches: [{matches}], {BACKEND}"), expected);
    check("{ path: { type: Exact, value: /a } }", &[]);
    check("{ path: { type: RegularExpression, value: \"/a.*\" } }", &[]);
    check(
        "{ path: { type: RegularExpression, value: \"(\" } }",
        &["matches[0].path.value: this is no regular expression that the mesh takes: unclosed group"],
    );
    check(
        "{ path: { type: Prefix, value: a } }",
        &[
            "matches[0].path.type: expected \"Exact\", \"PathPrefix\" or \"RegularExpression\", found \"Prefix\"",
            "matches[0].path.value: a path starts with \"/\"",
        ],
    );
    check("{ headers: [{ name: a, value: \"x.*\", type: RegularExpression }] }", &[]);
    check("{ queryParams: [{ name: a, value: x }, { name: b, value: y, type: RegularExpression }] }", &[]);
    check(
        "{ headers: [{ name: a, value: x }, { name: A, value: y }, { name: \"b c\", value: z }] }",
        &[
            "(warning) matches[0].headers[1]: the header a is tested already in this match, so this test is passed over",
            "matches[0].headers[2].name: \"b c\" is not a header's name",
        ],
    );
    check(
        "{ queryParams: [{ name: a, value: x }, { name: a, value: y }] }",
        &[
            "(warning) matches[0].queryParams[1]: the query parameter a is tested already in this match, so this test is \
             passed over",
        ],
    );
    check(
        "{ method: get }",
        &[
            "matches[0].method: expected \"GET\", \"HEAD\", \"POST\", \"PUT\", \"DELETE\", \"CONNECT\", \"OPTIONS\", \
             \"TRACE\" or \"PATCH\", found \"get\"",
        ],
    );
    let many = vec!["{ method: GET }"; 65].join(", ");
    check(&many, &["matches[64]: `matches` has at most 64 entries"]);
}

#[test]
fn header_modifiers_are_of_rules_and_of_backends() {
    let modifier = "{ type: RequestHeaderModifier, requestHeaderModifier: \
                    { set: [{ name: X-A, value: \"1\" }], add: [{ name: b, value: 50% }], remove: [C] } }";
    let rule = &read(&format!("filters: [{modifier}], {BACKEND}")).rules[0];
    let changes = &rule.changes.request;
    assert_eq!(changes.set, [("x-a".into(), "1".into())]);
    assert_eq!(changes.add, [("b".into(), "50%".into())]);
    assert_eq!(changes.remove, ["c".into()]);
    let rule = &read(&format!("backendRefs: [{{ name: cart, port: 80, filters: [{modifier}] }}]")).rules[0];
    assert_eq!(rule.backends()[0].changes.request, *changes);
    assert!(rule.changes.is_empty());
    let set = |header: &str| {
        format!(
            "filters: [{{ type: ResponseHeaderModifier, responseHeaderModifier: {{ set: [{header}] }} }}], {BACKEND}"
        )
    };
    check_rule(&set("{ name: a, value: x }"), &[]);
    let at = "filters[0].responseHeaderModifier.set[0]";
    check_rule(
        &set("{ name: Content-Length, value: \"1\" }"),
        &[&format!(
            "{at}.name: the header content-length is the proxy's own: it says what becomes of the message"
        )],
    );
    check_rule(
        &set("{ name: a, value: \"x\\ny\" }"),
        &[&format!("{at}.value: a header's value has no control characters and at most 4096 bytes")],
    );
    check_rule(
        &set("{ name: a, value: x }, { name: A, value: y }"),
        &[
            "(warning) filters[0].responseHeaderModifier.set[1]: the header a is there already, so this one is passed over",
        ],
    );
}

#[test]
fn filters_have_their_type_and_their_place() {
    let check =
        |filters: &str, expected: &[&str]| check_rule(&format!("filters: [{filters}], {BACKEND}"), expected);
    check("{ type: URLRewrite, urlRewrite: { hostname: a.example } }", &[]);
    check("{ type: URLRewrite }", &["filters[0].urlRewrite: the field `urlRewrite` is missing"]);
    check(
        "{ type: URLRewrite, urlRewrite: { hostname: a.example }, cors: {} }",
        &["filters[0].cors: `cors` is of a filter of another type"],
    );
    let twice = "{ type: URLRewrite, urlRewrite: {} }, { type: URLRewrite, urlRewrite: {} }";
    check(twice, &["filters[1]: there is a filter of this type already"]);
    check(
        "{ type: ExtensionRef, extensionRef: { group: x, kind: Y, name: z } }",
        &["filters[0].type: the mesh knows no filter by reference (ExtensionRef)"],
    );
    check(
        "{ type: ExternalAuth, externalAuth: {} }",
        &["filters[0].type: \"ExternalAuth\" is not supported yet"],
    );
    check(
        "{ type: URLRewrite, urlRewrite: { hostname: 1.2.3.4 } }",
        &["filters[0].urlRewrite.hostname: \"1.2.3.4\" is not a hostname"],
    );
    check(
        "{ type: RequestRedirect, requestRedirect: {} }",
        &["filters: a rule that redirects leads to no backend"],
    );
    check_rule(
        "backendRefs: [{ name: cart, port: 80, filters: [{ type: URLRewrite, urlRewrite: {} }] }]",
        &["backendRefs[0].filters[0].type: \"URLRewrite\" is not supported yet"],
    );
    check_text(
        &of_kind(
            "GRPCRoute",
            &format!(
                "  rules: [{{ filters: [{{ type: RequestRedirect, requestRedirect: {{}} }}], {BACKEND} }}]\n"
            ),
        )
        .replace("name: http,", "name: grpc,"),
        &["spec.rules[0].filters[0].type: \"RequestRedirect\" is not supported yet"],
    );
}

#[test]
fn paths_are_replaced_whole_or_by_prefix() {
    let rewrite = |path: &str| {
        format!(
            "matches: [{{ path: {{ value: /a }} }}], filters: [{{ type: URLRewrite, urlRewrite: {{ path: {path} }} }}], {BACKEND}"
        )
    };
    let path = |text: &str| read(&rewrite(text)).rules[0].path.clone();
    let full = path("{ type: ReplaceFullPath, replaceFullPath: /b }");
    assert_eq!(full, Some(PathModifier::Full("/b".into())));
    let prefix = path("{ type: ReplacePrefixMatch, replacePrefixMatch: \"\" }");
    assert_eq!(prefix, Some(PathModifier::Prefix("/".into())));
    check_rule(
        &rewrite("{ type: ReplacePrefixMatch, replaceFullPath: /b }"),
        &[
            "filters[0].urlRewrite.path.replacePrefixMatch: the field `replacePrefixMatch` is missing",
            "filters[0].urlRewrite.path.replaceFullPath: this is for the other `type`",
        ],
    );
    check_rule(
        &rewrite("{ type: ReplaceFullPath, replaceFullPath: \"/b?c\" }"),
        &[
            "filters[0].urlRewrite.path.replaceFullPath: a path here has no space, \"?\" or \"#\", and at most 1024 \
             bytes, all ASCII",
        ],
    );
    check_rule(
        &rewrite("{ type: ReplacePrefixMatch, replacePrefixMatch: /b }")
            .replace("{ value: /a }", "{ type: Exact, value: /a }"),
        &["filters: ReplacePrefixMatch needs a rule with exactly one match, whose path is a PathPrefix"],
    );
}

#[test]
fn redirects_are_read() {
    let redirect = |text: &str| {
        let rule = format!("filters: [{{ type: RequestRedirect, requestRedirect: {{ {text} }} }}]");
        match read(&rule).rules.remove(0).action {
            RuleAction::Redirect(redirect) => redirect,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(redirect("").status, 302);
    let all = redirect("scheme: https, hostname: Shop.Example, port: 8443, statusCode: 308");
    assert_eq!((all.scheme.as_deref(), all.host.as_deref()), (Some("https"), Some("shop.example")));
    assert_eq!((all.port, all.status), (Some(8443), 308));
    check_rule(
        "filters: [{ type: RequestRedirect, requestRedirect: { statusCode: 304, scheme: ftp } }]",
        &[
            "filters[0].requestRedirect.statusCode: a redirect has the status 301, 302, 303, 307 or 308",
            "filters[0].requestRedirect.scheme: expected \"http\" or \"https\", found \"ftp\"",
        ],
    );
}

#[test]
fn mirrors_have_a_share() {
    let share = |text: &str| {
        let mirror = format!(
            "filters: [{{ type: RequestMirror, requestMirror: {{ backendRef: {{ name: cart, port: 80 }}{text} }} }}], {BACKEND}"
        );
        read(&mirror).rules[0].mirrors[0].share
    };
    assert_eq!(share(""), Fraction::ALL);
    assert_eq!(share(", percent: 20"), Fraction { numerator: 20, denominator: 100 });
    let third = Fraction { numerator: 333_333, denominator: 1_000_000 };
    assert_eq!(share(", fraction: { numerator: 1, denominator: 3 }"), third);
    assert_eq!(share(", fraction: { numerator: 5 }"), Fraction { numerator: 5, denominator: 100 });
    let mirror =
        |text: &str| format!("filters: [{{ type: RequestMirror, requestMirror: {{ {text} }} }}], {BACKEND}");
    check_rule(&mirror(""), &["filters[0].requestMirror.backendRef: the field `backendRef` is missing"]);
    let both = "backendRef: { name: cart, port: 80 }, percent: 1, fraction: { numerator: 1 }";
    check_rule(
        &mirror(both),
        &["filters[0].requestMirror: a mirror has a `percent` or a `fraction`, and not both"],
    );
}

#[test]
fn origins_are_read() {
    let cors = |text: &str| format!("filters: [{{ type: CORS, cors: {{ {text} }} }}], {BACKEND}");
    let read = |text: &str| read(&cors(text)).rules[0].cors.clone().expect("one");
    let policy = read(
        "allowOrigins: [\"https://*.Shop.example\", \"http://a.example:8080\"], allowMethods: [GET, PUT], \
         allowHeaders: [a, b], exposeHeaders: [\"*\"], allowCredentials: true, maxAge: 10",
    );
    assert_eq!((&*policy.allow_methods, &*policy.allow_headers), ("GET, PUT", "a, b"));
    assert_eq!((&*policy.max_age, policy.allow_credentials), ("10", Some(true)));
    let allows = |origin: &str| {
        policy.allow_origins.iter().any(|test| meshwork_model::route::matches_text(test, origin.as_bytes()))
    };
    assert!(allows("https://a.b.shop.example") && allows("http://a.example:8080"));
    assert!(
        !allows("https://shop.example") && !allows("https://a.shop.example:1") && !allows("http://a.example")
    );
    assert!(!allows("https://evil.example/.shop.example"));
    assert_eq!(&*read("").max_age, "5");
    check_rule(
        &cors("allowOrigins: [shop.example], allowMethods: [get]"),
        &[
            "filters[0].cors.allowOrigins[0]: \"shop.example\" is not an origin",
            "filters[0].cors.allowMethods[0]: expected \"GET\", \"HEAD\", \"POST\", \"PUT\", \"DELETE\", \"CONNECT\", \
             \"OPTIONS\", \"TRACE\", \"PATCH\" or \"*\", found \"get\"",
        ],
    );
}

#[test]
fn times_and_retries_are_read() {
    let rule = &read(&format!("timeouts: {{ request: 1s, backendRequest: 300ms }}, {BACKEND}")).rules[0];
    assert_eq!((rule.timeout, rule.try_timeout), (Some(ms(1_000)), Some(ms(300))));
    let rule = &read(&format!("timeouts: {{ request: 0s, backendRequest: 0s }}, {BACKEND}")).rules[0];
    assert_eq!((rule.timeout, rule.try_timeout), (Some(ms(0)), None));
    let rule =
        &read(&format!("retry: {{ codes: [500, 503], attempts: 3, backoff: 50ms }}, {BACKEND}")).rules[0];
    let retry = rule.retry.as_ref().expect("one");
    assert_eq!((retry.retries, &*retry.status_codes, retry.back_off.base), (3, &[500, 503][..], ms(50)));
    assert!(retry.on.has(RetryOn::STATUS_CODES | RetryOn::CONNECT_FAILURE | RetryOn::RESET));
    check_rule(
        &format!("timeouts: {{ request: 1s, backendRequest: 2s }}, {BACKEND}"),
        &["timeouts.backendRequest: one try may not take longer than the whole request"],
    );
    check_rule(
        &format!("timeouts: {{ request: 10 s }}, retry: {{ codes: [200] }}, {BACKEND}"),
        &[
            "timeouts.request: \"10 s\" is not a duration",
            "retry.codes[0]: expected a number from 400 to 599, found the number 200",
        ],
    );
    check_rule(
        &format!("sessionPersistence: {{ sessionName: a }}, {BACKEND}"),
        &["sessionPersistence: the mesh keeps no sessions at an endpoint"],
    );
}

fn ms(millis: u64) -> std::time::Duration {
    std::time::Duration::from_millis(millis)
}

#[test]
fn a_route_has_names_and_limits() {
    check("  hostnames: [\"*.shop.example\"]\n", &[]);
    check("  hostnames: [\"a..b\"]\n", &["spec.hostnames[0]: \"a..b\" is not a hostname"]);
    let rule =
        |name: &str, at: usize| format!("{{ name: {name}, matches: [{{ path: {{ value: /p{at} }} }}] }}");
    check(
        &format!("  rules: [{}, {}]\n", rule("a", 0), rule("a", 1)),
        &["spec.rules[1]: there is a rule named \"a\" already"],
    );
    let many = (0..17).map(|at| rule(&format!("r{at}"), at)).collect::<Vec<_>>().join(", ");
    check(&format!("  rules: [{many}]\n"), &["spec.rules[16]: `rules` has at most 16 entries"]);
    check("  rule: []\n", &["spec.rule: there is no field `rule`"]);
    let unattached =
        route("").replace("parentRefs: [{ group: \"\", kind: Service, name: cart, port: 80 }]", "rules: []");
    check_text(
        &unattached,
        &["(warning) spec.parentRefs: the route is attached to nothing, so it acts on nobody"],
    );
}

#[test]
fn what_leads_nowhere_is_told() {
    check_rule(
        "backendRefs: [{ name: carts, port: 80 }, { name: cart, port: 8080 }, { name: cart }]",
        &[
            "(warning) backendRefs[0]: there is no Service `carts` in the namespace `shop`",
            "(warning) backendRefs[1]: the Service `cart` has no port 8080",
            "backendRefs[2].port: the field `port` is missing",
        ],
    );
    let fixes = load(&[("a.yaml", &route("  rules: [{ backendRefs: [{ name: carts, port: 80 }] }]\n"))]);
    assert_eq!(fixes.problems[0].fix, "Did you mean `cart`?");
    assert!(fixes.is_accepted());
    check_rule(
        "backendRefs: [{ name: cart, kind: Gateway, group: x.io, port: 80 }]",
        &["(warning) backendRefs[0]: the mesh leads to no x.io/Gateway"],
    );
    check_rule(
        "backendRefs: [{ name: cart, port: 80, weight: 0 }]",
        &["(warning) backendRefs: all weights are 0, so that every request is answered with an error"],
    );
    check_rule(
        "backendRefs: [{ name: cart, port: 80, weight: -1 }]",
        &["backendRefs[0].weight: expected a number from 0 to 1000000, found the number -1"],
    );
}

#[test]
fn a_backend_elsewhere_needs_a_grant() {
    let bank = "---\napiVersion: v1\nkind: Service\nmetadata: { name: ledger, namespace: bank }\n\
                spec: { selector: { a: b }, ports: [{ name: http, port: 80 }] }\n";
    let grant = |spec: &str| {
        format!(
            "---\napiVersion: gateway.networking.k8s.io/v1\nkind: ReferenceGrant\n\
             metadata: {{ name: g, namespace: bank }}\nspec: {spec}\n"
        )
    };
    let led = route("  rules: [{ backendRefs: [{ name: ledger, namespace: bank, port: 80 }] }]\n") + bank;
    let refused = "(warning) spec.rules[0].backendRefs[0]: no ReferenceGrant of the namespace `bank` allows a HTTPRoute \
                   of `shop` to lead to its Service `ledger`";
    let check = |grant: &str, expected: &[&str], forbidden: bool| {
        let text = format!("{led}{grant}");
        check_text(&text, expected);
        let config = load(&[("a.yaml", &text)]).config;
        let route = &config.routes[&(RouteKind::Http, Key::new("shop", "r"))];
        assert_eq!(route.rules[0].backends()[0].forbidden, forbidden, "{grant}");
    };
    check("", &[refused], true);
    let from = "from: [{ group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: shop }]";
    check(&grant(&format!("{{ {from}, to: [{{ group: \"\", kind: Service }}] }}")), &[], false);
    check(&grant(&format!("{{ {from}, to: [{{ group: \"\", kind: Service, name: ledger }}] }}")), &[], false);
    check(
        &grant(&format!("{{ {from}, to: [{{ group: \"\", kind: Service, name: other }}] }}")),
        &[refused],
        true,
    );
    check(&grant(&format!("{{ {from}, to: [{{ group: \"\", kind: Secret }}] }}")), &[refused], true);
}

/// A consumer's route may lead to where the service that it is attached to stands: its callers go there anyway.
#[test]
fn a_consumers_route_needs_no_grant_for_the_services_own_namespace() {
    let text = route("  rules: [{ backendRefs: [{ name: cart, namespace: shop, port: 80 }] }]\n")
        .replace("name: r, namespace: shop", "name: r, namespace: bank")
        .replace("kind: Service, name: cart, port", "kind: Service, name: cart, namespace: shop, port");
    check_text(&text, &[]);
    // One parent does not speak for the callers of another.
    let is_forbidden = |text: &str| {
        let config = load(&[("a.yaml", text)]).config;
        let route = &config.routes[&(RouteKind::Http, Key::new("bank", "r"))];
        route.rules[0].backends()[0].forbidden
    };
    assert!(!is_forbidden(&text));
    for other in ["{ name: edge, namespace: infra }", "{ group: \"\", kind: Service, name: own }"] {
        let both = text.replace("parentRefs: [", &format!("parentRefs: [{other}, "));
        assert_ne!(both, text);
        assert!(is_forbidden(&both), "{other}");
    }
}

#[test]
fn routes_are_attached_to_ports_that_carry_them() {
    let check = |parent: &str, kind: &str, expected: &[&str]| {
        let version = if kind == "TCPRoute" { "v1alpha2" } else { "v1" };
        let names = if kind == "TLSRoute" { "  hostnames: [a.example]\n" } else { "" };
        let text = format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{ name: s, namespace: shop }}\nspec:\n  selector: {{ a: b }}\n  \
             ports: [{{ name: http, port: 80 }}, {{ name: tcp, port: 90 }}, {{ name: grpc, port: 70 }}]\n---\n\
             apiVersion: gateway.networking.k8s.io/{version}\nkind: {kind}\nmetadata: {{ name: r, namespace: shop }}\n\
             spec:\n  parentRefs: [{parent}]\n{names}  rules: []\n"
        );
        let loaded = load(&[("a.yaml", &text)]);
        let problems: Vec<&str> = loaded.problems.iter().map(|p| p.message.as_str()).collect();
        assert_eq!(problems, expected, "{parent}");
    };
    let service = |rest: &str| format!("{{ group: \"\", kind: Service, name: s{rest} }}");
    check(&service(""), "HTTPRoute", &[]);
    check(&service(", port: 70"), "GRPCRoute", &[]);
    check(&service(", port: 90"), "TCPRoute", &[]);
    check(&service(", port: 90"), "HTTPRoute", &["port 90 of the Service `s` does not speak HTTP"]);
    check(&service(", port: 80"), "GRPCRoute", &["port 80 of the Service `s` does not speak gRPC"]);
    check(&service(", port: 80"), "TLSRoute", &["port 80 of the Service `s` does not speak TCP"]);
    check(&service(", port: 1"), "HTTPRoute", &["the Service `s` has no port 1"]);
    check(&service(", sectionName: http"), "HTTPRoute", &[]);
    check(&service(", sectionName: https"), "HTTPRoute", &["the Service `s` has no port named `https`"]);
    check(
        &service(", sectionName: http, port: 70"),
        "HTTPRoute",
        &["the Service `s` has no port 70 named `http`"],
    );
    check("{ name: s }", "HTTPRoute", &["there is no Gateway `s` in the namespace `shop`"]);
    check("{ kind: Service, name: s }", "HTTPRoute", &["there is no gateway.networking.k8s.io/Service"]);
    check("{ group: x, kind: Y, name: s }", "HTTPRoute", &["the mesh attaches no routes to a x/Y"]);
    let twice = format!("{}, {}", service(""), service(""));
    check(&twice, "HTTPRoute", &["the route is attached there already"]);
}

#[test]
fn two_kinds_of_routes_do_not_share_a_port() {
    let route = |kind: &str, created: &str| {
        format!(
            "---\napiVersion: gateway.networking.k8s.io/v1\nkind: {kind}\nmetadata: {{ name: r, namespace: shop{created} }}\n\
             spec:\n  parentRefs: [{{ group: \"\", kind: Service, name: s }}]\n"
        )
    };
    let service = "apiVersion: v1\nkind: Service\nmetadata: { name: s, namespace: shop }\n\
                   spec: { selector: { a: b }, ports: [{ name: grpc, port: 70 }] }\n";
    let check = |of_http: &str, of_grpc: &str, expected: &str| {
        check_text(
            &format!("{service}{}{}", route("HTTPRoute", of_http), route("GRPCRoute", of_grpc)),
            &[expected],
        );
    };
    check(
        "",
        "",
        "(warning) spec.parentRefs[0]: HTTPRoute shop/r has port 70 of the Service `s`, and HTTPRoutes and GRPCRoutes do \
         not mix on one: this one is not used there",
    );
    check(
        ", creationTimestamp: 2026-01-02T00:00:00Z",
        ", creationTimestamp: 2026-01-01T00:00:00Z",
        "(warning) spec.parentRefs[0]: GRPCRoute shop/r has port 70 of the Service `s`, and HTTPRoutes and GRPCRoutes do \
         not mix on one: this one is not used there",
    );
}

#[test]
fn a_virtual_service_makes_way_for_a_route() {
    let virtual_service = "---\napiVersion: networking.istio.io/v1\nkind: VirtualService\n\
        metadata: { name: v, namespace: shop }\n\
        spec: { hosts: [cart], http: [{ route: [{ destination: { host: cart } }] }] }\n";
    check_text(
        &(route("  rules: []\n") + virtual_service),
        &[
            "(warning) spec.hosts[0]: HTTPRoute shop/r has port 80 of the Service `cart`, so this is not used there",
        ],
    );
}

#[test]
fn methods_of_grpc_are_paths() {
    let path = |method: &str| {
        let text =
            of_kind("GRPCRoute", &format!("  rules: [{{ matches: [{{ method: {method} }}], {BACKEND} }}]\n"))
                .replace("name: http,", "name: grpc,");
        let loaded = load(&[("a.yaml", &text)]);
        assert!(loaded.problems.is_empty(), "{method}: {:#?}", loaded.problems);
        loaded.config.routes[&(RouteKind::Grpc, Key::new("shop", "r"))].rules[0].matches[0].path.clone()
    };
    assert_eq!(path("{ service: a.B, method: C }"), PathMatch::Exact("/a.B/C".into()));
    assert_eq!(path("{ service: a.B }"), PathMatch::Prefix("/a.B".into()));
    let regex = |method: &str, expected: &str| match path(method) {
        PathMatch::Regex(regex) => assert_eq!(regex.pattern(), expected),
        other => panic!("{other:?}"),
    };
    regex("{ method: C }", "/[^/]+/C");
    regex("{ type: RegularExpression, service: \"a|b\" }", "/(?:a|b)/[^/]+");
    regex("{ type: RegularExpression, service: \"a.*\", method: \"Get.*\" }", "/(?:a.*)/(?:Get.*)");
}

#[test]
fn connections_have_routes() {
    let text = "apiVersion: v1\nkind: Service\nmetadata: { name: db, namespace: shop }\n\
                spec: { selector: { a: b }, ports: [{ name: tcp, port: 5432 }] }\n---\n\
                apiVersion: gateway.networking.k8s.io/v1\nkind: TLSRoute\nmetadata: { name: r, namespace: shop }\n\
                spec:\n  parentRefs: [{ group: \"\", kind: Service, name: db }]\n  hostnames: [DB.example]\n  \
                rules: [{ backendRefs: [{ name: db, port: 5432 }, { name: none, port: 1, weight: 3 }] }]\n";
    check_text(
        text,
        &["(warning) spec.rules[0].backendRefs[1]: there is no Service `none` in the namespace `shop`"],
    );
    let config = load(&[("a.yaml", text)]).config;
    let rule = &config.connection_routes[&(ConnectionRouteKind::Tls, Key::new("shop", "r"))].rules[0];
    assert_eq!(rule.server_names, ["db.example".into()]);
    assert_eq!(rule.backends[0].target, Target::Service(Key::new("shop", "db")));
    assert_eq!(rule.backends[1].weight, 3);
}

#[test]
fn a_route_is_read_before_the_services_that_it_names() {
    let whole = route("  rules: [{ backendRefs: [{ name: cart, port: 80 }] }]\n");
    let (service, route) = whole.split_once("---\n").expect("two");
    let only = load(&[("r.yaml", route)]);
    assert!(only.is_accepted() && only.problems.len() == 2, "{:#?}", only.problems);
    assert_eq!(load(&[("r.yaml", route), ("s.yaml", service)]).problems, []);
}
