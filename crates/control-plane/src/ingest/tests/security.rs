//! Problems of `security.istio.io`.

use super::*;

fn of_policy(spec: &str) -> Vec<String> {
    let loaded = load(&[("a.yaml", &policy(spec))]);
    loaded.problems.iter().map(|p| format!("{}: {}", p.field, p.message)).collect()
}

fn check_policy(spec: &str, expected: &[&str]) {
    assert_eq!(of_policy(spec), expected, "{spec}");
}

#[test]
fn what_policy_says_is_honoured_or_refused() {
    check_policy("", &[]);
    check_policy("spec: {}\n", &[]);
    check_policy("spec: { rules: [{}] }\n", &[]);
    check_policy("spec: { action: AUDIT, rules: [{}] }\n", &[]);
    check_policy(
        "spec: { action: DNEY }\n",
        &["spec.action: expected \"ALLOW\", \"DENY\", \"AUDIT\" or \"CUSTOM\", found \"DNEY\""],
    );
    check_policy(
        "spec: { rules: [{ from: [] , to: [] }] }\n",
        &["spec.rules[0].from: the list is empty", "spec.rules[0].to: the list is empty"],
    );
    check_policy(
        "spec: { rules: [{ from: [{ source: {} }], to: [{ operation: {} }, {}] }] }\n",
        &[
            "spec.rules[0].from[0].source: the source says nothing",
            "spec.rules[0].to[0].operation: the operation says nothing",
            "spec.rules[0].to[1].operation: the field `operation` is missing",
        ],
    );
}

#[test]
fn a_custom_policy_names_who_is_asked() {
    check_policy(
        "spec: { action: CUSTOM, rules: [{}] }\n",
        &["spec.provider: a CUSTOM policy has a provider"],
    );
    let found = of_policy("spec: { action: CUSTOM, provider: { name: x } }\n");
    assert_eq!(found[0], "spec.rules: a CUSTOM policy without a rule asks its provider about nothing");
    check_policy(
        "spec: { provider: { name: x }, rules: [{}] }\n",
        &["spec.provider: only a CUSTOM policy has a provider"],
    );
}

#[test]
fn values_of_sources_and_operations_are_checked() {
    let source = |field: &str, value: &str, expected: &[&str]| {
        let spec = format!("spec: {{ rules: [{{ from: [{{ source: {{ {field}: [{value}] }} }}] }}] }}\n");
        let path = format!("spec.rules[0].from[0].source.{field}[0]: ");
        let found: Vec<String> = of_policy(&spec).iter().map(|p| p.replace(&path, "")).collect();
        assert_eq!(found, expected, "{spec}");
    };
    for field in ["ipBlocks", "notIpBlocks", "remoteIpBlocks", "notRemoteIpBlocks"] {
        source(field, "10.0.0.0/8", &[]);
        source(field, "x", &["\"x\" is not a range of addresses"]);
    }
    source("serviceAccounts", "cart", &[]);
    source("notServiceAccounts", "shop/cart", &[]);
    source("serviceAccounts", "\"*\"", &["\"*\" is not a service account"]);
    source("requestPrincipals", "\"*\"", &[]);
    source("principals", "\"mesh.local/*\"", &[]);
    let message = "nobody is \"spiffe://mesh.local/*\": a principal is written without its scheme";
    source("principals", "\"spiffe://mesh.local/*\"", &[message]);
    source("namespaces", "\"*x\"", &[]);
    source("namespaces", "a/b", &["\"a/b\" is not a namespace"]);
    for (field, text, message) in [
        ("hosts", "a", None),
        ("paths", "\"/a/{*}\"", None),
        ("paths", "\"/a/{b}\"", Some("\"{b}\" is neither a segment, nor `{*}`, nor `{**}`")),
        ("paths", "\"/a//*\"", None),
        ("paths", "\"/a/%2a/é/%61\"", None),
        ("paths", "\"/a//b\"", Some("no request is judged by the path \"/a//b\"")),
        ("paths", "\"/%2e/a\"", Some("no request is judged by the path \"/%2e/a\"")),
        ("paths", "\"/a%2fb\"", Some("no request is judged by the path \"/a%2fb\"")),
        ("paths", "\"/a?b=*\"", Some("no request is judged by the path \"/a?b=*\"")),
        ("paths", "\"a*b\"", Some("a path starts with \"/\" or \"*\"")),
        ("paths", "\"/a*b\"", Some("\"/a*b\" is not a match")),
        ("methods", "\"*x*\"", Some("\"*x*\" is not a match")),
        ("methods", "\"\"", Some("\"\" is not a match")),
        ("ports", "\"http\"", Some("\"http\" is not a port")),
        ("ports", "80", Some("expected text, found the number 80")),
    ] {
        let spec = format!(
            "spec: {{ rules: [{{ to: [{{ operation: {{ notMethods: [X], {field}: [{text}] }} }}] }}] }}\n"
        );
        let expected = message.map(|message| format!("spec.rules[0].to[0].operation.{field}[0]: {message}"));
        assert_eq!(of_policy(&spec), Vec::from_iter(expected), "{spec}");
    }
    source(
        "serviceAccounts",
        "cart], principals: [a",
        &["spec.rules[0].from[0].source.serviceAccounts: \
        `serviceAccounts` stands beside neither `principals` nor `namespaces`"],
    );
}

