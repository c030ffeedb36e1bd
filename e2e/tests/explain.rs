//! `meshwork explain` beside what really becomes of the same requests: the answer, and which policy gave it.

use std::net::SocketAddr;

use e2e::captured::Mesh;
use e2e::http;
use e2e::origin::{HELLO, Origin};
use e2e::program::Program;
use e2e::{eventually, free_address};
use serde_json::Value;

const CONFIG: &str = "apiVersion: v1
kind: Service
metadata: { name: cart, namespace: shop }
spec: { selector: { app: cart }, ports: [{ name: http, port: 80, targetPort: 8080 }] }
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: { name: cart, namespace: shop }
spec:
  parentRefs: [{ group: \"\", kind: Service, name: cart }]
  rules:
    - matches: [{ path: { type: PathPrefix, value: /moved } }]
      filters: [{ type: RequestRedirect, requestRedirect: { path: { type: ReplaceFullPath, replaceFullPath: /new } } }]
    - name: aborted
      matches: [{ path: { type: PathPrefix, value: /aborted } }]
      backendRefs: [{ name: cart, port: 80 }]
    - backendRefs: [{ name: cart, port: 80 }]
---
apiVersion: meshwork.dev/v1alpha1
kind: TrafficPolicy
metadata: { name: aborted, namespace: shop }
spec:
  targetRefs: [{ group: gateway.networking.k8s.io, kind: HTTPRoute, name: cart, sectionName: aborted }]
  fault: { abort: { httpStatus: 418, percentage: { value: 100 } } }
---
apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: { name: tokens, namespace: shop }
spec:
  selector: { matchLabels: { app: cart } }
  jwtRules:
    - issuer: https://issuer.test
      outputClaimToHeaders: [{ header: x-sub, claim: sub }]
      jwks: '{\"keys\": [{\"kty\": \"EC\", \"crv\": \"P-256\", \"alg\": \"ES256\", \"kid\": \"ec\",
        \"x\": \"lM6jqmaLMTy3sTdjibaxYWKM9nmunqYVf-bue27WP0g\", \"y\": \"-EIJihXaiKqtoiA50Ory1JCak8G__rvfFlzKQJOJAbU\"}]}'
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: { name: no-admin, namespace: shop }
spec:
  selector: { matchLabels: { app: cart } }
  action: DENY
  rules:
    - to: [{ operation: { paths: [\"/admin\", \"/admin/*\"] } }]
    - when: [{ key: \"request.headers[x-role]\", values: [admin] }]
    - when: [{ key: \"request.headers[x-sub]\", values: [me] }]
    - when: [{ key: \"request.headers[x-envoy-internal]\", values: [\"true\"] }]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: { name: readers, namespace: shop }
spec:
  selector: { matchLabels: { app: cart } }
  rules:
    - from: [{ source: { principals: [\"mesh.local/ns/shop/sa/web\"] } }]
      to: [{ operation: { methods: [GET] } }]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: { name: writers, namespace: shop }
spec:
  selector: { matchLabels: { app: cart } }
  rules:
    - from: [{ source: { principals: [\"mesh.local/ns/shop/sa/clerk\"] } }]
      to: [{ operation: { methods: [PUT], paths: [\"/items/{*}\"] } }]
      when: [{ key: \"request.headers[x-shift]\", values: [day, night] }]
";

/// Of the issuer, for `me`, and for ever as far as tests go.
const TOKEN: &str = "authorization: Bearer eyJhbGciOiAiRVMyNTYiLCAia2lkIjogImVjIn0.eyJpc3MiOiAiaHR0cHM6Ly9pc3N1ZXIudGVz\
                     dCIsICJzdWIiOiAibWUiLCAiYXVkIjogInNob3AiLCAiZXhwIjogNDEwMjQ0NDgwMCwgIm4iOiA3LCAiZGVlcCI6IHsiZ3Jvd\
                     XAiOiAiYWRtaW5zIn19.5aPdg9eZh6DOgwWwSz009wyddDKtW_6Tzb0G9FXUGJ-NOyD-p0IP2KNUlmyhLPyXeeySgRF-APLkl\
                     dVQJBCpAw";
/// The same for somebody else, whom nobody signed for.
const FORGED: &str = "authorization: Bearer eyJhbGciOiAiRVMyNTYiLCAia2lkIjogImVjIn0.eyJpc3MiOiAiaHR0cHM6Ly9pc3N1ZXIudGV\
                      zdCIsICJzdWIiOiAieW91In0.5aPdg9eZh6DOgwWwSz009wyddDKtW_6Tzb0G9FXUGJ-NOyD-p0IP2KNUlmyhLPyXeeySgRF-\
                      APLkldVQJBCpAw";

/// Who asks for what, and the policy that must be named in the answer.
const CASES: &[(&str, &str, &str, &[&str], &str)] = &[
    ("web", "GET", "/items", &[], "readers"),
    ("web", "GET", "/items?x=y", &[], "readers"),
    ("web", "PUT", "/items/1", &[], "readers"),
    ("web", "GET", "/admin", &[], "no-admin"),
    ("web", "GET", "/x/../admin/users", &[], "no-admin"),
    ("web", "GET", "/%61dmin", &[], "no-admin"),
    ("web", "GET", "/administrator", &[], "readers"),
    ("web", "GET", "/items", &["x-role: admin"], "no-admin"),
    ("web", "GET", "/items", &["x-role: user", "x-role: admin"], "no-admin"),
    ("web", "GET", "/items", &["x-role: user"], "readers"),
    ("web", "GET", "/moved/x", &[], ""),
    ("web", "GET", "/aborted", &[], ""),
    ("web", "GET", "/items", &[TOKEN], "no-admin"),
    ("web", "GET", "/items", &[FORGED], ""),
    ("web", "GET", "/items", &["authorization: Bearer nonsense"], ""),
    // Fields that only a proxy may say.
    ("web", "GET", "/items", &["x-sub: me"], "readers"),
    ("web", "GET", "/items", &["x-envoy-internal: true"], "readers"),
    ("web", "GET", "/items", &["connection: upgrade", "upgrade: h2c"], "readers"),
    ("web", "GET", "/items", &["connection: upgrade", "upgrade: telnet"], ""),
    ("web", "GET", "/items", &["upgrade: telnet"], "readers"),
    ("clerk", "GET", "/items", &[], "writers"),
    ("clerk", "PUT", "/items/1", &["x-shift: day"], "writers"),
    ("clerk", "PUT", "/items/1", &["x-shift: noon"], "writers"),
    ("clerk", "PUT", "/items/1", &[], "writers"),
    ("clerk", "PUT", "/items/1/2", &["x-shift: day"], "writers"),
    ("clerk", "PUT", "/items/1", &["x-shift: day", "x-role: admin"], "no-admin"),
];

fn explained(
    mesh: &Mesh,
    (from, method, path, fields): (&str, &str, &str, &[&str]),
    form: &str,
) -> (Option<i32>, String) {
    let fields: Vec<_> = fields.iter().flat_map(|field| ["-H", field]).collect();
    let words =
        [&["explain", "--from", from, "--to", "cart", method, path][..], &fields, &["-o", form]].concat();
    let finished = mesh.cli(&words);
    assert!(!finished.stdout.is_empty(), "{words:?}: {finished:#?}");
    (finished.status.code(), finished.stdout)
}

fn asked(at: SocketAddr, method: &str, path: &str, fields: &[&str]) -> u16 {
    let fields = fields.iter().fold(String::new(), |all, field| all + field + "\r\n");
    let request = format!(
        "{method} {path} HTTP/1.1\r\nhost: cart.shop\r\ncontent-length: 0\r\n{fields}connection: close\r\n\r\n"
    );
    http::exchange(at, request.as_bytes()).expect("an answer").status
}

#[test]
fn what_is_explained_is_what_happens() {
    let mesh = Mesh::start(CONFIG);
    let errors = mesh.errors();
    assert!(errors.is_empty(), "{errors:#?}");
    let origin = Origin::start(HELLO);
    let inbound = free_address();
    let (web, clerk) = (free_address(), free_address());
    let mut programs: Vec<Program> = vec![
        mesh.explicit("cart", &["--inbound", &format!("8080={inbound}>{}", origin.address())]),
        mesh.explicit("web", &["--outbound", &format!("cart.shop:80={web}")]),
        mesh.explicit("clerk", &["--outbound", &format!("cart.shop:80={clerk}")]),
    ];
    eventually("policy acts", || {
        [web, clerk].iter().all(|at| http::get(*at, "/admin").is_ok_and(|answer| answer.status == 403))
            && http::get(web, "/items").is_ok_and(|answer| answer.status == 200)
    });
    let mut wrong = Vec::new();
    for &(from, method, path, fields, policy) in CASES {
        let status = asked(if from == "web" { web } else { clerk }, method, path, fields);
        let (_, text) = explained(&mesh, (from, method, path, fields), "json");
        let told = e2e::json(&text);
        let outcome = &told["outcome"];
        let is_same = if status == 200 { outcome["passes"] == true } else { outcome["status"] == status };
        if !is_same || outcome["passes"] != (status == 200) {
            wrong.push(format!("{from} {method} {path} {fields:?}: {status}, explained as {outcome:#}"));
        }
        let policies: &Value = &told["inbound"][0]["policies"];
        if !policy.is_empty() && !policies.to_string().contains(&format!("shop/{policy}")) {
            wrong.push(format!("{from} {method} {path}: {policy} is not named in {policies:#}"));
        }
        // The same for people.
        let (_, words) = explained(&mesh, (from, method, path, fields), "text");
        if !policy.is_empty() && !words.contains(policy) {
            wrong.push(format!("{from} {method} {path}: {policy} is not named in {words}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    for program in &mut programs {
        assert!(program.alive(), "{}", program.output());
    }
}

/// Tokens end at the gateway; nobody may send bytes.
const GATEWAY: &str = "apiVersion: v1
kind: Service
metadata: { name: cart, namespace: shop }
spec: { selector: { app: cart }, ports: [{ name: http, port: 80, targetPort: 8080 }] }
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: { name: edge, namespace: shop }
spec:
  gatewayClassName: meshwork
  listeners: [{ name: http, port: 80, protocol: HTTP }, { name: bytes, port: 9000, protocol: TCP }]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: { name: cart, namespace: shop }
spec:
  parentRefs: [{ name: edge }]
  hostnames: [shop.example.com]
  rules: [{ backendRefs: [{ name: cart, port: 80 }] }]
---
apiVersion: gateway.networking.k8s.io/v1alpha2
kind: TCPRoute
metadata: { name: cart, namespace: shop }
spec:
  parentRefs: [{ name: edge, sectionName: bytes }]
  rules: [{ backendRefs: [{ name: cart, port: 80 }] }]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: { name: edge, namespace: shop }
spec:
  targetRefs: [{ group: gateway.networking.k8s.io, kind: Gateway, name: edge }]
  action: DENY
  rules:
    - to: [{ operation: { paths: [/admin], ports: [\"80\"] } }]
    - from: [{ source: { ipBlocks: [127.0.0.0/8] } }]
      to: [{ operation: { ports: [\"9000\"] } }]
---
apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: { name: edge, namespace: shop }
spec:
  targetRefs: [{ group: gateway.networking.k8s.io, kind: Gateway, name: edge }]
  jwtRules: [KEYS]
---
apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: { name: cart, namespace: shop }
spec: { selector: { matchLabels: { app: cart } }, jwtRules: [KEYS] }
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: { name: mine, namespace: shop }
spec:
  selector: { matchLabels: { app: cart } }
  action: DENY
  rules:
    - from: [{ source: { notRequestPrincipals: [\"*\"] } }]
      to: [{ operation: { paths: [/mine] } }]
    - when: [{ key: \"request.headers[x-forwarded-proto]\", notValues: [http] }]
    - when: [{ key: \"request.headers[x-envoy-decorator-operation]\", values: [\"*\"] }]
";
const KEYS: &str = r#"{ issuer: 'https://issuer.test', jwks: '{"keys": [{"kty": "EC", "crv": "P-256", "alg": "ES256",
          "kid": "ec", "x": "lM6jqmaLMTy3sTdjibaxYWKM9nmunqYVf-bue27WP0g", "y": "-EIJihXaiKqtoiA50Ory1JCak8G__rvfFlzKQJOJAbU"}]}' }"#;

/// What clients outside ask for: the port, the host and the path.
const OUTSIDE: &[(u16, &str, &str, &[&str])] = &[
    (80, "shop.example.com", "/", &[]),
    (80, "other.example.com", "/", &[]),
    (80, "shop.example.com", "/admin", &[]),
    (80, "shop.example.com", "/x/..//admin", &[]),
    (80, "shop.example.com", "/mine", &[]),
    // The gateway takes the token, and leaves none for those behind.
    (80, "shop.example.com", "/mine", &[TOKEN]),
    (80, "shop.example.com", "/", &[TOKEN]),
    (80, "shop.example.com", "/", &[FORGED]),
    // What clients say of themselves counts for nothing.
    (80, "shop.example.com", "/", &["x-forwarded-proto: ftp", "x-envoy-decorator-operation: x"]),
    (9000, "shop.example.com", "/", &[]),
];

#[test]
fn what_comes_by_a_gateway_is_explained() {
    let mesh = Mesh::start(&GATEWAY.replace("KEYS", KEYS));
    let errors = mesh.errors();
    assert!(errors.is_empty(), "{errors:#?}");
    let origin = Origin::start(HELLO);
    let inbound = free_address();
    let _cart = mesh.explicit("cart", &["--inbound", &format!("8080={inbound}>{}", origin.address())]);
    let (requests, bytes) = (free_address(), free_address());
    let mut command = mesh.meshwork();
    command.args(["gateway", "--gateway", "edge"]);
    for (port, address) in [(80, requests), (9000, bytes)] {
        command.args(["--listen", &format!("{port}={address}")]);
    }
    command.args(mesh.enrolment("edge", &["gateway.networking.k8s.io/gateway-name=edge"]));
    let mut gateway = Program::start("gateway", mesh.scratch(), &mut command);
    gateway.listens(requests);
    gateway.listens(bytes);
    let status = |port: u16, host: &str, path: &str, fields: &[&str]| {
        let fields = fields.iter().fold(String::new(), |all, field| all + field + "\r\n");
        let request = format!("GET {path} HTTP/1.1\r\nhost: {host}\r\n{fields}connection: close\r\n\r\n");
        let at = if port == 80 { requests } else { bytes };
        http::exchange(at, request.as_bytes()).ok().map(|answer| answer.status)
    };
    eventually("the gateway reaches the cart, and policy acts", || {
        status(80, "shop.example.com", "/", &[]) == Some(200)
            && status(80, "shop.example.com", "/mine", &[]) == Some(403)
    });
    let mut wrong = Vec::new();
    for &(port, host, path, fields) in OUTSIDE {
        let answered = status(port, host, path, fields);
        let to = format!("{host}:{port}");
        let fields: Vec<_> = fields.iter().flat_map(|field| ["-H", field]).collect();
        let words =
            ["explain", "--from", "edge", "--to", to.as_str(), "--source-ip", "127.0.0.1", "GET", path];
        let finished = mesh.cli(&[&words[..], &fields, &["-o", "json"]].concat());
        let outcome = &e2e::json(&finished.stdout)["outcome"];
        let told = outcome["status"].as_u64().and_then(|status| u16::try_from(status).ok());
        let is_same = match answered {
            Some(200) => outcome["passes"] == true,
            answered => outcome["passes"] == false && told == answered,
        };
        if !is_same {
            wrong.push(format!("{to} {path} {fields:?}: {answered:?}, explained as {outcome:#}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
