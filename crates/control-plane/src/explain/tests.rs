//! Requests in a shop that runs nowhere.

mod proxies;

use super::*;
use crate::ingest::read_texts;

const SHOP: &str = "
apiVersion: v1
kind: Service
metadata: { name: cart, namespace: shop }
spec: { selector: { app: cart }, ports: [{ name: http, port: 80, targetPort: 8080 }, { name: tcp-raw, port: 90, targetPort: 9090 }] }
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: { name: cart, namespace: shop }
spec: { host: cart, subsets: [{ name: v1, labels: { version: v1 } }, { name: v2, labels: { version: v2 } }] }
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: { name: cart, namespace: shop }
spec:
  hosts: [cart]
  http:
    - match: [{ uri: { prefix: /beta }, headers: { x-beta: { exact: \"1\" } } }]
      route: [{ destination: { host: cart, subset: v2 } }]
    - match: [{ uri: { prefix: /old/ } }]
      rewrite: { uri: / }
      route: [{ destination: { host: cart, subset: v1 } }]
    - match: [{ uri: { exact: /gone } }]
      directResponse: { status: 410 }
    - timeout: 3s
      route:
        - { destination: { host: cart, subset: v1 }, weight: 90 }
        - { destination: { host: cart, subset: v2 }, weight: 10 }
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: { name: no-admin, namespace: shop }
spec: { action: DENY, rules: [{ to: [{ operation: { paths: [\"/admin*\"] } }] }] }
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: { name: readers, namespace: shop }
spec:
  selector: { matchLabels: { app: cart } }
  rules:
    - from: [{ source: { principals: [mesh.local/ns/shop/sa/web] } }]
      to: [{ operation: { methods: [GET] } }]
    - from: [{ source: { principals: [mesh.local/ns/shop/sa/checkout] } }]
      when: [{ key: \"request.headers[x-tenant]\", values: [a] }]
";

fn explained(change: impl FnOnce(&mut Question)) -> Result<Explanation, String> {
    let loaded = read_texts([("shop.yaml".to_owned(), SHOP.to_owned())].into());
    assert!(loaded.is_accepted(), "{:#?}", loaded.problems);
    let mut question = Question::new("web", "cart:80");
    change(&mut question);
    explain_config(&loaded.config, &question, SystemTime::UNIX_EPOCH)
}

fn passes(change: impl FnOnce(&mut Question)) -> bool {
    explained(change).expect("explained").outcome.passes
}

#[test]
fn a_request_is_led_from_its_caller_to_the_application() {
    let told = explained(|question| "/items".clone_into(&mut question.path)).expect("explained");
    assert!(told.outcome.passes, "{told}");
    assert_eq!((told.from.workload.as_str(), told.to.as_str()), ("web.shop", "cart.shop:80"));
    assert_eq!(told.request, "GET /items");
    let out = told.outbound.as_ref().expect("a side of the caller");
    let route = out.route.as_ref().expect("a route");
    assert_eq!(route.written, "VirtualService shop/cart, rule 3");
    assert_eq!(out.passed_over.len(), 3, "{told}");
    assert!(out.passed_over[0].why.contains("the path is `/items`"), "{told}");
    assert!(out.terms.iter().any(|term| term.starts_with("3s")), "{told}");
    let shares: Vec<f64> = out.clusters.iter().map(|cluster| cluster.percent).collect();
    assert_eq!(shares, [90.0, 10.0]);
    assert!(out.clusters[0].endpoints[0].reached_by.ends_with("/sa/cart"), "{told}");
    let to: Vec<(&str, f64)> = told.inbound.iter().map(|one| (&*one.to.workload, one.percent)).collect();
    assert_eq!(to, [("cart-v1.shop", 90.0), ("cart-v2.shop", 10.0)]);
    let inbound = &told.inbound[0];
    assert_eq!(inbound.mtls, "STRICT, since nothing says otherwise");
    assert_eq!(inbound.comes_as, "spiffe://mesh.local/ns/shop/sa/web");
    let policies: Vec<(&str, &str, bool)> =
        inbound.policies.iter().map(|one| (&*one.policy, &*one.action, one.matches)).collect();
    assert!(policies.contains(&("shop/no-admin", "DENY", false)), "{told}");
    assert!(policies.contains(&("shop/readers", "ALLOW", true)), "{told}");
    let rules = &inbound.policies.last().expect("one").rules;
    assert_eq!(rules[0].why, "the method is `GET`, the caller is `spiffe://mesh.local/ns/shop/sa/web`");
    assert_eq!((rules[1].matches, &*rules[1].rule), (None, "rule[1]"));
}

#[test]
fn near_misses_say_why_not() {
    let told = explained(|question| "/beta/x".clone_into(&mut question.path)).expect("explained");
    let out = told.outbound.as_ref().expect("a side of the caller");
    assert_eq!(out.passed_over[0].why, "the header x-beta is missing, wanted `1`");
    let told = explained(|question| {
        "/beta/x".clone_into(&mut question.path);
        question.headers.push(("X-Beta".to_owned(), "1".to_owned()));
    });
    let told = told.expect("explained");
    assert_eq!(told.inbound.len(), 1, "{told}");
    assert_eq!(told.inbound[0].to.workload, "cart-v2.shop");
}

#[test]
fn a_refusal_names_its_policy_and_its_reason() {
    let told = explained(|question| "/x/../admin/x".clone_into(&mut question.path)).expect("explained");
    assert_eq!(told.request, "GET /admin/x");
    assert_eq!((told.outcome.status, told.outcome.reason.as_deref()), (Some(403), Some("MW0401")), "{told}");
    assert!(told.outcome.text.contains("the policy shop/no-admin denies it, by rule[0]"), "{told}");
    // What is sent on is judged, not what was asked for.
    assert!(!passes(|question| "/old/admin".clone_into(&mut question.path)));
    assert!(passes(|question| "/old/items".clone_into(&mut question.path)));
    let told = explained(|question| "POST".clone_into(&mut question.method)).expect("explained");
    assert!(told.outcome.text.ends_with("no ALLOW policy lets it in"), "{told}");
    let rules = &told.inbound[0].policies.last().expect("one").rules;
    assert_eq!(rules[0].why, "the method is `POST`, wanted `GET`");
    assert_eq!(
        rules[1].why,
        "the caller is `spiffe://mesh.local/ns/shop/sa/web`, wanted `spiffe://mesh.local/ns/shop/sa/checkout`"
    );
}

#[test]
fn header_fields_and_who_asks_count() {
    let checkout = |tenants: &'static [&'static str]| {
        move |question: &mut Question| {
            "checkout".clone_into(&mut question.from);
            "POST".clone_into(&mut question.method);
            question.headers = tenants.iter().map(|one| ("x-tenant".to_owned(), (*one).to_owned())).collect();
        }
    };
    assert!(passes(checkout(&["a"])));
    assert!(!passes(checkout(&["a", "b"])));
    assert!(!passes(checkout(&[])));
    assert!(passes(|question| "spiffe://mesh.local/ns/shop/sa/web".clone_into(&mut question.from)));
    assert!(!passes(|question| "spiffe://mesh.local/ns/shop/sa/nobody".clone_into(&mut question.from)));
    let partner = explained(|question| "spiffe://partner.example/x".clone_into(&mut question.from));
    let partner = partner.expect("explained").outcome;
    assert!(partner.text.contains("the trust domain partner.example is not believed"), "{partner}");
    assert!(!passes(|question| "somebody.bank".clone_into(&mut question.from)));
}

#[test]
fn the_mesh_answers_itself_where_a_route_says_so() {
    let told = explained(|question| "/gone".clone_into(&mut question.path)).expect("explained");
    assert_eq!((told.outcome.passes, told.outcome.status), (false, Some(410)), "{told}");
    assert_eq!(told.inbound, []);
}

#[test]
fn bytes_have_no_request() {
    // Nothing is known of methods there, so that no ALLOW rule that asks for one holds.
    let told = explained(|question| "cart.shop:90".clone_into(&mut question.to)).expect("explained");
    assert_eq!(told.request, "");
    assert!(!told.outcome.passes, "{told}");
}

#[test]
fn what_makes_no_sense_is_refused_in_words() {
    let check = |change: &dyn Fn(&mut Question), expected: &str| {
        let error = explained(change).expect_err("refused");
        assert!(error.contains(expected), "{error}");
    };
    check(&|question| "nothing".clone_into(&mut question.to), "there is no service nothing");
    check(&|question| "cart:81".clone_into(&mut question.to), "has no port 81; it has 80, 90");
    check(&|question| "cart:x".clone_into(&mut question.to), "no port");
    check(&|question| "/a b".clone_into(&mut question.path), "is no path");
    check(&|question| "items".clone_into(&mut question.path), "a path starts with");
    check(&|question| "G T".clone_into(&mut question.method), "is no method");
    check(&|question| question.headers.push(("a b".to_owned(), String::new())), "is no header field");
    check(&|question| question.headers.push(("a".to_owned(), "\n".to_owned())), "is no header field");
    check(&|question| question.claims = Some(serde_json::json!([])), "a JSON object");
    check(&|question| "spiffe://".clone_into(&mut question.from), "spiffe://");
}

#[test]
fn it_is_told_in_lines_and_as_json() {
    let told = explained(|question| "/items".clone_into(&mut question.path)).expect("explained");
    let text = told.to_string();
    for expected in [
        "web.shop (spiffe://mesh.local/ns/shop/sa/web) asks cart.shop:80 for GET /items",
        "PASSES: it reaches cart-v1.shop, cart-v2.shop",
        "  route     shop.cart.3 (VirtualService shop/cart, rule 3): takes the path `/*`",
        "into cart-v1.shop",
        "  DENY      shop/no-admin does not match",
        "yes rule[0]: the method is `GET`",
    ] {
        assert!(text.contains(expected), "{expected} in\n{text}");
    }
    let json = serde_json::to_value(&told).expect("JSON");
    assert_eq!(json["outbound"]["passedOver"][0]["route"], "shop.cart.0");
    assert_eq!(serde_json::from_value::<Explanation>(json).expect("read"), told);
}

/// A key that nobody has the other half of.
const KEYS: &str = r#"{"keys": [{"kty": "EC", "crv": "P-256", "x": "axfR8uEsQkf4vOblY6RA8ncDfYEt6zOg9KE5RdiYwpY", "y": "T-NC4v4af5uO5-tKfA-eFivOM1drMV7Oy7ZAaDe_UfU"}]}"#;

const EDGE: &str = "
---
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: { name: meshwork }
spec: { controllerName: meshwork.dev/gateway }
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: { name: edge, namespace: shop }
spec: { gatewayClassName: meshwork, listeners: [{ name: web, port: 80, protocol: HTTP, hostname: shop.example.com }] }
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: { name: edge, namespace: shop }
spec:
  parentRefs: [{ name: edge }]
  rules: [{ backendRefs: [{ name: cart, port: 80 }] }]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: { name: inside, namespace: shop }
spec:
  targetRefs: [{ group: gateway.networking.k8s.io, kind: Gateway, name: edge }]
  rules: [{ from: [{ source: { remoteIpBlocks: [192.0.2.0/24] } }] }]
---
apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: { name: tokens, namespace: shop }
spec: { selector: { matchLabels: { app: cart } }, jwtRules: [{ issuer: me, jwks: 'KEYS' }] }
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: { name: users, namespace: shop }
spec:
  selector: { matchLabels: { app: cart } }
  action: DENY
  rules: [{ from: [{ source: { notRequestPrincipals: [me/alice] } }], to: [{ operation: { paths: [/mine] } }] }]
";

/// The same shop with tokens, and a gateway before it.
fn at_the_edge(change: impl FnOnce(&mut Question)) -> Explanation {
    let text = format!("{SHOP}{EDGE}").replace("KEYS", KEYS).replace(
        "    - from: [{ source: { principals: [mesh.local/ns/shop/sa/web] } }]",
        "    - from: [{ source: { principals: [mesh.local/ns/shop/sa/web, mesh.local/ns/shop/sa/edge] } }]",
    );
    let loaded = read_texts([("shop.yaml".to_owned(), text)].into());
    assert!(loaded.is_accepted(), "{:#?}", loaded.problems);
    let mut mesh = offline::mesh(&loaded.config, "edge.shop", "cart.shop");
    let key = Key::new("shop", "edge");
    let mut node = (*mesh.workloads[&key]).clone();
    node.gateway = Some(Arc::new(meshwork_model::mesh::GatewayNode {
        name: "edge".into(),
        address: [0, 0, 0, 0].into(),
        binds: [(80, ([0, 0, 0, 0], 8080).into())].into(),
        certificates: None,
    }));
    mesh.put(node);
    let mut question = Question::new("edge", "shop.example.com");
    question.source_ip = Some([192, 0, 2, 1].into());
    change(&mut question);
    let dialect = |key: &Key| if *key.name == *"cart-v2" { Dialect::Envoy } else { Dialect::Meshwork };
    explain(&mesh, &question, &dialect, SystemTime::UNIX_EPOCH).expect("explained")
}

#[test]
fn a_gateway_stands_for_who_asks_it() {
    let told = at_the_edge(|_| ());
    assert!(told.outcome.passes, "{told}");
    let out = told.outbound.as_ref().expect("a side");
    assert_eq!(out.listener, "gateway|80");
    assert!(out.policies.iter().any(|policy| policy.policy == "shop/inside" && policy.matches), "{told}");
    assert_eq!(told.inbound[0].comes_as, "spiffe://mesh.local/ns/shop/sa/edge");
    let told = at_the_edge(|question| question.source_ip = Some([10, 0, 0, 1].into()));
    assert!(!told.outcome.passes && told.inbound.is_empty(), "{told}");
    let told = at_the_edge(|question| "other.example.com".clone_into(&mut question.to));
    assert!(told.outcome.text.contains("no virtual host is for other.example.com"), "{told}");
    let told = at_the_edge(|question| "shop.example.com:81".clone_into(&mut question.to));
    assert!(told.outcome.text.contains("no listener on port 81"), "{told}");
}

#[test]
fn tokens_are_judged_by_their_claims() {
    let with = |claims: Option<serde_json::Value>| {
        at_the_edge(|question| {
            "web".clone_into(&mut question.from);
            "cart.shop:80".clone_into(&mut question.to);
            "/mine".clone_into(&mut question.path);
            question.claims = claims;
        })
    };
    let told = with(Some(serde_json::json!({ "iss": "me", "sub": "alice", "exp": 60 })));
    assert!(told.outcome.passes, "{told}");
    assert!(told.inbound[0].authentication.starts_with("a good token of me"), "{told}");
    assert_eq!(told.inbound.iter().map(|one| &*one.to.dialect).collect::<Vec<_>>(), ["meshwork", "envoy"]);
    let told = with(None);
    assert!(told.outcome.text.contains("the policy shop/users denies it"), "{told}");
    let denies = told.inbound[0].policies.iter().find(|policy| policy.matches).expect("one");
    assert!(denies.rules[0].why.contains("the token's claim iss is missing"), "{told}");
    let told = with(Some(serde_json::json!({ "iss": "you", "sub": "alice", "exp": 60 })));
    assert_eq!((told.outcome.status, told.outcome.reason.as_deref()), (Some(401), Some("MW0403")), "{told}");
    let told = with(Some(serde_json::json!({ "iss": "me", "sub": "alice", "exp": 60, "nbf": 1000 })));
    assert_eq!(told.outcome.status, Some(401), "{told}");
}