#[test]
fn conditions_are_known_or_refused() {
    let check = |key: &str, value: &str, expected: &[&str]| {
        let spec = format!("spec: {{ rules: [{{ when: [{{ key: \"{key}\", values: [{value}] }}] }}] }}\n");
        let found: Vec<String> =
            of_policy(&spec).iter().map(|p| p.replace("spec.rules[0].when[0].", "")).collect();
        assert_eq!(found, expected, "{spec}");
    };
    for key in [
        "request.headers[User-Agent]",
        "source.namespace",
        "source.principal",
        "source.serviceAccount",
        "request.auth.principal",
        "request.auth.audiences",
        "request.auth.presenter",
        "request.auth.claims[iss]",
        "request.auth.claims[realm][roles]",
        "connection.sni",
    ] {
        check(key, "a", &[]);
    }
    for key in ["source.ip", "remote.ip", "destination.ip"] {
        check(key, "10.1.2.3", &[]);
        check(key, "a", &["values[0]: \"a\" is not a range of addresses"]);
    }
    check("destination.port", "\"80\"", &[]);
    check("destination.port", "\"x\"", &["values[0]: \"x\" is not a port"]);
    check("request.headers[]", "a", &["key: \"request.headers[]\" names no header"]);
    check("request.headers[Upgrade]", "a", &[]);
    let gone = "key: the header Keep-Alive ends at the proxy: no policy sees it";
    check("request.headers[Keep-Alive]", "a", &[gone]);
    check("request.headers[a][b]", "a", &["key: \"request.headers[a][b]\" names no header"]);
    check("request.auth.claims[a]b]", "a", &["key: \"request.auth.claims[a]b]\" names no claim"]);
    check("sorce.ip", "a", &["key: there is no key \"sorce.ip\""]);
    check(
        "experimental.envoy.filters.x[y]",
        "a",
        &["key: the key experimental.envoy.filters.x[y] is not supported yet"],
    );
    check_policy(
        "spec: { rules: [{ when: [{ key: source.ip }] }] }\n",
        &["spec.rules[0].when[0]: the condition says nothing"],
    );
}

#[test]
fn a_policy_selects_or_is_attached() {
    let service = "---\napiVersion: v1\nkind: Service\nmetadata: { name: cart, namespace: shop }\n\
                   spec: { selector: { app: cart }, ports: [{ name: http, port: 80 }] }\n";
    check_policy(
        &format!("spec: {{ targetRefs: [{{ group: \"\", kind: Service, name: cart }}] }}\n{service}"),
        &[],
    );
    check_policy(
        "spec: { targetRef: { kind: Gateway, group: gateway.networking.k8s.io, name: edge } }\n",
        &[],
    );
    check_policy(
        "spec: { targetRefs: [{ kind: Service, name: cart }] }\n",
        &["spec.targetRefs[0]: there is no Service `cart` in the namespace `shop`"],
    );
    check_policy(
        "spec: { targetRefs: [{ kind: Service, name: cart, namespace: bank }] }\n",
        &["spec.targetRefs[0].namespace: a policy acts on its own namespace"],
    );
    check_policy(
        "spec: { targetRefs: [{ kind: GatewayClass, group: gateway.networking.k8s.io, name: x }] }\n",
        &[
            "spec.targetRefs[0].kind: a policy for a gateway.networking.k8s.io/GatewayClass is not supported yet",
        ],
    );
    check_policy(
        "spec: { selector: { matchLabels: { a: b } }, targetRefs: [{ kind: Service, name: cart }] }\n",
        &["spec.targetRefs: a policy has a selector or targets, not both"],
    );
}

