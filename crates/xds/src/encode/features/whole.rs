//! Resources of which all is said, as people would say it.

use std::sync::Arc;
use std::time::Duration;

use meshwork_model::format::{Json, Template};
use meshwork_model::fraction::Fraction;
use meshwork_model::hash::{HashCookie, HashPolicy, HashSource};
use meshwork_model::mutation::{Append, HeaderChange, Mutations};
use meshwork_model::proxy::{
    AbortBy, AccessLog, AuthBody, AuthHttp, AuthService, BackOff, Balancing, Breakers, CheckHeader,
    CheckIntervals, CheckTarget, ClientContext, Clients, Cluster, ClusterTerms, Comparison, Connections,
    CorsPolicy, DataSource, DelayBy, Direction, Discovery, Dns, DnsFamily, DnsHost, Domain, Endpoint,
    Endpoints, ExtAuthz, Fallback, Fault, FaultAbort, FaultDelay, FilterChain, Format, FormatBody, Forward,
    HashKeys, HeadChanges, HeaderMatch, HeaderTest, Health, HealthCheck, HealthCheckFilter, HealthCheckKind,
    HostNormalization, HostRewrite, HttpCheck, HttpConnection, HttpFilter, HttpFilterKind, HttpLimits,
    HttpRbac, JwtAuthentication, JwtKeys, JwtProvider, JwtRequirement, JwtRule, Keepalive, LeastRequest,
    Listener, LoadPolicy, LocalRateLimit, LocalReplies, Locality, LogFilter, LogSink, MetadataValue, Mirror,
    MirrorTo, NamedEndpoint, NetworkFilter, OutlierDetection, PathMatch, PathRewrite, Place, QueryMatch,
    Redirect, RedirectPath, RemoteKeys, ReplyMapper, Resilience, Resource, RetryBudget, RetryOn, RetryPolicy,
    RingHash, Route, RouteAction, RouteFilter, RouteFilterKind, RouteMatch, RouteTable, RouteTerms, Router,
    SanKind, SanMatch, Scheme, Sealed, Selector, Spread, StreamDuration, StringMatch, StrippedPort, Subsets,
    Thresholds, TlsContext, TlsVersion, TokenBucket, TokenPlace, TransportMatch, Underscores,
    UpstreamProtocol, UpstreamTls, Validation, ValidationContext, VirtualHost, WeightedCluster,
};
use meshwork_model::regex::{Regex, Rewrite};

use super::{CATALOG, allow, http};
use crate::decode::NEVER;

/// A set of keys that Envoy takes.
const KEYS: &str = r#"{"keys":[{"kty":"EC","crv":"P-256","alg":"ES256","kid":"a","x":"EBcvwrzGZtrWQCglr5Uu8Q1m7DXAawUwRsao-2g6sXk","y":"XoB0qSGihIfmeV86xfmyDk4qXK6auUbrXCgOm-XKCN4"}]}"#;
/// An authority that Envoy takes; nobody has its key.
const AUTHORITY: &str = "-----BEGIN CERTIFICATE-----
MIIBcjCCARegAwIBAgIUVymAVURbDA1wBvlWU/N28Ygx/nQwCgYIKoZIzj0EAwIw
DTELMAkGA1UEAwwCY2EwIBcNMjYxMTI5MDEwMTUxWhgPMjEyNjExMDUwMTAxNTFa
MA0xCzAJBgNVBAMMAmNhMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEEBcvwrzG
ZtrWQCglr5Uu8Q1m7DXAawUwRsao+2g6sXlegHSpIaKEh+Z5XzrF+bIOTipcrpq5
RutcKA6b5coI3qNTMFEwHQYDVR0OBBYEFGprRI7+dTdwG31Kl75aVnm8yHghMB8G
A1UdIwQYMBaAFGprRI7+dTdwG31Kl75aVnm8yHghMA8GA1UdEwEB/wQFMAMBAf8w
CgYIKoZIzj0EAwIDSQAwRgIhAKGdnsA97iUWVIblRVQIibEsIDKgVbHTPuk6GrHH
DTwnAiEAuTMD58dw5oK0ZhpTlyCZJPCxQlhP5/sFJFp1CDsLmMk=
-----END CERTIFICATE-----
";

