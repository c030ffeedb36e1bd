use super::*;
use std::time::SystemTime;

use meshwork_model::proxy::{ServiceName, Workload};
use meshwork_model::reason::Reason;
use meshwork_telemetry::{
    EdgeId, EdgeKey, Protocol as Spoken, Registry, Reporter as Side, Request, ResourceAttributes, Shard, otlp,
};
use opentelemetry_proto::tonic::metrics::v1::{Gauge, Metric, NumberDataPoint, metric::Data};

const WINDOW: Duration = Duration::from_mins(1);

/// A hub and the time that its test tells it, in seconds since it began.
struct Lab {
    window: Window,
    zero: Instant,
    at: f64,
}

/// A proxy that pushes to the lab's hub.
struct Proxy {
    registry: Arc<Registry>,
    shard: Arc<Shard>,
    instance: String,
}

impl Lab {
    fn new() -> Self {
        let zero = Instant::now();
        Self { window: Window::new(WINDOW, zero), zero, at: 10_000.0 }
    }

    fn now(&self) -> Instant {
        self.zero + Duration::from_secs_f64(self.at)
    }

    fn wall(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs_f64(1e9 + self.at)
    }

    /// A proxy whose process began `age` seconds ago.
    fn proxy(&self, instance: &str, age: f64) -> Proxy {
        let registry = Registry::new(self.wall() - Duration::from_secs_f64(age));
        Proxy { shard: registry.shard(), registry, instance: instance.to_owned() }
    }

    fn push(&mut self, proxy: &Proxy) -> u64 {
        let now = self.now();
        proxy.messages(self.wall()).iter().map(|message| self.window.ingest(message, None, now)).sum()
    }

    fn edges(&self) -> Vec<Edge> {
        self.window.edges(self.now())
    }

    /// The one edge that there is.
    fn edge(&self) -> Edge {
        let edges = self.edges();
        assert_eq!(edges.len(), 1, "{edges:#?}");
        edges[0].clone()
    }
}

impl Proxy {
    fn messages(&self, at: SystemTime) -> Vec<ExportMetricsServiceRequest> {
        let resource = ResourceAttributes {
            service: "web".into(),
            namespace: "shop".into(),
            instance: self.instance.clone(),
        };
        otlp::requests(&self.registry, &resource, at)
    }

    fn edge(&self, key: &EdgeKey) -> EdgeId {
        self.shard.edge(key)
    }

    fn requests(&self, key: &EdgeKey, n: u64, request: &Request) {
        let edge = self.edge(key);
        for _ in 0..n {
            self.shard.record_request(edge, request);
        }
    }
}

fn workload(name: &str, version: &str) -> Workload {
    Workload { name: name.into(), namespace: "shop".into(), app: name.into(), version: version.into() }
}

fn principal(name: &str) -> Arc<str> {
    format!("spiffe://mesh.local/ns/shop/sa/{name}").into()
}

/// `web` calls `service`, told by web's proxy.
fn to(service: &str) -> EdgeKey {
    EdgeKey {
        reporter: Side::Source,
        source: workload("web", ""),
        source_principal: principal("web"),
        service: Some(ServiceName { name: service.into(), namespace: "shop".into() }),
        destination: workload(&format!("{service}-v1"), "v1"),
        destination_principal: principal(service),
        protocol: Spoken::Http,
        mtls: true,
    }
}

/// The same, told by the called workload's proxy, which knows the caller by what it proved.
fn at(service: &str, caller: &str) -> EdgeKey {
    EdgeKey {
        reporter: Side::Destination,
        source: Workload::default(),
        source_principal: if caller.is_empty() { "".into() } else { principal(caller) },
        service: None,
        mtls: !caller.is_empty(),
        ..to(service)
    }
}

fn ok(millis: u64) -> Request {
    Request { status: 200, duration: Duration::from_millis(millis), ..Request::default() }
}

fn refused() -> Request {
    Request { status: 403, reason: Some(Reason::Denied), ..ok(1) }
}

fn close_to(got: f64, expected: f64, share: f64) {
    assert!((got - expected).abs() <= expected.abs() * share + 1e-9, "{got} is not {expected}");
}

// === figures ===

