//! Istio's traffic kinds and our own two.

use meshwork_model::mesh::OutsidePolicy;

use super::*;

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
        &with(
            "api.example.com",
            good,
            "resolution: DNS, endpoints: [{ address: b.c, ports: { p: 1 } }, { address: d.e }]",
        ),
        &[],
    );
    check(&with("api.example.com", good, "resolution: STATIC, endpoints: [{ address: \"::1\" }]"), &[]);
    check(
        &with(
            "a.b",
            good,
            "resolution: STATIC, location: MESH_INTERNAL, workloadSelector: { labels: { a: b } }",
        ),
        &[],
    );
    check(
        &with(
            "a.b",
            good,
            "resolution: STATIC, exportTo: [\".\"], subjectAltNames: [c.d], endpoints: [{ address: \"::1\", weight: 2, \
             labels: { a: b }, locality: r/z/s, serviceAccount: x }]",
        ),
        &[],
    );
    check(
        "spec: {}\n",
        &[
            "spec.hosts: the field `hosts` is missing",
            "spec.ports: the field `ports` is missing",
            "spec.resolution: the host is asked for by DNS, wherever the program connects by itself",
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
        (
            "resolution: NONE",
            "resolution: the host is asked for by DNS, wherever the program connects by itself",
        ),
        ("resolution: DNS, addresses: [192.0.2.1]", "addresses: `addresses` is not honoured"),
        (
            "resolution: DNS, workloadSelector: { labels: { a: b } }",
            "workloadSelector.labels: workloads are found by their labels, not by DNS",
        ),
        (
            "resolution: STATIC, workloadSelector: {}",
            "workloadSelector.labels: the field `labels` is missing",
        ),
        (
            "resolution: DNS, endpoints: [{ address: \"unix:///a\" }]",
            "endpoints[0].address: \"unix:///a\" is not the name of a host",
        ),
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
            "resolution: STATIC, endpoints: [{ address: \"::1\", network: n }]",
            "endpoints[0].network: `network` is not honoured",
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
            "a.yaml:9:17: ServiceEntry shop/two: spec.hosts[0]: the ServiceEntry shop/one has the host a.b already; Leave \
             it out of one of them",
        ],
    );
}

#[test]
fn what_is_outside_is_open_or_closed() {
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
    check(
        "name: default, namespace: shop",
        "spec: { outboundTrafficPolicy: { mode: REGISTRY_ONLY } }\n",
        allow,
        &[],
    );
    let selecting =
        "spec: { workloadSelector: { labels: { a: b } }, outboundTrafficPolicy: { mode: REGISTRY_ONLY } }\n";
    check(root, selecting, allow, &[]);
    check(
        root,
        "spec: { egress: [{ hosts: [x, ./*, \"*/*\", shop/cart] }] }\n",
        allow,
        &["spec.egress[0].hosts[0]: \"x\" names no namespace"],
    );
    check(
        root,
        "spec: { ingress: [{ port: {} }] }\n",
        allow,
        &["spec.ingress: `ingress` is not supported yet"],
    );
}

/// Two Services, one with two ports, a DestinationRule with a subset, and what else is to be read.
fn with_reviews(rest: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{ name: ratings, namespace: shop }}\n\
         spec: {{ selector: {{ app: ratings }}, ports: [{{ name: http, port: 80 }}] }}\n---\n\
         apiVersion: v1\nkind: Service\nmetadata: {{ name: reviews, namespace: shop }}\n\
         spec: {{ selector: {{ app: reviews }}, ports: [{{ name: http, port: 80 }}, {{ name: tcp, port: 90 }}] }}\n---\n\
         apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{ name: reviews, namespace: shop }}\n\
         spec: {{ host: reviews, subsets: [{{ name: v1, labels: {{ version: v1 }} }}] }}\n---\n{rest}"
    )
}