/// Feature and resource.
pub(super) fn features() -> Vec<(&'static str, Resource)> {
    vec![
        ("routes-of-all-terms", Resource::Routes(routes())),
        ("routes-retried", Resource::Routes(retried())),
        ("routes-with-filters", Resource::Routes(filtered())),
        ("http-filters", Resource::Listener(filters())),
        ("http-options", Resource::Listener(options())),
        ("cluster-ring-hash", Resource::Cluster(ring())),
        ("cluster-full-scan", Resource::Cluster(full_scan())),
        ("cluster-subsets", Resource::Cluster(subsets())),
        ("cluster-checked", Resource::Cluster(checked())),
        ("cluster-of-names", Resource::Cluster(names())),
        ("cluster-outside-tls", Resource::Cluster(outside_tls())),
        ("endpoints-placed", Resource::Endpoints(placed())),
    ]
}

fn exact(text: &str) -> StringMatch {
    StringMatch::Exact(text.into())
}

fn has(name: &str, value: &str) -> HeaderMatch {
    HeaderMatch { name: name.into(), test: HeaderTest::Value(exact(value)), invert: false }
}

fn to(clusters: &[(&str, u32)]) -> Forward {
    let cluster = |(name, weight): &(&str, u32)| WeightedCluster { name: (*name).into(), weight: *weight };
    Forward {
        clusters: clusters.iter().map(cluster).collect(),
        timeout: Some(Duration::from_secs(3)),
        resilience: Resilience::default(),
    }
}

fn route(name: &str, forward: Forward, terms: RouteTerms) -> Route {
    let matches = RouteMatch::new(PathMatch::SegmentPrefix("/items".into()), Vec::new());
    let terms = (terms != RouteTerms::default()).then(|| Box::new(terms));
    Route { terms, ..Route::new(name, matches, RouteAction::Forward(forward)) }
}

fn table(routes: Vec<Route>) -> RouteTable {
    RouteTable::new(CATALOG, vec![VirtualHost::new("catalog", vec![Domain::Any], routes)])
}

fn changes(name: &str) -> HeadChanges {
    let change = |append, value: &str| HeaderChange {
        name: name.into(),
        value: Template::parse(value).unwrap(),
        append,
        keep_empty: false,
    };
    HeadChanges {
        request: vec![Arc::new(Mutations {
            remove: vec!["x-internal".into()],
            add: vec![change(Append::Set, "%REQ(:authority)%"), change(Append::Add, "100%%")],
        })],
        response: vec![Arc::new(Mutations {
            remove: Vec::new(),
            add: vec![change(Append::AddIfAbsent, "mesh"), change(Append::SetIfPresent, "mesh")],
        })],
    }
}