#[test]
fn an_edge_tells_who_calls_whom_and_how_well() {
    let mut lab = Lab::new();
    let web = lab.proxy("web-1", 10.0);
    let cart = to("cart");
    web.requests(&cart, 90, &ok(10));
    web.requests(&cart, 10, &Request { status: 503, reason: Some(Reason::ConnectFailed), ..ok(100) });
    web.shard.connection_opened(web.edge(&cart));
    assert_eq!(lab.push(&web), 0);
    let edge = lab.edge();
    close_to(edge.p50_ms, 10.0, 0.2);
    close_to(edge.p99_ms, 100.0, 0.2);
    close_to(edge.per_second, 10.0, 1e-6);
    close_to(edge.success, 0.9, 1e-9);
    let expected = Edge {
        from: "web".into(),
        from_namespace: "shop".into(),
        to: "cart".into(),
        to_namespace: "shop".into(),
        to_workload: "cart-v1".into(),
        to_version: "v1".into(),
        protocol: "http".into(),
        requests: 100,
        failures: 10,
        denied: 0,
        mtls: true,
        connections: 1,
        mtls_connections: 1,
        ..edge.clone()
    };
    assert_eq!(edge, expected);
}

fn check_failed(protocol: Spoken, request: &Request, failed: bool) {
    let mut lab = Lab::new();
    let web = lab.proxy("web-1", 1.0);
    web.requests(&EdgeKey { protocol, ..to("cart") }, 1, request);
    lab.push(&web);
    assert_eq!(lab.edge().failures, u64::from(failed), "{request:?}");
}

#[test]
fn failures_are_the_servers_and_the_meshs() {
    let grpc = |code| Request { grpc_status: Some(code), ..ok(1) };
    for (status, failed) in [(0, true), (200, false), (301, false), (404, false), (500, true), (504, true)] {
        check_failed(Spoken::Http, &Request { status, ..ok(1) }, failed);
    }
    for (code, failed) in [(0, false), (1, false), (2, true), (5, false), (7, false), (13, true), (14, true)]
    {
        check_failed(Spoken::Grpc, &grpc(code), failed);
    }
    check_failed(Spoken::Http, &refused(), false);
    let gone = Request { status: 0, reason: Some(Reason::DownstreamGone), ..ok(1) };
    check_failed(Spoken::Http, &gone, false);
}

#[test]
fn a_tcp_connection_counts_when_it_begins_and_fails_when_it_is_cut() {
    let mut lab = Lab::new();
    let web = lab.proxy("web-1", 1.0);
    let edge = web.edge(&EdgeKey { protocol: Spoken::Tcp, ..to("ledger") });
    for reason in [None, Some(Reason::UpstreamReset), Some(Reason::DownstreamGone)] {
        web.shard.tcp_opened(edge);
        web.shard.tcp_closed(edge, Duration::from_millis(50), reason);
    }
    web.shard.tcp_opened(edge);
    lab.push(&web);
    let edge = lab.edge();
    assert_eq!((edge.protocol.as_str(), edge.requests, edge.failures), ("tcp", 4, 1));
    close_to(edge.p50_ms, 50.0, 0.2);
}

#[test]
fn replicas_are_summed() {
    let mut lab = Lab::new();
    let replicas = [lab.proxy("web-1", 1.0), lab.proxy("web-2", 1.0)];
    for second in 0..20 {
        lab.at += 1.0;
        for (i, replica) in replicas.iter().enumerate() {
            replica.requests(&to("cart"), 30 + 10 * i as u64, &ok(5));
            lab.push(replica);
        }
        assert_eq!(lab.edge().requests, 70 * (second + 1));
    }
    close_to(lab.edge().per_second, 70.0, 0.05);
}

#[test]
fn the_rate_follows_what_happens() {
    let mut lab = Lab::new();
    let web = lab.proxy("web-1", 1.0);
    let run = |lab: &mut Lab, pushes: u64, every: f64, requests: u64| {
        for _ in 0..pushes {
            lab.at += every;
            web.requests(&to("cart"), requests, &ok(5));
            lab.push(&web);
        }
        lab.edge().per_second
    };
    close_to(run(&mut lab, 30, 1.0, 100), 100.0, 1e-6);
    close_to(run(&mut lab, 11, 1.0, 20), 20.0, 1e-6);
    close_to(run(&mut lab, 11, 1.0, 0), 0.0, 1e-6);
    close_to(run(&mut lab, 200, 0.1, 3), 30.0, 0.1);
    close_to(run(&mut lab, 4, 15.0, 150), 10.0, 1e-6);
    lab.at += 100.0;
    close_to(lab.edge().per_second, 0.0, 1e-9);
    close_to(lab.edge().success, 1.0, 1e-9);
}

