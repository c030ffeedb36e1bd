//! What somebody with rights in one namespace gets at of others.

use super::*;

const TOKENS: &str = "/apis/meshwork.dev/v1alpha1/tokens";
const REVISIONS: &str = "/apis/meshwork.dev/v1alpha1/revisions";

/// Somebody with a role in some namespaces.
async fn with_role(admin: &Asker, role: &str, namespaces: &[&str]) -> Asker {
    let name = format!("{role}-{}", namespaces.concat());
    let body = json!({"name": name, "grants": [{"role": role, "namespaces": namespaces}]});
    let (status, made) = admin.json("POST", TOKENS, &body).await;
    assert_eq!(status, 200, "{made}");
    admin.with(made["token"].as_str().map(str::to_owned))
}

fn open() -> (tempfile::TempDir, Api, Asker) {
    let dir = tempfile::tempdir().expect("a directory");
    let (api, admin) = Asker::open(dir.path());
    (dir, api, admin)
}

fn resource(api_version: &str, kind: &str, namespace: &str, spec: &Value) -> String {
    json!({
        "apiVersion": api_version, "kind": kind, "metadata": {"name": "x", "namespace": namespace}, "spec": spec,
    })
    .to_string()
}

fn istio(kind: &str, namespace: &str, spec: &Value) -> String {
    resource("networking.istio.io/v1", kind, namespace, spec)
}

/// A host outside, for callers of its own namespace.
fn entry(namespace: &str, host: &str, address: &str) -> String {
    let spec = json!({
        "hosts": [host], "resolution": "STATIC", "endpoints": [{"address": address}], "exportTo": ["."],
        "ports": [{"name": "http", "number": 80, "protocol": "HTTP"}],
    });
    istio("ServiceEntry", namespace, &spec)
}

#[tokio::test]
async fn a_list_is_no_way_to_what_is_others() {
    let (_dir, api, admin) = open();
    let editor = with_role(&admin, "editor", &["shop"]).await;
    let list = |items: &[String]| {
        let items: Vec<Value> = items.iter().map(|text| serde_json::from_str(text).expect("JSON")).collect();
        json!({
            "apiVersion": "v1", "kind": "List", "metadata": {"name": "l", "namespace": "shop"}, "items": items,
        })
        .to_string()
    };
    let mesh_config = resource("meshwork.dev/v1alpha1", "MeshConfig", "meshwork-system", &json!({}));
    let mesh_config = mesh_config.replace("\"x\"", "\"default\"");
    let allow_all = resource("security.istio.io/v1", "AuthorizationPolicy", "bank", &json!({}));
    for foreign in [service("cart", "bank"), mesh_config, allow_all] {
        let inner = list(&[service("cart", "shop"), list(std::slice::from_ref(&foreign))]);
        let (status, answer) = editor.apply(&inner).await;
        assert_eq!(status, 403, "{foreign}: {answer}");
    }
    assert_eq!(api.register.revision(), 0);
    let (status, answer) = editor.apply(&list(&[service("cart", "shop"), service("web", "shop")])).await;
    assert_eq!((status, answer["changes"].as_array().map(Vec::len)), (200, Some(2)), "{answer}");
    assert_eq!(admin.json("GET", CART, &Value::Null).await.0, 200, "each item is a resource of its own");
    // Of the mesh as a whole, whom it believes is more than what is in every namespace.
    let everywhere = with_role(&admin, "editor", &["*"]).await;
    let mesh_config = resource("meshwork.dev/v1alpha1", "MeshConfig", "meshwork-system", &json!({}));
    let mesh_config = mesh_config.replace("\"x\"", "\"default\"");
    assert_eq!(everywhere.apply(&mesh_config).await.0, 403);
    assert_eq!(admin.apply(&mesh_config).await.0, 200);
}