fn routes() -> RouteTable {
    let share = Fraction { numerator: 5, denominator: 10_000 };
    let split = RouteTerms {
        changes: changes("x-route"),
        path: Some(PathRewrite::Matched("/goods".into())),
        host: Some(HostRewrite::Literal("catalog.internal".into())),
        appends_forwarded_host: true,
        unknown_cluster_status: Some(500),
        hash: vec![
            HashPolicy {
                source: HashSource::Header { name: "x-user".into(), rewrite: None },
                terminal: true,
            },
            HashPolicy {
                source: HashSource::Cookie(HashCookie {
                    name: "session".into(),
                    path: "/".into(),
                    ttl: Some(3600),
                    attributes: vec![("SameSite".into(), "Lax".into())],
                }),
                terminal: false,
            },
            HashPolicy { source: HashSource::SourceIp, terminal: false },
            HashPolicy { source: HashSource::Query("user".into()), terminal: false },
        ],
        mirrors: vec![
            Mirror { cluster: MirrorTo::Cluster("shadow".into()), fraction: Fraction::ALL, keeps_host: true },
            Mirror { cluster: MirrorTo::Cluster("sample".into()), fraction: share, keeps_host: false },
        ],
        subset: vec![("version".into(), MetadataValue::Text("v1".into()))],
        clusters: vec![
            ClusterTerms { changes: changes("x-backend"), ..ClusterTerms::default() },
            ClusterTerms { host: Some("v2.internal".into()), ..ClusterTerms::default() },
        ],
        ..RouteTerms::default()
    };
    let matches = RouteMatch {
        any_case: true,
        query: vec![
            QueryMatch { name: "page".into(), test: Some(exact("2")) },
            QueryMatch { name: "debug".into(), test: None },
        ],
        only_grpc: true,
        fraction: Some(share),
        shows_certificate: Some(true),
        ..RouteMatch::new(
            PathMatch::Regex(Regex::new("/v[0-9]+/.*").unwrap()),
            vec![HeaderMatch { invert: true, ..has("x-beta", "yes") }],
        )
    };
    let rewrite = || Rewrite::new("^/v[0-9]+/(.*)$", "/\\1").unwrap();
    let versioned = RouteTerms {
        path: Some(PathRewrite::Regex(rewrite())),
        host: Some(HostRewrite::Endpoint),
        ..RouteTerms::default()
    };
    let redirect = Redirect {
        scheme: Some("https".into()),
        host: Some("shop.example.com".into()),
        port: Some(8443),
        path: RedirectPath::Rewrite(PathRewrite::Regex(rewrite())),
        strip_query: true,
        status: 308,
        ..Redirect::default()
    };
    let prefix = RouteMatch::new(PathMatch::Prefix("/old".into()), Vec::new());
    table(vec![
        route("split", to(&[("v1", 90), ("v2", 10)]), split),
        Route { matches, ..route("versioned", to(&[("v1", 1)]), versioned) },
        Route::new("moved", prefix, RouteAction::Redirect(redirect)),
    ])
}

fn retried() -> RouteTable {
    let second = Duration::from_secs(1);
    let policy = RetryPolicy {
        retries: 3,
        per_try_timeout: Some(second),
        per_try_idle_timeout: Some(second),
        back_off: BackOff { base: Duration::from_millis(50), most: second },
        status_codes: vec![502, 503],
        request_headers: vec![has("x-idempotent", "yes")],
        ..RetryPolicy::unreached(3)
    };
    let on = RetryOn::GATEWAY_ERROR | RetryOn::STATUS_CODES | RetryOn::GRPC_UNAVAILABLE | RetryOn::RESET;
    let forward = Forward {
        resilience: Resilience {
            retry: Some(Arc::new(RetryPolicy { on, ..policy })),
            idle_timeout: Some(Duration::from_mins(1)),
            stream_duration: Some(StreamDuration {
                most: Some(Duration::from_mins(5)),
                grpc_most: Some(Duration::from_mins(1)),
                grpc_offset: Some(Duration::from_millis(10)),
            }),
            tells_attempts_upstream: true,
            replay_bytes: Some(65_536),
            ..Resilience::default()
        },
        ..to(&[("v1", 1)])
    };
    table(vec![route("retried", forward, RouteTerms::default())])
}

fn fault() -> Arc<Fault> {
    let share = Fraction { numerator: 10, denominator: 100 };
    Arc::new(Fault {
        delay: Some(FaultDelay { by: DelayBy::Fixed(Duration::from_secs(2)), share }),
        abort: Some(FaultAbort { by: AbortBy::Http(503), share, body: None }),
        headers: vec![has("x-user", "tester")],
        ..Fault::default()
    })
}

fn limit() -> Arc<LocalRateLimit> {
    Arc::new(LocalRateLimit {
        status: 429,
        bucket: Some(TokenBucket { most: 100, per_second: 100.0 / 60.0 }),
        descriptors: Vec::new(),
        enabled: Fraction::ALL,
        enforced: Fraction::ALL,
        per_connection: false,
        always_consume_default: true,
        tells: true,
        resource_exhausted: true,
    })
}