/// Reads a resource of a kind; gives its problems without file, place and resource.
fn check_kind(kind: &str, spec: &str, expected: &[&str]) {
    let version = if matches!(kind, "TrafficPolicy" | "MeshConfig") {
        "meshwork.dev/v1alpha1"
    } else {
        "networking.istio.io/v1"
    };
    let namespace = if kind == "MeshConfig" {
        "name: default, namespace: meshwork-system"
    } else {
        "name: x, namespace: shop"
    };
    let text = with_reviews(&format!(
        "apiVersion: {version}\nkind: {kind}\nmetadata: {{ {namespace} }}\nspec:\n{spec}"
    ));
    let loaded = load(&[("a.yaml", &text)]);
    let line = |p: &Problem| {
        let fix = if p.fix.is_empty() { String::new() } else { format!("; {}", p.fix) };
        let severity = if p.severity == Severity::Warning { "warning: " } else { "" };
        format!("{severity}{}: {}{fix}", p.field, p.message)
    };
    let problems: Vec<String> = loaded.problems.iter().map(line).collect();
    assert_eq!(problems, expected, "{spec}");
}

fn check_http(rule: &str, expected: &[&str]) {
    check_kind("VirtualService", &format!("  hosts: [reviews]\n  http:\n    - {rule}\n"), expected);
}

#[test]
fn a_virtual_service_leads_somewhere() {
    let to = |destination: &str| format!("route: [{{ destination: {{ {destination} }} }}]");
    check_http(&to("host: reviews, subset: v1, port: { number: 80 }"), &[]);
    check_http(&to("host: reviews.shop.svc.cluster.local"), &[]);
    check_http(
        &to("host: review"),
        &[
            "warning: spec.http[0].route[0].destination: there is no Service `review` in the namespace `shop`; Did you \
           mean `reviews`?",
        ],
    );
    check_http(
        &to("host: reviews.shop"),
        &[
            "warning: spec.http[0].route[0].destination: no ServiceEntry has the host `reviews.shop`; For the service, \
           write `reviews.shop.svc.cluster.local`",
        ],
    );
    check_http(
        &to("host: reviews, port: { number: 8080 }"),
        &[
            "warning: spec.http[0].route[0].destination: `reviews.shop.svc.cluster.local` has no port 8080; Its ports are \
           80, 90",
        ],
    );
    check_http(
        &to("host: reviews, subset: v11"),
        &[
            "warning: spec.http[0].route[0].destination: no DestinationRule gives `reviews.shop.svc.cluster.local` a \
           subset `v11`; Did you mean `v1`?",
        ],
    );
    check_kind(
        "VirtualService",
        "  hosts: [other]\n  http: [{ directResponse: { status: 200 } }]\n",
        &["warning: spec.hosts[0]: there is no Service `other` in the namespace `shop`"],
    );
    check_kind(
        "VirtualService",
        "  hosts: [\"*.example.com\"]\n",
        &[
            "spec.hosts[0]: \"*.example.com\" has a wildcard, which is not supported in the mesh; Name each host",
        ],
    );
}

#[test]
fn what_is_for_gateways_alone_is_left_out_with_a_warning() {
    let text = "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: { name: info, namespace: shop }\n\
                spec:\n  hosts: [\"*\"]\n  gateways: [info-gateway]\n  http:\n    - match: [{ uri: { exact: /page } }]\n      \
                route: [{ destination: { host: page, port: { number: 9080 } } }]\n";
    let loaded = load(&[("a.yaml", text)]);
    let problems: Vec<String> = loaded.problems.iter().map(Problem::to_string).collect();
    assert_eq!(
        problems,
        [
            "a.yaml:6:14: VirtualService shop/info: spec.gateways[0]: the gateway \"info-gateway\" is not honoured: only \
          `mesh` is; Write an HTTPRoute for a Gateway"
        ]
    );
    assert!(loaded.is_accepted() && loaded.config.routes.is_empty());
    let rule = "match: [{ gateways: [g] }, { gateways: [mesh], uri: { prefix: /a } }]\n      directResponse: { status: 200 }";
    check_http(
        rule,
        &[
            "warning: spec.http[0].match[0].gateways[0]: the gateway \"g\" is not honoured: only `mesh` is; Write an \
           HTTPRoute for a Gateway",
        ],
    );
}

