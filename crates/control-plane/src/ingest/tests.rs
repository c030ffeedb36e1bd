use super::*;
use meshwork_model::mesh::OutsidePolicy;

fn load(texts: &[(&str, &str)]) -> Loaded {
    read_texts(texts.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect())
}

/// Reads one file, and compares its problems, each as one line.
fn check(text: &str, expected: &[&str]) {
    let loaded = load(&[("a.yaml", text)]);
    let problems: Vec<String> = loaded.problems.iter().map(Problem::to_string).collect();
    assert_eq!(problems, expected, "{text}");
}

/// A Service, `cart` with the HTTP port 80, and what stands behind it.
fn with_cart(rest: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{ name: cart, namespace: shop }}\n\
         spec: {{ selector: {{ app: cart }}, ports: [{{ name: http, port: 80 }}] }}\n---\n{rest}"
    )
}

fn route(spec: &str) -> String {
    let head = "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\n\
                metadata: { name: r, namespace: shop }\nspec:\n  \
                parentRefs: [{ group: \"\", kind: Service, name: cart, port: 80 }]\n";
    with_cart(&format!("{head}{spec}"))
}

fn policy(spec: &str) -> String {
    let head = "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n\
                metadata: { name: p, namespace: shop }\n";
    format!("{head}{spec}")
}