fn filtered() -> RouteTable {
    let never = Fraction { numerator: 0, denominator: 100 };
    let cors = CorsPolicy {
        allow_origins: vec![exact("https://shop.example.com")],
        allow_methods: "GET,POST".into(),
        allow_headers: "content-type".into(),
        expose_headers: "x-page".into(),
        max_age: "600".into(),
        allow_credentials: Some(true),
        allow_private_network: None,
        forward_others: Some(false),
        enabled: Fraction::ALL,
        shadow: never,
    };
    let rules = HttpRbac { rules: Some(Arc::new(allow())), ..HttpRbac::default() };
    let on = |name: &str, kind| RouteFilter { name: name.into(), disabled: false, kind: Some(kind) };
    let filters = vec![
        on("envoy.filters.http.buffer", RouteFilterKind::Buffer(4096)),
        on("envoy.filters.http.cors", RouteFilterKind::Cors(Arc::new(cors))),
        RouteFilter { name: "envoy.filters.http.ext_authz".into(), disabled: true, kind: None },
        on("envoy.filters.http.fault", RouteFilterKind::Fault(fault())),
        on("envoy.filters.http.local_ratelimit", RouteFilterKind::LocalRateLimit(limit())),
        on("envoy.filters.http.rbac", RouteFilterKind::Rbac(rules)),
    ];
    let off = RouteTerms {
        filters: vec![RouteFilter { name: "envoy.filters.http.fault".into(), disabled: true, kind: None }],
        ..RouteTerms::default()
    };
    let on = RouteTerms { filters, ..RouteTerms::default() };
    let (on, off) = (route("filtered", to(&[("v1", 1)]), on), route("plain", to(&[("v1", 1)]), off));
    table(vec![on, off])
}

fn tokens() -> JwtAuthentication {
    let remote = RemoteKeys {
        cluster: CATALOG.into(),
        authority: "issuer.example.com".into(),
        path: "/keys".into(),
        timeout: Duration::from_secs(5),
        cache: Duration::from_mins(10),
        retries: 2,
        retry_pause: Duration::from_secs(1),
    };
    let provider = |name: &str, keys| {
        Arc::new(JwtProvider {
            name: name.into(),
            issuer: Some(format!("https://{name}.example.com").into()),
            audiences: vec!["shop".into()],
            clock_skew_seconds: 60,
            keys,
            places: vec![
                TokenPlace::Header { name: "authorization".into(), prefix: "Bearer ".into() },
                TokenPlace::Param("token".into()),
            ],
            claim_headers: vec![("x-subject".into(), vec!["sub".into()])],
            payload_in_metadata: Some("payload".into()),
            ..JwtProvider::default()
        })
    };
    let one = |provider| JwtRequirement::Provider { provider, audiences: None };
    let matches = RouteMatch::new(PathMatch::Prefix("/".into()), Vec::new());
    let any = JwtRequirement::Any(vec![one(0), one(1), JwtRequirement::AllowMissing]);
    JwtAuthentication {
        providers: vec![provider("a", JwtKeys::Inline(KEYS.into())), provider("b", JwtKeys::Remote(remote))],
        rules: vec![JwtRule { matches, requires: Some(any) }],
        named: vec![("strict".into(), one(0))],
        bypass_cors_preflight: true,
        strip_failure_response: false,
    }
}

fn asks() -> ExtAuthz {
    ExtAuthz {
        service: AuthService::Grpc { cluster: CATALOG.into(), authority: None },
        timeout: Duration::from_millis(500),
        failure_mode_allow: false,
        failure_mode_allow_header: false,
        status_on_error: 503,
        body: Some(AuthBody { most: 8192, is_part_enough: true, as_bytes: false }),
        enabled: Fraction::ALL,
        enabled_metadata: None,
        deny_at_disable: true,
        allowed_headers: Some(Vec::new()),
        disallowed_headers: vec![exact("cookie")],
        metadata_namespaces: vec!["envoy.filters.http.jwt_authn".into()],
        include_certificate: true,
        include_session: true,
    }
}