#[test]
fn a_rule_does_one_thing() {
    check_http(
        "name: n",
        &[
            "spec.http[0]: the rule does not say what becomes of a request; Write `route`, `redirect` or `directResponse`",
        ],
    );
    check_http(
        "{ redirect: { uri: /a }, directResponse: { status: 200 } }",
        &["spec.http[0]: of `route`, `redirect` and `directResponse` there is one; Leave the others out"],
    );
    check_http(
        "delegate: { name: a }",
        &["spec.http[0].delegate: `delegate` is not supported yet; Write its rules here"],
    );
    check_http(
        "route: [{ destination: { host: reviews }, weight: 0 }, { destination: { host: reviews }, weight: 0 }]",
        &[
            "spec.http[0].route: all weights are 0, so that no request could be forwarded; Give one destination a weight \
           over 0",
        ],
    );
    check_http(
        "{ directResponse: { status: 200, body: { bytes: AA== } } }",
        &["spec.http[0].directResponse.body.bytes: `bytes` is not supported yet; Write `string`"],
    );
    check_http(
        "{ redirect: { redirectCode: 300 } }",
        &["spec.http[0].redirect.redirectCode: 300 is none of 301, 302, 303, 307 and 308"],
    );
}

#[test]
fn problems_of_matches_and_faults_have_their_places() {
    let respond = |rest: &str| format!("{{ directResponse: {{ status: 200 }}, {rest} }}");
    check_http(&respond("match: [{ headers: { a: { exact: b }, c: {} }, uri: { regex: \"/a.*\" } }]"), &[]);
    check_http(
        &respond("match: [{ uri: { regex: \"(\" } }]"),
        &["spec.http[0].match[0].uri.regex: this regular expression is refused: unclosed group"],
    );
    check_http(
        &respond("match: [{ uri: { exact: /a, prefix: /b } }]"),
        &["spec.http[0].match[0].uri: of `exact`, `prefix` and `regex` there is one; Leave the others out"],
    );
    check_http(
        &respond("match: [{ uri: { exact: a } }]"),
        &["warning: spec.http[0].match[0].uri: no request's path starts so: a path starts with \"/\""],
    );
    check_http(
        &respond("match: [{ headers: { uri: { exact: /a } } }]"),
        &[
            "spec.http[0].match[0].headers.uri: `uri` is no header: it has a field of its own; Write it beside `headers`",
        ],
    );
    check_http(
        &respond("fault: { delay: { fixedDelay: 5 s } }"),
        &[
            "warning: spec.http[0].fault.delay.percentage: no share of requests is said, so that the fault hits none; \
             Write `percentage: { value: 100 }`",
            "spec.http[0].fault.delay.fixedDelay: \"5 s\" is not a duration; Write it as 500ms, 10s or 1m30s",
        ],
    );
    check_http(
        &respond("fault: { abort: { percentage: { value: 10 }, grpcStatus: NONE } }"),
        &[
            "spec.http[0].fault.abort.httpStatus: of `httpStatus` and `grpcStatus` there is one",
            "spec.http[0].fault.abort.grpcStatus: there is no gRPC status \"NONE\"",
        ],
    );
    check_http(
        &respond("retries: { attempts: 2, retryOn: \"5xx,sometimes,503\", retryRemoteLocalities: true }"),
        &[
            "spec.http[0].retries.retryOn: \"sometimes\" is nothing that is tried again; Use a status, or \"5xx\", \
             \"gateway-error\", \"reset\", \"reset-before-request\", \"connect-failure\", \"envoy-ratelimited\", \
             \"retriable-4xx\", \"refused-stream\", \"retriable-status-codes\", \"retriable-headers\", \
             \"http3-post-connect-failure\", \"cancelled\", \"deadline-exceeded\", \"internal\", \
             \"resource-exhausted\" or \"unavailable\"",
            "warning: spec.http[0].retries.retryRemoteLocalities: every locality is tried in any case",
        ],
    );
    check_http(
        &respond("headers: { request: { set: { x: \"%NO%\" } } }"),
        &[
            "spec.http[0].headers.request.set.x: this is no format of a header's value: the command NO is not supported; Write a \
           single `%` as `%%`",
        ],
    );
}