#[tokio::test]
async fn whether_others_have_something_is_not_told() {
    let (_dir, _api, admin) = open();
    let editor = with_role(&admin, "editor", &["shop"]).await;
    assert_eq!(admin.apply(&service("there", "bank")).await.0, 200);
    assert_eq!(editor.apply(&service("cart", "shop")).await.0, 200);
    let mut answers = Vec::new();
    for name in ["there", "absent"] {
        let path = format!("/api/v1/namespaces/bank/services/{name}");
        for method in ["GET", "DELETE"] {
            answers.push(editor.json(method, &path, &Value::Null).await.0);
        }
        let body = json!({"resources": [{"kind": "Service", "namespace": "bank", "name": name}]});
        answers.push(editor.json("POST", "/apis/meshwork.dev/v1alpha1/delete", &body).await.0);
        let seen =
            service(name, "bank").replace("\"metadata\":{", "\"metadata\":{\"resourceVersion\":\"7\",");
        let (status, answer) = editor.apply(&seen).await;
        assert!(!answer.to_string().contains("revision 1"), "{answer}");
        answers.push(status);
    }
    assert_eq!(answers, [403; 8]);
    let (status, answer) =
        editor.json("POST", "/apis/meshwork.dev/v1alpha1/rollback", &json!({"revision": 0})).await;
    assert!(status == 403 && !answer.to_string().contains("bank"), "{answer}");
    // What was done in between and undone is no reason to refuse what is their own.
    let path = "/api/v1/namespaces/bank/services/there";
    assert_eq!(admin.json("DELETE", path, &Value::Null).await.0, 200);
    let (status, answer) =
        editor.json("POST", "/apis/meshwork.dev/v1alpha1/rollback", &json!({"revision": 0})).await;
    assert_eq!((status, answer["changes"].as_array().map(Vec::len)), (200, Some(1)), "{answer}");
}

#[tokio::test]
async fn what_is_wrong_names_nothing_of_others() {
    let (_dir, _api, admin) = open();
    assert_eq!(admin.apply(&entry("bank", "api.partner.example", "192.0.2.1")).await.0, 200);
    // Before bank and behind it, by name: the one that comes second is told of.
    for namespace in ["aaa", "shop"] {
        let editor = with_role(&admin, "editor", &[namespace]).await;
        let text = entry(namespace, "api.partner.example", "192.0.2.2");
        for (asker, tells) in [(&editor, false), (&admin, true)] {
            let (status, answer) = asker.apply(&text).await;
            assert_eq!((status, answer.to_string().contains("bank")), (422, tells), "{namespace}: {answer}");
        }
    }
}

#[tokio::test]
async fn a_put_is_of_one_resource() {
    let (_dir, api, admin) = open();
    let two = format!("{}\n---\n{}", service("cart", "shop"), service("web", "shop"));
    for body in [two, String::new(), "{}".to_owned(), service("web", "shop")] {
        let response = admin.ask("PUT", CART, body.clone()).await;
        assert!(matches!(response.status().as_u16(), 400 | 422), "{body}: {}", response.status());
    }
    assert_eq!(api.register.revision(), 0);
    let large = admin.ask("PUT", CART, " ".repeat(5 << 20)).await;
    assert_eq!(large.status().as_u16(), 413);
}

#[tokio::test]
async fn of_revisions_that_concern_others_only_the_number_is_told() {
    let (_dir, _api, admin) = open();
    let viewer = with_role(&admin, "viewer", &["shop"]).await;
    admin.apply(&service("cart", "bank")).await;
    admin.apply(&service("cart", "shop")).await;
    let (_, told) = viewer.json("GET", REVISIONS, &Value::Null).await;
    let notes: Vec<&Value> =
        told["items"].as_array().expect("items").iter().map(|item| &item["note"]).collect();
    assert_eq!(notes, ["n", ""], "{told}");
    let (_, told) = viewer.json("GET", &format!("{REVISIONS}/1"), &Value::Null).await;
    assert_eq!((&told["by"], &told["changes"]), (&"".into(), &json!([])), "{told}");
    let (_, told) = admin.json("GET", &format!("{REVISIONS}/1"), &Value::Null).await;
    assert_eq!(told["note"], "n");
}