#[test]
fn quantiles_and_success_are_of_the_window_while_it_has_requests() {
    let mut lab = Lab::new();
    let web = lab.proxy("web-1", 1.0);
    web.requests(&to("cart"), 1000, &Request { status: 500, ..ok(900) });
    lab.push(&web);
    for _ in 0..30 {
        lab.at += 5.0;
        web.requests(&to("cart"), 1, &ok(2));
        lab.push(&web);
    }
    let edge = lab.edge();
    close_to(edge.p99_ms, 2.0, 0.2);
    close_to(edge.success, 1.0, 1e-9);
    assert_eq!((edge.requests, edge.failures), (1030, 1000));
    lab.at += 600.0;
    close_to(lab.edge().p50_ms, 900.0, 0.2);
}

// === restarts ===

#[test]
fn totals_go_on_when_a_process_restarts() {
    let mut lab = Lab::new();
    let old = lab.proxy("web-1", 1.0);
    old.requests(&to("cart"), 50, &ok(5));
    old.shard.connection_opened(old.edge(&to("cart")));
    lab.push(&old);
    lab.at += 2.0;
    let new = lab.proxy("web-1", 1.0);
    for expected in [57, 64] {
        lab.at += 1.0;
        new.requests(&to("cart"), 7, &ok(5));
        lab.push(&new);
        assert_eq!(lab.edge().requests, expected);
    }
    assert_eq!(lab.edge().connections, 1);
    // The window saw the restart as two more seconds, not as 57 requests at once.
    assert!(lab.edge().per_second < 60.0, "{}", lab.edge().per_second);
}

#[test]
fn a_restart_that_is_larger_than_before_is_seen_by_its_start() {
    let mut lab = Lab::new();
    let old = lab.proxy("web-1", 1.0);
    old.requests(&to("cart"), 5, &ok(5));
    lab.push(&old);
    lab.at += 5.0;
    let new = lab.proxy("web-1", 1.0);
    new.requests(&to("cart"), 8, &ok(5));
    lab.push(&new);
    assert_eq!(lab.edge().requests, 13);
}

#[test]
fn a_counter_that_falls_began_anew() {
    let mut lab = Lab::new();
    let (old, new) = (lab.proxy("web-1", 9.0), lab.proxy("web-1", 9.0));
    old.requests(&to("cart"), 10, &ok(5));
    lab.push(&old);
    lab.at += 1.0;
    new.requests(&to("cart"), 4, &ok(5));
    lab.push(&new);
    assert_eq!(lab.edge().requests, 14);
}

#[test]
fn the_last_push_of_an_older_run_is_not_a_reset() {
    let mut lab = Lab::new();
    let old = lab.proxy("web-1", 100.0);
    old.requests(&to("cart"), 10, &ok(5));
    lab.push(&old);
    lab.at += 1.0;
    let new = lab.proxy("web-1", 0.5);
    new.requests(&to("cart"), 3, &ok(5));
    lab.push(&new);
    for _ in 0..3 {
        lab.push(&old);
        lab.push(&new);
    }
    assert_eq!(lab.edge().requests, 13);
}

#[test]
fn a_clock_set_back_costs_half_a_minute() {
    let mut lab = Lab::new();
    let before = lab.proxy("web-1", 1.0);
    before.requests(&to("cart"), 10, &ok(5));
    lab.push(&before);
    let after = lab.proxy("web-1", 5000.0);
    after.requests(&to("cart"), 3, &ok(5));
    for _ in 0..40 {
        lab.at += 1.0;
        lab.push(&after);
    }
    assert_eq!(lab.edge().requests, 13);
}

#[test]
fn what_an_old_process_counted_before_it_was_known_is_no_rush() {
    let mut lab = Lab::new();
    let web = lab.proxy("web-1", 7200.0);
    web.requests(&to("cart"), 5000, &ok(5));
    lab.push(&web);
    assert_eq!(lab.edge().requests, 5000);
    close_to(lab.edge().per_second, 0.0, 1e-9);
    lab.at += 1.0;
    web.requests(&to("cart"), 6, &ok(5));
    web.requests(&to("catalog"), 4, &ok(5));
    lab.push(&web);
    let rates: Vec<_> = lab.edges().iter().map(|e| (e.to.clone(), e.per_second)).collect();
    assert_eq!(rates, [("cart".to_owned(), 6.0), ("catalog".to_owned(), 4.0)]);
}

#[test]
fn a_proxy_that_was_quiet_is_known() {
    let mut lab = Lab::new();
    let web = lab.proxy("web-1", 7200.0);
    lab.push(&web);
    lab.at += 2.0;
    web.requests(&to("cart"), 6, &ok(5));
    lab.push(&web);
    close_to(lab.edge().per_second, 3.0, 1e-6);
}

