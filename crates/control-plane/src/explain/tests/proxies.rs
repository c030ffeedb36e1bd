//! What proxies do to a request besides judging it decides what comes of it, too.

use meshwork_model::address::VirtualAddress;
use meshwork_model::mesh::{Capture, GATEWAY_LABEL, GatewayNode};

use super::*;
use crate::addresses;

const CART: &str = "
apiVersion: v1
kind: Service
metadata: { name: cart, namespace: shop }
spec: { selector: { app: cart }, ports: [{ name: http, port: 80, targetPort: 8080 }] }
---
apiVersion: v1
kind: Service
metadata: { name: empty, namespace: shop }
spec: { ports: [{ name: http, port: 80 }] }
---
apiVersion: v1
kind: Service
metadata: { name: ledger, namespace: shop }
spec: { selector: { app: ledger }, ports: [{ name: tcp, port: 5432 }] }
";

const GATEWAY: &str = "
---
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: { name: meshwork }
spec: { controllerName: meshwork.dev/gateway }
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: { name: edge, namespace: shop }
spec:
  gatewayClassName: meshwork
  listeners:
    - { name: web, port: 80, protocol: HTTP }
    - { name: bytes, port: 5432, protocol: TCP }
    - { name: sealed, port: 443, protocol: HTTPS, tls: { certificateRefs: [{ name: shop }] } }
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: { name: edge, namespace: shop }
spec:
  parentRefs: [{ name: edge }]
  rules: [{ backendRefs: [{ name: cart, port: 80 }] }]
---
apiVersion: gateway.networking.k8s.io/v1alpha2
kind: TCPRoute
metadata: { name: ledger, namespace: shop }
spec:
  parentRefs: [{ name: edge, sectionName: bytes }]
  rules: [{ backendRefs: [{ name: ledger, port: 5432 }] }]
";

/// A mesh that runs, with one caller, whose node `change` makes what it is besides.
fn mesh(config: &str, caller: &str, change: impl FnOnce(&mut Workload)) -> Mesh {
    let text = format!("{CART}{config}").replace("KEYS", KEYS);
    let loaded = read_texts([("shop.yaml".to_owned(), text)].into());
    assert!(loaded.is_accepted(), "{:#?}", loaded.problems);
    let mut mesh = offline::mesh(&loaded.config, caller, "cart.shop");
    let mut node = (*mesh.workloads[&Key::new("shop", caller)]).clone();
    change(&mut node);
    mesh.put(node);
    let names = addresses::of_config(&mesh.config).into_iter().zip(1..);
    let numbered = names.map(|(name, number)| (name, VirtualAddress::of_number(number).expect("few")));
    mesh.addresses = Arc::new(numbered.collect());
    mesh
}

/// What becomes of a request of `web`.
fn told(config: &str, change: impl FnOnce(&mut Question)) -> Explanation {
    ask(&mesh(config, "web", |_| ()), "web", "cart.shop", change)
}

/// What becomes of a request that a gateway gets.
fn at_the_gateway(config: &str, to: &str, change: impl FnOnce(&mut Question)) -> Explanation {
    let mesh = mesh(&format!("{GATEWAY}{config}"), "edge", |node| {
        node.labels.insert(GATEWAY_LABEL.to_owned(), "edge".to_owned());
        node.gateway = Some(Arc::new(GatewayNode {
            name: "edge".into(),
            address: [0, 0, 0, 0].into(),
            binds: <_>::default(),
            certificates: Some("/certs".into()),
        }));
    });
    ask(&mesh, "edge", to, change)
}

/// What becomes of a request of a program that is captured.
fn captured(config: &str, to: &str) -> Result<Explanation, String> {
    let mesh = mesh(config, "web", |node| {
        let [outbound, names] = [15001, 15053].map(|port| ([127, 0, 0, 1], port).into());
        node.capture = Some(Capture { outbound: vec![outbound], names });
    });
    explain(&mesh, &Question::new("web", to), &|_| Dialect::Meshwork, SystemTime::UNIX_EPOCH)
}

fn ask(mesh: &Mesh, from: &str, to: &str, change: impl FnOnce(&mut Question)) -> Explanation {
    let mut question = Question::new(from, to);
    change(&mut question);
    explain(mesh, &question, &|_| Dialect::Meshwork, SystemTime::UNIX_EPOCH).expect("explained")
}

fn with(fields: &[(&str, &str)]) -> impl FnOnce(&mut Question) {
    let fields: Vec<_> =
        fields.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    move |question| question.headers = fields
}

