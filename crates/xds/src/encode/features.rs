//! One resource for each thing that the model can say.

mod whole;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use meshwork_model::proxy::{
    Action, Balancing, ChainMatch, ClientCert, Cluster, DirectResponse, Direction, Discovery, Dns, DnsHost,
    Domain, Endpoint, Endpoints, EscapedSlashes, FilterChain, Forward, ForwardClientCert, Gate, HeaderMatch,
    HeaderTest, Http1, HttpConnection, HttpFilter, Listener, MeshClient, MeshServer, NameTable, Network,
    NetworkFilter, PathMatch, PathNormalization, Permission, Principal, Rbac, Resilience, Resource,
    RetryPolicy, Route, RouteAction, RouteMatch, RouteSource, RouteTable, Rule, ServerHeader, ServiceName,
    StringMatch, TcpProxy, Transport, TransportMatch, UpstreamProtocol, VirtualHost, WeightedCluster,
    Workload,
};
use meshwork_model::spiffe::SpiffeId;

fn identity(account: &str) -> SpiffeId {
    SpiffeId::workload("mesh.local", "shop", account).unwrap()
}

/// Feature and resource.
pub(super) fn features() -> Vec<(&'static str, Resource)> {
    let mut features = vec![
        ("inbound-http", Resource::Listener(inbound_http())),
        ("inbound-tcp", Resource::Listener(inbound_tcp())),
        ("outbound-http", Resource::Listener(outbound_http())),
        ("api-listener", Resource::Listener(api_listener())),
        ("permissive-chains", Resource::Listener(permissive())),
        ("routes", Resource::Routes(routes())),
        ("cluster-eds-mtls", Resource::Cluster(cluster(false))),
        ("cluster-eds-mtls-or-plaintext", Resource::Cluster(cluster(true))),
        ("cluster-static", Resource::Cluster(application())),
        ("virtual-outbound", Resource::Listener(virtual_outbound())),
        ("by-original-destination", Resource::Listener(by_original_destination())),
        ("names", Resource::Names(names())),
        ("cluster-dns", Resource::Cluster(outside())),
        ("cluster-original-destination", Resource::Cluster(passthrough())),
        ("cluster-in-workload", Resource::Cluster(captured())),
        ("endpoints", Resource::Endpoints(endpoints())),
    ];
    features.extend(whole::features());
    features
}

fn inbound_http() -> Listener {
    let address = Some("127.0.0.1:41000".parse().unwrap());
    let chains = vec![FilterChain {
        tls: Some(downstream(&["h2", "http/1.1"]).into()),
        ..FilterChain::new(
            "strict",
            NetworkFilter::Http(Arc::new(HttpConnection {
                filters: HttpFilter::rules([Arc::new(deny()), Arc::new(allow())]),
                routes: RouteSource::Inline(Arc::new(to_one_cluster("inbound|8080||"))),
                idle_timeout: Some(Duration::from_mins(5)),
                stream_idle_timeout: Some(Duration::ZERO),
                tracing: true,
                upgrades: vec!["websocket".into(), "connect".into()],
                server: ServerHeader::IfAbsent("shop".into()),
                client_cert: ClientCert {
                    forward: ForwardClientCert::Set,
                    uri: true,
                    ..ClientCert::default()
                },
                http1: Http1 { accept_http_10: true, default_host: None, trailers: true },
                request_headers_timeout: Some(Duration::from_secs(10)),
                ..http()
            })),
        )
    }];
    Listener::new("inbound|8080", address, Direction::Inbound, chains)
}

