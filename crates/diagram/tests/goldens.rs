//! Pictures of whole meshes, as text. `UPDATE=1` renews them; `e2e/mermaid/check.mjs` parses them with Mermaid itself.

use std::fs;
use std::path::Path;

use meshwork_diagram::{
    ControlPlane, Edge, End, Observability, Pod, Protocol, Proxy, Service, Sync, Topology, Traffic, mermaid,
};

/// Compares a drawing with its golden; and any order of pods and edges must give the same drawing.
fn check(name: &str, topology: &Topology) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata").join(format!("{name}.mmd"));
    let drawn = mermaid(topology);
    if std::env::var_os("UPDATE").is_some() {
        fs::write(&path, &drawn).expect("golden is writable");
    }
    let expected = fs::read_to_string(&path).unwrap_or_default();
    assert!(drawn == expected, "{} differs; UPDATE=1 renews it. Drawn:\n{drawn}", path.display());

    let mut reversed = topology.clone();
    reversed.pods.reverse();
    reversed.services.reverse();
    reversed.edges.reverse();
    assert_eq!(mermaid(&reversed), drawn, "{name}: order of listing matters");
}

fn mesh(live: bool) -> Topology {
    Topology {
        trust_domain: "mesh.local".into(),
        platform: "this host".into(),
        features: ["mTLS", "authorization", "traffic split", "metrics"].map(String::from).into(),
        live,
        control: ControlPlane {
            config_api: Some("127.0.0.1:15040".into()),
            config_store: Some("SQLite".into()),
            discovery: Some("xDS, 127.0.0.1:15012".into()),
            certificate_authority: Some("24 h SVIDs".into()),
        },
        observability: Observability {
            metrics: Some("hub, OTLP".into()),
            access_logs: Some("JSON lines".into()),
            traces: None,
            dashboard: None,
        },
        ..Topology::default()
    }
}

fn pod(namespace: &str, name: &str, app: &str, version: &str) -> Pod {
    Pod {
        name: name.into(),
        namespace: namespace.into(),
        app: app.into(),
        version: version.into(),
        identity: format!("spiffe://mesh.local/ns/{namespace}/sa/{app}"),
        ..Pod::default()
    }
}

fn edge(from: &str, to: &str, protocol: Protocol) -> Edge {
    Edge { from: End::pod("shop", from), to: End::pod("shop", to), protocol, ..Edge::default() }
}

fn measured(edge: Edge, per_second: f64, success: f64, p50_ms: Option<f64>) -> Edge {
    Edge {
        traffic: Some(Traffic { per_second, success, p50_ms, p99_ms: p50_ms.map(|p50| p50 * 3.0) }),
        ..edge
    }
}

fn shop_pods() -> Vec<Pod> {
    let pods = [
        ("load", "load", ""),
        ("web", "web", ""),
        ("catalog-v1", "catalog", "v1"),
        ("catalog-v2", "catalog", "v2"),
        ("cart", "cart", ""),
        ("checkout", "checkout", ""),
        ("payments", "payments", ""),
        ("ledger", "ledger", ""),
    ];
    pods.map(|(name, app, version)| pod("shop", name, app, version)).into()
}

fn shop_services() -> Vec<Service> {
    let alone = ["web", "cart", "checkout", "payments", "ledger"];
    let mut services: Vec<Service> = alone
        .map(|name| Service { name: name.into(), namespace: "shop".into(), pods: vec![name.into()] })
        .into();
    services.push(Service {
        name: "catalog".into(),
        namespace: "shop".into(),
        pods: vec!["catalog-v1".into(), "catalog-v2".into()],
    });
    services
}