#[test]
fn what_is_only_tried_is_annotated() {
    let check = |value: &str, action: &str, expected: &[&str]| {
        let annotated = format!("namespace: shop, annotations: {{ istio.io/dry-run: {value} }}");
        let spec = format!("spec: {{ action: {action}, rules: [{{}}] }}\n");
        let loaded = load(&[("a.yaml", &policy(&spec).replace("namespace: shop", &annotated))]);
        let found: Vec<String> =
            loaded.problems.iter().map(|p| format!("{}: {}", p.field, p.message)).collect();
        assert_eq!(found, expected, "{value} {action}");
    };
    check("\"true\"", "DENY", &[]);
    check("\"false\"", "AUDIT", &[]);
    check("\"true\"", "AUDIT", &["spec.action: only ALLOW and DENY can be tried"]);
    let message = "metadata.annotations.istio.io/dry-run: expected \"true\" or \"false\", found \"yes\"";
    check("\"yes\"", "DENY", &[message]);
}

#[test]
fn mtls_is_demanded_by_workload_and_port() {
    let peer = |spec: &str| {
        format!(
            "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {{ name: p, namespace: n }}\n{spec}"
        )
    };
    check(&peer(""), &[]);
    for mode in ["STRICT", "PERMISSIVE", "DISABLE", "UNSET"] {
        check(&peer(&format!("spec: {{ mtls: {{ mode: {mode} }} }}\n")), &[]);
    }
    check(
        &peer(
            "spec: { selector: { matchLabels: { a: b } }, portLevelMtls: { 80: { mode: DISABLE }, \"81\": {} } }\n",
        ),
        &[],
    );
    check(
        &peer("spec: { portLevelMtls: { 80: { mode: DISABLE } } }\n"),
        &[
            "a.yaml:4:24: PeerAuthentication n/p: spec.portLevelMtls: ports are of workloads, and none are selected; \
           Select workloads by `selector`",
        ],
    );
    let second = peer("spec: { mtls: { mode: DISABLE } }\n").replace("name: p", "name: q");
    check(&format!("{}---\n{second}", peer("")), &[]);
    check(
        &format!("{}---\n{second}", peer("spec: { mtls: { mode: STRICT } }\n")),
        &[
            "a.yaml:9:17: PeerAuthentication n/q: spec.mtls.mode: n/p selects the same workloads and says otherwise",
        ],
    );
}

#[test]
fn issuers_of_tokens_are_read() {
    let check = |rule: &str, expected: &[&str]| {
        let text = format!(
            "apiVersion: security.istio.io/v1\nkind: RequestAuthentication\nmetadata: {{ name: r, namespace: shop }}\n\
             spec: {{ jwtRules: [{{ issuer: me, {rule} }}] }}\n"
        );
        let loaded = load(&[("a.yaml", &text)]);
        let found: Vec<String> = loaded.problems.iter().map(|p| p.message.clone()).collect();
        assert_eq!(found, expected, "{rule}");
        loaded.config.request_authentications.values().next().and_then(|r| r.rules.first().cloned())
    };
    let url = |text: &str| match check(&format!("jwksUri: \"{text}\""), &[]).map(|rule| rule.keys) {
        Some(meshwork_model::mesh::KeySource::Fetched(url)) => {
            (url.https, url.host.to_string(), url.port, url.path.to_string())
        }
        other => panic!("{other:?}"),
    };
    assert_eq!(
        url("https://Auth.example.com/keys?a=b"),
        (true, "auth.example.com".into(), 443, "/keys?a=b".into())
    );
    assert_eq!(url("http://auth.shop:8080"), (false, "auth.shop".into(), 8080, "/".into()));
    for bad in [
        "ftp://a/b",
        "https://",
        "https://a:0/",
        "https://a b/",
        "https://a/#x",
        "https://127.1/",
        "https://0x7f000001/",
        "https://2130706433/",
        "https://0177.0.0.1/",
        "https://user@a/",
    ] {
        check(&format!("jwksUri: \"{bad}\""), &[&format!("\"{bad}\" is not an address of keys")]);
    }
    let without_keys = "nobody's token passes with these keys, and Envoy refuses what asks for them: none of its keys is known";
    check("jwks: '{\"keys\": []}'", &[without_keys]);
    let secret = "a key in it is a secret: whoever may read this resource can make tokens";
    let key = "YSBzZWNyZXQgb2YgdGhpcnR5LXR3byBieXRlcy4uLi4";
    check(&format!("jwks: '{{\"keys\": [{{\"kty\": \"oct\", \"k\": \"{key}\"}}]}}'"), &[secret]);
    check("jwks: nothing", &["this is not a JSON Web Key Set"]);
    check("jwks: '{\"keys\": []}', jwksUri: https://a", &["an issuer has `jwks` or `jwksUri`, not both"]);
    check(
        "audiences: [a]",
        &[
            "the field `jwksUri` is missing, and so is `jwks`; keys are not looked for by the issuer's name yet",
        ],
    );
    let rule = check(
        "jwksUri: https://a, fromHeaders: [{ name: X-Token, prefix: \"t \" }], fromParams: [token], fromCookies: [c], \
         outputPayloadToHeader: X-Payload, outputClaimToHeaders: [{ header: X-Role, claim: realm.role }], \
         forwardOriginalToken: true, timeout: 2s",
        &[],
    );
    let rule = rule.expect("read");
    assert_eq!((rule.places.len(), rule.payload_header.as_deref()), (3, Some("x-payload")));
    assert_eq!(rule.claim_headers, [("x-role".into(), vec!["realm".into(), "role".into()])]);
    assert_eq!((rule.forward, rule.timeout.as_secs(), rule.must_expire), (true, 2, true));
}