fn inbound_tcp() -> Listener {
    let network = Rbac {
        action: Action::Allow,
        rules: vec![Rule {
            name: "ns[shop]-policy[ledger]-rule[0]".into(),
            permissions: vec![Permission::DestinationPort(5432)],
            principals: vec![Principal::Authenticated(Some(StringMatch::Exact(
                identity("payments").as_str().into(),
            )))],
        }],
    };
    let address = Some("[::1]:41001".parse().unwrap());
    let chains = vec![FilterChain {
        tls: Some(MeshServer { allowed: vec![identity("payments")], ..downstream(&[]) }.into()),
        gates: vec![
            Gate::Tried(Arc::new(Rbac { action: Action::Deny, ..network.clone() }), "tried.".into()),
            Gate::Rbac(Arc::new(network)),
        ],
        ..FilterChain::new(
            "strict",
            NetworkFilter::Tcp(Arc::new(TcpProxy {
                stat_prefix: "inbound_5432".into(),
                idle_timeout: Some(Duration::from_hours(1)),
                ..TcpProxy::to("inbound|5432||")
            })),
        )
    }];
    Listener::new("inbound|5432", address, Direction::Inbound, chains)
}

fn outbound_http() -> Listener {
    Listener::new(
        "outbound|80|catalog.shop.svc.cluster.local",
        Some("127.0.0.1:42000".parse().unwrap()),
        Direction::Outbound,
        vec![FilterChain::new("all", NetworkFilter::Http(Arc::new(http())))],
    )
}

fn tcp_chain(name: &str, server_names: &[&str], cluster: &str) -> FilterChain {
    let proxy = TcpProxy { stat_prefix: name.into(), ..TcpProxy::to(cluster) };
    FilterChain {
        matches: ChainMatch {
            server_names: server_names.iter().map(|&name| name.into()).collect(),
            ..ChainMatch::default()
        },
        ..FilterChain::new(name, NetworkFilter::Tcp(Arc::new(proxy)))
    }
}

fn virtual_outbound() -> Listener {
    let chain = tcp_chain("passthrough", &[], "PassthroughCluster");
    let address = Some("127.0.0.1:15001".parse().unwrap());
    Listener {
        additional_addresses: vec!["[::1]:15001".parse().unwrap()],
        use_original_dst: true,
        ..Listener::new("virtualOutbound", address, Direction::Outbound, vec![chain])
    }
}

fn by_original_destination() -> Listener {
    let address = Some("240.0.0.7:443".parse().unwrap());
    let chains = vec![
        tcp_chain("allowed", &["api.example.com", "*.cdn.example.com"], "outside"),
        tcp_chain("others", &[], "PassthroughCluster"),
    ];
    Listener {
        additional_addresses: vec!["[fd6d:6573:6877::7]:443".parse().unwrap()],
        bind_to_port: false,
        ..Listener::new("outbound|443||api.example.com", address, Direction::Outbound, chains)
    }
}

fn names() -> NameTable {
    let catalog: Vec<IpAddr> = vec!["240.0.0.1".parse().unwrap(), "fd6d:6573:6877::1".parse().unwrap()];
    NameTable {
        name: "names".into(),
        address: "127.0.0.1:15053".parse().unwrap(),
        ttl: Duration::from_secs(30),
        names: [
            ("catalog.shop".into(), catalog.clone()),
            ("catalog.shop.svc.cluster.local".into(), catalog),
            ("api.example.com".into(), vec!["240.0.0.7".parse().unwrap()]),
        ]
        .into(),
    }
}

const CATALOG: &str = "outbound|80||catalog.shop.svc.cluster.local";
const INBOUND: &str = "inbound|8080||";

fn outside() -> Cluster {
    let dns = Dns::all_of(DnsHost { host: "api.example.com".into(), port: 443 });
    Cluster { name: "outside".into(), discovery: Discovery::Dns(dns), ..application() }
}

fn passthrough() -> Cluster {
    Cluster { name: "PassthroughCluster".into(), discovery: Discovery::OriginalDestination, ..application() }
}

fn captured() -> Cluster {
    Cluster { network: Network::Workload, ..application() }
}

fn api_listener() -> Listener {
    Listener::new(
        "catalog.shop:80",
        None,
        Direction::Outbound,
        vec![FilterChain::new("", NetworkFilter::Http(Arc::new(http())))],
    )
}