fn filters() -> Listener {
    let http_service = AuthHttp {
        cluster: CATALOG.into(),
        path_prefix: "/check".into(),
        headers_to_add: vec![("x-from".into(), "mesh".into())],
        upstream: vec![exact("x-user")],
        upstream_append: Vec::new(),
        client: vec![StringMatch::Prefix("x-".into())],
        client_on_success: Vec::new(),
    };
    let by_http = ExtAuthz {
        service: AuthService::Http(http_service),
        allowed_headers: Some(vec![exact("x-user")]),
        ..asks()
    };
    let health = HealthCheckFilter {
        pass_through: false,
        cache: None,
        headers: vec![has(":path", "/healthz")],
        least_healthy: vec![(CATALOG.into(), 50.0)],
    };
    let shadowed = HttpRbac {
        rules: Some(Arc::new(allow())),
        shadow: Some(Arc::new(allow())),
        shadow_prefix: "tried.".into(),
    };
    let named = |name: &str, kind| HttpFilter::new(format!("envoy.filters.http.{name}"), kind);
    let filters = vec![
        named("fault", HttpFilterKind::Fault(fault())),
        named("cors", HttpFilterKind::Cors),
        named("jwt_authn", HttpFilterKind::Jwt(Arc::new(tokens()))),
        named("rbac", HttpFilterKind::Rbac(shadowed)),
        named("ext_authz", HttpFilterKind::ExtAuthz(Arc::new(asks()))),
        HttpFilter { disabled: true, ..named("ext_authz.http", HttpFilterKind::ExtAuthz(Arc::new(by_http))) },
        named("local_ratelimit", HttpFilterKind::LocalRateLimit(limit())),
        named("health_check", HttpFilterKind::HealthCheck(Arc::new(health))),
        named("buffer", HttpFilterKind::Buffer(65_536)),
    ];
    listener(HttpConnection { filters, ..http() })
}

fn listener(http: HttpConnection) -> Listener {
    let chain = FilterChain::new("all", NetworkFilter::Http(Arc::new(http)));
    Listener::new("inbound|8080", Some("127.0.0.1:41000".parse().unwrap()), Direction::Inbound, vec![chain])
}

fn options() -> Listener {
    let template = |format: &str| Template::parse(format).unwrap();
    let json = Json::object([
        ("path".into(), Json::Text(template("%REQ_WITHOUT_QUERY(:path)%"))),
        ("code".into(), Json::Text(template("%RESPONSE_CODE%"))),
        ("mesh".into(), Json::Constant("true".into())),
    ]);
    let errors = LogFilter::Any(vec![
        LogFilter::Status(Comparison::AtLeast, 500),
        LogFilter::Share(Fraction { numerator: 1, denominator: 100 }),
    ]);
    let format = |body| Format { body, omit_empty: false, content_type: None };
    let logs = vec![
        AccessLog {
            sink: LogSink::File("/var/log/access.log".into()),
            format: format(FormatBody::Json(json)),
            filter: Some(errors.clone()),
        },
        AccessLog {
            sink: LogSink::Stdout,
            format: format(FormatBody::Text(template("%START_TIME% %PROTOCOL%\n"))),
            filter: None,
        },
    ];
    let replies = LocalReplies {
        mappers: vec![ReplyMapper {
            filter: errors,
            status: Some(503),
            body: Some("try again".into()),
            format: None,
            headers: Vec::new(),
        }],
        format: Some(format(FormatBody::Text(template("%LOCAL_REPLY_BODY% (%RESPONSE_CODE%)")))),
    };
    listener(HttpConnection {
        hosts: HostNormalization { port: StrippedPort::Any, trailing_dot: true },
        keep_request_id: true,
        answer_request_id: true,
        via: "mesh".into(),
        clients: Clients {
            is_edge: true,
            trusted_hops: 1,
            internal: vec!["10.0.0.0".parse().map(|ip| meshwork_model::cidr::Cidr::new(ip, 8)).unwrap()],
            ..Clients::default()
        },
        scheme: Some(Scheme::Https),
        limits: HttpLimits {
            head_bytes: Some(60 * 1024),
            fields: Some(100),
            requests: Some(1000),
            connection_duration: Some(Duration::from_hours(1)),
            underscores: Underscores::Reject,
        },
        idle_timeout: Some(NEVER),
        max_stream_duration: Some(Duration::from_hours(1)),
        router: Router { is_silent: false, respects_expected: true, strict: Vec::new() },
        delayed_close_timeout: Some(Duration::from_secs(1)),
        local_replies: replies,
        access_logs: logs,
        ..http()
    })
}