#[tokio::test]
async fn keys_that_sign_are_shown_to_editors_alone() {
    let (_dir, _api, admin) = open();
    let jwks =
        r#"{"keys": [{"kty": "oct", "alg": "HS256", "k": "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE"}]}"#;
    let spec = json!({"jwtRules": [{"issuer": "i", "jwks": jwks}]});
    let text = resource("security.istio.io/v1", "RequestAuthentication", "shop", &spec);
    let (status, answer) = admin.apply(&text).await;
    assert_eq!(status, 200, "{answer}");
    let viewer = with_role(&admin, "viewer", &["shop"]).await;
    let one = "/apis/security.istio.io/v1/namespaces/shop/requestauthentications/x";
    for path in [one, "/apis/security.istio.io/v1/requestauthentications", &format!("{REVISIONS}/1")] {
        for (asker, shows) in [(&viewer, false), (&admin.with(None), false), (&admin, true)] {
            let (status, told) = asker.json("GET", path, &Value::Null).await;
            assert_eq!((status, told.to_string().contains("MDEyMzQ")), (200, shows), "{path}: {told}");
        }
    }
}

#[tokio::test]
async fn nothing_that_others_read_moves_their_cursor() {
    let (_dir, _api, admin) = open();
    let escape = "\u{1b}[2J";
    let body =
        |note: &str| json!({"sources": [{"name": "a", "text": service("cart", "shop")}], "note": note});
    assert_eq!(admin.json("POST", APPLY, &body(&format!("gone{escape}"))).await.0, 400);
    assert_eq!(admin.json("POST", APPLY, &body("one line\n\tand another")).await.0, 200);
    let text = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": escape}});
    let (status, answer) = admin.apply(&text.to_string()).await;
    let problem = answer["problems"][0]["message"].as_str().unwrap_or_default();
    assert!(status == 422 && problem.contains("[2J") && !problem.contains('\u{1b}'), "{answer}");
}

#[tokio::test]
async fn who_says_nothing_of_themselves_sends_nothing() {
    let (_dir, address) = start().await;
    // The answer comes before the body does, which never does.
    for (path, sent, status) in [
        (APPLY, 0, "401"),
        (TOKENS, 0, "401"),
        ("/nothing", 0, "401"),
        (EXPLAIN, MAX_QUESTION_BYTES + 1, "400"),
    ] {
        let mut stream = TcpStream::connect(address).await.expect("connected");
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: \
             {MAX_BODY_BYTES}\r\n\r\n"
        );
        stream.write_all(format!("{head}{}", " ".repeat(sent)).as_bytes()).await.expect("sent");
        let mut answer = [0; 12];
        stream.read_exact(&mut answer).await.expect("answered");
        assert_eq!(&answer[9..], status.as_bytes(), "{path}");
    }
}

#[tokio::test]
async fn who_says_nothing_of_themselves_leaves_room_for_watches() {
    let (_dir, api, admin) = open();
    let nobody = admin.with(None);
    let watch = "/api/v1/services?watch=true";
    let mut watches = Vec::new();
    while api.watches.available_permits() > MAX_WATCHES / 2 {
        watches.push(nobody.ask("GET", watch, "").await);
    }
    assert_eq!(nobody.ask("GET", watch, "").await.status().as_u16(), 429);
    assert_eq!(admin.ask("GET", watch, "").await.status().as_u16(), 200);
    drop(watches);
}

#[tokio::test]
async fn pages_of_other_origins_are_not_answered() {
    let (_dir, address) = start().await;
    let host = address.to_string();
    let own = format!("origin: http://{host}");
    let cases = [
        (&*own, "200"),
        ("origin: http://localhost:3000", "403"),
        ("origin: https://evil.example", "403"),
        ("origin: null", "403"),
        ("sec-fetch-site: same-origin", "200"),
        ("sec-fetch-site: none", "200"),
        ("sec-fetch-site: cross-site\r\nsec-fetch-mode: no-cors", "403"),
        ("sec-fetch-site: same-site", "403"),
        ("sec-fetch-site: cross-site\r\nsec-fetch-mode: navigate", "200"),
    ];
    for (fields, status) in cases {
        let answer = get(address, &format!("{host}\r\n{fields}"), "/ready").await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{fields}: {answer}");
    }
}