#[test]
fn the_shop_has_no_problem() {
    let loaded = read_dir(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/shop"));
    assert_eq!(loaded.problems, []);
    let config = &loaded.config;
    assert_eq!((config.services.len(), config.routes.len()), (8, 2));
    assert_eq!((config.peer_authentications.len(), config.authorization_policies.len()), (1, 7));
    assert_eq!(loaded.sources.len(), 8);
}

#[test]
fn kinds_are_known_or_refused() {
    let kind =
        |version: &str, kind: &str| format!("apiVersion: {version}\nkind: {kind}\nmetadata: {{ name: x }}\n");
    check(&kind("v1", "ServiceAccount"), &[]);
    check(&kind("v1", "Namespace"), &[]);
    check(&kind("v1", "Servise"), &["a.yaml:2:7: kind: there is no kind Servise; Did you mean Service?"]);
    check(
        &kind("gateway.networking.k8s.io/v1", "HttpRoute"),
        &["a.yaml:2:7: kind: there is no kind HttpRoute; Did you mean HTTPRoute?"],
    );
    check(
        &kind("gateway.networking.k8s.io/v1beta1", "HTTPRoute"),
        &["a.yaml:1:13: apiVersion: expected \"gateway.networking.k8s.io/v1\" for HTTPRoute, found \
           \"gateway.networking.k8s.io/v1beta1\""],
    );
    let refused = |name: &str| {
        let loaded = load(&[("a.yaml", &kind("x/v1", name))]);
        assert!(!loaded.is_accepted(), "{name}");
        assert!(loaded.problems[0].message.contains("not supported yet"), "{}", loaded.problems[0]);
    };
    for name in KINDS_NOT_YET {
        refused(name);
    }
    check("[]", &["a.yaml:1:1: expected a mapping, found a list"]);
    check("kind: Service", &["a.yaml:1:1: apiVersion: the field `apiVersion` is missing"]);
}

#[test]
fn every_problem_of_every_file_is_told() {
    let loaded = load(&[
        ("a.yaml", "kind: [\n"),
        ("b.yaml", "apiVersion: v1\nkind: Service\nmetadata: { nam: x }\n"),
        ("c.yaml", "apiVersion: v1\nkind: ServiceAccount\nmetadata: { name: X, namespace: x_y }\n"),
    ]);
    let problems: Vec<String> = loaded.problems.iter().map(Problem::to_string).collect();
    assert_eq!(problems.len(), 5, "{problems:#?}");
    assert!(problems[0].starts_with("a.yaml:1:7: this is not valid YAML"), "{}", problems[0]);
    assert_eq!(problems[1], "b.yaml:3:11: Service: metadata.name: the field `name` is missing");
    assert_eq!(
        problems[2],
        "b.yaml:3:13: Service: metadata.nam: there is no field `nam`; Did you mean `name`?"
    );
    assert!(problems[3].contains("\"X\" is not a name"), "{}", problems[3]);
    assert!(problems[4].contains("\"x_y\" is not a name"), "{}", problems[4]);
}

#[test]
fn problems_of_services() {
    let service = |spec: &str| {
        format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{ name: s, namespace: n }}\nspec:\n  selector: {{ a: b }}\n{spec}"
        )
    };
    let at = |place: &str, rest: &str| format!("a.yaml:{place}: Service n/s: {rest}");
    let check = |spec: &str, expected: &[(&str, &str)]| {
        let expected: Vec<String> = expected.iter().map(|(place, rest)| at(place, rest)).collect();
        super::tests::check(&service(spec), &expected.iter().map(String::as_str).collect::<Vec<_>>());
    };
    check("  ports: [{ port: 80 }]\n  clusterIP: 10.0.0.1\n  type: ClusterIP\n", &[]);
    check("", &[("5:3", "spec.ports: the field `ports` is missing")]);
    check(
        "  ports: [{ port: eighty }]",
        &[("6:19", "spec.ports[0].port: expected a number from 1 to 65535, found the text \"eighty\"")],
    );
    check(
        "  ports: [{ port: 0 }]",
        &[("6:19", "spec.ports[0].port: expected a number from 1 to 65535, found the number 0")],
    );
    check(
        "  ports: [{ port: 80, targetPort: http }]",
        &[(
            "6:35",
            "spec.ports[0].targetPort: the named target port \"http\" is not supported yet; Write the port's number",
        )],
    );
    check(
        "  ports: [{ port: 53, protocol: UDP }]",
        &[("6:33", "spec.ports[0].protocol: \"UDP\" is not supported yet; Use \"TCP\"")],
    );
    check(
        "  ports: [{ port: 80, name: a }, { port: 80, name: a }, { port: 81 }]",
        &[
            ("6:34", "spec.ports[1]: the service has the port 80 already; Leave one of them out"),
            ("6:57", "spec.ports[2]: each port of a service with several has a name"),
        ],
    );
    check(
        "  ports: [{ port: 80, appProtocol: kubernetes.io/ws }]",
        &[(
            "6:36",
            "spec.ports[0].appProtocol: the protocol \"kubernetes.io/ws\" is not supported yet; Use \"http\", \
             \"http2\", \"kubernetes.io/h2c\", \"grpc\", \"tcp\", \"https\" or \"tls\"",
        )],
    );
    check(
        "  ports: [{ port: 80 }]\n  type: NodePort\n  sessionAffinity: ClientIP\n  externalIPs: [1.2.3.4]",
        &[
            ("7:9", "spec.type: \"NodePort\" is not supported yet; Use \"ClusterIP\""),
            ("8:20", "spec.sessionAffinity: \"ClientIP\" is not supported yet; Use \"None\""),
            ("9:16", "spec.externalIPs: `externalIPs` is not supported yet"),
        ],
    );
}

/// Reads an HTTPRoute that is attached to the cart; gives its problems without file and resource.
fn check_route(spec: &str, expected: &[&str]) {
    let loaded = load(&[("a.yaml", &route(spec))]);
    let problems: Vec<String> = loaded.problems.iter().map(Problem::to_string).collect();
    let short =
        |p: &String| p.split_once("HTTPRoute shop/r: ").map_or(p.clone(), |(_, rest)| rest.to_owned());
    assert_eq!(problems.iter().map(short).collect::<Vec<_>>(), expected, "{spec}");
}

const BACKEND: &str = "      backendRefs: [{ name: cart, port: 80 }]\n";