fn ended(told: &Explanation) -> (bool, Option<u16>, Option<&str>) {
    (told.outcome.passes, told.outcome.status, told.outcome.reason.as_deref())
}

const PASSES: (bool, Option<u16>, Option<&str>) = (true, None, None);
const DENIED: (bool, Option<u16>, Option<&str>) = (false, Some(403), Some("MW0401"));

#[test]
fn fields_that_tokens_set_are_nobody_elses() {
    let config = "
---
apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: { name: tokens, namespace: shop }
spec:
  selector: { matchLabels: { app: cart } }
  jwtRules: [{ issuer: me, jwks: 'KEYS', outputClaimToHeaders: [{ header: x-user, claim: sub }] }]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: { name: no-root, namespace: shop }
spec:
  selector: { matchLabels: { app: cart } }
  action: DENY
  rules: [{ when: [{ key: 'request.headers[x-user]', values: [root] }] }]
";
    let claims = |sub: &'static str| {
        move |question: &mut Question| {
            question.headers = vec![("x-user".to_owned(), "root".to_owned())];
            question.claims = Some(serde_json::json!({ "iss": "me", "sub": sub, "exp": 60 }));
        }
    };
    let told_of = |change: &dyn Fn(&mut Question), expected| {
        let told = told(config, change);
        assert_eq!(ended(&told), expected, "{told}");
    };
    told_of(&|question| with(&[("x-user", "root")])(question), PASSES);
    told_of(&claims("root"), DENIED);
    told_of(&claims("alice"), PASSES);
}

#[test]
fn a_token_goes_no_further_than_config_lets_it() {
    let check = |forwards: &str, expected| {
        let config = format!(
            "
---
apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {{ name: edge, namespace: shop }}
spec:
  targetRefs: [{{ group: gateway.networking.k8s.io, kind: Gateway, name: edge }}]
  jwtRules: [{{ issuer: me, jwks: 'KEYS', forwardOriginalToken: {forwards} }}]
---
apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {{ name: cart, namespace: shop }}
spec: {{ selector: {{ matchLabels: {{ app: cart }} }}, jwtRules: [{{ issuer: me, jwks: 'KEYS' }}] }}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{ name: users, namespace: shop }}
spec:
  selector: {{ matchLabels: {{ app: cart }} }}
  rules: [{{ from: [{{ source: {{ requestPrincipals: [me/alice] }} }}] }}]
"
        );
        let told = at_the_gateway(&config, "shop.example.com", |question| {
            question.claims = Some(serde_json::json!({ "iss": "me", "sub": "alice", "exp": 60 }));
        });
        assert_eq!(ended(&told), expected, "{forwards}: {told}");
        let out = told.outbound.as_ref().expect("a side of the gateway");
        assert!(out.authentication.starts_with("a good token of me"), "{told}");
    };
    check("true", PASSES);
    check("false", DENIED);
}

/// Signed by the key of [`ISSUER`], for ever as far as tests go.
const TOKEN: &str = "eyJhbGciOiAiRVMyNTYiLCAia2lkIjogImVjIn0.eyJpc3MiOiAiaHR0cHM6Ly9pc3N1ZXIudGVzdCIsICJzdWIiOiAibWUiL\
                     CAiYXVkIjogInNob3AiLCAiZXhwIjogNDEwMjQ0NDgwMCwgIm4iOiA3LCAiZGVlcCI6IHsiZ3JvdXAiOiAiYWRtaW5zIn19.5aP\
                     dg9eZh6DOgwWwSz009wyddDKtW_6Tzb0G9FXUGJ-NOyD-p0IP2KNUlmyhLPyXeeySgRF-APLkldVQJBCpAw";
const ISSUER: &str = r#"{"keys": [{"kty": "EC", "crv": "P-256", "alg": "ES256", "kid": "ec", "x": "lM6jqmaLMTy3sTdjibaxYWKM9nmunqYVf-bue27WP0g", "y": "-EIJihXaiKqtoiA50Ory1JCak8G__rvfFlzKQJOJAbU"}]}"#;