fn eds() -> Cluster {
    Cluster::new(CATALOG, Discovery::Eds(CATALOG.into()))
}

fn ring() -> Cluster {
    let keys = HashKeys { by_hostname: true, balance_factor: Some(125) };
    Cluster {
        balancing: Balancing::RingHash(RingHash { least: 512, keys, ..RingHash::default() }),
        spread: Spread { panic_threshold: 0, fails_in_panic: true, ..Spread::default() },
        breakers: Breakers {
            normal: Thresholds {
                connections: 100,
                retry_budget: Some(RetryBudget { percent: 25.0, least: 5 }),
                ..Thresholds::ENVOY
            },
            high: Thresholds::NONE,
            host_connections: Some(50),
        },
        ..eds()
    }
}

fn full_scan() -> Cluster {
    let Balancing::LeastRequest(usual) = Balancing::LEAST_REQUEST else { unreachable!("it is") };
    Cluster {
        balancing: Balancing::LeastRequest(LeastRequest { is_full_scan: true, bias: 2.0, ..usual }),
        spread: Spread { by_locality: true, ..Spread::default() },
        protocol: UpstreamProtocol::Downstream,
        connections: Connections {
            idle: Some(Duration::from_mins(1)),
            lifetime: Some(Duration::from_hours(1)),
            requests: Some(100),
            keepalive: Some(Keepalive {
                after: Some(Duration::from_mins(2)),
                interval: Some(Duration::from_secs(10)),
                probes: Some(3),
            }),
            ..Connections::default()
        },
        ..eds()
    }
}

fn subsets() -> Cluster {
    let version = MetadataValue::Text("v1".into());
    let subsets = Subsets {
        fallback: Fallback::Default,
        default: [("version".into(), version)].into(),
        selectors: vec![
            Selector {
                keys: vec!["stage".into(), "version".into()],
                is_single: false,
                fallback: Some(Fallback::Keys),
                fallback_keys: vec!["version".into()],
            },
            Selector {
                keys: vec!["version".into()],
                is_single: false,
                fallback: None,
                fallback_keys: Vec::new(),
            },
        ],
        weighs_localities: true,
        scales_localities: true,
        any_in_panic: true,
        list_as_any: true,
    };
    let spread = Spread { by_locality: true, subsets: Some(subsets), ..Spread::default() };
    Cluster { spread, balancing: Balancing::LEAST_REQUEST, ..eds() }
}

fn checked() -> Cluster {
    let second = Duration::from_secs(1);
    let check = HttpCheck {
        host: "catalog".into(),
        path: "/healthz".into(),
        method: "POST".into(),
        send: Arc::from(&b"well?"[..]),
        receive: vec![Arc::from(&b"ok"[..])],
        response_bytes: 1024,
        add: vec![CheckHeader { name: "x-check".into(), value: "mesh".into(), append: false }],
        remove: vec!["x-other".into()],
        expected: vec![(200, 300)],
        retriable: vec![(500, 600)],
        http2: false,
        service_name: None,
    };
    let intervals = CheckIntervals {
        usual: 5 * second,
        no_traffic: 10 * second,
        no_traffic_healthy: 10 * second,
        unhealthy: second,
        unhealthy_edge: second,
        healthy_edge: second,
        initial_jitter: second,
        jitter: second,
        jitter_percent: 10,
    };
    let health = HealthCheck {
        kind: HealthCheckKind::Http(check),
        timeout: second,
        intervals,
        unhealthy_threshold: 3,
        healthy_threshold: 2,
        reuse_connection: false,
        alpn: Some(vec!["http/1.1".into()]),
        transport: None,
    };
    let outliers = OutlierDetection {
        interval: 5 * second,
        base_ejection: 15 * second,
        max_ejection_percent: 50,
        always_eject_one: true,
        split_local: true,
        check_unejects: false,
        ..OutlierDetection::default()
    };
    Cluster { outliers: Some(Arc::new(outliers)), checks: vec![Arc::new(health)], ..eds() }
}