fn rule(matches: &str) -> String {
    format!("  rules:\n    - matches: [{matches}]\n{BACKEND}")
}

#[test]
fn problems_of_matches() {
    check_route("", &[]);
    check_route(&rule("{ path: { type: Exact, value: /a } }"), &[]);
    check_route(
        &rule("{ path: { type: RegularExpression, value: /a.* } }"),
        &[
            "spec.rules[0].matches[0].path.type: \"RegularExpression\" is not supported yet; Use \"Exact\" or \
           \"PathPrefix\"",
        ],
    );
    check_route(
        &rule("{ path: { type: Prefix, value: a } }"),
        &[
            "spec.rules[0].matches[0].path.type: expected \"Exact\" or \"PathPrefix\", found \"Prefix\"",
            "spec.rules[0].matches[0].path.value: a path starts with \"/\"",
        ],
    );
    check_route(
        &rule("{ headers: [{ name: a, value: 1 }, { name: A, value: true }] }"),
        &[
            "spec.rules[0].matches[0].headers[0].value: expected text, found the number 1; Put it in quotes: YAML \
             reads it as something else than text",
            "spec.rules[0].matches[0].headers[1].value: expected text, found the boolean true; Put it in quotes: YAML \
             reads it as something else than text",
        ],
    );
    check_route(
        &rule("{ headers: [{ name: a, value: x }, { name: A, value: y }, { name: \"b c\", value: z }] }"),
        &[
            "spec.rules[0].matches[0].headers[1]: the header a is tested already in this match; Leave one of the tests out",
            "spec.rules[0].matches[0].headers[2].name: \"b c\" is not a header's name",
        ],
    );
}

#[test]
fn problems_of_rules() {
    check_route(
        &rule("{ queryParams: [{ name: a, value: b }], method: get }"),
        &[
            "spec.rules[0].matches[0].queryParams: `queryParams` is not supported yet",
            "spec.rules[0].matches[0].method: expected \"GET\", \"HEAD\", \"POST\", \"PUT\", \"DELETE\", \"CONNECT\", \
             \"OPTIONS\", \"TRACE\" or \"PATCH\", found \"get\"; Did you mean \"GET\"?",
        ],
    );
    check_route(
        &format!(
            "  hostnames: [a.example]\n  rules:\n    - filters: [{{ type: RequestRedirect }}]\n      timeout: 1s\n{BACKEND}"
        ),
        &[
            "spec.hostnames: `hostnames` is not supported yet",
            "spec.rules[0].filters: `filters` is not supported yet",
            "spec.rules[0].timeout: there is no field `timeout`; Did you mean `timeouts`?",
        ],
    );
    check_route(
        &format!("  rules:\n    - timeouts: {{ request: 10, backendRequest: 1s }}\n{BACKEND}"),
        &[
            "spec.rules[0].timeouts.request: expected text, found the number 10; Put it in quotes: YAML reads it as \
             something else than text",
            "spec.rules[0].timeouts.backendRequest: `backendRequest` is not supported yet",
        ],
    );
    check_route(
        &format!("  rules:\n    - timeouts: {{ request: 10 s }}\n{BACKEND}"),
        &["spec.rules[0].timeouts.request: \"10 s\" is not a duration; Write it as 500ms, 10s or 1m30s"],
    );
    check_route(
        "  rules:\n    - backendRefs: [{ name: cart, port: 80, weight: 0 }]\n",
        &[
            "spec.rules[0].backendRefs: all weights are 0, so that no request could be forwarded; Give one backend a \
           weight over 0",
        ],
    );
    check_route(
        "  rules:\n    - backendRefs: [{ name: cart, port: 80, weight: -1 }]\n",
        &["spec.rules[0].backendRefs[0].weight: expected a number from 0 to 1000000, found the number -1"],
    );
}

