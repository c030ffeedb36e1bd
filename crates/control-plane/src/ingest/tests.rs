mod gateways;
mod identity;
mod istio;
mod routes;
mod security;

use meshwork_model::mesh::Protocol;

use super::*;

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
    check("  ports: [{ port: 80, targetPort: http }]\n  clusterIP: None", &[]);
    check(
        "  ports: [{ port: 53, protocol: UDP }]",
        &[("6:33", "spec.ports[0].protocol: the port is left out: UDP is not carried by the mesh")],
    );
    check(
        "  ports: [{ port: 80, name: a }, { port: 80, name: a }, { port: 81 }]",
        &[
            ("6:34", "spec.ports[1]: the service has the port 80 already; Leave one of them out"),
            ("6:57", "spec.ports[2]: each port of a service with several has a name"),
        ],
    );
    check("  ports: [{ port: 80, appProtocol: kubernetes.io/ws }]", &[]);
    check(
        "  ports: [{ port: 80, appProtocol: smtp }]",
        &[(
            "6:36",
            "spec.ports[0].appProtocol: \"smtp\" is carried as bytes; Known are \"http\", \"http2\", \
             \"kubernetes.io/h2c\", \"grpc\", \"grpc-web\", \"kubernetes.io/ws\", \"kubernetes.io/wss\", \"tcp\", \
             \"https\", \"tls\", \"mongo\", \"mysql\" or \"redis\"",
        )],
    );
    check(
        "  ports: [{ port: 80 }]\n  type: NodePort\n  sessionAffinity: ClientIP\n  externalIPs: [1.2.3.4]",
        &[
            (
                "7:9",
                "spec.type: the service is called within the mesh only; Let clients from outside in by a Gateway",
            ),
            (
                "8:20",
                "spec.sessionAffinity: clients are not kept with one endpoint: what they call is balanced anew each \
                 time; Balance by a hash of the source address in a DestinationRule",
            ),
            ("9:16", "spec.externalIPs: `externalIPs` is not honoured"),
        ],
    );
    check(
        "  type: ExternalName\n  externalName: example.com",
        &[(
            "6:9",
            "spec.type: the service is left out: it is a name for a host outside the mesh; Write a ServiceEntry for \
             that host",
        )],
    );
}

#[test]
fn ports_say_what_is_spoken_by_their_names() {
    let check = |port: &str, expected: Protocol| {
        let text = format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{ name: s, namespace: n }}\nspec:\n  selector: {{ a: b }}\n  \
             ports: [{{ port: 80, {port} }}]"
        );
        let services = load(&[("a.yaml", &text)]).config.services;
        assert_eq!(services.values().next().expect("one").ports[0].protocol, expected, "{port}");
    };
    check("name: http", Protocol::Http);
    check("name: http-web", Protocol::Http);
    check("name: http2-web", Protocol::Http2);
    check("name: grpc", Protocol::Grpc);
    check("name: grpc-web", Protocol::Http);
    check("name: httpx", Protocol::Tcp);
    check("name: web, appProtocol: HTTP", Protocol::Http);
    check("name: http, appProtocol: redis", Protocol::Tcp);
}

#[test]
fn what_is_none_of_the_mesh_is_left_out_with_a_word() {
    let deployment = "apiVersion: apps/v1\nkind: Deployment\nmetadata: { name: d }\nspec: { anything: 1 }\n";
    check(deployment, &["a.yaml:2:7: kind: a Deployment is no config of the mesh, and is left out"]);
    let list = format!(
        "apiVersion: v1\nkind: List\nitems: [{{ kind: Job, apiVersion: batch/v1 }}]\n---\n{deployment}"
    );
    let loaded = load(&[("a.yaml", &list)]);
    assert!(loaded.is_accepted());
    assert_eq!(loaded.problems.len(), 2);
}

#[test]
fn problems_of_endpoint_slices() {
    let slice = |rest: &str| {
        format!(
            "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{ name: s, namespace: n, labels: \
             {{ kubernetes.io/service-name: cart }} }}\n{rest}"
        )
    };
    let check = |rest: &str, expected: &[&str]| {
        let expected: Vec<String> =
            expected.iter().map(|e| format!("a.yaml:{}", e.replace("! ", ": EndpointSlice n/s: "))).collect();
        super::tests::check(&slice(rest), &expected.iter().map(String::as_str).collect::<Vec<_>>());
    };
    check(
        "addressType: IPv4\nendpoints: [{ addresses: [10.0.0.1], conditions: { ready: true }, zone: a, nodeName: n, \
         targetRef: { kind: Pod, name: p, namespace: n, uid: x } }]\nports: [{ name: http, port: 80, protocol: TCP, \
         appProtocol: http }]",
        &[],
    );
    check("endpoints: []", &["1:1! addressType: the field `addressType` is missing"]);
    check(
        "addressType: FQDN\nendpoints: []",
        &["4:14! addressType: \"FQDN\" is not supported yet; Use \"IPv4\" or \"IPv6\""],
    );
    check(
        "addressType: IPv4\nendpoints: [{ addresses: [] }]",
        &["5:13! endpoints[0].addresses: an endpoint has an address"],
    );
    check(
        "addressType: IPv4\nendpoints: [{ addresses: [a.example] }]",
        &["5:27! endpoints[0].addresses[0]: \"a.example\" is not the address of anybody"],
    );
    for (near, what) in [
        ("0.0.0.0", "no host's address"),
        ("127.0.0.1", "loopback of the host"),
        ("\"::ffff:127.0.0.1\"", "loopback of the host"),
        ("169.254.169.254", "a link-local address"),
        ("\"fe80::1\"", "a link-local address"),
        ("224.0.0.1", "a multicast address"),
    ] {
        let message = format!(
            "5:27! endpoints[0].addresses[0]: nobody is called at {}: it is {what}; Write the host's own address",
            near.trim_matches('"')
        );
        check(&format!("addressType: IPv4\nendpoints: [{{ addresses: [{near}] }}]"), &[&message]);
    }
    check(
        "addressType: IPv4\nendpoints: [{ addresses: [10.0.0.1, 10.0.0.2] }]",
        &[
            "5:37! endpoints[0].addresses[1]: only the first address of an endpoint is called; Make an endpoint of each \
         address",
        ],
    );
    check(
        "addressType: IPv4\nports: [{ port: 53, protocol: UDP }]",
        &["5:9! ports[0]: the port is left out: UDP is not carried by the mesh"],
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