#[test]
fn a_token_expires_unless_somebody_writes_that_it_need_not() {
    let check = |annotation: &str, must_expire: bool, expected: &[&str]| {
        let text = format!(
            "apiVersion: security.istio.io/v1\nkind: RequestAuthentication\nmetadata: {{ name: r, namespace: shop{annotation} \
             }}\nspec: {{ jwtRules: [{{ issuer: me, jwksUri: \"https://a.example\" }}] }}\n"
        );
        let loaded = load(&[("a.yaml", &text)]);
        let found: Vec<String> =
            loaded.problems.iter().map(|p| format!("{}: {}", p.field, p.message)).collect();
        assert_eq!(found, expected, "{annotation}");
        let rule = loaded.config.request_authentications.values().next().and_then(|r| r.rules.first());
        assert_eq!(rule.map(|rule| rule.must_expire), Some(must_expire), "{annotation}");
    };
    let annotation =
        |value: &str| format!(", annotations: {{ meshwork.dev/allow-tokens-without-expiry: {value} }}");
    check("", true, &[]);
    check(&annotation("\"false\""), true, &[]);
    check(&annotation("\"true\""), false, &[]);
    let at = "metadata.annotations.meshwork.dev/allow-tokens-without-expiry";
    check(&annotation("yes"), true, &[&format!("{at}: expected \"true\" or \"false\", found \"yes\"")]);
}

#[test]
fn keys_are_not_fetched_from_near_the_proxy() {
    let rule = |url: &str| {
        format!(
            "apiVersion: security.istio.io/v1\nkind: RequestAuthentication\nmetadata: {{ name: r, namespace: shop }}\n\
             spec:\n  jwtRules:\n    - issuer: me\n      jwksUri: \"{url}\"\n"
        )
    };
    let fix = "Serve them as a Service of the mesh, or write `jwks: { allowLocalAddresses: true }` in the MeshConfig";
    for (url, why) in [
        ("http://127.0.0.1:8080/keys", "127.0.0.1: it is loopback of the host"),
        ("http://localhost/keys", "localhost: it is loopback of the host"),
        ("http://169.254.169.254/latest/meta-data", "169.254.169.254: it is a link-local address"),
        ("https://0.0.0.0/", "0.0.0.0: it is no host's address"),
    ] {
        check(
            &rule(url),
            &[&format!(
                "a.yaml:7:16: RequestAuthentication shop/r: spec.jwtRules[0].jwksUri: keys are not fetched from {why}; {fix}"
            )],
        );
    }
    check(&rule("https://10.0.0.1/keys"), &[]);
    let mesh = "---\napiVersion: meshwork.dev/v1alpha1\nkind: MeshConfig\n\
                metadata: { name: default, namespace: meshwork-system }\nspec: { jwks: { allowLocalAddresses: true } }\n";
    check(&format!("{}{mesh}", rule("http://127.0.0.1:8080/keys")), &[]);
}

#[test]
fn a_provider_that_the_mesh_does_not_have_is_told() {
    let mesh = "---\napiVersion: meshwork.dev/v1alpha1\nkind: MeshConfig\n\
                metadata: { name: default, namespace: meshwork-system }\n\
                spec: { extensionProviders: [{ name: opa, envoyExtAuthzGrpc: { service: opa.shop.svc.cluster.local, port: \
                9191 } }] }\n";
    let asks = |name: &str| {
        format!("spec: {{ action: CUSTOM, provider: {{ name: {name} }}, rules: [{{}}] }}\n{mesh}")
    };
    check_policy(&asks("opa"), &[]);
    check_policy(
        &asks("oba"),
        &[
            "spec.provider: the MeshConfig has no extension provider `oba`, so that what it would be asked about is refused",
        ],
    );
}