#[test]
fn references_lead_somewhere() {
    let check = |spec: &str, expected: &[&str]| {
        let loaded = load(&[("a.yaml", &route(spec))]);
        let problems: Vec<String> =
            loaded.problems.iter().map(|p| format!("{}: {}; {}", p.field, p.message, p.fix)).collect();
        assert_eq!(problems, expected, "{spec}");
    };
    check(
        "  rules:\n    - backendRefs: [{ name: carts, port: 80 }, { name: cart, port: 8080 }, { name: cart }]\n",
        &[
            "spec.rules[0].backendRefs[0]: there is no Service `carts` in the namespace `shop`; Did you mean `cart`?",
            "spec.rules[0].backendRefs[1]: the Service `cart` has no port 8080; Its port is 80",
            "spec.rules[0].backendRefs[2].port: the field `port` is missing; ",
        ],
    );
    check(
        "  rules:\n    - backendRefs: [{ name: cart, namespace: bank, port: 80 }]\n",
        &[
            "spec.rules[0].backendRefs[0].namespace: a backend in the namespace bank is not supported yet: it needs a \
           ReferenceGrant there; Lead to a Service of shop",
        ],
    );
    check(
        "  rules:\n    - backendRefs: [{ name: cart, kind: Gateway, group: x.io, port: 80 }]\n",
        &[
            "spec.rules[0].backendRefs[0].kind: a reference to a x.io/Gateway is not supported yet; Refer to a Service: \
           write `group: \"\"` and `kind: Service`",
        ],
    );
}

#[test]
fn routes_are_attached_to_ports_that_carry_them() {
    let check = |parent: &str, kind: &str, expected: &[&str]| {
        let text = format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{ name: s, namespace: shop }}\nspec:\n  selector: {{ a: b }}\n  \
             ports: [{{ name: http, port: 80 }}, {{ name: tcp, port: 90 }}, {{ name: grpc, port: 70 }}]\n---\n\
             apiVersion: gateway.networking.k8s.io/v1\nkind: {kind}\nmetadata: {{ name: r, namespace: shop }}\n\
             spec:\n  parentRefs: [{parent}]\n"
        );
        let loaded = load(&[("a.yaml", &text)]);
        let problems: Vec<&str> = loaded.problems.iter().map(|p| p.message.as_str()).collect();
        assert_eq!(problems, expected, "{parent}");
    };
    let service = |rest: &str| format!("{{ group: \"\", kind: Service, name: s{rest} }}");
    check(&service(""), "HTTPRoute", &[]);
    check(&service(", port: 70"), "GRPCRoute", &[]);
    check(&service(", port: 90"), "HTTPRoute", &["port 90 of the Service `s` does not speak HTTP"]);
    check(&service(", port: 80"), "GRPCRoute", &["port 80 of the Service `s` does not speak gRPC"]);
    check(&service(", port: 1"), "HTTPRoute", &["the Service `s` has no port 1"]);
    check(&service(", sectionName: http"), "HTTPRoute", &["`sectionName` is not supported yet"]);
    check(
        "{ name: s }",
        "HTTPRoute",
        &["a reference to a gateway.networking.k8s.io/Gateway is not supported yet"],
    );
}

#[test]
fn two_kinds_of_routes_do_not_share_a_port() {
    let route = |kind: &str| {
        format!(
            "---\napiVersion: gateway.networking.k8s.io/v1\nkind: {kind}\nmetadata: {{ name: r, namespace: shop }}\n\
             spec:\n  parentRefs: [{{ group: \"\", kind: Service, name: s }}]\n"
        )
    };
    let service = "apiVersion: v1\nkind: Service\nmetadata: { name: s, namespace: shop }\n\
                   spec: { selector: { a: b }, ports: [{ name: grpc, port: 70 }] }\n";
    check(
        &format!("{service}{}{}", route("HTTPRoute"), route("GRPCRoute")),
        &[
            "a.yaml:16:16: GRPCRoute shop/r: spec.parentRefs[0]: HTTPRoute shop/r is attached to port 70 of the Service \
           `s`, and HTTPRoutes and GRPCRoutes do not mix on one; Use one kind for all of its routes",
        ],
    );
}