#[test]
fn a_reading_in_several_messages_is_one_reading() {
    let mut lab = Lab::new();
    let web = lab.proxy("web-1", 7200.0);
    let keys: Vec<_> = (0..otlp::EDGES_PER_MESSAGE + 5).map(|i| to(&format!("s{i}"))).collect();
    for round in 0..3 {
        for key in &keys {
            web.requests(key, 2, &ok(5));
        }
        lab.push(&web);
        let expected = if round == 0 { 0.0 } else { 2.0 };
        assert_eq!(lab.edges().len(), keys.len());
        assert!(lab.edges().iter().all(|e| (e.per_second - expected).abs() < 1e-9), "round {round}");
        lab.at += 1.0;
    }
}

// === two reports of one edge ===

#[test]
fn an_edge_that_both_sides_tell_is_told_once() {
    let mut lab = Lab::new();
    let (web, cart) = (lab.proxy("web-1", 1.0), lab.proxy("cart-1", 1.0));
    web.requests(&to("cart"), 10, &ok(5));
    web.requests(&to("cart"), 3, &Request { reason: None, ..refused() });
    cart.requests(&at("cart", "web"), 10, &ok(5));
    cart.requests(&at("cart", "web"), 3, &refused());
    lab.push(&cart);
    lab.push(&web);
    let edge = lab.edge();
    assert_eq!((edge.requests, edge.denied, edge.failures), (13, 3, 0));
}

#[test]
fn refusals_go_to_the_edge_of_their_service_and_protocol() {
    let mut lab = Lab::new();
    let (web, cart) = (lab.proxy("web-1", 1.0), lab.proxy("cart-1", 1.0));
    let other = || Some(ServiceName { name: "basket".into(), namespace: "shop".into() });
    let grpc = EdgeKey { protocol: Spoken::Grpc, ..to("cart") };
    for key in [&to("cart"), &grpc, &EdgeKey { service: other(), ..to("cart") }] {
        web.requests(key, 1, &ok(5));
    }
    cart.requests(
        &EdgeKey { service: to("cart").service, protocol: Spoken::Grpc, ..at("cart", "web") },
        4,
        &refused(),
    );
    lab.push(&web);
    lab.push(&cart);
    let denied: Vec<_> = lab.edges().into_iter().map(|e| (e.to, e.protocol, e.denied)).collect();
    let row = |to: &str, protocol: &str, denied| (to.to_owned(), protocol.to_owned(), denied);
    assert_eq!(denied, [row("basket", "http", 0), row("cart", "http", 0), row("cart", "grpc", 4)]);
}

#[test]
fn a_connection_without_a_request_is_no_edge() {
    let mut lab = Lab::new();
    let cart = lab.proxy("cart-1", 1.0);
    cart.shard.connection_opened(cart.edge(&at("cart", "web")));
    lab.push(&cart);
    assert_eq!(lab.edges(), []);
}

#[test]
fn callers_that_report_nothing_are_told_by_the_called() {
    let mut lab = Lab::new();
    let cart = lab.proxy("cart-1", 1.0);
    cart.requests(&at("cart", ""), 2, &ok(5));
    cart.requests(&at("cart", "envoy"), 3, &ok(5));
    lab.push(&cart);
    let told: Vec<_> =
        lab.edges().into_iter().map(|e| (e.from, e.from_namespace, e.to, e.requests, e.mtls)).collect();
    let (shop, cart) = ("shop".to_owned(), "cart-v1".to_owned());
    let expected = [
        ("envoy".to_owned(), shop, cart.clone(), 3, true),
        ("unknown".to_owned(), "unknown".to_owned(), cart, 2, false),
    ];
    assert_eq!(told, expected);
}

#[test]
fn plaintext_beside_mtls_shows() {
    let mut lab = Lab::new();
    let web = lab.proxy("web-1", 1.0);
    for mtls in [true, false] {
        let key = EdgeKey { mtls, ..to("cart") };
        web.requests(&key, 1, &ok(5));
        web.shard.connection_opened(web.edge(&key));
    }
    lab.push(&web);
    let edge = lab.edge();
    assert_eq!((edge.mtls, edge.connections, edge.mtls_connections), (false, 2, 1));
    for _ in 0..20 {
        lab.at += 5.0;
        web.requests(&to("cart"), 1, &ok(5));
        lab.push(&web);
    }
    assert!(lab.edge().mtls, "plaintext is out of the window");
}