#[test]
fn connections_are_led_by_name_and_port() {
    let check = |spec: &str, expected: &[&str]| check_kind("VirtualService", spec, expected);
    let route = "route: [{ destination: { host: reviews, port: { number: 90 } } }]";
    check(&format!("  hosts: [reviews]\n  tcp: [{{ match: [{{ port: 90 }}], {route} }}]\n"), &[]);
    check(&format!("  hosts: [reviews]\n  tls: [{{ match: [{{ sniHosts: [a.b] }}], {route} }}]\n"), &[]);
    check(
        &format!("  hosts: [reviews]\n  tls: [{{ {route} }}]\n"),
        &["spec.tls[0].match: the field `match` is missing"],
    );
    check(
        &format!(
            "  hosts: [reviews]\n  tcp: [{{ match: [{{ destinationSubnets: [10.0.0.0/8] }}], {route} }}]\n"
        ),
        &[
            "spec.tcp[0].match[0].destinationSubnets: `destinationSubnets` is not supported yet; Match by `port`",
        ],
    );
}

fn check_policy(policy: &str, expected: &[&str]) {
    let spec = format!("  host: ratings\n  trafficPolicy: {{ {policy} }}\n");
    check_kind("DestinationRule", &spec, expected);
}

#[test]
fn how_endpoints_are_picked_is_honoured_warned_of_or_refused() {
    let check = check_policy;
    check("loadBalancer: { simple: ROUND_ROBIN }, tls: { mode: ISTIO_MUTUAL }", &[]);
    check(
        "loadBalancer: { simple: PASSTHROUGH }",
        &[
            "warning: spec.trafficPolicy.loadBalancer.simple: a service's endpoints are picked by the proxy: PASSTHROUGH \
           is not honoured; Leave it out",
        ],
    );
    check(
        "loadBalancer: { simple: RANDOM, consistentHash: { useSourceIp: true } }",
        &[
            "spec.trafficPolicy.loadBalancer.consistentHash: of `simple` and `consistentHash` there is one; Leave the \
           other out",
        ],
    );
    check(
        "loadBalancer: { consistentHash: {} }",
        &[
            "spec.trafficPolicy.loadBalancer.consistentHash.httpHeaderName: of `httpHeaderName`, `httpCookie`, \
           `useSourceIp` and `httpQueryParameterName` there is one",
        ],
    );
    check(
        "loadBalancer: { localityLbSetting: { enabled: true, failover: [{ from: a, to: b }] } }",
        &[
            "warning: spec.trafficPolicy.loadBalancer.localityLbSetting.failover: `failover` is not honoured; All \
           endpoints are alike, wherever they run",
        ],
    );
}

#[test]
fn limits_and_tls_are_honoured_warned_of_or_refused() {
    let check = check_policy;
    check(
        "connectionPool: { http: { h2UpgradePolicy: UPGRADE } }",
        &[
            "warning: spec.trafficPolicy.connectionPool.http.h2UpgradePolicy: requests are not carried over HTTP/2 that \
           came over HTTP/1.1; Name the service's port `http2`",
        ],
    );
    check(
        "tls: { mode: DISABLE }",
        &[
            "warning: spec.trafficPolicy.tls.mode: a workload is called in plaintext only where its PeerAuthentication \
           says so; Write a PeerAuthentication with the mode DISABLE",
        ],
    );
    check(
        "tls: { mode: SIMPLE }",
        &[
            "spec.trafficPolicy.tls.mode: services of the mesh are called with its identities; Use ISTIO_MUTUAL, or leave \
           `tls` out",
        ],
    );
    check(
        "tunnel: { protocol: CONNECT }",
        &["spec.trafficPolicy.tunnel: `tunnel` is not supported yet; Leave it out"],
    );
    check_kind(
        "DestinationRule",
        "  host: api.example.com\n  trafficPolicy: { tls: { mode: MUTUAL, insecureSkipVerify: true } }\n",
        &[
            "warning: spec.host: no ServiceEntry has the host `api.example.com`",
            "spec.trafficPolicy.tls.mode: MUTUAL asks for `clientCertificate` and `privateKey`",
            "spec.trafficPolicy.tls.insecureSkipVerify: a server that proves nothing is not called; Name its authority by \
             `caCertificates`",
        ],
    );
    check_kind(
        "DestinationRule",
        "  host: reviews\n  subsets: [{ name: v1 }, { name: v1 }, { name: a.b }]\n",
        &[
            "spec.subsets[1]: the rule has a subset `v1` already; Rename or remove one of them",
            "spec.subsets[2].name: \"a.b\" is not a name; Use letters, digits and '-', with a letter or digit at both ends",
        ],
    );
    check_kind(
        "DestinationRule",
        "  host: \"*a\"\n",
        &["spec.host: \"*a\" is not a pattern of hosts; Write `*` or `*.` with the end of a name, as in \
           `*.shop.svc.cluster.local`"],
    );
}