#[test]
fn what_policy_says_is_honoured_or_refused() {
    let check = |spec: &str, expected: &[&str]| {
        let loaded = load(&[("a.yaml", &policy(spec))]);
        let problems: Vec<String> =
            loaded.problems.iter().map(|p| format!("{}: {}", p.field, p.message)).collect();
        assert_eq!(problems, expected, "{spec}");
    };
    check("", &[]);
    check("spec: {}\n", &[]);
    check("spec: { rules: [{}] }\n", &[]);
    check("spec: { action: AUDIT }\n", &["spec.action: \"AUDIT\" is not supported yet"]);
    check(
        "spec: { action: CUSTOM, provider: { name: x } }\n",
        &["spec.action: \"CUSTOM\" is not supported yet", "spec.provider: `provider` is not supported yet"],
    );
    check(
        "spec: { targetRefs: [{ kind: Service }] }\n",
        &["spec.targetRefs: `targetRefs` is not supported yet"],
    );
    check(
        "spec: { rules: [{ when: [{ key: a, values: [b] }] }] }\n",
        &["spec.rules[0].when: `when` is not supported yet"],
    );
    check(
        "spec: { rules: [{ from: [] , to: [] }] }\n",
        &["spec.rules[0].from: the list is empty", "spec.rules[0].to: the list is empty"],
    );
    check(
        "spec: { rules: [{ from: [{ source: {} }], to: [{ operation: {} }, {}] }] }\n",
        &[
            "spec.rules[0].from[0].source: the source says nothing",
            "spec.rules[0].to[0].operation: the operation says nothing",
            "spec.rules[0].to[1].operation: the field `operation` is missing",
        ],
    );
    for field in ["ipBlocks", "notIpBlocks", "remoteIpBlocks", "requestPrincipals", "serviceAccounts"] {
        check(
            &format!(
                "spec: {{ rules: [{{ from: [{{ source: {{ namespaces: [a], {field}: [x] }} }}] }}] }}\n"
            ),
            &[&format!("spec.rules[0].from[0].source.{field}: `{field}` is not supported yet")],
        );
    }
    for (field, text, message) in [
        ("hosts", "a", "`hosts` is not supported yet"),
        ("paths", "\"/a/{*}\"", "path templates are not supported yet"),
        ("paths", "\"a*b\"", "a path starts with \"/\" or \"*\""),
        ("paths", "\"/a*b\"", "\"/a*b\" is not a match"),
        ("methods", "\"*x*\"", "\"*x*\" is not a match"),
        ("methods", "\"\"", "\"\" is not a match"),
        ("ports", "\"http\"", "\"http\" is not a port"),
        ("ports", "80", "expected text, found the number 80"),
    ] {
        let path = if field == "hosts" { "hosts".to_owned() } else { format!("{field}[0]") };
        let spec = format!(
            "spec: {{ rules: [{{ to: [{{ operation: {{ notMethods: [X], {field}: [{text}] }} }}] }}] }}\n"
        );
        check(&spec, &[&format!("spec.rules[0].to[0].operation.{path}: {message}")]);
    }
    check(
        "spec: { rules: [{ from: [{ source: { namespaces: [\"*x\"] } }] }] }\n",
        &["spec.rules[0].from[0].source.namespaces[0]: a namespace by its end is not supported yet"],
    );
}