// === limits and strangers ===

#[test]
fn edges_past_the_limit_are_refused_and_counted() {
    let mut lab = Lab::new();
    let mut rejected = 0;
    for i in 0..5 {
        let proxy = lab.proxy(&format!("web-{i}"), 1.0);
        for j in 0..1000 {
            proxy.requests(&to(&format!("s{j}")), 1, &ok(5));
        }
        rejected += lab.push(&proxy);
    }
    assert_eq!(lab.window.flows.len(), MAX_FLOWS);
    assert!(rejected >= 5000 - MAX_FLOWS as u64);
}

#[test]
fn reporters_past_the_limit_are_refused() {
    let mut lab = Lab::new();
    for i in 0..MAX_INSTANCES {
        assert_eq!(lab.push(&lab.proxy(&format!("web-{i}"), 1.0)), 0);
    }
    let late = lab.proxy("late", 1.0);
    late.requests(&to("cart"), 1, &ok(5));
    assert!(lab.push(&late) > 0);
    assert_eq!(lab.edges().len(), 0);
    // Another namespace has its share.
    let (now, wall) = (lab.now(), lab.wall());
    let other = ResourceAttributes { service: "x".into(), namespace: "other".into(), instance: "x".into() };
    let rejected: u64 = otlp::requests(&late.registry, &other, wall)
        .iter()
        .map(|message| lab.window.ingest(message, None, now))
        .sum();
    assert_eq!((rejected, lab.edges().len(), lab.window.instances.len()), (0, 1, MAX_INSTANCES));
}

#[test]
fn what_is_not_heard_of_is_forgotten() {
    let mut lab = Lab::new();
    let (web, cart) = (lab.proxy("web-1", 1.0), lab.proxy("cart-1", 1.0));
    web.requests(&to("cart"), 1, &ok(5));
    lab.push(&web);
    lab.at += FORGET_AFTER.as_secs_f64() - 1.0;
    lab.push(&cart);
    assert_eq!(lab.edges().len(), 1);
    lab.at += SWEEP_INTERVAL.as_secs_f64();
    lab.push(&cart);
    assert_eq!((lab.edges().len(), lab.window.instances.len()), (0, 1));
}

#[test]
fn metrics_of_strangers_are_taken_and_ignored() {
    let mut lab = Lab::new();
    let web = lab.proxy("web-1", 1.0);
    web.requests(&to("cart"), 4, &ok(5));
    let mut messages = web.messages(lab.wall());
    let metrics = &mut messages[0].resource_metrics[0].scope_metrics[0].metrics;
    let gauge = Data::Gauge(Gauge { data_points: vec![NumberDataPoint::default()] });
    metrics.push(Metric { name: "process.cpu.time".into(), data: Some(gauge), ..Metric::default() });
    metrics.push(Metric { name: "istio_requests".into(), ..Metric::default() });
    let now = lab.now();
    assert_eq!(lab.window.ingest(&messages[0], None, now), 0);
    assert_eq!(lab.window.ingest(&ExportMetricsServiceRequest::default(), None, now), 0);
    assert_eq!(lab.edge().requests, 4);
}

#[test]
fn a_sender_tells_of_its_own_namespace_alone() {
    let mut lab = Lab::new();
    let push = |lab: &mut Lab, proxy: &Proxy, sender: &str| -> u64 {
        let (now, wall) = (lab.now(), lab.wall());
        proxy.messages(wall).iter().map(|message| lab.window.ingest(message, Some(sender), now)).sum()
    };
    // Who names a process of another namespace is not heard, and takes nobody's place.
    let web = lab.proxy("web-1", 1.0);
    web.requests(&to("cart"), 4, &ok(5));
    assert!(push(&mut lab, &web, "bank") > 0);
    assert_eq!((lab.edges(), lab.window.instances.len()), (vec![], 0));
    // What its own process tells of calls between others is left out.
    let vault = || Workload { namespace: "bank".into(), ..workload("vault", "") };
    web.requests(&EdgeKey { source: vault(), ..to("cart") }, 1, &ok(5));
    let proven = "spiffe://mesh.local/ns/bank/sa/vault".into();
    web.requests(&EdgeKey { source_principal: proven, ..to("cart") }, 1, &ok(5));
    web.requests(&EdgeKey { destination: vault(), ..at("cart", "web") }, 1, &ok(5));
    assert!(push(&mut lab, &web, "shop") > 0);
    let edge = lab.edge();
    assert_eq!((&*edge.from, &*edge.to, edge.requests), ("web", "cart", 4));
}