#[test]
fn a_token_that_stands_in_the_request_is_verified() {
    let told_by = |keys: &str, token: &str| {
        let config = format!(
            "
---
apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {{ name: tokens, namespace: shop }}
spec: {{ selector: {{ matchLabels: {{ app: cart }} }}, jwtRules: [{{ issuer: 'https://issuer.test', jwks: '{keys}' }}] }}
"
        );
        told(&config, with(&[("authorization", &format!("Bearer {token}"))]))
    };
    let good = told_by(ISSUER, TOKEN);
    assert_eq!(ended(&good), PASSES, "{good}");
    assert!(good.inbound[0].authentication.starts_with("a good token of https://issuer.test"), "{good}");
    let others = told_by(KEYS, TOKEN);
    assert_eq!(ended(&others), (false, Some(401), Some("MW0403")), "{others}");
    let nobodys = told_by(r#"{"keys": []}"#, TOKEN);
    assert_eq!(ended(&nobodys), (false, Some(401), Some("MW0412")), "{nobodys}");
    let broken = told_by(ISSUER, "nonsense");
    assert_eq!(ended(&broken), (false, Some(401), Some("MW0403")), "{broken}");
}

#[test]
fn faults_and_preflights_are_answered_before_anybody_is_asked() {
    let config = "
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: { name: cart, namespace: shop }
spec:
  hosts: [cart]
  http:
    - match: [{ uri: { prefix: /broken } }]
      fault: { abort: { httpStatus: 418, percentage: { value: 100 } } }
      route: [{ destination: { host: cart } }]
    - match: [{ uri: { prefix: /shaky } }]
      fault: { abort: { httpStatus: 418, percentage: { value: 50 } } }
      route: [{ destination: { host: cart } }]
    - corsPolicy: { allowOrigins: [{ exact: 'https://a' }], allowMethods: [PUT] }
      route: [{ destination: { host: cart } }]
";
    let check = |path: &str, method: &str, expected| {
        let told = told(config, |question| {
            (question.method, question.path) = (method.to_owned(), path.to_owned());
            with(&[("origin", "https://a"), ("access-control-request-method", "PUT")])(question);
        });
        assert_eq!(ended(&told), expected, "{method} {path}: {told}");
        told
    };
    check("/broken", "GET", (false, Some(418), Some("MW0404")));
    let shaky = check("/shaky", "GET", PASSES);
    let terms = &shaky.outbound.as_ref().expect("a side").terms;
    assert!(terms.iter().any(|term| term.contains("answered 418")), "{shaky}");
    check("/", "PUT", PASSES);
    check("/", "OPTIONS", (false, Some(200), Some("MW0203")));
}

#[test]
fn what_goes_nowhere_is_told() {
    let split = |to: &str, kind: &str| {
        let config = format!(
            "
---
apiVersion: gateway.networking.k8s.io/v1
kind: {kind}
metadata: {{ name: split, namespace: shop }}
spec:
  parentRefs: [{{ group: \"\", kind: Service, name: cart }}]
  rules: [{{ backendRefs: [{{ name: cart, port: 80, weight: 3 }}, {{ name: {to}, port: 80, weight: 1 }}] }}]
"
        );
        told(&config, |_| ())
    };
    let empty = split("empty", "HTTPRoute");
    assert_eq!(ended(&empty), (false, Some(503), Some("MW0301")), "{empty}");
    assert_eq!(empty.outcome.text, "25 % of such requests go nowhere: nobody is behind it");
    assert_eq!(empty.inbound.len(), 1, "{empty}");
    let gone = split("gone", "HTTPRoute");
    assert_eq!(ended(&gone), (false, Some(500), Some("MW0202")), "{gone}");
    let whole = ask(&mesh("", "web", |_| ()), "web", "empty.shop", |_| ());
    assert_eq!(ended(&whole), (false, Some(503), Some("MW0301")), "{whole}");
    assert_eq!(whole.outcome.text, "nobody is behind it");
}

#[test]
fn proxies_write_and_remove_fields_first() {
    let config = "
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: { name: cart, namespace: shop }
spec:
  hosts: [cart]
  http:
    - match: [{ headers: { x-forwarded-proto: { exact: http } } }]
      headers: { request: { set: { x-copy: '%REQ(x-user)%' } } }
      route: [{ destination: { host: cart } }]
    - directResponse: { status: 404 }
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: { name: none, namespace: shop }
spec:
  selector: { matchLabels: { app: cart } }
  action: DENY
  rules:
    - when: [{ key: 'request.headers[x-envoy-internal]', values: ['true'] }]
    - when: [{ key: 'request.headers[x-copy]', values: [root] }]
    - when: [{ key: 'request.headers[x-forwarded-client-cert]', values: ['Hash=1'] }]
";
    let check = |fields: &[(&str, &str)], expected| {
        let told = told(config, with(fields));
        assert_eq!(ended(&told), expected, "{fields:?}: {told}");
    };
    check(&[], PASSES);
    check(&[("x-envoy-internal", "true"), ("x-forwarded-client-cert", "Hash=1")], PASSES);
    check(&[("x-user", "root")], DENIED);
    check(&[("x-user", "me")], PASSES);
}

#[test]
fn who_asks_from_outside_is_told_to_those_behind_a_gateway() {
    let config = "
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: { name: near, namespace: shop }
spec:
  selector: { matchLabels: { app: cart } }
  rules: [{ from: [{ source: { remoteIpBlocks: [192.0.2.0/24] } }] }]
";
    let check = |ip: [u8; 4], expected| {
        let told = at_the_gateway(config, "shop.example.com", |question| {
            question.source_ip = Some(ip.into());
            // Nobody outside is believed who says otherwise.
            question.headers = vec![("x-forwarded-for".to_owned(), "192.0.2.1".to_owned())];
        });
        assert_eq!(ended(&told), expected, "{ip:?}: {told}");
    };
    check([192, 0, 2, 1], PASSES);
    check([10, 0, 0, 1], DENIED);
}

#[test]
fn a_gateway_judges_as_clients_come() {
    let config = "
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: { name: edge, namespace: shop }
spec:
  targetRefs: [{ group: gateway.networking.k8s.io, kind: Gateway, name: edge }]
  rules:
    - to: [{ operation: { hosts: [shop.example.com], ports: ['443', '80'] } }]
    - from: [{ source: { ipBlocks: [10.0.0.0/8] } }]
      to: [{ operation: { ports: ['5432'] } }]
";
    let check = |to: &str, ip: [u8; 4], expected| {
        let told = at_the_gateway(config, to, |question| question.source_ip = Some(ip.into()));
        assert_eq!(ended(&told), expected, "{to} {ip:?}: {told}");
    };
    // What a client leaves out: the port that its scheme has anyway.
    check("shop.example.com:443", [192, 0, 2, 1], PASSES);
    check("Shop.Example.com", [192, 0, 2, 1], PASSES);
    check("other.example.com:443", [192, 0, 2, 1], DENIED);
    // Bytes are judged where they come in, and nobody is answered.
    check("db.example.com:5432", [10, 0, 0, 1], PASSES);
    check("db.example.com:5432", [192, 0, 2, 1], (false, None, Some("MW0401")));
}

#[test]
fn a_captured_program_finds_what_its_sidecar_lets_it_see() {
    let scoped = |mode: &str| {
        format!(
            "
---
apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {{ name: default, namespace: shop }}
spec:
  outboundTrafficPolicy: {{ mode: {mode} }}
  egress: [{{ hosts: [./empty.shop.svc.cluster.local] }}]
"
        )
    };
    let check = |config: &str, to: &str, passes: bool, text: &str| {
        let told = captured(config, to).expect("explained");
        assert_eq!(told.outcome.passes, passes, "{to}: {told}");
        assert!(told.outcome.text.contains(text) && told.notes.is_empty(), "{to}: {told}");
    };
    check("", "cart.shop", true, "it reaches cart.shop");
    check(&scoped("ALLOW_ANY"), "cart.shop", false, "a Sidecar keeps cart.shop:80");
    check("", "example.org:443", true, "no workloads of the mesh");
    check(&scoped("REGISTRY_ONLY"), "example.org:443", false, "no name for");
    let why = captured("", "nothing").expect_err("no service");
    assert!(why.starts_with("there is no service nothing"), "{why}");
}

#[test]
fn what_is_no_request_in_plaintext_is_not_taken_for_one() {
    let tls = told("", |question| question.sni = Some("cart.shop".to_owned()));
    assert_eq!(ended(&tls), (false, Some(400), Some("MW0101")), "{tls}");
    let check = |protocol: &str, expected| {
        let told = told("", with(&[("connection", "upgrade"), ("upgrade", protocol)]));
        assert_eq!(ended(&told), expected, "{protocol}: {told}");
    };
    check("websocket", PASSES);
    check("h2c", PASSES);
    check("telnet", (false, Some(403), Some("MW0107")));
    let mesh = mesh("", "web", |_| ());
    let refused = |change: &dyn Fn(&mut Question), expected: &str| {
        let mut question = Question::new("web", "cart.shop");
        change(&mut question);
        let error = explain(&mesh, &question, &|_| Dialect::Meshwork, SystemTime::UNIX_EPOCH);
        assert!(error.as_ref().is_err_and(|error| error.contains(expected)), "{error:?}");
    };
    refused(&|question| "CONNECT".clone_into(&mut question.method), "CONNECT");
    refused(&|question| with(&[("host", "a"), ("host", "b")])(question), "one host");
    refused(&|question| with(&[("host", "u@a")])(question), "one host");
    refused(&|question| with(&[("connection", "x-role")])(question), "takes fields away");
}