#[test]
fn a_principal_that_nobody_declares_is_a_warning() {
    let account =
        "---\napiVersion: v1\nkind: ServiceAccount\nmetadata: { name: checkout, namespace: shop }\n";
    let spec = "spec: { rules: [{ from: [{ source: { principals: [mesh.local/ns/shop/sa/chekout] } }] }] }\n";
    let loaded = load(&[("a.yaml", &format!("{}{account}", policy(spec)))]);
    assert!(loaded.is_accepted());
    let [problem] = &loaded.problems[..] else { panic!("one problem") };
    assert_eq!((problem.severity, problem.fix.as_str()), (Severity::Warning, "Did you mean `checkout`?"));
    // Where none is declared, nothing is known.
    assert_eq!(load(&[("a.yaml", &policy(spec))]).problems, []);
}

#[test]
fn mtls_is_strict_or_off() {
    let peer = |spec: &str| {
        format!(
            "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {{ name: p, namespace: n }}\n{spec}"
        )
    };
    check(&peer(""), &[]);
    check(&peer("spec: { mtls: { mode: DISABLE } }\n"), &[]);
    check(
        &peer("spec: { mtls: { mode: PERMISSIVE } }\n"),
        &[
            "a.yaml:4:23: PeerAuthentication n/p: spec.mtls.mode: \"PERMISSIVE\" is not supported yet; Use \"STRICT\" or \
           \"DISABLE\"",
        ],
    );
    check(
        &peer("spec: { portLevelMtls: { 80: { mode: DISABLE } } }\n"),
        &["a.yaml:4:24: PeerAuthentication n/p: spec.portLevelMtls: `portLevelMtls` is not supported yet"],
    );
    let second = peer("spec: { mtls: { mode: DISABLE } }\n").replace("name: p", "name: q");
    check(
        &format!("{}---\n{second}", peer("")),
        &[
            "a.yaml:7:19: PeerAuthentication n/q: spec.mtls.mode: n/p selects the same workloads and says otherwise",
        ],
    );
}

fn entry(name: &str, spec: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{ name: {name}, namespace: shop }}\n{spec}"
    )
}

const GOOD_PORT: &str = "number: 443, protocol: TLS";

fn entry_of(host: &str, port: &str, rest: &str) -> String {
    format!("spec: {{ hosts: [{host}], ports: [{{ name: p, {port} }}], {rest} }}\n")
}

fn check_entry(spec: &str, expected: &[&str]) {
    let loaded = load(&[("a.yaml", &entry("e", spec))]);
    let problems: Vec<String> =
        loaded.problems.iter().map(|p| format!("{}: {}", p.field, p.message)).collect();
    assert_eq!(problems, expected, "{spec}");
}

#[test]
fn hosts_outside_are_honoured_or_refused() {
    let (check, with, good) = (check_entry, entry_of, GOOD_PORT);
    check(&with("api.example.com", good, "resolution: DNS, location: MESH_EXTERNAL"), &[]);
    check(
        &with("api.example.com", good, "resolution: DNS, endpoints: [{ address: b.c, ports: { p: 1 } }]"),
        &[],
    );
    check(&with("api.example.com", good, "resolution: STATIC, endpoints: [{ address: \"::1\" }]"), &[]);
    check(
        "spec: {}\n",
        &[
            "spec.hosts: the field `hosts` is missing",
            "spec.ports: the field `ports` is missing",
            "spec.resolution: the field `resolution` is missing",
        ],
    );
    for (host, message) in [
        ("\"*.example.com\"", "\"*.example.com\" has a wildcard, which is not supported yet"),
        ("localhost", "\"localhost\" is not the full name of a host"),
        ("API.example.com", "\"API.example.com\" is not the full name of a host"),
        ("192.0.2.1", "\"192.0.2.1\" is not the full name of a host"),
        ("api.example.com.", "\"api.example.com.\" is not the full name of a host"),
        ("x.svc.cluster.local", "\"x.svc.cluster.local\" is within the mesh, not outside"),
    ] {
        check(&with(host, good, "resolution: DNS"), &[&format!("spec.hosts[0]: {message}")]);
    }
    for (port, message) in [
        ("number: 443", "protocol: the field `protocol` is missing"),
        ("protocol: TLS", "number: the field `number` is missing"),
        ("number: 1, protocol: MONGO", "protocol: \"MONGO\" is not supported yet"),
    ] {
        check(&with("a.b", port, "resolution: DNS"), &[&format!("spec.ports[0].{message}")]);
    }
}