#[test]
fn a_traffic_policy_is_attached_to_services_and_routes() {
    let check = |target: &str, rest: &str, expected: &[&str]| {
        check_kind("TrafficPolicy", &format!("  targetRefs: [{{ {target} }}]\n{rest}"), expected);
    };
    let service = "group: \"\", kind: Service, name: reviews";
    check(service, "  localRateLimit: { requests: 10, per: 1s, burst: 20 }\n", &[]);
    check(
        service,
        "  healthCheck: { http: { path: /healthz }, interval: 2s }\n  retryBudget: { percent: 10 }\n",
        &[],
    );
    check(&format!("{service}, sectionName: http"), "", &[]);
    check(
        &format!("{service}, sectionName: htp"),
        "",
        &["warning: spec.targetRefs[0]: the Service `reviews` has nothing named `htp`; Did you mean `http`?"],
    );
    check(
        "kind: Deployment, name: reviews",
        "",
        &[
            "spec.targetRefs[0].kind: a TrafficPolicy is not attached to a Deployment; Use a Service (`group: \"\"`), or an \
           HTTPRoute or a GRPCRoute (`group: gateway.networking.k8s.io`)",
        ],
    );
    check(
        "group: gateway.networking.k8s.io, kind: HTTPRoute, name: r",
        "  localRateLimit: { requests: 1 }\n",
        &[
            "warning: spec.targetRefs[0]: there is no HTTPRoute `r` in the namespace `shop`",
            "spec.localRateLimit: `localRateLimit` is for services, and one of the targets is a route; Target the Service",
        ],
    );
    check(
        service,
        "  hedging: { delay: 1s }\n  healthCheck: {}\n  localRateLimit: { requests: 1, per: 1ms }\n",
        &[
            "spec.hedging: `hedging` is not supported yet; A DestinationRule or a route says this",
            "spec.healthCheck.http: of `http`, `grpc` and `tcp` there is one",
            "spec.localRateLimit.per: tokens come back every 50ms at most; Use a longer time, and more requests",
        ],
    );
}

#[test]
fn of_two_traffic_policies_on_one_target_the_older_counts() {
    let policy = |name: &str| {
        format!(
            "---\napiVersion: meshwork.dev/v1alpha1\nkind: TrafficPolicy\nmetadata: {{ name: {name}, namespace: shop }}\n\
             spec: {{ targetRefs: [{{ group: \"\", kind: Service, name: cart }}], localRateLimit: {{ requests: 1 }} }}\n"
        )
    };
    check(
        &with_cart(&format!("{}{}", policy("b"), policy("a"))),
        &[
            "a.yaml:15:22: TrafficPolicy shop/a: spec.targetRefs[0]: TrafficPolicy shop/b is attached to it already, and \
           older: this one is not used there; Write both as one",
        ],
    );
}

#[test]
fn a_mesh_has_one_config() {
    let check = |spec: &str, expected: &[&str]| check_kind("MeshConfig", spec, expected);
    check(
        "  trustDomain: mesh.local\n  outboundTrafficPolicy: { mode: REGISTRY_ONLY }\n  defaults: { timeout: 30s, retries: \
         { attempts: 1 }, mtls: { mode: PERMISSIVE } }\n",
        &[],
    );
    check(
        "  defaults: { timout: 30s }\n",
        &["spec.defaults.timout: there is no field `timout`; Did you mean `timeout`?"],
    );
    let other =
        "apiVersion: meshwork.dev/v1alpha1\nkind: MeshConfig\nmetadata: { name: x, namespace: shop }\n";
    super::check(
        other,
        &[
            "a.yaml:3:19: MeshConfig shop/x: metadata.name: a mesh has one MeshConfig; Name it `default` in the namespace \
           `meshwork-system`",
        ],
    );
}