fn shop_live() -> Topology {
    Topology {
        pods: shop_pods().into_iter().map(|pod| Pod { sync: Sync::Current, ..pod }).collect(),
        services: shop_services(),
        edges: vec![
            measured(edge("load", "web", Protocol::Http), 40.2, 1.0, Some(4.1)),
            measured(edge("web", "catalog-v1", Protocol::Http), 36.4, 1.0, Some(0.82)),
            measured(edge("web", "catalog-v2", Protocol::Http), 4.1, 1.0, Some(0.9)),
            measured(edge("web", "cart", Protocol::Http), 12.3, 1.0, Some(0.7)),
            measured(edge("web", "checkout", Protocol::Http), 8.0, 1.0, Some(2.4)),
            measured(edge("checkout", "payments", Protocol::Grpc), 8.0, 1.0, Some(1.1)),
            measured(edge("checkout", "ledger", Protocol::Tcp), 8.0, 1.0, None),
        ],
        ..mesh(true)
    }
}

#[test]
fn shop_that_runs() {
    check("shop-live", &shop_live());
}

#[test]
fn shop_in_trouble() {
    let mut shop = shop_live();
    for pod in &mut shop.pods {
        match pod.name.as_str() {
            "cart" => pod.sync = Sync::Disconnected,
            "ledger" => pod.sync = Sync::Refusing,
            "payments" => pod.proxy = Proxy::Envoy,
            _ => "5f3a91c2d0".clone_into(&mut pod.config_version),
        }
    }
    shop.edges[4] = measured(edge("web", "checkout", Protocol::Http), 8.0, 0.874, Some(2.4));
    let cart_to_ledger = Edge { denied: true, ..edge("cart", "ledger", Protocol::Tcp) };
    shop.edges.push(measured(cart_to_ledger, 0.5, 0.0, None));
    let stranger =
        Edge { from: End::Outside("unknown".into()), mtls: false, ..edge("", "web", Protocol::Http) };
    shop.edges.push(measured(stranger, 0.4, 1.0, Some(1.0)));
    check("shop-trouble", &shop);
}

#[test]
fn shop_as_configured() {
    let weighed = |to: &str, weight| Edge { weight: Some(weight), ..edge("web", to, Protocol::Http) };
    let shop = Topology {
        pods: shop_pods(),
        services: shop_services(),
        edges: vec![
            edge("load", "web", Protocol::Http),
            weighed("catalog-v1", 90),
            weighed("catalog-v2", 10),
            edge("web", "cart", Protocol::Http),
            edge("web", "checkout", Protocol::Http),
            Edge { to: End::service("shop", "payments"), ..edge("checkout", "", Protocol::Grpc) },
            Edge { to: End::service("shop", "ledger"), ..edge("checkout", "", Protocol::Tcp) },
        ],
        ..mesh(false)
    };
    check("shop-config", &shop);
}

#[test]
fn empty_mesh() {
    check("empty", &mesh(true));
    check("nothing", &Topology::default());
}

#[test]
fn proxyless_workload_is_one_node() {
    let mut shop = shop_live();
    for pod in &mut shop.pods {
        if pod.name == "payments" {
            pod.proxy = Proxy::Proxyless;
        }
    }
    check("proxyless", &shop);
}

#[test]
fn several_namespaces_are_named_and_services_fan_out() {
    let pods = vec![
        pod("front", "web", "web", ""),
        pod("shop", "catalog-v1", "catalog", "v1"),
        pod("shop", "catalog-v2", "catalog", "v2"),
        pod("bank", "payments", "payments", ""),
        Pod { identity: String::new(), ..pod("bank", "mainframe", "mainframe", "") },
    ];
    let from_web = |to| Edge { from: End::pod("front", "web"), to, ..Edge::default() };
    let mesh = Topology {
        pods,
        services: shop_services(),
        edges: vec![
            from_web(End::service("shop", "catalog")),
            from_web(End::service("shop", "search")),
            Edge { protocol: Protocol::Grpc, ..from_web(End::pod("bank", "payments")) },
            Edge {
                from: End::pod("bank", "payments"),
                to: End::pod("bank", "mainframe"),
                protocol: Protocol::Tcp,
                mtls: false,
                ..Edge::default()
            },
            Edge {
                from: End::pod("shop", "catalog-v1"),
                to: End::Outside("api.example.com".into()),
                ..Edge::default()
            },
        ],
        ..mesh(false)
    };
    check("namespaces", &mesh);
}