#[test]
fn where_hosts_outside_are_is_honoured_or_refused() {
    let (check, with, good) = (check_entry, entry_of, GOOD_PORT);
    for (rest, message) in [
        ("resolution: NONE", "resolution: \"NONE\" is not supported yet"),
        ("resolution: DNS, location: MESH_INTERNAL", "location: \"MESH_INTERNAL\" is not supported yet"),
        ("resolution: DNS, addresses: [192.0.2.1]", "addresses: `addresses` is not supported yet"),
        ("resolution: DNS, exportTo: [\".\"]", "exportTo: `exportTo` is not supported yet"),
        ("resolution: STATIC", "endpoints: STATIC asks for 1 to 100 endpoints, found 0"),
        (
            "resolution: STATIC, endpoints: [{ address: b.c }]",
            "endpoints[0].address: \"b.c\" is not an IP address",
        ),
        (
            "resolution: STATIC, endpoints: [{ address: \"::1\", ports: { q: 1 } }]",
            "endpoints[0].ports.q: the entry has no port named \"q\"",
        ),
        (
            "resolution: STATIC, endpoints: [{ address: \"::1\", weight: 1 }]",
            "endpoints[0].weight: `weight` is not supported yet",
        ),
        (
            "resolution: DNS, endpoints: [{ address: a.b }, { address: c.d }]",
            "endpoints[1]: several endpoints by DNS are not supported yet",
        ),
    ] {
        check(&with("a.b", good, rest), &[&format!("spec.{message}")]);
    }
    check(
        "spec: { hosts: [a.b], resolution: DNS, ports: [{ name: p, number: 1, protocol: TCP }, { name: q, number: 1, \
         protocol: TCP }] }\n",
        &["spec.ports[1]: another port has the same number or name"],
    );
}

#[test]
fn a_host_outside_is_named_once() {
    let spec = "spec: { hosts: [a.b], ports: [{ name: p, number: 1, protocol: TCP }], resolution: DNS }\n";
    check(
        &format!("{}---\n{}", entry("one", spec), entry("two", spec)),
        &[
            "a.yaml:8:19: ServiceEntry shop/two: spec.hosts[0]: the ServiceEntry shop/one has the host a.b already; Leave \
             it out of one of them",
        ],
    );
}

#[test]
fn what_is_outside_is_open_or_closed_for_the_whole_mesh() {
    let sidecar = |name: &str, spec: &str| {
        format!("apiVersion: networking.istio.io/v1\nkind: Sidecar\nmetadata: {{ {name} }}\n{spec}")
    };
    let check = |name: &str, spec: &str, outside: OutsidePolicy, expected: &[&str]| {
        let loaded = load(&[("a.yaml", &sidecar(name, spec))]);
        let problems: Vec<String> =
            loaded.problems.iter().map(|p| format!("{}: {}", p.field, p.message)).collect();
        assert_eq!(problems, expected, "{spec}");
        assert_eq!(loaded.config.outside, outside);
    };
    let (root, allow, deny) =
        ("name: default, namespace: meshwork-system", OutsidePolicy::Allow, OutsidePolicy::Deny);
    check(root, "", allow, &[]);
    check(root, "spec: {}\n", allow, &[]);
    check(root, "spec: { outboundTrafficPolicy: { mode: ALLOW_ANY } }\n", allow, &[]);
    check(root, "spec: { outboundTrafficPolicy: { mode: REGISTRY_ONLY } }\n", deny, &[]);
    check(
        root,
        "spec: { outboundTrafficPolicy: {} }\n",
        allow,
        &["spec.outboundTrafficPolicy.mode: the field `mode` is missing"],
    );
    for other in ["name: default, namespace: shop", "name: other, namespace: meshwork-system"] {
        check(other, "", allow, &["metadata.name: a Sidecar of some workloads is not supported yet"]);
    }
    for (spec, field) in [
        ("workloadSelector: { labels: { a: b } }", "workloadSelector"),
        ("egress: [{ hosts: [x] }]", "egress"),
        ("ingress: [{ port: {} }]", "ingress"),
    ] {
        let message = format!("spec.{field}: `{field}` is not supported yet");
        check(root, &format!("spec: {{ {spec} }}\n"), allow, &[&message]);
    }
}