fn permissive() -> Listener {
    let chain = |name: &str, transport, alpn: &[&str], tls| FilterChain {
        matches: ChainMatch {
            transport,
            alpn: alpn.iter().map(|&p| p.into()).collect(),
            ..ChainMatch::default()
        },
        tls,
        ..FilterChain::new(name, NetworkFilter::Http(Arc::new(http())))
    };
    let address = Some("127.0.0.1:41002".parse().unwrap());
    let chains = vec![
        chain("mtls", Some(Transport::Tls), &["istio", "h2"], Some(downstream(&["h2"]).into())),
        chain("plaintext", Some(Transport::Plaintext), &[], None),
        chain("rest", None, &[], None),
    ];
    Listener::new("inbound|8081", address, Direction::Unspecified, chains)
}

fn http() -> HttpConnection {
    let routes = RouteSource::Named("outbound|80||catalog.shop.svc.cluster.local".into());
    HttpConnection {
        paths: PathNormalization {
            rfc3986: true,
            merge_slashes: true,
            escaped_slashes: EscapedSlashes::Reject,
        },
        generate_request_id: true,
        ..HttpConnection::new("http", routes)
    }
}

fn downstream(alpn: &[&str]) -> MeshServer {
    MeshServer {
        certificate: "default".into(),
        validation: Some("ROOTCA".into()),
        require_client_certificate: true,
        alpn: alpn.iter().map(|&protocol| protocol.into()).collect(),
        allowed: Vec::new(),
    }
}

fn deny() -> Rbac {
    let admin = Permission::All(vec![
        Permission::Path(StringMatch::Prefix("/admin".into())),
        Permission::Not(Box::new(Permission::Path(StringMatch::Suffix(".css".into())))),
        Permission::OneOf(vec![
            Permission::Header(method("POST")),
            Permission::Header(HeaderMatch {
                name: "x-debug".into(),
                test: HeaderTest::Present,
                invert: true,
            }),
        ]),
    ]);
    Rbac {
        action: Action::Deny,
        rules: vec![Rule {
            name: "ns[shop]-policy[admin]-rule[0]".into(),
            permissions: vec![admin],
            principals: vec![Principal::Not(Box::new(Principal::Authenticated(Some(
                StringMatch::Contains("/sa/admin".into()),
            ))))],
        }],
    }
}

fn allow() -> Rbac {
    let rule = |name: &str, principal| Rule {
        name: name.into(),
        permissions: vec![Permission::Any],
        principals: vec![principal],
    };
    let web = StringMatch::Exact(identity("web").as_str().into());
    let shop = StringMatch::Prefix("spiffe://mesh.local/ns/shop/".into());
    Rbac {
        action: Action::Allow,
        rules: vec![
            rule("a", Principal::Authenticated(Some(web))),
            rule("b", Principal::Authenticated(None)),
            rule("c", Principal::OneOf(vec![Principal::Any, Principal::Authenticated(Some(shop.clone()))])),
            rule("d", Principal::All(vec![Principal::Any, Principal::Authenticated(Some(shop))])),
        ],
    }
}

fn method(method: &str) -> HeaderMatch {
    HeaderMatch {
        name: ":method".into(),
        test: HeaderTest::Value(StringMatch::Exact(method.into())),
        invert: false,
    }
}

fn to_one_cluster(cluster: &str) -> RouteTable {
    let forward = Forward {
        clusters: vec![WeightedCluster { name: cluster.into(), weight: 1 }],
        timeout: None,
        resilience: Resilience::default(),
    };
    let matches = RouteMatch::new(PathMatch::Prefix("/".into()), Vec::new());
    let route = Route::new("all", matches, RouteAction::Forward(forward));
    RouteTable::new("inbound", vec![VirtualHost::new("all", vec![Domain::Any], vec![route])])
}