/// Pods `app-<a>-<r>` in namespaces `ns-<n>`: each calls the next application; the first ones call other namespaces.
fn large(namespaces: usize, apps: usize, replicas: usize) -> Topology {
    let mut large = mesh(true);
    let end = |n: usize, a: usize, r: usize| End::pod(format!("ns-{n:02}"), format!("app-{a}-{r}"));
    for n in 0..namespaces {
        for (a, r) in (0..apps).flat_map(|a| (0..replicas).map(move |r| (a, r))) {
            large.pods.push(pod(&format!("ns-{n:02}"), &format!("app-{a}-{r}"), &format!("app-{a}"), "v1"));
            let from = end(n, a, r);
            if a + 1 < apps {
                let calls = Edge { from: from.clone(), to: end(n, a + 1, r), ..Edge::default() };
                large.edges.push(measured(calls, 2.5, 1.0, Some(1.0)));
            }
            let other = 2 * n + 1 + a;
            if a < 2 && other < namespaces {
                let calls = Edge { from, to: end(other, 0, r), protocol: Protocol::Grpc, ..Edge::default() };
                large.edges.push(measured(calls, 0.25, 0.999, Some(1.0)));
            }
        }
    }
    large
}

#[test]
fn replicas_fold_into_their_application() {
    check("folded-replicas", &large(1, 6, 8));
}

#[test]
fn large_mesh_folds_by_namespace() {
    check("folded", &large(8, 6, 5));
}

#[test]
fn largest_mesh_keeps_within_the_limits_of_the_renderer() {
    let mut largest = large(200, 10, 5);
    for (number, pod) in largest.pods.iter_mut().enumerate() {
        pod.namespace = format!("{}<\"{}", "#".repeat(60), number % 200);
    }
    for (number, edge) in largest.edges.iter_mut().enumerate() {
        edge.from = End::Outside(format!("[{}", number % 100));
        edge.to = End::pod(format!("{}<\"{}", "#".repeat(60), number % 200), "app-0-0");
    }
    let drawn = mermaid(&largest);
    assert!(drawn.chars().count() < 50_000, "{} characters", drawn.chars().count());
    check("folded-largest", &large(60, 4, 3));
}

#[test]
fn hostile_names_stay_text() {
    let hostile = [
        "end",
        "subgraph",
        "a\"] --> b[\"",
        "<script>alert(1)</script>",
        "<img src=x onerror=alert(1)>",
        "%%{init: {\"theme\":\"dark\"}}%%",
        "%% comment",
        "x\nclick a \"javascript:alert(1)\"",
        "`**bold**`",
        "#quot;#35;&amp;",
        "日本 \u{202e}gnp.exe\u{0}",
        "a|b{c}d(e)f[g]\\h;",
        "graph TB",
        "---",
        "",
    ];
    let mut mesh = mesh(true);
    mesh.trust_domain = "a\"\n---\nflowchart LR\nx".into();
    mesh.platform = "<b>\\".into();
    mesh.features = hostile.map(String::from).into();
    mesh.control.config_api = Some("\"]; <i>".into());
    for (number, name) in hostile.iter().enumerate() {
        mesh.pods.push(Pod {
            config_version: (*name).into(),
            address: (*name).into(),
            ..pod(hostile[(number + 1) % 3], name, hostile[number / 2], name)
        });
        mesh.edges.push(measured(
            Edge {
                from: End::pod(hostile[(number + 1) % 3], *name),
                to: End::service(*name, *name),
                ..Edge::default()
            },
            f64::INFINITY,
            f64::NAN,
            Some(f64::NAN),
        ));
        mesh.edges.push(Edge {
            from: End::Outside((*name).into()),
            to: End::pod(*name, *name),
            ..Edge::default()
        });
    }
    check("hostile", &mesh);
}