fn place(zone: &str, priority: u32) -> Arc<Place> {
    Arc::new(Place {
        priority,
        locality: Locality { region: "eu".into(), zone: zone.into(), sub_zone: "".into() },
        weight: Some(10),
        ..Place::default()
    })
}

fn names() -> Cluster {
    let named = |host: &str, port, place: &Arc<Place>| {
        let anywhere = ([0, 0, 0, 0], port).into();
        let endpoint =
            Endpoint { hostname: host.into(), place: Arc::clone(place), ..Endpoint::new(anywhere) };
        NamedEndpoint { host: DnsHost { host: host.into(), port }, endpoint }
    };
    let (near, far) = (place("a", 0), place("b", 1));
    let dns = Dns {
        hosts: vec![named("a.example.com", 443, &near), named("b.example.com", 8443, &far)],
        is_strict: true,
        family: DnsFamily::V4,
        refresh: Duration::from_mins(1),
        failure_refresh: None,
        policy: LoadPolicy::default(),
        only_far: true,
    };
    Cluster::new("outbound|443||example.com", Discovery::Dns(dns))
}

fn outside_tls() -> Cluster {
    let trusted_ca = Some(DataSource::Inline(Sealed::new(AUTHORITY.as_bytes().to_vec())));
    let name = SanMatch { kind: Some(SanKind::Dns), test: exact("api.example.com") };
    let fixed = ValidationContext { trusted_ca, names: vec![name], ..ValidationContext::default() };
    let context = ClientContext {
        common: TlsContext {
            certificates: Vec::new(),
            validation: Some(Validation { fixed: Arc::new(fixed), secret: None }),
            alpn: vec!["h2".into(), "http/1.1".into()],
            versions: (TlsVersion::Tls12, TlsVersion::Tls13),
            cipher_suites: Vec::new(),
            groups: Vec::new(),
        },
        sni: "api.example.com".into(),
        auto_host_sni: false,
        validates_sni: false,
    };
    let any = TransportMatch {
        name: "tls".into(),
        transport: None,
        labels: Vec::new(),
        tls: Some(UpstreamTls::Context(Arc::new(context))),
    };
    Cluster { protocol: UpstreamProtocol::Auto, transports: vec![any], ..eds() }
}

fn placed() -> Endpoints {
    let (near, far) = (place("a", 0), place("b", 2));
    let endpoint = |address: &str, place: &Arc<Place>| Endpoint {
        place: Arc::clone(place),
        ..Endpoint::new(address.parse().unwrap())
    };
    let marked = Endpoint {
        hostname: "catalog-1".into(),
        metadata: Arc::new(
            [("envoy.lb".into(), [("version".into(), MetadataValue::Text("v1".into()))].into())].into(),
        ),
        weight: 3,
        health: Health::Degraded,
        check: CheckTarget { port: Some(8081), ..CheckTarget::default() },
        ..endpoint("10.0.0.1:80", &near)
    };
    let endpoints = vec![marked, endpoint("10.0.0.2:80", &near), endpoint("10.1.0.1:80", &far)];
    let policy = LoadPolicy { overprovisioning: 120, by_weight: true, drops: vec![10_000] };
    Endpoints { policy, ..Endpoints::new(CATALOG, endpoints) }
}