#[tokio::test]
async fn what_is_on_the_hosts_of_callers_is_no_namespaces() {
    let (_dir, _api, admin) = open();
    let editor = with_role(&admin, "editor", &["shop"]).await;
    let near = |address: &str| entry("shop", "api.example", address);
    let workload =
        |address: &str| istio("WorkloadEntry", "shop", &json!({"address": address, "labels": {"app": "x"}}));
    let by_name = entry("shop", "api.example", "localhost").replace("STATIC", "DNS");
    let terms =
        |mode: &str| json!({"tls": {"mode": mode, "clientCertificate": "/c.pem", "privateKey": "/k.pem"}});
    let rule = |mode: &str| {
        istio("DestinationRule", "shop", &json!({"host": "api.example", "trafficPolicy": terms(mode)}))
    };
    let subset = json!({"name": "a", "labels": {"a": "b"}, "trafficPolicy": terms("MUTUAL")});
    let of_subset = istio("DestinationRule", "shop", &json!({"host": "api.example", "subsets": [subset]}));
    let cases = [
        near("127.0.0.1"),
        near("::1"),
        near("169.254.169.254"),
        near("0.0.0.0"),
        workload("127.0.0.1"),
        by_name,
        rule("MUTUAL"),
        of_subset,
    ];
    for text in &cases {
        let (status, answer) = editor.apply(text).await;
        assert_eq!(status, 403, "{text}: {answer}");
        let (status, answer) = admin.apply(text).await;
        assert_eq!(status, 200, "{text}: {answer}");
    }
    // A peer that proves itself may be anywhere.
    let proven = workload("127.0.0.1").replace("\"spec\":{", "\"spec\":{\"serviceAccount\":\"x\",");
    for text in [near("192.0.2.1"), workload("10.0.0.1"), proven, rule("SIMPLE")] {
        let (status, answer) = editor.apply(&text).await;
        assert_eq!(status, 200, "{text}: {answer}");
    }
}

#[tokio::test]
async fn a_host_is_not_given_up_to_catch_who_has_it_next() {
    let (_dir, _api, admin) = open();
    let evil = with_role(&admin, "editor", &["evil"]).await;
    assert_eq!(evil.apply(&entry("evil", "api.bank.example", "192.0.2.1")).await.0, 200);
    let route = |export: &str| {
        let rules = json!([{"route": [{"destination": {"host": "steal.evil.svc.cluster.local"}}]}]);
        let spec = json!({"hosts": ["api.bank.example"], "http": rules, "exportTo": [export]});
        istio("VirtualService", "evil", &spec)
    };
    assert_eq!(evil.apply(&route("*")).await.0, 200, "of a host of its own, for all that see it");
    let (status, answer) = evil.apply(&entry("evil", "other.example", "192.0.2.1")).await;
    let message = answer["message"].as_str().unwrap_or_default();
    assert!(status == 403 && message.contains("VirtualService evil/x"), "{answer}");
    let path = "/apis/networking.istio.io/v1/namespaces/evil/serviceentries/x";
    assert_eq!(evil.json("DELETE", path, &Value::Null).await.0, 403);
    assert_eq!(evil.apply(&route(".")).await.0, 200);
    assert_eq!(evil.json("DELETE", path, &Value::Null).await.0, 200);
    assert_eq!(evil.apply(&route("*")).await.0, 403);
}