fn routes() -> RouteTable {
    let route = |name: &str, path, headers, action| Route::new(name, RouteMatch::new(path, headers), action);
    let canary = RouteAction::Forward(Forward {
        clusters: vec![
            WeightedCluster { name: "outbound|80||catalog-v1.shop.svc.cluster.local".into(), weight: 90 },
            WeightedCluster { name: "outbound|80||catalog-v2.shop.svc.cluster.local".into(), weight: 10 },
        ],
        timeout: Some(Duration::from_millis(1500)),
        resilience: Resilience { retry: Some(Arc::new(RetryPolicy::unreached(2))), ..Resilience::default() },
    });
    let direct = RouteAction::Direct(DirectResponse { status: 404, body: "no such page".into() });
    let empty = RouteAction::Direct(DirectResponse { status: 503, body: "".into() });
    let beta = HeaderMatch {
        name: "x-user".into(),
        test: HeaderTest::Value(StringMatch::Prefix("beta".into())),
        invert: false,
    };
    let named = VirtualHost::new(
        "named",
        vec![
            Domain::Exact("catalog".into()),
            Domain::Suffix(".example.com".into()),
            Domain::Prefix("catalog.".into()),
        ],
        vec![
            route("canary", PathMatch::SegmentPrefix("/items".into()), vec![beta], canary),
            route("exact", PathMatch::Exact("/gone".into()), vec![method("GET")], direct),
        ],
    );
    let all = VirtualHost::new(
        "all",
        vec![Domain::Any],
        vec![
            route("empty", PathMatch::Exact("/busy".into()), Vec::new(), empty),
            route("connect", PathMatch::Connect, Vec::new(), RouteAction::Local),
            route("local", PathMatch::Prefix("/".into()), Vec::new(), RouteAction::Local),
        ],
    );
    RouteTable::new("outbound|80||catalog.shop.svc.cluster.local", vec![named, all])
}

fn cluster(plaintext: bool) -> Cluster {
    let tls = |account: &str| MeshClient {
        certificate: Some("default".into()),
        validation: "ROOTCA".into(),
        identities: vec![identity(account)],
        alpn: vec!["h2".into()],
        sni: "outbound_.80_._.catalog.shop.svc.cluster.local".into(),
    };
    let by_identity = |account: &str| TransportMatch {
        name: account.into(),
        transport: Some(identity(account).as_str().into()),
        labels: Vec::new(),
        tls: Some(tls(account).into()),
    };
    let mut transports = vec![by_identity("catalog"), by_identity("catalog-canary")];
    if plaintext {
        transports.push(TransportMatch {
            name: "plaintext".into(),
            transport: None,
            labels: Vec::new(),
            tls: None,
        });
    }
    Cluster {
        service: Some(ServiceName { name: "catalog".into(), namespace: "shop".into() }),
        balancing: Balancing::LEAST_REQUEST,
        protocol: UpstreamProtocol::Http2,
        transports,
        ..Cluster::new(CATALOG, Discovery::Eds(CATALOG.into()))
    }
}

fn application() -> Cluster {
    let endpoint = Endpoint::new("127.0.0.1:9000".parse().unwrap());
    Cluster {
        connect_timeout: Duration::from_millis(250),
        ..Cluster::new(INBOUND, Discovery::Static(Endpoints::new(INBOUND, vec![endpoint])))
    }
}

fn endpoints() -> Endpoints {
    let endpoint = |address: &str, account: &str, version: &str| Endpoint {
        transport: Some(identity(account).as_str().into()),
        workload: Some(Workload {
            name: format!("{account}-{version}").into(),
            namespace: "shop".into(),
            app: "catalog".into(),
            version: version.into(),
        }),
        ..Endpoint::new(address.parse().unwrap())
    };
    let endpoints = vec![
        endpoint("127.0.0.1:41000", "catalog", "v1"),
        endpoint("[::1]:41010", "catalog-canary", "v2"),
        Endpoint::new("10.0.0.7:80".parse().unwrap()),
    ];
    Endpoints::new(CATALOG, endpoints)
}