#[test]
fn a_resource_is_written_once() {
    let service = with_cart("");
    let loaded = load(&[("a.yaml", &service), ("b.yaml", &service)]);
    let problems: Vec<String> = loaded.problems.iter().map(Problem::to_string).collect();
    assert_eq!(
        problems,
        [
            "b.yaml:3:19: Service shop/cart: metadata.name: this resource is at a.yaml:3 already; Rename or remove one of \
          them"
        ]
    );
}

#[test]
fn a_broken_file_is_not_blamed_on_those_that_refer_to_it() {
    let route = "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: { name: r, namespace: shop }\n\
                 spec:\n  parentRefs: [{ group: \"\", kind: Service, name: cart }]\n";
    let loaded = load(&[("a.yaml", "{"), ("b.yaml", route)]);
    assert_eq!(loaded.problems.len(), 1, "{:#?}", loaded.problems);
}

#[test]
fn a_directory_is_read_without_its_hidden_files() {
    let dir = tempfile::tempdir().expect("a directory");
    let warned = read_dir(dir.path());
    assert!(warned.is_accepted() && warned.problems.len() == 1, "{:#?}", warned.problems);
    std::fs::write(dir.path().join("a.yaml"), with_cart("")).expect("written");
    std::fs::write(dir.path().join(".b.yaml"), "{").expect("written");
    std::fs::write(dir.path().join("README.md"), "{").expect("written");
    std::fs::create_dir(dir.path().join("c.yaml")).expect("made");
    let loaded = read_dir(dir.path());
    assert_eq!((loaded.problems, loaded.config.services.len()), (vec![], 1));
    std::fs::write(dir.path().join("d.yaml"), [0xff, 0xfe]).expect("written");
    assert!(read_dir(dir.path()).problems[0].message.starts_with("this is not UTF-8"));
    assert!(!read_dir(&dir.path().join("nowhere")).is_accepted());
}

#[test]
fn a_bomb_is_refused_in_bounded_time() {
    let bombs = ["[".repeat(1 << 20), "{a: ".repeat(1 << 20), "- ".repeat(1 << 20), "&a [*a]".to_owned()];
    for bomb in bombs {
        assert!(!load(&[("a.yaml", &bomb)]).is_accepted());
    }
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("a.yaml");
    std::fs::File::create(&file).expect("made").set_len(yaml::MAX_FILE_BYTES + 1).expect("grown");
    assert!(read_dir(dir.path()).problems[0].message.starts_with("a file has at most"));
}

#[test]
fn errors_are_bounded_and_warnings_do_not_hide_them() {
    let fields: Vec<String> = (0..5_000).map(|i| format!("nme{i}: 1\n")).collect();
    let loaded = load(&[("a.yaml", &format!("{}{}", policy(""), fields.concat()))]);
    assert_eq!(loaded.problems.len(), 1_000);
    let service = |i: usize| {
        format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{ name: s{i}, namespace: n }}\n\
             spec: {{ ports: [{{ port: 80 }}] }}\n---\n"
        )
    };
    let warnings: String = (0..2_000).map(service).collect();
    let loaded = load(&[("a.yaml", &warnings), ("b.yaml", &policy("spec: 1\n"))]);
    assert_eq!(loaded.problems.len(), 1_001);
    assert!(!loaded.is_accepted());
}