#[tokio::test]
async fn a_host_at_a_gateway_is_whose_route_had_it_first() {
    let (_dir, _api, admin) = open();
    let gateway_api = |kind: &str, namespace: &str, spec: &Value| {
        resource("gateway.networking.k8s.io/v1", kind, namespace, spec)
    };
    let listener = json!({
        "name": "http", "port": 80, "protocol": "HTTP", "allowedRoutes": {"namespaces": {"from": "All"}},
    });
    let spec = json!({"gatewayClassName": "meshwork", "listeners": [listener]});
    assert_eq!(admin.apply(&gateway_api("Gateway", "infra", &spec)).await.0, 200);
    let route = |kind: &str, namespace: &str, hosts: &[&str]| {
        let parent = json!({"name": "x", "namespace": "infra"});
        let mut spec =
            json!({"parentRefs": [parent], "rules": [{"backendRefs": [{"name": "a", "port": 80}]}]});
        if !hosts.is_empty() {
            spec["hostnames"] = json!(hosts);
        }
        gateway_api(kind, namespace, &spec)
    };
    let (bank, shop) =
        (with_role(&admin, "editor", &["bank"]).await, with_role(&admin, "editor", &["shop"]).await);
    let check = async |asker: &Asker, text: String, expected: u16| {
        let (status, answer) = asker.apply(&text).await;
        assert_eq!(status, expected, "{text}: {answer}");
        assert!(status == 200 || !answer.to_string().contains("bank/x"), "{answer}");
    };
    check(&shop, route("HTTPRoute", "shop", &["shop.example"]), 200).await;
    // What is not let in takes nothing.
    let elsewhere = route("GRPCRoute", "shop", &["bank.example"])
        .replace("\"namespace\":\"infra\"", "\"namespace\":\"infra\",\"port\":81");
    check(&shop, elsewhere, 200).await;
    check(&bank, route("HTTPRoute", "bank", &["bank.example", "*.bank.example"]), 200).await;
    for host in ["bank.example", "*.bank.example", "BANK.example"] {
        // Whose route is older is no matter: the host is new to it.
        check(&shop, route("HTTPRoute", "shop", &["shop.example", host]), 403).await;
        check(&shop, route("GRPCRoute", "shop", &[host]), 403).await;
    }
    check(&shop, route("HTTPRoute", "shop", &["shop.example", "a.bank.example"]), 200).await;
    check(&bank, route("HTTPRoute", "bank", &["bank.example"]), 200).await;
    // Who was given the word for both keeps what was given.
    check(&admin, route("HTTPRoute", "shop", &["bank.example"]), 200).await;
    check(&shop, route("HTTPRoute", "shop", &["bank.example", "shop.example"]), 200).await;
    // All hosts are one, too.
    check(&bank, route("GRPCRoute", "bank", &[]), 200).await;
    check(&shop, route("GRPCRoute", "shop", &[]), 403).await;
}

#[tokio::test]
async fn tokens_are_made_by_admins_with_names_that_are_no_words() {
    let (dir, _api, admin) = open();
    let editor = with_role(&admin, "editor", &["shop"]).await;
    let token = |name: &str, namespace: &str| json!({"name": name, "grants": [{"role": "viewer", "namespaces": [namespace]}]});
    assert_eq!(editor.json("POST", TOKENS, &token("mine", "shop")).await.0, 403);
    assert_eq!(editor.json("DELETE", &format!("{TOKENS}/editor-shop"), &Value::Null).await.0, 403);
    let log = std::fs::read_to_string(dir.path().join("audit.jsonl")).expect("written");
    assert_eq!(log.matches("may not make or end tokens").count(), 2, "{log}");
    for (name, namespace) in
        [("in api.token", "shop"), ("", "shop"), ("a\nb", "shop"), ("a", ""), ("a", "Shop")]
    {
        let (status, answer) = admin.json("POST", TOKENS, &token(name, namespace)).await;
        assert_eq!(status, 400, "{name:?} {namespace:?}: {answer}");
    }
    assert_eq!(admin.json("POST", TOKENS, &token("team/ci@shop.example", "*")).await.0, 200);
}
