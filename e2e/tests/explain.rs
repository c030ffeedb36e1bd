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
    - backendRefs: [{ name: cart, port: 80 }]
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
